"""The index of a journal: where in which segment an entry lies, so that nobody reads gigabytes to find one.

Layout: beside each segment STREAM-NUMBER.journal lies STREAM-NUMBER.index: a header, then marks. A mark says that all
entries up to an ordinal, and in ingestion's stream all frames up to an ingest id, end at an offset; it comes every
MARK_EVERY entries, at the segment's end, and where the indexer paused. `data_crc` is the CRC-32 of the segment's bytes
from its header to that offset: what it covers can be checked later without another copy.
    header  64 bytes: magic (8), stream (16), segment number, ordinal and time of the first entry, frames before it
            (8 each), CRC-32 of these 56 bytes (4), spare (4)
    mark    40 bytes: offset, ordinal, time ns, ingest id (8 each), data CRC-32 (4), CRC-32 of these 36 bytes (4)
Invariants: marks rise; a torn one ends the file and is written again by the next indexer. The index holds nothing that
cannot be made again from the journal; without one `find_entry` reads the journal from its beginning.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from procs.journal.layout import FILE_HEADER, FRAMES
from procs.journal.reader import JournalEntry, segment_path
from procs.journal.tail import JournalTail

MARK_EVERY = 256
MAGIC = b"B4JIDX01"
HEADER = struct.Struct("<8s16sqqqqI4x")
MARK = struct.Struct("<qqqqII")
assert HEADER.size == 64 and MARK.size == 40


class Mark(NamedTuple):
    """Everything up to here lies before `offset`."""

    offset: int
    ordinal: int
    ts_ns: int  # of the last entry; 0 in the one that stands for the segment's beginning
    ingest_id: int  # of the last frame; 0 in streams that have none
    data_crc: int


class SegmentIndex(NamedTuple):
    """What is known of one segment. marks[0] is its beginning, marks[-1] the last entry that is indexed."""

    stream: str
    number: int
    first_ordinal: int
    first_ts_ns: int
    marks: list[Mark]

    @property
    def last(self) -> Mark:
        """How far the index goes."""
        return self.marks[-1]

    def intact(self, folder: Path) -> bool:
        """Whether the segment still holds the bytes that were indexed."""
        with segment_path(folder, self.stream, self.number).open("rb") as file:
            file.seek(FILE_HEADER.size)
            data = file.read(self.last.offset - FILE_HEADER.size)
        return zlib.crc32(data) == self.last.data_crc


def index_path(folder: Path, stream: str, number: int) -> Path:
    """File of the index of one segment."""
    return folder / f"{stream}-{number:06d}.index"


def _checked(packed: bytes) -> bytes:
    """The same with its last field, a CRC-32, filled in."""
    return packed + struct.pack("<I", zlib.crc32(packed))


def _pack_mark(mark: Mark) -> bytes:
    return _checked(MARK.pack(*mark, 0)[:-4])


def read_index(folder: Path, stream: str, number: int) -> SegmentIndex | None:
    """The index of a segment as far as it is whole; None without one."""
    try:
        data = index_path(folder, stream, number).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < HEADER.size or _checked(data[:56]) != data[:60] or data[:8] != MAGIC:
        return None
    _, _, _, first_ordinal, first_ts_ns, frames_before, _ = HEADER.unpack_from(data)
    marks = [Mark(FILE_HEADER.size, first_ordinal - 1, 0, frames_before, 0)]
    for at in range(HEADER.size, len(data) - MARK.size + 1, MARK.size):
        packed = data[at : at + MARK.size]
        mark = Mark(*MARK.unpack(packed)[:5])
        if _checked(packed[:36]) != packed or mark.ordinal <= marks[-1].ordinal:
            break
        marks.append(mark)
    return SegmentIndex(stream, number, first_ordinal, first_ts_ns, marks)


def read_indexes(folder: Path, stream: str) -> list[SegmentIndex]:
    """The indexes of a stream's segments, from the first on, as far as there are any."""
    found: list[SegmentIndex] = []
    while (index := read_index(folder, stream, len(found))) is not None:
        found.append(index)
    return found


def _newest_first(folder: Path, stream: str) -> Iterator[SegmentIndex]:
    """The indexes of a stream's segments from the last on, each read when it is asked for: what is looked for is mostly
    new, and a session of hours has many."""
    number = 0
    while index_path(folder, stream, number + 1).exists():
        number += 1
    while number >= 0:
        index = read_index(folder, stream, number)
        if index is not None:
            yield index
        number -= 1


