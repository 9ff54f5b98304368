"""Fused replay against plain Python: counts, books against the venue's own ticker, and the decision hash.

A session is also made here, without processes: inputs, drops and a random merge order, journaled as the engine does;
every way of replaying it must come to the same decisions.
"""

from __future__ import annotations

import bisect
import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.book.book import book_best
from engine.config import Settings, settings_from
from engine.execution.kernel import EXECUTION
from engine.execution.summary import decision_hash
from engine.records import MARKET, REPORT, SOURCE_COMMANDS, SOURCE_FILLS, SOURCE_MAIN, Kind, ReportKind
from engine.settings import as_plain, build
from engine.stage import as_bytes
from engine.units import parse_units
from procs.captures import capture_inputs
from procs.fused import BATCH, FusedPath
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalWriter, segment_path
from procs.replay import Pacer, ReplayError, Source, open_source, replay_fused
from procs.replay_processes import replay_auto
from procs.summary import market_summary, stage_accounts
from procs.table import Role
from shm.clock import python_monotonic_ns
from tests.recordings import USDM_CAPTURES, open_capture, require_capture

SHORT = USDM_CAPTURES[0]
# One market leaves what its snapshot reaches; tests/test_binance_recordings.py has when that is said.
TO_THE_END = settings_from({"validation": {"snapshot_reach": False}})
pytestmark = pytest.mark.recordings


@cache
def source_of(relative: str, to_the_end: bool = False) -> Source:
    return open_source(require_capture(relative), TO_THE_END if to_the_end else Settings())


@cache
def summary_of(relative: str) -> dict[str, Any]:
    return replay_fused(source_of(relative), None)


def fused(source: Source) -> FusedPath:
    return FusedPath(source.settings, source.instruments, open_loop=not source.is_session)


@dataclass
class Independent:
    """What a reader with orjson finds in a capture."""

    counts: dict[str, int]
    ticker_ids: list[int]  # update ids of the bookTickers, rising
    quotes: list[tuple[int, int, int, int]]  # bid, its size, ask, its size, by the same place
    last_update_id: int
    diffs: int  # that the snapshot rule does not drop

    def at(self, update_id: int) -> tuple[int, int, int, int] | None:
        """The ticker with the largest id up to this one, looked up over the whole file."""
        place = bisect.bisect_right(self.ticker_ids, update_id) - 1
        return self.quotes[place] if place >= 0 else None


@cache
def independent(relative: str) -> Independent:
    counts = dict.fromkeys(
        ("frames", "level_updates", "trades", "book_tickers", "snapshot_levels", "funding", "liquidations"), 0
    )
    tickers: dict[int, tuple[int, int, int, int]] = {}
    last_update_id, diff_ids = 0, []
    for _, frame in open_capture(require_capture(relative)):
        message = orjson.loads(frame)
        data = message.get("data", message)
        kind = data.get("e")
        counts["frames"] += 1
        if kind == "bookTicker":
            counts["book_tickers"] += 1
            # All have two decimals of price and three of size.
            bid, bid_size, ask, ask_size = (int(data[key].replace(".", "")) for key in "bBaA")
            tickers[data["u"]] = (bid, bid_size, ask, ask_size)
        elif kind == "depthUpdate":
            counts["level_updates"] += len(data["b"]) + len(data["a"])
            diff_ids.append(data["u"])
        elif kind == "trade":
            counts["trades"] += 1
        elif kind == "markPriceUpdate":
            counts["funding"] += 1
        else:
            counts["snapshot_levels"] += len(data["bids"]) + len(data["asks"])
            last_update_id = data["lastUpdateId"]
    ids = sorted(tickers)
    kept = sum(update_id >= last_update_id for update_id in diff_ids)
    return Independent(counts, ids, [tickers[update_id] for update_id in ids], last_update_id, kept)


@dataclass
class Replayed:
    """A capture that went through the fused path, and its touch after every diff that was not dropped."""

    path: FusedPath
    touches: list[tuple[int, tuple[int, int, int, int]]]


@cache
def replayed(relative: str) -> Replayed:
    source = source_of(relative, to_the_end=True)
    path = fused(source)
    books = path.states[Role.FEATURES]["books"][0]
    last_update_id = path.decoder.state["last_update_id"][0]
    waiting = path.decoder.state["snapshot_wanted"][0]
    touches = []
    for entry in source.inputs():
        before = int(last_update_id[0])
        path.decide(path.decoder.apply(entry))
        after = int(last_update_id[0])
        if after != before and not waiting[0]:  # the snapshot with the diffs that waited for it, then every diff
            bid, ask = book_best(books, 0, 1), book_best(books, 0, -1)
            touches.append((after, (int(bid[0]), int(bid[1]), int(ask[0]), int(ask[1]))))
    return Replayed(path, touches)


