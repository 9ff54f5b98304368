"""The shared memory of a small instance, without its processes, for tests of what works on it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from engine.config import Settings
from engine.instruments import Instrument
from engine.matching.settings import VenueSettings
from engine.safety.mode import Mode
from procs.attach import leave_plan, lock_path, plan_path
from procs.budget import Budget, RateLimit
from procs.embedded.answers import exchange_information
from procs.instance import Plan, create_memory
from procs.states import initial_states
from procs.table import rings_of
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.rate_limits import limits_of
from shm.clock import python_monotonic_ns
from shm.lease import Lease
from shm.segment import unlink_all


def listed_instruments() -> tuple[Instrument, ...]:
    """The contracts of the embedded venue."""
    return tuple(item.instrument(index) for index, item in enumerate(VenueSettings().listed()))


def venue_limits() -> tuple[RateLimit, ...]:
    """The rate limits of the venues of tests, which are generous: many tests share one (tests/embedded_venue.py)."""
    return limits_of(exchange_information(VenueSettings(weight_limit_1m=1_000_000), 0))


def own_budget() -> Budget:
    """A rate budget that nobody shares."""
    return Budget.of_own(venue_limits(), python_monotonic_ns)


@contextlib.contextmanager
def small_instance(
    folder: Path, endpoints: Endpoints | None = None, capacity: int = 64, digest: str = "0" * 64,
    instruments: tuple[Instrument, ...] = (), settings: Settings | None = None, apart: tuple[str, ...] = (),
) -> Iterator[Plan]:
    """Memory of an instance whose rings all have one capacity; gone at the end. digest: of whose code it is;
    instruments: those of the embedded venue where none are given; settings: the defaults where none are; apart: names
    of the strategies in processes of their own."""
    instruments = instruments or listed_instruments()
    plan = Plan(
        name=f"test-{uuid.uuid4().hex[:8]}", session=uuid.uuid4().hex[:8], folder=str(folder), kernel_digest=digest,
        settings=settings or Settings(), instruments=instruments, endpoints=endpoints or Endpoints("", ""),
        capacities={spec.name: capacity for spec in rings_of(len(apart))}, cores={}, spin=False,
        rate_limits=venue_limits(), apart=apart,
    )
    try:
        control = create_memory(plan, initial_states(plan.settings, instruments))
        control.mode = Mode.NORMAL
        control.close()
        yield plan
    finally:
        unlink_all(plan.name)


@contextlib.contextmanager
def attachable(plan: Plan, folder: Path) -> Iterator[Path]:
    """The instance as one that runs: its lease is held and its plan left; the configuration file that names it."""
    config = folder / "attachable.toml"
    config.write_text(f'[engine]\nname = "{plan.name}"\n')
    try:
        with Lease.acquire(lock_path(plan.name)):
            leave_plan(plan.name, plan.to_json())
            yield config
    finally:
        plan_path(plan.name).unlink(missing_ok=True)
        lock_path(plan.name).unlink(missing_ok=True)
