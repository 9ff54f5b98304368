"""The venue at its worst: faults that last, a user stream that lies about order, and seeded mixes of everything."""

from __future__ import annotations

import threading
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import ccxt
import orjson
import pytest
import requests
import websocket

from engine.matching.settings import VenueSettings
from procs.embedded.faults import Faults
from procs.embedded.limits import banned
from procs.embedded.mix import FATES, HTTP_ACTIONS, TIMED
from tests.embedded_venue import BTC, ccxt_client, receive, running_venue


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address, timeout=5_000)
    stock.load_markets()
    return stock


@pytest.fixture(autouse=True)
def calm(venue):
    """Every test begins and ends without faults."""
    yield
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
            return
        except requests.ConnectionError:
            time.sleep(0.05)


def applied(venue) -> Counter[str]:
    return Counter(venue.state()["counters"]["faults"])


def fills_of(venue, client, action, count: int = 3) -> tuple[list[tuple[int, int]], list[dict]]:
    """(trade id, times told) in order of arrival while `action` is in force, and what the venue booked."""
    socket = venue.socket(f"/private/ws?listenKey={venue.listen_key()}&events=ORDER_TRADE_UPDATE")
    before = venue.state()["fill_count"]
    action()
    for _ in range(count):
        client.create_order(BTC, "market", "buy", 0.01)
    client.create_order(BTC, "market", "sell", 0.01 * count, None, {"reduceOnly": True})
    time.sleep(0.8)
    last = client.create_order(BTC, "limit", "buy", 0.01, 59_000)
    client.cancel_order(last["id"], BTC)
    told: list[int] = []
    while True:
        order = orjson.loads(socket.recv())["o"]
        if order["x"] == "TRADE":
            told.append(order["t"])
        elif order["x"] == "CANCELED":
            break
    socket.close()
    state = venue.state()
    booked = state["fills"][before - state["fill_count"] :]
    return [(trade_id, told.count(trade_id)) for trade_id in told], booked


def test_late_fills_come_late_but_come(venue, client):
    told, booked = fills_of(
        venue, client, lambda: venue.fault(fault="delay_user", count=2, delay_ms=400, only="fills")
    )
    assert sorted(trade_id for trade_id, _ in told) == [fill["id"] for fill in booked]
    assert [trade_id for trade_id, _ in told] != [fill["id"] for fill in booked]
    assert [trade_id for trade_id, _ in told][-2:] == [fill["id"] for fill in booked[:2]]


def test_fills_out_of_order(venue, client):
    told, booked = fills_of(venue, client, lambda: venue.fault(fault="reorder_user", only="fills"))
    ids = [fill["id"] for fill in booked]
    assert sorted(trade_id for trade_id, _ in told) == ids
    assert [trade_id for trade_id, _ in told[:2]] == [ids[1], ids[0]]


def test_duplicate_fills(venue, client):
    told, booked = fills_of(venue, client, lambda: venue.fault(fault="duplicate_user", count=2, only="fills"))
    counts = dict(told)
    assert [counts[fill["id"]] for fill in booked][:2] == [2, 2] and sum(counts.values()) == len(booked) + 2


def test_dropped_fills(venue, client):
    told, booked = fills_of(venue, client, lambda: venue.fault(fault="drop_user", count=2, only="fills"))
    assert [trade_id for trade_id, _ in told] == [fill["id"] for fill in booked[2:]]


def test_reordered_diffs_break_the_chain_and_nothing_is_lost(venue):
    socket = venue.socket("/ws/btcusdt@depth@0ms")
    receive(socket, lambda message: message["e"] == "depthUpdate")
    venue.fault(fault="reorder_depth", symbol="BTCUSDT", count=1)
    seen = [orjson.loads(socket.recv()) for _ in range(60)]
    order = [diff["u"] for diff in seen]
    assert order != sorted(order) and len(set(order)) == 60
    seen.sort(key=lambda diff: diff["u"])
    assert all(after["pu"] == before["u"] for before, after in pairwise(seen))
    socket.close()


def test_gone_refuses_and_comes_back_at_the_same_port(venue, client):
    socket = venue.socket("/ws/btcusdt@bookTicker")
    venue.fault(fault="gone", duration_ms=600)
    time.sleep(0.1)  # it begins with the next turn
    with pytest.raises(requests.ConnectionError):
        requests.get(venue.address.rest_url + "/fapi/v1/ping", timeout=5)
    with pytest.raises(ccxt.NetworkError):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000)
    with pytest.raises(ConnectionRefusedError):
        venue.socket("/ws/btcusdt@bookTicker")
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
        while socket.recv():
            continue
    deadline = time.monotonic() + 5
    answer = None
    while answer is None and time.monotonic() < deadline:
        try:
            answer = requests.get(venue.address.rest_url + "/fapi/v1/ping", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.05)
    assert answer is not None and answer.status_code == 200
    assert applied(venue)["gone"] >= 1


