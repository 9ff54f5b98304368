"""Order entry through ccxt on the embedded venue, and what faults make of it; reconciliation."""

from __future__ import annotations

from decimal import Decimal

import pytest
import requests

from engine.reasons import Reason
from engine.records import Flag, OrderAction, OrderType, ReportKind, Side, TimeInForce
from tests.trading_desk import (
    BTC,
    ETH,
    Desk,
    reconcile,
    venue_fills,
)


def test_an_order_is_entered_asked_for_and_cancelled(desk: Desk) -> None:
    desk.client.warm_up()
    order = desk.resting()
    assert desk.perform(order) == [(ReportKind.ACCEPTED, 1, Reason.NONE)]
    assert desk.client.ids.text(1) in desk.open_at_venue()
    resting = next(o for o in desk.venue.state()["open_orders"] if o["clientOrderId"] == desk.client.ids.text(1))
    assert (Decimal(resting["price"]), Decimal(resting["origQty"])) == (
        Decimal(int(order["price"])).scaleb(-2), Decimal("0.010")
    )
    assert (resting["timeInForce"], resting["side"]) == ("GTX", "BUY")
    assert desk.perform(desk.order(OrderAction.QUERY, 1)) == [(ReportKind.ACCEPTED, 1, Reason.NONE)]
    assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == [(ReportKind.CANCELLED, 1, Reason.NONE)]
    assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == [(ReportKind.CANCEL_REJECTED, 1, Reason.UNKNOWN_ORDER)]
    assert desk.perform(desk.order(OrderAction.QUERY, 1)) == [(ReportKind.CANCELLED, 1, Reason.NONE)]
    assert desk.perform(desk.order(OrderAction.QUERY, 99)) == [(ReportKind.NOT_FOUND, 99, Reason.UNKNOWN_ORDER)]
    assert desk.client.ids.text(1) not in desk.open_at_venue()
    assert desk.passed == 1, "only what enters an order meets the last gate"


def test_a_query_gives_every_fill_and_its_numbers(desk: Desk) -> None:
    order = desk.taking(side=-1)
    desk.perform(order)
    answers = desk.client.perform(desk.order(OrderAction.QUERY, 1))
    fills = [a for a in answers if a["kind"][0] == ReportKind.FILL]
    truth = [f for f in desk.venue.state()["fills"] if f["orderId"] == int(answers[-1]["venue_order_id"][0])]
    assert len(fills) == len(truth) > 0
    for fill, told in zip(fills, truth, strict=True):
        assert int(fill["side"][0]) == Side.SELL and int(fill["trade_id"][0]) == told["id"]
        assert Decimal(int(fill["price"][0])).scaleb(-2) == Decimal(told["price"])
        assert Decimal(int(fill["size"][0])).scaleb(-3) == Decimal(told["qty"])
        assert Decimal(int(fill["fee"][0])).scaleb(-8) == Decimal(told["commission"])
    assert int(answers[-1]["cumulative_size"][0]) == sum(int(fill["size"][0]) for fill in fills) == 3


def test_refusals_of_the_venue_by_name(desk: Desk) -> None:
    crossing = desk.taking()
    crossing["time_in_force"] = TimeInForce.GTX
    assert desk.perform(crossing) == [(ReportKind.REJECTED, 1, Reason.WOULD_TAKE)]
    small = desk.resting()
    small["size"] = 1
    assert desk.perform(small) == [(ReportKind.REJECTED, 2, Reason.VENUE_REJECTED)]
    large = desk.resting()
    large["size"] = 900_000
    assert desk.perform(large)[0][0] == ReportKind.REJECTED
    off_tick = desk.resting()
    off_tick["price"] += 1
    assert desk.perform(off_tick) == [(ReportKind.REJECTED, 4, Reason.VENUE_REJECTED)]
    repeated = desk.resting()
    desk.perform(repeated)
    assert desk.perform(repeated) == [(ReportKind.DENIED, 5, Reason.DENIED_INTENT)]  # by our own last gate
    market = desk.taking()
    market["order_type"] = OrderType.MARKET
    assert desk.perform(market) == [(ReportKind.ACCEPTED, 6, Reason.NONE)]
    reduce = desk.taking(instrument=ETH, size=900)
    reduce["flags"] = Flag.REDUCE_ONLY
    assert desk.perform(reduce)[0][0] == ReportKind.REJECTED


UNREACHABLE, ERROR = Reason.VENUE_UNREACHABLE, Reason.VENUE_ERROR


