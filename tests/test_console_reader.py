"""What the console reads: levels out of books, the newest records of rings, logs, rates, a whole small instance."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.book import book_set_tick, book_top, book_update, make_books
from engine.execution.order_states import OrderStatus
from engine.records import MARKET, REPORT, Flag, Kind, ReportKind
from engine.safety.mode import Mode
from engine.stage import as_bytes
from procs.attach import NotRunning, plan_path
from procs.checkpoint import HEADER_WORDS, checkpoint_now, load_checkpoint
from procs.deaths import Deaths
from procs.instance import Mapping, Plan, ProcessContext
from procs.ports import Inlet, Outlet, record_latency
from procs.table import HOPS, RING_BY_NAME, Role
from shm.control import Readiness, TripSource
from tests.instance_memory import attachable, small_instance
from tools.console import market
from tools.console.logs import LogTail
from tools.console.market import Recent, best_levels
from tools.console.processes import ProcessWatch, Rates
from tools.console.reader import Reader
from tools.console.snapshot import LATENCY, LOG, Snapshot
from tools.console.snapshot import MARKET as MARKET_PART

S = 1_000_000_000
CAPACITY = 64


# --- books ----------------------------------------------------------------------------------------------------------


@given(st.lists(
    st.tuples(st.sampled_from([1, -1]), st.integers(1, 40_000), st.integers(0, 9), st.booleans()), max_size=120
), st.integers(1, 32))
@settings(max_examples=150)
def test_levels_are_those_of_the_books_own_kernel(updates: list[tuple[int, int, int, bool]], most: int) -> None:
    """Levels near and far, on the tick and off it, given and taken away."""
    books = make_books(1)
    book_set_tick(books, 0, 10)
    for side, ticks, size, off in updates:
        book_update(books, 0, side, 10 * ticks + (3 if off else 0), size)
    for side in (1, -1):
        prices, sizes = np.zeros(most, np.int64), np.zeros(most, np.int64)
        found = book_top(books, 0, side, most, prices, sizes)
        wanted = list(zip(prices[:found].tolist(), sizes[:found].tolist(), strict=True))
        assert best_levels(books[0], side, most) == wanted


# --- rings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=CAPACITY) as made:
        yield made


def pass_by(mapping: Mapping, ring: str, records: np.ndarray) -> None:
    """Give records to a ring and consume them at once, so that it never fills up."""
    outlet = Outlet(mapping, ring)
    inlet = Inlet(ProcessContext(mapping.plan, RING_BY_NAME[ring].consumer), ring, CAPACITY)
    for first in range(0, len(records), CAPACITY):
        some = records[first : first + CAPACITY]
        assert outlet.give(as_bytes(some), len(some)) == len(some)
        while inlet.take():
            inlet.release()


def trades(count: int, instrument: int = 0, first: int = 0) -> np.ndarray:
    records = np.zeros(count, MARKET)
    records["kind"], records["instrument"] = Kind.TRADE, instrument
    records["aux"] = records["recv_ts_ns"] = np.arange(first, first + count)
    records["price"], records["size"], records["side"] = 6_000_010, 5, 1
    return records


def test_nothing_was_missed_before_the_first_look(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its follower is there as soon as the console is; the tape may be looked at minutes later."""
    monkeypatch.setattr(market, "_MOST", 8)
    mapping = Mapping(plan)
    view = Mapping(plan, read_only=True)
    recent = Recent(view.ring("valid"), Kind.TRADE, 6)
    pass_by(mapping, "valid", trades(20))
    recent.look()
    assert [int(item["aux"]) for item in recent.newest(0)] == [19, 18, 17, 16, 15, 14] and recent.missed == 0
    pass_by(mapping, "valid", trades(3, 0, 100))
    recent.look_away()
    recent.look()
    assert [int(item["aux"]) for item in recent.newest(0)] == [102, 101, 100, 19, 18, 17] and recent.missed == 0
    pass_by(mapping, "valid", trades(20, 0, 200))
    recent.look()
    assert recent.missed == 12 and int(recent.newest(0)[0]["aux"]) == 219
    view.close()
    mapping.close()


