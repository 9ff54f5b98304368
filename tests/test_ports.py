"""The ends of rings for adapters, the journal at the edge, and an instance's memory as one process maps it."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.records import MARKET
from engine.stage import as_bytes
from procs.attach import NotRunning, attach, leave_plan, lock_path, plan_path
from procs.instance import Mapping, Plan, ProcessContext, create_memory
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalFull, JournalWriter
from procs.ports import EdgeJournal, Inlet, Outlet, Turns, ring_own_bell
from procs.states import initial_states
from procs.table import RINGS, Role
from shm.clock import python_monotonic_ns, sleep
from shm.control import Readiness, Stop, TripSource, tripped_sources
from shm.lease import Lease
from shm.segment import SegmentError
from tests.instance_memory import listed_instruments, small_instance


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=16) as made:
        yield made


def numbered(first: int, count: int) -> np.ndarray:
    records = np.zeros(count, MARKET)
    records["ingest_id"] = np.arange(first, first + count)
    return records


def test_records_pass_in_order_over_the_end_of_the_ring_as_far_as_there_is_room(plan: Plan) -> None:
    dice = random.Random(1)
    producer, consumer = ProcessContext(plan, Role.INGESTION), ProcessContext(plan, Role.VALIDATION)
    outlet, inlet = Outlet(producer, "market"), Inlet(consumer, "market", 5)
    given = taken = released = 0
    while taken < 500:
        records = numbered(given, dice.randint(0, 24))
        first = dice.randint(0, len(records))
        room = 16 - (given - released)
        if dice.random() < 0.5:
            reserve = dice.randint(0, 12)
            offered = outlet.offer(as_bytes(numbered(given, 4)), 4, reserve)
            assert offered == (room >= 4 + reserve)
            given += 4 * offered
            records, room = numbered(given, len(records)), room - 4 * offered
        count = outlet.give(as_bytes(numbered(given - first, first + len(records))), len(records), first)
        assert count == min(len(records), room)
        given += count
        for _ in range(dice.randint(0, 4)):
            found = inlet.take()
            # It looks at the producer's cursor again only when it knows of nothing more.
            assert min(1, given - taken) <= found <= min(5, given - taken)
            assert inlet.records["ingest_id"][:found].tolist() == list(range(taken, taken + found))
            taken += found
        assert (outlet.published, inlet.cursor) == (given, taken)
        if dice.random() < 0.7:
            inlet.release()
            released = taken
    ring = producer.ring("market")
    assert (ring.produced, ring.consumed, ring.dropped) == (given, released, 0)
    outlet.drop(3)
    assert ring.dropped == 3
    producer.close()
    consumer.close()


def test_a_successor_stands_where_it_is_told(plan: Plan) -> None:
    context = ProcessContext(plan, Role.VALIDATION)
    outlet, inlet = Outlet(context, "market"), Inlet(context, "market", 16)
    outlet.give(as_bytes(numbered(0, 10)), 10)
    assert inlet.take() == 10
    again = Inlet(ProcessContext(plan, Role.VALIDATION), "market", 16)
    again.seek(7)
    assert again.take() == 3 and again.records["ingest_id"][:3].tolist() == [7, 8, 9]
    context.close()


def test_waiting_ends_with_a_record_a_bell_or_the_time(plan: Plan) -> None:
    context = ProcessContext(plan, Role.VALIDATION)
    inlet = Inlet(context, "market", 4)
    assert inlet.wait(0) == 0
    before = python_monotonic_ns()
    assert inlet.wait(5_000_000) == 0
    assert python_monotonic_ns() - before >= 4_000_000
    outlet = Outlet(Mapping(plan), "market")
    thread = threading.Thread(target=lambda: (sleep(0.002), outlet.give(as_bytes(numbered(0, 2)), 2)))
    thread.start()
    until = python_monotonic_ns() + 5_000_000_000
    while not (ready := inlet.wait(10_000_000)) and python_monotonic_ns() < until:
        pass
    thread.join()
    assert ready == 2 == inlet.wait(0)
    context.close()


def test_a_bell_of_ones_own_wakes(plan: Plan) -> None:
    context = ProcessContext(plan, Role.GATEWAY)
    woken = threading.Event()
    bell = context.bell

    def wait() -> None:
        for _ in range(500):
            before = int(context.control.bells[bell.at])
            bell.wait(10_000_000, lambda b=before: int(context.control.bells[bell.at]) != b)  # type: ignore[misc]
            if int(context.control.bells[bell.at]) != before:
                woken.set()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(500):
        ring_own_bell(context)
        if woken.wait(0.01):
            break
    thread.join()
    assert woken.is_set()
    context.close()


def test_turns_beat_count_and_tell_when_to_stop(plan: Plan) -> None:
    context = ProcessContext(plan, Role.ML)
    turns = Turns(context)
    assert turns.turn(0) == Stop.RUN and turns.turn(5) == Stop.RUN and turns.turn(2) == Stop.RUN
    assert context.control.progress(Role.ML) == 7
    assert 0 <= context.now_ns() - context.control.heartbeat(Role.ML) < 5_000_000_000
    context.control.request_stop(Role.ML, Stop.DRAIN)
    assert turns.turn(0) == Stop.DRAIN == context.stop
    assert not turns.orphaned
    context.ready()
    assert context.control.readiness(Role.ML) == Readiness.READY
    context.close()


def test_only_without_supervisor_and_launcher_is_a_process_an_orphan(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent may die, and the launcher after it: as long as somebody holds the lease it is looked after."""
    context = ProcessContext(dataclasses.replace(plan, launcher_pid=4_000_000), Role.ML)
    turns = Turns(context)
    monkeypatch.setattr(os, "getppid", lambda: 4_000_000)
    assert not turns.orphaned
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert turns.orphaned and not lock_path(plan.name).exists()
    lease = Lease.acquire(lock_path(plan.name))
    assert not turns.orphaned
    lease.release()
    assert turns.orphaned
    lock_path(plan.name).unlink()
    context.close()


