"""`bot4 venue`: the embedded exchange as a loopback server, by itself or inside another process.

What it does is said in venue.py; here are the sockets. One asyncio loop does everything: a turn of the venue every
`loop_interval_ms`, requests between turns. This is the edge where the venue's clock is read. `/bot4/state` gives the
ground truth, `/bot4/log` what was accepted and what traded and when, `/bot4/faults` orders faults (see faults.py),
`/bot4/listing` lists a contract anew (see listing.py); they are answered whatever is in force, except by a venue that
is gone.
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

import orjson
from aiohttp import web

from engine.matching.settings import VenueSettings
from procs.embedded.credentials import random_key
from procs.embedded.door import Door
from procs.embedded.errors import VenueError
from procs.embedded.fanout import root_of
from procs.embedded.faults import Faults
from procs.embedded.listing import list_anew, told_of
from procs.embedded.streams import SOCKET_API, Hub
from procs.embedded.venue import DIALECTS, JSON, Treatment, Venue
from shm.clock import wall_ns

_log = logging.getLogger("bot4.venue")


@dataclass(frozen=True)
class VenueAddress:
    """Where an embedded venue listens and the credentials of its account."""

    rest_url: str  # http://host:port, to which /fapi/... is added, or /api/... on spot
    ws_url: str  # ws://host:port, to which /public, /market, /private, /ws, /stream or /ws-api paths are added
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
        dialect = DIALECTS[settings.market]
        self.faults = Faults(dialect.api_root)
        self.hub = Hub(settings.send_queue, self.faults, dialect.ping_interval_s)
        self._key = api_key or random_key()
        self._secret = secret or random_key()
        self.venue = Venue(settings, wall_ns, self.hub, self.faults, self._key, self._secret, random_key())
        self.exchange = self.venue.exchange
        self.rest = self.venue.rest
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
        self.venue.turn(now_ns)
        is_gone = self.faults.lasting("gone") is not None
        if is_gone != self._is_gone and self._door is not None:  # in a turn: who asked for it has had the answer
            self._is_gone = is_gone
            if is_gone:
                self._door.shut()
            else:
                self._opening = asyncio.create_task(self._door.open())

    # requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/bot4/"):
            return self._own(request.method, path, await request.read())
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        parts = set(path.split("/"))
        place = "rest"
        if is_socket:
            place = "private" if SOCKET_API in parts else root_of(path) or "public"
        met = self.venue.treatment(request.method, path, place)
        if met.dead_end:
            return await self._never_answer(request, met.dead_end)
        if is_socket and met.carried_out:
            socket_api = self.venue.dialect.socket_api
            if parts & {"ws", "stream"} or (socket_api is not None and SOCKET_API in parts):
                return await self.hub.serve(request, socket_api)
            return web.Response(status=404)
        return await self._answer(request, met)

    async def _never_answer(self, request: web.BaseRequest, place: str) -> web.StreamResponse:
        """Keep a connection without a word until the fault is over, then drop it."""
        while self.faults.half_open(place):
            await asyncio.sleep(0.02)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    async def _answer(self, request: web.BaseRequest, met: Treatment) -> web.Response:
        """Answer a request as it is met."""
        reply = met.reply
        if met.carried_out:
            body = await request.text()  # read first: a client that gives up must not take its order back
            query = request.raw_path.partition("?")[2]
            if met.before_ms:
                await asyncio.sleep(met.before_ms / 1000)
            carried_out = self.venue.answer(
                request.method, request.path, query, body, request.headers.get("X-MBX-APIKEY")
            )
            reply = reply or carried_out
            if met.after_ms:
                await asyncio.sleep(met.after_ms / 1000)
        assert reply is not None
        response = web.Response(
            status=reply.status, body=reply.body, headers=reply.headers, content_type=reply.content_type
        )
        if reply.ending == "close_before":
            response.force_close()
        elif reply.ending == "old_before" and request.transport is not None:
            head = f"HTTP/1.0 {reply.status} Error\r\nContent-Length: {len(reply.body)}\r\n\r\n"
            request.transport.write(head.encode() + reply.body)
            request.transport.close()  # once that is written; what aiohttp would add goes nowhere
        return response

    def _own(self, method: str, path: str, body: bytes) -> web.Response:
        """The venue's own endpoints, which no real venue has."""
        answer: Any
        if path == "/bot4/state" and method == "GET":
            answer = self.venue.state()
        elif path == "/bot4/log" and method == "GET":
            answer = self.venue.log()
        elif path == "/bot4/listing" and method == "POST":
            try:
                request = orjson.loads(body)
                answer = list_anew(self.venue.dialect, request)
                self.hub.publish(told_of(self.venue.dialect, request, answer, self.hub.now_ms))
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
        elif path == "/bot4/faults" and method == "DELETE":
            self.faults.clear()
            answer = self.faults.pending()
        elif path == "/bot4/faults" and method == "POST":
            try:
                answer = self.venue.order_fault(orjson.loads(body))
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
        else:
            return web.Response(status=404)
        return web.Response(body=orjson.dumps(answer), content_type=JSON)


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
