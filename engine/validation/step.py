"""The validation stage: MARKET in, MARKET out.

A record that cannot be believed is quarantined: counted by reason, kept in a ring for people to read, not passed
on. Levels go into a checked book (engine/integrity/checked_book.py), the same kernel as the features' book over the
same levels; at the LAST of a group it is judged. A refused level, or a book judged wrong, makes the stage say
BOOK_INVALID at once in the place of that record (which also closes the group for whoever waits for its LAST), ask for
a resync and drop the levels of that book until a snapshot begins. BOOK_VALID follows the LAST record of every snapshot
that is whole and judged right; after a GAP comes BOOK_INVALID, and after an INSTRUMENT of another epoch or tick, where
nothing else has said so.

Rules       NO_INSTRUMENT   data before the INSTRUMENT record, or an instrument beyond those of the session
            TIME_BACKWARDS  received earlier than a record before it (data, mark price and funding: what else is
                            control always passes)
            BAD_SIDE        data without buyer or seller
            DUPLICATE       a trade id among the last TRADE_ID_PLACES accepted ones
            PRICE_RANGE     not in 1..price_max; trades, quotes and liquidations also outside the band round the
                            running median; mark prices outside those round that and the last good one; index prices
                            outside that round the mark price
            RATE_RANGE      a funding rate beyond funding_rate_max
            SIZE_RANGE      negative, above size_max, or 0 for a trade or liquidation
            OFF_TICK        a trade, quote or liquidation off the tick grid; levels may be: venues keep those of an
                            older tick
            UNKNOWN_STREAM  a kind that does not belong here
Verdicts    CROSSED_BOOK, LOCKED_BOOK, BEYOND_SNAPSHOT, CHECKSUM_MISMATCH   at the LAST of a group
            BOOK_INCOMPLETE                                at the level that the book had no room for
            AUDIT_MISMATCH      the venue's ticker disagrees (audit.py), at the LAST of a group or behind a quote
            STALLED_BOOK        the ticker goes on without the book (audit.py), behind a quote
            REST_MISMATCH       snapshots of REST do (rest_audit.py), behind a CLOCK
AUDIT and AUDIT_LEVEL records end here.
Levels have no price band: far levels are real, and harmless. What is switched off in the settings is not refused.

Invariants: records_in = processed + sum(quarantined) + sum(dropped); at most two output records for one input;
BOOK_INVALID carries its reason in `aux` and `reason`; `aux` of a level, which brought the venue's checksum, is 0 when
it leaves; the LAST of a group that is judged wrong never leaves.
Cost: 20-30 ns a record of recorded flow, of which the integrity book is 15-20 a level; 2 us a group with a checksum.
Known limits: a receive time far in the future would have all later data refused; trade ids are compared exactly, but
only with recent ones; of a group judged wrong the levels before its last one are out already, so a group counts from
its LAST on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import book_clear, book_set_tick
from engine.book.layout import BOOK
from engine.instruments import MAX_INSTRUMENTS
from engine.integrity.checked_book import check_record
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.stage import STEP_SIGNATURE, Stage
from engine.validation.audit import BY_NUMBER, audit_group, audit_progress, audit_quote, forget_tickers
from engine.validation.rest_audit import close_window, judge_window, note_change, open_window, take_told
from engine.validation.rules import judge_audit_level, judge_control, judge_data, judge_open_interest
from engine.validation.state import (
    FILLING,
    NO_SNAPSHOT,
    QUARANTINE_PLACES,
    VALIDATION_HEAD,
    WHOLE,
    validation_dtype,
)

MAX_OUT = 2

_HEAD_SIZE = VALIDATION_HEAD.itemsize
_BOOK_SIZE = BOOK.itemsize
_PLACE_MASK = QUARANTINE_PLACES - 1

_LEVEL = int(Kind.LEVEL)
_TRADE = int(Kind.TRADE)
_QUOTE = int(Kind.QUOTE)
_LIQUIDATION = int(Kind.LIQUIDATION)
_OPEN_INTEREST = int(Kind.OPEN_INTEREST)
_AUDIT, _AUDIT_LEVEL = int(Kind.AUDIT), int(Kind.AUDIT_LEVEL)
_CLOCK = int(Kind.CLOCK)
_GAP = int(Kind.GAP)
_INSTRUMENT = int(Kind.INSTRUMENT)
_BOOK_VALID = int(Kind.BOOK_VALID)
_BOOK_INVALID = int(Kind.BOOK_INVALID)

_SNAPSHOT = int(Flag.SNAPSHOT)
_FIRST = int(Flag.FIRST)
_LAST = int(Flag.LAST)
_ALONE = int(Flag.FIRST | Flag.LAST)

_OK = int(Reason.NONE)
_SEQUENCE_GAP = int(Reason.SEQUENCE_GAP)
_NEW_EPOCH = int(Reason.NEW_EPOCH)
_NO_INSTRUMENT = int(Reason.NO_INSTRUMENT)
_NO_SNAPSHOT_REASON = int(Reason.NO_SNAPSHOT)
_BOOK_INCOMPLETE = int(Reason.BOOK_INCOMPLETE)
_NS_PER_MS = 1_000_000


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
        item.lost += 1
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


@kernel()
def _lose_book(state: Any, item: Any, i: int, reason: int) -> None:
    """The book stands on nothing from here."""
    item.phase = NO_SNAPSHOT
    state.checks.valid[i] = 0
    state.checks.verdict[i] = reason
    forget_tickers(state.audits[i])
    state.rest_audits[i].in_a_row = 0
    close_window(state.window, state.rest_audits[i], i)
    _announce(state, item, 0)


@kernel(inline=True)
def _level(
    state: Any, item: Any, books: np.ndarray, i: int, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """One level of a known instrument; the number of records then written."""
    snapshot = record.flags & _SNAPSHOT
    begins = snapshot != 0 and record.flags & _FIRST != 0
    if begins:
        item.phase = FILLING
        close_window(state.window, state.rest_audits[i], i)
    elif item.phase == NO_SNAPSHOT or (item.phase == FILLING) != (snapshot != 0):
        state.dropped[_NO_SNAPSHOT_REASON] += 1
        if item.phase != NO_SNAPSHOT:  # a snapshot lost its head or its end
            announced = item.announced
            _lose_book(state, item, i, _NO_SNAPSHOT_REASON)
            item.resync_wanted += 1
            if announced != 0:
                written = _emit_verdict(outbox, routes, written, record, _NO_SNAPSHOT_REASON)
        return written
    reason = judge_data(state, item, record)
    if reason == _OK:
        if state.window.open != 0 and state.window.instrument == i:
            note_change(state.window, state.rest_audits[i], books, state.checks.cut_at[i], i, record)
        reason = check_record(state.checks, books, record)
        if books[i].faults != 0:
            reason = _BOOK_INCOMPLETE
        if reason == _OK and snapshot == 0 and record.flags & _LAST != 0:
            reason = audit_group(state.audits[i], books, i, record.sequence, state.audit_disagreements)
    if reason != _OK:
        _quarantine(state, record, reason)
        _lose_book(state, item, i, reason)
        item.resync_wanted += 1
        return _emit_verdict(outbox, routes, written, record, reason)
    state.processed += 1
    state.rest_audits[i].book_id = record.sequence
    written = _emit(outbox, routes, written, record)
    outbox[written - 1].aux = 0
    if item.phase == FILLING and record.flags & _LAST != 0:
        item.phase = WHOLE
        _announce(state, item, 1)
        written = _emit_verdict(outbox, routes, written, record, _OK)
        outbox[written - 1].aux = 1 - state.audits[i].proven
    return written


@kernel()
def _audit(
    state: Any, item: Any, books: np.ndarray, i: int, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """Hold a book against the venue's ticker; the number of records then written."""
    is_whole = item.phase == WHOLE
    audit = state.audits[i]
    reason = audit_quote(audit, books, i, record, is_whole, state.audit_disagreements, state.audit_band)
    if reason == _OK and is_whole and audit.rule == BY_NUMBER and record.flags & _LAST != 0:
        bound_ns = state.stalled_book_ms * _NS_PER_MS
        reason = audit_progress(audit, books, i, state.rest_audits[i].book_id, state.now_ns, bound_ns)
    if reason == _OK or not is_whole:
        return written
    _lose_book(state, item, i, reason)
    item.resync_wanted += 1
    return _emit_verdict(outbox, routes, written, record, reason)


