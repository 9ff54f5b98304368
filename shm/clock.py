"""The only place where Bot4 reads a clock or sleeps.

Three times, all int64 nanoseconds:
  monotonic  CLOCK_MONOTONIC: the same in all processes of a boot, never goes back
  wall       CLOCK_REALTIME: since 1970, can be stepped by an operator or NTP
  session    monotonic + an offset that is fixed once, when an instance starts, and kept in its control block:
             reads like wall time, yet never goes back and is the same in all processes of the instance

Stamps in records are session time. Cost: about 25 ns a reading in compiled code, 50 ns in Python.
"""

from __future__ import annotations

import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shm.atomics import inlined

NANOSECONDS_PER_SECOND = 1_000_000_000
_CLOCK_MONOTONIC = 1  # the same number on every Linux


@intrinsic
def _clock_gettime(typing_context: Any, clock: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # struct timespec {int64 seconds, int64 nanoseconds} on this function's stack. The C function is
        # looked up by name, so callers can be cached on disk (an address found through ctypes could not).
        word = ir.IntType(64)
        stamp = cgutils.alloca_once(builder, word, size=2)
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), stamp.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [arguments[0], stamp])
        seconds = builder.load(builder.gep(stamp, [ir.Constant(word, 0)]))
        nanoseconds = builder.load(builder.gep(stamp, [ir.Constant(word, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(word, NANOSECONDS_PER_SECOND)), nanoseconds)

    return types.int64(types.int32), emit


@inlined
def monotonic_ns() -> int:
    """CLOCK_MONOTONIC in ns, in compiled code."""
    return _clock_gettime(_CLOCK_MONOTONIC)


@inlined
def session_ns(offset_ns: int) -> int:
    """Session time in ns, in compiled code; offset_ns comes from the control block."""
    return _clock_gettime(_CLOCK_MONOTONIC) + offset_ns


def python_monotonic_ns() -> int:
    """CLOCK_MONOTONIC in ns, in Python: the same clock as monotonic_ns()."""
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
