"""Anything recorded that can be replayed, whatever its format: the instruments, and the inputs in the order of receipt.

A capture (procs/captures.py) is one file. A session log (procs/session_logs.py) is often one of several: NAME_ws_N are
connections, NAME_rest_WHAT_N answers of the same session; given one of them, all that lie beside it are read, merged by
time of receipt. Which venue and dialect it is of the URLs of its sockets say. Instruments are those that were
subscribed, as the venue's own listing in the session describes them; a session of Binance without a listing is read
once through, as a capture is.

What an input is: a frame that was received; the body of a depth request, for the symbol in its URL; a connection that
is opened again in its file, which is a loss of what came in between. Sent frames and other answers are none.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import orjson

from engine.binance_listing import instrument_from_binance
from engine.ingest.state import BINANCE_DIALECTS
from engine.instruments import MAX_INSTRUMENTS, Dialect, Instrument
from procs.captures import CaptureError, capture_inputs, instruments_of, scan_instruments
from procs.decoding import ALL_INSTRUMENTS
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.session_logs import Direction, SessionLine, is_session_log, session_lines
from procs.venues.kraken_futures.instruments import instruments_from_rest
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs, instruments_from_channel

# By the host of a socket and the beginning of its path, the most particular first.
_DIALECTS = (
    ("stream.binance.com", "", Dialect.BINANCE_SPOT),
    ("fstream.binance.com", "", Dialect.BINANCE_USDM),
    ("dstream.binance.com", "", Dialect.BINANCE_COINM),
    ("ws.kraken.com", "/v2", Dialect.KRAKEN_SPOT_V2),
    ("ws.kraken.com", "", Dialect.KRAKEN_SPOT_V1),
    ("futures.kraken.com", "/ws", Dialect.KRAKEN_FUTURES),
)
_PART = re.compile(r"(?P<session>.+)_(?:ws_[0-9]+|rest_[a-z]+(?:_[0-9]+)?)\.txt(?:\.gz)?")
_LISTINGS = ("/exchangeInfo", "/AssetPairs", "/instruments")
UNNAMED_DEPTH = 10  # of a book of Kraken spot that is asked for without a depth
_CHANNEL_OF_INSTRUMENTS = b'"channel":"instrument"'


class _Session(NamedTuple):
    """What a pass over a session log tells of it."""

    dialect: Dialect
    symbols: tuple[str, ...]  # that were subscribed, in the order in which they were named first
    listing: bytes  # what describes them; empty when the session holds no such thing
    book_depth: int  # levels a side that were subscribed to, where Kraken spot tells no more; else 0


def read_instruments(path: Path) -> tuple[Instrument, ...]:
    """The instruments of a capture or a session log. Raises CaptureError."""
    if not is_session_log(path):
        return scan_instruments(path)
    session = _survey(path)
    if not session.symbols:
        raise CaptureError(f"{path}: market data of no symbol were asked for in it")
    if len(session.symbols) > MAX_INSTRUMENTS:
        raise CaptureError(f"{path}: market data of {len(session.symbols)} symbols; allowed are 1 to {MAX_INSTRUMENTS}")
    if session.dialect in BINANCE_DIALECTS and not session.listing:
        lines = (line for _, line in session_lines_of(path) if line.direction is Direction.RECEIVED)
        return instruments_of(path, ((line.number, line.data) for line in lines))
    try:
        return _described(session)
    except ValueError as error:
        raise CaptureError(f"{path}: {error}") from None


def read_inputs(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[JournalEntry]:
    """Its inputs, the start first. Raises CaptureError."""
    if not is_session_log(path):
        return capture_inputs(path, instruments)
    return _session_inputs(path, {item.symbol: item.index for item in instruments})


def _files(path: Path) -> list[Path]:
    """All files of the session that this one is of, by name."""
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    beside = (_PART.fullmatch(other.name) for other in path.parent.iterdir())
    return sorted(path.parent / other.string for other in beside if other and other["session"] == part["session"])


def _numbered(number: int, path: Path) -> Iterator[tuple[int, SessionLine]]:
    return ((number, line) for line in session_lines(path))


def session_lines_of(path: Path) -> Iterator[tuple[int, SessionLine]]:
    """(number of the file, line) of all files of a session by time of receipt, the lines of one file in their order."""
    files = (_numbered(number, file) for number, file in enumerate(_files(path)))
    return heapq.merge(*files, key=lambda item: item[1].ts_ns)


def _dialect(url: str) -> Dialect | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return next((dialect for name, start, dialect in _DIALECTS if host == name and parts.path.startswith(start)), None)


def _survey(path: Path) -> _Session:
    """Read a session through for what it says of itself. Raises CaptureError for one of no venue that we know."""
    dialects: set[Dialect] = set()
    symbols: dict[str, None] = {}
    listing, depth = b"", 0
    for _, line in session_lines_of(path):
        if line.direction is Direction.OPENED and (dialect := _dialect(line.connection)) is not None:
            dialects.add(dialect)
            symbols |= dict.fromkeys(_streamed(line.connection))
        elif line.direction is Direction.SENT:
            symbols |= dict.fromkeys(_subscribed(line.data))
            depth = max(depth, _depth(line.data))
        elif line.direction is Direction.REST and urlsplit(line.connection).path.endswith(_LISTINGS):
            listing = line.data
        elif line.direction is Direction.RECEIVED and not listing and _CHANNEL_OF_INSTRUMENTS in line.data[:64]:
            listing = line.data
    if len(dialects) != 1:
        names = ", ".join(sorted(item.name for item in dialects)) or "no venue that is known"
        raise CaptureError(f"{path}: sockets of {names}; one dialect is needed")
    return _Session(dialects.pop(), tuple(symbols), listing, depth)


def _streamed(url: str) -> list[str]:
    """Symbols in the URL of combined streams."""
    streams = parse_qs(urlsplit(url).query).get("streams", [""])[0].split("/")
    return [name.partition("@")[0].upper() for name in streams if "@" in name]


def _subscribed(frame: bytes) -> list[str]:
    """Symbols in a frame that was sent to subscribe, in the venue's spelling on the wire."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(message, Mapping):
        return []
    params = message.get("params")
    of_v2 = params.get("symbol") if isinstance(params, Mapping) else None
    named = message.get("pair") or message.get("product_ids") or of_v2 or ()
    return [str(name).upper() for name in named] if isinstance(named, list) else []


