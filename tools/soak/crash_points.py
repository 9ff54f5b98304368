"""kill -9 at every point between two steps of a ring's writer and of its reader, and what their successors make of it.

The victims are real processes. They run the ring's kernels in a loop with stops between the steps: told to, they
announce that they have come to a point and sleep there until they are killed. So each point is met for certain.
`killed_writer` and `killed_reader` raise BrokenPromise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.stage import BYTES
from procs.embedded.mix import Draws
from shm.atomics import load_acquire, store_release
from shm.clock import python_monotonic_ns, sleep
from shm.doorbell import MAX_WAIT_NS, commit_wait, prepare_wait, ring_bell
from shm.follower import Follower
from shm.lease import Lease
from shm.memory import copy_bytes
from shm.ring import Ring
from shm.ring_kernels import (
    CLAIM,
    CURSOR,
    MASK,
    consumer_advance,
    consumer_read,
    consumer_ready,
    consumer_release,
    producer_claim,
    producer_publish,
    producer_room,
    producer_write,
)
from shm.segment import Segment, layout_hash
from tools.soak.forks import Fork
from tools.soak.ring_exchange import DIGEST, RECORD, fill, intact
from tools.soak.tally import Piece

CAPACITY = 16
BATCH = 5
TOTAL = 64
_HALF = 32  # bytes of a record that a killed writer has copied
_WORDS = 8
_SIZE = 64
_PATIENCE_NS = 30_000_000_000
_POLL_NS = 100_000

# Words of the shared script, then one for each record: what a reader made of it, and how often it was delivered.
POINT = 0
RECORD_AT = 1
REACHED = 2
BELLS = 8  # in the int32 view: the doorbell of the reader; after it the one that nobody rings
EFFECTS = 16
DELIVERIES = EFFECTS + TOTAL
_SCRIPT_WORDS = DELIVERIES + TOTAL

# Where a victim stops; 0 is nowhere.
BEFORE_CLAIM, BEFORE_COPY, MID_COPY, BEFORE_PUBLISH, AFTER_PUBLISH = range(1, 6)
AFTER_READ, BEFORE_RELEASE, AFTER_RELEASE = range(6, 9)
WRITER_POINTS = {
    "before_claim": BEFORE_CLAIM, "before_copy": BEFORE_COPY, "mid_copy": MID_COPY, "before_publish": BEFORE_PUBLISH,
    "after_publish": AFTER_PUBLISH,  # the bell is not rung yet
}
READER_POINTS = {
    "after_read": AFTER_READ,
    "before_release": BEFORE_RELEASE,  # the effect is there, the slots are not free
    "after_release": AFTER_RELEASE,
}

_INT64S = types.Array(types.int64, 1, "C")
_INT32S = types.Array(types.int32, 1, "C")
_LOOP = types.int64(_INT64S, _INT64S, BYTES, BYTES, _INT64S, _INT64S, _INT32S, types.int64)


class BrokenPromise(AssertionError):
    """What a crash left is not what it must be."""


def must(kept: bool, promise: str) -> None:
    """Raise BrokenPromise unless it is kept."""
    if not kept:
        raise BrokenPromise(promise)


# --- the victims ------------------------------------------------------------------------------------------


@kernel()
def is_due(script: np.ndarray, point: int, first: int, count: int) -> bool:
    """Whether this is the point, and these the records, to be killed at."""
    return bool(script[POINT] == point and first <= script[RECORD_AT] < first + count)


@kernel()
def stop_if_due(script: np.ndarray, bells: np.ndarray, point: int, first: int, count: int) -> None:
    """Announce and sleep for ever."""
    if is_due(script, point, first, count):
        store_release(script, REACHED, point)
        while load_acquire(script, REACHED) == point:
            commit_wait(bells, BELLS + 2, prepare_wait(bells, BELLS + 2), MAX_WAIT_NS)


@kernel(_LOOP)
def write_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, source: np.ndarray, words: np.ndarray,
    script: np.ndarray, bells: np.ndarray, total: int,
) -> int:
    """Publish records from the head on, in batches, with stops; returns 0 when `total` are published."""
    while local[CURSOR] < total:
        first = local[CURSOR]
        count = min(BATCH, total - first)
        if producer_room(control, local, count) < count:
            commit_wait(bells, BELLS + 2, prepare_wait(bells, BELLS + 2), _POLL_NS)
            continue
        for k in range(count):
            fill(words, _WORDS * k, first + k)
        stop_if_due(script, bells, BEFORE_CLAIM, first, count)
        producer_claim(control, local, count)
        stop_if_due(script, bells, BEFORE_COPY, first, count)
        if is_due(script, MID_COPY, first, count):
            before = script[RECORD_AT] - first
            producer_write(local, slots, 0, source, 0, before)
            slot = script[RECORD_AT] & local[MASK]
            copy_bytes(slots, slot * _SIZE, source, before * _SIZE, _HALF)
            stop_if_due(script, bells, MID_COPY, first, count)
        producer_write(local, slots, 0, source, 0, count)
        stop_if_due(script, bells, BEFORE_PUBLISH, first, count)
        producer_publish(control, local, count)
        stop_if_due(script, bells, AFTER_PUBLISH, first, count)
        ring_bell(bells, BELLS)
    return 0


@kernel(_LOOP)
def read_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, target: np.ndarray, words: np.ndarray,
    script: np.ndarray, bells: np.ndarray, total: int,
) -> int:
    """Read records from the tail on, in batches, with stops; 0 when `total` are released, 1 after a bad record."""
    while local[CURSOR] < total:
        first = local[CURSOR]
        count = min(BATCH, consumer_ready(control, local, 1))
        if count == 0:
            commit_wait(bells, BELLS, prepare_wait(bells, BELLS), _POLL_NS)
            continue
        consumer_read(local, slots, 0, target, 0, count)
        for k in range(count):
            if not intact(words, _WORDS * k, first + k):
                return 1
        stop_if_due(script, bells, AFTER_READ, first, count)
        for k in range(count):
            script[EFFECTS + first + k] = words[_WORDS * k + 7]  # by sequence: doing it again changes nothing
            script[DELIVERIES + first + k] += 1
        stop_if_due(script, bells, BEFORE_RELEASE, first, count)
        consumer_advance(local, count)
        consumer_release(control, local)
        stop_if_due(script, bells, AFTER_RELEASE, first, count)
    return 0


# --- the stage ----------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A ring and a script that several processes share."""

    instance: str
    ring: Ring
    script: np.ndarray

    @property
    def bells(self) -> np.ndarray:
        """The script as doorbells see it."""
        return self.script.view(np.int32)

    def tell(self, point: int, record: int = 0) -> None:
        """At which point, and with which record in hand, the next victim stops."""
        self.script[[POINT, RECORD_AT, REACHED]] = (point, record, 0)

    def _attach(self) -> Ring:
        return Ring.attach("orders", RECORD, CAPACITY, instance=self.instance, kernel_digest=DIGEST)

    def write(self, total: int = TOTAL) -> int:
        """The writer's process: takes the lease, then publishes all that is not there yet."""
        ring, scratch = self._attach(), np.zeros(_SIZE * BATCH, np.uint8)
        lease = Lease.acquire(ring.segment.full_name)
        words = scratch.view(np.int64)
        write_records(ring.control, ring.producer, ring.slots, scratch, words, self.script, self.bells, total)
        lease.release()
        return 0

    def read(self, total: int = TOTAL) -> int:
        """The reader's process."""
        ring, scratch = self._attach(), np.zeros(_SIZE * BATCH, np.uint8)
        words = scratch.view(np.int64)
        return int(
            read_records(ring.control, ring.consumer, ring.slots, scratch, words, self.script, self.bells, total)
        )

    def kill_at_its_point(self, victim: Fork) -> None:
        """Wait until the victim has stopped, then kill -9 and reap it."""
        deadline = python_monotonic_ns() + _PATIENCE_NS
        while load_acquire(self.script, REACHED) == 0:
            if python_monotonic_ns() > deadline:
                victim.kill()
                raise BrokenPromise("the victim never came to its point")
            sleep(0.0005)
        victim.kill()
        must(self.script[REACHED] == self.script[POINT], "the victim stopped at another point")
        self.tell(0)


