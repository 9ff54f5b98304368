"""Requests for market data that bring nothing: counted by what came instead of an answer, each run of them said once.

May be called from any thread: requests are made in threads of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import Lock

from procs.venues.binance_usdm.endpoints import VenueUnreachable


class Refusals:
    """See the module. `counts`: by reason, an HTTP status or what else was wrong."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = Lock()
        self._told: set[str] = set()  # what was asked for and refused, and not answered since
        self.counts: Counter[str] = Counter()

    def refused(self, what: str, error: VenueUnreachable) -> None:
        """A request for something brought nothing."""
        with self._lock:
            self.counts[error.reason] += 1
            is_first = what not in self._told
            self._told.add(what)
        if is_first:
            self._say(f"{what}: {error}")

    def answered(self, what: str) -> None:
        """A request for it was answered."""
        with self._lock:
            self._told.discard(what)

    @property
    def total(self) -> int:
        """All that were counted."""
        return self.counts.total()
