"""Doorbells: how a consumer sleeps until one of its producers has published, and never misses it.

Purpose: one doorbell per consumer process, rung by all its producers.

Layout: two neighbouring int32 words at `at` in an int32[::1] view of shared memory: at + 0 is the futex word,
a count of rings; at + 1 is 1 while the consumer sleeps or is about to.

Protocol:
  producer   store-release the head of a ring; ring_bell = fence seq_cst; if sleeping, bump the count and wake
  consumer   seen = prepare_wait = read the count, set the flag, fence seq_cst;
             look at every head again: something there -> cancel_wait, else commit_wait(seen)
Each side writes one word and then reads the other's. With acquire and release alone both reads may be done
before both writes, and the wake-up is lost; the two fences forbid that. A ring between prepare_wait and
commit_wait changes the count, and the kernel then refuses to sleep.

Invariants: a wait ends after MAX_WAIT_NS at the latest, so a producer killed between publishing and ringing
delays its consumer by no more than that. A wait may end for no reason; callers look at their heads in a loop.

Cost: ring_bell about 5 ns when nobody sleeps, 0.2 us and a wake-up by the scheduler otherwise.

Source: futex(2); Drepper, "Futexes Are Tricky".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shm.atomics import (
    ARM,
    X86,
    check_words,
    compiled,
    fence_seq_cst,
    fetch_add,
    inlined,
    load_acquire,
    load_relaxed,
    store_relaxed,
    word_pointer,
)

MAX_WAIT_NS = 10_000_000
DOORBELL_WORDS = 2  # int32 words that a doorbell takes

if X86:
    _FUTEX = 202  # the number of the system call
elif ARM:
    _FUTEX = 98
else:
    raise ImportError("doorbells know the futex system call of x86-64 and aarch64 Linux only")
_FUTEX_WAIT = 0  # without FUTEX_PRIVATE_FLAG: the waiters are in other processes
_FUTEX_WAKE = 1
_SLEEPING = 1


@intrinsic
def _futex(typing_context: Any, words: Any, at: Any, operation: Any, value: Any, timeout_ns: Any) -> Any:
    """The system call futex(&words[at], operation, value, {timeout}); -1 for any error, errno not kept."""
    check_words(words, writable=True)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        timespec = cgutils.alloca_once(builder, word, size=2)
        second = ir.Constant(word, 1_000_000_000)
        builder.store(builder.sdiv(arguments[4], second), builder.gep(timespec, [ir.Constant(word, 0)]))
        builder.store(builder.srem(arguments[4], second), builder.gep(timespec, [ir.Constant(word, 1)]))
        # syscall() is looked up by name, so that callers can be cached on disk.
        kind = ir.FunctionType(word, [word] * 7)
        function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
        zero = ir.Constant(word, 0)
        return builder.call(
            function,
            [
                ir.Constant(word, _FUTEX),
                builder.ptrtoint(word_pointer(context, builder, words, arguments[0], arguments[1]), word),
                arguments[2],
                arguments[3],
                builder.ptrtoint(timespec, word),
                zero,
                zero,
            ],
        )

    return types.int64(words, types.intp, types.int64, types.int64, types.int64), emit


@compiled
def _wake(bells: np.ndarray, at: int) -> None:
    """The rare half of ring_bell, kept out of line."""
    fetch_add(bells, at, 1)
    _futex(bells, at, _FUTEX_WAKE, 1, 0)


@inlined
def ring_bell(bells: np.ndarray, at: int) -> None:
    """Wake the consumer of the doorbell at bells[at] (int32[::1]) if it sleeps; call after publishing."""
    fence_seq_cst()
    if load_relaxed(bells, at + 1) != 0:
        _wake(bells, at)


@inlined
def prepare_wait(bells: np.ndarray, at: int) -> int:
    """Announce sleep; returns the count to hand to commit_wait. Look at every head before that."""
    seen = load_acquire(bells, at)
    store_relaxed(bells, at + 1, _SLEEPING)
    fence_seq_cst()
    return seen


@inlined
def cancel_wait(bells: np.ndarray, at: int) -> None:
    """Take the announcement back: there was something to read after all."""
    store_relaxed(bells, at + 1, 0)


@compiled
def commit_wait(bells: np.ndarray, at: int, seen: int, timeout_ns: int) -> bool:
    """Sleep until rung, MAX_WAIT_NS at the most; returns whether the bell has rung since `seen`."""
    limit = min(timeout_ns, MAX_WAIT_NS)
    if limit > 0:
        _futex(bells, at, _FUTEX_WAIT, seen, limit)
    store_relaxed(bells, at + 1, 0)
    return load_acquire(bells, at) != seen


class Doorbell:
    """The same for Python: `bells` is an int32 view of shared memory, `at` the index of the first word."""

    def __init__(self, bells: np.ndarray, at: int) -> None:
        if bells.dtype != np.int32 or bells.ndim != 1:
            raise TypeError(
                f"a doorbell lives in a 1-D int32 array, not {bells.dtype} of {bells.ndim} dimensions"
            )
        if not 0 <= at <= len(bells) - DOORBELL_WORDS:
            raise IndexError(f"doorbell at {at} of {len(bells)} words")
        self.bells = bells
        self.at = at

    def ring(self) -> None:
        """Wake the consumer if it sleeps; call after publishing."""
        ring_bell(self.bells, self.at)

    def wait(self, timeout_ns: int, ready: Callable[[], bool]) -> bool:
        """Sleep once, unless ready() is already true; returns ready() afterwards. Releases the GIL."""
        seen = prepare_wait(self.bells, self.at)
        if ready():
            cancel_wait(self.bells, self.at)
            return True
        commit_wait(self.bells, self.at, seen, timeout_ns)
        return ready()

    def silence(self) -> None:
        """Take back the announcement of a consumer that died asleep."""
        cancel_wait(self.bells, self.at)
