"""What was refused, on disk: one JSON line a refusal in quarantine.jsonl of the session's folder, written by the
recorder.

Two sources. Frames that ingestion refused, from its journal, where a REFUSED entry stands behind each of them. Records
that validation refused, from the ring in its state, each with the frame that caused it, found in the journal by its
ingest id. A line holds stage, reason, ingest id, the ordinal of the frame in the journal, and the frame.

Bounds: MOST_A_SECOND lines a second, a frame up to MOST_FRAME_BYTES, a file of FILE_BYTES that is put aside as
quarantine.jsonl.1 when full. What was passed over for these bounds shows as the difference between what the stages
counted and the number of the last line. Every line says up to where both sources are dealt with, so that a recorder
goes on where another one died: no line is there twice.

A record is read one look after it was counted, so that it was written whole by then; what the ring lost before it was
read is passed over too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.instruments import Instrument, instruments_by_index
from engine.reasons import Reason
from engine.records import Kind, Side
from engine.validation.state import QUARANTINE_PLACES
from procs.journal.index import find_entry
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, JournalError
from procs.lines import LineFile

FILE_NAME = "quarantine.jsonl"
FILE_BYTES = 8 << 20
MOST_A_SECOND = 50
MOST_FRAME_BYTES = 16 << 10
# What every line has, and every record in one.
_FIELDS: dict[str, Any] = {
    "number": int, "stage": str, "reason": str, "ingest_id": int, "ordinal": int | None, "recv_ts_ns": int,
    "record": dict, "frame": str, "frame_bytes": int,
}  # fmt: skip
_RECORD_FIELDS: dict[str, Any] = {
    "symbol": str | None, "kind": str | int, "side": str | int, "instrument": int, "price": int, "size": int,
}
_INGESTION, _VALIDATION = "ingestion", "validation"


class Quarantine:
    """The file, open for appending. `frames` and `records` take what is new; `second` renews the allowance."""

    def __init__(self, folder: Path, instruments: Sequence[Instrument], file_bytes: int = FILE_BYTES) -> None:
        self._folder = folder
        self._instruments = instruments_by_index(instruments)
        self._file = LineFile(folder / FILE_NAME, file_bytes)
        # Where a recorder died between putting the file aside and its next line, the last one is there.
        last = _last(folder / FILE_NAME) or _last(_aside(folder)) or {}
        self.written = int(last.get("number", 0))
        self._frames_until = int(last.get("frames_until", 0))  # ordinal of the last REFUSED entry dealt with
        self._records_until = int(last.get("records_until", 0))  # records of validation dealt with
        self._records_seen = 0  # as counted at the look before
        self._left = MOST_A_SECOND
        self._before: JournalEntry | None = None
        self._found: tuple[int, JournalEntry | None] = (0, None)

    def frames(self, entries: Sequence[JournalEntry]) -> None:
        """Take the next entries of ingestion's journal."""
        for entry in entries:
            if entry.kind == Entry.REFUSED and entry.ordinal > self._frames_until:
                self._frames_until = entry.ordinal
                if self._left > 0:
                    frame = self._before
                    if frame is None or frame.ordinal != entry.ordinal - 1:
                        frame = self._find(ordinal=entry.ordinal - 1)
                    ingest_id = int.from_bytes(entry.payload, "little")
                    self._append(_INGESTION, entry.source, ingest_id, entry.ts_ns, frame, {})
            self._before = entry

    def records(self, state: np.ndarray) -> None:
        """Look at the state of validation."""
        row = state[0]
        total = int(row["quarantine_total"])
        settled, self._records_seen = min(total, self._records_seen), total
        while self._records_until < settled:
            if self._left <= 0:
                self._records_until = settled
                return
            number = self._records_until
            record = row["quarantine"][number % QUARANTINE_PLACES].copy()
            self._records_until += 1
            # Read after the copy: a record that went to the same place may be half there.
            if number + QUARANTINE_PLACES <= int(row["quarantine_total"]):
                continue
            ingest_id = int(record["ingest_id"])
            if self._found[0] != ingest_id:
                self._found = (ingest_id, self._find(ingest_id=ingest_id) if ingest_id > 0 else None)
            recv_ts_ns = int(record["recv_ts_ns"])
            described = self._record(record)
            self._append(_VALIDATION, int(record["reason"]), ingest_id, recv_ts_ns, self._found[1], described)

    def second(self) -> None:
        """A second has passed: as many lines again."""
        self._left = MOST_A_SECOND

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find(self, **place: int) -> JournalEntry | None:
        """An entry of ingestion's journal; None where it is not, or the journal has holes."""
        try:
            return find_entry(self._folder, _INGESTION, **place)
        except JournalError:
            return None

    def _record(self, record: np.void) -> dict[str, Any]:
        item = self._instruments.get(int(record["instrument"]))
        kind, side = int(record["kind"]), int(record["side"])
        return {
            "symbol": item.symbol if item else None,
            "kind": Kind(kind).name if kind in Kind._value2member_map_ else kind,
            "side": Side(side).name if side in Side._value2member_map_ else side,
            **{name: int(record[name]) for name in ("instrument", "price", "size", "aux", "sequence", "exch_ts_ns")},
        }

    def _append(
        self, stage: str, reason: int, ingest_id: int, recv_ts_ns: int, frame: JournalEntry | None,
        record: dict[str, Any],
    ) -> None:  # fmt: skip
        self._left -= 1
        self.written += 1
        payload = frame.payload if frame is not None else b""
        line = {
            "number": self.written, "stage": stage, "reason": _reason_name(reason), "ingest_id": ingest_id,
            "ordinal": frame.ordinal if frame is not None else None, "recv_ts_ns": recv_ts_ns, "record": record,
            "frame": payload[:MOST_FRAME_BYTES].decode("utf-8", "backslashreplace"), "frame_bytes": len(payload),
            "frames_until": self._frames_until, "records_until": self._records_until,
        }
        self._file.append([line])


