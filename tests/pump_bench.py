"""A pump over real rings with a stage of a few lines, between the two hands of a test.

The stage writes down every step that it was given.
"""

from __future__ import annotations

import mmap
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

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
from procs.journal.writer import JournalWriter
from shm.control import ControlBlock, Stop
from shm.histogram import new_histogram
from shm.ring import Ring
from shm.ring_kernels import CURSOR
from shm.segment import unlink_all

MAX_OUT = 4
ROLE = 9
TRIP_SOURCE = 2
LOG_ROOM = 5_000
# Of the state, int64: how many steps, how many records, then source, count and first ingest id of every step.
STEPS, RECORDS, LOG = 0, 1, 2
MARKET_SIZE = MARKET.itemsize


@kernel(STEP_SIGNATURE)
def copies(
    state: np.ndarray, source: int, inbox: np.ndarray, count: int, outbox: np.ndarray, routes: np.ndarray
) -> int:
    """Write each record `size` times (at most MAX_OUT), to the ring that its venue number names.

    Raises ValueError for a record of price -1.
    """
    words = state.view(np.int64)
    records = inbox[: count * MARKET_SIZE].view(MARKET)
    out = outbox[: outbox.size // MARKET_SIZE * MARKET_SIZE].view(MARKET)
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
    outbox[: count * MARKET_SIZE] = inbox[: count * MARKET_SIZE]
    routes[:count] = 0
    return count


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
        self.passed = np.zeros(1 << 12, np.int64)
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
        self.params[p.P_OUT_SIZE] = MARKET_SIZE
        self.params[p.P_TRIP_SOURCE] = TRIP_SOURCE
        self.params[p.P_IN_LENGTH : p.P_IN_LENGTH + p.MAX_INPUTS] = MARKET_SIZE
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
                tuple(r.slots for r in outputs), np.zeros(batch * MAX_OUT * MARKET_SIZE, np.uint8),
                np.zeros(batch * MAX_OUT, np.uint8), self.control.words, self.control.bells, self.hop, self.origin,
                self.stamps, self.passed, buffer, self.cursor, np.zeros(batch * MARKET_SIZE, np.uint8), self.params,
                self.arena, self.header, self.checkpoint_cost, self.published,
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


@contextmanager
def benches() -> Iterator[Callable[..., Bench]]:
    """A maker of benches, which are closed at the end."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()
