"""What is replayed and converted: every recording of Binance and Kraken, parts by time and symbol."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.book.book import book_best
from engine.config import Settings
from engine.settings import as_plain
from procs.capture.convert import convert
from procs.capture.layout import NO_SYMBOL, Captured
from procs.capture.overview import overview
from procs.capture.reader import CaptureReader, Selection
from procs.capture.writer import CaptureWriter
from procs.captures import CaptureError
from procs.fused import FusedPath
from procs.journal.layout import Entry
from procs.journal.writer import JournalWriter
from procs.replay import Source, open_source, replay_fused
from procs.table import Role
from tests.recordings import open_capture, recordings_root, require_capture, rest_bodies
from tests.test_captures import SNAPSHOT, diff, ticker, trade, write

NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
RAW = (
    "ws/binance-usdm/btcusdt_20230404.raw.gz", "ws/binance-usdm/btcusdt_20240808.raw.gz",
    "ws/binance-usdm/ethusdt_20240808.raw.gz", "ws/binance-spot/btcusdt_20240808.raw.gz",
    "ws/binance-spot/btcusdt_20240809.raw.gz", "ws/binance-spot/ethusdt_20240808.raw.gz",
    "ws/binance-coinm/btcusd_perp_20240808.raw.gz",
)
LOGS = (
    "ws/binance-usdm/cf_20210722_ws_1.txt.gz", "ws/binance-spot/cf_20211011_ws_1.txt.gz",
    "ws/binance-coinm/cf_20210721_ws_1.txt.gz", "ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz",
    "ws/kraken-futures/cf_20210722_ws_1.txt.gz", "ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz",
)  # fmt: skip


def parts_of(relative: str) -> list[Path]:
    """All files of the session that a log is of."""
    path = require_capture(relative)
    stem = path.name.partition("_ws_")[0]
    return [path] if stem == path.name else sorted(path.parent.glob(f"{stem}_*"))


def test_no_recording_is_left_out() -> None:
    if not recordings_root().is_dir():
        pytest.skip(f"no recordings under {recordings_root()} (set BOT4_RECORDINGS)")
    files = {path for pattern in ("binance", "kraken") for path in recordings_root().glob(f"ws/{pattern}-*/*.gz")}
    assert files == {*map(require_capture, RAW), *(path for name in LOGS for path in parts_of(name))}


# --- conversion -------------------------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize("relative", RAW)
def test_a_converted_recording_is_the_same_and_replays_to_the_same_hash(relative: str, tmp_path: Path) -> None:
    path, folder = require_capture(relative), tmp_path / "c"
    count = convert(path, folder)
    entries = CaptureReader(folder).entries()
    compared = 0
    for (ts_ns, frame), entry in zip(open_capture(path), entries, strict=True):
        assert (entry.ts_ns, entry.data) == (ts_ns, frame)
        assert entry.kind == (Captured.REST if frame.startswith(b'{"lastUpdateId"') else Captured.FRAME)
        assert entry.symbol == 0
        compared += 1
    assert compared == count > 10_000
    original = replayed_alike(path, folder)
    assert original["market"]["frames"] == count
    assert (original["decisions"]["intents"] > 0) == ("coinm" not in relative and "20240809" not in relative)


@pytest.mark.recordings
@pytest.mark.parametrize("relative", LOGS)
def test_a_converted_session_log_is_the_same_and_replays_to_the_same_hash(relative: str, tmp_path: Path) -> None:
    path, folder = require_capture(relative), tmp_path / "c"
    count = convert(path, folder)
    reader = CaptureReader(folder)
    entries = list(reader.entries())
    assert len(entries) == count and [one.ts_ns for one in entries] == sorted(one.ts_ns for one in entries)
    frames = [(one.ts_ns, one.data) for one in entries if one.kind == Captured.FRAME]
    bodies = [(one.ts_ns, one.key, one.data) for one in entries if one.kind == Captured.REST]
    assert frames == by_time(pair for part in parts_of(relative) for pair in open_capture(part))
    assert bodies == by_time(body for part in parts_of(relative) for body in rest_bodies(part))
    for entry in entries:  # a symbol is what the frame or the URL says
        if entry.symbol != NO_SYMBOL:
            named_in = entry.data if entry.kind == Captured.FRAME else entry.key.encode()
            assert orjson.dumps(reader.manifest.symbols[entry.symbol])[1:-1].replace(b"\\/", b"/") in named_in
    assert sum(one.symbol != NO_SYMBOL for one in entries) > 0.9 * len(entries)
    original = replayed_alike(path, folder)
    assert original["market"]["gaps"] == original["market"]["crossed_books"] == original["unaccounted"] == 0


def replayed_alike(original: Path, converted: Path) -> dict:
    """The summary of a replay of a recording, which is the same for what it was converted to, twice."""
    first, *others = [replay_fused(open_source(path, Settings()), None) for path in (original, converted, converted)]
    for key in ("decision_hash", "market", "decisions", "orders", "unaccounted"):
        assert first[key] == others[0][key] == others[1][key], key
    return first


def by_time(items: Iterable[tuple]) -> list[tuple]:
    """Sorted by time, as the files of a session are merged."""
    return sorted(items, key=lambda item: item[0])


@pytest.mark.recordings
@pytest.mark.parametrize("relative", [LOGS[0], LOGS[4], LOGS[5]])
def test_a_symbol_of_a_session_log(relative: str, tmp_path: Path) -> None:
    """One instrument alone, found by the index of a capture and by going through the log."""
    path, folder = require_capture(relative), tmp_path / "c"
    convert(path, folder)
    name = CaptureReader(folder).manifest.symbols[1]
    logged, kept = (open_source(place, Settings(), Selection(symbols=(name,))) for place in (path, folder))
    assert [(one.kind, one.ts_ns, one.source, one.payload) for one in logged.inputs()] == [
        (one.kind, one.ts_ns, one.source, one.payload) for one in kept.inputs()
    ]
    summary = replay_fused(kept, None)
    assert summary["decision_hash"] == replay_fused(logged, None)["decision_hash"]
    assert [(item.symbol, item.index) for item in kept.instruments] == [(name, 0)]
    market = summary["market"]
    assert market["gaps"] == 0 and market["level_updates"] > 10 and market["book_valid_ratio"] > 0.5
    assert "UNKNOWN_SYMBOL" not in summary["stages"]["ingestion"]["quarantined"]


def test_a_connection_that_is_opened_again_is_a_loss(tmp_path: Path) -> None:
    url = b"wss://fstream.binance.com/stream?streams=btcusdt@depth"
    depth = b"https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT&limit=1000"
    lines = [
        b'configuration: {"l2_book":["BTC-USDT-PERP"]}', url + b" <-> 1.5", b"2: " + diff([["99.0", "1"]], [], u=5),
        depth + b" -> 3: " + SNAPSHOT, b"4: " + diff([["98.0", "1"]], [], U=8, u=8), url + b" <-> 5",
        b"6: " + ticker("99.0", "1", "101.0", "1"), depth + b" -> 7: " + SNAPSHOT,
    ]
    log = tmp_path / "log.txt"
    log.write_bytes(b"\n".join(lines))
    convert(log, tmp_path / "own")
    kinds = [(Captured(one.kind).name, one.ts_ns / SECOND, one.symbol) for one in
             CaptureReader(tmp_path / "own").entries()]
    assert kinds == [
        ("NOTE", 0, NO_SYMBOL), ("OPENED", 1.5, NO_SYMBOL), ("FRAME", 2, 0), ("REST", 3, 0), ("FRAME", 4, 0),
        ("LOST", 5, NO_SYMBOL), ("OPENED", 5, NO_SYMBOL), ("FRAME", 6, 0), ("REST", 7, 0),
    ]
    manifest = CaptureReader(tmp_path / "own").manifest
    assert manifest.connections == (url.decode(),)
    assert manifest.subscription == {"configurations": ['{"l2_book":["BTC-USDT-PERP"]}']}
    original, converted = (open_source(place, Settings()) for place in (log, tmp_path / "own"))
    assert [one[2:] for one in original.inputs()] == [one[2:] for one in converted.inputs()]
    assert decided(original) == decided(converted)
    assert decided(converted)[1]["gaps"] == decided(converted)[1]["resyncs"] == 1
    shown = overview(tmp_path / "own")
    assert (shown["losses"], shown["longest_loss_s"], shown["kinds"]["lost"]) == (1, 0.0, 1)


def test_an_empty_recording_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"a\.raw: holds no market data"):
        convert(tmp_path / "a.raw", tmp_path / "c")
    with pytest.raises(CaptureError, match="is no file"):
        convert(tmp_path / "b.raw", tmp_path / "c")


def test_a_recording_that_breaks_off_leaves_what_came_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", ticker("1.0", "1", "1.5", "1"))
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(CaptureError, match=r"a\.raw, line 2"):
        convert(path, tmp_path / "c")
    assert not (tmp_path / "c").exists()  # found in the first pass


# --- parts ------------------------------------------------------------------------------------------------------------


def two_symbols() -> list[bytes]:
    """Frames of two symbols, and one of neither."""
    frames = []
    for number in range(400):
        symbol = ("BTCUSDT", "ETHUSDT")[number % 2]
        price = f"{100 + number % 7}.0"
        kind = number % 6
        if kind < 2:
            frames.append(ticker(price, "1.0", f"{price[:-1]}5", "2.0", symbol))
        elif kind < 4:
            frames.append(trade(price, "0.5", symbol).replace(b'"t":1', b'"t":%d' % number))
        else:
            frames.append(diff([[price, "1.0"]], [], symbol, U=number, u=number, pu=number - 6))
    frames[200:200] = [b'{"result":null,"id":1}']
    return frames


def decided(source: Source) -> tuple[str, Any, Any]:
    summary = replay_fused(source, None)
    assert summary["unaccounted"] == 0
    return summary["decision_hash"], summary["market"], summary["stages"]["ingestion"]


def session_of(folder: Path, frames: list[bytes], source: Source) -> Path:
    """A session's folder with these frames in its ingestion journal."""
    folder.mkdir()
    content = {
        "settings": as_plain(source.settings), "instruments": [item.as_dict() for item in source.instruments]
    }
    (folder / "session.json").write_bytes(orjson.dumps(content))
    journal = JournalWriter(folder, Role.INGESTION.label, "s")
    journal.append(Entry.START, b"", NS)
    for number, frame in enumerate(frames):
        journal.append(Entry.FRAME, frame, NS + number * SECOND)
    journal.close()
    return folder


