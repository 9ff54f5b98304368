"""Kraken's wire formats a second time, slowly: json, Decimal, dictionaries. The oracle of tests/test_kraken_*.py.

It shares with the engine the record layout, the instruments and the numbers of kinds and sides, and no code.
"""

from __future__ import annotations

import calendar
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import numpy as np

from engine.ingest.kraken_kernel import (
    kraken_frame,
    kraken_listed,
    kraken_lost,
    kraken_start,
    kraken_timer,
    make_kraken_outbox,
)
from engine.ingest.kraken_state import FrameKind, make_kraken_state
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import Kind, Side, Status
from engine.stage import as_bytes
from procs.session_logs import Direction, session_lines
from tests.recordings import require_capture

V1_CAPTURES = tuple(f"ws/kraken-spot-v1/cf_20210417_ws_{number}.txt.gz" for number in (48, 49, 50))
V1_LISTING = "ws/kraken-spot-v1/cf_20210417_rest_instruments.txt.gz"
FUTURES_CAPTURE = "ws/kraken-futures/cf_20210722_ws_1.txt.gz"
FUTURES_LISTING = "ws/kraken-futures/cf_20210722_rest_instruments.txt.gz"
V1_PAIRS = (
    "WAVES/EUR", "XMR/USD", "KSM/XBT", "GRT/ETH", "SC/EUR", "ETH/CHF", "OCEAN/XBT", "OMG/USD", "XBT/CHF", "ADA/XBT",
)  # fmt: skip
PRODUCTS = (
    "FI_ETHUSD_211231", "PI_XRPUSD", "PI_LTCUSD", "FI_BCHUSD_210730", "PI_ETHUSD", "FI_XBTUSD_210924",
    "FI_ETHUSD_210730", "FI_BCHUSD_210924", "FI_XRPUSD_210924", "FI_XBTUSD_210730",
)  # fmt: skip


def received(relative: str) -> Iterator[tuple[int, bytes]]:
    """(receive time ns, frame) of a recorded session. Skips the calling test where it is absent."""
    for line in session_lines(require_capture(relative)):
        if line.direction is Direction.RECEIVED:
            yield line.ts_ns, line.data


def rest_body(relative: str) -> bytes:
    """The first REST body of a session log. Skips the calling test where it is absent."""
    return next(line.data for line in session_lines(require_capture(relative)) if line.direction is Direction.REST)


def instrument(symbol: str, price_exp: int = 1, size_exp: int = 8, index: int = 0, tick_size: int = 1) -> Instrument:
    return Instrument(
        index=index, symbol=symbol, base=symbol[:3], quote=symbol[-3:], price_exp=price_exp, size_exp=size_exp,
        tick_size=tick_size, lot_size=1, min_notional=0, venue=5, epoch=2,
    )  # fmt: skip