@pytest.mark.parametrize("relative", USDM_CAPTURES)
def test_counts_are_those_of_an_independent_reader(relative: str) -> None:
    expected, states = independent(relative).counts, replayed(relative).path.states
    market = market_summary(states)
    assert {name: market[name] for name in expected} == expected
    assert market["crossed_books"] == market["gaps"] == market["resyncs"] == 0
    assert market["book_valid_ratio"] > 0.99
    stages, unaccounted = stage_accounts(states, {})
    ingestion = stages["ingestion"]
    assert unaccounted == 0 and ingestion["in"] == expected["frames"] and ingestion["quarantined"] == {}
    assert ingestion["processed"] + sum(ingestion["dropped"].values()) == expected["frames"]


@pytest.mark.parametrize("relative", USDM_CAPTURES)
def test_after_every_diff_the_best_bid_and_offer_are_those_of_the_venue(relative: str) -> None:
    found, touches = independent(relative), replayed(relative).touches
    compared = 0
    for update_id, touch in touches:
        expected = found.at(update_id)
        if expected is not None:  # else no ticker of that time was recorded
            assert touch == expected, f"after update {update_id}"
            compared += 1
    # All but the diffs that came before their snapshot and were released with it.
    assert len(touches) > found.diffs - 30 and compared > 0.995 * found.diffs > 4_000


def test_a_level_that_is_lost_would_be_noticed() -> None:
    """The negative control of the test above: one level of the book off by one unit."""
    source = source_of(SHORT)
    tickers = independent(SHORT)
    path = fused(source)
    books = path.states[Role.FEATURES]["books"][0]
    wrong = 0
    for number, original in enumerate(source.inputs()):
        entry, payload = original, original.payload
        if b"depthUpdate" in payload and number % 10 == 0:
            message = orjson.loads(payload)
            for level in message["data"]["b"]:
                level[1] = f"{float(level[1]) + 0.001:.3f}"
            entry = original._replace(payload=orjson.dumps(message))
        path.decide(path.decoder.apply(entry))
        if entry.kind == Entry.FRAME and b"depthUpdate" in payload and number > 2_000:
            expected = tickers.at(orjson.loads(payload)["data"]["u"])
            bid = book_best(books, 0, 1)
            wrong += expected is not None and (int(bid[0]), int(bid[1])) != expected[:2]
        if number > 4_000:
            break
    assert wrong > 10


def write_capture(path: Path, lines: Iterator[tuple[int, bytes]] | list[tuple[int, bytes]]) -> Path:
    with gzip.open(path, "wb", 1) as file:
        for ts_ns, frame in lines:
            file.write(b"%d %s\n" % (ts_ns, frame))
    return path


def test_the_decision_hash_is_the_same_again_and_through_processes() -> None:
    first, again = summary_of(SHORT), replay_fused(source_of(SHORT), None)
    assert first["decisions"]["intents"] > 100
    assert first["decision_hash"] == again["decision_hash"]
    spread = replay_auto(source_of(SHORT), None)
    assert spread["decision_hash"] == first["decision_hash"]
    assert spread["unaccounted"] == 0 and spread["engine"]["placement"] == "auto"
    for key in ("market", "decisions", "orders", "fills", "positions", "cash"):
        assert spread[key] == first[key], key
    assert {name: s["in"] for name, s in spread["stages"].items()} == {n: s["in"] for n, s in first["stages"].items()}
    for name in ("market", "valid", "features", "predictions"):
        ring = spread["rings"][name]
        assert ring["produced"] == ring["consumed"] > 0 and ring["dropped"] == ring["in_flight"] == 0


def test_one_changed_size_at_the_touch_before_an_intent_changes_the_hash(tmp_path: Path) -> None:
    source = source_of(SHORT)
    path = fused(source)
    books = path.states[Role.FEATURES]["books"][0]
    lines = list(open_capture(source.path))
    touched: tuple[int, str, int] | None = None  # line, side key, level of the last diff that sets the best bid
    for entry in source.inputs():
        orders = path.decide(path.decoder.apply(entry))
        if orders and touched is not None:
            break
        if entry.kind == Entry.FRAME and b"depthUpdate" in entry.payload:
            best = int(book_best(books, 0, 1)[0])
            levels = orjson.loads(entry.payload)["data"]["b"]
            for place, (price, size) in enumerate(levels):
                if parse_units(price, 2) == best and float(size) > 0:
                    touched = (entry.ordinal - 1, "b", place)
    assert touched is not None
    intents = int(path.states[Role.EXECUTION]["intents"][0])
    assert intents > 0
    number, side, place = touched
    message = orjson.loads(lines[number][1])
    before = message["data"][side][place][1]
    message["data"][side][place][1] = f"{float(before) + 0.003:.3f}"
    changed = [*lines]
    changed[number] = (lines[number][0], orjson.dumps(message))
    end = min(len(lines), number + 3_000)
    hashes = [
        replay_fused(open_source(write_capture(tmp_path / f"{name}.raw.gz", content[:end]), Settings()), None)
        for name, content in (("same", lines), ("changed", changed))
    ]
    assert all(summary["decisions"]["intents"] > 0 for summary in hashes)
    assert hashes[0]["decision_hash"] != hashes[1]["decision_hash"]


