"""The pump over real rings, with stages of a few lines: batches, back-pressure, routes, priorities, trips, journal.

The stage under test writes down every step that it was given; what it was given, in which order, and what reached
the output rings is compared with plain Python.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.kernel import kernel
from engine.records import MARKET, Kind
from engine.stage import STEP_SIGNATURE, as_bytes
from procs import pump as p
from procs.checkpoint import (
    HEADER_WORDS,
    INPUT_CURSOR,
    OUTPUT_CURSOR,
    SLOTS,
    WORD_SEEN,
    checkpoint_now,
    load_checkpoint,
    slot_words,
)
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalWriter
from shm.clock import python_monotonic_ns, python_session_ns, sleep
from shm.control import ControlBlock, Stop, TripSource
from shm.histogram import new_histogram, summary
from shm.ring import Ring
from shm.ring_kernels import CURSOR
from shm.segment import unlink_all
from tests.waiting import until

MAX_OUT = 4
ROLE = 9
TRIP_SOURCE = 2
LOG_ROOM = 5_000
# Of the state, int64: how many steps, how many records, then source, count and first ingest id of every step.
STEPS, RECORDS, LOG = 0, 1, 2
_MARKET_SIZE = MARKET.itemsize


@kernel(STEP_SIGNATURE)
def copies(
    state: np.ndarray, source: int, inbox: np.ndarray, count: int, outbox: np.ndarray, routes: np.ndarray
) -> int:
    """Write each record `size` times (at most MAX_OUT), to the ring that its venue number names.

    Raises ValueError for a record of price -1.
    """
    words = state.view(np.int64)
    records = inbox[: count * _MARKET_SIZE].view(MARKET)
    out = outbox[: outbox.size // _MARKET_SIZE * _MARKET_SIZE].view(MARKET)
    at = LOG + 3 * words[STEPS]
    words[at], words[at + 1], words[at + 2] = source, count, records[0].ingest_id
    words[STEPS] += 1
    words[RECORDS] += count
    written = 0
    for index in range(count):
        if records[index].price == -1:
            raise ValueError("a record that the stage cannot take")
        for copy in range(records[index].size):
            out[written] = records[index]
            out[written].aux = copy
            routes[written] = records[index].venue
            written += 1
    return written


def records(first_id: int, count: int, dice: random.Random | None = None, **fields: int) -> np.ndarray:
    """`count` MARKET records with rising ingest ids; with dice they are copied 0 to MAX_OUT times, else once."""
    made = np.zeros(count, MARKET)
    made["ingest_id"] = np.arange(first_id, first_id + count)
    made["kind"] = Kind.TRADE
    made["size"] = [dice.randint(0, MAX_OUT) if dice else 1 for _ in range(count)]
    for name, value in fields.items():
        made[name] = value
    return made


def copied(given: np.ndarray) -> np.ndarray:
    """What the stage makes of records."""
    made = np.repeat(given, given["size"])
    made["aux"] = [copy for size in given["size"].tolist() for copy in range(size)]
    return made


class Bench:
    """A pump with its rings, between the two hands of a test."""

    def __init__(
        self, inputs: int = 1, outputs: int = 1, in_capacity: int = 64, out_capacity: int = 64, batch: int = 8,
        journal: JournalWriter | None = None,
    ) -> None:
        self.instance = f"pump-{uuid.uuid4().hex[:8]}"
        shared: dict[str, Any] = {"instance": self.instance, "kernel_digest": "0" * 64}
        self.control = ControlBlock.create(**shared)
        self.inputs = [Ring.create(f"in{n}", MARKET, in_capacity, **shared) for n in range(inputs)]
        self.outputs = [Ring.create(f"out{n}", MARKET, out_capacity, **shared) for n in range(outputs)]
        self.state = np.zeros(LOG + 3 * LOG_ROOM, np.int64)
        self.hop, self.origin = new_histogram(), new_histogram()
        self.stamps = np.zeros(1 << 12, np.int64)
        self.published = np.zeros(out_capacity, np.int64)
        self.journal = journal
        self.cursor = np.zeros(2, np.int64)
        self.params = np.zeros(p.PARAM_COUNT, np.int64)
        self.params[[p.P_INPUTS, p.P_OUTPUTS, p.P_BATCH, p.P_MAX_OUT]] = inputs, outputs, batch, MAX_OUT
        self.params[p.P_CLOCK_OFFSET] = self.control.session_offset_ns
        self.params[p.P_ROLE] = ROLE
        self.params[p.P_OWN_BELL] = self.control.doorbell(ROLE).at
        self.params[p.P_JOURNAL] = journal is not None
        self.params[p.P_STAMP_ALL] = 1
        self.params[p.P_OUT_SIZE] = _MARKET_SIZE
        self.params[p.P_TRIP_SOURCE] = TRIP_SOURCE
        self.params[p.P_IN_LENGTH : p.P_IN_LENGTH + p.MAX_INPUTS] = _MARKET_SIZE
        for route in range(outputs):
            self.params[p.P_OUT_BELL + route] = self.control.doorbell(ROLE + 1 + route).at
        # The hands of the test have private cursors of their own.
        self.feeders = [Ring.attach(f"in{n}", MARKET, in_capacity, **shared) for n in range(inputs)]
        self.takers = [Ring.attach(f"out{n}", MARKET, out_capacity, **shared) for n in range(outputs)]
        self.arena = np.frombuffer(mmap.mmap(-1, 8 * SLOTS * slot_words(self.state.nbytes)), np.int64)
        self.header = np.zeros(HEADER_WORDS, np.int64)
        self.checkpoint_cost = new_histogram()
        self.failure: BaseException | None = None
        self.outcome: int | None = None
        self._thread: threading.Thread | None = None

    def pump(self) -> int:
        """Call the pump as procs/stage_process.py does."""
        inputs = (self.inputs * p.MAX_INPUTS)[: p.MAX_INPUTS]
        outputs = (self.outputs * p.MAX_OUTPUTS)[: p.MAX_OUTPUTS]
        batch = int(self.params[p.P_BATCH])
        buffer = np.zeros(8, np.uint8)
        if self.journal is not None:
            buffer = self.journal.buffer()
            self.cursor[:] = self.journal.offset, self.journal.ordinal
        outcome = int(
            p.pump(
                copies, as_bytes(self.state), tuple(r.control for r in inputs), tuple(r.consumer for r in inputs),
                tuple(r.slots for r in inputs), tuple(r.control for r in outputs), tuple(r.producer for r in outputs),
                tuple(r.slots for r in outputs), np.zeros(batch * MAX_OUT * _MARKET_SIZE, np.uint8),
                np.zeros(batch * MAX_OUT, np.uint8), self.control.words, self.control.bells, self.hop, self.origin,
                self.stamps, buffer, self.cursor, np.zeros(batch * _MARKET_SIZE, np.uint8), self.params, self.arena,
                self.header, self.checkpoint_cost, self.published,
            )
        )
        if self.journal is not None:
            self.journal.adopt(int(self.cursor[0]), int(self.cursor[1]))
        return outcome

    def drain(self) -> int:
        """Run until the inputs are empty."""
        self.control.request_stop(ROLE, Stop.DRAIN)
        outcome = self.pump()
        self.control.clear_role(ROLE)
        return outcome

    def start(self) -> None:
        """Run in a thread until `finish`."""

        def body() -> None:
            try:
                self.outcome = self.pump()
            except BaseException as error:
                self.failure = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def finish(self, stop: Stop = Stop.DRAIN) -> int | None:
        self.control.request_stop(ROLE, stop)
        assert self._thread is not None
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.outcome

    def checkpoints(self, every_records: int, every_ns: int = 10**15) -> None:
        """Free input slots by checkpoints from now on; the first one is the state as it is."""
        self.params[[p.P_CHECKPOINT, p.P_CHECKPOINT_RECORDS, p.P_CHECKPOINT_NS]] = 1, every_records, every_ns
        checkpoint_now(self.arena, as_bytes(self.state), self.header)

    def succeed(self) -> None:
        """Stand where a predecessor's effects end, as procs/stage_process.py does, with nothing but shared memory."""
        self.inputs = [self._again(ring) for ring in self.inputs]
        self.outputs = [self._again(ring) for ring in self.outputs]
        self.state[:] = -1
        assert load_checkpoint(self.arena, as_bytes(self.state), self.header)
        for source, ring in enumerate(self.inputs):
            ring.consumer[CURSOR] = self.header[INPUT_CURSOR + source]
        for route, ring in enumerate(self.outputs):
            self.params[p.P_SUPPRESS + route] = ring.producer[CURSOR] - self.header[OUTPUT_CURSOR + route]
        self.params[p.P_WORD_SEEN] = self.header[WORD_SEEN]

    def _again(self, ring: Ring) -> Ring:
        name = ring.segment.header.name
        return Ring.attach(name, MARKET, ring.capacity, instance=self.instance, kernel_digest="0" * 64)

    def feed(self, given: np.ndarray, source: int = 0) -> int:
        taken = self.feeders[source].push(given)
        self.control.doorbell(ROLE).ring()
        return taken

    def take(self, route: int = 0) -> np.ndarray:
        """Everything that has come out."""
        parts = [np.zeros(0, MARKET)]
        while len(batch := self.takers[route].pop(1000)):
            parts.append(batch.copy())
        return np.concatenate(parts)

    def steps(self) -> list[tuple[int, int, int]]:
        """Source, count and first ingest id of every step."""
        log = self.state[LOG : LOG + 3 * int(self.state[STEPS])].reshape(-1, 3)
        return [tuple(row) for row in log.tolist()]  # type: ignore[misc]

    def close(self) -> None:
        if self.running:
            self.finish(Stop.NOW)
        unlink_all(self.instance)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("batch", [1, 5, 16, 64])
