"""Session logs: recorded connections as text, plain or gzipped, read as a stream.

    URL <-> TIME            a connection is opened
    URL <- TIME: TEXT       the client sent TEXT
    TIME: TEXT              TEXT was received
    URL -> TIME: BODY       the body of a REST answer
    configuration: TEXT     what the session had asked for

TIME is in Unix seconds with a fraction. Blank lines mean nothing. A received frame names no connection: it belongs to
the one that was opened last. What is held in memory is one line. Source: the format of cryptofeed's raw recordings.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from procs.captures import CaptureError

_LINE = re.compile(
    rb"(?:(?P<url>[a-z]+://[^ ]+) (?P<arrow><->|<-|->) )?(?P<time>[0-9]{1,10}(?:\.[0-9]{1,9})?)(?:: (?P<text>.*))?",
    re.DOTALL,
)
_CONFIGURATION = b"configuration: "


class Direction(Enum):
    """What a line of a session log records."""

    OPENED = "<->"  # a connection; no bytes
    SENT = "<-"
    RECEIVED = ""
    REST = "->"
    CONFIGURATION = "configuration"


class SessionLine(NamedTuple):
    """One line of a session log."""

    number: int  # of the line, from 1
    ts_ns: int  # Unix time; of a configuration: that of the line before
    connection: str  # URL; of what was received: of the connection opened last, "" before any
    direction: Direction
    data: bytes  # as it was on the wire


def is_session_log(path: Path) -> bool:
    """Whether the first line of a file that is not blank is one of a session log. Raises CaptureError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            first = next((line for raw in file if (line := raw.rstrip(b"\r\n"))), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return first.startswith(_CONFIGURATION) or _LINE.fullmatch(first) is not None


def session_lines(path: Path) -> Iterator[SessionLine]:
    """Every line of a session log that is not blank, in file order. Raises CaptureError naming file and line."""
    opener = gzip.open if path.suffix == ".gz" else open
    connection, ts_ns = "", 0
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.rstrip(b"\r\n")
                if not line:
                    continue
                if line.startswith(_CONFIGURATION):
                    data = line[len(_CONFIGURATION) :]
                    yield SessionLine(number, ts_ns, connection, Direction.CONFIGURATION, data)
                    continue
                match = _LINE.fullmatch(line)
                direction = Direction((match["arrow"] or b"").decode()) if match else Direction.RECEIVED
                if match is None or (match["text"] is None) != (direction is Direction.OPENED):
                    raise CaptureError(f"{path}, line {number}: not a line of a session log")
                ts_ns = _nanoseconds(match["time"])
                url = (match["url"] or b"").decode(errors="replace")
                if direction is Direction.OPENED:
                    connection = url
                yield SessionLine(number, ts_ns, url or connection, direction, match["text"] or b"")
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _nanoseconds(text: bytes) -> int:
    """Seconds with a fraction of at most nine digits as exact ns."""
    whole, _, fraction = text.partition(b".")
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, b"0"))
