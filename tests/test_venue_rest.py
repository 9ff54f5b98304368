"""The stock ccxt binanceusdm class against the embedded venue, with only its URLs changed."""

from __future__ import annotations

import hashlib
import hmac
import time
from decimal import Decimal
from urllib.parse import urlencode

import ccxt
import pytest
import requests

from engine.binance_listing import instrument_from_binance
from engine.matching.settings import VenueSettings
from procs.embedded.errors import ApiError
from procs.embedded.limits import Limits
from tests.embedded_venue import BTC, ETH, ccxt_client, receive, running_venue


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address)
    stock.load_markets()
    return stock


@pytest.fixture(autouse=True)
def flat(venue, client):
    """Every test starts without orders and positions."""
    yield
    for symbol, name in ((BTC, "BTCUSDT"), (ETH, "ETHUSDT")):
        client.cancel_all_orders(symbol)
        deadline = time.monotonic() + 30
        while size := Decimal(venue.state()["positions"][name]["size"]):
            assert time.monotonic() < deadline, f"{name}: {size} is still open after 30 s"
            deep(client, symbol)  # an order into a swept book expires at once, and the venue counts its orders
            client.create_order(symbol, "market", "sell" if size > 0 else "buy", float(abs(size)), None,
                                {"reduceOnly": True})
        deep(client, symbol)


