"""The followers of an observer, with counts that outlive it.

An observer reads rings without being a consumer: it maps them read-only and nobody ever waits for it. What it read
and what it was lapped by lie in shared memory, so that a successor goes on where it stood and the summary can say of
every ring: produced = read + lapped + not looked at yet. What was read just before a death is read again.
"""

from __future__ import annotations

import numpy as np

from procs.instance import LAPPED, READ, Mapping, ProcessContext, follower_place
from shm.atomics import load_acquire, store_release
from shm.follower import Follower


class Following:
    """Followers of all rings that the table says this process follows."""

    def __init__(self, context: ProcessContext) -> None:
        self.view = Mapping(context.plan, read_only=True)
        self._counts = context.follower_counts()
        self._followers = {name: Follower(self.view.ring(name)) for name in context.spec.follows}
        self._places = {name: follower_place(context.role, name) for name in context.spec.follows}
        for name, follower in self._followers.items():
            read, lapped = (int(load_acquire(self._counts, self._places[name] + word)) for word in (READ, LAPPED))
            follower.resume(read + lapped, lapped)

    def read(self, name: str, most: int) -> np.ndarray:
        """A copy of the next records of a ring, at most `most`. Raises RingError when the ring is broken."""
        follower = self._followers[name]
        records = follower.read(most)
        store_release(self._counts, self._places[name] + READ, follower.cursor - follower.lapped)
        store_release(self._counts, self._places[name] + LAPPED, follower.lapped)
        return records

    def behind(self, name: str) -> int:
        """Records neither read nor known to be lost."""
        return self._followers[name].behind

    def close(self) -> None:
        """Let go of the mapping."""
        self._followers.clear()
        self.view.close()
