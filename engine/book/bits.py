"""Two-level bitmap of a window: find the next set bit at or below an index in at most four words.

A bit of `summary` is set exactly where its word of `words` is not zero.
Cost: 1-2 ns a call. Source: the usual find-last-set over machine words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.book.layout import SUMMARY_WORDS
from engine.kernel import kernel

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@intrinsic
def _leading_zeros(typing_context: Any, word: Any) -> Any:
    """Number of zero bits above the highest set bit of a uint64; 64 for zero."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@kernel(inline=True)
def highest_bit(word: int) -> int:
    """Position of the highest set bit of a uint64 that is not zero."""
    return 63 - _leading_zeros(word)


@kernel(inline=True)
def _up_to(position: int) -> np.uint64:
    """uint64 mask with bits 0..position set, 0 <= position <= 63."""
    return np.uint64(_ALL >> np.uint64(63 - position))


@kernel(inline=True)
def set_bit(book: Any, side: int, index: int) -> None:
    """Mark a window index of a side."""
    word = index >> 6
    book.words[side, word] |= np.uint64(_ONE << np.uint64(index & 63))
    book.summary[side, word >> 6] |= np.uint64(_ONE << np.uint64(word & 63))


@kernel(inline=True)
def clear_bit(book: Any, side: int, index: int) -> None:
    """Unmark a window index of a side."""
    word = index >> 6
    left = np.uint64(book.words[side, word] & ~np.uint64(_ONE << np.uint64(index & 63)))
    book.words[side, word] = left
    if left == _ZERO:
        book.summary[side, word >> 6] &= ~np.uint64(_ONE << np.uint64(word & 63))


@kernel(inline=True)
def next_at_or_below(book: Any, side: int, index: int) -> int:
    """The highest marked window index of a side that is not above `index`, or -1 (also for index -1)."""
    if index < 0:
        return -1
    word = index >> 6
    bits = np.uint64(book.words[side, word] & _up_to(index & 63))
    if bits != _ZERO:
        return (word << 6) + highest_bit(bits)
    word -= 1
    if word < 0:
        return -1
    group = word >> 6
    bits = np.uint64(book.summary[side, group] & _up_to(word & 63))
    while bits == _ZERO:
        group -= 1
        if group < 0:
            return -1
        bits = np.uint64(book.summary[side, group])
    word = (group << 6) + highest_bit(bits)
    return (word << 6) + highest_bit(book.words[side, word])


@kernel()
def clear_bits(book: Any, side: int) -> None:
    """Unmark every index of a side."""
    for group in range(SUMMARY_WORDS):
        while book.summary[side, group] != _ZERO:
            word = (group << 6) + highest_bit(book.summary[side, group])
            book.words[side, word] = _ZERO
            book.summary[side, group] &= ~np.uint64(_ONE << np.uint64(word & 63))
