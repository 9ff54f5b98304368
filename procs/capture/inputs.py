"""Captures, and parts of any recording, as the inputs of ingestion.

Whatever the source, the inputs are those of procs/recordings.py: START, then FRAME, SNAPSHOT and LOST as they came. Of
a selection come the frames and snapshots of its symbols within its times, the symbols numbered anew; what is of no
symbol in particular comes too. A part that begins in the middle has no book until its next snapshot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.ingest.kernel import is_snapshot_body
from engine.instruments import Instrument
from procs.capture.layout import NO_SYMBOL, Captured
from procs.capture.reader import CaptureReader, Selection
from procs.captures import CaptureError
from procs.decoding import ALL_INSTRUMENTS
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.venues.frame_symbols import symbol_of

Inputs = Callable[[], Iterator[JournalEntry]]


def _chosen(instruments: tuple[Instrument, ...], places: tuple[int, ...]) -> tuple[Instrument, ...]:
    """The instruments at these places, with indexes of their own."""
    return tuple(dataclasses.replace(instruments[place], index=index) for index, place in enumerate(places))


def _started(entries: Iterator[JournalEntry], where: Path) -> Iterator[JournalEntry]:
    """The same behind a START of the first one's time. Raises CaptureError when there is none."""
    first = next(entries, None)
    if first is None:
        raise CaptureError(f"{where}: nothing in it is of the times and symbols asked for")
    yield JournalEntry(Entry.START, 0, first.ts_ns, 0, 1, b"")
    yield first
    yield from entries


def open_capture(folder: Path, selection: Selection) -> tuple[tuple[Instrument, ...], Inputs]:
    """The instruments and the inputs of a selection of a capture; its index leads to them. Raises CaptureError."""
    manifest = CaptureReader(folder).manifest
    places = selection.places(manifest.symbols, folder)
    numbered = {place: index for index, place in enumerate(places)}

    def inputs() -> Iterator[JournalEntry]:
        for entry in CaptureReader(folder).entries(selection):
            if entry.kind == Captured.FRAME:
                yield JournalEntry(Entry.FRAME, entry.ordinal, entry.ts_ns, 0, 1, entry.data)
            elif entry.kind == Captured.LOST:
                yield JournalEntry(Entry.LOST, entry.ordinal, entry.ts_ns, ALL_INSTRUMENTS + 1, 1, b"")
            elif entry.kind == Captured.REST and entry.symbol != NO_SYMBOL:
                source = numbered[entry.symbol]
                yield JournalEntry(Entry.SNAPSHOT, entry.ordinal, entry.ts_ns, source, 1, entry.data)
            elif entry.kind == Captured.REST and not entry.key and is_snapshot_body(entry.data):
                raise CaptureError(
                    f"{folder}, entry {entry.ordinal}: a snapshot names no symbol, and the capture holds several"
                )

    return _chosen(manifest.instruments, places), lambda: _started(inputs(), folder)


def _part(
    entries: Iterator[JournalEntry], selection: Selection, instruments: tuple[Instrument, ...], places: tuple[int, ...]
) -> Iterator[JournalEntry]:
    """The inputs of a selection, from all inputs of a source, without their START."""
    numbered = {place: index for index, place in enumerate(places)}
    names = {instruments[place].symbol for place in places}
    others = {item.symbol for item in instruments} - names
    dialect = instruments[0].dialect
    kept = False
    for entry in entries:
        if entry.kind == Entry.DROPPED:  # of the input before
            if kept:
                yield entry
            continue
        shift = entry.kind == Entry.LOST  # its source is one more than the place; 0: all of them
        of_one = entry.kind in (Entry.SNAPSHOT, Entry.LISTED) or (shift and entry.source > 0)
        # Terms listed before the part are those that hold where it begins.
        ts_ns = max(entry.ts_ns, selection.from_ns) if entry.kind == Entry.LISTED else entry.ts_ns
        kept = (
            entry.kind != Entry.START
            and selection.from_ns <= ts_ns < selection.to_ns
            and (not of_one or entry.source - shift in numbered)
            and not (others and entry.kind == Entry.FRAME and symbol_of(entry.payload, dialect) in others)
        )
        if kept:
            source = numbered[entry.source - shift] + shift if of_one else entry.source
            yield entry._replace(source=source, ts_ns=ts_ns)


def open_part(
    where: Path, instruments: tuple[Instrument, ...], whole: Inputs, selection: Selection
) -> tuple[tuple[Instrument, ...], Inputs]:
    """The instruments and the inputs of a selection of any source, by going through all of it. Raises CaptureError."""
    if selection.everything:
        return instruments, whole
    places = selection.places(tuple(item.symbol for item in instruments), where)
    return _chosen(instruments, places), lambda: _started(_part(whole(), selection, instruments, places), where)
