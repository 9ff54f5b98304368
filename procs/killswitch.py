"""The kill-switch process: when the emergency word is set it cancels everything, by itself, until nothing rests.

It shares nothing with the trading path but the word: its own HTTP session, its own signatures, no ring, no ccxt. It
retries for ever while tripped. An exception ends the process and the supervisor starts its successor. When launcher
and supervisor are both gone it trips, cancels, ends the other processes, and goes.
"""

from __future__ import annotations

import contextlib

import orjson

from procs.instance import ProcessContext
from procs.orphans import end_instance
from procs.ports import Turns
from procs.sweep import Sweep
from procs.table import Role
from procs.triggers import Triggers
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.rest import SignedSession
from shm.clock import sleep, wall_ns
from shm.control import Stop, TripSource, gate_epoch, set_gate_epoch, trip_count, tripped_sources, word_of

_POLL_S = 0.005
_WARM_EVERY_S = 20.0
_SILENCE_NS = 1_000_000_000


class KillSwitch:
    """See the module."""

    def __init__(self, context: ProcessContext, credentials: Credentials) -> None:
        self._context = context
        self._turns = Turns(context)
        symbols = [item.symbol for item in context.plan.instruments]
        session = SignedSession(context.plan.endpoints.rest_url, credentials, context.budget())
        self._sweep = Sweep(session, symbols, lambda: self._turns.turn(0))
        # Last sign of life of those who look after resting orders; 0 before the first, -1 once it was acted upon.
        self._silent_since = {Role.EXECUTION: 0, Role.GATEWAY: 0}
        self._log = (context.plan.path / "killswitch.jsonl").open("ab", buffering=0)
        self._triggers = Triggers(context, self._note)

    def _note(self, event: str, **fields: object) -> None:
        """One line of what it did. Writing never stands between a trip and its cancels: it comes after them."""
        with contextlib.suppress(OSError):  # a full disk is one of the reasons to trip: the cancels go on
            self._log.write(orjson.dumps({"wall_ns": wall_ns(), "event": event, **fields}) + b"\n")

    def run(self) -> None:
        """Watch until stopped; on the way out nothing is left undone."""
        self._triggers.start()
        self._sweep.once(dry=True)
        handled = 0
        idle_s = 0.0
        while True:
            self._triggers.turn()
            self._cover_for_the_dead()
            token = self._context.control.token
            if token != handled:
                handled = self._deal_with(token)
            stop = self._turns.turn(0)
            if self._turns.orphaned and not self._context.control.word:
                self._context.control.trip(TripSource.SUPERVISOR)
            if self._context.control.token != handled:
                continue  # before anything else ends
            if stop:
                break
            if self._turns.orphaned:
                self._note("ending everything: supervisor and launcher are gone")
                end_instance(self._context.plan.name)
                break
            sleep(_POLL_S)
            idle_s += _POLL_S
            if idle_s >= _WARM_EVERY_S:
                idle_s = 0.0
                self._sweep.once(dry=True)
        self._triggers.close()
        self._sweep.close()
        self._log.close()

    def _cover_for_the_dead(self) -> None:
        """Cancel what rests once execution or the gateway has been silent for a second: nobody looks after it."""
        control, now = self._context.control, self._context.now_ns()
        for role, since in self._silent_since.items():
            heartbeat = control.heartbeat(role)
            if heartbeat and now - heartbeat < _SILENCE_NS:
                self._silent_since[role] = heartbeat
            elif since > 0 and now - since >= _SILENCE_NS and control.stop_requested(role) == Stop.RUN:
                resting, error = self._sweep.once()
                # Once for each silence, and again a second later as long as something failed or rests.
                self._silent_since[role] = self._context.now_ns() if error or resting else -1
                self._note("covered", silent=role.label, resting=resting, error=error)

    def _deal_with(self, token: int) -> int:
        """Act on a trip, or on a reset; returns the token, published so that others know that it is done."""
        word = word_of(token)
        if word:
            self._act(word)
        set_gate_epoch(self._context.control.words, Role.KILLSWITCH, token)
        return token

    def _act(self, word: int) -> None:
        """Cancel until the venue says that nothing rests, and note it."""
        noted = False

        def goes_on(failed: str) -> bool:
            nonlocal noted
            if not noted:
                noted = True
                self._note("tripped", sources=[source.name for source in tripped_sources(word)], count=trip_count(word))
            if failed:
                self._note("cancel failed", error=failed)
                if self._turns.orphaned and self._context.plan.settings.venue.embedded:
                    return False  # the embedded venue has gone with the launcher, and its orders with it
            return self._turns.turn(1) < Stop.NOW

        if self._sweep.until_nothing_rests(goes_on):
            shut = int(gate_epoch(self._context.control.words, Role.GATEWAY))
            self._note("nothing rests", gate_shut=shut != 0)
        else:
            self._note("stopped before the venue was clean")
