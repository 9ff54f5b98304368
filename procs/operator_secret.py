"""The operator's secret: kept as an argon2 hash, checked apart from the supervisor's watch, locked after three misses.

A check takes some 100 ms of a processor and 64 MiB, so it runs in a thread and is asked for its result. An attempt is
counted, and the count is on the disk, before it is checked: a supervisor that is killed in between has counted it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from procs.trusted import NotOurs, our_folder, read_ours, replace_file

SECRET_NAME = "operator.hash"
ATTEMPTS = 3
WINDOW_NS = 600 * 1_000_000_000
LOCKED_NS = 600 * 1_000_000_000
SHORTEST_SECRET = 8


class SecretError(ValueError):
    """A secret that cannot be set; the message says why and never quotes it."""


def set_secret(folder: Path, secret: str, current: str | None) -> None:
    """Keep the hash of a new secret. Raises SecretError and NotOurs.

    current: the one in force, which must be known to change it; None where none was set.
    """
    if len(secret) < SHORTEST_SECRET:
        raise SecretError(f"a secret needs {SHORTEST_SECRET} characters at the least")
    our_folder(folder)
    before = read_ours(folder / SECRET_NAME)
    if before is not None and (current is None or not _matches(before, current)):
        raise SecretError("the secret in force is not that one; nothing was changed")
    replace_file(folder / SECRET_NAME, argon2.PasswordHasher().hash(secret).encode() + b"\n")


def secret_is_set(folder: Path) -> bool:
    """Whether there is a hash to check against. Raises NotOurs."""
    return read_ours(folder / SECRET_NAME) is not None


def _matches(kept: bytes, secret: str) -> bool:
    try:
        return argon2.PasswordHasher().verify(kept.decode().strip(), secret)
    except (VerificationError, InvalidHashError, UnicodeError):
        return False


class SecretChecker:
    """Checks one attempt at a time, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="secret")

    def begin(self, secret: str) -> Future[bool]:
        """Start a check; its result is False for a wrong secret and for a hash that must not be relied upon."""
        return self._thread.submit(self._check, secret)

    def _check(self, secret: str) -> bool:
        try:
            kept = read_ours(self._folder / SECRET_NAME)
        except NotOurs:
            return False
        return kept is not None and _matches(kept, secret)

    def close(self) -> None:
        """End the thread once its last check is done."""
        self._thread.shutdown(wait=True)


def attempts_within(attempts: tuple[int, ...], now_ns: int) -> tuple[int, ...]:
    """The attempts that still count; one from the future is of another clock and counts as of now."""
    return tuple(min(at, now_ns) for at in attempts if now_ns - at < WINDOW_NS)


def locked_words(locked_until_ns: int, now_ns: int) -> str:
    """Why no attempt is allowed at the moment; empty when one is."""
    if locked_until_ns > now_ns:
        left_s = min(locked_until_ns - now_ns, LOCKED_NS) / 1e9
        return f"locked for another {left_s:.0f} s after {ATTEMPTS} wrong secrets"
    return ""
