"""The state of ingestion: one record, made in Python, changed by the kernels of this room only.

Layout: STATE_HEAD (counters), the market counters, one place an instrument for names, units and sequence state,
then the pool of diffs that wait for a snapshot, then scratch that means nothing between calls.

Invariants: `records_in = processed + sum(quarantined) + sum(dropped) + pending_frames`, in frames (a snapshot body
is one). `snapshot_wanted[i]` is 1 exactly while the book of instrument i is not in sequence. The pool holds diffs in
the order of their arrival, levels packed in the same order.

Cost: 372 KiB, nearly all of it the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.instruments import MAX_INSTRUMENTS, Dialect, Instrument, instruments_by_index
from engine.records import Status
from engine.stage import STATE_HEAD

SYMBOL_BYTES = 32  # longest symbol
MAX_LEVELS_PER_FRAME = 4096  # both sides together; the venue sends 2,000 in a snapshot, 1,226 was the largest diff
PENDING_LEVELS = 16_384  # of all instruments: 10 s of a busy one
PENDING_FRAMES = 2_048
VALUE_SLOTS = 64  # one a key of one letter, "@" is 0

# CLOCK, a whole snapshot, every pending level, and a GAP.
MAX_RECORDS_PER_FRAME = 1 + MAX_LEVELS_PER_FRAME + PENDING_LEVELS + 1
INGEST_OUTBOX_RECORDS = MAX_RECORDS_PER_FRAME + MAX_INSTRUMENTS
BINANCE_DIALECTS = (Dialect.BINANCE_USDM, Dialect.BINANCE_SPOT, Dialect.BINANCE_COINM)

# Names and units by index: every ingestion state has these fields.
INSTRUMENT_FIELDS: list[tuple] = [
    ("symbol", "u1", (MAX_INSTRUMENTS, SYMBOL_BYTES)),
    ("symbol_length", "<i8", (MAX_INSTRUMENTS,)),  # 0: no instrument has this index
    ("price_exp", "<i8", (MAX_INSTRUMENTS,)),
    ("size_exp", "<i8", (MAX_INSTRUMENTS,)),
    ("tick_size", "<i8", (MAX_INSTRUMENTS,)),
    ("lot_size", "<i8", (MAX_INSTRUMENTS,)),
    ("min_notional", "<i8", (MAX_INSTRUMENTS,)),
    ("epoch", "<i8", (MAX_INSTRUMENTS,)),
    ("contract_value", "<i8", (MAX_INSTRUMENTS,)),
    ("venue", "u1", (MAX_INSTRUMENTS,)),
    ("status", "<i8", (MAX_INSTRUMENTS,)),  # Status, as the listing says
    ("live_status", "<i8", (MAX_INSTRUMENTS,)),  # Status, as the sockets say; TRADING where they say nothing
    ("told_status", "<i8", (MAX_INSTRUMENTS,)),  # Status, as downstream knows it
    ("liquidation_min", "<i8", (MAX_INSTRUMENTS,)),  # 1e-8 quote: a smaller liquidation is not passed on
]

INGEST_STATE = np.dtype(
    [
        *STATE_HEAD,
        # Market counters: what was decoded, applied or not.
        ("frames", "<i8"),  # frames and snapshot bodies given, refused ones included
        ("events", "<i8"),  # MARKET records decoded: levels, trades, quotes, marks, funding, liquidations
        ("level_updates", "<i8"),  # levels of diffs
        ("snapshot_levels", "<i8"),
        ("trades", "<i8"),
        ("book_tickers", "<i8"),
        ("mark_prices", "<i8"),
        ("funding", "<i8"),
        ("liquidations", "<i8"),
        ("open_interests", "<i8"),
        ("gaps", "<i8"),  # GAP records
        ("resyncs", "<i8"),  # snapshots applied after the first of an instrument
        ("acks", "<i8"),  # answers to subscriptions
        ("contract_infos", "<i8"),  # contractInfo events, of any symbol
        ("dialect", "<i8"),  # Dialect of all instruments: one connection speaks one
        *INSTRUMENT_FIELDS,
        # Sequence of each book and tape.
        ("snapshot_wanted", "<i8", (MAX_INSTRUMENTS,)),  # 1: fetch a snapshot, then call ingest_snapshot
        ("bridged", "<i8", (MAX_INSTRUMENTS,)),  # 1: a diff was applied since the snapshot
        ("last_update_id", "<i8", (MAX_INSTRUMENTS,)),  # of the book: u of the last diff, or lastUpdateId
        ("book_ts_ns", "<i8", (MAX_INSTRUMENTS,)),  # venue time of that diff or snapshot, 0: not told
        ("last_trade_id", "<i8", (MAX_INSTRUMENTS,)),
        ("trade_ts_ns", "<i8", (MAX_INSTRUMENTS,)),  # venue time of that trade, 0: not told
        ("snapshots_applied", "<i8", (MAX_INSTRUMENTS,)),
        # Diffs that wait for a snapshot.
        ("pending_frames", "<i8"),
        ("pending_levels", "<i8"),
        ("pending_instrument", "<i8", (PENDING_FRAMES,)),
        ("pending_first_id", "<i8", (PENDING_FRAMES,)),
        ("pending_last_id", "<i8", (PENDING_FRAMES,)),
        ("pending_previous_id", "<i8", (PENDING_FRAMES,)),
        ("pending_exch_ts_ns", "<i8", (PENDING_FRAMES,)),
        ("pending_bids", "<i8", (PENDING_FRAMES,)),  # levels of the frame that are bids; they come first
        ("pending_count", "<i8", (PENDING_FRAMES,)),  # levels of the frame
        ("pending_price", "<i8", (PENDING_LEVELS,)),
        ("pending_size", "<i8", (PENDING_LEVELS,)),
        # As it was before the last call, for whoever has to take its records back.
        ("processed_before", "<i8"),
        ("out_before", "<i8"),
        ("snapshot_wanted_before", "<i8", (MAX_INSTRUMENTS,)),
        # Scratch: where in the frame the value of each one-letter key begins, 0 for a key not seen.
        ("value_at", "<i8", (VALUE_SLOTS,)),
    ],
    align=True,
)


_COPIED = (
    "price_exp", "size_exp", "tick_size", "lot_size", "min_notional", "epoch", "contract_value", "venue", "status",
)

StateRow = Any  # one record of INGEST_STATE inside a kernel: numba knows its fields, a type checker does not


def write_instruments(row: StateRow, instruments: Sequence[Instrument], liquidation_min: int) -> tuple[int, ...]:
    """Fill the INSTRUMENT_FIELDS of a fresh state; the indices that are in use, in the order given.

    Raises ValueError for a repeated or impossible index, a repeated symbol, or a symbol that does not fit.
    """
    seen: set[str] = set()
    table = instruments_by_index(instruments)
    for index, item in table.items():
        symbol = item.symbol.encode()
        if item.symbol in seen or not 0 < len(symbol) <= SYMBOL_BYTES:
            raise ValueError(f"instrument {index}: symbol {item.symbol!r} is taken or not of 1 to {SYMBOL_BYTES} bytes")
        seen.add(item.symbol)
        row["symbol"][index, : len(symbol)] = np.frombuffer(symbol, np.uint8)
        row["symbol_length"][index] = len(symbol)
        for field in _COPIED:
            row[field][index] = getattr(item, field)
        row["live_status"][index] = row["told_status"][index] = Status.TRADING
        row["liquidation_min"][index] = liquidation_min
    return tuple(table)


def dialect_of(instruments: Sequence[Instrument], allowed: Sequence[Dialect]) -> Dialect:
    """The dialect of all these instruments; the first of `allowed` where there are none.

    Raises ValueError for several dialects, one that does not exist, and one that is not allowed.
    """
    dialects = sorted({Dialect(item.dialect) for item in instruments})
    if len(dialects) > 1:
        raise ValueError(f"instruments of several dialects: {', '.join(item.name for item in dialects)}")
    if dialects and dialects[0] not in allowed:
        raise ValueError(f"{dialects[0].name} is another venue's dialect")
    return dialects[0] if dialects else allowed[0]


def make_ingest_state(instruments: Sequence[Instrument], liquidation_min: int = 0) -> np.ndarray:
    """A fresh state (INGEST_STATE, shape (1,)) that knows these instruments and wants a snapshot of each.

    liquidation_min: smallest value of a liquidation that is passed on, 1e-8 quote units.
    Raises ValueError as `write_instruments` and `dialect_of` do.
    """
    state = np.zeros(1, INGEST_STATE)
    state["dialect"] = dialect_of(instruments, BINANCE_DIALECTS)
    for index in write_instruments(state[0], instruments, liquidation_min):
        state[0]["snapshot_wanted"][index] = 1
        state[0]["last_trade_id"][index] = -1  # ids may start at 0
    return state
