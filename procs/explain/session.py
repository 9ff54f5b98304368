"""A session folder as it lies on disk, also while its engine still writes: what it was started with, its streams.

Entries are read through JournalTail, some 32 KB at a time, up to what is whole at that moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from engine.config import Settings, config_hash
from engine.instruments import Instrument
from engine.kernel import kernel_digest
from engine.strategies.plugin import Bound
from procs.attach import NotRunning, attach
from procs.journal.layout import MAGIC
from procs.journal.reader import JournalEntry, segment_path
from procs.journal.tail import JournalTail
from procs.replay import open_source
from procs.table import Role

_FILE = "session.json"


class ExplainError(ValueError):
    """What was asked cannot be explained; the message says why."""


class UnknownForm(ExplainError):
    """What was asked names no order of any session."""


class Placed(NamedTuple):
    """An entry, and where it lies."""

    entry: JournalEntry
    stream: str
    segment: int
    end: int  # offset behind it in the segment's file

    def place(self) -> dict[str, Any]:
        """Its position in plain values."""
        path = segment_path(Path(), self.stream, self.segment)
        return {"file": path.name, "ordinal": self.entry.ordinal, "end_offset": self.end}


def placed_entries(folder: Path, stream: str) -> Iterator[Placed]:
    """The whole entries of a stream from its beginning, up to what is written now. Raises JournalError."""
    tail = JournalTail(folder, stream)
    try:
        while found := tail.read():
            number = tail.number
            for end, entry in found:
                yield Placed(entry, stream, number, end)
    finally:
        tail.close()


@dataclass(frozen=True)
class Session:
    """One session: its folder, the settings and instruments that it was started with, and what session.json says."""

    folder: Path
    settings: Settings
    instruments: tuple[Instrument, ...]
    strategies: tuple[Bound, ...]
    told: dict[str, Any]

    @property
    def id(self) -> str:
        """8 hex digits, part of every client order id of the session; empty where session.json does not say."""
        return str(self.told.get("session", ""))

    def warnings(self) -> list[str]:
        """What makes it doubtful that a replay decides what the session decided."""
        found = []
        told = self.told.get("config_hash")
        # As they are written there: code that came later may know settings that the session had not.
        kept = hashlib.sha256(json.dumps(self.told["settings"], sort_keys=True).encode()).hexdigest()
        if told and told not in (kept, config_hash(self.settings)):
            found.append(
                f"the settings in {_FILE} are not those that the session began with: their hash is {kept[:12]}, the "
                f"one noted then {str(told)[:12]}"
            )
        told = self.told.get("kernel_digest")
        if told and told != kernel_digest():
            found.append(
                f"the session was made by other code: its kernel digest is {str(told)[:12]}, this one's "
                f"{kernel_digest()[:12]}"
            )
        return found


def _check_version(folder: Path, stream: str) -> None:
    """Raise ExplainError unless the stream's first segment is one that this code can read."""
    path = segment_path(folder, stream, 0)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise ExplainError(f"{folder}: there is no journal of {stream} in it ({path.name})") from None
    if magic == MAGIC or magic == bytes(len(MAGIC)):
        return
    if magic[:6] == MAGIC[:6]:
        raise ExplainError(f"{path}: a journal of version {magic.decode(errors='replace')}; this code reads "
                           f"{MAGIC.decode()}")
    raise ExplainError(f"{path}: is no journal segment")


def open_session(folder: Path) -> Session:
    """A session folder. Raises ExplainError."""
    if not folder.is_dir():
        raise ExplainError(f"{folder}: is no folder; that of a session is needed")
    try:
        source = open_source(folder, Settings())
    except ValueError as error:  # ReplayError, SettingsError, CaptureError
        raise ExplainError(str(error)) from None
    if not source.is_session:
        raise ExplainError(f"{folder}: a capture has market data alone, and no orders")
    for role in (Role.INGESTION, Role.EXECUTION, Role.GATEWAY):
        _check_version(folder, role.label)
    try:
        told = orjson.loads((folder / _FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ExplainError(f"{folder / _FILE}: {error}") from None
    return Session(folder, source.settings, source.instruments, source.strategies, told)


def find_session(settings: Settings, session_id: str = "") -> Path:
    """The folder of the running engine of this name, without one of its newest session; or of the session with an id.

    Raises ExplainError.
    """
    name = settings.engine.name
    if not session_id:
        try:
            mapping = attach(name)
        except NotRunning:
            pass
        else:
            try:
                return mapping.plan.path
            finally:
                mapping.close()
    root = Path(settings.engine.data_folder).resolve() / "sessions"
    for file in sorted(root.glob(f"*/{_FILE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            told = orjson.loads(file.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        if isinstance(told, dict) and (told.get("session") == session_id if session_id else told.get("name") == name):
            return file.parent
    if session_id:
        raise ExplainError(f"no session {session_id} is in {root}; name its folder with --session")
    raise ExplainError(f"no engine named {name!r} is running, and {root} holds no session of it")
