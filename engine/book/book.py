"""Operations on order books: update a level, read the touch, the best N, the depth.

Public kernels take (books: BOOK[::1], i) and a side as in records.Side; prices and sizes are int64 in the
instrument's units. They are helpers, compiled into the stages that call them, and callable from Python.

Invariants, for each side:
    every level on the tick grid at or above `base` is in the window, every one below it is in the far table;
    a level off the grid is always in the far table, wherever it lies;
    a placed window is never empty, and `best` is the index of its best level;
    while `faults` is 0 the window lies wholly above the horizon, so that it misses no level.
What breaks the last one, or a level that cannot be (price not positive, size negative, no tick), adds to
`faults`: from then on the book is wrong until it is cleared and filled from a snapshot.

Cost: update of a level 10-15 ns (far ones included), best 20 of a side 60-80 ns; a move of the window 10-30 us,
after a drift of a quarter of the window (towards better prices) or a half (towards worse).
Known limits: a stray level far on the better side of the touch drags the window there and back, at two moves;
a side with fewer window levels than asked for walks the far table (2-4 us).
Source: the tick-indexed array with a bitmap is common practice among exchange feed handlers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.bits import clear_bit, clear_bits, next_at_or_below, set_bit
from engine.book.far import far_best_on_tick, far_find_best, far_remove, far_set, far_slot
from engine.book.layout import BEST_INDEX, BOOK, FAR_SLOTS, LOW_INDEX, MAX_TOP, NO_RANK, WINDOW_TICKS
from engine.kernel import kernel

MAX_PRICE = 1 << 60  # price units; beyond, ranks could leave int64
MAX_TICK = 1 << 40  # price units

UNCROSSED = 0
LOCKED = 1  # best bid = best ask
CROSSED = 2  # best bid > best ask


def make_books(count: int) -> np.ndarray:
    """BOOK[count], all empty and without a tick size."""
    books = np.zeros(count, BOOK)
    books["best"] = -1
    books["far_best"] = NO_RANK
    books["horizon"] = NO_RANK
    return books


@kernel(inline=True)
def _side_index(side: int) -> int:
    return 0 if side > 0 else 1


@kernel()
def _check_horizon(book: Any, s: int) -> None:
    """A window that reaches below the horizon may miss levels: the book is wrong."""
    if book.horizon[s] != NO_RANK and (book.placed[s] == 0 or book.base[s] < book.horizon[s]):
        book.faults += 1


@kernel()
def _count_window(book: Any, s: int) -> None:
    """Set bitmap, near_count and best from the sizes of the window."""
    clear_bits(book, s)
    count = 0
    for index in range(WINDOW_TICKS):
        if book.sizes[s, index] != 0:
            set_bit(book, s, index)
            count += 1
    book.near_count[s] = count
    book.best[s] = next_at_or_below(book, s, WINDOW_TICKS - 1)


@kernel()
def _absorb(book: Any, s: int) -> None:
    """Move every far level that the window now covers into it."""
    for slot in range(FAR_SLOTS):
        # Removal may bring another level into the slot: look again until it stays.
        while book.far_sizes[s, slot] != 0:
            offset = book.far_ranks[s, slot] - book.base[s]
            if offset < 0 or offset % book.tick != 0 or offset // book.tick >= WINDOW_TICKS:
                break
            book.sizes[s, offset // book.tick] = book.far_sizes[s, slot]
            far_remove(book, s, slot)
    far_find_best(book, s)


@kernel()
def _move_window(book: Any, s: int, rank: int) -> None:
    """Move a placed window so that a rank on the tick grid comes to stand at BEST_INDEX."""
    old_base = book.base[s]
    base = rank - BEST_INDEX * book.tick
    shift = (base - old_base) // book.tick
    book.base[s] = base
    book.moves += 1
    if shift > 0:
        for index in range(WINDOW_TICKS):
            size = book.sizes[s, index]
            if size != 0:
                book.sizes[s, index] = 0
                if index >= shift:
                    book.sizes[s, index - shift] = size
                else:
                    far_set(book, s, old_base + index * book.tick, size)
    else:
        # Nothing leaves at the upper end: the best level itself comes to stand at BEST_INDEX or below.
        for index in range(WINDOW_TICKS - 1 + shift, -1, -1):
            size = book.sizes[s, index]
            if size != 0:
                book.sizes[s, index] = 0
                book.sizes[s, index - shift] = size
        if book.far_count[s] > 0:
            _absorb(book, s)
    _count_window(book, s)
    _check_horizon(book, s)


@kernel()
def _follow_down(book: Any, s: int) -> None:
    """The best level has fallen out of the upper part of the window: move after it, or unplace the window."""
    if book.near_count[s] > 0:
        if book.far_count[s] > 0:
            _move_window(book, s, book.base[s] + book.best[s] * book.tick)
        return
    rank = far_best_on_tick(book, s) if book.far_count[s] > 0 else NO_RANK
    if rank == NO_RANK:
        book.placed[s] = 0
        _check_horizon(book, s)
    else:
        _move_window(book, s, rank)


@kernel(inline=True)
def _set_near(book: Any, s: int, index: int, size: int) -> None:
    """Set the size at a window index; 0 removes the level."""
    old = book.sizes[s, index]
    if size != 0:
        book.sizes[s, index] = size
        if old == 0:
            set_bit(book, s, index)
            book.near_count[s] += 1
            if index > book.best[s]:
                book.best[s] = index
    elif old != 0:
        book.sizes[s, index] = 0
        clear_bit(book, s, index)
        book.near_count[s] -= 1
        if index == book.best[s]:
            best = next_at_or_below(book, s, index - 1)
            book.best[s] = best
            if best < LOW_INDEX:
                _follow_down(book, s)


@kernel(inline=True)
def book_update(books: np.ndarray, i: int, side: int, price: int, size: int) -> None:
    """Set the size of one level of book i; size 0 removes it, an absent level may be removed.

    A level that cannot be (price not in 1..MAX_PRICE, size negative, tick unknown) counts as a fault.
    """
    book = books[i]
    tick = book.tick
    if price <= 0 or price > MAX_PRICE or size < 0 or tick <= 0:
        book.faults += 1
        return
    s = _side_index(side)
    rank = price if s == 0 else -price
    if book.placed[s] != 0:
        offset = rank - book.base[s]
        if offset >= 0:
            index = np.int64(np.uint64(offset) // np.uint64(tick))
            if index * tick == offset:
                if index < WINDOW_TICKS:
                    _set_near(book, s, index, size)
                elif size != 0:
                    _move_window(book, s, rank)
                    _set_near(book, s, BEST_INDEX, size)
                return
    elif size != 0 and rank % tick == 0:
        book.placed[s] = 1
        book.base[s] = rank - BEST_INDEX * tick
        _set_near(book, s, BEST_INDEX, size)
        _check_horizon(book, s)
        return
    far_set(book, s, rank, size)
    _check_horizon(book, s)


@kernel()
def book_clear(books: np.ndarray, i: int) -> None:
    """Remove every level of book i and forget its faults and horizons; tick and running counters stay."""
    book = books[i]
    book.faults = 0
    for s in range(2):
        for index in range(WINDOW_TICKS):
            book.sizes[s, index] = 0
        clear_bits(book, s)
        for slot in range(FAR_SLOTS):
            book.far_ranks[s, slot] = 0
            book.far_sizes[s, slot] = 0
        book.placed[s] = 0
        book.base[s] = 0
        book.best[s] = -1
        book.near_count[s] = 0
        book.far_count[s] = 0
        book.far_best[s] = NO_RANK
        book.horizon[s] = NO_RANK


@kernel()
def book_set_tick(books: np.ndarray, i: int, tick: int) -> None:
    """Give book i a tick size (1..MAX_TICK); levels are kept, those off the new grid as far levels."""
    book = books[i]
    if tick == book.tick:
        return
    for s in range(2):
        for index in range(WINDOW_TICKS - 1, -1, -1):
            size = book.sizes[s, index]
            if size != 0:
                book.sizes[s, index] = 0
                far_set(book, s, book.base[s] + index * book.tick, size)
    book.tick = tick
    for s in range(2):
        book.placed[s] = 0
        rank = far_best_on_tick(book, s)
        if rank != NO_RANK:
            book.placed[s] = 1
            book.base[s] = rank - BEST_INDEX * tick
            book.moves += 1
            _absorb(book, s)
        _count_window(book, s)
        _check_horizon(book, s)


@kernel()
def book_best(books: np.ndarray, i: int, side: int) -> tuple[np.int64, np.int64]:
    """(price, size) of the best level of a side; (0, 0) where the side is empty."""
    book = books[i]
    s = _side_index(side)
    rank = np.int64(NO_RANK)
    size = np.int64(0)
    if book.best[s] >= 0:
        rank = book.base[s] + book.best[s] * book.tick
        size = book.sizes[s, book.best[s]]
    if book.far_best[s] > rank:
        rank = book.far_best[s]
        size = book.far_sizes[s, far_slot(book, s, rank)]
    if size == 0:
        return np.int64(0), np.int64(0)
    return (rank if s == 0 else -rank), size


@kernel()
def _merge_far(book: Any, s: int, count: int, ranks: np.ndarray, sizes: np.ndarray, found: int) -> int:
    """Merge the far levels into the best `found` window levels, best first; the number then held."""
    for slot in range(FAR_SLOTS):
        size = book.far_sizes[s, slot]
        rank = book.far_ranks[s, slot]
        if size == 0 or (found == count and rank < ranks[found - 1]):
            continue
        if found < count:
            found += 1
        place = found - 1
        while place > 0 and ranks[place - 1] < rank:
            ranks[place] = ranks[place - 1]
            sizes[place] = sizes[place - 1]
            place -= 1
        ranks[place] = rank
        sizes[place] = size
    return found


@kernel()
def book_top(books: np.ndarray, i: int, side: int, count: int, prices: np.ndarray, sizes: np.ndarray) -> int:
    """Write the best `count` (at least 1) levels of a side, best first, to prices and sizes (int64[::1]).

    Returns how many there are; places beyond are left alone.
    """
    book = books[i]
    s = _side_index(side)
    found = 0
    index = book.best[s]
    while index >= 0 and found < count:
        prices[found] = book.base[s] + index * book.tick
        sizes[found] = book.sizes[s, index]
        found += 1
        index = next_at_or_below(book, s, index - 1)
    if book.far_count[s] > 0 and (found < count or book.far_best[s] > prices[found - 1]):
        found = _merge_far(book, s, count, prices, sizes, found)
    if s == 1:
        for place in range(found):
            prices[place] = -prices[place]
    return found


@kernel()
def book_depth(books: np.ndarray, i: int, side: int, count: int) -> np.int64:
    """Sum of the sizes of the best `count` (1..MAX_TOP) levels of a side, fewer where there are fewer."""
    book = books[i]
    s = _side_index(side)
    total = np.int64(0)
    found = 0
    index = book.best[s]
    last = index
    while index >= 0 and found < count:
        total += book.sizes[s, index]
        found += 1
        last = index
        index = next_at_or_below(book, s, index - 1)
    if book.far_count[s] > 0 and (found < count or book.far_best[s] > book.base[s] + last * book.tick):
        found = book_top(books, i, side, min(count, MAX_TOP), book.top_prices, book.top_sizes)
        total = np.int64(0)
        for place in range(found):
            total += book.top_sizes[place]
    return total


@kernel()
def book_levels(books: np.ndarray, i: int, side: int) -> int:
    """Number of levels held on a side."""
    s = _side_index(side)
    return books[i].near_count[s] + books[i].far_count[s]


@kernel()
def book_size_at(books: np.ndarray, i: int, side: int, price: int) -> np.int64:
    """Size of the level at a price of a side, 0 where there is none."""
    book = books[i]
    s = _side_index(side)
    rank = price if s == 0 else -price
    offset = rank - book.base[s]
    if book.placed[s] != 0 and offset >= 0 and offset % book.tick == 0:
        index = offset // book.tick
        return book.sizes[s, index] if index < WINDOW_TICKS else np.int64(0)
    return book.far_sizes[s, far_slot(book, s, rank)]


@kernel()
def book_crossing(books: np.ndarray, i: int) -> int:
    """UNCROSSED, LOCKED or CROSSED; a book with an empty side is uncrossed."""
    bid, bid_size = book_best(books, i, 1)
    ask, ask_size = book_best(books, i, -1)
    if bid_size == 0 or ask_size == 0 or bid < ask:
        return UNCROSSED
    return LOCKED if bid == ask else CROSSED