@kernel()
def _take_audit(state: Any, item: Any, books: np.ndarray, i: int, record: Any) -> None:
    """A record of an audit by REST; one of an instrument that has no book is of no use."""
    reason = _OK
    if i >= state.instrument_count or item.known == 0:
        reason = _NO_INSTRUMENT
    elif record.kind == _AUDIT_LEVEL:
        reason = judge_audit_level(state, record)
    if reason != _OK:
        _quarantine(state, record, reason)
        return
    state.processed += 1
    counts, cut_at = state.rest_audits[i], state.checks.cut_at[i]
    levels, depth = state.rest_audit_levels, state.checks.depth[i]
    if depth > 0:
        levels = min(levels, depth)
    if record.kind == _AUDIT:
        open_window(state.window, counts, books, cut_at, record, levels, item.phase == WHOLE)
    else:
        close_ns = state.now_ns + state.rest_audit_window_ms * _NS_PER_MS
        take_told(state.window, counts, record, levels, close_ns)


@kernel()
def _judge_audit(
    state: Any, books: np.ndarray, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """The window of an audit is over, as a CLOCK says; the number of records then written."""
    i = state.window.instrument
    item = state.instruments[i]
    reason = judge_window(
        state.window, state.rest_audits[i], books, state.checks.cut_at[i], state.rest_audit_disagreements
    )
    if reason == _OK:
        return written
    _lose_book(state, item, i, reason)
    item.resync_wanted += 1
    written = _emit_verdict(outbox, routes, written, record, reason)
    outbox[written - 1].instrument = i
    outbox[written - 1].venue = state.window.venue
    return written


@kernel()
def _control(
    state: Any, item: Any, books: np.ndarray, i: int, record: Any, outbox: np.ndarray, routes: np.ndarray, written: int
) -> int:
    """One control record; the number of records then written."""
    reason = judge_control(state, item, record)
    if reason != _OK:
        _quarantine(state, record, reason)
        return written
    state.processed += 1
    written = _emit(outbox, routes, written, record)
    if record.kind == _INSTRUMENT:
        if i < state.instrument_count:
            if item.known != 0 and (record.sequence != item.epoch or record.price != item.tick):
                announced = item.announced
                if item.phase != NO_SNAPSHOT:  # nobody else has said that this book begins anew
                    item.resync_wanted += 1
                _lose_book(state, item, i, _NEW_EPOCH)
                book_clear(books, i)
                if announced != 0:
                    written = _emit_verdict(outbox, routes, written, record, _NEW_EPOCH)
            item.known = 1
            item.tick = record.price
            item.lot = record.size
            item.epoch = record.sequence
            book_set_tick(books, i, record.price)
    elif record.kind == _GAP:
        announced = item.announced
        reason = np.int64(record.reason) if record.reason != 0 else _SEQUENCE_GAP
        _lose_book(state, item, i, reason)
        if announced != 0:
            written = _emit_verdict(outbox, routes, written, record, reason)
    return written


@kernel(STEP_SIGNATURE)
def validate_step(
    state_bytes: np.ndarray, source: int, inbox_bytes: np.ndarray, count: int, outbox_bytes: np.ndarray,
    routes: np.ndarray,
) -> int:
    """Take `count` MARKET records; write at most MAX_OUT of them a record; the number written."""
    state = state_bytes[:_HEAD_SIZE].view(VALIDATION_HEAD)[0]
    books = state_bytes[_HEAD_SIZE : _HEAD_SIZE + state.instrument_count * _BOOK_SIZE].view(BOOK)
    inbox = inbox_bytes.view(MARKET)
    outbox = outbox_bytes.view(MARKET)
    written = 0
    for position in range(count):
        record = inbox[position]
        state.records_in += 1
        state.now_ns = max(state.now_ns, record.recv_ts_ns)
        state.last_ingest_id = max(state.last_ingest_id, record.ingest_id)
        kind = record.kind
        data = kind == _LEVEL or kind == _TRADE or kind == _QUOTE or kind == _LIQUIDATION or kind == _OPEN_INTEREST
        i = np.int64(record.instrument)
        if i >= MAX_INSTRUMENTS:
            _quarantine(state, record, _NO_INSTRUMENT)
            continue
        item = state.instruments[i]
        if item.first_ns == 0 and kind != _CLOCK:
            item.first_ns = state.now_ns
        if kind == _AUDIT or kind == _AUDIT_LEVEL:
            _take_audit(state, item, books, i, record)
        elif data and item.known == 0:
            _quarantine(state, record, _NO_INSTRUMENT)
        elif kind == _LEVEL:
            written = _level(state, item, books, i, record, outbox, routes, written)
        elif data:
            if kind == _OPEN_INTEREST:
                reason = judge_open_interest(state, record)
            else:
                reason = judge_data(state, item, record)
            if reason != _OK:
                _quarantine(state, record, reason)
            else:
                state.processed += 1
                written = _emit(outbox, routes, written, record)
            if kind == _QUOTE and i < state.instrument_count:
                written = _audit(state, item, books, i, record, outbox, routes, written)
        else:
            written = _control(state, item, books, i, record, outbox, routes, written)
            window = state.window
            if kind == _CLOCK and window.open != 0 and window.answered != 0 and state.now_ns >= window.close_ns:
                written = _judge_audit(state, books, record, outbox, routes, written)
    state.out += written
    return written


# The dtype is the largest there is; a state made for fewer instruments is shorter, with the same head.
VALIDATION = Stage(
    name="validation",
    step=validate_step,
    state_dtype=validation_dtype(MAX_INSTRUMENTS),
    in_dtypes=(MARKET,),
    out_dtype=MARKET,
    max_out=MAX_OUT,
)
