"""Small things that people type and read."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tools.usage import UsageError

_UNITS = {"us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of '30s', '1.5m', '2h', '500ms', '5us' or a plain number. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)?", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 30s, 5m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def parse_time(text: str) -> int:
    """Unix ns of Unix seconds (1723161299.25) or of an ISO 8601 time (2024-08-08T23:54:59.25Z; UTC unless it says
    otherwise). Raises argparse.ArgumentTypeError."""
    stripped = text.strip()
    if match := re.fullmatch(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?", stripped):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write Unix seconds or ISO 8601, such as 2024-08-08T23:54:59Z"
        ) from None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * 1_000


def parse_symbols(text: str) -> tuple[str, ...]:
    """The names in 'A,B'. Raises argparse.ArgumentTypeError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: write different names, such as BTCUSDT,ETHUSDT")
    return names


def parse_speed(text: str) -> float | None:
    """None for 'max', a factor for '10x'. Raises UsageError."""
    if text == "max":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text)
    if not match or float(match[1]) <= 0:
        raise UsageError(f"--speed {text}: allowed are max, or a factor such as 1x or 10x")
    return float(match[1])


def show_answer(options: argparse.Namespace, answer: dict[str, Any], words: str) -> int:
    """Show what became of a request: {"ok": bool, "error": TEXT, ...} as JSON, or words. Exit code 0 or 1."""
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    elif answer["ok"]:
        print(words)
    else:
        print(f"bot4: {answer['error']}", file=sys.stderr)
    return 0 if answer["ok"] else 1
