"""Latencies and times of publishing that the pump writes down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from procs import pump as p
from procs.instance import PASSED_BY, STAMPS, Mapping
from shm.clock import python_session_ns
from shm.control import Stop
from shm.histogram import summary
from tests.instance_memory import small_instance
from tests.pump_bench import (
    ROLE,
    Bench,
    records,
)
from tests.waiting import until


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


def test_a_stage_notes_once_when_it_passed_each_frame(bench: Callable[..., Bench]) -> None:
    b = bench(batch=4, out_capacity=128)

    def now() -> int:
        return python_session_ns(b.control.session_offset_ns)

    def pass_on(first: int, count: int) -> list[int]:
        b.feed(records(first, count))
        b.drain()
        return b.passed[np.arange(first, first + count) % len(b.passed)].tolist()

    before = now()
    b.stamps[1:9] = before
    stamps = pass_on(1, 8)
    assert before <= stamps[0] and stamps == sorted(stamps) and stamps[-1] <= now()
    assert len(set(stamps)) == 2, "a stamp for each batch"
    assert pass_on(8, 1) == stamps[-1:], "what a timer says names the frame before it, and is no part of it"
    assert pass_on(9, 1) == [0], "this one was never in hand"
    again = 1 + len(b.passed)
    b.stamps[1] = now()
    assert pass_on(again, 1)[0] >= b.stamps[1] > stamps[-1], "a newer frame takes the place of an old one"
    b.params[p.P_STAMP_ALL] = 0
    b.stamps[2] = now()
    assert pass_on(2, 1) == stamps[1:2], "execution's is told by what it publishes"


def test_the_way_of_a_frame_is_that_of_no_other(tmp_path: Path) -> None:
    with small_instance(tmp_path) as plan:
        mapping = Mapping(plan)
        stamps, way_of = mapping.stamps(), mapping.way_of()
        for number, role in enumerate(PASSED_BY):
            mapping.passed(role)[7] = 110 + number
        assert way_of(7, 200) == (0, 0, 0, 0), "it was never in hand"
        stamps[7] = 100
        assert way_of(7, 200) == way_of(7, 113) == (110, 111, 112, 113)
        assert way_of(7, 111) == (110, 111, 0, 0), "what came after the intent did not lead to it"
        assert way_of(8, 200) == (0, 0, 0, 0)
        stamps[7] = 112  # the frame STAMPS later
        assert way_of(7 + STAMPS, 200) == (0, 0, 112, 113), "features and ml are at the newer one, the others are not"
        mapping.close()