def test_looking_again_and_again_maps_nothing_more(plan: Plan) -> None:
    """A status line every few seconds, for days: each look must cost nothing that stays."""
    mapping = Mapping(plan, read_only=True)

    def look() -> None:
        for role in (Role.EXECUTION, Role.INGESTION, Role.FEATURES):
            mapping.state(role)
        for spec in RINGS:
            mapping.ring(spec.name)
        mapping.histogram(Role.EXECUTION, "origin")

    look()
    descriptors, maps = len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count(plan.name)
    for _ in range(50):
        look()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert Path("/proc/self/maps").read_text().count(plan.name) == maps
    mapping.close()
    assert Path("/proc/self/maps").read_text().count(plan.name) == 0


def test_states_begin_as_made_and_are_shared(plan: Plan) -> None:
    wanted = initial_states(plan.settings, plan.instruments)
    one, two = Mapping(plan), Mapping(plan, read_only=True)
    for role, state in wanted.items():
        assert one.state(role).tobytes() == state.tobytes() == two.state(role).tobytes()
    one.state(Role.EXECUTION)["now_ns"] = 5
    assert two.state(Role.EXECUTION)["now_ns"] == 5
    with pytest.raises(ValueError, match="read-only"):
        two.state(Role.EXECUTION)["now_ns"] = 6
    one.close()
    two.close()


def test_memory_of_another_build_or_another_shape_is_refused(plan: Plan) -> None:
    with pytest.raises(SegmentError, match="kernel"):
        Mapping(dataclasses.replace(plan, kernel_digest="1" * 64))
    other = Mapping(dataclasses.replace(plan, capacities={spec.name: 32 for spec in RINGS}))
    with pytest.raises(SegmentError):
        other.ring("market")
    other.close()
    with pytest.raises(SegmentError, match="exists"):
        create_memory(plan, initial_states(plan.settings, plan.instruments))


