"""How far the venue's stamps are behind our receipt: the least value of each second, for the clock monitor.

The least of many is the one that was hindered least on its way, so what is left of it is the difference of the clocks
(and the shortest way). It may be negative: then the venue's clock is ahead of ours.
Layout: int64[2 * LAG_SECONDS], by second of session time modulo LAG_SECONDS: the least lag in ns, and behind all of
them which second it is of. One writer, ingestion; a second is read once it is over.
"""

from __future__ import annotations

import math

import numpy as np

from engine.kernel import kernel

LAG_SECONDS = 128
LAG_WORDS = 2 * LAG_SECONDS
_SECOND = 1_000_000_000


@kernel()
def note_lag(words: np.ndarray, stamp_ns: int, now_ns: int) -> None:
    """A frame was received now; the venue stamped it so, 0: it has no stamp."""
    if stamp_ns == 0:
        return
    lag = now_ns - stamp_ns
    second = now_ns // _SECOND
    place = second % LAG_SECONDS
    if words[LAG_SECONDS + place] != second:
        words[place] = lag
        words[LAG_SECONDS + place] = second
    elif lag < words[place]:
        words[place] = lag


def least_lag_ns(words: np.ndarray, now_ns: int, window_s: float) -> float:
    """The least lag of the whole seconds in a window that ends now; NaN where there is none."""
    second = now_ns // _SECOND
    oldest = second - max(2, min(math.ceil(window_s), LAG_SECONDS - 2))
    seconds = words[LAG_SECONDS:]
    recent = words[:LAG_SECONDS][(seconds >= oldest) & (seconds < second)]
    return float(recent.min()) if len(recent) else math.nan
