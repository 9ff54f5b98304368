"""`bench kill`: how long a trip takes, in a whole engine and on a control block that nobody else uses.

In an engine under load (trips.py): kill_word, kill_seen, kill_wire.
On a control block of our own, of no engine:
block_word       mapping the control block of an engine by name and tripping it, as `bot4 kill` does once it runs
block_seen       from the moment before the trip to a process that spins on the word, on a core of its own
block_seen_idle  the same for a process that sleeps on its doorbell, as all do where cores are shared
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from shm.clock import python_monotonic_ns, sleep
from shm.control import ControlBlock, TripSource
from shm.segment import unlink_all
from tools.bench import trips
from tools.bench.kill_kernels import await_trip, sleep_until_trip, trip_now
from tools.bench.machine import on_core, quiet, two_cores
from tools.bench.pairs import OtherEnd
from tools.bench.report import BenchError, Report, times

_ROLE = 5
# Words of the answer: rounds that the watcher has begun, and when it saw the trip of its last one.
_BEGUN, _SEEN = 0, 1
_ASLEEP_S = 0.0005
_PATIENCE_NS = 5_000_000_000


def _words(count: int) -> np.ndarray:
    """ns of each of `count` trips by name, attaching included."""
    name = f"bench-{os.getpid()}"
    block = ControlBlock.create(instance=name, kernel_digest="0" * 64)
    ns = [0] * count
    try:
        with quiet():
            for index in range(count):
                started = python_monotonic_ns()
                control = ControlBlock.attach(instance=name, kernel_digest=None)
                control.trip(TripSource.OPERATOR)
                ns[index] = python_monotonic_ns() - started
                control.close()
                if not block.tripped or not block.reset(block.word):
                    raise BenchError("the emergency word did not come out as it was set")
    finally:
        block.close()
        unlink_all(name)
    return np.array(ns, np.int64)


def _await(reached: Callable[[], bool]) -> None:
    """Spin until something is so. Raises BenchError after some seconds."""
    deadline = python_monotonic_ns() + _PATIENCE_NS
    while not reached():
        if python_monotonic_ns() > deadline:
            raise BenchError("the watcher of the emergency word hangs")


def seen(cores: tuple[int, int], count: int, asleep: bool) -> np.ndarray:
    """ns from each of `count` trips to its being seen on the other core. Raises BenchError when one never was."""
    name = f"bench-{os.getpid()}"
    block = ControlBlock.create(instance=name, kernel_digest="0" * 64)
    ns = np.zeros(count, np.int64)
    try:
        words, bells, at = block.words, block.bells, block.doorbell(_ROLE).at

        def watch(answer: np.ndarray, ready: Callable[[], None]) -> None:
            ready()
            for round_number in range(1, count + 1):
                answer[_BEGUN] = round_number
                when = sleep_until_trip(words, bells, at) if asleep else await_trip(words)
                if when < 0:
                    raise BenchError("no trip came")
                answer[_SEEN] = when
                while block.word:
                    sleep(0)

        with OtherEnd(cores[1], watch) as other, on_core(cores[0]):
            other.wait_ready()
            for index in range(count):
                _await(lambda: other.answer[_BEGUN] > index)  # noqa: B023  # called here and now
                sleep(_ASLEEP_S)  # until the watcher spins, or sleeps
                before = trip_now(words, bells, at)
                _await(lambda: other.answer[_SEEN] != 0)
                ns[index] = other.answer[_SEEN] - before
                other.answer[_SEEN] = 0
                block.reset(block.word)
    finally:
        block.close()
        unlink_all(name)
    return ns


def run(report: Report, full: bool) -> None:
    """Measure into the report. Raises BenchError where there is one core."""
    cores = two_cores()
    count = 5000 if full else 300
    trips.run(report, trips.FULL if full else trips.TRIPS)
    report.results.append(times("block_word", None, _words(count), "ms"))
    report.results.append(times("block_seen", None, seen(cores, count, asleep=False), "ms"))
    report.results.append(times("block_seen_idle", None, seen(cores, count, asleep=True), "ms"))
    report.notes.append("goal: block_seen p50 0.001 ms, p99 0.05 ms for a process that spins on a core of its own")
