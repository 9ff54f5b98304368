"""Books that know whether they are right: the book kernel, cut to the subscribed depth, with the venue's checksum.

Layout: BOOK[n] beside one CHECKS record. LEVEL records go in, in order; at the LAST of each group the book is cut to
its depth and judged. Other kinds pass by.

    a snapshot that is judged right      the book is valid
    any verdict but NONE                 it is invalid, and stays so until the next snapshot
    a GAP of the instrument              likewise

Verdicts: BOOK_INCOMPLETE (the book had to forget levels, or got one that cannot be), CROSSED_BOOK, LOCKED_BOOK where
those are refused, BEYOND_SNAPSHOT, CHECKSUM_MISMATCH. A checksum counts from the first group whose decimals are known
(see wire_checksum.py). An instrument that has sent one must send one with every update: a group without is a mismatch.

Cutting matters: a venue that sends a book of depth d says nothing of what falls out of it, so a level left beyond d
would come back, outdated, when better ones go. Invariants: a valid book is uncrossed and no deeper than its depth.

A snapshot of REST ends where the venue's limit cuts it, and diffs tell only what changes: a level beyond that was there
before and has stood still is untold. So the reach of such a side, its worst price, is kept, and a book whose touch is
worse is judged BEYOND_SNAPSHOT. A side counts as cut when it has as many levels as one of the limits that the venue
hands out, or SNAPSHOT_LEVELS and more; with any other number the snapshot tells all of it. Known limit: levels behind
the touch may lie beyond the reach, and untold ones among them; top N and depth are exact as far as the reach.

Cost: 25 ns a record, the book included; 2 us more with a checksum; a side that has one level too many is read whole to
find it, 3.5 ns a level of depth. Known limit: the book kernel does not know the worst level of a side, hence that
reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import types

from engine.book.book import (
    CROSSED,
    LOCKED,
    book_best,
    book_clear,
    book_crossing,
    book_levels,
    book_set_tick,
    book_top,
    book_update,
    make_books,
)
from engine.book.layout import BOOK
from engine.ingest.state import BINANCE_DIALECTS
from engine.instruments import MAX_INSTRUMENTS, Instrument, instruments_by_index
from engine.integrity.kraken_checksum import kraken_checksum
from engine.integrity.wire_checksum import unpack_checksum
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.stage import BYTES

MAX_DEPTH = 1000  # deepest subscription
SNAPSHOT_LEVELS = 1000  # a side that a snapshot of REST is asked for
_LOWER_LIMITS = (5, 10, 20, 50, 100, 500)  # others that the venue hands out; spot hands out any up to 5000
SCRATCH_LEVELS = 2048  # read at once when a side is cut; more are cut in turns

CHECKS = np.dtype(
    [
        # What is refused: 1 or 0.
        ("refuse_crossed", "<i8"),
        ("refuse_locked", "<i8"),
        ("verify", "<i8"),  # checksums
        # By instrument.
        ("price_exp", "<i8", (MAX_INSTRUMENTS,)),
        ("size_exp", "<i8", (MAX_INSTRUMENTS,)),
        ("depth", "<i8", (MAX_INSTRUMENTS,)),  # levels a side, 0: the venue sends the whole book
        ("valid", "<i8", (MAX_INSTRUMENTS,)),
        ("verdict", "<i8", (MAX_INSTRUMENTS,)),  # Reason that made it invalid; NO_SNAPSHOT at first
        ("checksummed", "<i8", (MAX_INSTRUMENTS,)),  # 1: a checksum has come
        ("verified", "<i8", (MAX_INSTRUMENTS,)),  # checksums that agreed
        ("mismatched", "<i8", (MAX_INSTRUMENTS,)),  # checksums that did not, or did not come
        ("crossed", "<i8", (MAX_INSTRUMENTS,)),  # groups after which the book was crossed
        ("locked", "<i8", (MAX_INSTRUMENTS,)),  # or locked
        ("cut", "<i8", (MAX_INSTRUMENTS,)),  # levels that fell out of the depth
        ("cut_at", "<i8", (MAX_INSTRUMENTS, 2)),  # by side: price of the worst level that the tightest cut has left
        # since that was set (0: none has); what is worse may have fallen out of the depth
        ("limited", "<i8", (MAX_INSTRUMENTS,)),  # 1: a limit may cut its snapshots
        ("told", "<i8", (MAX_INSTRUMENTS, 2)),  # by side: levels of its last snapshot
        ("reach", "<i8", (MAX_INSTRUMENTS, 2)),  # by side: their worst price, 0: the snapshot tells of all
        ("clearing", "<i8", (MAX_INSTRUMENTS,)),  # 1: inside the group of a snapshot
        # Scratch.
        ("prices", "<i8", (SCRATCH_LEVELS,)),
        ("sizes", "<i8", (SCRATCH_LEVELS,)),
    ],
    align=True,
)

_LEVEL, _GAP = int(Kind.LEVEL), int(Kind.GAP)
_FIRST, _LAST, _SNAPSHOT = int(Flag.FIRST), int(Flag.LAST), int(Flag.SNAPSHOT)
_NONE, _NO_SNAPSHOT, _GAPPED = int(Reason.NONE), int(Reason.NO_SNAPSHOT), int(Reason.SEQUENCE_GAP)
_INCOMPLETE, _CROSSED = int(Reason.BOOK_INCOMPLETE), int(Reason.CROSSED_BOOK)
_LOCKED, _BEYOND = int(Reason.LOCKED_BOOK), int(Reason.BEYOND_SNAPSHOT)
_MISMATCH = int(Reason.CHECKSUM_MISMATCH)


def make_checks(instruments: Sequence[Instrument], depths: Mapping[int, int] | None = None) -> np.ndarray:
    """CHECKS of shape (1,) of empty books; depths by instrument index, by default those of the instruments.

    Raises ValueError for a depth beyond MAX_DEPTH.
    """
    checks = np.zeros(1, CHECKS)
    checks["verdict"] = _NO_SNAPSHOT
    checks["refuse_crossed"] = checks["verify"] = 1
    for index, item in instruments_by_index(instruments).items():
        depth = (depths or {}).get(index, item.book_depth)
        if not 0 <= depth <= MAX_DEPTH:
            raise ValueError(f"instrument {item.symbol}: depth {depth} is not in 0 to {MAX_DEPTH}")
        checks["price_exp"][0, index] = item.price_exp
        checks["size_exp"][0, index] = item.size_exp
        checks["depth"][0, index] = depth
        checks["limited"][0, index] = item.dialect in BINANCE_DIALECTS
    return checks


def make_checked_books(
    instruments: Sequence[Instrument], depths: Mapping[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(`make_checks`, BOOK[MAX_INSTRUMENTS] with their ticks)."""
    books = make_books(MAX_INSTRUMENTS)
    for index, item in instruments_by_index(instruments).items():
        book_set_tick(books, index, item.tick_size)
    return make_checks(instruments, depths), books


