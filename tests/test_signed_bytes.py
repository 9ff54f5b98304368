"""Hand-signed requests byte by byte: what leaves our socket against what leaves stock ccxt's for the same call.

Both talk to one listener that keeps the raw bytes; the time of both is frozen. Request line and body are compared
whole, and of the headers all but those by which an HTTP library speaks of itself (`_OWN_WAYS`).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import ccxt
import pytest

from engine.instruments import Instrument
from engine.records import Side
from procs.clocks import Clocks
from procs.emergency.flatten import Clip, order_params
from procs.sweep import Sweep
from procs.venues.binance_usdm.dead_man import DeadManSwitch
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.signed import SignedSession
from shm.clock import python_monotonic_ns, sleep
from tests.embedded_venue import ccxt_client
from tests.instance_memory import own_budget

NOW_MS = 1_700_000_000_123
KEY, SECRET = "k" * 64, "s" * 64
COIN = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, 3, 10, 1, 0)
_OWN_WAYS = {"user-agent", "accept", "accept-encoding", "connection"}


class Listener:
    """Takes one request a connection and keeps its bytes; the answer fits nobody and breaks nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        break
                    head += line
                if not head:
                    continue  # it was closed before it asked for anything
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = stream.read(int(lengths[0].split(b":")[1])) if lengths else b""
                self.requests.append(head + body)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def session_of(listener: Listener, now_ms: int = NOW_MS) -> SignedSession:
    clocks = Clocks(python_monotonic_ns, lambda: now_ms * 1_000_000, sleep)
    return SignedSession(listener.url, Credentials(KEY, SECRET), own_budget(), clocks=clocks)


def sweep_of(listener: Listener) -> Sweep:
    return Sweep(session_of(listener), ["BTCUSDT"], lambda: 0)


CLIP_ID = "b4deadbeef-1125899906842624"
ORDER = {
    "symbol": "BTCUSDT", "side": "SELL", "quantity": "0.020", "newClientOrderId": CLIP_ID, "newOrderRespType": "RESULT",
    "type": "LIMIT", "price": "59400.10", "timeInForce": "IOC", "reduceOnly": "true",
}
ODD = {"symbol": "BTCUSDT", "origClientOrderId": "b4-1 /+&=é:,~"}
# By name: what the kill switch or the dead-man switch does, and stock ccxt's own call for it.
CALLS: dict[str, tuple[Callable[[Listener], Any], str, dict[str, Any]]] = {
    "cancel all orders": (
        lambda place: sweep_of(place).send(), "fapiPrivateDeleteAllOpenOrders", {"symbol": "BTCUSDT"},
    ),
    "open orders": (
        lambda place: sweep_of(place).once(dry=True), "fapiPrivateGetOpenOrders", {"symbol": "BTCUSDT"},
    ),
    "countdown after a trip": (
        lambda place: sweep_of(place).countdown(1_000), "fapiPrivatePostCountdownCancelAll",
        {"symbol": "BTCUSDT", "countdownTime": 1_000},
    ),
    "countdown armed": (
        lambda place: DeadManSwitch(session_of(place), ["BTCUSDT"], 20_000).refresh(),
        "fapiPrivatePostCountdownCancelAll", {"symbol": "BTCUSDT", "countdownTime": 20_000},
    ),
    "cancel one order": (
        lambda place: session_of(place).call("DELETE", "/fapi/v1/order", **ODD), "fapiPrivateDeleteOrder", ODD,
    ),
    "ask for one order": (
        lambda place: session_of(place).call("GET", "/fapi/v1/order", **ODD), "fapiPrivateGetOrder", ODD,
    ),
    "reduce-only order": (
        lambda place: session_of(place).call(
            "POST", "/fapi/v1/order", **order_params("BTCUSDT", Clip(Side.SELL, 5_940_010, 20), COIN, CLIP_ID)
        ),
        "fapiPrivatePostOrder", ORDER,
    ),
    "positions": (
        lambda place: session_of(place).call("GET", "/fapi/v3/positionRisk"), "fapiPrivateV3GetPositionRisk", {},
    ),
    "all orders": (
        lambda place: session_of(place).call("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", limit=1000),
        "fapiPrivateGetAllOrders", {"symbol": "BTCUSDT", "limit": 1000},
    ),
    "listen key": (
        lambda place: session_of(place).call("POST", "/fapi/v1/listenKey", signed=False), "fapiPrivatePostListenKey",
        {},
    ),
    "listen key kept alive": (
        lambda place: session_of(place).call("PUT", "/fapi/v1/listenKey", signed=False), "fapiPrivatePutListenKey", {},
    ),
}


def what_matters(request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Request line, headers, body. Where there is no body its type and its length of nothing say nothing."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *rest = head.split(b"\r\n")
    headers = {name.lower(): value for name, value in (one.decode().split(": ", 1) for one in rest)}
    left_out = _OWN_WAYS if body else _OWN_WAYS | {"content-length", "content-type"}
    return line, {name: value for name, value in headers.items() if name not in left_out}, body


def theirs(listener: Listener, call: str, params: dict[str, Any], **options: Any) -> bytes:
    address = SimpleNamespace(rest_url=listener.url, ws_url="", api_key=KEY, secret=SECRET)
    window_ms = 1_000 if call == "fapiPrivatePostOrder" else 60_000  # an order that comes late is not wanted
    exchange = ccxt_client(address, ccxt.binanceusdm, options={"recvWindow": window_ms} | options)
    exchange.milliseconds = lambda: NOW_MS
    getattr(exchange, call)(dict(params))
    return listener.requests[-1]


@pytest.mark.parametrize("name", CALLS)
def test_the_whole_request_is_stock_ccxts(listener: Listener, name: str) -> None:
    act, call, params = CALLS[name]
    act(listener)
    while not listener.requests:  # what is only sent is not waited for
        sleep(0.001)
    ours = what_matters(listener.requests[-1])
    assert ours == what_matters(theirs(listener, call, params))
    assert ours[1]["x-mbx-apikey"] == KEY
    signed = b"signature=" in (ours[0] + ours[2])
    assert signed != ("listen key" in name)


def test_a_difference_is_found(listener: Listener) -> None:
    """Shown to fail: another window of validity, another time, another order of the parameters."""
    act, call, params = CALLS["cancel all orders"]
    act(listener)
    while not listener.requests:
        sleep(0.001)
    ours = what_matters(listener.requests[-1])
    assert ours != what_matters(theirs(listener, call, params, recvWindow=59_999))
    session_of(listener, NOW_MS + 1).call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert ours != what_matters(listener.requests[-1])
    turned = {"type": ORDER["type"]} | ORDER
    assert what_matters(theirs(listener, "fapiPrivatePostOrder", turned)) != what_matters(
        theirs(listener, "fapiPrivatePostOrder", ORDER)
    )
