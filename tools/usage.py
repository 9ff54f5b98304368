"""The error for a command line that makes no sense together, and the commonest reason for it."""

from __future__ import annotations

from pathlib import Path


class UsageError(Exception):
    """Exit code 2; the message names the option and what is allowed."""


def require_there(*paths: Path) -> None:
    """Raise UsageError for a file or folder of the command line that is not there."""
    for path in paths:
        try:
            there = path.exists()
        except OSError as error:  # a folder on the way that we may not enter
            raise UsageError(f"{path}: {error.strerror}") from None
        if not there:
            raise UsageError(f"{path}: there is no such file or folder")