@kernel()
def cut_side(books: np.ndarray, i: int, side: int, depth: int, prices: Any, sizes: Any) -> int:
    """Remove the levels of a side beyond the best `depth`; how many they were. prices, sizes: scratch, above depth."""
    removed = 0
    held = book_levels(books, i, side)
    while held > depth:
        found = book_top(books, i, side, min(held, len(prices)), prices, sizes)
        for place in range(depth, found):
            book_update(books, i, side, prices[place], 0)
        removed += found - depth
        held = book_levels(books, i, side)
    return removed


@kernel()
def cut_book(books: np.ndarray, i: int, depth: int, prices: Any, sizes: Any) -> int:
    """Remove the levels of both sides beyond the best `depth`; how many they were. Scratch as for `cut_side`."""
    return cut_side(books, i, 1, depth, prices, sizes) + cut_side(books, i, -1, depth, prices, sizes)


@kernel()
def _judge_checksum(checks: Any, books: np.ndarray, i: int, word: int) -> int:
    """Whether the book agrees with the word of its group."""
    if checks.verify == 0 or (word == 0 and checks.checksummed[i] == 0):
        return _NONE
    told = unpack_checksum(word)
    if not told.given:
        if checks.checksummed[i] == 0 or checks.clearing[i] != 0:
            return _NONE
        checks.mismatched[i] += 1
        return _MISMATCH
    checks.checksummed[i] = 1
    if told.known:
        ours = kraken_checksum(
            books, i, checks.price_exp[i], checks.size_exp[i], told.price_decimals, told.size_decimals,
            checks.prices, checks.sizes,
        )  # fmt: skip
        if ours != told.checksum:
            checks.mismatched[i] += 1
            return _MISMATCH
        checks.verified[i] += 1
    return _NONE


