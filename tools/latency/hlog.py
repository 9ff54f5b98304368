"""HdrHistogram's log format, so that its tools, plotters and readers in any language take our histograms.

A log is text: comments with the version and the time of its beginning, a legend, then a line for each interval and hop:
`Tag=HOP,BEGIN,LENGTH,MAX,HISTOGRAM` with seconds since the beginning, milliseconds for the maximum, and the histogram
in HdrHistogram's compressed V2 encoding as base64. Values are nanoseconds.

What is lost: our buckets hold ranges of values (up to 1/32 wide, one value each below 64 ns). Every count goes to the
middle of its bucket, one of the last bucket to MAX. At three significant digits, which is what we write, the middles
are upper ends of places in HdrHistogram's grid, and such ends are what its readers report: they give exactly our
percentiles, off by at most 1/64 of the true value; in the last bucket alone, and for the maximum, they may be 1/1024
above ours (MAX in the line is ours).
Negative latencies have no place there: a comment counts them.

Source: the format's published readers and writers (HdrHistogram, Tene): versions 1.3 of the log, V2 of the encoding.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from shm.histogram import COUNT, INT64_MAX, MAX, NEGATIVE
from tools.latency.buckets import values_of
from tools.latency.sampling import Interval, total

_COOKIE = 0x1C849303 | 0x10  # V2, words of variable length
_COMPRESSED_COOKIE = 0x1C849304 | 0x10
_DIGITS = 3
_HALF_BITS = 10  # half of the 2048 places that three digits need in each octave
_DAY_NS = 86_400_000_000_000


def place_of(value: int) -> int:
    """The index of a value >= 0 among HdrHistogram's counts at three digits and a unit of 1."""
    octave = max(value.bit_length() - (_HALF_BITS + 1), 0)
    return (octave << _HALF_BITS) + (value >> octave)


def _zigzag_leb128(value: int) -> bytes:
    """A signed word in 1 to 9 bytes of 7 bits, the lowest first; a ninth byte has 8."""
    word = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    parts = bytearray()
    while word > 0x7F and len(parts) < 8:
        parts.append(word & 0x7F | 0x80)
        word >>= 7
    parts.append(word)
    return bytes(parts)


def _counts(histogram: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, count) in ascending order; each place once."""
    values, counts = values_of(histogram)
    places: dict[int, int] = {}
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        places[place_of(value)] = places.get(place_of(value), 0) + count
    if len(values):
        places[place_of(int(values[-1]))] -= 1
        last = place_of(int(histogram[MAX]))
        places[last] = places.get(last, 0) + 1
    yield from sorted((place, count) for place, count in places.items() if count)


def encode(histogram: np.ndarray) -> str:
    """A histogram (int64[HISTOGRAM_WORDS], ns) in the compressed V2 encoding, as base64."""
    payload = bytearray()
    following = 0
    for place, count in _counts(histogram):
        if place > following:
            payload += _zigzag_leb128(following - place)  # so many empty places
        payload += _zigzag_leb128(count)
        following = place + 1
    highest = _DAY_NS if histogram[MAX] <= _DAY_NS else INT64_MAX
    plain = struct.pack(">iiiiqqd", _COOKIE, len(payload), 0, _DIGITS, 1, highest, 1.0) + payload
    packed = zlib.compress(plain)
    return base64.b64encode(struct.pack(">ii", _COMPRESSED_COOKIE, len(packed)) + packed).decode()


def log_lines(intervals: list[Interval], started_ns: int, about: list[str]) -> Iterator[str]:
    """The lines of a log, without line breaks: every hop that something passed, in every interval.

    started_ns: Unix time of the beginning; about: what the comments at the top say.
    """
    totals = total(intervals)
    begun = f"{started_ns / 1e9:.3f} (seconds since epoch)"
    yield "#[Histogram log format version 1.3]"
    yield from (f"#[{text}]" for text in about)
    yield f"#[StartTime: {begun}, {datetime.fromtimestamp(started_ns / 1e9, UTC).isoformat(' ', 'milliseconds')}]"
    yield f"#[BaseTime: {begun}]"
    yield from (
        f"#[{histogram[NEGATIVE]} latencies below zero of the hop {hop} are left out]"
        for hop, histogram in totals.items() if histogram[NEGATIVE]
    )
    yield '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'
    for interval in intervals:
        times = f"{interval.begin_ns / 1e9:.3f},{interval.length_ns / 1e9:.3f}"
        for hop in (hop for hop, histogram in totals.items() if histogram[COUNT]):
            histogram = interval.histograms[hop]
            yield f"Tag={hop},{times},{histogram[MAX] / 1e6:.6f},{encode(histogram)}"
