"""Recorded sessions of Binance with several symbols and late snapshots, through the whole market path.

Book by book against dicts of Decimal: the touch after every diff, the bookTicker rule, every level at the end. What
ingestion refuses stands in the quarantine on disk, frame by frame. Counts by kind: tests/test_recordings.py; records
one by one: tests/test_binance_recordings.py; Kraken's books: tests/test_validation_kraken.py, test_kraken_futures.py.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.book.book import book_best
from engine.book.layout import WINDOW_TICKS
from engine.config import Settings
from engine.instruments import Dialect, Instrument
from engine.records import MARKET
from procs.fused import FusedPath
from procs.ingestion import Ingestion
from procs.instance import Mapping, ProcessContext
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.quarantine import Quarantine, read_quarantine
from procs.replay import Source, open_source
from procs.summary import market_summary
from procs.table import Role
from tests.instance_memory import small_instance
from tests.recordings import open_capture, require_capture, rest_bodies

pytestmark = pytest.mark.recordings

# By the file that names the session: its snapshots lie in it, or in one of their own.
SESSIONS = {
    "ws/binance-spot/cf_20211011_ws_1.txt.gz": "ws/binance-spot/cf_20211011_rest_book_0.txt.gz",
    "ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz": "ws/binance-spot/cf_20210404_mixed_ee25be.txt.gz",
    "ws/binance-usdm/cf_20210722_ws_1.txt.gz": "ws/binance-usdm/cf_20210722_rest_book_0.txt.gz",
    "ws/binance-coinm/cf_20210721_ws_1.txt.gz": "ws/binance-coinm/cf_20210721_rest_book_0.txt.gz",
}
# Diffs of all symbols with a ticker to compare with; the session that is not here has no tickers.
COMPARABLE = {name: count for name, count in zip(SESSIONS, (159, None, 745, 1_793)) if count}
# States of TRXUSD_PERP and BCHUSD_PERP that no ticker told: the book of dicts agrees with ours, and all later diffs
# agree with the tickers again.
UNTOLD = {167006133937, 167006089178, 167006089315, 167006089882}
Touch = tuple[int, int, int, int]


@dataclasses.dataclass
class Plain:
    """One symbol of a session, read with orjson and the venue's rule; prices and sizes in the instrument's units."""

    item: Instrument
    books: dict[str, dict[int, int]] = dataclasses.field(default_factory=lambda: {"b": {}, "a": {}})
    touches: dict[int, Touch] = dataclasses.field(default_factory=dict)  # after each diff that applies, by its u
    tickers: list[tuple[int, Touch]] = dataclasses.field(default_factory=list)  # by update id

    def apply(self, update_id: int, bids: list[list[str]], asks: list[list[str]]) -> None:
        for side, changes in (("b", bids), ("a", asks)):
            for price_text, size_text in changes:
                price, size = self.units(price_text, size_text)
                self.books[side].pop(price, None)
                if size:
                    self.books[side][price] = size
        bid, ask = max(self.books["b"]), min(self.books["a"])
        assert bid < ask
        self.touches[update_id] = (bid, self.books["b"][bid], ask, self.books["a"][ask])

    def units(self, price: str, size: str) -> tuple[int, int]:
        exact = (Decimal(price).scaleb(self.item.price_exp), Decimal(size).scaleb(self.item.size_exp))
        assert all(value == int(value) for value in exact)
        return int(exact[0]), int(exact[1])


@cache
def source_of(name: str) -> Source:
    return open_source(require_capture(name), Settings())


@cache
def plain(name: str) -> dict[str, Plain]:
    """Every symbol of a session."""
    found = {item.symbol: Plain(item) for item in source_of(name).instruments}
    spot = source_of(name).instruments[0].dialect == Dialect.BINANCE_SPOT
    diffs: dict[str, list[Any]] = {symbol: [] for symbol in found}
    for _, frame in open_capture(require_capture(name)):
        message = orjson.loads(frame)
        data = message["data"]
        if "@depth" in message["stream"]:
            diffs[data["s"]].append(data)
        elif "@bookTicker" in message["stream"]:
            one = found[data["s"]]
            one.tickers.append((data["u"], (*one.units(data["b"], data["B"]), *one.units(data["a"], data["A"]))))
    for _, url, body in rest_bodies(require_capture(SESSIONS[name])):
        symbol = url.partition("symbol=")[2].partition("&")[0]
        if "/depth?" not in url:
            continue
        one, snapshot, first = found[symbol], orjson.loads(body), True
        last = start = snapshot["lastUpdateId"]
        assert not one.touches, "one snapshot a symbol"
        one.apply(last, snapshot["bids"], snapshot["asks"])
        for diff in diffs[symbol]:
            if diff["u"] < start or (spot and diff["u"] == start):
                continue
            following = diff["U"] == last + 1 if spot else diff["pu"] == last
            assert diff["U"] <= last + spot <= diff["u"] if first else following
            first, last = False, diff["u"]
            one.apply(last, diff["b"], diff["a"])
        one.tickers.sort()
    return found


@dataclasses.dataclass
class Replayed:
    """A session that went through ingestion, validation and features."""

    path: FusedPath
    touches: dict[str, dict[int, Touch]]  # of the features' books: symbol -> update id -> touch


@cache
def replayed(name: str) -> Replayed:
    source = source_of(name)
    path = FusedPath(source.settings, source.instruments, open_loop=True)
    books, state = path.states[Role.FEATURES]["books"][0], path.decoder.state[0]
    touches: dict[str, dict[int, Touch]] = {item.symbol: {} for item in source.instruments}
    for entry in source.inputs():
        before = state["last_update_id"].copy()
        path.decide(path.decoder.apply(entry))
        for index in np.flatnonzero(state["last_update_id"] != before).tolist():
            if not state["snapshot_wanted"][index]:
                (bid, bid_size), (ask, ask_size) = book_best(books, index, 1), book_best(books, index, -1)
                touch = (int(bid), int(bid_size), int(ask), int(ask_size))
                touches[source.instruments[index].symbol][int(state["last_update_id"][index])] = touch
    return Replayed(path, touches)


def held_levels(book: np.void) -> dict[str, dict[int, int]]:
    """Every level of a book of ours, read off its arrays."""
    held: dict[str, dict[int, int]] = {"b": {}, "a": {}}
    for number, (side, sign) in enumerate((("b", 1), ("a", -1))):
        ranks = int(book["base"][number]) + np.arange(WINDOW_TICKS) * int(book["tick"])
        near, far = zip(ranks, book["sizes"][number]), zip(book["far_ranks"][number], book["far_sizes"][number])
        held[side] = {sign * int(rank): int(size) for rank, size in (*near, *far) if size}
    return held


@pytest.mark.parametrize("name", SESSIONS)
def test_the_touch_after_every_diff_is_that_of_a_book_of_dicts(name: str) -> None:
    compared = 0
    for symbol, one in plain(name).items():
        ours = replayed(name).touches[symbol]
        assert ours and {update_id: one.touches[update_id] for update_id in ours} == ours, symbol
        # All but the diffs that waited for their snapshot and came in one with it.
        waited = min(ours)
        assert set(ours) >= {update_id for update_id in one.touches if update_id > waited}, symbol
        compared += len(ours)
    assert compared > 100
    assert market_summary(replayed(name).path.states)["crossed_books"] == 0


@pytest.mark.parametrize("name", COMPARABLE)
def test_the_touch_after_every_comparable_diff_is_the_ticker_s(name: str) -> None:
    compared = 0
    for symbol, one in plain(name).items():
        ids = [update_id for update_id, _ in one.tickers]
        for update_id, touch in replayed(name).touches[symbol].items():
            at = bisect.bisect_right(ids, update_id) - 1
            if at >= 0:
                agrees = touch == one.tickers[at][1]
                assert agrees == (update_id not in UNTOLD), f"{symbol} after update {update_id}"
                compared += 1
    assert compared == COMPARABLE[name]


@pytest.mark.parametrize("name", SESSIONS)
def test_every_book_ends_as_the_one_of_dicts(name: str) -> None:
    states = replayed(name).path.states
    validation, features = states[Role.VALIDATION][0], states[Role.FEATURES][0]
    for one in plain(name).values():
        for book in (validation["books"][one.item.index], features["books"][one.item.index]):
            assert book["faults"] == book["forgotten"] == 0
            assert held_levels(book) == one.books, one.item.symbol
        assert features["flows"]["valid"][one.item.index] == 1


def test_a_level_that_is_lost_would_be_noticed() -> None:
    """The negative control: one level fewer in a book."""
    name = next(iter(SESSIONS))
    one = next(iter(plain(name).values()))
    book = replayed(name).path.states[Role.FEATURES][0]["books"][one.item.index].copy()
    side, place = (int(index) for index in np.argwhere(book["sizes"])[0])
    book["sizes"][side, place] = 0
    assert held_levels(book) != one.books


def live(source: Source, folder: Path) -> Iterator[np.ndarray]:
    """The records of a source that arrives at a live ingestion, which journals into `folder`."""
    with small_instance(folder, capacity=1 << 14, instruments=source.instruments) as plan:
        ingestion, ring = Ingestion(ProcessContext(plan, Role.INGESTION)), Mapping(plan).ring("market")
        for entry in source.inputs():
            if entry.kind == Entry.FRAME:
                ingestion._on_socket_frame(0, entry.payload)
            elif entry.kind == Entry.SNAPSHOT:
                ingestion._on_snapshot(entry.source, entry.payload)
            yield ring.pop(1 << 14).copy()


@pytest.mark.parametrize("name", SESSIONS)
def test_every_refused_frame_stands_in_the_quarantine(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    records = np.concatenate(list(live(source, tmp_path)))
    assert records.dtype == MARKET and len(records) > 3_000
    quarantine = Quarantine(tmp_path, source.instruments)
    for entry in read_stream(tmp_path, "ingestion"):
        quarantine.second()
        quarantine.frames([entry])
    quarantine.close()
    lines = list(read_quarantine(tmp_path))
    refused = [frame for _, frame in open_capture(require_capture(name)) if b"@kline" in frame[:60]]
    assert [line["frame"].encode() for line in lines] == refused and refused
    assert {(line["stage"], line["reason"]) for line in lines} == {("ingestion", "UNKNOWN_STREAM")}
    entries = {entry.ordinal: entry for entry in read_stream(tmp_path, "ingestion")}
    assert [entries[line["ordinal"]].payload for line in lines] == refused
