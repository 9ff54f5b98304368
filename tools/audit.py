"""`bot4 audit show|verify`: what changed what the engine may do, and whether that log is whole."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from procs.audit import LOG_NAME, AuditError, check_chain, entries_of, read_log
from procs.config_file import read_settings
from procs.control_plane import control_folder
from procs.trusted import NotOurs
from tools.text import show_answer

_HIDDEN = ("n", "wall_ns", "instance", "event", "previous", "hash")


def audit_command(options: argparse.Namespace) -> int:
    """Show the audit log of an instance, or follow its chain; exit code 1 when it does not hold."""
    settings = read_settings(options.config)
    folder = control_folder(Path(settings.engine.data_folder).absolute(), settings.engine.name)
    try:
        content, head = read_log(folder)
    except (AuditError, NotOurs) as error:
        return show_answer(options, {"ok": False, "error": str(error)}, "")
    if options.action == "show":
        entries = entries_of(content)
        if options.json:
            sys.stdout.buffer.write(orjson.dumps({"ok": True, "entries": entries}) + b"\n")
        else:
            for entry in entries:
                print(_as_line(entry))
        return 0
    try:
        chain = check_chain(content, head)
    except AuditError as error:
        return show_answer(options, {"ok": False, "error": f"{folder / LOG_NAME}, {error}", "finding": str(error)}, "")
    answer = {"ok": True, "entries": chain.count, "hash": chain.last_hash, "torn_bytes": len(chain.torn)}
    torn = f"; {len(chain.torn)} bytes at its end were torn and are not closed yet" if chain.torn else ""
    return show_answer(options, answer, f"{folder / LOG_NAME}: {chain.count} entries hold together{torn}")


def _as_line(entry: dict[str, Any]) -> str:
    stamp = datetime.fromtimestamp(int(entry.get("wall_ns", 0)) / 1e9, UTC).isoformat(" ", "milliseconds")
    rest = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in _HIDDEN and value != "")
    return f"{entry.get('n', '?'):>6}  {stamp}  {entry.get('event', '?'):<20} {rest}"
