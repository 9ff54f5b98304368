"""The sequence rule of a Binance book, and the pool of diffs that wait for a snapshot.

A diff carries U and u (first and last update id in it) and pu (u of the diff before it). Ids are the venue's,
shared by all books, so the ids of one book have holes and only pu ties diffs together. A spot book counts for
itself and sends no pu: there U of a diff is one more than u of the diff before it, and pu stands for U - 1.

    no snapshot yet                     the diff waits in the pool
    after snapshot L, none applied yet  u < L (spot: u <= L): STALE_DIFF; U <= L or pu <= L: applies; else a gap
    after a diff with id u0             u <= u0: DUPLICATE; pu = u0: applies; else a gap

STALE_DIFF and DUPLICATE hold as long as the venue's time agrees: a diff whose time is more than STANDING_NS
(entry.py) later than that of the book, and whose ids are not, is a gap too, and ids may start anew. One id that was
read wrongly would otherwise make every later diff look old, and the book would stand still and be called valid.

For spot the table is the venue's own rule, U <= L + 1 <= u. For futures the venue states the second line with U <= L
only. pu <= L is as safe, since a diff holds every change after pu, and it spares a quiet book, whose next diff may
begin well after L, a needless resync.

A gap gives one GAP record, asks for a snapshot, and the diff that showed it waits. A pool without room drops the
diffs of that book (PENDING_OVERFLOW) and waits anew, so what waits for one book has no hole of our own making.

Invariants: see state.py. Cost: a verdict is some ns; a release moves the pool once, at most 16,384 levels.
Source: Binance spot, USD-M and COIN-M futures, "How to manage a local order book correctly".
"""

from __future__ import annotations

import numpy as np

from engine.ingest.binance import SPOT, Decoded
from engine.ingest.entry import declare_gap, ids_stand_still
from engine.ingest.event_scan import BUY, LEVEL_KIND, SELL
from engine.ingest.rows import mark_group, stamp, write_row
from engine.ingest.state import PENDING_FRAMES, PENDING_LEVELS, StateRow
from engine.kernel import kernel
from engine.reasons import Reason

STALE_DIFF, DUPLICATE = int(Reason.STALE_DIFF), int(Reason.DUPLICATE)
SEQUENCE_GAP, PENDING_OVERFLOW = int(Reason.SEQUENCE_GAP), int(Reason.PENDING_OVERFLOW)
APPLY = int(Reason.NONE)


@kernel()
def verdict(dialect: int, bridged: int, book_id: int, first_id: int, last_id: int, previous_id: int) -> int:
    """What to do with a diff of a book that has a snapshot: APPLY, STALE_DIFF, DUPLICATE or SEQUENCE_GAP.

    bridged: 1 when a diff was applied since the snapshot; book_id: lastUpdateId or u of the last diff applied.
    """
    if bridged == 0:
        if last_id < book_id or (dialect == SPOT and last_id == book_id):
            return STALE_DIFF
        return APPLY if first_id <= book_id or previous_id <= book_id else SEQUENCE_GAP
    if last_id <= book_id:
        return DUPLICATE
    return APPLY if previous_id == book_id else SEQUENCE_GAP


@kernel()
def _move(state: StateRow, source: int, source_level: int, target: int, target_level: int) -> None:
    """Move one waiting diff towards the front of the pool."""
    if source == target and source_level == target_level:
        return
    for level in range(state.pending_count[source]):
        state.pending_price[target_level + level] = state.pending_price[source_level + level]
        state.pending_size[target_level + level] = state.pending_size[source_level + level]
    state.pending_instrument[target] = state.pending_instrument[source]
    state.pending_first_id[target] = state.pending_first_id[source]
    state.pending_last_id[target] = state.pending_last_id[source]
    state.pending_previous_id[target] = state.pending_previous_id[source]
    state.pending_exch_ts_ns[target] = state.pending_exch_ts_ns[source]
    state.pending_bids[target] = state.pending_bids[source]
    state.pending_count[target] = state.pending_count[source]


@kernel()
def discard(state: StateRow, instrument: int, reason: int) -> None:
    """Drop every waiting diff of an instrument, counted under a reason."""
    frames, kept, level, kept_level = state.pending_frames, 0, 0, 0
    for frame in range(frames):
        count = state.pending_count[frame]
        if state.pending_instrument[frame] != instrument:
            _move(state, frame, level, kept, kept_level)
            kept += 1
            kept_level += count
        level += count
    state.dropped[reason] += frames - kept
    state.pending_frames = kept
    state.pending_levels = kept_level


