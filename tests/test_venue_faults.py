"""Faults on demand, starting and stopping, and what the venue refuses to do."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket as sockets
import subprocess
import sys
import time
from itertools import pairwise

import ccxt
import orjson
import pytest
import requests
import websocket

from engine.matching.settings import VenueSettings
from procs.embedded.errors import VenueError
from procs.embedded.server import VenueAddress, require_loopback, serve_forever
from tests.embedded_venue import BTC, ccxt_client, receive


@pytest.fixture(scope="module")
def client(venue):
    stock = ccxt_client(venue.address, timeout=5_000)
    stock.load_markets()
    return stock


def diffs(socket: websocket.WebSocket, count: int) -> list[dict]:
    return [receive(socket, lambda message: message["e"] == "depthUpdate") for _ in range(count)]


def applied(venue, name: str) -> int:
    return venue.state()["counters"]["faults"].get(name, 0)


def test_dropped_diffs_leave_a_gap(venue):
    socket = venue.socket("/ws/btcusdt@depth@0ms")
    last = diffs(socket, 2)[-1:]
    before = applied(venue, "drop_depth")
    venue.fault(fault="drop_depth", symbol="BTCUSDT", count=2)
    seen = last + diffs(socket, 60)
    breaks = [(a, b) for a, b in pairwise(seen) if b["pu"] != a["u"]]
    assert len(breaks) == 1
    assert applied(venue, "drop_depth") == before + 2
    assert venue.state()["pending_faults"] == {"frames": [], "http": [], "lasting": {}, "mix": None}
    socket.close()


def test_duplicated_diff_comes_twice(venue):
    socket = venue.socket("/ws/ethusdt@depth@100ms")
    diffs(socket, 1)
    venue.fault(fault="duplicate_depth", symbol="ETHUSDT")
    seen = [diff["u"] for diff in diffs(socket, 8)]
    assert len(seen) - len(set(seen)) == 1
    assert applied(venue, "duplicate_depth") == 1
    socket.close()


@pytest.mark.parametrize("which", ["public", "private"])
def test_disconnects_cut_only_the_sockets_meant(venue, which):
    public = venue.socket("/public/ws/btcusdt@bookTicker")
    private = venue.socket(f"/private/ws?listenKey={venue.listen_key()}")
    answer = venue.fault(fault="disconnect", streams=which)
    assert answer == {"disconnected": 1}
    cut, kept = (public, private) if which == "public" else (private, public)
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
        while cut.recv():
            continue
    kept.ping()
    kept.close()


def test_dropped_user_event_is_missing(venue, client):
    socket = venue.socket(f"/private/ws?listenKey={venue.listen_key()}")
    venue.fault(fault="drop_user", count=1)
    order = client.create_order(BTC, "limit", "buy", 0.01, 59_000)
    client.cancel_order(order["id"], BTC)
    assert orjson.loads(socket.recv())["o"]["x"] == "CANCELED"  # NEW was lost
    socket.close()


def test_error_before_does_nothing_and_error_after_does_it(venue, client):
    venue.fault(fault="http", action="error_before", method="POST", path="/fapi/v1/order", status=503)
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000, {"newClientOrderId": "never"})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, BTC, {"origClientOrderId": "never"})
    venue.fault(fault="http", action="error_after", method="POST", path="/fapi/v1/order", status=502)
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.create_order(BTC, "limit", "buy", 0.01, 59_000, {"newClientOrderId": "unknown"})
    assert client.fetch_order(None, BTC, {"origClientOrderId": "unknown"})["status"] == "open"
    client.cancel_all_orders(BTC)


def test_hanging_requests_time_out(venue, client):
    impatient = ccxt_client(venue.address, timeout=150)
    impatient.load_markets()
    for action, status in (("hang_after", "open"), ("hang_before", "open")):
        venue.fault(fault="http", action=action, method="POST", path="/fapi/v1/order", delay_ms=400)
        with pytest.raises(ccxt.RequestTimeout):
            impatient.create_order(BTC, "limit", "buy", 0.01, 59_000, {"newClientOrderId": action})
        found = None
        if action == "hang_before":  # not there yet: it may still arrive
            with pytest.raises(ccxt.OrderNotFound):
                client.fetch_order(None, BTC, {"origClientOrderId": action})
        deadline = time.monotonic() + 5
        while found is None and time.monotonic() < deadline:
            try:
                found = client.fetch_order(None, BTC, {"origClientOrderId": action})
            except ccxt.OrderNotFound:
                time.sleep(0.02)
        assert found is not None and found["status"] == status
    client.cancel_all_orders(BTC)


def test_rate_limit_and_counting(venue, client):
    before = applied(venue, "rate_limit")
    venue.fault(fault="http", action="rate_limit", path="/fapi/v1/openOrders", count=2)
    for _ in range(2):
        with pytest.raises(ccxt.DDoSProtection):
            client.fetch_open_orders(BTC)
    assert client.fetch_open_orders(BTC) == []
    assert applied(venue, "rate_limit") == before + 2


@pytest.mark.parametrize(
    "request_body",
    [b"[]", b"{", b'{"fault":"dance"}', b'{"fault":"drop_depth"}', b'{"fault":"drop_depth","symbol":"A","count":0}',
     b'{"fault":"http","action":"explode"}', b'{"fault":"disconnect","streams":"some"}',
     b'{"fault":"http","action":"error_before","status":200}', b'{"fault":"gone","duration_ms":0}',
     b'{"fault":"half_open","streams":"some"}', b'{"fault":"maintenance","mode":"soon"}',
     b'{"fault":"clock","skew_ms":"much"}', b'{"fault":"drop_user","only":"mine"}', b'{"rates":{}}',
     b'{"seed":1,"rates":{"dance":0.1}}', b'{"seed":1,"rates":{"gone":-1}}', b'{"seed":1,"rates":{"gone":true}}',
     b'{"seed":1,"rates":{"drop_user":0.6,"delay_user":0.6}}', b'{"seed":1,"rates":{},"delay_ms":0}'],
)
def test_senseless_fault_orders_are_refused(venue, request_body):
    answer = requests.post(venue.address.rest_url + "/bot4/faults", data=request_body, timeout=5)
    assert answer.status_code == 400 and answer.json()["error"]


def test_faults_can_be_cleared(venue):
    venue.fault(fault="http", action="error_before", path="/fapi/v1/time", count=5)
    requests.delete(venue.address.rest_url + "/bot4/faults", timeout=5)
    assert venue.get("/fapi/v1/time").status_code == 200


def test_state_balances(venue, client):
    client.create_order(BTC, "market", "buy", 0.01)
    client.create_order(BTC, "market", "sell", 0.01)
    state = venue.state()
    assert state["fill_count"] == len(state["fills"]) > 0
    for field, total in (("commission", state["fees"]), ("realizedPnl", state["realised"])):
        cents = sum(round(float(fill[field]) * 10**8) for fill in state["fills"])
        assert cents == round(float(total) * 10**8)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_only_loopback(host):
    with pytest.raises(VenueError, match=r"venue\.host"):
        require_loopback(host)


def test_a_port_in_use_is_said_plainly():
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(VenueError, match=f"port = {port}.*already in use"):
            serve_forever(VenueSettings(port=port), lambda address: None)


def test_unknown_symbol_in_the_settings_is_said_plainly():
    with pytest.raises(VenueError, match="DOGEUSDT"):
        serve_forever(VenueSettings(symbols=("DOGEUSDT",)), lambda address: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_stops_cleanly_on_a_signal(number):
    code = (
        "import json, sys\n"
        "from engine.matching.settings import VenueSettings\n"
        "from procs.embedded.server import serve_forever\n"
        "show = lambda address: print(json.dumps(address.as_dict()), flush=True)\n"
        "sys.exit(serve_forever(VenueSettings(), show))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = json.loads(process.stdout.readline())
        assert set(address) == {"rest_url", "ws_url", "api_key", "secret"}
        socket = websocket.create_connection(address["ws_url"] + "/ws/btcusdt@depth@0ms", timeout=10)
        socket.recv()
        os.kill(process.pid, number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()


def test_secrets_stay_out_of_logs_and_reprs(venue, caplog):
    with caplog.at_level(logging.DEBUG):
        venue.get("/fapi/v1/time")
    assert venue.address.secret not in caplog.text
    assert venue.address.secret not in repr(venue.address)
    assert isinstance(venue.address, VenueAddress)
