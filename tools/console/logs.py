"""The newest lines of a session's logs: what its processes printed, and what supervisor and kill switch have noted."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

_PATTERNS = ("*.log", "killswitch.jsonl")
_AT_FIRST = 32 << 10  # bytes of each file
_AT_ONCE = 256 << 10
_LINES = 1000


class LogTail:
    """Lines as they come, each behind the name of its file. Lines that were there before are in order of their files,
    the oldest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_to: dict[Path, int] = {}
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._at_first = True

    def look(self) -> tuple[str, ...]:
        """All lines known, oldest first, those of this moment included."""
        found = {path for pattern in _PATTERNS for path in self._folder.glob(pattern)}
        for path in sorted(found, key=lambda path: (self._age(path), path.name)):
            self._read(path)
        self._at_first = False
        return tuple(self._lines)

    @staticmethod
    def _age(path: Path) -> int:
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return 0

    def _read(self, path: Path) -> None:
        """Take the whole lines that are new. A line that is not ended yet is taken later."""
        try:
            size = path.stat().st_size
            begin = self._read_to.get(path, max(0, size - _AT_FIRST) if self._at_first else 0)
            if size <= begin:
                self._read_to[path] = size
                return
            begin = max(begin, size - _AT_ONCE)
            with path.open("rb") as file:
                data = os.pread(file.fileno(), size - begin, begin)
        except OSError:
            return  # it goes while we look at it
        whole = data.rfind(b"\n") + 1
        self._read_to[path] = begin + whole
        for text in data[:whole].decode("utf-8", "replace").splitlines():
            if text.strip():
                self._lines.append(f"{path.stem}: {text}")