@pytest.mark.parametrize(
    ("fault", "answer", "reason", "exists"),
    [
        ({"action": "error_before", "status": 503}, ReportKind.UNKNOWN, UNREACHABLE, False),
        ({"action": "error_after", "status": 503}, ReportKind.UNKNOWN, UNREACHABLE, True),
        ({"action": "error_before", "status": 500}, ReportKind.UNKNOWN, UNREACHABLE, False),
        ({"action": "error_after", "status": 504}, ReportKind.UNKNOWN, UNREACHABLE, True),
        ({"action": "error_before", "status": 403}, ReportKind.UNKNOWN, None, False),
        ({"action": "hang_after", "delay_ms": 1300}, ReportKind.UNKNOWN, UNREACHABLE, True),
        ({"action": "rate_limit"}, ReportKind.REJECTED, Reason.RATE_LIMITED, False),
    ],
)  # fmt: skip
def test_a_fault_never_means_that_an_order_does_not_exist(
    desk: Desk, fault: dict, answer: ReportKind, reason: Reason | None, exists: bool
) -> None:
    order = desk.resting()
    desk.venue.fault(fault="http", path="/fapi/v1/order", method="POST", **fault)
    kind, order_id, why = desk.perform(order)[0]
    assert (kind, order_id) == (answer, 1) and reason in (None, why)
    assert (desk.client.ids.text(1) in desk.open_at_venue()) == exists
    if fault["action"] == "rate_limit":
        refused = [(ReportKind.UNKNOWN, 1, Reason.DENIED_RATE_BUDGET)]
        assert desk.perform(desk.order(OrderAction.QUERY, 1)) == refused, "a call before Retry-After is over"
        desk.ahead_ns = 120 * 10**9
    asked = desk.perform(desk.order(OrderAction.QUERY, 1))
    assert asked == [(ReportKind.ACCEPTED if exists else ReportKind.NOT_FOUND, 1, asked[0][2])]


def test_a_cancel_that_met_a_fault_is_unknown(desk: Desk) -> None:
    desk.perform(desk.resting())
    desk.venue.fault(fault="http", path="/fapi/v1/order", method="DELETE", action="error_after")
    assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == [(ReportKind.UNKNOWN, 1, UNREACHABLE)]
    assert desk.perform(desk.order(OrderAction.QUERY, 1)) == [(ReportKind.CANCELLED, 1, Reason.NONE)]


@pytest.mark.parametrize("skew_ms", [-5_000, -3_600_000, 2_500, 3_600_000])
def test_a_clock_that_is_wrong_keeps_out_new_orders_and_nothing_else(desk: Desk, skew_ms: int) -> None:
    desk.perform(reconcile(desk, opening=True))
    assert desk.perform(desk.resting())[0][0] == ReportKind.ACCEPTED
    desk.venue.fault(fault="clock", skew_ms=skew_ms, duration_ms=600_000)
    for _ in range(2):
        order = desk.resting()
        number = int(order["order_id"])
        assert desk.perform(order) == [(ReportKind.REJECTED, number, Reason.VENUE_REJECTED)]
        assert b"-1021" in desk.client.last_answer, "the journal keeps the answer to the order"
        assert desk.perform(desk.order(OrderAction.QUERY, number))[0][0] == ReportKind.NOT_FOUND
    assert desk.client.catch_up()[-1]["kind"][0] == ReportKind.ACCEPTED and desk.client.payments() == []
    assert desk.perform(reconcile(desk, opening=False))[-1][0] == ReportKind.RECONCILE_END
    assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == [(ReportKind.CANCELLED, 1, Reason.NONE)]
    requests.delete(desk.venue.address.rest_url + "/bot4/faults", timeout=10)
    assert desk.perform(desk.resting())[0][0] == ReportKind.ACCEPTED, "it goes by our own clock, which is right again"
    assert desk.perform(desk.order(OrderAction.CANCEL, desk.number))[0][0] == ReportKind.CANCELLED


def test_while_the_venues_clock_cannot_be_had_a_cancel_is_refused_and_the_order_is_as_before(desk: Desk) -> None:
    desk.perform(desk.resting())
    desk.venue.fault(fault="clock", skew_ms=-5_000, duration_ms=600_000)
    desk.venue.fault(fault="http", path="/fapi/v1/time", action="error_before", count=2)
    for _ in range(2):
        refused = [(ReportKind.REJECTED, 1, Reason.VENUE_REJECTED)]
        assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == refused
        desk.venue.fault(fault="http", path="/fapi/v1/time", action="garbage_before", count=1)
    assert desk.perform(desk.order(OrderAction.CANCEL, 1)) == [(ReportKind.CANCELLED, 1, Reason.NONE)]


