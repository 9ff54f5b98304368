"""Loops around single parts of the path, so that a call from Python is not what is measured."""

from __future__ import annotations

import numpy as np
from numba import types

from engine.book.book import book_update
from engine.book.layout import BOOK
from engine.ingest.binance import decode_frame
from engine.ingest.json_scan import Text, text_of
from engine.ingest.state import INGEST_STATE
from engine.kernel import kernel
from engine.records import MARKET, Kind
from engine.stage import BYTES
from procs.journal.kernel import journal_append, journal_room
from procs.journal.layout import Entry

INT64S = types.Array(types.int64, 1, "C")
_LEVEL = int(Kind.LEVEL)
_BATCH = int(Entry.BATCH)
_FRAME = types.Bytes(types.uint8, 1, "C")


@kernel(types.int64(BYTES, _FRAME, INT64S, BYTES))
def decode_each(state: np.ndarray, frames: bytes, ends: np.ndarray, room: np.ndarray) -> int:
    """Decode the frames that lie one behind the other; each overwrites the records of the last. Returns all records.

    ends: where each frame ends. -1 when one was refused.
    """
    row, rows = state.view(INGEST_STATE)[0], room.view(MARKET)
    whole = text_of(frames)
    start = np.int64(0)
    total = 0
    for index in range(len(ends)):
        decoded = decode_frame(row, Text(whole.address + start, ends[index] - start), rows, 0)
        if decoded.code < 0:
            return -1
        total += decoded.records
        start = ends[index]
    return total


@kernel(types.void(BYTES, BYTES, types.int64))
def update_each(book: np.ndarray, records: np.ndarray, count: int) -> None:
    """Apply the LEVEL records among `count` records to one book."""
    books, levels = book.view(BOOK), records.view(MARKET)
    for index in range(count):
        record = levels[index]
        if record.kind == _LEVEL:
            book_update(books, 0, record.side, record.price, record.size)


@kernel(types.int64(BYTES, INT64S, BYTES, types.int64, types.int64))
def append_each(journal: np.ndarray, cursor: np.ndarray, records: np.ndarray, size: int, most: int) -> int:
    """Append the records of `size` bytes, each an entry of its own, over and over until `most` are appended or the
    segment is full; how many there were."""
    entries = records.size // size
    for number in range(most):
        if not journal_room(journal, cursor, size):
            return number
        first = (number % entries) * size
        journal_append(journal, cursor, _BATCH, 0, 1, number, records[first : first + size], size)
    return most
