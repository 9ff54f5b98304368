"""Every Binance recording through the whole market path, against readers that share no code with it.

The independent reader knows orjson, dicts and the venue's own rules. After each diff the best bid and offer, price and
size, must be those of the bookTicker with the largest update id not above the diff's; at the end whole books are
compared, level by level.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import orjson
import pytest

from engine.binance_listing import instrument_from_binance
from engine.book.book import book_best
from engine.book.layout import WINDOW_TICKS
from engine.config import Settings, settings_from
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.captures import capture_inputs, scan_instruments
from procs.fused import BATCH, FusedPath
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.replay import open_source, replay_fused
from procs.summary import market_summary, stage_accounts
from procs.table import Role
from tests.ingest_oracle import Oracle, Session
from tests.market_records import run_stage
from tests.recordings import USDM_CAPTURES, open_capture, recordings_root, require_capture, rest_bodies

pytestmark = pytest.mark.recordings

SPOT_BTC = "ws/binance-spot/btcusdt_20240808.raw.gz"
SPOT_BTC_NEXT_DAY = "ws/binance-spot/btcusdt_20240809.raw.gz"
SPOT_ETH = "ws/binance-spot/ethusdt_20240808.raw.gz"
COIN = "ws/binance-coinm/btcusd_perp_20240808.raw.gz"
Touch = tuple[int, int, int, int]
# Two markets leave what their one snapshot reaches; without that rule all of each recording is held against the plain
# reading. Where the rule says so is a test of its own.
TO_THE_END = settings_from({"validation": {"snapshot_reach": False}})


@dataclasses.dataclass(frozen=True)
class Recording:
    """One or more files of one session, and what is known of them."""

    files: tuple[str, ...]
    dialect: Dialect
    comparable: int  # diffs with a ticker to compare with
    # Diffs whose last state had a ticker of no id: in the middle of a fall the venue told only the states around it.
    silent: frozenset[int] = frozenset()

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for name in self.files:
            yield from open_capture(require_capture(name))


RECORDINGS = {
    "spot btc": Recording((SPOT_BTC,), Dialect.BINANCE_SPOT, 3_449),
    "spot btc over midnight": Recording(
        (SPOT_BTC, SPOT_BTC_NEXT_DAY), Dialect.BINANCE_SPOT, 3_449 + 3_044, frozenset({50093478174, 50093480542})
    ),
    "spot eth": Recording((SPOT_ETH,), Dialect.BINANCE_SPOT, 3_432),
    "usdm btc 2023": Recording((USDM_CAPTURES[0],), Dialect.BINANCE_USDM, 4_322),
    "usdm btc": Recording((USDM_CAPTURES[1],), Dialect.BINANCE_USDM, 6_547),
    "usdm eth": Recording((USDM_CAPTURES[2],), Dialect.BINANCE_USDM, 6_581),
    "coinm btc": Recording((COIN,), Dialect.BINANCE_COINM, 26_824),
}

BEYOND = ("spot btc", "spot btc over midnight", "usdm btc")  # after 260 of 346 s, and 217 of 345 s


@dataclasses.dataclass
class Independent:
    """What a reader with orjson and dicts finds."""

    counts: Counter[str]
    tickers: list[tuple[int, Touch]]  # by rising update id
    levels: np.ndarray  # int64[:, 5]: update id, side, price, size, group; the snapshot, then all diffs that apply
    touches: dict[int, Touch]  # after each diff that the venue's rule applies, by its u
    books: dict[str, dict[int, int]]
    last_id: int


@cache
def independent(name: str) -> Independent:
    recording = RECORDINGS[name]
    counts: Counter[str] = Counter()
    tickers: list[tuple[int, Touch]] = []
    diffs: list[dict[str, Any]] = []
    snapshots: list[dict[str, Any]] = []
    for _, frame in recording.frames():
        message = orjson.loads(frame)
        data = message.get("data", message)
        counts["frames"] += 1
        if "lastUpdateId" in data:
            snapshots.append(data)
            counts["snapshot_levels"] += len(data["bids"]) + len(data["asks"])
        elif "depth" in message["stream"]:
            diffs.append(data)
            counts["level_updates"] += len(data["b"]) + len(data["a"])
        elif "bookTicker" in message["stream"]:
            bid, bid_size, ask, ask_size = (int(data[key].replace(".", "")) for key in "bBaA")
            tickers.append((data["u"], (bid, bid_size, ask, ask_size)))
            counts["book_tickers"] += 1
        else:
            counts[{"trade": "trades", "markPriceUpdate": "funding"}[data["e"]]] += 1
    (snapshot,) = snapshots
    books: dict[str, dict[int, int]] = {"b": {}, "a": {}}

    levels: list[tuple[int, int, int, int, int]] = []
    groups = itertools.count()

    def apply(update_id: int, bids: list[list[str]], asks: list[list[str]]) -> None:
        group = next(groups)
        for side, sign, changes in (("b", 1, bids), ("a", -1, asks)):
            for price_text, size_text in changes:
                price, size = int(price_text.replace(".", "")), int(size_text.replace(".", ""))
                levels.append((update_id, sign, price, size, group))
                books[side].pop(price, None)
                if size:
                    books[side][price] = size

    apply(snapshot["lastUpdateId"], snapshot["bids"], snapshot["asks"])
    last, first = snapshot["lastUpdateId"], True
    touches: dict[int, Touch] = {}
    for diff in diffs:
        if recording.dialect == Dialect.BINANCE_SPOT:
            if diff["u"] <= snapshot["lastUpdateId"]:
                continue
            assert diff["U"] <= last + 1 <= diff["u"] if first else diff["U"] == last + 1
        else:
            if diff["u"] < snapshot["lastUpdateId"]:
                continue
            assert diff["U"] <= last <= diff["u"] if first else diff["pu"] == last
        first, last = False, diff["u"]
        apply(last, diff["b"], diff["a"])
        bid, ask = max(books["b"]), min(books["a"])
        touches[last] = (bid, books["b"][bid], ask, books["a"][ask])
    return Independent(counts, sorted(tickers), np.array(levels, np.int64), touches, books, last)


instruments_of = cache(scan_instruments)


def inputs(recording: Recording, instruments: tuple[Instrument, ...]) -> Iterator[JournalEntry]:
    """The inputs of a session that goes on over the end of a file."""
    ordinal = 0
    for number, file in enumerate(recording.files):
        for entry in capture_inputs(require_capture(file), instruments):
            if entry.kind != Entry.START or number == 0:
                ordinal += entry.kind != Entry.START
                yield entry._replace(ordinal=ordinal)


@dataclasses.dataclass
class Replayed:
    """A recording that went through ingestion, validation, features and execution."""

    path: FusedPath
    records: np.ndarray  # MARKET, as ingestion wrote them
    touches: list[tuple[int, Touch]]  # of the features' book, after each frame that moved its update id
    predictions: int
    digest: str  # of all PREDICTION records


@cache
def replayed(name: str) -> Replayed:
    recording = RECORDINGS[name]
    instruments = instruments_of(require_capture(recording.files[0]))
    path = FusedPath(TO_THE_END, instruments, open_loop=True)
    written, touches, found, digest = [], [], 0, hashlib.sha256()
    books, state = path.states[Role.FEATURES]["books"][0], path.decoder.state[0]
    for entry in inputs(recording, instruments):
        before = int(state["last_update_id"][0])
        count = path.decoder.apply(entry)
        written.append(path.decoder.records[:count].copy())
        for first in range(0, count, BATCH):
            made = path.predict(first, min(BATCH, count - first))
            digest.update(path.predictions[:made].tobytes())
            found += made
        after = int(state["last_update_id"][0])
        if after != before and state["bridged"][0]:
            (bid, bid_size), (ask, ask_size) = book_best(books, 0, 1), book_best(books, 0, -1)
            touches.append((after, (int(bid), int(bid_size), int(ask), int(ask_size))))
    return Replayed(path, np.concatenate(written), touches, found, digest.hexdigest())


def whole_book(books: np.ndarray) -> dict[str, dict[int, int]]:
    """Every level of the features' book of instrument 0, read off its arrays."""
    book = books[0]
    held: dict[str, dict[int, int]] = {"b": {}, "a": {}}
    for number, (side, sign) in enumerate((("b", 1), ("a", -1))):
        ranks = int(book["base"][number]) + np.arange(WINDOW_TICKS) * int(book["tick"])
        near, far = zip(ranks, book["sizes"][number]), zip(book["far_ranks"][number], book["far_sizes"][number])
        for rank, size in (*near, *far):
            if size:
                assert sign * int(rank) not in held[side]
                held[side][sign * int(rank)] = int(size)
    return held


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_market_is_told_by_the_wire(name: str) -> None:
    recording = RECORDINGS[name]
    for file in recording.files:
        (item,) = instruments_of(require_capture(file))
        assert item.dialect == recording.dialect
        assert item.contract_value == (100 * 10**8 if recording.dialect == Dialect.BINANCE_COINM else 0)
        if recording.dialect == Dialect.BINANCE_SPOT:
            assert (item.price_exp, item.size_exp, item.tick_size) == (8, 8, 1_000_000)


