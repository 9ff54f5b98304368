"""The far table of a book side: rank -> size by open addressing with linear probing.

Invariants: a slot is free where its size is 0; every key is reachable from its home slot without crossing a
free one (deletion closes the gap, there are no tombstones); `far_best` is the best rank held; no rank below
`horizon` is held; at most FAR_LIMIT levels a side, so a free slot always exists.
Cost: a set or removal 5-20 ns; removing the best, or forgetting, walks the table (2 us; 100 us).
Known limit: when full, the worse half of the table is forgotten and counted; the book stays right as long as
the window does not reach the horizon (`book.py` sees to that).
Source: Knuth, The Art of Computer Programming 3, section 6.4, algorithm R (deletion with linear probing).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.layout import FAR_BITS, FAR_LIMIT, FAR_SLOTS, NO_RANK
from engine.kernel import kernel

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring ranks
_SHIFT = np.uint64(64 - FAR_BITS)
_MASK = FAR_SLOTS - 1


@kernel(inline=True)
def _home(rank: int) -> np.int64:
    """The slot where the search for a rank starts."""
    return np.int64(np.uint64(np.uint64(rank) * _MULTIPLIER) >> _SHIFT)


@kernel(inline=True)
def far_slot(book: Any, side: int, rank: int) -> int:
    """The slot that holds a rank, or the free slot where it would go."""
    slot = _home(rank)
    while book.far_sizes[side, slot] != 0 and book.far_ranks[side, slot] != rank:
        slot = (slot + 1) & _MASK
    return slot


@kernel()
def far_remove(book: Any, side: int, slot: int) -> None:
    """Free a slot that is in use and close the gap. Does not touch far_best.

    Afterwards the slot may hold another level, one that stood further along the probe sequence.
    """
    hole = slot
    probe = slot
    while True:
        probe = (probe + 1) & _MASK
        if book.far_sizes[side, probe] == 0:
            break
        home = _home(book.far_ranks[side, probe])
        # An entry may move back into the hole unless its home lies cyclically after the hole.
        if (probe - home) & _MASK >= (probe - hole) & _MASK:
            book.far_ranks[side, hole] = book.far_ranks[side, probe]
            book.far_sizes[side, hole] = book.far_sizes[side, probe]
            hole = probe
    book.far_ranks[side, hole] = 0
    book.far_sizes[side, hole] = 0
    book.far_count[side] -= 1


@kernel()
def far_find_best(book: Any, side: int) -> None:
    """Set far_best from the table."""
    best = NO_RANK
    if book.far_count[side] > 0:
        for slot in range(FAR_SLOTS):
            if book.far_sizes[side, slot] != 0 and book.far_ranks[side, slot] > best:
                best = book.far_ranks[side, slot]
    book.far_best[side] = best


@kernel()
def far_best_on_tick(book: Any, side: int) -> int:
    """The best rank of the table that lies on the tick grid, or NO_RANK."""
    best = NO_RANK
    for slot in range(FAR_SLOTS):
        rank = book.far_ranks[side, slot]
        if book.far_sizes[side, slot] != 0 and rank > best and rank % book.tick == 0:
            best = rank
    return best


@kernel()
def _forget_worse_half(book: Any, side: int) -> None:
    """Raise the horizon so that at most half of FAR_LIMIT levels stay, and drop those below it."""
    low = high = book.far_best[side]
    for slot in range(FAR_SLOTS):
        if book.far_sizes[side, slot] != 0 and book.far_ranks[side, slot] < low:
            low = book.far_ranks[side, slot]
    # The smallest rank in (low, high] that keeps few enough; ranks are distinct, so halving finds it.
    while low < high:
        middle = low + (high - low) // 2
        kept = 0
        for slot in range(FAR_SLOTS):
            if book.far_sizes[side, slot] != 0 and book.far_ranks[side, slot] >= middle:
                kept += 1
        if kept > FAR_LIMIT // 2:
            low = middle + 1
        else:
            high = middle
    book.horizon[side] = high
    for slot in range(FAR_SLOTS):
        while book.far_sizes[side, slot] != 0 and book.far_ranks[side, slot] < high:
            far_remove(book, side, slot)
            book.forgotten += 1


@kernel()
def far_set(book: Any, side: int, rank: int, size: int) -> None:
    """Set the size of a far level; 0 removes it. A level below the horizon is counted and not kept."""
    if rank < book.horizon[side]:
        if size != 0:
            book.forgotten += 1
        return
    slot = far_slot(book, side, rank)
    if book.far_sizes[side, slot] != 0:
        if size != 0:
            book.far_sizes[side, slot] = size
            return
        far_remove(book, side, slot)
        if rank == book.far_best[side]:
            far_find_best(book, side)
        return
    if size == 0:
        return
    if book.far_count[side] >= FAR_LIMIT:
        _forget_worse_half(book, side)
        if rank < book.horizon[side]:
            book.forgotten += 1
            return
        slot = far_slot(book, side, rank)
    book.far_ranks[side, slot] = rank
    book.far_sizes[side, slot] = size
    book.far_count[side] += 1
    if rank > book.far_best[side]:
        book.far_best[side] = rank
