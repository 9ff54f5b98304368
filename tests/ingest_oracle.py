"""Ingestion written a second time, slowly: orjson, Decimal, lists. The oracle of tests/test_ingest_*.py.

It shares with the engine the record layout, the reason codes and the state's counters, and no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

from engine.ingest.kernel import (
    ingest_frame,
    ingest_listed,
    ingest_lost,
    ingest_snapshot,
    ingest_start,
    ingest_timer,
    make_ingest_state,
    make_outbox,
)
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, Side, Status
from engine.stage import as_bytes

GRID_NS = 10_000_000
COUNTERS = (
    "frames", "events", "level_updates", "snapshot_levels", "trades", "book_tickers", "mark_prices", "funding",
    "liquidations", "gaps", "resyncs", "acks", "pending_frames", "records_in", "processed", "out",
)  # fmt: skip
FIELDS = MARKET.names or ()


def btcusdt(
    index: int = 0, symbol: str = "BTCUSDT", price_exp: int = 2, size_exp: int = 3,
    dialect: Dialect = Dialect.BINANCE_USDM,
) -> Instrument:  # fmt: skip
    """An instrument with the wire precision of BTCUSDT unless told otherwise."""
    return Instrument(
        index=index, symbol=symbol, base=symbol[:3], quote="USDT", price_exp=price_exp, size_exp=size_exp,
        tick_size=10, lot_size=1, min_notional=100 * 10**8, venue=3, epoch=7, dialect=dialect,
    )  # fmt: skip


class Session:
    """The kernels under test, with an outbox and everything that they wrote."""

    def __init__(self, instruments: Sequence[Instrument], liquidation_min: int = 0) -> None:
        self.state = make_ingest_state(instruments, liquidation_min)
        self.outbox = make_outbox()
        self.written: list[np.ndarray] = []

    @property
    def row(self) -> np.void:
        return self.state[0]

    def _take(self, n: int) -> int:
        if n > 0:
            self.written.append(self.outbox[:n].copy())
        return n

    def start(self, recv_ts_ns: int) -> int:
        return self._take(ingest_start(as_bytes(self.state), recv_ts_ns, as_bytes(self.outbox)))

    def frame(self, frame: bytes, recv_ts_ns: int, ingest_id: int) -> int:
        return self._take(ingest_frame(as_bytes(self.state), frame, recv_ts_ns, ingest_id, as_bytes(self.outbox)))

    def snapshot(self, instrument: int, body: bytes, recv_ts_ns: int, ingest_id: int) -> int:
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        return self._take(ingest_snapshot(state, instrument, body, recv_ts_ns, ingest_id, outbox))

    def timer(self, now_ns: int) -> int:
        return self._take(ingest_timer(as_bytes(self.state), now_ns, as_bytes(self.outbox)))

    def lost(self, instrument: int, first_lost: int, recv_ts_ns: int) -> int:
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        return self._take(ingest_lost(state, instrument, first_lost, recv_ts_ns, outbox))

    def listed(self, instrument: int, tick: int, lot: int, minimum: int, status: Status, recv_ts_ns: int) -> int:
        state, outbox = as_bytes(self.state), as_bytes(self.outbox)
        return self._take(ingest_listed(state, instrument, tick, lot, minimum, status, recv_ts_ns, outbox))

    def records(self) -> np.ndarray:
        """Everything written so far."""
        return np.concatenate(self.written) if self.written else np.zeros(0, MARKET)

    def counters(self) -> dict[str, int]:
        return {name: int(self.row[name]) for name in COUNTERS}

    def reasons(self, name: str) -> dict[Reason, int]:
        """The counters `quarantined` or `dropped` that are not zero."""
        return {Reason(int(code)): int(self.row[name][code]) for code in np.flatnonzero(self.row[name])}

    def balances(self) -> bool:
        """True when every frame given is processed, refused, dropped or waiting."""
        row = self.row
        done = int(row["processed"]) + int(row["quarantined"].sum()) + int(row["dropped"].sum())
        return int(row["records_in"]) == done + int(row["pending_frames"])


class Refused(Exception):
    """The oracle refuses a frame."""


def exact_units(text: str, exp: int) -> int:
    """Decimal text as a whole number of 10^-exp, by Decimal."""
    value = Decimal(text).scaleb(exp)
    if value != value.to_integral_value():
        raise Refused(Reason.BAD_NUMBER)
    return int(value)


def short_units(text: str, exp: int) -> int:
    """As exact_units, for text with exactly exp decimals only; ten times as fast, and no code in common with it."""
    whole, _, decimals = text.partition(".")
    if len(decimals) != exp:
        raise Refused(Reason.BAD_NUMBER)
    return int(whole + decimals)


@dataclass
class Book:
    """The sequence state of one instrument."""

    in_sequence: bool = False
    bridged: bool = False
    last: int = 0
    time_ms: int = 0  # the venue's, of what `last` is of
    trades_seen: int = -1
    trade_time_ms: int = 0
    snapshots: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)


class Oracle:
    """What ingestion should write and count."""

    def __init__(
        self,
        instruments: Sequence[Instrument],
        units: Callable[[str, int], int] = exact_units,
        room: tuple[int, int] = (2_048, 16_384),
    ) -> None:
        self.instruments = {item.symbol: item for item in instruments}
        self.by_index = {item.index: item for item in instruments}
        self.books = {item.index: Book() for item in instruments}
        self.units = units
        self.spot = any(item.dialect == Dialect.BINANCE_SPOT for item in instruments)
        self.room_frames, self.room_levels = room
        self.now = 0
        self.ingest_id = 0
        self.out: list[tuple] = []
        self.count = dict.fromkeys(COUNTERS, 0)
        self.dropped: dict[Reason, int] = {}

    def records(self) -> np.ndarray:
        return np.array(self.out, MARKET) if self.out else np.zeros(0, MARKET)

    def counters(self) -> dict[str, int]:
        waiting = sum(len(book.waiting) for book in self.books.values())
        return {**self.count, "pending_frames": waiting, "out": len(self.out)}

    def _drop(self, reason: Reason) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _emit(self, **values: Any) -> None:
        values.setdefault("flags", Flag.FIRST | Flag.LAST)
        self.out.append(tuple(int(values.get(name, 0)) for name in FIELDS))

    def tick(self, recv: int, ingest_id: int = 0) -> None:
        """Let time and the ingest id move on, with a CLOCK at the last grid point on the way."""
        self.ingest_id = max(self.ingest_id, ingest_id)
        if self.now:
            point, passed = self.now + 1, 0
            point += -point % GRID_NS
            while point <= recv:
                passed, point = point, point + GRID_NS
            if passed:
                self._emit(kind=Kind.CLOCK, recv_ts_ns=passed, ingest_id=self.ingest_id)
        self.now = max(self.now, recv)

    def _group(self, item: Instrument, recv: int, time_ms: int, sequence: int, rows: Iterable[dict]) -> None:
        rows = list(rows)
        for place, values in enumerate(rows):
            flags = values.pop("flags", 0)
            flags |= (Flag.FIRST if place == 0 else 0) | (Flag.LAST if place == len(rows) - 1 else 0)
            self._emit(
                ingest_id=self.ingest_id, recv_ts_ns=recv, exch_ts_ns=time_ms * 1_000_000, sequence=sequence,
                venue=item.venue, instrument=item.index, flags=flags, **values,
            )  # fmt: skip

    def _levels(self, item: Instrument, bids: list, asks: list, flags: int = 0) -> list[dict]:
        rows = []
        for side, levels in ((Side.BUY, bids), (Side.SELL, asks)):
            for level in levels:
                price, size = self.units(level[0], item.price_exp), self.units(level[1], item.size_exp)
                rows.append({"kind": Kind.LEVEL, "side": side, "price": price, "size": size, "flags": flags})
        return rows

    def _gap(self, item: Instrument, recv: int, aux: int, reason: Reason) -> None:
        self.books[item.index].in_sequence = False
        self.count["gaps"] += 1
        self._group(item, recv, 0, 0, [{"kind": Kind.GAP, "aux": aux, "reason": reason}])

    def _wait(self, item: Instrument, diff: dict[str, Any]) -> None:
        book = self.books[item.index]

        def fits() -> bool:
            held = [waiting for each in self.books.values() for waiting in each.waiting]
            levels = sum(len(waiting["rows"]) for waiting in held) + len(diff["rows"])
            return len(held) < self.room_frames and levels <= self.room_levels

        if not fits():
            for _ in book.waiting:
                self._drop(Reason.PENDING_OVERFLOW)
            book.waiting.clear()
        if fits():
            book.waiting.append(diff)
        else:
            self._drop(Reason.PENDING_OVERFLOW)

    def _judge(self, item: Instrument, diff: dict[str, Any], recv: int, fresh: bool = False) -> bool:
        """Apply, drop or keep waiting a diff of a book in sequence; False when it showed a gap. fresh: off the wire."""
        book = self.books[item.index]
        is_old = diff["u"] <= book.last if self.spot or book.bridged else diff["u"] < book.last
        if is_old:
            if fresh and book.time_ms and diff["T"] - book.time_ms > 1000:
                book.last = 0
                self._gap(item, recv, 0, Reason.SEQUENCE_GAP)
                return False
            self._drop(Reason.DUPLICATE if book.bridged else Reason.STALE_DIFF)
            return True
        if self.spot:
            follows = diff["U"] == book.last + 1 if book.bridged else diff["U"] <= book.last + 1 <= diff["u"]
        elif not book.bridged:
            follows = diff["U"] <= book.last <= diff["u"] or diff["pu"] <= book.last
        else:
            follows = diff["pu"] == book.last
        if not follows:
            self._gap(item, recv, 0, Reason.SEQUENCE_GAP)
            return False
        book.bridged, book.last, book.time_ms = True, diff["u"], diff["T"]
        self.count["processed"] += 1
        self._group(item, recv, diff["T"], diff["u"], [dict(row) for row in diff["rows"]])
        return True

    def start(self, recv: int) -> None:
        self.tick(recv)
        for _, item in sorted(self.by_index.items()):
            row = {"kind": Kind.INSTRUMENT, "price": item.tick_size, "size": item.lot_size, "aux": item.min_notional}
            self._group(item, recv, 0, item.epoch, [row])

    def frame(self, frame: bytes, recv: int, ingest_id: int) -> None:
        """Take a frame that is not to be refused."""
        data = orjson.loads(frame)
        self.count["frames"] += 1
        self.count["records_in"] += 1
        self.tick(recv, ingest_id)
        if "e" in data and "data" in data:
            raise Refused("a frame is an event or wraps one")
        if "result" in data and isinstance(data.get("data"), dict):
            raise Refused("an answer wraps no event")
        if "result" in data and not {"e", "u"} & data.keys():
            self.count["acks"] += 1
            self.count["processed"] += 1
            return
        data = data.get("data", data)
        order = data.get("o", data)
        item = self.instruments[order["s"]]
        book = self.books[item.index]
        time_ms = order.get("T", data.get("E", 0))
        kind = data.get("e", "bookTicker" if self.spot else None)
        if kind == "depthUpdate":
            rows = self._levels(item, data["b"], data["a"])
            self.count["level_updates"] += len(rows)
            self.count["events"] += len(rows)
            diff = {"U": data["U"], "u": data["u"], "pu": None if self.spot else data["pu"], "T": time_ms, "rows": rows}
            if not book.in_sequence or not self._judge(item, diff, recv, fresh=True):
                self._wait(item, diff)
            return
        sequence = first_trade = 0
        if kind in ("trade", "aggTrade"):
            price, size = self.units(data["p"], item.price_exp), self.units(data["q"], item.size_exp)
            side = Side.SELL if data["m"] else Side.BUY
            first_trade, sequence = (data["t"], data["t"]) if kind == "trade" else (data["f"], data["l"])
            rows = [{"kind": Kind.TRADE, "side": side, "price": price, "size": size, "aux": sequence}]
            self.count["trades"] += 1
        elif kind == "bookTicker":
            sequence = data["u"]
            rows = [
                {"kind": Kind.QUOTE, "side": side, "price": self.units(data[p], item.price_exp),
                 "size": self.units(data[q], item.size_exp)}
                for side, p, q in ((Side.BUY, "b", "B"), (Side.SELL, "a", "A"))
            ]  # fmt: skip
            self.count["book_tickers"] += 1
        elif kind == "markPriceUpdate":
            time_ms = data["E"]
            index_price = self.units(data["i"], 8) if "i" in data else 0
            rows = [{"kind": Kind.MARK_PRICE, "price": self.units(data["p"], 8), "size": index_price}]
            self.count["mark_prices"] += 1
            if data.get("r"):
                rate = exact_units(data["r"], 12)
                rows.append({"kind": Kind.FUNDING, "size": data["T"], "aux": rate})
                self.count["funding"] += 1
        else:
            side = Side[order["S"]]
            price, size = exact_units(order["p"], item.price_exp), exact_units(order["q"], item.size_exp)
            rows = [{"kind": Kind.LIQUIDATION, "side": side, "price": price, "size": size}]
            self.count["liquidations"] += 1
        self.count["events"] += len(rows)
        if kind in ("trade", "aggTrade"):
            much_later = 0 < book.trade_time_ms < time_ms - 1_000
            if first_trade <= book.trades_seen and not much_later:
                self._drop(Reason.DUPLICATE)
                return
            book.trades_seen, book.trade_time_ms = sequence, time_ms
        self.count["processed"] += 1
        self._group(item, recv, time_ms, sequence, rows)

    def snapshot(self, instrument: int, body: bytes, recv: int, ingest_id: int) -> None:
        data = orjson.loads(body)
        item, book = self.by_index[instrument], self.books[instrument]
        self.count["frames"] += 1
        self.count["records_in"] += 1
        self.tick(recv, ingest_id)
        rows = self._levels(item, data["bids"], data["asks"], Flag.SNAPSHOT)
        self.count["snapshot_levels"] += len(rows)
        self.count["events"] += len(rows)
        update_id = data["lastUpdateId"]
        first = book.waiting[0] if book.waiting else None
        if first is None:
            hole = False
        elif self.spot:
            hole = first["U"] > update_id + 1
        else:
            hole = first["U"] > update_id and first["pu"] > update_id and first["u"] >= update_id
        if update_id < book.last or hole:
            self._drop(Reason.SNAPSHOT_TOO_OLD)
            return
        self.count["resyncs"] += book.snapshots > 0
        book.snapshots += 1
        self.count["processed"] += 1
        self._group(item, recv, data.get("T", data.get("E", 0)), update_id, rows)
        book.in_sequence, book.bridged, book.last = True, False, update_id
        book.time_ms = data.get("T", data.get("E", 0))
        while book.waiting and self._judge(item, book.waiting[0], recv):
            book.waiting.pop(0)

    def lost(self, instrument: int, first_lost: int, recv: int) -> None:
        self.tick(recv, first_lost)
        for index, item in sorted(self.by_index.items()):
            if instrument in (-1, index):
                if self.books[index].in_sequence:
                    self._gap(item, recv, first_lost, Reason.NONE)
                if instrument == -1:
                    self.books[index].last = 0
                    while self.books[index].waiting:
                        self.books[index].waiting.pop()
                        self._drop(Reason.SEQUENCE_GAP)