class Session:
    """The kernels under test, with an outbox."""

    def __init__(self, instruments: Sequence[Instrument], dialect: Dialect, liquidation_min: int = 0) -> None:
        self.instruments = tuple(replace(item, dialect=dialect) for item in instruments)
        self.state = make_kraken_state(self.instruments, liquidation_min)
        self.outbox = make_kraken_outbox()
        self.number = 0
        self.passed_on = 0  # records of market data

    @property
    def row(self) -> np.void:
        return self.state[0]

    def start(self, recv_ts_ns: int) -> int:
        return int(kraken_start(as_bytes(self.state), recv_ts_ns, as_bytes(self.outbox)))

    def frame(self, frame: bytes, recv_ts_ns: int = 1) -> int:
        self.number += 1
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        n = int(kraken_frame(state, frame, recv_ts_ns, self.number, outbox))
        kinds = self.outbox["kind"][: max(n, 0)]
        self.passed_on += int(((kinds != Kind.CLOCK) & (kinds != Kind.GAP)).sum())
        return n

    def records(self, frame: bytes, recv_ts_ns: int = 1) -> np.ndarray:
        """The records of a frame that is taken, without a CLOCK."""
        n = self.frame(frame, recv_ts_ns)
        assert n >= 0, Reason(-n)
        return self.outbox[:n][self.outbox["kind"][:n] != Kind.CLOCK].copy()

    def timer(self, now_ns: int) -> int:
        return int(kraken_timer(as_bytes(self.state), now_ns, as_bytes(self.outbox)))

    def lost(self, index: int, first_lost: int, recv_ts_ns: int) -> int:
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        return int(kraken_lost(state, index, first_lost, recv_ts_ns, outbox))

    def listed(self, index: int, tick: int, lot: int, minimum: int, status: Status, recv_ts_ns: int) -> np.ndarray:
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        return self.outbox[: int(kraken_listed(state, index, tick, lot, minimum, status, recv_ts_ns, outbox))].copy()

    def frames_of(self) -> dict[FrameKind, int]:
        return {kind: int(self.row["frames_of"][kind]) for kind in FrameKind if self.row["frames_of"][kind]}

    def decoded(self) -> dict[Kind, int]:
        return {Kind(int(kind)): int(self.row["decoded"][kind]) for kind in np.flatnonzero(self.row["decoded"])}

    def reasons(self, name: str) -> dict[Reason, int]:
        return {Reason(int(code)): int(self.row[name][code]) for code in np.flatnonzero(self.row[name])}

    def balances(self) -> bool:
        """True when every frame given is processed, refused or dropped, and every record passed on or dropped."""
        row = self.row
        done = int(row["processed"]) + int(row["quarantined"].sum()) + int(row["dropped"].sum())
        records = int(row["decoded"].sum()) - int(row["records_dropped"].sum())
        return int(row["records_in"]) == done == int(row["frames"]) and records == self.passed_on


class Row(NamedTuple):
    """What the oracle says of one record."""

    kind: int
    side: int
    price: int
    size: int
    aux: int
    instrument: int
    exch_ts_ns: int
    sequence: int


def rows_of(records: np.ndarray) -> list[Row]:
    """Records as the oracle writes them; a checksum word is left out."""
    names = Row._fields
    rows = [Row(*(int(record[name]) for name in names)) for record in records]
    return [row._replace(aux=0) if row.kind == Kind.LEVEL else row for row in rows]


def units(value: Decimal | str, exp: int, rounded: bool = False) -> int:
    """A number as a whole number of 10^-exp. Raises ValueError where it is none, unless it may be rounded."""
    scaled = Decimal(value).scaleb(exp)
    whole = scaled.to_integral_value(ROUND_HALF_UP)
    if whole != scaled and not rounded:
        raise ValueError(f"{value} at 10^-{exp}")
    return int(whole)


def iso_ns(text: str) -> int:
    """An ISO time ending in Z as ns."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = calendar.timegm(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").timetuple())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)


def load(frame: bytes) -> Any:
    """A frame with every number as the Decimal of its text."""
    return json.loads(frame, parse_float=Decimal, parse_int=Decimal)


def _level(item: Instrument, side: int, price: Any, size: Any, time_ns: int, sequence: int = 0) -> Row:
    price, size = units(price, item.price_exp), units(size, item.size_exp)
    return Row(Kind.LEVEL, side, price, size, 0, item.index, time_ns, sequence)


def _quotes(item: Instrument, pairs: Sequence[tuple[int, Any, Any]], time_ns: int) -> list[Row]:
    return [
        Row(Kind.QUOTE, side, units(price, item.price_exp), units(size, item.size_exp), 0, item.index, time_ns, 0)
        for side, price, size in pairs
    ]


SYSTEM = {"online": Status.TRADING, "cancel_only": Status.CANCEL_ONLY, "post_only": Status.POST_ONLY}


def _system(frame: bytes, word: Any, instruments: dict[str, Instrument]) -> list[Row]:
    """What a word of the trading engine's state makes of instruments that trade: one that nobody knows is a halt."""
    if b"\\" in frame:
        raise ValueError("words are compared as they are written")
    status = SYSTEM.get(word, Status.HALTED)
    indexes = sorted(item.index for item in instruments.values())
    return [Row(Kind.STATUS, 0, 0, 0, status, index, 0, 0) for index in indexes if status != Status.TRADING]


