"""The audit of a book by snapshots of REST: whether the best levels are those that the venue tells when it is asked.

The answer is of some moment that nobody tells, so it is held against the book of a window: from the AUDIT record, which
goes before the request by as long as an answer may be out of date, to as long after the answer as the socket may be
late. Every change of the book in between is noted. Of each price, best first, as deep as the answer goes:

    without an update id    its size, or that it is missing, must be what the book had there at some time of the window
    with an update id       what the book had there after the last diff not beyond that id; what the first diff beyond
                            it changes is not looked at, since the id may lie within that diff, unless a diff has it

    only what is not worse than the level at twice that depth when the window opened, or, where the book is cut to a
    depth, than the worst level that a cut in the window has left: the reach, changes beyond which are not noted

Two sizes are the same where they differ by less than the venue prints (Kraken's REST cuts sizes to 3 decimals).

So a right book is never refused while REST is not staler, nor the socket later, than the window allows; a level that
is wrong and as deep as that is found by every audit that looks at it, until it is told again and so right. So many
disagreements in a row as the settings say make the book wrong. Why: docs/decisions/0009-audits-by-rest.md.

The side of an answer that has fewer levels than are kept is all of that side: more are asked for.

No verdict, only a count, where the book began anew in the window, more changed than there are places to note it, the
answer does not list the best first or is older than the window, or nothing is left to compare.

Invariants: one window at a time, of one instrument; it is judged at the first CLOCK at or after its end, so by records
alone. Cost: a compare for each level outside a window, a look into the book within; a verdict 10 us after 500 changes.
Known limits: levels deeper than the answer, or than `rest_audit_levels`, are not looked at; each price is judged by
itself, so an answer that mixes moments of the window passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import book_size_at, book_top
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag
from engine.validation.settings import AUDIT_LEVELS

CHANGE_PLACES = 4096
_LOOKED_AT = 2 * AUDIT_LEVELS  # levels of our own, a side
_NS_PER_MS = 1_000_000
_NO_RANK = -(1 << 62)

REST_WINDOW = np.dtype(
    [
        ("open", "<i8"),  # 1: changes of the instrument's book are noted
        ("answered", "<i8"),  # 1: a whole answer has come
        ("instrument", "<i8"),
        ("venue", "<i8"),
        ("close_ns", "<i8"),  # record time from which it is judged, once answered
        ("opened_id", "<i8"),  # update id of the book when it opened
        # The answer, by side (0: bids).
        ("answer_id", "<i8"),  # its update id, 0: none
        ("tolerance", "<i8"),  # sizes agree that differ by less, size units
        ("disorder", "<i8"),  # 1: it does not list the best first
        ("deeper", "<i8", (2,)),  # 1: it goes deeper than `told`
        ("count", "<i8", (2,)),
        ("told", "<i8", (2, AUDIT_LEVELS, 2)),  # price, size; best first
        # What changed since it opened.
        ("changes", "<i8"),
        ("change", "<i8", (CHANGE_PLACES, 4)),  # side * price, size before, size after, update id
        # Scratch.
        ("prices", "<i8", (_LOOKED_AT,)),
        ("sizes", "<i8", (_LOOKED_AT,)),
    ],
    align=True,
)

REST_COUNTS = np.dtype(
    [
        ("agreed", "<i8"),
        ("disagreed", "<i8"),
        ("in_a_row", "<i8"),  # disagreements since the last agreement
        ("wrong", "<i8"),  # books that it found wrong
        ("without_verdict", "<i8"),
        ("book_id", "<i8"),  # update id of the last group that was applied, 0: none
    ],
    align=True,
)

_FIRST, _LAST = int(Flag.FIRST), int(Flag.LAST)
_NONE, _MISMATCH = int(Reason.NONE), int(Reason.REST_MISMATCH)


@kernel()
def close_window(window: Any, counts: Any, i: int) -> None:
    """The book of an instrument begins anew, or cannot be followed any more: an audit of it has no verdict."""
    if window.open != 0 and window.instrument == i:
        window.open = 0
        counts.without_verdict += 1


@kernel()
def open_window(
    window: Any, counts: Any, books: np.ndarray, cut_at: Any, record: Any, levels: int, is_whole: bool
) -> None:
    """An AUDIT record; one that was open is given up.

    cut_at: of the checked book, the reach of this window from here on; levels: so many a side are compared; is_whole:
    the book stands.
    """
    i = np.int64(record.instrument)
    for s in range(2):
        found = book_top(books, i, 1 - 2 * s, 2 * levels, window.prices, window.sizes)
        cut_at[s] = window.prices[found - 1] if found == 2 * levels else 0
    window.instrument = record.instrument
    window.venue = record.venue
    window.open = 1
    window.answered = 0
    window.changes = 0
    window.opened_id = counts.book_id
    if not is_whole:
        close_window(window, counts, window.instrument)


@kernel()
def note_change(window: Any, counts: Any, books: np.ndarray, cut_at: Any, i: int, record: Any) -> None:
    """A LEVEL of the audited book is about to be applied."""
    side = np.int64(record.side)
    reach = cut_at[0 if side > 0 else 1]
    if reach > 0 and side * record.price < side * reach:
        return
    before = book_size_at(books, i, side, record.price)
    if before == record.size:
        return
    at = window.changes
    if at == CHANGE_PLACES:
        close_window(window, counts, i)
        return
    window.change[at, 0] = side * record.price
    window.change[at, 1] = before
    window.change[at, 2] = record.size
    window.change[at, 3] = record.sequence
    window.changes = at + 1


@kernel()
def take_told(window: Any, counts: Any, record: Any, levels: int, close_ns: int) -> None:
    """An AUDIT_LEVEL. levels: so many a side are kept; close_ns: when to judge if this is the last one."""
    i = np.int64(record.instrument)
    if window.open == 0 or window.instrument != i or window.answered != 0:
        return
    if record.flags & _FIRST != 0:
        window.disorder = 0
        for s in range(2):
            window.count[s] = 0
            window.deeper[s] = 0
    side = np.int64(record.side)
    s = 0 if side > 0 else 1
    at = window.count[s]
    if at > 0 and side * record.price >= side * window.told[s, at - 1, 0]:
        window.disorder = 1
    if at < levels:
        window.told[s, at, 0] = record.price
        window.told[s, at, 1] = record.size
        window.count[s] = at + 1
    else:
        window.deeper[s] = 1
    if record.flags & _LAST != 0:
        window.answered = 1
        window.close_ns = close_ns
        window.answer_id = record.sequence
        window.tolerance = max(record.aux, 1)
        if window.disorder != 0 or (record.sequence > 0 and record.sequence < window.opened_id):
            close_window(window, counts, i)


@kernel()
def _spanning_id(window: Any) -> int:
    """The update id of the first diff beyond that of the answer, which may reach across it; 0: none does."""
    spanning = 0
    if window.opened_id == window.answer_id:
        return 0
    for at in range(window.changes):
        update_id = window.change[at, 3]
        if update_id == window.answer_id:
            return 0
        if update_id > window.answer_id and (spanning == 0 or update_id < spanning):
            spanning = update_id
    return spanning


@kernel()
def _same(window: Any, one: int, other: int) -> bool:
    return abs(one - other) < window.tolerance


@kernel()
def _could_be(window: Any, books: np.ndarray, side: int, price: int, told: int, spanning: int) -> bool:
    """Whether the answer may tell this size (0: no level) of a price of a right book."""
    key, changed = side * price, False
    before, after = 0, 0
    for at in range(window.changes):
        if window.change[at, 0] != key:
            continue
        before, after = window.change[at, 1], window.change[at, 2]
        if window.answer_id == 0:
            if _same(window, before, told) or _same(window, after, told):
                return True
        elif window.change[at, 3] > window.answer_id:
            return window.change[at, 3] == spanning or _same(window, before, told)
        changed = True
    if changed:
        return window.answer_id > 0 and _same(window, after, told)
    return _same(window, book_size_at(books, window.instrument, side, price), told)


@kernel()
def _side_disagrees(window: Any, books: np.ndarray, side: int, cut_at: int, spanning: int) -> tuple[bool, int]:
    """Hold one side against the answer: (whether it cannot be right, levels that were compared)."""
    s = 0 if side > 0 else 1
    count, compared = window.count[s], 0
    reach = side * cut_at if cut_at > 0 else _NO_RANK  # ranks are side * price: better is more
    for at in range(count):
        price, size = window.told[s, at, 0], window.told[s, at, 1]
        if side * price >= reach:
            compared += 1
            if not _could_be(window, books, side, price, size, spanning):
                return True, compared
    if window.deeper[s] != 0:
        reach = max(reach, side * window.told[s, count - 1, 0])
    found = book_top(books, window.instrument, side, _LOOKED_AT, window.prices, window.sizes)
    place = 0
    for at in range(found):
        price = window.prices[at]
        if side * price < reach:
            break
        while place < count and side * window.told[s, place, 0] > side * price:
            place += 1
        if place < count and window.told[s, place, 0] == price:
            continue
        compared += 1
        if not _could_be(window, books, side, price, 0, spanning):
            return True, compared
    return False, compared


@kernel()
def judge_window(window: Any, counts: Any, books: np.ndarray, cut_at: Any, limit: int) -> int:
    """The window is over: the verdict on its book (Reason). limit: disagreements in a row that make it wrong."""
    window.open = 0
    spanning = _spanning_id(window) if window.answer_id > 0 else 0
    disagrees, compared = _side_disagrees(window, books, 1, cut_at[0], spanning)
    if not disagrees:
        disagrees, more = _side_disagrees(window, books, -1, cut_at[1], spanning)
        compared += more
    if compared == 0:
        counts.without_verdict += 1
        return _NONE
    if not disagrees:
        counts.agreed += 1
        counts.in_a_row = 0
        return _NONE
    counts.disagreed += 1
    counts.in_a_row += 1
    if counts.in_a_row < limit:
        return _NONE
    counts.wrong += 1
    return _MISMATCH
