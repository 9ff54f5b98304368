"""The audit log of an instance: what changed what it may do, who, when and why. Append-only, each line chained.

A line is JSON with sorted keys; `hash` is SHA-256 over the hash before it and the line without `hash`. Beside the log
lies its head (`audit.head`): number of entries, hash of the last one, replaced atomically after each entry, so that a
log cut short is found too. An entry is on the disk when `append` returns.

A line that a power cut or a full disk left torn is closed by the next writer: its bytes stay, and the entry after it
says how many there were and what their SHA-256 is. There is no secret in here.
Limits: one writer at a time (the supervisor, who holds the lease of the instance). Whoever owns the files can write a
whole new chain; what it proves is that nothing was changed by anyone who did not rewrite everything after it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from procs.trusted import NotOurs, check_ours, our_folder, read_ours, replace_file, sync_folder, write_all
from shm.clock import wall_ns

GENESIS = "0" * 64
TORN = "torn_line"
LOG_NAME = "audit.jsonl"
HEAD_NAME = "audit.head"
_EMPTY = hashlib.sha256(b"").hexdigest()
_LOOKS = 20


class AuditError(ValueError):
    """The log does not hold together, or cannot be written; the message says where and how."""


def _hash_of(previous: str, entry: dict[str, Any]) -> str:
    body = orjson.dumps({key: value for key, value in entry.items() if key != "hash"}, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(previous.encode() + body).hexdigest()


@dataclass(frozen=True)
class Chain:
    """How far a log holds together: entries, hash of the last one, and bytes at its end that are no whole line."""

    count: int = 0
    last_hash: str = GENESIS
    torn: bytes = b""


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


def check_chain(content: bytes, head: bytes | None) -> Chain:
    """Follow the whole chain. Raises AuditError naming the first line that is wrong.

    head: content of the head file, None where there is none.
    """
    hashes = [GENESIS]
    sound = start = number = 0  # sound: bytes up to the end of the last entry that holds
    while (end := content.find(b"\n", start)) >= 0:
        number += 1
        entry = _entry(content[start:end])
        if entry is not None:
            _check_entry(number, entry, hashes, content[sound:start].removesuffix(b"\n"))
            hashes.append(str(entry["hash"]))
            sound = end + 1
        start = end + 1
    _check_head(hashes, head)
    return Chain(len(hashes) - 1, hashes[-1], content[sound:])


def _check_entry(number: int, entry: dict[str, Any], hashes: list[str], torn: bytes) -> None:
    """One entry after those with the hashes; torn: what nobody can read between it and the one before."""
    if entry.get("n") != len(hashes):
        raise AuditError(f"line {number}: its number is {entry.get('n')!r}, {len(hashes)} was expected")
    if entry.get("previous") != hashes[-1] or entry.get("hash") != _hash_of(hashes[-1], entry):
        raise AuditError(f"line {number}: its hash does not follow from the line before and its content")
    closes = (entry.get("bytes"), entry.get("sha256")) if entry.get("event") == TORN else (0, _EMPTY)
    if closes != (len(torn), hashlib.sha256(torn).hexdigest()):
        raise AuditError(f"line {number}: before it lie {len(torn)} bytes that no entry was torn to")


def _check_head(hashes: list[str], head: bytes | None) -> None:
    count = len(hashes) - 1
    if head is None:
        if count > 1:  # a writer may die before the first head is there
            raise AuditError(f"{HEAD_NAME} is missing beside {count} entries")
        return
    kept = _entry(head)
    known = kept.get("count") if kept else None
    if kept is None or not isinstance(known, int) or known < 0:
        raise AuditError(f"{HEAD_NAME} cannot be read")
    if known > count:
        raise AuditError(f"line {count + 1}: the log ends after {count} entries, its head knows {known}")
    if hashes[known] != kept.get("hash"):
        raise AuditError(f"line {known}: entry {known} is not the one that the head knows")
    if count - known > 1:  # a writer may die between a line and its head
        raise AuditError(f"line {known + 2}: the log has {count} entries, its head knows {known}")


def read_log(folder: Path) -> tuple[bytes, bytes | None]:
    """The log and its head, of one moment. Raises NotOurs, and AuditError where there is no log."""
    content, head = b"", None
    for _ in range(_LOOKS):  # somebody may be writing
        head = read_ours(folder / HEAD_NAME)
        kept = read_ours(folder / LOG_NAME)
        if kept is None:
            raise AuditError(f"{folder / LOG_NAME}: there is none")
        content = kept
        if read_ours(folder / HEAD_NAME) == head:
            break
    return content, head


def entries_of(content: bytes) -> list[dict[str, Any]]:
    """Every readable entry, unchecked."""
    return [entry for line in content.split(b"\n") if (entry := _entry(line)) is not None]


class AuditLog:
    """The writer of a log; the whole chain is checked when it is opened."""

    def __init__(self, folder: Path, instance: str) -> None:
        """Raises AuditError when the log does not hold together, NotOurs when somebody else may have written it."""
        self.folder = our_folder(folder)
        self._path, self._head_path, self._instance = folder / LOG_NAME, folder / HEAD_NAME, instance
        self._chain = Chain()
        self._open()
        if self._chain.count:
            self._write_head()
        self._whole = True  # the last entry and its head are on the disk

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._chain.count

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if not check_ours(self._path) and check_ours(self._head_path):
            raise AuditError(f"{self._path}: is missing, and {HEAD_NAME} beside it is not")
        self._descriptor = os.open(self._path, flags, 0o600)
        sync_folder(self.folder)
        self._read()
        if self._chain.torn:
            if not self._chain.torn.endswith(b"\n"):
                write_all(self._descriptor, b"\n")
                self._read()  # it may have been whole but for its end
            torn = self._chain.torn.removesuffix(b"\n")
            if self._chain.torn:
                self._write(TORN, {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})

    def _read(self) -> None:
        try:
            self._chain = check_chain(read_ours(self._path) or b"", read_ours(self._head_path))
        except AuditError as error:
            raise AuditError(f"{self._path}, {error}") from None

    def append(self, event: str, **fields: Any) -> None:
        """Add an entry; it is on the disk on return. Raises AuditError when it is not."""
        try:
            if not self._whole:  # the last one could not be written to its end
                self.close()  # first: a number that stays behind is soon somebody else's
                self._open()
                self._write_head()
            self._whole = False
            self._write(event, fields)
            self._write_head()
            self._whole = True
        except (OSError, NotOurs) as error:
            raise AuditError(f"{self._path}: cannot be written: {error}") from None

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        entry = {
            "n": self._chain.count + 1, "wall_ns": wall_ns(), "instance": self._instance, "event": event, **fields,
            "previous": self._chain.last_hash,
        }
        entry["hash"] = _hash_of(self._chain.last_hash, entry)
        write_all(self._descriptor, orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n")
        os.fsync(self._descriptor)
        self._chain = Chain(self._chain.count + 1, str(entry["hash"]))

    def _write_head(self) -> None:
        head = {"count": self._chain.count, "hash": self._chain.last_hash}
        replace_file(self._head_path, orjson.dumps(head) + b"\n")

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
