"""An instance: the plan that all its processes share, and how a process finds its memory.

The plan is plain data (JSON), written by the supervisor before the first child starts. It holds no secret:
credentials reach the two processes that need them through a pipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.config import Settings
from engine.instruments import Instrument
from engine.kernel import kernel_digest
from engine.settings import as_plain, build
from engine.stage import as_bytes
from procs.budget import BUDGET_WORDS, Budget, RateLimit, write_limits
from procs.checkpoint import HEADER_WORDS, SLOTS, checkpoint_now, slot_words
from procs.deaths import DEATH_WORDS
from procs.feed_counts import FEED_COUNTS
from procs.metrics import METRICS, METRICS_WORDS
from procs.table import (
    CHECKPOINTED,
    HOPS,
    PROCESS_BY_ROLE,
    RING_BY_NAME,
    RINGS,
    STRATEGIES,
    ProcessSpec,
    RingSpec,
    Role,
    processes_of,
    rings_of,
)
from procs.venue_lag import LAG_WORDS
from procs.venues.binance_usdm.endpoints import Endpoints
from shm.clock import python_session_ns
from shm.control import ControlBlock, Readiness, Stop
from shm.doorbell import Doorbell
from shm.histogram import HISTOGRAM_WORDS
from shm.ring import Ring
from shm.segment import Segment, layout_hash
from shm.seqlock import Seqlock

# Session time at which the frame of an ingest id was in hand, for latency only; 2^16 frames are kept.
STAMPS = 1 << 16
# The stages before execution, in the order in which a frame passes them: each notes beside them when it did.
PASSED_BY = (Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML)
# Latency histograms of a role: time in the stage, time since the frame was in hand, what a checkpoint takes, and time
# since the order intent was published, and how long a call to the venue took.
HISTOGRAM_KINDS = ("hop", "origin", "checkpoint", "intent", "call")
_HISTOGRAM_ROLES = 1 + max(role for role, _ in HOPS.values())
# What each follower has read and what it was lapped by, by role and ring.
READ = 0
LAPPED = 1
FOLLOWER_WORDS = len(Role) * len(RINGS) * 2


def follower_place(role: Role, ring_name: str) -> int:
    """Index of the two counts, READ and LAPPED, of a role as a follower of a ring."""
    return 2 * (role * len(RINGS) + RINGS.index(RING_BY_NAME[ring_name]))


class OtherCode(RuntimeError):
    """A process may not work on the memory of an engine that runs another version of the code."""


@dataclass(frozen=True)
class Plan:
    """Everything that a process of an instance must know. Plain data."""

    name: str
    session: str  # 8 hex digits, part of every client order id
    folder: str  # of this session: journals, session.json, summary
    kernel_digest: str
    settings: Settings
    instruments: tuple[Instrument, ...]
    endpoints: Endpoints
    capacities: dict[str, int]  # by ring
    cores: dict[str, tuple[int, ...]]  # by role
    spin: bool
    launcher_pid: int = 0  # the parent of all whose supervisor has died; 0: there is none
    launcher_started: int = 0  # clock ticks since boot: a pid is given away again, both together are not
    rate_limits: tuple[RateLimit, ...] = ()  # of the venue; empty where nobody calls one (a replay)
    apart: tuple[str, ...] = ()  # names of the strategies in processes of their own, in the order of their roles

    def to_json(self) -> bytes:
        """The plan as JSON."""
        plain = dataclasses.asdict(self) | {"settings": as_plain(self.settings)}
        return orjson.dumps(plain)

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """A plan from `to_json`."""
        plain = orjson.loads(data)
        plain["settings"] = build(Settings, plain["settings"])
        plain["instruments"] = tuple(Instrument(**entry) for entry in plain["instruments"])
        plain["endpoints"] = Endpoints(**plain["endpoints"])
        plain["rate_limits"] = tuple(RateLimit(**entry) for entry in plain["rate_limits"])
        plain["cores"] = {role: tuple(cores) for role, cores in plain["cores"].items()}
        plain["apart"] = tuple(plain["apart"])
        return cls(**plain)

    @property
    def path(self) -> Path:
        """Folder of the session."""
        return Path(self.folder)

    @property
    def rings(self) -> tuple[RingSpec, ...]:
        """The rings of this instance."""
        return rings_of(len(self.apart))

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        """The processes of this instance but for its supervisor."""
        return processes_of(len(self.apart))

    def strategy_of(self, role: Role) -> str:
        """Name of the strategy that runs in the process of a role; empty where it is none of a strategy."""
        return self.apart[STRATEGIES.index(role)] if role in STRATEGIES else ""

    def require_same_code(self, own: str = "") -> None:
        """Raise OtherCode in a process whose kernels are not those of the engine; asked once, when it starts.

        own: the digest of what the process has loaded, if that was some time ago.

        Segments compare the plan's digest with their own, so this and attaching say that all run one code.
        """
        own = own or kernel_digest()
        if self.kernel_digest != own:
            raise OtherCode(
                f"the code has changed since the engine was started: its kernel digest is {self.kernel_digest[:12]}, "
                f"that of this process {own[:12]}; end the engine and start it again"
            )


def state_segment(plan: Plan, role: Role, dtype: np.dtype, create: bool, read_only: bool = False) -> Segment:
    """The segment that holds the state of a stage."""
    shared: dict[str, Any] = {
        "layout_hash": layout_hash(dtype, 1), "record_size": dtype.itemsize, "capacity": 1, "instance": plan.name,
        "kernel_digest": plan.kernel_digest,
    }
    name = f"state.{role.label}"
    if create:
        return Segment.create(name, dtype.itemsize, **shared)
    return Segment.attach(name, read_only=read_only, **shared)


def create_arena(plan: Plan, role: Role, state: np.ndarray) -> None:
    """Make the checkpoint slots of a role; the first checkpoint is the state that it begins with."""
    words = SLOTS * slot_words(state.nbytes)
    segment = _words_segment(plan, f"arena.{role.label}", words, create=True)
    checkpoint_now(segment.array(np.int64, 0, words), as_bytes(state).copy(), np.zeros(HEADER_WORDS, np.int64))
    segment.close()


def _words_segment(plan: Plan, name: str, words: int, create: bool, read_only: bool = False) -> Segment:
    shared: dict[str, Any] = {
        "layout_hash": layout_hash(np.dtype(np.int64), words), "record_size": 8, "capacity": words,
        "instance": plan.name, "kernel_digest": plan.kernel_digest,
    }
    if create:
        return Segment.create(name, words * 8, **shared)
    return Segment.attach(name, read_only=read_only, **shared)


def _histogram_words() -> int:
    return _HISTOGRAM_ROLES * len(HISTOGRAM_KINDS) * HISTOGRAM_WORDS


def create_memory(plan: Plan, states: dict[Role, np.ndarray]) -> ControlBlock:
    """Make every segment of an instance and fill the initial states. Returns the control block, mapped.

    Raises SegmentError; the caller then unlinks what was made.
    """
    control = ControlBlock.create(instance=plan.name, kernel_digest=plan.kernel_digest)
    for name, capacity in plan.capacities.items():
        spec = RING_BY_NAME[name]
        Ring.create(
            f"ring.{name}", spec.dtype, capacity, instance=plan.name, kernel_digest=plan.kernel_digest
        ).segment.close()
    for role, state in states.items():
        segment = state_segment(plan, role, state.dtype, create=True)
        segment.array(state.dtype, 0, 1)[:] = state
        segment.close()
        if role in CHECKPOINTED:
            create_arena(plan, role, state)
    _words_segment(plan, "stamps", STAMPS, create=True).close()
    _words_segment(plan, "passed", len(PASSED_BY) * STAMPS, create=True).close()
    _words_segment(plan, "lags", LAG_WORDS, create=True).close()
    _words_segment(plan, "feed", len(FEED_COUNTS), create=True).close()
    _words_segment(plan, "intents", plan.capacities["orders"], create=True).close()
    _words_segment(plan, "latency", _histogram_words(), create=True).close()
    _words_segment(plan, "followers", FOLLOWER_WORDS, create=True).close()
    _words_segment(plan, "metrics", METRICS_WORDS, create=True).close()
    budget = _words_segment(plan, "budget", BUDGET_WORDS, create=True)
    write_limits(budget.array(np.int64, 0, BUDGET_WORDS), plan.rate_limits)
    budget.close()
    _words_segment(plan, "deaths", DEATH_WORDS, create=True).close()
    return control


def memory_beside_rings(states: dict[Role, np.ndarray]) -> int:
    """Bytes that an instance needs beside its rings."""
    pages = 4096 * (len(states) + len(RING_BY_NAME) + 11)
    arenas = sum(8 * SLOTS * slot_words(state.nbytes) for role, state in states.items() if role in CHECKPOINTED)
    words = (1 + len(PASSED_BY)) * STAMPS + RING_BY_NAME["orders"].capacity + _histogram_words()
    words += BUDGET_WORDS + DEATH_WORDS + FOLLOWER_WORDS + METRICS_WORDS + LAG_WORDS + len(FEED_COUNTS)
    return arenas + sum(state.nbytes for state in states.values()) + 8 * words + pages + 65536


class Mapping:
    """An instance's memory as one process maps it. Everything is attached lazily, by name."""

    def __init__(self, plan: Plan, read_only: bool = False) -> None:
        self.plan = plan
        self._read_only = read_only
        self.control = ControlBlock.attach(instance=plan.name, kernel_digest=plan.kernel_digest, read_only=read_only)
        self.clock_offset = self.control.session_offset_ns
        self._segments: list[Segment] = []
        self._rings: dict[str, Ring] = {}
        self._states: dict[Role, np.ndarray] = {}
        self._latency: np.ndarray | None = None

    def now_ns(self) -> int:
        """Session time."""
        return python_session_ns(self.clock_offset)

    def ring(self, name: str) -> Ring:
        """A ring by name."""
        if name not in self._rings:
            self._rings[name] = Ring.attach(
                f"ring.{name}", RING_BY_NAME[name].dtype, self.plan.capacities[name], instance=self.plan.name,
                kernel_digest=self.plan.kernel_digest, read_only=self._read_only,
            )
        return self._rings[name]

    def state(self, role: Role) -> np.ndarray:
        """The state of a stage, shape (1,), shared with it."""
        if role not in self._states:
            from procs.states import state_dtype  # the kernels of every stage, which most processes never call

            dtype = state_dtype(role, self.plan.instruments)
            segment = state_segment(self.plan, role, dtype, create=False, read_only=self._read_only)
            self._segments.append(segment)
            self._states[role] = segment.array(dtype, 0, 1)
        return self._states[role]

    def consumer_bell(self, ring_name: str) -> Doorbell:
        """The doorbell of whoever reads a ring."""
        return self.control.doorbell(RING_BY_NAME[ring_name].consumer)

    def arena(self, role: Role) -> np.ndarray:
        """The checkpoint slots of a role, int64 (procs/checkpoint.py)."""
        from procs.states import state_dtype

        words = SLOTS * slot_words(state_dtype(role, self.plan.instruments).itemsize)
        segment = _words_segment(self.plan, f"arena.{role.label}", words, create=False, read_only=self._read_only)
        self._segments.append(segment)
        return segment.array(np.int64, 0, words)

    def stamps(self) -> np.ndarray:
        """int64[STAMPS]: session time at which a frame was in hand, at its ingest id modulo STAMPS."""
        return self._words("stamps", STAMPS)

    def passed(self, role: Role) -> np.ndarray:
        """int64[STAMPS]: session time at which a stage of PASSED_BY passed a frame on, at its ingest id modulo STAMPS.

        What is before the stamp in `stamps` is of an older frame.
        """
        return self._all_passed()[PASSED_BY.index(role)]

    def way_of(self) -> Callable[[int, int], tuple[int, ...]]:
        """A function of an ingest id and a time: when each stage of PASSED_BY passed the frame on, session time.

        A stamp is 0 where it is not known: the frame was never in hand, or newer ones took its place by that time.
        """
        stamps, passed = self.stamps(), self._all_passed()

        def way(ingest_id: int, until_ns: int) -> tuple[int, ...]:
            place = ingest_id & (STAMPS - 1)
            in_hand = stamps[place]
            return tuple(at if 0 < in_hand <= at <= until_ns else 0 for at in passed[:, place].tolist())

        return way

    def _all_passed(self) -> np.ndarray:
        return self._words("passed", len(PASSED_BY) * STAMPS).reshape(len(PASSED_BY), STAMPS)

    def intent_stamps(self) -> np.ndarray:
        """int64[capacity of `orders`]: session time at which an order record was published, at its slot."""
        return self._words("intents", self.plan.capacities["orders"])

    def lags(self) -> np.ndarray:
        """int64[LAG_WORDS]: how far the venue's stamps were behind our receipt (procs/venue_lag.py)."""
        return self._words("lags", LAG_WORDS)

    def feed_counts(self) -> np.ndarray:
        """int64[len(FEED_COUNTS)]: of ingestion's connections (procs/feed_counts.py)."""
        return self._words("feed", len(FEED_COUNTS))

    def _words(self, name: str, words: int) -> np.ndarray:
        segment = _words_segment(self.plan, name, words, create=False, read_only=self._read_only)
        self._segments.append(segment)
        return segment.array(np.int64, 0, words)

    def follower_counts(self) -> np.ndarray:
        """int64[FOLLOWER_WORDS], see `follower_place`."""
        return self._words("followers", FOLLOWER_WORDS)

    def metrics(self) -> Seqlock:
        """The latest metrics, one METRICS record written by monitoring."""
        return Seqlock(self._words("metrics", METRICS_WORDS), METRICS)

    def budget(self) -> Budget:
        """The rate budget of the venue. Raises ValueError where its limits are not known."""
        return Budget(self._words("budget", BUDGET_WORDS), self.plan.rate_limits, self.now_ns)

    def deaths(self) -> np.ndarray:
        """int64[DEATH_WORDS]: how often and when each process died (procs/deaths.py)."""
        return self._words("deaths", DEATH_WORDS)

    def histogram(self, role: Role, kind: str) -> np.ndarray:
        """A latency histogram of a role on the path, one of HISTOGRAM_KINDS."""
        if self._latency is None:
            segment = _words_segment(self.plan, "latency", _histogram_words(), create=False, read_only=self._read_only)
            self._segments.append(segment)
            self._latency = segment.array(np.int64, 0, _histogram_words())
        place = (role * len(HISTOGRAM_KINDS) + HISTOGRAM_KINDS.index(kind)) * HISTOGRAM_WORDS
        return self._latency[place : place + HISTOGRAM_WORDS]

    def close(self) -> None:
        """Let go of every segment."""
        self._latency = None
        self._states.clear()
        for ring in self._rings.values():
            ring.segment.close()
        self._rings.clear()  # their views keep the memory mapped
        for segment in self._segments:
            segment.close()
        self._segments.clear()
        self.control.close()


class ProcessContext(Mapping):
    """What a process of the engine works with: its mapping, its role, its doorbell, the order to stop."""

    def __init__(self, plan: Plan, role: Role, successor: bool = False) -> None:
        """successor: this process takes the place of one that died."""
        super().__init__(plan)
        self.role = role
        self.successor = successor
        self.spec = PROCESS_BY_ROLE[role]
        self.bell = self.control.doorbell(role)
        self.inputs = tuple(name for name in self.spec.inputs if name in plan.capacities)  # those that are there

    def ready(self) -> None:
        """Say that this process is in service."""
        self.control.set_readiness(self.role, Readiness.READY)

    @property
    def stop(self) -> Stop:
        """What this process is asked to do."""
        return self.control.stop_requested(self.role)
