"""Sliding windows for the panic monitors: counters, extremes, medians. Pure; time is passed in and never goes back.

A window of w ns at time t holds what was added at times in (t - w, t]. Memory is bounded by what is added within one
window. A time before the last one counts as the last one: a clock that jumps must not break a monitor.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class CounterWindow:
    """How much counters grew within a window. Counters that shrink have begun again: so does the window."""

    def __init__(self, window_ns: int, places: int) -> None:
        self._window_ns = window_ns
        self._samples: deque[tuple[int, tuple[int, ...]]] = deque()
        self._places = places

    def add(self, now_ns: int, counters: tuple[int, ...]) -> None:
        """The counters at this moment."""
        if self._samples:
            last_ns, last = self._samples[-1]
            now_ns = max(now_ns, last_ns)
            if any(new < old for new, old in zip(counters, last, strict=True)):
                self._samples.clear()
        self._samples.append((now_ns, counters))
        # The newest sample at or before the start of the window stays: it is what growth is counted from.
        while len(self._samples) > 1 and self._samples[1][0] <= now_ns - self._window_ns:
            self._samples.popleft()

    @property
    def growth(self) -> tuple[int, ...]:
        """Growth of each counter within the window that ends at the last sample."""
        if not self._samples:
            return (0,) * self._places
        first, last = self._samples[0][1], self._samples[-1][1]
        return tuple(new - old for new, old in zip(last, first, strict=True))

    @property
    def span_ns(self) -> int:
        """Time between the sample that growth is counted from and the last one."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0


class ExtremeWindow:
    """The least value within a window, and since when the window is full. NaN is never added."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._rising: deque[tuple[int, float]] = deque()
        self._first_ns = -1
        self._last_ns = -1

    def add(self, now_ns: int, value: float) -> None:
        """A value at this moment."""
        now_ns = max(now_ns, self._last_ns)
        self._last_ns = now_ns
        if self._first_ns < 0:
            self._first_ns = now_ns
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((now_ns, value))
        self._drop(now_ns)

    def _drop(self, now_ns: int) -> None:
        while self._rising and self._rising[0][0] <= now_ns - self._window_ns:
            self._rising.popleft()

    def least(self, now_ns: int) -> float:
        """The least value; NaN where the window is empty."""
        self._drop(max(now_ns, self._last_ns))
        return self._rising[0][1] if self._rising else math.nan

    @property
    def whole(self) -> bool:
        """Whether values have come for as long as the window is."""
        return self._first_ns >= 0 and self._last_ns - self._first_ns >= self._window_ns


class MedianWindow:
    """The median of values within a window. Bounded: of values that come closer than `every_ns` the first is taken."""

    def __init__(self, window_ns: int, every_ns: int) -> None:
        self._window_ns = window_ns
        self._every_ns = every_ns
        self._values: deque[tuple[int, float]] = deque()
        self._sorted: list[float] = []

    def add(self, now_ns: int, value: float) -> None:
        """A value at this moment; must not be NaN."""
        if self._values:
            last_ns = self._values[-1][0]
            if now_ns - last_ns < self._every_ns:
                return
        self._values.append((now_ns, value))
        insort(self._sorted, value)
        while self._values[0][0] <= now_ns - self._window_ns:
            gone = self._values.popleft()[1]
            del self._sorted[bisect_left(self._sorted, gone)]

    @property
    def median(self) -> float:
        """The middle value, the lower of two; NaN where there is none."""
        return self._sorted[(len(self._sorted) - 1) // 2] if self._sorted else math.nan

    @property
    def span_ns(self) -> int:
        """Time between the oldest and the newest value."""
        return self._values[-1][0] - self._values[0][0] if self._values else 0
