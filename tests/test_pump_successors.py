"""Checkpoints of the pump, and a successor that goes on where the dead one's effects end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import numpy as np
import pytest

from procs import pump as p
from shm.clock import python_monotonic_ns, sleep
from shm.control import Stop, TripSource
from shm.histogram import summary
from tests.pump_bench import (
    RECORDS,
    ROLE,
    Bench,
    copied,
    echoes,
    records,
    trips,
)
from tests.waiting import until


def test_input_slots_are_freed_by_checkpoints_only(bench: Callable[..., Bench]) -> None:
    b = bench(in_capacity=64, out_capacity=256, batch=8)
    b.checkpoints(every_records=24)
    b.start()
    b.feed(records(1, 20))
    until(lambda: b.takers[0].produced == 20)
    sleep(0.03)
    assert b.inputs[0].consumed == 0, "read ahead, and nothing freed"
    b.feed(records(21, 20))
    until(lambda: b.inputs[0].consumed >= 24)
    assert b.finish() == p.STOPPED
    assert b.inputs[0].consumed == 40, "the last checkpoint of a drain covers everything"
    assert summary(b.checkpoint_cost)["count"] >= 1


def test_a_checkpoint_is_due_by_time_too(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.checkpoints(every_records=10**6, every_ns=20_000_000)
    b.start()
    b.feed(records(1, 3))
    until(lambda: b.inputs[0].consumed == 3)
    taken = summary(b.checkpoint_cost)["count"]
    sleep(0.08)
    assert summary(b.checkpoint_cost)["count"] == taken, "with nothing new there is nothing to save"
    b.finish()


def test_a_stage_stopped_at_once_leaves_its_successor_everything(bench: Callable[..., Bench]) -> None:
    b = bench(in_capacity=64, out_capacity=256, batch=8)
    b.checkpoints(every_records=16)
    dice = random.Random(5)
    whole = records(1, 60, dice)
    b.feed(whole[:45])
    b.start()
    until(lambda: b.takers[0].produced == len(copied(whole[:45])))
    b.finish(Stop.NOW)
    b.control.clear_role(ROLE)
    released = b.inputs[0].consumed
    assert 0 < released < 45
    b.succeed()
    assert int(b.state[RECORDS]) == released
    b.feed(whole[45:])
    assert b.drain() == p.STOPPED
    assert b.take().tobytes() == copied(whole).tobytes()
    assert int(b.state[RECORDS]) == 60 and b.inputs[0].consumed == 60
    assert not b.params[p.P_SUPPRESS]


def test_a_trip_is_not_stepped_again_by_a_successor_that_knows_of_it(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.pump_bench.copies", echoes)
    b = bench()
    b.checkpoints(every_records=1)
    b.params[p.P_WANTS_TRIP] = 1
    word = b.control.trip(TripSource.OPERATOR)
    b.drain()
    b.params[p.P_WORD_SEEN] = 0
    b.succeed()
    b.drain()
    assert trips(b) == [word]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_instant_every_record_comes_out_once(
    bench: Callable[..., Bench], outputs: int, seed: int
) -> None:
    """Processes that are killed, again and again, with nothing left but the shared memory."""
    dice = random.Random(100 * outputs + seed)
    b = bench(outputs=outputs, in_capacity=64, out_capacity=128, batch=8)
    b.checkpoints(every_records=dice.choice((4, 13, 16)))
    whole = records(1, 4_000, dice)
    whole["venue"] = [dice.randrange(outputs) for _ in range(len(whole))]
    got: list[list[np.ndarray]] = [[] for _ in range(outputs)]
    fed = kills = 0
    child = 0
    ends_ns = 0

    def take_all() -> None:
        for route in range(outputs):
            got[route].append(b.take(route))

    def expected(route: int) -> np.ndarray:
        made = copied(whole)
        return made[made["venue"] == route]

    totals = [len(expected(route)) for route in range(outputs)]
    try:
        while [sum(map(len, parts)) for parts in got] != totals:
            if not child:
                b.succeed()
                child = os.fork()
                if not child:
                    try:
                        b.pump()
                    finally:
                        os._exit(0)
                ends_ns = python_monotonic_ns() + int(dice.uniform(0.0, 8.0) * 1e6)
                if kills == 30:
                    ends_ns += 10**12  # the last one may finish
            allowed = (kills + 1) * len(whole) // 8  # one life does not see all of them, however fast it is
            fed += b.feed(whole[fed : min(fed + dice.randint(1, 40), allowed)])
            take_all()
            assert all(sum(map(len, parts)) <= total for parts, total in zip(got, totals, strict=True))
            if python_monotonic_ns() > ends_ns:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                b.control.clear_role(ROLE)
                child, kills = 0, kills + 1
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert kills >= 7
    for route in range(outputs):
        assert np.concatenate(got[route]).tobytes() == expected(route).tobytes()
