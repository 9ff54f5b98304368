"""The rules of validation once more, in plain Python over dicts, for the tests to hold the kernels against."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from engine.reasons import Reason
from engine.records import Kind, Status
from engine.validation.settings import ValidationSettings
from engine.validation.state import TRADE_ID_PLACES
from tests.market_records import BUY, FIRST, LAST, MARK, SELL, SNAPSHOT


class Model:
    """The rules once more, in plain Python over dicts."""

    def __init__(self, settings: ValidationSettings, instruments: int) -> None:
        self.settings, self.instruments = settings, instruments
        self.books: dict[int, dict[int, dict[int, int]]] = {}  # instrument, side, price: size
        self.reach: dict[int, dict[int, int]] = {}  # instrument, side: where its snapshot was cut, side * price
        self.newest: dict[int, list[int]] = {}
        self.now = 0
        self.tick: dict[int, int] = {}
        self.phase: Counter[int] = Counter()  # 0 nothing, 1 in a snapshot, 2 whole
        self.said: dict[int, bool] = {}
        self.marks: dict[int, list[int]] = {}  # instrument: the last good mark and index price
        self.stray_marks: dict[int, list[tuple[int, int]]] = {}
        self.strays: dict[int, list[int]] = {}
        self.seen: dict[tuple[int, int], int] = {}
        self.quarantined: Counter[Reason] = Counter()
        self.dropped: Counter[Reason] = Counter()
        self.resync: Counter[int] = Counter()
        self.out: list[tuple[Any, ...]] = []

    def refuse(self, row: dict[str, int]) -> Reason | None:
        index, kind, price, size = row["instrument"], row["kind"], row["price"], row["size"]
        if row["recv_ts_ns"] < self.now:
            return Reason.TIME_BACKWARDS
        if kind == Kind.OPEN_INTEREST:
            return None if 0 <= size <= self.settings.size_max else Reason.SIZE_RANGE
        if row["side"] not in (1, -1):
            return Reason.BAD_SIDE
        slot = (index, row["aux"] % TRADE_ID_PLACES)
        if kind == Kind.TRADE and row["aux"] and self.seen.get(slot) == row["aux"]:
            return Reason.DUPLICATE
        if not 0 < price <= self.settings.price_max:
            return Reason.PRICE_RANGE
        if not 0 <= size <= self.settings.size_max or (size == 0 and kind in (Kind.TRADE, Kind.LIQUIDATION)):
            return Reason.SIZE_RANGE
        if kind in (Kind.TRADE, Kind.QUOTE, Kind.LIQUIDATION) and price % self.tick[index]:
            return Reason.OFF_TICK
        if kind == Kind.LIQUIDATION:
            return None if self.is_near(price, [self.median(index) or price]) else Reason.PRICE_RANGE
        if kind in (Kind.TRADE, Kind.QUOTE):
            newest = self.newest.setdefault(index, [])
            reference = statistics.median_low(newest) if newest else price
            strays = self.strays.setdefault(index, [])
            if abs(price - reference) > self.settings.band_fraction * reference:
                if strays and abs(price - strays[-1]) > self.settings.band_fraction * strays[-1]:
                    strays.clear()
                strays.append(price)
                if len(strays) <= self.settings.band_confirmations:
                    return Reason.PRICE_RANGE
                newest.clear()
            newest.append(price)
            del newest[: -self.settings.median_window]
            strays.clear()
            if kind == Kind.TRADE and row["aux"]:
                self.seen[slot] = row["aux"]
        return None

    def median(self, index: int) -> int:
        """Of the newest good prices; 0 before any."""
        newest = self.newest.get(index)
        return statistics.median_low(newest) if newest else 0

    def is_near(self, price: float, others: Iterable[float]) -> bool:
        """Whether a price lies within the band of any of the others."""
        return any(abs(price - other) <= self.settings.band_fraction * other for other in others)

    def refuse_mark(self, row: dict[str, int]) -> Reason | None:
        index, mark, told = row["instrument"], row["price"], row["size"]
        if row["recv_ts_ns"] < self.now:
            return Reason.TIME_BACKWARDS
        if mark <= 0 or told < 0:
            return Reason.PRICE_RANGE
        good, strays = self.marks.setdefault(index, [0, 0]), self.stray_marks.setdefault(index, [])
        known = [price for price in (self.median(index) * MARK // 10, good[0]) if price]
        is_plausible = not known or self.is_near(mark, known)
        if told:
            is_plausible &= self.is_near(told, [mark, good[1]] if good[1] else [mark])
        if not is_plausible:
            if strays and not (self.is_near(mark, [strays[-1][0]]) and self.is_near(told, [strays[-1][1]])):
                strays.clear()
            strays.append((mark, told))
            if len(strays) <= self.settings.band_confirmations:
                return Reason.PRICE_RANGE
        strays.clear()
        self.marks[index] = [mark, told or good[1]]
        return None

    def refuse_funding(self, row: dict[str, int]) -> Reason | None:
        if row["recv_ts_ns"] < self.now:
            return Reason.TIME_BACKWARDS
        return Reason.RATE_RANGE if abs(row["aux"]) > self.settings.funding_rate_max * 10**12 else None

    def judge(self, row: dict[str, int]) -> Reason | None:
        """Apply a level; at the end of a group, what is wrong with the book."""
        if row["flags"] & SNAPSHOT and row["flags"] & FIRST:
            self.books[row["instrument"]] = {BUY: {}, SELL: {}}
        sides = self.books[row["instrument"]]
        sides[row["side"]][row["price"]] = row["size"]
        if not row["size"]:
            del sides[row["side"]][row["price"]]
        if not row["flags"] & LAST:
            return None
        if all(sides.values()):
            bid, ask = max(sides[BUY]), min(sides[SELL])
            if bid >= ask:
                return Reason.CROSSED_BOOK if bid > ask else Reason.LOCKED_BOOK
        if row["flags"] & SNAPSHOT:
            cut = {side: held for side, held in sides.items() if len(held) in (5, 10, 20, 50, 100, 500)}
            reach = {side: min(side * price for price in held) for side, held in cut.items()}
            self.reach[row["instrument"]] = reach
        beyond = any(
            not sides[side] or max(side * price for price in sides[side]) < least
            for side, least in self.reach[row["instrument"]].items()
        )
        return Reason.BEYOND_SNAPSHOT if beyond else None

    def verdict(self, row: dict[str, int], kind: Kind, reason: Reason) -> None:
        self.said[row["instrument"]] = kind == Kind.BOOK_VALID
        self.out.append((row["ingest_id"], row["recv_ts_ns"], row["instrument"], int(kind), 0, 0, int(reason)))

    def emit(self, row: dict[str, int]) -> None:
        names = ("ingest_id", "recv_ts_ns", "instrument", "kind", "price", "size")
        self.out.append((*(row[name] for name in names), 0 if row["kind"] == Kind.LEVEL else row["aux"]))

    def take(self, row: dict[str, int]) -> None:
        index, kind, flags = row["instrument"], row["kind"], row["flags"]
        late = row["recv_ts_ns"] < self.now
        data = kind in (Kind.LEVEL, Kind.TRADE, Kind.QUOTE, Kind.LIQUIDATION, Kind.OPEN_INTEREST)
        control = (Kind.MARK_PRICE, Kind.FUNDING, Kind.CLOCK, Kind.GAP, Kind.INSTRUMENT, Kind.STATUS)
        if index >= 16 or (data and index not in self.tick):
            self.quarantined[Reason.NO_INSTRUMENT] += 1
        elif kind == Kind.LEVEL:
            phase = self.phase[index]
            if flags & SNAPSHOT and flags & FIRST:
                self.phase[index] = phase = 1
            elif phase != (1 if flags & SNAPSHOT else 2):
                self.dropped[Reason.NO_SNAPSHOT] += 1
                if phase:
                    self.phase[index] = 0
                    self.resync[index] += 1
                    if self.said.get(index):
                        self.verdict(row, Kind.BOOK_INVALID, Reason.NO_SNAPSHOT)
                self.now = max(self.now, row["recv_ts_ns"])
                return
            reason = self.refuse(row) or self.judge(row)
            if reason:
                self.quarantined[reason] += 1
                self.phase[index] = 0
                self.resync[index] += 1
                self.verdict(row, Kind.BOOK_INVALID, reason)
            else:
                self.emit(row)
                if phase == 1 and flags & LAST:
                    self.phase[index] = 2
                    self.verdict(row, Kind.BOOK_VALID, Reason.NONE)
        elif data:
            reason = self.refuse(row)
            if reason:
                self.quarantined[reason] += 1
            else:
                self.emit(row)
        elif kind not in control:
            self.quarantined[Reason.UNKNOWN_STREAM] += 1
        elif kind == Kind.MARK_PRICE and (reason := self.refuse_mark(row)):
            self.quarantined[reason] += 1
        elif kind == Kind.FUNDING and (reason := self.refuse_funding(row)):
            self.quarantined[reason] += 1
        elif kind == Kind.INSTRUMENT and not 0 < row["price"] <= 1 << 40:
            self.quarantined[Reason.PRICE_RANGE] += 1
        elif kind == Kind.INSTRUMENT and row["size"] <= 0:
            self.quarantined[Reason.SIZE_RANGE] += 1
        elif kind == Kind.STATUS and row["aux"] not in list(Status):
            self.quarantined[Reason.UNKNOWN_STREAM] += 1
        else:
            self.emit(row)
            if kind == Kind.INSTRUMENT:
                if index < self.instruments:
                    if self.tick.get(index, row["price"]) != row["price"]:
                        if self.phase[index]:
                            self.phase[index] = 0
                            self.resync[index] += 1
                        if self.said.get(index):
                            self.verdict(row, Kind.BOOK_INVALID, Reason.NEW_EPOCH)
                    self.tick[index] = row["price"]
            elif kind == Kind.GAP:
                self.phase[index] = 0
                if self.said.get(index):
                    self.verdict(row, Kind.BOOK_INVALID, Reason.SEQUENCE_GAP)
        self.now = max(self.now, row["recv_ts_ns"])
        assert late is (row["recv_ts_ns"] < self.now)