def deep(client, symbol: str) -> None:
    """Wait until what a test swept away has come back."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        book = client.fetch_order_book(symbol, 50)
        if min(sum(size for _, size in book[side]) for side in ("bids", "asks")) > 0.5:
            return
        time.sleep(0.05)


def signed(venue, method: str, path: str, secret: str | None = None, **parameters):
    """A request signed by hand; None drops a parameter."""
    fields = {"timestamp": int(time.time() * 1000)} | parameters
    query = urlencode({key: value for key, value in fields.items() if value is not None})
    signature = hmac.new((secret or venue.address.secret).encode(), query.encode(), hashlib.sha256).hexdigest()
    url = f"{venue.address.rest_url}{path}?{query}&signature={signature}"
    return requests.request(method, url, headers={"X-MBX-APIKEY": venue.address.api_key}, timeout=10)


def error_of(answer: requests.Response) -> int:
    assert 400 <= answer.status_code < 500
    return answer.json()["code"]


def test_markets_and_filters(venue, client):
    assert set(client.markets) == {BTC, ETH}
    market = client.market(BTC)
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"]) == (0.001, 100)
    entries = venue.get("/fapi/v1/exchangeInfo").json()["symbols"]
    instruments = [instrument_from_binance(entry, index) for index, entry in enumerate(entries)]
    assert [(item.price_exp, item.size_exp, item.tick_size, item.lot_size) for item in instruments] == [
        (2, 3, 10, 1), (2, 3, 1, 1),
    ]


def test_limit_order_rests_shows_and_is_cancelled(client):
    bid = client.fetch_order_book(BTC, 20)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 500)
    assert (order["status"], order["filled"], order["remaining"]) == ("open", 0, 0.01)
    assert [item["id"] for item in client.fetch_open_orders(BTC)] == [order["id"]]
    assert client.fetch_open_orders(ETH) == []
    assert client.fetch_order(order["id"], BTC)["status"] == "open"
    assert client.cancel_order(order["id"], BTC)["status"] == "canceled"
    assert client.fetch_open_orders(BTC) == []
    assert client.fetch_order(order["id"], BTC)["status"] == "canceled"
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order(order["id"], BTC)


def test_order_is_found_by_client_id(client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    found = client.fetch_order(None, BTC, {"origClientOrderId": "mine-1"})
    assert found["id"] == order["id"]
    with pytest.raises(ccxt.BaseError, match="-4116"):
        client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    client.cancel_order(None, BTC, {"origClientOrderId": "mine-1"})
    again = client.create_order(BTC, "limit", "buy", 0.01, bid - 500, {"newClientOrderId": "mine-1"})
    assert again["id"] != order["id"]  # free again once the first is done


def test_market_order_fills_and_the_books_agree(venue, client):
    order = client.create_order(BTC, "market", "buy", 0.05)
    assert order["status"] == "closed" and order["filled"] == 0.05
    trades = [trade for trade in client.fetch_my_trades(BTC) if trade["order"] == order["id"]]
    assert sum(Decimal(trade["info"]["qty"]) for trade in trades) == Decimal("0.05")
    for trade in trades:
        notional = Decimal(trade["info"]["price"]) * Decimal(trade["info"]["qty"])
        assert Decimal(trade["info"]["commission"]) == notional * Decimal("0.0005")
        assert trade["takerOrMaker"] == "taker"
    (position,) = client.fetch_positions([BTC])
    assert (position["side"], position["contracts"]) == ("long", 0.05)
    cost = sum(Decimal(trade["info"]["quoteQty"]) for trade in trades)
    assert abs(Decimal(position["info"]["entryPrice"]) - cost / Decimal("0.05")) < Decimal("1e-7")
    state = venue.state()
    assert Decimal(state["wallet"]) == Decimal(100_000) + Decimal(state["realised"]) - Decimal(state["fees"])
    balance = client.fetch_balance()["USDT"]
    profit = Decimal(state["positions"]["BTCUSDT"]["unrealised"])
    assert balance["total"] == pytest.approx(float(Decimal(state["wallet"]) + profit), abs=1.0)
    assert balance["used"] == pytest.approx(float(cost) / 20, rel=0.01)


def test_post_only_rests_or_is_refused(client):
    book = client.fetch_order_book(BTC, 5)
    order = client.create_order(BTC, "limit", "buy", 0.01, book["bids"][0][0] - 300, {"postOnly": True})
    assert order["status"] == "open" and order["info"]["timeInForce"] == "GTX"
    with pytest.raises(ccxt.InvalidOrder, match="-5022"):
        client.create_order(BTC, "limit", "buy", 0.01, book["asks"][0][0] + 50,
                            {"postOnly": True, "newClientOrderId": "taker"})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, BTC, {"origClientOrderId": "taker"})


def test_ioc_takes_what_is_there_and_the_rest_expires(client):
    ask = client.fetch_order_book(BTC, 5)["asks"][0][0]
    order = client.create_order(BTC, "limit", "buy", 20, ask + 0.5, {"timeInForce": "IOC"})
    assert order["status"] == "expired"
    assert 0 < order["filled"] < 20
    missed = client.create_order(BTC, "limit", "buy", 0.01, ask - 500, {"timeInForce": "IOC"})
    assert (missed["status"], missed["filled"]) == ("expired", 0)
    with pytest.raises(ccxt.BaseError, match="-5021"):
        client.create_order(BTC, "limit", "buy", 20, ask, {"timeInForce": "FOK"})


def test_cancel_all(client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    for step in range(3):
        client.create_order(BTC, "limit", "buy", 0.01, bid - 300 - step)
    other = client.create_order(ETH, "limit", "buy", 0.1, 2900)
    client.cancel_all_orders(BTC)
    assert client.fetch_open_orders(BTC) == []
    assert [order["id"] for order in client.fetch_open_orders(ETH)] == [other["id"]]


def test_reduce_only(client):
    with pytest.raises(ccxt.BaseError, match="-2022"):
        client.create_order(BTC, "market", "sell", 0.01, None, {"reduceOnly": True})
    client.create_order(BTC, "market", "buy", 0.01)
    ask = client.fetch_order_book(BTC, 5)["asks"][0][0]
    resting = client.create_order(BTC, "limit", "sell", 0.01, ask + 500, {"reduceOnly": True})
    closing = client.create_order(BTC, "market", "sell", 0.05, None, {"reduceOnly": True})
    assert (closing["filled"], closing["status"]) == (0.01, "expired")
    assert client.fetch_positions([BTC]) == []
    assert client.fetch_order(resting["id"], BTC)["status"] == "expired"


def test_a_position_can_turn_around(venue, client):
    client.create_order(BTC, "market", "buy", 0.02)
    client.create_order(BTC, "market", "sell", 0.05)
    (position,) = client.fetch_positions([BTC])
    assert (position["side"], position["contracts"]) == ("short", 0.03)
    fills = [trade["info"] for trade in client.fetch_my_trades(BTC)]
    realised = sum(Decimal(fill["realizedPnl"]) for fill in fills)
    assert realised == Decimal(venue.state()["positions"]["BTCUSDT"]["realised"])


def test_settings_of_the_account_are_accepted(client):
    assert client.set_leverage(10, BTC)["leverage"] == 10
    client.set_leverage(20, BTC)
    client.set_margin_mode("cross", BTC)
    client.set_position_mode(False)
    assert client.fetch_trading_fee(BTC)["maker"] == 0.0002
    assert client.fetch_position_mode()["hedged"] is False
    assert abs(client.fetch_time() - time.time() * 1000) < 2000


def test_market_data_over_rest(venue, client):
    for method in ("fapiPublicGetAggTrades", "fapiPublicGetTrades"):
        deadline = time.monotonic() + 20
        trades: list = []
        while len(trades) < 10 and time.monotonic() < deadline:
            trades = client.fetch_trades(BTC, limit=10, params={"fetchTradesMethod": method})
        assert len(trades) == 10 and all(trade["price"] > 0 for trade in trades)
    ticker = client.fetch_bids_asks([BTC])[BTC]
    assert 0 < ticker["bid"] < ticker["ask"]
    funding = client.fetch_funding_rate(BTC)
    assert abs(funding["markPrice"] - ticker["bid"]) < 100
    assert venue.get("/fapi/v1/depth?symbol=BTCUSDT&limit=7").json()["code"] == -4021


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"symbol": None}, -1102),
        ({"symbol": "NOPEUSDT"}, -1121),
        ({"side": "LEFT"}, -1117),
        ({"type": "STOP"}, -1116),
        ({"timeInForce": None}, -1102),
        ({"timeInForce": "DAY"}, -1115),
        ({"price": "59000.123"}, -1111),
        ({"price": "59000.05"}, -4014),
        ({"price": "-1"}, -4001),
        ({"price": "abc"}, -1102),
        ({"price": "80000"}, -4016),
        ({"side": "SELL", "price": "10000"}, -4024),
        ({"side": "SELL", "price": "1000000.10"}, -4002),
        ({"quantity": "0.0011"}, -1111),
        ({"quantity": "0"}, -4003),
        ({"quantity": "NaN"}, -1102),
        ({"quantity": "1001"}, -4005),
        ({"quantity": "0.001", "price": "59000"}, -4164),
        ({"quantity": "900"}, -2019),
        ({"newClientOrderId": "a b"}, -4015),
        ({"positionSide": "LONG"}, -4061),
        ({"type": "MARKET"}, -1106),
        ({"newOrderRespType": "FULL"}, -1136),
    ],
)
def test_order_refusals(venue, changes, code):
    order = {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.010",
        "price": "59000.00",
    }
    assert error_of(signed(venue, "POST", "/fapi/v1/order", **(order | changes))) == code
    assert venue.state()["open_orders"] == []


def test_acknowledgement_says_nothing_of_fills(venue):
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
    plain = signed(venue, "POST", "/fapi/v1/order", **order).json()
    assert (plain["status"], plain["executedQty"]) == ("NEW", "0.000")
    full = signed(venue, "POST", "/fapi/v1/order", **order, newOrderRespType="RESULT").json()
    assert (full["status"], full["executedQty"]) == ("FILLED", "0.010")


def test_who_may_ask(venue):
    account = "/fapi/v3/account"
    assert signed(venue, "GET", account).status_code == 200
    assert error_of(signed(venue, "GET", account, secret="wrong")) == -1022
    assert error_of(signed(venue, "GET", account, timestamp=int(time.time() * 1000) - 6_000)) == -1021
    assert error_of(signed(venue, "GET", account, timestamp=int(time.time() * 1000) + 5_000)) == -1021
    assert signed(venue, "GET", account, timestamp=int(time.time() * 1000) - 6_000, recvWindow=20_000).ok
    assert error_of(signed(venue, "GET", account, recvWindow=100_000)) == -1131
    assert error_of(signed(venue, "GET", account, timestamp=None)) == -1102
    query = f"?timestamp={int(time.time() * 1000)}&signature=00"
    for key, code in ((None, -2014), ("bad key!", -2014), ("a" * 64, -2015)):
        headers = {"X-MBX-APIKEY": key} if key else {}
        answer = requests.get(venue.address.rest_url + account + query, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (401, code)


def test_signature_covers_query_and_body_together(venue):
    """As the venue documents it: query string and body are joined without an ampersand."""
    query = "symbol=BTCUSDT&side=BUY&type=MARKET"
    body = f"quantity=0.010&timestamp={int(time.time() * 1000)}"
    signature = hmac.new(venue.address.secret.encode(), (query + body).encode(), hashlib.sha256).hexdigest()
    for text, status in ((body, 200), (body.replace("0.010", "0.011"), 400)):
        answer = requests.post(
            f"{venue.address.rest_url}/fapi/v1/order?{query}", data=f"{text}&signature={signature}", timeout=10,
            headers={"X-MBX-APIKEY": venue.address.api_key, "Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code == status


def test_ccxt_maps_the_errors_that_do_not_depend_on_its_url(venue, client):
    stranger = ccxt_client(venue.address, secret="wrong")
    with pytest.raises(ccxt.AuthenticationError):
        stranger.fetch_balance()
    with pytest.raises(ccxt.AuthenticationError):
        ccxt_client(venue.address, apiKey="a" * 64).fetch_balance()
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order("1", BTC)
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order("1", BTC)
    # ccxt chooses the table of USD-M by the real host name, so here this is a plain ExchangeError
    with pytest.raises(ccxt.ExchangeError, match="-2019"):
        client.create_order(BTC, "market", "buy", 900)


def test_unknown_paths(venue):
    assert venue.get("/sapi/v1/capital/config/getall").json() == []
    assert venue.get("/dapi/v1/exchangeInfo").json() == {"symbols": []}
    answer = venue.get("/fapi/v1/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, -5000)


def test_dead_man_switch_cancels(venue, client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    client.create_order(BTC, "limit", "buy", 0.01, bid - 300)
    assert signed(venue, "POST", "/fapi/v1/countdownCancelAll", symbol="BTCUSDT", countdownTime=150).ok
    assert len(venue.state()["open_orders"]) == 1
    deadline = time.monotonic() + 5
    while venue.state()["open_orders"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert venue.state()["open_orders"] == []


def test_limits_count_in_windows():
    limits = Limits(VenueSettings(weight_limit_1m=50, order_limit_10s=2, order_limit_1m=3))
    limits.request(30, 59_998)
    limits.request(20, 59_999)
    assert limits.headers()["X-MBX-USED-WEIGHT-1M"] == "50"
    with pytest.raises(ApiError, match="-1003"):
        limits.request(1, 59_999)
    limits.request(1, 60_000)
    for now_ms, refused in ((0, False), (1, False), (9_999, True), (10_000, True), (60_000, False)):
        if refused:  # the third in 10 s, then the fourth in the minute: what is refused counts too
            with pytest.raises(ApiError, match="-1015"):
                limits.order(now_ms)
        else:
            limits.order(now_ms)


def test_too_much_weight_is_answered_with_429():
    with running_venue(VenueSettings(weight_limit_1m=20)) as venue:
        answers = [venue.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000") for _ in range(3)]
    assert answers[0].headers["X-MBX-USED-WEIGHT-1M"] == "20"
    assert answers[2].status_code == 429 and answers[2].json()["code"] == -1003
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60


def test_who_does_not_heed_429_is_banned():
    limits = Limits(VenueSettings(weight_limit_1m=5, ban_after=3, ban_s=2))
    statuses = []
    for now_ms in (0, 1, 2, 3, 4, 1_000, 2_003, 60_000):
        try:
            limits.request(5, now_ms)
            statuses.append(200)
        except ApiError as error:
            statuses.append(error.status)
            assert int(error.headers["Retry-After"]) == (
                60 if error.status == 429 else 2 if now_ms <= 1_000 else 1
            )
    assert statuses == [200, 429, 429, 429, 418, 418, 418, 200]


def test_an_order_is_amended_by_the_stock_client(venue, client):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.02, bid - 300, {"newClientOrderId": "amended"})
    changed = client.edit_order(order["id"], BTC, "limit", "buy", 0.03, bid - 310)
    assert (changed["id"], changed["clientOrderId"]) == (order["id"], "amended")
    assert (changed["amount"], changed["price"], changed["status"]) == (0.03, bid - 310, "open")
    assert [item["amount"] for item in client.fetch_open_orders(BTC)] == [0.03]
    price, side = f"{bid - 310:.2f}", "BUY"
    for code, change in (
        (-5027, {}), (-1117, {"side": "SELL"}), (-1102, {"price": None}), (-1102, {"quantity": None}),
        (-1102, {"side": None}), (-4014, {"price": "59000.05"}), (-5029, {"quantity": "0.001"}),
        (-2013, {"orderId": 1}), (-1102, {"orderId": None}), (-2019, {"quantity": "900"}),
    ):
        terms = {"symbol": "BTCUSDT", "orderId": order["id"], "side": side, "quantity": "0.030", "price": price}
        assert error_of(signed(venue, "PUT", "/fapi/v1/order", **(terms | change))) == code
    taken = client.edit_order(order["id"], BTC, "limit", "buy", 0.03, bid + 300)
    assert taken["status"] == "closed" and taken["filled"] == 0.03


def test_self_trade_prevention_over_the_wire(venue, client):
    ask = client.fetch_order_book(BTC, 5)["asks"][0][0]
    mine = client.create_order(BTC, "limit", "sell", 0.01, ask + 300)
    sweep = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "IOC", "quantity": "900",
             "price": f"{ask + 300:.2f}", "newOrderRespType": "RESULT", "selfTradePreventionMode": "EXPIRE_MAKER"}
    assert error_of(signed(venue, "POST", "/fapi/v1/order", **(sweep | {"selfTradePreventionMode": "MAYBE"}))) == -1106
    answer = signed(venue, "POST", "/fapi/v1/order", **(sweep | {"quantity": "20"})).json()
    assert (answer["selfTradePreventionMode"], answer["status"]) == ("EXPIRE_MAKER", "EXPIRED")
    found = client.fapiPrivateGetOrder({"symbol": "BTCUSDT", "orderId": mine["id"]})
    assert (found["status"], found["executedQty"]) == ("EXPIRED_IN_MATCH", "0.000")


def test_brackets_and_leverage():
    with running_venue(VenueSettings(starting_balance="5000", weight_limit_1m=100_000)) as venue:
        client = ccxt_client(venue.address)
        client.load_markets()
        (tiers,) = client.fetch_leverage_tiers([BTC]).values()
        first, second = tiers[:2]
        assert (first["maxLeverage"], first["maintenanceMarginRate"], second["minNotional"]) == (125, 0.004, 50_000)
        client.create_order(BTC, "market", "buy", 0.05)
        assert client.fetch_positions([BTC])[0]["liquidationPrice"] is None  # the wallet is larger than the position
        client.create_order(BTC, "market", "buy", 0.1)
        (position,) = client.fetch_positions([BTC])
        assert position["maintenanceMargin"] == pytest.approx(position["notional"] * 0.004, rel=1e-6)
        assert 0 < position["liquidationPrice"] < position["markPrice"]
        client.set_leverage(125, BTC)
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "price": "59000.00"}
        assert error_of(signed(venue, "POST", "/fapi/v1/order", **order, quantity="0.900")) == -2027
        assert signed(venue, "POST", "/fapi/v1/order", **order, quantity="0.500").ok
        client.set_leverage(50, BTC)
        order["price"] = "58000.00"
        assert signed(venue, "POST", "/fapi/v1/order", **order, quantity="0.500").ok


def test_funding_is_settled_told_and_listed():
    with running_venue(VenueSettings(funding_rate="0.0004", funding_interval_s=1, weight_limit_1m=100_000)) as venue:
        client = ccxt_client(venue.address)
        client.load_markets()
        socket = venue.socket(f"/private/ws?listenKey={venue.listen_key()}")
        client.create_order(BTC, "market", "buy", 0.1)
        event = receive(socket, lambda message: message["e"] == "ACCOUNT_UPDATE" and message["a"]["m"] == "FUNDING_FEE")
        (balance,) = event["a"]["B"]
        assert event["a"]["P"] == [] and Decimal(balance["bc"]) < 0
        client.create_order(BTC, "market", "sell", 0.1, None, {"reduceOnly": True})
        history = client.fetch_funding_history(BTC)
        assert Decimal(str(history[0]["amount"])) == Decimal(balance["bc"])
        assert sum(Decimal(str(entry["amount"])) for entry in history) == Decimal(venue.state()["funding"])
        rates = client.fetch_funding_rate_history(BTC)
        assert rates[-1]["fundingRate"] == 0.0004
        state = venue.state()
        entries = [Decimal(entry["income"]) for entry in client.fapiPrivateGetIncome({"limit": 1000})]
        assert Decimal(100_000) + sum(entries) == Decimal(state["wallet"])
        (first,) = client.fapiPrivateGetIncome({"incomeType": "COMMISSION", "limit": 1, "page": 1})
        assert first["tradeId"] == state["fills"][0]["id"] or int(first["tradeId"]) == int(state["fills"][0]["id"])
        socket.close()


def test_liquidation_over_the_wire():
    settings = VenueSettings(starting_balance="1000", leverage=50, weight_limit_1m=100_000)
    with running_venue(settings) as venue:
        client = ccxt_client(venue.address)
        client.load_markets()
        market = venue.socket("/ws/btcusdt@forceOrder")
        user = venue.socket(f"/private/ws?listenKey={venue.listen_key()}")
        client.create_order(BTC, "market", "buy", 0.7)
        total = venue.state()["total"]
        held = venue.state()["positions"]["BTCUSDT"]["size"]  # what the book had of it
        assert Decimal(held) > Decimal("0.1")

        def fall() -> None:
            for name in ("fair", "walk", "anchor"):
                venue.venue.exchange.market.flows[0][name] *= 0.995

        deadline = time.monotonic() + 30
        while venue.state()["liquidations"] == 0 and time.monotonic() < deadline:
            venue.call(fall)
            time.sleep(0.05)
        event = receive(market, lambda message: message["e"] == "forceOrder")["o"]
        assert (event["s"], event["S"], event["X"], event["z"]) == ("BTCUSDT", "SELL", "FILLED", held)
        call = receive(user, lambda message: message["e"] == "MARGIN_CALL")
        assert call["p"][0]["pa"] == held
        forced = receive(user, lambda message: message.get("o", {}).get("x") == "CALCULATED")["o"]
        assert forced["c"].startswith("autoclose-")
        cleared = receive(user, lambda message: message.get("a", {}).get("m") == "INSURANCE_CLEAR")
        assert Decimal(cleared["a"]["B"][0]["bc"]) != 0
        state = venue.state()
        assert state["total"] == total and Decimal(state["positions"]["BTCUSDT"]["size"]) == 0
        market.close()
        user.close()


def test_orders_reach_the_book_later_where_that_is_set():
    with running_venue(VenueSettings(matching_delay_ms=200, weight_limit_1m=100_000)) as venue:
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.010",
                 "price": "59000.00"}
        sent_ms = time.time() * 1000
        answer = signed(venue, "POST", "/fapi/v1/order", **order).json()
        assert answer["updateTime"] - sent_ms > 190
