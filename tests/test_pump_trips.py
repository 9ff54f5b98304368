"""The pump puts a TRIP before what it steps next, once for each change of the emergency word; levels of backlog too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.kernel import kernel
from engine.records import Kind
from engine.stage import STEP_SIGNATURE
from procs import pump as p
from procs.journal.writer import JournalWriter
from shm.clock import python_session_ns, sleep
from shm.control import TripSource
from tests.pump_bench import (
    MARKET_SIZE,
    TRIP_SOURCE,
    Bench,
    echoes,
    records,
    trips,
)
from tests.waiting import until


def test_a_trip_is_stepped_once_for_each_change_of_the_word(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.pump_bench.copies", echoes)
    b = bench(inputs=3)
    b.params[p.P_WANTS_TRIP] = 1
    b.drain()
    assert trips(b) == []
    word = b.control.trip(TripSource.OPERATOR)
    before = python_session_ns(b.control.session_offset_ns)
    b.feed(records(1, 5))
    b.feed(records(1, 5), 2)
    b.drain()
    got = b.take()
    assert int(got[0]["kind"]) == Kind.TRIP, "before anything else of the turn"
    assert int(got[0]["aux"]) == word and int(got[0]["ingest_id"]) == 0
    assert before <= int(got[0]["recv_ts_ns"]) <= python_session_ns(b.control.session_offset_ns)
    assert got["kind"].tolist() == [Kind.TRIP] + [Kind.TRADE] * 5
    for _ in range(3):
        b.drain()
    assert trips(b) == []
    again = b.control.trip(TripSource.OPERATOR)  # the same source: only the count differs
    b.drain()
    assert trips(b) == [again] and again != word
    other = b.control.trip(TripSource.RISK)
    b.drain()
    b.drain()
    assert trips(b) == [other]


@kernel(STEP_SIGNATURE)
def passes_on(
    state: np.ndarray, source: int, inbox: np.ndarray, count: int, outbox: np.ndarray, routes: np.ndarray
) -> int:
    """Pass everything on."""
    for index in range(count * MARKET_SIZE):
        outbox[index] = inbox[index]
    for index in range(count):
        routes[index] = 0
    return count


def test_a_backlog_is_stepped_once_for_each_level(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the output, as when the gateway is stopped: half full, nearly full; then it is read again."""
    monkeypatch.setattr("tests.pump_bench.copies", passes_on)
    b = bench(inputs=3, in_capacity=256, out_capacity=256, batch=4)
    b.params[p.P_WANTS_BACKLOG] = 1
    got: list[np.ndarray] = []

    def levels() -> list[tuple[int, int]]:
        """(records of the output ring so far, level) of each BACKLOG."""
        return [(at, int(one["aux"])) for at, one in enumerate(got) if int(one["kind"]) == Kind.BACKLOG]

    fed = 0
    while fed < 240:
        fed += b.feed(records(fed + 1, 4))
        b.drain()
    for read in (100, 40, 60, 256):  # less than half is left; still more than a quarter; less than that
        got += list(b.takers[0].pop(read))
        b.drain()
    got += list(b.take())
    assert [level for _, level in levels()] == [1, 2, 1, 0]
    assert levels()[0][0] == 128 and levels()[1][0] >= 231, "half of 256, and nine tenths"
    kinds = [int(one["kind"]) for one in got]
    assert kinds.count(Kind.TRADE) == 240


@pytest.mark.parametrize(("source", "levels"), [(2, [2]), (3, []), (6, [])])
def test_targets_make_no_backlog_and_other_inputs_do(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, source: int, levels: list[int]
) -> None:
    monkeypatch.setattr("tests.pump_bench.copies", passes_on)
    b = bench(inputs=7, in_capacity=64, out_capacity=1024, batch=64)
    b.params[p.P_WANTS_BACKLOG] = 1
    assert b.feed(records(1, 60), source) == 60
    b.drain()
    got = b.take()
    assert got["aux"][got["kind"] == Kind.BACKLOG].tolist()[:1] == levels
    assert int((got["kind"] == Kind.TRADE).sum()) == 60


def test_a_stage_that_wants_no_trip_gets_none(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.control.trip(TripSource.OPERATOR)
    b.feed(records(1, 3))
    b.drain()
    assert b.steps() == [(0, 3, 1)]


def test_a_trip_wakes_a_sleeping_stage(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.pump_bench.copies", echoes)
    b = bench()
    b.params[p.P_WANTS_TRIP] = 1
    b.start()
    words = []
    for source in (TripSource.OPERATOR, TripSource.RISK, TripSource.STORAGE):
        sleep(0.02)
        words.append(b.control.trip(source))
        until(lambda: b.takers[0].produced >= len(words))
    b.finish()
    # Trips that are two instructions may be seen half way: the word in between is a change of its own.
    assert [word for word in trips(b) if word in words] == words


def test_a_trip_for_which_the_journal_has_no_room_is_not_forgotten(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    writer = JournalWriter(tmp_path, "execution", "0" * 8, segment_bytes=192)
    b = bench(journal=writer)
    b.params[p.P_WANTS_TRIP] = 1
    b.feed(records(1, 1))
    assert b.drain() == p.STOPPED  # 64 bytes of file header, an entry of 96: 32 bytes are left
    b.control.trip(TripSource.RISK)
    assert b.drain() == p.JOURNAL_FULL and len(b.steps()) == 1
    writer.roll()
    assert b.drain() == p.STOPPED
    writer.roll()
    assert b.drain() == p.STOPPED
    assert [source for source, _, _ in b.steps()] == [0, TRIP_SOURCE]
