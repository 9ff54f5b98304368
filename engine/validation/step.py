"""The validation stage: MARKET in, MARKET out.

A record that cannot be believed is quarantined: counted by reason, kept in a ring for people to read, not passed
on. A refused level leaves a hole in its book, so the stage says BOOK_INVALID at once (which also closes the
group for whoever waits for its LAST), asks for a resync and drops the levels of that book until a snapshot
begins. BOOK_VALID follows the LAST record of every whole snapshot; after a GAP comes BOOK_INVALID.

Rules       NO_INSTRUMENT   data before the INSTRUMENT record, or an instrument beyond the table
            TIME_BACKWARDS  received earlier than a record before it (data only: control records always pass)
            BAD_SIDE        data without buyer or seller
            DUPLICATE       a trade id among the last TRADE_ID_PLACES accepted ones
            PRICE_RANGE     not in 1..price_max; trades and quotes also outside the band round the last good price
            SIZE_RANGE      negative, above size_max, or 0 for a trade or liquidation
            OFF_TICK        a trade or quote off the tick grid; levels may be: venues keep those of an older tick
            UNKNOWN_STREAM  a kind that does not belong here
Levels have no price band: far levels are real, and harmless.

Invariants: records_in = processed + sum(quarantined) + sum(dropped); at most two output records for one input;
BOOK_INVALID carries its reason in `aux` and `reason`.
Cost: 20-30 ns a record. Known limits: a receive time far in the future would have all later data refused; trade
ids are compared exactly, but only with recent ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import MAX_TICK
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.stage import STEP_SIGNATURE, Stage
from engine.validation.state import (
    FILLING,
    NO_SNAPSHOT,
    QUARANTINE_PLACES,
    TRADE_ID_PLACES,
    VALIDATION_STATE,
    WHOLE,
)

MAX_OUT = 2

_STATE_SIZE = VALIDATION_STATE.itemsize
_PLACE_MASK = QUARANTINE_PLACES - 1
_TRADE_ID_MASK = TRADE_ID_PLACES - 1

_LEVEL = int(Kind.LEVEL)
_TRADE = int(Kind.TRADE)
_QUOTE = int(Kind.QUOTE)
_LIQUIDATION = int(Kind.LIQUIDATION)
_MARK_PRICE = int(Kind.MARK_PRICE)
_FUNDING = int(Kind.FUNDING)
_CLOCK = int(Kind.CLOCK)
_GAP = int(Kind.GAP)
_INSTRUMENT = int(Kind.INSTRUMENT)
_STATUS = int(Kind.STATUS)
_BOOK_VALID = int(Kind.BOOK_VALID)
_BOOK_INVALID = int(Kind.BOOK_INVALID)

_SNAPSHOT = int(Flag.SNAPSHOT)
_FIRST = int(Flag.FIRST)
_LAST = int(Flag.LAST)
_ALONE = int(Flag.FIRST | Flag.LAST)

_OK = int(Reason.NONE)
_UNKNOWN_STREAM = int(Reason.UNKNOWN_STREAM)
_SEQUENCE_GAP = int(Reason.SEQUENCE_GAP)
_DUPLICATE = int(Reason.DUPLICATE)
_PRICE_RANGE = int(Reason.PRICE_RANGE)
_SIZE_RANGE = int(Reason.SIZE_RANGE)
_OFF_TICK = int(Reason.OFF_TICK)
_TIME_BACKWARDS = int(Reason.TIME_BACKWARDS)
_NO_INSTRUMENT = int(Reason.NO_INSTRUMENT)
_BAD_SIDE = int(Reason.BAD_SIDE)
_NO_SNAPSHOT_REASON = int(Reason.NO_SNAPSHOT)


@kernel()
def _within_band(a: int, b: int, fraction: float) -> bool:
    """Whether price a lies within a fraction of price b of it."""
    return abs(float(a) - float(b)) <= fraction * float(b)


@kernel()
def _outside_band(state: Any, item: Any, price: int) -> bool:
    """Whether a trade or quote price is implausible; keeps the reference and the candidate for a new one."""
    reference = item.reference_price
    if reference == 0 or _within_band(price, reference, state.band_fraction):
        item.reference_price = price
        item.candidate_count = 0
        return False
    if item.candidate_count > 0 and _within_band(price, item.candidate_price, state.band_fraction):
        item.candidate_count += 1
    else:
        item.candidate_count = 1
    item.candidate_price = price
    if item.candidate_count <= state.band_confirmations:
        return True
    item.reference_price = price
    item.candidate_count = 0
    return False


@kernel(inline=True)
def _judge_data(state: Any, item: Any, record: Any) -> int:
    """The reason to refuse a level, trade, quote or liquidation of a known instrument, or NONE."""
    kind = record.kind
    if record.recv_ts_ns < state.now_ns:  # now is the largest receive time up to and including this record
        return _TIME_BACKWARDS
    if record.side != 1 and record.side != -1:
        return _BAD_SIDE
    place = record.aux & _TRADE_ID_MASK
    if kind == _TRADE and record.aux != 0 and item.trade_ids[place] == record.aux:
        return _DUPLICATE
    if record.price <= 0 or record.price > state.price_max:
        return _PRICE_RANGE
    if record.size < 0 or record.size > state.size_max:
        return _SIZE_RANGE
    if kind == _LEVEL:
        return _OK
    if record.size == 0 and kind != _QUOTE:
        return _SIZE_RANGE
    if kind == _LIQUIDATION:
        return _OK
    if record.price % item.tick != 0:
        return _OFF_TICK
    if _outside_band(state, item, record.price):
        return _PRICE_RANGE
    if kind == _TRADE and record.aux != 0:
        item.trade_ids[place] = record.aux
    return _OK


@kernel()
def _judge_control(record: Any) -> int:
    """The reason to refuse a control record, or NONE."""
    kind = record.kind
    if kind == _INSTRUMENT:
        if record.price <= 0 or record.price > MAX_TICK:
            return _PRICE_RANGE
        return _SIZE_RANGE if record.size <= 0 else _OK
    if kind == _MARK_PRICE:
        return _PRICE_RANGE if record.price <= 0 else _OK
    if kind == _CLOCK or kind == _GAP or kind == _FUNDING or kind == _STATUS:
        return _OK
    return _UNKNOWN_STREAM


@kernel()
def _quarantine(state: Any, record: Any, reason: int) -> None:
    """Count a refused record and keep it with its reason."""
    state.quarantined[reason] += 1
    place = state.quarantine_total & _PLACE_MASK
    state.quarantine[place] = record
    state.quarantine[place].reason = reason
    state.quarantine_total += 1


@kernel()
def _announce(state: Any, item: Any, valid: int) -> None:
    """Keep the time that a book is valid, as downstream knows it."""
    if valid != 0 and item.announced == 0:
        item.valid_since_ns = state.now_ns
    elif valid == 0 and item.announced != 0:
        item.valid_ns += state.now_ns - item.valid_since_ns
    item.announced = valid


@kernel(inline=True)
def _emit(outbox: np.ndarray, routes: np.ndarray, written: int, record: Any) -> int:
    """Append a record; the number then written."""
    outbox[written] = record
    routes[written] = 0
    return written + 1


@kernel()
def _emit_verdict(outbox: np.ndarray, routes: np.ndarray, written: int, cause: Any, reason: int) -> int:
    """Append BOOK_VALID (reason NONE) or BOOK_INVALID about the book of the causing record."""
    outbox[written] = cause
    verdict = outbox[written]
    verdict.kind = _BOOK_VALID if reason == _OK else _BOOK_INVALID
    verdict.price = 0
    verdict.size = 0
    verdict.side = 0
    verdict.flags = _ALONE
    verdict.aux = reason
    verdict.reason = reason
    routes[written] = 0
    return written + 1


@kernel(inline=True)
def _level(state: Any, item: Any, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int) -> int:
    """One level of a known instrument; the number of records then written."""
    snapshot = record.flags & _SNAPSHOT
    begins = snapshot != 0 and record.flags & _FIRST != 0
    if begins:
        item.phase = FILLING
    elif item.phase == NO_SNAPSHOT or (item.phase == FILLING) != (snapshot != 0):
        state.dropped[_NO_SNAPSHOT_REASON] += 1
        if item.phase != NO_SNAPSHOT:  # a snapshot lost its head or its end
            item.phase = NO_SNAPSHOT
            item.resync_wanted += 1
            if item.announced != 0:
                _announce(state, item, 0)
                written = _emit_verdict(outbox, routes, written, record, _NO_SNAPSHOT_REASON)
        return written
    reason = _judge_data(state, item, record)
    if reason != _OK:
        _quarantine(state, record, reason)
        item.phase = NO_SNAPSHOT
        item.resync_wanted += 1
        _announce(state, item, 0)
        return _emit_verdict(outbox, routes, written, record, reason)
    state.processed += 1
    written = _emit(outbox, routes, written, record)
    if item.phase == FILLING and record.flags & _LAST != 0:
        item.phase = WHOLE
        _announce(state, item, 1)
        written = _emit_verdict(outbox, routes, written, record, _OK)
    return written


@kernel()
def _control(state: Any, item: Any, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int) -> int:
    """One control record; the number of records then written."""
    reason = _judge_control(record)
    if reason != _OK:
        _quarantine(state, record, reason)
        return written
    state.processed += 1
    written = _emit(outbox, routes, written, record)
    if record.kind == _INSTRUMENT:
        item.known = 1
        item.tick = record.price
        item.lot = record.size
        item.epoch = record.sequence
    elif record.kind == _GAP:
        item.phase = NO_SNAPSHOT
        if item.announced != 0:
            _announce(state, item, 0)
            written = _emit_verdict(outbox, routes, written, record, _SEQUENCE_GAP)
    return written


@kernel(STEP_SIGNATURE)
def validate_step(
    state_bytes: np.ndarray, source: int, inbox_bytes: np.ndarray, count: int, outbox_bytes: np.ndarray,
    routes: np.ndarray,
) -> int:
    """Take `count` MARKET records; write at most MAX_OUT of them a record; the number written."""
    state = state_bytes[:_STATE_SIZE].view(VALIDATION_STATE)[0]
    inbox = inbox_bytes.view(MARKET)
    outbox = outbox_bytes.view(MARKET)
    written = 0
    for position in range(count):
        record = inbox[position]
        state.records_in += 1
        state.now_ns = max(state.now_ns, record.recv_ts_ns)
        state.last_ingest_id = max(state.last_ingest_id, record.ingest_id)
        kind = record.kind
        data = kind == _LEVEL or kind == _TRADE or kind == _QUOTE or kind == _LIQUIDATION
        if record.instrument >= MAX_INSTRUMENTS:
            _quarantine(state, record, _NO_INSTRUMENT)
            continue
        item = state.instruments[record.instrument]
        if item.first_ns == 0 and kind != _CLOCK:
            item.first_ns = state.now_ns
        if data and item.known == 0:
            _quarantine(state, record, _NO_INSTRUMENT)
        elif kind == _LEVEL:
            written = _level(state, item, record, outbox, routes, written)
        elif data:
            reason = _judge_data(state, item, record)
            if reason != _OK:
                _quarantine(state, record, reason)
            else:
                state.processed += 1
                written = _emit(outbox, routes, written, record)
        else:
            written = _control(state, item, record, outbox, routes, written)
    state.out += written
    return written


VALIDATION = Stage(
    name="validation",
    step=validate_step,
    state_dtype=VALIDATION_STATE,
    in_dtypes=(MARKET,),
    out_dtype=MARKET,
    max_out=MAX_OUT,
)
