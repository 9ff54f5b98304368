"""The state of Kraken's ingestion, spot and futures: one record, made in Python, changed by kraken_kernel.py only.

Layout: STATE_HEAD (counters in frames), what was decoded, INSTRUMENT_FIELDS, the sequence state of each book and tape,
then scratch that means nothing between calls.

Invariants: `records_in = processed + sum(quarantined) + sum(dropped)`, in frames; `sum(decoded) - sum(records_dropped)`
is what was passed on beside CLOCK and GAP records and what a listing gives. `snapshot_wanted[i]` is 1 exactly while the
book of instrument i stands on no snapshot. Nothing waits: Kraken sends the snapshot over the same socket, before the
updates that follow on it. Cost: 5 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from engine.ingest.state import INSTRUMENT_FIELDS, MAX_LEVELS_PER_FRAME, dialect_of, write_instruments
from engine.instruments import MAX_INSTRUMENTS, Dialect, Instrument
from engine.reasons import REASON_COUNT
from engine.stage import STATE_HEAD


class FrameKind(IntEnum):
    """What a frame was that is not refused: the index into `frames_of`."""

    ACK = 1  # a subscription, or its end, was accepted
    REFUSAL = 2  # the venue refuses a request: what was asked for will not come
    HEARTBEAT = 3
    STATUS = 4  # of the venue or the connection: systemStatus, status, info
    PONG = 5
    METADATA = 6  # the instrument channel of v2: for the slow path
    BOOK_SNAPSHOT = 7
    BOOK_UPDATE = 8
    TRADES = 9
    PAST_TRADES = 10  # trades from before the subscription: no records
    TICKER = 11


FRAME_KINDS = 12
KRAKEN_DIALECTS = (Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_SPOT_V2, Dialect.KRAKEN_FUTURES)
DECODED_KINDS = 64  # above every market kind of records.Kind
VALUE_SLOTS = 32

KRAKEN_RECORDS_PER_FRAME = 1 + MAX_LEVELS_PER_FRAME  # a CLOCK, then the levels
KRAKEN_OUTBOX_RECORDS = KRAKEN_RECORDS_PER_FRAME + MAX_INSTRUMENTS


class Decoded(NamedTuple):
    """One frame, decoded: a FrameKind or -Reason, and the records that were written."""

    code: int
    records: int


KRAKEN_STATE = np.dtype(
    [
        *STATE_HEAD,
        ("frames", "<i8"),  # frames given, refused ones included
        ("frames_of", "<i8", (FRAME_KINDS,)),  # by FrameKind
        ("decoded", "<i8", (DECODED_KINDS,)),  # records by Kind, applied or not
        ("snapshot_levels", "<i8"),  # of the levels in `decoded`, those of snapshots
        ("past_trades", "<i8"),
        ("records_dropped", "<i8", (REASON_COUNT,)),  # of those in `decoded`, what was not passed on
        ("gaps", "<i8"),  # GAP records
        ("resyncs", "<i8"),  # snapshots applied after the first of an instrument
        ("dialect", "<i8"),  # Dialect of all instruments: one connection speaks one
        *INSTRUMENT_FIELDS,
        ("snapshot_wanted", "<i8", (MAX_INSTRUMENTS,)),
        ("snapshots_applied", "<i8", (MAX_INSTRUMENTS,)),
        ("bridged", "<i8", (MAX_INSTRUMENTS,)),  # 1: an update was applied since the snapshot
        ("last_sequence", "<i8", (MAX_INSTRUMENTS,)),  # futures: of the book
        ("book_ts_ns", "<i8", (MAX_INSTRUMENTS,)),  # futures: venue time of that message
        ("last_trade_id", "<i8", (MAX_INSTRUMENTS,)),  # v2: trade_id; futures: seq of the trade; v1 has none
        ("trade_ts_ns", "<i8", (MAX_INSTRUMENTS,)),  # venue time of that trade, 0: not told
        ("price_decimals", "<i8", (MAX_INSTRUMENTS,)),  # as the last snapshot printed them, -1: not known
        ("size_decimals", "<i8", (MAX_INSTRUMENTS,)),
        # As it was before the last call, for whoever has to take its records back.
        ("processed_before", "<i8"),
        ("out_before", "<i8"),
        ("snapshot_wanted_before", "<i8", (MAX_INSTRUMENTS,)),
        # Scratch: where in the frame the values of an object or the elements of a list begin.
        ("value_at", "<i8", (VALUE_SLOTS,)),
        ("inner_at", "<i8", (VALUE_SLOTS,)),
    ],
    align=True,
)


def make_kraken_state(instruments: Sequence[Instrument], liquidation_min: int = 0) -> np.ndarray:
    """A fresh state (KRAKEN_STATE, shape (1,)) that knows these instruments and wants a snapshot of each.

    liquidation_min: smallest value of a liquidation that is passed on, 1e-8 quote units. Symbols are those of the wire:
    XBT/USD (v1), BTC/USD (v2), PI_XBTUSD (futures). Raises ValueError as `write_instruments` does, and for instruments
    of several dialects or of one that is not Kraken's.
    """
    state = np.zeros(1, KRAKEN_STATE)
    state["dialect"] = dialect_of(instruments, KRAKEN_DIALECTS)
    for index in write_instruments(state[0], instruments, liquidation_min):
        state[0]["snapshot_wanted"][index] = 1
        state[0]["last_trade_id"][index] = -1
    state["price_decimals"] = state["size_decimals"] = -1
    return state
