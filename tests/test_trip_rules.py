"""The matrix of trips, without an engine: its cells cover every pair, and its judge finds what it must find."""

from __future__ import annotations

import dataclasses
import os
import signal
from itertools import chain, product, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procs.embedded.mix import Draws
from tools.soak.matrix import PIECES, cells_of
from tools.trips import TRIGGER_NAMES, conditions, triggers
from tools.trips.cells import FACTORS, Cell, all_cells, by_session, few_cells, makes_sense
from tools.trips.conditions import CONDITIONS
from tools.trips.covering import all_pairs, covering_rows, pairs_of
from tools.trips.judge import Facts, judge
from tools.trips.triggers import TRIGGERS

MS = 1_000_000


def covered(rows: list[tuple[str, ...]]) -> set:
    return {pair for row in rows for pair in pairs_of(row)}


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5), seed=st.integers(0, 2**31))
def test_every_pair_is_covered(sizes: list[int], seed: int) -> None:
    factors = {f"f{at}": [f"{at}.{value}" for value in range(size)] for at, size in enumerate(sizes)}
    rows = covering_rows(factors, seed)
    every = {pair for row in product(*factors.values()) for pair in pairs_of(row)}
    assert covered(rows) == every
    assert covered(rows[:-1]) != every, "the last row was needed"
    largest = sorted(sizes)[-2:]
    assert largest[0] * largest[1] <= len(rows) <= 3 * largest[0] * largest[1]
    assert covering_rows(factors, seed) == rows


def test_pieces_of_the_long_suite_make_up_whole_arrays() -> None:
    first = [cell for seed in range(PIECES) for cell in cells_of(seed)]
    assert sorted(first) == sorted(all_cells(0))
    assert sorted(cells_of(PIECES)) != sorted(cells_of(0))


def test_given_rows_come_first_and_others_are_not_made() -> None:
    factors = {"one": ["a", "b"], "two": ["x", "y"], "three": ["0", "1"]}
    rows = covering_rows(factors, 3, [("a", "x", "0")], allowed=lambda row: row[:2] != ("b", "y"))
    assert rows[0] == ("a", "x", "0")
    assert not any(row[:2] == ("b", "y") for row in rows)
    assert covered(rows) == all_pairs(factors, lambda row: row[:2] != ("b", "y"))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_matrix_has_every_trigger_idle_every_condition_in_normal_and_every_pair(seed: int) -> None:
    cells = all_cells(seed)
    few = few_cells(seed, 40)
    for some in (cells, few):
        assert {cell.trigger for cell in some if cell.condition == "idle" and cell.mode == "NORMAL"} == set(TRIGGERS)
        assert {cell.condition for cell in some if cell.mode == "NORMAL"} == set(CONDITIONS)
    assert len(few) == len(set(few)) == 40
    assert {cell.mode for cell in few} == set(FACTORS["mode"])
    rows = [dataclasses.astuple(cell) for cell in cells]
    possible = all_pairs(FACTORS, makes_sense)
    assert covered(rows) == possible
    assert len({(cell.trigger, cell.condition) for cell in cells}) == 135 <= len(cells) < 200
    grouped = [cell for _, group in by_session(few) for cell in group]
    assert sorted(grouped) == sorted(few)
    assert all(len(group) == 1 for needs, group in by_session(cells) if needs[2]), "such a trip ends its session"
    assert len(list(by_session(few))) <= 8, "sessions are dear"


def event(kind: str, at_ns: int, client_id: str, **more: Any) -> dict[str, Any]:
    return {
        "at_ns": at_ns, "event": kind, "client_id": client_id, "symbol": "BTCUSDT", "side": 1, "reduce_only": False,
        "size": 2, "position": 2, **more,
    }


def sound(**changes: Any) -> Facts:
    """A trip at 100 ms, shut at 103, done at 2 s; order 7 was under way; the kill switch closed what was held."""
    log = [
        {"at_ns": 60 * MS, "event": "cancel all", "symbol": "BTCUSDT"},
        {"at_ns": 102 * MS, "event": "cancel all", "symbol": "BTCUSDT"},
        event("accepted", 90 * MS, "o6"), event("fill", 95 * MS, "o6"), event("accepted", 102 * MS, "o7"),
        event("accepted", 900 * MS, "k1", side=-1, reduce_only=True),
        event("fill", 901 * MS, "k1", side=-1, reduce_only=True, position=0),
    ]
    facts = Facts(
        began_ns=50 * MS, untripped_ns=99 * MS, tripped_ns=100 * MS, shut_ns=103 * MS, confirmed_ns=2_000 * MS,
        gate={6: 89 * MS, 7: 99 * MS}, log=log, own={"o6": 6, "o7": 7, "k1": 0}, resting=0, symbols=("BTCUSDT",),
        sources=("OPERATOR", "RISK"), latched=("OPERATOR", "RISK"),
    )
    return dataclasses.replace(facts, **changes)


