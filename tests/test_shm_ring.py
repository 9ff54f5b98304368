"""Rings: against a deque, across the wrap, between two processes, and under an observer that is lapped."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import numba
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shm import ring_kernels as kernels
from shm.atomics import cpu_pause, fence_acquire, load_acquire, load_relaxed
from shm.clock import monotonic_ns
from shm.memory import copy_bytes
from shm.ring import Ring, RingError
from shm.segment import SegmentError, unlink_all
from tests.shm_helpers import DIGEST, fresh_instance
from tools.soak.forks import Fork
from tools.soak.ring_exchange import RECORD, exchange

MACHINE_INSTANCE = f"test-{os.getpid()}-machine"


@pytest.fixture
def instance() -> Iterator[str]:
    yield from fresh_instance()


def make(instance: str, capacity: int) -> Ring:
    return Ring.create("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST)


def attach(instance: str, capacity: int, read_only: bool = False) -> Ring:
    return Ring.attach("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST, read_only=read_only)


def numbered(first: int, count: int) -> np.ndarray:
    records = np.zeros(count, RECORD)
    records["sequence"] = np.arange(first, first + count)
    records["words"] = records["sequence"][:, None] * 7 + np.arange(6)
    return records


# --- one process ----------------------------------------------------------------------------------------


def test_push_stops_at_the_capacity_and_pop_gives_the_same_bytes(instance: str) -> None:
    ring = make(instance, 8)
    records = numbered(0, 11)
    assert ring.push(records) == 8 and ring.push(records) == 0
    assert ring.room() == 0 and ring.ready() == 8
    first = ring.pop(5)
    assert ring.push(records[8:]) == 3  # over the wrap
    assert np.array_equal(np.concatenate([first, ring.pop(100)]), records)
    assert len(ring.pop(1)) == 0
    assert (ring.produced, ring.consumed, ring.in_flight, ring.dropped) == (11, 11, 0, 0)
    ring.unlink()


def test_claimed_records_are_invisible_until_published(instance: str) -> None:
    ring = make(instance, 8)
    view = ring.claim(3)
    view[:] = numbered(0, 3)
    assert ring.produced == 0 and ring.ready() == 0
    with pytest.raises(RingError, match="publish 4 of 3 claimed"):
        ring.publish(4)
    ring.publish(2)
    assert list(ring.readable()["sequence"]) == [0, 1]
    ring.publish(1)
    assert list(ring.readable()["sequence"]) == [0, 1, 2]
    assert list(ring.readable(2)["sequence"]) == [0, 1]
    with pytest.raises(RingError, match="release 4 of 3 readable"):
        ring.release(4)
    ring.unlink()


def test_views_end_at_the_wrap_and_are_the_slots_themselves(instance: str) -> None:
    ring = make(instance, 8)
    ring.push(numbered(0, 6))
    ring.release(6)
    view = ring.claim(5)
    assert len(view) == 2
    view[:] = numbered(6, 2)
    ring.publish(2)
    rest = ring.claim(3)
    assert len(rest) == 3 and np.shares_memory(rest, ring.records[:3])
    rest[:] = numbered(8, 3)
    ring.publish(3)
    assert list(ring.readable()["sequence"]) == [6, 7]
    assert np.shares_memory(ring.readable(), ring.slots)
    ring.release(2)
    assert list(ring.readable()["sequence"]) == [8, 9, 10]
    ring.unlink()


def test_the_consumer_may_read_ahead_of_what_it_releases(instance: str) -> None:
    ring = make(instance, 8)
    ring.push(numbered(0, 8))
    control, local = ring.control, ring.consumer
    kernels.consumer_advance(local, 6)
    assert kernels.consumer_ready(control, local, 8) == 2
    assert ring.room() == 0 and ring.consumed == 0
    kernels.consumer_release_to(control, 4)  # a checkpoint at record 4
    assert ring.room() == 4 and ring.in_flight == 4
    # A successor starts from the checkpoint and sees the records again.
    successor = attach(instance, 8)
    assert list(successor.readable()["sequence"]) == [4, 5, 6, 7]
    kernels.consumer_release(control, local)
    assert ring.consumed == 6
    ring.unlink()


def test_each_side_looks_at_the_other_only_when_it_must(instance: str) -> None:
    ring = make(instance, 8)
    ring.push(numbered(0, 6))
    ring.pop(6)
    assert kernels.producer_room(ring.control, ring.producer, 2) == 2  # from the cache: 8 - 6
    assert kernels.producer_room(ring.control, ring.producer, 3) == 8  # looked again
    other = attach(instance, 8)
    other.push(numbered(6, 2))
    assert kernels.consumer_ready(ring.control, ring.consumer, 1) == 2
    other.push(numbered(8, 2))
    assert kernels.consumer_ready(ring.control, ring.consumer, 2) == 2
    assert kernels.consumer_ready(ring.control, ring.consumer, 3) == 4
    ring.unlink()


def test_write_and_read_at_a_position_wrap(instance: str) -> None:
    ring = make(instance, 8)
    ring.push(numbered(100, 5))
    ring.pop(5)
    source = numbered(0, 9)
    kernels.producer_claim(ring.control, ring.producer, 7)
    kernels.producer_write(ring.producer, ring.slots, 0, source.view(np.uint8), 2, 1)
    kernels.producer_write(ring.producer, ring.slots, 1, source.view(np.uint8), 3, 6)
    kernels.producer_publish(ring.control, ring.producer, 7)
    target = np.zeros(7, RECORD)
    assert kernels.consumer_ready(ring.control, ring.consumer, 1) == 7
    kernels.consumer_read(ring.consumer, ring.slots, 1, target.view(np.uint8), 2, 5)
    assert list(target["sequence"]) == [0, 0, 3, 4, 5, 6, 7]
    ring.unlink()


def test_claim_never_goes_back_and_never_passes_the_capacity(instance: str) -> None:
    ring = make(instance, 8)
    ring.claim(6)
    ring.publish(2)
    ring.claim(1)
    assert ring.control[kernels.CLAIM] == 6 and ring.control[kernels.HEAD] == 2
    successor = attach(instance, 8)
    successor.claim(1)
    assert ring.control[kernels.CLAIM] == 6  # what the dead producer may have overwritten stays announced
    successor.claim(100)
    assert ring.control[kernels.CLAIM] == 8
    ring.unlink()


def test_cursors_have_lines_of_their_own() -> None:
    words = sorted([kernels.HEAD, kernels.CLAIM, kernels.TAIL, kernels.DROPPED, kernels.CONTROL_WORDS])
    assert all(word % 16 == 0 for word in words) and len(set(words)) == 5


def test_attach_refuses_another_dtype_or_capacity(instance: str) -> None:
    ring = make(instance, 8)
    for dtype, capacity in ((RECORD, 16), (np.dtype([("words", "<i8", (8,))], align=True), 8)):
        with pytest.raises(SegmentError, match="layout hash"):
            Ring.attach("market", dtype, capacity, instance=instance, kernel_digest=DIGEST)
    with pytest.raises(SegmentError, match="kernel digest"):
        Ring.attach("market", RECORD, 8, instance=instance, kernel_digest="00" * 32)
    ring.unlink()


def test_wrong_requests_are_refused(instance: str) -> None:
    for capacity in (0, -8, 12):
        with pytest.raises(RingError, match="power of two"):
            make(instance, capacity)
        with pytest.raises(ValueError, match="power of two"):
            kernels.new_local(np.zeros(64, np.int64), capacity, 64, producer=True)
    ring = make(instance, 8)
    with pytest.raises(RingError, match="records of int64"):
        ring.push(np.zeros(3, np.int64))
    with pytest.raises(RingError, match="publish -1"):
        ring.publish(-1)
    reader = attach(instance, 8, read_only=True)
    ring.push(numbered(0, 3))
    assert reader.produced == 3 and reader.records["sequence"][2] == 2
    for use in (lambda: reader.push(numbered(0, 1)), lambda: reader.pop(1)):
        with pytest.raises(RingError, match="read-only"):
            use()
    ring.close()
    ring.close()
    ring.unlink()


def test_a_second_consumer_or_producer_is_noticed(instance: str) -> None:
    ring = make(instance, 8)
    first, second = attach(instance, 8), attach(instance, 8)
    assert len(first.readable()) == len(second.readable()) == 0
    for _ in range(2):
        ring.push(numbered(0, 8))
        first.pop(8)
    with pytest.raises(RingError, match="the cursors contradict each other"):
        second.pop(1)
    first.push(numbered(0, 8))
    ring.control[kernels.TAIL] = 3  # as a second consumer would do
    with pytest.raises(RingError, match="the cursors contradict each other"):
        first.push(numbered(0, 1))
    ring.unlink()


class RingMachine(RuleBasedStateMachine):
    """A ring and a deque that must never differ, with producers and consumers replaced at any moment."""

    @initialize(exponent=st.integers(0, 4), start=st.integers(0, 40))
    def begin(self, exponent: int, start: int) -> None:
        self.instance = MACHINE_INSTANCE
        unlink_all(self.instance)
        self.capacity = 1 << exponent
        self.ring = make(self.instance, self.capacity)
        for word in (kernels.HEAD, kernels.CLAIM, kernels.TAIL):
            self.ring.control[word] = start
        self.reader = attach(self.instance, self.capacity)
        self.start = start
        self.next = 0
        self.released = 0
        self.dropped = 0
        self.model: deque[int] = deque()

    @rule(count=st.integers(0, 20))
    def push(self, count: int) -> None:
        pushed = self.ring.push(numbered(self.next, count))
        assert pushed == min(count, self.capacity - len(self.model))
        self.model.extend(range(self.next, self.next + pushed))
        self.next += pushed
        self.ring.drop(count - pushed)
        self.dropped += count - pushed

    @rule(count=st.integers(0, 20), share=st.floats(0, 1))
    def claim_and_publish(self, count: int, share: float) -> None:
        view = self.ring.claim(count)
        assert len(view) <= min(count, self.capacity - len(self.model))
        assert len(view) > 0 or count == 0 or len(self.model) == self.capacity
        view[:] = numbered(self.next, len(view))
        published = int(len(view) * share)
        self.ring.publish(published)
        self.model.extend(range(self.next, self.next + published))
        self.next += published

    @rule(count=st.integers(0, 20))
    def pop(self, count: int) -> None:
        records = self.reader.pop(count)
        expected = [self.model.popleft() for _ in range(min(count, len(self.model)))]
        assert np.array_equal(records, numbered(expected[0] if expected else 0, len(expected)))
        self.released += len(expected)

    @rule(count=st.integers(1, 20), share=st.floats(0, 1))
    def read_and_release(self, count: int, share: float) -> None:
        view = self.reader.readable(count)
        assert len(view) > 0 or not self.model
        assert list(view["sequence"]) == list(self.model)[: len(view)]
        released = int(len(view) * share)
        self.reader.release(released)
        for _ in range(released):
            self.model.popleft()
        self.released += released

    @precondition(lambda self: hasattr(self, "ring"))
    @rule()
    def replace_the_producer(self) -> None:
        self.ring = attach(self.instance, self.capacity)

    @precondition(lambda self: hasattr(self, "ring"))
    @rule()
    def replace_the_consumer(self) -> None:
        self.reader = attach(self.instance, self.capacity)

    @invariant()
    def the_counters_balance(self) -> None:
        if hasattr(self, "ring"):
            assert self.reader.produced == self.start + self.next
            assert self.reader.consumed == self.start + self.released
            assert self.reader.in_flight == len(self.model)
            assert self.reader.dropped == self.dropped
            assert self.next <= self.ring.control[kernels.CLAIM] - self.start <= self.released + self.capacity

    def teardown(self) -> None:
        unlink_all(MACHINE_INSTANCE)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40)


# --- two processes --------------------------------------------------------------------------------------

RECORDS = 1_500_000


def test_two_processes_exchange_records_intact_and_in_order(instance: str) -> None:
    assert exchange(instance, RECORDS) == (0, 0)


def test_two_processes_over_a_ring_as_small_as_a_batch(instance: str) -> None:
    assert exchange(instance, 50_000, capacity=128) == (0, 0)


def test_one_flipped_bit_in_a_slot_is_noticed(instance: str) -> None:
    assert exchange(instance, 10_000, corrupt=7_777) == (0, 1)


# --- an observer that is lapped -------------------------------------------------------------------------


@numba.njit(nogil=True)
def churn(control, producer, consumer, slot_words, stop_at_ns):
    """Overwrite a ring as fast as possible, being producer and consumer at once; all 8 words alike."""
    while monotonic_ns() < stop_at_ns:
        for _ in range(256):
            kernels.producer_room(control, producer, 1)
            kernels.producer_claim(control, producer, 1)
            at = 8 * kernels.producer_slot(producer)
            for k in range(8):
                slot_words[at + k] = producer[kernels.CURSOR]
            kernels.producer_publish(control, producer, 1)
            kernels.consumer_advance(consumer, 1)
            kernels.consumer_release(control, consumer)


@numba.njit(nogil=True)
def observe(control, slots, copy, words, capacity, stop_at_ns, tally):
    """Copy records right where the producer is about to write; count accepted, refused, and torn of each."""
    while monotonic_ns() < stop_at_ns:
        cursor = load_acquire(control, kernels.HEAD) - capacity
        if cursor < 0:
            cpu_pause()
            continue
        copy_bytes(copy, 0, slots, (cursor & (capacity - 1)) * 64, 64)
        fence_acquire()
        whole = load_relaxed(control, kernels.CLAIM) <= cursor + capacity
        torn = False
        for k in range(8):
            torn |= words[k] != cursor
        tally[0 if whole else 1] += 1
        tally[2 if whole else 3] += torn


def test_the_claim_cursor_tells_an_observer_which_copies_are_whole(instance: str) -> None:
    capacity = 4
    ring = make(instance, capacity)
    reader = attach(instance, capacity, read_only=True)
    copy = np.zeros(64, np.uint8)
    tally = np.zeros(4, np.int64)

    def run_churn(stop_at_ns: int) -> int:
        churn(ring.control, ring.producer, ring.consumer, ring.slots.view(np.int64), stop_at_ns)
        return 0

    def run_observe(stop_at_ns: int) -> None:
        observe(reader.control, reader.slots, copy, copy.view(np.int64), capacity, stop_at_ns, tally)

    run_churn(0)
    run_observe(0)
    stop_at_ns = monotonic_ns() + 1_500_000_000
    child = Fork(lambda: run_churn(stop_at_ns))
    run_observe(stop_at_ns)
    assert child.join() == 0
    accepted, refused, torn_accepted, torn_refused = tally
    ring.unlink()
    assert accepted > 0 and torn_accepted == 0
    if refused == 0 or torn_refused == 0:
        pytest.skip(f"the two processes never met ({accepted} copies accepted, {refused} refused)")
