"""The stock ccxt binance class (spot) against the embedded venue, with only its URLs changed."""

from __future__ import annotations

import hashlib
import hmac
import time
from decimal import Decimal
from urllib.parse import urlencode

import ccxt
import pytest
import requests

from engine.binance_listing import listed_from_binance
from engine.instruments import Dialect
from engine.matching.settings import SPOT, SpotSettings, VenueSettings
from procs.embedded.limits import Limits
from procs.venues.binance_usdm.rate_limits import cost_of, limits_of
from tests.embedded_venue import RunningVenue, ccxt_client, running_venue

BTC, ETH = "BTC/USDT", "ETH/USDT"
GENEROUS = SpotSettings(weight_limit_1m=1_000_000, order_limit_10s=10_000)


@pytest.fixture(scope="module")
def venue():
    with running_venue(VenueSettings(market=SPOT, spot=GENEROUS)) as running:
        yield running


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address, ccxt.binance)
    stock.load_markets()
    return stock


@pytest.fixture(autouse=True)
def quiet(venue, client):
    """Every test starts without orders, and in the end nothing is lost."""
    yield
    for symbol in (BTC, ETH):
        if client.fetch_open_orders(symbol):
            client.cancel_all_orders(symbol)
    state = venue.state()
    assert {asset: Decimal(held["locked"]) for asset, held in state["balances"].items()} == dict.fromkeys(
        ("BTC", "ETH", "USDT"), 0
    )
    assert {asset: Decimal(total) for asset, total in state["totals"].items()} == {"BTC": 1, "ETH": 20, "USDT": 100_000}


def signed(venue: RunningVenue, method: str, path: str, secret: str | None = None, **parameters) -> requests.Response:
    """A request signed by hand; None drops a parameter."""
    fields = {"timestamp": int(time.time() * 1000)} | parameters
    query = urlencode({key: value for key, value in fields.items() if value is not None})
    signature = hmac.new((secret or venue.address.secret).encode(), query.encode(), hashlib.sha256).hexdigest()
    url = f"{venue.address.rest_url}{path}?{query}&signature={signature}"
    return requests.request(method, url, headers={"X-MBX-APIKEY": venue.address.api_key}, timeout=10)


def balances(venue: RunningVenue) -> dict[str, Decimal]:
    held = venue.state()["balances"]
    return {asset: Decimal(entry["free"]) + Decimal(entry["locked"]) for asset, entry in held.items()}


# --- the market -----------------------------------------------------------------------------------------------------


def test_markets_and_filters(venue, client):
    assert set(client.markets) == {BTC, ETH}
    market = client.market(BTC)
    assert (market["type"], market["spot"], market["precision"]["price"], market["precision"]["amount"]) == (
        "spot", True, 0.1, 0.001,
    )
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"]) == (0.001, 100)
    answer = venue.get("/api/v3/exchangeInfo").json()
    listed = [
        listed_from_binance(entry, index, Dialect.BINANCE_SPOT) for index, entry in enumerate(answer["symbols"])
    ]
    assert all(item.trading for item in listed)
    assert [(item.instrument.price_exp, item.instrument.size_exp, item.instrument.tick_size, item.instrument.lot_size)
            for item in listed] == [(8, 8, 10**7, 10**5), (8, 8, 10**6, 10**5)]
    assert [item["symbol"] for item in venue.get("/api/v3/exchangeInfo?symbol=ETHUSDT").json()["symbols"]] == [
        "ETHUSDT"
    ]


def test_market_data_over_rest(venue, client):
    book = client.fetch_order_book(BTC, 5)
    assert len(book["bids"]) == len(book["asks"]) == 5 and book["bids"][0][0] < book["asks"][0][0]
    raw = venue.get("/api/v3/depth?symbol=BTCUSDT").json()
    assert list(raw) == ["lastUpdateId", "bids", "asks"] and len(raw["bids"]) <= 100
    assert all(len(text.split(".")[1]) == 8 for level in raw["bids"] for text in level)
    for method in ("publicGetAggTrades", "publicGetTrades"):
        deadline = time.monotonic() + 20
        trades: list = []
        while len(trades) < 10 and time.monotonic() < deadline:
            trades = client.fetch_trades(BTC, limit=10, params={"fetchTradesMethod": method})
        assert len(trades) == 10 and all(trade["price"] > 0 for trade in trades)
    ticker = client.fetch_bids_asks([BTC])[BTC]
    assert 0 < ticker["bid"] < ticker["ask"]
    assert set(venue.get("/api/v3/ticker/bookTicker?symbol=BTCUSDT").json()) == {
        "symbol", "bidPrice", "bidQty", "askPrice", "askQty",
    }
    assert abs(client.fetch_time() - time.time() * 1000) < 2000
    assert venue.get("/api/v3/ping").json() == {}