class StreamIndexer:
    """Reads one stream as it is written and indexes it. `read`, deal with the entries, then `keep`.

    What was read and not kept when the process died is read again by its successor.
    """

    def __init__(self, folder: Path, stream: str) -> None:
        """Go on where the index of an earlier indexer ends."""
        self._folder = folder
        self._fd = -1
        self._unmarked = 0  # entries since the last mark
        self._pending = b""
        indexes = read_indexes(folder, stream)
        if indexes:
            last = indexes[-1]
            mark = last.last
            self._tail = JournalTail(folder, stream, last.number, mark.offset, mark.ordinal)
            self._open(last.number)
            os.ftruncate(self._fd, HEADER.size + MARK.size * (len(last.marks) - 1))
        else:
            mark = Mark(FILE_HEADER.size, 0, 0, 0, 0)
            self._tail = JournalTail(folder, stream)
        self._mark = mark
        self._number = self._tail.number if indexes else -1  # of the segment whose index is open

    def _open(self, number: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        path = index_path(self._folder, self._tail.stream, number)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @property
    def ordinal(self) -> int:
        """Of the last entry that was read."""
        return self._tail.ordinal

    def read(self) -> list[JournalEntry]:
        """The next entries, some 32 KB of them; none when there is nothing new. Raises JournalError."""
        found = self._tail.read()
        if not found:
            return []
        if self._tail.number != self._number:
            self._begin(found[0][1])
        chunk, first = memoryview(self._tail.chunk), self._mark.offset
        for end, entry in found:
            crc = zlib.crc32(chunk[self._mark.offset - first : end - first], self._mark.data_crc)
            ingest_id = self._mark.ingest_id + (entry.kind in FRAMES)
            self._mark = Mark(end, entry.ordinal, entry.ts_ns, ingest_id, crc)
            self._unmarked += 1
            if self._unmarked >= MARK_EVERY:
                self._add_mark()
        return [entry for _, entry in found]

    def _begin(self, first: JournalEntry) -> None:
        """Finish the index of the segment before, and begin the next one's."""
        self.keep()
        self._open(self._tail.number)
        os.ftruncate(self._fd, 0)
        head = HEADER.pack(
            MAGIC, self._tail.stream.encode()[:16], self._tail.number, first.ordinal, first.ts_ns,
            self._mark.ingest_id, 0,
        )
        self._pending = _checked(head[:56]) + bytes(4)
        self._number = self._tail.number
        self._mark = Mark(FILE_HEADER.size, first.ordinal - 1, 0, self._mark.ingest_id, 0)

    def _add_mark(self) -> None:
        self._pending += _pack_mark(self._mark)
        self._unmarked = 0

    def keep(self, pause: bool = True) -> None:
        """Write down what was read. pause: also where no mark is due, so that a successor reads nothing twice."""
        if pause and self._unmarked:
            self._add_mark()
        if self._pending:
            os.write(self._fd, self._pending)
            self._pending = b""

    def close(self) -> None:
        """Write down what was read and close the files."""
        self.keep()
        self._tail.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def find_entry(
    folder: Path, stream: str, *, ordinal: int | None = None, ingest_id: int | None = None
) -> JournalEntry | None:
    """The entry of a stream with this ordinal, or ingestion's frame with this ingest id; None when there is none.

    Reads from the nearest mark before it, at most MARK_EVERY entries where the index is complete. Raises ValueError
    unless one of the two is given, or for ingest ids of another stream; JournalError for a journal with holes.
    """
    if (ordinal is None) == (ingest_id is None):
        raise ValueError("either an ordinal or an ingest id is needed")
    if ingest_id is not None and stream != "ingestion":
        raise ValueError(f"entries of {stream!r} have no ingest id of their own")
    wanted = ordinal if ordinal is not None else ingest_id
    assert wanted is not None

    def reached(mark: Mark) -> int:
        return mark.ordinal if ordinal is not None else mark.ingest_id

    tail, frames = JournalTail(folder, stream), 0
    for index in _newest_first(folder, stream):
        if reached(index.marks[0]) < wanted:
            # The last mark that lies before it.
            mark = index.marks[bisect_left(index.marks, wanted, key=reached) - 1]
            tail = JournalTail(folder, stream, index.number, mark.offset, mark.ordinal)
            frames = mark.ingest_id
            break
    try:
        while found := tail.read():
            for _, entry in found:
                frames += entry.kind in FRAMES
                at = entry.ordinal if ordinal is not None else frames
                if at == wanted and (ordinal is not None or entry.kind in FRAMES):
                    return entry
                if at > wanted:
                    return None
    finally:
        tail.close()
    return None
