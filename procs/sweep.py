"""Cancelling everything at a venue, outside the trading path: own connections, own signatures, no ring, no ccxt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.last_words import log
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.signed import Call, SignedSession

_ALL_OPEN_ORDERS = "/fapi/v1/allOpenOrders"
_OPEN_ORDERS = "/fapi/v1/openOrders"
_COUNTDOWN = "/fapi/v1/countdownCancelAll"
_BACK_OFF_S = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
# While the rate budget or a ban allows nothing, asking again costs nothing: no byte leaves.
_BUDGET_PAUSE_S = 0.1
_CLEAN_PAUSE_S = 0.1
# Sweeps after the venue has once said that nothing rests, and how long they go on at the least: an order that passed
# the gateway's gate just before the trip can take effect as long as its signature is valid (1,000 ms).
_SWEEPS_AFTER_CLEAN = 2
_AFTER_ERROR_S = 0.1
_SWEEP_AT_LEAST_NS = 1_500_000_000


@dataclass(frozen=True)
class Swept:
    """What came of a sweep: orders that rest, the first thing that failed in words, and whether it left at all."""

    resting: int
    failed: str
    unpaid: bool = False

    @property
    def clean(self) -> bool:
        """The venue has said of every symbol that nothing rests."""
        return not self.failed and not self.resting


class Sweep:
    """Cancels all orders of a few symbols, and finds out what rests."""

    def __init__(
        self, session: SignedSession, symbols: Sequence[str], turn: Callable[[], object],
        clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        """turn: called before each wait, since a venue may take seconds for an answer, or for a connection."""
        self._session = session
        self._symbols = list(symbols)
        self._turn = turn
        self._clocks = clocks

    @property
    def warm(self) -> bool:
        """Whether the cancels of all symbols can leave without waiting for a connection."""
        return self._session.idle >= len(self._symbols)

    def send(self) -> list[Any]:
        """Write the cancels of all symbols; for `finish`."""
        return self._send_each([Call("DELETE", _ALL_OPEN_ORDERS, {"symbol": name}) for name in self._symbols])

    def _send_each(self, calls: Sequence[Call], urgent: bool = True) -> list[Any]:
        """Write all calls before an answer is awaited, with a turn where a connection must be waited for."""
        sent: list[Any] = []
        for call in calls:
            if not self._session.idle:
                self._turn()
            sent += self._session.send_all([call], urgent)
        return sent

    @property
    def written_ns(self) -> int:
        """When the last of them had been written, CLOCK_MONOTONIC."""
        return self._session.written_ns

    def finish(self, sent: list[Any]) -> Swept:
        """Take the answers to the cancels, then count what rests."""
        self._turn()
        answers = self._session.receive_all(sent)
        return self._count(answers, urgent=True)

    def once(self, dry: bool = False) -> Swept:
        """Cancel all orders of every symbol, then count what rests. dry: only ask."""
        return self._count([], urgent=False) if dry else self.finish(self.send())

    def _count(self, answers: list[Any], urgent: bool) -> Swept:
        self._turn()
        calls = [Call("GET", _OPEN_ORDERS, {"symbol": name}) for name in self._symbols]
        lists = self._session.receive_all(self._send_each(calls, urgent), urgent)
        wrong = VenueUnreachable(f"GET {_OPEN_ORDERS}: the answer is no list")
        lists = [one if isinstance(one, list | VenueUnreachable) else wrong for one in lists]
        failures = [one for one in (*answers, *lists) if isinstance(one, VenueUnreachable)]
        return Swept(
            resting=sum(len(one) for one in lists if isinstance(one, list)),
            failed=str(failures[0]) if failures else "",
            unpaid=any(isinstance(one, BudgetSpent) for one in failures),
        )

    def countdown(self, milliseconds: int) -> str:
        """Have the venue cancel everything by itself after a while. Returns what failed, "" when nothing did."""
        self._turn()
        calls = [
            Call("POST", _COUNTDOWN, {"symbol": name, "countdownTime": milliseconds}) for name in self._symbols
        ]
        answers = self._session.receive_all(self._send_each(calls))
        return next((str(one) for one in answers if isinstance(one, VenueUnreachable)), "")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class Progress:
    """How far the cancelling is: often enough clean in a row, and for long enough."""

    def __init__(self, since_ns: int) -> None:
        """since_ns: when the last order could have left, CLOCK_MONOTONIC."""
        self.since_ns = since_ns
        self.clean = 0
        self._failures = 0

    def add(self, swept: Swept) -> float:
        """Count a sweep; returns how many seconds to wait before the next."""
        if swept.clean:
            self.clean += 1
            self._failures = 0
            return _CLEAN_PAUSE_S
        self.clean = 0
        if swept.unpaid:
            return _BUDGET_PAUSE_S
        pause_s = _BACK_OFF_S[min(self._failures, len(_BACK_OFF_S) - 1)]
        self._failures += 1
        return pause_s

    def done(self, now_ns: int) -> bool:
        """Whether nothing rests and nothing can come any more."""
        return self.clean > _SWEEPS_AFTER_CLEAN and now_ns - self.since_ns >= _SWEEP_AT_LEAST_NS


def sweep_until_nothing_rests(
    make_sweep: Callable[[], Sweep], goes_on: Callable[[str], bool], clocks: Clocks = SYSTEM_CLOCKS
) -> bool:
    """Cancel again and again until the venue has said often enough that nothing rests: for who is left without a kill
    switch. An error begins it anew.

    goes_on: called after each sweep with what failed ("" when nothing did); False gives up. Returns whether nothing
    rests.
    """
    while True:
        try:
            sweep, progress = make_sweep(), Progress(clocks.monotonic_ns())
            while not progress.done(clocks.monotonic_ns()):
                swept = sweep.once()
                if not goes_on(swept.failed):
                    return False
                clocks.sleep(progress.add(swept))
            sweep.close()
            return True
        except Exception as error:
            log(f"cancelling failed with {type(error).__name__}: again")
            clocks.sleep(_AFTER_ERROR_S)
