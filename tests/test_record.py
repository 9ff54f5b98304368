"""Recording over real sockets from an embedded exchange in this process: reconnects, silence, a full disk, going on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest
import requests

from engine.config import Settings
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.matching.settings import SPOT, VenueSettings
from procs.back_off import ConnectionRule
from procs.budget import ORDERS, WEIGHT, Budget, RateLimit
from procs.capture.layout import NO_CONNECTION, NO_SYMBOL, Captured, CaptureEntry
from procs.capture.manifest import Manifest, new_capture_id
from procs.capture.reader import CaptureReader
from procs.capture.recorder import Recorder
from procs.capture.writer import open_writer
from procs.replay import open_source, replay_fused
from procs.venues import binance
from procs.venues.binance import BinanceMarket
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.kraken_futures.market import KrakenFuturesMarket
from procs.venues.kraken_spot.market import KrakenSpotMarket
from procs.venues.market import Listing, Market, Request, Socket, market_of
from shm.clock import new_session_offset_ns, python_monotonic_ns, python_session_ns, wall_ns
from tests.embedded_venue import RunningVenue, running_venue
from tests.recordings import PROJECT_ROOT
from tests.socket_venue import SocketVenue
from tests.test_capture import largest_file
from tools import cli, record

SYMBOLS = ("BTCUSDT", "ETHUSDT")
PATIENCE_NS = 60_000_000_000
SAID: list[str] = []
FEED = FeedSettings()


def recorded(
    venue: RunningVenue, folder: Path, *steps: Callable[[Recorder], bool], market: Market | None = None,
    listing: Listing | None = None, ws_url: str = "",
) -> Recorder:
    """Record until each step in turn has answered True; they are asked in the loop's thread, many times.

    market, listing and ws_url: instead of the embedded exchange's own.
    """
    market = market or market_of(Dialect.BINANCE_USDM)
    endpoints = Endpoints(venue.address.rest_url, ws_url or venue.address.ws_url)
    listing = listing or market.fetch_listing(endpoints.rest_url, SYMBOLS)
    symbols = [item.symbol for item in listing.instruments]
    urls = tuple(item.url for item in market.sockets(endpoints.ws_url, symbols, FEED))
    writer = open_writer(folder, Manifest(new_capture_id(), listing.instruments, urls, wall_ns()))
    offset_ns = new_session_offset_ns()
    budget = Budget.of_own(listing.rate_limits, python_monotonic_ns)
    recorder = Recorder(
        market, endpoints, listing.instruments, FEED, budget, writer, lambda: python_session_ns(offset_ns), SAID.append
    )
    waiting = list(steps)
    began_ns = python_monotonic_ns()

    def look() -> None:
        assert python_monotonic_ns() - began_ns < PATIENCE_NS, "it does not come to that"
        if waiting and waiting[0](recorder):
            waiting.pop(0)
        if not waiting:
            recorder.stop()

    asyncio.run(recorder.run(look))
    assert not waiting or recorder.failure is not None
    return recorder


def books_right(recorder: Recorder) -> bool:
    """Both books have begun, and frames of both have come since."""
    return recorder.snapshots >= len(SYMBOLS) and min(recorder.frames[name] for name in SYMBOLS) > 50


def once(action: Callable[[], object]) -> Callable[[Recorder], bool]:
    """A step that does something."""

    def step(recorder: Recorder) -> bool:
        action()
        return True

    return step


def more(count: int, snapshots: int) -> Callable[[Recorder], bool]:
    """A step that waits for so many further frames of each symbol, and for so many snapshots since the beginning."""
    begun: list[int] = []

    def step(recorder: Recorder) -> bool:
        fewest = min(recorder.frames[name] for name in SYMBOLS)
        begun.append(fewest)
        return fewest >= begun[0] + count and recorder.snapshots >= snapshots

    return step


def lost(count: int) -> Callable[[Recorder], bool]:
    return lambda recorder: recorder.losses >= count


def entries_of(folder: Path) -> list[CaptureEntry]:
    reader = CaptureReader(folder)
    entries = list(reader.entries())
    assert reader.torn_bytes == 0
    assert [entry.ordinal for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.ts_ns for entry in entries] == sorted(entry.ts_ns for entry in entries)
    return entries


def kinds(entries: list[CaptureEntry], *which: Captured) -> list[tuple[int, int]]:
    return [(entry.kind, entry.connection) for entry in entries if entry.kind in which]


def check_replay(folder: Path, resyncs: int) -> None:
    """The capture replays: every book begins again after each loss, none is ever crossed, all end right."""
    source = open_source(folder, Settings())
    summary = replay_fused(source, None)
    again = replay_fused(open_source(folder, Settings()), None)
    market = summary["market"]
    assert market["crossed_books"] == summary["unaccounted"] == 0
    assert market["resyncs"] == resyncs and market["snapshot_levels"] > 0 < market["level_updates"]
    assert summary["stages"]["ingestion"]["quarantined"] == {}
    assert summary["decision_hash"] == again["decision_hash"]


def test_a_disconnect_is_recorded_and_every_book_begins_again(venue: RunningVenue, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    cut = once(lambda: venue.fault(fault="disconnect", streams="public"))
    recorder = recorded(venue, folder, books_right, cut, lost(1), more(50, snapshots=4))
    entries = entries_of(folder)
    opened, gone = Captured.OPENED, Captured.LOST
    sockets = kinds(entries, opened, gone)
    assert sorted(sockets[:2]) == [(opened, 0), (opened, 1)] and sockets[2:] == [(gone, 0), (opened, 0)]
    manifest = CaptureReader(folder).manifest
    assert [entry.key for entry in entries if entry.kind == opened][-1] == manifest.connections[0]
    assert "/public/stream?streams=btcusdt@depth@0ms/" in manifest.connections[0]
    bodies = [entry for entry in entries if entry.kind == Captured.REST]
    lost_at = next(entry.ordinal for entry in entries if entry.kind == gone)
    reopened_at = [entry.ordinal for entry in entries if entry.kind == opened][-1]
    assert sorted(entry.symbol for entry in bodies if entry.ordinal < lost_at) == [0, 1]
    assert sorted(entry.symbol for entry in bodies if entry.ordinal > reopened_at) == [0, 1]
    assert len(bodies) == recorder.snapshots == 4
    for body in bodies:
        symbol = SYMBOLS[body.symbol]
        assert body.key.endswith(f"/fapi/v1/depth?symbol={symbol}&limit=1000") and b"lastUpdateId" in body.data
    frames = [entry for entry in entries if entry.kind == Captured.FRAME]
    assert len(frames) == recorder.frames.total() == recorder.counts()["frames"]
    for frame in frames:
        data = orjson.loads(frame.data)["data"]
        assert SYMBOLS[frame.symbol] == data.get("o", data)["s"]
        assert frame.connection == (data["e"] in ("markPriceUpdate", "forceOrder"))
    kinds_of = {orjson.loads(frame.data)["data"]["e"] for frame in frames}
    assert kinds_of >= {"depthUpdate", "bookTicker", "trade", "markPriceUpdate"}
    assert recorder.losses == 1 and recorder.counts()["entries"] == len(entries)
    check_replay(folder, resyncs=2)


def test_a_socket_that_falls_silent_is_given_up(
    venue: RunningVenue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ConnectionRule(silence_s=2.5, ping_s=1.0, quiet_s=9.0, longest_wait_s=1.0, opens=99, window_s=1.0)
    monkeypatch.setattr(binance, "_CONNECTION_RULE", quick)
    silence = once(lambda: venue.fault(fault="half_open", streams="public", duration_ms=300))
    recorder = recorded(venue, tmp_path / "c", books_right, silence, lost(1), more(20, snapshots=4))
    assert (Captured.LOST, 0) in kinds(entries_of(tmp_path / "c"), Captured.LOST)
    assert recorder.failure is None and "nothing was heard" in SAID[-1]


def test_a_gap_within_a_connection_is_resynced_too(venue: RunningVenue, tmp_path: Path) -> None:
    drop = once(lambda: venue.fault(fault="drop_depth", symbol="ETHUSDT", count=1))
    recorded(venue, tmp_path / "c", books_right, drop, lambda recorder: recorder.snapshots == 3)
    entries = entries_of(tmp_path / "c")
    bodies = [entry.symbol for entry in entries if entry.kind == Captured.REST]
    assert sorted(bodies[:2]) == [0, 1] and bodies[2:] == [1]
    assert kinds(entries, Captured.LOST) == []
    check_replay(tmp_path / "c", resyncs=1)


def test_the_embedded_exchange_as_spot_is_recorded_and_resynced(tmp_path: Path) -> None:
    with running_venue(VenueSettings(market=SPOT)) as spot:
        drop = once(lambda: spot.fault(fault="drop_depth", symbol="ETHUSDT", count=1))
        recorded(
            spot, tmp_path / "c", books_right, drop, lambda recorder: recorder.snapshots == 3,
            market=market_of(Dialect.BINANCE_SPOT),
        )
    bodies = [entry.symbol for entry in entries_of(tmp_path / "c") if entry.kind == Captured.REST]
    assert sorted(bodies[:2]) == [0, 1] and bodies[2:] == [1]
    check_replay(tmp_path / "c", resyncs=1)


def test_a_snapshot_that_cannot_be_had_is_asked_for_again(venue: RunningVenue, tmp_path: Path) -> None:
    venue.fault(fault="http", action="error_before", path="/fapi/v1/depth", count=6, status=503)
    SAID.clear()
    recorder = recorded(venue, tmp_path / "c", books_right)
    found = recorder.counts()
    assert (found["snapshots"], found["refused_requests"], found["books_never_begun"]) == (2, {"HTTP 503": 6}, [])
    said = [words for words in SAID if "HTTP 503 Service Unavailable" in words]
    assert sorted(words.partition(":")[0] for words in said) == [f"snapshot of {name}" for name in SYMBOLS], "once each"
    assert "2 snapshots, refused requests: HTTP 503 6, " in record._words(found)
    check_replay(tmp_path / "c", resyncs=0)


class MaintainedMarket(BinanceMarket):
    """Its snapshots are something else."""

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        super().fetch_book(session, rest_url, symbol)
        return b'{"code":-1,"msg":"maintenance"}'


def test_what_was_recorded_without_a_book_is_not_called_whole(venue: RunningVenue, tmp_path: Path) -> None:
    """An answer that is no book is kept as it came, and is no snapshot."""
    market = MaintainedMarket(Dialect.BINANCE_USDM)
    SAID.clear()
    recorder = recorded(
        venue, tmp_path / "c", lambda recorder: len(recorder.counts()["refused_requests"]) > 0, market=market
    )
    found = recorder.counts()
    assert found["snapshots"] == 0 and found["books_never_begun"] == list(SYMBOLS)
    kept = [entry for entry in entries_of(tmp_path / "c") if entry.kind == Captured.REST]
    assert sum(found["refused_requests"].values()) == len(kept) > 0
    assert any("no book (" in words for words in SAID)


class SubscribingMarket(BinanceMarket):
    """The same streams, asked for by a message over one socket."""

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        first = super().sockets(ws_url, symbols, feed)[0]
        root, _, streams = first.url.partition("?streams=")
        return (Socket(root, (Request(orjson.dumps({"method": "SUBSCRIBE", "params": streams.split("/"), "id": 7})),)),)


def test_what_is_sent_is_recorded(venue: RunningVenue, tmp_path: Path) -> None:
    recorded(venue, tmp_path / "c", books_right, market=SubscribingMarket(Dialect.BINANCE_USDM))
    opened, sent, answer, *_ = [entry for entry in entries_of(tmp_path / "c") if entry.kind != Captured.REST]
    assert opened.kind == Captured.OPENED and opened.key.endswith("/public/stream")
    assert sent.kind == Captured.SENT and orjson.loads(sent.data)["method"] == "SUBSCRIBE"
    assert orjson.loads(answer.data) == {"result": None, "id": 7} and answer.symbol == NO_SYMBOL
    check_replay(tmp_path / "c", resyncs=0)


def test_a_venue_whose_books_come_over_the_socket(venue: RunningVenue, tmp_path: Path) -> None:
    """Kraken Futures: subscriptions, answers and books are entries as they came; a broken connection begins anew."""
    names = ("PI_XBTUSD", "PI_ETHUSD")

    def script(number: int, heard: bytes) -> list[bytes]:
        if not heard:
            return [b'{"event":"info","version":1}']
        asked = {"product_ids": []} | orjson.loads(heard)  # the heartbeat is of no product
        answers = [
            orjson.dumps({"event": "subscribed", "feed": asked["feed"], "product_ids": [name]})
            for name in asked["product_ids"]
        ]
        if asked["feed"] == "book":
            answers += [
                orjson.dumps({
                    "feed": "book_snapshot", "product_id": name, "timestamp": 1626994927000, "seq": 10 * number,
                    "tickSize": None, "bids": [{"price": 100.0, "qty": 5}], "asks": [{"price": 101.0, "qty": 5}],
                })
                for name in asked["product_ids"]
            ]
        return answers

    instruments = tuple(
        Instrument(index, name, name, "USD", 1, 0, 5, 1, 0, dialect=Dialect.KRAKEN_FUTURES, contract_value=10**8)
        for index, name in enumerate(names)
    )
    limits = (RateLimit(WEIGHT, 1, 1, ""), RateLimit(ORDERS, 60, 60, ""))
    with SocketVenue(script).running() as server:

        def came_in_all(count: int) -> Callable[[Recorder], bool]:
            return lambda recorder: recorder.frames.total() >= count

        recorder = recorded(
            venue, tmp_path / "c", came_in_all(9), once(server.cut), came_in_all(18), market=KrakenFuturesMarket(),
            listing=Listing(instruments, limits), ws_url=server.url,
        )
    entries = entries_of(tmp_path / "c")
    assert recorder.losses == 1 and recorder.snapshots == 0
    opened, sent, came, gone = Captured.OPENED, Captured.SENT, Captured.FRAME, Captured.LOST
    once_more = [opened, *[sent] * 4, *[came] * 9]
    assert [entry.kind for entry in entries] == [*once_more, gone, *once_more]
    feeds = [orjson.loads(entry.data)["feed"] for entry in entries if entry.kind == sent]
    assert feeds == ["heartbeat", "book", "trade", "ticker"] * 2
    books_of = [entry.symbol for entry in entries if b"book_snapshot" in entry.data]
    assert books_of == [0, 1, 0, 1]
    assert CaptureReader(tmp_path / "c").manifest.market == "KRAKEN_FUTURES"
    summary = replay_fused(open_source(tmp_path / "c", Settings()), None)
    assert summary["market"]["snapshot_levels"] == 8 and summary["market"]["resyncs"] == 2
    assert summary["stages"]["ingestion"]["quarantined"] == {} and summary["unaccounted"] == 0


def kraken_book(kind: str, bids: dict[str, str], asks: dict[str, str], told: dict[str, str] | None = None) -> bytes:
    """A frame of Kraken's book with the checksum of these levels; told: the levels of a side in the frame, if fewer."""
    best = sorted(asks.items(), key=lambda level: float(level[0])) + sorted(
        bids.items(), key=lambda level: -float(level[0])
    )
    digits = "".join(text.replace(".", "").lstrip("0") for level in best for text in level)
    levels = {
        side: ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in part.items())
        for side, part in (("bids", bids if told is None else told), ("asks", asks if told is None else {}))
    }
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{levels["bids"]}],'
        f'"asks":[{levels["asks"]}],"checksum":{zlib.crc32(digits.encode())},"timestamp":"2026-01-01T00:00:00.000000Z"}}]}}'
    ).encode()


