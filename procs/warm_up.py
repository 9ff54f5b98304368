"""What a replay that begins in the middle of a recording begins with.

What was recorded before goes through the stages first, so that books, features and what execution knows of the market
are those of an engine that was there all along and in PAUSE: nothing is entered, and strategies are not asked; they
begin fresh. Then every count begins at nothing: what the summary tells is of the part alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.ingest.dialects import waiting_frames
from engine.safety.mode import Mode
from procs.capture.inputs import nothing_selected
from procs.capture.reader import EARLIEST_NS
from procs.decoding import replay_inputs
from procs.fused import FusedPath
from procs.journal.reader import JournalEntry
from procs.table import Role

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


def in_two(
    entries: Iterator[JournalEntry], from_ns: int, where: Path
) -> tuple[Iterator[JournalEntry], Iterator[JournalEntry]]:
    """The inputs before the first one of a time, and the others; take them in this order, and to their ends.

    They are one reading: whoever makes inputs of recorded listings knows in the second what the first told. The first
    raises CaptureError at its end where nothing is left for the second.
    """
    later: list[JournalEntry] = []

    def before() -> Iterator[JournalEntry]:
        for entry in entries:
            if entry.ts_ns >= from_ns:
                later.append(entry)
                return
            yield entry
        if from_ns > EARLIEST_NS:
            raise nothing_selected(where)

    def others() -> Iterator[JournalEntry]:
        yield from later
        yield from entries

    return before(), others()


def warm_up(path: FusedPath, before: Iterator[JournalEntry]) -> None:
    """Take what was recorded before, if anything was. Raises CaptureError, JournalError."""
    execution = path.states[Role.EXECUTION]
    mode = execution["mode"].copy()
    execution["mode"] = Mode.PAUSE
    taken = 0
    for decoded in replay_inputs(path.decoder, before):
        path.decide(decoded)
        taken += 1
    execution["mode"] = mode
    if not taken:
        return
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

