"""Ingestion without sockets: the order of inputs in, MARKET records out.

Live ingestion chooses and journals an order of inputs and hands each to a `Decoder`; replay reads the same inputs
from a journal or a capture and hands them to the same `Decoder`. There is no other path from bytes to records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.direct import direct
from engine.ingest.dialects import entry_points, state_dtype
from engine.instruments import MAX_INSTRUMENTS, Instrument
from engine.reasons import Reason
from engine.records import MARKET, Kind
from engine.stage import as_bytes
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.venues.terms import Terms

ALL_INSTRUMENTS = -1
_NOT = Reason.NONE
_LASTING = (Kind.INSTRUMENT, Kind.STATUS)
_OF_NO_BOOK = (Kind.CLOCK, Kind.STATUS, Kind.OPEN_INTEREST, Kind.AUDIT, Kind.AUDIT_LEVEL)


class Decoder:
    """Turns inputs into records in `outbox`; every method returns how many. Counts ingest ids."""

    def __init__(self, state: np.ndarray, instruments: Sequence[Instrument]) -> None:
        """state: shape (1,) of the dtype that the dialect of these instruments has, possibly shared memory."""
        if state.dtype != state_dtype(instruments):
            raise TypeError("a decoder needs the state of ingestion that is made for its instruments")
        self._kernels = entry_points(int(state["dialect"][0]))
        self._take_frame = direct(self._kernels.frame)  # it is called for every frame
        self.state = state
        self.instruments = tuple(instruments)
        self.ingest_id = 0
        self.refused = Reason.NONE  # why the last frame or snapshot was
        # Whatever an input gives, and behind the GAP records of all instruments once more, for `dropped`.
        self.records = np.zeros(self._kernels.outbox_records + MAX_INSTRUMENTS, MARKET)
        self.outbox = as_bytes(self.records)
        self._state = as_bytes(state)

    def start(self, ts_ns: int) -> int:
        """Announce the instruments."""
        return int(self._kernels.start(self._state, ts_ns, self.outbox))

    def frame(self, data: bytes, ts_ns: int) -> int:
        """A WebSocket frame; a refused one is counted by reason in the state and gives no records."""
        self.ingest_id += 1
        answer: int = self._take_frame(self._state, data, ts_ns, self.ingest_id, self.outbox)
        if answer < 0:
            return self._count(answer)
        self.refused = _NOT
        return answer

    def snapshot(self, instrument: int, body: bytes, ts_ns: int) -> int:
        """A REST depth body. Raises ValueError for a dialect that has none."""
        take = self._kernels.snapshot
        if take is None:
            raise ValueError("a REST snapshot of a venue that sends its books over the socket")
        self.ingest_id += 1
        return self._count(int(take(self._state, instrument, body, ts_ns, self.ingest_id, self.outbox)))

    def audit_begins(self, instrument: int, ts_ns: int) -> int:
        """REST is about to be asked for the book of an instrument, to audit it."""
        return int(self._kernels.audit_begins(self._state, instrument, ts_ns, self.outbox))

    def audit(self, instrument: int, body: bytes, ts_ns: int) -> int:
        """The REST depth body that a book is audited by."""
        self.ingest_id += 1
        return self._count(
            int(self._kernels.audit(self._state, instrument, body, ts_ns, self.ingest_id, self.outbox))
        )

    def _count(self, answer: int) -> int:
        """The number of records that a kernel gave; a refusal is noted."""
        self.refused = Reason(-answer) if answer < 0 else Reason.NONE
        return max(0, answer)

    def timer(self, now_ns: int) -> int:
        """The idle timer fired."""
        return int(self._kernels.timer(self._state, now_ns, self.outbox))

    def lost(self, instrument: int, ts_ns: int) -> int:
        """Data of an instrument (or ALL_INSTRUMENTS) were lost."""
        return int(self._kernels.lost(self._state, instrument, self.ingest_id, ts_ns, self.outbox))

    def listed(self, instrument: int, terms: Terms, ts_ns: int) -> int:
        """The venue lists an instrument so now."""
        return int(self._kernels.listed(
            self._state, instrument, terms.tick_size, terms.lot_size, terms.min_notional, terms.status, ts_ns,
            self.outbox,
        ))

    def terms(self, instrument: int) -> Terms:
        """The terms of an instrument that hold."""
        row = self.state[0]
        return Terms(*(int(row[name][instrument]) for name in ("tick_size", "lot_size", "min_notional", "status")))

    def dropped(self, ts_ns: int) -> int:
        """The records of the last input found no room downstream: they are gone, and the books concerned with them.

        INSTRUMENT and STATUS records are never gone: they come again, behind the GAPs, in the room kept for those.
        A book that was in sequence before that input gets a GAP, also where one is among the records that are gone;
        a book that was not has had its own, and waits for a snapshot, again if that was the input.
        """
        row = self.state[0]
        frames = int(row["processed"] - row["processed_before"])
        row["processed"] -= frames
        row["dropped"][Reason.RING_FULL] += frames
        gone = self.records[: int(row["out"] - row["out_before"])]
        lasting = gone[np.isin(gone["kind"], _LASTING)]  # a copy: what follows writes over it
        row["out"] -= len(gone) - len(lasting)
        row["snapshot_wanted"] = row["snapshot_wanted_before"]
        count = 0
        for index in np.unique(gone["instrument"][~np.isin(gone["kind"], _OF_NO_BOOK)]).tolist():
            room = self.outbox[count * MARKET.itemsize :]
            count += int(self._kernels.lost(self._state, index, self.ingest_id, ts_ns, room))
        self.records[count : count + len(lasting)] = lasting
        return count + len(lasting)

    def apply(self, entry: JournalEntry) -> int:
        """One journaled input other than DROPPED (see `replay_inputs`)."""
        if entry.kind == Entry.FRAME:
            return self.frame(entry.payload, entry.ts_ns)
        if entry.kind == Entry.SNAPSHOT:
            return self.snapshot(entry.source, entry.payload, entry.ts_ns)
        if entry.kind == Entry.TIMER:
            return self.timer(entry.ts_ns)
        if entry.kind == Entry.START:
            return self.start(entry.ts_ns)
        if entry.kind == Entry.LOST:
            return self.lost(entry.source - 1, entry.ts_ns)
        if entry.kind == Entry.LISTED:
            return self.listed(entry.source, Terms.from_bytes(entry.payload), entry.ts_ns)
        if entry.kind == Entry.AUDIT_ASKED:
            return self.audit_begins(entry.source, entry.ts_ns)
        if entry.kind == Entry.AUDIT:
            return self.audit(entry.source, entry.payload, entry.ts_ns)
        raise ValueError(f"entry {entry.ordinal} of kind {entry.kind} is no input of ingestion")


def replay_inputs(decoder: Decoder, entries: Iterator[JournalEntry]) -> Iterator[int]:
    """Apply journaled inputs in order; yields the number of records in the outbox after each.

    An input that live ingestion could not pass on is applied too, and its records are dropped again. REFUSED entries
    are no inputs: the frame before is refused again by itself.
    """
    held: JournalEntry | None = None
    for entry in entries:
        if entry.kind == Entry.REFUSED:
            continue
        if entry.kind == Entry.DROPPED:
            if held is not None:
                decoder.apply(held)
                held = None
            yield decoder.dropped(entry.ts_ns)
            continue
        if held is not None:
            yield decoder.apply(held)
        held = entry
    if held is not None:
        yield decoder.apply(held)
