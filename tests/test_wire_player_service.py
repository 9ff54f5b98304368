"""The wire player as a service: REST, faults over sockets, requests and clients of all kinds, bad sources."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from engine.binance_listing import instrument_from_binance
from engine.instruments import Dialect, Instrument
from procs.captures import CaptureError, scan_instruments
from procs.venues.market import market_of
from procs.wire_player.faults import FRAME_FAULTS, Injected, parse_fault, with_faults
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import What
from tests.playing import NS, desk, diff, next_frame, received, rest_of, run, write
from tests.recordings import USDM_CAPTURES, open_capture, require_capture

USDM = USDM_CAPTURES[0]
SPOT = "ws/binance-spot/ethusdt_20240808.raw.gz"
COIN = "ws/binance-coinm/btcusd_perp_20240808.raw.gz"
SESSIONS = (
    "ws/binance-spot/cf_20211011_ws_1.txt.gz", "ws/binance-usdm/cf_20210722_ws_1.txt.gz",
    "ws/binance-coinm/cf_20210721_ws_1.txt.gz",
)  # fmt: skip
recordings = pytest.mark.recordings


# --- the rest of REST -----------------------------------------------------------------------------------------------


def same_market(listed: Instrument, scanned: Instrument) -> bool:
    names = ("symbol", "price_exp", "size_exp", "tick_size", "lot_size", "dialect", "contract_value")
    return all(getattr(listed, name) == getattr(scanned, name) for name in names)


@recordings
@pytest.mark.parametrize(("relative", "rest"), [(USDM, "/fapi/v1"), (SPOT, "/api/v3"), (COIN, "/dapi/v1")])
def test_exchange_info_says_what_the_frames_show(relative: str, rest: str) -> None:
    path = require_capture(relative)
    (scanned,) = scan_instruments(path)

    async def play() -> None:
        async with desk([path]) as at:
            _, info = await at.get(f"{rest}/exchangeInfo")
            (entry,) = info["symbols"]
            assert same_market(instrument_from_binance(entry, 0, Dialect(scanned.dialect)), scanned)
            assert entry["baseAsset"] in ("BTC", "ETH") and entry["quoteAsset"] in ("USDT", "USD")
            assert (await at.get(f"{rest}/ping")) == (200, {})
            _, time = await at.get(f"{rest}/time")
            assert time["serverTime"] == next(open_capture(path))[0] // 1_000_000
            assert (await at.get(f"{rest}/depth?symbol=NOSUCH"))[0] == 400
            assert (await at.get(f"{rest}/klines"))[0] == 404
            room = market_of(scanned.dialect)  # as the engine asks
            listing = await asyncio.to_thread(room.fetch_listing, at.url, [scanned.symbol])
            assert same_market(listing.instruments[0], scanned) and listing.rate_limits

    run(play())


@recordings
@pytest.mark.parametrize("relative", SESSIONS)
def test_what_was_recorded_beside_a_session_is_served(relative: str) -> None:
    path = require_capture(relative)
    listing = require_capture(relative.replace("ws_1", "rest_instruments"))

    async def play() -> None:
        async with desk([path]) as at:
            _, info = await at.get("/v/exchangeInfo")
            bodies = [line.partition(b": ")[2] for line in gzip.decompress(listing.read_bytes()).splitlines()]
            assert info == next(orjson.loads(body) for body in bodies if b"symbols" in body)
            symbols = [name for name, book in at.recording.venue.books.items() if book.has_recorded]
            asked = [asyncio.create_task(at.get(f"/v/depth?symbol={name}&limit=1000")) for name in symbols]
            await at.until("waiting", len(symbols))
            await at.hear(at.all_streams)
            answers = [(await task)[1] for task in asked]
            recorded = [item.data for item in at.recording.items() if item.what is What.SNAPSHOT]
            assert len(answers) == len(recorded) >= 4
            assert all(orjson.loads(body) in answers for body in recorded)

    run(play())


def test_a_snapshot_that_nobody_can_have_yet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", diff(1))

    async def play() -> None:
        async with desk([path], snapshot_wait_s=0.05) as at:
            status, body = await at.get("/fapi/v1/depth?symbol=BTCUSDT")
            assert status == 503 and body["code"] == -1001
            await at.hear(at.all_streams)
            assert (await at.get("/fapi/v1/depth?symbol=BTCUSDT"))[1]["lastUpdateId"] == 1
            assert at.player.state()["waiting"] == 0

    run(play())


# --- faults over sockets --------------------------------------------------------------------------------------------


@recordings
def test_faults_over_sockets_are_those_of_the_pure_functions() -> None:
    path = require_capture(USDM)
    faults = tuple(parse_fault(f"{kind}:depth=0.01") for kind in FRAME_FAULTS if kind not in ("disconnect", "stall"))
    faults += (parse_fault("stall@3000,900"),)

    async def play() -> None:
        async with desk([path], faults=faults, seed=11) as at:
            frames, _ = await at.hear(at.all_streams)
            notes: list[Injected] = []
            expected = with_faults(at.recording.items(), faults, 11, notes.append)
            assert frames == [item.data for item in expected if item.what is What.FRAME]
            assert at.player.injected == notes
            _, state = await at.get("/bot4/player")
            assert [tuple(item.values()) for item in state["injected"]] == notes and state["ended"]
            assert min(state["injections"][kind] for kind in FRAME_FAULTS if kind not in ("disconnect", "stall")) > 20
            assert state["injections"]["stall"] == 1

    run(play())


def test_a_disconnect_cuts_and_refuses_for_its_time(tmp_path: Path) -> None:
    """At a fifth of the recorded speed a break of 200 ms of the recording lasts a second."""
    path = write(tmp_path / "a.raw", *(diff(number) for number in range(1, 500)))

    async def play() -> None:
        async with desk([path], faults=(parse_fault("disconnect@100,200"),), speed=0.2) as at:
            socket = await at.connect(at.all_streams)
            first = await rest_of(socket)
            assert socket.close_code == 1006  # without a closing handshake
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await at.connect(at.all_streams)
            assert refused.value.status == 503
            while True:
                try:
                    again, code = await at.hear(at.all_streams)
                    break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.02)
            numbers = [orjson.loads(frame)["data"]["u"] for frame in (*first, *again)]
            assert code == 1000 and numbers == sorted(numbers) and 99 in numbers and 499 in numbers
            assert not set(numbers) & set(range(100, 300))
            assert [(note.ordinal, note.kind) for note in at.player.injected] == [(100, "disconnect")]
            assert at.player.state()["lost"] == 200

    run(play())


def test_rest_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", *(diff(number) for number in range(1, 50)))
    faults = (parse_fault("429@2"), parse_fault("stale:symbol@3"))

    async def play() -> None:
        async with desk([path], faults=faults) as at:
            waiting = asyncio.create_task(at.get("/fapi/v1/depth?symbol=BTCUSDT"))
            await at.until("waiting", 1)
            await at.hear(at.all_streams)
            assert (await waiting)[1]["lastUpdateId"] == 1
            async with at.session.get(f"{at.url}/fapi/v1/time") as refused:
                assert refused.status == 429 and refused.headers["Retry-After"] == "1"
            assert (await at.get("/fapi/v1/depth?symbol=BTCUSDT"))[1]["lastUpdateId"] == 1
            assert (await at.get("/fapi/v1/depth?symbol=BTCUSDT"))[1]["lastUpdateId"] == 49
            assert [(note.ordinal, note.kind) for note in at.player.injected] == [(2, "429"), (3, "stale")]

    run(play())


# --- clients --------------------------------------------------------------------------------------------------------


def test_requests_on_a_socket(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", diff(1), diff(2))

    async def play() -> None:
        async with desk([path], begin_after_s=60.0) as at:
            socket = await at.connect("/ws")

            async def ask(text: str) -> Any:
                await socket.send_str(text)
                return orjson.loads(await next_frame(socket))

            assert (await ask("{"))["error"]["code"] == 3
            assert (await ask('{"method":"DANCE","id":1}'))["error"]["code"] == 1
            assert (await ask('{"method":"SUBSCRIBE","params":5,"id":1}'))["error"]["code"] == 2
            assert await ask('{"method":"SUBSCRIBE","params":["ethusdt@trade"],"id":2}') == {"result": None, "id": 2}
            assert await ask('{"method":"LIST_SUBSCRIPTIONS","id":3}') == {"result": ["ethusdt@trade"], "id": 3}
            assert await ask('{"method":"UNSUBSCRIBE","params":["ethusdt@trade"],"id":4}') == {"result": None, "id": 4}
            assert await ask('{"method":"SET_PROPERTY","params":["combined",true],"id":5}') == {"result": None, "id": 5}
            assert await ask('{"method":"GET_PROPERTY","params":["combined"],"id":6}') == {"result": True, "id": 6}
            await socket.send_str('{"method":"SUBSCRIBE","params":["btcusdt@depth@100ms"],"id":7}')
            assert await rest_of(socket) == [b'{"result":null,"id":7}', diff(1), diff(2)]
            assert socket.close_code == 1000

    run(play())


def test_bare_captures_and_what_is_no_market_data(tmp_path: Path) -> None:
    bare = diff(1)[len(b'{"stream":"btcusdt@depth@0ms","data":') : -1]
    array = b'{"stream":"!ticker@arr","data":[{"s":"BTCUSDT"}]}'
    path = write(tmp_path / "a.raw", b'{"result":null,"id":1}', bare, b"{half", array)

    async def play() -> None:
        async with desk([path], speed=0.01) as at:
            combined = asyncio.create_task(at.hear("/stream?streams=btcusdt@depth"))
            await at.until("clients", 1)
            frames, _ = await at.hear("/ws/btcusdt@depth/!ticker@arr")
            assert frames == [bare, b"{half", b'[{"s":"BTCUSDT"}]']  # nobody else's acknowledgement
            assert (await combined)[0] == [b'{"stream":"btcusdt@depth","data":%s}' % bare, b"{half"]
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await at.connect("/elsewhere")

    run(play())


def test_requests_are_answered_while_it_plays_as_fast_as_it_can(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", *(diff(number) for number in range(1, 20_000)))

    async def play() -> None:
        async with desk([path]) as at:
            hearing = asyncio.create_task(at.hear(at.all_streams))
            places = set()
            while not hearing.done():
                places.add((await at.get("/bot4/player"))[1]["played"])
            assert len(places - {0, 19_999}) > 2 and len((await hearing)[0]) == 19_999

    run(play())


def test_a_late_subscriber_hears_what_comes_and_after_the_end_nobody_can_connect(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", *(diff(number) for number in range(1, 400)))

    async def play() -> None:
        async with desk([path], speed=0.2) as at:
            first = await at.connect(at.all_streams)
            for _ in range(100):
                await next_frame(first)
            late, code = await at.hear(at.all_streams)
            assert code == 1000 and 0 < len(late) < 300
            assert late == [diff(number) for number in range(400 - len(late), 400)]
            assert len(await rest_of(first)) == 299
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await at.connect(at.all_streams)
            assert refused.value.status == 503
            assert (await at.get("/fapi/v1/depth?symbol=BTCUSDT"))[1]["lastUpdateId"] == 399

    run(play())


@recordings
def test_a_client_that_does_not_read_holds_the_timeline_and_misses_nothing() -> None:
    path = require_capture(COIN)

    async def play() -> None:
        async with desk([path]) as at:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.player.port, limit=1 << 12)
            lines = (
                f"GET {at.all_streams} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            )  # fmt: skip
            writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            before = -1
            while at.player.played == 0 or at.player.played != before:
                before = at.player.played
                await asyncio.sleep(0.3)
            assert 0 < before < at.recording.count
            stream = await reader.read(-1)
            everything = received(at.recording)
            place = stream.index(b"\r\n\r\n") + 4
            for frame in everything:
                size, place = stream[place + 1], place + 2
                if size >= 126:
                    width = 2 if size == 126 else 8
                    size, place = int.from_bytes(stream[place : place + width], "big"), place + width
                assert stream[place : place + size] == frame
                place += size
            writer.close()

    run(play())


@recordings
def test_a_client_that_never_reads_is_cut_off_and_the_others_get_everything() -> None:
    path = require_capture(COIN)

    async def play() -> None:
        async with desk([path], begin_after_s=60.0, patience_s=0.5) as at:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.player.port, limit=1 << 12)
            lines = (
                "GET /ws/btcusd_perp@trade/btcusd_perp@depth HTTP/1.1", "Host: x", "Upgrade: websocket",
                "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            )  # fmt: skip
            writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            await at.until("clients", 1)
            frames, code = await at.hear(at.all_streams)
            assert frames == received(at.recording) and code == 1000
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1 << 30)
            writer.close()

    run(play())


# --- bad sources ----------------------------------------------------------------------------------------------------


def test_bad_sources_are_errors_with_a_place(tmp_path: Path) -> None:
    good = write(tmp_path / "good.raw", diff(1))
    cases = {
        "page.raw": (b"<html>", "line 1: not a line of a session log|opens no socket"),
        "torn.raw": (b"%d %s\nrubbish\n" % (NS, diff(1)), "line 2: not RECEIVE_TIME FRAME"),
        "other.txt": (b"wss://ftx.com/ws <-> 1.5\n1.6: {}\n", "no venue that can be played"),
        "silent.txt": (b"wss://ws.kraken.com <-> 1.5\n", "no market data of KRAKEN_SPOT_V1"),
        "empty.raw": (b"", "opens no socket"),
    }
    for name, (data, words) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CaptureError, match=words):
            Recording([path])
    kraken = tmp_path / "kraken.txt"
    kraken.write_bytes(b'wss://ws.kraken.com <-> 1.5\n1.6: [1,{},"trade","XBT/USD"]\n')
    with pytest.raises(CaptureError, match="do not play together"):
        Recording([good, kraken])
    binance = tmp_path / "binance.txt"
    binance.write_bytes(b"wss://stream.binance.com:9443/stream <-> 1.5\n1.6: %s\n" % diff(1))
    with pytest.raises(CaptureError, match="several venues"):
        Recording([binance, kraken])
    with pytest.raises(CaptureError, match="No such file"):
        Recording([tmp_path / "absent.raw"])
    body = b'{"lastUpdateId":1,"bids":[],"asks":[]}'
    several = write(tmp_path / "several.raw", diff(1), diff(1, "ETHUSDT"), body)
    with pytest.raises(CaptureError, match="line 3: a snapshot names no symbol"):
        Recording([several])


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        diffs = (diff(number, price=f"{number % 50}.00") for number in range(1, lines))
        path = write(tmp_path / f"{lines}.raw", *diffs)
        tracemalloc.start()
        recording = Recording([path])
        for item in recording.items():
            recording.venue.see(item)
        assert recording.count == lines - 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < peak(5_000) + 200_000
