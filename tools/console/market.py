"""Book and tape: levels out of a copied book, and the newest records of a ring that others work with.

A copied book is read here with numpy: the book's own kernel is compiled into the stages, and would have to be compiled
again for each console.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from engine.book.layout import FAR_SLOTS, NO_RANK
from shm.follower import Follower
from shm.ring import Ring

# Records looked at in one go; whoever is further behind goes on from here.
_MOST = 16_384


def best_levels(book: np.void, side: int, most: int) -> list[tuple[int, int]]:
    """The best (price, size) of a side (1 bids, -1 asks) of a BOOK record, best first."""
    s = 0 if side > 0 else 1
    near = np.flatnonzero(book["sizes"][s]) if book["placed"][s] else np.zeros(0, np.int64)
    ranks, sizes = int(book["base"][s]) + near * int(book["tick"]), book["sizes"][s][near]
    if book["far_count"][s] and book["far_best"][s] != NO_RANK:
        far = np.flatnonzero(book["far_sizes"][s][:FAR_SLOTS])
        ranks = np.concatenate((ranks, book["far_ranks"][s][far]))
        sizes = np.concatenate((sizes, book["far_sizes"][s][far]))
    order = np.argsort(ranks)[::-1][:most]
    return [((1 if s == 0 else -1) * int(ranks[place]), int(sizes[place])) for place in order]


class Recent:
    """The newest records of one kind in a ring, by instrument. Nobody waits for it."""

    def __init__(self, ring: Ring, kind: int, most: int) -> None:
        """Begins with what the ring still holds."""
        self._follower = Follower(ring)
        self._kind, self._most = kind, most
        self._newest: dict[int, deque[np.void]] = {}
        self._passed_over = 0
        self._read_to = 0
        self._looking = False

    @property
    def missed(self) -> int:
        """Records that were not looked at while somebody looked."""
        return self._passed_over + self._follower.lapped

    def look(self) -> None:
        """Take in what has passed since the last look. Raises RingError when the ring is broken."""
        follower = self._follower
        if not self._looking:
            self._looking = True
            newest = follower.cursor + follower.behind - min(_MOST, follower.ring.capacity // 2)
            follower.resume(max(self._read_to, newest), follower.lapped)
        too_many = follower.behind - _MOST
        if too_many > 0:
            self._passed_over += too_many
            follower.resume(follower.cursor + too_many, follower.lapped)
        records = follower.read(_MOST)
        self._read_to = follower.cursor
        for record in records[records["kind"] == self._kind]:
            place = self._newest.setdefault(int(record["instrument"]), deque(maxlen=self._most))
            place.appendleft(record)

    def look_away(self) -> None:
        """What passes from here until the next look is not missed."""
        self._looking = False

    def newest(self, instrument: int) -> list[np.void]:
        """Of one instrument, newest first."""
        return list(self._newest.get(instrument, ()))

    def newest_of_all(self) -> list[np.void]:
        """Of all instruments, newest first."""
        every = [record for place in self._newest.values() for record in place]
        return sorted(every, key=lambda record: int(record["recv_ts_ns"]), reverse=True)[: self._most]
