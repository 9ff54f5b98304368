"""The entry points of Kraken's ingestion, spot and futures: frames in, MARKET records out, pure.

Layout: every entry point takes the state (KRAKEN_STATE as bytes) and an outbox of KRAKEN_OUTBOX_RECORDS MARKET records
as bytes, writes n records to the front of it and returns n >= 0. Time, cause, refusal and groups are as in kernel.py.

What happens to each group of a frame:

    a snapshot of a book        kept; the book is in sequence, its printed decimals are learnt
    an update of a book         NO_SNAPSHOT while it stands on none; else kept, on futures if its seq allows:
        seq <= the snapshot's   STALE_DIFF, or DUPLICATE once an update was applied
        seq = the last + 1      kept
        seq beyond that         one GAP record; the book wants a snapshot
    trades with an id           DUPLICATE where it is not above the last one of the instrument (is_new_trade)
    past trades                 no records; the last trade id is learnt
    a status                    DUPLICATE where what holds was told; else kept, with what holds (listing.py)
    a small liquidation         BELOW_THRESHOLD, its trade is kept
    anything else               kept

A book that wants a snapshot gets one by subscribing anew. A frame counts as processed when a group of it was kept or
it had none, else as dropped for the last reason met. Spot has no sequence: what was lost there shows in the checksum,
which is verified where the book is (engine/integrity).

Cost: 0.6 us for a heartbeat, 1.0 us for an update of one level, called from Python. Known limits: one dialect.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.ingest.audit import begin_audit, write_answer
from engine.ingest.entry import (
    ALL_INSTRUMENTS,
    UNKNOWN_SYMBOL,
    advance,
    arrive,
    declare_gap,
    ids_stand_still,
    is_listed,
    is_new_trade,
    lose,
    open_outbox,
    pass_time,
    refuse,
    remember,
)
from engine.ingest.json_scan import text_of
from engine.ingest.kraken_depth import decode_depth_body
from engine.ingest.kraken_futures import decode_futures
from engine.ingest.kraken_spot_v1 import decode_spot_v1
from engine.ingest.kraken_spot_v2 import decode_spot_v2
from engine.ingest.kraken_state import (
    KRAKEN_OUTBOX_RECORDS,
    KRAKEN_STATE,
    Decoded,
    FrameKind,
    make_kraken_state,
)
from engine.ingest.listing import announce, is_small, status_of, take_listing
from engine.ingest.rows import FIRST, LAST, MarketRow
from engine.ingest.state import StateRow
from engine.instruments import Dialect
from engine.integrity.wire_checksum import unpack_checksum
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.stage import BYTES

__all__ = [
    "ALL_INSTRUMENTS",
    "KRAKEN_OUTBOX_RECORDS",
    "KRAKEN_STATE",
    "kraken_audit",
    "kraken_audit_begins",
    "kraken_frame",
    "kraken_listed",
    "kraken_lost",
    "kraken_start",
    "kraken_timer",
    "make_kraken_outbox",
    "make_kraken_state",
]

FRAME = types.Bytes(types.uint8, 1, "C")
SPOT_V1, SPOT_V2 = int(Dialect.KRAKEN_SPOT_V1), int(Dialect.KRAKEN_SPOT_V2)
FUTURES = int(Dialect.KRAKEN_FUTURES)
PAST_TRADES = int(FrameKind.PAST_TRADES)
LEVEL_KIND, TRADE_KIND = int(Kind.LEVEL), int(Kind.TRADE)
STATUS_KIND, LIQUIDATION_KIND = int(Kind.STATUS), int(Kind.LIQUIDATION)
SNAPSHOT_FLAG = int(Flag.SNAPSHOT)
KEEP, UNKNOWN_STREAM = int(Reason.NONE), int(Reason.UNKNOWN_STREAM)
NO_SNAPSHOT, STALE_DIFF = int(Reason.NO_SNAPSHOT), int(Reason.STALE_DIFF)
DUPLICATE, SEQUENCE_GAP = int(Reason.DUPLICATE), int(Reason.SEQUENCE_GAP)
BELOW_THRESHOLD = int(Reason.BELOW_THRESHOLD)


def make_kraken_outbox() -> np.ndarray:
    """An outbox (MARKET, KRAKEN_OUTBOX_RECORDS records) that any entry point can fill; pass it `as_bytes`."""
    return np.zeros(KRAKEN_OUTBOX_RECORDS, MARKET)


@kernel()
def sequence_verdict(bridged: int, book_sequence: int, sequence: int) -> int:
    """What to do with an update of a futures book: KEEP, STALE_DIFF, DUPLICATE or SEQUENCE_GAP.

    bridged: 1 when an update was applied since the snapshot; book_sequence: seq of the snapshot or the last update.
    """
    if sequence <= book_sequence:
        return DUPLICATE if bridged != 0 else STALE_DIFF
    return KEEP if sequence == book_sequence + 1 else SEQUENCE_GAP


@kernel()
def _decode(state: StateRow, frame: bytes, rows: np.ndarray, base: int) -> Decoded:
    dialect = state.dialect
    if dialect == SPOT_V1:
        return decode_spot_v1(state, text_of(frame), rows, base)
    if dialect == SPOT_V2:
        return decode_spot_v2(state, text_of(frame), rows, base)
    if dialect == FUTURES:
        return decode_futures(state, text_of(frame), rows, base)
    return Decoded(-UNKNOWN_STREAM, 0)


@kernel()
def _count_decoded(state: StateRow, decoded: Decoded, rows: np.ndarray, base: int) -> None:
    """Count what a frame held, whatever becomes of it."""
    state.frames_of[decoded.code] += 1
    for at in range(base, base + decoded.records):
        if decoded.code == PAST_TRADES:
            state.past_trades += 1 if rows[at].kind == TRADE_KIND else 0
        else:
            state.decoded[rows[at].kind] += 1
            if rows[at].kind == LEVEL_KIND and rows[at].flags & SNAPSHOT_FLAG != 0:
                state.snapshot_levels += 1


@kernel()
def _judge_levels(state: StateRow, rows: np.ndarray, first: int, last: int) -> int:
    """Whether the group of levels rows[first:last + 1] is kept; the sequence state follows."""
    instrument = np.int64(rows[first].instrument)
    sequence = rows[first].sequence
    if rows[first].flags & SNAPSHOT_FLAG != 0:
        if state.snapshots_applied[instrument] > 0:
            state.resyncs += 1
        state.snapshots_applied[instrument] += 1
        state.snapshot_wanted[instrument] = 0
        state.bridged[instrument] = 0
        state.last_sequence[instrument] = sequence
        state.book_ts_ns[instrument] = rows[first].exch_ts_ns
        told = unpack_checksum(rows[last].aux)
        if told.known:
            state.price_decimals[instrument] = told.price_decimals
            state.size_decimals[instrument] = told.size_decimals
        return KEEP
    if state.snapshot_wanted[instrument] != 0:
        return NO_SNAPSHOT
    if state.dialect == FUTURES:
        judged = sequence_verdict(state.bridged[instrument], state.last_sequence[instrument], sequence)
        if judged == SEQUENCE_GAP:
            return judged
        if judged != KEEP:
            stands = ids_stand_still(state.book_ts_ns[instrument], rows[first].exch_ts_ns)
            return SEQUENCE_GAP if stands else judged
        state.bridged[instrument] = 1
        state.last_sequence[instrument] = sequence
        state.book_ts_ns[instrument] = rows[first].exch_ts_ns
    return KEEP


@kernel()
def _judge_trade(state: StateRow, row: MarketRow) -> int:
    """Whether a trade is kept; an id of 0 says that there is none."""
    instrument = np.int64(row.instrument)
    trade_id = row.aux
    if trade_id > 0 and not is_new_trade(state, instrument, trade_id, trade_id, row.exch_ts_ns):
        return DUPLICATE
    return KEEP


@kernel()
def _judge_status(state: StateRow, row: MarketRow) -> int:
    """Whether a status is kept; the record gets what holds, which the listing may know better."""
    instrument = np.int64(row.instrument)
    state.live_status[instrument] = row.aux
    row.aux = status_of(state, instrument)
    if row.aux == state.told_status[instrument]:
        return DUPLICATE
    state.told_status[instrument] = row.aux
    return KEEP


@kernel()
def _settle(
    state: StateRow, rows: np.ndarray, base: int, count: int, recv_ts_ns: int, ingest_id: int
) -> tuple[int, int]:
    """Judge the groups rows[base:base + count] and close up what is kept: (place after it, last reason or KEEP)."""
    end, put, reason, kept_any = base + count, base, KEEP, False
    first = base
    while first < end:
        last = first
        while rows[last].flags & LAST == 0:
            last += 1
        kind = np.int64(rows[first].kind)
        judged = KEEP
        start = put
        if kind == LEVEL_KIND:
            judged = _judge_levels(state, rows, first, last)
        for at in range(first, last + 1):
            # a liquidation stands behind its trade and shares its fate
            if rows[at].kind == TRADE_KIND:
                judged = _judge_trade(state, rows[at])
            fate = judged
            if rows[at].kind == STATUS_KIND:
                fate = _judge_status(state, rows[at])
            elif rows[at].kind == LIQUIDATION_KIND and judged == KEEP:
                small = is_small(state, np.int64(rows[at].instrument), rows[at].price, rows[at].size)
                fate = BELOW_THRESHOLD if small else KEEP
            if fate != KEEP:
                reason = fate
                state.records_dropped[fate] += 1
                continue
            if put != at:
                rows[put] = rows[at]
            rows[put].recv_ts_ns = recv_ts_ns
            rows[put].ingest_id = ingest_id
            rows[put].venue = state.venue[np.int64(rows[put].instrument)]
            put += 1
        if put > start:
            kept_any = True
            rows[start].flags |= FIRST
            rows[put - 1].flags |= LAST
        if judged == SEQUENCE_GAP:
            instrument = np.int64(rows[first].instrument)
            put = declare_gap(state, rows, put, instrument, 0, SEQUENCE_GAP, recv_ts_ns, ingest_id)
        first = last + 1
    return put, KEEP if kept_any or count == 0 else reason


@kernel()
def _learn_past_trades(state: StateRow, rows: np.ndarray, base: int, count: int) -> None:
    """The live trades go on above the ids of the past ones."""
    for at in range(base, base + count):
        instrument = np.int64(rows[at].instrument)
        is_new_trade(state, instrument, rows[at].aux, rows[at].aux, rows[at].exch_ts_ns)


@kernel(types.int64(BYTES, types.int64, BYTES))
def kraken_start(state: np.ndarray, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """Announce every instrument: INSTRUMENT by index, STATUS where one is not trading. Starts the clock."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    return announce(row, rows, recv_ts_ns)