def test_the_newest_records_of_one_kind_by_instrument(plan: Plan) -> None:
    mapping = Mapping(plan)
    clocks = trades(5)
    clocks["kind"] = Kind.CLOCK
    pass_by(mapping, "valid", np.concatenate((trades(10), clocks, trades(10, 1, 10))))
    view = Mapping(plan, read_only=True)
    recent = Recent(view.ring("valid"), Kind.TRADE, 6)
    recent.look()
    assert [int(item["aux"]) for item in recent.newest(0)] == [9, 8, 7, 6, 5, 4]
    assert [int(item["aux"]) for item in recent.newest(1)] == [19, 18, 17, 16, 15, 14]
    assert [int(item["aux"]) for item in recent.newest_of_all()] == [19, 18, 17, 16, 15, 14]
    pass_by(mapping, "valid", trades(2, 0, 100))
    recent.look()
    assert [int(item["aux"]) for item in recent.newest(0)][:3] == [101, 100, 9] and recent.missed == 0
    pass_by(mapping, "valid", trades(10 * CAPACITY, 0, 200))
    recent.look()
    assert recent.missed == 9 * CAPACITY and int(recent.newest(0)[0]["aux"]) == 199 + 10 * CAPACITY
    assert recent.newest(7) == []
    recent.look_away()
    pass_by(mapping, "valid", trades(10 * CAPACITY, 0, 5000))
    recent.look()
    assert recent.missed == 9 * CAPACITY and int(recent.newest(0)[0]["aux"]) == 4999 + 10 * CAPACITY
    view.close()
    mapping.close()


# --- rates, processes, logs -----------------------------------------------------------------------------------------


