"""What a replay that begins in the middle of a recording begins with.

What was recorded before goes the whole way through the stages first, so that books, features and strategies are what
those of an engine would be that was there all along; nothing is entered, as in PAUSE. Then every count begins at
nothing: what the summary tells is of the part alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.ingest.dialects import waiting_frames
from engine.safety.mode import Mode
from procs.capture.inputs import NothingSelected
from procs.decoding import Decoder, replay_inputs
from procs.fused import FusedPath
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.table import Role
from procs.venues.terms import Terms

_ALL = ("records_in", "processed", "out", "quarantined", "dropped")
_COUNTS = {
    Role.INGESTION: (
        *_ALL, "frames", "events", "level_updates", "snapshot_levels", "trades", "book_tickers", "mark_prices",
        "funding", "liquidations", "open_interests", "gaps", "resyncs", "acks", "decoded", "frames_of",
    ),
    Role.VALIDATION: (*_ALL, "quarantine_total"),
    Role.FEATURES: (*_ALL, "crossed_books"),
    Role.ML: (*_ALL, "predictions", "not_finite"),
    Role.EXECUTION: (*_ALL, "signals", "denied"),
}


def warm_up(path: FusedPath, before: Iterator[JournalEntry]) -> None:
    """Take what was recorded before, if anything was. Raises CaptureError, JournalError."""
    execution = path.states[Role.EXECUTION]
    mode = execution["mode"].copy()
    execution["mode"] = Mode.PAUSE
    try:
        for decoded in replay_inputs(path.decoder, before):
            path.decide(decoded)
    except NothingSelected:
        return
    finally:
        execution["mode"] = mode
    for role, state in path.states.items():
        _begin_to_count(role, state)


def _begin_to_count(role: Role, state: np.ndarray) -> None:
    """Set every count of a state, shape (1,), to nothing; what waits in it is taken again."""
    for name in _COUNTS[role]:
        if name in (state.dtype.names or ()):
            state[name] = 0
    if role == Role.INGESTION:
        state["records_in"] = waiting_frames(state[0])
    elif role == Role.VALIDATION:
        items, now_ns = state["instruments"][0], int(state["now_ns"][0])
        items["valid_ns"] = 0
        for since in ("first_ns", "valid_since_ns"):
            items[since] = np.where(items[since] != 0, now_ns, 0)
        for name in ("verified", "mismatched", "crossed", "locked"):
            state["checks"][name] = 0
        for audits in ("audits", "rest_audits"):
            for name in ("agreed", "disagreed"):
                state[audits][name] = 0


def continued(entries: Iterator[JournalEntry], decoder: Decoder) -> Iterator[JournalEntry]:
    """The inputs of a part for who has taken what was before it: begun already, and told only of terms that change.

    All of them for who has taken nothing yet.
    """
    if not decoder.ingest_id:
        yield from entries
        return
    for entry in entries:
        if entry.kind == Entry.START:
            continue
        if entry.kind == Entry.LISTED and Terms.from_bytes(entry.payload) == decoder.terms(entry.source):
            continue
        yield entry
