"""How far the venue's stamps are behind our receipt: the least value of each second, for the clock monitor.

The least of many is the one that was hindered least on its way, so what is left of it is the difference of the clocks
(and the shortest way). It may be negative: then the venue's clock is ahead of ours.
Layout: int64[2 * LAG_SECONDS], by second of session time modulo LAG_SECONDS: the least lag in ns, and behind all of
them which second it is of. One writer, ingestion, which writes a second when it is over.
"""

from __future__ import annotations

import math

import numpy as np

LAG_SECONDS = 128
LAG_WORDS = 2 * LAG_SECONDS
_SECOND = 1_000_000_000


class VenueLag:
    """The writer. stamps: venue times of the records of a frame, 0 where there is none."""

    def __init__(self, words: np.ndarray, stamps: np.ndarray) -> None:
        self._words, self._stamps = words, stamps
        self._second = 0
        self._least: int | None = None

    def note(self, count: int, now_ns: int) -> None:
        """A frame of `count` records was received now; the last of them tells when the venue sent it."""
        second = now_ns // _SECOND
        if second != self._second:
            self._keep()
            self._second = second
        stamp = int(self._stamps[count - 1]) if count else 0
        if stamp and (self._least is None or now_ns - stamp < self._least):
            self._least = now_ns - stamp

    def _keep(self) -> None:
        if self._least is not None:
            place = self._second % LAG_SECONDS
            self._words[place] = self._least
            self._words[LAG_SECONDS + place] = self._second
        self._least = None


def least_lag_ns(words: np.ndarray, now_ns: int, window_s: float) -> float:
    """The least lag of the whole seconds in a window that ends now; NaN where there is none."""
    second = now_ns // _SECOND
    oldest = second - max(2, min(math.ceil(window_s), LAG_SECONDS - 2))
    seconds = words[LAG_SECONDS:]
    recent = words[:LAG_SECONDS][(seconds >= oldest) & (seconds < second)]
    return float(recent.min()) if len(recent) else math.nan
