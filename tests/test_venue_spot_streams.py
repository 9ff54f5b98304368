"""Market and user streams of the spot dialect: wire rules, the stock streaming client, our own ingestion, faults."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import ccxt
import ccxt.pro
import numpy as np
import orjson
import pytest
import requests
import websocket

from engine.book.book import book_top
from engine.ingest.dialects import make_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect
from engine.matching.settings import SPOT, SpotSettings, VenueSettings
from engine.reasons import Reason
from engine.records import Kind, Side
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.decoding import Decoder
from procs.venues.binance import BinanceMarket
from tests.embedded_venue import RunningVenue, ccxt_client, receive, running_venue
from tests.market_records import run_stage
from tests.waiting import until

BTC = "BTC/USDT"
GENEROUS = SpotSettings(weight_limit_1m=1_000_000, order_limit_10s=10_000)
REPORT_FIELDS = "e E s c S o f q p P F g C x X r i l z L n N T t I w m M O Z Y Q W V"


@pytest.fixture(scope="module")
def venue():
    with running_venue(VenueSettings(market=SPOT, spot=GENEROUS)) as running:
        yield running


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address, ccxt.binance, timeout=5_000)
    stock.load_markets()
    return stock


def best(book: dict[str, dict[str, str]]) -> tuple[str, str, str, str]:
    bid, ask = max(book["b"], key=Decimal), min(book["a"], key=Decimal)
    return bid, book["b"][bid], ask, book["a"][ask]


def apply(book: dict[str, dict[str, str]], diff: dict[str, Any]) -> None:
    for side in ("b", "a"):
        for price, size in diff[side]:
            if Decimal(size):
                book[side][price] = size
            else:
                book[side].pop(price, None)


def signed_subscription(venue: RunningVenue, **changes: Any) -> dict[str, Any]:
    """A request for user data; changes of its parameters come after it was signed, None drops one."""
    fields: dict[str, Any] = {"apiKey": venue.address.api_key, "timestamp": int(time.time() * 1000)}
    payload = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    fields["signature"] = hmac.new(venue.address.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    return {"id": "one", "method": "userDataStream.subscribe.signature", "params": fields}


def ask(socket: websocket.WebSocket, request: Any) -> dict[str, Any]:
    socket.send(request if isinstance(request, str) else orjson.dumps(request).decode())
    return receive(socket, lambda message: "id" in message)


@pytest.fixture
def user(venue):
    """A socket that hears of the account."""
    socket = venue.socket("/ws-api/v3")
    assert ask(socket, signed_subscription(venue)) == {"id": "one", "status": 200, "result": {"subscriptionId": 0}}
    yield socket
    socket.close()


def heard(socket: websocket.WebSocket, kind: str) -> dict[str, Any]:
    """The next user event of a kind; all are of the first subscription."""
    message = receive(socket, lambda message: message.get("event", {}).get("e") == kind)
    assert message["subscriptionId"] == 0
    return message["event"]


# --- the market -----------------------------------------------------------------------------------------------------


def test_a_client_keeps_the_right_book(venue):
    """Buffer diffs, take a snapshot, bridge it, follow U; best prices equal the bookTicker after every diff."""
    socket = venue.socket("/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker")
    diffs, touches = [], {}

    def take() -> None:
        message = orjson.loads(socket.recv())
        if "depth" in message["stream"]:
            diffs.append(message["data"])
        else:
            touches[message["data"]["u"]] = message["data"]

    while len(diffs) < 3:
        take()
    snapshot = venue.get("/api/v3/depth?symbol=BTCUSDT&limit=5000").json()
    last = snapshot["lastUpdateId"]
    book = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
    previous, applied = None, 0
    while applied < 25:
        if not diffs:
            take()
            continue
        diff = diffs.pop(0)
        if diff["u"] <= last:
            continue
        assert diff["U"] <= last + 1 <= diff["u"] if previous is None else diff["U"] == previous + 1
        previous = diff["u"]
        apply(book, diff)
        touch = touches.get(max((u for u in touches if u <= diff["u"]), default=0))
        if touch is not None:
            assert best(book) == (touch["b"], touch["B"], touch["a"], touch["A"])
            applied += 1
    socket.close()


def test_event_fields(venue):
    names = ("depth@100ms", "depth", "depth@1000ms", "trade", "aggTrade", "bookTicker")
    socket = venue.socket("/stream?streams=" + "/".join(f"ethusdt@{name}" for name in names))
    expected = {
        "depth@100ms": "e E s U u b a", "depth": "e E s U u b a", "depth@1000ms": "e E s U u b a",
        "trade": "e E s t p q T m M", "aggTrade": "e E s a p q f l T m M", "bookTicker": "u s b B a A",
    }
    for name, fields in expected.items():
        message = receive(socket, lambda message, name=name: message["stream"] == f"ethusdt@{name}")
        assert list(message["data"]) == fields.split()
        numbers = [message["data"][field] for field in "pqbBaA" if isinstance(message["data"].get(field), str)]
        assert all(len(text.split(".")[1]) == 8 for text in numbers)
    socket.close()


def test_our_own_ingestion_takes_the_market(venue):
    """Listing, sockets, snapshots and frames through the engine's rooms: books valid and right, nothing refused."""
    market = BinanceMarket(Dialect.BINANCE_SPOT)
    names = ["BTCUSDT", "ETHUSDT"]
    listing = market.fetch_listing(venue.address.rest_url, names)
    (wanted,) = market.sockets(venue.address.ws_url, [item.symbol for item in listing.instruments], FeedSettings())
    decoder = Decoder(make_state(listing.instruments), listing.instruments)
    validation = make_validation_state(ValidationSettings(), listing.instruments)
    kinds: Counter[int] = Counter()
    touches: list[dict[int, dict]] = [{}, {}]
    prices, sizes = np.zeros(1, np.int64), np.zeros(1, np.int64)
    compared = [0, 0]

    def validate(count: int) -> set[int]:
        assert decoder.refused == Reason.NONE
        out = run_stage(VALIDATION, validation, decoder.records[:count])
        kinds.update(out["kind"].tolist())
        return set(out["kind"].tolist())

    def touch_of(index: int) -> list[int]:
        """Best bid, its size, best offer, its size, of the engine's own book."""
        found = []
        for side in (Side.BUY, Side.SELL):
            assert book_top(validation["books"][0], index, int(side), 1, prices, sizes) == 1
            found += [int(prices[0]), int(sizes[0])]
        return found

    validate(decoder.start(time.time_ns()))
    socket = websocket.create_connection(wanted.url, timeout=10)
    deadline = time.monotonic() + 60
    with requests.Session() as session:
        while min(compared) < 20 and time.monotonic() < deadline:
            frame = socket.recv()
            data = orjson.loads(frame)["data"]
            index = names.index(data["s"])
            if "e" not in data:
                touches[index][data["u"]] = data
            given = validate(decoder.frame(frame.encode(), time.time_ns()))
            if Kind.LEVEL in given and not decoder.state["snapshot_wanted"][0, index]:
                last = max((u for u in touches[index] if u <= data["u"]), default=0)
                if last:
                    told = [int(Decimal(touches[index][last][name]).scaleb(8)) for name in "bBaA"]
                    assert touch_of(index) == told
                    compared[index] += 1
            for missing in np.flatnonzero(decoder.state["snapshot_wanted"][0, :2]).tolist():
                body = market.fetch_book(session, venue.address.rest_url, names[missing])
                validate(decoder.snapshot(missing, body, time.time_ns()))
    socket.close()
    assert min(compared) >= 20 and not decoder.state["snapshot_wanted"][0, :2].any()
    assert int(decoder.state["quarantined"][0].sum()) == 0 and int(decoder.state["gaps"][0]) == 0
    assert int(validation["quarantine_total"][0]) == 0 and validation["instruments"]["announced"][0, :2].all()
    assert min(kinds[kind] for kind in (Kind.TRADE, Kind.QUOTE)) > 20
    assert kinds[Kind.BOOK_VALID] == 2 and kinds[Kind.BOOK_INVALID] == 0