def test_checksums_are_verified_while_recording_and_a_wrong_book_begins_again(
    venue: RunningVenue, tmp_path: Path
) -> None:
    """Kraken spot: nothing else would tell that a change is missing."""
    bids, asks = {"100.1": "1.50000000", "100.0": "2.00000000"}, {"100.3": "0.50000000"}

    def script(number: int, heard: bytes) -> list[bytes]:
        message = orjson.loads(heard) if heard else {}
        if message.get("method") != "subscribe":
            return []
        channel = message["params"]["channel"]
        ack = {"method": "subscribe", "result": {"channel": channel, "symbol": "BTC/USD"}, "success": True}
        return [orjson.dumps(ack), *([kraken_book("snapshot", bids, asks)] if channel == "book" else [])]

    right = kraken_book("update", bids | {"100.1": "3.00000000"}, asks, told={"100.1": "3.00000000"})
    missed = kraken_book("update", bids | {"99.9": "1.00000000"}, asks, told={"100.0": "7.00000000"})

    def verified(count: int) -> Callable[[Recorder], bool]:
        return lambda recorder: recorder.counts()["checksums_verified"] >= count

    item = Instrument(0, "BTC/USD", "BTC", "USD", 1, 8, 1, 1, 0, dialect=Dialect.KRAKEN_SPOT_V2, book_depth=100)
    limits = (RateLimit(WEIGHT, 1, 1, ""), RateLimit(ORDERS, 60, 60, ""))
    with SocketVenue(script).running() as server:
        recorder = recorded(
            venue, tmp_path / "c", verified(1), once(lambda: server.tell(right)), verified(2),
            once(lambda: server.tell(missed)), verified(3), market=KrakenSpotMarket(),
            listing=Listing((item,), limits), ws_url=server.url,
        )
    found = recorder.counts()
    assert (found["checksums_verified"], found["checksums_failed"]) == (3, 1)
    assert found["wrong_books"] == {"checksum_mismatch": 1} and found["gaps"] == 1 and recorder.losses == 0
    asked = [orjson.loads(frame) for frame in server.heard]
    assert [(item["method"], item["params"]["channel"]) for item in asked[4:]] == [
        ("unsubscribe", "book"), ("subscribe", "book")
    ]
    assert "wrong books: checksum_mismatch 1, checksums: 3 verified, 1 failed" in record._words(found)
    summary = replay_fused(open_source(tmp_path / "c", Settings()), None)
    assert summary["market"]["resyncs"] == 1 and summary["unaccounted"] == 0