def spaced(path: Path, frames: list[bytes]) -> Path:
    """A recording with a frame a second."""
    path.write_bytes(b"".join(b"%d %s\n" % (NS + number * SECOND, frame) for number, frame in enumerate(frames)))
    return path


def kinds_of_sources(tmp_path: Path, frames: list[bytes]) -> dict[str, Path]:
    """The same frames as each kind of source."""
    raw = spaced(tmp_path / "a.raw", frames)
    log = tmp_path / "a.txt.gz"
    log.write_bytes(gzip.compress(
        b"wss://fstream.binance.com/stream?streams=btcusdt@trade/ethusdt@trade <-> 1600000000.5\n"
        + b"".join(b"%d: %s\n" % (NS // SECOND + number, frame) for number, frame in enumerate(frames))
    ))
    convert(raw, tmp_path / "own")
    return {
        "raw": raw, "log": log, "own": tmp_path / "own",
        "session": session_of(tmp_path / "session", frames, open_source(raw, Settings())),
    }


@pytest.mark.parametrize(
    ("selection", "keep"),
    [
        (Selection(symbols=("ETHUSDT",)), lambda number, frame: b"BTCUSDT" not in frame),
        (Selection(symbols=("BTCUSDT",)), lambda number, frame: b"ETHUSDT" not in frame),
        (Selection(NS + 50 * SECOND, NS + 300 * SECOND), lambda number, frame: 50 <= number < 300),
        (
            Selection(NS + 50 * SECOND + 1, symbols=("BTCUSDT",)),
            lambda number, frame: number > 50 and b"ETHUSDT" not in frame,
        ),
        (Selection(symbols=("BTCUSDT", "ETHUSDT")), lambda number, frame: True),
    ],
)  # fmt: skip
def test_a_part_is_what_a_recording_of_that_part_alone_would_be(
    selection: Selection, keep: Callable[[int, bytes], bool], tmp_path: Path
) -> None:
    frames = two_symbols()
    sources = kinds_of_sources(tmp_path, frames)
    whole = open_source(sources["raw"], Settings())
    kept = [(NS + number * SECOND, frame) for number, frame in enumerate(frames) if keep(number, frame)]
    for kind, path in sources.items():
        source = open_source(path, Settings(), selection)
        assert not source.is_session
        inputs = list(source.inputs())
        assert (inputs[0].kind, inputs[0].ts_ns) == (Entry.START, kept[0][0]), kind
        assert [(one.ts_ns, one.payload) for one in inputs[1:]] == kept, kind
        names = selection.symbols or ("BTCUSDT", "ETHUSDT")
        assert tuple(item.symbol for item in source.instruments) == names
        assert [item.index for item in source.instruments] == list(range(len(names)))
        # The same decisions as of a source that holds nothing else, with the same instruments.
        alone = Source(path, Settings(), source.instruments, lambda inputs=inputs: iter(inputs), is_session=False)
        assert decided(source) == decided(alone)
        assert decided(source)[2]["quarantined"] == {}, kind
    assert len(whole.instruments) == 2


def test_whole_sources_are_replayed_alike(tmp_path: Path) -> None:
    sources = kinds_of_sources(tmp_path, two_symbols())
    hashes = {kind: decided(open_source(path, Settings()))[:2] for kind, path in sources.items() if kind != "session"}
    assert hashes["raw"] == hashes["log"] == hashes["own"]


def test_a_part_with_nothing_in_it_is_an_error(tmp_path: Path) -> None:
    for path in kinds_of_sources(tmp_path, two_symbols()).values():
        with pytest.raises(CaptureError, match="nothing in it is of the times and symbols asked for"):
            list(open_source(path, Settings(), Selection(from_ns=NS + 10_000 * SECOND)).inputs())
        with pytest.raises(CaptureError, match="holds no XUSDT; it holds BTCUSDT, ETHUSDT"):
            open_source(path, Settings(), Selection(symbols=("XUSDT",)))


def test_a_start_in_the_middle_waits_for_the_next_snapshot(tmp_path: Path) -> None:
    def snapshot(update_id: int, bid: str) -> bytes:
        return SNAPSHOT.replace(b'"lastUpdateId":7', b'"lastUpdateId":%d' % update_id).replace(b"100.0", bid.encode())

    frames = [diff([["99.0", "1"]], [], U=1, u=5, pu=0), snapshot(7, "100.0")]
    frames += [diff([["98.0", f"{number}"]], [], U=number, u=number, pu=number - 1) for number in range(8, 30)]
    frames += [snapshot(40, "97.0")]
    frames += [diff([["96.0", f"{number}"]], [], U=number, u=number, pu=number - 1) for number in range(41, 60)]
    again = frames.index(snapshot(40, "97.0"))
    convert(spaced(tmp_path / "a.raw", frames), tmp_path / "own")
    for path in (tmp_path / "a.raw", tmp_path / "own"):
        source = open_source(path, Settings(), Selection(from_ns=NS + 10 * SECOND))
        fused = FusedPath(source.settings, source.instruments, open_loop=True)
        books = fused.states[Role.FEATURES]["books"][0]
        valid = []
        for entry in source.inputs():
            fused.decide(fused.decoder.apply(entry))
            has_book = int(book_best(books, 0, 1)[1]) > 0
            assert has_book == (not fused.decoder.state["snapshot_wanted"][0][0])
            valid.append(has_book)
        assert valid == [False] * (1 + again - 10) + [True] * (len(frames) - again)
        assert int(book_best(books, 0, 1)[0]) == 970


def test_a_lost_connection_makes_every_book_start_again(tmp_path: Path) -> None:
    convert(spaced(tmp_path / "a.raw", two_symbols()), tmp_path / "own")
    writer = CaptureWriter.reopen(tmp_path / "own")
    last = NS + 1_000 * SECOND
    writer.append(Captured.OPENED, last, b"", connection=0, key="ws://x")
    writer.append(Captured.LOST, last + 1, b"", connection=0)
    writer.append(Captured.NOTE, last + 2, b"something")
    writer.append(Captured.REST, last + 3, b'{"symbols":[]}', key="http://x/exchangeInfo")
    writer.append(Captured.FRAME, last + 4, ticker("1", "1", "2", "1"), symbol=0)
    writer.close()
    tail = list(open_source(tmp_path / "own", Settings()).inputs())[-2:]
    assert [(one.kind, one.ts_ns, one.source) for one in tail] == [
        (Entry.LOST, last + 1, 0), (Entry.FRAME, last + 4, 0)
    ]
    writer = CaptureWriter.reopen(tmp_path / "own")
    writer.append(Captured.REST, last + 5, SNAPSHOT)
    writer.close()
    with pytest.raises(CaptureError, match=r"own, entry 407: a snapshot names no symbol"):
        list(open_source(tmp_path / "own", Settings()).inputs())