def test_everything_passes_in_order_in_batches_that_never_wrap(bench: Callable[..., Bench], batch: int) -> None:
    dice = random.Random(batch)
    b = bench(in_capacity=16, out_capacity=128, batch=batch)
    given, got, next_id = [], [], 1
    while next_id < 400:
        chunk = records(next_id, dice.randint(1, 16), dice)
        assert b.feed(chunk) == len(chunk)
        assert b.drain() == p.STOPPED
        given.append(chunk)
        got.append(b.take())
        next_id += len(chunk)
    whole = np.concatenate(given)
    assert np.concatenate(got).tobytes() == copied(whole).tobytes()
    cursor = 0
    for source, count, first_id in b.steps():
        assert source == 0 and first_id == cursor + 1 and 1 <= count <= min(batch, 16)
        assert cursor % 16 + count <= 16, "a batch lies side by side in the ring"
        cursor += count
    assert cursor == len(whole)
    assert summary(b.hop)["count"] == len(b.steps())


def test_a_full_output_ring_holds_the_stage_back_and_loses_nothing(bench: Callable[..., Bench]) -> None:
    dice = random.Random(7)
    b = bench(in_capacity=64, out_capacity=16, batch=8)
    whole = records(1, 600, dice)
    b.start()
    fed, got = 0, []
    while fed < len(whole) or sum(map(len, got)) < len(copied(whole)):
        fed += b.feed(whole[fed : fed + dice.randint(1, 32)])
        if dice.random() < 0.6:
            got.append(b.takers[0].pop(dice.randint(1, 9)).copy())
        assert b.takers[0].in_flight <= 16
    assert b.finish() == p.STOPPED
    assert np.concatenate(got).tobytes() == copied(whole).tobytes()
    # Each step must have had room for the most that it could write.
    assert max(count for _, count, _ in b.steps()) <= 16 // MAX_OUT
    assert int(b.control.progress(ROLE)) == 600


