"""Requests to the account of a played recording, and who hears its user data stream. One asyncio loop does it all.

Latency: a request other than GET is carried out so much later, in the time of the recording; the answer comes then.
Where clients make the pace that is when the timeline has come there, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Protocol

from aiohttp import web

from procs.wire_player.trading import NS_PER_MS, Trading
from procs.wire_player.venue import Listener

_JSON = "application/json"


class Hearer(Protocol):
    """A client that may listen to the user data stream."""

    listener: Listener

    async def send(self, *frames: bytes) -> int:
        """Send text frames."""


class AccountDoor:
    """See the module. speed: of the player; hearers: all clients there are."""

    def __init__(self, trading: Trading, speed: float | None, hearers: Callable[[], Iterable[Hearer]]) -> None:
        self.trading = trading
        self._speed = speed
        self._hearers = hearers
        self._latency_ms = trading.settings.matching_delay_ms
        self._under_way: list[tuple[int, int, asyncio.Future[None]]] = []  # heap: due, which, who waits
        self._asked = 0
        self._moving = False  # the timeline has begun and is not over
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # the timeline

    def begin(self) -> None:
        """The timeline begins."""
        self._moving = True

    async def arrive(self, ts_ns: int) -> None:
        """Let what arrives before a time of the recording be carried out."""
        while self._under_way and self._under_way[0][0] <= ts_ns:
            due, _, waiting = heapq.heappop(self._under_way)
            self.trading.advance(due)
            if not waiting.done():
                waiting.set_result(None)
                await asyncio.sleep(0)  # it is carried out

    async def end(self) -> None:
        """The timeline is over: what is under way arrives where nothing trades any more."""
        self._moving = False
        self.trading.end()
        while self._under_way:
            await self.arrive(self._under_way[0][0])
        await self.tell()

    # the user data stream

    async def tell(self) -> None:
        """Send what is new of the account, in order, to whoever gave its listen key."""
        async with self._turn:
            while self.trading.news:
                event = self.trading.news.popleft()
                for client in list(self._hearers()):
                    listener = client.listener
                    if listener.listen_key != self.trading.listen_key:
                        continue
                    if not listener.events or event.name in listener.events:
                        await client.send(listener.wrapped(listener.listen_key, event.payload))

    # requests

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Carry out a request, after the latency."""
        body = await request.text()
        if request.method != "GET" and self._latency_ms:
            await self._travel()
        status, data, headers = self.trading.answer(
            request.method, request.path, request.raw_path.partition("?")[2], body, request.headers.get("X-MBX-APIKEY")
        )
        if self.trading.news:
            task = asyncio.create_task(self.tell())  # who does not read must not hold up the answer
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return web.Response(status=status, body=data, headers=headers, content_type=_JSON)

    async def _travel(self) -> None:
        """Wait until a request that was sent now has arrived."""
        if self._speed is not None or not self._moving:
            due = self.trading.now_ns + self._latency_ms * NS_PER_MS
            await asyncio.sleep(self._latency_ms / 1e3 / (self._speed or 1.0))
            if self._moving:
                self.trading.advance(due)
            return
        self._asked += 1
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self.trading.now_ns + self._latency_ms * NS_PER_MS
        heapq.heappush(self._under_way, (due, self._asked, arrived))
        await arrived
