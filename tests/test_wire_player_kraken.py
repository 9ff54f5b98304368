"""The wire player on Kraken: recordings byte for byte, and books for who comes late.

Oracles: the bytes of the file; checksums over the wire's texts; dictionaries; sequence numbers. Of v2 there is no
recorded session, so a session of it is made here in the venue's documented form.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect
from procs.venues.market import market_of
from procs.venues.subscriptions import Subscriptions
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import What
from procs.wire_player.venue import Listener
from tests.kraken_oracle import FUTURES_CAPTURE, FUTURES_LISTING, PRODUCTS, V1_CAPTURES, V1_LISTING, V1_PAIRS, rest_body
from tests.playing import desk, next_frame, received, rest_of, run, sent
from tests.recordings import require_capture

recordings = pytest.mark.recordings
V1_BOOK = V1_CAPTURES[2]


@recordings
@pytest.mark.parametrize("relative", [*V1_CAPTURES, FUTURES_CAPTURE])
def test_the_bytes_that_come_are_the_recording(relative: str) -> None:
    path = require_capture(relative)

    async def play() -> None:
        async with desk([path], begin_after_s=60.0) as at:
            frames, code = await at.hear("/ws/v1", *sent(path))
            assert frames == received(at.recording) and code == 1000
            assert len(frames) == at.recording.count >= 49

    run(play())


@recordings
def test_a_session_of_several_connections_comes_on_as_many_sockets() -> None:
    paths = [require_capture(relative) for relative in V1_CAPTURES]

    async def play() -> None:
        async with desk(paths, begin_after_s=60.0) as at:
            heard = await asyncio.gather(*(at.hear("/", *sent(path)) for path in paths))
            for (frames, _), path in zip(heard, paths, strict=True):
                own = received(Recording([path]))
                assert frames[1:] == own[1:]  # the greeting is that of the first connection for all
                assert orjson.loads(frames[0])["event"] == "systemStatus"

    run(play())


@recordings
@pytest.mark.parametrize(
    ("relative", "listing", "rest"),
    [
        (V1_BOOK, V1_LISTING, "/0/public/AssetPairs"),
        (FUTURES_CAPTURE, FUTURES_LISTING, "/derivatives/api/v3/instruments"),
    ],
)
def test_instruments_are_those_that_were_recorded(relative: str, listing: str, rest: str) -> None:
    async def play() -> None:
        async with desk([require_capture(relative)]) as at:
            assert await at.get(rest) == (200, orjson.loads(rest_body(listing)))
            assert (await at.get("/0/public/Nothing"))[0] == 404

    run(play())


# --- who comes late -------------------------------------------------------------------------------------------------


def late(recording: Recording, everything: list[str], again: str, first: int) -> tuple[list[bytes], list[bytes]]:
    """(what one client hears from the beginning, what one hears that comes after `first` items). Without sockets, so
    that it is the same each time."""
    venue, early, latecomer = recording.venue, Listener(), Listener()
    heard = [frame for text in everything for frame in venue.answer(early, text.encode())]
    late_heard: list[bytes] = []
    for item in recording.items():
        venue.see(item)
        for listener, frames in ((early, heard), (latecomer, late_heard)):
            if item.what is What.FRAME and venue.hears(listener, item):
                frames.append(venue.wire(listener, item))
        if item.ordinal == first:
            late_heard += venue.answer(latecomer, again.encode())
    return heard, late_heard


class TextBook:
    """A book of Kraken spot as a client keeps it, cut to its depth, with the venue's checksum."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sides: tuple[dict[str, str], dict[str, str]] = ({}, {})  # asks, bids

    def update(self, asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> None:
        for number, (side, levels) in enumerate(zip(self.sides, (asks, bids), strict=True)):
            for price, size in levels:
                side.pop(price, None)
                if Decimal(size):
                    side[price] = size
            for price in sorted(side, key=Decimal, reverse=number == 1)[self.depth :]:
                del side[price]

    def checksum(self) -> int:
        text = ""
        for number, side in enumerate(self.sides):
            for price in sorted(side, key=Decimal, reverse=number == 1)[:10]:
                text += price.replace(".", "").lstrip("0") + side[price].replace(".", "").lstrip("0")
        return zlib.crc32(text.encode())


def follow_v1(frames: list[bytes]) -> tuple[dict[str, TextBook], int]:
    """(books by pair, how many checksums agreed). Raises AssertionError for one that does not."""
    books: dict[str, TextBook] = {}
    agreed = 0
    for frame in frames:
        message = orjson.loads(frame)
        if isinstance(message, dict):
            continue
        payload = {key: value for part in message[1:-2] for key, value in part.items()}
        if "as" in payload:
            books[message[-1]] = TextBook(1000)
        book = books[message[-1]]
        asks, bids = (payload.get(f"{side}s", payload.get(side, [])) for side in "ab")
        book.update([(level[0], level[1]) for level in asks], [(level[0], level[1]) for level in bids])
        if "c" in payload:
            assert book.checksum() == int(payload["c"])
            agreed += 1
    return books, agreed


@recordings
def test_a_late_subscriber_of_v1_gets_a_book_whose_checksums_hold() -> None:
    path = require_capture(V1_BOOK)
    pairs = ["XBT/CHF", "XMR/USD", "ETH/CHF"]
    book = {"name": "book", "depth": 1000}
    again = json.dumps({"event": "subscribe", "reqid": 5, "pair": pairs, "subscription": book})
    heard, late_heard = late(Recording([path]), sent(path), again, 2_000)
    for frame in late_heard:
        message = orjson.loads(frame)
        if isinstance(message, list) and "as" in message[1]:
            told = (*message[1]["as"], *message[1]["bs"])
            assert all(len(level) == 3 for level in told) and len(told) <= 2_000
    early_books, agreed = follow_v1(heard)
    books, late_agreed = follow_v1(late_heard)
    assert agreed == 4269 and set(early_books) == set(V1_PAIRS)
    assert 20 < late_agreed < agreed and set(books) == set(pairs)
    assert all(books[pair].sides == early_books[pair].sides for pair in pairs)
    acks = [orjson.loads(frame) for frame in late_heard if b"subscriptionStatus" in frame]
    assert [(ack["pair"], ack["status"], ack["reqid"]) for ack in acks] == [(pair, "subscribed", 5) for pair in pairs]


def follow_futures(frames: list[bytes]) -> dict[str, dict[str, dict[float, float]]]:
    """Books by product. Raises AssertionError for a hole in the sequence."""
    books: dict[str, dict[str, dict[float, float]]] = {}
    sequences: dict[str, int] = {}
    for frame in frames:
        message = orjson.loads(frame)
        product = message.get("product_id", "")
        if message.get("feed") == "book_snapshot":
            books[product] = {
                side: {level["price"]: level["qty"] for level in message[name]}
                for side, name in (("buy", "bids"), ("sell", "asks"))
            }
            sequences[product] = message["seq"]
        elif message.get("feed") == "book" and "seq" in message:
            assert message["seq"] == sequences[product] + 1
            sequences[product] = message["seq"]
            books[product][message["side"]].pop(message["price"], None)
            if message["qty"]:
                books[product][message["side"]][message["price"]] = message["qty"]
    return books


@recordings
def test_a_late_subscriber_of_futures_follows_without_a_hole() -> None:
    path = require_capture(FUTURES_CAPTURE)
    again = json.dumps({"event": "subscribe", "feed": "book", "product_ids": [name.lower() for name in PRODUCTS]})

    heard, late_heard = late(Recording([path]), sent(path), again, 3_000)
    books, early_books = follow_futures(late_heard), follow_futures(heard)
    assert set(books) == set(PRODUCTS) and books == early_books
    assert 100 < sum(b'"feed":"book",' in frame for frame in late_heard) < 6_000


@recordings
def test_the_engines_own_room_of_futures_lists_subscribes_and_is_accepted() -> None:
    path = require_capture(FUTURES_CAPTURE)
    room, feed = market_of(Dialect.KRAKEN_FUTURES), FeedSettings(kinds=("book", "trade"))

    async def play() -> None:
        async with desk([path], begin_after_s=0.05) as at:
            listing = await asyncio.to_thread(room.fetch_listing, at.url, PRODUCTS)
            (wanted,) = room.sockets("", [item.symbol for item in listing.instruments], feed)
            frames, _ = await at.hear(wanted.url, *(request.frame.decode() for request in wanted.requests))
            asked = Subscriptions()
            for request in wanted.requests:
                asked.ask(request.wanted)
            for frame in frames:
                asked.take(room.answer(frame))
            assert asked.complete() and len(asked.accepted) == 2 * len(PRODUCTS)
            heard = [frame for frame in frames if b'"event"' not in frame[:10]]
            # The timeline began although nobody asked for the tickers, which are then played to nobody.
            assert heard == [frame for frame in received(at.recording, What.FRAME) if b"ticker_lite" not in frame[:30]]

    run(play())


# --- requests -------------------------------------------------------------------------------------------------------


async def ask(socket: aiohttp.ClientWebSocketResponse, **request: Any) -> dict[str, Any]:
    await socket.send_str(json.dumps(request))
    return orjson.loads(await next_frame(socket))


@recordings
def test_requests_of_v1() -> None:
    async def play() -> None:
        async with desk([require_capture(V1_BOOK)], begin_after_s=60.0) as at:
            socket = await at.connect("/")
            assert orjson.loads(await next_frame(socket))["event"] == "systemStatus"
            assert await ask(socket, event="ping", reqid=3) == {"event": "pong", "reqid": 3}
            assert (await ask(socket, event="sing"))["event"] == "error"
            book = {"name": "book", "depth": 10}
            refused = await ask(socket, event="subscribe", pair=["XMR/USD"], subscription=book)
            assert (refused["status"], refused["pair"], refused["subscription"]) == ("error", "XMR/USD", book)
            book["depth"] = 1000
            assert (await ask(socket, event="subscribe", pair=["XMR/USD"], subscription=book))["status"] == "subscribed"
            ended = await ask(socket, event="unsubscribe", pair=["XMR/USD"], subscription=book)
            assert (ended["status"], ended["channelName"]) == ("unsubscribed", "book-1000")
            assert not any(client.listener.streams for client in at.player._clients)

    run(play())


@recordings
def test_requests_of_futures() -> None:
    async def play() -> None:
        async with desk([require_capture(FUTURES_CAPTURE)], begin_after_s=60.0) as at:
            socket = await at.connect("/ws/v1")
            assert orjson.loads(await next_frame(socket)) == {"event": "info", "version": 1}
            assert (await ask(socket, event="sing"))["event"] == "error"
            refused = await ask(socket, event="subscribe", feed="book", product_ids=["PI_DOGEUSD"])
            assert refused["event"] == "error" and "PI_DOGEUSD" in refused["message"]
            done = {"feed": "trade", "product_ids": ["PI_ETHUSD"]}
            assert await ask(socket, event="subscribe", **done) == {"event": "subscribed"} | done
            assert await ask(socket, event="unsubscribe", **done) == {"event": "unsubscribed"} | done

    run(play())


# --- v2 -------------------------------------------------------------------------------------------------------------


class V2Session:
    """A session of v2 in the documented form: a book of depth 10 whose levels change, written as a log."""

    def __init__(self) -> None:
        self.book = TextBook(10)
        self.lines = ["wss://ws.kraken.com/v2 <-> 1700000000.0"]
        self.time = 1_700_000_000_000
        self.received('{"channel":"status","type":"update","data":[{"connection_id":9223372036854775808}]}')
        self.received(
            '{"method":"subscribe","result":{"channel":"book","depth":10,"snapshot":true,"symbol":"BTC/USD"},'
            '"success":true,"time_in":"2024-01-01T00:00:00Z","time_out":"2024-01-01T00:00:00Z","req_id":1}'
        )

    def received(self, text: str) -> None:
        self.time += 1
        self.lines.append(f"{self.time / 1000:.3f}: {text}")

    def change(self, kind: str, asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> None:
        self.book.update(asks, bids)
        texts = [",".join(f'{{"price":{price},"qty":{size}}}' for price, size in side) for side in (bids, asks)]
        self.received(
            f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{texts[0]}],"asks":[{texts[1]}],'
            f'"checksum":{self.book.checksum()},"timestamp":"2024-01-01T00:00:{self.time % 60:02d}.000000Z"}}]}}'
        )

    def write(self, path: Path) -> Path:
        path.write_text("\n".join(self.lines) + "\n")
        return path


def v2_session() -> V2Session:
    session = V2Session()
    asks = [(f"{60_000 + n}.0", f"0.{n + 10}000000") for n in range(10)]
    bids = [(f"{59_999 - n}.0", f"1.{n + 10}000000") for n in range(10)]
    session.change("snapshot", asks, bids)
    for n in range(300):
        side = [(f"{60_000 + n % 29}.0", "0.00000000" if n % 5 == 0 else f"0.0{n % 7}100000")]
        other = [(f"{59_999 - n % 17}.0", "0.00000000" if n % 4 == 0 else f"2.{n % 9}0000000")]
        session.change("update", side if n % 2 else [], other)
    session.received('{"channel":"heartbeat"}')
    return session


def v2_follow(frames: list[bytes]) -> tuple[TextBook, int]:
    book, agreed = TextBook(10), 0
    for frame in frames:
        message = json.loads(frame, parse_float=str, parse_int=str)
        if message.get("channel") != "book":
            continue
        data = message["data"][0]
        if message["type"] == "snapshot":
            book = TextBook(10)
        book.update(*([(level["price"], level["qty"]) for level in data[side]] for side in ("asks", "bids")))
        assert book.checksum() == int(data["checksum"])
        agreed += 1
    return book, agreed


def test_v2_in_time_late_and_refused(tmp_path: Path) -> None:
    session = v2_session()
    path = session.write(tmp_path / "v2.txt")

    def subscribe(number: int, depth: int = 10) -> str:
        params = {"channel": "book", "symbol": ["BTC/USD"], "depth": depth, "snapshot": True}
        return json.dumps({"method": "subscribe", "params": params, "req_id": number})

    async def play() -> None:
        async with desk([path], speed=0.15, begin_after_s=60.0) as at:
            assert at.recording.venue.name == "KRAKEN_SPOT_V2"
            other = await at.connect("/v2", subscribe(4, depth=25))
            assert orjson.loads(await next_frame(other))["channel"] == "status"
            refused = orjson.loads(await next_frame(other))
            assert (refused["success"], refused["req_id"]) == (False, 4)
            assert await ask(other, method="ping", req_id=8) == {"method": "pong", "req_id": 8}
            early = await at.connect("/v2", subscribe(1))
            heard = [await next_frame(early) for _ in range(100)]
            late_heard, _ = await at.hear("/v2", subscribe(2))
            heard += await rest_of(early)
        assert heard == received(at.recording, What.FRAME, What.REPLY)
        assert orjson.loads(late_heard[1])["req_id"] == 2 and orjson.loads(late_heard[1])["success"] is True
        book, agreed = v2_follow(heard)
        late_book, late_agreed = v2_follow(late_heard)
        assert agreed == 301 and 1 < late_agreed < 205
        assert book.sides == late_book.sides == session.book.sides

    run(play())


def test_v2_a_late_snapshot_is_the_book_of_that_moment(tmp_path: Path) -> None:
    """At any place: levels, order, depth, texts and checksum are those of who was there from the beginning."""
    path = v2_session().write(tmp_path / "v2.txt")
    recording = Recording([path])
    for first in range(4, recording.count, 23):
        sub = '{"method":"subscribe","params":{"channel":"book","symbol":["BTC/USD"],"depth":10}}'
        heard, late_heard = late(Recording([path]), [sub], sub, first)
        book, _ = v2_follow(heard[: first - 1])  # without the greeting, which no socket was there for
        message = json.loads(late_heard[1], parse_float=str, parse_int=str)
        data = message["data"][0]
        assert message["type"] == "snapshot" and int(data["checksum"]) == book.checksum()
        for side, key in zip(book.sides, ("asks", "bids"), strict=True):
            told = [(level["price"], level["qty"]) for level in data[key]]
            assert told == sorted(side.items(), key=lambda level: Decimal(level[0]), reverse=key == "bids")
            assert len(told) <= 10


@pytest.mark.parametrize(
    ("depth", "update"), [(10, [["2.0", "1.0", "1.1"], ["2.5", "1.0", "1.2", "r"]]), (10, [["0.5", "3.0", "1.1", "r"]])]
)
def test_v1_a_late_snapshot_is_cut_to_its_depth(tmp_path: Path, depth: int, update: list[list[str]]) -> None:
    asks = [[f"{n}.0", "1.0", "1.0"] for n in range(1, 11)]
    frames = ([7, {"as": asks, "bs": []}, "book-10", "X/Y"], [7, {"a": update, "c": "1"}, "book-10", "X/Y"])
    path = tmp_path / "log.txt"
    lines = ["wss://ws.kraken.com <-> 1.0", *(f"1.{number}: {json.dumps(f)}" for number, f in enumerate(frames))]
    path.write_text("\n".join(lines))
    recording = Recording([path])
    for item in recording.items():
        recording.venue.see(item)
    levels = {level[0]: level for level in asks} | {level[0]: level[:3] for level in update}
    best = [levels[price] for price in sorted(levels, key=Decimal)[:depth]]
    assert orjson.loads(recording.venue.late_snapshot("book-10 X/Y")) == [7, {"as": best, "bs": []}, "book-10", "X/Y"]


@pytest.mark.parametrize(
    "data", [b'[1,{"b":5},"book-10","X/Y"]', b'[1,5,"book-10","X/Y"]', b'[1,{"as":[]},"book-x","X/Y"]']
)
def test_a_frame_that_makes_no_sense_is_played_and_changes_no_book(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log.txt"
    good = b'[1,{"as":[["2.0","1.0","1.0"]],"bs":[["1.0","1.0","1.0"]]},"book-10","X/Y"]'
    path.write_bytes(b"wss://ws.kraken.com <-> 1.0\n1.1: %s\n1.2: %s\n1.3: {\n" % (good, data))

    async def play() -> None:
        async with desk([path], begin_after_s=0.05) as at:
            request = {"event": "subscribe", "pair": ["X/Y"], "subscription": {"name": "book", "depth": 10}}
            frames, code = await at.hear("/", json.dumps(request))
            assert code == 1000 and good in frames and frames[-1] == b"{"
            assert orjson.loads(at.recording.venue.late_snapshot("book-10 X/Y")) == orjson.loads(good)

    run(play())