def test_what_a_request_costs_is_what_our_own_budget_takes_it_for(venue):
    """The weights of the venue and of the engine's rate budget are one, where the engine asks spot at all."""
    before = int(venue.get("/api/v3/ping").headers["X-MBX-USED-WEIGHT-1M"])
    for limit in (5, 100, 101, 500, 1000, 5000):
        path = f"/api/v3/depth?symbol=BTCUSDT&limit={limit}"
        used = int(venue.get(path).headers["X-MBX-USED-WEIGHT-1M"])
        assert used - before == cost_of("GET", path)[0] or used < before  # a minute may end in between
        before = used
    assert {limit.header for limit in limits_of(venue.get("/api/v3/exchangeInfo").json())} == {
        "x-mbx-used-weight-1m", "x-mbx-order-count-10s", "x-mbx-order-count-1d",
    }


# --- orders ---------------------------------------------------------------------------------------------------------


def test_limit_order_rests_locks_shows_and_is_cancelled(client):
    bid = client.fetch_order_book(BTC, 20)["bids"][0][0]
    before = client.fetch_balance()["USDT"]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 500)
    assert (order["status"], order["filled"], order["remaining"]) == ("open", 0, 0.01)
    after = client.fetch_balance()["USDT"]
    cost = 0.01 * order["price"]
    assert after["used"] == pytest.approx(cost) and after["free"] == pytest.approx(before["free"] - cost)
    assert [item["id"] for item in client.fetch_open_orders(BTC)] == [order["id"]]
    assert client.fetch_open_orders(ETH) == []
    assert client.fetch_order(order["id"], BTC)["status"] == "open"
    assert client.cancel_order(order["id"], BTC)["status"] == "canceled"
    assert client.fetch_balance()["USDT"] == before
    assert client.fetch_open_orders(BTC) == []
    assert client.fetch_order(order["id"], BTC)["status"] == "canceled"
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order(order["id"], BTC)


def test_order_is_found_by_client_id(client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    assert client.fetch_order(None, BTC, {"origClientOrderId": "mine-1"})["id"] == order["id"]
    with pytest.raises(ccxt.BaseError, match="Duplicate order sent"):
        client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    client.cancel_order(None, BTC, {"origClientOrderId": "mine-1"})
    again = client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    assert again["id"] != order["id"]  # free again once the first is done


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_market_order_swaps_assets_less_a_fee_in_what_is_received(venue, client, side):
    before = balances(venue)
    order = client.create_order(BTC, "market", side, 0.05)
    assert order["status"] == "closed" and order["filled"] == 0.05
    told = order["info"]["fills"]
    size = sum(Decimal(fill["qty"]) for fill in told)
    value = sum(Decimal(fill["qty"]) * Decimal(fill["price"]) for fill in told)
    fee = sum(Decimal(fill["commission"]) for fill in told)
    assert size == Decimal("0.05") and Decimal(order["info"]["cummulativeQuoteQty"]) == value
    after = balances(venue)
    if side == "buy":
        assert {fill["commissionAsset"] for fill in told} == {"BTC"}
        assert all(Decimal(fill["commission"]) == Decimal(fill["qty"]) * Decimal("0.0005") for fill in told)
        assert after["BTC"] == before["BTC"] + size - fee and after["USDT"] == before["USDT"] - value
    else:
        assert {fill["commissionAsset"] for fill in told} == {"USDT"}
        assert after["BTC"] == before["BTC"] - size and after["USDT"] == before["USDT"] + value - fee
    trades = [trade for trade in client.fetch_my_trades(BTC) if trade["order"] == order["id"]]
    assert [Decimal(trade["info"]["commission"]) for trade in trades] == [Decimal(fill["commission"]) for fill in told]
    assert {trade["takerOrMaker"] for trade in trades} == {"taker"}


def test_market_order_by_value(client):
    order = client.create_market_buy_order_with_cost(BTC, 1_000)
    assert order["status"] == "closed" and 900 < order["cost"] <= 1_000
    assert order["info"]["origQuoteOrderQty"] == "1000.00000000"
    order = client.create_market_sell_order_with_cost(BTC, 600)
    assert order["status"] == "closed" and 500 < order["cost"] <= 600


def test_post_only_rests_or_is_refused(client):
    book = client.fetch_order_book(BTC, 5)
    order = client.create_order(BTC, "limit", "buy", 0.01, book["bids"][0][0] - 300, {"postOnly": True})
    assert client.fetch_order(order["id"], BTC)["info"]["type"] == "LIMIT_MAKER"
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        client.create_order(BTC, "limit", "buy", 0.01, book["asks"][0][0] + 50,
                            {"postOnly": True, "newClientOrderId": "taker"})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, BTC, {"origClientOrderId": "taker"})


