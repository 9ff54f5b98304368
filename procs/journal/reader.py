"""Reading a journal: streaming, segment by segment, stopping at a torn tail."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from procs.journal.layout import ENTRY_HEADER, FILE_HEADER, MAGIC, padded


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


def segment_path(folder: Path, stream: str, number: int) -> Path:
    """File of one segment of a stream."""
    return folder / f"{stream}-{number:06d}.journal"


def begun(path: Path) -> bool:
    """Whether a segment exists and has been written to; one made ahead of need has no header yet."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def whole_entries(data: bytes, offset: int, expected: int) -> Iterator[tuple[int, JournalEntry]]:
    """(offset behind it, entry) of every whole entry of these bytes from an offset on; ends at the first that is torn.

    expected: ordinal of the first.
    """
    while offset + ENTRY_HEADER.size <= len(data):
        length, crc, ordinal, ts_ns, kind, _, source, count = ENTRY_HEADER.unpack_from(data, offset)
        body = offset + ENTRY_HEADER.size
        if body + length > len(data) or ordinal != expected:
            return
        payload = data[body : body + length]
        if zlib.crc32(payload, zlib.crc32(data[offset + 8 : body])) != crc:
            return
        offset = body + padded(length)
        yield offset, JournalEntry(kind, ordinal, ts_ns, source, count, payload)
        expected += 1


def _entries(data: bytes) -> Iterator[tuple[int, JournalEntry]]:
    """`whole_entries` of a segment's bytes."""
    return whole_entries(data, FILE_HEADER.size, FILE_HEADER.unpack_from(data, 0)[4])


def _segment_bytes(path: Path) -> bytes:
    """Contents of a segment, empty for one made ahead of need or whose header a power cut has left unwritten. Raises
    JournalError when it is no segment."""
    data = path.read_bytes()
    begun = data[: FILE_HEADER.size].rstrip(b"\0")
    if MAGIC.startswith(begun) or (len(data) < FILE_HEADER.size and begun.startswith(MAGIC)):
        return b""
    if len(data) < FILE_HEADER.size or data[:8] != MAGIC:
        raise JournalError(f"{path} is no journal segment")
    return data


def read_segment(path: Path) -> Iterator[JournalEntry]:
    """The whole entries of one segment, in order; ends at the first that is torn.

    Raises JournalError when the file is no journal segment.
    """
    if data := _segment_bytes(path):
        for _, entry in _entries(data):
            yield entry


def end_of_segment(path: Path) -> tuple[int, int]:
    """(offset behind the last whole entry, its ordinal) of a segment. Raises JournalError."""
    data = _segment_bytes(path)
    end, last = FILE_HEADER.size, FILE_HEADER.unpack_from(data, 0)[4] - 1
    for offset, entry in _entries(data):
        end, last = offset, entry.ordinal
    return end, last


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
