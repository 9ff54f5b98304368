"""A book as a dictionary, with a fingerprint that follows each change, so that comparing two books costs no reading.

The fingerprint of a book is the sum, modulo 2^64, of a mixed number of each of its levels; two books that differ have
the same one once in 2^64. `fingerprint_of` gives that of arrays, `TrueBook.difference` says where books differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from procs.integrity.told import BUY, SELL, Told

_MASK = (1 << 64) - 1
_PRICE, _SIZE, _SELL_SIDE, _MIX = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93


@lru_cache(maxsize=1 << 18)
def _mixed(side: int, price: int, size: int) -> int:
    value = (price * _PRICE + size * _SIZE + (_SELL_SIDE if side == SELL else 0)) & _MASK
    value = ((value ^ (value >> 32)) * _MIX) & _MASK
    return value ^ (value >> 29)


def fingerprint_of(side: int, prices: np.ndarray, sizes: np.ndarray) -> int:
    """The share of one side of a book, int64 arrays of its levels."""
    value = prices.astype(np.uint64) * np.uint64(_PRICE) + sizes.astype(np.uint64) * np.uint64(_SIZE)
    if side == SELL:
        value += np.uint64(_SELL_SIDE)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(_MIX)
    value ^= value >> np.uint64(29)
    return int(np.add.reduce(value, dtype=np.uint64))


class TrueBook:
    """A book: `sides[side]` holds size by price. depth: levels a side that there are at the most, 0: any.

    marked: it has a fingerprint, which costs as much as the book.
    """

    def __init__(self, depth: int, marked: bool = False) -> None:
        self.depth = depth
        self.marked = marked
        self.sides: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}
        self.fingerprint = 0

    def copy(self, levels: int = 0, marked: bool = False) -> TrueBook:
        """The same book, or its best levels a side."""
        other = TrueBook(self.depth, marked)
        if levels or marked:
            other.change(self.levels(levels))
        else:
            other.sides = {side: dict(held) for side, held in self.sides.items()}
        return other

    def levels(self, most: int = 0) -> Iterator[tuple[int, int, int]]:
        """(side, price, size), best first; `most` of each side, 0 for all."""
        for side, held in self.sides.items():
            for price in sorted(held, reverse=side == BUY)[: most or None]:
                yield side, price, held[price]

    def take(self, told: Told) -> None:
        """What a frame says, then the cut to the depth."""
        if told.is_snapshot:
            self.sides = {BUY: {}, SELL: {}}
            self.fingerprint = 0
        self.change(told.levels)

    def change(self, levels: Iterable[tuple[int, int, int]]) -> None:
        """Put levels, then cut."""
        sides, marked, fingerprint = self.sides, self.marked, self.fingerprint
        for side, price, size in levels:
            old = sides[side].pop(price, 0)
            if size:
                sides[side][price] = size
            if marked:
                fingerprint += (_mixed(side, price, size) if size else 0) - (_mixed(side, price, old) if old else 0)
        if self.depth:
            for side, worst in ((BUY, min), (SELL, max)):
                while len(sides[side]) > self.depth:
                    price = worst(sides[side])
                    old = sides[side].pop(price)
                    fingerprint -= _mixed(side, price, old) if marked else 0
        self.fingerprint = fingerprint & _MASK

    def equals(self, other: TrueBook, most: int = 0) -> bool:
        """Whether the books, or their best levels a side, are the same."""
        if most == 0 or self.sides == other.sides:
            return self.sides == other.sides
        return list(self.levels(most)) == list(other.levels(most))

    def within(self, other: TrueBook) -> bool:
        """Whether another book has all of these levels."""
        return all(held.items() <= other.sides[side].items() for side, held in self.sides.items())

    def difference(self, other: TrueBook) -> str:
        """Where another book differs, in words; at the most three places."""
        found = [
            f"{'bid' if side == BUY else 'ask'} {price}: {self.sides[side].get(price, 0)} is "
            f"{other.sides[side].get(price, 0)}"
            for side in (BUY, SELL)
            for price in sorted(self.sides[side].keys() | other.sides[side].keys())
            if self.sides[side].get(price) != other.sides[side].get(price)
        ]
        return "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
