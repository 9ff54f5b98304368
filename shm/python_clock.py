"""The clock for plain Python: the only module that reads a clock or sleeps, and imports nothing that is heavy.

`shm.clock` has the same clocks for compiled code and says what each of them is.
"""

from __future__ import annotations

import time


def python_monotonic_ns() -> int:
    """CLOCK_MONOTONIC in ns, in Python: the same clock as shm.clock.monotonic_ns()."""
    return time.monotonic_ns()


def python_session_ns(offset_ns: int) -> int:
    """Session time in ns, in Python."""
    return time.monotonic_ns() + offset_ns


def wall_ns() -> int:
    """CLOCK_REALTIME in ns since 1970: for people, file names and the start of a session."""
    return time.time_ns()


def new_session_offset_ns() -> int:
    """Wall minus monotonic, now. Whoever creates an instance calls this once."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    return wall - (before + time.monotonic_ns()) // 2


def sleep(seconds: float) -> None:
    """Suspend this Python thread; never called by compiled code."""
    time.sleep(seconds)
