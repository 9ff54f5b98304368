"""The venue's events and answers as REPORT records; events are those of its documentation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.reasons import Reason
from engine.records import Flag, ReportKind, Side
from procs.venues.binance_usdm.reports import (
    ClientIds,
    from_order,
    from_order_update,
    from_user_trade,
    reason_of_code,
)
from tests.trading_desk import (
    BTC,
    BY_NAME,
    ETH,
    IDS,
    SESSION,
    fields,
)


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