def test_one_changed_setting_that_matters_changes_the_hash(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "a.raw.gz", list(open_capture(require_capture(SHORT)))[:4_000])
    plain = as_plain(Settings())
    plain["maker"] |= {"order_value": 400.0}
    one, other = (replay_fused(open_source(path, build(Settings, values)), None) for values in ({}, plain))
    assert one["decision_hash"] != other["decision_hash"]
    assert one["engine"]["config_hash"] != other["engine"]["config_hash"]


# --- a session, made by hand ----------------------------------------------------------------------------------------


@dataclass
class Made:
    """A session folder and what was decided in it."""

    folder: Path
    hash: str
    intents: int
    refused: int
    published: int
    predictions: int


def control(dtype: np.dtype, kind: int, now: int, **values: int) -> np.ndarray:
    record = np.zeros(1, dtype)
    record["kind"], record["recv_ts_ns"] = kind, now
    for name, value in values.items():
        record[name] = value
    return record


def make_session(folder: Path, seed: int, frames: int, drop: float = 0.0, settings: Settings | None = None) -> Made:
    """Live ingestion and execution over a part of a recording: random batches, drops now and then, no answers."""
    dice = random.Random(seed)
    capture = source_of(SHORT)
    settings = settings or Settings()
    folder.mkdir()
    content = {"settings": as_plain(settings), "instruments": [item.as_dict() for item in capture.instruments]}
    (folder / "session.json").write_bytes(orjson.dumps(content))
    inputs = JournalWriter(folder, "ingestion", "0" * 8, segment_bytes=1 << 20)
    merges = JournalWriter(folder, "execution", "0" * 8, segment_bytes=1 << 18)
    path = FusedPath(settings, capture.instruments, open_loop=False)
    state = path.states[Role.EXECUTION]
    outbox = np.zeros(64 * EXECUTION.max_out * EXECUTION.out_dtype.itemsize, np.uint8)
    routes = np.zeros(64 * EXECUTION.max_out, np.uint8)
    waiting: list[np.ndarray] = []
    refused = published = 0

    def step(source: int, records: np.ndarray, now: int) -> None:
        payload = records["output"].tobytes() if source == SOURCE_MAIN else records.tobytes()
        merges.append(Entry.BATCH, payload, now, source=source, count=len(records))
        EXECUTION.step(as_bytes(state), source, as_bytes(records.copy()), len(records), outbox, routes)

    def flush(now: int, all_of_it: bool) -> None:
        nonlocal waiting
        whole = np.concatenate(waiting) if waiting else path.predictions[:0].copy()
        while len(whole) and (all_of_it or dice.random() < 0.8):
            count = dice.randint(1, min(64, len(whole)))
            step(SOURCE_MAIN, np.ascontiguousarray(whole[:count]), now)
            whole = whole[count:]
        waiting = [whole]

    total = 0
    now = 0
    for entry in capture_inputs(capture.path, capture.instruments):
        now = entry.ts_ns
        inputs.append(Entry(entry.kind), entry.payload, now, source=entry.source)
        count = path.decoder.apply(entry)
        if entry.kind == Entry.START:
            step(SOURCE_COMMANDS, control(MARKET, Kind.RECONCILE, now, aux=1), now)
            answer = [
                control(REPORT, ReportKind.BALANCE, now, aux=100_000 * 10**8),
                control(REPORT, ReportKind.OPEN_ORDERS, now), control(REPORT, ReportKind.FEES, now),
                control(REPORT, ReportKind.RECONCILE_END, now, aux=1),
            ]
            step(SOURCE_FILLS, np.concatenate(answer), now)
        elif count and dice.random() < drop:
            inputs.append(Entry.DROPPED, b"", now)
            refused += count
            count = path.decoder.dropped(now)
        published += count
        for first in range(0, count, BATCH):
            found = path.predict(first, min(BATCH, count - first))
            waiting.append(path.predictions[:found].copy())
            total += found
        if dice.random() < 0.2:
            flush(now, all_of_it=False)
        if dice.random() < 0.001:
            step(SOURCE_COMMANDS, control(MARKET, Kind.RECONCILE, now), now)
        if entry.ordinal >= frames:
            break
    flush(now, all_of_it=True)
    inputs.close()
    merges.close()
    return Made(folder, decision_hash(state), int(state["intents"][0]), refused, published, total)


