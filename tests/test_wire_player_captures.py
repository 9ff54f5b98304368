"""The wire player on captures of our own: the same as on what they were made of; parts; losses; bad ones; memory.

Oracles: the recording that the capture was converted from; what was appended; a book of dictionaries.
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from engine.instruments import Dialect, Instrument
from procs.capture.convert import convert
from procs.capture.layout import NO_CONNECTION, NO_SYMBOL, Captured, segment_path
from procs.capture.manifest import Manifest, new_capture_id
from procs.capture.reader import CaptureReader, Selection
from procs.capture.writer import CaptureWriter
from procs.captures import CaptureError
from procs.venues.market import market_of
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import Item, What
from tests.kraken_oracle import FUTURES_CAPTURE, V1_CAPTURES
from tests.playing import NS, desk, diff, received, rest_of, run, sent, write
from tests.recordings import USDM_CAPTURES, require_capture
from tests.test_wire_player import VenueBook
from tools import cli

USDM = USDM_CAPTURES[0]
SPOT = "ws/binance-spot/ethusdt_20240808.raw.gz"
COIN = "ws/binance-coinm/btcusd_perp_20240808.raw.gz"
USDM_LOG = "ws/binance-usdm/cf_20210722_ws_1.txt.gz"
recordings = pytest.mark.recordings
MS = 1_000_000


def contract(index: int, symbol: str, **changes: Any) -> Instrument:
    fields: dict[str, Any] = {
        "index": index, "symbol": symbol, "base": symbol[:3], "quote": symbol[3:], "price_exp": 2, "size_exp": 3,
        "tick_size": 10, "lot_size": 1, "min_notional": 5 * 10**8,
    }
    return Instrument(**fields | changes)


BTC, ETH = contract(0, "BTCUSDT"), contract(1, "ETHUSDT", tick_size=1)
Entry = tuple[Captured, int, int, bytes]  # kind, connection, place of the symbol, data


def capture(
    folder: Path, entries: Iterable[Entry], instruments: tuple[Instrument, ...] = (BTC, ETH), **sizes: int
) -> Path:
    """A capture with one entry a millisecond, over two connections."""
    urls = ("wss://x/public", "wss://x/market")
    writer = CaptureWriter.create(folder, Manifest(new_capture_id(), instruments, urls, NS), **sizes)
    for number, (kind, connection, symbol, data) in enumerate(entries):
        key = urls[connection] if kind == Captured.OPENED else ""
        writer.append(kind, NS + number * MS, data, connection=connection, symbol=symbol, key=key)
    writer.close()
    return folder


def frame(data: bytes, symbol: int = 0, connection: int = 0) -> Entry:
    return Captured.FRAME, connection, symbol, data


def what_came(items: Iterable[Item]) -> list[tuple[Any, ...]]:
    return [(item.ts_ns, item.what, item.data, item.ordinal, item.stream, item.start) for item in items]


# --- the same as what it was made of ----------------------------------------------------------------------------------


@recordings
@pytest.mark.parametrize(
    "names", [(USDM,), (SPOT,), (COIN,), (USDM_LOG,), V1_CAPTURES, (FUTURES_CAPTURE,)], ids=lambda names: names[0]
)
def test_a_converted_recording_is_the_same_sequence(names: tuple[str, ...], tmp_path: Path) -> None:
    paths = [require_capture(name) for name in names]
    convert(paths[0], tmp_path / "c")
    ours, theirs = Recording([tmp_path / "c"]), Recording(paths)
    assert ours.venue.name == theirs.venue.name and ours.count == theirs.count > 1_000
    assert ours.venue.streams.keys() == theirs.venue.streams.keys()
    assert what_came(ours.items()) == what_came(theirs.items())
    assert ours.torn_bytes == 0 and ours.first_ns == theirs.first_ns


@recordings
def test_a_capture_over_sockets_and_its_snapshot_over_rest(tmp_path: Path) -> None:
    path = require_capture(USDM)
    convert(path, tmp_path / "c")
    entries = list(CaptureReader(tmp_path / "c").entries())

    async def play() -> None:
        async with desk([tmp_path / "c"]) as at:
            asked = asyncio.create_task(at.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000"))
            await at.until("waiting", 1)
            frames, code = await at.hear(at.all_streams)
            assert frames == [entry.data for entry in entries if entry.kind == Captured.FRAME] and code == 1000
            bodies = [entry.data for entry in entries if entry.kind == Captured.REST]
            assert [(await asked)[1]] == [orjson.loads(body) for body in bodies]

    run(play())


@recordings
def test_all_connections_of_a_kraken_session(tmp_path: Path) -> None:
    paths = [require_capture(relative) for relative in V1_CAPTURES]
    convert(paths[0], tmp_path / "c")

    async def play() -> None:
        async with desk([tmp_path / "c"], begin_after_s=60.0) as at:
            frames, code = await at.hear("/", *(text for path in paths for text in sent(path)))
            mine = received(at.recording, What.FRAME)
            assert [data for data in frames if data in set(mine)] == mine and len(mine) > 4_000 and code == 1000

    run(play())


def test_the_listing_is_that_of_the_capture(tmp_path: Path) -> None:
    """What a capture says of its instruments comes back through the venue's own listing, field by field."""
    kraken = (contract(0, "BTC/USD", base="BTC", quote="USD", price_exp=1, size_exp=8, tick_size=1, lot_size=1),)
    futures = (
        contract(0, "PF_XBTUSD", base="BTC", quote="USD", price_exp=1, size_exp=4, tick_size=5, min_notional=0),
        contract(1, "PI_XBTUSD", base="BTC", quote="USD", price_exp=1, size_exp=0, tick_size=5, min_notional=0,
                 contract_value=10**8),
        contract(2, "PF_PEPEUSD", base="PEPE", quote="USD", price_exp=8, size_exp=0, tick_size=5, lot_size=1000,
                 min_notional=0),
    )  # fmt: skip
    v2 = b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","price":1.0,"qty":1.0}]}'
    feed = b'{"feed":"trade","product_id":"PF_XBTUSD","price":1,"qty":1}'
    cases = (
        (Dialect.BINANCE_USDM, (BTC, ETH), diff(1)),
        (Dialect.KRAKEN_SPOT_V2, kraken, v2),
        (Dialect.KRAKEN_FUTURES, futures, feed),
    )

    async def play(dialect: Dialect, instruments: tuple[Instrument, ...], folder: Path) -> None:
        async with desk([folder]) as at:
            names = [item.symbol for item in instruments]
            listing = await asyncio.to_thread(market_of(dialect).fetch_listing, at.url, names)
            assert listing.instruments == instruments

    for dialect, plain, data in cases:
        instruments = tuple(Instrument(**item.as_dict() | {"dialect": dialect}) for item in plain)
        run(play(dialect, instruments, capture(tmp_path / dialect.name, [frame(data)], instruments)))


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_recorded_loss_is_one_for_the_clients_of_that_connection(tmp_path: Path) -> None:
    """As fast as the clients read: the timeline waits for who was cut off, so after the loss nothing is missed."""
    mark = b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","s":"BTCUSDT"}}'
    folder = capture(tmp_path / "c", [
        (Captured.OPENED, 0, NO_SYMBOL, b""), (Captured.OPENED, 1, NO_SYMBOL, b""),
        frame(mark, connection=1), frame(diff(1)), frame(diff(2)), (Captured.LOST, 0, NO_SYMBOL, b""),
        frame(mark, connection=1), (Captured.OPENED, 0, NO_SYMBOL, b""), frame(diff(7)), frame(mark, connection=1),
        frame(diff(8)),
    ])  # fmt: skip

    async def play() -> None:
        async with desk([folder], begin_after_s=60.0) as at:
            marks = asyncio.create_task(at.hear("/stream?streams=btcusdt@markPrice@1s"))
            socket = await at.connect("/stream?streams=btcusdt@depth")
            assert await rest_of(socket) == [diff(1), diff(2)] and socket.close_code == 1006
            again: tuple[list[bytes], int | None] | None = None
            while again is None:
                try:
                    again = await at.hear("/stream?streams=btcusdt@depth")
                except aiohttp.WSServerHandshakeError as refused:
                    assert refused.status == 503
                    await asyncio.sleep(0.01)
            assert again == ([diff(7), diff(8)], 1000)
            assert await marks == ([mark] * 3, 1000)

    run(play())