def decode_v1(frame: bytes, instruments: dict[str, Instrument]) -> list[Row]:
    """The records of a frame of spot v1; of events only the state of the trading engine has any."""
    message = load(frame)
    if isinstance(message, dict):
        if message.get("event") == "systemStatus" and "status" in message:
            return _system(frame, message["status"], instruments)
        return []
    item, channel = instruments[message[-1]], message[-2]
    if channel.startswith("book-"):
        known = ("a", "b", "as", "bs")
        sides = [(key, levels) for part in message[1:-2] for key, levels in part.items() if key in known]
        if len({len(key) for key, _ in sides}) != 1 or (len(sides[0][0]) == 2 and len(sides) != 2):
            raise ValueError("neither a snapshot of two sides nor an update")
        times = [units(level[2], 9) for _, levels in sides for level in levels]
        return [
            _level(item, Side.SELL if key[0] == "a" else Side.BUY, level[0], level[1], max(times))
            for key, levels in sides
            for level in levels
        ]
    if channel == "trade":
        return [
            Row(Kind.TRADE, Side.BUY if side == "b" else Side.SELL, units(price, item.price_exp),
                units(size, item.size_exp), 0, item.index, units(time, 9), 0)
            for price, size, time, side, *_ in message[1]
        ]  # fmt: skip
    if channel == "ticker":
        bid, ask = message[1]["b"], message[1]["a"]
        return _quotes(item, [(Side.BUY, bid[0], bid[2]), (Side.SELL, ask[0], ask[2])], 0)
    bid, ask, time, bid_size, ask_size = message[1]
    return _quotes(item, [(Side.BUY, bid, bid_size), (Side.SELL, ask, ask_size)], units(time, 9))


def decode_v2(frame: bytes, instruments: dict[str, Instrument]) -> list[Row]:
    """The records of a frame of spot v2; none for what is neither live market data nor the trading engine's state."""
    message, rows = load(frame), []
    channel = message.get("channel")
    if channel == "status":
        return _system(frame, message["data"][0]["system"], instruments)
    if channel not in ("book", "trade", "ticker") or (channel == "trade" and message["type"] == "snapshot"):
        return []
    for part in message["data"]:
        item = instruments[part["symbol"]]
        time_ns = iso_ns(part["timestamp"]) if "timestamp" in part else 0
        if channel == "book":
            for side, levels in ((Side.BUY, part["bids"]), (Side.SELL, part["asks"])):
                rows += [_level(item, side, level["price"], level["qty"], time_ns) for level in levels]
        elif channel == "ticker":
            pairs = [(Side.BUY, part["bid"], part["bid_qty"]), (Side.SELL, part["ask"], part["ask_qty"])]
            rows += _quotes(item, pairs, time_ns)
        else:
            trade_id = int(part.get("trade_id", 0))
            side = Side.BUY if part["side"] == "buy" else Side.SELL
            price, size = units(part["price"], item.price_exp), units(part["qty"], item.size_exp)
            rows.append(Row(Kind.TRADE, side, price, size, trade_id, item.index, time_ns, trade_id))
    return rows