Replay = Callable[[Source, float | None], dict[str, Any]]


@pytest.mark.parametrize(
    ("replay", "seed", "drop"),
    [(replay_fused, 1, 0.0), (replay_fused, 2, 0.01), (replay_fused, 3, 0.001), (replay_auto, 2, 0.01)],
)  # fmt: skip
def test_a_session_replays_to_its_own_decisions(tmp_path: Path, replay: Replay, seed: int, drop: float) -> None:
    made = make_session(tmp_path / "session", seed, 5_000, drop)
    assert made.intents > 0 and (made.refused > 0) == (drop > 0)
    summary = replay(open_source(made.folder, Settings()), None)
    assert summary["decision_hash"] == made.hash
    assert summary["decisions"]["intents"] == made.intents
    assert summary["predictions"] == {"compared": made.predictions, "different": 0}
    assert summary["unaccounted"] == 0
    assert summary["stages"]["ingestion"]["out"] == made.published == summary["stages"]["validation"]["in"]
    assert summary["stages"]["ingestion"]["dropped"].get("RING_FULL", 0) > 0 or not drop


def test_a_prediction_that_comes_out_different_is_counted_and_the_journal_wins(tmp_path: Path) -> None:
    made = make_session(tmp_path / "session", 4, 3_000)
    entries = list(read_stream(made.folder, "execution"))
    segment_path(made.folder, "execution", 0).unlink()
    number = 1
    while segment_path(made.folder, "execution", number).exists():
        segment_path(made.folder, "execution", number).unlink()
        number += 1
    writer = JournalWriter(made.folder, "execution", "0" * 8)
    changed = 0
    for entry in entries:
        payload = entry.payload
        outputs = np.frombuffer(payload, np.float32).copy() if entry.source == SOURCE_MAIN else np.zeros(0)
        if changed < 3 and outputs.any():
            first = int(np.flatnonzero(outputs)[0])
            outputs[first] = np.nextafter(outputs[first], np.float32(9))
            payload = outputs.tobytes()
            changed += 1
        writer.append(Entry(entry.kind), payload, entry.ts_ns, source=entry.source, count=entry.count)
    writer.close()
    summary = replay_fused(open_source(made.folder, Settings()), None)
    assert changed == 3 and summary["predictions"]["different"] == 3


@pytest.mark.parametrize("replay", [replay_fused, replay_auto])
def test_market_data_that_end_before_the_decisions_are_an_error_in_words(tmp_path: Path, replay: Replay) -> None:
    made = make_session(tmp_path / "session", 5, 2_500)
    segment = segment_path(made.folder, "ingestion", 0)
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    with pytest.raises(ReplayError, match=r"the ingestion journal ends before entry .* predictions are missing"):
        replay(open_source(made.folder, Settings()), None)


def test_decisions_that_end_before_the_market_data_are_no_error(tmp_path: Path) -> None:
    """The usual end of a process that was killed: its journal stops, the market's goes on."""
    made = make_session(tmp_path / "session", 6, 2_500)
    segment = segment_path(made.folder, "execution", 0)
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    summary = replay_fused(open_source(made.folder, Settings()), None)
    assert 0 < summary["predictions"]["compared"] < made.predictions
    assert summary["unaccounted"] == 0 and summary["decision_hash"] != made.hash


def test_a_session_keeps_its_own_settings(tmp_path: Path) -> None:
    own = build(Settings, {"maker": {"order_value": 300.0}})
    made = make_session(tmp_path / "session", 7, 2_500, settings=own)
    source = open_source(made.folder, Settings())
    assert source.settings == own
    assert replay_fused(source, None)["decision_hash"] == made.hash


def test_speed_is_a_multiple_of_the_recorded_one() -> None:
    pacer = Pacer(50.0)
    began = python_monotonic_ns()
    for step in range(6):
        pacer.wait(1_700_000_000_000_000_000 + step * 100_000_000)
    took = python_monotonic_ns() - began
    assert took >= 10_000_000, "half a second at fifty times the speed"
    for _ in range(3):
        Pacer(None).wait(1)