# --- the account ----------------------------------------------------------------------------------------------------


def test_user_data_tells_the_life_of_orders(venue, client, user):
    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    before = venue.state()["balances"]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 300, {"newClientOrderId": "life"})
    new = heard(user, "executionReport")
    assert list(new) == REPORT_FIELDS.split()
    assert (new["c"], new["i"], new["x"], new["X"], new["q"], new["w"]) == (
        "life", int(order["id"]), "NEW", "NEW", "0.01000000", True,
    )
    held = {entry["a"]: entry for entry in heard(user, "outboundAccountPosition")["B"]}
    assert Decimal(held["USDT"]["l"]) - Decimal(before["USDT"]["locked"]) == Decimal("0.01") * Decimal(new["p"])
    client.cancel_order(order["id"], BTC, {"newClientOrderId": "the-end"})
    ended = heard(user, "executionReport")
    assert (ended["x"], ended["X"], ended["c"], ended["C"]) == ("CANCELED", "CANCELED", "the-end", "life")
    assert {entry["a"]: entry["l"] for entry in heard(user, "outboundAccountPosition")["B"]} == {
        asset: before[asset]["locked"] for asset in ("BTC", "USDT")
    }
    held = {asset: Decimal(entry["free"]) + Decimal(entry["locked"]) for asset, entry in before.items()}
    client.create_order(BTC, "market", "sell", 0.02)
    assert heard(user, "executionReport")["x"] == "NEW"
    filled = Decimal(0)
    while filled < Decimal("0.02"):
        trade = heard(user, "executionReport")
        assert (trade["x"], trade["m"], trade["N"]) == ("TRADE", False, "USDT")
        filled += Decimal(trade["l"])
        held["BTC"] -= Decimal(trade["l"])
        held["USDT"] += Decimal(trade["Y"]) - Decimal(trade["n"])
        told = {entry["a"]: Decimal(entry["f"]) + Decimal(entry["l"])
                for entry in heard(user, "outboundAccountPosition")["B"]}
        assert told == {asset: held[asset] for asset in ("BTC", "USDT")}
    assert trade["X"] == "FILLED" and Decimal(trade["z"]) == filled
    client.create_order(BTC, "limit", "buy", 0.01, bid - 300, {"timeInForce": "IOC"})
    assert heard(user, "executionReport")["x"] == "NEW"
    expired = heard(user, "executionReport")
    assert (expired["x"], expired["X"], expired["eR"]) == ("EXPIRED", "EXPIRED", "UNFILLED_IOC_QUANTITY_EXPIRED")


