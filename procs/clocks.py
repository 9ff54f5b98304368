"""The clocks of a process as one value, for what is tested in a time that somebody else makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shm.clock import python_monotonic_ns, sleep, wall_ns


@dataclass(frozen=True)
class Clocks:
    """CLOCK_MONOTONIC, the wall clock, and a sleep."""

    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    sleep: Callable[[float], None]


SYSTEM_CLOCKS = Clocks(python_monotonic_ns, wall_ns, sleep)
