"""Reading a journal: streaming, segment by segment, stopping at a torn tail."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from procs.journal.layout import ENTRY_HEADER, FILE_HEADER, MAGIC, padded
from procs.journal.writer import segment_path


class JournalError(ValueError):
    """A journal that cannot be read; the message names the file and the place."""


class JournalEntry(NamedTuple):
    """One entry as it was written (see layout.py)."""

    kind: int
    ordinal: int
    ts_ns: int
    source: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls
    payload: bytes


def read_segment(path: Path) -> Iterator[JournalEntry]:
    """The whole entries of one segment, in order; ends at the first that is torn.

    Raises JournalError when the file is no journal segment.
    """
    data = path.read_bytes()
    if data[:8] == bytes(8):
        return  # made ahead of need by a writer that died before it came to use it
    if len(data) < FILE_HEADER.size or data[:8] != MAGIC:
        raise JournalError(f"{path} is no journal segment")
    expected = FILE_HEADER.unpack_from(data, 0)[4]
    offset = FILE_HEADER.size
    while offset + ENTRY_HEADER.size <= len(data):
        length, crc, ordinal, ts_ns, kind, _, source, count = ENTRY_HEADER.unpack_from(data, offset)
        body = offset + ENTRY_HEADER.size
        if body + length > len(data) or ordinal != expected:
            return
        payload = data[body : body + length]
        if zlib.crc32(payload, zlib.crc32(data[offset + 8 : body])) != crc:
            return
        yield JournalEntry(kind, ordinal, ts_ns, source, count, payload)
        expected += 1
        offset = body + padded(length)


def read_stream(folder: Path, stream: str) -> Iterator[JournalEntry]:
    """All whole entries of a stream over its segments.

    Raises JournalError when there is no such stream, or when entries are missing between two segments.
    """
    number = 0
    last = 0
    if not segment_path(folder, stream, 0).exists():
        raise JournalError(f"{folder} holds no journal of {stream!r}")
    while (path := segment_path(folder, stream, number)).exists():
        for entry in read_segment(path):
            if entry.ordinal != last + 1:
                raise JournalError(f"{path}: entry {entry.ordinal} follows entry {last}")
            last = entry.ordinal
            yield entry
        number += 1
