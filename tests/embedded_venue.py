"""A running embedded venue for tests: in a thread of its own, with a stock ccxt client and a plain socket client.

`with running_venue() as venue:` gives a RunningVenue. Its `call` runs a function inside the venue's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ccxt
import orjson
import requests
import websocket

from engine.matching.settings import VenueSettings
from procs.embedded.server import EmbeddedVenue, VenueAddress

BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"


def ccxt_client(address: VenueAddress, kind: type = ccxt.binanceusdm, **options: Any) -> Any:
    """A stock class (ccxt.binanceusdm, ccxt.binance, or one of ccxt.pro) with nothing but its URLs changed."""
    client = kind({"apiKey": address.api_key, "secret": address.secret, "enableRateLimit": False} | options)
    urls = client.urls["api"]
    if "ws" in urls:
        urls["ws"]["linear"] = address.ws_url + "/ws"
        urls["ws"]["spot"] = address.ws_url + "/stream/ws"  # the client tells spot by "/stream" in its URL
        urls["ws"]["ws-api"]["spot"] = address.ws_url + "/ws-api/v3"
    for key, url in urls.items():
        if isinstance(url, str):
            urls[key] = address.rest_url + "/" + url.split("/", 3)[3]
    return client


class RunningVenue:
    """What a test may do with a venue that runs."""

    def __init__(self, venue: EmbeddedVenue, loop: asyncio.AbstractEventLoop):
        self.venue = venue
        self.address = venue.address
        self._loop = loop

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function inside the venue's loop."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.address.rest_url + path, timeout=10)

    def state(self) -> dict[str, Any]:
        return self.get("/bot4/state").json()

    def fault(self, **request: Any) -> dict[str, Any]:
        answer = requests.post(self.address.rest_url + "/bot4/faults", json=request, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def socket(self, path: str) -> websocket.WebSocket:
        return websocket.create_connection(self.address.ws_url + path, timeout=10)

    def listen_key(self) -> str:
        answer = requests.post(
            self.address.rest_url + "/fapi/v1/listenKey", headers={"X-MBX-APIKEY": self.address.api_key}, timeout=10
        )
        return answer.json()["listenKey"]


@contextlib.contextmanager
def running_venue(settings: VenueSettings | None = None) -> Iterator[RunningVenue]:
    """A venue on a free port; stopped at the end, also after a failure."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> EmbeddedVenue:
        venue = EmbeddedVenue(settings or VenueSettings(weight_limit_1m=1_000_000))
        await venue.start()
        return venue

    venue = asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    try:
        yield RunningVenue(venue, loop)
    finally:
        asyncio.run_coroutine_threadsafe(venue.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def receive(socket: websocket.WebSocket, wanted: Callable[[Any], bool], limit: int = 20_000) -> Any:
    """The next message that satisfies a condition."""
    for _ in range(limit):
        message = orjson.loads(socket.recv())
        if wanted(message):
            return message
    raise AssertionError(f"not among {limit} messages")