def test_a_loss_of_everything_and_one_that_never_ends(tmp_path: Path) -> None:
    lost = (Captured.LOST, NO_CONNECTION, NO_SYMBOL, b"")
    folder = capture(tmp_path / "c", [frame(diff(1)), lost, lost, (Captured.OPENED, 1, NO_SYMBOL, b""), frame(diff(2))])
    items = [(item.what, item.connection) for item in Recording([folder]).items()]
    assert items == [
        (What.FRAME, 0), (What.DISCONNECT, 0), (What.DISCONNECT, 1), (What.CONNECT, 1), (What.FRAME, 0)
    ]  # fmt: skip


# --- parts ------------------------------------------------------------------------------------------------------------


def part(begin: int, end: int, *symbols: str) -> Selection:
    """From entry to entry of `capture`, the last one not included."""
    return Selection(NS + begin * MS, NS + end * MS, symbols)


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_part_by_time_and_symbol(tmp_path: Path, as_folder: bool) -> None:
    frames = [diff(number, "ETHUSDT" if number % 3 == 0 else "BTCUSDT") for number in range(300)]
    everybodys = b'{"stream":"!ticker@arr","data":[{"s":"BTCUSDT"},{"s":"ETHUSDT"}]}'
    frames[124] = everybodys
    entries = [frame(data, NO_SYMBOL if data == everybodys else int(b"ethusdt" in data)) for data in frames]
    path = capture(tmp_path / "c", entries, block_bytes=2_000) if as_folder else write(tmp_path / "a.raw", *frames)
    recording = Recording([path], part(100, 200, "ETHUSDT"))
    wanted = [data for data in frames[100:200] if b"ethusdt" in data or data == everybodys]
    assert [item.data for item in recording.items()] == wanted and recording.count == len(wanted) == 34
    assert [item.ordinal for item in recording.items()] == list(range(1, 35)) and recording.first_ns == NS + 102 * MS
    early: list[Item] = []
    assert len(list(recording.items(early.append))) == 34
    assert [item.data for item in early] == [data for data in frames[:100] if b"ethusdt" in data]
    assert recording.venue.streams.keys() == {"ethusdt@depth", "!ticker@arr"}
    with pytest.raises(CaptureError, match=r"holds no XRPUSDT; it holds (BTCUSDT, ETHUSDT|ETHUSDT, BTCUSDT)"):
        Recording([path], part(0, 300, "XRPUSDT"))
    with pytest.raises(CaptureError, match="nothing in it is of the times and symbols asked for"):
        Recording([path], part(300, 400))


