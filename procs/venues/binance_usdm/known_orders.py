"""Whose order the venue's ids are: of ours our number, of the venue's own FORCED, of anybody else 0.

Invariant: whatever was remembered lately or may still rest is there; of the others the oldest are forgotten, so that
a session may last. Who meets an id that is not there asks the venue. Safe for several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

KEPT = 1024  # reached within minutes, so that memory is flat from then on


class KnownOrders:
    """See the module. may_rest: whether one of our numbers is perhaps open at the venue."""

    def __init__(self, may_rest: Callable[[int], bool]) -> None:
        self._may_rest = may_rest
        self._owners: OrderedDict[int, int] = OrderedDict()  # by venue id, the one remembered last at the end
        self._lock = threading.Lock()

    def remember(self, venue_order_id: int, owner: int) -> None:
        """Whose order this is, once more or for the first time."""
        with self._lock:
            self._owners[venue_order_id] = owner
            self._owners.move_to_end(venue_order_id)
            resting = 0
            while len(self._owners) > max(KEPT, resting + 1):
                oldest, whose = next(iter(self._owners.items()))
                if self._may_rest(whose):
                    self._owners.move_to_end(oldest)
                    resting += 1
                else:
                    del self._owners[oldest]

    def remember_all(self, owners: Mapping[int, int]) -> None:
        """The same for several."""
        for venue_order_id, owner in owners.items():
            self.remember(venue_order_id, owner)

    def owner(self, venue_order_id: int) -> int | None:
        """Whose order it is; None where that is not known (any more)."""
        with self._lock:
            return self._owners.get(venue_order_id)

    def ids(self) -> set[int]:
        """The venue's ids that are known."""
        with self._lock:
            return set(self._owners)
