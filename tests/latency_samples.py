"""Histograms and running instances for the tests of the latency tools."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from procs.instance import Mapping, Plan
from procs.ports import record_latency
from procs.table import HOPS
from shm.histogram import new_histogram
from tests.instance_memory import attachable, small_instance


def histogram_of(values_ns: list[int] | np.ndarray) -> np.ndarray:
    """A histogram of these values."""
    histogram = new_histogram()
    for value in values_ns:
        record_latency(histogram, int(value))
    return histogram


def record(mapping: Mapping, hop: str, *values_ns: int) -> None:
    """Count values in a hop of an instance."""
    for value in values_ns:
        record_latency(mapping.histogram(*HOPS[hop]), value)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Plan, Path]]:
    """The memory of an instance that looks as if it ran, and the configuration file that names it."""
    with small_instance(folder, capacity=16) as plan, attachable(plan, folder) as config:
        yield plan, config


@contextlib.contextmanager
def meanwhile(every_s: float, work: Callable[[int], None]) -> Iterator[None]:
    """Call work(0), work(1), ... in another thread, so often, until the block ends."""
    over = threading.Event()

    def go() -> None:
        turn = 0
        while not over.wait(every_s):
            work(turn)
            turn += 1

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
