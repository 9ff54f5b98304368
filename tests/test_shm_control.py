"""The control block: trips that are never lost, resets that fail when they must, and words that read safe."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import pytest

from shm import control
from shm.atomics import load_acquire
from shm.clock import monotonic_ns, python_session_ns, session_ns, wall_ns
from shm.control import (
    CONTROL_DTYPE,
    MODE,
    ROLE_DTYPE,
    ROLES,
    UNKNOWN_MODE,
    ControlBlock,
    Readiness,
    Stop,
    TripSource,
    doorbell_index,
    is_tripped,
    set_asserted,
    trip_count,
    tripped_sources,
)
from shm.segment import SegmentError
from tests.shm_helpers import DIGEST, fresh_instance
from tools.soak.forks import Fork


@pytest.fixture
def instance() -> Iterator[str]:
    yield from fresh_instance()


@pytest.fixture
def block(instance: str) -> Iterator[ControlBlock]:
    made = ControlBlock.create(instance=instance, kernel_digest=DIGEST)
    yield made
    made.close()
    made.close()
    made.unlink()


def attach(instance: str, read_only: bool = False) -> ControlBlock:
    return ControlBlock.attach(instance=instance, kernel_digest=DIGEST, read_only=read_only)


def test_groups_with_one_writer_have_lines_of_their_own() -> None:
    def offset(dtype: np.dtype, field: str) -> int:
        return int(dtype.fields[field][1])  # type: ignore[index]

    assert [offset(CONTROL_DTYPE, name) for name in ("emergency", "session_offset", "asserted", "roles")] == [
        0, 128, 256, 384,
    ]
    assert 128 < offset(CONTROL_DTYPE, "mode") < 256, "beside the supervisor's pid: one writer"
    assert ROLE_DTYPE.itemsize == 256 and CONTROL_DTYPE.itemsize == 384 + 256 * ROLES
    assert offset(ROLE_DTYPE, "gate_epoch") < 128 <= offset(ROLE_DTYPE, "stop") < offset(ROLE_DTYPE, "doorbell")


def test_a_trip_names_its_source_and_counts(block: ControlBlock, instance: str) -> None:
    assert block.word == 0 and not block.tripped
    other = attach(instance)
    word = other.trip(TripSource.RISK)
    assert word == block.word == (1 << 16) | (1 << 4)
    block.trip(TripSource.RISK)
    word = block.trip(TripSource.HARDWARE)
    assert tripped_sources(word) == [TripSource.HARDWARE, TripSource.RISK] and trip_count(word) == 3
    assert other.tripped and attach(instance, read_only=True).word == word


def test_an_unknown_source_trips_as_unknown(block: ControlBlock) -> None:
    for source in (-1, 15, 16, 64, 1 << 40):
        assert block.reset(block.word)
        assert tripped_sources(block.trip(source)) == [TripSource.UNKNOWN]


def test_any_word_but_zero_is_an_emergency() -> None:
    assert not is_tripped(0)
    for word in (1, 1 << 16, 1 << 14, -1, -(2**63), 2**63 - 1):
        assert is_tripped(word)
    assert tripped_sources(1 << 16) == [] and tripped_sources(1 << 14) == [TripSource.UNKNOWN]
    assert trip_count(-1) == (1 << 48) - 1 and len(tripped_sources(-1)) == len(TripSource)


def test_a_trip_survives_a_full_count(block: ControlBlock) -> None:
    block.words[control.EMERGENCY] = np.int64(-1) << 16  # the count is at its largest
    word = block.trip(TripSource.PANIC)
    assert word == 1 << TripSource.PANIC


def test_a_reset_fails_after_any_trip_in_between(block: ControlBlock) -> None:
    seen = block.trip(TripSource.OPERATOR)
    block.trip(TripSource.OPERATOR)
    assert not block.reset(seen) and block.tripped
    assert block.reset(block.word) and block.word == 0


@numba.njit(nogil=True)
def trip_often(words, source, times):
    for _ in range(times):
        control.trip(words, source)


@numba.njit(nogil=True)
def reset_often(words, finished, wanted):
    """Reset whatever is seen until all trippers are done; returns the trips that the resets cleared."""
    cleared = 0
    last_turn = False
    while True:
        seen = control.emergency_word(words)
        if seen != 0 and control.reset_emergency(words, seen):
            cleared += seen >> 16
        if last_turn:
            return cleared
        last_turn = load_acquire(words, finished) + load_acquire(words, finished + 32) == wanted


def test_no_trip_is_lost_between_processes_that_trip_and_reset(block: ControlBlock) -> None:
    times = 200_000
    finished = int(control.role_at(5)) + control.PROGRESS  # of roles 5 and 6
    trip_often(block.words, 1, 0)
    reset_often(block.words, finished, 0)

    def tripper(role: int) -> int:
        trip_often(block.words, role, times)
        control.add_progress(block.words, role, 1)
        return 0

    children = [Fork(lambda role=role: tripper(role)) for role in (5, 6)]
    cleared = reset_often(block.words, finished, 2)
    assert [child.join() for child in children] == [0, 0]
    assert cleared + trip_count(block.word) == 2 * times


def test_the_mode_word_is_whole_or_unknown(block: ControlBlock, instance: str) -> None:
    assert block.mode == UNKNOWN_MODE, "nobody has published one"
    other = attach(instance, read_only=True)
    for mode in (0, 1, 3, 255):
        block.mode = mode
        assert other.mode == mode
        whole = int(block.words[MODE])
        for bit in range(64):
            block.words[MODE] = np.array([whole], np.uint64).view(np.int64)[0] ^ np.int64(
                1 << bit if bit < 63 else -(2**63)
            )
            assert other.mode == UNKNOWN_MODE, f"bit {bit} of {mode}"
        block.words[MODE] = whole
    block.words[MODE] = 0
    assert block.mode == UNKNOWN_MODE
    with pytest.raises(ValueError, match="0 to 255"):
        block.mode = 256


def test_a_token_never_comes_back(block: ControlBlock) -> None:
    seen = [block.token]
    for _ in range(3):
        word = block.trip(TripSource.OPERATOR)
        seen.append(block.token)
        assert block.trip(TripSource.RISK) != word
        seen.append(block.token)
        assert not block.reset(word), "it was another one"
        assert block.token == seen[-1]
        assert block.reset(block.word)
        seen.append(block.token)
    assert len(set(seen)) == len(seen) == 10
    assert seen == sorted(seen)
    block.count_reset()
    assert block.token == 4 << 44


def test_triggers_that_are_held(block: ControlBlock) -> None:
    assert block.asserted == []
    set_asserted(block.words, 1 << TripSource.HARDWARE | 1 << TripSource.DEAD_MAN)
    assert block.asserted == [TripSource.HARDWARE, TripSource.DEAD_MAN]
    assert block.word == 0


@numba.njit(nogil=True)
def spin_until_tripped(words, deadline):
    while control.emergency_word(words) == 0:
        if monotonic_ns() > deadline:
            return 1
    return 0


def test_a_spinning_process_sees_a_trip(block: ControlBlock) -> None:
    spin_until_tripped(block.words, 0)
    deadline = monotonic_ns() + 30_000_000_000
    child = Fork(lambda: spin_until_tripped(block.words, deadline))
    block.trip(TripSource.HARDWARE)
    assert child.join() == 0


def test_a_trip_and_a_stop_wake_a_sleeper(block: ControlBlock) -> None:
    bell = block.doorbell(31)
    for act in (lambda: block.trip(TripSource.PANIC), lambda: block.request_stop(31)):
        count = bell.bells[bell.at]
        bell.bells[bell.at + 1] = 1  # asleep
        act()
        assert bell.bells[bell.at] == count + 1


def test_each_role_has_words_of_its_own(block: ControlBlock, instance: str) -> None:
    other = attach(instance)
    for role in range(ROLES):
        block.set_pid(role, 1000 + role)
        block.set_readiness(role, Readiness.READY)
        block.beat(role, 5_000 + role)
        block.add_progress(role, role)
        block.add_progress(role, 1)
        control.set_gate_epoch(block.words, role, 70 + role)
        block.request_stop(role, Stop.DRAIN if role % 2 else Stop.NOW)
    for role in range(ROLES):
        assert (other.pid(role), other.readiness(role)) == (1000 + role, Readiness.READY)
        assert (other.heartbeat(role), other.progress(role)) == (5_000 + role, role + 1)
        assert control.gate_epoch(other.words, role) == 70 + role
        assert other.stop_requested(role) == (Stop.DRAIN if role % 2 else Stop.NOW)
    assert block.word == 0 and len({doorbell_index(role) for role in range(ROLES)}) == ROLES
    other.clear_role(7)
    assert (block.pid(7), block.readiness(7), block.stop_requested(7)) == (0, Readiness.STARTING, Stop.RUN)
    assert block.pid(6) == 1006 and block.pid(8) == 1008


def test_bells_and_words_are_the_same_memory(block: ControlBlock) -> None:
    record = block.words.view(CONTROL_DTYPE)[0]
    for role in (0, 17, 31):
        block.bells[doorbell_index(role)] = 40 + role
        block.beat(role, 9)
        assert record["roles"][role]["doorbell"][0] == 40 + role
        assert record["roles"][role]["heartbeat"] == 9


def test_unknown_words_read_on_the_safe_side(block: ControlBlock) -> None:
    control.set_readiness(block.words, 3, 99)
    control.request_stop(block.words, 3, -7)
    assert block.readiness(3) == Readiness.STARTING and block.stop_requested(3) == Stop.NOW


def test_roles_outside_the_block_are_refused(block: ControlBlock) -> None:
    for role in (-1, ROLES):
        for use in (block.pid, block.request_stop, block.doorbell, block.clear_role):
            with pytest.raises(IndexError, match="0 to 31 are allowed"):
                use(role)


def test_the_session_clock_is_one_for_all_processes(block: ControlBlock, instance: str) -> None:
    offset = block.session_offset_ns
    assert attach(instance).session_offset_ns == offset
    before = python_session_ns(offset)
    assert before <= session_ns(offset) <= python_session_ns(offset)
    assert abs(wall_ns() - before) < 5_000_000_000


def test_supervisor_pid(block: ControlBlock, instance: str) -> None:
    assert block.supervisor_pid == 0
    block.supervisor_pid = 4321
    assert attach(instance).supervisor_pid == 4321


def test_attach_compares_the_digest_unless_told_not_to(block: ControlBlock, instance: str) -> None:
    with pytest.raises(SegmentError, match="kernel digest"):
        ControlBlock.attach(instance=instance, kernel_digest="00" * 32)
    anybody = ControlBlock.attach(instance=instance, kernel_digest=None)
    anybody.trip(TripSource.OPERATOR)
    assert block.tripped
