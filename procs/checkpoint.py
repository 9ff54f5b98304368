"""Checkpoints: a stage's state, copied now and then with the cursors at which it stood.

Purpose: a successor takes up exactly where the dead process's effects end. It loads the newest whole copy, reads its
inputs again from there (the rings keep what no checkpoint covers), and publishes only what its output rings do not hold
yet. Stages are deterministic, so every record is published exactly once.

Layout: two slots in a segment, each HEADER_WORDS int64 and then the state. Word GENERATION is 0 while a slot is being
written and rises by one with every checkpoint; CHECKSUM covers the other words and the state. The older slot is
overwritten, so a writer killed at any instant leaves the newer one whole.

Ordering: GENERATION 0 by store-release, fence release, content, then GENERATION n by store-release.
Cost: one pass over the state, about 0.15 ns a byte.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from shm.atomics import fence_release, load_acquire, store_release

SLOTS = 2
HEADER_WORDS = 24

GENERATION = 0
CHECKSUM = 1
INPUT_CURSOR = 2  # ..8 by source: records taken
OUTPUT_CURSOR = 9  # ..10 by route: records published
JOURNAL_ORDINAL = 11  # of the last entry that the state has seen
WORD_SEEN = 12  # emergency word of the last TRIP record
BACKLOG_SEEN = 13  # level of the last BACKLOG record
EXTRA = 14  # ..23 free for the role

_INT64S = types.Array(types.int64, 1, "C")
_BYTES = types.Array(types.uint8, 1, "C")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def slot_words(state_bytes: int) -> int:
    """int64 words of one slot for a state of this many bytes (a multiple of 8)."""
    return HEADER_WORDS + state_bytes // 8


@kernel()
def _mix(digest: int, word: int) -> int:
    mixed = np.uint64((np.uint64(digest) ^ np.uint64(word)) * _MULTIPLIER)
    return mixed ^ (mixed >> _SHIFT)  # type: ignore[return-value]


@kernel()
def _checksum(words: np.ndarray, start: int, end: int) -> int:
    """A 64-bit digest of words[start : end], four lanes side by side."""
    a = np.uint64(1)
    b = np.uint64(2)
    c = np.uint64(3)
    d = np.uint64(4)
    place = start
    while place + 4 <= end:
        a = _mix(a, words[place])
        b = _mix(b, words[place + 1])
        c = _mix(c, words[place + 2])
        d = _mix(d, words[place + 3])
        place += 4
    while place < end:
        a = _mix(a, words[place])
        place += 1
    return np.int64(_mix(_mix(_mix(a, b), c), d))  # type: ignore[return-value]


@kernel(makes_arrays=True)
def write_checkpoint(arena: np.ndarray, state: np.ndarray, header: np.ndarray) -> None:
    """Write a checkpoint over the older slot. arena: int64 of both slots; state: uint8; header: int64[HEADER_WORDS],
    whose GENERATION is the last one written and is raised."""
    state_words = state.view(np.int64)
    size = HEADER_WORDS + state_words.size
    start = 0
    if load_acquire(arena, 0) > load_acquire(arena, size):
        start = size
    store_release(arena, start + GENERATION, 0)
    fence_release()
    header[GENERATION] += 1
    for word in range(CHECKSUM + 1, HEADER_WORDS):
        arena[start + word] = header[word]
    arena[start + HEADER_WORDS : start + size] = state_words
    arena[start + CHECKSUM] = _checksum(arena, start + CHECKSUM + 1, start + size)
    store_release(arena, start + GENERATION, header[GENERATION])


@kernel(types.void(_INT64S, _BYTES, _INT64S))
def checkpoint_now(arena: np.ndarray, state: np.ndarray, header: np.ndarray) -> None:
    """`write_checkpoint` for callers in Python."""
    write_checkpoint(arena, state, header)


@kernel(types.boolean(_INT64S, _BYTES, _INT64S))
def load_checkpoint(arena: np.ndarray, state: np.ndarray, header: np.ndarray) -> bool:
    """Copy the newest whole checkpoint into state and header. Returns False when there is none."""
    size = HEADER_WORDS + state.view(np.int64).size
    best = -1
    for slot in range(SLOTS):
        start = slot * size
        if arena[start + GENERATION] <= 0:
            continue
        if arena[start + CHECKSUM] != _checksum(arena, start + CHECKSUM + 1, start + size):
            continue
        if best < 0 or arena[start + GENERATION] > arena[best + GENERATION]:
            best = start
    if best < 0:
        return False
    header[:] = arena[best : best + HEADER_WORDS]
    words = state.view(np.int64)
    words[:] = arena[best + HEADER_WORDS : best + size]
    return True
