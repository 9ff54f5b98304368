"""The kill-switch process: when the emergency word is set it stops everything, by itself, until the venue says so.

It shares nothing with the trading path but the word: its own connections, signatures and credentials, no ring, no ccxt.
It retries for ever while tripped. What it does is the controlled stop (procs/emergency/stop.py). It also cancels what
rests once execution or gateway have been silent for a second, and when launcher and supervisor are both gone it trips,
cancels, ends the other processes, and goes.

An error anywhere in it sets the word and begins a new life: everything is made afresh, and the stop begins again. After
too many lives the process ends, and its successor finds the word set.
Invariants: whatever fails, the word is set and the cancels are sent; nothing but the venue's answer ends them.
"""

from __future__ import annotations

import os
import resource
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.emergency.flatten import Flattener
from procs.emergency.gates import GateWatch
from procs.emergency.stop import ControlledStop
from procs.emergency.witness import Witness
from procs.instance import ProcessContext
from procs.kill_credentials import KillCredentials
from procs.last_words import log
from procs.orphans import end_instance
from procs.ports import Turns
from procs.sweep import Sweep
from procs.table import Role
from procs.triggers import Triggers
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.private_stream import PrivateStream, StreamEvent
from procs.venues.binance_usdm.reports import ClientIds
from procs.venues.binance_usdm.signed import HttpLine, Line, SignedSession
from shm.clock import sleep
from shm.control import Stop, TripSource, tripped_sources, word_of
from shm.doorbell import Doorbell

_LIVES = 5
_WRITE_EVERY_S = 0.05
_LISTEN_KEY = "/fapi/v1/listenKey"
_TURN_NS = 5_000_000
# Each connection once in so long, and what is missing or broken sooner.
_WARM_EVERY_S = 20.0
_WARM_AGAIN_S = 0.5
_KEEP_ALIVE_NS = 25 * 60 * 1_000_000_000
_SILENCE_NS = 1_000_000_000
_LONGEST_SPIN_US = 5_000_000  # at real-time priority without ever waiting; the kernel kills it then
# While tripped: how often the venue is asked whether still nothing rests.
_LOOK_AGAIN_NS = 5_000_000_000
# How long an engine that is asked to stop waits for its positions to be zero.
_DRAIN_PATIENCE_NS = 8_000_000_000


def _repeat(once: Callable[[], float | None], sleep: Callable[[float], None]) -> None:
    """Thread body: do it again and again, each time after as many seconds as it says; None: never again."""
    while (pause_s := once()) is not None:
        sleep(pause_s)


def _start_thread(name: str, once: Callable[[], float | None]) -> Callable[[], bool]:
    """Returns what tells whether the thread lives."""
    thread = threading.Thread(target=_repeat, args=(once, sleep), name=name, daemon=True)
    thread.start()
    return thread.is_alive


def _wait(bell: Doorbell, timeout_ns: int, ready: Callable[[], bool]) -> None:
    bell.wait(timeout_ns, ready)


@dataclass(frozen=True)
class Outside:
    """What a kill switch takes from the world; tests give it another one."""

    clocks: Clocks = SYSTEM_CLOCKS
    open_line: Callable[[str], Line] = HttpLine
    make_stream: Callable[[Callable[[], str], Callable[[StreamEvent, bytes], None]], Any] = PrivateStream
    start_thread: Callable[[str, Callable[[], float | None]], Callable[[], bool]] = _start_thread
    wait: Callable[[Doorbell, int, Callable[[], bool]], None] = _wait


class Notes:
    """What the kill switch did, a JSON line each, written by a thread of its own: no disk stands before a cancel."""

    def __init__(self, path: Path, clocks: Clocks) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._clocks = clocks
        self._lines: deque[bytes] = deque()

    def note(self, event: str, **fields: object) -> None:
        """Hand over one line."""
        self._lines.append(orjson.dumps({"wall_ns": self._clocks.wall_ns(), "event": event, **fields}) + b"\n")

    def write_all(self) -> float:
        """Turn of the thread: write, and say when to look again."""
        self.flush()
        return _WRITE_EVERY_S

    def flush(self) -> None:
        """Write what has been handed over. A full disk is one of the reasons to trip, so it is no error here."""
        while self._lines:
            line = self._lines.popleft()
            try:
                self._file = self._file or self._path.open("ab", buffering=0)
                self._file.write(line)
            except OSError as error:
                log(f"a note is lost: {error}")