def test_ioc_and_fok(client):
    ask = client.fetch_order_book(BTC, 5)["asks"][0][0]
    missed = client.create_order(BTC, "limit", "buy", 0.01, ask - 500, {"timeInForce": "IOC"})
    assert (missed["status"], missed["filled"]) == ("expired", 0)
    killed = client.create_order(BTC, "limit", "buy", 1.5, ask - 0.5, {"timeInForce": "FOK"})
    assert (killed["status"], killed["filled"]) == ("expired", 0)
    whole = client.create_order(BTC, "limit", "buy", 0.01, ask + 50, {"timeInForce": "FOK"})
    assert (whole["status"], whole["filled"]) == ("closed", 0.01)


def test_cancel_all(venue, client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    for step in range(3):
        client.create_order(BTC, "limit", "buy", 0.01, bid - 300 - step)
    other = client.create_order(ETH, "limit", "buy", 0.1, 2900)
    assert {order["status"] for order in client.cancel_all_orders(BTC)} == {"canceled"}
    assert client.fetch_open_orders(BTC) == []
    assert [order["id"] for order in client.fetch_open_orders(ETH)] == [other["id"]]
    assert signed(venue, "DELETE", "/api/v3/openOrders", symbol="BTCUSDT").json()["code"] == -2011
    assert [entry["event"] for entry in venue.get("/bot4/log").json()].count("cancel all") >= 2


def test_an_order_is_replaced_by_the_stock_client(venue, client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.02, bid - 300)
    changed = client.edit_order(order["id"], BTC, "limit", "buy", 0.03, bid - 310)
    assert changed["id"] != order["id"] and (changed["amount"], changed["status"]) == (0.03, "open")
    assert client.fetch_order(order["id"], BTC)["status"] == "canceled"
    terms = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.010",
             "cancelReplaceMode": "STOP_ON_FAILURE"}
    gone = signed(venue, "POST", "/api/v3/order/cancelReplace", **terms, price=f"{bid - 300:.2f}",
                  cancelOrderId=order["id"])
    assert (gone.status_code, gone.json()["code"], gone.json()["data"]["newOrderResult"]) == (
        400, -2022, "NOT_ATTEMPTED",
    )
    terms["cancelReplaceMode"] = "ALLOW_FAILURE"
    half = signed(venue, "POST", "/api/v3/order/cancelReplace", **terms, price=f"{bid - 300:.2f}",
                  cancelOrderId=order["id"])
    assert (half.status_code, half.json()["code"], half.json()["data"]["newOrderResult"]) == (409, -2021, "SUCCESS")
    other = signed(venue, "POST", "/api/v3/order/cancelReplace", **terms, price=f"{bid + 300:.2f}",
                   cancelOrderId=changed["id"])
    assert other.json()["data"]["cancelResult"] == "SUCCESS"
    assert other.json()["data"]["newOrderResponse"]["code"] == -2010
    both = signed(venue, "POST", "/api/v3/order/cancelReplace", **terms, price=f"{bid + 300:.2f}",
                  cancelOrderId=changed["id"])
    assert (both.status_code, both.json()["code"]) == (400, -2022)


