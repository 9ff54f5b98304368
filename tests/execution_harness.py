"""Shared by the tests of execution: building records, stepping the stage, and a toy venue in plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine.execution.kernel import MAX_OUT, execution_step
from engine.execution.settings import ExecutionSettings
from engine.execution.state import make_execution_state
from engine.instruments import Instrument
from engine.records import (
    MARKET,
    ORDER,
    PREDICTION,
    REPORT,
    SOURCE_COMMANDS,
    SOURCE_FILLS,
    SOURCE_MAIN,
    Kind,
    OrderAction,
    ReportKind,
)
from engine.risk.settings import GateSettings
from engine.stage import as_bytes
from engine.strategies.plugin import Bound
from engine.strategies.settings import MakerSettings

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
BTC = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, 3, 10, 1, 5_00000000)
ETH = Instrument(1, "ETHUSDT", "ETH", "USDT", 2, 3, 1, 1, 5_00000000)
IN_DTYPES = {SOURCE_MAIN: PREDICTION, SOURCE_FILLS: REPORT, SOURCE_COMMANDS: MARKET}

Input = tuple[int, np.ndarray]  # source, record of shape (1,)


def record_of(dtype: np.dtype, kind: int, **fields: Any) -> np.ndarray:
    """One record of a dtype, shape (1,)."""
    record = np.zeros(1, dtype)
    record["kind"] = kind
    for name, value in fields.items():
        record[name] = value
    return record


def prediction(now_ns: int, ingest_id: int, instrument: int, bid: int, ask: int, **fields: Any) -> Input:
    """A PREDICTION with a touch of 10 units on each side unless told otherwise."""
    values: dict[str, Any] = {"bid_size": 10, "ask_size": 10, "book_recv_ts_ns": now_ns, **fields}
    return SOURCE_MAIN, record_of(
        PREDICTION, Kind.PREDICTION, recv_ts_ns=now_ns, ingest_id=ingest_id, instrument=instrument,
        bid_price=bid, ask_price=ask, **values,
    )


def control(kind: int, now_ns: int, ingest_id: int = 0, **fields: Any) -> Input:
    """A control record of the market chain."""
    return SOURCE_MAIN, record_of(PREDICTION, kind, recv_ts_ns=now_ns, ingest_id=ingest_id, **fields)


def command(kind: int, now_ns: int, **fields: Any) -> Input:
    """A command record."""
    return SOURCE_COMMANDS, record_of(MARKET, kind, recv_ts_ns=now_ns, **fields)


def report(kind: int, now_ns: int, order_id: int = 0, **fields: Any) -> Input:
    """A report of the gateway."""
    return SOURCE_FILLS, record_of(REPORT, kind, recv_ts_ns=now_ns, order_id=order_id, **fields)


def step_batch(state: np.ndarray, source: int, records: np.ndarray) -> np.ndarray:
    """Step the stage with a batch of one source. Returns the ORDER records that it wrote."""
    outbox = np.full(len(records) * MAX_OUT * ORDER.itemsize, 0xAA, np.uint8)
    routes = np.full(len(records) * MAX_OUT, 0xAA, np.uint8)
    count = execution_step(as_bytes(state), source, as_bytes(records), len(records), outbox, routes)
    assert not routes[:count].any()
    return outbox[: count * ORDER.itemsize].view(ORDER).copy()


def step(state: np.ndarray, item: Input) -> np.ndarray:
    """Step the stage with one record, and check the balance of its counters."""
    orders = step_batch(state, item[0], item[1])
    record = state[0]
    assert len(orders) <= MAX_OUT
    assert record["records_in"] == record["processed"] + record["quarantined"].sum() + record["dropped"].sum()
    return orders


def feed(state: np.ndarray, items: Iterable[Input]) -> np.ndarray:
    """Step the stage with records one by one. Returns all ORDER records."""
    outputs = [step(state, item) for item in items]
    return np.concatenate(outputs) if outputs else np.zeros(0, ORDER)


def opening(now_ns: int, balance: int = 100_000_00000000) -> list[Input]:
    """The records that open trading: command, answer of the venue, valid books."""
    return [
        command(Kind.RECONCILE, now_ns, aux=1),
        report(ReportKind.BALANCE, now_ns, aux=balance),
        report(ReportKind.OPEN_ORDERS, now_ns),
        report(ReportKind.FEES, now_ns),
        report(ReportKind.RECONCILE_END, now_ns, aux=1),
        control(Kind.BOOK_VALID, now_ns, 1, instrument=0),
        control(Kind.BOOK_VALID, now_ns, 2, instrument=1),
    ]


def make_state(
    execution: ExecutionSettings | None = None,
    gate: GateSettings | None = None,
    maker: MakerSettings | None = None,
    open_loop: bool = False,
    instruments: Iterable[Instrument] = (BTC, ETH),
    strategies: Sequence[Bound] = (),
) -> np.ndarray:
    """A state for BTC and ETH unless told otherwise."""
    return make_execution_state(
        execution or ExecutionSettings(), gate or GateSettings(), maker or MakerSettings(), list(instruments),
        open_loop, strategies=strategies,
    )


def opened_state(**settings: Any) -> np.ndarray:
    """A state that may trade, with its clock at START_NS."""
    state = make_state(**settings)
    feed(state, opening(START_NS))
    return state


class ToyLedger:
    """The ledger's rules in plain integers, from the text of engine/execution/ledger.py."""

    def __init__(self, opening_balance: int) -> None:
        self.balance = opening_balance
        self.realised = 0
        self.fees = 0
        self.positions: dict[int, int] = {}
        self.costs: dict[int, int] = {}

    @staticmethod
    def value(instrument: Instrument, price: int, size: int) -> int:
        return price * size * 10**8 // 10 ** (instrument.price_exp + instrument.size_exp)

    def fill(self, instrument: Instrument, side: int, price: int, size: int, fee: int) -> None:
        held = self.positions.get(instrument.index, 0)
        cost = self.costs.get(instrument.index, 0)
        closing = min(size, abs(held)) if held * side < 0 else 0
        realised = 0
        if closing:
            removed = cost * closing // abs(held)
            realised = side * (removed - self.value(instrument, price, closing))
            cost -= removed
        cost += self.value(instrument, price, size - closing)
        self.positions[instrument.index] = held + side * size
        self.costs[instrument.index] = cost
        self.realised += realised
        self.fees += fee
        self.balance += realised - fee


