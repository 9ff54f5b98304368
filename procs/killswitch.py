"""The kill-switch process: when the emergency word is set it cancels everything, by itself, until nothing rests.

It shares nothing with the trading path but the word: its own HTTP session, its own signatures, no ring, no ccxt. It
retries for ever while tripped. An exception ends the process and the supervisor starts its successor. When launcher
and supervisor are both gone it trips, cancels, ends the other processes, and goes.
"""

from __future__ import annotations

import contextlib
import os
import signal

import orjson

from procs.attach import lock_path, plan_path
from procs.instance import ProcessContext
from procs.ports import Turns
from procs.table import PROCESSES, Role
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.rest import SignedSession
from shm.clock import python_monotonic_ns, sleep, wall_ns
from shm.control import Stop, TripSource, gate_epoch, trip_count, tripped_sources
from shm.lease import Lease, LeaseHeld
from shm.segment import unlink_all

_POLL_S = 0.005
_BACK_OFF_S = (0.1, 0.25, 0.5, 1.0, 2.0)
_WARM_EVERY_S = 20.0
_SILENCE_NS = 1_000_000_000
# Sweeps after the venue has once said that nothing rests, and how long they go on at the least: an order that passed
# the gateway's gate just before the trip can take effect as long as its signature is valid (1,000 ms).
_SWEEPS_AFTER_CLEAN = 2
_SWEEP_AT_LEAST_NS = 1_500_000_000
_SWEEP_PAUSE_S = 0.1


class KillSwitch:
    """See the module."""

    def __init__(self, context: ProcessContext, credentials: Credentials) -> None:
        self._context = context
        self._turns = Turns(context)
        self._session = SignedSession(context.plan.endpoints.rest_url, credentials, context.budget())
        self._symbols = [item.symbol for item in context.plan.instruments]
        # Last sign of life of those who look after resting orders; 0 before the first, -1 once it was acted upon.
        self._silent_since = {Role.EXECUTION: 0, Role.GATEWAY: 0}
        self._log = (context.plan.path / "killswitch.jsonl").open("ab", buffering=0)

    def _note(self, event: str, **fields: object) -> None:
        """One line of what it did. Writing never stands between a trip and its cancels: it comes after them."""
        with contextlib.suppress(OSError):  # a full disk is one of the reasons to trip: the cancels go on
            self._log.write(orjson.dumps({"wall_ns": wall_ns(), "event": event, **fields}) + b"\n")

    def run(self) -> None:
        """Watch until stopped; on the way out nothing is left undone."""
        self._cancel_everything(dry=True)
        self._context.ready()
        handled = 0
        idle_s = 0.0
        while True:
            self._cover_for_the_dead()
            word = self._context.control.word
            if word and word != handled:
                handled = self._act(word)
            stop = self._turns.turn(0)
            if self._turns.orphaned and not self._context.control.word:
                self._context.control.trip(TripSource.SUPERVISOR)
            if self._context.control.word not in (0, handled):
                continue  # before anything else ends
            if stop:
                break
            if self._turns.orphaned:
                self._end_what_nobody_watches()
                break
            sleep(_POLL_S)
            idle_s += _POLL_S
            if idle_s >= _WARM_EVERY_S:
                idle_s = 0.0
                self._cancel_everything(dry=True)
        self._session.close()
        self._log.close()

    def _end_what_nobody_watches(self) -> None:
        """Launcher and supervisor are gone and everything is cancelled: end the other processes, free the memory."""
        control, name = self._context.control, self._context.plan.name
        for process in PROCESSES:
            pid = control.pid(process.role)
            if process.role != Role.KILLSWITCH and pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._note("ended everything: supervisor and launcher are gone")
        # Whoever holds the lease by now is a new engine of that name, and the memory is its own.
        with contextlib.suppress(LeaseHeld), Lease.acquire(lock_path(name)):
            unlink_all(name)
            plan_path(name).unlink(missing_ok=True)
            lock_path(name).unlink(missing_ok=True)

    def _cover_for_the_dead(self) -> None:
        """Cancel what rests once execution or the gateway has been silent for a second: nobody looks after it."""
        control, now = self._context.control, self._context.now_ns()
        for role, since in self._silent_since.items():
            heartbeat = control.heartbeat(role)
            if heartbeat and now - heartbeat < _SILENCE_NS:
                self._silent_since[role] = heartbeat
            elif since > 0 and now - since >= _SILENCE_NS and control.stop_requested(role) == Stop.RUN:
                resting, error = self._cancel_everything(dry=False)
                # Once for each silence, and again a second later as long as something failed or rests.
                self._silent_since[role] = self._context.now_ns() if error or resting else -1
                self._note("covered", silent=role.label, resting=resting, error=error)

    def _act(self, word: int) -> int:
        """Cancel until the venue says that nothing rests, and say so. Returns the word that was handled."""
        failures = 0
        clean = 0
        cancelled = False
        started = python_monotonic_ns()
        while clean <= _SWEEPS_AFTER_CLEAN or python_monotonic_ns() - started < _SWEEP_AT_LEAST_NS:
            resting, error = self._cancel_everything(dry=False)
            if not cancelled:
                cancelled = True
                self._note("tripped", sources=[source.name for source in tripped_sources(word)], count=trip_count(word))
            if error:
                self._note("cancel failed", error=error)
                if self._turns.orphaned and self._context.plan.settings.venue.embedded:
                    return word  # the embedded venue has gone with the launcher, and its orders with it
                sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])
                failures += 1
                clean = 0
            elif resting:
                clean = 0
            else:
                clean += 1
                sleep(_SWEEP_PAUSE_S)
            if self._turns.turn(1) >= Stop.NOW:
                self._note("stopped before the venue was clean")
                return word
        shut = int(gate_epoch(self._context.control.words, Role.GATEWAY))
        self._note("nothing rests", gate_shut=shut != 0)
        return word

    def _cancel_everything(self, dry: bool) -> tuple[int, str]:
        """Cancel all orders of every symbol, then count what rests. dry: only ask, which keeps the session warm.

        Returns the number of resting orders and, in words, the first thing that failed.
        """
        resting = 0
        failed = ""
        self._session.urgent = not dry
        for symbol in self._symbols:
            self._turns.turn(0)  # a venue may take seconds for each answer
            try:
                if not dry:
                    self._session.call("DELETE", "/fapi/v1/allOpenOrders", symbol=symbol)
                orders = self._session.call("GET", "/fapi/v1/openOrders", symbol=symbol)
                if not isinstance(orders, list):
                    raise VenueUnreachable("GET /fapi/v1/openOrders: the answer is no list")
                resting += len(orders)
            except VenueUnreachable as error:
                failed = failed or str(error)
        return resting, failed
