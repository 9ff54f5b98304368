"""The wire player on Binance's recordings: what comes through the sockets is the recording, and REST fits to it.

Oracles: the bytes of the file; the venue's own rule for snapshots and diffs over dictionaries; the project's decoder on
the file itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from engine.ingest.kernel import is_snapshot_body, make_ingest_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect
from engine.records import Kind
from procs.captures import capture_inputs, scan_instruments
from procs.decoding import Decoder
from procs.venues.market import market_of
from tests.playing import NS, desk, diff, received, run, write
from tests.recordings import USDM_CAPTURES, open_capture, require_capture

USDM = USDM_CAPTURES[0]
SPOT = "ws/binance-spot/ethusdt_20240808.raw.gz"
SPOT_BTC = "ws/binance-spot/btcusdt_20240808.raw.gz"
SPOT_WITHOUT = "ws/binance-spot/btcusdt_20240809.raw.gz"
COIN = "ws/binance-coinm/btcusd_perp_20240808.raw.gz"
LOGS = (
    "ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz", "ws/binance-spot/cf_20211011_ws_1.txt.gz",
    "ws/binance-usdm/cf_20210722_ws_1.txt.gz", "ws/binance-coinm/cf_20210721_ws_1.txt.gz",
)  # fmt: skip
recordings = pytest.mark.recordings


# --- bytes ----------------------------------------------------------------------------------------------------------


@recordings
@pytest.mark.parametrize("relative", [USDM, SPOT, COIN, *LOGS])
def test_the_bytes_that_come_are_the_recording(relative: str) -> None:
    path = require_capture(relative)

    async def play() -> None:
        async with desk([path]) as at:
            frames, code = await at.hear(at.all_streams)
            assert frames == [frame for _, frame in open_capture(path) if not is_snapshot_body(frame)]
            assert len(frames) > 200 and code == 1000
            assert at.player.played == at.recording.count and at.player.injected == []

    run(play())


@recordings
def test_bare_events_are_the_bytes_inside() -> None:
    path = require_capture(USDM)

    async def play() -> None:
        async with desk([path]) as at:
            request = {"method": "SUBSCRIBE", "params": ["btcusdt@depth", "btcusdt@markPrice@1s"], "id": 7}
            listening = asyncio.create_task(at.hear("/ws", orjson.dumps(request).decode()))
            single = asyncio.create_task(at.hear("/ws/btcusdt@trade"))
            quotes, _ = await at.hear("/ws/btcusdt@bookTicker")
            (ack, *events), _ = await listening
            trades, _ = await single
        assert orjson.loads(ack) == {"result": None, "id": 7}
        assert len(events) == 4322 + 99 and len(trades) == 2197 and len(quotes) == 6765
        wanted = {b"depthUpdate": events, b"markPriceUpdate": events, b'"trade"': trades, b'"bookTicker"': quotes}
        left = {key: iter(frames) for key, frames in ((id(frames), frames) for frames in wanted.values())}
        for _, frame in open_capture(path):
            if is_snapshot_body(frame):
                continue
            inner = frame[frame.index(b'"data":') + 7 : -1]
            kind = next(frames for key, frames in wanted.items() if key in inner[:60])
            assert next(left[id(kind)]) == inner
        assert all(next(rest, None) is None for rest in left.values())

    run(play())


@recordings
def test_the_engines_own_urls_get_everything_between_them() -> None:
    """Two sockets, one under each root: the timeline waits for both, so neither misses a frame."""
    path = require_capture(USDM)

    async def play() -> None:
        async with desk([path], begin_after_s=60.0) as at:
            symbols = [item.symbol for item in scan_instruments(path)]
            sockets = market_of(Dialect.BINANCE_USDM).sockets("", symbols, FeedSettings())
            public, market = (socket.url for socket in sockets)
            first = asyncio.create_task(at.hear(public))
            await at.until("clients", 1)
            await asyncio.sleep(0.1)
            assert at.player.played == 0 and not at.player.state()["begun"]
            marks, _ = await at.hear(market)
            frames, _ = await first
            everything = received(at.recording)
        assert marks == [frame for frame in everything if b"markPrice" in frame[:60]] and len(marks) == 99
        assert frames == [frame for frame in everything if b"markPrice" not in frame[:60]]

    run(play())


@recordings
def test_several_captures_are_one_market() -> None:
    paths = [require_capture(SPOT), require_capture(SPOT_BTC)]

    async def play() -> None:
        async with desk(paths) as at:
            frames, _ = await at.hear(at.all_streams)
        assert at.recording.venue.books.keys() == {"ETHUSDT", "BTCUSDT"}
        for path, name in zip(paths, (b"ethusdt", b"btcusdt"), strict=True):
            mine = [frame for frame in frames if frame[11:18] == name]
            assert mine == [frame for _, frame in open_capture(path) if not is_snapshot_body(frame)]

    run(play())


# --- decoded --------------------------------------------------------------------------------------------------------


def levels_after(decoder: Decoder, count: int, book: dict[tuple[int, int], int]) -> None:
    """Follow the LEVEL records of one input with a dictionary."""
    for row in decoder.records[:count]:
        if row["kind"] == Kind.LEVEL:
            book.pop((int(row["side"]), int(row["price"])), None)
            if row["size"]:
                book[int(row["side"]), int(row["price"])] = int(row["size"])


def counters(decoder: Decoder) -> dict[str, Any]:
    """What does not depend on when a snapshot came."""
    row = decoder.state[0]
    names = ("frames", "records_in", "processed", "level_updates", "snapshot_levels", "trades", "book_tickers", "gaps")
    found: dict[str, Any] = {name: int(row[name]) for name in names}
    return found | {"quarantined": row["quarantined"].tolist(), "dropped": row["dropped"].tolist()}


@recordings
@pytest.mark.parametrize(("relative", "rest"), [(USDM, "/fapi/v1"), (SPOT, "/api/v3"), (COIN, "/dapi/v1")])
def test_decoding_what_came_gives_the_same_as_decoding_the_file(relative: str, rest: str) -> None:
    path = require_capture(relative)
    instruments = scan_instruments(path)
    inputs: list[tuple[str, bytes]] = []

    async def fetch(at: Any) -> None:
        async with at.session.get(f"{at.url}{rest}/depth?symbol={instruments[0].symbol}&limit=1000") as answer:
            assert answer.status == 200
            inputs.append(("snapshot", await answer.read()))

    async def play() -> None:
        async with desk([path]) as at:
            fetching = asyncio.create_task(fetch(at))  # waits for the place of the snapshot
            await at.until("waiting", 1)
            socket = await at.connect(at.all_streams)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    inputs.append(("frame", message.data.encode()))
            await fetching

    run(play())
    direct, live = (Decoder(make_ingest_state(instruments), instruments) for _ in range(2))
    direct_book: dict[tuple[int, int], int] = {}
    live_book: dict[tuple[int, int], int] = {}
    for entry in capture_inputs(path, instruments):
        levels_after(direct, direct.apply(entry), direct_book)
    live.start(NS)
    for number, (kind, data) in enumerate(inputs):
        now = NS + number * 1_000_000
        count = live.frame(data, now) if kind == "frame" else live.snapshot(0, data, now)
        levels_after(live, count, live_book)
    assert [data for kind, data in inputs if kind == "snapshot"] == [
        frame for _, frame in open_capture(path) if is_snapshot_body(frame)
    ]
    assert counters(live) == counters(direct) and counters(live)["gaps"] == 0
    assert live_book == direct_book and len(live_book) > 1_000


# --- snapshots that the player makes --------------------------------------------------------------------------------


class VenueBook:
    """A client's book by the venue's own words: buffer, snapshot, bridge, follow. Raises AssertionError for a gap."""

    def __init__(self, spot: bool) -> None:
        self.spot = spot
        self.sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
        self.last = 0
        self.bridged = False
        self.buffer: list[dict[str, Any]] = []

    def snapshot(self, body: dict[str, Any]) -> None:
        self.last = body["lastUpdateId"]
        self.sides = {"b": dict(body["bids"]), "a": dict(body["asks"])}
        for event in self.buffer:
            self.diff(event)

    def diff(self, event: dict[str, Any]) -> None:
        if not self.last:
            self.buffer.append(event)
            return
        first, last = event["U"], event["u"]
        if last < self.last or (self.spot and last == self.last):
            assert not self.bridged
            return
        if self.bridged:
            assert first == self.last + 1 if self.spot else event["pu"] == self.last
        else:
            assert first <= self.last + 1 <= last if self.spot else first <= self.last <= last
        self.bridged, self.last = True, last
        for side in "ba":
            for price, size in event[side]:
                self.sides[side].pop(price, None)
                if float(size):
                    self.sides[side][price] = size


@recordings
@pytest.mark.parametrize("relative", [SPOT_WITHOUT, SPOT, USDM, COIN])
def test_a_snapshot_in_the_middle_bridges_and_leads_to_the_same_book(relative: str) -> None:
    path = require_capture(relative)
    (instrument,) = scan_instruments(path)
    spot = instrument.dialect == Dialect.BINANCE_SPOT
    whole: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    snapshot_id = 0
    frames = [orjson.loads(frame) for _, frame in open_capture(path)]
    for frame in sorted(frames, key=lambda frame: "lastUpdateId" not in frame):  # the snapshot first
        if "lastUpdateId" in frame:
            snapshot_id = frame["lastUpdateId"]
            whole = {"b": dict(frame["bids"]), "a": dict(frame["asks"])}
        elif "@depth" in frame["stream"] and frame["data"]["u"] > snapshot_id:
            for side in "ba":
                for price, size in frame["data"][side]:
                    whole[side].pop(price, None)
                    if float(size):
                        whole[side][price] = size

    async def play() -> None:
        async with desk([path]) as at:
            book, heard, asked = VenueBook(spot), 0, None
            socket = await at.connect(at.all_streams)
            async for message in socket:
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue
                heard += 1
                event = orjson.loads(message.data)
                if "@depth" in event["stream"]:
                    book.diff(event["data"])
                if heard == 5_000:
                    asked = asyncio.create_task(at.get(f"/x/depth?symbol={instrument.symbol}&limit=99999"))
                if asked is not None and asked.done() and not book.last:
                    status, body = asked.result()
                    assert status == 200 and ("symbol" in body) == (instrument.dialect == Dialect.BINANCE_COINM)
                    book.snapshot(body)
            assert book.bridged and book.sides == whole and len(whole["b"]) > 100

    run(play())


def test_a_snapshot_from_diffs_alone_holds_what_they_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", *(diff(number, price=f"{10 + number % 3}.00") for number in range(1, 8)),
                 diff(8, price="11.00", size="0.000"))

    async def play() -> None:
        async with desk([path]) as at:
            waiting = asyncio.create_task(at.get("/fapi/v1/depth?symbol=BTCUSDT"))
            await at.until("waiting", 1)
            await at.hear(at.all_streams)
            status, body = await waiting
            assert status == 200 and body["lastUpdateId"] == 1  # the first diff is what it waited for
            status, body = await at.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1")
            assert (status, body) == (200, {
                "lastUpdateId": 8, "E": 8, "T": 8, "bids": [["12.00", "1.000"]], "asks": [["90.00", "2.000"]]
            })  # fmt: skip
            _, body = await at.get("/fapi/v1/depth?symbol=BTCUSDT")
            assert body["bids"] == [["12.00", "1.000"], ["10.00", "1.000"]]

    run(play())


def test_a_recorded_snapshot_older_than_the_diffs_before_it(tmp_path: Path) -> None:
    """It came late: what diffs had told beyond it is not taken back."""
    body = b'{"lastUpdateId":2,"E":1,"T":1,"bids":[["9.00","5.000"],["10.00","7.000"]],"asks":[]}'
    path = write(tmp_path / "a.raw", diff(1), diff(2), diff(3, price="9.00", size="0.000"), body)

    async def play() -> None:
        async with desk([path]) as at:
            waiting = asyncio.create_task(at.get("/fapi/v1/depth?symbol=BTCUSDT"))
            await at.until("waiting", 1)
            await at.hear(at.all_streams)
            assert (await waiting)[1] == orjson.loads(body)
            _, now = await at.get("/fapi/v1/depth?symbol=BTCUSDT")
            assert now["lastUpdateId"] == 3
            assert (now["bids"], now["asks"]) == ([["10.00", "7.000"]], [["90.00", "2.000"]])

    run(play())
