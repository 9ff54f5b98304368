"""kill -9 at every point between two steps of a writer and of a reader (tools/soak/crash_points.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shm import ring_kernels as kernels
from shm.atomics import load_acquire
from shm.clock import python_monotonic_ns, sleep
from shm.doorbell import MAX_WAIT_NS, Doorbell
from shm.lease import Lease, LeaseHeld
from tests.shm_helpers import fresh_instance
from tools.soak.crash_points import (
    AFTER_PUBLISH,
    BATCH,
    BELLS,
    MID_COPY,
    REACHED,
    READER_POINTS,
    TOTAL,
    WRITER_POINTS,
    Stage,
    killed_reader,
    killed_writer,
    stage,
    whole,
)
from tools.soak.forks import Fork


@pytest.fixture
def made() -> Iterator[Stage]:
    for instance in fresh_instance():
        with stage(instance) as one:
            yield one


# Record 17 lies in a batch over the wrap; from 16 on a slot holds an older record before it is overwritten.
@pytest.mark.parametrize("point", WRITER_POINTS)
@pytest.mark.parametrize("record", [0, 2, 4, 17, 33, 63], ids=lambda record: f"record{record}")
def test_a_killed_writer_leaves_nothing_half_visible(made: Stage, point: str, record: int) -> None:
    killed_writer(made, WRITER_POINTS[point], record)


@pytest.mark.parametrize("point", READER_POINTS)
@pytest.mark.parametrize("record", [0, 7, 17, 33, 63], ids=lambda record: f"record{record}")
def test_a_killed_readers_records_come_again_and_their_effects_do_not(made: Stage, point: str, record: int) -> None:
    killed_reader(made, READER_POINTS[point], record)


def test_the_lease_of_a_stopped_writer_is_still_held(made: Stage) -> None:
    made.tell(MID_COPY, 2)
    victim = Fork(made.write)
    while load_acquire(made.script, REACHED) == 0:
        sleep(0.0005)
    with pytest.raises(LeaseHeld):
        Lease.acquire(made.ring.segment.full_name)
    made.kill_at_its_point(victim)
    Lease.acquire(made.ring.segment.full_name).release()


def test_a_reader_asleep_finds_what_a_writer_published_who_died_before_ringing(made: Stage) -> None:
    bell = Doorbell(made.bells, BELLS)
    woken: list[int] = []

    def listen() -> None:
        while not bell.wait(MAX_WAIT_NS, lambda: made.ring.ready() > 0):
            pass
        woken.append(python_monotonic_ns())

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = python_monotonic_ns() + 30_000_000_000
    while not made.bells[BELLS + 1]:
        assert python_monotonic_ns() < deadline, "the reader never went to sleep"
    made.tell(AFTER_PUBLISH, 0)
    made.kill_at_its_point(Fork(made.write))
    listener.join(30)
    assert woken and made.bells[BELLS] == 0, "nobody rang, so the time-out of the wait must have done it"
    assert whole(made.ring.pop(TOTAL), 0)


def test_a_torn_record_would_be_noticed(made: Stage) -> None:
    """What the tests above look for is there when a writer publishes what it has half copied."""
    made.tell(MID_COPY, 2)
    made.kill_at_its_point(Fork(made.write))
    made.ring.control[kernels.HEAD] = BATCH
    assert whole(made.ring.records[:2], 0) and not whole(made.ring.records[:3], 0)
    assert Fork(made.read).join() == 1
