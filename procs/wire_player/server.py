"""The player's sockets, pace and REST. The package says what it decides; here is how.

One asyncio loop does everything. The timeline is one task: it waits for the time of the next item, lets the venue see
it, and sends what the faults make of it, one client after the other. Sending waits for a client that does not read; a
watchdog cuts one off that takes nothing for too long. This is the edge where the pace is made; the loop's own clock
is the only one. `GET /bot4/player` tells what has been played and which faults took effect where.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from engine.matching.settings import VenueSettings
from procs.wire_player.account_door import AccountDoor
from procs.wire_player.faults import TOO_MANY, Fault, Injected, Injector, RestFaults
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import Item, What
from procs.wire_player.trading import Trading
from procs.wire_player.venue import Listener
from shm.clock import wall_ns

MOST_NOTES = 100_000  # faults that are remembered one by one; the counts are of all
_TURN_ITEMS = 64  # so often does a timeline that never sleeps let others run
_JSON = "application/json"


class PlayerError(RuntimeError):
    """The player cannot start; the message is for people."""


@dataclass(frozen=True)
class PlaySettings:
    """How a recording is played.

    speed: times as fast as recorded; None: as fast as the clients read. begin_after_s: how long after the first
    subscription the timeline waits for listeners of the other streams. patience_s: how long a client may take nothing.
    snapshot_wait_s: how long a request for a snapshot waits until there is a book. account: an account takes orders; of
    its settings what is about the account holds, and matching_delay_ms. cancelled: the rule of its queues, one of
    engine/matching/recorded.py.
    """

    host: str = "127.0.0.1"
    port: int = 0
    speed: float | None = None
    begin_after_s: float = 1.0
    patience_s: float = 30.0
    snapshot_wait_s: float = 5.0
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    account: VenueSettings | None = None
    cancelled: str = "careful"


def _too_many() -> web.Response:
    """What a fault answers."""
    return web.Response(status=429, body=TOO_MANY, content_type=_JSON, headers={"Retry-After": "1"})


class _Client:
    """One socket."""

    def __init__(self, listener: Listener, socket: web.WebSocketResponse, transport: asyncio.Transport | None):
        self.listener = listener
        self.socket = socket
        self._transport = transport
        self._turn = asyncio.Lock()
        self.sending_since: float | None = None

    async def send(self, *frames: bytes) -> int:
        """Send text frames, one behind the other whoever else sends; waits for a client that does not read. Returns
        how many it was there for."""
        sent = 0
        async with self._turn:
            self.sending_since = asyncio.get_running_loop().time()
            with contextlib.suppress(ConnectionError, RuntimeError):  # closing, or gone
                for frame in frames:
                    if self.socket.closed:
                        break
                    await self.socket.send_frame(frame, WSMsgType.TEXT)
                    sent += 1
            self.sending_since = None
        return sent

    def cut(self) -> None:
        """Drop the TCP connection without a closing handshake."""
        if self._transport is not None:
            self._transport.abort()


class WirePlayer:
    """Plays a recording once. Inside an asyncio loop: `await start()`, `await stop()`; `ended` is set at its end."""

    def __init__(self, recording: Recording, settings: PlaySettings) -> None:
        self.settings = settings
        self.venue = recording.venue
        self.ended = asyncio.Event()
        self.played = 0  # ordinal of the last item
        self.now_ns = recording.first_ns  # its time
        self.frames_sent = 0
        self.injected: list[Injected] = []
        self.injections: Counter[str] = Counter()
        self._recording = recording
        # Both get the whole list: a fault draws by its place in it, here as in the pure functions.
        self._injector = Injector(settings.faults, settings.seed, self._note, of_rest=False)
        self._rest_faults = RestFaults(settings.faults, settings.seed, self._note)
        self._clients: dict[_Client, None] = {}
        self._waiting: dict[str, list[tuple[web.BaseRequest, asyncio.Future[bytes]]]] = {}  # for a book, by symbol
        self._broken: set[int] = set()  # connections that nobody can make now
        self._missing: set[str] = set()  # what those heard whom a broken connection has cut off
        self._returned = asyncio.Event()  # somebody hears all of that
        self._begin = asyncio.Event()
        self._begin_timer: asyncio.TimerHandle | None = None
        self._runner: web.ServerRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._door: AccountDoor | None = None
        if settings.account is not None:
            trading = Trading(self.venue, settings.account, settings.cancelled, recording.first_ns, wall_ns)
            self._door = AccountDoor(trading, settings.speed, lambda: self._clients)
        self._items: Iterator[Item] = iter(())
        self._pace: tuple[float, int] = (0.0, 0)  # when the timeline began, in the loop's time and in its own
        self.port = 0

    def _note(self, injected: Injected) -> None:
        self.injections[injected.kind] += 1
        if len(self.injected) < MOST_NOTES:
            self.injected.append(injected)

    # life

    async def start(self) -> None:
        """Open the port, once the books are as they were when what is played begins.

        Raises PlayerError where the port cannot be had, CaptureError where the recording can no longer be read.
        """
        items = self._recording.items(self._see)
        self._items = itertools.chain([next(items)], items)  # there is one: else it would be no recording
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.settings.host, self.settings.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
            raise PlayerError(f"{self.settings.host} port {self.settings.port} {reason}") from None
        self.port = int(self._runner.addresses[0][1])
        self._tasks = [asyncio.create_task(self._timeline()), asyncio.create_task(self._watch())]

    async def wait(self) -> None:
        """Return when the recording has been played; raises what made the timeline stop."""
        await self._tasks[0]

    async def stop(self) -> None:
        """Close sockets and port."""
        if self._begin_timer is not None:
            self._begin_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_all(1001, b"going away")
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def trading(self) -> Trading | None:
        """The account that takes orders, where there is one."""
        return self._door.trading if self._door else None

    def _see(self, item: Item) -> None:
        """What is played is seen as it was recorded, by the books and by the account's market."""
        self.venue.see(item)
        if self._door:
            self._door.trading.see(item)

    async def _close_all(self, code: int, message: bytes) -> None:
        for client in list(self._clients):
            with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):
                await asyncio.wait_for(client.socket.close(code=code, message=message), 2.0)

    async def _watch(self) -> None:
        """Cut off who takes nothing."""
        loop, patience_s = asyncio.get_running_loop(), self.settings.patience_s
        while True:
            await asyncio.sleep(min(1.0, patience_s))
            for client in list(self._clients):
                if client.sending_since is not None and loop.time() - client.sending_since > patience_s:
                    client.cut()

    # the timeline

    def begin(self) -> None:
        """Let the timeline begin now, whoever listens."""
        self._begin.set()

    def _subscribed(self) -> None:
        """Somebody has subscribed: begin, if now everything has a listener; else soon."""
        heard = {stream for client in self._clients for stream in client.listener.streams}
        if heard >= self._missing:
            self._returned.set()
        if self._begin.is_set():
            return
        if heard >= self.venue.streams.keys():
            self.begin()
        elif heard and self._begin_timer is None:
            loop = asyncio.get_running_loop()
            self._begin_timer = loop.call_later(self.settings.begin_after_s, self.begin)

    async def _timeline(self) -> None:
        await self._begin.wait()
        if self._door:
            self._door.begin()
        for item in self._items:
            for late in self._injector.before(item.ts_ns):
                await self._keep_pace(late.ts_ns)
                await self._play(late)
            await self._keep_pace(item.ts_ns)
            self.played, self.now_ns = item.ordinal, max(self.now_ns, item.ts_ns)
            if self._door:
                await self._door.arrive(item.ts_ns)
            self._see(item)
            self._tell_who_waits(item)
            for given in self._injector.take(item):
                await self._play(given)
            if self._door:
                await self._door.tell()
            if item.what is What.CONNECT:
                await self._wait_for_return()
            if item.ordinal % _TURN_ITEMS == 0:
                await asyncio.sleep(0)
        for late in self._injector.rest():
            await self._keep_pace(late.ts_ns)
            await self._play(late)
        if self._door:
            await self._door.end()
        self.ended.set()
        await self._close_all(1000, b"end of the recording")

    async def _wait_for_return(self) -> None:
        """Where the clients make the pace, those whom a recorded loss has cut off get the time to come back."""
        if self.settings.speed is None and self._missing and not self._broken:
            self._returned.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._returned.wait(), self.settings.begin_after_s)
            self._missing.clear()

    async def _keep_pace(self, ts_ns: int) -> None:
        """Wait for a time of the recording."""
        speed = self.settings.speed
        if speed is None:
            return
        loop = asyncio.get_running_loop()
        if self._pace[1] == 0:
            self._pace = (loop.time(), ts_ns)
        due = self._pace[0] + (ts_ns - self._pace[1]) / 1e9 / speed
        if due - loop.time() > 0.0005:
            await asyncio.sleep(due - loop.time())

    async def _play(self, item: Item) -> None:
        """Send one item to whom it is for."""
        if item.what is What.DISCONNECT:
            self._broken.add(item.connection)
            for client in [client for client in self._clients if self.venue.is_on(client.listener, item.connection)]:
                self._missing |= client.listener.streams
                client.cut()
                del self._clients[client]
        elif item.what is What.CONNECT:
            self._broken.discard(item.connection)
        elif item.what is What.FRAME:
            # Chosen before the first one is waited for: a later subscriber has it in its snapshot.
            for client in [client for client in self._clients if self.venue.hears(client.listener, item)]:
                self.frames_sent += await client.send(self.venue.wire(client.listener, item))

    # clients

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve(request)
        if request.path == "/bot4/player":
            return web.Response(body=orjson.dumps(self.state()), content_type=_JSON)
        if self._door and self._door.trading.answers(request.path):
            if self._rest_faults.meet(request.path_qs, self.now_ns, False) == "429":
                return _too_many()
            return await self._door.answer(request)
        if request.method != "GET":
            return web.Response(status=405)
        return await self._answer(request)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """One connection from handshake to end."""
        listener = self.venue.open(request.path, request.query)
        if listener is None:
            return web.Response(status=404)
        if self.ended.is_set() or (self._broken and not listener.listen_key):
            return web.Response(status=503)
        socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 20)
        await socket.prepare(request)
        client = _Client(listener, socket, request.transport)
        greeting = self.venue.greeting()
        if greeting:
            await client.send(greeting)
        self._clients[client] = None
        self._subscribed()
        try:
            async for message in socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    continue
                data = message.data.encode() if isinstance(message.data, str) else message.data
                # What is played from now on waits for its turn behind the answers, a late snapshot among them.
                await client.send(*self.venue.answer(listener, data))
                self._subscribed()
        finally:
            self._clients.pop(client, None)
        return socket

    # REST

    def _tell_who_waits(self, item: Item) -> None:
        """A recorded snapshot, or the first diff of a book without one, is what somebody waits for."""
        symbol = item.stream if item.what is What.SNAPSHOT else item.stream.partition("@")[0].upper()
        if symbol not in self._waiting:
            return
        waiting = [entry for entry in self._waiting.pop(symbol) if not entry[1].done()]
        for request, future in waiting:
            body = self.venue.rest(request.path, request.query, self.now_ns).body
            if body is None:
                self._waiting.setdefault(symbol, []).append((request, future))
            else:
                future.set_result(item.data if item.what is What.SNAPSHOT else body)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        answer = self.venue.rest(request.path, request.query, self.now_ns)
        met = self._rest_faults.meet(request.path_qs, self.now_ns, answer.stale is not None)
        if met == "429":
            return _too_many()
        body = answer.stale if met == "stale" else answer.body
        if body is None:
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(answer.symbol, []).append((request, future))
            try:
                body = await asyncio.wait_for(future, self.settings.snapshot_wait_s)
            except TimeoutError:
                text = b'{"code":-1001,"msg":"The recording has no book of this symbol yet."}'
                return web.Response(status=503, body=text, content_type=_JSON)
        return web.Response(status=answer.status, body=body, content_type=_JSON)

    def state(self) -> dict[str, Any]:
        """What has been played and injected."""
        return {
            "source": self._recording.name, "venue": self.venue.name, "items": self._recording.count,
            "played": self.played, "now_ns": self.now_ns, "begun": self._begin.is_set(), "ended": self.ended.is_set(),
            "clients": len(self._clients), "waiting": sum(map(len, self._waiting.values())),
            "torn_bytes": self._recording.torn_bytes, "frames_sent": self.frames_sent, "lost": self._injector.lost,
            "account": self._door.trading.state() if self._door else None,
            "injections": dict(self.injections), "injected": [item._asdict() for item in self.injected],
        }


async def _serve(recording: Recording, settings: PlaySettings, announce: Callable[[WirePlayer], None]) -> int:
    player = WirePlayer(recording, settings)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await player.start()
    announce(player)
    asked, failing = asyncio.create_task(stopping.wait()), asyncio.create_task(player.wait())
    await asyncio.wait({asked, failing}, return_when=asyncio.FIRST_COMPLETED)
    failure = failing.exception() if failing.done() else None
    if failure is None:
        await asked  # a recording that is over: REST goes on
    for task in (asked, failing):
        task.cancel()
    await player.stop()
    if failure is not None:
        raise failure
    return 0


def serve_forever(recording: Recording, settings: PlaySettings, announce: Callable[[WirePlayer], None]) -> int:
    """Play until SIGTERM or SIGINT; returns the exit code. announce is called once connections are accepted.

    Raises PlayerError where the port cannot be had, CaptureError where the recording can no longer be read.
    """
    return asyncio.run(_serve(recording, settings, announce))
