"""The table of processes and rings: who runs, what it reads and writes, where it sits.

One place to see the shape of the engine, and the only place to change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from engine.records import FEATURE, MARKET, ORDER, PREDICTION, REPORT, TARGET
from engine.settings import SettingsError


class Role(IntEnum):
    """Every process of an instance; the number is its place in the control block."""

    SUPERVISOR = 0
    INGESTION = 1
    VALIDATION = 2
    FEATURES = 3
    ML = 4
    EXECUTION = 5
    GATEWAY = 6
    KILLSWITCH = 7
    MONITORING = 8
    RECORDER = 9
    STRATEGY_1 = 10
    STRATEGY_2 = 11
    STRATEGY_3 = 12
    STRATEGY_4 = 13

    @property
    def label(self) -> str:
        """Lower-case name, as people see it."""
        return self.name.lower()


@dataclass(frozen=True)
class RingSpec:
    """One ring: records of one dtype from one process to one other."""

    name: str
    dtype: np.dtype
    capacity: int  # the most it may have; the memory budget can halve it
    producer: Role
    consumer: Role


RINGS = (
    RingSpec("market", MARKET, 1 << 20, Role.INGESTION, Role.VALIDATION),
    RingSpec("valid", MARKET, 1 << 20, Role.VALIDATION, Role.FEATURES),
    RingSpec("features", FEATURE, 1 << 17, Role.FEATURES, Role.ML),
    RingSpec("predictions", PREDICTION, 1 << 14, Role.ML, Role.EXECUTION),
    RingSpec("orders", ORDER, 1 << 14, Role.EXECUTION, Role.GATEWAY),
    RingSpec("fills", REPORT, 1 << 14, Role.GATEWAY, Role.EXECUTION),
    RingSpec("commands", MARKET, 1 << 10, Role.SUPERVISOR, Role.EXECUTION),
)
# One for each strategy in a process of its own: a session has as many of them, and of these rings, as it configures.
STRATEGIES = (Role.STRATEGY_1, Role.STRATEGY_2, Role.STRATEGY_3, Role.STRATEGY_4)
TARGET_RINGS = tuple(
    RingSpec(f"targets_{number}", TARGET, 1 << 10, role, Role.EXECUTION) for number, role in enumerate(STRATEGIES, 1)
)
RING_BY_NAME = {ring.name: ring for ring in (*RINGS, *TARGET_RINGS)}


@dataclass(frozen=True)
class ProcessSpec:
    """One process. Forked ones share the zygote's compiled kernels; spawned ones start clean."""

    role: Role
    spawned: bool
    hot: bool  # on the path from frame to order intent
    inputs: tuple[str, ...]  # rings, by source number
    outputs: tuple[str, ...]  # rings, by route number
    follows: tuple[str, ...] = ()  # rings that it looks at: nobody waits for it, and it counts what it missed


PROCESSES = (
    ProcessSpec(Role.KILLSWITCH, True, False, (), ()),
    ProcessSpec(Role.GATEWAY, True, False, ("orders",), ("fills",)),
    ProcessSpec(
        Role.EXECUTION, False, True, ("predictions", "fills", "commands", *(ring.name for ring in TARGET_RINGS)),
        ("orders",),
    ),
    ProcessSpec(Role.ML, False, True, ("features",), ("predictions",)),
    ProcessSpec(Role.FEATURES, False, True, ("valid",), ("features",)),
    ProcessSpec(Role.VALIDATION, False, True, ("market",), ("valid",)),
    ProcessSpec(Role.INGESTION, False, True, (), ("market",)),
    ProcessSpec(Role.MONITORING, False, False, (), (), ("valid", "predictions", "orders", "fills")),
    ProcessSpec(Role.RECORDER, True, False, (), (), ("predictions",)),
)
STRATEGY_PROCESSES = tuple(
    ProcessSpec(ring.producer, True, False, (), (ring.name,), ("predictions",)) for ring in TARGET_RINGS
)
PROCESS_BY_ROLE = {process.role: process for process in (*PROCESSES, *STRATEGY_PROCESSES)}
# What each does, for people.
DOES = {
    Role.SUPERVISOR: "makes the memory, starts and replaces processes, changes modes; alone clears the emergency word",
    Role.KILLSWITCH: "watches emergency word and buttons; on a trip cancels, sees the gate shut, flattens or holds",
    Role.GATEWAY: "the last gate, orders to the venue, reports from its private stream",
    Role.EXECUTION: "strategy, sizing, risk gate, order states, ledger, reconciliation",
    Role.ML: "the model over every feature vector",
    Role.FEATURES: "books and the feature vector",
    Role.VALIDATION: "the rules, the integrity book, quarantine; says which book is valid",
    Role.INGESTION: "sockets, the journal of frames, decoding, sequence rules",
    Role.MONITORING: "the metrics of the last second, in memory and in metrics.jsonl",
    Role.RECORDER: "the journals' index; orders, fills and quarantine as lines",
    **dict.fromkeys(STRATEGIES, "a strategy that is Python alone; there are as many as the session has of them"),
}
SMALLEST_RING = 1024
# Roles whose state is checkpointed, so that a successor takes up where the dead process's effects end.
CHECKPOINTED = (Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.EXECUTION)
# Stages in the order of the data, the order in which they are drained and stopped.
PATH = (Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML, Role.EXECUTION, Role.GATEWAY)
# Without which nothing may be entered: while one is not ready, entries stop.
VITAL = (*PATH, Role.KILLSWITCH)
# Processes that keep a journal, by the name of its stream.
STREAMS = (Role.INGESTION.label, Role.EXECUTION.label, Role.GATEWAY.label)
# Hops by name: role and histogram. "decision" is frame in hand -> intent published, "wire" intent published -> bytes
# out, "frame_wire" frame in hand -> bytes out, "call" bytes out -> the venue's answer; "checkpoint.STAGE" is what
# writing a checkpoint costs.
HOPS = {
    "ingestion": (Role.INGESTION, "hop"),
    "validation": (Role.VALIDATION, "hop"),
    "features": (Role.FEATURES, "hop"),
    "ml": (Role.ML, "hop"),
    "execution": (Role.EXECUTION, "hop"),
    "decision": (Role.EXECUTION, "origin"),
    "wire": (Role.GATEWAY, "intent"),
    "frame_wire": (Role.GATEWAY, "origin"),
    "call": (Role.GATEWAY, "call"),
    **{f"checkpoint.{role.label}": (role, "checkpoint") for role in CHECKPOINTED},
}


