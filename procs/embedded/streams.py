"""WebSocket side of the embedded venue: connections, subscriptions, and bounded queues for slow clients.

Paths: .../ws, .../ws/STREAM, .../ws/LISTENKEY, .../stream?streams=A/B and .../ws?listenKey=KEY&events=..., under any
root (/public, /market, /private or none). Bare events on /ws, {"stream", "data"} on /stream. A client that lets more
than `send_queue` frames wait is cut off and counted. A silenced connection stays open, answers nothing, not even a
ping, and sends nothing ever again: what a client sees of a host that has vanished.
Source: Binance USD-M futures, "Connect" of the WebSocket market streams and of the user data streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from engine.matching.wire import Frame, combined
from procs.embedded.faults import Faults

PING_INTERVAL_S = 180.0
_log = logging.getLogger("bot4.venue")


def root_of(path: str) -> str:
    """The root that a WebSocket path is under: public, market, private, or "" for the old one."""
    return next((part for part in path.split("/") if part in ("public", "market", "private")), "")


class Connection:
    """One client socket, what it listens to, and the frames that wait for it."""

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, root: str, is_combined: bool,
        limit: int,
    ):
        self.socket = socket
        self._transport = transport
        self.root = root  # public, market, private, or "" for the old root
        self.is_combined = is_combined
        self.streams: set[str] = set()
        self.events: frozenset[str] = frozenset()  # user events wanted; empty: all
        self.overflowed = False
        self.silent = False
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


@dataclass(frozen=True)
class Held:
    """A frame that a fault holds back."""

    due_ms: int
    stream: str
    event: str  # of the user stream; empty: market data
    payload: bytes
    is_fill: bool
    reordered: bool  # goes out as soon as the next one of its stream and kind has


class Hub:
    """All connections, by stream. `now_ms` is the venue's time as its last turn or request had it."""

    def __init__(self, send_queue: int, faults: Faults):
        self._send_queue = send_queue
        self._faults = faults
        self._listeners: dict[str, set[Connection]] = {}
        self.connections: set[Connection] = set()
        self.listen_key = ""  # the live one; empty: none
        self.now_ms = 0
        self._held: list[Held] = []
        self.counters = {"connections": 0, "frames_sent": 0, "slow_clients": 0, "disconnected": 0}

    def wanted(self, stream: str) -> bool:
        """Whether anybody listens to a stream."""
        return stream in self._listeners

    def publish(self, frames: Iterable[Frame]) -> None:
        """Send market frames to whoever listens, as the faults in force let them through."""
        for stream, payload in frames:
            if stream in self._listeners:
                symbol, _, kind = stream.partition("@")
                fault = self._faults.frame("depth", symbol.upper()) if kind.startswith("depth") else None
                self._pass(stream, "", payload, False, fault)

    def publish_user(self, event: dict[str, Any]) -> None:
        """Send a user data event to every connection that gave the live listen key and wants the event."""
        if self.listen_key in self._listeners:
            is_fill = event["e"] == "ORDER_TRADE_UPDATE" and event["o"]["x"] in ("TRADE", "CALCULATED")
            fault = self._faults.frame("user", is_fill=is_fill)
            self._pass(self.listen_key, event["e"], orjson.dumps(event), is_fill, fault)

    def release(self) -> None:
        """Send what faults held back long enough."""
        for held in [held for held in self._held if held.due_ms <= self.now_ms]:
            self._held.remove(held)
            self._send(held.stream, held.event, held.payload)

    def _pass(
        self, stream: str, event: str, payload: bytes, is_fill: bool, fault: tuple[str, int] | None
    ) -> None:
        fate, delay_ms = fault or ("", 0)
        if fate == "drop":
            return
        if fate in ("delay", "reorder"):
            self._held.append(Held(self.now_ms + delay_ms, stream, event, payload, is_fill, fate == "reorder"))
            return
        self._send(stream, event, payload)
        if fate == "duplicate":
            self._send(stream, event, payload)
        for held in list(self._held):
            if held.reordered and (held.stream, held.event, held.is_fill) == (stream, event, is_fill):
                self._held.remove(held)
                self._send(held.stream, held.event, held.payload)

    def _send(self, stream: str, event: str, payload: bytes) -> None:
        wrapped = b""
        for connection in self._listeners.get(stream, ()):
            if event and connection.events and event not in connection.events:
                continue
            if connection.is_combined:
                wrapped = wrapped or combined(stream, payload)
                connection.send(wrapped)
            else:
                connection.send(payload)
            self.counters["frames_sent"] += 1

    def subscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """Send these streams to a connection from now on."""
        for stream in streams:
            connection.streams.add(stream)
            self._listeners.setdefault(stream, set()).add(connection)

    def unsubscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """Stop sending these streams to a connection."""
        for stream in list(streams):
            connection.streams.discard(stream)
            listeners = self._listeners.get(stream)
            if listeners is not None:
                listeners.discard(connection)
                if not listeners:
                    del self._listeners[stream]

    def chosen(self, place: str) -> list[Connection]:
        """Connections of a place: "private" those with a listen key or under /private, "public", "market", "all"."""
        return [
            item for item in self.connections
            if place in ("all", item.root) or (place == "private" and self.listen_key in item.streams)
            or (place == "public" and item.root == "" and self.listen_key not in item.streams)
        ]

    def disconnect(self, place: str) -> int:
        """Cut the connections of a place; returns how many."""
        chosen = self.chosen(place)
        for connection in chosen:
            connection.cut()
        self.counters["disconnected"] += len(chosen)
        return len(chosen)

    def silence(self, place: str) -> int:
        """Let the connections of a place fall silent for good; returns how many."""
        chosen = self.chosen(place)
        for connection in chosen:
            connection.silent = True
        return len(chosen)

    async def close(self) -> None:
        """Say goodbye to everybody."""
        for connection in list(self.connections):
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(connection.socket.close(code=1001, message=b"going away"), 1.0)

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """One connection from handshake to end."""
        parts = [part for part in request.path.split("/") if part]
        place = next(index for index, part in enumerate(parts) if part in ("ws", "stream"))
        root = root_of(request.path)
        socket = web.WebSocketResponse(
            heartbeat=PING_INTERVAL_S, autoping=False, compress=False, max_msg_size=1 << 20
        )
        await socket.prepare(request)
        connection = Connection(socket, request.transport, root, parts[place] == "stream", self._send_queue)
        streams = parts[place + 1 :] + [name for name in request.query.get("streams", "").split("/") if name]
        if request.query.get("listenKey"):
            streams.append(request.query["listenKey"])
            connection.events = frozenset(name for name in request.query.get("events", "").split("/") if name)
        self.connections.add(connection)
        self.counters["connections"] += 1
        self.subscribe(connection, streams)
        writer = asyncio.create_task(connection.write())
        try:
            async for message in socket:
                if connection.silent:
                    continue
                if message.type == WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    connection.send(orjson.dumps(self._answer(connection, message.data)))
        finally:
            self.connections.discard(connection)
            self.unsubscribe(connection, connection.streams)
            if connection.overflowed:
                self.counters["slow_clients"] += 1
                _log.warning("a WebSocket client was too slow and has been cut off")
            writer.cancel()
        return socket

    def _answer(self, connection: Connection, text: str | bytes) -> dict[str, Any]:
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