def test_answers_are_as_long_as_was_asked_for(venue):
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
    short = signed(venue, "POST", "/api/v3/order", **order, newOrderRespType="ACK")
    assert list(short.json()) == ["symbol", "orderId", "orderListId", "clientOrderId", "transactTime"]
    assert {"X-MBX-ORDER-COUNT-10S", "X-MBX-ORDER-COUNT-1D"} <= set(short.headers)
    result = signed(venue, "POST", "/api/v3/order", **order, newOrderRespType="RESULT").json()
    assert result["status"] == "FILLED" and "fills" not in result
    assert signed(venue, "POST", "/api/v3/order", **order).json()["fills"]
    assert signed(venue, "POST", "/api/v3/order/test", **order).json() == {}
    asked = signed(venue, "GET", "/api/v3/order", symbol="BTCUSDT", orderId=result["orderId"])
    assert asked.json()["executedQty"] == "0.01000000" and "X-MBX-ORDER-COUNT-10S" not in asked.headers


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"symbol": None}, -1102, "symbol"),
        ({"symbol": "NOPEUSDT"}, -1121, "Invalid symbol"),
        ({"side": "LEFT"}, -1117, ""),
        ({"type": "SOMEHOW"}, -1116, ""),
        ({"type": "STOP_LOSS"}, -2010, "Stop loss orders are not supported"),
        ({"icebergQty": "0.001"}, -2010, "Iceberg"),
        ({"timeInForce": None}, -1102, "timeInForce"),
        ({"timeInForce": "GTX"}, -1115, ""),
        ({"type": "LIMIT_MAKER"}, -1106, "timeInForce"),
        ({"quoteOrderQty": "10"}, -1106, "quoteOrderQty"),
        ({"price": "59000.123456789"}, -1111, "price"),
        ({"price": "59000.05"}, -1013, "PRICE_FILTER"),
        ({"price": "-1"}, -1013, "PRICE_FILTER"),
        ({"price": "2000000"}, -1013, "PRICE_FILTER"),
        ({"price": "abc"}, -1102, "price"),
        ({"price": "400000"}, -1013, "PERCENT_PRICE_BY_SIDE"),
        ({"side": "SELL", "price": "10000"}, -1013, "PERCENT_PRICE_BY_SIDE"),
        ({"quantity": "0.0011"}, -1013, "LOT_SIZE"),
        ({"quantity": "0"}, -1013, "LOT_SIZE"),
        ({"quantity": "1001"}, -1013, "LOT_SIZE"),
        ({"quantity": "NaN"}, -1102, "quantity"),
        ({"quantity": "0.001", "price": "59000"}, -1013, "NOTIONAL"),
        ({"quantity": "900"}, -1013, "NOTIONAL"),
        ({"quantity": "2"}, -2010, "Account has insufficient balance"),
        ({"side": "SELL", "quantity": "1.5", "price": "61000"}, -2010, "Account has insufficient balance"),
        ({"newClientOrderId": "a b"}, -1100, "newClientOrderId"),
        ({"type": "MARKET"}, -1106, "price"),
        ({"type": "MARKET", "price": None, "timeInForce": None, "quantity": None}, -1102, "quoteOrderQty"),
        ({"type": "MARKET", "price": None, "timeInForce": None, "quoteOrderQty": "10"}, -1106, "quantity"),
        ({"newOrderRespType": "LONG"}, -1130, "newOrderRespType"),
        ({"selfTradePreventionMode": "DECREMENT"}, -1130, "selfTradePreventionMode"),
    ],
)
def test_order_refusals(venue, changes, code, words):
    order = {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.010",
        "price": "59000.00",
    }
    answer = signed(venue, "POST", "/api/v3/order", **(order | changes))
    assert answer.status_code == 400 and answer.json()["code"] == code and words in answer.json()["msg"]
    assert venue.state()["open_orders"] == []