def rings_of(strategies: int) -> tuple[RingSpec, ...]:
    """The rings of a session with so many strategies in processes of their own."""
    return (*RINGS, *TARGET_RINGS[:strategies])


def processes_of(strategies: int) -> tuple[ProcessSpec, ...]:
    """The processes of a session with so many strategies in processes of their own."""
    return (*PROCESSES, *STRATEGY_PROCESSES[:strategies])


def ring_capacities(budget_bytes: int, reserved_bytes: int, strategies: int = 0) -> dict[str, int]:
    """Capacities that fit the memory budget beside what else is needed: the largest ring is halved until they do.

    strategies: in processes of their own. Raises SettingsError when even the smallest rings do not fit.
    """
    rings = rings_of(strategies)
    capacities = {ring.name: ring.capacity for ring in rings}
    while sum(capacities[ring.name] * ring.dtype.itemsize for ring in rings) + reserved_bytes > budget_bytes:
        can_shrink = [ring for ring in rings if capacities[ring.name] > SMALLEST_RING]
        if not can_shrink:
            least = reserved_bytes + sum(capacities[ring.name] * ring.dtype.itemsize for ring in rings)
            raise SettingsError(
                f"engine.memory_budget_mib = {budget_bytes >> 20}: at least {-(-least // 2**20)} are needed for rings "
                f"of {SMALLEST_RING} records and what lies beside them"
            )
        largest = max(can_shrink, key=lambda ring: capacities[ring.name] * ring.dtype.itemsize)
        capacities[largest.name] //= 2
    return capacities


def placement(cores: tuple[int, ...], chosen: str) -> tuple[dict[Role, tuple[int, ...]], bool, str]:
    """Cores of every role, whether the hot stages spin, and the reason in words.

    auto: a core for each hot stage and one more -> each on its own, spinning; fewer -> the hot stages together
    on the last core, blocking, everything else on the others. pinned: the 16-core table, by place among the cores
    that this process may use. Raises SettingsError when there are too few for it.
    """
    hot = [process.role for process in reversed(PROCESSES) if process.hot]
    others = [role for role in Role if role not in hot]
    if chosen == "pinned":
        if len(cores) < 16:
            raise SettingsError(
                f"engine.placement = 'pinned': 16 cores are needed, this process may use {len(cores)}; 'auto' fits any"
            )
        table = {
            Role.INGESTION: cores[0:2], Role.VALIDATION: cores[2:4], Role.FEATURES: cores[4:8], Role.ML: cores[8:12],
            Role.EXECUTION: cores[12:13], Role.GATEWAY: cores[13:14], Role.MONITORING: cores[14:15],
            Role.RECORDER: cores[15:16], **dict.fromkeys(STRATEGIES, cores[14:16]),
        }
        return {role: table.get(role, cores) for role in Role}, True, "the fixed table for 16 cores"
    if len(cores) > len(hot):
        assigned: dict[Role, tuple[int, ...]] = {role: (cores[place + 1],) for place, role in enumerate(hot)}
        rest = (cores[0], *cores[len(hot) + 1 :])
        return assigned | dict.fromkeys(others, rest), True, f"{len(cores)} cores: one for each hot stage"
    if len(cores) == 1:
        return dict.fromkeys(Role, cores), False, "one core: everything blocks"
    together = dict.fromkeys(hot, (cores[-1],))
    return together | dict.fromkeys(others, cores[:-1]), False, (
        f"{len(cores)} cores: hot stages together on core {cores[-1]}, blocking"
    )
