"""The gateway's words: the venue's events as REPORT records, order entry through ccxt, and what faults make of it.

Events are those of the venue's documentation. Order entry runs against the embedded venue and, where an answer must
be one that no venue should give, against a server that says what the test tells it to.
"""

from __future__ import annotations

import hashlib
import http.server
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import ccxt
import numpy as np
import orjson
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.connection import HTTPSConnection

from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import ORDER, Flag, OrderAction, OrderType, ReportKind, Side, TimeInForce
from engine.units import MONEY_EXP, parse_units
from procs.budget import Budget
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints, VenueUnreachable
from procs.venues.binance_usdm.last_gate import GateShut, LastGate
from procs.venues.binance_usdm.order_check import OrderCheck
from procs.venues.binance_usdm.reports import (
    ClientIds,
    from_order,
    from_order_update,
    from_user_trade,
    reason_of_code,
)
from procs.venues.binance_usdm.rest import listen_key
from procs.venues.binance_usdm.signed import SignedSession
from procs.venues.binance_usdm.stock_client import make_exchange
from procs.venues.binance_usdm.trading import TradingClient
from procs.venues.market import market_of
from shm.clock import python_monotonic_ns
from tests.embedded_venue import RunningVenue, running_venue
from tests.instance_memory import listed_instruments, own_budget, venue_limits

SESSION = "0badcafe"
SECRET, KEY = "c4n4rySecret0123456789", "c4n4ryKey9876543210"
BTC, ETH = listed_instruments()
USDM = market_of(Dialect.BINANCE_USDM)
BY_NAME = {"BTCUSDT": BTC, "ETHUSDT": ETH}
IDS = ClientIds(SESSION)


def fields(record: np.ndarray) -> dict[str, int]:
    """What of a report is not zero, by name; enums by their number."""
    names = record.dtype.names or ()
    return {name: int(record[name][0]) for name in names if name != "spare" and int(record[name][0])}


# --- the venue's events ---------------------------------------------------------------------------------------------


def update(**changes: Any) -> dict[str, Any]:
    """ORDER_TRADE_UPDATE as the documentation prints it, with changes in `o`."""
    order = {
        "s": "BTCUSDT", "c": f"b4{SESSION}-17", "S": "SELL", "o": "LIMIT", "f": "GTC", "q": "0.001", "p": "9910.5",
        "ap": "0", "sp": "0", "x": "NEW", "X": "NEW", "i": 8886774, "l": "0", "z": "0", "L": "0", "N": "USDT",
        "n": "0", "T": 1568879465650, "t": 0, "b": "0", "a": "9.91", "m": False, "R": False, "wt": "CONTRACT_PRICE",
        "ot": "LIMIT", "ps": "BOTH", "cp": False, "rp": "0", "pP": False, "si": 0, "ss": 0, "V": "NONE", "pm": "NONE",
        "gtd": 0,
    }
    return {"e": "ORDER_TRADE_UPDATE", "E": 1568879465651, "T": 1568879465650, "o": order | changes}


HEAD = {
    "exch_ts_ns": 1568879465650_000_000, "order_id": 17, "venue_order_id": 8886774, "side": -1,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"kind": ReportKind.ACCEPTED}),
        ({"S": "BUY"}, {"kind": ReportKind.ACCEPTED, "side": 1}),
        ({"s": "ETHUSDT"}, {"kind": ReportKind.ACCEPTED, "instrument": 1}),
        (
            {"x": "TRADE", "X": "PARTIALLY_FILLED", "l": "0.0010", "z": "0.004", "L": "9910.5", "n": "0.00396420",
             "t": 1234567, "m": True},
            {"kind": ReportKind.FILL, "price": 991050, "size": 1, "cumulative_size": 4, "trade_id": 1234567,
             "fee": 396420, "flags": Flag.MAKER},
        ),
        (
            {"x": "TRADE", "X": "FILLED", "l": "5", "z": "5.001", "L": "60000.1", "n": "-0.5", "t": 9},
            {"kind": ReportKind.FILL, "price": 6000010, "size": 5000, "cumulative_size": 5001, "trade_id": 9,
             "fee": -50_000_000},
        ),
        ({"x": "CANCELED", "X": "CANCELED", "z": "0.002"}, {"kind": ReportKind.CANCELLED, "cumulative_size": 2}),
        ({"x": "EXPIRED", "X": "EXPIRED"}, {"kind": ReportKind.EXPIRED}),
        ({"x": "EXPIRED", "X": "EXPIRED", "f": "GTX"}, {"kind": ReportKind.EXPIRED, "reason": Reason.WOULD_TAKE}),
        ({"x": "EXPIRED", "X": "EXPIRED_IN_MATCH"}, {"kind": ReportKind.EXPIRED}),
        ({"x": "REJECTED", "X": "REJECTED"}, {"kind": ReportKind.REJECTED}),
        ({"x": "AMENDMENT", "X": "NEW"}, {"kind": ReportKind.ACCEPTED}),
        # A state that is not documented: the order may rest, so it counts as one that does.
        ({"x": "SOMETHING", "X": "NEW_KIND_OF_STATE"}, {"kind": ReportKind.ACCEPTED}),
    ],
)  # fmt: skip
def test_order_events_of_the_documentation(changes: dict, expected: dict) -> None:
    record = from_order_update(update(**changes), BY_NAME, IDS)
    assert record is not None
    assert fields(record) == {name: int(value) for name, value in (HEAD | expected).items() if value}