@kernel()
def hold(state: StateRow, rows: np.ndarray, base: int, diff: Decoded) -> None:
    """Put a decoded diff, whose levels stand at rows[base:], into the pool; without room, drop and wait anew."""
    if state.pending_frames == PENDING_FRAMES or state.pending_levels + diff.records > PENDING_LEVELS:
        discard(state, diff.instrument, PENDING_OVERFLOW)
        if state.pending_frames == PENDING_FRAMES or state.pending_levels + diff.records > PENDING_LEVELS:
            state.dropped[PENDING_OVERFLOW] += 1
            return
    frame, level = state.pending_frames, state.pending_levels
    state.pending_instrument[frame] = diff.instrument
    state.pending_first_id[frame] = diff.first_id
    state.pending_last_id[frame] = diff.sequence
    state.pending_previous_id[frame] = diff.previous_id
    state.pending_exch_ts_ns[frame] = diff.exch_ts_ns
    state.pending_bids[frame] = diff.bids
    state.pending_count[frame] = diff.records
    for index in range(diff.records):
        state.pending_price[level + index] = rows[base + index].price
        state.pending_size[level + index] = rows[base + index].size
    state.pending_frames = frame + 1
    state.pending_levels = level + diff.records


@kernel()
def apply_diff(state: StateRow, rows: np.ndarray, base: int, diff: Decoded, recv_ts_ns: int, ingest_id: int) -> int:
    """Judge a diff fresh off the wire, whose levels stand at rows[base:]. Returns the place after the records kept."""
    instrument = diff.instrument
    if state.snapshot_wanted[instrument] != 0:
        hold(state, rows, base, diff)
        return base
    judged = verdict(
        state.dialect, state.bridged[instrument], state.last_update_id[instrument],
        diff.first_id, diff.sequence, diff.previous_id,
    )  # fmt: skip
    if judged != APPLY and judged != SEQUENCE_GAP and ids_stand_still(state.book_ts_ns[instrument], diff.exch_ts_ns):
        judged = SEQUENCE_GAP
        state.last_update_id[instrument] = 0
    if judged == SEQUENCE_GAP:
        hold(state, rows, base, diff)
        return declare_gap(state, rows, base, instrument, 0, SEQUENCE_GAP, recv_ts_ns, ingest_id)
    if judged != APPLY:
        state.dropped[judged] += 1
        return base
    state.bridged[instrument] = 1
    state.last_update_id[instrument] = diff.sequence
    state.book_ts_ns[instrument] = diff.exch_ts_ns
    state.processed += 1
    stamp(state, rows, base, diff.records, instrument, diff.exch_ts_ns, diff.sequence, recv_ts_ns, ingest_id)
    return base + diff.records


@kernel()
def snapshot_is_too_old(state: StateRow, instrument: int, update_id: int) -> bool:
    """True when the book was already beyond this snapshot, or the first waiting diff does not follow on it."""
    if update_id < state.last_update_id[instrument]:
        return True
    for frame in range(state.pending_frames):
        if state.pending_instrument[frame] == instrument:
            first_id, last_id = state.pending_first_id[frame], state.pending_last_id[frame]
            previous_id = state.pending_previous_id[frame]
            return verdict(state.dialect, 0, update_id, first_id, last_id, previous_id) == SEQUENCE_GAP
    return False


@kernel()
def release(state: StateRow, rows: np.ndarray, base: int, instrument: int, recv_ts_ns: int, ingest_id: int) -> int:
    """After a snapshot: judge the waiting diffs of the instrument in order, write those that apply to rows[base:].

    Their records carry the receive time and ingest id of the snapshot that released them. A gap among them ends it:
    what is left waits for the next snapshot. Returns the place after the last record.
    """
    kept, level, kept_level = 0, 0, 0
    for frame in range(state.pending_frames):
        count = state.pending_count[frame]
        keep = state.pending_instrument[frame] != instrument or state.snapshot_wanted[instrument] != 0
        if not keep:
            last_id = state.pending_last_id[frame]
            judged = verdict(
                state.dialect, state.bridged[instrument], state.last_update_id[instrument],
                state.pending_first_id[frame], last_id, state.pending_previous_id[frame],
            )  # fmt: skip
            if judged == SEQUENCE_GAP:
                base = declare_gap(state, rows, base, instrument, 0, SEQUENCE_GAP, recv_ts_ns, ingest_id)
                keep = True
            elif judged == APPLY:
                state.bridged[instrument] = 1
                state.last_update_id[instrument] = last_id
                state.book_ts_ns[instrument] = state.pending_exch_ts_ns[frame]
                state.processed += 1
                bids = state.pending_bids[frame]
                for index in range(count):
                    price, size = state.pending_price[level + index], state.pending_size[level + index]
                    write_row(rows[base + index], LEVEL_KIND, BUY if index < bids else SELL, 0, price, size, 0)
                mark_group(rows, base, count, 0)
                exch_ts_ns = state.pending_exch_ts_ns[frame]
                stamp(state, rows, base, count, instrument, exch_ts_ns, last_id, recv_ts_ns, ingest_id)
                base += count
            else:
                state.dropped[judged] += 1
        if keep:
            _move(state, frame, level, kept, kept_level)
            kept += 1
            kept_level += count
        level += count
    state.pending_frames = kept
    state.pending_levels = kept_level
    return base
