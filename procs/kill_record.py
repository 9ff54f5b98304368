"""What the kill switch did, carried into the audit log by the supervisor, which alone writes there.

The kill switch notes what it does in a file of the session (killswitch.jsonl), and waits for nobody. The supervisor
reads on in that file in every tick; each note that matters becomes an entry `kill switch`, with what was done, when,
and at which line of the file it stands. A supervisor's successor goes on after the last line that has an entry.
Limits: what is noted after the last supervisor has ended stays in the file alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

EVENT = "kill switch"
NOTES_NAME = "killswitch.jsonl"
# What belongs into the audit log: each thing that was done at the venue or kept from being done, no repeated failure.
KEPT = frozenset(
    (
        "tripped", "gateway killed: its gate was not shut in time", "nothing rests", "clip", "clip found",
        "clip never arrived", "stopped", "stopped before the venue was clean", "reset before the stop was done",
        "covered", "error", "ending everything: supervisor and launcher are gone",
    )
)


class KillRecord:
    """See the module."""

    def __init__(
        self, folder: Path, session: str, note: Callable[..., None], entries: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """folder: of the session; note: of the audit log; entries: what is there already, for a successor."""
        self._file = folder / NOTES_NAME
        self._session = session
        self._note = note
        self._read_to = 0
        self._line = 0
        told = [
            int(entry["line"]) for entry in entries if entry.get("event") == EVENT and entry.get("session") == session
        ]
        self._told_to = max(told, default=0)

    def look(self) -> None:
        """Carry over what is new."""
        with contextlib.suppress(FileNotFoundError):  # it is made by the first note
            if self._file.stat().st_size > self._read_to:
                with self._file.open("rb") as file:
                    file.seek(self._read_to)
                    self._take(file.read())

    def _take(self, data: bytes) -> None:
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            self._line += 1
            if self._line > self._told_to:
                self._carry(line)

    def _carry(self, line: bytes) -> None:
        with contextlib.suppress(orjson.JSONDecodeError):  # torn by a full disk
            noted = orjson.loads(line)
            if isinstance(noted, dict) and noted.get("event") in KEPT:
                noted_ns = noted.pop("wall_ns", 0)
                self._note(
                    EVENT, did=noted.pop("event"), noted_wall_ns=noted_ns, session=self._session, line=self._line,
                    noted=noted,
                )
