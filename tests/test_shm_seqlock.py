"""Sequence locks: readers get whole values or none, and it is the sequence and its fences that make it so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from shm.atomics import (
    cpu_pause,
    fence_acquire,
    fence_release,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from shm.clock import monotonic_ns
from shm.segment import Segment, layout_hash
from shm.seqlock import BLOCK_ALIGNMENT, PAYLOAD, SEQUENCE, Seqlock, seqlock_bytes, seqlock_read, seqlock_write
from tests.compiled_paths import paths, plain_build
from tests.shm_helpers import DIGEST, fresh_instance
from tools.soak.forks import Fork

POSITION = np.dtype([("instrument", "<i4"), ("side", "i1"), ("size", "<i8"), ("cash", "<i8", (3,))], align=True)
WORDS = types.int64[::1]


def block_for(dtype: np.dtype) -> np.ndarray:
    return np.zeros(seqlock_bytes(dtype) // 8, np.int64)


# --- one process ----------------------------------------------------------------------------------------


def test_a_reader_gets_the_newest_value() -> None:
    words = block_for(POSITION)
    writer, reader = Seqlock(words, POSITION), Seqlock(words, POSITION)
    value = np.zeros(1, POSITION)
    for version in range(1, 4):
        value["size"], value["cash"] = -version, (version, 2, 3)
        writer.write(value)
        assert np.array_equal(reader.read(), value) and reader.version == version
    assert not np.shares_memory(reader.read(), words)
    writer.write(value[0])  # one record, too
    assert np.array_equal(reader.read(), value) and writer.version == 4


def test_before_the_first_value_all_is_zero() -> None:
    lock = Seqlock(block_for(POSITION), POSITION)
    assert lock.version == 0 and np.array_equal(lock.read(), np.zeros(1, POSITION))


def test_a_writer_that_died_while_writing_makes_the_block_unreadable_until_its_successor_writes() -> None:
    words = block_for(POSITION)
    lock = Seqlock(words, POSITION)
    old, new = np.zeros(1, POSITION), np.zeros(1, POSITION)
    old["size"], new["size"] = 1, 2
    lock.write(old)
    words[SEQUENCE] += 1  # as far as a writer got
    words[PAYLOAD] = -1
    assert lock.read() is None and lock.version == 1
    lock.write(new)
    assert words[SEQUENCE] == 4 and lock.version == 2
    assert np.array_equal(lock.read(), new)


def test_a_reader_gives_up_after_its_attempts_and_says_which_value_it_got() -> None:
    block, target = np.zeros(4, np.int64), np.full(3, 7, np.int64)
    assert seqlock_read(block, target, 3, 1) == 0 and list(target) == [0, 0, 0]
    seqlock_write(block, np.array([4, 5, 6]), 3)
    assert seqlock_read(block, target, 3, 1) == 1 and list(target) == [4, 5, 6]
    assert seqlock_read(block, target, 3, 0) == -1
    block[SEQUENCE] = 3
    assert seqlock_read(block, target, 3, 1000) == -1


@settings(max_examples=50)
@given(values=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=20, max_size=20), min_size=1, max_size=5))
def test_every_bit_of_a_value_arrives(values: list[list[int]]) -> None:
    dtype = np.dtype((np.int64, (20,)))
    record = np.dtype([("words", dtype)])
    lock = Seqlock(block_for(record), record)
    for value in values:
        lock.write(np.array([(value,)], record))
        read = lock.read()
        assert read is not None and list(read["words"][0]) == value


def test_blocks_of_different_writers_share_no_cache_lines() -> None:
    for size in (8, 120, 128, 4096):
        room = seqlock_bytes(np.dtype((np.void, size)))
        assert room % BLOCK_ALIGNMENT == 0 and 8 * PAYLOAD + size <= room < 8 * PAYLOAD + size + BLOCK_ALIGNMENT


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="1-D int64 array"):
        Seqlock(np.zeros(64, np.float64), POSITION)
    with pytest.raises(ValueError, match="whole words of 8"):
        Seqlock(np.zeros(64, np.int64), np.dtype("<i4"))
    with pytest.raises(ValueError, match="5 words cannot hold 6"):
        Seqlock(np.zeros(5, np.int64), POSITION)


# --- two processes ----------------------------------------------------------------------------------------

COUNT = 512  # words of a value: 4 KiB
VALUE = np.dtype((np.void, 8 * COUNT))


@pytest.fixture
def segments() -> Iterator[tuple[Segment, Segment]]:
    """A segment with one block, and a read-only mapping of it."""
    for instance in fresh_instance():
        size = seqlock_bytes(VALUE)
        layout = layout_hash(VALUE, 1)
        made = Segment.create(
            "latest", size, layout_hash=layout, record_size=size, capacity=1, instance=instance, kernel_digest=DIGEST
        )
        seen = Segment.attach(
            "latest", instance=instance, layout_hash=layout, record_size=size, kernel_digest=DIGEST, read_only=True
        )
        yield made, seen
        made.unlink()


def test_a_read_only_mapping_can_be_read_and_not_written(segments: tuple[Segment, Segment]) -> None:
    made, seen = (segment.array(np.int64, 0, segment.size // 8) for segment in segments)
    record = np.dtype([("words", "<i8", (COUNT,))])
    writer, reader = Seqlock(made, record), Seqlock(seen, record)
    value = np.array([(np.arange(COUNT),)], record)
    writer.write(value)
    assert np.array_equal(reader.read(), value)
    with pytest.raises(ValueError, match="mapped read-only"):
        reader.write(value)


@numba.njit(nogil=True)
def write_values(block, value, count, write, pause, stop_at_ns):
    """Write 1, 2, 3, ... into every word until time is up."""
    version = 0
    while monotonic_ns() < stop_at_ns:
        for _ in range(64):
            version += 1
            value[:] = version
            write(block, value, count)
            for _ in range(pause):
                cpu_pause()


@numba.njit(nogil=True)
def read_values(block, target, count, read, tally, stop_at_ns):
    """Read until time is up; tally counts values read, torn ones, looks in vain, and values older than the last."""
    last = 0
    while monotonic_ns() < stop_at_ns:
        for _ in range(64):
            if read(block, target, count, 3) < 0:
                tally[2] += 1
                continue
            tally[0] += 1
            torn = False
            for k in range(count):
                torn |= target[k] != target[0]
            tally[1] += torn
            tally[3] += target[0] < last
            last = target[0]


@numba.njit(nogil=True)
def whole_write(block, value, count):
    seqlock_write(block, value, count)


@numba.njit(nogil=True)
def whole_read(block, target, count, attempts):
    return seqlock_read(block, target, count, attempts)


@numba.njit(nogil=True)
def unsequenced_read(block, target, count, attempts):
    """The same atomic loads with no look at the sequence."""
    for k in range(count):
        target[k] = load_relaxed(block, PAYLOAD + k)
    return 0


def litmus(segments: tuple[Segment, Segment], read: Callable, pause: int, seconds: float) -> list[int]:
    """One process writes, this one reads; returns the reader's tally."""
    made, seen = (segment.array(np.int64, 0, segment.size // 8) for segment in segments)
    value, target = np.zeros(COUNT, np.int64), np.zeros(COUNT, np.int64)
    tally = np.zeros(4, np.int64)
    write_values(made, value, COUNT, whole_write, pause, 0)  # compile before the fork
    read_values(seen, target, COUNT, read, tally, 0)
    made[:] = 0
    tally[:] = 0
    stop_at_ns = monotonic_ns() + int(seconds * 1e9)

    def run() -> int:
        write_values(made, value, COUNT, whole_write, pause, stop_at_ns)
        return 0

    writer = Fork(run)
    read_values(seen, target, COUNT, read, tally, stop_at_ns)
    assert writer.join() == 0
    return [int(count) for count in tally]


def test_no_value_is_torn_while_another_process_writes(segments: tuple[Segment, Segment]) -> None:
    read, torn, vain, backwards = litmus(segments, whole_read, 50, 1.5)
    assert read > 0 and torn == 0 and backwards == 0
    # Without a break between two values some looks must be in vain; none of the others may be torn.
    read, torn, vain, backwards = litmus(segments, whole_read, 0, 1.0)
    assert torn == 0 and backwards == 0
    if vain == 0:
        pytest.skip(f"the two processes never met in {read} reads: one core, or a busy one")


def test_without_the_sequence_values_are_torn(segments: tuple[Segment, Segment]) -> None:
    read, torn, _, _ = litmus(segments, unsequenced_read, 0, 1.5)
    if torn == 0:
        pytest.skip(f"this machine showed no torn value in {read} reads: one core, or a busy one")
    assert torn <= read


# --- what the compiler made of it -------------------------------------------------------------------------
#
# On x86-64 neither fence becomes an instruction: what it does there, it does to the compiler. That each fence is needed
# on a weakly ordered machine is shown in tests/test_shm_weak_memory.py.

WRITE = ("load relaxed", "store relaxed", "fence release", "store relaxed", "store relaxed", "store release")
READ = ("load acquire", "load relaxed", "load relaxed", "fence acquire", "load relaxed")


@plain_build
def test_ir_of_a_write_and_of_a_read() -> None:
    def write(block, value):
        seqlock_write(block, value, 2)

    def read(block, target):
        return seqlock_read(block, target, 2, 1)

    assert paths(write, WORDS, WORDS) == {WRITE}
    # A reader may also leave at once, when the number is odd.
    assert paths(read, WORDS, WORDS) == {READ, READ[:1]}


@plain_build
def test_the_ir_test_notices_a_missing_fence() -> None:
    def write(block):
        writing = load_relaxed(block, SEQUENCE) | 1
        store_relaxed(block, SEQUENCE, writing)
        for k in range(2):
            store_relaxed(block, PAYLOAD + k, k)
        store_release(block, SEQUENCE, writing + 1)

    def read(block):
        total = 0
        before = load_acquire(block, SEQUENCE)
        for k in range(2):
            total += load_relaxed(block, PAYLOAD + k)
        return total if load_relaxed(block, SEQUENCE) == before else -1

    def late_fences(block):
        writing = load_relaxed(block, SEQUENCE) | 1
        store_relaxed(block, SEQUENCE, writing)
        for k in range(2):
            store_relaxed(block, PAYLOAD + k, k)
        fence_release()
        fence_acquire()
        store_release(block, SEQUENCE, writing + 1)

    assert paths(write, WORDS) == {tuple(step for step in WRITE if step != "fence release")}
    assert paths(read, WORDS) == {tuple(step for step in READ if step != "fence acquire")}
    assert paths(late_fences, WORDS) != {WRITE}
