"""Atomics: what they do, and that the compiled code really contains them (the IR is the proof, not the result)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

from shm import control, doorbell, ring_kernels
from shm.atomics import (
    compare_exchange,
    cpu_pause,
    fence_acquire,
    fence_release,
    fence_seq_cst,
    fetch_add,
    fetch_or,
    load_acquire,
    load_relaxed,
    set_bits,
    store_relaxed,
    store_release,
)
from shm.clock import sleep
from shm.memory import copy_bytes, move_bytes

WORDS = types.int64[::1]
BELLS = types.int32[::1]
BYTES = types.uint8[::1]
I64 = types.int64

LOAD_ACQUIRE = r"load atomic i64, ptr %\S+ acquire"
LOAD_RELAXED = r"load atomic i64, ptr %\S+ monotonic"
STORE_RELEASE = r"store atomic i64 \S+, ptr %\S+ release"
STORE_RELAXED = r"store atomic i64 \S+, ptr %\S+ monotonic"


def body(function: Callable, *arguments: types.Type) -> str:
    """Optimised LLVM IR of the compiled function itself, its wrappers left out."""
    compiled = numba.njit(arguments, nogil=True, error_model="numpy")(function)
    (whole,) = compiled.inspect_llvm().values()
    for definition in re.split(r"(?m)^(?=define )", whole)[1:]:
        head = definition.splitlines()[0]
        if "cpython" not in head and "cfunc" not in head and function.__name__ in head:
            return definition[: definition.index("\n}")]
    raise AssertionError(f"no body of {function.__name__} in\n{whole}")


def in_order(text: str, *patterns: str) -> bool:
    """Whether the patterns occur one after the other."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(text, at)
        if not found:
            return False
        at = found.end()
    return True


def loops_that_load(text: str) -> bool:
    """Whether some cycle of basic blocks contains a load."""
    blocks: dict[str, str] = {}
    name = "entry"
    for line in text.splitlines()[1:]:
        label = re.match(r"([\w.$-]+|\"[^\"]+\"):", line)
        if label:
            name = label.group(1).strip('"')
        blocks[name] = blocks.get(name, "") + line + "\n"
    successors = {
        name: {x.strip('"') for x in re.findall(r"label %(\"[^\"]+\"|[\w.$-]+)", code)}
        for name, code in blocks.items()
    }

    def reaches(start: str, goal: str) -> bool:
        seen: set[str] = set()
        todo = list(successors.get(start, ()))
        while todo:
            block = todo.pop()
            if block == goal:
                return True
            if block not in seen:
                seen.add(block)
                todo += successors.get(block, ())
        return False

    return any(" load " in code and reaches(name, name) for name, code in blocks.items())


# --- what they do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint32])
def test_every_operation_does_its_arithmetic(dtype: type) -> None:
    words = np.arange(4, dtype=dtype)
    store_release(words, 1, 40)
    store_relaxed(words, 2, 5)
    assert load_acquire(words, 1) == 40 and load_relaxed(words, 2) == 5
    assert fetch_add(words, 1, 2) == 40 and words[1] == 42
    assert fetch_or(words, 1, 5) == 42 and words[1] == 47
    set_bits(words, 2, 10)
    assert words[2] == 15
    assert compare_exchange(words, 1, 46, 1) == 47 and words[1] == 47
    assert compare_exchange(words, 1, 47, 1) == 47 and words[1] == 1
    assert list(words) == [0, 1, 15, 3]


def test_fetch_add_wraps_and_the_fences_can_be_called_from_python() -> None:
    words = np.array([2**63 - 1], np.int64)
    assert fetch_add(words, 0, 1) == 2**63 - 1
    assert words[0] == -(2**63)
    for call in (fence_seq_cst, fence_acquire, fence_release, cpu_pause):
        assert call() is None


def test_read_only_arrays_can_be_loaded_but_not_written() -> None:
    words = np.array([7], np.int64)
    words.flags.writeable = False
    assert load_acquire(words, 0) == 7 and load_relaxed(words, 0) == 7
    for write in (store_release, store_relaxed, fetch_add, fetch_or, set_bits):
        with pytest.raises(TypingError, match="needs a writable array"):
            write(words, 0, 1)
    with pytest.raises(TypingError, match="needs a writable array"):
        compare_exchange(words, 0, 7, 8)


