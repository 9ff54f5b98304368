"""Files of JSON lines that survive their writer: a line is written whole in one call, a torn one is cut.

One writer at a time. With a limit a file that grew beyond it is put aside as NAME.1, in the place of the one before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

_BLOCK = 64 << 10


class LineFile:
    """One file, open for appending."""

    def __init__(self, path: Path, limit_bytes: int | None = None) -> None:
        """Open or make the file and cut what a dead writer left of a line."""
        self.path = path
        self._limit = limit_bytes
        self._fd = -1
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = self._after_line_break(os.fstat(self._fd).st_size)
        os.ftruncate(self._fd, self._size)

    def _after_line_break(self, end: int) -> int:
        """Where the last line break before `end` ends; 0 when there is none."""
        while end > 0:
            start = max(0, end - _BLOCK)
            found = os.pread(self._fd, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def last(self) -> dict[str, Any] | None:
        """The last line; None in an empty file."""
        if self._size == 0:
            return None
        start = self._after_line_break(self._size - 1)
        line: dict[str, Any] = orjson.loads(os.pread(self._fd, self._size - start, start))
        return line

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Write entries, a line each. Raises OSError when the disk is full; nothing of them is kept then."""
        text = b"".join(orjson.dumps(entry) + b"\n" for entry in entries)
        if not text:
            return
        if self._limit is not None and self._size > self._limit:
            self._put_aside()
        written = 0
        try:
            while written < len(text):
                written += os.write(self._fd, text[written:])
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += written

    def _put_aside(self) -> None:
        os.close(self._fd)
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        self._open()

    def close(self) -> None:
        """Close the file. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