@pytest.mark.parametrize(
    "changes", [{"c": "web_abc"}, {"c": "b4ffffffff-17"}, {"c": ""}, {"s": "DOGEUSDT"}]
)
def test_events_about_orders_of_others_are_none_of_ours(changes: dict) -> None:
    assert from_order_update(update(**changes), BY_NAME, IDS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"x": "TRADE", "l": "0.0001", "L": "1", "t": 1},  # finer than the instrument's unit
        {"x": "TRADE", "l": "1", "L": "1.001", "t": 1},
        {"x": "TRADE", "l": "one", "L": "1", "t": 1},
        {"x": "TRADE", "l": "1", "L": "1", "t": 1, "n": "0.01", "N": "BNB"},  # the ledger has no price of BNB
        {"z": "NaN"},
    ],
)  # fmt: skip
def test_an_event_about_our_money_that_cannot_be_booked_is_an_error(changes: dict) -> None:
    with pytest.raises(ValueError):
        from_order_update(update(**changes), BY_NAME, IDS)


@pytest.mark.parametrize("missing", ["c", "s", "x", "X", "z", "i", "T"])
def test_an_event_without_what_it_must_hold_is_an_error(missing: str) -> None:
    event = update()
    del event["o"][missing]
    with pytest.raises(KeyError):
        from_order_update(event, BY_NAME, IDS)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("NEW", ReportKind.ACCEPTED), ("PARTIALLY_FILLED", ReportKind.ACCEPTED), ("FILLED", ReportKind.ACCEPTED),
        ("CANCELED", ReportKind.CANCELLED), ("EXPIRED", ReportKind.EXPIRED), ("REJECTED", ReportKind.REJECTED),
        ("EXPIRED_IN_MATCH", ReportKind.EXPIRED),
    ],
)  # fmt: skip
def test_orders_as_rest_tells_them(status: str, kind: ReportKind) -> None:
    answer = {
        "avgPrice": "0.00000", "clientOrderId": "abc", "cumQuote": "0", "executedQty": "0.003", "orderId": 1917641,
        "origQty": "0.40", "origType": "LIMIT", "price": "0", "reduceOnly": False, "side": "BUY", "status": status,
        "symbol": "BTCUSDT", "time": 1579276756075, "timeInForce": "GTC", "type": "LIMIT",
        "updateTime": 1579276756076,
    }
    assert fields(from_order(answer, BTC, 5)) == {
        "kind": kind, "order_id": 5, "venue_order_id": 1917641, "exch_ts_ns": 1579276756076_000_000,
        "cumulative_size": 3, "side": 1, "flags": Flag.FROM_REST,
    }


def test_trades_as_rest_tells_them() -> None:
    trade = {
        "buyer": False, "commission": "0.07819010", "commissionAsset": "USDT", "id": 698759, "maker": True,
        "orderId": 25851813, "price": "7819.01", "qty": "0.002", "quoteQty": "15.63802", "realizedPnl": "-0.91539999",
        "side": "SELL", "positionSide": "SHORT", "symbol": "ETHUSDT", "time": 1569514978020,
    }
    assert fields(from_user_trade(trade, ETH, 6)) == {
        "kind": ReportKind.FILL, "instrument": 1, "order_id": 6, "venue_order_id": 25851813, "trade_id": 698759,
        "exch_ts_ns": 1569514978020_000_000, "price": 781901, "size": 2, "fee": 7819010, "side": Side.SELL,
        "flags": Flag.FROM_REST | Flag.MAKER,
    }
    with pytest.raises(ValueError, match="a fee in BNB is not one in USDT"):
        from_user_trade(trade | {"commissionAsset": "BNB"}, ETH, 6)


@given(st.integers(1, 2**62))
def test_client_ids_are_short_and_come_back(number: int) -> None:
    text = IDS.text(number)
    assert len(text) <= 36 and IDS.number(text) == number
    assert ClientIds("00000000").number(text) == 0


@given(st.text(max_size=12) | st.from_regex(r"[0-9\u00b2\u0663]{0,4}", fullmatch=True))
def test_only_what_we_would_have_written_is_ours(tail: str) -> None:
    number = IDS.number(f"b4{SESSION}-{tail}")
    assert number == 0 or IDS.text(number) == f"b4{SESSION}-{tail}"


