"""Small things that people type and read."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

import orjson

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of '30s', '1.5m', '2h', '500ms' or a plain number. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 30s, 5m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def show_answer(options: argparse.Namespace, answer: dict[str, Any], words: str) -> int:
    """Show what became of a request: {"ok": bool, "error": TEXT, ...} as JSON, or words. Exit code 0 or 1."""
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    elif answer["ok"]:
        print(words)
    else:
        print(f"bot4: {answer['error']}", file=sys.stderr)
    return 0 if answer["ok"] else 1