@recordings
def test_a_part_from_the_middle_begins_with_the_book_of_that_moment(tmp_path: Path) -> None:
    path = require_capture(SPOT)
    convert(path, tmp_path / "c")
    items = list(Recording([path]).items())
    begin = items[20_000].ts_ns
    whole = VenueBook(spot=True)
    for item in items:
        if item.what is What.SNAPSHOT:
            whole.snapshot(orjson.loads(item.data))
        elif item.stream.endswith("@depth@100ms"):
            whole.diff(orjson.loads(item.data)["data"])

    async def play() -> None:
        async with desk([tmp_path / "c"], selection=Selection(begin)) as at:
            status, body = await at.get("/api/v3/depth?symbol=ETHUSDT&limit=99999")
            assert status == 200 and len(body["bids"]) > 1_000
            book = VenueBook(spot=True)
            book.snapshot(body)
            frames, _ = await at.hear(at.all_streams)
            assert frames == [item.data for item in items if item.ts_ns >= begin]
            for data in frames:
                if b"@depth" in data[:40]:
                    book.diff(orjson.loads(data)["data"])
            assert book.bridged and book.last == whole.last and book.sides == whole.sides

    run(play())


# --- bad ones ---------------------------------------------------------------------------------------------------------


def test_a_torn_end_is_played_up_to_there_and_said(tmp_path: Path) -> None:
    folder = capture(tmp_path / "c", [frame(diff(number)) for number in range(1, 200)], block_bytes=4_000)
    blocks = list(CaptureReader(folder).blocks())
    segment = segment_path(folder, 0)
    os.truncate(segment, segment.stat().st_size - 10)
    kept = blocks[-1].header.first_ordinal - 1

    async def play() -> None:
        async with desk([folder]) as at:
            frames, _ = await at.hear(at.all_streams)
            assert frames == [diff(number) for number in range(1, kept + 1)] and 100 < kept < 199
            assert at.player.state()["torn_bytes"] == blocks[-1].header.size - 10

    run(play())


