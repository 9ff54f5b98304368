"""Messages of market data that are not one frame of text: in fragments, binary, too long, cut off, against RFC 6455.

Whatever comes as data is passed on: a whole message whole, and what never became one as it came, for the decoder to
refuse. Every byte is so either accepted or in quarantine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.ingest.dialects import make_state
from engine.instruments import Dialect, Instrument
from procs.decoding import Decoder
from procs.market_sockets import LONGEST_MESSAGE, MarketSockets
from procs.venues.market import Socket, market_of

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
MESSAGE = b'{"feed":"heartbeat","time":1}'


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A frame of a server, RFC 6455, 5.2."""
    size = len(payload)
    if size > 0xFFFF:
        length = struct.pack(">BQ", 127, size)
    else:
        length = struct.pack(">BH", 126, size) if size > 125 else bytes([size])
    return bytes([opcode | (0x80 if fin else 0)]) + length + payload


def fragments(message: bytes, cuts: list[int], opcode: int = TEXT, between: bytes = b"") -> bytes:
    """A message in fragments, cut at these places, with whole frames between them."""
    ends = [*sorted(cuts), len(message)]
    starts = [0, *ends[:-1]]
    return between.join(
        frame(opcode if number == 0 else CONTINUATION, message[start:end], fin=number == len(cuts))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    )


