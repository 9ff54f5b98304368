"""Which kernels take the wire format of a dialect: the one table from bytes to records.

Layout: the entry points of one venue share their state and their outbox; those of a dialect without REST snapshots
have no `snapshot`, since the venue sends its books over the socket. A venue's kernels are imported when a session needs
them: loading all of them would cost every process its start and its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from engine.ingest.kraken_state import (
    KRAKEN_DIALECTS,
    KRAKEN_OUTBOX_RECORDS,
    KRAKEN_STATE,
    FrameKind,
    make_kraken_state,
)
from engine.ingest.state import BINANCE_DIALECTS, INGEST_OUTBOX_RECORDS, INGEST_STATE, StateRow, make_ingest_state
from engine.instruments import Dialect, Instrument
from engine.records import Kind

_COUNTERS = (
    "frames", "events", "level_updates", "snapshot_levels", "trades", "book_tickers", "funding", "liquidations",
    "open_interests", "gaps", "resyncs",
)


class EntryPoints(NamedTuple):
    """The kernels of a dialect: each takes the state as bytes first and the outbox as bytes last."""

    outbox_records: int
    start: Callable[..., int]  # (state, recv_ts_ns, outbox)
    frame: Callable[..., int]  # (state, frame, recv_ts_ns, ingest_id, outbox)
    timer: Callable[..., int]  # (state, now_ns, outbox)
    lost: Callable[..., int]  # (state, instrument, first_lost, recv_ts_ns, outbox)
    listed: Callable[..., int]  # (state, instrument, tick, lot, minimum notional, status, recv_ts_ns, outbox)
    audit_begins: Callable[..., int]  # (state, instrument, recv_ts_ns, outbox)
    audit: Callable[..., int]  # (state, instrument, body, recv_ts_ns, ingest_id, outbox)
    snapshot: Callable[..., int] | None  # as audit


def has_rest_snapshots(dialect: int) -> bool:
    """Whether a book begins with a body that REST is asked for; else it comes over the socket."""
    return dialect in BINANCE_DIALECTS


def entry_points(dialect: int) -> EntryPoints:
    """The kernels of a dialect. Raises ValueError for one that does not exist."""
    if dialect in BINANCE_DIALECTS:
        from engine.ingest import kernel

        return EntryPoints(
            INGEST_OUTBOX_RECORDS, kernel.ingest_start, kernel.ingest_frame, kernel.ingest_timer, kernel.ingest_lost,
            kernel.ingest_listed, kernel.ingest_audit_begins, kernel.ingest_audit, kernel.ingest_snapshot,
        )
    if dialect in KRAKEN_DIALECTS:
        from engine.ingest import kraken_kernel

        return EntryPoints(
            KRAKEN_OUTBOX_RECORDS, kraken_kernel.kraken_start, kraken_kernel.kraken_frame, kraken_kernel.kraken_timer,
            kraken_kernel.kraken_lost, kraken_kernel.kraken_listed, kraken_kernel.kraken_audit_begins,
            kraken_kernel.kraken_audit, None,
        )
    raise ValueError(f"there is no dialect {dialect}")


def is_numbered(dialect: int) -> bool:
    """Whether the venue numbers what it sends, so that several connections can be put in order."""
    return dialect in BINANCE_DIALECTS or dialect == Dialect.KRAKEN_FUTURES


def place_kernel(dialect: int) -> Callable[..., int]:
    """The kernel that says where a frame stands: (state, frame, outbox, place), see places.py.

    Raises ValueError for a dialect whose frames have no numbers.
    """
    from engine.ingest.places import binance_place, kraken_futures_place

    if not is_numbered(dialect):
        raise ValueError(f"{Dialect(dialect).name} does not number what it sends")
    return binance_place if dialect in BINANCE_DIALECTS else kraken_futures_place


def _of_kraken(instruments: Sequence[Instrument]) -> bool:
    return bool(instruments) and Dialect(instruments[0].dialect) in KRAKEN_DIALECTS


def make_state(instruments: Sequence[Instrument], liquidation_min: int = 0) -> np.ndarray:
    """The fresh state of ingestion for these instruments, shape (1,). Arguments and errors as its maker's."""
    make = make_kraken_state if _of_kraken(instruments) else make_ingest_state
    return make(instruments, liquidation_min)


def market_counts(row: StateRow) -> dict[str, int]:
    """What a state of ingestion has decoded, by the same names for every venue. A ticker's two quotes count once."""
    if int(row["dialect"]) in BINANCE_DIALECTS:
        return {name: int(row[name]) for name in _COUNTERS}
    decoded = row["decoded"]
    counts = {
        "frames": row["frames"], "events": decoded.sum(), "snapshot_levels": row["snapshot_levels"],
        "level_updates": decoded[Kind.LEVEL] - row["snapshot_levels"], "trades": decoded[Kind.TRADE],
        "book_tickers": row["frames_of"][FrameKind.TICKER], "funding": decoded[Kind.FUNDING],
        "liquidations": decoded[Kind.LIQUIDATION], "open_interests": decoded[Kind.OPEN_INTEREST], "gaps": row["gaps"],
        "resyncs": row["resyncs"],
    }
    return {name: int(counts[name]) for name in _COUNTERS}


def listing_frames(state: np.ndarray) -> np.ndarray:
    """How many frames were of a channel that tells of listings: a view of the state, shape (1,)."""
    if int(state["dialect"][0]) in BINANCE_DIALECTS:
        return state["contract_infos"]
    return state["frames_of"][0, FrameKind.METADATA : FrameKind.METADATA + 1]


def waiting_frames(row: StateRow) -> int:
    """Frames that were taken and are neither processed nor gone: diffs that wait for a REST snapshot."""
    return int(row["pending_frames"]) if int(row["dialect"]) in BINANCE_DIALECTS else 0


def state_dtype(instruments: Sequence[Instrument]) -> np.dtype:
    """The dtype of that state."""
    return KRAKEN_STATE if _of_kraken(instruments) else INGEST_STATE
