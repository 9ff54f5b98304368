"""The audit of a book by the venue's own ticker: whether our best bid and offer are those that the venue tells.

By number (Binance). The ticker's update id counts as that of the diffs, so after a diff with id u the touch, prices and
sizes, is that of the ticker with the largest id not above u. Which one that is is known once a ticker with that id or a
larger one has come: the touch waits for it, or is looked up among the last TICKER_PLACES; a touch that still waits when
the next diff comes is not compared. Venues make exceptions (two in 56,000 recorded diffs, apart): so many disagreements
in a row as the settings say make the book wrong, no fewer.

It shows too that the stream of a book has died, or is late, while the ticker goes on. A ticker beyond the last id of
the book that differs from its touch is ahead; when no diff has reached its id for `stalled_book_ms`, the next that is
ahead makes the book wrong. One that shows our touch says nothing against it: of a quiet book a change that was undone
at once may never be told of. So a book is late unseen for as long as its touch stands still.

By band. Where nothing ties ticker and book together, best bid and best offer may be `audit_band` of the price away from
the ticker's; it is used for books that nothing else proves.

Invariants: a GAP, and a book that is lost, forget tickers and what waits, not the counts. Cost: one look at
the touch for each diff, and for some tickers. Known limit: levels behind the touch are not audited.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import book_best
from engine.instruments import Dialect, Instrument
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag

TICKER_PLACES = 32  # a power of two
_MASK = TICKER_PLACES - 1
BY_NOTHING, BY_NUMBER, BY_BAND = 0, 1, 2
_NUMBERED = (Dialect.BINANCE_USDM, Dialect.BINANCE_SPOT, Dialect.BINANCE_COINM)
_CHECKSUMMED = (Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_SPOT_V2)

AUDIT = np.dtype(
    [
        ("proven", "<i8"),  # 1: sequence or checksum prove the book
        ("rule", "<i8"),  # BY_NOTHING, BY_NUMBER or BY_BAND
        ("agreed", "<i8"),
        ("disagreed", "<i8"),
        ("in_a_row", "<i8"),  # disagreements since the last agreement
        ("wrong", "<i8"),  # books that it found wrong
        ("ticker_count", "<i8"),  # since the last GAP
        ("ticker_id", "<i8", (TICKER_PLACES,)),
        ("ticker", "<i8", (TICKER_PLACES, 4)),  # bid price, bid size, ask price, ask size
        ("ahead_id", "<i8"),  # the first ticker that is ahead of the book, and that no diff has reached; 0: none
        ("ahead_since_ns", "<i8"),  # record time at which it came
        ("stalled", "<i8"),  # books that it found without updates
        ("half", "<i8", (4,)),  # the ticker that is coming in, side by side
        ("waiting", "<i8"),  # 1: `touch` waits for a ticker beyond `update_id`
        ("update_id", "<i8"),
        ("touch", "<i8", (4,)),
    ],
    align=True,
)

_FIRST, _LAST = int(Flag.FIRST), int(Flag.LAST)
_NONE, _MISMATCH, _STALLED = int(Reason.NONE), int(Reason.AUDIT_MISMATCH), int(Reason.STALLED_BOOK)


def is_proven(item: Instrument, checksums: bool) -> bool:
    """Whether the venue's numbers or checksums prove the book of an instrument. checksums: are they verified?"""
    return item.dialect not in _CHECKSUMMED or checksums


def audit_rule(item: Instrument, checksums: bool) -> int:
    """By what the book of an instrument is audited."""
    if item.dialect in _NUMBERED:
        return BY_NUMBER
    return BY_NOTHING if is_proven(item, checksums) else BY_BAND


@kernel()
def forget_tickers(audit: Any) -> None:
    """The book begins again, or tickers may be missing."""
    audit.ticker_count = 0
    audit.waiting = 0
    audit.in_a_row = 0
    audit.ahead_id = 0


@kernel()
def _judge(audit: Any, agrees: bool, limit: int) -> int:
    if agrees:
        audit.agreed += 1
        audit.in_a_row = 0
        return _NONE
    audit.disagreed += 1
    audit.in_a_row += 1
    if audit.in_a_row < limit:
        return _NONE
    audit.wrong += 1
    return _MISMATCH