def test_reasons_of_codes() -> None:
    assert reason_of_code(-5022) == Reason.WOULD_TAKE
    assert reason_of_code(-2019) == Reason.INSUFFICIENT_MARGIN
    assert reason_of_code(-2011) == reason_of_code(-2013) == Reason.UNKNOWN_ORDER
    assert reason_of_code(-1003) == reason_of_code(-1015) == Reason.RATE_LIMITED
    assert reason_of_code(-4164) == Reason.VENUE_REJECTED


# --- order entry on the embedded venue ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def venue() -> Iterator[RunningVenue]:
    with running_venue() as running:
        yield running


@dataclass
class Desk:
    """A trading client on the embedded venue, and what it needs to make orders."""

    venue: RunningVenue
    client: TradingClient
    gate: list[GateShut] = field(default_factory=list)  # not empty: shut
    passed: int = 0
    ahead_ns: int = 0  # of the clock that the rate budget goes by
    number: int = 0

    def order(self, action: OrderAction, order_id: int = 0, **values: int) -> np.void:
        record = np.zeros(1, ORDER)
        record["kind"], record["order_id"], record["aux"] = action, order_id, order_id
        for name, value in values.items():
            record[name] = value
        return record[0]

    def touch(self, instrument: Instrument) -> tuple[int, int]:
        ticker = self.venue.get(f"/fapi/v1/ticker/bookTicker?symbol={instrument.symbol}").json()
        return tuple(int(Decimal(ticker[key]).scaleb(instrument.price_exp)) for key in ("bidPrice", "askPrice"))  # type: ignore[return-value]

    def resting(self, instrument: Instrument = BTC) -> np.void:
        """A new buy order far below the market."""
        self.number += 1
        price = self.touch(instrument)[0] * 97 // 100 // instrument.tick_size * instrument.tick_size
        return self.order(
            OrderAction.NEW, self.number, instrument=instrument.index, side=1, price=price, size=10,
            time_in_force=TimeInForce.GTX,
        )

    def taking(self, instrument: Instrument = BTC, side: int = 1, size: int = 3) -> np.void:
        """An order that is filled at once."""
        self.number += 1
        touch = self.touch(instrument)[1 if side > 0 else 0]
        price = touch * (1000 + 3 * side) // 1000 // instrument.tick_size * instrument.tick_size
        return self.order(
            OrderAction.NEW, self.number, instrument=instrument.index, side=side, price=price, size=size,
            time_in_force=TimeInForce.IOC,
        )

    def perform(self, order: np.void) -> list[tuple[ReportKind, int, Reason]]:
        answers = self.client.perform(order)
        return [(ReportKind(int(a["kind"][0])), int(a["order_id"][0]), Reason(int(a["reason"][0]))) for a in answers]

    def open_at_venue(self) -> set[str]:
        return {order["clientOrderId"] for order in self.venue.state()["open_orders"]}


@pytest.fixture
def desk(venue: RunningVenue, request: pytest.FixtureRequest) -> Iterator[Desk]:
    session = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]

    def before_order() -> None:
        if made.gate:
            raise made.gate[0]
        made.passed += 1

    address = venue.address
    client = TradingClient(
        Endpoints(address.rest_url, address.ws_url), Credentials(address.api_key, address.secret), [BTC, ETH], session,
        before_order, 1000, 1000, Budget.of_own(venue_limits(), lambda: python_monotonic_ns() + made.ahead_ns),
    )
    made = Desk(venue, client)
    yield made
    client.close()
    requests.delete(address.rest_url + "/bot4/faults", timeout=10)
    with SignedKill(address) as kill:
        for instrument in (BTC, ETH):
            kill.call("DELETE", "/fapi/v1/allOpenOrders", symbol=instrument.symbol)


class SignedKill:
    """A hand-signed session as a context."""

    def __init__(self, address: Any) -> None:
        self._session = SignedSession(
            address.rest_url, Credentials(address.api_key, address.secret), own_budget()
        )

    def __enter__(self) -> SignedSession:
        return self._session

    def __exit__(self, *exception: object) -> None:
        self._session.close()


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
    desk.perform(_reconcile(desk, opening=True))
    assert desk.perform(desk.resting())[0][0] == ReportKind.ACCEPTED
    desk.venue.fault(fault="clock", skew_ms=skew_ms, duration_ms=600_000)
    for _ in range(2):
        order = desk.resting()
        number = int(order["order_id"])
        assert desk.perform(order) == [(ReportKind.REJECTED, number, Reason.VENUE_REJECTED)]
        assert b"-1021" in desk.client.last_answer, "the journal keeps the answer to the order"
        assert desk.perform(desk.order(OrderAction.QUERY, number))[0][0] == ReportKind.NOT_FOUND
    assert desk.client.catch_up()[-1]["kind"][0] == ReportKind.ACCEPTED and desk.client.payments() == []
    assert desk.perform(_reconcile(desk, opening=False))[-1][0] == ReportKind.RECONCILE_END
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
        answers = desk.client.perform(_reconcile(desk, opening=path.endswith("positionRisk")))
        assert [int(a["kind"][0]) for a in answers] == [ReportKind.RECONCILE_END]
        assert int(answers[0]["aux"][0]) == 0 and int(answers[0]["reason"][0]) == ERROR


