"""kill -9 at every point between two steps of a writer and of a reader: what is left, what their successors make of it.

The victims are real processes. They run the ring's kernels in a loop with stops between the steps: told to, they
announce that they have come to a point and sleep there until they are killed. So each point is met for certain.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import pytest

from shm import ring_kernels as kernels
from shm.atomics import load_acquire, store_release
from shm.clock import python_monotonic_ns, sleep
from shm.doorbell import MAX_WAIT_NS, Doorbell, commit_wait, prepare_wait, ring_bell
from shm.follower import Follower
from shm.lease import Lease, LeaseHeld
from shm.memory import copy_bytes
from shm.ring import Ring
from shm.segment import Segment, layout_hash
from tests.shm_helpers import DIGEST, Fork, fresh_instance
from tests.test_shm_ring import RECORD, fill, intact

CAPACITY = 16
BATCH = 5
TOTAL = 64
HALF = 32  # bytes of a record that a killed writer has copied

# Words of the shared script, then one for each record: what a reader made of it, and how often it was delivered.
POINT = 0
RECORD_AT = 1
REACHED = 2
BELLS = 8  # in the int32 view: the doorbell of the reader
EFFECTS = 16
DELIVERIES = EFFECTS + TOTAL
SCRIPT_WORDS = DELIVERIES + TOTAL

# Where a victim stops; 0 is nowhere.
BEFORE_CLAIM, BEFORE_COPY, MID_COPY, BEFORE_PUBLISH, AFTER_PUBLISH = range(1, 6)
AFTER_READ, BEFORE_RELEASE, AFTER_RELEASE = range(6, 9)
WRITER_POINTS = [
    pytest.param(BEFORE_CLAIM, id="before_claim"),
    pytest.param(BEFORE_COPY, id="before_copy"),
    pytest.param(MID_COPY, id="mid_copy"),
    pytest.param(BEFORE_PUBLISH, id="before_publish"),
    pytest.param(AFTER_PUBLISH, id="after_publish"),  # the bell is not rung yet
]
READER_POINTS = [
    pytest.param(AFTER_READ, id="after_read"),
    pytest.param(BEFORE_RELEASE, id="before_release"),  # the effect is there, the slots are not free
    pytest.param(AFTER_RELEASE, id="after_release"),
]


# --- the victims ------------------------------------------------------------------------------------------


@numba.njit(nogil=True)
def is_due(script, point, first, count):
    """Whether this is the point, and these the records, to be killed at."""
    return script[POINT] == point and first <= script[RECORD_AT] < first + count


@numba.njit(nogil=True)
def stop_if_due(script, bells, point, first, count):
    """Announce and sleep for ever."""
    if is_due(script, point, first, count):
        store_release(script, REACHED, point)
        while load_acquire(script, REACHED) == point:
            commit_wait(bells, BELLS + 2, prepare_wait(bells, BELLS + 2), MAX_WAIT_NS)


@numba.njit(nogil=True)
def write_records(control, local, slots, source, script, bells, total):
    """Publish records from the head on, in batches, with stops; returns when `total` are published."""
    words = source.view(np.int64)
    while local[kernels.CURSOR] < total:
        first = local[kernels.CURSOR]
        count = min(BATCH, total - first)
        if kernels.producer_room(control, local, count) < count:
            commit_wait(bells, BELLS + 2, prepare_wait(bells, BELLS + 2), 100_000)
            continue
        for k in range(count):
            fill(words, 8 * k, first + k)
        stop_if_due(script, bells, BEFORE_CLAIM, first, count)
        kernels.producer_claim(control, local, count)
        stop_if_due(script, bells, BEFORE_COPY, first, count)
        if is_due(script, MID_COPY, first, count):
            before = script[RECORD_AT] - first
            kernels.producer_write(local, slots, 0, source, 0, before)
            slot = script[RECORD_AT] & local[kernels.MASK]
            copy_bytes(slots, slot * 64, source, before * 64, HALF)
            stop_if_due(script, bells, MID_COPY, first, count)
        kernels.producer_write(local, slots, 0, source, 0, count)
        stop_if_due(script, bells, BEFORE_PUBLISH, first, count)
        kernels.producer_publish(control, local, count)
        stop_if_due(script, bells, AFTER_PUBLISH, first, count)
        ring_bell(bells, BELLS)


@numba.njit(nogil=True)
def read_records(control, local, slots, target, script, bells, total):
    """Read records from the tail on, in batches, with stops; 0 when `total` are released, 1 after a bad record."""
    words = target.view(np.int64)
    while local[kernels.CURSOR] < total:
        first = local[kernels.CURSOR]
        count = min(BATCH, kernels.consumer_ready(control, local, 1))
        if count == 0:
            commit_wait(bells, BELLS, prepare_wait(bells, BELLS), 100_000)
            continue
        kernels.consumer_read(local, slots, 0, target, 0, count)
        for k in range(count):
            if not intact(words, 8 * k, first + k):
                return 1
        stop_if_due(script, bells, AFTER_READ, first, count)
        for k in range(count):
            script[EFFECTS + first + k] = words[8 * k + 7]  # by sequence: doing it again changes nothing
            script[DELIVERIES + first + k] += 1
        stop_if_due(script, bells, BEFORE_RELEASE, first, count)
        kernels.consumer_advance(local, count)
        kernels.consumer_release(control, local)
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
        return self.script.view(np.int32)

    def attach(self) -> Ring:
        """The ring, for a new incarnation of one side."""
        return Ring.attach("orders", RECORD, CAPACITY, instance=self.instance, kernel_digest=DIGEST)

    def tell(self, point: int, record: int = 0) -> None:
        self.script[[POINT, RECORD_AT, REACHED]] = (point, record, 0)

    def write(self, total: int = TOTAL) -> int:
        """The writer's process: takes the lease, then publishes all that is not there yet."""
        ring, scratch = self.attach(), np.zeros(64 * BATCH, np.uint8)
        lease = Lease.acquire(ring.segment.full_name)
        write_records(ring.control, ring.producer, ring.slots, scratch, self.script, self.bells, total)
        lease.release()
        return 0

    def read(self, total: int = TOTAL) -> int:
        """The reader's process."""
        ring, scratch = self.attach(), np.zeros(64 * BATCH, np.uint8)
        return int(read_records(ring.control, ring.consumer, ring.slots, scratch, self.script, self.bells, total))

    def kill_at_its_point(self, victim: Fork) -> None:
        """Wait until the victim has stopped, then kill -9 and reap it."""
        deadline = python_monotonic_ns() + 30_000_000_000
        while load_acquire(self.script, REACHED) == 0:
            assert python_monotonic_ns() < deadline, "the victim never came to its point"
            sleep(0.0005)
        victim.kill()
        assert self.script[REACHED] == self.script[POINT]
        self.tell(0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    for instance in fresh_instance():
        ring = Ring.create("orders", RECORD, CAPACITY, instance=instance, kernel_digest=DIGEST)
        segment = Segment.create(
            "script", 8 * SCRIPT_WORDS, layout_hash=layout_hash(np.dtype(np.int64), SCRIPT_WORDS), record_size=8,
            capacity=SCRIPT_WORDS, instance=instance, kernel_digest=DIGEST,
        )  # fmt: skip
        made = Stage(instance, ring, segment.array(np.int64, 0, SCRIPT_WORDS))
        made.write(0)  # compile before the forks
        made.read(0)
        yield made
        segment.unlink()
        ring.unlink()


def whole(records: np.ndarray, first: int) -> bool:
    """Whether these are the records first, first + 1, ..., every bit of them."""
    words = np.ascontiguousarray(records).view(np.int64).reshape(-1)
    return all(intact(words, 8 * k, first + k) for k in range(len(records)))


def drain(stage: Stage, until: int) -> None:
    """Pop and check records up to one of them, while the victim writes on."""
    deadline = python_monotonic_ns() + 30_000_000_000
    while stage.ring.consumed < until:
        first = stage.ring.consumed
        assert whole(stage.ring.pop(until - first), first)
        assert python_monotonic_ns() < deadline


# --- the writer dies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", WRITER_POINTS)
@pytest.mark.parametrize("record", [0, 2, 4, 17, 33, 63], ids=lambda record: f"record{record}")
def test_a_killed_writer_leaves_nothing_half_visible(stage: Stage, point: int, record: int) -> None:
    """Record 17 lies in a batch over the wrap; from 16 on a slot holds an older record before it is overwritten."""
    first = record - record % BATCH
    count = min(BATCH, TOTAL - first)
    stage.tell(point, record)
    victim = Fork(stage.write)
    drain(stage, max(0, first - CAPACITY + BATCH))  # leave as much unread as there can be
    stage.kill_at_its_point(victim)

    ring = stage.ring
    claimed, published = point > BEFORE_CLAIM, point >= AFTER_PUBLISH
    head = first + count if published else first
    assert ring.produced == head
    assert ring.control[kernels.CLAIM] == (first + count if claimed else first)
    assert ring.produced == ring.consumed + ring.in_flight and ring.dropped == 0
    slot = np.array(ring.records[record % CAPACITY])
    if point == MID_COPY:  # the bytes are there, half of them
        assert not whole(slot[None], record) and slot["sequence"] == record

    # A follower sees whole records alone, and counts those that the dead writer had begun to overwrite.
    follower = Follower(ring, oldest=True)
    seen = follower.read(TOTAL)
    assert whole(seen, follower.cursor - len(seen)) and follower.cursor == head
    assert len(seen) == min(head, CAPACITY - (count if claimed and not published else 0))

    # The kernel has freed the lease; the successor goes on at the head. Nothing is missing, nothing comes twice.
    Lease.acquire(ring.segment.full_name).release()
    successor = Fork(stage.write)
    drain(stage, TOTAL)
    assert successor.join() == 0
    assert ring.produced == ring.consumed == ring.control[kernels.CLAIM] == TOTAL and ring.in_flight == 0
    last = follower.read(TOTAL)
    assert whole(last, TOTAL - len(last)) and head + follower.lapped + len(last) == TOTAL


def test_the_lease_of_a_stopped_writer_is_still_held(stage: Stage) -> None:
    stage.tell(MID_COPY, 2)
    victim = Fork(stage.write)
    while load_acquire(stage.script, REACHED) == 0:
        sleep(0.0005)
    with pytest.raises(LeaseHeld):
        Lease.acquire(stage.ring.segment.full_name)
    stage.kill_at_its_point(victim)
    Lease.acquire(stage.ring.segment.full_name).release()


def test_a_reader_asleep_finds_what_a_writer_published_who_died_before_ringing(stage: Stage) -> None:
    bell = Doorbell(stage.bells, BELLS)
    woken: list[int] = []

    def listen() -> None:
        while not bell.wait(MAX_WAIT_NS, lambda: stage.ring.ready() > 0):
            pass
        woken.append(python_monotonic_ns())

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = python_monotonic_ns() + 30_000_000_000
    while not stage.bells[BELLS + 1]:
        assert python_monotonic_ns() < deadline, "the reader never went to sleep"
    stage.tell(AFTER_PUBLISH, 0)
    stage.kill_at_its_point(Fork(stage.write))
    listener.join(30)
    assert woken and stage.bells[BELLS] == 0, "nobody rang, so the time-out of the wait must have done it"
    assert whole(stage.ring.pop(TOTAL), 0)


# --- the reader dies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", READER_POINTS)
@pytest.mark.parametrize("record", [0, 7, 17, 33, 63], ids=lambda record: f"record{record}")
def test_a_killed_readers_records_come_again_and_their_effects_do_not(stage: Stage, point: int, record: int) -> None:
    stage.tell(point, record)
    writer = Fork(stage.write)  # the points of the victim are not the writer's
    stage.kill_at_its_point(Fork(stage.read))

    ring = stage.ring
    deliveries, effects = stage.script[DELIVERIES:], stage.script[EFFECTS:DELIVERIES]
    read = int(np.count_nonzero(deliveries))
    released = ring.consumed
    if point == AFTER_READ:  # read and lost: nobody saw it, and it is still in the ring
        assert released == read <= record
    elif point == BEFORE_RELEASE:  # done, and not released
        assert released <= record < read <= released + BATCH
    else:
        assert released == read > record
    assert ring.produced - released == ring.in_flight <= CAPACITY

    assert Fork(stage.read).join() == 0
    assert writer.join() == 0
    twice = range(released, read)
    assert [int(times) for times in deliveries] == [2 if at in twice else 1 for at in range(TOTAL)]
    expected = np.zeros(8, np.int64)
    for at in range(TOTAL):
        fill(expected, 0, at)
        assert effects[at] == expected[7]
    assert ring.produced == ring.consumed == TOTAL and ring.in_flight == 0


def test_a_torn_record_would_be_noticed(stage: Stage) -> None:
    """What the tests above look for is there when a writer publishes what it has half copied."""
    stage.tell(MID_COPY, 2)
    stage.kill_at_its_point(Fork(stage.write))
    stage.ring.control[kernels.HEAD] = BATCH
    assert whole(stage.ring.records[:2], 0) and not whole(stage.ring.records[:3], 0)
    assert Fork(stage.read).join() == 1
