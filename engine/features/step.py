"""The features stage: MARKET in, FEATURE out.

Holds the books, cut to the depth that the venue tells of (see engine/integrity/checked_book.py). Levels are applied in
groups; control records pass on in order, as FEATURE records whose head is the market record; a VECTOR leaves at a
record flagged LAST of a level group (not of a snapshot) or of a trade group, while that book is valid, has both sides
and is not crossed. Quotes and liquidations are consumed. What the numbers mean: vector.py.

A book is valid from BOOK_VALID until BOOK_INVALID, GAP, the start of another snapshot, or until it had to forget
levels that it needs; the last is found here, so BOOK_INVALID (BOOK_INCOMPLETE) is said here and `resync_wanted`
of the instrument counts it.

Invariants: records_in = processed + sum(dropped); nothing depends on where a batch ends or on a record not yet
taken; every float that leaves is finite (sizes of a touch are positive, so no denominator is zero).
Cost: 40 ns a level, 130 ns a vector. Known limits: a locked book gives no vector; after a quiet spell
trade_flow keeps the value of the last trades.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import (
    MAX_TICK,
    UNCROSSED,
    book_best,
    book_clear,
    book_crossing,
    book_depth,
    book_set_tick,
    book_update,
)
from engine.book.layout import BOOK
from engine.features.settings import SAMPLE_PLACES
from engine.features.state import FEATURES_HEAD, FLOW, features_dtype
from engine.features.vector import (
    DEPTH_LEVELS,
    IMBALANCE_1,
    IMBALANCE_5,
    MICROPRICE_BPS,
    MID,
    SHORT_RETURN_BPS,
    SPREAD_BPS,
    TRADE_FLOW,
    VOLATILITY_BPS,
)
from engine.instruments import MAX_INSTRUMENTS
from engine.integrity.checked_book import cut_book
from engine.kernel import kernel
from engine.maths import exp, log
from engine.reasons import Reason
from engine.records import FEATURE, FEATURE_COUNT, MARKET, Flag, Kind
from engine.stage import STEP_SIGNATURE, Stage

MAX_OUT = 2

_HEAD_SIZE = FEATURES_HEAD.itemsize
_FLOW_SIZE = FLOW.itemsize
_BOOK_SIZE = BOOK.itemsize
_SAMPLE_MASK = SAMPLE_PLACES - 1
_SECOND_NS = 1_000_000_000.0

_LEVEL = int(Kind.LEVEL)
_TRADE = int(Kind.TRADE)
_QUOTE = int(Kind.QUOTE)
_LIQUIDATION = int(Kind.LIQUIDATION)
_OPEN_INTEREST = int(Kind.OPEN_INTEREST)
_MARK_PRICE = int(Kind.MARK_PRICE)
_FUNDING = int(Kind.FUNDING)
_CLOCK = int(Kind.CLOCK)
_GAP = int(Kind.GAP)
_INSTRUMENT = int(Kind.INSTRUMENT)
_BOOK_VALID = int(Kind.BOOK_VALID)
_BOOK_INVALID = int(Kind.BOOK_INVALID)
_STATUS = int(Kind.STATUS)
_VECTOR = int(Kind.VECTOR)

_SNAPSHOT = int(Flag.SNAPSHOT)
_FIRST = int(Flag.FIRST)
_LAST = int(Flag.LAST)
_ALONE = int(Flag.FIRST | Flag.LAST)

_UNKNOWN_STREAM = int(Reason.UNKNOWN_STREAM)
_NO_INSTRUMENT = int(Reason.NO_INSTRUMENT)
_NO_SNAPSHOT = int(Reason.NO_SNAPSHOT)
_BOOK_INCOMPLETE = int(Reason.BOOK_INCOMPLETE)


@kernel()
def _emit_head(outbox: np.ndarray, routes: np.ndarray, written: int, cause: Any) -> Any:
    """Start an output record with the head of its cause and everything else zero; the record."""
    target = outbox[written]
    routes[written] = 0
    target.ingest_id = cause.ingest_id
    target.recv_ts_ns = cause.recv_ts_ns
    target.exch_ts_ns = cause.exch_ts_ns
    target.sequence = cause.sequence
    target.price = cause.price
    target.size = cause.size
    target.aux = cause.aux
    target.kind = cause.kind
    target.venue = cause.venue
    target.side = cause.side
    target.flags = cause.flags
    target.instrument = cause.instrument
    target.reason = cause.reason
    target.bid_price = 0
    target.bid_size = 0
    target.ask_price = 0
    target.ask_size = 0
    target.book_recv_ts_ns = 0
    target.spare0 = 0
    target.spare1 = 0
    target.spare2 = 0
    for place in range(FEATURE_COUNT):
        target.vector[place] = 0.0
    return target


@kernel()
def _emit_own(outbox: np.ndarray, routes: np.ndarray, written: int, cause: Any, kind: int, aux: int) -> Any:
    """Start a record that this stage says itself: a group of its own with no price, size or side."""
    target = _emit_head(outbox, routes, written, cause)
    target.kind = kind
    target.aux = aux
    target.reason = 0
    target.price = 0
    target.size = 0
    target.side = 0
    target.flags = _ALONE
    return target


@kernel()
def _lose_book(flow: Any) -> None:
    """The book is wrong from here; mids before and after must not make a return."""
    flow.valid = 0
    flow.filling = 0
    flow.held_mid = 0.0
    flow.sample_count = 0


@kernel(inline=True)
def _check_book(
    flow: Any, books: np.ndarray, i: int, cause: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """Say so when a book that counts as valid is not; the number of records then written."""
    if flow.valid == 0 or books[i].faults == 0:
        return written
    _lose_book(flow)
    flow.resync_wanted += 1
    target = _emit_own(outbox, routes, written, cause, _BOOK_INVALID, _BOOK_INCOMPLETE)
    target.reason = _BOOK_INCOMPLETE
    return written + 1


@kernel()
def _add_trade(head: Any, flow: Any, side: int, size: int) -> None:
    """Decay the trade flow to now and add one trade."""
    decay = exp(-float(head.now_ns - flow.last_trade_ns) / head.trade_flow_ns)
    flow.signed_volume = flow.signed_volume * decay + float(side * size)
    flow.total_volume = flow.total_volume * decay + float(size)
    flow.last_trade_ns = head.now_ns


@kernel()
def _push_sample(flow: Any, mid: float) -> None:
    flow.samples[flow.sample_count & _SAMPLE_MASK] = mid
    flow.sample_count += 1


@kernel()
def _pass_grid(head: Any, flow: Any) -> None:
    """Sample the held mid at every grid point between the last vector and now."""
    interval = head.now_ns // head.sample_interval_ns
    if flow.held_mid > 0.0 and interval > flow.interval:
        if flow.sample_count > 0:
            step = log(flow.held_mid / flow.samples[(flow.sample_count - 1) & _SAMPLE_MASK])
            flow.variance_sum = head.decay * flow.variance_sum + (1.0 - head.decay) * (step * step)
            flow.variance_weight = head.decay * flow.variance_weight + (1.0 - head.decay)
        _push_sample(flow, flow.held_mid)
        # The mid stood still over the other points: returns of zero, all at once.
        still = interval - flow.interval - 1
        if still > 0:
            decay = exp(-head.decay_rate * float(still))
            flow.variance_sum = decay * flow.variance_sum
            flow.variance_weight = decay * flow.variance_weight + (1.0 - decay)
            for _ in range(min(still, SAMPLE_PLACES)):
                _push_sample(flow, flow.held_mid)
    flow.interval = interval


@kernel()
def _vector(
    head: Any, flow: Any, books: np.ndarray, i: int, cause: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """Emit the vector of a valid book, unless a side is empty or the sides touch; the number then written."""
    bid, bid_size = book_best(books, i, 1)
    ask, ask_size = book_best(books, i, -1)
    if bid_size == 0 or ask_size == 0 or bid >= ask:
        return written
    double_mid = float(bid + ask)
    _pass_grid(head, flow)
    flow.held_mid = double_mid
    flow.vectors += 1

    target = _emit_own(outbox, routes, written, cause, _VECTOR, cause.kind)
    target.bid_price = bid
    target.bid_size = bid_size
    target.ask_price = ask
    target.ask_size = ask_size
    target.book_recv_ts_ns = flow.book_recv_ts_ns
    spread = 20_000.0 * float(ask - bid) / double_mid
    imbalance = float(bid_size - ask_size) / float(bid_size + ask_size)
    bid_depth = book_depth(books, i, 1, DEPTH_LEVELS)
    ask_depth = book_depth(books, i, -1, DEPTH_LEVELS)
    vector = target.vector
    vector[SPREAD_BPS] = spread
    vector[MID] = double_mid / flow.price_scale
    vector[MICROPRICE_BPS] = 0.5 * spread * imbalance
    vector[IMBALANCE_1] = imbalance
    vector[IMBALANCE_5] = float(bid_depth - ask_depth) / float(bid_depth + ask_depth)
    if flow.total_volume > 0.0:
        vector[TRADE_FLOW] = flow.signed_volume / flow.total_volume
    if flow.variance_weight > 0.0:
        per_second = flow.variance_sum / flow.variance_weight / (float(head.sample_interval_ns) / _SECOND_NS)
        vector[VOLATILITY_BPS] = 10_000.0 * np.sqrt(per_second)
    if flow.sample_count > head.return_intervals:
        past = flow.samples[(flow.sample_count - 1 - head.return_intervals) & _SAMPLE_MASK]
        vector[SHORT_RETURN_BPS] = 10_000.0 * (double_mid - past) / past
    return written + 1


@kernel(inline=True)
def _level(
    head: Any, flow: Any, books: np.ndarray, i: int, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """Apply one level; at the end of a group of a valid book, a vector. The number of records then written."""
    if record.flags & _SNAPSHOT != 0 and record.flags & _FIRST != 0:
        _lose_book(flow)
        book_clear(books, i)
        flow.filling = 1
    if flow.filling == 0:
        head.dropped[_NO_SNAPSHOT] += 1
        return written
    head.processed += 1
    flow.book_recv_ts_ns = record.recv_ts_ns
    book_update(books, i, record.side, record.price, record.size)
    if flow.depth > 0 and record.flags & _LAST != 0:
        cut_book(books, i, flow.depth, head.cut_prices, head.cut_sizes)
    if flow.valid == 0:
        return written
    if books[i].faults != 0:
        return _check_book(flow, books, i, record, outbox, routes, written)
    if record.flags & _LAST != 0:
        if book_crossing(books, i) != UNCROSSED:
            head.crossed_books += 1
        else:
            return _vector(head, flow, books, i, record, outbox, routes, written)
    return written


@kernel()
def _control(
    head: Any, flow: Any, books: np.ndarray, i: int, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """Pass one control record on and take what it says; the number of records then written."""
    _emit_head(outbox, routes, written, record)
    written += 1
    kind = record.kind
    if kind == _INSTRUMENT:
        if 0 < record.price <= MAX_TICK:
            # Prices on the old grid are not mixed with new ones.
            if books[i].tick != 0 and record.price != books[i].tick:
                _lose_book(flow)
                book_clear(books, i)
            book_set_tick(books, i, record.price)
    elif kind == _BOOK_VALID:
        flow.valid = flow.filling
    elif kind == _BOOK_INVALID or kind == _GAP:
        _lose_book(flow)
    return _check_book(flow, books, i, record, outbox, routes, written)


@kernel(STEP_SIGNATURE)
def features_step(
    state_bytes: np.ndarray, source: int, inbox_bytes: np.ndarray, count: int, outbox_bytes: np.ndarray,
    routes: np.ndarray,
) -> int:
    """Take `count` MARKET records; write at most MAX_OUT FEATURE records a record; the number written."""
    head = state_bytes[:_HEAD_SIZE].view(FEATURES_HEAD)[0]
    books_at = _HEAD_SIZE + head.instrument_count * _FLOW_SIZE
    flows = state_bytes[_HEAD_SIZE:books_at].view(FLOW)
    books = state_bytes[books_at : books_at + head.instrument_count * _BOOK_SIZE].view(BOOK)
    inbox = inbox_bytes.view(MARKET)
    outbox = outbox_bytes.view(FEATURE)
    written = 0
    for position in range(count):
        record = inbox[position]
        head.records_in += 1
        head.now_ns = max(head.now_ns, record.recv_ts_ns)
        head.last_ingest_id = max(head.last_ingest_id, record.ingest_id)
        kind = record.kind
        i = np.int64(record.instrument)
        served = i < head.instrument_count
        if kind == _CLOCK or kind == _MARK_PRICE or kind == _FUNDING or kind == _STATUS:
            head.processed += 1
            _emit_head(outbox, routes, written, record)
            written += 1
        elif kind == _GAP or kind == _INSTRUMENT or kind == _BOOK_VALID or kind == _BOOK_INVALID:
            head.processed += 1
            if served:
                written = _control(head, flows[i], books, i, record, outbox, routes, written)
            else:
                _emit_head(outbox, routes, written, record)
                written += 1
        elif kind == _QUOTE or kind == _LIQUIDATION or kind == _OPEN_INTEREST:
            head.processed += 1
        elif kind != _LEVEL and kind != _TRADE:
            head.dropped[_UNKNOWN_STREAM] += 1
        elif not served or books[i].tick == 0:
            head.dropped[_NO_INSTRUMENT] += 1
        elif kind == _LEVEL:
            written = _level(head, flows[i], books, i, record, outbox, routes, written)
        else:
            head.processed += 1
            _add_trade(head, flows[i], record.side, record.size)
            if flows[i].valid != 0 and record.flags & _LAST != 0:
                written = _vector(head, flows[i], books, i, record, outbox, routes, written)
    head.out += written
    return written


# The dtype is the largest there is; a state made for fewer instruments is shorter, with the same head.
FEATURES = Stage(
    name="features",
    step=features_step,
    state_dtype=features_dtype(MAX_INSTRUMENTS),
    in_dtypes=(MARKET,),
    out_dtype=FEATURE,
    max_out=MAX_OUT,
)