@contextlib.contextmanager
def stage(instance: str) -> Iterator[Stage]:
    """A new ring and script, gone at the end."""
    ring = Ring.create("orders", RECORD, CAPACITY, instance=instance, kernel_digest=DIGEST)
    segment = Segment.create(
        "script", 8 * _SCRIPT_WORDS, layout_hash=layout_hash(np.dtype(np.int64), _SCRIPT_WORDS), record_size=8,
        capacity=_SCRIPT_WORDS, instance=instance, kernel_digest=DIGEST,
    )  # fmt: skip
    try:
        yield Stage(instance, ring, segment.array(np.int64, 0, _SCRIPT_WORDS))
    finally:
        segment.unlink()
        ring.unlink()


def whole(records: np.ndarray, first: int) -> bool:
    """Whether these are the records first, first + 1, ..., every bit of them."""
    words = np.ascontiguousarray(records).view(np.int64).reshape(-1)
    return all(intact(words, _WORDS * k, first + k) for k in range(len(records)))


def drain(made: Stage, until: int) -> None:
    """Pop and check records up to one of them, while the victim writes on."""
    deadline = python_monotonic_ns() + _PATIENCE_NS
    while made.ring.consumed < until:
        first = made.ring.consumed
        must(whole(made.ring.pop(until - first), first), f"a record after {first} is not the one that was written")
        must(python_monotonic_ns() < deadline, f"record {until} never came")


