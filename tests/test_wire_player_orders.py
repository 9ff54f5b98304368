"""Own orders beside a played recording: a stock client trades, and not one frame is another than without it.

Oracles: the bytes of the recording; bounds on fills that the recorded trades and quotes set; stock ccxt.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import ccxt
import ccxt.pro
import orjson
import pytest

from engine.matching.settings import VenueSettings
from procs.capture.reader import Selection
from procs.captures import CaptureError
from procs.embedded.server import VenueAddress
from procs.wire_player.account_door import AccountDoor
from procs.wire_player.faults import parse_fault
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import Item, What
from procs.wire_player.server import PlaySettings, WirePlayer
from procs.wire_player.trading import Trading
from tests.embedded_venue import BTC, ccxt_client
from tests.playing import NS, Desk, desk, diff, next_frame, received, run, write
from tests.recordings import USDM_CAPTURES, require_capture

USDM = USDM_CAPTURES[0]
SPOT = "ws/binance-spot/ethusdt_20240808.raw.gz"
USDM_LOG = "ws/binance-usdm/cf_20210722_ws_1.txt.gz"
ACCOUNT = VenueSettings(weight_limit_1m=1_000_000, order_limit_10s=1_000_000, order_limit_1m=1_000_000)
recordings = pytest.mark.recordings
SNAPSHOT = (
    b'{"lastUpdateId":1,"E":1,"T":1,"bids":[["100.00","5.000"],["99.00","9.000"]],'
    b'"asks":[["101.00","4.000"],["102.00","8.000"]]}'
)


def level(number: int, update: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    data = {"e": "depthUpdate", "E": number, "T": number, "s": "BTCUSDT", "U": update, "u": update,
            "pu": update - 1, "b": bids, "a": asks}  # fmt: skip
    return b'{"stream":"btcusdt@depth@0ms","data":%s}' % orjson.dumps(data)


def trade(number: int, price: str, size: str, seller_takes: bool) -> bytes:
    data = {"e": "trade", "E": number, "T": number, "s": "BTCUSDT", "t": number, "p": price, "q": size,
            "X": "MARKET", "m": seller_takes}  # fmt: skip
    return b'{"stream":"btcusdt@trade","data":%s}' % orjson.dumps(data)


class Asker:
    """An account asked without sockets, as a client would."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.recording = Recording([path])
        account = dataclasses.replace(ACCOUNT, matching_delay_ms=settings.get("latency_ms", 0))
        self.trading = Trading(
            self.recording.venue, account, settings.get("rule", "careful"), self.recording.first_ns, lambda: NS
        )
        self.items: Iterator[Item] = self.recording.items()

    def play(self, count: int) -> list[Item]:
        played = list(itertools.islice(self.items, count))
        for item in played:
            self.recording.venue.see(item)
            self.trading.see(item)
        return played

    def signed(self, **given: Any) -> str:
        query = urlencode({**given, "timestamp": self.trading.now_ns // 1_000_000})
        signature = hmac.new(self.trading.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        return f"{query}&signature={signature}"

    def ask(self, method: str, path: str, **given: Any) -> tuple[int, Any]:
        status, body, _ = self.trading.answer(method, path, self.signed(**given), "", self.trading.key)
        return status, orjson.loads(body)

    def order(self, side: str, quantity: str, price: str = "", **given: Any) -> tuple[int, Any]:
        kind = {"type": "LIMIT", "price": price, "timeInForce": "GTC"} if price else {"type": "MARKET"}
        given = {"symbol": "BTCUSDT", "side": side, "quantity": quantity, "newOrderRespType": "RESULT"} | kind | given
        return self.ask("POST", "/fapi/v1/order", **given)

    def news(self) -> list[Any]:
        events = [orjson.loads(event.payload) for event in self.trading.news]
        self.trading.news.clear()
        return events


def small(tmp_path: Path) -> Path:
    return write(
        tmp_path / "a.raw", SNAPSHOT, level(1, 1, [], [["103.00", "1.500"]]), level(2, 2, [], [["103.00", "2.000"]]),
        trade(3, "100.00", "3.000", True), level(4, 3, [["100.00", "2.000"]], []),
        trade(5, "100.00", "3.000", True), level(6, 4, [["100.00", "0.000"]], []),
        trade(7, "99.00", "1.000", True), level(8, 5, [["99.00", "0.000"]], []),
        level(9, 6, [], [["98.50", "1.000"]]),
    )  # fmt: skip


# --- without sockets --------------------------------------------------------------------------------------------------


def test_a_resting_order_waits_for_its_turn_and_the_account_says_so(tmp_path: Path) -> None:
    at = Asker(small(tmp_path))
    assert at.order("BUY", "1.500", "100.00")[1]["code"] == -4108  # no book yet
    at.play(3)
    status, answer = at.order("BUY", "1.500", "100.00", newClientOrderId="mine", timeInForce="GTX")
    assert (status, answer["status"], answer["timeInForce"]) == (200, "NEW", "GTX")
    assert [event["e"] for event in at.news()] == ["ORDER_TRADE_UPDATE"]
    at.play(2)  # 5 ahead, 3 trade
    assert at.news() == [] and at.trading.market.queues[0]["ahead"][0, 0] == 2_000
    at.play(1)  # 3 trade: 2 ahead, 1 is ours
    account, order = at.news()
    assert account["a"]["P"][0]["pa"] == "1.000" and account["a"]["P"][0]["ep"] == "100.00000000"
    told = order["o"]
    assert (told["c"], told["x"], told["X"], told["l"], told["z"], told["L"], told["m"]) == (
        "mine", "TRADE", "PARTIALLY_FILLED", "1.000", "1.000", "100.00", True
    )  # fmt: skip
    assert told["n"] == "0.02000000" and told["rp"] == "0.00000000"
    assert told["N"] == "USDT" and [one["a"] for one in account["a"]["B"]] == ["USDT"], "which the frames do not say"
    at.play(2)  # a trade through the price fills the rest at the order's own price
    assert [event["o"]["X"] for event in at.news() if "o" in event] == ["FILLED"]
    trades = at.ask("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")[1]
    assert {fill["commissionAsset"] for fill in trades} == {"USDT"}
    assert [(fill["price"], fill["qty"], fill["maker"]) for fill in trades] == [
        ("100.00", "1.000", True), ("100.00", "0.500", True)
    ]  # fmt: skip
    (position,) = at.ask("GET", "/fapi/v2/positionRisk", symbol="BTCUSDT")[1]
    assert (position["positionAmt"], position["entryPrice"]) == ("1.500", "100.00000000")
    assert at.trading.exchange.clearing.total() == 100_000 * 10**8 + 1_000_000 * 10**8


def test_orders_that_take_and_what_they_leave(tmp_path: Path) -> None:
    at = Asker(small(tmp_path))
    at.play(2)
    taken = at.order("BUY", "5.000")[1]
    assert (taken["status"], taken["executedQty"], taken["avgPrice"]) == ("FILLED", "5.000", "101.20000000")
    again = at.order("BUY", "9.000", "102.00", timeInForce="IOC")[1]
    assert (again["status"], again["executedQty"], again["avgPrice"]) == ("EXPIRED", "7.000", "102.00000000")
    assert at.order("BUY", "2.000", "103.00", timeInForce="FOK")[1]["code"] == -5021  # one is displayed
    assert at.order("BUY", "1.000", "103.00", timeInForce="GTX")[1]["code"] == -5022
    at.play(1)
    assert at.order("BUY", "2.000", "103.00", timeInForce="FOK")[1]["status"] == "FILLED"
    closed = at.order("SELL", "20.000", reduceOnly="true")[1]
    assert (closed["status"], closed["executedQty"]) == ("EXPIRED", "14.000")
    assert at.order("SELL", "1.000", reduceOnly="true")[1]["code"] == -2022
    assert at.order("BUY", "0.0005", "99.00")[1]["code"] == -1111
    resting = at.order("BUY", "1.000", "99.00")[1]
    amended = at.ask("PUT", "/fapi/v1/order", symbol="BTCUSDT", orderId=resting["orderId"], side="BUY",
                     quantity="2.000", price="98.50")[1]  # fmt: skip
    assert (amended["price"], amended["origQty"]) == ("98.50", "2.000")
    gone = at.ask("DELETE", "/fapi/v1/order", symbol="BTCUSDT", orderId=resting["orderId"])[1]
    assert gone["status"] == "CANCELED" and at.ask("GET", "/fapi/v1/openOrders")[1] == []


def test_a_quote_that_comes_to_an_order_fills_it_up_to_its_size(tmp_path: Path) -> None:
    at = Asker(small(tmp_path))
    at.play(8)
    at.order("BUY", "3.000", "98.50")
    at.play(2)
    (order,) = at.ask("GET", "/fapi/v1/openOrders")[1]
    assert (order["executedQty"], order["avgPrice"]) == ("1.000", "98.50000000")


def test_a_book_without_a_recorded_snapshot_begins_with_what_diffs_told(tmp_path: Path) -> None:
    asks = [level(number, number, [["99.00", "1.000"]], [["101.00", f"{number}.000"]]) for number in range(1, 9)]
    at = Asker(write(tmp_path / "a.raw", *asks, level(20, 20, [], [["101.00", "9.000"]])))
    at.play(8)
    taken = at.order("BUY", "9.000")[1]
    assert (taken["status"], taken["executedQty"]) == ("EXPIRED", "8.000")
    at.play(1)  # a gap, and the player's own book once more
    assert at.trading.market.touch(0) == (9_900, 1_000, 10_100, 9_000)
    assert at.order("BUY", "9.000")[1]["executedQty"] == "1.000"


def test_a_recorded_loss_ends_the_book_until_a_recorded_snapshot(tmp_path: Path) -> None:
    at = Asker(small(tmp_path))
    at.play(3)
    at.order("BUY", "1.000", "99.00")
    at.trading.see(Item(NS + 50_000_000, 0, What.DISCONNECT, b"", 1, ""))
    assert at.order("BUY", "1.000", "99.00")[1]["code"] == -4108
    at.trading.see(Item(NS + 60_000_000, 0, What.SNAPSHOT, SNAPSHOT.replace(b":1,", b":77,"), 1, "BTCUSDT"))
    assert at.order("BUY", "1.000", "99.00")[1]["status"] == "NEW" and len(at.trading.exchange.open) == 2


def test_countdown_and_bad_signatures(tmp_path: Path) -> None:
    at = Asker(small(tmp_path))
    at.play(3)
    at.order("BUY", "1.000", "99.00")
    at.ask("POST", "/fapi/v1/countdownCancelAll", symbol="BTCUSDT", countdownTime=3)
    at.play(2)
    assert len(at.trading.exchange.open) == 1
    at.play(2)
    assert len(at.trading.exchange.open) == 0
    query = "symbol=BTCUSDT&timestamp=1700000000000&signature=00"
    assert at.trading.answer("GET", "/fapi/v1/openOrders", query, "", at.trading.key)[0] == 400
    at.trading.end()
    assert at.order("BUY", "1.000", "99.00")[1]["code"] == -4108


@recordings
@pytest.mark.parametrize("rule", ["careful", "even"])
def test_fills_on_a_recorded_market_lie_between_what_trades_allow_and_ask_for(rule: str) -> None:
    """An order has had at most what traded at its price or beyond since it came (or was quoted there), and whatever
    traded beyond its price."""
    at = Asker(require_capture(USDM), rule=rule)
    at.play(1_500)
    filled = 0
    for number in range(60):
        bid, _, ask, _ = at.trading.market.touch(0)
        side, price = ("BUY", bid) if number % 2 else ("SELL", ask)
        status, order = at.order(side, "0.300", f"{price / 100:.1f}", timeInForce="GTX")
        assert status == 200, order
        joined_ns = int(at.trading.market.queues[0]["venue_ns"][0])
        at_price, beyond, quoted, executed = 0.0, 0.0, False, 0.0
        sign = 1 if side == "BUY" else -1
        for item in (at.play(1)[0] for _ in range(180)):
            event = orjson.loads(item.data)
            if item.stream == "btcusdt@trade" and event["data"]["m"] == (side == "BUY"):
                data = event["data"]
                distance = sign * (price - float(data["p"]) * 100)
                if data["T"] * 1_000_000 > joined_ns and distance > -0.5:
                    at_price += float(data["q"])
                    beyond += float(data["q"]) if distance > 0.5 else 0.0
            touch = at.trading.market.touch(0)
            quoted = quoted or sign * ((touch[2] if side == "BUY" else touch[0]) - price) <= 0
            _, order = at.ask("GET", "/fapi/v1/order", symbol="BTCUSDT", orderId=order["orderId"])
            executed = float(order["executedQty"])
            assert executed >= min(0.3, beyond) - 1e-9
            assert quoted or executed <= at_price + 1e-9
        filled += executed > 0
        at.ask("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert 10 < filled < 60


def test_only_the_market_whose_words_the_account_speaks() -> None:
    with pytest.raises(CaptureError, match="beside recordings of BINANCE_USDM, not of BINANCE_SPOT"):
        WirePlayer(Recording([require_capture(SPOT)]), PlaySettings(account=ACCOUNT))


# --- over sockets -----------------------------------------------------------------------------------------------------


def address(at: Desk) -> VenueAddress:
    trading = at.player.trading
    assert trading is not None
    return VenueAddress(at.url, at.url.replace("http", "ws"), trading.key, trading.secret)


@asynccontextmanager
async def client_of(at: Desk) -> AsyncIterator[Any]:
    """Stock ccxt, asynchronous, with nothing but its URLs changed."""
    client = ccxt_client(address(at), ccxt.pro.binanceusdm)
    client.options["fetchMarkets"] = {"types": ["linear"]}
    try:
        await client.load_markets()
        yield client
    finally:
        await client.close()


async def the_book(at: Desk) -> None:
    trading = at.player.trading
    assert trading is not None
    while not trading.market.queues[0]["in_sequence"][0]:
        await asyncio.sleep(0.01)


@recordings
def test_frames_are_the_same_bytes_whatever_is_traded() -> None:
    path = require_capture(USDM)
    first_ns = Recording([path]).first_ns
    half = Selection(to_ns=first_ns + 40_000_000_000)

    async def trade_on(at: Desk, client: Any) -> None:
        while True:
            await client.create_order(BTC, "market", "buy", 0.5)
            trading = at.player.trading
            assert trading is not None
            touch = trading.market.touch(0)
            await client.create_order(BTC, "limit", "buy", 0.2, touch[0] / 100)
            await client.create_order(BTC, "limit", "sell", 0.7, touch[2] / 100)
            await asyncio.sleep(0.02)
            await client.cancel_all_orders(BTC)

    async def play(account: VenueSettings | None) -> tuple[list[bytes], int, Any]:
        fills = 0
        async with desk([path], half, account=account, begin_after_s=60.0, speed=20.0) as at:
            hearing = asyncio.create_task(at.hear(at.all_streams))
            if account is not None:
                async with client_of(at) as client:
                    await the_book(at)
                    with pytest.raises(ccxt.ExchangeError, match="-4108"):  # until it is over
                        await trade_on(at, client)
                    fills = len(at.player.state()["account"]["fills"])
            frames, _ = await hearing
            assert frames == received(at.recording)
            _, book = await at.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
            return frames, fills, book

    without, _, book = run(play(None))
    frames, fills, same_book = run(play(ACCOUNT))
    assert frames == without and len(frames) > 3_000 and fills > 5
    assert book == same_book


@recordings
def test_a_stock_client_places_sees_fills_and_cancels() -> None:
    path = require_capture(USDM)

    async def play() -> None:
        async with desk([path], account=ACCOUNT, begin_after_s=0.1, speed=2.0) as at:
            hearing = asyncio.create_task(at.hear(at.all_streams))
            async with client_of(at) as client:
                watching = asyncio.create_task(client.watch_orders(BTC))
                await the_book(at)
                await at.until("clients", 2)
                market = client.market(BTC)
                assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
                taken = await client.create_order(BTC, "market", "buy", 0.4)
                assert (taken["status"], taken["filled"]) == ("closed", 0.4)
                told = await asyncio.wait_for(watching, 10)
                assert told[0]["id"] == taken["id"]
                bid, _, ask, _ = at.player.trading.market.touch(0)
                far = await client.create_order(BTC, "limit", "sell", 0.1, ask / 100 * 1.02, {"timeInForce": "GTX"})
                assert [order["id"] for order in await client.fetch_open_orders(BTC)] == [far["id"]]
                assert (await client.cancel_order(far["id"], BTC))["status"] == "canceled"
                with pytest.raises(ccxt.OrderNotFound):
                    await client.cancel_order(far["id"], BTC)
                near = [
                    await client.create_order(BTC, "limit", "buy", 0.05, bid / 100),
                    await client.create_order(BTC, "limit", "sell", 0.05, ask / 100),
                ]
                filled = [0.0, 0.0]
                while 0.05 not in filled:  # the price goes one way or the other
                    assert not hearing.done(), "none was filled"
                    await asyncio.sleep(0.1)
                    filled = [(await client.fetch_order(order["id"], BTC))["filled"] for order in near]
                await client.cancel_all_orders(BTC)
                filled = [(await client.fetch_order(order["id"], BTC))["filled"] for order in near]
                (position,) = await client.fetch_positions([BTC])
                assert (position["side"], position["contracts"]) == ("long", round(0.4 + filled[0] - filled[1], 3))
                fills = await client.fetch_my_trades(BTC)
                assert fills[-1]["takerOrMaker"] == "maker" and fills[0]["takerOrMaker"] == "taker"
                balance = await client.fetch_balance()
                assert 99_900 < balance["USDT"]["total"] < 100_100
            hearing.cancel()

    run(play())


def rising(tmp_path: Path, count: int) -> Path:
    """A recording in which the best ask is told anew every millisecond, each time with another size."""
    asks = [level(number, number, [], [["101.00", f"{number}.000"]]) for number in range(1, count)]
    return write(tmp_path / "a.raw", SNAPSHOT, *asks)


def test_the_user_data_stream_and_who_hears_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with desk([rising(tmp_path, 4_000)], account=ACCOUNT, begin_after_s=60.0, speed=0.2) as at:
            keys = {"X-MBX-APIKEY": address(at).api_key}
            async with at.session.post(at.url + "/fapi/v1/listenKey", headers=keys) as answer:
                key = (await answer.json())["listenKey"]
            orders = await at.connect(f"/private/ws?listenKey={key}&events=ORDER_TRADE_UPDATE")
            everything = await at.connect(f"/stream?streams={key}")
            stranger = await at.connect("/ws/" + "x" * 64)
            await at.until("clients", 3)
            assert not at.player.state()["begun"]  # nobody listens to the market yet
            async with client_of(at) as client:
                hearing = asyncio.create_task(at.hear(at.all_streams))
                await the_book(at)
                taken = await client.create_order(BTC, "market", "buy", 1)
            told = [orjson.loads(await next_frame(orders)) for _ in range(2)]
            assert [(event["e"], event["o"]["x"]) for event in told] == [
                ("ORDER_TRADE_UPDATE", "NEW"), ("ORDER_TRADE_UPDATE", "TRADE")
            ]  # fmt: skip
            assert {str(event["o"]["i"]) for event in told} == {taken["id"]}
            combined = [orjson.loads(await next_frame(everything)) for _ in range(3)]
            assert {frame["stream"] for frame in combined} == {key}
            assert [frame["data"]["e"] for frame in combined] == [
                "ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "ORDER_TRADE_UPDATE"
            ]  # fmt: skip
            assert combined[0]["data"] == told[0] and combined[2]["data"] == told[1]
            with pytest.raises(asyncio.TimeoutError):
                await stranger.receive(timeout=0.1)
            hearing.cancel()

    run(play())


class Request:
    """What a door needs of a request."""

    method, path = "POST", "/fapi/v1/order"

    def __init__(self, at: Asker, **given: Any) -> None:
        self.raw_path = f"{self.path}?{at.signed(**given)}"
        self.headers = {"X-MBX-APIKEY": at.trading.key}

    async def text(self) -> str:
        return ""


def test_an_order_arrives_its_latency_later_in_the_time_of_the_recording(tmp_path: Path) -> None:
    """As fast as the clients read: it meets the book of three milliseconds later, whoever is how fast."""
    at = Asker(rising(tmp_path, 50), latency_ms=3)
    door = AccountDoor(at.trading, None, lambda: ())

    async def play() -> None:
        door.begin()
        at.play(10)
        asked_ns = at.trading.now_ns
        given = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "newOrderRespType": "RESULT"}
        answering = asyncio.create_task(door.answer(Request(at, quantity="40.000", **given)))  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answering.done() and at.trading.now_ns == asked_ns
        for item in at.items:
            await door.arrive(item.ts_ns)
            at.trading.see(item)
        answer = orjson.loads((await answering).body)  # type: ignore[arg-type]
        assert {fill.time_ns for fill in at.trading.exchange.fills} == {asked_ns + 3_000_000}
        # nine sizes were told when it was sent, eleven before it arrived: 11 at 101 and 8 at 102 is all there is
        assert (answer["status"], answer["executedQty"]) == ("EXPIRED", "19.000")
        late = asyncio.create_task(door.answer(Request(at, quantity="1.000", **given)))  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        await door.end()
        assert orjson.loads((await late).body)["code"] == -4108  # type: ignore[arg-type]

    run(play())


@recordings
def test_a_session_log_with_its_own_listing_takes_orders_too() -> None:
    async def play() -> None:
        async with desk([require_capture(USDM_LOG)], account=ACCOUNT, begin_after_s=0.1) as at:
            await at.hear(at.all_streams)
            trading = at.player.trading
            assert trading is not None
            assert sum(int(queue["in_sequence"][0]) for queue in trading.market.queues) >= 2
            async with client_of(at) as client:
                assert len(client.markets) > 50  # the venue's own list
                item = trading.market.instruments[0]
                with pytest.raises(ccxt.ExchangeError, match="-4108"):
                    await client.create_order(f"{item.base}/USDT:USDT", "market", "buy", 10)

    run(play())


def test_faults_meet_requests_to_the_account_too(tmp_path: Path) -> None:
    async def play() -> None:
        async with desk([write(tmp_path / "a.raw", diff(1))], account=ACCOUNT, faults=(parse_fault("429@1"),)) as at:
            async with at.session.get(f"{at.url}/fapi/v2/account") as refused:
                assert refused.status == 429
            async with at.session.get(f"{at.url}/fapi/v2/account") as unsigned:
                assert unsigned.status == 401
            assert isinstance(at.session, aiohttp.ClientSession)
            assert [item.what for item in at.recording.items()] == [What.FRAME]

    run(play())
