"""Captures, and parts of any recording, as the inputs of ingestion.

Whatever the source, the inputs are those of procs/recordings.py: START, then FRAME, SNAPSHOT and LOST as they came.
Of a selection come the frames and snapshots of its symbols within its times, the symbols numbered anew; what is of no
symbol in particular comes too. A part that begins in the middle has no book until its next snapshot; who wants one
takes what was before it first (procs/warm_up.py). What a recorder kept of listings and open interest becomes the
inputs that a live session makes of it (listings.py); a part that begins in the middle of a capture has the terms of
its manifest until the next change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from engine.ingest.kernel import is_snapshot_body
from engine.instruments import Instrument
from procs.capture.layout import NO_SYMBOL, Captured, CaptureEntry
from procs.capture.listings import Changes, Listings
from procs.capture.reader import CaptureReader, Selection
from procs.captures import CaptureError
from procs.decoding import ALL_INSTRUMENTS
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.venues.frame_symbols import symbol_of
from procs.venues.market import market_of

# Channels that tell of listings: their names stand at the beginning of a frame.
_LISTING_CHANNELS, _HEAD = (b"contractInfo", b'"instrument"'), 128
_OF_ONE = (Entry.SNAPSHOT, Entry.LISTED, Entry.AUDIT_ASKED, Entry.AUDIT)  # inputs of the instrument `source`

Inputs = Callable[[], Iterator[JournalEntry]]


def nothing_selected(where: Path) -> CaptureError:
    """A selection of times or symbols in which nothing was recorded."""
    return CaptureError(f"{where}: nothing in it is of the times and symbols asked for")


def _chosen(instruments: tuple[Instrument, ...], places: tuple[int, ...]) -> tuple[Instrument, ...]:
    """The instruments at these places, with indexes of their own."""
    return tuple(dataclasses.replace(instruments[place], index=index) for index, place in enumerate(places))


def _started(entries: Iterator[JournalEntry], where: Path) -> Iterator[JournalEntry]:
    """The same behind a START of the first one's time. Raises CaptureError when there is none."""
    first = next(entries, None)
    if first is None:
        raise nothing_selected(where)
    yield JournalEntry(Entry.START, 0, first.ts_ns, 0, 1, b"")
    yield first
    yield from entries


def _listed(changes: Changes, cause: CaptureEntry) -> Iterator[JournalEntry]:
    """What an entry changes, as inputs behind it."""
    for index, terms in changes:
        yield JournalEntry(Entry.LISTED, cause.ordinal, cause.ts_ns, index, 1, terms.to_bytes())


def _is_open_interest(url: str) -> bool:
    return urlsplit(url).path.endswith("/openInterest")


def open_capture(folder: Path, selection: Selection) -> tuple[tuple[Instrument, ...], Inputs]:
    """The instruments and the inputs of a selection of a capture; its index leads to them. Raises CaptureError."""
    manifest = CaptureReader(folder).manifest
    places = selection.places(manifest.symbols, folder)
    numbered = {place: index for index, place in enumerate(places)}
    chosen = _chosen(manifest.instruments, places)

    def inputs() -> Iterator[JournalEntry]:
        recorded = manifest.source.get("made_by") == "record"  # of what else there is, nobody asked the venue
        listings = Listings(market_of(chosen[0].dialect), chosen) if recorded else None
        for entry in CaptureReader(folder).entries(selection):
            if entry.kind == Captured.FRAME:
                yield JournalEntry(Entry.FRAME, entry.ordinal, entry.ts_ns, 0, 1, entry.data)
                if listings is not None and any(name in entry.data[:_HEAD] for name in _LISTING_CHANNELS):
                    yield from _listed(listings.frame(entry.data), entry)
            elif listings is not None and entry.kind == Captured.REST and entry.symbol == NO_SYMBOL:
                if listings.is_listing(urlsplit(entry.key).path):
                    yield from _listed(listings.body(entry.data), entry)
            elif listings is not None and entry.kind == Captured.REST and _is_open_interest(entry.key):
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

    return chosen, lambda: _started(inputs(), folder)


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
        of_one = entry.kind in _OF_ONE or (shift and entry.source > 0)
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