def test_rates_are_those_of_the_last_second_or_so() -> None:
    rates = Rates()
    assert rates.per_second("a", 100, 5 * S) is None
    assert rates.per_second("a", 150, 5 * S + S // 2) == 100
    assert rates.per_second("a", 150, 6 * S + S // 4) == 40
    assert rates.per_second("a", 150, 6 * S + S // 2) == 0, "what is older than a second is forgotten"
    assert rates.per_second("a", 3, 9 * S) is None, "a successor begins at nothing"
    assert rates.per_second("a", 5, 10 * S) == 2 and rates.per_second("b", 5, 10 * S) is None


def test_processor_time_of_a_process_and_of_one_that_has_gone() -> None:
    watch = ProcessWatch()
    core, share = watch.look(os.getpid(), S)
    assert core in range(os.cpu_count() or 1) and share is None
    used = os.times()
    while sum(os.times()[:2]) - sum(used[:2]) < 0.05:
        continue
    _, share = watch.look(os.getpid(), 2 * S)
    assert share is not None and 4 <= share <= 100
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert watch.look(gone.pid, S) == (None, None)


def test_logs_come_line_by_line_and_whole(tmp_path: Path) -> None:
    (tmp_path / "venue.log").write_text("old\n")
    (tmp_path / "session.json").write_text("{}\n")
    tail = LogTail(tmp_path)
    assert tail.look() == ("venue: old",)
    with (tmp_path / "supervisor.log").open("a") as log:
        log.write("one\n\ntwo\nthr")
        log.flush()
        assert tail.look() == ("venue: old", "supervisor: one", "supervisor: two")
        log.write("ee\n")
    (tmp_path / "killswitch.jsonl").write_bytes(b'{"event": "tripped"}\n\xff\n')
    assert set(tail.look()[3:]) == {"supervisor: three", 'killswitch: {"event": "tripped"}', "killswitch: \ufffd"}
    (tmp_path / "venue.log").write_text("")
    (tmp_path / "supervisor.log").unlink()
    assert len(tail.look()) == 6
    (tmp_path / "venue.log").write_text("again\n")
    assert tail.look()[-1] == "venue: again"
    for _ in range(3):
        with (tmp_path / "venue.log").open("a") as log:
            log.write("line\n" * 600)
        assert len(tail.look()) <= 1000
    assert LogTail(tmp_path / "gone").look() == ()


# --- an instance ----------------------------------------------------------------------------------------------------


def keep(mapping: Mapping, role: Role) -> None:
    """Write a checkpoint of a state as it is."""
    state = mapping.state(role)
    header = np.zeros(HEADER_WORDS, np.int64)
    load_checkpoint(mapping.arena(role).copy(), as_bytes(state).copy(), header)
    checkpoint_now(mapping.arena(role), as_bytes(state).copy(), header)


@pytest.fixture
def reader(plan: Plan, tmp_path: Path) -> Iterator[Reader]:
    with attachable(plan, tmp_path):
        made = Reader(plan.name)
        yield made
        made.close()


def everything(reader: Reader, symbol: str) -> Snapshot:
    return reader.read(symbol, {MARKET_PART, LATENCY, LOG})


def test_a_snapshot_is_what_lies_in_memory(plan: Plan, reader: Reader) -> None:
    mapping = Mapping(plan)
    item = plan.instruments[0]
    control = mapping.control
    control.supervisor_pid = os.getpid()
    control.set_pid(Role.ML, os.getpid())
    control.set_readiness(Role.ML, Readiness.READY)
    control.beat(Role.ML, mapping.now_ns() - 3 * S)
    Deaths(mapping.deaths()).add(Role.ML, 5)
    row = mapping.state(Role.EXECUTION)[0]
    row["sent"] = 7
    row["strategies"]["books"][0]["faults"][:2] = 2, 1
    row["ledger"]["balance"], row["ledger"]["realised"] = 12_300_000_000, -150_000_000
    row["ledger"]["positions"][0]["size"], row["ledger"]["positions"][0]["cost"] = -2000, 12_000_000_000_000
    row["views"][0]["mark_price"] = 6_010_050_000_000
    for number, status in ((5, OrderStatus.LIVE), (6, OrderStatus.FILLED), (9, OrderStatus.UNKNOWN)):
        slot = row["orders"]["slots"][number]
        slot["order_id"], slot["status"], slot["side"] = number, status, 1
        slot["price"], slot["size"], slot["created_ns"] = 599 * 10**item.price_exp, 4, mapping.now_ns() - S
    keep(mapping, Role.EXECUTION)
    validation = mapping.state(Role.VALIDATION)
    validation["checks"]["valid"][0, 0], validation["audits"]["proven"][0, 0] = 1, 1
    book_set_tick(validation["books"][0], 0, 10**item.price_exp)
    for side, price, size in ((1, 599, 10), (1, 598, 20), (-1, 601, 5)):
        book_update(validation["books"][0], 0, side, price * 10**item.price_exp, size)
    keep(mapping, Role.VALIDATION)
    fill = np.zeros(2, REPORT)
    fill["kind"], fill["order_id"], fill["side"] = [ReportKind.FILL, ReportKind.CANCELLED], 6, -1
    fill["price"], fill["size"], fill["fee"], fill["flags"] = 10**item.price_exp, 1, 960_0000, Flag.MAKER
    pass_by(mapping, "fills", fill)
    pass_by(mapping, "valid", trades(3))
    record_latency(mapping.histogram(*HOPS["wire"]), 40)
    (plan.path / "supervisor.log").write_text("hello\n")

    seen = everything(reader, item.symbol)
    assert (seen.name, seen.paper, seen.supervised, seen.safety.mode) == (plan.name, True, True, "NORMAL")
    assert seen.symbols == tuple(one.symbol for one in plan.instruments)
    ml = next(process for process in seen.processes if process.role == "ml")
    assert (ml.pid, ml.readiness, ml.restarts, ml.missing) == (os.getpid(), "ready", 1, False)
    assert ml.heartbeat_ns is not None and 3 * S <= ml.heartbeat_ns < 60 * S and ml.core is not None
    nobody = next(process for process in seen.processes if process.role == "gateway")
    assert (nobody.pid, nobody.readiness, nobody.missing, nobody.core) == (0, "none", True, None)
    assert next(ring for ring in seen.rings if ring.name == "valid").produced == 3
    account = seen.account
    assert (account.cash, account.pnl["realised"], account.counts["sent"]) == ("123.00000000", "-1.50000000", 7)
    assert account.faults == {"maker": 3}
    held = account.positions[0]
    assert (float(held.size), float(held.entry), float(held.price)) == (-2000 / 10**item.size_exp, 60_000.0, 60_100.5)
    assert [(order.order_id, order.status) for order in account.orders] == [(9, "UNKNOWN"), (5, "LIVE")]
    assert account.orders[0].age_ns >= S and float(account.orders[0].price) == 599
    (only,) = account.fills
    assert (only.order_id, only.side, float(only.fee), only.maker) == (6, -1, 0.096, True)
    market = seen.market
    assert market is not None and market.book == "VALID" and float(market.spread) == 2
    assert [(float(level.price), level.part, level.own) for level in market.bids] == [(599, 0.5, 2), (598, 1.0, 0)]
    assert [float(level.price) for level in market.asks] == [601] and len(market.trades) == 3
    assert seen.since_start["wire"]["count"] == 1 and seen.last_second == {}
    assert seen.log == ("supervisor: hello",)
    mapping.close()


def test_only_what_is_shown_is_read(plan: Plan, reader: Reader) -> None:
    (plan.path / "supervisor.log").write_text("hello\n")
    seen = reader.read(plan.instruments[0].symbol, frozenset())
    assert (seen.market, seen.log, seen.last_second, seen.since_start) == (None, (), {}, {})


def test_the_emergency_word_and_the_mode_are_read_as_they_are(plan: Plan, reader: Reader) -> None:
    mapping = Mapping(plan)
    mapping.control.mode = Mode.PAUSE
    symbol = plan.instruments[0].symbol
    assert everything(reader, symbol).safety.mode == "PAUSE"
    mapping.control.mode = 77
    assert everything(reader, symbol).safety.mode == "EMERGENCY", "what is not known is one"
    word = mapping.control.trip(TripSource.RISK)
    seen = everything(reader, symbol)
    assert seen.safety.word == word and seen.tripped and not seen.safety.dealt_with
    mapping.close()


def test_an_engine_that_is_just_ending(plan: Plan, tmp_path: Path) -> None:
    with attachable(plan, tmp_path):
        segment = next(Path("/dev/shm").glob(f"bot4.{plan.name}.*.ring.fills"))
        segment.unlink()
        with pytest.raises(NotRunning, match="is just ending"):
            Reader(plan.name)


def test_an_engine_that_ends_dies_or_is_another(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        Reader(plan.name)
    with attachable(plan, tmp_path):
        reader = Reader(plan.name)
        assert reader.ending() is None
        content = plan_path(plan.name).read_bytes()
        plan_path(plan.name).unlink()
        ended = reader.ending()
        assert ended is not None and ended.code == 0 and ended.words == f"the engine named {plan.name!r} has ended"
        other = plan_path(plan.name).with_suffix(".other")
        other.write_bytes(content)
        other.rename(plan_path(plan.name))
        again = reader.ending()
        assert again is not None and "another has been started" in again.words
        reader.close()
        reader = Reader(plan.name)
    plan_path(plan.name).touch()
    try:
        reader._plan_file = plan_path(plan.name).stat().st_ino
        died = reader.ending()
        assert died is not None and died.code == 1 and "died and left its memory" in died.words
        mapping = Mapping(plan)
        mapping.control.set_pid(Role.KILLSWITCH, os.getpid())
        assert reader.ending() is None, "its kill switch still works"
        mapping.close()
    finally:
        plan_path(plan.name).unlink()
        reader.close()