def _reason_name(reason: int) -> str:
    return Reason(reason).name if reason in Reason._value2member_map_ else f"REASON_{reason}"


def _aside(folder: Path) -> Path:
    return folder / (FILE_NAME + ".1")


def _last(path: Path) -> dict[str, Any] | None:
    """The last refusal in a file."""
    return next(iter(deque(_lines(path), maxlen=1)), None)


def _fault(line: Any) -> str:
    """Why a line is no refusal; empty where it is one."""
    if not isinstance(line, dict):
        return "no object"
    wrong = _wrong_field(line, _FIELDS)
    if not wrong and line["record"]:
        wrong = _wrong_field(line["record"], _RECORD_FIELDS)
    if not wrong and abs(line["recv_ts_ns"]) >= 1 << 63:
        wrong = "recv_ts_ns"
    return f"no {wrong}, or none that can be read" if wrong else ""


def _wrong_field(part: dict[str, Any], fields: dict[str, Any]) -> str:
    """The first field that is missing or of another kind; empty where all are there."""
    return next((name for name, kinds in fields.items() if name not in part or not isinstance(part[name], kinds)), "")


def _lines(path: Path, odd: Callable[[str], None] = lambda words: None) -> Iterator[dict[str, Any]]:
    """The refusals in a file; none where it is missing. odd: told of each line that is none, with file and number."""
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    continue
                try:
                    line = orjson.loads(text)
                    fault = _fault(line)
                except orjson.JSONDecodeError:
                    fault = "no JSON"
                if fault:
                    odd(f"{path}, line {number}: {fault}")
                else:
                    yield line
    except FileNotFoundError:
        return


def read_quarantine(folder: Path, odd: Callable[[str], None] = lambda words: None) -> Iterator[dict[str, Any]]:
    """Every refusal that a session's folder holds, oldest first; a torn last line is left out, and so is one that is
    no refusal, of which `odd` is told."""
    yield from _lines(_aside(folder), odd)
    yield from _lines(folder / FILE_NAME, odd)


def quarantine_summary(folder: Path, counted: Mapping[str, int]) -> dict[str, int]:
    """{refused, written, not_written}: what ingestion and validation counted, by stage, and how much of it went to
    disk. What is on its way there counts as not written."""
    refused = sum(counted.values())
    written = 0
    for line in read_quarantine(folder):
        written = int(line["number"])
    return {"refused": refused, "written": written, "not_written": max(0, refused - written)}