@kernel(types.int64(BYTES, FRAME, types.int64, types.int64, BYTES))
def kraken_frame(state: np.ndarray, frame: bytes, recv_ts_ns: int, ingest_id: int, outbox: np.ndarray) -> int:
    """Take one frame of the dialect. The number of records, or -Reason when it is refused."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    base = arrive(row, rows, recv_ts_ns, ingest_id)
    decoded = _decode(row, frame, rows, base)
    if decoded.code < 0:
        return refuse(row, decoded.code)
    remember(row)
    _count_decoded(row, decoded, rows, base)
    cause = advance(row, recv_ts_ns, ingest_id)
    if decoded.code == PAST_TRADES:
        _learn_past_trades(row, rows, base, decoded.records)
        end, reason = base, KEEP
    else:
        end, reason = _settle(row, rows, base, decoded.records, recv_ts_ns, cause)
    if reason == KEEP:
        row.processed += 1
    else:
        row.dropped[reason] += 1
    row.out += end
    return end


@kernel(types.int64(BYTES, types.int64, types.int64, BYTES))
def kraken_audit_begins(state: np.ndarray, instrument: int, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """REST is about to be asked for a snapshot to audit a book by (begin_audit in audit.py)."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    return begin_audit(row, rows, instrument, recv_ts_ns)