def test_an_earlier_recording_is_gone_on_with(venue: RunningVenue, tmp_path: Path) -> None:
    first = recorded(venue, tmp_path / "c", books_right)
    count = first.counts()["entries"]
    recorded(venue, tmp_path / "c", books_right)
    entries = entries_of(tmp_path / "c")
    assert (entries[count].kind, entries[count].connection) == (Captured.LOST, NO_CONNECTION)
    check_replay(tmp_path / "c", resyncs=2)


def test_a_full_disk_ends_the_recording_with_a_whole_capture(venue: RunningVenue, tmp_path: Path) -> None:
    with largest_file(20_000):
        recorder = recorded(venue, tmp_path / "c", lambda recorder: False)
    assert recorder.failure is not None and "(File too large)" in str(recorder.failure)
    entries = entries_of(tmp_path / "c")
    assert f"whole up to entry {len(entries)}" in str(recorder.failure)
    assert recorder.counts()["entries"] == len(entries)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--symbols", "XUSDT"], 2, "venue.symbols = ['XUSDT']: the embedded exchange lists"),
        (["--symbols", ",".join(f"S{n}" for n in range(17))], 2, "allowed are 1 to 16 different names"),
        (["--config", "venue.toml"], 1, "http://127.0.0.1:9/fapi/v1/exchangeInfo: ConnectionError"),
        (["--config", "venue.toml", "--symbols", "XUSDT"], 1, "http://127.0.0.1:9/fapi/v1/exchangeInfo"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_said_in_a_line(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "venue.toml").write_text(
        '[venue]\nembedded = false\nrest_url = "http://127.0.0.1:9"\nws_url = "ws://127.0.0.1:9"\n'
        "[safety]\ncooldown_s = 3600\n[strategies.momentum]\nsymbols = ['BTCUSDT']\n"  # none of them runs
        "[feed.symbols.BTCUSDT]\nkinds = ['book']\n"
    )
    assert cli.main(["record", "--out", "c", *words]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "c").exists()


@pytest.mark.session
def test_the_command_ends_at_a_signal_with_a_whole_capture(tmp_path: Path) -> None:
    """`bot4 record` with the embedded exchange beside it, until Ctrl-C."""
    command = [sys.executable, "-m", "tools.cli", "record", "--out", str(tmp_path / "c"), "--json"]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        began_ns = python_monotonic_ns()
        while not list(tmp_path.glob("c/segment-000000.capture")):
            assert python_monotonic_ns() - began_ns < PATIENCE_NS and process.poll() is None
            signal.sigtimedwait([], 0.05)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, error) == (0, b"")
    found = orjson.loads(out)
    assert found["entries"] == len(entries_of(tmp_path / "c")) and found["frames"] > 0 and found["error"] == ""