def test_a_drain_waits_for_room_and_now_does_not(bench: Callable[..., Bench]) -> None:
    for stop in (Stop.DRAIN, Stop.NOW):
        b = bench(out_capacity=8, batch=8)
        b.feed(records(1, 20, size=2))
        b.start()
        # 8 places and at most 4 copies a record: two records at a time, until 5 places are taken at the least.
        until(lambda b=b: b.takers[0].in_flight > 4)  # type: ignore[misc]
        b.control.request_stop(ROLE, stop)
        if stop == Stop.NOW:
            until(lambda b=b: not b.running)  # type: ignore[misc]
            assert b.outcome == p.STOPPED and int(b.state[RECORDS]) < 20
            assert b.inputs[0].consumed == int(b.state[RECORDS])
            continue
        sleep(0.05)
        assert b.running, "stopped with inputs that it had not taken"
        got = []
        while b.running:
            got.append(b.take())
        got.append(b.take())
        assert np.concatenate(got).tobytes() == copied(records(1, 20, size=2)).tobytes()


def test_now_takes_nothing_more(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.feed(records(1, 10))
    b.control.request_stop(ROLE, Stop.NOW)
    assert b.pump() == p.STOPPED
    assert b.steps() == [] and b.inputs[0].consumed == 0
    b.control.clear_role(ROLE)
    b.control.words[:] = b.control.words  # the block is as before; an unknown order reads NOW
    b.control.request_stop(ROLE, 77)  # type: ignore[arg-type]
    assert b.pump() == p.STOPPED and b.steps() == []


def test_outputs_go_where_their_routes_say(bench: Callable[..., Bench]) -> None:
    dice = random.Random(3)
    b = bench(outputs=2, in_capacity=64, out_capacity=64, batch=7)
    given, got = [], ([], [])  # type: ignore[var-annotated]
    for start in range(1, 400, 14):
        chunk = records(start, 14, dice)
        chunk["venue"] = [dice.randint(0, 1) for _ in range(14)]
        b.feed(chunk)
        assert b.drain() == p.STOPPED
        given.append(chunk)
        for route in (0, 1):
            got[route].append(b.take(route))
    whole = copied(np.concatenate(given))
    for route in (0, 1):
        expected = whole[whole["venue"] == route]
        assert len(expected) > 100
        assert np.concatenate(got[route]).tobytes() == expected.tobytes()


def test_one_full_output_of_two_holds_everything_back(bench: Callable[..., Bench]) -> None:
    """What the stage will write is not known before its step, so there must be room in both."""
    b = bench(outputs=2, out_capacity=8)
    b.feed(records(1, 6, venue=1))
    b.start()
    until(lambda: int(b.state[RECORDS]) >= 5)
    sleep(0.05)
    assert int(b.state[RECORDS]) == 5, "with three places left no record is taken"
    b.take(1)
    until(lambda: int(b.state[RECORDS]) == 6)
    b.finish()
    assert len(b.take(0)) == 0


def test_without_outputs_nothing_is_published(bench: Callable[..., Bench]) -> None:
    b = bench(out_capacity=4)
    b.params[p.P_OUTPUTS] = 0
    b.feed(records(1, 50))
    assert b.drain() == p.STOPPED
    assert int(b.state[RECORDS]) == 50 and b.takers[0].produced == 0


def test_later_sources_go_first_and_none_is_starved(bench: Callable[..., Bench]) -> None:
    b = bench(inputs=3, in_capacity=32, out_capacity=128, batch=4)
    for source in range(3):
        b.feed(records(1000 * source + 1, 10), source)
    assert b.drain() == p.STOPPED
    expected = [
        (source, count, 1000 * source + first)
        for first, count in ((1, 4), (5, 4), (9, 2)) for source in (2, 1, 0)
    ]
    assert b.steps() == expected


def trips(b: Bench) -> list[int]:
    """The emergency words of the TRIP records that came out."""
    got = b.take()
    return got["aux"][got["kind"] == Kind.TRIP].tolist()


@kernel(STEP_SIGNATURE)
def echoes(
    state: np.ndarray, source: int, inbox: np.ndarray, count: int, outbox: np.ndarray, routes: np.ndarray
) -> int:
    """Pass on what comes from the trip source, with its source number in `venue`; count the rest."""
    words = state.view(np.int64)
    words[STEPS] += 1
    if source != TRIP_SOURCE:
        return 0
    outbox[: count * _MARKET_SIZE] = inbox[: count * _MARKET_SIZE]
    routes[:count] = 0
    return count


def test_a_trip_is_stepped_once_for_each_change_of_the_word(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_pump.copies", echoes)
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
    for index in range(count * _MARKET_SIZE):
        outbox[index] = inbox[index]
    for index in range(count):
        routes[index] = 0
    return count


def test_a_backlog_is_stepped_once_for_each_level(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the output, as when the gateway is stopped: half full, nearly full; then it is read again."""
    monkeypatch.setattr("tests.test_pump.copies", passes_on)
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


def test_a_stage_that_wants_no_trip_gets_none(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.control.trip(TripSource.OPERATOR)
    b.feed(records(1, 3))
    b.drain()
    assert b.steps() == [(0, 3, 1)]


def test_a_trip_wakes_a_sleeping_stage(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_pump.copies", echoes)
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


def test_what_is_journaled_is_what_was_stepped(bench: Callable[..., Bench], tmp_path: Path) -> None:
    dice = random.Random(11)
    writer = JournalWriter(tmp_path, "execution", "0" * 8, segment_bytes=1 << 20)
    b = bench(inputs=3, in_capacity=32, out_capacity=1024, batch=6, journal=writer)
    b.params[p.P_WANTS_TRIP] = 1
    # Of source 0 a slice is enough: price and size.
    start = MARKET.fields["price"][1]  # type: ignore[index]
    b.params[p.P_IN_SLICE], b.params[p.P_IN_LENGTH] = start, 16
    sent: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    next_id = 1
    for turn in range(40):
        for source in range(3):
            chunk = records(next_id, dice.randint(1, 9), price=next_id * 7)
            next_id += len(chunk)
            sent[source].append(chunk)
            b.feed(chunk, source)
        if turn in (13, 21):
            b.control.trip(TripSource.RISK)
        assert b.drain() == p.STOPPED
        b.take()
    writer.close()
    entries = list(read_stream(tmp_path, "execution"))
    assert [entry.kind for entry in entries] == [Entry.BATCH] * len(entries)
    assert [(entry.source, entry.count) for entry in entries] == [(s, n) for s, n, _ in b.steps()]
    assert all(a.ts_ns <= z.ts_ns for a, z in itertools.pairwise(entries))
    trip_entries = [
        entry for entry in entries if entry.source == 2 and np.frombuffer(entry.payload, MARKET)[0]["kind"] == Kind.TRIP
    ]
    assert len(trip_entries) == 2
    for source in range(3):
        payload = b"".join(e.payload for e in entries if e.source == source and e not in trip_entries)
        whole = np.concatenate(sent[source])
        if source == 0:
            pairs = np.frombuffer(payload, np.int64).reshape(-1, 2)
            assert pairs.tolist() == np.stack([whole["price"], whole["size"]], axis=1).tolist()
        else:
            assert payload == whole.tobytes()


def test_a_full_journal_segment_comes_back_with_nothing_taken_and_nothing_lost(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    writer = JournalWriter(tmp_path, "execution", "0" * 8, segment_bytes=4096)
    b = bench(in_capacity=256, out_capacity=256, batch=8, journal=writer)
    b.params[p.P_WANTS_TRIP] = 1
    whole = records(1, 200)
    b.feed(whole)
    word = b.control.trip(TripSource.RISK)
    b.control.request_stop(ROLE, Stop.DRAIN)
    rolls = 0
    while (outcome := b.pump()) == p.JOURNAL_FULL:
        assert int(b.state[RECORDS]) == b.inputs[0].consumed + 1, "the trip, and as many records as were released"
        assert sum(count for _, count, _ in b.steps()) == int(b.state[RECORDS])
        writer.prepare_next()
        writer.roll()
        rolls += 1
    assert outcome == p.STOPPED and rolls >= 3
    writer.close()
    entries = list(read_stream(tmp_path, "execution"))
    assert [(entry.source, entry.count) for entry in entries] == [(s, n) for s, n, _ in b.steps()]
    assert entries[0].source == TRIP_SOURCE and np.frombuffer(entries[0].payload, MARKET)[0]["aux"] == word
    assert b"".join(entry.payload for entry in entries[1:]) == whole.tobytes()
    got = b.take()
    assert got[got["kind"] != Kind.TRIP].tobytes() == copied(whole).tobytes()


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


def test_an_error_of_the_stage_comes_out_and_its_batch_is_not_released(bench: Callable[..., Bench]) -> None:
    b = bench(batch=4)
    given = records(1, 12)
    given["price"][9] = -1
    b.feed(given)
    with pytest.raises(ValueError, match="a record that the stage cannot take"):
        b.drain()
    assert b.inputs[0].consumed == 8
    assert b.take().tobytes() == copied(given[:8]).tobytes()


def test_latency_is_counted_a_step_and_since_the_frame_where_it_has_a_stamp(bench: Callable[..., Bench]) -> None:
    b = bench(inputs=2, batch=5)
    now = python_session_ns(b.control.session_offset_ns)
    b.stamps[:] = now - 3_000_000
    b.stamps[15] = 0  # of this frame nothing is known
    b.feed(records(1, 20))
    b.feed(records(500, 7), 1)
    b.drain()
    steps = b.steps()
    assert summary(b.hop)["count"] == len(steps) == 6
    # The last record of a batch of the main source stands for it: 5, 10, 15 (no stamp), 20.
    origin = summary(b.origin)
    assert origin["count"] == 3 and origin["p50"] >= 3_000_000
    b.params[p.P_STAMP_ALL] = 0
    b.feed(records(1, 5, size=0))
    b.feed(records(500, 5), 1)
    b.drain()
    assert summary(b.origin)["count"] == 3, "only what had output, and only of the main source"


@pytest.mark.parametrize("batch", [1, 8])
def test_each_record_that_had_output_has_a_latency_of_its_own(bench: Callable[..., Bench], batch: int) -> None:
    """However the records came together in batches; an output whose cause is older than its batch has no sample."""
    b = bench(batch=batch)
    b.params[p.P_STAMP_ALL] = 0
    now = python_session_ns(b.control.session_offset_ns)
    b.stamps[:] = now - 1_000_000_000
    b.stamps[13] = 0
    given = records(10, 8)
    given["size"] = [0, 1, 3, 1, 0, 2, 4, 0]  # of 13 nothing is known: four causes with a stamp
    b.feed(given)
    b.drain()
    origin = summary(b.origin)
    assert origin["count"] == 4 and origin["max"] >= 1_000_000_000
    late = records(30, 2)
    late["ingest_id"] = [30, 3]  # what a timer says carries the id that was seen last before the batch
    b.feed(late)
    b.drain()
    assert summary(b.origin)["count"] == (6 if batch == 1 else 5)


def test_the_time_of_publishing_lies_at_the_cursor_of_each_record(bench: Callable[..., Bench]) -> None:
    b = bench(out_capacity=16, batch=4)
    b.feed(records(1, 3))
    b.drain()
    assert not b.published.any(), "only where it is asked for"
    b.params[p.P_STAMP_PUBLISHED] = 1
    for first in (4, 12, 20):
        before = python_session_ns(b.control.session_offset_ns)
        b.take()
        b.feed(records(first, 8))
        b.drain()
        after = python_session_ns(b.control.session_offset_ns)
        stamps = [int(b.published[(first - 1 + index) % 16]) for index in range(8)]
        assert before <= stamps[0] and stamps == sorted(stamps) and stamps[-1] <= after
        assert len(set(stamps)) >= 2, "a stamp for each of the batches, which are of four at the most"


def test_a_successor_leaves_the_stamps_of_what_its_predecessor_published(bench: Callable[..., Bench]) -> None:
    b = bench(out_capacity=16)
    b.params[p.P_STAMP_PUBLISHED] = 1
    b.checkpoints(every_records=1000)
    b.feed(records(1, 5))
    b.control.request_stop(ROLE, Stop.RUN)
    b.start()
    until(lambda: b.takers[0].in_flight == 5)
    b.finish(Stop.NOW)  # without a checkpoint of what it published
    b.control.clear_role(ROLE)
    stamps = b.published.copy()
    b.succeed()
    b.feed(records(6, 2))
    b.drain()
    assert b.take()["ingest_id"].tolist() == list(range(1, 8))
    assert b.published[:5].tolist() == stamps[:5].tolist() and stamps[:5].all()
    assert (b.published[5:7] > stamps[:5].max()).all()


def test_a_record_wakes_a_sleeping_stage_and_its_consumer_is_rung(bench: Callable[..., Bench]) -> None:
    b = bench()
    bell = b.control.doorbell(ROLE + 1)
    b.start()
    for number in range(1, 20):
        sleep(0.003)
        b.feed(records(number, 1))
        # The consumer sleeps on its own bell and must be woken for each.
        until(lambda n=number: bell.wait(2_000_000_000, lambda: b.takers[0].produced >= n))  # type: ignore[misc]
    assert b.finish() == p.STOPPED
    assert b.control.heartbeat(ROLE) > 0


def test_a_spinning_stage_never_sleeps_and_stops(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.params[p.P_SPIN] = 1
    b.start()
    b.feeders[0].push(records(1, 9))  # no bell
    until(lambda: b.takers[0].produced == 9)
    assert b.finish() == p.STOPPED


# --- checkpoints and successors -------------------------------------------------------------------------------------


def test_input_slots_are_freed_by_checkpoints_only(bench: Callable[..., Bench]) -> None:
    b = bench(in_capacity=64, out_capacity=256, batch=8)
    b.checkpoints(every_records=24)
    b.start()
    b.feed(records(1, 20))
    until(lambda: b.takers[0].produced == 20)
    sleep(0.03)
    assert b.inputs[0].consumed == 0, "read ahead, and nothing freed"
    b.feed(records(21, 20))
    until(lambda: b.inputs[0].consumed >= 24)
    assert b.finish() == p.STOPPED
    assert b.inputs[0].consumed == 40, "the last checkpoint of a drain covers everything"
    assert summary(b.checkpoint_cost)["count"] >= 1


def test_a_checkpoint_is_due_by_time_too(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.checkpoints(every_records=10**6, every_ns=20_000_000)
    b.start()
    b.feed(records(1, 3))
    until(lambda: b.inputs[0].consumed == 3)
    taken = summary(b.checkpoint_cost)["count"]
    sleep(0.08)
    assert summary(b.checkpoint_cost)["count"] == taken, "with nothing new there is nothing to save"
    b.finish()


def test_a_stage_stopped_at_once_leaves_its_successor_everything(bench: Callable[..., Bench]) -> None:
    b = bench(in_capacity=64, out_capacity=256, batch=8)
    b.checkpoints(every_records=16)
    dice = random.Random(5)
    whole = records(1, 60, dice)
    b.feed(whole[:45])
    b.start()
    until(lambda: b.takers[0].produced == len(copied(whole[:45])))
    b.finish(Stop.NOW)
    b.control.clear_role(ROLE)
    released = b.inputs[0].consumed
    assert 0 < released < 45
    b.succeed()
    assert int(b.state[RECORDS]) == released
    b.feed(whole[45:])
    assert b.drain() == p.STOPPED
    assert b.take().tobytes() == copied(whole).tobytes()
    assert int(b.state[RECORDS]) == 60 and b.inputs[0].consumed == 60
    assert not b.params[p.P_SUPPRESS]


def test_a_trip_is_not_stepped_again_by_a_successor_that_knows_of_it(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_pump.copies", echoes)
    b = bench()
    b.checkpoints(every_records=1)
    b.params[p.P_WANTS_TRIP] = 1
    word = b.control.trip(TripSource.OPERATOR)
    b.drain()
    b.params[p.P_WORD_SEEN] = 0
    b.succeed()
    b.drain()
    assert trips(b) == [word]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_instant_every_record_comes_out_once(
    bench: Callable[..., Bench], outputs: int, seed: int
) -> None:
    """Processes that are killed, again and again, with nothing left but the shared memory."""
    dice = random.Random(100 * outputs + seed)
    b = bench(outputs=outputs, in_capacity=64, out_capacity=128, batch=8)
    b.checkpoints(every_records=dice.choice((4, 13, 16)))
    whole = records(1, 4_000, dice)
    whole["venue"] = [dice.randrange(outputs) for _ in range(len(whole))]
    got: list[list[np.ndarray]] = [[] for _ in range(outputs)]
    fed = kills = 0
    child = 0
    ends_ns = 0

    def take_all() -> None:
        for route in range(outputs):
            got[route].append(b.take(route))

    def expected(route: int) -> np.ndarray:
        made = copied(whole)
        return made[made["venue"] == route]

    totals = [len(expected(route)) for route in range(outputs)]
    try:
        while [sum(map(len, parts)) for parts in got] != totals:
            if not child:
                b.succeed()
                child = os.fork()
                if not child:
                    try:
                        b.pump()
                    finally:
                        os._exit(0)
                ends_ns = python_monotonic_ns() + int(dice.uniform(0.0, 8.0) * 1e6)
                if kills == 30:
                    ends_ns += 10**12  # the last one may finish
            allowed = (kills + 1) * len(whole) // 8  # one life does not see all of them, however fast it is
            fed += b.feed(whole[fed : min(fed + dice.randint(1, 40), allowed)])
            take_all()
            assert all(sum(map(len, parts)) <= total for parts, total in zip(got, totals, strict=True))
            if python_monotonic_ns() > ends_ns:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                b.control.clear_role(ROLE)
                child, kills = 0, kills + 1
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert kills >= 7
    for route in range(outputs):
        assert np.concatenate(got[route]).tobytes() == expected(route).tobytes()