def _depth(frame: bytes) -> int:
    """How deep a book of Kraken spot a frame asks for; 0 when it asks for none."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return 0
    if not isinstance(message, Mapping):
        return 0
    for asked in (message.get("subscription"), message.get("params")):
        if isinstance(asked, Mapping) and "book" in (asked.get("name"), asked.get("channel")):
            return int(asked.get("depth") or UNNAMED_DEPTH)
    return 0


def _described(session: _Session) -> tuple[Instrument, ...]:
    """The instruments as the listing describes them. Raises ValueError where it does not."""
    dialect, symbols, listing, depth = session
    if not listing:
        raise ValueError("the session holds no list of instruments")
    if dialect == Dialect.KRAKEN_FUTURES:
        return instruments_from_rest(listing, symbols)
    if dialect == Dialect.KRAKEN_SPOT_V1:
        return tuple(replace(item, book_depth=depth) for item in instruments_from_asset_pairs(listing, symbols))
    if dialect == Dialect.KRAKEN_SPOT_V2:
        return tuple(replace(item, book_depth=depth) for item in instruments_from_channel(listing, symbols))
    try:
        listed = {entry["symbol"]: entry for entry in orjson.loads(listing)["symbols"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError("the answer to exchangeInfo is no list of instruments") from None
    if missing := [symbol for symbol in symbols if symbol not in listed]:
        raise ValueError(f"exchangeInfo: the venue does not list {', '.join(missing)}")
    return tuple(instrument_from_binance(listed[symbol], index, dialect) for index, symbol in enumerate(symbols))


def _session_inputs(path: Path, indices: Mapping[str, int]) -> Iterator[JournalEntry]:
    ordinal = 0
    opened: set[tuple[int, str]] = set()
    for file, line in session_lines_of(path):
        kind, source, payload = Entry.FRAME, 0, line.data
        if line.direction is Direction.OPENED:
            if (file, line.connection) not in opened:
                opened.add((file, line.connection))
                continue
            kind, source = Entry.LOST, ALL_INSTRUMENTS + 1
        elif line.direction is Direction.REST:
            symbol = depth_symbol(line.connection)
            if symbol not in indices:
                continue
            kind, source = Entry.SNAPSHOT, indices[symbol]
        elif line.direction is not Direction.RECEIVED:
            continue
        if ordinal == 0:
            yield JournalEntry(Entry.START, 0, line.ts_ns, 0, 1, b"")
        ordinal += 1
        yield JournalEntry(kind, ordinal, line.ts_ns, source, 1, payload)


def depth_symbol(url: str) -> str:
    """The symbol of a depth request; empty for any other."""
    parts = urlsplit(url)
    return parse_qs(parts.query).get("symbol", [""])[0] if parts.path.endswith("/depth") else ""
