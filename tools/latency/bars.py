"""A latency histogram as text: a row a range of values, on a logarithmic scale, with a bar as long as its count.

Ranges are round numbers. A value is where its bucket's middle is, so at the edge of a range it may be off by 1/64 of
itself. Bars are linear in the count; a range that holds anything shows at the least a trace of one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shm.histogram import INT64_MAX, MAX, percentiles, summary
from tools.latency.buckets import values_of

# Where ranges begin in each decade, from the finest to the coarsest.
_GRIDS = (
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,),
)
_ROWS = 20
_MARKS = ((50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9"))
_EIGHTHS = " ▏▎▍▌▋▊▉"
_LEAST_BAR = 8
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns"))


@dataclass(frozen=True)
class Row:
    """One range of values in ns, from `low` up to, not including, `high`; and which percentiles lie in it.

    The last one has the maximum, which is exact and so may be a little beyond `high`.
    """

    low: int
    high: int
    count: int
    marks: tuple[tuple[str, int], ...]  # name and value in ns


def in_words(ns: int) -> str:
    """A time with three digits and its unit."""
    # What rounds to a thousand of a unit is told in the next one.
    size, unit = next((size, unit) for size, unit in _UNITS if ns >= 0.9995 * size or size == 1)
    return f"{ns / size:.3g} {unit}" if ns < 999.5 * size else f"{ns / size:,.0f} {unit}"


def _edges(grid: tuple[float, ...], least: int, most: int) -> list[int]:
    """The beginnings of ranges, from that of `least` to the first behind `most`."""
    every = [*sorted({0, *(round(step * 10**decade) for decade in range(18) for step in grid)}), 10**18, INT64_MAX]
    first = max(index for index, edge in enumerate(every) if edge <= least)
    last = next(index for index, edge in enumerate(every) if edge > most)
    return every[first : last + 1]


def rows_of(histogram: np.ndarray, least_ns: int = 0, most_rows: int = _ROWS) -> list[Row]:
    """The ranges between the smallest and the largest value, on the finest grid of at most `most_rows` ranges.

    least_ns: no value was smaller; its bucket may begin below it.
    """
    values, counts = values_of(histogram)
    if not len(values):
        return []
    values = np.maximum(values, least_ns)
    found = percentiles(histogram, [percent for percent, _ in _MARKS])
    marked = [(name, max(ns, least_ns)) for (_, name), ns in zip(_MARKS, found, strict=True)]
    grids = [_edges(grid, int(values[0]), int(values[-1])) for grid in _GRIDS]
    edges = next((edges for edges in grids if len(edges) - 1 <= most_rows), grids[-1])
    places = np.searchsorted(np.array(edges, np.int64), values, side="right") - 1
    sums = np.bincount(places, counts, len(edges) - 1).astype(np.int64)
    rows = [
        Row(low, high, int(count), tuple((name, ns) for name, ns in marked if low <= ns < high))
        for low, high, count in zip(edges[:-1], edges[1:], sums, strict=True)
    ]
    rows[-1] = replace(rows[-1], marks=(*rows[-1].marks, ("max", int(histogram[MAX]))))
    return rows


def draws_blocks(environment: Mapping[str, str] = os.environ, encoding: str | None = None) -> bool:
    """Whether the output shows the block characters of Unicode: its encoding and the locale both have to be UTF-8.

    encoding: of standard output where none is given. The locale is asked too, since Python writes UTF-8 in locale C.
    """
    encoding = encoding or sys.stdout.encoding or ""
    named = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    return all("utf8" in text.lower().replace("-", "") for text in (encoding, named))


def _bar(share: float, width: int, blocks: bool) -> str:
    """A bar of share * width characters; a share above 0 is never nothing."""
    if not blocks:
        return "#" * round(share * width) or ("." if share > 0 else "")
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _told(marks: tuple[tuple[str, int], ...]) -> list[str]:
    """Percentiles in words; those that read the same are told together."""
    groups = itertools.groupby(marks, key=lambda mark: in_words(mark[1]))
    return [" ".join([*(name for name, _ in group), words]) for words, group in groups]


def bars(
    hop: str, histogram: np.ndarray, width: int | None = None, blocks: bool | None = None, least_ns: int = 0,
    most_rows: int = _ROWS,
) -> list[str]:
    """The histogram of a hop as lines of at most `width` characters (the terminal's; 80 in a pipe)."""
    width = shutil.get_terminal_size().columns if width is None else width
    blocks = draws_blocks() if blocks is None else blocks
    values = summary(histogram)
    below = f", {values['negative']} below zero" if values["negative"] else ""
    if not values["count"]:
        return [f"{hop}: nothing passed{below}"]
    lines = [f"{hop}: {values['count']:,} values, mean {in_words(values['mean'])}{below}"]
    rows = rows_of(histogram, least_ns, most_rows)
    largest = max(row.count for row in rows)
    edges = [in_words(ns) for ns in (*(row.low for row in rows), rows[-1].high)]
    label, digits = max(10, *(len(edge) for edge in edges)), max(len(f"{largest:,}"), 5)
    marks = ["  ".join(_told(row.marks)) for row in rows]
    beside = max(len(text) for text in marks)
    room = width - (label + 2 + digits + 2) - 1
    # On a narrow terminal the percentiles go below.
    at_side = room - beside - 2 >= _LEAST_BAR
    length = max(room - beside - 2 if at_side else room, 1)
    for edge, row, text in zip(edges[:-1], rows, marks, strict=True):
        bar = _bar(row.count / largest, length, blocks)
        tail = f"{bar:<{length}}  {text}" if at_side else bar
        lines.append(f"{edge:>{label}}  {row.count:>{digits},}  {tail}".rstrip())
    lines.append(f"{edges[-1]:>{label}}")
    if not at_side:
        lines += [f"  {text}" for row in rows for text in _told(row.marks)]
    return lines


def as_plain(histogram: np.ndarray, least_ns: int = 0) -> list[dict[str, int]]:
    """The rows of `bars` as JSON has them, in ns."""
    return [{"from_ns": row.low, "to_ns": row.high, "count": row.count} for row in rows_of(histogram, least_ns)]
