"""What the venue lists: instruments announced, their tick, lot and filters changed, their status, what is too small.

Two sources tell a status: the listing (`status`) and, where the venue has it, the sockets (`live_status`). An
instrument is TRADING where both say so; else the listing's word holds, then that of the sockets. A STATUS record is
written when what holds is not what was told last.

Changed terms are a new epoch: a GAP where the book was in sequence (so that nobody stands on the old book), then the
INSTRUMENT record. The book asks for a snapshot once, as after any gap. Units never change, so what waits for that
snapshot stays what it is. Layout: as entry.py. Cost: some ns.
"""

from __future__ import annotations

import numpy as np

from engine.contracts import MAX_UNIT_EXP
from engine.ingest.entry import UNKNOWN_SYMBOL, advance, clock, declare_gap, is_listed, remember
from engine.ingest.rows import FIRST, LAST, stamp, write_row
from engine.ingest.state import StateRow
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Kind, Status
from engine.units import MONEY_EXP

INSTRUMENT_KIND, STATUS_KIND = int(Kind.INSTRUMENT), int(Kind.STATUS)
TRADING = int(Status.TRADING)
NEW_EPOCH = int(Reason.NEW_EPOCH)
SCALE = np.array([float(10**exp) for exp in range(2 * MAX_UNIT_EXP + 1)])


@kernel()
def status_of(state: StateRow, instrument: int) -> int:
    """The Status that holds."""
    listed = state.status[instrument]
    return listed if listed != TRADING else state.live_status[instrument]


@kernel()
def tell_status(
    state: StateRow, rows: np.ndarray, at: int, instrument: int, recv_ts_ns: int, ingest_id: int
) -> int:  # fmt: skip
    """Write a STATUS record at rows[at] if what holds was not told. Returns the next place in rows."""
    status = status_of(state, instrument)
    if status == state.told_status[instrument]:
        return at
    state.told_status[instrument] = status
    write_row(rows[at], STATUS_KIND, 0, FIRST | LAST, 0, 0, status)
    stamp(state, rows, at, 1, instrument, 0, 0, recv_ts_ns, ingest_id)
    return at + 1


@kernel()
def _write_instrument(
    state: StateRow, rows: np.ndarray, at: int, instrument: int, recv_ts_ns: int, ingest_id: int
) -> int:  # fmt: skip
    tick_size, lot_size = state.tick_size[instrument], state.lot_size[instrument]
    write_row(rows[at], INSTRUMENT_KIND, 0, FIRST | LAST, tick_size, lot_size, state.min_notional[instrument])
    stamp(state, rows, at, 1, instrument, 0, state.epoch[instrument], recv_ts_ns, ingest_id)
    return at + 1


@kernel()
def announce(state: StateRow, rows: np.ndarray, recv_ts_ns: int) -> int:
    """The first input: an INSTRUMENT record for every instrument, by index, STATUS where one is not trading.

    Starts the clock. Returns the number of records.
    """
    remember(state)
    at = clock(state, rows, recv_ts_ns, 0)
    ingest_id = advance(state, recv_ts_ns, 0)
    for instrument in range(MAX_INSTRUMENTS):
        if is_listed(state, instrument):
            at = _write_instrument(state, rows, at, instrument, recv_ts_ns, ingest_id)
            at = tell_status(state, rows, at, instrument, recv_ts_ns, ingest_id)
    state.out += at
    return at


@kernel()
def _take_terms(
    state: StateRow, rows: np.ndarray, at: int, instrument: int, tick_size: int, lot_size: int, min_notional: int,
    status: int, recv_ts_ns: int, ingest_id: int,
) -> int:  # fmt: skip
    """Take what the venue lists of an instrument now, in its units. Returns the place after the records, at most 3."""
    state.status[instrument] = status
    at = tell_status(state, rows, at, instrument, recv_ts_ns, ingest_id)
    if (
        tick_size == state.tick_size[instrument]
        and lot_size == state.lot_size[instrument]
        and min_notional == state.min_notional[instrument]
    ):
        return at
    if state.snapshot_wanted[instrument] == 0:
        at = declare_gap(state, rows, at, instrument, 0, NEW_EPOCH, recv_ts_ns, ingest_id)
    state.tick_size[instrument] = tick_size
    state.lot_size[instrument] = lot_size
    state.min_notional[instrument] = min_notional
    state.epoch[instrument] += 1
    return _write_instrument(state, rows, at, instrument, recv_ts_ns, ingest_id)


@kernel()
def take_listing(
    state: StateRow, rows: np.ndarray, instrument: int, tick_size: int, lot_size: int, min_notional: int, status: int,
    recv_ts_ns: int,
) -> int:  # fmt: skip
    """One input: what the venue lists of an instrument now. The number of records in rows (a STATUS, a GAP and an
    INSTRUMENT, where due), or -Reason for an instrument that does not exist."""
    if not is_listed(state, instrument):
        return -UNKNOWN_SYMBOL
    remember(state)
    at = clock(state, rows, recv_ts_ns, 0)
    cause = advance(state, recv_ts_ns, 0)
    at = _take_terms(state, rows, at, instrument, tick_size, lot_size, min_notional, status, recv_ts_ns, cause)
    state.out += at
    return at


@kernel()
def is_small(state: StateRow, instrument: int, price: int, size: int) -> bool:
    """Whether a liquidation is worth less than what is to be passed on. A float is exact enough for a threshold."""
    least = state.liquidation_min[instrument]
    if least == 0:
        return False
    if state.contract_value[instrument] > 0:
        value = float(size) * float(state.contract_value[instrument]) / SCALE[state.size_exp[instrument]]
    else:
        scale = SCALE[state.price_exp[instrument] + state.size_exp[instrument]] / SCALE[MONEY_EXP]
        value = float(price) * float(size) / scale
    return value < float(least)
