"""REDUCE and PAUSE: the schedule against exact fractions, and whole sessions against a toy venue with faults.

In REDUCE no order can make a position larger or take it through zero, whatever the venue loses, delays and repeats,
and what is held goes down by schedule; in PAUSE no order leaves at all; the same records give the same decisions.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.execution.reducing import STEPS, allowed_position
from engine.records import Flag, Kind, OrderAction, ReportKind, TimeInForce
from engine.risk.settings import GateSettings
from engine.safety.mode import Mode
from tests.execution_harness import (
    BTC,
    MS,
    START_NS,
    Input,
    ToyVenue,
    command,
    feed,
    make_state,
    opening,
    prediction,
    report,
    step,
)

OVER_NS = 300_000 * MS


@given(st.integers(0, 10**15), st.integers(-(10**9), 10**13), st.integers(1, 10**13))
def test_the_allowed_position_falls_in_a_straight_line(begun: int, elapsed: int, over: int) -> None:
    left = min(max(over - elapsed, 0), over)
    assert allowed_position(begun, elapsed, over) == begun * left // over


class TakingVenue(ToyVenue):
    """A toy venue where an immediate-or-cancel order that crosses is filled."""

    def take(self, orders: np.ndarray) -> None:
        for order in orders:
            crosses = order["kind"] == OrderAction.NEW and order["time_in_force"] == TimeInForce.IOC
            if not crosses:
                super().take(order.reshape(1))
                continue
            order_id = int(order["order_id"])
            self.open[order_id] = {
                "instrument": int(order["instrument"]), "side": int(order["side"]), "price": int(order["price"]),
                "size": int(order["size"]), "filled": 0, "end": int(ReportKind.EXPIRED),
            }
            self.fill(order_id, int(order["size"]))


class Session:
    """A state and a toy venue in a loop; every order of REDUCE is checked, and every record is kept."""

    def __init__(self, seed: int, faults: float) -> None:
        self.venue = TakingVenue(seed, faults)
        self.state = make_state(gate=GateSettings(max_position_value=6_000))
        self.inputs: list[Input] = []
        self.mode = Mode.NORMAL
        self.earlier = 0  # orders up to here were decided before the mode
        self.news = 0
        for item in opening(START_NS):
            self.give(item)

    def position(self, instrument: int) -> int:
        return int(self.state[0]["ledger"]["positions"][instrument]["size"])

    def give(self, item: Input) -> None:
        self.inputs.append((item[0], item[1].copy()))
        before = {index: self.position(index) for index in (0, 1)}
        orders = step(self.state, item)
        for order in orders[orders["kind"] == OrderAction.NEW]:
            self.news += 1
            self.check(order)
        if item[1]["kind"][0] == ReportKind.FILL and item[1]["order_id"][0] > self.earlier and self.mode != Mode.NORMAL:
            index = int(item[1]["instrument"][0])
            assert abs(self.position(index)) <= abs(before[index])
            assert self.position(index) * before[index] >= 0
        self.venue.take(orders)

    def check(self, order: np.void) -> None:
        if self.mode == Mode.NORMAL:
            assert not order["flags"] & Flag.REDUCE_ONLY
            return
        assert self.mode == Mode.REDUCE
        assert order["flags"] == Flag.REDUCE_ONLY
        held, side = self.position(int(order["instrument"])), int(order["side"])
        open_size = self.state[0]["orders"]["open_size"][order["instrument"], 0 if side > 0 else 1]  # with this one
        assert held * side < 0 and 0 < order["size"] <= open_size <= abs(held)

    def set_mode(self, mode: Mode) -> None:
        self.mode, self.earlier, self.news = mode, int(self.state[0]["orders"]["next_order_id"]) - 1, 0
        self.give(command(Kind.MODE, self.venue.now_ns, aux=mode))

    def run(self, seconds: float) -> None:
        end_ns = self.venue.now_ns + int(seconds * 1000) * MS
        while self.venue.now_ns < end_ns:
            for item in [self.venue.market(), *self.venue.due()]:
                self.give(item)

    def earlier_orders_are_done(self) -> bool:
        slots = self.state[0]["orders"]["slots"]
        mine = slots[(slots["order_id"] > 0) & (slots["order_id"] <= self.earlier)]
        return not mine["exposure"].any()


@pytest.mark.parametrize("seed", range(4))
def test_reduce_only_ever_reduces_and_follows_its_schedule(seed: int) -> None:
    session = Session(seed, faults=0.0 if seed == 0 else 0.1)
    session.run(40)
    while not (session.position(0) and session.position(1)):
        session.run(1)
    session.set_mode(Mode.REDUCE)
    begun = [abs(session.position(index)) for index in (0, 1)]
    while not session.earlier_orders_are_done():
        session.run(1)
    session.run(150)
    assert session.news > 0
    if seed == 0:
        for index in (0, 1):  # faults and a touch that runs away may hold it up; the end below they may not
            assert abs(session.position(index)) <= begun[index] * (0.5 + 1 / STEPS) + 2
    session.run(160)
    for _ in range(60):
        if session.position(0) == session.position(1) == 0:
            break
        session.run(1)
    assert (session.position(0), session.position(1)) == (0, 0)
    assert session.state[0]["gate"]["tokens"] > 0
    again = make_state(gate=GateSettings(max_position_value=6_000))
    feed(again, session.inputs)
    assert again[0]["hash"] == session.state[0]["hash"]


@pytest.mark.parametrize("seed", range(2))
def test_in_pause_nothing_new_leaves_and_quotes_are_taken_back(seed: int) -> None:
    session = Session(seed, faults=0.1)
    session.run(30)
    session.set_mode(Mode.PAUSE)
    session.run(60)
    assert session.news == 0
    assert session.earlier_orders_are_done()
    held = session.position(0), session.position(1)
    session.run(20)
    assert (session.position(0), session.position(1)) == held
    session.set_mode(Mode.NORMAL)
    session.run(5)
    assert session.news > 0


def _holding(size: int) -> np.ndarray:
    """A state that holds `size` of BTC, in REDUCE since START_NS."""
    state = make_state()
    feed(state, opening(START_NS))
    state[0]["ledger"]["positions"][0]["size"] = size
    step(state, command(Kind.MODE, START_NS, aux=Mode.REDUCE))
    return state


def _at(state: np.ndarray, ms: int) -> np.ndarray:
    orders = step(state, prediction(START_NS + ms * MS, 5 + ms, 0, 60_000_00, 60_001_00))
    return orders[orders["kind"] == OrderAction.NEW]


@pytest.mark.parametrize(("held", "side", "price"), [(40, -1, 60_001_00), (-40, 1, 60_000_00)])
def test_the_first_step_is_a_twentieth_post_only_at_the_own_side(held: int, side: int, price: int) -> None:
    state = _holding(held)
    assert len(_at(state, 10)) == 0
    assert len(_at(state, 7_400)) == 0
    orders = _at(state, 7_600)
    assert len(orders) == 1
    order = orders[0]
    assert (order["side"], order["size"], order["price"]) == (side, 2, price)  # what is allowed is rounded down
    assert order["time_in_force"] == TimeInForce.GTX and order["flags"] == Flag.REDUCE_ONLY


def test_when_the_time_is_over_the_rest_is_taken() -> None:
    state = _holding(5)
    order = _at(state, OVER_NS // MS)[0]
    assert (order["side"], order["size"], order["price"]) == (-1, 5, 60_000_00)
    assert order["time_in_force"] == TimeInForce.IOC and order["flags"] == Flag.REDUCE_ONLY


def test_an_unknown_order_counts_in_full_so_that_nothing_goes_through_zero() -> None:
    state = _holding(5)
    first = _at(state, OVER_NS // MS)
    step(state, report(ReportKind.UNKNOWN, START_NS + OVER_NS, int(first["order_id"][0])))
    for ms in range(1000, 20_000, 500):
        assert len(_at(state, OVER_NS // MS + ms)) == 0


@pytest.mark.parametrize("mode", [Mode.PAUSE, Mode.EMERGENCY, 77])
def test_pause_and_emergency_do_not_reduce(mode: int) -> None:
    state = _holding(5)
    step(state, command(Kind.MODE, START_NS, aux=mode))
    assert len(_at(state, OVER_NS // MS)) == 0
    assert state[0]["sent"] == 0


def test_a_repeated_mode_does_not_start_the_schedule_again() -> None:
    state = _holding(5)
    step(state, command(Kind.MODE, START_NS + OVER_NS // 2, aux=Mode.REDUCE))
    assert state[0]["reducing"]["since_ns"] == START_NS
    assert len(_at(state, OVER_NS // MS)) == 1


def test_a_rest_below_the_venues_minimum_is_reduced_too() -> None:
    state = _holding(1)
    state[0]["views"][0]["min_notional"] = 100_00000000
    assert _at(state, OVER_NS // MS)["size"].tolist() == [1]
    assert state[0]["denied"].sum() == 0


def test_slippage_is_kept_against_the_mid_of_the_decision() -> None:
    state = _holding(5)
    order_id = int(_at(state, OVER_NS // MS)["order_id"][0])
    fill = report(
        ReportKind.FILL, START_NS + OVER_NS + MS, order_id, instrument=0, side=-1, price=58_200_00, size=2, trade_id=7,
        cumulative_size=2, venue_order_id=9,
    )
    step(state, fill)
    step(state, fill)  # told again: one fill
    seen = state[0]["slippages"]
    assert seen["count"] == 1
    mid = (60_000_00 + 60_001_00) / 2
    assert seen["fills"][0]["share"] == pytest.approx((mid - 58_200_00) / mid, rel=1e-12)
    assert seen["fills"][0]["instrument"] == BTC.index
