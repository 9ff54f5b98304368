"""Reconciliation that goes on by itself: when it asks, what it believes, what it does about a difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.execution.order_states import OrderStatus
from engine.execution.reconcile import MOST_SUSPICIONS, RECONCILE_DEEPLY, Mismatch
from engine.execution.settings import ExecutionSettings
from engine.execution.summary import execution_summary
from engine.reasons import Reason
from engine.records import Kind, OrderAction, ReportKind
from engine.risk.settings import GateSettings
from tests.execution_harness import (
    BTC,
    ETH,
    MS,
    START_NS,
    Input,
    command,
    control,
    feed,
    make_state,
    opened_state,
    prediction,
    report,
    step,
)

S = 1_000 * MS
BALANCE = 100_000_00000000
BID, ASK = 60_000_00, 60_000_10


def tick(state: np.ndarray, now_ns: int) -> np.ndarray:
    return step(state, control(Kind.CLOCK, now_ns))


def asked(orders: np.ndarray) -> list[int]:
    """aux of the requests to reconcile among order records."""
    return orders["aux"][orders["kind"] == OrderAction.RECONCILE].tolist()


def answer(now_ns: int, balance: int = BALANCE, orders: int = 0, fees: int = 0, **position: int) -> list[Input]:
    reports = [report(ReportKind.BALANCE, now_ns, aux=balance), report(ReportKind.OPEN_ORDERS, now_ns, aux=orders)]
    reports += [report(ReportKind.FEES, now_ns, aux=fees)]
    if position:
        reports.append(report(ReportKind.POSITION, now_ns, price=6_000_000, **position))
    return [*reports, report(ReportKind.RECONCILE_END, now_ns, aux=1)]


def reconcile(state: np.ndarray) -> Any:
    return state[0]["reconcile"]


def quoting(**settings: Any) -> tuple[np.ndarray, int]:
    """A state with two orders that rest, and the time."""
    gate = GateSettings(max_data_age_ms=1e9)  # books do not grow old here
    state = opened_state(execution=ExecutionSettings(**settings), gate=gate)
    now = START_NS + 10 * MS
    orders = step(state, prediction(now, 10, 0, BID, ASK))
    assert orders["order_id"].tolist() == [1, 2]
    feed(state, [report(ReportKind.ACCEPTED, now + MS, number, venue_order_id=number) for number in (1, 2)])
    return state, now + MS


def test_it_asks_on_its_own_clock_and_waits_for_an_answer_that_is_owed() -> None:
    state = opened_state(execution=ExecutionSettings(reconcile_every_s=10))
    times = []
    for ms in range(0, 100_000, 10):
        now = START_NS + ms * MS
        if asked(tick(state, now)):
            times.append(ms)
            if ms < 40_000:
                feed(state, answer(now + 5 * MS))
    assert times == [10_000, 20_000, 30_000, 40_000, 70_000], "the answer of 40 s is waited for three intervals"
    assert reconcile(state)["compared"] == 3 and reconcile(state)["mismatches"] == 0


@pytest.mark.parametrize("state_of", ["unopened", "open loop", "quiescing"])
def test_it_does_not_ask_when_nobody_would_answer(state_of: str) -> None:
    state = make_state(open_loop=state_of == "open loop")
    if state_of == "quiescing":
        state = opened_state()
        step(state, command(Kind.QUIESCE, START_NS))
    assert not any(asked(tick(state, START_NS + s * S)) for s in range(60))


def test_it_asks_at_once_when_the_private_stream_is_back() -> None:
    state = opened_state()
    step(state, report(ReportKind.CAUGHT_UP, START_NS + S))
    assert asked(tick(state, START_NS + S + 10 * MS)) == [0]


def test_an_answer_that_is_not_whole_is_asked_for_again_soon() -> None:
    state = opened_state()
    assert asked(tick(state, START_NS + 10 * S)) == [0]
    step(state, report(ReportKind.RECONCILE_END, START_NS + 10 * S + MS, aux=0))
    assert asked(tick(state, START_NS + 11 * S)) == []
    assert asked(tick(state, START_NS + 11 * S + MS)) == [0]
    assert reconcile(state)["failed"] == 1


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"balance": BALANCE - 1, "orders": 2}, Mismatch.BALANCE),
        ({"orders": 3}, Mismatch.OPEN_ORDERS),  # the venue has an order that we have not
        ({"orders": 1}, Mismatch.OPEN_ORDERS),  # and the reverse
        ({"orders": 2, "fees": 7}, Mismatch.FEES),
        ({"orders": 2, "instrument": 0, "size": -4}, Mismatch.POSITION),
    ],
)
def test_a_difference_that_is_confirmed_holds_entries_until_an_answer_agrees(wrong: dict, why: Mismatch) -> None:
    state, now = quoting()
    before = state[0]["ledger"].copy()
    now += 10 * S
    assert asked(tick(state, now)) == [0]
    feed(state, answer(now + 5 * MS, **wrong))
    assert reconcile(state)["holding"] == 0 and reconcile(state)["mismatch"] == why, "one answer proves nothing"
    now += S + 5 * MS
    assert asked(tick(state, now)) == [RECONCILE_DEEPLY]
    sent = feed(state, answer(now + 5 * MS, **wrong))
    assert reconcile(state)["holding"] == 1 and reconcile(state)["confirmed"] == 1
    assert set(sent["kind"].tolist()) == {OrderAction.CANCEL} and sent["order_id"].tolist() == [1, 2]
    assert state[0]["ledger"] == before, "exposure is never made up"
    feed(state, [report(ReportKind.CANCELLED, now + 9 * MS, number) for number in (1, 2)])
    assert len(step(state, prediction(now + 20 * MS, 11, 0, BID, ASK))) == 0, "no entries"
    shown = execution_summary(state, [BTC, ETH])["reconciliation"]
    assert shown["holding"] and shown["differs"] == [why.name.lower()]  # type: ignore[union-attr]
    assert shown["venue"]["balance"] != shown["ours"]["balance"] or why != Mismatch.BALANCE
    now += 2 * S + 5 * MS
    assert asked(tick(state, now)) == [RECONCILE_DEEPLY]
    feed(state, answer(now + 5 * MS))
    assert reconcile(state)["holding"] == 0 and reconcile(state)["suspicions"] == 0
    orders = step(state, prediction(now + 20 * MS, 12, 0, BID, ASK))
    assert orders["order_id"].tolist() == [3, 4], "it goes on by itself"


def test_what_moves_is_not_held_against_the_venue() -> None:
    """Fills arrive between the answers, so each differs; then one agrees."""
    state, now = quoting()
    for count in range(MOST_SUSPICIONS - 1):
        now += 10 * S
        assert asked(tick(state, now)) != []
        fill = report(
            ReportKind.FILL, now + MS, 1, instrument=0, side=1, price=BID, size=1, trade_id=5 + count,
            cumulative_size=1 + count,
        )
        feed(state, [fill, *answer(now + 5 * MS, orders=2, instrument=0, size=50 + count)])
        assert reconcile(state)["suspicions"] == count + 1 and reconcile(state)["holding"] == 0
    now += 10 * S
    tick(state, now)
    size = int(state[0]["ledger"]["positions"][0]["size"])
    feed(state, answer(now + 5 * MS, orders=2, instrument=0, size=size))
    assert reconcile(state)["holding"] == 0 and reconcile(state)["suspicions"] == 0


def test_what_never_agrees_holds_even_while_it_moves() -> None:
    state, now = quoting()
    for count in range(MOST_SUSPICIONS):
        assert reconcile(state)["holding"] == 0
        now += 10 * S
        tick(state, now)
        fill = report(
            ReportKind.FILL, now + MS, 1, instrument=0, side=1, price=BID, size=1, trade_id=5 + count,
            cumulative_size=1 + count,
        )
        feed(state, [fill, *answer(now + 5 * MS, orders=2, instrument=0, size=50 + count)])
    assert reconcile(state)["holding"] == 1


def test_the_same_difference_with_no_report_between_is_confirmed_though_an_order_is_in_transit() -> None:
    state, now = quoting()
    step(state, report(ReportKind.UNKNOWN, now + MS, 2))
    for _ in range(2):
        assert reconcile(state)["holding"] == 0
        now += 10 * S
        tick(state, now)
        feed(state, answer(now + 5 * MS, balance=BALANCE + 3, orders=1))
    assert reconcile(state)["holding"] == 1


def test_a_fill_that_only_the_answer_knows_is_booked_once() -> None:
    state, now = quoting()
    now += 10 * S
    tick(state, now)
    missed = report(
        ReportKind.FILL, now + MS, 1, instrument=0, side=1, price=BID, size=4, fee=5, trade_id=9, cumulative_size=4
    )
    feed(state, [missed, *answer(now + MS, balance=BALANCE - 5, orders=2, fees=5, instrument=0, size=4)])
    assert reconcile(state)["mismatch"] == 0
    feed(state, [(missed[0], missed[1].copy())])  # and now it comes after all
    ledger = state[0]["ledger"]
    assert (ledger["fills"], ledger["duplicate_fills"], ledger["positions"][0]["size"]) == (1, 1, 4)
    assert state[0]["orders"]["status_count"][OrderStatus.PARTIALLY_FILLED] == 1


def test_payments_are_booked_once_each() -> None:
    state = opened_state()
    feed(state, [
        report(ReportKind.FUNDING, START_NS, trade_id=71, aux=-250, instrument=0),
        report(ReportKind.FUNDING, START_NS, trade_id=72, aux=100, instrument=1),
        report(ReportKind.FUNDING, START_NS, trade_id=71, aux=-250, instrument=0),
        report(ReportKind.ADJUSTMENT, START_NS, trade_id=73, aux=9),
        report(ReportKind.FUNDING, START_NS, aux=5),
    ])  # fmt: skip
    ledger = state[0]["ledger"]
    assert (ledger["funding"], ledger["adjustments"], ledger["balance"] - BALANCE) == (-150, 9, -141)
    assert (ledger["payments"], ledger["duplicate_payments"]) == (3, 1)
    assert state[0]["quarantined"][Reason.BAD_NUMBER] == 1


def test_backlog_denies_entries_and_then_takes_quotes_back() -> None:
    state, now = quoting()
    step(state, command(Kind.BACKLOG, now, aux=1))
    moved = step(state, prediction(now + 3 * S, 11, 0, BID + 100, ASK + 100))
    assert set(moved["kind"].tolist()) <= {OrderAction.CANCEL}
    feed(state, [report(ReportKind.CANCELLED, now + 3 * S + MS, number) for number in (1, 2)])
    assert len(step(state, prediction(now + 4 * S, 12, 0, BID + 100, ASK + 100))) == 0
    assert state[0]["denied"][Reason.BACKLOG] > 0
    step(state, command(Kind.BACKLOG, now + 4 * S, aux=0))
    fresh = step(state, prediction(now + 6 * S, 13, 0, BID + 100, ASK + 100))
    assert fresh["kind"].tolist() == [OrderAction.NEW] * 2
    feed(state, [report(ReportKind.ACCEPTED, now + 6 * S + MS, int(number)) for number in fresh["order_id"]])
    cancels = feed(state, [command(Kind.BACKLOG, now + 6 * S + 2 * MS, aux=2), control(Kind.CLOCK, now + 7 * S)])
    assert cancels["kind"].tolist() == [OrderAction.CANCEL] * 2
    assert state[0]["backlogs"] == 3