# --- what must hold -----------------------------------------------------------------------------------------


def killed_writer(made: Stage, point: int, record: int) -> None:
    """A writer dies with this record in hand: nothing of it is half visible, and its successor goes on."""
    first = record - record % BATCH
    count = min(BATCH, TOTAL - first)
    made.tell(point, record)
    victim = Fork(made.write)
    drain(made, max(0, first - CAPACITY + BATCH))  # leave as much unread as there can be
    made.kill_at_its_point(victim)

    ring = made.ring
    claimed, published = point > BEFORE_CLAIM, point >= AFTER_PUBLISH
    head = first + count if published else first
    must(ring.produced == head, f"{ring.produced} records are visible, not {head}")
    must(ring.control[CLAIM] == (first + count if claimed else first), "the claim is not the dead writer's")
    must(ring.produced == ring.consumed + ring.in_flight and ring.dropped == 0, "the cursors do not add up")
    slot = np.array(ring.records[record % CAPACITY])
    if point == MID_COPY:  # the bytes are there, half of them
        must(not whole(slot[None], record) and slot["sequence"] == record, "the record is not half copied")

    # A follower sees whole records alone, and counts those that the dead writer had begun to overwrite.
    follower = Follower(ring, oldest=True)
    seen = follower.read(TOTAL)
    must(whole(seen, follower.cursor - len(seen)) and follower.cursor == head, "a follower saw a torn record")
    must(len(seen) == min(head, CAPACITY - (count if claimed and not published else 0)), "a follower missed records")

    # The kernel has freed the lease; the successor goes on at the head. Nothing is missing, nothing comes twice.
    Lease.acquire(ring.segment.full_name).release()
    successor = Fork(made.write)
    drain(made, TOTAL)
    must(successor.join() == 0, "the successor failed")
    must(
        ring.produced == ring.consumed == ring.control[CLAIM] == TOTAL and ring.in_flight == 0,
        "the cursors do not end at the last record",
    )
    last = follower.read(TOTAL)
    must(
        whole(last, TOTAL - len(last)) and head + follower.lapped + len(last) == TOTAL,
        "a follower did not count what it missed",
    )


def killed_reader(made: Stage, point: int, record: int) -> None:
    """A reader dies with this record in hand: what it had not released comes again, and its effects stay the same."""
    made.tell(point, record)
    writer = Fork(made.write)  # the points of the victim are not the writer's
    made.kill_at_its_point(Fork(made.read))

    ring = made.ring
    deliveries, effects = made.script[DELIVERIES:], made.script[EFFECTS:DELIVERIES]
    read = int(np.count_nonzero(deliveries))
    released = ring.consumed
    if point == AFTER_READ:  # read and lost: nobody saw it, and it is still in the ring
        must(released == read <= record, "a record was lost with its reader")
    elif point == BEFORE_RELEASE:  # done, and not released
        must(released <= record < read <= released + BATCH, "a record was released before its effect was done")
    else:
        must(released == read > record, "a release was lost")
    must(ring.produced - released == ring.in_flight <= CAPACITY, "the cursors do not add up")

    must(Fork(made.read).join() == 0, "the successor met a bad record")
    must(writer.join() == 0, "the writer failed")
    twice = range(released, read)
    must(
        [int(times) for times in deliveries] == [2 if at in twice else 1 for at in range(TOTAL)],
        "a record came more or less often than it must",
    )
    expected = np.zeros(_WORDS, np.int64)
    for at in range(TOTAL):
        fill(expected, 0, at)
        must(effects[at] == expected[7], f"the effect of record {at} is not the one of a session without deaths")
    must(ring.produced == ring.consumed == TOTAL and ring.in_flight == 0, "the cursors do not end at the last record")


_DEATHS_A_PIECE = 100


def run_crash_points(piece: Piece) -> None:
    """Writers and readers killed at points and with records in hand that the seed says."""
    draws = Draws(piece.seed, 0)
    for number in range(_DEATHS_A_PIECE):
        check, points = draws.choice(((killed_writer, WRITER_POINTS), (killed_reader, READER_POINTS)))
        name = draws.choice(sorted(points))
        record = draws.whole(0, TOTAL - 1)
        with stage(f"soak-crash-{piece.seed}-{number}") as made:
            try:
                check(made, points[name], record)
            except BrokenPromise as error:
                piece.hold(False, f"{check.__name__} {name}, record {record}: {error}")
        piece.count(check.__name__.replace("_", " "))