def test_a_sound_trip_is_found_sound_and_counted() -> None:
    verdict = judge(sound(), "OPERATOR")
    assert (verdict.broken, verdict.between, verdict.after) == ([], 1, 0)
    assert verdict.cancelled_ns == 2 * MS
    slow = [*sound().log, event("accepted", 99 * MS, "k1", reduce_only=True)]
    assert judge(sound(log=slow), "RISK").broken == [], "the observer saw the trip a millisecond late"
    assert judge(sound(symbols=("BTCUSDT", "ETHUSDT")), "RISK").cancelled_ns == 0
    late = judge(sound(shut_ns=101 * MS), "RISK")
    assert (late.broken, late.between, late.after) == ([], 0, 1), "it was the one under way"


LATE = event("accepted", 700 * MS, "o8")
BROKEN = {
    "nobody tripped": ({"tripped_ns": 0}, "never set"),
    "another tripped": ({"sources": ("HARDWARE",)}, "not among the sources"),
    "not latched": ({"latched": ()}, "not in the latch file"),
    "no acknowledgement": ({"shut_ns": 0}, "neither showed"),
    "no end": ({"confirmed_ns": 0}, "has not confirmed"),
    "an order rests": ({"resting": 1}, "1 orders rest"),
    "through a shut gate": ({"gate": {6: 89 * MS, 7: 101 * MS}}, "order 7 passed the gate 1.000 ms after"),
    "accepted after the acknowledgement": (
        {"log": [event("accepted", 104 * MS, "o6")]}, "order 6 was accepted 1.0 ms after the acknowledgement"
    ),
    "past the gate": ({"log": [LATE], "own": {"o8": 8}}, "never passed the gate"),
    "the kill switch enters": (
        {"log": [event("accepted", 900 * MS, "k1")], "own": {"k1": 0}}, "never passed the gate"
    ),
    "the kill switch before a trip": (
        {"log": [event("accepted", 60 * MS, "k1", reduce_only=True)], "own": {"k1": 0}}, "never passed the gate"
    ),
    "a fill that increases": ({"log": [event("fill", 2_001 * MS, "o6", position=-4, side=-1)]}, "from -2 to -4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_judge_finds(name: str) -> None:
    changes, words = BROKEN[name]
    verdict = judge(sound(**changes), "OPERATOR")
    assert len(verdict.broken) == 1 and words in verdict.broken[0], verdict.broken


def test_what_came_before_is_not_judged_and_a_reducing_fill_is_allowed() -> None:
    log = [event("accepted", 40 * MS, "o5"), event("fill", 2_001 * MS, "k1", position=1, side=-1)]
    assert judge(sound(log=log), "OPERATOR").broken == []


def test_the_command_line_knows_the_triggers() -> None:
    assert tuple(TRIGGERS) == TRIGGER_NAMES


def test_a_cell_says_what_it_is() -> None:
    assert str(Cell("PAUSE", "kill", "venue gone")) == "kill in PAUSE with venue gone"


def session_that_fills(step: int, pids: Any) -> SimpleNamespace:
    """Its market ring gets some records at each look at the pid of validation, and drops what is beyond a hundred."""
    ring = SimpleNamespace(dropped=3)
    given = 0

    def pid(role: int) -> int:
        nonlocal given
        given += step
        ring.dropped = 3 + max(0, given - 100)
        return int(next(pids))

    return SimpleNamespace(live=SimpleNamespace(ring=lambda name: ring), pid=pid)


def test_a_ring_is_full_only_if_the_successors_stand_still_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    monkeypatch.setattr(conditions, "_FILL_S", 0.2)
    full = CONDITIONS["ring full"].begin
    full(session_that_fills(25, iter([7, 7, 0, 8, 8])), Draws(1, 0))  # type: ignore[arg-type]
    assert sent == [(7, signal.SIGSTOP), (8, signal.SIGSTOP)], "nobody sends a signal to his own group"
    with pytest.raises(TimeoutError, match="full ring"):
        full(session_that_fills(0, chain([7], repeat(9))), Draws(1, 0))  # type: ignore[arg-type]
    triggers.send(0, signal.SIGKILL)
    assert sent[2:] == [(7, signal.SIGSTOP), (9, signal.SIGSTOP)]