def test_reconciliation_tells_what_the_venue_has(desk: Desk) -> None:
    opening = desk.client.perform(_reconcile(desk, opening=True))
    kinds = [ReportKind(int(a["kind"][0])) for a in opening]
    assert kinds[0] == ReportKind.BALANCE and kinds[-3:] == [
        ReportKind.OPEN_ORDERS, ReportKind.FEES, ReportKind.RECONCILE_END
    ]
    assert int(opening[-2]["aux"][0]) == 0, "fees before the session are not ours to count"
    desk.perform(desk.resting())
    desk.perform(desk.taking(size=4))
    desk.perform(desk.taking(instrument=ETH, side=-1, size=50))
    answers = desk.client.perform(_reconcile(desk, opening=False))
    state = desk.venue.state()
    told = {(ReportKind(int(a["kind"][0])), int(a["instrument"][0])): a for a in answers}
    assert Decimal(int(told[ReportKind.BALANCE, 0]["aux"][0])).scaleb(-8) == Decimal(state["wallet"])
    assert int(told[ReportKind.OPEN_ORDERS, 0]["aux"][0]) == 1 == len(state["open_orders"])
    assert int(told[ReportKind.RECONCILE_END, 0]["aux"][0]) == 1
    fees = sum(Decimal(fill["commission"]) for fill in _venue_fills(desk, [1, 2, 3]))
    assert fees > 0 and Decimal(int(told[ReportKind.FEES, 0]["aux"][0])).scaleb(-8) == fees
    adopted = desk.client.perform(_reconcile(desk, opening=True))
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
    desk.client.perform(_reconcile(desk, opening=True))
    desk.perform(desk.taking(size=4))
    with monkeypatch.context() as garbled:
        garbled.setattr(desk.client._exchange, "fapiPrivateV3GetPositionRisk", list)
        answers = desk.client.perform(_reconcile(desk, opening=True))
    assert [int(a["kind"][0]) for a in answers] == [ReportKind.RECONCILE_END] and int(answers[0]["aux"][0]) == 0
    answers = desk.client.perform(_reconcile(desk, opening=True))
    sizes = {int(a["instrument"][0]): int(a["size"][0]) for a in answers if a["kind"][0] == ReportKind.POSITION}
    size = Decimal(desk.venue.state()["positions"][BTC.symbol]["size"])
    assert size != 0 and Decimal(sizes[BTC.index]).scaleb(-3) == size


def _reconcile(desk: Desk, opening: bool) -> np.void:
    order = desk.order(OrderAction.RECONCILE)
    order["aux"] = int(opening)
    return order


