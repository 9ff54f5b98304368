"""Audits of books by REST, as ingestion sees them: one is about to begin, and its answer.

Two inputs. `begin_audit` writes the AUDIT record, before the request is made. An answer is decoded by its dialect and
becomes one group of AUDIT_LEVEL records, which no book is made of: the sequence of the book does not change. Validation
holds the book against them (engine/validation/rest_audit.py). Layout: as entry.py. Cost: that of a snapshot.
"""

from __future__ import annotations

import numpy as np

from engine.ingest.entry import UNKNOWN_SYMBOL, advance, clock, is_listed, remember
from engine.ingest.rows import FIRST, LAST, mark_group, stamp, write_row
from engine.ingest.state import StateRow
from engine.kernel import kernel
from engine.records import Kind

AUDIT_KIND, AUDIT_LEVEL_KIND = int(Kind.AUDIT), int(Kind.AUDIT_LEVEL)


@kernel()
def begin_audit(state: StateRow, rows: np.ndarray, instrument: int, recv_ts_ns: int) -> int:
    """One input: REST is about to be asked. The number of records, or -Reason for an instrument that does not exist."""
    if not is_listed(state, instrument):
        return -UNKNOWN_SYMBOL
    remember(state)
    at = clock(state, rows, recv_ts_ns, 0)
    cause = advance(state, recv_ts_ns, 0)
    write_row(rows[at], AUDIT_KIND, 0, FIRST | LAST, 0, 0, 0)
    stamp(state, rows, at, 1, instrument, 0, 0, recv_ts_ns, cause)
    state.out += at + 1
    return at + 1


@kernel()
def write_answer(
    state: StateRow, rows: np.ndarray, base: int, count: int, instrument: int, exch_ts_ns: int, sequence: int,
    tolerance: int, recv_ts_ns: int, ingest_id: int,
) -> int:  # fmt: skip
    """Make an answer's levels rows[base:base + count], as a snapshot's decoder wrote them, records of an audit.

    tolerance: sizes agree that differ by less. Returns the place after them.
    """
    remember(state)
    cause = advance(state, recv_ts_ns, ingest_id)
    for at in range(base, base + count):
        rows[at].kind = AUDIT_LEVEL_KIND
        rows[at].aux = tolerance
    mark_group(rows, base, count, 0)
    stamp(state, rows, base, count, instrument, exch_ts_ns, sequence, recv_ts_ns, cause)
    state.processed += 1
    state.out += base + count
    return base + count
