"""A venue of one WebSocket that does what a test says, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence

from aiohttp import WSMsgType, web

# (number of the connection from 0, what the client sent; empty when it has just come) -> what to send it.
Script = Callable[[int, bytes], Sequence[bytes]]


class SocketVenue:
    """`url` is its root; `tell` sends to every client that is connected now."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._script = script
        self._tls = tls
        self._clients: set[web.WebSocketResponse] = set()
        self._transports: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        number, self.connections = self.connections, self.connections + 1
        self._clients.add(socket)
        assert request.transport is not None
        self._transports.add(request.transport)
        for frame in self._script(number, b""):
            await socket.send_str(frame.decode())
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                self.heard.append(message.data.encode())
                for frame in self._script(number, self.heard[-1]):
                    await socket.send_str(frame.decode())
        self._clients.discard(socket)
        self._transports.discard(request.transport)
        return socket

    def tell(self, *frames: bytes) -> None:
        """Send frames to every client."""

        async def send() -> None:
            for socket in list(self._clients):
                for frame in frames:
                    await socket.send_str(frame.decode())

        asyncio.run_coroutine_threadsafe(send(), self._loop).result(10)

    def cut(self, most: int | None = None) -> None:
        """Break every connection, or at most so many."""

        async def close() -> None:
            for transport in list(self._transports)[:most]:
                transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"{'wss' if self._tls else 'ws'}://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    @contextlib.contextmanager
    def running(self) -> Iterator[SocketVenue]:
        """Serve for as long as the block lasts."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()
