"""Waiting for what other threads and processes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shm.clock import python_monotonic_ns, sleep


def until(condition: Callable[[], Any], what: str = "sign of what was waited for", timeout_s: float = 20.0) -> Any:
    """The first true value of a condition. Raises TimeoutError naming what there is none of."""
    deadline = python_monotonic_ns() + int(timeout_s * 1e9)
    while not (value := condition()):
        if python_monotonic_ns() > deadline:
            raise TimeoutError(f"still no {what}")
        sleep(0.001)
    return value