@kernel()
def _cut(checks: Any, books: np.ndarray, i: int) -> None:
    """Cut book i to its depth, and note where."""
    depth = checks.depth[i]
    for s in range(2):
        side = 1 - 2 * s
        removed = cut_side(books, i, side, depth, checks.prices, checks.sizes)
        if removed > 0:
            checks.cut[i] += removed
            worst, tightest = checks.prices[depth - 1], checks.cut_at[i, s]
            if tightest == 0 or side * worst > side * tightest:
                checks.cut_at[i, s] = worst


@kernel()
def _note_level(checks: Any, i: int, side: int, price: int) -> None:
    """A snapshot has one level more."""
    s = 0 if side > 0 else 1
    worst = checks.reach[i, s]
    if worst == 0 or side * price < side * worst:
        checks.reach[i, s] = price
    checks.told[i, s] += 1


@kernel()
def _close_reach(checks: Any, i: int) -> None:
    """A snapshot is whole: only a side that was cut has a reach."""
    for s in range(2):
        told = checks.told[i, s]
        is_cut = told >= SNAPSHOT_LEVELS
        for limit in _LOWER_LIMITS:
            is_cut |= told == limit
        if checks.limited[i] == 0 or not is_cut:
            checks.reach[i, s] = 0


@kernel()
def _is_beyond_reach(checks: Any, books: np.ndarray, i: int) -> bool:
    """Whether the touch of book i is worse than the reach of its snapshot, or gone with all that the snapshot told."""
    for s in range(2):
        reach = checks.reach[i, s]
        if reach != 0:
            side = 1 - 2 * s
            price, size = book_best(books, i, side)
            if size == 0 or side * price < side * reach:
                return True
    return False


@kernel()
def _judge(checks: Any, books: np.ndarray, i: int, word: int) -> int:
    """The verdict on book i at the end of a group."""
    if checks.depth[i] > 0:
        _cut(checks, books, i)
    if books[i].faults != 0:
        return _INCOMPLETE
    crossing = book_crossing(books, i)
    if crossing == CROSSED:
        checks.crossed[i] += 1
        if checks.refuse_crossed != 0:
            return _CROSSED
    elif crossing == LOCKED:
        checks.locked[i] += 1
        if checks.refuse_locked != 0:
            return _LOCKED
    if checks.clearing[i] != 0:
        _close_reach(checks, i)
    elif _is_beyond_reach(checks, books, i):
        return _BEYOND
    return _judge_checksum(checks, books, i, word)


@kernel()
def check_record(checks: Any, books: np.ndarray, record: Any) -> int:
    """Take one MARKET record. The verdict (Reason) at the end of a group of levels, NONE for anything else."""
    i = np.int64(record.instrument)
    if record.kind == _GAP:
        checks.valid[i] = 0
        checks.verdict[i] = _GAPPED
        return _NONE
    if record.kind != _LEVEL:
        return _NONE
    if record.flags & _FIRST != 0:
        checks.clearing[i] = 1 if record.flags & _SNAPSHOT != 0 else 0
        if checks.clearing[i] != 0:
            book_clear(books, i)
            checks.valid[i] = 0
            for s in range(2):
                checks.told[i, s] = 0
                checks.reach[i, s] = 0
    book_update(books, i, np.int64(record.side), record.price, record.size)
    if record.flags & _SNAPSHOT != 0 and record.size != 0:
        _note_level(checks, i, np.int64(record.side), record.price)
    if record.flags & _LAST == 0:
        return _NONE
    verdict = _judge(checks, books, i, record.aux)
    if verdict != _NONE:
        checks.valid[i] = 0
        checks.verdict[i] = verdict
    elif checks.clearing[i] != 0:
        checks.valid[i] = 1
        checks.verdict[i] = _NONE
    return verdict


@kernel(types.int64(BYTES, BYTES, BYTES, types.int64))
def check_records(checks: np.ndarray, books: np.ndarray, inbox: np.ndarray, count: int) -> int:
    """Take `count` MARKET records; how many groups among them were judged wrong. All arguments but count as bytes."""
    state, rows, records = checks.view(CHECKS)[0], books.view(BOOK), inbox.view(MARKET)
    wrong = 0
    for at in range(count):
        if check_record(state, rows, records[at]) != _NONE:
            wrong += 1
    return wrong
