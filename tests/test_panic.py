"""The panic watch on the real memory of an instance: each figure from where it arises to the mode that it leads to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.safety import modes
from engine.safety.mode import Mode
from engine.safety.modes import By, ModeState, Rules
from procs.instance import Mapping
from procs.panic import PanicWatch
from procs.table import VITAL, Role
from procs.venue_lag import LAG_WORDS, least_lag_ns, note_lag
from shm.control import Readiness, TripSource
from shm.histogram import record
from tests.instance_memory import small_instance

MS = 1_000_000
SECOND = 1_000 * MS
TICK = 50 * MS
START = 1_700_000_000 * SECOND


class Plane:
    """The mode machine without files and processes."""

    def __init__(self, mapping: Mapping, clock: Clock) -> None:
        self.state, self._mapping, self._clock = ModeState(), mapping, clock
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.trips: list[tuple[TripSource, str]] = []
        self.wants = 0

    def want(self, mode: Mode, cause: str, reason: str) -> None:
        self.wants += 1
        self.state = modes.hold(self.state, mode, By.MONITOR, cause, reason, self._clock.now_ns).state

    def clear(self, cause: str) -> None:
        self.state = modes.clear(self.state, cause, self._clock.now_ns)

    def trip(self, source: TripSource, words: str) -> None:
        self.trips.append((source, words))
        self._mapping.control.trip(source)

    def note(self, event: str, **fields: Any) -> None:
        self.notes.append((event, fields))


class Clock:
    """Session time as the test has it."""

    now_ns = START


class Engine:
    """An instance whose processes are played by the test."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping, self.clock = mapping, Clock()
        mapping.now_ns = lambda: self.clock.now_ns  # type: ignore[method-assign]
        self.plane = Plane(mapping, self.clock)
        self.flows = mapping.state(Role.FEATURES)["flows"][0]
        self.execution = mapping.state(Role.EXECUTION)[0]
        self.gateway = mapping.state(Role.GATEWAY)
        self.dead: set[Role] = set()
        self.silent = False
        self.lag_ns = 3 * MS
        self.lags = mapping.lags()
        for role in VITAL:
            mapping.control.set_readiness(role, Readiness.READY)
        self.watch = PanicWatch(mapping, self.plane)

    def run(self, seconds: float) -> list[str]:
        for _ in range(round(seconds * SECOND / TICK)):
            self.clock.now_ns += TICK
            now = self.clock.now_ns
            for role in set(VITAL) - self.dead:
                self.mapping.control.beat(role, now)
            if not self.silent:
                self.mapping.state(Role.INGESTION)["frames"] += 1
                self.flows["book_recv_ts_ns"] = now
                self.flows["vectors"] += 1
                self.flows["valid"] = 1
                self.execution["views"]["bid_price"], self.execution["views"]["ask_price"] = 100, 101
                note_lag(self.lags, now - self.lag_ns, now)
            self.watch.look()
        return sorted(self.watch.findings)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with small_instance(tmp_path) as plan:
        mapping = Mapping(plan)
        made = Engine(mapping)
        assert made.run(10) == []
        yield made
        del made.flows, made.execution, made.gateway, made.watch, made.lags
        mapping.close()


def test_a_healthy_engine_asks_for_nothing(engine: Engine) -> None:
    assert engine.run(60) == []
    assert (engine.plane.notes, engine.plane.wants, engine.plane.trips) == ([], 0, [])


def test_zombie_socket_10_pauses_and_comes_back_by_itself(engine: Engine) -> None:
    engine.silent = True
    assert "staleness the venue" in engine.run(3)
    assert engine.plane.state.mode == Mode.PAUSE
    wants = engine.plane.wants
    engine.run(20)
    assert engine.plane.wants == wants  # nothing is asked for twice
    engine.silent = False
    assert engine.run(10) == []
    assert engine.plane.state.mode == Mode.PAUSE  # until hysteresis and cooldown are over
    rules, facts = Rules(300 * SECOND, 30 * SECOND, 12), modes.Facts("", "", "", "")
    step = modes.auto_return(engine.plane.state, rules, facts, engine.clock.now_ns + 300 * SECOND)
    assert step is not None and step.state.mode == Mode.NORMAL
    events = [event for event, _ in engine.plane.notes]
    assert events.count("finding") == events.count("finding over") >= 2
    first = engine.plane.notes[0][1]
    assert first["action"] == "pause" and "allowed" in first["reason"]


