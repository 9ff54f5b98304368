"""Clocks: one monotonic clock for compiled code and Python, never back, read nowhere else on this floor."""

from __future__ import annotations

import re
from pathlib import Path

import numba

import shm.clock
from shm.clock import (
    monotonic_ns,
    new_session_offset_ns,
    python_monotonic_ns,
    python_session_ns,
    session_ns,
    sleep,
    wall_ns,
)
from tools.soak.forks import Fork


@numba.njit(nogil=True)
def steps_back(readings: int) -> int:
    last = session_ns(0)
    back = 0
    for _ in range(readings):
        now = session_ns(0)
        back += now < last
        last = now
    return back


def test_compiled_and_python_readings_interleave() -> None:
    for _ in range(100):
        readings = [python_monotonic_ns(), monotonic_ns(), python_monotonic_ns(), session_ns(0), monotonic_ns()]
        assert readings == sorted(readings)
        assert readings[-1] - readings[0] < 10_000_000_000


def test_time_never_goes_back() -> None:
    assert steps_back(1_000_000) == 0


def test_a_child_process_reads_the_same_clock() -> None:
    before = monotonic_ns()
    assert Fork(lambda: int(before <= monotonic_ns() < before + 30_000_000_000)).join() == 1
    assert monotonic_ns() > before


def test_the_session_clock_starts_at_wall_time_and_adds_its_offset() -> None:
    offset = new_session_offset_ns()
    assert abs(python_session_ns(offset) - wall_ns()) < 5_000_000_000
    assert session_ns(offset + 1_000_000_000_000) - session_ns(offset) >= 999_000_000_000


def test_sleep_sleeps() -> None:
    start = monotonic_ns()
    sleep(0.005)
    assert monotonic_ns() - start >= 5_000_000


def test_no_other_module_of_the_floor_reads_a_clock() -> None:
    forbidden = re.compile(r"^\s*(import|from) (time|datetime)\b|clock_gettime|time\.\w*_ns", re.M)
    folder = Path(shm.clock.__file__).parent
    readers = {path.name for path in folder.glob("*.py") if forbidden.search(path.read_text())}
    assert readers == {"clock.py", "python_clock.py"}  # compiled code's and Python's
