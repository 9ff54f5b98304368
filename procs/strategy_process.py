"""The process of a strategy that is Python alone: it looks at predictions at its own pace and says what it wants.

It follows the predictions ring as an observer: nobody waits for it, and what it was lapped by is counted. Its strategy
is always shown the newest prediction of an instrument; those before it that were not looked at are passed over and
counted, so a slow one has no backlog. Between predictions it is shown that time goes on.
What it wants goes as TARGET records to execution, on a ring of its own. When that is full a target is dropped, counted,
and said again.
It gets no credentials; rings and states of others are mapped read-only. Its working folder is one of its own in the
session folder. A call that raises is told to execution; its traceback goes into the log, one in LOG_EVERY_NS. A
successor begins with a new state; parameters, position and orders are execution's, and are there.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from engine.execution.state import EXECUTION_STATE
from engine.records import Kind
from engine.stage import as_bytes
from procs.deaths import Deaths
from procs.following import Following
from procs.instance import ProcessContext, state_segment
from procs.ports import Outlet, Turns
from procs.python_strategies import load_python
from procs.strategies import FOLDER, kept_strategies
from procs.strategy_caller import Caller
from procs.table import Role
from shm.clock import sleep
from shm.control import Stop

LOG_EVERY_NS = 10_000_000_000
_POLL_S = 0.002
_CLOCK_NS = 50_000_000  # it is shown time so often, or oftener where what it wants lasts for less than four times that
_BATCH = 4096
_NICE = 10  # it may share its cores with the gateway and the kill switch


class StrategyProcess:
    """See the module. `run` returns when the process is asked to stop."""

    def __init__(self, context: ProcessContext) -> None:
        plan = context.plan
        name = plan.strategy_of(context.role)
        files = {file.name: file for file in kept_strategies(plan.path, plan.settings)}
        folder = plan.path / FOLDER / name
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chdir(folder)
        os.nice(_NICE)
        self._context = context
        self._turns = Turns(context)
        made = load_python(files[name].content, files[name].path)
        self._following = Following(context)
        self._segment = state_segment(plan, Role.EXECUTION, EXECUTION_STATE, create=False, read_only=True)
        execution = self._segment.array(EXECUTION_STATE, 0, 1)
        life = Deaths(self._following.view.deaths()).total(context.role) + 1
        place = list(plan.settings.strategies).index(name)
        self._caller = Caller(made, place, life, plan.settings.strategies[name].stale_ms, execution)
        self._outlet = Outlet(context, context.spec.outputs[0])
        self._clock = made.clock
        self._clock_every_ns = min(_CLOCK_NS, plan.settings.strategies[name].stale_ms * 1_000_000 // 4)
        self._newest: dict[int, np.ndarray] = {}  # predictions that were not looked at yet, by instrument
        self._seen: set[int] = set()  # instruments of which it was shown a prediction
        self._shown_ns = dict.fromkeys(self._caller.instruments, 0)  # record time of the last event that was shown
        self._now_ns = 0  # record time
        self._ingest_id = 0
        self._turn = 0  # whose turn it is
        self._log_due_ns = 0
        self._unlogged = 0

    def run(self) -> None:
        """Serve until stopped."""
        self.begin()
        self._context.ready()
        while True:
            moved = self.look() + self.show()
            stop = self._turns.turn(moved)
            if stop != Stop.RUN or self._turns.orphaned:
                break
            if not moved:
                sleep(_POLL_S)
        self._segment.close()
        self._following.close()

    def begin(self) -> None:
        """Leave alone what came before this process."""
        self.look()
        self._caller.begin()
        self._newest.clear()

    def look(self) -> int:
        """Take what is new of the predictions ring, however much it is; returns how many records."""
        moved = 0
        while len(records := self._following.read("predictions", _BATCH)):
            moved += len(records)
            self._now_ns = max(self._now_ns, int(records["recv_ts_ns"].max()))
            self._ingest_id = max(self._ingest_id, int(records["ingest_id"].max()))
            predictions = records[records["kind"] == Kind.PREDICTION]
            for index in self._caller.instruments:
                places = np.flatnonzero(predictions["instrument"] == index)
                if len(places):
                    self._caller.passed_over(index, len(places) - (index not in self._newest))
                    self._newest[index] = predictions[places[-1] :][:1].copy()
        return moved

    def show(self) -> int:
        """Show the strategy the newest of one instrument, in turn, and pass on what it wants; returns 1 if there was
        something to show."""
        instruments = self._caller.instruments
        for step in range(len(instruments)):
            at = (self._turn + step) % len(instruments)
            index = instruments[at]
            newest = self._newest.pop(index, None)
            passed_ns = self._now_ns - self._shown_ns[index]
            ticks = self._clock and index in self._seen and passed_ns >= self._clock_every_ns
            if newest is None and not ticks:
                continue
            self._turn = at + 1
            self._shown_ns[index] = self._now_ns
            kind = Kind.CLOCK if newest is None else Kind.PREDICTION
            if newest is not None:
                self._seen.add(index)
            target = self._caller.call(kind, index, self._now_ns, self._ingest_id, newest)
            self._log()
            if target is not None:
                self._say(target, index)
            return 1
        return 0

    def _say(self, target: np.ndarray, index: int) -> None:
        target["recv_ts_ns"] = self._context.now_ns()
        if not self._outlet.give(as_bytes(target), 1):
            self._outlet.drop(1)
            self._caller.unsaid(index)

    def _log(self) -> None:
        """Write down the last failure, where the one before was long enough ago."""
        if not self._caller.failure:
            return
        now = self._context.now_ns()
        if now >= self._log_due_ns:
            self._log_due_ns = now + LOG_EVERY_NS
            before = f" ({self._unlogged} more since the last that was written down)" if self._unlogged else ""
            sys.stderr.write(f"{now} on_event failed{before}: {self._caller.failure[-4000:]}")
            sys.stderr.flush()
            self._unlogged = 0
        else:
            self._unlogged += 1
        self._caller.failure = ""