@pytest.mark.parametrize("name", RECORDINGS)
def test_counts_are_those_of_an_independent_reader_and_nothing_is_refused(name: str) -> None:
    expected, states = independent(name).counts, replayed(name).path.states
    market = market_summary(states)
    for key in ("frames", "level_updates", "snapshot_levels", "trades", "book_tickers", "funding", "liquidations"):
        assert market[key] == expected[key], key
    assert market["gaps"] == market["resyncs"] == 0
    stages, unaccounted = stage_accounts(states, {})
    assert unaccounted == 0
    assert stages["ingestion"]["quarantined"] == stages["validation"]["quarantined"] == {}
    assert set(stages["ingestion"]["dropped"]) <= {"STALE_DIFF"} and stages["validation"]["dropped"] == {}
    kinds = Counter(replayed(name).records["kind"].tolist())
    assert kinds[Kind.TRADE] == expected["trades"] and kinds[Kind.QUOTE] == 2 * expected["book_tickers"]
    assert kinds[Kind.MARK_PRICE] == kinds[Kind.FUNDING] == expected["funding"]


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_levels_are_those_of_an_independent_reader_one_by_one(name: str) -> None:
    records = replayed(name).records
    levels = records[records["kind"] == Kind.LEVEL]
    expected = independent(name).levels
    for column, field in enumerate(("sequence", "side", "price", "size")):
        np.testing.assert_array_equal(levels[field], expected[:, column], err_msg=field)
    change = np.flatnonzero(np.diff(expected[:, 4])) + 1
    assert np.flatnonzero(levels["flags"] & Flag.FIRST).tolist() == [0, *change.tolist()]
    assert np.flatnonzero(levels["flags"] & Flag.LAST).tolist() == [*(change - 1).tolist(), len(levels) - 1]


