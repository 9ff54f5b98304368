"""Redundant connections with one subscription: of every frame the first copy, in the order of the venue's numbers.

What it passes on is what a single connection that never broke would have brought: whoever journals journals that order,
and decoding, replay and the rest know nothing of it. A snapshot over the socket is passed on where the book wants one:
a copy that comes back brings a snapshot of its own, which a book in sequence does not need. Trades from before a
subscription are passed on once. Answers, heartbeats and frames that nobody can read are passed on from every copy.
The rule is in engine/ingest/lines.py, the venue's numbers in engine/ingest/places.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.ingest.dialects import make_state, place_kernel
from engine.ingest.lines import Line
from engine.instruments import Instrument
from engine.records import MARKET
from engine.stage import as_bytes


class Arbiter:
    """Between the copies of one socket, which are numbered from 0. Every method returns the frames to pass on now."""

    def __init__(self, instruments: Sequence[Instrument], is_wanted: Callable[[int], bool]) -> None:
        """is_wanted: whether the book of an instrument wants a snapshot. Raises ValueError for a venue that does not
        number what it sends."""
        from engine.ingest.places import PLACE_RECORDS, Stream

        self._place_of = place_kernel(instruments[0].dialect)
        self._streams = Stream
        self._is_wanted = is_wanted
        self._state = as_bytes(make_state(instruments))
        self._outbox = as_bytes(np.zeros(PLACE_RECORDS, MARKET))
        self._place = np.zeros(3, np.int64)
        self._sources: set[int] = set()
        self._lines: dict[tuple[int, int], Line[bytes]] = {}

    def take(self, copy: int, data: bytes, now_ns: int) -> list[bytes]:
        """A frame of a copy."""
        streams = self._streams
        stream = self._place_of(self._state, data, self._outbox, self._place)
        if stream == streams.NONE:
            return [data]
        instrument, before, last = self._place.tolist()
        if stream == streams.SNAPSHOT:
            return self._line(streams.BOOK, instrument).jump(copy, last, data, self._is_wanted(instrument), now_ns)
        if stream == streams.PAST_TRADES:
            return self._line(streams.TRADES, instrument).jump(copy, last, data, False, now_ns)
        return self._line(stream, instrument).take(copy, before, last, data, now_ns)

    def _line(self, stream: int, instrument: int) -> Line[bytes]:
        key = (int(stream), instrument)
        if key not in self._lines:
            self._lines[key] = Line(self._sources)
        return self._lines[key]

    def opened(self, copy: int) -> None:
        """A copy is open."""
        self._sources.add(copy)
        for line in self._lines.values():
            line.opened(copy)

    def lost(self, copy: int) -> list[bytes]:
        """A copy is not open any more."""
        self._sources.discard(copy)
        return [frame for line in self._lines.values() for frame in line.lost(copy)]

    def late(self, now_ns: int) -> list[bytes]:
        """What was held for too long."""
        return [frame for line in self._lines.values() for frame in line.late(now_ns)]

    def begin_again(self) -> None:
        """The last copy is gone: whatever comes next is a new beginning."""
        self._sources.clear()
        for line in self._lines.values():
            line.begin_again()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Frames dropped as duplicates, frames dropped since they were cut differently, holes that nobody filled,
        numbers that their copy contradicted."""
        lines = self._lines.values()
        return (
            sum(line.duplicates for line in lines), sum(line.misaligned for line in lines),
            sum(line.given_up for line in lines), sum(line.contradicted for line in lines),
        )