@pytest.mark.parametrize(
    "array", [np.zeros(4, np.float64), np.zeros((2, 2), np.int64), np.zeros(8, np.int64)[::2], np.zeros(4, np.int16)]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TypingError, match="atomics need"):
        load_acquire(array, 0)


def test_additions_from_threads_are_all_counted() -> None:
    words = np.zeros(1, np.int64)

    @numba.njit(nogil=True)
    def add(array: np.ndarray, times: int) -> None:
        for _ in range(times):
            fetch_add(array, 0, 1)

    add(words, 0)
    threads = [threading.Thread(target=add, args=(words, 200_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words[0] == 800_000


def test_copy_bytes_copies_exactly_the_range() -> None:
    source = np.arange(100, dtype=np.uint8)
    target = np.zeros(100, np.uint8)
    copy_bytes(target, 10, source, 50, 33)
    assert np.array_equal(target[10:43], source[50:83])
    assert target[:10].sum() == 0 and target[43:].sum() == 0
    with pytest.raises(TypingError, match="copy_bytes needs"):
        copy_bytes(np.zeros(8, np.int64), 0, source, 0, 8)


def test_move_bytes_works_where_both_places_overlap() -> None:
    for target_at, source_at in ((10, 30), (30, 10)):
        words = np.arange(100, dtype=np.uint8)
        expected = words.copy()
        expected[target_at : target_at + 50] = words[source_at : source_at + 50].copy()
        move_bytes(words, target_at, source_at, 50)
        assert np.array_equal(words, expected)


# --- what the compiler made of them ---------------------------------------------------------------------


def test_the_ir_holds_each_ordering() -> None:
    def kernel(words, i, v):
        a = load_acquire(words, i)
        fence_acquire()
        b = load_relaxed(words, i)
        fence_release()
        store_release(words, i, v)
        fence_seq_cst()
        store_relaxed(words, i, v)
        c = fetch_add(words, i, v)
        set_bits(words, i, v)
        d = compare_exchange(words, i, v, 0)
        cpu_pause()
        return a + b + c + d

    assert in_order(
        body(kernel, WORDS, I64, I64),
        LOAD_ACQUIRE, "fence acquire", LOAD_RELAXED, "fence release", STORE_RELEASE, "fence seq_cst", STORE_RELAXED,
        r"atomicrmw add ptr %\S+, i64 \S+ seq_cst", r"atomicrmw or ptr %\S+, i64 \S+ seq_cst",
        r"cmpxchg ptr %\S+, i64 \S+, i64 0 seq_cst seq_cst",
        r"call void @llvm\.(x86\.sse2\.pause|aarch64\.hint)",
    )  # fmt: skip


def test_a_plain_polling_loop_is_hoisted_and_an_atomic_one_is_not() -> None:
    def plain(words, turns):
        while words[0] == 0 and turns > 0:
            turns -= 1
        return turns > 0

    def atomic(words, turns):
        while load_acquire(words, 0) == 0 and turns > 0:
            turns -= 1
        return turns > 0

    assert not loops_that_load(body(plain, WORDS, I64))
    assert loops_that_load(body(atomic, WORDS, I64))

    # And so it runs: the plain loop answers from its first look, the atomic one sees a store made meanwhile.
    for function, sees in ((plain, False), (atomic, True)):
        poll = numba.njit([(WORDS, I64)], nogil=True)(function)
        words = np.zeros(1, np.int64)
        answer: list[bool] = []
        thread = threading.Thread(target=lambda p=poll, w=words, a=answer: a.append(p(w, 1 << 40)))
        thread.start()
        sleep(0.05)
        words[0] = 1
        thread.join()
        assert answer == [sees]


def test_ir_of_the_ring_kernels() -> None:
    def room(c, local):
        return ring_kernels.producer_room(c, local, 1)

    def claim_write(c, local, slots, source):
        ring_kernels.producer_claim(c, local, 3)
        ring_kernels.producer_write(local, slots, 0, source, 0, 3)

    def publish(c, local, slots, source):
        ring_kernels.producer_write(local, slots, 0, source, 0, 3)
        ring_kernels.producer_publish(c, local, 3)

    def ready_read(c, local, slots, target):
        n = ring_kernels.consumer_ready(c, local, 1)
        ring_kernels.consumer_read(local, slots, 0, target, 0, n)

    def read_release(c, local, slots, target):
        ring_kernels.consumer_read(local, slots, 0, target, 0, 3)
        ring_kernels.consumer_advance(local, 3)
        ring_kernels.consumer_release(c, local)

    def counters(c):
        return ring_kernels.ring_produced(c) + ring_kernels.ring_consumed(c) + ring_kernels.ring_dropped(c)

    copy = r"call void @llvm\.memcpy"
    assert in_order(body(room, WORDS, WORDS), LOAD_ACQUIRE)
    assert in_order(body(claim_write, WORDS, WORDS, BYTES, BYTES), STORE_RELAXED, "fence release", copy)
    assert in_order(body(publish, WORDS, WORDS, BYTES, BYTES), copy, STORE_RELEASE)
    assert in_order(body(ready_read, WORDS, WORDS, BYTES, BYTES), LOAD_ACQUIRE, copy)
    assert in_order(body(read_release, WORDS, WORDS, BYTES, BYTES), copy, STORE_RELEASE)
    assert len(re.findall(LOAD_ACQUIRE, body(counters, WORDS))) == 3


def test_ir_of_the_doorbell_kernels() -> None:
    def publish_and_ring(c, local, bells):
        ring_kernels.producer_publish(c, local, 1)
        doorbell.ring_bell(bells, 6)

    def prepare_and_look(c, local, bells):
        seen = doorbell.prepare_wait(bells, 6)
        return seen + ring_kernels.consumer_ready(c, local, 1)

    flag_load = r"load atomic i32, ptr %\S+ monotonic"
    assert in_order(body(publish_and_ring, WORDS, WORDS, BELLS), STORE_RELEASE, "fence seq_cst", flag_load)
    assert in_order(
        body(prepare_and_look, WORDS, WORDS, BELLS),
        r"load atomic i32, ptr %\S+ acquire", r"store atomic i32 1, ptr %\S+ monotonic", "fence seq_cst", LOAD_ACQUIRE,
    )  # fmt: skip


def test_ir_of_the_control_kernels() -> None:
    def trip(c, source):
        return control.trip(c, source)

    def poll(c, turns):
        for _ in range(turns):
            if control.emergency_word(c) != 0 or control.stop_requested(c, 3) != 0:
                return 1
        return 0

    def reset(c, seen):
        return control.reset_emergency(c, seen)

    def beat(c):
        control.beat(c, 3, 17)

    tripped = body(trip, WORDS, I64)
    assert in_order(tripped, r"atomicrmw add ptr %\S+, i64 65536 seq_cst", r"atomicrmw or ptr")
    assert "cmpxchg" not in tripped and len(re.findall("atomicrmw", tripped)) == 2
    polled = body(poll, WORDS, I64)
    assert in_order(polled, LOAD_ACQUIRE, LOAD_ACQUIRE) and loops_that_load(polled)
    assert in_order(body(reset, WORDS, I64), r"cmpxchg ptr %\S+, i64 \S+, i64 0 seq_cst seq_cst")
    assert in_order(body(beat, WORDS), r"store atomic i64 17, ptr %\S+ release")


CACHED_MODULE = """
import numba, numpy as np
from shm.clock import session_ns
from shm.control import doorbell_at, trip
from shm.doorbell import commit_wait, prepare_wait, ring_bell
from shm.histogram import record
from shm.ring_kernels import producer_claim, producer_publish, producer_room

@numba.njit("i8(i8[::1], i8[::1], i8[::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def turn(control, local, histogram, bells):
    start = session_ns(0)
    if producer_room(control, local, 1) > 0:
        producer_claim(control, local, 1)
        producer_publish(control, local, 1)
    ring_bell(bells, 0)
    commit_wait(bells, 0, prepare_wait(bells, 0), 1000)
    record(histogram, session_ns(0) - start)
    return trip(control, 1) + doorbell_at(0)

local = np.zeros(8, np.int64)
local[3] = 7
turn(np.zeros(1024, np.int64), local, np.zeros(4096, np.int64), np.zeros(8, np.int32))
print(sum(turn.stats.cache_hits.values()))
"""


def test_callers_are_cached_on_disk(tmp_path: Path) -> None:
    (tmp_path / "cached_turn.py").write_text(CACHED_MODULE)
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    command = [sys.executable, "-c", "import cached_turn"]
    hits = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]
