"""What nobody told while the private stream was away is found, and told once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import ccxt
import pytest

from engine.records import ReportKind
from engine.units import MONEY_EXP, parse_units
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.trading import TradingClient
from tests.instance_memory import own_budget
from tests.trading_desk import (
    BTC,
    ETH,
    Desk,
    SignedKill,
    reconcile,
    trade_ids,
    venue_fills,
)


def test_a_reconciliation_tells_what_nobody_has_told_once(desk: Desk) -> None:
    """The fills were lost on the private stream, which is up; one of them was heard."""
    desk.client.perform(reconcile(desk, opening=True))
    for _ in range(3):
        desk.perform(desk.taking())
    truth = venue_fills(desk, [1, 2, 3])
    heard = truth[0]
    desk.client.history.learn(heard["orderId"], 1, 0, heard["id"])
    answers = desk.client.perform(reconcile(desk, opening=False))
    assert trade_ids(answers) == [fill["id"] for fill in truth[1:]]
    kinds = [ReportKind(int(one["kind"][0])) for one in answers]
    assert kinds.index(ReportKind.BALANCE) > max(i for i, kind in enumerate(kinds) if kind == ReportKind.FILL)
    assert trade_ids(desk.client.perform(reconcile(desk, opening=False))) == []
    # As when the answer to an order was lost: the venue is asked whose it is.
    desk.client.history._known_orders._owners.clear()
    desk.perform(desk.taking())
    desk.client.history._known_orders._owners.clear()
    assert trade_ids(desk.client.perform(reconcile(desk, opening=False))) == [
        fill["id"] for fill in venue_fills(desk, [4])
    ]


def test_what_a_reconciliation_found_is_not_lost_when_it_fails(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    desk.perform(desk.taking())
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v3/account", method="GET", count=1)
    failed = desk.client.perform(reconcile(desk, opening=False))
    assert [int(one["kind"][0]) for one in failed] == [ReportKind.RECONCILE_END] and failed[0]["aux"][0] == 0
    answers = desk.client.perform(reconcile(desk, opening=False))
    assert trade_ids(answers) == [fill["id"] for fill in venue_fills(desk, [1])]
    fees = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.FEES)
    assert fees == sum(int(one["fee"][0]) for one in answers) > 0


def test_a_reconciliation_tells_of_orders_that_ended_or_live_unnoticed(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    ended, living = desk.resting(), desk.resting()
    desk.perform(ended)
    desk.perform(living)
    with SignedKill(desk.venue.address) as kill:
        kill.call("DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId=desk.client.ids.text(1))
        bid = desk.touch(ETH)[0] * 96 // 100
        kill.call(
            "POST", "/fapi/v1/order", symbol="ETHUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.1",
            price=f"{bid // 100}.00",
        )
    desk.client.history.forget(2)  # as after a rejection that was none
    answers = desk.client.perform(reconcile(desk, opening=False))
    told = {(ReportKind(int(one["kind"][0])), int(one["order_id"][0])) for one in answers if one["order_id"][0]}
    assert told == {(ReportKind.CANCELLED, 1), (ReportKind.ACCEPTED, 2)}
    resting = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.OPEN_ORDERS)
    assert resting == 2, "ours, and one that nobody here has sent"


def test_a_trade_between_the_parts_of_an_answer_makes_it_start_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    account = desk.client._exchange.fapiPrivateV3GetAccount
    asked = 0

    def trading() -> Any:
        nonlocal asked
        asked += 1
        answer = account()
        if asked == 1:
            with SignedKill(desk.venue.address) as kill:
                kill.call(
                    "POST", "/fapi/v1/order", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.002",
                    newClientOrderId=desk.client.ids.text(50),
                )
        return answer

    monkeypatch.setattr(desk.client._exchange, "fapiPrivateV3GetAccount", trading)
    answers = desk.client.perform(reconcile(desk, opening=False))
    assert asked == 2 and len(trade_ids(answers)) >= 1
    balance = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.BALANCE)
    assert balance == int(Decimal(desk.venue.state()["wallet"]).scaleb(8))





def test_catching_up_gives_every_missed_fill_once_and_every_end(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    desk.perform(desk.resting())
    desk.client.history.stream_lost()
    for _ in range(3):
        desk.perform(desk.taking())
    desk.perform(desk.taking(instrument=ETH, side=-1, size=40))
    with SignedKill(desk.venue.address) as session:  # somebody else cancels meanwhile
        session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    reports = desk.client.catch_up()
    truth = venue_fills(desk, [2, 3, 4, 5])
    assert sorted(trade_ids(reports)) == sorted(fill["id"] for fill in truth)
    ends = {int(one["order_id"][0]): int(one["kind"][0]) for one in reports if one["kind"][0] != ReportKind.FILL}
    assert ends[1] == ReportKind.CANCELLED
    assert trade_ids(desk.client.catch_up()) == [], "what is known is not told again"


def test_a_trade_heard_after_the_reconnect_does_not_hide_those_before_it(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    for _ in range(3):
        desk.perform(desk.taking())
    truth = venue_fills(desk, [1, 2, 3])
    newest = truth[-1]
    # The stream is back and says the newest trade before the sender comes to catch up.
    desk.client.history.learn(newest["orderId"], 3, 0, newest["id"])
    for number in (1, 2, 3):
        desk.client.history.forget(number)
    assert set(trade_ids(desk.client.catch_up())) >= {fill["id"] for fill in truth[:-1]}


def test_a_successor_believes_no_list_without_the_orders_that_the_venue_must_know(desk: Desk) -> None:
    """`200 []` instead of all orders: the fees of the session's trades would be missing in every reconciliation."""
    desk.client.perform(reconcile(desk, opening=True))
    taken = desk.client.perform(desk.taking())[0]
    address, session = desk.venue.address, desk.client.ids.text(1)[2:-2]
    successor = TradingClient(
        Endpoints(address.rest_url, address.ws_url), Credentials(address.api_key, address.secret), [BTC, ETH], session,
        lambda: None, 1000, 1000, own_budget(),
    )
    successor.history.succeed({}, {}, {int(taken["venue_order_id"][0]): 1}, 0)
    for bad in range(6):  # each kind of garbage that the venue has, the empty list among them
        desk.venue.fault(fault="http", action="garbage_before", path="/fapi/v1/allOrders")
        with pytest.raises(ccxt.BaseError):
            successor.catch_up()
        assert desk.venue.state()["counters"]["faults"]["garbage_before"] >= bad + 1
    successor.catch_up()
    fees = [one for one in successor.history.reconcile(opening=False) if one["kind"][0] == ReportKind.FEES]
    assert int(fees[0]["aux"][0]) == sum(
        parse_units(fill["commission"], MONEY_EXP) for fill in venue_fills(desk, [1])
    ) > 0
    successor.close()


