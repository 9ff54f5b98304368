"""Whole sessions: a toy venue that loses, delays and repeats answers, and reports that make no sense at all.

After a session the ledger equals the venue's own to the last unit; at every step the exposure stays within the
limit, the sums of the order table equal brute force, and every order record is lawful.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.order_states import FIRST_TERMINAL, OrderStatus
from engine.execution.summary import execution_summary
from engine.records import ORDER, Kind, OrderAction, ReportKind
from engine.risk.settings import GateSettings
from tests.execution_harness import (
    BTC,
    ETH,
    MS,
    START_NS,
    Input,
    ToyLedger,
    ToyVenue,
    command,
    control,
    feed,
    make_state,
    opening,
    prediction,
    report,
    step,
)
from tests.test_orders import check_sums

LIMIT = 3_000
INSTRUMENTS = (BTC, ETH)


class Session:
    """A state and a toy venue in a loop, checked at every step."""

    def __init__(self, seed: int, faults: float) -> None:
        self.venue = ToyVenue(seed, faults)
        self.state = make_state(gate=GateSettings(max_position_value=LIMIT))
        self.lowest = dict(self.venue.mids)
        self.sent: set[int] = set()
        self.worst = 0.0
        for item in opening(START_NS):
            self.give(item)

    def give(self, item: Input) -> np.ndarray:
        orders = step(self.state, item)
        for order in orders:
            if order["kind"] == OrderAction.NEW:
                assert int(order["order_id"]) not in self.sent
                self.sent.add(int(order["order_id"]))
            elif order["kind"] in (OrderAction.CANCEL, OrderAction.QUERY):
                assert int(order["order_id"]) in self.sent
        self.check_exposure()
        self.venue.take(orders)
        return orders

    def check_exposure(self) -> None:
        """Position with every open and unknown order of a side filled, at the lowest price seen, within the limit."""
        record = self.state[0]
        for instrument in INSTRUMENTS:
            index = instrument.index
            self.lowest[index] = min(self.lowest[index], self.venue.mids[index] - 5 * instrument.tick_size)
            held = int(record["ledger"]["positions"][index]["size"])
            for place, side in enumerate((1, -1)):
                exposure = side * held + int(record["orders"]["open_size"][index, place])
                value = exposure * self.lowest[index] / 10**5
                self.worst = max(self.worst, value)
                assert value <= LIMIT

    def run(self, records: int) -> None:
        for count in range(records):
            for item in [self.venue.market(), *self.venue.due()]:
                self.give(item)
            if count % 50 == 0:
                check_sums(self.state["orders"])

    def finish(self) -> None:
        """Quiesce, wait for the last answers, compare with the venue."""
        self.give(command(Kind.QUIESCE, self.venue.now_ns))
        for _ in range(6_000):
            if self.state[0]["quiescent"] == 1 and not self.venue.waiting:
                break
            self.venue.now_ns += 10 * MS
            for item in [*self.venue.due(), control(Kind.CLOCK, self.venue.now_ns)]:
                self.give(item)
        assert self.state[0]["quiescent"] == 1
        assert not self.venue.open
        feed(self.state, [command(Kind.RECONCILE, self.venue.now_ns), *self.venue.reconcile_answer()])


@pytest.mark.parametrize(("seed", "faults"), [(1, 0.0), (2, 0.0), *((seed, 0.15) for seed in range(3, 9)), (9, 0.4)])
def test_the_ledger_equals_the_venues(seed: int, faults: float) -> None:
    session = Session(seed, faults)
    session.run(1_500)
    session.finish()
    record, venue = session.state[0], session.venue
    check_sums(session.state["orders"])
    assert record["ledger"]["balance"] == venue.ledger.balance
    assert record["ledger"]["realised"] == venue.ledger.realised
    assert record["ledger"]["fees"] == venue.ledger.fees
    for instrument in INSTRUMENTS:
        position = record["ledger"]["positions"][instrument.index]
        assert position["size"] == venue.ledger.positions.get(instrument.index, 0)
        assert position["cost"] == venue.ledger.costs.get(instrument.index, 0)
    assert record["ledger"]["fills"] == venue.fills > 20
    reconcile = record["reconcile"]
    assert (reconcile["mismatch"], reconcile["confirmed"], reconcile["holding"]) == (0, 0, 0)
    assert reconcile["compared"] >= 1 + 1_500 * 20 // 10_000
    summary = execution_summary(session.state, INSTRUMENTS)
    assert summary["ledger_matches_venue"] is True
    orders = summary["orders"]
    assert orders["illegal_transitions"] == orders["cumulative_mismatches"] == 0
    ended = orders["filled"] + orders["cancelled"] + orders["expired"] + orders["rejected"]
    assert orders["sent"] == len(session.sent) == ended
    assert record["quarantined"].sum() == 0
    if faults:
        assert orders["unknown"] > 0
        assert record["ledger"]["duplicate_fills"] > 0
        assert record["queries_sent"] > 0


def test_a_fill_that_never_comes_is_found() -> None:
    session = Session(3, 0.0)
    session.run(500)
    session.venue.ledger.fill(BTC, 1, 60_000_00, 1, 5)  # an execution that nobody was told of
    session.finish()
    assert execution_summary(session.state, INSTRUMENTS)["ledger_matches_venue"] is False


def test_the_limit_is_reached_in_these_sessions() -> None:
    session = Session(3, 0.15)
    session.run(3_000)
    assert session.worst > 0.9 * LIMIT


def test_default_parameters_trade_steadily() -> None:
    """A minute of a quiet two-symbol market: several hundred orders, more than 50 fills, nothing denied."""
    venue, state = ToyVenue(seed=11), make_state()
    feed(state, opening(START_NS))
    for _ in range(3_000):
        for item in [venue.market(), *venue.due()]:
            venue.take(step(state, item))
    assert venue.now_ns - START_NS == 60_000 * MS
    assert 200 < state[0]["sent"] < 2_000
    assert state[0]["ledger"]["fills"] > 50
    assert state[0]["denied"].sum() == 0


def hostile_reports() -> st.SearchStrategy[tuple[Any, ...]]:
    """(which order, kind, trade id, size, side, cumulative size, ms to wait)"""
    return st.tuples(
        st.integers(-1, 6), st.sampled_from([*ReportKind, 200]), st.integers(-1, 12), st.integers(-1, 12),
        st.sampled_from((1, 1, -1, 0)), st.integers(0, 12), st.sampled_from((0, 1, 50, 700, 6_000)),
    )


def only_questions(orders: np.ndarray) -> bool:
    """After a trip nothing else may come out."""
    return set(orders["kind"].tolist()) <= {int(OrderAction.QUERY), int(OrderAction.RECONCILE)}


@settings(max_examples=150)
@given(script=st.lists(hostile_reports(), max_size=60), trip_at=st.integers(0, 120))
def test_reports_that_make_no_sense_break_nothing(script: list[tuple[Any, ...]], trip_at: int) -> None:
    state = make_state()
    feed(state, opening(START_NS))
    ledger = ToyLedger(100_000_00000000)
    trades: set[int] = set()
    now_ns = START_NS
    emitted: list[np.ndarray] = [step(state, prediction(now_ns, 10, 0, 60_000_00, 60_000_10))]
    for place, (order_id, kind, trade_id, size, side, cumulative, wait_ms) in enumerate(script):
        now_ns += wait_ms * MS
        if place == trip_at:
            step(state, command(Kind.TRIP, now_ns, aux=1))
        item = report(
            int(kind), now_ns, order_id, trade_id=trade_id, size=size, side=side, price=60_000_00, fee=2,
            cumulative_size=cumulative, venue_order_id=order_id,
        )
        held = state[0]["orders"]["slots"][max(order_id, 0)]
        contradicts = order_id > 0 and held["order_id"] == order_id and held["side"] != side
        sound = size > 0 and side != 0 and trade_id > 0 and not contradicts
        if kind == ReportKind.FILL and sound and trade_id not in trades:
            trades.add(trade_id)
            ledger.fill(BTC, side, 60_000_00, size, 2)
        orders = step(state, item)
        assert place < trip_at or only_questions(orders)
        emitted.append(orders)
        orders = step(state, prediction(now_ns, 11 + place, 0, 60_000_00, 60_000_10, bid_size=1 + place))
        assert place < trip_at or only_questions(orders)
        emitted.append(orders)
        record = state[0]
        assert record["ledger"]["positions"][0]["size"] == ledger.positions.get(0, 0)
        assert record["ledger"]["positions"][0]["cost"] == ledger.costs.get(0, 0)
        assert record["ledger"]["balance"] == ledger.balance
        assert record["ledger"]["fills"] == len(trades)
        check_sums(state["orders"])
        for slot in record["orders"]["slots"][1:8]:
            if slot["status"] == OrderStatus.FILLED:
                assert slot["filled"] >= slot["size"]
            assert slot["status"] >= FIRST_TERMINAL or slot["exposure"] == max(slot["size"] - slot["filled"], 0)
    everything = np.concatenate(emitted) if emitted else np.zeros(0, ORDER)
    new_ids = everything["order_id"][everything["kind"] == OrderAction.NEW]
    assert len(set(new_ids.tolist())) == len(new_ids) == state[0]["sent"]
