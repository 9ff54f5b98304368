"""When a book that is wanted may be asked for: one request at a time for each, further apart while they do not help.

A request helps when the book is in sequence after it. What was helped less than GOOD_NS ago did not last: that counts
as a failure too, so a book that is wrong again as soon as it is there is not fetched as fast as the venue answers. A
book that comes over the socket is asked for by subscribing anew; there an answer is given up after `patience_ns`.
"""

from __future__ import annotations

from collections.abc import Callable

from procs.back_off import back_off_s, clock_jitter

# Half to the whole of it; the first request goes out at once. At the top a whole snapshot of Binance (20 to 50 of 2,400
# or 6,000 a minute) costs some 100 a minute.
LADDER_S = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
GOOD_NS = 10_000_000_000
PATIENCE_NS = 5_000_000_000


class BookRequests:
    """See the module. Books by index; times in ns."""

    def __init__(
        self, books: int, patience_ns: int | None = None, jitter: Callable[[], float] = clock_jitter
    ) -> None:
        """patience_ns: how long a request may be under way; None: its end is always told."""
        self._patience_ns = patience_ns
        self._jitter = jitter
        self._failures = [0] * books
        self._not_before_ns = [0] * books
        self._asked_ns: list[int | None] = [None] * books
        self._good_since_ns: list[int | None] = [None] * books

    def due(self, index: int, now_ns: int) -> bool:
        """Whether a wanted book is to be asked for now; then say `asked`."""
        asked_ns = self._asked_ns[index]
        if asked_ns is not None:
            if self._patience_ns is None or now_ns - asked_ns < self._patience_ns:
                return False
            self.failed(index, now_ns)
        good_since_ns, self._good_since_ns[index] = self._good_since_ns[index], None
        if good_since_ns is not None:
            if now_ns - good_since_ns < GOOD_NS:
                self.failed(index, now_ns)
            else:
                self._failures[index] = 0
        return now_ns >= self._not_before_ns[index]

    def asked(self, index: int, now_ns: int) -> None:
        """A request is under way."""
        self._asked_ns[index] = now_ns

    def helped(self, index: int, now_ns: int) -> None:
        """The book is in sequence."""
        self._asked_ns[index] = None
        if self._good_since_ns[index] is None:
            self._good_since_ns[index] = now_ns

    def failed(self, index: int, now_ns: int) -> None:
        """The request brought nothing that helped."""
        self._asked_ns[index] = None
        self._failures[index] += 1
        self._not_before_ns[index] = now_ns + int(back_off_s(self._failures[index], LADDER_S, self._jitter) * 1e9)

    def forgotten(self, index: int) -> None:
        """What was under way does not count: the sockets that it belonged to are gone."""
        self._asked_ns[index] = None