def test_a_catch_up_that_failed_is_made_up_for_by_the_next(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    desk.perform(desk.taking())
    desk.client.history.forget(1)
    desk.venue.fault(fault="http", path="/fapi/v1/userTrades", method="GET", action="error_before")
    with pytest.raises(ccxt.BaseError):
        desk.client.catch_up()
    newest = venue_fills(desk, [1])[-1]
    desk.client.history.learn(newest["orderId"], 1, 0, newest["id"])
    assert trade_ids(desk.client.catch_up()) == [fill["id"] for fill in venue_fills(desk, [1])]


def test_catching_up_reads_page_after_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procs.venues.binance_usdm.account_history._TRADES_PAGE", 2)
    desk.client.perform(reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    for _ in range(5):
        desk.perform(desk.taking())
    for number in range(1, 6):
        desk.client.history.forget(number)
    assert trade_ids(desk.client.catch_up()) == [fill["id"] for fill in venue_fills(desk, [1, 2, 3, 4, 5])]


def test_an_order_whose_answer_was_lost_is_found_by_catching_up(desk: Desk) -> None:
    desk.client.perform(reconcile(desk, opening=True))
    desk.venue.fault(fault="http", path="/fapi/v1/order", method="POST", action="error_after")
    assert desk.perform(desk.taking())[0][0] == ReportKind.UNKNOWN
    assert sorted(trade_ids(desk.client.catch_up())) == sorted(fill["id"] for fill in venue_fills(desk, [1]))