@pytest.mark.parametrize("name", RECORDINGS)
def test_after_every_comparable_diff_the_touch_is_the_ticker_s(name: str) -> None:
    plain, silent = independent(name), RECORDINGS[name].silent
    ids = [update_id for update_id, _ in plain.tickers]
    compared = 0
    for update_id, touch in plain.touches.items():
        at = bisect.bisect_right(ids, update_id) - 1
        if at >= 0:
            assert (touch == plain.tickers[at][1]) == (update_id not in silent), f"after update {update_id}"
            compared += 1
    assert compared == RECORDINGS[name].comparable
    # The book of the features after each frame: all diffs but those that waited for the snapshot and came with it.
    touches = replayed(name).touches
    assert len(plain.touches) - 30 < len(touches) <= len(plain.touches) + 1
    for update_id, touch in touches:
        assert touch == plain.touches[update_id], f"after update {update_id}"


@pytest.mark.parametrize("name", RECORDINGS)
def test_no_valid_book_is_crossed_and_the_last_one_is_the_brute_force_one(name: str) -> None:
    plain, run = independent(name), replayed(name)
    assert market_summary(run.path.states)["crossed_books"] == 0
    assert run.path.decoder.state["last_update_id"][0][0] == plain.last_id
    features = run.path.states[Role.FEATURES][0]
    assert features["books"]["faults"][0] == 0 and features["flows"]["valid"][0] == 1
    held = whole_book(features["books"])
    forgotten = int(features["books"]["forgotten"][0])
    for side, best_first in (("b", True), ("a", False)):
        expected = sorted(plain.books[side].items(), reverse=best_first)
        found = sorted(held[side].items(), reverse=best_first)
        assert found == expected[: len(found)] and (len(found) == len(expected) or forgotten > 0)
        assert len(found) > 500
    assert forgotten == 0


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_book_is_invalid_from_where_its_snapshot_does_not_reach(name: str) -> None:
    plain, item = independent(name), instruments_of(require_capture(RECORDINGS[name].files[0]))[0]
    snapshot = plain.levels[plain.levels[:, 4] == 0]
    lowest, highest = snapshot[snapshot[:, 1] == 1, 2].min(), snapshot[snapshot[:, 1] == -1, 2].max()
    beyond = [number for number, touch in plain.touches.items() if touch[0] < lowest or touch[2] > highest]
    out = run_stage(VALIDATION, make_validation_state(ValidationSettings(), [item]), replayed(name).records)
    said = out[out["kind"] == Kind.BOOK_INVALID]
    assert said["sequence"].tolist() == beyond[:1] and bool(beyond) == (name in BEYOND)
    assert said["reason"].tolist() == [Reason.BEYOND_SNAPSHOT] * len(said)


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_receive_clock_behind_the_venue_s_harms_nothing(name: str) -> None:
    records = replayed(name).records
    timed = records[(records["exch_ts_ns"] > 0) & (records["kind"] != Kind.LEVEL)]
    ahead = timed["exch_ts_ns"] - timed["recv_ts_ns"]
    if "2023" in name:
        assert (ahead > 0).any() and (ahead < 0).any()
    else:
        assert np.median(ahead) > 1_200_000_000, "the venue's clock is 1.27 s ahead of the recorder's"
    assert replayed(name).predictions > 1_000