def decode_futures(frame: bytes, instruments: dict[str, Instrument]) -> list[Row]:
    """The records of a data frame of Kraken Futures; none for what is not live market data."""
    message = load(frame)
    feed = message.get("feed")
    if "event" in message or feed not in ("book", "book_snapshot", "trade", "ticker", "ticker_lite"):
        return []
    item = instruments[message["product_id"]]
    time_ns = int(message.get("timestamp" if "book" in feed else "time", 0)) * 10**6
    sequence = int(message.get("seq", 0))
    if feed == "book":
        side = Side.BUY if message["side"] == "buy" else Side.SELL
        return [_level(item, side, message["price"], message["qty"], time_ns, sequence)]
    if feed == "book_snapshot":
        return [
            _level(item, side, level["price"], level["qty"], time_ns, sequence)
            for side, levels in ((Side.BUY, message["bids"]), (Side.SELL, message["asks"]))
            for level in levels
            if level["qty"] != 0
        ]
    if feed == "trade":
        side = Side.BUY if message["side"] == "buy" else Side.SELL
        price, size = units(message["price"], item.price_exp), units(message["qty"], item.size_exp)
        kinds = {"fill": [Kind.TRADE], "liquidation": [Kind.TRADE, Kind.LIQUIDATION]}.get(message["type"], [])
        return [Row(kind, side, price, size, sequence, item.index, time_ns, sequence) for kind in kinds]
    sides = ((Side.BUY, "bid"), (Side.SELL, "ask"))
    told = [(side, name) for side, name in sides if message.get(name) is not None]
    rows = _quotes(item, [(side, message[name], message.get(f"{name}_size") or 0) for side, name in told], time_ns)
    if message.get("markPrice") is not None:
        mark, index = (units(message.get(name) or 0, 8, rounded=True) for name in ("markPrice", "index"))
        rows.append(Row(Kind.MARK_PRICE, 0, mark, index, 0, item.index, time_ns, 0))
    if message.get("relative_funding_rate") is not None and message.get("next_funding_rate_time") is not None:
        rate = units(message["relative_funding_rate"], 12, rounded=True)
        rows.append(Row(Kind.FUNDING, 0, 0, int(message["next_funding_rate_time"]), rate, item.index, time_ns, 0))
    if message.get("openInterest") is not None:
        size = units(message["openInterest"], item.size_exp, rounded=True)
        rows.append(Row(Kind.OPEN_INTEREST, 0, 0, size, 0, item.index, time_ns, 0))
    if message.get("suspended") is True or message.get("post_only") is True:  # of a contract that was trading
        status = Status.HALTED if message.get("suspended") is True else Status.POST_ONLY
        rows.append(Row(Kind.STATUS, 0, 0, 0, status, item.index, time_ns, 0))
    return rows


ORACLES = {Dialect.KRAKEN_SPOT_V1: decode_v1, Dialect.KRAKEN_SPOT_V2: decode_v2, Dialect.KRAKEN_FUTURES: decode_futures}


@dataclass
class TextBook:
    """A book of the numbers' own text, cut to a depth: the rule as the venue states it."""

    depth: int
    bids: dict[Decimal, tuple[str, str]] = field(default_factory=dict)
    asks: dict[Decimal, tuple[str, str]] = field(default_factory=dict)

    def apply(self, is_bid: bool, price: str, size: str) -> None:
        side = self.bids if is_bid else self.asks
        if Decimal(size) == 0:
            side.pop(Decimal(price), None)
        else:
            side[Decimal(price)] = (price, size)

    def cut(self) -> None:
        for price in sorted(self.bids, reverse=True)[self.depth :]:
            del self.bids[price]
        for price in sorted(self.asks)[self.depth :]:
            del self.asks[price]

    def checksum(self) -> int:
        best = [self.asks[price] for price in sorted(self.asks)[:10]]
        best += [self.bids[price] for price in sorted(self.bids, reverse=True)[:10]]
        text = "".join(number.replace(".", "").lstrip("0") for level in best for number in level)
        return zlib.crc32(text.encode())

    def levels(self, item: Instrument) -> list[list[tuple[int, int]]]:
        """[bids, asks] as (price, size) in units, best first."""
        return [
            [
                (units(text[0], item.price_exp), units(text[1], item.size_exp))
                for _, text in sorted(side.items(), reverse=side is self.bids)
            ]
            for side in (self.bids, self.asks)
        ]
