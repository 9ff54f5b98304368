"""The pump over real rings: batches, back-pressure, routes, priorities, sleep, errors.

What a stage was given, in which order, and what reached the output rings is compared with plain Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from procs import pump as p
from shm.clock import sleep
from shm.control import Stop
from shm.histogram import summary
from tests.pump_bench import (
    MAX_OUT,
    RECORDS,
    ROLE,
    Bench,
    copied,
    records,
)
from tests.waiting import until


@pytest.mark.parametrize("batch", [1, 5, 16, 64])
def test_everything_passes_in_order_in_batches_that_never_wrap(bench: Callable[..., Bench], batch: int) -> None:
    dice = random.Random(batch)
    b = bench(in_capacity=16, out_capacity=128, batch=batch)
    given, got, next_id = [], [], 1
    while next_id < 400:
        chunk = records(next_id, dice.randint(1, 16), dice)
        assert b.feed(chunk) == len(chunk)
        assert b.drain() == p.STOPPED
        given.append(chunk)
        got.append(b.take())
        next_id += len(chunk)
    whole = np.concatenate(given)
    assert np.concatenate(got).tobytes() == copied(whole).tobytes()
    cursor = 0
    for source, count, first_id in b.steps():
        assert source == 0 and first_id == cursor + 1 and 1 <= count <= min(batch, 16)
        assert cursor % 16 + count <= 16, "a batch lies side by side in the ring"
        cursor += count
    assert cursor == len(whole)
    assert summary(b.hop)["count"] == len(b.steps())


def test_a_full_output_ring_holds_the_stage_back_and_loses_nothing(bench: Callable[..., Bench]) -> None:
    dice = random.Random(7)
    b = bench(in_capacity=64, out_capacity=16, batch=8)
    whole = records(1, 600, dice)
    b.start()
    fed, got = 0, []
    while fed < len(whole) or sum(map(len, got)) < len(copied(whole)):
        fed += b.feed(whole[fed : fed + dice.randint(1, 32)])
        if dice.random() < 0.6:
            got.append(b.takers[0].pop(dice.randint(1, 9)).copy())
        assert b.takers[0].in_flight <= 16
    assert b.finish() == p.STOPPED
    assert np.concatenate(got).tobytes() == copied(whole).tobytes()
    # Each step must have had room for the most that it could write.
    assert max(count for _, count, _ in b.steps()) <= 16 // MAX_OUT
    assert int(b.control.progress(ROLE)) == 600


def test_a_drain_waits_for_room_and_now_does_not(bench: Callable[..., Bench]) -> None:
    for stop in (Stop.DRAIN, Stop.NOW):
        b = bench(out_capacity=8, batch=8)
        b.feed(records(1, 20, size=2))
        b.start()
        # 8 places and at most 4 copies a record: two records at a time, until 5 places are taken at the least.
        until(lambda b=b: b.takers[0].in_flight > 4)  # type: ignore[misc]
        b.control.request_stop(ROLE, stop)
        if stop == Stop.NOW:
            until(lambda b=b: not b.running)  # type: ignore[misc]
            assert b.outcome == p.STOPPED and int(b.state[RECORDS]) < 20
            assert b.inputs[0].consumed == int(b.state[RECORDS])
            continue
        sleep(0.05)
        assert b.running, "stopped with inputs that it had not taken"
        got = []
        while b.running:
            got.append(b.take())
        got.append(b.take())
        assert np.concatenate(got).tobytes() == copied(records(1, 20, size=2)).tobytes()


def test_now_takes_nothing_more(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.feed(records(1, 10))
    b.control.request_stop(ROLE, Stop.NOW)
    assert b.pump() == p.STOPPED
    assert b.steps() == [] and b.inputs[0].consumed == 0
    b.control.clear_role(ROLE)
    b.control.words[:] = b.control.words  # the block is as before; an unknown order reads NOW
    b.control.request_stop(ROLE, 77)  # type: ignore[arg-type]
    assert b.pump() == p.STOPPED and b.steps() == []


def test_outputs_go_where_their_routes_say(bench: Callable[..., Bench]) -> None:
    dice = random.Random(3)
    b = bench(outputs=2, in_capacity=64, out_capacity=64, batch=7)
    given, got = [], ([], [])  # type: ignore[var-annotated]
    for start in range(1, 400, 14):
        chunk = records(start, 14, dice)
        chunk["venue"] = [dice.randint(0, 1) for _ in range(14)]
        b.feed(chunk)
        assert b.drain() == p.STOPPED
        given.append(chunk)
        for route in (0, 1):
            got[route].append(b.take(route))
    whole = copied(np.concatenate(given))
    for route in (0, 1):
        expected = whole[whole["venue"] == route]
        assert len(expected) > 100
        assert np.concatenate(got[route]).tobytes() == expected.tobytes()


def test_one_full_output_of_two_holds_everything_back(bench: Callable[..., Bench]) -> None:
    """What the stage will write is not known before its step, so there must be room in both."""
    b = bench(outputs=2, out_capacity=8)
    b.feed(records(1, 6, venue=1))
    b.start()
    until(lambda: int(b.state[RECORDS]) >= 5)
    sleep(0.05)
    assert int(b.state[RECORDS]) == 5, "with three places left no record is taken"
    b.take(1)
    until(lambda: int(b.state[RECORDS]) == 6)
    b.finish()
    assert len(b.take(0)) == 0


def test_without_outputs_nothing_is_published(bench: Callable[..., Bench]) -> None:
    b = bench(out_capacity=4)
    b.params[p.P_OUTPUTS] = 0
    b.feed(records(1, 50))
    assert b.drain() == p.STOPPED
    assert int(b.state[RECORDS]) == 50 and b.takers[0].produced == 0


def test_later_sources_go_first_and_none_is_starved(bench: Callable[..., Bench]) -> None:
    b = bench(inputs=3, in_capacity=32, out_capacity=128, batch=4)
    for source in range(3):
        b.feed(records(1000 * source + 1, 10), source)
    assert b.drain() == p.STOPPED
    expected = [
        (source, count, 1000 * source + first)
        for first, count in ((1, 4), (5, 4), (9, 2)) for source in (2, 1, 0)
    ]
    assert b.steps() == expected


def test_targets_are_looked_at_after_everything_else(bench: Callable[..., Bench]) -> None:
    b = bench(inputs=5, in_capacity=32, out_capacity=256, batch=4)
    for source in range(5):
        b.feed(records(1000 * source + 1, 10), source)
    assert b.drain() == p.STOPPED
    expected = [
        (source, count, 1000 * source + first)
        for first, count in ((1, 4), (5, 4), (9, 2)) for source in (2, 1, 0, 3, 4)
    ]
    assert b.steps() == expected


def test_an_error_of_the_stage_comes_out_and_its_batch_is_not_released(bench: Callable[..., Bench]) -> None:
    b = bench(batch=4)
    given = records(1, 12)
    given["price"][9] = -1
    b.feed(given)
    with pytest.raises(ValueError, match="a record that the stage cannot take"):
        b.drain()
    assert b.inputs[0].consumed == 8
    assert b.take().tobytes() == copied(given[:8]).tobytes()


def test_a_record_wakes_a_sleeping_stage_and_its_consumer_is_rung(bench: Callable[..., Bench]) -> None:
    b = bench()
    bell = b.control.doorbell(ROLE + 1)
    b.start()
    for number in range(1, 20):
        sleep(0.003)
        b.feed(records(number, 1))
        # The consumer sleeps on its own bell and must be woken for each.
        until(lambda n=number: bell.wait(2_000_000_000, lambda: b.takers[0].produced >= n))  # type: ignore[misc]
    assert b.finish() == p.STOPPED
    assert b.control.heartbeat(ROLE) > 0


def test_a_spinning_stage_never_sleeps_and_stops(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.params[p.P_SPIN] = 1
    b.start()
    b.feeders[0].push(records(1, 9))  # no bell
    until(lambda: b.takers[0].produced == 9)
    assert b.finish() == p.STOPPED