@pytest.mark.parametrize("file", [SPOT_BTC, SPOT_ETH, COIN, SPOT_BTC_NEXT_DAY])
def test_a_replay_decides_the_same_again(file: str) -> None:
    source = open_source(require_capture(file), Settings())
    first, again = (replay_fused(source, None) for _ in range(2))
    for key in ("decision_hash", "market", "decisions", "orders", "stages"):
        assert first[key] == again[key], key
    # Inverse contracts are watched, not traded; a day without its snapshot has no book.
    assert (first["decisions"]["intents"] > 100) == (file in (SPOT_BTC, SPOT_ETH))
    valid = {SPOT_BTC: 0.751, SPOT_ETH: 1.0, COIN: 1.0, SPOT_BTC_NEXT_DAY: 0.0}  # until beyond the snapshot's reach
    assert first["market"]["book_valid_ratio"] == pytest.approx(valid[file], abs=0.01)


def test_one_changed_size_changes_the_hash(tmp_path: Any) -> None:
    lines = list(itertools.islice(open_capture(require_capture(SPOT_BTC)), 12_000))
    place = next(at for at, (_, frame) in enumerate(lines) if at > 6_000 and b"@trade" in frame)
    message = orjson.loads(lines[place][1])
    message["data"]["q"] = "9.87654321"
    changed = [*lines]
    changed[place] = (lines[place][0], orjson.dumps(message))
    hashes = set()
    for content in (lines, changed):
        path = tmp_path / "a.raw"
        path.write_bytes(b"".join(b"%d %s\n" % line for line in content))
        replay = replay_fused(open_source(path, Settings()), None)
        assert replay["decisions"]["intents"] > 0
        hashes.add(replay["decision_hash"])
    assert len(hashes) == 2


def test_the_predictions_of_an_inverse_contract_are_the_same_again() -> None:
    first = replayed("coinm btc")
    replayed.cache_clear()
    again = replayed("coinm btc")
    assert again is not first and again.digest == first.digest and again.predictions == first.predictions > 20_000
    np.testing.assert_array_equal(again.records, first.records)
    assert again.records.dtype == MARKET


