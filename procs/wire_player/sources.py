"""What a recording is read from, each as a stream of lines in their order:

    TextCapture     a file with RECEIVE_TIME FRAME a line (procs/captures.py); one connection
    SessionLog      a session log (procs/session_logs.py); one connection, or the REST answers of others
    CaptureFolder   a capture of our own (procs/capture/), of all its connections; also one that is being written: what
                    was whole when it was opened is what it holds, read twice or once

A source can be read again and again. In memory are one line, of a capture one block.
"""

from __future__ import annotations

import gzip
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from engine.ingest.kernel import is_snapshot_body
from procs.capture.layout import NO_CONNECTION, NO_SYMBOL, Captured
from procs.capture.manifest import is_capture
from procs.capture.reader import CaptureReader, Selection
from procs.captures import CaptureError, capture_lines
from procs.session_logs import Direction, session_lines

ALL_CONNECTIONS = -1
_TEXT_CAPTURE_LINE = re.compile(rb"[0-9]{16}(?:[0-9]{3})? ")
_SESSION = re.compile(r"(.+)_ws_[0-9]+(\.txt(?:\.gz)?)")


class Line(NamedTuple):
    """One thing of a source."""

    ts_ns: int
    where: str  # in the source, for people
    source: int  # its number
    connection: int  # among those of the source, from 0; ALL_CONNECTIONS of a loss: all of them
    kind: Captured  # FRAME, REST, OPENED or LOST
    data: bytes
    url: str = ""  # of a REST answer; empty where nobody knows
    symbol: str = ""  # of a depth snapshot, where the source says


class Source(ABC):
    """One source. symbols: those that it says it is of; none where only its frames tell."""

    def __init__(self, path: Path, number: int, connections: int = 1) -> None:
        self.path = path
        self.number = number
        self.connections = connections
        self.symbols: tuple[str, ...] = ()
        self.is_recorder_s = False  # whether `bot4 record` made it
        self.torn_bytes = 0  # at its end, of what was being written when its writer died or is being written now

    @abstractmethod
    def lines(self, symbols: tuple[str, ...] = ()) -> Iterator[Line]:
        """All of it, or what may be of these symbols or of none. Raises CaptureError."""


class TextCapture(Source):
    """See the module."""

    def lines(self, symbols: tuple[str, ...] = ()) -> Iterator[Line]:
        """See the base."""
        for number, ts_ns, frame in capture_lines(self.path):
            yield Line(ts_ns, f"line {number}", self.number, 0, Captured.FRAME, frame)


class SessionLog(Source):
    """See the module."""

    def lines(self, symbols: tuple[str, ...] = ()) -> Iterator[Line]:
        """See the base."""
        for line in session_lines(self.path):
            where = f"line {line.number}"
            if line.direction is Direction.RECEIVED and self.connections:
                yield Line(line.ts_ns, where, self.number, 0, Captured.FRAME, line.data)
            elif line.direction is Direction.REST:
                symbol = parse_qs(urlsplit(line.connection).query).get("symbol", [""])[0]
                yield Line(line.ts_ns, where, self.number, 0, Captured.REST, line.data, line.connection, symbol)

    def opened(self) -> str:
        """The URL of its socket; empty where it opens none. Raises CaptureError."""
        return next((line.connection for line in session_lines(self.path) if line.direction is Direction.OPENED), "")


class CaptureFolder(Source):
    """See the module. Raises CaptureError for a folder that is no capture, or a damaged one."""

    def __init__(self, path: Path, number: int) -> None:
        reader = CaptureReader(path)
        self.manifest = reader.manifest
        super().__init__(path, number, max(1, len(self.manifest.connections)))
        self.symbols = self.manifest.symbols
        self.is_recorder_s = self.manifest.source.get("made_by") == "record"
        self._last = 0
        for block in reader.blocks():
            self._last = block.header.first_ordinal + block.header.entries - 1
        self.torn_bytes = reader.torn_bytes

    def lines(self, symbols: tuple[str, ...] = ()) -> Iterator[Line]:
        """See the base."""
        here = tuple(name for name in symbols if name in self.symbols)
        for entry in CaptureReader(self.path).entries(Selection(symbols=here)):
            if entry.ordinal > self._last:
                return
            if entry.kind not in (Captured.FRAME, Captured.REST, Captured.OPENED, Captured.LOST):
                continue
            connection = entry.connection
            if connection == NO_CONNECTION:
                connection = ALL_CONNECTIONS if entry.kind == Captured.LOST else 0
            symbol = "" if entry.symbol == NO_SYMBOL else self.symbols[entry.symbol]
            yield Line(
                entry.ts_ns, f"entry {entry.ordinal}", self.number, connection, Captured(entry.kind), entry.data,
                entry.key, symbol,
            )


def open_sources(paths: list[Path]) -> tuple[list[Source], list[Source]]:
    """(what the paths name, the REST answers that lie beside session logs among them). Raises CaptureError."""
    named: list[Source] = []
    beside: dict[Path, None] = {}
    for number, path in enumerate(paths):
        if path.is_dir():
            if not is_capture(path) and (path / "session.json").is_file():
                raise CaptureError(f"{path}: the session of an engine; what is played is market data alone")
            named.append(CaptureFolder(path, number))
        elif _is_text_capture(path):
            named.append(TextCapture(path, number))
        else:
            named.append(SessionLog(path, number))
            beside |= dict.fromkeys(_beside(path))
    rest = [path for path in beside if path not in paths]
    return named, [SessionLog(path, len(named) + number, connections=0) for number, path in enumerate(rest)]


def is_depth(line: Line) -> bool:
    """Whether a REST answer is a depth snapshot."""
    if line.url:
        return urlsplit(line.url).path.rstrip("/").endswith("/depth")
    return is_snapshot_body(line.data)


def _is_text_capture(path: Path) -> bool:
    """True for a capture as text, False for what can only be a session log. Raises CaptureError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return _TEXT_CAPTURE_LINE.match(file.readline(32)) is not None
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _beside(path: Path) -> list[Path]:
    """The REST logs of the session that a log is of."""
    match = _SESSION.fullmatch(path.name)
    return sorted(path.parent.glob(f"{match[1]}_rest_*{match[2]}")) if match else []