def test_a_reconciliation_that_met_a_fault_is_not_whole(desk: Desk) -> None:
    for path in ("/fapi/v3/account", "/fapi/v3/positionRisk", "/fapi/v1/openOrders", "/fapi/v1/userTrades"):
        desk.venue.fault(fault="http", path=path, method="GET", action="error_before")
        answers = desk.client.perform(reconcile(desk, opening=path.endswith("positionRisk")))
        assert [int(a["kind"][0]) for a in answers] == [ReportKind.RECONCILE_END]
        assert int(answers[0]["aux"][0]) == 0 and int(answers[0]["reason"][0]) == ERROR


def test_reconciliation_tells_what_the_venue_has(desk: Desk) -> None:
    opening = desk.client.perform(reconcile(desk, opening=True))
    kinds = [ReportKind(int(a["kind"][0])) for a in opening]
    assert kinds[0] == ReportKind.BALANCE and kinds[-3:] == [
        ReportKind.OPEN_ORDERS, ReportKind.FEES, ReportKind.RECONCILE_END
    ]
    assert int(opening[-2]["aux"][0]) == 0, "fees before the session are not ours to count"
    desk.perform(desk.resting())
    desk.perform(desk.taking(size=4))
    desk.perform(desk.taking(instrument=ETH, side=-1, size=50))
    answers = desk.client.perform(reconcile(desk, opening=False))
    state = desk.venue.state()
    told = {(ReportKind(int(a["kind"][0])), int(a["instrument"][0])): a for a in answers}
    assert Decimal(int(told[ReportKind.BALANCE, 0]["aux"][0])).scaleb(-8) == Decimal(state["wallet"])
    assert int(told[ReportKind.OPEN_ORDERS, 0]["aux"][0]) == 1 == len(state["open_orders"])
    assert int(told[ReportKind.RECONCILE_END, 0]["aux"][0]) == 1
    fees = sum(Decimal(fill["commission"]) for fill in venue_fills(desk, [1, 2, 3]))
    assert fees > 0 and Decimal(int(told[ReportKind.FEES, 0]["aux"][0])).scaleb(-8) == fees
    adopted = desk.client.perform(reconcile(desk, opening=True))
    costs = {int(a["instrument"][0]): a for a in adopted if a["kind"][0] == ReportKind.POSITION}
    for instrument in (BTC, ETH):
        position = state["positions"][instrument.symbol]
        size = Decimal(position["size"])
        assert Decimal(int(told[ReportKind.POSITION, instrument.index]["size"][0])).scaleb(-3) == size
        entry = costs[instrument.index]
        assert Decimal(int(entry["size"][0])).scaleb(-3) == size
        assert Decimal(int(entry["aux"][0])).scaleb(-8) == Decimal(position["cost"])


def test_an_opening_whose_two_lists_of_positions_differ_is_not_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A garbled empty list once would have adopted a position as flat."""
    desk.client.perform(reconcile(desk, opening=True))
    desk.perform(desk.taking(size=4))
    with monkeypatch.context() as garbled:
        garbled.setattr(desk.client._exchange, "fapiPrivateV3GetPositionRisk", list)
        answers = desk.client.perform(reconcile(desk, opening=True))
    assert [int(a["kind"][0]) for a in answers] == [ReportKind.RECONCILE_END] and int(answers[0]["aux"][0]) == 0
    answers = desk.client.perform(reconcile(desk, opening=True))
    sizes = {int(a["instrument"][0]): int(a["size"][0]) for a in answers if a["kind"][0] == ReportKind.POSITION}
    size = Decimal(desk.venue.state()["positions"][BTC.symbol]["size"])
    assert size != 0 and Decimal(sizes[BTC.index]).scaleb(-3) == size





def test_fees_are_whole_beyond_one_page_of_trades(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of trading is more than a page: the sum must not stop at the last one."""
    monkeypatch.setattr("procs.venues.binance_usdm.account_history._TRADES_PAGE", 2)
    desk.client.perform(reconcile(desk, opening=True))
    before = len(desk.venue.state()["fills"])
    for _ in range(5):
        desk.perform(desk.taking())
    answers = desk.client.perform(reconcile(desk, opening=False))
    fees = next(int(a["aux"][0]) for a in answers if a["kind"][0] == ReportKind.FEES)
    new = desk.venue.state()["fills"][before:]
    assert len(new) >= 5
    assert Decimal(fees).scaleb(-8) == sum(Decimal(fill["commission"]) for fill in new)
