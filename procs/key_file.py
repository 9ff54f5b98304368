"""The shared key of a remote button: 64 hex digits in a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.safety.remote_protocol import KEY_BYTES
from procs.identity import new_key


class KeyFileError(ValueError):
    """A key file that must not or cannot be used. Never carries the key."""


def make_key(path: Path) -> None:
    """Write a new key to a file that is not there yet, mode 0600. Raises KeyFileError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(new_key(KEY_BYTES).hex() + "\n")


def load_key(path: Path) -> bytes:
    """The key in a file. Raises KeyFileError naming the file and what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise KeyFileError(f"key file {path}: must be a plain file of yours with mode 0600")
        text = os.read(descriptor, 4 * KEY_BYTES)
    finally:
        os.close(descriptor)
    try:
        key = bytes.fromhex(text.decode())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"key file {path}: not a key; `bot4 button --make-key FILE` makes one")
    return key