class Venue:
    """One socket's server: sends `script` to the first client, byte for byte, and nothing to those that come again."""

    def __init__(self, script: bytes, closes: bool) -> None:
        self._script, self._closes = script, closes
        self.clients = 0
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        key = next(line.partition(b": ")[2] for line in head if line.lower().startswith(b"sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.clients += 1
        if self.clients == 1:
            writer.write(self._script)
            if self._closes:
                writer.close()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                self.heard += data
        writer.close()


class Client:
    """The sockets of a market at such a venue, and what they say."""

    def __init__(self, script: bytes, closes: bool = False) -> None:
        self.frames: list[bytes] = []
        self.said: list[str] = []
        self.losses = 0
        self.venue = Venue(script, closes)
        self.sockets: MarketSockets | None = None

    def lost(self, _: int) -> None:
        self.losses += 1

    async def _run(self, frames: int, losses: int) -> None:
        server = await asyncio.start_server(self.venue.serve, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        self.sockets = MarketSockets(
            market_of(Dialect.BINANCE_USDM), [Socket(url)], lambda _, data: self.frames.append(data), self.lost,
            time.monotonic_ns, self.said.append,
        )
        tasks = self.sockets.tasks()
        for _ in range(1_000):
            if len(self.frames) >= frames and self.losses >= losses:
                break
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()

    def run(self, frames: int, losses: int = 0) -> Client:
        """Until so much has come. Fails after ten seconds."""
        asyncio.run(self._run(frames, losses))
        assert len(self.frames) >= frames and self.losses >= losses, (self.frames, self.losses)
        return self

    @property
    def broken(self) -> int:
        assert self.sockets is not None
        return self.sockets.broken_messages


def url(at: Client) -> str:
    """The address of its socket, as it is said."""
    assert at.sockets is not None
    return at.sockets.sockets[0].url


@given(
    some.binary(min_size=1, max_size=400), some.lists(some.integers(0, 400), max_size=6),
    some.sampled_from((TEXT, BINARY)),
)
@settings(max_examples=25)
def test_a_message_in_fragments_is_the_message(message: bytes, cuts: list[int], opcode: int) -> None:
    """Wherever it is cut, empty fragments among them, with a ping between any two."""
    cuts = [min(cut, len(message)) for cut in cuts]
    script = fragments(message, cuts, opcode, frame(PING, b"are you there")) + frame(TEXT, MESSAGE)
    at = Client(script).run(2)
    assert at.frames == [message, MESSAGE]
    assert (at.losses, at.broken, at.said) == (0, 0, [])


def test_a_message_in_fragments_may_be_as_long_as_any_other_and_not_longer() -> None:
    piece = LONGEST_MESSAGE // 4
    cuts = [piece, 2 * piece, 3 * piece]
    whole = bytes(LONGEST_MESSAGE)
    assert Client(fragments(whole, cuts)).run(1).frames == [whole]
    at = Client(fragments(whole + b"1", cuts) + frame(TEXT, MESSAGE)).run(2, losses=1)
    assert at.frames == [whole[: 3 * piece], whole[3 * piece :] + b"1"], "to be refused; what follows is not taken"
    assert (at.broken, at.said) == (1, [f"{url(at)}: a message is longer than {LONGEST_MESSAGE} bytes"])


def test_a_frame_that_is_too_long_ends_the_connection() -> None:
    """What has come of it when the connection ends is gone, unless that is all of it."""
    long = bytes(LONGEST_MESSAGE + 1)
    at = Client(frame(TEXT, MESSAGE) + frame(TEXT, long)).run(1, losses=1)
    assert at.frames in ([MESSAGE], [MESSAGE, long])
    assert (at.broken, len(at.said)) == (1, 1)
    assert at.said[0].startswith(f"{url(at)}: ") and f"{LONGEST_MESSAGE + 1} > {LONGEST_MESSAGE}" in at.said[0]


@pytest.mark.parametrize(
    ("script", "frames", "why"),
    [
        (frame(TEXT, MESSAGE[:9], fin=False) + frame(TEXT, MESSAGE), [MESSAGE[:9], MESSAGE],
         "a message begins within another"),
        (frame(BINARY, b"1", fin=False) + frame(BINARY, b"2", fin=False), [b"1", b"2"],
         "a message begins within another"),
        (frame(TEXT, MESSAGE) + frame(CONTINUATION, b"rest"), [MESSAGE, b"rest"],
         "a message goes on that has not begun"),
    ],
)  # fmt: skip
def test_fragments_out_of_place_end_the_connection_and_are_there_to_be_refused(
    script: bytes, frames: list[bytes], why: str
) -> None:
    at = Client(script + frame(TEXT, MESSAGE)).run(len(frames), losses=1)
    assert (at.frames, at.broken, at.said) == (frames, 1, [f"{url(at)}: {why}"])


@pytest.mark.parametrize("end", (b"", frame(CLOSE, struct.pack(">H", 1000))))
def test_a_message_that_the_end_of_the_connection_cuts_off_is_not_lost_in_silence(end: bytes) -> None:
    at = Client(frame(TEXT, MESSAGE) + frame(TEXT, MESSAGE[:9], fin=False) + end, closes=True).run(2, losses=1)
    assert at.frames == [MESSAGE, MESSAGE[:9]]
    assert (at.broken, at.said) == (1, [f"{url(at)}: the connection ended within a message"])


def test_every_byte_is_accepted_or_in_quarantine() -> None:
    """What the sockets pass on goes through the decoder of live ingestion."""
    listed = (Instrument(0, "BTCUSDT", "BTC", "USDT", 1, 3, 1, 1, 0),)
    diff = (
        b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"T":1,"s":"BTCUSDT","U":1,"u":2,"pu":0,'
        b'"b":[["10.0","1"]],"a":[]}}'
    )
    script = (
        fragments(diff, [7, 40]) + frame(TEXT, diff) + frame(BINARY, b"\x1f\x8b\x08\x00")
        + fragments(b"{}", [1], BINARY) + frame(TEXT, diff[:30], fin=False)
    )
    at = Client(script, closes=True).run(5, losses=1)
    assert sum(map(len, at.frames)) == 2 * len(diff) + 4 + 2 + 30
    decoder = Decoder(make_state(listed), listed)
    refused = []
    for number, data in enumerate(at.frames):
        decoder.frame(data, number)
        if decoder.refused:
            refused.append(data)
    assert refused == [b"\x1f\x8b\x08\x00", b"{}", diff[:30]]
    row = decoder.state[0]
    accepted = row["processed"] + row["pending_frames"] + row["dropped"].sum()
    assert (row["records_in"], accepted, row["quarantined"].sum()) == (5, 2, 3)
