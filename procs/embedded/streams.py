"""WebSocket side of the embedded venue: connections, subscriptions, and bounded queues for slow clients.

Paths: .../ws, .../ws/STREAM, .../ws/LISTENKEY, .../stream?streams=A/B and .../ws?listenKey=KEY&events=..., under any
root (/public, /market, /private or none). Bare events on /ws, {"stream", "data"} on /stream. On /ws-api/... the market
answers what is asked (dialect.py), and the connection counts as private. A client that lets more
than `send_queue` frames wait is cut off and counted. A silenced connection stays open, answers nothing, not even a
ping, and sends nothing ever again: what a client sees of a host that has vanished.
Source: Binance USD-M futures, "Connect" of the WebSocket market streams and of the user data streams; Binance spot,
"WebSocket Streams", "WebSocket API".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from procs.embedded.fanout import Fanout, Listener, SocketAnswer, root_of
from procs.embedded.faults import Faults

SOCKET_API = "ws-api"  # the part of a path that leads to requests rather than streams
_log = logging.getLogger("bot4.venue")


class Connection(Listener):
    """One client socket and the frames that wait for it."""

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, root: str, is_combined: bool,
        limit: int,
    ):
        super().__init__(root, is_combined)
        self.socket = socket
        self._transport = transport
        self.overflowed = False
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """Queue one text frame; a full queue marks the connection for cutting off."""
        if self.silent:
            return
        if len(self._waiting) >= self._limit:
            self.overflowed = True
        else:
            self._waiting.append(frame)
        self._wake.set()

    async def write(self) -> None:
        """Send what waits, until the socket closes."""
        while not self.socket.closed:
            if self.overflowed:
                await self.socket.close(code=1008, message=b"too slow")
                return
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self.socket.send_frame(self._waiting.popleft(), WSMsgType.TEXT)
            except (ConnectionError, RuntimeError):  # closing, or gone
                return

    def cut(self) -> None:
        """Drop the TCP connection without a closing handshake."""
        if self._transport is not None:
            self._transport.abort()


class Hub(Fanout):
    """All connections, by stream. ping_interval_s: how often a client has to answer."""

    def __init__(self, send_queue: int, faults: Faults, ping_interval_s: float):
        super().__init__(faults)
        self._send_queue = send_queue
        self._ping_interval_s = ping_interval_s

    async def close(self) -> None:
        """Say goodbye to everybody."""
        for connection in [item for item in self.connections if isinstance(item, Connection)]:
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(connection.socket.close(code=1001, message=b"going away"), 1.0)

    async def serve(self, request: web.BaseRequest, socket_api: SocketAnswer | None) -> web.WebSocketResponse:
        """One connection from handshake to end. socket_api: what answers requests on the WebSocket API."""
        parts = [part for part in request.path.split("/") if part]
        answer: SocketAnswer = self._answer
        root = root_of(request.path)
        if socket_api is not None and SOCKET_API in parts:
            answer, root, place = socket_api, "private", len(parts)
        else:
            place = max(parts.index(name) for name in ("ws", "stream") if name in parts)
        socket = web.WebSocketResponse(
            heartbeat=self._ping_interval_s, autoping=False, compress=False, max_msg_size=1 << 20
        )
        await socket.prepare(request)
        connection = Connection(socket, request.transport, root, parts[place:][:1] == ["stream"], self._send_queue)
        streams = parts[place + 1 :] + [name for name in request.query.get("streams", "").split("/") if name]
        if request.query.get("listenKey"):
            streams.append(request.query["listenKey"])
            connection.events = frozenset(name for name in request.query.get("events", "").split("/") if name)
        self.join(connection, streams)
        writer = asyncio.create_task(connection.write())
        try:
            async for message in socket:
                if connection.silent:
                    continue
                if message.type == WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    connection.send(orjson.dumps(answer(connection, message.data)))
        finally:
            self.leave(connection)
            if connection.overflowed:
                self.counters["slow_clients"] += 1
                _log.warning("a WebSocket client was too slow and has been cut off")
            writer.cancel()
        return socket

    def _answer(self, connection: Listener, text: str | bytes) -> dict[str, Any]:
        """Answer to one request on a socket."""
        try:
            request = orjson.loads(text)
            method, number = request["method"], request.get("id")
            values = request.get("params", [])
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return {"error": {"code": 3, "msg": "Invalid JSON: expected an object with method, params and id"}}
        if not isinstance(values, list):
            return {"error": {"code": 2, "msg": "Invalid request: params must be an array"}, "id": number}
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": sorted(connection.streams), "id": number}
        if method == "SET_PROPERTY" and len(values) == 2 and values[0] == "combined":
            connection.is_combined = bool(values[1])
            return {"result": None, "id": number}
        if method == "GET_PROPERTY" and values == ["combined"]:
            return {"result": connection.is_combined, "id": number}
        if method in ("SUBSCRIBE", "UNSUBSCRIBE") and all(isinstance(name, str) for name in values):
            (self.subscribe if method == "SUBSCRIBE" else self.unsubscribe)(connection, values)
            return {"result": None, "id": number}
        return {"error": {"code": 1, "msg": f"Unknown property or method: {method}"}, "id": number}
