"""The table of processes and rings: one producer and one consumer a ring, memory, cores."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.execution.kernel import EXECUTION
from engine.features.step import FEATURES
from engine.records import ALL_RECORDS, SOURCE_TARGETS, TARGET_SOURCES
from engine.settings import SettingsError
from engine.validation.step import VALIDATION
from procs.pump import MAX_INPUTS, MAX_OUTPUTS
from procs.table import (
    PATH,
    PROCESS_BY_ROLE,
    PROCESSES,
    RING_BY_NAME,
    RINGS,
    SMALLEST_RING,
    STRATEGIES,
    STRATEGY_PROCESSES,
    TARGET_RINGS,
    VITAL,
    Role,
    placement,
    processes_of,
    ring_capacities,
    rings_of,
)

HOT = [Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML, Role.EXECUTION]
MIB = 1 << 20


def ring_bytes(capacities: dict[str, int]) -> int:
    return sum(capacity * RING_BY_NAME[name].dtype.itemsize for name, capacity in capacities.items())


def test_every_ring_has_one_producer_and_one_consumer_and_both_list_it() -> None:
    assert len(RING_BY_NAME) == len(RINGS) + len(TARGET_RINGS)
    assert len(PROCESS_BY_ROLE) == len(PROCESSES) + len(STRATEGY_PROCESSES)
    written = Counter((name, process.role) for process in PROCESSES for name in process.outputs)
    read = Counter((name, process.role) for process in PROCESSES for name in process.inputs)
    # The supervisor is nobody's child: it writes the one ring of commands.
    written[("commands", Role.SUPERVISOR)] += 1
    for process in STRATEGY_PROCESSES:
        written.update((name, process.role) for name in process.outputs)
    assert written == {(ring.name, ring.producer): 1 for ring in (*RINGS, *TARGET_RINGS)}
    assert read == {(ring.name, ring.consumer): 1 for ring in (*RINGS, *TARGET_RINGS)}


@pytest.mark.parametrize("count", range(len(STRATEGIES) + 1))
def test_a_session_has_a_process_and_a_ring_for_each_strategy_of_its_own_and_no_other(count: int) -> None:
    assert processes_of(count)[: len(PROCESSES)] == PROCESSES and rings_of(count)[: len(RINGS)] == RINGS
    more = processes_of(count)[len(PROCESSES) :]
    assert [process.role for process in more] == list(STRATEGIES[:count])
    assert [ring.name for ring in rings_of(count)[len(RINGS) :]] == [process.outputs[0] for process in more]
    for process in more:
        assert process.spawned and not process.hot and process.inputs == () and process.role not in VITAL
    assert list(ring_capacities(192 * MIB, 0, count)) == [ring.name for ring in rings_of(count)]


def test_the_rings_of_targets_are_the_last_inputs_of_execution_in_the_order_of_their_sources() -> None:
    inputs = PROCESS_BY_ROLE[Role.EXECUTION].inputs
    assert inputs[SOURCE_TARGETS:] == tuple(ring.name for ring in TARGET_RINGS)
    assert len(TARGET_RINGS) == len(STRATEGIES) == TARGET_SOURCES


def test_every_role_but_the_supervisor_is_a_process() -> None:
    assert {process.role for process in PROCESSES} == set(Role) - {Role.SUPERVISOR} - set(STRATEGIES)
    assert [process.role for process in PROCESSES if process.spawned] == [Role.KILLSWITCH, Role.GATEWAY, Role.RECORDER]
    assert [role for role in PATH if PROCESS_BY_ROLE[role].hot] == HOT


def test_the_path_follows_the_rings() -> None:
    for before, after in itertools.pairwise(PATH):
        between = set(PROCESS_BY_ROLE[before].outputs) & set(PROCESS_BY_ROLE[after].inputs)
        assert len(between) == 1, (before, after)


def test_rings_carry_what_the_stages_take_and_give_in_the_order_of_their_sources() -> None:
    for role, stage in ((Role.VALIDATION, VALIDATION), (Role.FEATURES, FEATURES), (Role.EXECUTION, EXECUTION)):
        process = PROCESS_BY_ROLE[role]
        assert tuple(RING_BY_NAME[name].dtype for name in process.inputs) == stage.in_dtypes
        assert [RING_BY_NAME[name].dtype for name in process.outputs] == [stage.out_dtype]
        assert len(process.inputs) <= MAX_INPUTS and len(process.outputs) <= MAX_OUTPUTS
    for ring in (*RINGS, *TARGET_RINGS):
        assert ring.dtype in ALL_RECORDS.values()
        assert ring.capacity & (ring.capacity - 1) == 0 and ring.capacity >= SMALLEST_RING


@given(st.integers(1, 1024), st.integers(0, 64 * MIB))
def test_capacities_fit_the_budget_and_are_as_large_as_that_allows(budget_mib: int, reserved: int) -> None:
    budget = budget_mib * MIB
    least = ring_bytes({ring.name: min(ring.capacity, SMALLEST_RING) for ring in RINGS})
    if least + reserved > budget:
        with pytest.raises(SettingsError, match=f"engine.memory_budget_mib = {budget_mib}: at least ") as caught:
            ring_capacities(budget, reserved)
        needed = int(str(caught.value).split("at least ")[1].split()[0])
        ring_capacities(needed * MIB, reserved)
        assert needed == budget_mib + 1 or (needed - 1) * MIB < least + reserved
        return
    capacities = ring_capacities(budget, reserved)
    assert list(capacities) == [ring.name for ring in RINGS]
    assert ring_bytes(capacities) + reserved <= budget
    for ring in RINGS:
        capacity = capacities[ring.name]
        assert SMALLEST_RING <= capacity <= ring.capacity and capacity & (capacity - 1) == 0
    shrunk = [name for name, capacity in capacities.items() if capacity < RING_BY_NAME[name].capacity]
    if shrunk:
        # The one halved last was the largest of its time: doubled again, the sum would not fit.
        back = [ring_bytes(capacities | {name: 2 * capacities[name]}) + reserved for name in shrunk]
        assert max(back) > budget


def test_the_default_budget_gives_the_rings_of_the_design_room() -> None:
    capacities = ring_capacities(192 * MIB, 6 * MIB)
    assert capacities["predictions"] == capacities["orders"] == capacities["fills"] == 1 << 14
    assert capacities["market"] >= 1 << 18 and capacities["valid"] >= 1 << 18 and capacities["features"] >= 1 << 16


@pytest.mark.parametrize("cores", [(0,), (5,)])
def test_one_core_carries_everything_and_blocks(cores: tuple[int, ...]) -> None:
    assigned, spin, why = placement(cores, "auto")
    assert assigned == dict.fromkeys(Role, cores) and not spin and "one core" in why


@pytest.mark.parametrize("cores", [(0, 1), (2, 5), (0, 1, 2), (0, 1, 2, 3, 4)])
def test_few_cores_keep_the_hot_stages_together_and_block(cores: tuple[int, ...]) -> None:
    assigned, spin, why = placement(cores, "auto")
    assert set(assigned) == set(Role) and not spin and f"core {cores[-1]}" in why
    for role in Role:
        assert assigned[role] == ((cores[-1],) if role in HOT else cores[:-1])


@pytest.mark.parametrize("cores", [tuple(range(6)), tuple(range(16)), tuple(range(1, 30, 3))])
def test_enough_cores_give_each_hot_stage_its_own_and_spin(cores: tuple[int, ...]) -> None:
    assigned, spin, why = placement(cores, "auto")
    assert spin and str(len(cores)) in why
    own = [assigned[role] for role in HOT]
    assert all(len(place) == 1 for place in own) and len(set(own)) == len(HOT)
    taken = {core for place in own for core in place}
    for role in set(Role) - set(HOT):
        assert assigned[role] and not taken & set(assigned[role]), "whoever blocks must not sit beside who spins"
        assert set(assigned[role]) | taken == set(cores)


def test_the_fixed_table_goes_by_place_among_the_cores_that_may_be_used() -> None:
    first, spin, _ = placement(tuple(range(16)), "pinned")
    assert spin
    assert first[Role.INGESTION] == (0, 1) and first[Role.FEATURES] == (4, 5, 6, 7) and first[Role.GATEWAY] == (13,)
    assert (first[Role.MONITORING], first[Role.RECORDER]) == ((14,), (15,))
    other, _, _ = placement(tuple(range(16, 32)), "pinned")
    for role in Role:
        assert other[role] == tuple(core + 16 for core in first[role])
    with pytest.raises(SettingsError, match=r"engine\.placement = 'pinned': 16 cores are needed, .* may use 15"):
        placement(tuple(range(15)), "pinned")
