"""`bot4 venue`: the embedded exchange as a loopback server, by itself or inside another process.

One asyncio loop does everything. Every `loop_interval_ms` a turn lets the order flow run up to the clock, sends what
it caused, and publishes the diffs that are due; requests are answered between turns. This is the edge where the
venue's clock is read. `/bot4/state` gives the ground truth, `/bot4/faults` orders faults (see faults.py); both are
answered whatever is in force, except by a venue that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from engine.matching.exchange import Exchange
from engine.matching.orders import Notice, WalletChange
from engine.matching.settings import VenueSettings
from engine.matching.wire import MarketFeed
from engine.units import format_units
from procs.embedded.answers import fill_answer, money, order_answer
from procs.embedded.credentials import random_key
from procs.embedded.door import Door
from procs.embedded.errors import VenueError
from procs.embedded.events import account_event, force_order_event, order_event, wallet_event
from procs.embedded.faults import SOCKETS, Faults, HttpFault
from procs.embedded.limits import banned
from procs.embedded.rest import RestApi
from procs.embedded.streams import Hub, root_of
from shm.clock import wall_ns

NS_PER_MS = 1_000_000
_JSON = "application/json"
# What a broken proxy answers with status 200, in turn.
_GARBAGE = (b"<html><body>Bad Gateway</body></html>", b"", b"{", b"null", b"\xff\xfe\x00", b"[]")
_log = logging.getLogger("bot4.venue")


@dataclass(frozen=True)
class VenueAddress:
    """Where an embedded venue listens and the credentials of its account."""

    rest_url: str  # http://host:port, to which /fapi/... is added
    ws_url: str  # ws://host:port, to which /public, /market, /private or /ws paths are added
    api_key: str
    secret: str = field(repr=False)

    def as_dict(self) -> dict[str, str]:
        """What `bot4 venue --json` prints."""
        return {"rest_url": self.rest_url, "ws_url": self.ws_url, "api_key": self.api_key, "secret": self.secret}


def require_loopback(host: str) -> None:
    """Raises VenueError for an address that others could reach."""
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        if host == "localhost":
            return
    raise VenueError(f"venue.host = {host!r}: allowed is a loopback address (127.0.0.1, ::1, localhost)")


class EmbeddedVenue:
    """The embedded exchange and its server. Use inside an asyncio loop: `await start()`, `await stop()`.

    settings: see VenueSettings. api_key, secret: drawn at random where not given.
    Raises VenueError where the host is not loopback or the settings make no market.
    """

    def __init__(self, settings: VenueSettings, api_key: str | None = None, secret: str | None = None):
        require_loopback(settings.host)
        self.settings = settings
        self.faults = Faults()
        self.hub = Hub(settings.send_queue, self.faults)
        self.turns = 0
        self._key = api_key or random_key()
        self._secret = secret or random_key()
        try:
            self.exchange = Exchange(settings, wall_ns(), self._on_market, self._on_notice, self._on_wallet)
        except ValueError as error:
            raise VenueError(str(error)) from None
        self.feed = MarketFeed(self.exchange.market, self.hub.wanted, self._clock_ms())
        self.rest = RestApi(
            self.exchange, self.feed, self._key, self._secret, random_key(), self._clock_ms, self._shown_ms
        )
        self._door: Door | None = None
        self._is_gone = False
        self._opening: asyncio.Task[None] | None = None
        self._runner: web.ServerRunner | None = None
        self._turning: asyncio.Task[None] | None = None
        self._address: VenueAddress | None = None

    @property
    def address(self) -> VenueAddress:
        """Where it listens. Raises VenueError before start()."""
        if self._address is None:
            raise VenueError("the embedded venue is not started")
        return self._address

    async def start(self) -> VenueAddress:
        """Open the port and begin to trade. Raises VenueError where the port cannot be had."""
        server = web.Server(self._handle, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            door = Door(server, self.settings.host, self.settings.port)
            await door.open()
        except OSError as error:
            await runner.cleanup()
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
            raise VenueError(f"venue.port = {self.settings.port}: {self.settings.host} port {reason}") from None
        self._door = door
        self._runner = runner
        host = self.settings.host if ":" not in self.settings.host else f"[{self.settings.host}]"
        place = f"{host}:{door.port}"
        self._address = VenueAddress(f"http://{place}", f"ws://{place}", self._key, self._secret)
        self._turning = asyncio.create_task(self._turn_for_ever())
        return self._address

    async def stop(self) -> None:
        """Close sockets and port. Harmless when not started."""
        if self._turning is not None:
            self._turning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._turning
            self._turning = None
        if self._opening is not None:
            await self._opening
        if self._door is not None:
            self._door.close()
            self._door = None
        await self.hub.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._address = None

    async def wait(self) -> None:
        """Return when the venue stops by itself; raises what made it stop."""
        if self._turning is not None:
            await self._turning

    # time

    @staticmethod
    def _clock_ms() -> int:
        return wall_ns() // NS_PER_MS

    def _shown_ms(self) -> int:
        """The clock that clients are shown, which a fault may put off."""
        return self._clock_ms() + self.faults.skew_ms()

    async def _turn_for_ever(self) -> None:
        interval = self.settings.loop_interval_ms / 1000
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + interval, loop.time())
            await asyncio.sleep(due - loop.time())
            self.turn(wall_ns())

    def turn(self, now_ns: int) -> None:
        """One loop turn at a time."""
        self.turns += 1
        now_ms = now_ns // NS_PER_MS
        self.hub.now_ms = now_ms
        self._enforce_faults(now_ns)
        self.exchange.advance(now_ns)
        for symbol, deadline in list(self.rest.cancel_at_ms.items()):
            if now_ms >= deadline:
                del self.rest.cancel_at_ms[symbol]
                self.exchange.cancel_all(symbol, now_ns)
        self._watch_listen_key(now_ms)
        self.hub.publish(self.feed.turn(now_ms))
        self.hub.release()

    def _enforce_faults(self, now_ns: int) -> None:
        """Begin and end what lasts: whether the door is open, the market trades and sockets speak."""
        for begun in self.faults.tick(now_ns // NS_PER_MS):
            name, _, place = begun.partition(" ")
            if name == "disconnect":
                self.hub.disconnect(place)
                self.faults.applied["disconnect"] += 1
            self._begin(name)
        if self.exchange.halted and not self.faults.lasting("maintenance"):
            self.exchange.resume(now_ns)
        is_gone = self.faults.lasting("gone") is not None
        if is_gone != self._is_gone and self._door is not None:  # in a turn: who asked for it has had the answer
            self._is_gone = is_gone
            if is_gone:
                self._door.shut()
            else:
                self._opening = asyncio.create_task(self._door.open())

    def _begin(self, fault: str) -> None:
        """The first moment of a fault that lasts."""
        if fault == "half_open" and (lasting := self.faults.lasting(fault)):
            self.hub.silence(lasting.detail)
        elif fault == "maintenance" and (lasting := self.faults.lasting(fault)):
            self.exchange.halt(self.exchange.now_ns)
            if lasting.detail == "closed":
                self.hub.disconnect("all")

    def _watch_listen_key(self, now_ms: int) -> None:
        """Keep the hub's listen key in step with what the clients asked for."""
        alive = now_ms < self.rest.listen_key_until_ms
        if alive:
            self.hub.listen_key = self.rest.listen_key
        elif self.hub.listen_key:
            self.hub.publish_user({"e": "listenKeyExpired", "E": now_ms, "listenKey": self.hub.listen_key})
            self.hub.listen_key = ""

    # what the exchange reports

    def _on_market(self, symbol: int, events: np.ndarray) -> None:
        self.hub.publish(self.feed.absorb(symbol, events, self.exchange.now_ns // NS_PER_MS))

    def _on_notice(self, notice: Notice) -> None:
        instrument = self.exchange.instruments[notice.order.symbol]
        shown_ms = self.exchange.now_ns // NS_PER_MS + self.faults.skew_ms()
        if notice.fill is not None:
            self.hub.publish_user(account_event(notice, instrument, shown_ms))
        self.hub.publish_user(order_event(notice, instrument, shown_ms))
        if notice.order.forced and not notice.order.is_open:
            payload = orjson.dumps(force_order_event(notice, instrument, self.exchange.now_ns // NS_PER_MS))
            self.hub.publish([(f"{instrument.symbol.lower()}@forceOrder", payload), ("!forceOrder@arr", payload)])

    def _on_wallet(self, change: WalletChange) -> None:
        shown_ms = self.exchange.now_ns // NS_PER_MS + self.faults.skew_ms()
        self.hub.publish_user(wallet_event(change, self.rest.account, shown_ms))

    # requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/bot4/"):
            return self._own(request.method, path, await request.read())
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        place = (root_of(path) or "public") if is_socket else "rest"
        if self.faults.half_open(place):
            return await self._never_answer(request, place)
        maintenance = self.faults.lasting("maintenance")
        if maintenance is not None and maintenance.detail == "closed":
            return web.Response(status=503, body=b"Service Unavailable.")
        if is_socket:
            if {"ws", "stream"} & set(path.split("/")):
                return await self.hub.serve(request)
            return web.Response(status=404)
        ban = self.faults.lasting("ban")
        if ban is not None:
            error = banned(ban.until_ms, self._clock_ms())
            return web.Response(status=418, body=error.body(), content_type=_JSON, headers=error.headers)
        fault = self.faults.http(request.method, path)
        if fault is not None:
            return await self._faulty(request, fault)
        return await self._answer(request)

    async def _never_answer(self, request: web.BaseRequest, place: str) -> web.StreamResponse:
        """Keep a connection without a word until the fault is over, then drop it."""
        while self.faults.half_open(place):
            await asyncio.sleep(0.02)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        body = await request.text()
        query = request.raw_path.partition("?")[2]
        if self.settings.matching_delay_ms and request.method != "GET":
            await asyncio.sleep(self.settings.matching_delay_ms / 1000)
        status, data, headers = self.rest.answer(
            request.method, request.path, query, body, request.headers.get("X-MBX-APIKEY")
        )
        self._watch_listen_key(self._clock_ms())
        return web.Response(status=status, body=data, headers=headers, content_type=_JSON)

    async def _faulty(self, request: web.BaseRequest, fault: HttpFault) -> web.Response:
        """Answer a request with a fault in force."""
        if fault.action == "rate_limit":
            return web.Response(
                status=429, body=b'{"code":-1003,"msg":"Too many requests."}', content_type=_JSON,
                headers={"Retry-After": "1"},
            )
        if fault.action == "error_before":
            return web.Response(status=fault.status, body=b"Service Unavailable.")
        garbage = _GARBAGE[self.faults.applied[fault.action] % len(_GARBAGE)]
        if fault.action == "garbage_before":
            return web.Response(body=garbage, content_type=_JSON)
        await request.read()  # a client that gives up while we hang must not take its order back
        if fault.action == "hang_before":
            await asyncio.sleep(fault.delay_ms / 1000)
        answer = await self._answer(request)
        if fault.action == "hang_after":
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.action == "error_after":
            return web.Response(
                status=fault.status, body=b"Unknown error, please check your request or try again later."
            )
        if fault.action == "garbage_after":
            return web.Response(body=garbage, content_type=_JSON)
        return answer

    def _own(self, method: str, path: str, body: bytes) -> web.Response:
        """The venue's own endpoints, which no real venue has."""
        answer: Any
        if path == "/bot4/state" and method == "GET":
            answer = self.state()
        elif path == "/bot4/faults" and method == "DELETE":
            self.faults.clear()
            answer = self.faults.pending()
        elif path == "/bot4/faults" and method == "POST":
            try:
                request = orjson.loads(body)
                if not isinstance(request, dict):
                    raise ValueError("a JSON object is expected")
                if request.get("fault") == "disconnect":
                    if request.get("streams") not in SOCKETS:
                        raise ValueError(f"streams: one of {', '.join(SOCKETS)}")
                    answer = {"disconnected": self.hub.disconnect(request["streams"])}
                    self.faults.applied["disconnect"] += 1
                else:
                    self.faults.order(request, self._clock_ms())
                    self._begin(str(request.get("fault", "")))
                    answer = {"pending": self.faults.pending()}
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
        else:
            return web.Response(status=404)
        return web.Response(body=orjson.dumps(answer), content_type=_JSON)

    def state(self) -> dict[str, Any]:
        """The ground truth as one JSON object: account, orders, fills, counters. Money as decimal text."""
        exchange = self.exchange
        account = exchange.account[0]
        names = exchange.instruments
        return {
            "time_ms": self._clock_ms(),
            "wallet": money(exchange.wallet()),
            "realised": money(int(account["realised"])),
            "fees": money(int(account["fees"])),
            "funding": money(int(account["funding"])),
            "insurance": money(int(account["insurance"])),
            "liquidations": exchange.clearing.liquidations,
            # what all accounts are worth plus the fees paid: it never changes
            "total": money(exchange.clearing.total()),
            "positions": {
                item.symbol: {
                    "size": format_units(exchange.position(item.index), item.size_exp),
                    "cost": money(exchange.cost(item.index)),
                    "unrealised": money(exchange.unrealised(item.index)),
                    "realised": money(exchange.contract_realised(item.index)),
                }
                for item in names
            },
            "open_orders": [order_answer(order, names[order.symbol]) for order in exchange.open.values()],
            "fill_count": int(account["fills"]),
            "fills": [fill_answer(fill, names[fill.symbol]) for fill in list(exchange.fills)[-1000:]],
            "counters": {
                "turns": self.turns,
                "arrivals": sum(int(flow["arrivals"][0]) for flow in exchange.market.flows),
                **self.hub.counters,
                "faults": dict(self.faults.applied),
            },
            "pending_faults": self.faults.pending(),
        }


async def _serve(settings: VenueSettings, announce: Callable[[VenueAddress], None]) -> int:
    venue = EmbeddedVenue(settings)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    address = await venue.start()
    announce(address)
    ended = asyncio.create_task(venue.wait())
    asked = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    failure = ended.exception() if ended in done else None
    await venue.stop()
    if failure is not None:
        _log.error("the embedded venue failed: %r", failure)
        return 1
    return 0


def serve_forever(settings: VenueSettings, announce: Callable[[VenueAddress], None]) -> int:
    """Run a venue until SIGTERM or SIGINT; returns the exit code. announce is called once it accepts connections.

    Raises VenueError where it cannot start.
    """
    return asyncio.run(_serve(settings, announce))