class ToyVenue:
    """A venue with a random walk of two books, queues of a kind, and faults on the way back, all seeded.

    It answers each order record with reports that arrive later, now and then twice, late, or not at all (the
    request or its answer is lost and an UNKNOWN comes instead).
    """

    def __init__(self, seed: int, faults: float = 0.0, opening_balance: int = 100_000_00000000) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.ledger = ToyLedger(opening_balance)
        self.now_ns = START_NS
        self.ingest_id = 2
        self.mids = {0: 60_000_00, 1: 2_600_00}
        self.instruments = {0: BTC, 1: ETH}
        self.open: dict[int, dict[str, int]] = {}
        self.done: dict[int, dict[str, int]] = {}
        self.trades: dict[int, list[Input]] = {}
        self.untold: list[Input] = []
        self.trade_ids = {0: 0, 1: 0}
        self.waiting: list[tuple[int, int, Input]] = []
        self.serial = 0
        self.fills = 0

    def deliver(self, item: Input, delay_ns: int) -> None:
        self.serial += 1
        due_ns = self.now_ns + delay_ns
        item[1]["recv_ts_ns"] = due_ns
        self.waiting.append((due_ns, self.serial, item))

    def answer(self, item: Input) -> None:
        """Send a report back, with faults: twice, or late."""
        delay_ns = 5 * MS
        if self.random.random() < self.faults:
            delay_ns = self.random.randrange(5, 900) * MS
        if self.random.random() < self.faults:
            self.deliver((item[0], item[1].copy()), delay_ns + self.random.randrange(1, 300) * MS)
        self.deliver(item, delay_ns)

    def state_report(self, order_id: int, asked_ns: int = 0) -> Input:
        order = self.open.get(order_id) or self.done.get(order_id)
        if order is None:
            return report(ReportKind.NOT_FOUND, 0, order_id, aux=asked_ns)
        kind = ReportKind.ACCEPTED if order_id in self.open else order["end"]
        return report(kind, 0, order_id, venue_order_id=order_id + 900, cumulative_size=order["filled"])

    def touch(self, instrument: int) -> tuple[int, int]:
        tick = self.instruments[instrument].tick_size
        return self.mids[instrument] - tick, self.mids[instrument] + tick

    def take(self, orders: np.ndarray) -> None:
        """Receive order records."""
        for order in orders:
            order_id, kind = int(order["order_id"]), int(order["kind"])
            lost = self.random.random() < self.faults
            if lost and kind in (OrderAction.NEW, OrderAction.CANCEL):
                self.deliver(report(ReportKind.UNKNOWN, 0, order_id), 50 * MS)
                if self.random.random() < 0.5:
                    continue  # the request never arrived
            if kind == OrderAction.NEW:
                assert order_id not in self.open and order_id not in self.done, "an order was sent twice"
                bid, ask = self.touch(int(order["instrument"]))
                side, price = int(order["side"]), int(order["price"])
                entry = {
                    "instrument": int(order["instrument"]), "side": side, "price": price,
                    "size": int(order["size"]), "filled": 0, "end": int(ReportKind.EXPIRED),
                }
                if (side > 0 and price >= ask) or (side < 0 and price <= bid):
                    self.done[order_id] = entry
                else:
                    self.open[order_id] = entry
                if not lost:
                    self.answer(self.state_report(order_id))
            elif kind == OrderAction.CANCEL:
                if order_id in self.open:
                    entry = self.open.pop(order_id)
                    entry["end"] = int(ReportKind.CANCELLED)
                    self.done[order_id] = entry
                    if not lost:
                        self.answer(self.state_report(order_id))
                elif not lost:
                    self.answer(report(ReportKind.CANCEL_REJECTED, 0, order_id))
            elif kind == OrderAction.QUERY:
                for _, fill in self.trades.get(order_id, []):
                    self.answer((SOURCE_FILLS, fill.copy()))
                known = self.open.get(order_id) or self.done.get(order_id)
                if known is None or known["filled"] < known["size"]:
                    self.answer(self.state_report(order_id, int(order["recv_ts_ns"])))
            elif kind == OrderAction.RECONCILE:
                # Fills that were never told come first, as the gateway has them; all of it in order.
                for item in self.untold:
                    self.deliver((item[0], item[1].copy()), 5 * MS)
                self.untold.clear()
                for item in self.reconcile_answer():
                    self.deliver(item, 5 * MS)

    def fill(self, order_id: int, size: int) -> None:
        """Execute part of an open order."""
        order = self.open[order_id]
        instrument = self.instruments[order["instrument"]]
        size = min(size, order["size"] - order["filled"])
        order["filled"] += size
        self.trade_ids[instrument.index] += self.random.randrange(1, 5)
        fee = ToyLedger.value(instrument, order["price"], size) // 5_000
        self.ledger.fill(instrument, order["side"], order["price"], size, fee)
        self.fills += 1
        item = report(
            ReportKind.FILL, 0, order_id, venue_order_id=order_id + 900, instrument=instrument.index,
            side=order["side"], price=order["price"], size=size, fee=fee, cumulative_size=order["filled"],
            trade_id=self.trade_ids[instrument.index],
        )
        self.trades.setdefault(order_id, []).append(item)
        if order["filled"] == order["size"]:
            order["end"] = 0
            self.done[order_id] = self.open.pop(order_id)
        if self.random.random() >= self.faults / 2:  # else lost: only a question brings it
            self.answer((item[0], item[1].copy()))
        else:
            self.untold.append(item)

    def market(self) -> Input:
        """Let 20 ms pass: prices move, resting orders may be filled. Returns the next market record."""
        self.now_ns += 20 * MS
        self.ingest_id += 1
        instrument = self.random.randrange(2)
        if self.random.random() < 0.2:
            self.mids[instrument] += self.random.choice((-1, 1)) * self.instruments[instrument].tick_size
        bid, ask = self.touch(instrument)
        for order_id in list(self.open):
            order = self.open[order_id]
            if order["instrument"] != instrument:
                continue
            crossed = order["price"] >= ask if order["side"] > 0 else order["price"] <= bid
            at_touch = order["price"] >= bid if order["side"] > 0 else order["price"] <= ask
            if crossed:
                self.fill(order_id, order["size"])
            elif at_touch and self.random.random() < 0.06:
                self.fill(order_id, self.random.randrange(1, order["size"] + 1))
        return prediction(
            self.now_ns, self.ingest_id, instrument, bid, ask, bid_size=self.random.randrange(1, 50),
            ask_size=self.random.randrange(1, 50), output=(self.random.uniform(-0.2, 0.2), 0.0),
        )

    def due(self) -> list[Input]:
        """Reports that have arrived by now, in order of arrival."""
        ready = sorted((entry for entry in self.waiting if entry[0] <= self.now_ns), key=lambda entry: entry[:2])
        self.waiting = [entry for entry in self.waiting if entry[0] > self.now_ns]
        return [entry[2] for entry in ready]

    def reconcile_answer(self) -> list[Input]:
        """The answer to a reconciliation, at once and whole."""
        answer = [
            report(ReportKind.BALANCE, self.now_ns, aux=self.ledger.balance),
            report(ReportKind.OPEN_ORDERS, self.now_ns, aux=len(self.open)),
            report(ReportKind.FEES, self.now_ns, aux=self.ledger.fees),
        ]
        answer += [
            report(ReportKind.POSITION, self.now_ns, instrument=index, size=size)
            for index, size in self.ledger.positions.items()
        ]
        return [*answer, report(ReportKind.RECONCILE_END, self.now_ns, aux=1)]
