"""Recordings as the player plays them: sources of one venue (sources.py), merged by time and read as a stream, twice.

The first pass learns what there is (and that every source can be read to its end), the second one plays. A selection
of times and symbols is what is played; what was received before its time is still read, for the books as they stood
then. A connection that a capture says was lost breaks there, and can be made again where the capture opens it again.
What is held in memory does not grow with length: the names of streams and symbols, one line of each source (one block
of a capture), and REST answers other than depth snapshots.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from engine.instruments import Dialect, Instrument
from procs.capture.layout import Captured
from procs.capture.reader import EVERYTHING, Selection
from procs.captures import CaptureError, instruments_of
from procs.wire_player.binance import BinanceVenue, with_assets
from procs.wire_player.kraken_futures import KrakenFutures
from procs.wire_player.kraken_spot import KrakenSpotV1, KrakenSpotV2
from procs.wire_player.sequence import Item, What
from procs.wire_player.sources import (
    ALL_CONNECTIONS,
    CaptureFolder,
    Line,
    SessionLog,
    Source,
    is_depth,
    open_sources,
)
from procs.wire_player.venue import PlayedVenue, last_part, no_symbol

_BINANCE = {
    "stream.binance.com": Dialect.BINANCE_SPOT, "fstream.binance.com": Dialect.BINANCE_USDM,
    "dstream.binance.com": Dialect.BINANCE_COINM,
}
_MOST_BODIES = 64


def _ignore(_: Item) -> None:
    """Nobody wants to know."""


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


def _venue_of_dialect(dialect: Dialect) -> PlayedVenue:
    """The venue whose wire format it is."""
    kraken: dict[Dialect, Callable[[], PlayedVenue]] = {
        Dialect.KRAKEN_SPOT_V1: KrakenSpotV1, Dialect.KRAKEN_SPOT_V2: KrakenSpotV2,
        Dialect.KRAKEN_FUTURES: KrakenFutures,
    }
    return kraken[dialect]() if dialect in kraken else BinanceVenue(dialect)


class Recording:
    """See the module. Raises CaptureError for what is no recording of one venue, or cannot be read."""

    def __init__(self, paths: Sequence[Path], selection: Selection = EVERYTHING) -> None:
        if not paths:
            raise CaptureError("no file to play")
        self.name = " ".join(str(path) for path in paths)
        self.count = 0  # items
        self.first_ns = 0  # time of the first
        self._selection = selection
        self._named, beside = open_sources(list(paths))
        self._sources: list[Source] = [*self._named, *beside]
        self._connection: list[int] = []  # the first one of each source
        for source in self._named:
            self._connection.append(sum(other.connections for other in self._named[: source.number]))
        self._connections = sum(source.connections for source in self._named)
        self.torn_bytes = sum(source.torn_bytes for source in self._sources)
        self._symbols: list[set[str]] = [set(source.symbols) for source in self._sources]
        self.venue = self._which_venue()
        self._learn()

    # what it is

    def _which_venue(self) -> PlayedVenue:
        if len({type(source) for source in self._named}) > 1:
            raise CaptureError(f"{self.name}: captures and session logs do not play together, nor files and folders")
        folders = [source for source in self._named if isinstance(source, CaptureFolder)]
        if folders:
            return self._venue_of_folders(folders)
        logs = [source for source in self._named if isinstance(source, SessionLog)]
        if not logs:
            instruments = self._seen_instruments()
            venue = BinanceVenue(Dialect(instruments[0].dialect))
            venue.instruments = self._wanted_instruments(instruments)
            return venue
        found: dict[str, PlayedVenue] = {}
        for source in logs:
            url = source.opened()
            of_url = _venue_of(url)
            if of_url is None:
                what = url or "it opens no socket"
                raise CaptureError(f"{source.path}: a session of no venue that can be played ({what})")
            found[of_url.name] = of_url
        if len(found) > 1:
            raise CaptureError(f"{self.name}: sessions of several venues, {', '.join(found)}")
        return next(iter(found.values()))

    def _venue_of_folders(self, folders: list[CaptureFolder]) -> PlayedVenue:
        """The venue that captures say they are of, with their instruments."""
        instruments = {item.symbol: item for folder in folders for item in folder.manifest.instruments}
        dialects = {Dialect(folder.manifest.instruments[0].dialect) for folder in folders}
        if len(dialects) > 1:
            names = ", ".join(sorted(dialect.name for dialect in dialects))
            raise CaptureError(f"{self.name}: captures of several markets, {names}")
        venue = _venue_of_dialect(dialects.pop())
        venue.instruments = self._wanted_instruments(tuple(instruments.values()))
        return venue

    def _wanted_instruments(self, known: tuple[Instrument, ...]) -> tuple[Instrument, ...]:
        """Those of the selection, numbered in their order. Raises CaptureError for one that is not there."""
        places = self._selection.places(tuple(item.symbol for item in known), Path(self.name))
        return tuple(dataclasses.replace(with_assets(known[place]), index=index) for index, place in enumerate(places))

    def _seen_instruments(self) -> tuple[Instrument, ...]:
        """What the frames of Binance show of the instruments."""
        frames = enumerate((line.data for line in self._lines() if line.kind == Captured.FRAME), 1)
        return instruments_of(Path(self.name), frames)

    def _learn(self) -> None:
        bodies: set[str] = set()
        for line in self._lines():
            if line.kind == Captured.REST and not is_depth(line) and line.url and len(bodies) < _MOST_BODIES:
                if self._sources[line.source].is_recorder_s:
                    continue  # its manifest has the listing; what came later is a change of it
                bodies.add(line.url)
                self.venue.learn_body(last_part(urlsplit(line.url).path), line.data)
            elif line.kind == Captured.FRAME:
                symbol = self.venue.symbol_of(self.venue.read(line.data).stream)
                if symbol:
                    self._symbols[line.source].add(symbol)
        self._selection.places(tuple(sorted(set().union(*self._symbols))), Path(self.name))
        for item in self.items(self.venue.learn):
            self.count, self.first_ns = item.ordinal, self.first_ns or item.ts_ns
            self.venue.learn(item)
        if not self.venue.streams:
            raise CaptureError(f"{self.name}: no market data of {self.venue.name}")
        if not self.count:
            raise CaptureError(f"{self.name}: nothing in it is of the times and symbols asked for")
        if isinstance(self.venue, BinanceVenue) and not self.venue.instruments:
            is_listed = self.venue.has_body("exchangeInfo")
            known = self.venue.listed_instruments() if is_listed else self._seen_instruments()
            self.venue.instruments = self._wanted_instruments(known) if known else ()

    # reading

    def _lines(self) -> Iterator[Line]:
        """Everything that was received, of all sources, by time; within a source in its order."""
        symbols = self._selection.symbols
        return heapq.merge(*(source.lines(symbols) for source in self._sources), key=lambda line: line.ts_ns)

    def items(self, before: Callable[[Item], None] = _ignore) -> Iterator[Item]:
        """The recording, as far as it is selected; what came before its time is given to `before`.

        Raises CaptureError.
        """
        ordinal = 0
        broken: set[int] = set()
        for line in self._lines():
            if line.ts_ns >= self._selection.to_ns:
                continue
            is_early = line.ts_ns < self._selection.from_ns
            for item in self._items_of(line, broken):
                if is_early:
                    before(item)
                else:
                    ordinal += 1
                    yield item._replace(ordinal=ordinal)

    def _items_of(self, line: Line, broken: set[int]) -> Iterator[Item]:
        """What a line is, without ordinals. broken: the lost connections."""
        if line.kind in (Captured.LOST, Captured.OPENED):
            yield from self._broken_or_made(line, broken)
            return
        start = 0
        if line.kind == Captured.REST:
            if not is_depth(line):
                return
            what, stream = What.SNAPSHOT, line.symbol or self._snapshot_symbol(line)
        else:
            what, stream, start = self.venue.read(line.data)
            if what is What.SNAPSHOT:
                stream = self._snapshot_symbol(line)
        symbol = stream if what is What.SNAPSHOT else self.venue.symbol_of(stream)
        if not symbol or not self._selection.symbols or symbol in self._selection.symbols:
            yield Item(line.ts_ns, self._connection_of(line), what, line.data, 0, stream, start)

    def _connection_of(self, line: Line) -> int:
        """Which of the recorded connections; REST answers beside session logs are of the last."""
        if line.source >= len(self._named):
            return self._connections - 1
        return self._connection[line.source] + line.connection

    def _broken_or_made(self, line: Line, broken: set[int]) -> Iterator[Item]:
        """The connections that a loss breaks, or the broken one that is made again."""
        first = self._connection[line.source]
        of_source = range(first, first + self._sources[line.source].connections)
        meant = of_source if line.connection == ALL_CONNECTIONS else (self._connection_of(line),)
        is_loss = line.kind == Captured.LOST
        for connection in meant:
            if (connection in broken) != is_loss:
                (broken.add if is_loss else broken.discard)(connection)
                yield Item(line.ts_ns, connection, What.DISCONNECT if is_loss else What.CONNECT, b"", 0, "")

    def _snapshot_symbol(self, line: Line) -> str:
        """Whose book a depth body is that comes without a URL: what it names, else the only symbol of its source."""
        try:
            named = orjson.loads(line.data).get("symbol", "")
        except (orjson.JSONDecodeError, AttributeError):
            named = ""
        symbols = self._symbols[line.source]
        if named in symbols:
            return str(named)
        if len(symbols) != 1:
            raise no_symbol(f"{self._sources[line.source].path}, {line.where}")
        return next(iter(symbols))