def test_half_open_requests_are_never_answered(venue, client):
    venue.fault(fault="half_open", streams="rest", duration_ms=700)
    begun = time.monotonic()
    with pytest.raises(requests.Timeout):
        requests.get(venue.address.rest_url + "/fapi/v1/ping", timeout=0.3)
    with pytest.raises(requests.ConnectionError):  # cut once it is over
        requests.get(venue.address.rest_url + "/fapi/v1/ping", timeout=5)
    assert time.monotonic() - begun > 0.6
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order("1", BTC)


def test_half_open_sockets_fall_silent_for_good(venue):
    public, market = venue.socket("/public/ws/btcusdt@depth@0ms"), venue.socket("/market/ws/btcusdt@aggTrade")
    receive(public, lambda message: "e" in message)
    venue.fault(fault="half_open", streams="public", duration_ms=300)
    with pytest.raises(websocket.WebSocketTimeoutException):
        websocket.create_connection(venue.address.ws_url + "/public/ws/btcusdt@trade", timeout=0.2)
    public.settimeout(0.5)
    with pytest.raises(websocket.WebSocketTimeoutException):  # what was on its way, then silence
        while public.recv():
            continue
    public.ping("anybody?")
    with pytest.raises(websocket.WebSocketTimeoutException):
        public.recv_data(control_frame=True)
    assert orjson.loads(market.recv())["e"] == "aggTrade"
    fresh = venue.socket("/public/ws/btcusdt@depth@0ms")
    assert orjson.loads(fresh.recv())["e"] == "depthUpdate"
    for socket in (public, market, fresh):
        socket.close()


def test_maintenance_closes_everything_for_a_time(venue, client):
    socket = venue.socket("/ws/btcusdt@depth@0ms")
    venue.fault(fault="maintenance", duration_ms=500)
    assert venue.get("/fapi/v1/ping").status_code == 503
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.fetch_balance()
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
        while socket.recv():
            continue
    with pytest.raises(websocket.WebSocketBadStatusException):
        venue.socket("/ws/btcusdt@depth@0ms")
    arrivals = venue.state()["counters"]["arrivals"]
    assert venue.state()["counters"]["arrivals"] == arrivals
    time.sleep(0.6)
    assert venue.get("/fapi/v1/ping").status_code == 200
    assert venue.state()["counters"]["arrivals"] > arrivals


def test_a_halt_is_told_and_refuses_orders(venue, client):
    venue.fault(fault="maintenance", mode="halt", duration_ms=600)
    information = venue.get("/fapi/v1/exchangeInfo").json()
    assert {item["status"] for item in information["symbols"]} == {"PENDING_TRADING"}
    with pytest.raises(ccxt.ExchangeError, match="-4108"):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000)
    time.sleep(0.7)
    assert client.create_order(BTC, "limit", "buy", 0.01, 59_000)["status"] == "open"
    client.cancel_all_orders(BTC)


def test_a_ban_is_418_for_a_time(venue, client):
    venue.fault(fault="ban", duration_ms=500)
    answer = venue.get("/fapi/v1/ping")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (418, -1003, "1")
    with pytest.raises(ccxt.DDoSProtection):
        client.fetch_balance()
    time.sleep(0.6)
    assert venue.get("/fapi/v1/ping").status_code == 200


def test_whoever_is_banned_is_told_when_to_come_back():
    """Also in the last moment of a ban: without Retry-After a client must assume the shortest there is, 2 minutes."""
    assert [banned(5_000, now).headers["Retry-After"] for now in (1_000, 4_001, 4_999, 5_000, 5_050)] == [
        "4", "1", "1", "1", "1"
    ]


@pytest.mark.parametrize("skew_ms", [-4_000, 20_000])
def test_a_clock_that_is_off(venue, client, skew_ms):
    venue.fault(fault="clock", skew_ms=skew_ms, duration_ms=5_000)
    shown = venue.get("/fapi/v1/time").json()["serverTime"] - time.time() * 1000
    assert abs(shown - skew_ms) < 500
    with pytest.raises(ccxt.InvalidNonce):
        client.fetch_balance()
    requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
    client.fetch_balance()


