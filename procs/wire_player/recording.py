"""Recordings as the player plays them: files of one venue, merged by time and read as a stream, twice.

A file is a capture (procs/captures.py) or a session log (procs/session_logs.py), of one connection each. Beside a
session log `X_ws_N` lie the REST answers of its session in files `X_rest_...`; they belong to it. The first pass learns
what there is (and that every file can be read to its end), the second one plays. What is held in memory does not grow
with length: the names of streams and symbols, one line of each file, and REST answers other than depth snapshots.
"""

from __future__ import annotations

import gzip
import heapq
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import orjson

from engine.instruments import Dialect
from procs.captures import CaptureError, capture_lines, instruments_of
from procs.session_logs import Direction, session_lines
from procs.wire_player.binance import BinanceVenue
from procs.wire_player.kraken_futures import KrakenFutures
from procs.wire_player.kraken_spot import KrakenSpotV1, KrakenSpotV2
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import PlayedVenue, last_part, no_symbol

_CAPTURE_LINE = re.compile(rb"[0-9]{16}(?:[0-9]{3})? ")
_BINANCE = {
    "stream.binance.com": Dialect.BINANCE_SPOT, "fstream.binance.com": Dialect.BINANCE_USDM,
    "dstream.binance.com": Dialect.BINANCE_COINM,
}
_SESSION = re.compile(r"(.+)_ws_[0-9]+(\.txt(?:\.gz)?)")
_MOST_BODIES = 64


class _Line(NamedTuple):
    """One received thing of a file."""

    ts_ns: int
    number: int  # of the line
    file: int
    url: str  # of a REST answer; empty for a frame
    data: bytes


def _is_capture(path: Path) -> bool:
    """True for a capture, False for what can only be a session log. Raises CaptureError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return _CAPTURE_LINE.match(file.readline(32)) is not None
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _beside(path: Path) -> list[Path]:
    """The REST logs of the session that a log is of."""
    match = _SESSION.fullmatch(path.name)
    return sorted(path.parent.glob(f"{match[1]}_rest_*{match[2]}")) if match else []


def _venue_of(url: str) -> PlayedVenue | None:
    """The venue that a WebSocket URL is of."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _BINANCE:
        return BinanceVenue(_BINANCE[host])
    if host == "futures.kraken.com":
        return KrakenFutures()
    if host in ("ws.kraken.com", "ws-auth.kraken.com"):
        return KrakenSpotV2() if parts.path.rstrip("/") == "/v2" else KrakenSpotV1()
    return None


class Recording:
    """See the module. Raises CaptureError for files that are no recording of one venue, or cannot be read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise CaptureError("no file to play")
        self.name = " ".join(str(path) for path in paths)
        self.count = 0  # items
        self.first_ns = 0  # time of the first
        self._files: list[tuple[Path, bool]] = []  # with: is a capture
        beside: dict[Path, None] = {}
        for path in paths:
            self._files.append((path, _is_capture(path)))
            beside |= dict.fromkeys(_beside(path))
        self._main = len(self._files)  # what comes behind are REST logs, of no connection
        self._files += [(path, False) for path in beside if path not in paths]
        self.venue = self._which_venue()
        self._symbols: list[set[str]] = [set() for _ in self._files]  # that depth or trades of each file are of
        self._learn()

    # what it is

    def _which_venue(self) -> PlayedVenue:
        if all(is_capture for _, is_capture in self._files):
            frames = ((line.number, line.data) for line in self._lines())
            instruments = instruments_of(Path(self.name), frames)
            binance = BinanceVenue(Dialect(instruments[0].dialect))
            binance.instruments = instruments
            return binance
        if any(is_capture for _, is_capture in self._files):
            raise CaptureError(f"{self.name}: captures and session logs do not play together")
        found: dict[str, PlayedVenue] = {}
        for path, _ in self._files[: self._main]:
            url = next((line.connection for line in session_lines(path) if line.direction is Direction.OPENED), "")
            venue = _venue_of(url)
            if venue is None:
                raise CaptureError(f"{path}: a session of no venue that can be played ({url or 'it opens no socket'})")
            found[venue.name] = venue
        if len(found) > 1:
            raise CaptureError(f"{self.name}: sessions of several venues, {', '.join(found)}")
        return next(iter(found.values()))

    def _learn(self) -> None:
        bodies: set[str] = set()
        for line in self._lines():
            if line.url and not _is_depth(line.url) and len(bodies) < _MOST_BODIES:
                bodies.add(line.url)
                self.venue.learn_body(last_part(urlsplit(line.url).path), line.data)
            elif not line.url:
                stream = self.venue.read(line.data).stream
                if "@" in stream:
                    self._symbols[line.file].add(stream.partition("@")[0].upper())
        for item in self.items():
            self.count, self.first_ns = item.ordinal, self.first_ns or item.ts_ns
            self.venue.learn(item)
        if not self.venue.streams:
            raise CaptureError(f"{self.name}: no market data of {self.venue.name}")
        has_listing = any(last_part(urlsplit(url).path) == "exchangeInfo" for url in bodies)
        if isinstance(self.venue, BinanceVenue) and not self.venue.instruments and not has_listing:
            frames = ((line.number, line.data) for line in self._lines() if not line.url)
            self.venue.instruments = instruments_of(Path(self.name), frames)

    # reading

    def _lines(self) -> Iterator[_Line]:
        """Everything that was received, of all files, by time; within a file in its order."""
        return heapq.merge(*(self._file(number) for number in range(len(self._files))), key=lambda line: line.ts_ns)

    def _file(self, index: int) -> Iterator[_Line]:
        path, is_capture = self._files[index]
        if is_capture:
            for number, ts_ns, frame in capture_lines(path):
                yield _Line(ts_ns, number, index, "", frame)
            return
        for line in session_lines(path):
            if line.direction is Direction.RECEIVED and index < self._main:
                yield _Line(line.ts_ns, line.number, index, "", line.data)
            elif line.direction is Direction.REST:
                yield _Line(line.ts_ns, line.number, index, line.connection, line.data)

    def items(self) -> Iterator[Item]:
        """The recording. Raises CaptureError."""
        ordinal = 0
        for line in self._lines():
            if line.url:
                if not _is_depth(line.url):
                    continue
                symbol = parse_qs(urlsplit(line.url).query).get("symbol", [""])[0]
                what, stream, start = What.SNAPSHOT, symbol, 0
            else:
                what, stream, start = self.venue.read(line.data)
                if what is What.SNAPSHOT:
                    stream = self._snapshot_symbol(line)
            ordinal += 1
            yield Item(line.ts_ns, min(line.file, self._main - 1), what, line.data, ordinal, stream, start)

    def _snapshot_symbol(self, line: _Line) -> str:
        """Whose book a depth body without a URL is: what it names, else the only symbol of its file."""
        try:
            named = orjson.loads(line.data).get("symbol", "")
        except (orjson.JSONDecodeError, AttributeError):
            named = ""
        symbols = self._symbols[line.file]
        if named in symbols:
            return str(named)
        if len(symbols) != 1:
            raise no_symbol(f"{self._files[line.file][0]}, line {line.number}")
        return next(iter(symbols))


def _is_depth(url: str) -> bool:
    return last_part(urlsplit(url).path) == "depth"