@kernel(types.int64(BYTES, types.int64, FRAME, types.int64, types.int64, BYTES))
def kraken_audit(
    state: np.ndarray, instrument: int, body: bytes, recv_ts_ns: int, ingest_id: int, outbox: np.ndarray
) -> int:
    """Take one REST depth body of spot that a book is audited by: one group of AUDIT_LEVEL records.

    Returns the number of records, or -Reason when the body is refused, as any is of futures.
    """
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    base = arrive(row, rows, recv_ts_ns, ingest_id)
    if row.dialect == FUTURES:
        return refuse(row, -UNKNOWN_STREAM)
    if not is_listed(row, instrument):
        return refuse(row, -UNKNOWN_SYMBOL)
    levels = decode_depth_body(row, text_of(body), instrument, rows, base)
    if levels.position < 0:
        return refuse(row, levels.position)
    tolerance = 1
    for _ in range(row.size_exp[instrument] - levels.size_decimals):
        tolerance *= 10
    count, time_ns = levels.written, levels.time_ns
    return write_answer(row, rows, base, count, instrument, time_ns, 0, tolerance, recv_ts_ns, ingest_id)


@kernel(types.int64(BYTES, types.int64, BYTES))
def kraken_timer(state: np.ndarray, now_ns: int, outbox: np.ndarray) -> int:
    """Tell that time has come to now_ns without a frame. Returns 1 when that makes a CLOCK record, else 0."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    return pass_time(row, rows, now_ns)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, BYTES))
def kraken_lost(state: np.ndarray, instrument: int, first_lost: int, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """Tell that data were lost (`lose` in entry.py)."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    return lose(row, rows, instrument, first_lost, recv_ts_ns)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, BYTES))
def kraken_listed(
    state: np.ndarray, instrument: int, tick_size: int, lot_size: int, min_notional: int, status: int,
    recv_ts_ns: int, outbox: np.ndarray,
) -> int:  # fmt: skip
    """Take what the venue lists of an instrument now (take_listing in listing.py)."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, KRAKEN_OUTBOX_RECORDS)
    return take_listing(row, rows, instrument, tick_size, lot_size, min_notional, status, recv_ts_ns)