@pytest.mark.parametrize(("action", "exists"), [("garbage_before", False), ("garbage_after", True)])
def test_garbage_with_status_200(venue, client, action, exists):
    for number in range(6):
        name = f"{action}{number}"
        venue.fault(fault="http", action=action, path="/fapi/v1/order", method="POST")
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.010",
                 "price": "59000.00", "newClientOrderId": name}
        try:
            answer = client.fapiPrivatePostOrder(order)
            assert not isinstance(answer, dict) or "orderId" not in answer
        except ccxt.BaseError:
            pass  # the stock client makes nothing of it either
        try:
            found = client.fetch_order(None, BTC, {"origClientOrderId": name})["status"] == "open"
        except ccxt.OrderNotFound:
            found = False
        assert found == exists
    client.cancel_all_orders(BTC)


RATES = dict.fromkeys(HTTP_ACTIONS, 0.05) | {
    f"{fate}_{channel}": 0.04 for fate in FATES for channel in ("depth", "user")
} | dict.fromkeys(("disconnect", *TIMED), 0.1)


def decisions(seed: int) -> list:
    faults = Faults()
    faults.order({"seed": seed, "rates": RATES, "delay_ms": 100, "duration_ms": 300}, 0)
    made = []
    for step in range(400):
        fault = faults.http("POST", "/fapi/v1/order")
        made.append((faults.tick(step * 250), faults.frame("depth", "BTCUSDT"), faults.frame("user"),
                     fault and (fault.action, fault.status, fault.delay_ms)))
    return made


def test_a_seed_says_what_goes_wrong():
    assert decisions(1) == decisions(1) != decisions(2)
    begun = {name.split()[0] for made in (decisions(seed) for seed in range(4)) for names, *_ in made for name in names}
    assert begun == {"disconnect", *TIMED}


def test_what_happens_to_the_nth_request_depends_on_nothing_else():
    lonely, busy = Faults(), Faults()
    for faults in (lonely, busy):
        faults.order({"seed": 5, "rates": RATES}, 0)
    for step in range(200):
        busy.frame("user")
        busy.frame("depth", "ETHUSDT")
        busy.tick(step * 1_000)
        one, other = (faults.http("GET", "/fapi/v1/order") for faults in (lonely, busy))
        assert one == other


def test_a_seeded_bad_day_leaves_the_ground_truth_whole():
    """Orders through a mix of everything: each that was answered or asked for exists once, and money adds up."""
    settings = VenueSettings(weight_limit_1m=1_000_000, order_limit_10s=100_000, order_limit_1m=100_000)
    with running_venue(settings) as venue:
        total = venue.state()["total"]
        rates = RATES | dict.fromkeys(TIMED, 0.1) | {"disconnect": 0.2}
        venue.fault(seed=11, rates=rates, delay_ms=150, duration_ms=250)
        client = ccxt_client(venue.address, timeout=400)
        confirmed: set[str] = set()
        listening = threading.Event()

        def listen() -> None:
            while not listening.is_set():
                try:
                    socket = venue.socket("/ws/btcusdt@depth@0ms")
                    socket.settimeout(0.5)
                    while not listening.is_set():
                        socket.recv()
                except (OSError, websocket.WebSocketException):
                    time.sleep(0.05)

        listener = threading.Thread(target=listen)
        listener.start()
        deadline = time.monotonic() + 6
        number = 0
        while time.monotonic() < deadline:
            number += 1
            name = f"day{number}"
            try:
                side = "BUY" if number % 2 else "SELL"
                answer = client.fapiPrivatePostOrder({
                    "symbol": "BTCUSDT", "side": side, "type": "MARKET", "quantity": "0.010", "newClientOrderId": name,
                    "newOrderRespType": "RESULT", "recvWindow": "60000",
                })
                if isinstance(answer, dict) and answer.get("clientOrderId") == name:
                    confirmed.add(name)
            except ccxt.BaseError:
                time.sleep(0.01)
        listening.set()
        listener.join()
        while True:
            try:
                requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.05)
        time.sleep(0.5)
        state = venue.state()
        client = ccxt_client(venue.address)
        known = client.fapiPrivateGetAllOrders({"symbol": "BTCUSDT", "limit": 1000})
        names = Counter(order["clientOrderId"] for order in known)
        assert max(names.values()) == 1 and confirmed <= set(names)
        assert len(confirmed) > 20 and len(set(names) - confirmed) > 0  # some were taken and never confirmed
        assert state["total"] == total
        filled = sum(Decimal(order["executedQty"]) * (1 if order["side"] == "BUY" else -1) for order in known)
        assert filled == Decimal(state["positions"]["BTCUSDT"]["size"])
        counted = state["counters"]["faults"]
        assert sum(counted.get(name, 0) for name in HTTP_ACTIONS) > 10
        assert any(counted.get(name, 0) for name in TIMED)
