"""Sequence locks: a block that always holds one latest value, written by one and read by anybody.

Purpose: positions, metrics and online features for people, monitors and the kill switch, who want the newest
value and not every value. The writer never waits. Never an input of a decision: which value a reader gets depends
on when it looks.

Layout: `block` is int64[::1] in shared memory; word SEQUENCE is twice the number of values written so far, plus
one while a value is being written; the value follows from word PAYLOAD on.

Ordering: the value is copied word by word with relaxed atomics: each word is whole, and the fences may order them.
  writer   store-relaxed SEQUENCE odd; fence release; the words; store-release SEQUENCE even
  reader   load-acquire SEQUENCE, even; the words; fence acquire; load-relaxed SEQUENCE: the same, or try again
A reader that got one word of a newer value also sees, after its fence, the odd number that was stored before it.

Invariants: a value is returned whole or not at all. One writer at a time. A writer that dies while writing leaves
the number odd and the block unreadable, until its successor writes.

Cost: about 0.2 ns a word for either side while the other is away (4 KiB: 0.07 us). Limits: readers give up after a
bounded number of attempts: a writer that writes all the time lets few of them through. 2^62 values.

Source: Boehm, "Can Seqlocks Get Along with Programming Language Memory Models?" (2012).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shm.atomics import (
    cpu_pause,
    fence_acquire,
    fence_release,
    inlined,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from shm.clock import sleep

# Indexes into a block.
SEQUENCE = 0
PAYLOAD = 1

BLOCK_ALIGNMENT = 128  # bytes: blocks of different writers share no pair of cache lines
_ATTEMPTS = 1000  # of one look: some 0.1 ms on a small block, more than any write takes that is not interrupted
_LOOKS = 10  # of Seqlock.read, 1 ms apart: an interrupted writer gets to run


def seqlock_bytes(dtype: np.dtype) -> int:
    """Bytes of a block for one value of the dtype, a multiple of BLOCK_ALIGNMENT."""
    return -(-(8 * PAYLOAD + dtype.itemsize) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT


@inlined
def seqlock_write(block: np.ndarray, value: np.ndarray, count: int) -> None:
    """Replace the block's value by value[:count] (int64[::1], private to the writer)."""
    writing = load_relaxed(block, SEQUENCE) | 1  # odd already if the last writer died here
    store_relaxed(block, SEQUENCE, writing)
    fence_release()
    for index in range(count):
        store_relaxed(block, PAYLOAD + index, value[index])
    store_release(block, SEQUENCE, writing + 1)


@inlined
def seqlock_read(block: np.ndarray, target: np.ndarray, count: int, attempts: int) -> int:
    """Copy the block's value to target[:count] (int64[::1]); returns how many values had been written so far.

    0 means that none was: the target is zero then. -1 that in no attempt a whole value could be copied: the target
    is rubbish then.
    """
    for _ in range(attempts):
        before = load_acquire(block, SEQUENCE)
        if before & 1 == 0:
            for index in range(count):
                target[index] = load_relaxed(block, PAYLOAD + index)
            fence_acquire()
            if load_relaxed(block, SEQUENCE) == before:
                return before >> 1
        cpu_pause()
    return -1


class Seqlock:
    """One block for Python: `words` is its int64 view, of seqlock_bytes(dtype) // 8 words or more."""

    def __init__(self, words: np.ndarray, dtype: np.dtype) -> None:
        if words.dtype != np.int64 or words.ndim != 1:
            raise TypeError(f"a seqlock lives in a 1-D int64 array, not {words.dtype} of {words.ndim} dimensions")
        if dtype.itemsize % 8 or dtype.itemsize == 0:
            raise ValueError(f"{dtype} has {dtype.itemsize} bytes: a seqlock copies whole words of 8")
        self.dtype = dtype
        self.count = dtype.itemsize // 8
        if len(words) < PAYLOAD + self.count:
            raise ValueError(f"a block of {len(words)} words cannot hold {PAYLOAD + self.count}")
        self.words = words

    @property
    def version(self) -> int:
        """How many values have been written so far."""
        return int(load_acquire(self.words, SEQUENCE)) >> 1

    def write(self, value: Any) -> None:
        """Replace the value by a record of the dtype, in one process at a time. ValueError if mapped read-only."""
        if not self.words.flags.writeable:
            raise ValueError("this seqlock is mapped read-only")
        record = np.ascontiguousarray(value, self.dtype).reshape(1)
        seqlock_write(self.words, record.view(np.int64), self.count)

    def read(self) -> np.ndarray | None:
        """A copy of the newest whole value, an array of one record, all zero before the first was written.

        None if the writer was busy all the time (some 10 ms), is stopped, or died while writing.
        """
        record = np.empty(1, self.dtype)
        target = record.view(np.int64)
        for look in range(_LOOKS):
            if look:
                sleep(0.001)
            if seqlock_read(self.words, target, self.count, _ATTEMPTS) >= 0:
                return record
        return None