def test_a_plan_comes_back_from_json_whole_and_holds_no_secret(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert b"api_key" not in text and b'"secret"' not in text


def test_attaching_needs_a_living_supervisor(plan: Plan) -> None:
    path, lock = plan_path(plan.name), lock_path(plan.name)
    try:
        with pytest.raises(NotRunning, match="no engine named"):
            attach(plan.name)
        leave_plan(plan.name, plan.to_json())
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(NotRunning, match="died and left its memory"):
            attach(plan.name)
        with Lease.acquire(lock):
            mapping = attach(plan.name)
            assert mapping.plan == plan
            mapping.close()
            path.write_bytes(plan.to_json()[:-10])
            with pytest.raises(NotRunning, match="no engine named"):
                attach(plan.name)
    finally:
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def test_the_journal_at_the_edge_writes_what_it_is_given(plan: Plan) -> None:
    context = ProcessContext(plan, Role.GATEWAY)
    journal = EdgeJournal(context)
    for number in range(1, 50):
        assert journal.write(Entry.PRIVATE, bytes([number]) * number, number, source=number % 3, count=number)
        assert journal.ordinal == number
    journal.close()
    entries = list(read_stream(plan.path, "gateway"))
    assert [(e.kind, e.payload, e.ts_ns, e.source, e.count) for e in entries] == [
        (Entry.PRIVATE, bytes([n]) * n, n, n % 3, n) for n in range(1, 50)
    ]
    assert not context.control.tripped
    context.close()


class SmallDisk:
    """A journal of small segments, on a disk that is full or not."""

    def __init__(self, context: ProcessContext, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.asked = 0  # how often there was no room
        make: Any = JournalWriter._make

        def make_if_room(writer: JournalWriter, number: int, size: int) -> Any:
            if self.full:
                self.asked += 1
                raise JournalFull(errno.ENOSPC, "no room")
            return make(writer, number, size)

        monkeypatch.setattr(JournalWriter, "_make", make_if_room)
        monkeypatch.setattr("procs.ports.JournalWriter", lambda *a, **k: JournalWriter(*a, **k, segment_bytes=1024))
        self.journal = EdgeJournal(context)


def test_a_full_disk_trips_while_there_is_room_for_the_tail(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ProcessContext(plan, Role.GATEWAY)
    disk = SmallDisk(context, monkeypatch)
    disk.full = True
    journal = disk.journal
    written = [journal.write(Entry.PRIVATE, b"x" * 32, 1) for _ in range(20)]
    assert context.control.tripped and tripped_sources(context.control.word) == [TripSource.STORAGE]
    # 64 bytes of file header, 64 an entry: 15 fit; the trip came at the half, with the other half to spare.
    assert written == [True] * 15 + [False] * 5
    assert disk.asked == 1 + 5, "at the half, and for what finds no room; not at every entry between"
    disk.full = False
    journal.close()
    assert len(list(read_stream(plan.path, "gateway"))) == 15
    word = context.control.word
    assert word >> 16 == 1, "one trip, however often the disk is full"
    context.close()


def test_a_disk_that_fills_up_again_after_a_reset_trips_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ProcessContext(plan, Role.GATEWAY)
    disk = SmallDisk(context, monkeypatch)
    for _ in range(2):
        disk.full = True
        while disk.journal.write(Entry.PRIVATE, b"x" * 32, 1):
            pass
        assert tripped_sources(context.control.word) == [TripSource.STORAGE]
        disk.full = False
        assert context.control.reset(context.control.word)
        assert disk.journal.write(Entry.PRIVATE, b"x" * 32, 1), "room again"
        assert not context.control.tripped
    disk.journal.close()
    context.close()


def test_instruments_of_the_embedded_venue_are_those_of_its_settings() -> None:
    assert [item.symbol for item in listed_instruments()] == ["BTCUSDT", "ETHUSDT"]


def test_a_consumer_that_sleeps_is_rung_when_it_should_be(plan: Plan) -> None:
    producer, consumer = ProcessContext(plan, Role.INGESTION), ProcessContext(plan, Role.VALIDATION)
    outlet, bells, at = Outlet(producer, "market"), consumer.control.bells, consumer.bell.at
    bells[at + 1] = 1  # it says that it sleeps
    rings = [int(bells[at])]
    for act in (
        lambda: outlet.offer(as_bytes(numbered(0, 2)), 2, 0, wake=False), outlet.ring,
        lambda: outlet.offer(as_bytes(numbered(2, 2)), 2, 0),
    ):
        act()
        rings.append(int(bells[at]))
    assert np.diff(rings).tolist() == [0, 1, 1] and outlet.published == 4
    producer.close()
    consumer.close()
