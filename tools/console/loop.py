"""The loop of the console: read the engine, draw, take keys. It ends with the engine, by a key, or by a signal.

It gives way to the engine: lowest priority but one, and away from the cores of the hot stages where there are others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

from procs.table import PROCESSES
from shm.clock import python_monotonic_ns
from tools.console.actions import Asker, kill
from tools.console.canvas import clock
from tools.console.reader import Ending, Reader
from tools.console.snapshot import Snapshot
from tools.console.terminal import Signalled, Terminal
from tools.console.view import Do, View, press, screen, settled

_EVERY_NS = 333_000_000
_MS = 1_000_000


def _give_way(reader: Reader) -> None:
    """Leave the cores of the hot stages to them."""
    hot = {core for spec in PROCESSES if spec.hot for core in reader.plan.cores.get(spec.role.label, ())}
    if others := os.sched_getaffinity(0) - hot:
        os.sched_setaffinity(0, others)


class Console:
    """One console on one engine, from its first screen to its end."""

    def __init__(self, reader: Reader, terminal: Terminal, owner: int) -> None:
        """owner: pid of the `bot4 run` that opened it, its parent; 0: there is none."""
        self._reader, self._terminal, self._owner = reader, terminal, owner
        self._asker = Asker(reader.plan.name)
        self._view = View(owner=bool(owner))
        self._symbols = tuple(item.symbol for item in reader.plan.instruments)
        self._interrupted = False

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._interrupted = True

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        """Ctrl-C is noted; what it means depends on whose console this is."""
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self) -> Ending:
        """Until the engine ends, or somebody leaves; why in words."""
        with self._hearing():
            due_ns = 0
            snapshot: Snapshot | None = None
            while True:
                now = python_monotonic_ns()
                if snapshot is None or now >= due_ns:
                    if ending := self._over():
                        return ending
                    snapshot = self._read()
                    due_ns = now + _EVERY_NS
                size = self._terminal.size()
                self._view = settled(self._view, snapshot, *size)
                self._terminal.show(screen(self._view, snapshot, *size))
                needs = self._view.needs, self._view.symbol
                key = self._terminal.key((due_ns - python_monotonic_ns()) // _MS)
                if not key:
                    continue
                self._view, do = press(self._view, key, self._symbols)
                if do is not None and (ending := self._do(do, snapshot)):
                    return ending
                if (self._view.needs, self._view.symbol) != needs:
                    due_ns = 0

    def _over(self) -> Ending | None:
        """Whether this was the last screen."""
        if self._owner and os.getppid() != self._owner:
            return Ending("the `bot4 run` that opened this console has ended", 1)
        if self._interrupted:
            self._interrupted = False
            if not self._owner:
                return Ending("detached; the engine goes on", 0)
            self._tell("stopping: no more entries, cancelling, waiting for final reports")
        ending = self._reader.ending()
        if ending is not None and self._owner:
            return replace(ending, words="")  # the engine has last words of its own
        return ending

    def _tell(self, words: str, failed: bool = False) -> None:
        """Say what became of something, and when: it may stand there long after."""
        self._view = replace(self._view, notice=f"{words} ({clock(self._reader.now_ns())})", alarm=failed)

    def _read(self) -> Snapshot:
        snapshot = self._reader.read(self._view.symbol_of(self._symbols), self._view.needs)
        self._asker.keep_asking()
        while not self._asker.answers.empty():
            self._tell(*self._asker.answers.get())
        return replace(
            snapshot, safety=replace(snapshot.safety, asked=self._asker.asked, control=self._asker.control)
        )

    def _do(self, do: Do, snapshot: Snapshot) -> Ending | None:
        if do.what == "quit":
            return Ending("the console is closed; the engine goes on" if self._owner else
                          "detached; the engine goes on", 0)
        if do.what == "stop":
            os.kill(self._owner, signal.SIGINT)
            self._tell("stopping: no more entries, cancelling, waiting for final reports")
        elif do.what == "kill":
            self._tell(*kill(self._reader.plan.name))
        elif snapshot.tripped:
            self._tell("not paused: EMERGENCY is safer already", failed=True)
        else:
            self._asker.pause(do.reason)
        return None


def watch(name: str, owner: int = 0) -> int:
    """Show an engine until its end or that of the console; the exit code. Raises NotRunning, Signalled.

    Words on the end are printed once the terminal is given back.
    """
    reader = Reader(name)
    try:
        _give_way(reader)
        with Terminal(stoppable=not owner) as terminal:
            ending = Console(reader, terminal, owner).run()
    except Signalled as signalled:
        ending = Ending(f"the console was ended by {signalled.name}; the engine goes on", 1)
    finally:
        reader.close()
    if ending.words:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"bot4: {ending.words}", file=sys.stderr, flush=True)
    return ending.code
