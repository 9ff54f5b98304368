"""Log-linear latency histograms in shared memory.

Purpose: p50, p99, p99.9 and max of every hop at any time, for one addition per value.

Layout: int64[::1] of HISTOGRAM_WORDS: COUNT, SUM, MAX and NEGATIVE, then BUCKETS counters at FIRST_BUCKET.
Values below 64 have a bucket each; above, every octave is cut into 32 equal buckets, up to 2^63 - 1.

Invariants: one writer. Every word is written whole (relaxed atomic), so a reader in another process sees
counts that are at most one value apart. Negative values (clocks that disagree) are counted in NEGATIVE alone.
A percentile is the middle of its bucket: off by at most 1/64 of the value, exact below 64.

Limits: SUM stays at its largest value once the values add up to 2^63 ns. Cost: about 2 ns a value.

Source: the bucketing of HdrHistogram (Tene), reduced to one precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from shm.atomics import inlined, load_relaxed, store_relaxed

COUNT = 0
SUM = 1
MAX = 2
NEGATIVE = 3
FIRST_BUCKET = 16
BUCKETS = 1888  # 64 exact ones, then 57 octaves of 32
HISTOGRAM_WORDS = FIRST_BUCKET + BUCKETS
HISTOGRAM_BYTES = 8 * HISTOGRAM_WORDS

INT64_MAX = 2**63 - 1
_OCTAVE_BITS = 5


@intrinsic
def _leading_zeros(typing_context: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), emit


@inlined
def bucket_of(value: int) -> int:
    """The bucket of a value >= 0."""
    shift = max(63 - _OCTAVE_BITS - _leading_zeros(value), 0)
    return (shift << _OCTAVE_BITS) + (value >> shift)


@inlined
def record(histogram: np.ndarray, value_ns: int) -> None:
    """Count one value. histogram: int64[::1] of HISTOGRAM_WORDS; called by its one writer."""
    if value_ns < 0:
        store_relaxed(histogram, NEGATIVE, load_relaxed(histogram, NEGATIVE) + 1)
        return
    at = FIRST_BUCKET + bucket_of(value_ns)
    store_relaxed(histogram, at, load_relaxed(histogram, at) + 1)
    store_relaxed(histogram, COUNT, load_relaxed(histogram, COUNT) + 1)
    total = load_relaxed(histogram, SUM) + value_ns
    store_relaxed(histogram, SUM, total if total >= 0 else INT64_MAX)
    if value_ns > load_relaxed(histogram, MAX):
        store_relaxed(histogram, MAX, value_ns)


def new_histogram() -> np.ndarray:
    """An empty histogram in private memory."""
    return np.zeros(HISTOGRAM_WORDS, np.int64)


def _middles() -> np.ndarray:
    """The value that stands for each bucket."""
    bucket = np.arange(BUCKETS, dtype=np.int64)
    shift = np.maximum((bucket >> _OCTAVE_BITS) - 1, 0)
    low = (bucket - (shift << _OCTAVE_BITS)) << shift
    return low + (((np.int64(1) << shift) - 1) >> 1)


_MIDDLE_OF_BUCKET = _middles()


def percentiles(histogram: np.ndarray, percents: Sequence[float]) -> list[int]:
    """The values in ns below or at which the given percents of all values lie; zeros for an empty histogram.

    The p-th percentile of n values is the ceil(p / 100 * n)-th smallest (numpy's "inverted_cdf"). May be
    called while another process records.
    """
    for percent in percents:
        if not 0 <= percent <= 100:
            raise ValueError(f"percent {percent}: 0 to 100 are allowed")
    cumulative = np.cumsum(histogram[FIRST_BUCKET:])
    total = int(cumulative[-1])
    if total == 0:
        return [0] * len(percents)
    # Decimal, since 1000 * 99.9 / 100 in floats is a little more than 999.
    ranks = [max(1, math.ceil(total * Decimal(str(percent)) / 100)) for percent in percents]
    buckets = np.searchsorted(cumulative, ranks)
    return [min(int(_MIDDLE_OF_BUCKET[bucket]), int(histogram[MAX])) for bucket in buckets]


def merge(into: np.ndarray, other: np.ndarray) -> None:
    """Add the counts of another histogram to one that nobody else writes."""
    maximum = max(int(into[MAX]), int(other[MAX]))
    total = min(int(into[SUM]) + int(other[SUM]), INT64_MAX)
    into += other
    into[MAX] = maximum
    into[SUM] = total


def between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The values counted from one copy of a histogram to a later one, as a histogram.

    Its MAX is that of a bucket, as percentiles are, and so is SUM once it has reached its largest value.
    """
    values = after - before
    filled = np.flatnonzero(values[FIRST_BUCKET:])
    values[MAX] = min(int(_MIDDLE_OF_BUCKET[filled[-1]]), int(after[MAX])) if len(filled) else 0
    return values


def summary(histogram: np.ndarray) -> dict[str, int]:
    """count, negative, p50, p99, p99_9, max (ns) and mean (ns) of a histogram."""
    copy = histogram.copy()
    p50, p99, p99_9 = percentiles(copy, (50, 99, 99.9))
    count = int(copy[COUNT])
    return {
        "count": count,
        "negative": int(copy[NEGATIVE]),
        "mean": int(copy[SUM]) // count if count else 0,
        "p50": p50,
        "p99": p99,
        "p99_9": p99_9,
        "max": int(copy[MAX]),
    }
