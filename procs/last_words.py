"""A line for a process's own log, from where nothing may fail because of it."""

from __future__ import annotations

import contextlib
import os

STANDARD_ERROR = 2


def log(words: str) -> None:
    """Write a line to what standard error is. The log lies on the disk that may be full: then the line is lost."""
    with contextlib.suppress(OSError):
        os.write(STANDARD_ERROR, f"{words}\n".encode())
