"""Waiting for what other threads and processes do."""

from __future__ import annotations

import asyncio
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


def run_tasks(make: Callable[[], list[asyncio.Task[None]]], done: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Run what is made in an event loop of its own until something is so, or for as long; then end it."""

    async def look() -> None:
        tasks = make()
        deadline = python_monotonic_ns() + int(timeout_s * 1e9)
        while not done() and python_monotonic_ns() < deadline:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(look())
