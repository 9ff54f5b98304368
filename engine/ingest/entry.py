"""What the entry points of every ingestion share: the outbox, arrival and refusal, the clock grid, gaps, losses.

Layout: works on any state that has STATE_HEAD, INSTRUMENT_FIELDS, `gaps`, `snapshot_wanted`, the `..._before` fields.
Invariants: time and the last ingest id never go back; a CLOCK record stands at the start of the grid cell that a call
has entered. Cost: some ns a call.
"""

from __future__ import annotations

import numpy as np

from engine.ingest.rows import FIRST, LAST, stamp, write_row
from engine.ingest.state import StateRow
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import MARKET, Kind

CLOCK_GRID_NS = 10_000_000
STANDING_NS = 1_000_000_000  # connections to several of the venue's servers may tell times that far apart
ALL_INSTRUMENTS = -1
UNKNOWN_SYMBOL = int(Reason.UNKNOWN_SYMBOL)
CLOCK_KIND, GAP_KIND = int(Kind.CLOCK), int(Kind.GAP)
RECORD_BYTES = MARKET.itemsize


@kernel(makes_arrays=True)
def open_outbox(outbox: np.ndarray, records: int) -> np.ndarray:
    """The outbox (uint8[::1]) as MARKET records.

    Raises ValueError for one with room for fewer than `records`: writing past it would corrupt memory.
    """
    if len(outbox) < records * RECORD_BYTES:
        raise ValueError("ingestion: the outbox holds fewer records than one call may write")
    return outbox.view(MARKET)


@kernel()
def remember(state: StateRow) -> None:
    """Keep what a caller needs who finds no room for the records of this call; a refusal makes none."""
    state.processed_before = state.processed
    state.out_before = state.out
    for instrument in range(MAX_INSTRUMENTS):
        state.snapshot_wanted_before[instrument] = state.snapshot_wanted[instrument]


@kernel()
def clock(state: StateRow, rows: np.ndarray, recv_ts_ns: int, ingest_id: int) -> int:
    """Write the CLOCK record that is due before recv_ts_ns, if any; the state does not change. Returns 0 or 1."""
    if state.now_ns == 0 or recv_ts_ns // CLOCK_GRID_NS <= state.now_ns // CLOCK_GRID_NS:
        return 0
    write_row(rows[0], CLOCK_KIND, 0, FIRST | LAST, 0, 0, 0)
    rows[0].recv_ts_ns = recv_ts_ns // CLOCK_GRID_NS * CLOCK_GRID_NS
    rows[0].ingest_id = max(ingest_id, state.last_ingest_id)
    return 1


@kernel()
def advance(state: StateRow, recv_ts_ns: int, ingest_id: int) -> int:
    """Move time and the last ingest id, neither of them backwards. Returns the last ingest id."""
    state.now_ns = max(state.now_ns, recv_ts_ns)
    state.last_ingest_id = max(state.last_ingest_id, ingest_id)
    return state.last_ingest_id


@kernel()
def arrive(state: StateRow, rows: np.ndarray, recv_ts_ns: int, ingest_id: int) -> int:
    """Count a frame or body that has come; write the CLOCK record due before it. Returns 0 or 1, as `clock`."""
    state.frames += 1
    state.records_in += 1
    return clock(state, rows, recv_ts_ns, ingest_id)


@kernel()
def refuse(state: StateRow, code: int) -> int:
    """Count what has come as quarantined. code: -Reason; it is returned."""
    state.quarantined[-code] += 1
    return code


@kernel()
def is_listed(state: StateRow, instrument: int) -> bool:
    """Whether there is an instrument of this index."""
    return instrument >= 0 and instrument < MAX_INSTRUMENTS and state.symbol_length[instrument] > 0


@kernel()
def pass_time(state: StateRow, rows: np.ndarray, now_ns: int) -> int:
    """Take that time has come to now_ns without a frame. Returns the number of records: 1 for a CLOCK, else 0."""
    remember(state)
    end = clock(state, rows, now_ns, 0)
    advance(state, now_ns, 0)
    state.out += end
    return end


@kernel()
def declare_gap(
    state: StateRow, rows: np.ndarray, at: int, instrument: int, first_lost: int, reason: int, recv_ts_ns: int,
    ingest_id: int,
) -> int:  # fmt: skip
    """Write a GAP record at rows[at] and ask for a snapshot of the instrument. Returns the next place in rows."""
    state.snapshot_wanted[instrument] = 1
    state.gaps += 1
    write_row(rows[at], GAP_KIND, 0, FIRST | LAST, 0, 0, first_lost)
    stamp(state, rows, at, 1, instrument, 0, 0, recv_ts_ns, ingest_id)
    rows[at].reason = reason
    return at + 1


@kernel()
def lose(state: StateRow, rows: np.ndarray, instrument: int, first_lost: int, recv_ts_ns: int) -> int:
    """Take that data were lost: of one instrument, or of all (ALL_INSTRUMENTS: a connection was lost).

    first_lost: the first ingest id lost, 0 where unknown; it becomes aux of the GAP records. A book in sequence gives
    a GAP and wants a snapshot; one that waits for a snapshot already has had its GAP and gives none.
    Returns the number of records, or -Reason for an instrument that does not exist.
    """
    if instrument != ALL_INSTRUMENTS and not is_listed(state, instrument):
        return -UNKNOWN_SYMBOL
    first, end = (0, MAX_INSTRUMENTS) if instrument == ALL_INSTRUMENTS else (instrument, instrument + 1)
    remember(state)
    at = clock(state, rows, recv_ts_ns, first_lost)
    cause = advance(state, recv_ts_ns, first_lost)
    for index in range(first, end):
        if is_listed(state, index) and state.snapshot_wanted[index] == 0:
            at = declare_gap(state, rows, at, index, first_lost, 0, recv_ts_ns, cause)
    state.out += at
    return at


@kernel()
def ids_stand_still(book_ts_ns: int, exch_ts_ns: int) -> bool:
    """Whether an update that looks old by its ids is much later than the book by the venue's time; 0: not known.

    One of the two is wrong then. An id that was read wrongly would otherwise make every later update look old.
    """
    return book_ts_ns > 0 and exch_ts_ns > book_ts_ns + STANDING_NS


@kernel()
def is_new_trade(state: StateRow, instrument: int, first_id: int, last_id: int, exch_ts_ns: int) -> bool:
    """Whether a trade, or the trades first_id..last_id, were not told before; if so the ids go on behind them.

    One that is much later than the last by the venue's time is new whatever its id, as with books: an id that was read
    wrongly silences the tape no longer than STANDING_NS, and ids may start anew.
    """
    known = first_id <= state.last_trade_id[instrument]
    if known and not ids_stand_still(state.trade_ts_ns[instrument], exch_ts_ns):
        return False
    state.last_trade_id[instrument] = last_id
    state.trade_ts_ns[instrument] = exch_ts_ns
    return True
