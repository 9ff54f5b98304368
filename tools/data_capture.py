"""`bot4 data convert` and `bot4 data show`: captures made of other recordings, and what captures hold."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from procs.capture.convert import convert
from procs.capture.overview import overview
from procs.captures import CaptureError
from tools.usage import require_there


def convert_command(options: argparse.Namespace) -> int:
    """Convert, then read all of it again and show what it holds. Exit code 0 or 1. Raises UsageError."""
    require_there(options.source)
    try:
        convert(options.source, options.folder)
    except CaptureError as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    return show_command(options)


def show_command(options: argparse.Namespace) -> int:
    """Show what a capture holds. Exit code 0, or 1 for one that is damaged or none. Raises UsageError."""
    require_there(options.folder)
    try:
        found = overview(options.folder)
    except CaptureError as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    else:
        print(_words(found))
    return 0


def _moment(ts_ns: int) -> str:
    """A time for people, in ms."""
    return datetime.fromtimestamp(ts_ns // 1_000_000 / 1e3, UTC).isoformat(" ", "milliseconds")


def _words(found: dict[str, Any]) -> str:
    symbols = ", ".join(f"{name} {count}" for name, count in found["symbols"].items())
    kinds = ", ".join(f"{name} {count}" for name, count in found["kinds"].items()) or "nothing"
    lines = [
        f"{found['folder']}: {found['venue']} {found['market']}".rstrip(),
        f"{_moment(found['first_ns'])} to {_moment(found['last_ns'])} ({found['seconds']:.1f} s)",
        f"{found['entries']} entries: {kinds}",
        f"symbols: {symbols}; of none in particular: {found['of_no_symbol']}",
        f"{found['losses']} connections lost, the longest for {found['longest_loss_s']:.1f} s; longest silence "
        f"{found['longest_silence_s']:.3f} s",
        f"{found['data_bytes']} bytes in {found['stored_bytes']} ({found['ratio']} to 1), {found['blocks']} blocks, "
        f"{found['segments']} segments",
    ]
    if found["torn_bytes"]:
        lines.append(f"the last {found['torn_bytes']} bytes are torn, or being written; `bot4 record` goes on before")
    return "\n".join(lines)
