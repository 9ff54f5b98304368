"""Streams of the embedded venue through a plain WebSocket client: books, trades, user data, slow clients."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import ccxt.pro
import orjson
import pytest
import websocket

from engine.matching.settings import VenueSettings
from tests.embedded_venue import BTC, ccxt_client, receive, running_venue

ORDER_FIELDS = "s c S o f q p ap sp x X i l z L T t b a m R wt ot ps cp rp"


@pytest.fixture(scope="module")
def venue():
    with running_venue() as running:
        yield running


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address)
    stock.load_markets()
    return stock


def apply(book: dict[str, dict[str, str]], diff: dict) -> None:
    for side in ("b", "a"):
        for price, size in diff[side]:
            if Decimal(size) == 0:
                book[side].pop(price, None)
            else:
                book[side][price] = size


def best(book: dict[str, dict[str, str]]) -> tuple[str, str, str, str]:
    bid, ask = max(book["b"], key=Decimal), min(book["a"], key=Decimal)
    return bid, book["b"][bid], ask, book["a"][ask]


@pytest.mark.parametrize("depth", ["depth@0ms", "depth@100ms"])
def test_a_client_book_follows_by_the_venues_own_rules(venue, depth):
    """Buffer diffs, take a snapshot, bridge it, follow pu; best prices equal the bookTicker after every diff."""
    socket = venue.socket(f"/public/stream?streams=btcusdt@{depth}/btcusdt@bookTicker")
    diffs, touches = [], {}
    while len(diffs) < 3:
        message = orjson.loads(socket.recv())
        (diffs.append(message["data"]) if "depth" in message["stream"] else None)
        if "bookTicker" in message["stream"]:
            touches[message["data"]["u"]] = message["data"]
    snapshot = venue.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000").json()
    last = snapshot["lastUpdateId"]
    book = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
    previous, applied = None, 0
    while applied < 40:
        if diffs:
            diff = diffs.pop(0)
            if diff["u"] < last:
                continue
            if previous is None:
                assert diff["U"] <= last <= diff["u"]
            else:
                assert diff["pu"] == previous
            previous = diff["u"]
            apply(book, diff)
            touch = touches.get(max((u for u in touches if u <= diff["u"]), default=0))
            if touch is not None:  # none yet: the touch has not moved since we listen
                assert best(book) == (touch["b"], touch["B"], touch["a"], touch["A"])
                applied += 1
            continue
        message = orjson.loads(socket.recv())
        if "bookTicker" in message["stream"]:
            touches[message["data"]["u"]] = message["data"]
        else:
            diffs.append(message["data"])
    socket.close()


def test_every_path_form_delivers(venue):
    forms = {
        "/ws/btcusdt@bookTicker": False, "/public/ws/btcusdt@bookTicker": False,
        "/stream?streams=btcusdt@bookTicker": True, "/public/stream?streams=btcusdt@bookTicker/ethusdt@trade": True,
        "/market/stream?streams=btcusdt@aggTrade": True, "/market/ws/btcusdt@markPrice@1s": False,
        "/ws/btcusdt@trade/ethusdt@trade": False,
    }
    for path, is_combined in forms.items():
        socket = venue.socket(path)
        message = orjson.loads(socket.recv())
        assert ("stream" in message) == is_combined, path
        event = message["data"] if is_combined else message
        assert event["s"] in ("BTCUSDT", "ETHUSDT")
        socket.close()


def test_event_fields(venue):
    names = ("depth", "trade", "aggTrade", "bookTicker", "markPrice@1s")
    socket = venue.socket("/stream?streams=" + "/".join(f"ethusdt@{name}" for name in names))
    expected = {
        "depth": "e E T s U u pu b a", "trade": "e E T s t p q X m", "aggTrade": "e E a s p q f l T m",
        "bookTicker": "e u s b B a A T E", "markPrice@1s": "e E s p P i r T",
    }
    for name, fields in expected.items():
        message = receive(socket, lambda message, name=name: message["stream"] == f"ethusdt@{name}")
        assert list(message["data"]) == fields.split()
    socket.close()


def test_live_subscriptions(venue):
    socket = venue.socket("/public/ws")
    socket.send('{"method":"SUBSCRIBE","params":["btcusdt@bookTicker","btcusdt@trade"],"id":1}')
    assert receive(socket, lambda message: "id" in message) == {"result": None, "id": 1}
    assert receive(socket, lambda message: message.get("e") == "bookTicker")["s"] == "BTCUSDT"
    socket.send('{"method":"UNSUBSCRIBE","params":["btcusdt@bookTicker"],"id":2}')
    receive(socket, lambda message: message.get("id") == 2)
    socket.send('{"method":"LIST_SUBSCRIPTIONS","id":3}')
    assert receive(socket, lambda message: message.get("id") == 3)["result"] == ["btcusdt@trade"]
    for _ in range(3):
        assert orjson.loads(socket.recv())["e"] == "trade"
    socket.send("not json")
    assert receive(socket, lambda message: "error" in message)["error"]["code"] == 3
    socket.send('{"method":"DANCE","params":[],"id":9}')
    assert receive(socket, lambda message: message.get("id") == 9)["error"]["code"] == 1
    socket.close()


def test_ping_is_answered(venue):
    socket = venue.socket("/ws")
    socket.ping("hello")
    opcode, data = socket.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"hello")
    socket.close()


@pytest.mark.parametrize(
    "path",
    ["/ws/{}", "/private/ws/{}", "/private/ws?listenKey={}&events=ORDER_TRADE_UPDATE/ACCOUNT_UPDATE",
     "/private/stream?listenKey={}"],
)
def test_user_data_tells_the_life_of_orders(venue, client, path):
    key = venue.listen_key()
    assert venue.listen_key() == key  # the live one is prolonged
    socket = venue.socket(path.format(key))

    def event(kind: str, **fields):
        def matches(message) -> bool:
            data = message.get("data", message)
            inner = data.get("o", {})
            return data["e"] == kind and all(inner.get(name) == value for name, value in fields.items())

        message = receive(socket, matches)
        return message.get("data", message)

    bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
    order = client.create_order(BTC, "limit", "buy", 0.01, bid - 300, {"newClientOrderId": "life"})
    new = event("ORDER_TRADE_UPDATE", x="NEW")["o"]
    assert (new["c"], new["i"], new["X"], new["q"], new["z"]) == ("life", int(order["id"]), "NEW", "0.010", "0.000")
    assert set(ORDER_FIELDS.split()) <= set(new)
    client.cancel_order(order["id"], BTC)
    assert event("ORDER_TRADE_UPDATE", x="CANCELED")["o"]["X"] == "CANCELED"
    wallet = Decimal(venue.state()["wallet"])
    position = Decimal(venue.state()["positions"]["BTCUSDT"]["size"])
    order = client.create_order(BTC, "market", "sell", 0.02)
    filled = Decimal(0)
    while filled < Decimal("0.02"):
        account = event("ACCOUNT_UPDATE")["a"]
        trade = event("ORDER_TRADE_UPDATE", x="TRADE")["o"]
        filled += Decimal(trade["l"])
        wallet += Decimal(trade["rp"]) - Decimal(trade["n"])
        assert trade["m"] is False and trade["N"] == "USDT"
        assert Decimal(trade["n"]) == Decimal(trade["L"]) * Decimal(trade["l"]) * Decimal("0.0005")
        assert Decimal(account["B"][0]["wb"]) == wallet
        assert Decimal(account["P"][0]["pa"]) == position - filled
    assert trade["X"] == "FILLED" and Decimal(trade["z"]) == filled
    socket.close()


def test_user_data_reports_maker_fills_of_a_resting_order(venue, client):
    socket = venue.socket(f"/private/ws?listenKey={venue.listen_key()}&events=ORDER_TRADE_UPDATE")
    deadline = time.monotonic() + 30
    fill = None
    while fill is None and time.monotonic() < deadline:
        bid = client.fetch_order_book(BTC, 5)["bids"][0][0]
        try:
            order = client.create_order(BTC, "limit", "buy", 0.01, bid, {"postOnly": True})
        except Exception as error:
            assert "-5022" in str(error)
            continue
        time.sleep(1)
        if client.fetch_order(order["id"], BTC)["status"] == "open":
            client.cancel_order(order["id"], BTC)
        message = receive(socket, lambda message: message["o"]["x"] in ("TRADE", "CANCELED"))
        fill = message["o"] if message["o"]["x"] == "TRADE" else None
    assert fill is not None and fill["m"] is True
    assert Decimal(fill["n"]) == Decimal(fill["L"]) * Decimal(fill["l"]) * Decimal("0.0002")
    socket.close()


def test_the_stock_streaming_client_works(venue):
    """ccxt.pro.binanceusdm: book, trades, own orders (amended too), own trades and positions."""

    async def session() -> None:
        pro = ccxt_client(venue.address, ccxt.pro.binanceusdm)

        async def within(awaitable):
            return await asyncio.wait_for(awaitable, 15)

        try:
            await within(pro.load_markets())
            for _ in range(5):
                book = await within(pro.watch_order_book(BTC))
                assert book["bids"][0][0] < book["asks"][0][0]
            assert (await within(pro.watch_trades(BTC)))[0]["symbol"] == BTC
            orders = asyncio.create_task(pro.watch_orders(BTC))
            await asyncio.sleep(0.5)
            placed = await within(pro.create_order(BTC, "limit", "buy", 0.01, 59_000))
            assert (await within(orders))[0]["id"] == placed["id"]
            orders = asyncio.create_task(pro.watch_orders(BTC))
            await asyncio.sleep(0.1)
            await within(pro.edit_order(placed["id"], BTC, "limit", "buy", 0.02, 58_900))
            changed = (await within(orders))[-1]
            assert (changed["id"], changed["amount"], changed["price"]) == (placed["id"], 0.02, 58_900)
            positions = asyncio.create_task(pro.watch_positions([BTC]))
            await asyncio.sleep(0.5)
            trades = asyncio.create_task(pro.watch_my_trades(BTC))
            await asyncio.sleep(0.1)
            taken = await within(pro.create_order(BTC, "market", "buy", 0.01))
            assert (await within(trades))[0]["order"] == taken["id"]
            (position,) = await within(positions)  # after the first of its fills
            assert position["symbol"] == BTC and position["side"] in ("long", "short") and position["contracts"] > 0
            await within(pro.cancel_all_orders(BTC))
        finally:
            await pro.close()

    asyncio.run(session())


def test_events_filter_and_closing_of_the_listen_key(venue, client):
    socket = venue.socket(f"/private/ws?listenKey={venue.listen_key()}&events=listenKeyExpired")
    client.create_order(BTC, "market", "buy", 0.01)
    client.fapiPrivateDeleteListenKey()
    assert orjson.loads(socket.recv())["e"] == "listenKeyExpired"
    with pytest.raises(Exception, match="-1125"):
        client.fapiPrivatePutListenKey()
    socket.close()


def test_a_slow_client_is_cut_off_and_counted():
    with running_venue(VenueSettings(send_queue=16)) as venue:
        connection = None

        def flood() -> None:
            nonlocal connection
            (connection,) = venue.venue.hub.connections
            for _ in range(17):  # no turn of the loop in between: nothing can be sent
                connection.send(b"{}")

        socket = venue.socket("/ws/btcusdt@bookTicker")
        venue.call(flood)
        opcode = 0
        while opcode != websocket.ABNF.OPCODE_CLOSE:
            opcode, data = socket.recv_data()
        assert int.from_bytes(data[:2], "big") == 1008
        socket.close()
        deadline = time.monotonic() + 5
        while venue.state()["counters"]["slow_clients"] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert venue.state()["counters"]["slow_clients"] == 1
