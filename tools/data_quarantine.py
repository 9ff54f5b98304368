"""`bot4 data quarantine`: the frames and records that a session refused, and why."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from engine.reasons import Reason
from procs.config_file import read_settings
from procs.quarantine import FILE_NAME, read_quarantine
from tools.text import show_answer
from tools.usage import UsageError

_FRAME_SHOWN = 120  # characters of a frame on a line for people
_STAMP = r"-\d{8}-\d{6}(-\d+)?"  # of a session's folder, behind the engine's name


def newest_session(data_folder: Path, name: str) -> Path | None:
    """The folder of the last session of an engine; None when it has had none."""
    folders = (data_folder / "sessions").glob(f"{name}-*")
    sessions = [folder for folder in folders if re.fullmatch(_STAMP, folder.name[len(name) :])]
    return max(sessions, key=lambda folder: folder.name, default=None)


def quarantine_command(options: argparse.Namespace) -> int:
    """Show the quarantine of a session; exit code 1 when there is no such session, or lines in it that are no
    refusals, which are named and passed over."""
    if options.reason and options.reason not in Reason.__members__:
        raise UsageError(f"--reason {options.reason}: allowed are {', '.join(Reason.__members__)}")
    folder = options.session
    if folder is None:
        settings = read_settings(options.config)
        root = Path(settings.engine.data_folder)
        folder = newest_session(root, settings.engine.name)
        if folder is None:
            error = f"{root.absolute()} holds no session of {settings.engine.name}"
            return show_answer(options, {"ok": False, "error": error}, "")
    elif not (folder / FILE_NAME).is_file():
        raise UsageError(f"--session {folder}: no folder of a session (no {FILE_NAME})")
    odd: list[str] = []
    kept = [line for line in read_quarantine(folder, odd.append) if options.reason in (None, line["reason"])]
    reasons = dict(Counter(line["reason"] for line in kept).most_common())
    if options.json:
        answer = {
            "ok": not odd, "session": str(folder), "kept": len(kept), "reasons": reasons, "refusals": kept,
            "odd_lines": odd,
        }
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        return int(bool(odd))
    for line in kept:
        print(_as_line(line))
    print(f"{folder}: {len(kept)} refusals" + "".join(f", {name} {count}" for name, count in reasons.items()))
    for words in odd:
        print(f"bot4: {words}: passed over", file=sys.stderr)
    return int(bool(odd))


def _as_line(line: dict[str, Any]) -> str:
    stamp = datetime.fromtimestamp(line["recv_ts_ns"] / 1e9, UTC).isoformat(" ", "milliseconds")
    record = line["record"]
    what = "frame"
    if record:
        what = f"{record['kind']} {record['symbol'] or record['instrument']} {record['side']} "
        what += f"price {record['price']} size {record['size']}"
    # What came off a wire must not command a terminal.
    frame = "".join(char if char.isprintable() else "." for char in line["frame"][:_FRAME_SHOWN])
    if len(line["frame"]) > _FRAME_SHOWN:
        frame += f"... ({line['frame_bytes']} bytes)"
    place = f"journal {line['ordinal']}" if line["ordinal"] else "not in the journal"
    return f"{line['number']:>6}  {stamp}  {line['stage']:<10} {line['reason']:<18} {what}; {place}: {frame}"