# --- sessions of several symbols, with snapshots that arrive late -----------------------------------------------------

SESSIONS = {
    "spot": (Dialect.BINANCE_SPOT, "ws/binance-spot/cf_20211011", {"depth": 177, "bookTicker": 84, "aggTrade": 2}),
    "usdm": (Dialect.BINANCE_USDM, "ws/binance-usdm/cf_20210722", {"depth": 764, "bookTicker": 613, "aggTrade": 91}),
    "coinm": (Dialect.BINANCE_COINM, "ws/binance-coinm/cf_20210721",
              {"depth": 2_047, "bookTicker": 2_240, "aggTrade": 51}),
}  # fmt: skip


def compare_with_oracle(instruments: list[Instrument], merged: list[tuple[int, str, bytes]]) -> Session:
    """Feed frames and REST bodies by their time of receipt; every record and count must be the oracle's."""
    session, oracle = Session(instruments), Oracle(instruments)
    for side in (session, oracle):
        side.start(merged[0][0])
    strangers = 0
    for ingest_id, (recv_ts_ns, url, frame) in enumerate(merged, 1):
        if url:
            index = next(item.index for item in instruments if f"symbol={item.symbol}&" in url)
            for side in (session, oracle):
                side.snapshot(index, frame, recv_ts_ns, ingest_id)
        elif b"@kline" in frame[:60]:
            strangers += 1
            assert session.frame(frame, recv_ts_ns, ingest_id) == -Reason.UNKNOWN_STREAM
        else:
            for side in (session, oracle):
                side.frame(frame, recv_ts_ns, ingest_id)
    assert session.reasons("quarantined") == {Reason.UNKNOWN_STREAM: strangers}
    assert session.reasons("dropped") == oracle.dropped
    assert session.balances()
    np.testing.assert_array_equal(session.records(), oracle.records())
    for item in instruments:
        assert session.row["snapshot_wanted"][item.index] == 0 and session.row["gaps"] == 0
    return session


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_of_several_symbols_with_units_from_its_own_listing_equals_the_oracle(name: str) -> None:
    dialect, base, counts = SESSIONS[name]
    require_capture(f"{base}_ws_1.txt.gz")
    root = recordings_root()
    frames = [(recv, "", frame) for recv, frame in open_capture(root / f"{base}_ws_1.txt.gz")]
    bodies = [item for item in rest_bodies(root / f"{base}_rest_book_0.txt.gz") if "/depth?" in item[1]]
    ((_, _, listing),) = rest_bodies(root / f"{base}_rest_instruments.txt.gz")
    listed = {entry["symbol"]: entry for entry in orjson.loads(listing)["symbols"]}
    symbols = [url.partition("symbol=")[2].partition("&")[0] for _, url, _ in bodies]
    instruments = [instrument_from_binance(listed[symbol], index, dialect) for index, symbol in enumerate(symbols)]
    session = compare_with_oracle(instruments, sorted(frames + bodies, key=lambda item: item[0]))
    assert session.row["book_tickers"] == counts["bookTicker"] and session.row["trades"] == counts["aggTrade"]
    assert sum(b"depthUpdate" in frame for _, _, frame in frames) == counts["depth"]
    assert len(instruments) == (10 if name == "coinm" else 4)


def test_a_mixed_session_of_spot_equals_the_oracle() -> None:
    path = require_capture("ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz")
    frames = [(recv, "", frame) for recv, frame in open_capture(path)]
    bodies = list(rest_bodies(path))
    instruments = [
        Instrument(index, symbol, symbol[:3], "USDT", 8, 8, 1, 1, 0, dialect=Dialect.BINANCE_SPOT)
        for index, symbol in enumerate(("DOTUSDT", "BTCUSDT", "ETHUSDT"))
    ]
    session = compare_with_oracle(instruments, sorted(frames + bodies, key=lambda item: item[0]))
    assert len(bodies) == 3 and session.row["trades"] == 1_910