def test_fees_are_whole_beyond_one_page_of_trades(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of trading is more than a page: the sum must not stop at the last one."""
    monkeypatch.setattr("procs.venues.binance_usdm.account_history._TRADES_PAGE", 2)
    desk.client.perform(_reconcile(desk, opening=True))
    before = len(desk.venue.state()["fills"])
    for _ in range(5):
        desk.perform(desk.taking())
    answers = desk.client.perform(_reconcile(desk, opening=False))
    fees = next(int(a["aux"][0]) for a in answers if a["kind"][0] == ReportKind.FEES)
    new = desk.venue.state()["fills"][before:]
    assert len(new) >= 5
    assert Decimal(fees).scaleb(-8) == sum(Decimal(fill["commission"]) for fill in new)


# --- the private stream broke ---------------------------------------------------------------------------------------


def test_a_reconciliation_tells_what_nobody_has_told_once(desk: Desk) -> None:
    """The fills were lost on the private stream, which is up; one of them was heard."""
    desk.client.perform(_reconcile(desk, opening=True))
    for _ in range(3):
        desk.perform(desk.taking())
    truth = _venue_fills(desk, [1, 2, 3])
    heard = truth[0]
    desk.client.history.learn(heard["orderId"], 1, 0, heard["id"])
    answers = desk.client.perform(_reconcile(desk, opening=False))
    assert trade_ids(answers) == [fill["id"] for fill in truth[1:]]
    kinds = [ReportKind(int(one["kind"][0])) for one in answers]
    assert kinds.index(ReportKind.BALANCE) > max(i for i, kind in enumerate(kinds) if kind == ReportKind.FILL)
    assert trade_ids(desk.client.perform(_reconcile(desk, opening=False))) == []
    # As when the answer to an order was lost: the venue is asked whose it is.
    desk.client.history._known_orders._owners.clear()
    desk.perform(desk.taking())
    desk.client.history._known_orders._owners.clear()
    assert trade_ids(desk.client.perform(_reconcile(desk, opening=False))) == [
        fill["id"] for fill in _venue_fills(desk, [4])
    ]


def test_what_a_reconciliation_found_is_not_lost_when_it_fails(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
    desk.perform(desk.taking())
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v3/account", method="GET", count=1)
    failed = desk.client.perform(_reconcile(desk, opening=False))
    assert [int(one["kind"][0]) for one in failed] == [ReportKind.RECONCILE_END] and failed[0]["aux"][0] == 0
    answers = desk.client.perform(_reconcile(desk, opening=False))
    assert trade_ids(answers) == [fill["id"] for fill in _venue_fills(desk, [1])]
    fees = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.FEES)
    assert fees == sum(int(one["fee"][0]) for one in answers) > 0


def test_a_reconciliation_tells_of_orders_that_ended_or_live_unnoticed(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
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
    answers = desk.client.perform(_reconcile(desk, opening=False))
    told = {(ReportKind(int(one["kind"][0])), int(one["order_id"][0])) for one in answers if one["order_id"][0]}
    assert told == {(ReportKind.CANCELLED, 1), (ReportKind.ACCEPTED, 2)}
    resting = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.OPEN_ORDERS)
    assert resting == 2, "ours, and one that nobody here has sent"


def test_a_trade_between_the_parts_of_an_answer_makes_it_start_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
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
    answers = desk.client.perform(_reconcile(desk, opening=False))
    assert asked == 2 and len(trade_ids(answers)) >= 1
    balance = next(int(one["aux"][0]) for one in answers if one["kind"][0] == ReportKind.BALANCE)
    assert balance == int(Decimal(desk.venue.state()["wallet"]).scaleb(8))


def trade_ids(reports: list[np.ndarray]) -> list[int]:
    return [int(one["trade_id"][0]) for one in reports if one["kind"][0] == ReportKind.FILL]


def _venue_fills(desk: Desk, order_ids: list[int]) -> list[dict]:
    texts = {desk.client.ids.text(number) for number in order_ids}
    names = {
        order["orderId"] for instrument in (BTC, ETH) for order in _all_orders(desk, instrument)
        if order["clientOrderId"] in texts
    }
    return [fill for fill in desk.venue.state()["fills"] if fill["orderId"] in names]


def _all_orders(desk: Desk, instrument: Instrument) -> list[dict]:
    with SignedKill(desk.venue.address) as session:
        answer: list[dict] = session.call("GET", "/fapi/v1/allOrders", symbol=instrument.symbol, limit=1000)
        return answer


def test_catching_up_gives_every_missed_fill_once_and_every_end(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
    desk.perform(desk.resting())
    desk.client.history.stream_lost()
    for _ in range(3):
        desk.perform(desk.taking())
    desk.perform(desk.taking(instrument=ETH, side=-1, size=40))
    with SignedKill(desk.venue.address) as session:  # somebody else cancels meanwhile
        session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    reports = desk.client.catch_up()
    truth = _venue_fills(desk, [2, 3, 4, 5])
    assert sorted(trade_ids(reports)) == sorted(fill["id"] for fill in truth)
    ends = {int(one["order_id"][0]): int(one["kind"][0]) for one in reports if one["kind"][0] != ReportKind.FILL}
    assert ends[1] == ReportKind.CANCELLED
    assert trade_ids(desk.client.catch_up()) == [], "what is known is not told again"


def test_a_trade_heard_after_the_reconnect_does_not_hide_those_before_it(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    for _ in range(3):
        desk.perform(desk.taking())
    truth = _venue_fills(desk, [1, 2, 3])
    newest = truth[-1]
    # The stream is back and says the newest trade before the sender comes to catch up.
    desk.client.history.learn(newest["orderId"], 3, 0, newest["id"])
    for number in (1, 2, 3):
        desk.client.history.forget(number)
    assert set(trade_ids(desk.client.catch_up())) >= {fill["id"] for fill in truth[:-1]}


def test_a_successor_believes_no_list_without_the_orders_that_the_venue_must_know(desk: Desk) -> None:
    """`200 []` instead of all orders: the fees of the session's trades would be missing in every reconciliation."""
    desk.client.perform(_reconcile(desk, opening=True))
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
        parse_units(fill["commission"], MONEY_EXP) for fill in _venue_fills(desk, [1])
    ) > 0
    successor.close()


