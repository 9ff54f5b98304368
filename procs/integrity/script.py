"""Recordings made ready for the drill: items, what their frames say of books, and places to begin at.

At a place to begin the venue has seen everything before it, so a client that connects there is a late subscriber, and
gets the book as it stands. Books of Kraken spot v2 are made from a recording of v1: the same texts and the same rule
of checksums, DEPTH_V2 levels deep, in the form that is documented; no session of v2 was recorded.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from engine.instruments import Dialect, Instrument
from procs.integrity.told import BUY, SELL, Reader, Told
from procs.integrity.truth import TrueBook
from procs.recordings import read_instruments
from procs.venues.kraken_spot.instruments import v2_symbol
from procs.wire_player.binance import without_speed
from procs.wire_player.kraken_spot import KrakenSpotV2
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import PlayedVenue

# By dialect: the recording, and the seconds after its first whole book at which runs begin.
RECORDINGS: Mapping[Dialect, tuple[str, tuple[float, ...]]] = {
    Dialect.BINANCE_SPOT: ("ws/binance-spot/ethusdt_20240808.raw.gz", (1, 11, 21, 31)),
    Dialect.BINANCE_USDM: ("ws/binance-usdm/btcusdt_20230404.raw.gz", (1, 11, 21, 31)),
    Dialect.BINANCE_COINM: ("ws/binance-coinm/btcusd_perp_20240808.raw.gz", (1, 11, 21, 31)),
    Dialect.KRAKEN_SPOT_V1: ("ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz", (-1, 0.5, 4)),
    Dialect.KRAKEN_SPOT_V2: ("ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz", (-1, 0.5, 4)),
    Dialect.KRAKEN_FUTURES: ("ws/kraken-futures/cf_20210722_ws_1.txt.gz", (-1, 0.5, 4)),
}
WINDOW_NS = 25_000_000_000  # of a run
DEPTH_V2 = 25
_LAST_START_S = 31
_SECOND_NS = 1_000_000_000


class Start(NamedTuple):
    """A place to begin: which item comes next, and venue and books as they were before it, pickled."""

    first: int
    venue: bytes
    books: bytes  # dict[int, TrueBook] by instrument; one that is not there has not begun


@dataclass(frozen=True, eq=False)
class Script:
    """See the module."""

    dialect: Dialect
    instruments: tuple[Instrument, ...]
    items: tuple[Item, ...]
    told: Mapping[int, Told]  # by ordinal: book frames and depth bodies
    streams: tuple[str, ...]  # by instrument: of its book, as items name it
    ordinals: tuple[tuple[int, ...], ...]  # by instrument: of the keys of `told`, in order
    starts: tuple[Start, ...]


@cache
def script_of(root: Path, dialect: Dialect) -> Script:
    """The script of a dialect from the recordings under a folder. Raises CaptureError as their readers do."""
    name, offsets = RECORDINGS[dialect]
    path = root / name
    instruments = read_instruments(path)
    recording = Recording([path])
    venue: PlayedVenue = recording.venue
    most_ns = recording.first_ns + (_LAST_START_S + 10) * _SECOND_NS + WINDOW_NS
    items: tuple[Item, ...] = tuple(takewhile(lambda item: item.ts_ns < most_ns, recording.items()))
    if dialect == Dialect.KRAKEN_SPOT_V2:
        instruments, items = _made_v2(instruments, items)
        venue = KrakenSpotV2()
        for item in items:
            venue.learn(item)
    reader = Reader(instruments)
    told = {item.ordinal: found for item in items if (found := _told(reader, item)) is not None}
    streams = {told[item.ordinal].instrument: item.stream for item in items
               if item.ordinal in told and item.what is What.FRAME}  # fmt: skip
    ordinals = tuple(tuple(key for key, of in told.items() if of.instrument == item.index) for item in instruments)
    return Script(
        dialect, instruments, items, told, tuple(streams[item.index] for item in instruments), ordinals,
        tuple(_starts(instruments, items, told, venue, offsets)),
    )


def _told(reader: Reader, item: Item) -> Told | None:
    if item.what is What.SNAPSHOT:
        return reader.body(item.stream, item.data)
    return reader.read(item.data) if item.what is What.FRAME else None


def _starts(
    instruments: tuple[Instrument, ...], items: tuple[Item, ...], told: Mapping[int, Told], venue: PlayedVenue,
    offsets: tuple[float, ...],
) -> Iterator[Start]:
    """Let the venue and the books see everything, and keep them as they are at the offsets."""
    depth_of = {item.index: item.book_depth for item in instruments}
    books: dict[int, TrueBook] = {}
    recent: list[Told] = []  # diffs that a body of REST may be older than
    whole_ns = 0
    left = list(offsets)
    for number, item in enumerate(items):
        if left and (left[0] < 0 or (whole_ns and item.ts_ns >= whole_ns + left[0] * _SECOND_NS)):
            left.pop(0)
            yield Start(number, pickle.dumps(venue), pickle.dumps(books))
        venue.see(item)
        found = told.get(item.ordinal)
        if found is None:
            continue
        if item.what is What.SNAPSHOT:
            books[found.instrument] = TrueBook(0)
            books[found.instrument].take(found)
            later = [diff for diff in recent if int(diff.numbers[-1]) > int(found.numbers[0])]
            for diff in later:
                books[found.instrument].take(diff)
        elif found.is_snapshot:
            books[found.instrument] = TrueBook(depth_of[found.instrument])
            books[found.instrument].take(found)
        elif found.instrument in books:
            books[found.instrument].take(found)
        else:
            recent.append(found)
        if not whole_ns and len(books) == len(instruments):
            whole_ns = item.ts_ns


def book_stream(item: Item) -> bool:
    """Whether an item is of a book."""
    return item.stream.startswith("book") or without_speed(item.stream).endswith("@depth")


# --- Kraken spot v2, made from v1 ------------------------------------------------------------------------------------


def _digits(text: str) -> str:
    return text.replace(".", "").lstrip("0")


def _best(side: Mapping[str, str], falling: bool, most: int) -> dict[str, str]:
    return {price: side[price] for price in sorted(side, key=Decimal, reverse=falling)[:most]}


class _MadeBook:
    """The book of a pair: all of it, and what a client of DEPTH_V2 levels holds."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.sides: dict[int, dict[str, str]] = {BUY: {}, SELL: {}}
        self.held: dict[int, dict[str, str]] = {BUY: {}, SELL: {}}

    def put(self, side: int, levels: Iterable[list[str]]) -> None:
        """Levels of v1."""
        for price, size, *_ in levels:
            self.sides[side].pop(price, None)
            if Decimal(size):
                self.sides[side][price] = size

    def frame(self, is_snapshot: bool, ts_ns: int) -> bytes:
        """The frame of v2 that makes a client's book this one; empty where it is so already."""
        if is_snapshot:
            self.held = {BUY: {}, SELL: {}}
        changes: dict[int, dict[str, str]] = {}
        for side, held in self.held.items():
            best = _best(self.sides[side], side == BUY, DEPTH_V2)
            changes[side] = {price: size for price, size in best.items() if held.get(price) != size}
            changes[side] |= {price: "0.00000000" for price in held if price not in self.sides[side]}
            self.held[side] = best
        if not any(changes.values()):
            return b""
        asks, bids = (_best(self.held[side], side == BUY, 10) for side in (SELL, BUY))
        digits = "".join(_digits(text) for book in (asks, bids) for level in book.items() for text in level)
        lists = (
            ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in changes[side].items())
            for side in (BUY, SELL)
        )
        time = datetime.fromtimestamp(ts_ns // 1000 / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        kind = "snapshot" if is_snapshot else "update"
        text = '{{"channel":"book","type":"{}","data":[{{"symbol":"{}","bids":[{}],"asks":[{}],"checksum":{},{}}}]}}'
        checksum = zlib.crc32(digits.encode())
        return text.format(kind, self.symbol, *lists, checksum, f'"timestamp":"{time}"').encode()


def _made_v2(
    instruments: tuple[Instrument, ...], items: tuple[Item, ...]
) -> tuple[tuple[Instrument, ...], tuple[Item, ...]]:
    """Instruments and items of v2."""
    made = tuple(
        replace(item, symbol=v2_symbol(item.symbol), dialect=Dialect.KRAKEN_SPOT_V2, book_depth=DEPTH_V2)
        for item in instruments
    )
    books = {item.symbol: _MadeBook(v2_symbol(item.symbol)) for item in instruments}
    found: list[Item] = []

    def add(item: Item, what: What, data: bytes, stream: str) -> None:
        found.append(item._replace(what=what, data=data, stream=stream, ordinal=len(found) + 1, start=0))

    for symbol in (item.symbol for item in made):
        result: dict[str, Any] = {"channel": "book", "depth": DEPTH_V2, "snapshot": True, "symbol": symbol}
        answer = orjson.dumps({"method": "subscribe", "result": result, "success": True})
        add(items[0], What.REPLY, answer, f"book {symbol}")
    for item in items:
        message = json.loads(item.data)
        if isinstance(message, dict):
            if message.get("event") == "heartbeat":
                add(item, What.FRAME, b'{"channel":"heartbeat"}', "")
            continue
        book = books[message[-1]]
        is_snapshot = "as" in message[1]
        for payload in message[1:-2]:
            for key, levels in payload.items():
                if key != "c":
                    book.put(BUY if key.startswith("b") else SELL, levels)
        if data := book.frame(is_snapshot, item.ts_ns):
            add(item, What.FRAME, data, f"book {book.symbol}")
    return made, tuple(found)
