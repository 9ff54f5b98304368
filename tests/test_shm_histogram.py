"""Histograms: percentiles against numpy and a sort, for any values; merging; a reader in another process."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.histogram import (
    BUCKETS,
    COUNT,
    FIRST_BUCKET,
    HISTOGRAM_WORDS,
    INT64_MAX,
    MAX,
    NEGATIVE,
    SUM,
    between,
    bucket_of,
    merge,
    new_histogram,
    percentiles,
    record,
    summary,
)

PERCENTS = (0, 1, 25, 50, 90, 99, 99.9, 99.99, 100)


@numba.njit(nogil=True)
def record_all(histogram, values):
    for value in values:
        record(histogram, value)


def histogram_of(values: list[int] | np.ndarray) -> np.ndarray:
    histogram = new_histogram()
    record_all(histogram, np.asarray(values, np.int64))
    return histogram


def close(found: int, exact: int) -> bool:
    return abs(found - exact) * 32 <= exact


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_one_part_in_32_of_numpys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.exp(generator.normal(9 + 4 * seed, 2, 200_000)).astype(np.int64)
    found = percentiles(histogram_of(values), PERCENTS)
    expected = np.percentile(values, PERCENTS, method="inverted_cdf")
    assert all(close(f, e) for f, e in zip(found, expected, strict=True)), (found, expected)


@settings(max_examples=300)
@given(st.lists(st.integers(0, INT64_MAX) | st.integers(0, 5000), min_size=1, max_size=200), st.sampled_from(PERCENTS))
def test_any_percentile_of_any_values(values: list[int], percent: float) -> None:
    histogram = histogram_of(values)
    rank = max(1, math.ceil(Fraction(str(percent)) * len(values) / 100))
    exact = sorted(values)[rank - 1]
    (found,) = percentiles(histogram, (percent,))
    assert close(found, exact) and (found == exact or exact >= 64)
    assert histogram[COUNT] == len(values) and histogram[MAX] == max(values)
    assert histogram[SUM] == min(sum(values), INT64_MAX) or sum(values) > INT64_MAX


def test_every_bucket_is_hit_in_order_and_none_beyond() -> None:
    edges = sorted({(m << s) + d for s in range(58) for m in range(32, 64) for d in (0, (1 << s) - 1)} | set(range(64)))
    buckets = [int(bucket_of(value)) for value in edges]
    assert buckets == sorted(buckets) and set(buckets) == set(range(BUCKETS))
    assert edges[-1] == INT64_MAX
    for first, last in pairwise(edges):
        if bucket_of(first) == bucket_of(last):
            assert (last - first) * 32 <= first  # a bucket is never wider than 1/32 of its values


def test_negative_values_are_counted_apart() -> None:
    histogram = histogram_of([-1, -(2**63), 5])
    assert (histogram[NEGATIVE], histogram[COUNT], histogram[SUM]) == (2, 1, 5)
    assert percentiles(histogram, (50,)) == [5]


def test_exact_ranks_at_99_9_of_a_thousand() -> None:
    # 1000 * 99.9 / 100 is more than 999 in floats; the 999th value is right, the 1000th is an outlier.
    assert percentiles(histogram_of([1] * 999 + [63]), (99.9,)) == [1]
    assert percentiles(histogram_of([1] * 998 + [63, 63]), (99.9,)) == [63]


def test_an_empty_histogram_reads_zero_and_bad_percents_are_refused() -> None:
    assert percentiles(new_histogram(), PERCENTS) == [0] * len(PERCENTS)
    assert set(summary(new_histogram()).values()) == {0}
    for percent in (-0.1, 100.1):
        with pytest.raises(ValueError, match="0 to 100 are allowed"):
            percentiles(new_histogram(), (percent,))


def test_the_sum_stays_at_its_largest_value() -> None:
    histogram = histogram_of([INT64_MAX, 1, 1])
    assert histogram[SUM] == INT64_MAX
    merge(histogram, histogram_of([7]))
    assert histogram[SUM] == INT64_MAX and histogram[COUNT] == 4


def test_merging_is_the_same_as_recording_together() -> None:
    values = np.random.default_rng(4).integers(-50, 1 << 40, 5_000)
    merged = histogram_of(values[:1000])
    merge(merged, histogram_of(values[1000:]))
    assert np.array_equal(merged, histogram_of(values))
    assert len(merged) == HISTOGRAM_WORDS == FIRST_BUCKET + BUCKETS


@settings(max_examples=100)
@given(st.lists(st.integers(0, 1 << 50)), st.lists(st.integers(-1, 1 << 50)))
def test_what_lies_between_two_copies_is_what_was_recorded_meanwhile(before: list[int], later: list[int]) -> None:
    first, last, alone = histogram_of(before), histogram_of(before + later), histogram_of(later)
    values = between(first, last)
    assert np.array_equal(np.delete(values, MAX), np.delete(alone, MAX))
    largest = max([value for value in later if value >= 0], default=0)
    assert close(int(values[MAX]), largest) and values[MAX] <= last[MAX]
    assert percentiles(values, (50, 99)) == percentiles(alone, (50, 99)) or largest >= 64


def test_summary() -> None:
    assert summary(histogram_of([1, 2, 3, 60, -4])) == {
        "count": 4, "negative": 1, "mean": 16, "p50": 2, "p99": 60, "p99_9": 60, "max": 60,
    }  # fmt: skip
