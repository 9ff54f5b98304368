"""Following a journal while its writer is at it: whole entries as they come, over the end of each segment.

Reads the files, never the writer's memory; an entry that is not whole yet is not there yet. Keeps some 32 KB, or one
larger entry, however far it is behind: what a reader makes of them decides what its memory rises to. A position is
(segment number, offset behind the last entry taken, its ordinal), so that another process can go on from there.
"""

from __future__ import annotations

import os
from pathlib import Path

from procs.journal.layout import ENTRY_HEADER, FILE_HEADER, padded
from procs.journal.reader import JournalEntry, JournalError, begun, segment_path, whole_entries

CHUNK_BYTES = 32 << 10


class JournalTail:
    """Where a reader of one stream stands."""

    def __init__(
        self, folder: Path, stream: str, number: int = 0, offset: int = FILE_HEADER.size, ordinal: int = 0
    ) -> None:
        self.folder = folder
        self.stream = stream
        self.offset = offset
        self.ordinal = ordinal
        self.chunk = b""  # the file's bytes of what `read` returned last, from the first entry's header on
        self._fd = -1
        self._stand_at(number)

    def _stand_at(self, number: int) -> None:
        """Go to a segment. Paths are made here alone: each one made leaves names in the interpreter's table of strings,
        which, twenty times a second, is made anew every few minutes, two megabytes at a time."""
        self.number = number
        self.path = segment_path(self.folder, self.stream, number)
        self._next_path = segment_path(self.folder, self.stream, number + 1)

    def read(self) -> list[tuple[int, JournalEntry]]:
        """The next entries with the offset behind each, some 32 KB of them, all from segment `number`; none when
        there is nothing new. Raises JournalError when entries are missing between two segments."""
        while True:
            # Asked first: a writer closes a segment before it begins the next one.
            goes_on = begun(self._next_path)
            found = self._read_here()
            if found:
                self.offset, self.ordinal = found[-1][0], found[-1][1].ordinal
            if found or not goes_on:
                return found
            self.close()
            self._stand_at(self.number + 1)
            self.offset = FILE_HEADER.size
            first = self._first_ordinal()
            if first != self.ordinal + 1:
                raise JournalError(f"{self.path}: entry {first} follows entry {self.ordinal}")

    def _first_ordinal(self) -> int:
        with self.path.open("rb") as file:
            return int(FILE_HEADER.unpack(file.read(FILE_HEADER.size))[4])

    def _read_here(self) -> list[tuple[int, JournalEntry]]:
        if self._fd < 0:
            if not begun(self.path):
                return []
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        head = os.pread(self._fd, ENTRY_HEADER.size, self.offset)
        if len(head) < ENTRY_HEADER.size:
            return []
        length, _, ordinal, *_ = ENTRY_HEADER.unpack(head)
        if ordinal != self.ordinal + 1 or self.offset + len(head) + length > os.fstat(self._fd).st_size:
            return []  # what comes next is not written yet
        # Offsets and sizes are multiples of 8, so no padding is cut off.
        self.chunk = os.pread(self._fd, max(CHUNK_BYTES, len(head) + padded(length)), self.offset)
        return [(self.offset + end, entry) for end, entry in whole_entries(self.chunk, 0, self.ordinal + 1)]

    def close(self) -> None:
        """Close the file; `read` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