def test_a_catch_up_that_failed_is_made_up_for_by_the_next(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    desk.perform(desk.taking())
    desk.client.history.forget(1)
    desk.venue.fault(fault="http", path="/fapi/v1/userTrades", method="GET", action="error_before")
    with pytest.raises(ccxt.BaseError):
        desk.client.catch_up()
    newest = _venue_fills(desk, [1])[-1]
    desk.client.history.learn(newest["orderId"], 1, 0, newest["id"])
    assert trade_ids(desk.client.catch_up()) == [fill["id"] for fill in _venue_fills(desk, [1])]


def test_catching_up_reads_page_after_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procs.venues.binance_usdm.account_history._TRADES_PAGE", 2)
    desk.client.perform(_reconcile(desk, opening=True))
    desk.client.history.stream_lost()
    for _ in range(5):
        desk.perform(desk.taking())
    for number in range(1, 6):
        desk.client.history.forget(number)
    assert trade_ids(desk.client.catch_up()) == [fill["id"] for fill in _venue_fills(desk, [1, 2, 3, 4, 5])]


def test_an_order_whose_answer_was_lost_is_found_by_catching_up(desk: Desk) -> None:
    desk.client.perform(_reconcile(desk, opening=True))
    desk.venue.fault(fault="http", path="/fapi/v1/order", method="POST", action="error_after")
    assert desk.perform(desk.taking())[0][0] == ReportKind.UNKNOWN
    assert sorted(trade_ids(desk.client.catch_up())) == sorted(fill["id"] for fill in _venue_fills(desk, [1]))


# --- the last gate --------------------------------------------------------------------------------------------------


def test_a_shut_gate_lets_no_order_out_and_everything_else(desk: Desk) -> None:
    desk.perform(desk.resting())
    desk.gate.append(GateShut(Reason.DENIED_EMERGENCY))
    assert desk.perform(desk.taking()) == [(ReportKind.DENIED, 2, Reason.DENIED_EMERGENCY)]
    assert _venue_fills(desk, [2]) == []
    desk.gate[0] = GateShut(Reason.DENIED_LATE)
    assert desk.perform(desk.resting()) == [(ReportKind.DENIED, 3, Reason.DENIED_LATE)]
    assert desk.open_at_venue() & {desk.client.ids.text(3)} == set()
    assert desk.perform(desk.order(OrderAction.QUERY, 1))[0][0] == ReportKind.ACCEPTED
    assert desk.perform(desk.order(OrderAction.CANCEL, 1))[0][0] == ReportKind.CANCELLED
    assert desk.client.perform(_reconcile(desk, opening=False))[-1]["aux"][0] == 1
    assert trade_ids(desk.client.catch_up()) == []


Script = Callable[[str, str], tuple[int, bytes]]


class ScriptedServer:
    """Answers what the test says, and keeps what it was asked."""

    def __init__(self, answer: Script) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                path, _, query = self.path.partition("?")
                outer.requests.append((self.command, path, dict(parse_qsl(query)) | dict(parse_qsl(body))))
                status, content = answer(self.command, path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_PUT = _serve

            def log_message(self, format: str, *arguments: Any) -> None:
                """Keep the terminal quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def client_of(
    server: ScriptedServer, before_order: Callable[[], None] = lambda: None, prefix: str = "",
    budget: Budget | None = None,
) -> TradingClient:
    return TradingClient(
        Endpoints(server.url + prefix, ""), Credentials(KEY, SECRET), [BTC, ETH], SESSION, before_order, 1000, 1000,
        budget or own_budget(),
    )


def new_order(order_id: int = 1) -> np.void:
    order = np.zeros(1, ORDER)
    order["kind"], order["order_id"] = OrderAction.NEW, order_id
    order["side"], order["price"], order["size"] = 1, 100, 5
    return order[0]


@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
def test_the_last_gate_sees_every_order_before_a_byte_leaves(prefix: str) -> None:
    seen: list[int] = []

    def before_order() -> None:
        seen.append(len(server.requests))
        raise GateShut(Reason.DENIED_LATE)

    with ScriptedServer(lambda method, path: (200, b"{}")) as server:
        client = client_of(server, before_order, prefix)
        for number in range(1, 6):
            assert client.perform(new_order(number))[0]["reason"][0] == Reason.DENIED_LATE
        assert seen == [0] * 5 and server.requests == []
        client.close()


def test_an_order_whose_connection_has_to_be_opened_meets_the_gate_again() -> None:
    """The gate may be shut meanwhile. Over a connection that is open an order meets it once."""
    looks: list[int] = []
    shut_at = [2]

    def before_order() -> None:
        looks.append(len(server.requests))
        if len(looks) == shut_at[0]:
            raise GateShut(Reason.DENIED_EMERGENCY)

    answer = b'{"orderId": 1, "status": "NEW", "executedQty": "0", "side": "BUY"}'
    with ScriptedServer(lambda method, path: (200, answer)) as server:
        budget = own_budget()
        client = client_of(server, before_order, budget=budget)
        spent = budget.report()["limits"]
        assert client.perform(new_order(1))[0]["reason"][0] == Reason.DENIED_EMERGENCY
        assert looks == [0, 0] and server.requests == [] and budget.report()["limits"] == spent
        assert client.perform(new_order(2))[0]["kind"][0] == ReportKind.ACCEPTED and looks == [0] * 4
        assert client.perform(new_order(3))[0]["kind"][0] == ReportKind.ACCEPTED and looks == [0] * 4 + [1]
        client._exchange.session.close()  # as a venue closes what has been idle
        shut_at[0] = 7
        assert client.perform(new_order(4))[0]["reason"][0] == Reason.DENIED_EMERGENCY
        client.warm_up()
        assert len(server.requests) == 3 and len(looks) == 7, "a question meets no gate"
        client.close()


def test_the_same_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(HTTPSConnection, "connect", lambda connection: opened.append(connection))
    gate = LastGate(own_budget(), lambda: opened.append("asked"), OrderCheck({}, IDS))
    gate._is_order = True
    connection = gate.poolmanager.connection_from_url("https://venue")._new_conn()
    connection.connect()
    assert opened == [connection, "asked"]


def test_what_is_sent_for_an_order() -> None:
    answer = {"orderId": 7, "status": "NEW", "executedQty": "0", "side": "BUY", "updateTime": 5}
    with ScriptedServer(lambda method, path: (200, orjson.dumps(answer))) as server:
        client = client_of(server)
        order = new_order(12)
        order["time_in_force"], order["flags"], order["side"] = TimeInForce.GTX, Flag.REDUCE_ONLY, -1
        order["price"], order["size"] = 6_000_010, 1_234
        client.perform(order)
        (method, path, sent), = server.requests
        assert (method, path) == ("POST", "/fapi/v1/order")
        signature, timestamp = sent.pop("signature"), sent.pop("timestamp")
        assert sent == {
            "symbol": "BTCUSDT", "side": "SELL", "quantity": "1.234", "price": "60000.10", "type": "LIMIT",
            "timeInForce": "GTX", "newClientOrderId": f"b4{SESSION}-12", "newOrderRespType": "ACK",
            "reduceOnly": "true", "recvWindow": "1000",
        }
        assert len(timestamp) == 13 and len(signature) == 64
        client.close()


GARBAGE = [
    b"", b"null", b"[]", b"{}", b"5", b'"text"', b"<html>busy</html>", b"{", b"\xff\xfe",
    b'{"orderId": "x", "status": "NEW", "executedQty": "0", "side": "BUY"}',
    b'{"orderId": 5, "status": "NEW", "executedQty": "many", "side": "BUY"}',
    b'{"orderId": 5, "status": "NEW", "executedQty": null, "side": "BUY"}',
    b'{"orderId": 5}', b"[1, 2]", b'[{"id": 1}]', b'[{"id": "x", "orderId": {}}]',
]  # fmt: skip


@pytest.mark.parametrize("body", GARBAGE, ids=repr)
@pytest.mark.parametrize("status", [200, 418, 500])
def test_an_answer_that_cannot_be_read_is_unknown_and_never_raises(status: int, body: bytes) -> None:
    with ScriptedServer(lambda method, path: (status, body)) as server:
        order = new_order()
        for action in (OrderAction.NEW, OrderAction.CANCEL, OrderAction.QUERY, OrderAction.RECONCILE):
            client = client_of(server)  # each with a budget of its own, which no ban has closed yet
            order["kind"] = action
            answers = client.perform(order)
            kinds = [ReportKind(int(one["kind"][0])) for one in answers]
            if action == OrderAction.RECONCILE:
                assert kinds == [ReportKind.RECONCILE_END] and answers[0]["aux"][0] == 0
            else:
                limited = status == 418 and action != OrderAction.QUERY
                assert kinds == [ReportKind.REJECTED if limited else ReportKind.UNKNOWN], action
            client.close()


@pytest.mark.parametrize("code", [-1000, -1001, -1006, -1007])
def test_codes_by_which_the_venue_says_that_it_does_not_know(code: int) -> None:
    body = orjson.dumps({"code": code, "msg": "An unknown error occurred while processing the request."})
    with ScriptedServer(lambda method, path: (400, body)) as server:
        client = client_of(server)
        assert client.perform(new_order())[0]["kind"][0] == ReportKind.UNKNOWN
        client.close()


def test_a_server_that_is_not_there() -> None:
    with ScriptedServer(lambda method, path: (200, b"{}")) as server:
        client = client_of(server)
    answer = client.perform(new_order())[0]
    assert (int(answer["kind"][0]), int(answer["reason"][0])) == (ReportKind.UNKNOWN, UNREACHABLE)
    client.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b"{", b'{"listenKey": ""}'])
def test_a_listen_key_that_is_none_is_an_error(body: bytes) -> None:
    with ScriptedServer(lambda method, path: (200, body)) as server, pytest.raises(VenueUnreachable):
        listen_key(server.url, Credentials(KEY, SECRET), own_budget())


# --- public data ----------------------------------------------------------------------------------------------------


def test_instruments_and_depth_of_the_embedded_venue(venue: RunningVenue) -> None:
    listing = USDM.fetch_listing(venue.address.rest_url, ["ETHUSDT", "BTCUSDT"])
    assert listing.instruments == (
        Instrument(**(ETH.as_dict() | {"index": 0})), Instrument(**(BTC.as_dict() | {"index": 1}))
    )
    assert [limit.name for limit in listing.rate_limits] == [limit.name for limit in venue_limits()]
    with pytest.raises(ValueError, match="does not list DOGEUSDT"):
        USDM.fetch_listing(venue.address.rest_url, ["DOGEUSDT"])
    with requests.Session() as session:
        assert orjson.loads(USDM.fetch_book(session, venue.address.rest_url, "BTCUSDT"))["bids"]
        with pytest.raises(VenueUnreachable, match="HTTP 400"):
            USDM.fetch_book(session, venue.address.rest_url, "DOGEUSDT")


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"symbols": [5]}', b'{"symbols": 5}'])
def test_an_exchange_info_that_is_none(body: bytes) -> None:
    with (
        ScriptedServer(lambda method, path: (200, body)) as server,
        pytest.raises(VenueUnreachable, match="no exchangeInfo"),
    ):
        USDM.fetch_listing(server.url, ["BTCUSDT"])


# --- signatures and secrets -----------------------------------------------------------------------------------------


def test_a_hand_signed_request_is_taken_by_the_venue(venue: RunningVenue) -> None:
    with SignedKill(venue.address) as session:
        assert isinstance(session.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT"), list)
        with pytest.raises(VenueUnreachable, match=r"^GET /fapi/v1/openOrders: HTTP 400, code -1121$"):
            session.call("GET", "/fapi/v1/openOrders", symbol="DOGEUSDT")


def test_no_secret_in_any_text(venue: RunningVenue, caplog: pytest.LogCaptureFixture) -> None:
    credentials = Credentials(KEY, SECRET)
    texts: list[str] = [repr(credentials), str(credentials), f"{credentials}"]
    with caplog.at_level(logging.DEBUG):
        bodies: list[tuple[int, bytes]] = [(200, b"x"), (400, b'{"code": -1022, "msg": "bad"}'), (503, b"")]
        for status, body in bodies:
            with ScriptedServer(lambda method, path, s=status, b=body: (s, b)) as server:  # type: ignore[misc]
                client = client_of(server)
                texts += [repr(client), str(client), repr(client._exchange), str(vars(client).keys())]
                for call in (client.catch_up, client.warm_up, lambda c=client: c.history.query(1, 0)):
                    try:
                        call()
                    except Exception as error:
                        texts += [str(error), repr(error)]
                client.perform(new_order())
                session = SignedSession(server.url, credentials, own_budget())
                texts += [repr(session), str(session)]
                for path in ("/fapi/v1/openOrders", "/fapi/v1/allOpenOrders"):
                    try:
                        session.call("GET", path, symbol="BTCUSDT")
                    except VenueUnreachable as error:
                        texts += [str(error), repr(error)]
                try:
                    listen_key(server.url, credentials, own_budget())
                except VenueUnreachable as error:
                    texts += [str(error), repr(error)]
                client.close()
                session.close()
        # Nobody listens there any more.
        lonely = SignedSession(server.url, credentials, own_budget())
        try:
            lonely.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
        except VenueUnreachable as error:
            texts += [str(error), repr(error), repr(error.__cause__)]
        lonely.close()
    assert len(texts) > 30
    for text in [*texts, caplog.text]:
        assert SECRET not in text
        assert KEY not in text


def test_endpoints_of_the_real_venue_are_left_alone() -> None:
    ours = make_exchange(Endpoints("https://fapi.binance.com", ""), Credentials(KEY, SECRET), 1000, 1000).urls["api"]
    assert ours == ccxt.binanceusdm().urls["api"]
    moved = make_exchange(Endpoints("http://127.0.0.1:1/x", ""), Credentials(KEY, SECRET), 1000, 1000).urls["api"]
    assert moved["fapiPrivate"] == "http://127.0.0.1:1/x/fapi/v1"
    assert not [url for url in moved.values() if isinstance(url, str) and "binance.com" in url and "api.binance" in url]