class _Life:
    """One life of the kill switch: everything it works with, made afresh, and its loop."""

    def __init__(
        self, context: ProcessContext, credentials: KillCredentials, outside: Outside, notes: Notes, turns: Turns,
        triggers: Triggers,
    ) -> None:
        note = notes.note
        plan = context.plan
        self._context = context
        self._control = context.control
        self._clocks = outside.clocks
        self._outside = outside
        self._notes = notes
        self._note = note
        self._turns = turns
        self._triggers = triggers
        self._over = False
        budget, symbols = context.budget(), [item.symbol for item in plan.instruments]
        cancel, flatten, self._key_session = [
            SignedSession(
                plan.endpoints.rest_url, who, budget, lines, open_line=outside.open_line, clocks=outside.clocks
            )
            for who, lines in (
                (credentials.cancel, len(symbols) + 1), (credentials.flatten, len(symbols) + 1), (credentials.cancel, 1)
            )
        ]
        self._sessions = (cancel, flatten)
        self._sweep = Sweep(cancel, symbols, self._turn, outside.clocks)
        self._witness = Witness(symbols)
        self._stream = outside.make_stream(self._stream_url, self._heard)
        self._stop = ControlledStop(
            self._sweep,
            GateWatch(self._control, plan.name, Role.GATEWAY, plan.settings.safety.gate_shut_ms, outside.clocks),
            Flattener(
                flatten, plan.instruments, plan.settings.safety, ClientIds(plan.session), note, self._turn,
                outside.clocks,
            ),
            self._witness, note, self._token, self._flattens, self._goes_on, outside.clocks,
        )
        # Last sign of life of those who look after resting orders; 0 before the first, -1 once it was acted upon.
        self._silent_since = {Role.EXECUTION: 0, Role.GATEWAY: 0}
        self._warm_every_s = _WARM_EVERY_S / (len(symbols) + 1)
        self._prolong_ns = outside.clocks.monotonic_ns() + _KEEP_ALIVE_NS
        self._handled = 0  # the token that was dealt with
        self._given_up = False
        self._draining_since_ns = 0
        self._look_again_ns = 0

    # --- what the stop asks ---------------------------------------------------------------------------------------

    def _turn(self) -> int:
        return self._turns.turn(0)

    def _token(self) -> int:
        return self._control.token

    def _flattens(self, word: int) -> bool:
        sources = tuple(source.name.lower() for source in tripped_sources(word))
        return self._context.plan.settings.safety.on_trip.flattens(sources)

    def _goes_on(self, failed: str) -> bool:
        """Whether there is any use in going on with a stop."""
        self._triggers.turn()
        if failed and self._turns.orphaned and self._context.plan.settings.venue.embedded:
            return False  # the embedded venue has gone with the launcher, and its orders with it
        stop, now = self._turns.turn(1), self._clocks.monotonic_ns()
        if stop == Stop.RUN:
            return True
        self._draining_since_ns = self._draining_since_ns or now
        return stop < Stop.NOW and now - self._draining_since_ns < _DRAIN_PATIENCE_NS

    # --- threads beside the loop ----------------------------------------------------------------------------------

    def _stream_url(self) -> str:
        endpoints = self._context.plan.endpoints
        return f"{endpoints.ws_url}/private/ws?listenKey={self._listen_key('POST')}"

    def _listen_key(self, method: str) -> str:
        """The key of the private stream, made (POST) or kept alive (PUT). Raises VenueUnreachable."""
        answer = self._key_session.call(method, _LISTEN_KEY, urgent=False, signed=False)
        key = answer.get("listenKey", "") if isinstance(answer, dict) else ""
        if not key:
            raise VenueUnreachable(f"{method} {_LISTEN_KEY}: an answer without a listen key")
        return str(key)

    def _heard(self, event: StreamEvent, data: bytes) -> None:
        if not self._witness.take(event, data):
            self._stream.reconnect()

    def _keep_warm(self) -> float | None:
        """Turn of a thread: keep connections alive, and the key of the private stream."""
        warmed = [session.warm() for session in self._sessions]
        if self._clocks.monotonic_ns() >= self._prolong_ns:
            self._prolong_ns += _KEEP_ALIVE_NS
            self._prolong_key()
        pause_s = self._warm_every_s if all(warmed) else _WARM_AGAIN_S
        return None if self._over else pause_s

    def _write_notes(self) -> float | None:
        """Turn of a thread; it ends with this life, the next one has its own."""
        return None if self._over else self._notes.write_all()

    def _prolong_key(self) -> None:
        try:
            self._listen_key("PUT")
        except VenueUnreachable:
            self._stream.reconnect()  # the key may be dead; a new connection asks for a new one

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until stopped; on the way out nothing is left undone."""
        for session in self._sessions:
            session.warm()
        self._stream.start()
        start = self._outside.start_thread
        threads = (self._stream.is_alive, start("keep-warm", self._keep_warm), start("notes", self._write_notes))
        goes_on = True
        while goes_on:
            goes_on = self._watch_once()
            if not all(is_alive() for is_alive in threads):
                raise RuntimeError("a thread of the kill switch has ended")
            self._outside.wait(self._context.bell, _TURN_NS, self._has_news)
        self._close()

    def _close(self) -> None:
        self._over = True
        self._stream.stop()
        for session in (*self._sessions, self._key_session):
            session.close()

    def let_go(self) -> None:
        """This life has failed: end what it began, without waiting for it."""
        self._outside.start_thread("let-go", self._close)

    def _has_news(self) -> bool:
        return self._control.token != self._handled

    def _watch_once(self) -> bool:
        """One turn; False when it is time to go."""
        control = self._control
        self._triggers.turn()
        self._cover_for_the_dead()
        token = control.token
        if token != self._handled:
            self._handled = self._deal_with(token)
        elif control.word:
            self._look_again()
        stop = self._turns.turn(0)
        if self._turns.orphaned and not control.word:
            control.trip(TripSource.SUPERVISOR)
        if self._has_news() and not self._given_up:
            return True  # before anything else ends
        if stop:
            return False
        if self._turns.orphaned:
            self._note("ending everything: supervisor and launcher are gone")
            end_instance(self._context.plan.name)
            return False
        return True

    def _deal_with(self, token: int) -> int:
        """Make the stop that a trip asks for, or see a reset; publish what was dealt with, so that others know.

        Returns that token; 0 for a stop that was given up, or cut short by a reset.
        """
        handled = token
        if word_of(token):
            handled = self._stop.run(token)
            self._given_up = not handled and self._control.word != 0
            self._look_again_ns = self._clocks.monotonic_ns() + _LOOK_AGAIN_NS
            if self._given_up:
                self._note("stopped before the venue was clean")
        self._control.set_gate_epoch(Role.KILLSWITCH, handled)
        return handled

    def _look_again(self) -> None:
        """While tripped: make sure now and then that still nothing rests."""
        if self._clocks.monotonic_ns() >= self._look_again_ns:
            self._look_again_ns = self._clocks.monotonic_ns() + _LOOK_AGAIN_NS
            if not self._sweep.once(dry=True).clean:
                self._handled = 0
                self._control.set_gate_epoch(Role.KILLSWITCH, 0)  # it is not done any more

    def _cover_for_the_dead(self) -> None:
        """Cancel what rests once execution or the gateway has been silent for a second: nobody looks after it."""
        control, now = self._control, self._context.now_ns()
        for role, since in self._silent_since.items():
            heartbeat = control.heartbeat(role)
            if heartbeat and now - heartbeat < _SILENCE_NS:
                self._silent_since[role] = heartbeat
            elif since > 0 and now - since >= _SILENCE_NS and control.stop_requested(role) == Stop.RUN:
                swept = self._sweep.once()
                # Once for each silence, and again a second later as long as something failed or rests.
                self._silent_since[role] = -1 if swept.clean else self._context.now_ns()
                self._note("covered", silent=role.label, resting=swept.resting, error=swept.failed)


class KillSwitch:
    """The process: its triggers, its lives, its priority, its notes."""

    def __init__(
        self, context: ProcessContext, credentials: KillCredentials, outside: Outside | None = None
    ) -> None:
        self._context = context
        self._credentials = credentials
        self._outside = outside or Outside()
        self._turns = Turns(context)  # of the process: a later life must not take whom it finds for its supervisor
        self.notes = Notes(context.plan.path / "killswitch.jsonl", self._outside.clocks)
        self._triggers = Triggers(context, self.notes.note)

    def settle(self) -> None:
        """Ask for real-time priority and locked memory; where that is not permitted, say so once."""
        missing = []
        try:
            # It blocks and never spins. Its threads inherit this: the one that hears the button must not wait for a
            # core, nor must one that holds the interpreter's lock.
            # Should it ever spin it must not keep the core from those who would replace it.
            resource.setrlimit(resource.RLIMIT_RTTIME, (_LONGEST_SPIN_US, _LONGEST_SPIN_US))
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError as error:
            missing.append(f"real-time priority: {error.strerror}")
        # The word alone: locking all that the process maps takes 385 MB instead of 60.
        if not self._context.control.segment.lock_memory():
            missing.append("locked memory")
        if missing:
            self.notes.note("not permitted here", missing=missing)

    def run(self) -> None:
        """Live until stopped. Raises RuntimeError after too many lives; the word is set then."""
        self._triggers.start()
        for _ in range(_LIVES):
            life = None
            try:
                life = _Life(
                    self._context, self._credentials, self._outside, self.notes, self._turns, self._triggers
                )
                life.run()
                self._triggers.close()
                self.notes.flush()
                return
            except Exception as error:
                self._context.control.trip(TripSource.KILLSWITCH)
                where = traceback.extract_tb(error.__traceback__)[-1]
                self.notes.note("error", error=type(error).__name__, file=where.filename, line=where.lineno)
                if life is not None:
                    life.let_go()
        raise RuntimeError("the kill switch has failed too often; its successor takes over")
