"""What the buckets of a latency histogram (shm/histogram.py) hold, for those who draw, export and plot.

Invariants: LOW and HIGH are the smallest and the largest value of each bucket, both included; MIDDLE is the value that
stands for it, as in percentiles. Exact below 64 ns; above, a bucket is at most 1/32 of its values wide.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from shm.histogram import BUCKETS, FIRST_BUCKET, INT64_MAX, MAX, between

_STEPS = 32  # buckets of an octave


def _lows() -> list[int]:
    octaves = BUCKETS // _STEPS - 2  # behind the two whose values have a bucket each
    wider = ((_STEPS + step) << octave for octave in range(1, octaves + 1) for step in range(_STEPS))
    return [*range(2 * _STEPS), *wider]


LOW = np.array(_lows(), np.int64)
HIGH = np.array([later - 1 for _, later in pairwise(_lows())] + [INT64_MAX], np.int64)
MIDDLE = LOW + ((HIGH - LOW) >> 1)


def bucket_index(value_ns: int) -> int:
    """The bucket of a value >= 0."""
    return int(np.searchsorted(LOW, value_ns, side="right")) - 1


def filled(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, counts), int64 each, of those buckets that hold anything, from the smallest values to the largest."""
    buckets = np.flatnonzero(histogram[FIRST_BUCKET:])
    return buckets, histogram[FIRST_BUCKET + buckets]


def values_of(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values in ns, counts), int64 each, in ascending order: what the histogram knows of what was recorded.

    Each bucket's values are told by its middle, but that of the last is no larger than MAX.
    """
    buckets, counts = filled(histogram)
    values = MIDDLE[buckets]
    if len(values):
        values[-1] = min(int(values[-1]), int(histogram[MAX]))
    return values, counts


def passed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What was recorded from one copy to a later one, with MAX exact where it can be told.

    It can where the largest value so far was recorded in between. Otherwise MAX is the middle of the last bucket, which
    may hold a value that was not yet written to MAX when the copy was made.
    """
    values = between(before, after)
    buckets, _ = filled(values)
    if len(buckets):
        last, largest = int(buckets[-1]), int(after[MAX])
        if largest > before[MAX] and bucket_index(largest) == last:
            values[MAX] = largest
        else:
            values[MAX] = max(int(values[MAX]), int(LOW[last]))
    return values