def test_requests_over_the_websocket_api(venue):
    socket = venue.socket("/ws-api/v3")
    assert ask(socket, {"id": 1, "method": "ping"}) == {"id": 1, "status": 200, "result": {}}
    assert abs(ask(socket, {"id": 2, "method": "time"})["result"]["serverTime"] - time.time() * 1000) < 2000
    for request, status, code in (
        ({"id": 3, "method": "order.place"}, 400, -1020),
        ("not json", 400, -1135),
        ("[]", 400, -1135),
        (signed_subscription(venue, signature="00"), 400, -1022),
        (signed_subscription(venue, signature=None), 400, -1102),
        (signed_subscription(venue, recvWindow=10), 400, -1022),
        (signed_subscription(venue, apiKey="a" * 64), 401, -2015),
        (signed_subscription(venue, apiKey=None), 401, -2014),
        ({"id": 4, "method": "userDataStream.unsubscribe"}, 400, -2036),
    ):
        answer = ask(socket, request)
        assert (answer["status"], answer["error"]["code"]) == (status, code)
    assert ask(socket, {"id": 5, "method": "session.subscriptions"})["result"] == []
    assert ask(socket, signed_subscription(venue))["result"] == {"subscriptionId": 0}
    assert ask(socket, signed_subscription(venue))["error"]["code"] == -2035
    assert ask(socket, {"id": 6, "method": "session.subscriptions"})["result"] == [{"subscriptionId": 0}]
    socket.send('{"id":7,"method":"userDataStream.unsubscribe","params":{"subscriptionId":0}}')
    assert heard(socket, "eventStreamTerminated")["E"] > 0
    assert receive(socket, lambda message: message.get("id") == 7)["result"] == {}
    assert ask(socket, signed_subscription(venue))["result"] == {"subscriptionId": 1}
    socket.close()