def test_a_capture_that_is_being_written_is_played_as_it_was(tmp_path: Path) -> None:
    writer = CaptureWriter.create(tmp_path / "c", Manifest(new_capture_id(), (BTC,), (), NS))
    for number in range(1, 20):
        writer.append(Captured.FRAME, NS + number, diff(number), symbol=0)
    writer.flush()
    recording = Recording([tmp_path / "c"])
    writer.append(Captured.FRAME, NS + 99, diff(99, "ETHUSDT"), symbol=0)
    writer.close()
    assert [item.data for item in recording.items()] == [diff(number) for number in range(1, 20)]
    assert recording.count == 19 and Recording([tmp_path / "c"]).count == 20


def test_bad_captures_are_errors_before_anything_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [frame(diff(number)) for number in range(1, 400)]
    good = capture(tmp_path / "good", entries)
    empty = tmp_path / "empty"
    empty.mkdir()
    session = tmp_path / "session"
    session.mkdir()
    (session / "session.json").write_bytes(b"{}")
    segments = capture(tmp_path / "segments", entries, block_bytes=2_000, segment_bytes=4_000)
    segment_path(segments, 1).unlink()
    truncated = capture(tmp_path / "truncated", entries, block_bytes=2_000, segment_bytes=4_000)
    os.truncate(segment_path(truncated, 0), 2_000)
    version = capture(tmp_path / "version", entries)
    content = orjson.loads((version / "capture.json").read_bytes())
    (version / "capture.json").write_bytes(orjson.dumps(content | {"version": 2}))
    damaged = capture(tmp_path / "damaged", entries, block_bytes=2_000)
    data = bytearray(segment_path(damaged, 0).read_bytes())
    data[len(data) // 2] ^= 1
    segment_path(damaged, 0).write_bytes(data)
    spot = tuple(Instrument(**item.as_dict() | {"dialect": Dialect.BINANCE_SPOT}) for item in (BTC, ETH))
    body = b'{"lastUpdateId":1,"bids":[],"asks":[]}'
    cases = {
        (empty,): r"not a capture \(no capture.json\)",
        (session,): "the session of an engine; what is played is market data alone",
        (segments,): "segment-000001.capture is missing",
        (truncated,): r"segment-000000.capture: ends within the block at byte",
        (version,): "of version 2 of the format; this engine reads 1",
        (damaged,): "segment-000000.capture",
        (good, capture(tmp_path / "spot", entries, spot)): "captures of several markets, BINANCE_SPOT, BINANCE_USDM",
        (good, write(tmp_path / "a.raw", diff(1))): "nor files and folders",
        (capture(tmp_path / "silent", []),): "no market data of BINANCE_USDM",
        (capture(tmp_path / "unnamed", [(Captured.REST, 0, NO_SYMBOL, body), *entries]),): "entry 1: a snapshot names",
    }
    for paths, words in cases.items():
        with pytest.raises(CaptureError, match=words):
            Recording(list(paths))
        assert cli.main(["play", *map(str, paths)]) == 1
        assert capsys.readouterr().err.startswith("bot4: ")


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        diffs = (frame(diff(number, price=f"{number % 50}.00")) for number in range(1, count))
        folder = capture(tmp_path / f"{count}", diffs, (BTC,), block_bytes=16_000, segment_bytes=400_000)
        tracemalloc.start()
        recording = Recording([folder])
        for item in recording.items():
            recording.venue.see(item)
        assert recording.count == count - 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < peak(5_000) + 200_000
