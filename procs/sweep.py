"""Cancelling everything at a venue, outside the trading path: own HTTP session, own signatures, no ring, no ccxt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rest import SignedSession
from shm.clock import python_monotonic_ns, sleep

_BACK_OFF_S = (0.1, 0.25, 0.5, 1.0, 2.0)
# Sweeps after the venue has once said that nothing rests, and how long they go on at the least: an order that passed
# the gateway's gate just before the trip can take effect as long as its signature is valid (1,000 ms).
_SWEEPS_AFTER_CLEAN = 2
_SWEEP_AT_LEAST_NS = 1_500_000_000
_SWEEP_PAUSE_S = 0.1


class Sweep:
    """Cancels all orders of a few symbols, and finds out what rests."""

    def __init__(self, session: SignedSession, symbols: Sequence[str], turn: Callable[[], object]) -> None:
        """turn: called before each request, since a venue may take seconds for an answer."""
        self._session = session
        self._symbols = list(symbols)
        self._turn = turn

    def once(self, dry: bool = False) -> tuple[int, str]:
        """Cancel all orders of every symbol, then count what rests. dry: only ask, which keeps the session warm.

        Returns the number of resting orders and, in words, the first thing that failed.
        """
        resting = 0
        failed = ""
        self._session.urgent = not dry
        for symbol in self._symbols:
            self._turn()
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

    def until_nothing_rests(self, goes_on: Callable[[str], bool]) -> bool:
        """Cancel again and again until the venue has said often enough that nothing rests.

        goes_on: called after each sweep with what failed ("" when nothing did); False gives up. Returns whether
        nothing rests.
        """
        failures = 0
        clean = 0
        started = python_monotonic_ns()
        while clean <= _SWEEPS_AFTER_CLEAN or python_monotonic_ns() - started < _SWEEP_AT_LEAST_NS:
            resting, failed = self.once()
            if not goes_on(failed):
                return False
            if failed:
                sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])
                failures += 1
                clean = 0
            elif resting:
                clean = 0
            else:
                clean += 1
                sleep(_SWEEP_PAUSE_S)
        return True

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
