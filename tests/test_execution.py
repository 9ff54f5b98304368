"""The execution stage record by record: opening, quotes, control records, commands, reports, timers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.execution.intents import submit
from engine.execution.kernel import EXECUTION, MAX_OUT, TIMER_BUDGET, execution_step
from engine.execution.order_states import OrderStatus
from engine.execution.orders import NEVER
from engine.execution.reconcile import Mismatch
from engine.execution.settings import ExecutionSettings
from engine.execution.state import EXECUTION_STATE, make_execution_state
from engine.execution.summary import execution_summary
from engine.reasons import Reason
from engine.records import (
    ORDER,
    PREDICTION,
    REPORT,
    SOURCE_COMMANDS,
    SOURCE_FILLS,
    SOURCE_MAIN,
    Flag,
    Kind,
    OrderAction,
    OrderType,
    ReportKind,
    TimeInForce,
)
from engine.risk.settings import GateSettings
from engine.safety.mode import Mode
from engine.stage import STATE_HEAD, as_bytes
from engine.strategies.settings import MakerSettings
from tests.execution_harness import (
    BTC,
    ETH,
    MS,
    START_NS,
    command,
    control,
    feed,
    make_state,
    opened_state,
    opening,
    prediction,
    record_of,
    report,
    step,
    step_batch,
)

T = START_NS + 1_000 * MS
BID, ASK = 60_000_00, 60_000_10


def quote(now_ns: int = T, ingest_id: int = 10, instrument: int = 0, **fields: Any) -> Any:
    """A prediction whose touch is one tick wide."""
    return prediction(now_ns, ingest_id, instrument, BID, ASK, **fields)


def kinds(orders: np.ndarray) -> list[OrderAction]:
    return [OrderAction(int(kind)) for kind in orders["kind"]]


def quoting_state(**settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """A state with two live BTC orders, and their NEW records."""
    state = opened_state(**settings)
    orders = step(state, quote())
    assert kinds(orders) == [OrderAction.NEW] * 2
    feed(state, [report(ReportKind.ACCEPTED, T + MS, int(order_id), venue_order_id=90) for order_id in (1, 2)])
    return state, orders


def fill(now_ns: int, order_id: int, side: int, size: int, trade_id: int, **fields: Any) -> Any:
    values = {"price": BID, "instrument": 0, "fee": 3, **fields}
    return report(ReportKind.FILL, now_ns, order_id, side=side, size=size, trade_id=trade_id, **values)


def test_state_opens_with_the_common_head_and_is_small() -> None:
    names = [name for name, *_ in STATE_HEAD]
    assert list(EXECUTION_STATE.names or ())[: len(names)] == names
    assert EXECUTION_STATE.itemsize < 1 << 19
    assert EXECUTION.in_dtypes[SOURCE_FILLS] == REPORT
    assert EXECUTION.max_out == MAX_OUT <= 32


def test_a_quote_is_written_in_full() -> None:
    state = opened_state(execution=ExecutionSettings(max_decision_age_ms=250))
    bid, ask = step(state, quote(ingest_id=77))
    for order, side, price in ((bid, 1, BID), (ask, -1, ASK)):
        assert (order["side"], order["price"], order["size"]) == (side, price, 8)  # 500 / 60,000 in lots of 0.001
        assert (order["ingest_id"], order["recv_ts_ns"], order["deadline_ns"]) == (77, T, T + 250 * MS)
        assert (order["order_type"], order["time_in_force"]) == (OrderType.LIMIT, TimeInForce.GTX)
        assert (order["kind"], order["instrument"], order["strategy"], order["venue"]) == (OrderAction.NEW, 0, 0, 0)
        assert order["aux"] == order["order_id"]
        assert not order["spare"].any()
        assert (order["flags"], order["trips_seen"], order["venue_order_id"], order["sequence"]) == (0, 0, 0, 0)
    assert (bid["order_id"], ask["order_id"]) == (1, 2)
    assert (state[0]["signals"], state[0]["intents"], state[0]["sent"], state[0]["out"]) == (2, 2, 2, 3)


def test_nothing_is_sent_before_the_opening() -> None:
    state = make_state()
    feed(state, [control(Kind.BOOK_VALID, START_NS, 1, instrument=0)])
    assert len(step(state, quote())) == 0
    assert state[0]["signals"] == 0


def test_opening_adopts_balance_positions_and_fees() -> None:
    state = make_state()
    step(state, fill(START_NS, 0, 1, 5, 1))  # before the opening: part of what the venue will say
    request = step(state, command(Kind.RECONCILE, START_NS, aux=1))
    assert kinds(request) == [OrderAction.RECONCILE]
    assert (request["aux"][0], request["deadline_ns"][0]) == (1, NEVER)
    feed(state, [
        report(ReportKind.POSITION, START_NS, instrument=1, size=-2_000, price=2_600_00),
        report(ReportKind.BALANCE, START_NS, aux=5_000_00000000),
        report(ReportKind.FEES, START_NS, aux=123),
        report(ReportKind.OPEN_ORDERS, START_NS, aux=0),
        report(ReportKind.RECONCILE_END, START_NS, aux=1),
    ])
    record = state[0]
    assert (record["opened"], record["reconcile"]["done"]) == (1, 1)
    assert record["ledger"]["balance"] == record["ledger"]["opening_balance"] == 5_000_00000000
    assert (record["ledger"]["realised"], record["ledger"]["fees"]) == (0, 0)
    assert tuple(record["ledger"]["positions"][1]) == (-2_000, 5_200_00000000, 0, 0)
    summary = execution_summary(state, [BTC, ETH])
    assert summary["positions"] == {"BTCUSDT": "0.000", "ETHUSDT": "-2.000"}
    assert (summary["cash"], summary["ledger_matches_venue"]) == ("5000.00000000", None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ([report(ReportKind.BALANCE, START_NS, aux=1), report(ReportKind.OPEN_ORDERS, START_NS, aux=1)],
         Mismatch.OPEN_ORDERS),
        ([], Mismatch.BALANCE),
        ([report(ReportKind.BALANCE, START_NS, aux=1), report(ReportKind.POSITION, START_NS, size=5)],
         Mismatch.POSITION),
    ],
)
def test_an_opening_that_cannot_be_trusted_keeps_trading_shut(change: list[Any], why: Mismatch) -> None:
    state = make_state()
    feed(state, [command(Kind.RECONCILE, START_NS, aux=1), *change, report(ReportKind.RECONCILE_END, START_NS, aux=1)])
    assert (state[0]["opened"], state[0]["reconcile"]["mismatch"]) == (0, why)
    feed(state, opening(START_NS))
    assert (state[0]["opened"], state[0]["reconcile"]["mismatch"]) == (1, 0)


def test_an_answer_that_is_not_whole_opens_nothing() -> None:
    state = make_state()
    feed(state, [
        command(Kind.RECONCILE, START_NS, aux=1), report(ReportKind.BALANCE, START_NS, aux=1),
        report(ReportKind.RECONCILE_END, START_NS, aux=0),
    ])
    assert (state[0]["opened"], state[0]["reconcile"]["done"], state[0]["reconcile"]["failed"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("balance", "fees", "open_orders", "position", "expected"),
    [
        (0, 0, 2, 3, Mismatch.NONE),
        (1, 0, 2, 3, Mismatch.BALANCE),
        (0, -1, 2, 3, Mismatch.FEES),
        (0, 0, 3, 3, Mismatch.OPEN_ORDERS),
        (0, 0, 1, 3, Mismatch.OPEN_ORDERS),
        (0, 0, 2, 0, Mismatch.POSITION),
        (5, 5, 0, 1, Mismatch.BALANCE | Mismatch.FEES | Mismatch.OPEN_ORDERS | Mismatch.POSITION),
    ],
)
def test_later_answers_are_compared(
    balance: int, fees: int, open_orders: int, position: int, expected: Mismatch
) -> None:
    state, _ = quoting_state()
    step(state, fill(T + 2 * MS, 1, 1, 3, 1))
    ours = int(state[0]["ledger"]["balance"])
    feed(state, [
        command(Kind.RECONCILE, T + 3 * MS),
        report(ReportKind.BALANCE, T + 3 * MS, aux=ours + balance),
        report(ReportKind.POSITION, T + 3 * MS, size=position, price=BID),
        report(ReportKind.OPEN_ORDERS, T + 3 * MS, aux=open_orders),
        report(ReportKind.FEES, T + 3 * MS, aux=3 + fees),
        report(ReportKind.RECONCILE_END, T + 3 * MS, aux=1),
    ])
    reconcile = state[0]["reconcile"]
    assert reconcile["mismatch"] == expected
    assert reconcile["mismatches"] == (expected != 0)
    assert (reconcile["our_balance"], reconcile["balance"]) == (ours, ours + balance)
    assert (reconcile["our_position"][0], reconcile["position"][0]) == (3, position)
    assert execution_summary(state, [BTC, ETH])["ledger_matches_venue"] is (expected == 0)
    assert state[0]["ledger"]["balance"] == ours, "a comparison changes nothing"


def test_orders_in_transit_may_or_may_not_rest() -> None:
    state = opened_state()
    step(state, quote())
    answer = [report(ReportKind.BALANCE, T, aux=100_000_00000000), report(ReportKind.RECONCILE_END, T, aux=1)]
    for resting in (0, 1, 2):
        feed(state, [answer[0], report(ReportKind.OPEN_ORDERS, T, aux=resting), answer[1]])
        assert state[0]["reconcile"]["mismatch"] == 0
    feed(state, [answer[0], report(ReportKind.OPEN_ORDERS, T, aux=3), answer[1]])
    assert state[0]["reconcile"]["mismatch"] == Mismatch.OPEN_ORDERS


def test_a_moved_price_cancels_first_and_quotes_again_after_the_confirmation() -> None:
    state, _ = quoting_state(maker=MakerSettings(min_quote_life_ms=100))
    moved = T + 200 * MS
    orders = step(state, prediction(moved, 11, 0, BID + 10, ASK + 10))
    assert kinds(orders) == [OrderAction.CANCEL] * 2
    assert orders["order_id"].tolist() == [1, 2]
    assert orders["venue_order_id"].tolist() == [90, 90]
    assert (orders["flags"] == Flag.CLOSE).all()
    assert (orders["deadline_ns"] == NEVER).all()
    assert len(step(state, prediction(moved + MS, 12, 0, BID + 10, ASK + 10))) == 0, "not before the answer"
    step(state, report(ReportKind.CANCELLED, moved + 2 * MS, 1))
    again = step(state, prediction(moved + 3 * MS, 13, 0, BID + 10, ASK + 10))
    assert (kinds(again), again["side"].tolist(), again["price"].tolist()) == ([OrderAction.NEW], [1], [BID + 10])
    assert again["order_id"].tolist() == [3]


def test_a_young_quote_is_left_alone() -> None:
    state, _ = quoting_state(maker=MakerSettings(min_quote_life_ms=500))
    assert len(step(state, prediction(T + 499 * MS, 11, 0, BID + 100, ASK + 100))) == 0
    assert len(step(state, prediction(T + 500 * MS, 12, 0, BID + 100, ASK + 100))) == 2


@pytest.mark.parametrize(
    "cause",
    [
        control(Kind.BOOK_INVALID, T + 50 * MS, 11), control(Kind.GAP, T + 50 * MS, 11),
        control(Kind.STATUS, T + 50 * MS, 11, aux=0), command(Kind.STALE, T + 50 * MS),
        command(Kind.MODE, T + 50 * MS, aux=int(Mode.PAUSE)), command(Kind.MODE, T + 50 * MS, aux=99),
        command(Kind.READINESS, T + 50 * MS, aux=1 << 7), command(Kind.READINESS, T + 50 * MS, aux=-1),
        control(Kind.CLOCK, T + 1_010 * MS, 0),
    ],
    ids=[
        "invalid", "gap", "halt", "stale", "pause", "unknown mode", "a process is missing", "all are missing",
        "old book",
    ],
)
def test_quotes_are_taken_back(cause: Any) -> None:
    state, _ = quoting_state()
    orders = step(state, cause)
    assert kinds(orders) == [OrderAction.CANCEL] * 2
    feed(state, [report(ReportKind.CANCELLED, T + 1_020 * MS, order_id) for order_id in (1, 2)])
    if cause[1]["kind"][0] != Kind.CLOCK:
        assert len(step(state, quote(T + 1_030 * MS, 12))) == 0
    later = T + 1_040 * MS
    feed(state, [
        control(Kind.BOOK_VALID, later, 13), control(Kind.STATUS, later, 13, aux=1), command(Kind.MODE, later, aux=0),
        command(Kind.READINESS, later, aux=0),
    ])
    assert kinds(step(state, quote(later + MS, 14))) == [OrderAction.NEW] * 2


def test_an_unknown_mode_reads_emergency() -> None:
    state = opened_state()
    step(state, command(Kind.MODE, T, aux=-1))
    assert state[0]["mode"] == Mode.EMERGENCY


def test_a_gap_takes_back_only_its_instrument() -> None:
    state = opened_state()
    step(state, quote())
    step(state, prediction(T, 11, 1, 2_600_00, 2_600_01))
    feed(state, [report(ReportKind.ACCEPTED, T, order_id) for order_id in (1, 2, 3, 4)])
    orders = step(state, control(Kind.GAP, T + MS, 12, instrument=1))
    assert orders["order_id"].tolist() == [3, 4]


def test_nothing_is_emitted_after_a_trip() -> None:
    state, _ = quoting_state()
    step(state, command(Kind.TRIP, T + 2 * MS, aux=1))
    late = T + 60_000 * MS
    silent = [
        quote(T + 3 * MS, 11), report(ReportKind.UNKNOWN, T + 4 * MS, 1), control(Kind.CLOCK, late),
        command(Kind.QUIESCE, late), command(Kind.MODE, late, aux=0), command(Kind.RECONCILE, late, aux=0),
        control(Kind.GAP, late, 12), quote(late + MS, 13), fill(late + 2 * MS, 2, -1, 8, 1, cumulative_size=8),
    ]
    before = bytes(state[0]["hash"].tobytes())
    emitted = kinds(feed(state, silent))
    assert set(emitted) == {OrderAction.QUERY, OrderAction.RECONCILE}, "the venue is asked, and nothing else"
    assert state[0]["hash"].tobytes() == before
    assert state[0]["ledger"]["positions"][0]["size"] == -8, "the ledger goes on"


def test_a_reset_begins_without_quotes_and_in_the_mode_that_was_told() -> None:
    state, _ = quoting_state()
    feed(state, [command(Kind.TRIP, T + MS, aux=1 << 16 | 2), command(Kind.MODE, T + MS, aux=int(Mode.EMERGENCY))])
    feed(state, [command(Kind.TRIP, T + 2 * MS, aux=2 << 16 | 6), quote(T + 2 * MS, 11)])
    assert state[0]["tripped"] == 1, "another trip is no reset"
    assert state[0]["quotes"]["target_size"].any()
    orders = step(state, command(Kind.TRIP, T + 3 * MS, aux=0))
    assert state[0]["tripped"] == 0 and kinds(orders) == [OrderAction.CANCEL] * 2, "what is left is cancelled"
    assert not state[0]["quotes"]["target_size"].any()
    feed(state, [report(ReportKind.CANCELLED, T + 4 * MS, order_id) for order_id in (1, 2)])
    assert len(feed(state, [quote(T + 5 * MS, 12), command(Kind.MODE, T + 5 * MS, aux=int(Mode.PAUSE))])) == 0
    assert len(step(state, quote(T + 6 * MS, 13))) == 0
    assert kinds(feed(state, [command(Kind.MODE, T + 7 * MS, aux=0), quote(T + 900 * MS, 14)])) == [OrderAction.NEW] * 2


def test_a_cancel_that_a_trip_swallowed_is_sent_after_the_reset() -> None:
    state, _ = quoting_state()
    feed(state, [command(Kind.TRIP, T + MS, aux=1), command(Kind.QUIESCE, T + MS), control(Kind.CLOCK, T + 2 * MS)])
    assert (state[0]["orders"]["slots"]["cancel_wanted"] == 1).sum() == 2
    assert kinds(step(state, command(Kind.TRIP, T + 3 * MS, aux=0))) == [OrderAction.CANCEL] * 2


def test_quiesce_cancels_what_rests_and_waits_for_what_does_not_yet() -> None:
    state = opened_state()
    step(state, quote())
    step(state, report(ReportKind.ACCEPTED, T, 1))
    orders = step(state, command(Kind.QUIESCE, T + MS))
    assert orders["order_id"].tolist() == [1]
    assert len(step(state, quote(T + 2 * MS, 11))) == 0
    orders = step(state, report(ReportKind.ACCEPTED, T + 3 * MS, 2))
    assert (kinds(orders), orders["order_id"].tolist()) == ([OrderAction.CANCEL], [2])
    step(state, report(ReportKind.CANCELLED, T + 4 * MS, 1))
    assert state[0]["quiescent"] == 0
    step(state, report(ReportKind.CANCELLED, T + 5 * MS, 2, cumulative_size=2))
    assert state[0]["quiescent"] == 0, "two lots of fills are owed"
    step(state, fill(T + 6 * MS, 2, -1, 2, 1, cumulative_size=2))
    assert state[0]["quiescent"] == 1


def test_fills_learnt_in_any_way_and_order_are_no_mismatch() -> None:
    """A trade learnt by asking tells no cumulative size, and one that comes late tells an old one."""
    state = opened_state()
    step(state, quote())
    size = int(state[0]["orders"]["slots"][1]["size"])
    step(state, report(ReportKind.ACCEPTED, T, 1, cumulative_size=1))
    step(state, fill(T + MS, 1, 1, 2, 12))  # by REST, beyond what the answer before it counted
    step(state, fill(T + 2 * MS, 1, 1, 1, 11, cumulative_size=1))  # late
    order = state[0]["orders"]["slots"][1]
    assert (order["filled"], order["cumulative"], order["exposure"]) == (3, 3, size - 3)
    assert state[0]["orders"]["cumulative_mismatches"] == 0
    step(state, fill(T + 3 * MS, 1, 1, size, 13))
    assert state[0]["orders"]["cumulative_mismatches"] == 1, "more than was ordered"


def test_many_cancels_are_spread_over_records() -> None:
    instruments = [replace(BTC, index=i, symbol=f"S{i}") for i in range(16)]
    state = make_execution_state(
        ExecutionSettings(), GateSettings(), MakerSettings(), instruments
    )
    feed(state, opening(START_NS))
    for i in range(16):
        step(state, control(Kind.BOOK_VALID, T, 1, instrument=i))
        step(state, quote(T, 2, i))
    assert state[0]["sent"] == 32
    feed(state, [report(ReportKind.ACCEPTED, T, order_id) for order_id in range(1, 33)])
    batches = [step(state, command(Kind.QUIESCE, T + MS))]
    batches += [step(state, control(Kind.CLOCK, T + 2 * MS)) for _ in range(3)]
    assert [len(batch) for batch in batches] == [TIMER_BUDGET, TIMER_BUDGET, 32 - 2 * TIMER_BUDGET, 0]
    assert np.concatenate(batches)["order_id"].tolist() == list(range(1, 33))


def test_due_timers_fire_before_the_record_that_passed_them() -> None:
    state = opened_state(execution=ExecutionSettings(query_after_ms=500))
    step(state, quote())
    feed(state, [report(ReportKind.UNKNOWN, T, 2), report(ReportKind.UNKNOWN, T + MS, 1)])
    assert len(step(state, control(Kind.CLOCK, T + 499 * MS))) == 0
    orders = step(state, command(Kind.RECONCILE, T + 600 * MS))
    assert kinds(orders) == [OrderAction.QUERY, OrderAction.QUERY, OrderAction.RECONCILE]
    assert orders["order_id"].tolist() == [2, 1, 0], "by deadline, then by id"


def test_an_unknown_order_blocks_its_quote_and_is_never_sent_again() -> None:
    state = opened_state()
    step(state, quote())
    feed(state, [report(ReportKind.UNKNOWN, T + MS, 1), report(ReportKind.UNKNOWN, T + MS, 2)])
    sent = feed(state, [quote(T + ms * MS, 11 + ms) for ms in range(10, 5_000, 10)])
    assert set(kinds(sent)) == {OrderAction.QUERY}
    for after_ms in (5_000, 7_100):
        step(state, report(ReportKind.NOT_FOUND, T + after_ms * MS, 1, aux=T + (after_ms - 50) * MS))
    assert state[0]["orders"]["status_count"][OrderStatus.REJECTED] == 1
    assert state[0]["rejected_by"][Reason.UNKNOWN_ORDER] == 1
    again = step(state, quote(T + 7_110 * MS, 9_000))
    fresh = again[again["kind"] == OrderAction.NEW]
    assert (fresh["order_id"].tolist(), fresh["side"].tolist()) == ([3], [1])


def test_a_cancel_that_meets_an_unknown_order_is_asked_for() -> None:
    state, _ = quoting_state(maker=MakerSettings(min_quote_life_ms=0))
    step(state, prediction(T + 10 * MS, 11, 0, BID + 10, ASK + 10))
    step(state, report(ReportKind.CANCEL_REJECTED, T + 20 * MS, 1, reason=Reason.UNKNOWN_ORDER))
    orders = step(state, control(Kind.CLOCK, T + 600 * MS))
    assert (kinds(orders), orders["order_id"].tolist()) == ([OrderAction.QUERY], [1])
    step(state, fill(T + 610 * MS, 1, 1, 8, 5, cumulative_size=8))
    assert state[0]["orders"]["status_count"][OrderStatus.FILLED] == 1


def test_a_cancel_refused_by_the_last_gate_is_sent_again() -> None:
    state, _ = quoting_state(execution=ExecutionSettings(cancel_retry_ms=250))
    step(state, command(Kind.QUIESCE, T + 10 * MS))
    step(state, report(ReportKind.DENIED, T + 20 * MS, 1, reason=Reason.RATE_LIMITED))
    orders = step(state, control(Kind.CLOCK, T + 270 * MS))
    assert (kinds(orders), orders["order_id"].tolist()) == ([OrderAction.CANCEL], [1])
    assert state[0]["denied"].sum() == 0


def test_counters_of_refused_orders() -> None:
    state = opened_state()
    step(state, quote())
    feed(state, [
        report(ReportKind.DENIED, T, 1, reason=Reason.DENIED_LATE),
        report(ReportKind.REJECTED, T, 2, reason=Reason.INSUFFICIENT_MARGIN),
        report(ReportKind.REJECTED, T, 2, reason=Reason.INSUFFICIENT_MARGIN),
    ])
    orders = execution_summary(state, [BTC, ETH])["orders"]
    assert orders["denied"] == {"DENIED_LATE": 1}
    assert orders["rejected_by"] == {"INSUFFICIENT_MARGIN": 1}
    assert (orders["sent"], orders["acked"], orders["rejected"], orders["illegal_transitions"]) == (2, 0, 1, 0)


def test_orders_denied_by_the_gate_are_counted_and_not_sent() -> None:
    state = opened_state(gate=GateSettings(max_order_value=100))
    assert len(step(state, quote())) == 0
    assert state[0]["denied"][Reason.ORDER_VALUE] == 2
    assert (state[0]["signals"], state[0]["intents"], state[0]["sent"]) == (2, 0, 0)
    assert state[0]["hash"]["links"] == 5  # a fair price, two signals, two denials
    assert len(step(state, quote(T + MS, 11))) == 0
    assert state[0]["denied"][Reason.ORDER_VALUE] == 2, "tried again only after the life of a quote"


def test_the_gate_counts_open_and_unknown_orders_of_the_side_in_full() -> None:
    state = opened_state(gate=GateSettings(max_position_value=3_000))
    step(state, control(Kind.STATUS, T, 5, aux=0))
    step(state, quote())  # a book, and no quotes
    step(state, control(Kind.STATUS, T, 6, aux=1))
    outbox, routes = np.zeros(20, ORDER), np.zeros(20, np.uint8)

    def buy() -> int:
        return int(submit(state[0], outbox, routes, 0, 0, 1, BID, 10, OrderType.LIMIT.value, TimeInForce.GTX.value, 0))

    ids = [buy() for _ in range(5)]  # 600 each, the fifth would need 3,000.0025 at mid
    assert ids == [1, 2, 3, 4, 0]
    assert state[0]["denied"][Reason.POSITION_LIMIT] == 1
    state["written"] = 0
    step(state, report(ReportKind.UNKNOWN, T, 1))
    assert buy() == 0
    step(state, fill(T, 2, 1, 10, 1))
    assert buy() == 0
    step(state, report(ReportKind.REJECTED, T, 1))
    assert buy() == 5


def test_a_nan_prediction_takes_the_quotes_back() -> None:
    state, _ = quoting_state()
    orders = step(state, quote(T + 2 * MS, 11, output=(np.nan, 0.0)))
    assert kinds(orders) == [OrderAction.CANCEL] * 2


def test_repeated_and_strange_fills() -> None:
    state, _ = quoting_state()
    feed(state, [fill(T + 2 * MS, 1, 1, 3, 7), fill(T + 3 * MS, 1, 1, 3, 7), fill(T + 4 * MS, 555, -1, 2, 8)])
    record = state[0]
    assert (record["ledger"]["fills"], record["ledger"]["duplicate_fills"], record["orphan_fills"]) == (2, 1, 1)
    assert record["ledger"]["positions"][0]["size"] == 1
    bad = {
        Reason.NO_INSTRUMENT: fill(T, 1, 1, 1, 9, instrument=5),
        Reason.PRICE_RANGE: fill(T, 1, 1, 1, 9, price=0),
        Reason.SIZE_RANGE: fill(T, 1, 1, 0, 9),
        Reason.BAD_NUMBER: fill(T, 1, 1, 1, 0),
        Reason.VENUE_ERROR: fill(T, 1, -1, 1, 9),
    }
    for reason, item in bad.items():
        step(state, item)
        assert record["quarantined"][reason] == 1, reason
    step(state, fill(T, 1, 0, 1, 9))
    assert record["quarantined"][Reason.SIZE_RANGE] == 2
    assert (record["ledger"]["fills"], record["ledger"]["positions"][0]["size"]) == (2, 1)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (control(Kind.TRADE, T, 5), Reason.UNKNOWN_STREAM),
        (control(Kind.BOOK_VALID, T, 5, instrument=9), Reason.NO_INSTRUMENT),
        (control(Kind.BOOK_VALID, T, 5, instrument=60_000), Reason.NO_INSTRUMENT),
        (quote(T, 5, 2), Reason.NO_INSTRUMENT),
        (control(Kind.INSTRUMENT, T, 5, price=0, size=1), Reason.BAD_NUMBER),
        (control(Kind.MARK_PRICE, T, 5, price=-1), Reason.PRICE_RANGE),
        (command(Kind.CLOCK, T), Reason.UNKNOWN_STREAM),
        (report(77, T, 1), Reason.UNKNOWN_STREAM),
        (report(ReportKind.POSITION, T, instrument=7), Reason.NO_INSTRUMENT),
    ],
)
def test_what_cannot_be_understood_is_quarantined(item: Any, reason: Reason) -> None:
    state = opened_state()
    assert len(step(state, item)) == 0
    assert state[0]["quarantined"][reason] == 1


def test_reports_about_orders_that_nobody_knows_are_counted() -> None:
    state = opened_state()
    feed(state, [report(ReportKind.CANCELLED, T, 12_345), report(ReportKind.ACCEPTED, T, -1)])
    assert state[0]["orphan_reports"] == 2


def test_filters_change_with_instrument_records() -> None:
    state = opened_state()
    step(state, control(Kind.INSTRUMENT, T, 5, price=50, size=5, aux=1_00000000, sequence=2))
    step(state, control(Kind.BOOK_VALID, T, 5))
    orders = step(state, prediction(T, 6, 0, BID + 20, BID + 70))
    assert orders["price"].tolist() == [BID, BID + 100], "a touch off the new tick is rounded away from"
    assert orders["size"].tolist() == [5, 5]
    assert state[0]["views"][0]["filter_epoch"] == 2


def test_mark_price_and_funding_reach_the_view() -> None:
    state = opened_state()
    feed(state, [
        control(Kind.MARK_PRICE, T, 5, price=60_001_00000000),
        control(Kind.FUNDING, T, 6, aux=100_000_000, size=1_700_006_400_000),
    ])
    view = state[0]["views"][0]
    assert (view["mark_price"], view["funding_rate"], view["next_funding_ms"]) == (
        60_001_00000000, 100_000_000, 1_700_006_400_000
    )
    step(state, fill(T, 0, 1, 2, 1))
    pnl = execution_summary(state, [BTC, ETH])["pnl"]
    assert pnl["unrealised"] == "0.00200000"


def test_the_clock_never_goes_back_and_the_cause_is_the_market() -> None:
    state = opened_state()
    step(state, quote(T, 20))
    step(state, report(ReportKind.ACCEPTED, T - 500 * MS, 1, ingest_id=4_000))
    assert (state[0]["now_ns"], state[0]["last_ingest_id"]) == (T, 20)
    step(state, control(Kind.CLOCK, T + MS, 0))
    assert (state[0]["now_ns"], state[0]["last_ingest_id"]) == (T + MS, 20)


def test_open_loop_decides_without_a_venue() -> None:
    state = make_state(open_loop=True, maker=MakerSettings(min_quote_life_ms=100))
    feed(state, [control(Kind.BOOK_VALID, START_NS, 1)])
    assert kinds(step(state, quote(T, 10))) == [OrderAction.NEW] * 2
    assert state[0]["orders"]["status_count"][OrderStatus.LIVE] == 2
    assert kinds(step(state, prediction(T + 200 * MS, 11, 0, BID + 10, ASK + 10))) == [OrderAction.CANCEL] * 2
    assert kinds(step(state, prediction(T + 210 * MS, 12, 0, BID + 10, ASK + 10))) == [OrderAction.NEW] * 2
    step(state, control(Kind.CLOCK, T + 900_000 * MS))
    assert state[0]["orders"]["unknown"] == 0
    step(state, command(Kind.QUIESCE, T + 900_001 * MS))
    assert state[0]["quiescent"] == 1


def test_an_overflow_of_the_ledger_is_an_error() -> None:
    state = opened_state()
    with pytest.raises(OverflowError):
        step(state, fill(T, 0, 1, 2**62, 1, price=2**40))


def test_another_source_is_an_error() -> None:
    state = opened_state()
    batch = record_of(PREDICTION, Kind.CLOCK)
    with pytest.raises(ValueError, match="source"):
        execution_step(as_bytes(state), 99, as_bytes(batch), 1, np.zeros(MAX_OUT * ORDER.itemsize, np.uint8),
                       np.zeros(MAX_OUT, np.uint8))


def test_an_empty_batch_does_nothing() -> None:
    state = opened_state()
    before = state.tobytes()
    for source in (SOURCE_MAIN, SOURCE_FILLS, SOURCE_COMMANDS):
        assert len(step_batch(state, source, np.zeros(0, EXECUTION.in_dtypes[source]))) == 0
    assert state.tobytes() == before


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (ExecutionSettings, "answer_timeout_ms", 0), (ExecutionSettings, "query_after_ms", float("nan")),
        (ExecutionSettings, "max_open_orders", -1), (MakerSettings, "order_value", float("inf")),
        (MakerSettings, "requote_ticks", 0), (MakerSettings, "prediction_weight", -0.5),
    ],
)
def test_settings_that_make_no_sense_name_their_field(settings: Any, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        settings(**{field: value})