def test_ccxt_maps_the_errors(venue, client):
    for error, call in (
        (ccxt.InsufficientFunds, lambda: client.create_order(BTC, "limit", "sell", 5, 61_000)),
        (ccxt.OrderNotFound, lambda: client.fetch_order("1", BTC)),
        (ccxt.OrderNotFound, lambda: client.cancel_order("1", BTC)),
        (ccxt.AuthenticationError, lambda: ccxt_client(venue.address, ccxt.binance, secret="wrong").fetch_balance()),
        (ccxt.AuthenticationError, lambda: ccxt_client(venue.address, ccxt.binance, apiKey="a" * 64).fetch_balance()),
        (ccxt.BadRequest, lambda: client.create_order(BTC, "limit", "buy", 0.001, 59_000)),  # -1013, a filter
    ):
        with pytest.raises(error):
            call()


def test_who_may_ask(venue):
    for changes, code in (
        ({"secret": "wrong"}, -1022), ({"timestamp": int(time.time() * 1000) - 6_000}, -1021),
        ({"timestamp": None}, -1102),
    ):
        answer = signed(venue, "GET", "/api/v3/account", **changes)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert signed(venue, "GET", "/api/v3/account").json()["accountType"] == "SPOT"
    assert requests.get(venue.address.rest_url + "/api/v3/account", timeout=10).status_code == 401


def test_account_and_rates(venue, client):
    answer = signed(venue, "GET", "/api/v3/account", omitZeroBalances="true").json()
    assert {entry["asset"] for entry in answer["balances"]} == {"BTC", "ETH", "USDT"}
    assert answer["commissionRates"]["taker"] == "0.00050000" and answer["takerCommission"] == 5
    rates = signed(venue, "GET", "/api/v3/account/commission", symbol="ETHUSDT").json()
    assert rates["standardCommission"]["maker"] == "0.00020000"
    assert set(client.fetch_balance()["total"]) == {"BTC", "ETH", "USDT"}


def test_what_belongs_to_other_markets_is_not_here(venue):
    assert venue.get("/fapi/v1/exchangeInfo").json() == {"symbols": []}
    assert venue.get("/sapi/v1/capital/config/getall").json() == []
    answer = venue.get("/api/v3/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, -1020)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_orders_that_trade_are_counted_no_more():
    limits = Limits(VenueSettings(market=SPOT))
    for now_ms in (0, 1, 2):
        limits.order(now_ms)
    limits.filled(3)
    assert [entry["count"] for entry in limits.usage(4)] == [2, 2]
    assert [entry["count"] for entry in limits.usage(10_000)] == [0, 2]
    limits.filled(10_001)
    limits.filled(86_400_000)
    assert [entry["count"] for entry in limits.usage(86_400_000)] == [0, 0]


def test_a_client_that_trades_may_go_on_and_one_that_does_not_may_not():
    spot = SpotSettings(weight_limit_1m=1_000_000, order_limit_10s=5)
    with running_venue(VenueSettings(market=SPOT, spot=spot)) as venue:
        taking = {"symbol": "ETHUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
        assert all(signed(venue, "POST", "/api/v3/order", **taking).ok for _ in range(8))
        resting = {"symbol": "ETHUSDT", "side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.010", "price": "2900"}
        answers = [signed(venue, "POST", "/api/v3/order", **resting) for _ in range(12)]
        refused = [answer for answer in answers if not answer.ok]
        assert refused and {answer.status_code for answer in refused} == {429}
        assert refused[0].json()["code"] == -1015 and 1 <= int(refused[0].headers["Retry-After"]) <= 10
        usage = signed(venue, "GET", "/api/v3/rateLimit/order").json()
        assert [entry["interval"] for entry in usage] == ["SECOND", "DAY"] and usage[1]["count"] >= 5


def test_too_much_weight_is_answered_with_429():
    with running_venue(VenueSettings(market=SPOT, spot=SpotSettings(weight_limit_1m=100))) as venue:
        answers = [venue.get("/api/v3/depth?symbol=BTCUSDT&limit=1000") for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert answers[-1].json()["code"] == -1003 and 1 <= int(answers[-1].headers["Retry-After"]) <= 60
