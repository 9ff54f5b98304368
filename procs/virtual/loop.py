"""Virtual time: events in the order of their time, those of one time in the order in which they were asked for.

An event may run the loop itself, to wait as a blocking call does; what it waits for happens meanwhile. Only one kind of
actor may do so (the sender of a gateway), otherwise an outer wait could not end before an inner one.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Callable

_ENTRY = struct.Struct("<qI")


class EventLog:
    """The chain of everything that happened; equal digests mean equal sessions, bit for bit."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.entries = 0

    def add(self, now_ns: int, what: str, data: bytes = b"") -> None:
        """One thing that happened."""
        self.entries += 1
        self._hash.update(_ENTRY.pack(now_ns, len(data)))
        self._hash.update(what.encode())
        self._hash.update(data)

    def digest(self) -> str:
        """32 hex digits."""
        return self._hash.hexdigest()


class Loop:
    """The clock and what is to happen. after_event is called after each event, for checks."""

    def __init__(self, start_ns: int):
        self.now_ns = start_ns
        self.after_event: Callable[[], None] | None = None
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Do something at a time, now at the earliest."""
        self._asked += 1
        heapq.heappush(self._events, (max(time_ns, self.now_ns), self._asked, action))

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Do something after a delay."""
        self.at(self.now_ns + delay_ns, action)

    def every(self, interval_ns: int, action: Callable[[], None]) -> None:
        """Do something again and again, from one interval from now on."""

        def again() -> None:
            action()
            self.after(interval_ns, again)

        self.after(interval_ns, again)

    def run(self, until_ns: int, done: Callable[[], bool]) -> None:
        """Let events happen up to a time, or until `done`."""
        while not done():
            if not self._events or self._events[0][0] > until_ns:
                self.now_ns = max(self.now_ns, until_ns)
                return
            time_ns, _, action = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, time_ns)
            action()
            if self.after_event is not None:
                self.after_event()
