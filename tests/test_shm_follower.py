"""Followers: they see every record or count it as lapped, never a torn one, and never write."""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from shm import ring_kernels as kernels
from shm.atomics import cpu_pause, fence_acquire, load_acquire, load_relaxed
from shm.clock import python_monotonic_ns, sleep
from shm.follower import LAPPED, Follower, follower_behind, follower_read, new_follower
from shm.memory import copy_bytes
from shm.ring import Ring, RingError
from shm.segment import SegmentError
from tests.compiled_paths import paths, plain_build
from tests.shm_helpers import DIGEST, fresh_instance
from tests.test_shm_ring import numbered
from tools.soak.forks import Fork
from tools.soak.ring_exchange import RECORD, fill, intact

DEADLINE_S = 40.0


@pytest.fixture
def instance() -> Iterator[str]:
    yield from fresh_instance()


def make(instance: str, capacity: int) -> Ring:
    return Ring.create("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST)


def follow(instance: str, capacity: int, oldest: bool = False) -> Follower:
    return Follower.attach("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST, oldest=oldest)


def push(ring: Ring, first: int, count: int) -> None:
    """Push and consume at once, so that the ring never fills up."""
    for start in range(first, first + count, ring.capacity):
        batch = min(ring.capacity, first + count - start)
        assert ring.push(numbered(start, batch)) == batch
        ring.pop(batch)


# --- one process ----------------------------------------------------------------------------------------


def test_it_starts_at_the_head_or_at_the_oldest_record_still_there(instance: str) -> None:
    ring = make(instance, 8)
    assert [follow(instance, 8, oldest).started_at for oldest in (False, True)] == [0, 0]
    push(ring, 0, 5)
    now, oldest = follow(instance, 8), follow(instance, 8, oldest=True)
    assert (now.started_at, oldest.started_at) == (5, 0)
    assert len(now.read(10)) == 0 and np.array_equal(oldest.read(10), numbered(0, 5))
    push(ring, 5, 15)
    later = follow(instance, 8, oldest=True)
    assert later.started_at == 12 and np.array_equal(later.read(100), numbered(12, 8))
    assert (later.cursor, later.lapped, later.behind) == (20, 0, 0)
    ring.unlink()


def test_it_needs_no_consumer_and_takes_nothing_from_one(instance: str) -> None:
    ring = make(instance, 8)
    follower = follow(instance, 8)
    ring.push(numbered(0, 8))
    assert np.array_equal(follower.read(3), numbered(0, 3)) and np.array_equal(follower.read(9), numbered(3, 5))
    assert ring.in_flight == 8 and ring.room() == 0
    assert np.array_equal(ring.pop(8), numbered(0, 8))
    ring.unlink()


def test_what_it_returns_is_a_copy(instance: str) -> None:
    ring = make(instance, 4)
    follower = follow(instance, 4)
    push(ring, 0, 4)
    read = follower.read(4)
    push(ring, 4, 4)
    assert np.array_equal(read, numbered(0, 4)) and not np.shares_memory(read, follower.ring.slots)
    ring.unlink()


def test_a_lapped_follower_goes_on_at_the_oldest_record_and_counts_the_rest(instance: str) -> None:
    ring = make(instance, 8)
    slow, fast = follow(instance, 8), follow(instance, 8)
    push(ring, 0, 3)
    assert len(slow.read(2)) == 2 and len(fast.read(100)) == 3
    push(ring, 3, 20)
    assert (slow.behind, slow.lapped) == (21, 0)  # it finds out when it reads
    assert np.array_equal(slow.read(100), numbered(15, 8))
    assert (slow.lapped, slow.cursor, slow.behind) == (13, 23, 0)
    assert np.array_equal(fast.read(100), numbered(15, 8)) and fast.lapped == 12
    ring.unlink()


def test_a_follower_that_takes_the_place_of_another_keeps_its_count(instance: str) -> None:
    ring = make(instance, 8)
    first = follow(instance, 8)
    push(ring, 0, 20)
    assert len(first.read(100)) == 8 and first.lapped == 12
    for later, lapped in ((5, 12), (30, 34)):
        push(ring, first.cursor, later)
        second = follow(instance, 8)
        second.resume(first.cursor, first.lapped)
        assert np.array_equal(second.read(100), numbered(ring.produced - min(later, 8), min(later, 8)))
        assert (second.cursor, second.lapped) == (ring.produced, lapped)
        first = second
    ring.unlink()


def test_slots_that_are_claimed_count_as_overwritten(instance: str) -> None:
    ring = make(instance, 8)
    follower = follow(instance, 8)
    push(ring, 0, 8)
    ring.claim(3)["sequence"] = -1  # a producer stopped, or dead, in the middle of its copy
    assert np.array_equal(follower.read(100), numbered(3, 5)) and follower.lapped == 3
    assert follow(instance, 8, oldest=True).started_at == 3
    ring.unlink()


def test_a_request_for_nothing_reads_nothing(instance: str) -> None:
    ring = make(instance, 8)
    follower = follow(instance, 8)
    push(ring, 0, 20)
    assert len(follower.read(0)) == 0 and len(follower.read(-3)) == 0
    assert follower.cursor == 12 and follower.lapped == 12
    ring.unlink()


def test_a_ring_that_goes_backwards_is_refused(instance: str) -> None:
    ring = make(instance, 8)
    follower = follow(instance, 8)
    push(ring, 0, 5)
    follower.read(5)
    ring.control[kernels.HEAD] = 4
    with pytest.raises(RingError, match="before record 5"):
        follower.read(1)
    ring.control[kernels.HEAD] = 5
    ring.control[kernels.CLAIM] = 2**40  # nonsense: all is overwritten, and nothing beyond the head is invented
    assert len(follower.read(1)) == 0 and (follower.cursor, follower.lapped) == (5, 0)
    ring.unlink()


def test_cursors_that_contradict_each_other_never_lead_out_of_the_ring() -> None:
    control = np.zeros(kernels.CONTROL_WORDS, np.int64)
    slots, target = np.zeros(8 * 64, np.uint8), np.zeros(100 * 64, np.uint8)
    local = new_follower(control, 8, 64, oldest=True)
    control[kernels.HEAD], control[kernels.CLAIM] = 2**40, 5
    assert follower_read(control, local, slots, target, 0, 100) <= 8 and local[kernels.CURSOR] <= 8


def test_another_layout_is_refused(instance: str) -> None:
    ring = make(instance, 8)
    with pytest.raises(SegmentError, match="layout hash"):
        follow(instance, 16)
    ring.unlink()


@settings(max_examples=200)
@given(
    capacity=st.sampled_from([1, 2, 4, 16]),
    late=st.integers(0, 40),
    oldest=st.booleans(),
    actions=st.lists(st.tuples(st.sampled_from(["push", "claim", "read"]), st.integers(0, 40)), max_size=25),
)
def test_read_and_lapped_add_up_to_what_was_produced(
    capacity: int, late: int, oldest: bool, actions: list[tuple[str, int]]
) -> None:
    """Against a list of all records ever produced, on private arrays in place of a segment."""
    control = np.zeros(kernels.CONTROL_WORDS, np.int64)
    slots = np.zeros(capacity * RECORD.itemsize, np.uint8)
    producer = kernels.new_local(control, capacity, RECORD.itemsize, producer=True)
    target = np.zeros(64 * RECORD.itemsize, np.uint8)

    def produce(count: int) -> None:
        for _ in range(count):
            source = numbered(int(producer[kernels.CURSOR]), 1).view(np.uint8)
            kernels.producer_claim(control, producer, 1)
            kernels.producer_write(producer, slots, 0, source, 0, 1)
            kernels.producer_publish(control, producer, 1)

    produce(late)
    local = new_follower(control, capacity, RECORD.itemsize, oldest=oldest)
    expected = max(0, late - capacity) if oldest else late
    started_at, read = expected, 0
    assert local[kernels.CURSOR] == expected
    for action, count in actions:
        if action == "push":
            produce(count)
        elif action == "claim":
            kernels.producer_claim(control, producer, min(count, capacity))
        else:
            head, claim = int(control[kernels.HEAD]), int(control[kernels.CLAIM])
            expected = min(max(expected, claim - capacity), head)
            got = follower_read(control, local, slots, target, 0, count)
            assert got == min(count, head - expected)
            assert np.array_equal(target.view(RECORD)[:got], numbered(expected, got))
            expected += got
            read += got
        assert read + local[LAPPED] == local[kernels.CURSOR] - started_at
        assert follower_behind(control, local) == control[kernels.HEAD] - local[kernels.CURSOR] >= 0


# --- it cannot write --------------------------------------------------------------------------------------


def test_the_mapping_is_read_only_and_the_segment_stays_as_it_is(instance: str) -> None:
    ring = make(instance, 8)
    push(ring, 0, 20)
    path = Path("/dev/shm") / ring.segment.full_name.lstrip("/")
    before = hashlib.sha256(path.read_bytes()).digest()
    follower = follow(instance, 8, oldest=True)
    assert len(follower.read(5)) == 5 and len(follower.read(5)) == 3
    assert hashlib.sha256(path.read_bytes()).digest() == before

    address = follower.ring.control.ctypes.data
    (mapping,) = [
        line.split()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)
    ]
    assert mapping[1] == "r--s" and mapping[5] == str(path)
    with pytest.raises(ValueError, match="read-only"):
        follower.ring.control[0] = 1

    def write_anyway() -> int:
        faulthandler.disable()  # no report of the crash that is wanted
        ctypes.c_int64.from_address(address).value = 1
        return 0

    assert Fork(write_anyway).join() == -signal.SIGSEGV
    assert ring.produced == 20
    ring.unlink()


# --- several processes ------------------------------------------------------------------------------------

CAPACITY = 256
TOTAL = 400_000


@numba.njit(nogil=True)
def churn(control, producer, consumer, slot_words, total, pause):
    """Write `total` checksummed records in place, batches of 1 to 64, releasing them at once."""
    done = 0
    while done < total:
        batch = min(1 + (done * 7919) % 64, total - done, kernels.producer_run(producer, 64))
        kernels.producer_room(control, producer, batch)
        kernels.producer_claim(control, producer, batch)
        first = kernels.producer_slot(producer)
        for k in range(batch):
            fill(slot_words, 8 * (first + k), done + k)
        kernels.producer_publish(control, producer, batch)
        kernels.consumer_advance(consumer, batch)
        kernels.consumer_release(control, consumer)
        done += batch
        for _ in range(pause):
            cpu_pause()


@numba.njit(nogil=True)
def bad_records(words, first, count):
    """How many of the records in words are not the whole records first, first + 1, ..."""
    bad = 0
    for k in range(count):
        bad += not intact(words, 8 * k, first + k)
    return bad


def keep_up(follower: Follower, total: int, batch: int, rest_s: float) -> tuple[int, int]:
    """Read until all of `total` records are read or lapped; returns (records read, bad ones)."""
    read = bad = 0
    deadline = python_monotonic_ns() + int(DEADLINE_S * 1e9)
    while follower.cursor < total:
        records = follower.read(batch)
        read += len(records)
        bad += bad_records(records.view(np.int64), follower.cursor - len(records), len(records))
        assert follower.started_at + read + follower.lapped == follower.cursor
        if rest_s and len(records):
            sleep(rest_s)
        assert python_monotonic_ns() < deadline
    return read, bad


def in_another_process(ring: Ring, pause: int, total: int = TOTAL) -> Fork:
    """Fork a producer of `total` records."""
    slot_words = ring.slots.view(np.int64)
    producer, consumer = ring.producer, ring.consumer
    churn(ring.control, producer, consumer, slot_words, 0, pause)  # compile before the fork

    def run() -> int:
        churn(ring.control, producer, consumer, slot_words, total, pause)
        return 0

    return Fork(run)


def test_followers_of_a_running_producer_count_exactly_what_they_miss(instance: str) -> None:
    """One process writes; two follow, one of them so slowly that it is lapped again and again."""
    ring = make(instance, CAPACITY)
    assert keep_up(follow(instance, CAPACITY), 0, 1, 0.0) == (0, 0)
    bad_records(np.zeros(8, np.int64), 0, 0)
    idle = follow(instance, CAPACITY)
    brisk = follow(instance, CAPACITY)
    report = Path("/dev/shm") / f"bot4.{instance}.report"

    def dawdle() -> int:
        slow = follow(instance, CAPACITY)
        read, bad = keep_up(slow, TOTAL, 64, 0.001)
        report.write_text(f"{read} {slow.lapped}")
        return bad

    slow = Fork(dawdle)
    deadline = python_monotonic_ns() + int(DEADLINE_S * 1e9)
    producer = in_another_process(ring, pause=200)
    read, bad = keep_up(brisk, TOTAL, CAPACITY, 0.0)
    assert producer.join() == 0 and ring.produced == TOTAL
    assert slow.join() == 0, "the slow follower got a bad record"
    assert python_monotonic_ns() < deadline
    assert bad == 0 and read > 0
    assert read + brisk.lapped == TOTAL

    slow_read, slow_lapped = map(int, report.read_text().split())
    assert slow_read + slow_lapped == TOTAL
    assert slow_read > 0 and slow_lapped > 0
    # One that never looked has missed all but what is still there.
    assert keep_up(idle, TOTAL, TOTAL, 0.0) == (CAPACITY, 0) and idle.lapped == TOTAL - CAPACITY
    report.unlink()
    ring.unlink()


@numba.njit(nogil=True)
def unchecked_read(control, local, slots, target, most):
    """follower_read without the look at the claim after the copy."""
    capacity = local[kernels.MASK] + 1
    head = load_acquire(control, kernels.HEAD)
    local[kernels.CURSOR] = max(local[kernels.CURSOR], head - capacity)
    count = min(head - local[kernels.CURSOR], most)
    kernels.consumer_read(local, slots, 0, target, 0, count)
    local[kernels.CURSOR] += count
    return count


@numba.njit(nogil=True)
def checked_read(control, local, slots, target, most):
    """The real one, with the same arguments."""
    return follower_read(control, local, slots, target, 0, most)


def bad_copies(instance: str, read: Callable) -> int:
    """Records that were returned and not whole, while a producer overwrites a small ring as fast as it can."""
    capacity, total = 16, 20_000_000
    ring = make(instance, capacity)
    mine = follow(instance, capacity)
    target = np.zeros(64 * capacity, np.uint8)
    words = target.view(np.int64)
    arguments = (mine.ring.control, mine.local, mine.ring.slots, target)
    read(*arguments, 0)
    bad_records(words, 0, 0)
    child = in_another_process(ring, 0, total)
    bad = 0
    deadline = python_monotonic_ns() + 1_500_000_000
    while mine.cursor < total and python_monotonic_ns() < deadline:
        count = read(*arguments, capacity)
        bad += bad_records(words, mine.cursor - count, count)
    child.kill()
    ring.unlink()
    return bad


def test_torn_copies_are_never_returned(instance: str) -> None:
    assert bad_copies(instance, checked_read) == 0


def test_torn_copies_are_returned_without_the_second_look_at_the_claim(instance: str) -> None:
    if bad_copies(instance, unchecked_read) == 0:
        pytest.skip("the two processes never met: one core, or a busy one")


# --- what the compiler made of it -------------------------------------------------------------------------

READ_ONLY_WORDS = types.Array(types.int64, 1, "C", readonly=True)
READ_ONLY_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
ARGUMENTS = (READ_ONLY_WORDS, types.int64[::1], READ_ONLY_BYTES, types.uint8[::1], types.int64)
LOOK = ("load acquire", "load relaxed")  # at the head and the claim
CHECK = ("fence acquire", "load relaxed")


@plain_build
def test_ir_of_a_read() -> None:
    """That it compiles for read-only arrays at all is the proof that no atomic and no copy writes to them."""
    assert paths(checked_read.py_func, *ARGUMENTS) == {
        LOOK[:1],  # the ring went backwards
        LOOK,  # nothing to read
        (*LOOK, "copy", *CHECK),
        (*LOOK, "copy", "copy", *CHECK),  # over the wrap
    }


@plain_build
def test_the_ir_test_notices_a_missing_fence() -> None:
    def unfenced_read(control, local, slots, target, most):
        copy_bytes(target, 0, slots, 0, 64 * most)
        return load_relaxed(control, kernels.CLAIM)

    def fenced_read(control, local, slots, target, most):
        copy_bytes(target, 0, slots, 0, 64 * most)
        fence_acquire()
        return load_relaxed(control, kernels.CLAIM)

    assert paths(fenced_read, *ARGUMENTS) == {("copy", *CHECK)}
    assert paths(unfenced_read, *ARGUMENTS) == {("copy", "load relaxed")}
