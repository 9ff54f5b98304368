"""The entry points of ingestion: frames in, MARKET records out, pure.

Layout: every entry point takes the state (INGEST_STATE as bytes) and an outbox of INGEST_OUTBOX_RECORDS MARKET
records as bytes, writes n records to the front of the outbox and returns n >= 0. What lies behind is scratch.

Rules that hold for all:
- Time. Before its own records a call writes one CLOCK record when its receive time lies in a later 10 ms cell
  than the largest receive time seen; the CLOCK's time is the start of that cell. The first time ever seen starts
  the clock and gives none; a time that goes back gives none.
- Cause. Records carry the ingest id of the call, which never falls below the last one seen. So do waiting diffs
  that a snapshot releases: they carry its id and its receive time, and their own venue time.
- Refusal. A negative answer is -Reason: the frame is counted quarantined, no record is made, and nothing but
  counters has changed. Time has not moved either; a CLOCK that was due comes with the next call.
- Groups. The records of one frame and instrument are a group: FIRST on the first, LAST on the last. A diff
  without any level moves the sequence and makes no record.
- A liquidation worth less than `liquidation_min` is dropped (BELOW_THRESHOLD).
- A trade whose (first) id is not above the last one of its instrument is dropped (DUPLICATE), unless the venue's time
  says otherwise (is_new_trade). So nothing is counted twice where trade and aggTrade are both subscribed, in order.
- A frame with more than MAX_LEVELS_PER_FRAME levels is refused (FRAME_TOO_LARGE), so no call makes more than
  MAX_RECORDS_PER_FRAME records.

Cost: 80 ns a call beside what binance.py says; 0.9 us for a trade frame called from Python. Known limits: one
dialect.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.ingest.audit import begin_audit, write_answer
from engine.ingest.binance import (
    ACK,
    CONTRACT_INFO,
    DEPTH,
    LIQUIDATION,
    MARK,
    MARK_AND_FUNDING,
    OPEN_INTEREST,
    QUOTE_PAIR,
    TRADE,
    Decoded,
    decode_frame,
    decode_snapshot,
)
from engine.ingest.entry import (
    ALL_INSTRUMENTS,
    CLOCK_GRID_NS,
    advance,
    arrive,
    is_new_trade,
    lose,
    open_outbox,
    pass_time,
    refuse,
    remember,
)
from engine.ingest.json_scan import text_of
from engine.ingest.listing import announce, is_small, take_listing
from engine.ingest.rows import stamp
from engine.ingest.sequence import (
    DUPLICATE,
    SEQUENCE_GAP,
    apply_diff,
    discard,
    release,
    snapshot_is_too_old,
)
from engine.ingest.state import INGEST_OUTBOX_RECORDS, INGEST_STATE, MAX_RECORDS_PER_FRAME, StateRow, make_ingest_state
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET
from engine.stage import BYTES

__all__ = [
    "ALL_INSTRUMENTS",
    "CLOCK_GRID_NS",
    "INGEST_OUTBOX_RECORDS",
    "INGEST_STATE",
    "MAX_RECORDS_PER_FRAME",
    "ingest_audit",
    "ingest_audit_begins",
    "ingest_frame",
    "ingest_listed",
    "ingest_lost",
    "ingest_snapshot",
    "ingest_start",
    "ingest_timer",
    "is_snapshot_body",
    "make_ingest_state",
    "make_outbox",
]

FRAME = types.Bytes(types.uint8, 1, "C")

SNAPSHOT_TOO_OLD, BELOW_THRESHOLD = int(Reason.SNAPSHOT_TOO_OLD), int(Reason.BELOW_THRESHOLD)


def make_outbox() -> np.ndarray:
    """An outbox (MARKET, INGEST_OUTBOX_RECORDS records) that any entry point can fill; pass it `as_bytes`."""
    return np.zeros(INGEST_OUTBOX_RECORDS, MARKET)


def is_snapshot_body(frame: bytes) -> bool:
    """True for a REST depth body, as captures hold them between the frames: it names no symbol and goes to
    `ingest_snapshot` with the instrument that the capture is of."""
    return frame.lstrip().startswith(b'{"lastUpdateId"')


@kernel()
def _count_decoded(state: StateRow, decoded: Decoded) -> None:
    """Count what a frame held, whatever becomes of it."""
    state.events += decoded.records
    if decoded.code == DEPTH:
        state.level_updates += decoded.records
    elif decoded.code == TRADE:
        state.trades += 1
    elif decoded.code == QUOTE_PAIR:
        state.book_tickers += 1
    elif decoded.code == MARK:
        state.mark_prices += 1
    elif decoded.code == MARK_AND_FUNDING:
        state.mark_prices += 1
        state.funding += 1
    elif decoded.code == LIQUIDATION:
        state.liquidations += 1
    elif decoded.code == OPEN_INTEREST:
        state.open_interests += 1
    elif decoded.code == ACK:
        state.acks += 1
    elif decoded.code == CONTRACT_INFO:
        state.contract_infos += 1
    else:
        state.snapshot_levels += decoded.records


@kernel(types.int64(BYTES, types.int64, BYTES))
def ingest_start(state: np.ndarray, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """Announce every instrument: INSTRUMENT by index, STATUS where one is not trading. Starts the clock."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    return announce(row, rows, recv_ts_ns)


