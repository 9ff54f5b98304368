"""A wire player in the test's own loop, and plain clients for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from procs.capture.reader import EVERYTHING, Selection
from procs.session_logs import Direction, session_lines
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import What
from procs.wire_player.server import PlaySettings, WirePlayer

NS = 1_700_000_000_000_000_000


def write(path: Path, *frames: bytes) -> Path:
    """A capture with one frame a millisecond."""
    path.write_bytes(b"".join(b"%d %s\n" % (NS + n * 1_000_000, frame) for n, frame in enumerate(frames)))
    return path


def diff(number: int, symbol: str = "BTCUSDT", price: str = "10.00", size: str = "1.000") -> bytes:
    """One USD-M diff with the ids of its number; its bid rises, so that no book is crossed."""
    name = symbol.lower().encode()
    data = orjson.dumps({"e": "depthUpdate", "E": number, "T": number, "s": symbol, "U": number, "u": number,
                         "pu": number - 1, "b": [[price, size]], "a": [["90.00", "2.000"]]})
    return b'{"stream":"%s@depth@0ms","data":%s}' % (name, data)


class Desk:
    """A running player and what clients do with it."""

    def __init__(self, player: WirePlayer, recording: Recording, session: aiohttp.ClientSession) -> None:
        self.player = player
        self.recording = recording
        self.session = session
        self.url = f"http://127.0.0.1:{player.port}"

    async def connect(self, path: str, *requests: str) -> aiohttp.ClientWebSocketResponse:
        socket = await self.session.ws_connect(self.url + path, max_msg_size=0)
        for request in requests:
            await socket.send_str(request)
        return socket

    async def hear(self, path: str, *requests: str) -> tuple[list[bytes], int | None]:
        """(every frame until the end, the close code)."""
        socket = await self.connect(path, *requests)
        return await rest_of(socket), socket.close_code

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path) as answer:
            body = await answer.read()
            return answer.status, orjson.loads(body) if body else None

    async def until(self, name: str, count: int) -> None:
        """Return when the player's state shows so many of something."""
        while self.player.state()[name] < count:
            await asyncio.sleep(0.005)

    @property
    def all_streams(self) -> str:
        """The path of a combined socket that hears everything of Binance."""
        return "/stream?streams=" + "/".join(self.recording.venue.streams)


async def rest_of(socket: aiohttp.ClientWebSocketResponse) -> list[bytes]:
    """Every text frame until the socket ends."""
    return [message.data.encode() async for message in socket if message.type == aiohttp.WSMsgType.TEXT]


async def next_frame(socket: aiohttp.ClientWebSocketResponse) -> bytes:
    return (await socket.receive_str(timeout=10)).encode()


@contextlib.asynccontextmanager
async def desk(paths: Iterable[Path], selection: Selection = EVERYTHING, **settings: Any) -> AsyncIterator[Desk]:
    """A player of some sources, by default as fast as its clients read, and a client session."""
    recording = Recording(list(paths), selection)
    player = WirePlayer(recording, PlaySettings(**settings))
    await player.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Desk(player, recording, session)
    finally:
        await player.stop()


def run(coroutine: Any) -> Any:
    """One test's coroutine, with an end."""
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def received(recording: Recording, *whats: What) -> list[bytes]:
    """The recorded frames, in order."""
    return [item.data for item in recording.items() if item.what in (whats or (What.FRAME, What.REPLY))]


def sent(path: Path) -> list[str]:
    """What the client of a session log had sent."""
    return [line.data.decode() for line in session_lines(path) if line.direction is Direction.SENT]
