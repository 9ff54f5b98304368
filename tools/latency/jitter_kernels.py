"""Gaps between readings of the clock: the loop that watches a core, and the same rule over stamps that are given.

A loop that does nothing but read the clock comes round every few tens of ns. When two readings lie further apart, the
core was taken away in between: by other threads, by the kernel's interrupts, by the hypervisor or by the firmware.

counters   int64[COUNTERS]: STEPS, FASTEST (ns between two readings), STOLEN (ns, the sum of all gaps), BEGAN and ENDED
           (the first and the last stamp, ns), STOP (set to 1 from outside: the loop ends)
longest    int64[2 * LONGEST]: gap and its offset from BEGAN, ns, the longest first; 0 where there were fewer
histogram  of the gaps alone (shm/histogram.py)
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from shm.atomics import load_relaxed
from shm.clock import monotonic_ns
from shm.histogram import INT64_MAX, new_histogram, record

STEPS = 0
FASTEST = 1
STOLEN = 2
BEGAN = 3
ENDED = 4
STOP = 5
COUNTERS = 8
LONGEST = 10

_INT64S = types.Array(types.int64, 1, "C")


def new_gaps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counters, longest, histogram) of a loop that has not begun."""
    counters = np.zeros(COUNTERS, np.int64)
    counters[FASTEST] = INT64_MAX
    return counters, np.zeros(2 * LONGEST, np.int64), new_histogram()


@kernel()
def _note_step(
    counters: np.ndarray, longest: np.ndarray, histogram: np.ndarray, threshold_ns: int, before: int, now: int
) -> None:
    """Count one step of the loop, from one reading to the next; a gap when it took the threshold or longer."""
    step = now - before
    counters[STEPS] += 1
    if step < counters[FASTEST]:
        counters[FASTEST] = step
    if step < threshold_ns:
        return
    record(histogram, step)
    counters[STOLEN] += step
    place = LONGEST
    while place > 0 and step > longest[2 * place - 2]:
        if place < LONGEST:
            longest[2 * place] = longest[2 * place - 2]
            longest[2 * place + 1] = longest[2 * place - 1]
        place -= 1
    if place < LONGEST:
        longest[2 * place] = step
        longest[2 * place + 1] = before - counters[BEGAN]


@kernel(types.void(_INT64S, _INT64S, _INT64S, types.int64, _INT64S))
def note_stamps(
    counters: np.ndarray, longest: np.ndarray, histogram: np.ndarray, threshold_ns: int, stamps: np.ndarray
) -> None:
    """Count the steps between given readings (int64[::1], ns, at least one), as `watch_core` does with the clock's."""
    counters[BEGAN] = stamps[0]
    for index in range(1, len(stamps)):
        _note_step(counters, longest, histogram, threshold_ns, stamps[index - 1], stamps[index])
    counters[ENDED] = stamps[len(stamps) - 1]


@kernel(types.void(_INT64S, _INT64S, _INT64S, types.int64, types.int64))
def watch_core(
    counters: np.ndarray, longest: np.ndarray, histogram: np.ndarray, threshold_ns: int, duration_ns: int
) -> None:
    """Read the clock without pause for so long, or until STOP is set, and count the steps."""
    before = monotonic_ns()
    counters[BEGAN] = before
    while before - counters[BEGAN] < duration_ns and load_relaxed(counters, STOP) == 0:
        now = monotonic_ns()
        _note_step(counters, longest, histogram, threshold_ns, before, now)
        before = now
    counters[ENDED] = before