def test_the_stock_streaming_client_works(venue):
    """ccxt.pro.binance as spot: book, trades, touch, balance, own orders (replaced too) and own trades."""

    async def session() -> None:
        pro = ccxt_client(venue.address, ccxt.pro.binance)

        async def within(awaitable):
            return await asyncio.wait_for(awaitable, 15)

        async def waiting(awaitable) -> asyncio.Task:
            task = asyncio.create_task(awaitable)
            await asyncio.sleep(0.5)
            return task

        try:
            await within(pro.load_markets())
            for _ in range(5):
                book = await within(pro.watch_order_book(BTC))
                assert book["bids"][0][0] < book["asks"][0][0]
            assert (await within(pro.watch_trades(BTC)))[0]["symbol"] == BTC
            assert (await within(pro.watch_bids_asks([BTC])))[BTC]["bid"] > 0
            orders = await waiting(pro.watch_orders(BTC))
            placed = await within(pro.create_order(BTC, "limit", "buy", 0.01, 59_000))
            assert (await within(orders))[0]["id"] == placed["id"]
            changed = await within(pro.edit_order(placed["id"], BTC, "limit", "buy", 0.02, 58_900))
            assert (changed["amount"], changed["price"]) == (0.02, 58_900)
            balance = await waiting(pro.watch_balance())
            trades = await waiting(pro.watch_my_trades(BTC))
            taken = await within(pro.create_order(BTC, "market", "buy", 0.01))
            assert (await within(trades))[0]["order"] == taken["id"]
            assert (await within(balance))["USDT"]["used"] == pytest.approx(0.02 * 58_900, rel=0.6)
            await within(pro.cancel_all_orders(BTC))
        finally:
            await pro.close()

    asyncio.run(session())


# --- faults ---------------------------------------------------------------------------------------------------------


def diffs(socket: websocket.WebSocket, count: int) -> list[dict]:
    return [receive(socket, lambda message: message.get("e") == "depthUpdate") for _ in range(count)]


def test_dropped_diffs_leave_a_gap_and_a_duplicate_comes_twice(venue):
    socket = venue.socket("/ws/btcusdt@depth@100ms")
    last = diffs(socket, 1)
    venue.fault(fault="drop_depth", symbol="BTCUSDT", count=2)
    seen = last + diffs(socket, 8)
    assert len([1 for a, b in pairwise(seen) if b["U"] != a["u"] + 1]) == 1
    venue.fault(fault="duplicate_depth", symbol="BTCUSDT")
    ids = [diff["u"] for diff in diffs(socket, 5)]
    assert len(ids) - len(set(ids)) == 1
    socket.close()


def test_faults_of_requests_and_of_user_data(venue, client, user):
    venue.fault(fault="http", action="error_before", method="POST", status=503)  # by default under /api/
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000, {"newClientOrderId": "never"})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, BTC, {"origClientOrderId": "never"})
    venue.fault(fault="http", action="error_after", method="POST", path="/api/v3/order", status=502)
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000, {"newClientOrderId": "unknown"})
    assert client.fetch_order(None, BTC, {"origClientOrderId": "unknown"})["status"] == "open"
    assert heard(user, "executionReport")["c"] == "unknown"
    venue.fault(fault="drop_user", only="fills")
    client.create_order(BTC, "market", "buy", 0.002)
    assert heard(user, "executionReport")["x"] == "NEW"
    assert venue.state()["counters"]["faults"]["drop_user"] == 1
    client.cancel_all_orders(BTC)
    venue.fault(fault="http", action="rate_limit", path="/api/v3/openOrders")
    with pytest.raises(ccxt.DDoSProtection):
        client.fetch_open_orders(BTC)


def test_a_halt_is_told_and_closes_the_market(venue, client):
    venue.fault(fault="maintenance", mode="halt", duration_ms=60_000)
    assert {entry["status"] for entry in venue.get("/api/v3/exchangeInfo").json()["symbols"]} == {"HALT"}
    with pytest.raises(ccxt.MarketClosed):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000)
    requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
    until(lambda: venue.get("/api/v3/exchangeInfo").json()["symbols"][0]["status"] == "TRADING", "the market")


@pytest.mark.parametrize("which", ["public", "private"])
def test_disconnects_cut_only_the_sockets_meant(venue, user, which):
    public = venue.socket("/ws/btcusdt@bookTicker")
    until(lambda: venue.call(lambda: len(venue.venue.hub.connections)) == 2, "sockets of before to be gone")
    assert venue.fault(fault="disconnect", streams=which) == {"disconnected": 1}
    cut, kept = (public, user) if which == "public" else (user, public)
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
        while cut.recv():
            continue
    kept.ping()
    public.close()


def test_a_mix_of_faults_is_of_this_market(venue, client):
    venue.fault(seed=1, rates={"error_before": 1.0})
    with pytest.raises(ccxt.NetworkError):
        client.fetch_time()
    requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
    assert client.fetch_time() > 0


def test_the_futures_have_no_websocket_api():
    with running_venue() as futures, pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        futures.socket("/ws-api/v3")
