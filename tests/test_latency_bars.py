"""Latency histograms as text, and what is known of buckets: against sorted values and plain counting."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.histogram import BUCKETS, COUNT, INT64_MAX, MAX, bucket_of, new_histogram, percentiles, record
from tests.latency_samples import histogram_of
from tools.latency.bars import as_plain, bars, draws_blocks, in_words, rows_of
from tools.latency.buckets import HIGH, LOW, MIDDLE, bucket_index, filled, passed, values_of

VALUES = st.lists(st.integers(0, INT64_MAX) | st.integers(0, 5_000_000), min_size=1, max_size=60)


def test_the_edges_of_every_bucket_are_those_of_the_kernel() -> None:
    assert len(LOW) == len(HIGH) == BUCKETS and LOW[0] == 0 and HIGH[-1] == INT64_MAX
    for bucket in range(BUCKETS):
        low, high = int(LOW[bucket]), int(HIGH[bucket])
        assert bucket_of(low) == bucket_of(high) == bucket_index(low) == bucket_index(high) == bucket
        assert low <= MIDDLE[bucket] <= high
        assert percentiles(histogram_of([low, INT64_MAX]), (50,)) == [MIDDLE[bucket]]


def test_what_was_recorded_in_between_has_an_exact_maximum_where_it_is_the_largest_so_far() -> None:
    empty, first = new_histogram(), histogram_of([1_000_003])
    assert passed(empty, first)[MAX] == 1_000_003
    later = histogram_of([1_000_003, 2_000_003])
    assert passed(first, later)[MAX] == 2_000_003 and passed(first, later)[COUNT] == 1
    smaller = passed(first, histogram_of([1_000_003, 700_001]))
    assert smaller[MAX] == MIDDLE[bucket_index(700_001)] != 700_001
    assert passed(first, first)[MAX] == 0


def test_a_value_whose_maximum_was_not_yet_written_is_in_its_own_bucket() -> None:
    before, after = histogram_of([5_000]), histogram_of([5_000, 90_000])
    after[MAX] = 5_000  # the copy was made between the two writes of a recording process
    assert passed(before, after)[MAX] == LOW[bucket_index(90_000)]


@settings(max_examples=60)
@given(VALUES, st.integers(1, 30))
def test_rows_hold_every_value_once_and_every_percentile_where_it_belongs(values: list[int], most_rows: int) -> None:
    histogram = histogram_of(values)
    rows = rows_of(histogram, most_rows=most_rows)
    assert sum(row.count for row in rows) == len(values)
    assert rows[0].count and rows[-1].count, "nothing empty at either end"
    assert all(first.high == second.low for first, second in itertools.pairwise(rows))
    known, counts = values_of(histogram)
    for row in rows:
        assert row.count == counts[(known >= row.low) & (known < row.high)].sum()
    marks = dict(mark for row in rows for mark in row.marks)
    assert list(marks) == ["p50", "p90", "p99", "p99.9", "max"]
    assert list(marks.values()) == [*percentiles(histogram, (50, 90, 99, 99.9)), max(values)]
    assert all(row.low <= ns < row.high for row in rows for name, ns in row.marks if name != "max")
    assert len(rows) <= max(most_rows, 20)


def test_the_finest_grid_that_fits_is_taken() -> None:
    narrow, wide = histogram_of([1_000, 1_900]), histogram_of([1_000, 10**12])
    assert [row.low for row in rows_of(narrow)] == [800, 1_000, 1_200, 1_500]
    assert [row.low for row in rows_of(narrow, least_ns=1_000)] == [1_000, 1_200, 1_500]
    assert [row.low for row in rows_of(wide)] == [100 * 10**decade for decade in range(11)]


@settings(max_examples=60)
@given(VALUES, st.integers(30, 160), st.booleans())
def test_lines_fit_the_terminal_and_bars_are_as_long_as_counts(values: list[int], width: int, blocks: bool) -> None:
    histogram = histogram_of(values)
    heading, *lines = bars("wire", histogram, width, blocks)
    assert heading.startswith(f"wire: {len(values):,} values, mean ")
    drawn = [line for line in lines if re.match(r"\s*\S+ \S+ {2,}[\d,]+( |$)", line)]
    rows = rows_of(histogram)
    assert [int(line.split()[2].replace(",", "")) for line in drawn] == [row.count for row in rows]
    assert all(line.isascii() for line in lines) or blocks
    lengths = [len(re.findall("[█▏▎▍▌▋▊▉#.]", line.split(maxsplit=3)[3].split("  ")[0])) if row.count else 0
               for line, row in zip(drawn, rows, strict=True)]
    assert all((length > 0) == (row.count > 0) for length, row in zip(lengths, rows, strict=True))
    largest = max(row.count for row in rows)
    for length, row in zip(lengths, rows, strict=True):
        assert length <= max(lengths) and abs(length - max(lengths) * row.count / largest) <= 1.5
    if width >= 40:
        assert all(len(line) <= width for line in lines)


def test_a_histogram_as_people_see_it() -> None:
    histogram = histogram_of([22_000] * 30 + [27_000] * 60 + [42_000] * 9 + [900_000])
    assert bars("decision", histogram, 60, blocks=False) == [
        "decision: 100 values, mean 35.6 us",
        "     20 us     30  #######",
        "     25 us     60  ##############  p50 p90 26.9 us",
        "     30 us      0",
        "     40 us      9  ##              p99 42.5 us",
        "     50 us      0",
        "     60 us      0",
        "     80 us      0",
        "    100 us      0",
        "    120 us      0",
        "    150 us      0",
        "    200 us      0",
        "    250 us      0",
        "    300 us      0",
        "    400 us      0",
        "    500 us      0",
        "    600 us      0",
        "    800 us      1  .               p99.9 893 us  max 900 us",
        "      1 ms",
    ]


def test_nothing_and_negative_values() -> None:
    assert bars("wire", new_histogram(), 80, True) == ["wire: nothing passed"]
    histogram = new_histogram()
    record(histogram, -5)
    assert bars("wire", histogram, 80, True) == ["wire: nothing passed, 1 below zero"]
    assert as_plain(histogram) == []
    assert not len(filled(histogram)[0])


def test_json_has_the_rows() -> None:
    assert as_plain(histogram_of([7, 7, 9])) == [
        {"from_ns": 6, "to_ns": 8, "count": 2}, {"from_ns": 8, "to_ns": 10, "count": 1},
    ]


@pytest.mark.parametrize(
    ("environment", "encoding", "blocks"),
    [
        ({"LANG": "en_GB.UTF-8"}, "utf-8", True),
        ({"LC_ALL": "C.utf8", "LANG": "de_DE.ISO-8859-1"}, "UTF-8", True),
        ({"LC_ALL": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", False),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, "utf-8", True),
        ({"LC_ALL": "", "LANG": "POSIX"}, "utf-8", False),
        ({}, "utf-8", False),
        ({"LANG": "en_GB.UTF-8"}, "ascii", False),
    ],
)  # fmt: skip
def test_blocks_are_drawn_where_output_and_locale_are_utf_8(
    environment: dict[str, str], encoding: str, blocks: bool
) -> None:
    assert draws_blocks(environment, encoding) is blocks


@pytest.mark.parametrize(
    ("ns", "words"),
    [(0, "0 ns"), (999, "999 ns"), (1_000, "1 us"), (1_234, "1.23 us"), (999_499, "999 us"), (999_999, "1 ms"),
     (12_300_000, "12.3 ms"), (5_000_000_000, "5 s"), (5_000_000_000_000, "5,000 s")],
)  # fmt: skip
def test_times_in_words(ns: int, words: str) -> None:
    assert in_words(ns) == words


def test_values_are_middles_and_never_above_the_maximum() -> None:
    values, counts = values_of(histogram_of([3, 3, 1_000_003]))
    assert values.tolist() == [3, min(1_000_003, int(MIDDLE[bucket_index(1_000_003)]))] and counts.tolist() == [2, 1]
    assert np.array_equal(values_of(new_histogram())[0], np.zeros(0, np.int64))