@kernel(types.int64(BYTES, FRAME, types.int64, types.int64, BYTES))
def ingest_frame(state: np.ndarray, frame: bytes, recv_ts_ns: int, ingest_id: int, outbox: np.ndarray) -> int:
    """Take one stream frame. Returns the number of records, or -Reason when it is refused."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    base = arrive(row, rows, recv_ts_ns, ingest_id)
    decoded = decode_frame(row, text_of(frame), rows, base)
    if decoded.code < 0:
        return refuse(row, decoded.code)
    remember(row)
    _count_decoded(row, decoded)
    cause = advance(row, recv_ts_ns, ingest_id)
    instrument = decoded.instrument
    if decoded.code == DEPTH:
        end = apply_diff(row, rows, base, decoded, recv_ts_ns, cause)
    elif decoded.code == TRADE and not is_new_trade(
        row, instrument, decoded.first_id, decoded.sequence, decoded.exch_ts_ns
    ):
        row.dropped[DUPLICATE] += 1
        end = base
    elif decoded.code == LIQUIDATION and is_small(row, instrument, rows[base].price, rows[base].size):
        row.dropped[BELOW_THRESHOLD] += 1
        end = base
    else:
        stamp(row, rows, base, decoded.records, instrument, decoded.exch_ts_ns, decoded.sequence, recv_ts_ns, cause)
        row.processed += 1
        end = base + decoded.records
    row.out += end
    return end


@kernel(types.int64(BYTES, types.int64, FRAME, types.int64, types.int64, BYTES))
def ingest_snapshot(
    state: np.ndarray, instrument: int, body: bytes, recv_ts_ns: int, ingest_id: int, outbox: np.ndarray
) -> int:
    """Take one REST depth body of an instrument: its levels as one SNAPSHOT group, then the waiting diffs that apply.

    A snapshot that is older than the book or than the first waiting diff allows is dropped (SNAPSHOT_TOO_OLD) and
    snapshot_wanted stays. Returns the number of records, or -Reason when the body is refused.
    """
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    base = arrive(row, rows, recv_ts_ns, ingest_id)
    decoded = decode_snapshot(row, text_of(body), rows, base, instrument)
    if decoded.code < 0:
        return refuse(row, decoded.code)
    remember(row)
    _count_decoded(row, decoded)
    cause = advance(row, recv_ts_ns, ingest_id)
    if snapshot_is_too_old(row, instrument, decoded.sequence):
        row.dropped[SNAPSHOT_TOO_OLD] += 1
        row.out += base
        return base
    stamp(row, rows, base, decoded.records, instrument, decoded.exch_ts_ns, decoded.sequence, recv_ts_ns, cause)
    if row.snapshots_applied[instrument] > 0:
        row.resyncs += 1
    row.snapshots_applied[instrument] += 1
    row.processed += 1
    row.snapshot_wanted[instrument] = 0
    row.bridged[instrument] = 0
    row.last_update_id[instrument] = decoded.sequence
    row.book_ts_ns[instrument] = decoded.exch_ts_ns
    end = release(row, rows, base + decoded.records, instrument, recv_ts_ns, cause)
    row.out += end
    return end


@kernel(types.int64(BYTES, types.int64, types.int64, BYTES))
def ingest_audit_begins(state: np.ndarray, instrument: int, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """REST is about to be asked for a snapshot to audit a book by (begin_audit in audit.py)."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    return begin_audit(row, rows, instrument, recv_ts_ns)


@kernel(types.int64(BYTES, types.int64, FRAME, types.int64, types.int64, BYTES))
def ingest_audit(
    state: np.ndarray, instrument: int, body: bytes, recv_ts_ns: int, ingest_id: int, outbox: np.ndarray
) -> int:
    """Take one REST depth body that a book is audited by: one group of AUDIT_LEVEL records; the book goes on as it was.

    Returns the number of records, or -Reason when the body is refused.
    """
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    base = arrive(row, rows, recv_ts_ns, ingest_id)
    decoded = decode_snapshot(row, text_of(body), rows, base, instrument)
    if decoded.code < 0:
        return refuse(row, decoded.code)
    return write_answer(
        row, rows, base, decoded.records, instrument, decoded.exch_ts_ns, decoded.sequence, 1, recv_ts_ns, ingest_id
    )


@kernel(types.int64(BYTES, types.int64, BYTES))
def ingest_timer(state: np.ndarray, now_ns: int, outbox: np.ndarray) -> int:
    """Tell that time has come to now_ns without a frame. Returns 1 when that makes a CLOCK record, else 0."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    return pass_time(row, rows, now_ns)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, BYTES))
def ingest_lost(state: np.ndarray, instrument: int, first_lost: int, recv_ts_ns: int, outbox: np.ndarray) -> int:
    """Tell that data were lost (`lose` in entry.py).

    With a lost connection the diffs that wait are dropped (SEQUENCE_GAP) and update ids may start anew, so the next
    snapshot is taken whatever its id.
    """
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    if instrument == ALL_INSTRUMENTS:
        for index in range(MAX_INSTRUMENTS):
            discard(row, index, SEQUENCE_GAP)
            row.last_update_id[index] = 0
    return lose(row, rows, instrument, first_lost, recv_ts_ns)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, BYTES))
def ingest_listed(
    state: np.ndarray, instrument: int, tick_size: int, lot_size: int, min_notional: int, status: int,
    recv_ts_ns: int, outbox: np.ndarray,
) -> int:  # fmt: skip
    """Take what the venue lists of an instrument now (take_listing in listing.py)."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, INGEST_OUTBOX_RECORDS)
    return take_listing(row, rows, instrument, tick_size, lot_size, min_notional, status, recv_ts_ns)
