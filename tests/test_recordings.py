"""Recorded sessions of several files through the whole market path, counted by a reader that knows only json."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.config import Settings
from engine.instruments import Dialect
from engine.reasons import Reason
from procs.captures import CaptureError
from procs.journal.layout import Entry
from procs.recordings import read_inputs, read_instruments
from procs.replay import open_source, replay_fused
from tests.recordings import require_capture

# By the file that is named, of which the others of its session are found: (dialect, symbols, traded).
SESSIONS = {
    "ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz": (Dialect.KRAKEN_SPOT_V1, 10, True),
    "ws/kraken-futures/cf_20210722_ws_1.txt.gz": (Dialect.KRAKEN_FUTURES, 10, False),  # inverse ones are watched
    "ws/binance-spot/cf_20211011_ws_1.txt.gz": (Dialect.BINANCE_SPOT, 4, True),
    "ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz": (Dialect.BINANCE_SPOT, 3, True),
    "ws/binance-usdm/cf_20210722_ws_1.txt.gz": (Dialect.BINANCE_USDM, 4, True),
    "ws/binance-coinm/cf_20210721_ws_1.txt.gz": (Dialect.BINANCE_COINM, 10, False),
}
START = b"wss://futures.kraken.com/ws/v1 <-> 10.5\n"
SUBSCRIBED = b'wss://futures.kraken.com/ws/v1 <- 11: {"event":"subscribe","feed":"book","product_ids":["pi_xbtusd"]}\n'
LISTED = (
    b'https://futures.kraken.com/derivatives/api/v3/instruments -> 10: {"result":"success","instruments":[{"symbol":'
    b'"pi_xbtusd","type":"futures_inverse","tickSize":0.5,"contractSize":1,"tradeable":true}]}\n'
)


def _kraken(message: Any, counts: Counter[str]) -> None:
    if isinstance(message, list):  # spot v1: [channel id, data..., channel name, pair]
        channel = message[-2].partition("-")[0]
        for data in message[1:-2]:
            if channel == "book":
                levels = sum(len(data.get(key, ())) for key in ("as", "bs"))
                counts["snapshot_levels"] += levels
                counts["level_updates"] += sum(len(data.get(key, ())) for key in ("a", "b"))
            elif channel == "trade":
                counts["trades"] += len(data)
        counts["book_tickers"] += channel == "ticker"
    elif "event" in message:
        return
    elif message.get("feed") == "book":
        counts["level_updates"] += 1
    elif message.get("feed") == "book_snapshot":
        counts["snapshot_levels"] += len(message["bids"]) + len(message["asks"])
    elif message.get("feed") in ("trade", "ticker_lite"):
        counts["trades" if message["feed"] == "trade" else "book_tickers"] += 1


def _binance(message: Any, counts: Counter[str]) -> None:
    data = message.get("data", message)
    if "lastUpdateId" in data:
        counts["snapshot_levels"] += len(data["bids"]) + len(data["asks"])
    elif data.get("e") == "depthUpdate":
        counts["level_updates"] += len(data["b"]) + len(data["a"])
    elif "@bookTicker" in message["stream"]:
        counts["book_tickers"] += 1
    elif data["e"] == "aggTrade":
        counts["trades"] += 1
    else:
        counts["refused"] += 1


def independent_counts(path: Path) -> Counter[str]:
    """What a session holds, from its lines as text; +counts leaves out what there is none of."""
    counts: Counter[str] = Counter()
    stem = path.name.partition("_ws_")[0]
    parts = [path] if stem == path.name else sorted(path.parent.glob(f"{stem}_*"))
    for part in parts:
        for line in gzip.decompress(part.read_bytes()).decode().splitlines():
            head, _, text = line.partition(": ")
            rest = " -> " in head
            if not text or head == "configuration" or " <- " in head or (rest and "/depth?" not in head):
                continue
            counts["frames"] += 1
            (_kraken if "kraken" in str(path) else _binance)(json.loads(text), counts)
    return +counts


@pytest.mark.recordings
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_replays_whole_and_the_same_again(name: str) -> None:
    path = require_capture(name)
    dialect, symbols, traded = SESSIONS[name]
    source = open_source(path, Settings())
    assert {item.dialect for item in source.instruments} == {dialect} and len(source.instruments) == symbols
    summary = replay_fused(source, None)
    counts = independent_counts(path)
    market = summary["market"]
    refused = counts.pop("refused", 0)
    assert {key: value for key, value in market.items() if key in counts} == counts
    assert summary["stages"]["ingestion"]["quarantined"] == ({Reason.UNKNOWN_STREAM.name: refused} if refused else {})
    assert (market["gaps"], market["crossed_books"], summary["unaccounted"]) == (0, 0, 0)
    verified = 4269 if source.instruments[0].dialect == Dialect.KRAKEN_SPOT_V1 else 0
    assert (market["checksums_verified"], market["checksums_failed"]) == (verified, 0)
    assert {item.book_depth for item in source.instruments} == {1000 if verified else 0}
    assert market["validation_rate"] == 1.0
    assert market["book_valid_ratio"] > 0.8
    for stage in ("validation", "features", "ml", "execution"):
        assert summary["stages"][stage]["quarantined"] == {}
    assert (summary["orders"]["sent"] > 0) == traded
    assert replay_fused(open_source(path, Settings()), None)["decision_hash"] == summary["decision_hash"]


@pytest.mark.recordings
def test_any_file_of_a_session_names_all_of_it() -> None:
    trades = require_capture("ws/kraken-spot-v1/cf_20210417_ws_48.txt.gz")
    book = require_capture("ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz")
    assert read_instruments(trades) == read_instruments(book)
    inputs = [list(read_inputs(path, read_instruments(path))) for path in (trades, book)]
    assert inputs[0] == inputs[1]
    times = [entry.ts_ns for entry in inputs[0]]
    assert times == sorted(times) and len(times) == 1 + 4_430
    assert [entry.ordinal for entry in inputs[0]] == list(range(4_431))


def write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def test_a_connection_that_is_opened_again_is_a_loss(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", LISTED + START + SUBSCRIBED + b'12: {"a":1}\n' + START.replace(b"10.5", b"13"))
    instruments = read_instruments(path)
    assert (instruments[0].symbol, instruments[0].contract_value) == ("PI_XBTUSD", 10**8)
    kinds = [(entry.kind, entry.source, entry.ts_ns) for entry in read_inputs(path, instruments)]
    second = 1_000_000_000
    assert kinds == [(Entry.START, 0, 12 * second), (Entry.FRAME, 0, 12 * second), (Entry.LOST, 0, 13 * second)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LISTED, "sockets of no venue that is known"),
        (b"wss://ws.example.com/v2 <-> 1\n", "sockets of no venue that is known"),
        (LISTED + START + SUBSCRIBED + b"wss://ws.kraken.com <-> 12\n", "KRAKEN_FUTURES, KRAKEN_SPOT_V1"),
        (START, "market data of no symbol were asked for in it"),
        (START + SUBSCRIBED, "no list of instruments"),
        (LISTED + START + SUBSCRIBED.replace(b"xbt", b"eth"), "does not list PI_ETHUSD"),
        (LISTED.replace(b"success", b"error") + START + SUBSCRIBED, "instruments: error"),
    ],
)
def test_a_session_that_cannot_be_understood_is_refused_in_words(tmp_path: Path, text: bytes, words: str) -> None:
    path = write(tmp_path / "log.txt", text)
    with pytest.raises(CaptureError, match=words) as caught:
        read_instruments(path)
    assert str(path) in str(caught.value)