@kernel()
def _is_ticker(audit: Any, place: int, touch: Any) -> bool:
    ticker = audit.ticker
    is_price = ticker[place, 0] == touch[0] and ticker[place, 2] == touch[2]
    return is_price and ticker[place, 1] == touch[1] and ticker[place, 3] == touch[3]


@kernel()
def _read_touch(audit: Any, books: np.ndarray, i: int) -> None:
    audit.touch[0], audit.touch[1] = book_best(books, i, 1)
    audit.touch[2], audit.touch[3] = book_best(books, i, -1)


@kernel()
def audit_group(audit: Any, books: np.ndarray, i: int, update_id: int, limit: int) -> int:
    """A diff has been applied whole: the verdict on the book (Reason)."""
    if update_id >= audit.ahead_id:
        audit.ahead_id = 0
    if audit.rule != BY_NUMBER or audit.ticker_count == 0 or update_id <= 0:
        return _NONE
    _read_touch(audit, books, i)
    newest = audit.ticker_count - 1
    audit.update_id = update_id
    audit.waiting = 1 if audit.ticker_id[newest & _MASK] < update_id else 0
    if audit.waiting != 0:
        return _NONE
    at = newest
    while at >= 0 and at > newest - TICKER_PLACES:
        if audit.ticker_id[at & _MASK] <= update_id:
            return _judge(audit, _is_ticker(audit, at & _MASK, audit.touch), limit)
        at -= 1
    return _NONE


@kernel()
def _near(ours: int, theirs: int, band: float) -> bool:
    return ours > 0 and abs(float(ours) - float(theirs)) <= band * float(theirs)


@kernel()
def audit_quote(audit: Any, books: np.ndarray, i: int, record: Any, is_whole: bool, limit: int, band: float) -> int:
    """Take a QUOTE; the verdict on the book (Reason) when that completes a ticker. is_whole: the book stands."""
    if audit.rule == BY_NOTHING:
        return _NONE
    if record.flags & _FIRST != 0:
        for part in range(4):
            audit.half[part] = 0
    part = 0 if record.side > 0 else 2
    audit.half[part] = record.price
    audit.half[part + 1] = record.size
    if record.flags & _LAST == 0 or audit.half[0] == 0 or audit.half[2] == 0:
        return _NONE
    if audit.rule == BY_BAND:
        if not is_whole:
            return _NONE
        _read_touch(audit, books, i)
        near = _near(audit.touch[0], audit.half[0], band) and _near(audit.touch[2], audit.half[2], band)
        return _judge(audit, near, limit)
    newest = (audit.ticker_count - 1) & _MASK
    if record.sequence <= 0 or (audit.ticker_count > 0 and record.sequence <= audit.ticker_id[newest]):
        return _NONE  # without a number, or an older one
    place = audit.ticker_count & _MASK
    audit.ticker_id[place] = record.sequence
    for part in range(4):
        audit.ticker[place, part] = audit.half[part]
    audit.ticker_count += 1
    if audit.waiting == 0 or record.sequence < audit.update_id:
        return _NONE
    audit.waiting = 0
    if not is_whole:
        return _NONE
    last = place if record.sequence == audit.update_id else newest
    return _judge(audit, _is_ticker(audit, last, audit.touch), limit)


@kernel()
def audit_progress(audit: Any, books: np.ndarray, i: int, book_id: int, now_ns: int, bound_ns: int) -> int:
    """The verdict on a whole book (Reason) that the newest ticker may be ahead of, by number. book_id: its last id."""
    if audit.ticker_count == 0:
        return _NONE
    newest = (audit.ticker_count - 1) & _MASK
    ticker = audit.ticker
    bid, bid_size = book_best(books, i, 1)
    ask, ask_size = book_best(books, i, -1)
    same_bid = ticker[newest, 0] == bid and ticker[newest, 1] == bid_size
    if audit.ticker_id[newest] <= book_id or (same_bid and ticker[newest, 2] == ask and ticker[newest, 3] == ask_size):
        audit.ahead_id = 0
        return _NONE
    if audit.ahead_id == 0:
        audit.ahead_id = audit.ticker_id[newest]
        audit.ahead_since_ns = now_ns
    if now_ns - audit.ahead_since_ns < bound_ns:
        return _NONE
    audit.stalled += 1
    return _STALLED
