"""Appending to a journal: mapped, pre-allocated, pre-faulted segments; never a system call an entry.

One writer owns one stream of one session. Segment n+1 is made before segment n is full, so that a full disk is
known while there is still room for the tail: `JournalFull` is raised by `reserve`, never by an append that fits.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from engine.direct import direct
from procs.journal.kernel import append_bytes
from procs.journal.layout import ENTRY_HEADER, FILE_HEADER, MAGIC, Entry, padded
from procs.journal.reader import begun, end_of_segment, segment_path

DEFAULT_SEGMENT_BYTES = 16 << 20
_NEVER = 1 << 62
_ZEROS = memoryview(bytes(1 << 20))
_MADV_POPULATE_WRITE = 23  # Linux, mman.h
_append = direct(append_bytes)


class JournalFull(OSError):
    """No room on disk for another journal segment."""


def _mapped(fd: int, used: int, size: int) -> mmap.mmap:
    """Map `size` bytes of a file, of which the first `used` are written, so that no append waits for the system.

    What is not used is written once, as zeros: the file system then has its pages in large pieces, and to map those for
    writing costs a fifth of what page faults during the appends would. Raises OSError where the disk is full.
    """
    os.posix_fallocate(fd, 0, size)
    for at in range(used, size, len(_ZEROS)):
        os.pwrite(fd, _ZEROS[: size - at], at)
    mapped = mmap.mmap(fd, size)
    with suppress(OSError):  # Linux before 5.14: the pages are mapped when they are first written to
        mapped.madvise(_MADV_POPULATE_WRITE)
    return mapped


class JournalWriter:
    """Appends entries of one stream to a session folder."""

    def __init__(
        self, folder: Path, stream: str, session: str, segment_bytes: int = DEFAULT_SEGMENT_BYTES, resume: bool = False
    ) -> None:
        """resume: go on after the last whole entry of a writer that died. Raises JournalFull."""
        self._folder = folder
        self._stream = stream
        self._session = session
        self._segment_bytes = segment_bytes
        self._number = 0
        self.ordinal = 0  # of the last entry written
        self._next: tuple[mmap.mmap, int] | None = None
        if resume and segment_path(folder, stream, 0).exists():
            self._resume()
        else:
            self._map, self._fd = self._make(0, segment_bytes)
            self._start()
        self._take_buffer()

    def _take_buffer(self) -> None:
        """What appending needs of the segment that was begun or taken up."""
        self._buffer = self.buffer()
        # Beyond this offset it is time for `prepare_next`: half a segment is left, and no next one is there yet.
        self.prepare_at = _NEVER if self._next else self._half()

    def _half(self) -> int:
        return len(self._buffer) - self._segment_bytes // 2

    def _resume(self) -> None:
        """Map the last segment that was begun, cut what was torn, and forget one that was made ahead of need."""
        while begun(segment_path(self._folder, self._stream, self._number + 1)):
            self._number += 1
        segment_path(self._folder, self._stream, self._number + 1).unlink(missing_ok=True)
        path = segment_path(self._folder, self._stream, self._number)
        self.offset, self.ordinal = end_of_segment(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = max(self._segment_bytes, os.fstat(self._fd).st_size)
        os.ftruncate(self._fd, self.offset)
        try:
            self._map = _mapped(self._fd, self.offset, size)
        except OSError as error:
            raise JournalFull(error.errno, f"no room to go on in journal segment {path}") from None

    def _make(self, number: int, size: int) -> tuple[mmap.mmap, int]:
        path = segment_path(self._folder, self._stream, number)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return _mapped(fd, 0, size), fd
        except OSError as error:
            os.close(fd)
            path.unlink()
            raise JournalFull(error.errno, f"no room for journal segment {path} of {size} bytes") from None

    def _start(self) -> None:
        FILE_HEADER.pack_into(
            self._map, 0, MAGIC, self._stream.encode()[:16], self._session.encode()[:16], self._number,
            self.ordinal + 1, 0,
        )
        self.offset = FILE_HEADER.size

    @property
    def free(self) -> int:
        """Bytes left in the current segment."""
        return len(self._map) - self.offset

    def reserve(self, payload_bytes: int) -> None:
        """Make sure that an entry of this payload fits, moving on to the next segment if it must.

        Raises JournalFull when the disk has no room; everything written before stays whole.
        """
        need = ENTRY_HEADER.size + padded(payload_bytes)
        if self.free < need:
            self.roll(need)

    def prepare_next(self) -> None:
        """Allocate the following segment ahead of need. Raises JournalFull."""
        if self._next is None:
            self._next = self._make(self._number + 1, self._segment_bytes)
            self.prepare_at = _NEVER

    @property
    def next_ready(self) -> bool:
        """True while the next segment is allocated, so that `roll` cannot fail."""
        return self._next is not None

    def roll(self, need: int = 0) -> None:
        """Close the current segment at its length and go on in the next one. Raises JournalFull."""
        wanted = max(self._segment_bytes, FILE_HEADER.size + need)
        if self._next is not None and len(self._next[0]) >= wanted:
            following = self._next
        else:
            if self._next is not None:
                self._discard_next()
            following = self._make(self._number + 1, wanted)
        self._next = None
        self._finish()
        self._map, self._fd = following
        self._number += 1
        self._start()
        self._take_buffer()

    def _discard_next(self) -> None:
        if self._next is not None:
            self._next[0].close()
            os.close(self._next[1])
            segment_path(self._folder, self._stream, self._number + 1).unlink()
            self._next = None
            self.prepare_at = self._half()

    def append(self, kind: Entry, payload: bytes | memoryview, ts_ns: int, source: int = 0, count: int = 1) -> int:
        """Write one entry and return its ordinal. Raises JournalFull (see `reserve`)."""
        ordinal = self.ordinal + 1
        end = _append(self._buffer, self.offset, ordinal, kind, source, count, ts_ns, payload)
        if not end:
            self.reserve(len(payload))
            end = _append(self._buffer, self.offset, ordinal, kind, source, count, ts_ns, payload)
        self.offset = end
        self.ordinal = ordinal
        return ordinal

    def buffer(self) -> np.ndarray:
        """The current segment as uint8[::1], for a kernel that appends by itself (procs/journal/kernel.py)."""
        return np.frombuffer(self._map, np.uint8)

    def adopt(self, offset: int, ordinal: int) -> None:
        """Take over offset and ordinal after a kernel has appended to `buffer`."""
        self.offset, self.ordinal = offset, ordinal

    def _finish(self) -> None:
        length = self.offset
        # A numpy view of the map may still exist in the process; the map then lives until the view goes.
        os.ftruncate(self._fd, max(length, FILE_HEADER.size))
        os.close(self._fd)

    def close(self) -> None:
        """Cut the file to its length and forget it. Idempotent."""
        if self._fd >= 0:
            self._discard_next()
            self._finish()
            self._fd = -1
