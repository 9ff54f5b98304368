"""Both ends of a trip, with the clock read in compiled code."""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from shm.atomics import cpu_pause
from shm.clock import monotonic_ns
from shm.control import TripSource, emergency_word, trip
from shm.doorbell import cancel_wait, commit_wait, prepare_wait, ring_bell

_INT64S = types.Array(types.int64, 1, "C")
_INT32S = types.Array(types.int32, 1, "C")
_SPINS = 200_000_000
_WAITS = 1000
_WAIT_NS = 10_000_000
_SOURCE = int(TripSource.OPERATOR)


@kernel(types.int64(_INT64S, _INT32S, types.int64))
def trip_now(control: np.ndarray, bells: np.ndarray, at: int) -> int:
    """Trip and ring one doorbell; the monotonic time before."""
    before = monotonic_ns()
    trip(control, _SOURCE)
    ring_bell(bells, at)
    return before


@kernel(types.int64(_INT64S))
def await_trip(control: np.ndarray) -> int:
    """Spin until the word is set; the monotonic time then, -1 when it never was."""
    for _ in range(_SPINS):
        if emergency_word(control) != 0:
            return monotonic_ns()
        cpu_pause()
    return -1


@kernel(types.int64(_INT64S, _INT32S, types.int64))
def sleep_until_trip(control: np.ndarray, bells: np.ndarray, at: int) -> int:
    """Sleep on a doorbell until the word is set; the monotonic time then, -1 when it never was."""
    for _ in range(_WAITS):
        seen = prepare_wait(bells, at)
        if emergency_word(control) != 0:
            cancel_wait(bells, at)
            return monotonic_ns()
        commit_wait(bells, at, seen, _WAIT_NS)
        if emergency_word(control) != 0:
            return monotonic_ns()
    return -1