def test_slippage_of_a_fill_trips_with_figure_and_limit(engine: Engine) -> None:
    slippages = engine.execution["slippages"]
    for share in (0.029, 0.031):
        slippages["fills"][int(slippages["count"])]["share"] = share
        slippages["fills"][int(slippages["count"])]["instrument"] = 1
        slippages["count"] += 1
        engine.run(0.1)
    assert engine.plane.trips == [(TripSource.PANIC, "slippage ETHUSDT: slippage of ETHUSDT: 3.1 %, 3 allowed")]
    assert engine.mapping.control.tripped
    engine.run(10)
    assert len(engine.plane.trips) == 1


def test_more_fills_than_are_kept_between_two_ticks(engine: Engine) -> None:
    engine.execution["slippages"]["fills"]["share"] = 0.05
    engine.execution["slippages"]["count"] += 1000
    assert "slippage BTCUSDT" in engine.run(0.1)


def test_failed_calls_and_slow_calls_pause(engine: Engine) -> None:
    engine.gateway["calls"] += 20
    engine.gateway["call_errors"] += 3
    assert engine.run(0.1) == ["api_errors the venue"]
    assert "15 %, 10 allowed" in engine.watch.findings["api_errors the venue"].reason
    calls = engine.mapping.histogram(Role.GATEWAY, "call")
    for _ in range(10):
        record(calls, 1_200 * MS)
    record(calls, -5)
    assert "latency calls" in engine.run(1.1)
    assert engine.run(62) == []


def test_ledger_breach_clock_and_stalled_process(engine: Engine) -> None:
    engine.execution["reconcile"]["holding"] = 1
    engine.execution["reconcile"]["differences"][3] = -7
    assert engine.run(0.1) == ["ledger the venue"]
    assert "position of BTCUSDT by -7 units" in engine.watch.findings["ledger the venue"].reason
    engine.execution["reconcile"]["holding"] = 0
    engine.dead.add(Role.ML)
    assert engine.run(5.2) == ["stalled ml"]
    engine.mapping.control.clear_role(Role.ML)  # being replaced: counted from now on
    assert engine.run(1) == []
    assert engine.run(5) == ["stalled ml"]
    engine.dead.clear()
    engine.lag_ns = -300 * MS
    assert engine.run(40) == ["clock the venue"]
    engine.gateway["breaches"] += 1
    engine.run(0.1)
    assert engine.plane.trips[0][0] == TripSource.PANIC


def test_a_full_ring_pauses(engine: Engine) -> None:
    ring = engine.mapping.ring("orders")
    ring.push(np.zeros(40, ring.dtype))
    assert engine.run(1.5) == ["order_rings orders"]
    assert engine.plane.state.mode == Mode.PAUSE


def test_what_is_held_since_an_earlier_session_is_let_go_of(engine: Engine) -> None:
    held = engine.plane.state
    for cause in ("spread BTCUSDT", "spread GONEUSDT", "latency calls"):
        held = modes.hold(held, Mode.PAUSE, By.MONITOR, cause, "before", START).state
    held = modes.hold(held, Mode.PAUSE, By.OPERATOR, modes.OPERATOR_CAUSE, "mine", START).state
    engine.plane.state = modes.restored(held, START)
    engine.run(1)
    cleared = {one.cause for one in engine.plane.state.holds if one.clear_since_ns}
    assert cleared == {"spread GONEUSDT", "latency calls"}  # of a spread nothing is known yet
    engine.run(70)
    cleared = {one.cause for one in engine.plane.state.holds if one.clear_since_ns}
    assert cleared == {"spread BTCUSDT", "spread GONEUSDT", "latency calls"}


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(-SECOND, SECOND)), min_size=1, max_size=80))
def test_least_lag_equals_brute_force(frames: list[tuple[int, int]]) -> None:
    words = np.zeros(LAG_WORDS, np.int64)
    now, seen = START, []
    for wait, late in frames:
        now += wait
        note_lag(words, now - late, now)
        seen.append((now // SECOND, late))
        second = now // SECOND
        inside = [value for when, value in seen if second - 30 <= when < second]
        least = least_lag_ns(words, now, 30.0)
        assert (math.isnan(least) and not inside) or least == min(inside)
