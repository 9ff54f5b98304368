"""Bad frames in the middle of a recorded stream, for every venue: refused by name, in quarantine, and nothing is lost.

The oracle is the same recording without them: what follows a bad frame must give the same records, field by field, but
for the number of the input that each came from.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from engine.config import Settings
from engine.reasons import Reason
from engine.records import MARKET, Kind
from procs.fused import BATCH, FusedPath
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.recordings import read_inputs, read_instruments
from procs.summary import stage_accounts
from procs.table import Role
from tests.recordings import require_capture
from tools.soak.fuzz import RECORDINGS as FUZZED

RECORDINGS = {dialect: name for dialect, name in FUZZED.items() if dialect != "KRAKEN_SPOT_V2"}  # none was recorded
INPUTS = 900
EVERY = 37  # inputs between two bad frames
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"
REST_ERROR = b'{"code":-1003,"msg":"Too many requests; current limit is 2400 request weight per 1 MINUTE."}'
# What the venue itself says in its own words; a frame that is an event of its dialect is no refusal.
WORDS = {
    "BINANCE": (
        (b'{"error":{"code":2,"msg":"Invalid request: unknown stream"},"id":1}', Reason.UNKNOWN_STREAM),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1700000000000}}', Reason.UNKNOWN_STREAM),
    ),
    "KRAKEN_SPOT_V1": (
        (b'{"errorMessage":"Subscription depth not supported","event":"subscriptionStatus","status":"error",'
         b'"pair":"XBT/USD","subscription":{"name":"book"}}', Reason.NONE),
        (b'{"connectionID":8628615390848610000,"event":"systemStatus","status":"maintenance","version":"1.0.0"}',
         Reason.NONE),
        (b'{"error":["EService:Unavailable"]}', Reason.UNKNOWN_STREAM),
    ),
    "KRAKEN_FUTURES": (
        (b'{"event":"error","message":"Json Error"}', Reason.NONE),
        (b'{"event":"alert","message":"Maintenance at 12:00 UTC"}', Reason.NONE),
        (b'{"result":"error","error":"apiLimitExceeded"}', Reason.UNKNOWN_STREAM),
    ),
}  # fmt: skip


class Stream:
    """One recording on its way to predictions, and all MARKET records that it gave."""

    def __init__(self, dialect: str) -> None:
        recording = require_capture(RECORDINGS[dialect])
        instruments = read_instruments(recording)
        self.inputs = list(islice(read_inputs(recording, instruments), INPUTS))
        self.symbols = [one.symbol for one in instruments]
        self.path = FusedPath(Settings(), instruments, open_loop=True)
        self.records: list[np.ndarray] = []

    def take(self, decoded: int) -> np.ndarray:
        """What an input gave, through validation, features and the model."""
        for first in range(0, decoded, BATCH):
            self.path.predict(first, min(BATCH, decoded - first))
        taken = self.path.decoder.records[:decoded].copy()
        self.records.append(taken)
        return taken

    def ends(self) -> tuple[list[np.ndarray], bytes]:
        """The records without the number of their input, and the state of validation without its clock and counts."""
        for records in self.records:
            records["ingest_id"] = 0
        return self.records, self.path.states[Role.VALIDATION]["books"].tobytes()


def bad_frames(stream: Stream, entry: JournalEntry, dialect: str) -> list[tuple[bytes, Reason | None]]:
    """Bad frames beside a good one, with the reason of the refusal; None: whichever fits."""
    elsewhere = entry.payload
    for symbol in stream.symbols:
        elsewhere = elsewhere.replace(symbol.encode(), b"NOSUCH").replace(symbol.lower().encode(), b"nosuch")
    words = WORDS["BINANCE" if dialect.startswith("BINANCE") else dialect]
    return [
        (HTML, Reason.BAD_JSON), (b"", Reason.BAD_JSON), (b"null", Reason.BAD_JSON), (b"\0\0\0\0", Reason.BAD_JSON),
        (entry.payload[: len(entry.payload) // 2], Reason.BAD_JSON), (entry.payload[:-1], Reason.BAD_JSON),
        (entry.payload + entry.payload, Reason.BAD_JSON), (REST_ERROR, Reason.UNKNOWN_STREAM), (b"{}", None),
        (b"[]", None), (elsewhere, None if elsewhere == entry.payload else Reason.UNKNOWN_SYMBOL), *words,
    ]  # fmt: skip


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", list(RECORDINGS))
def test_bad_frames_are_refused_by_name_and_change_nothing_else(dialect: str) -> None:
    clean, disturbed = Stream(dialect), Stream(dialect)
    refused = 0
    reasons: set[Reason] = set()
    for number, entry in enumerate(clean.inputs):
        clean.take(clean.path.decoder.apply(entry))
        disturbed.take(disturbed.path.decoder.apply(entry))
        if number % EVERY or entry.kind != Entry.FRAME:
            continue
        for frame, reason in bad_frames(disturbed, entry, dialect):
            if frame == entry.payload:
                continue  # a frame that names no symbol
            decoder = disturbed.path.decoder
            before = int(decoder.state["quarantined"].sum())
            given = disturbed.take(decoder.frame(frame, entry.ts_ns))
            disturbed.records.pop()
            told = decoder.refused
            assert reason is None or told == reason, (frame, told)
            assert int(decoder.state["quarantined"].sum()) - before == (told != Reason.NONE), frame
            if told != Reason.NONE:
                assert len(given) == 0
                refused += 1
                reasons.add(told)
            else:
                assert set(given["kind"].tolist()) <= {Kind.STATUS, Kind.CLOCK}, (frame, given)
    assert refused > 50 and reasons >= {Reason.BAD_JSON, Reason.UNKNOWN_SYMBOL, Reason.UNKNOWN_STREAM}
    (records, books), (others, other_books) = clean.ends(), disturbed.ends()
    assert sum(map(len, records)) > 1_000
    for one, other in zip(records, others, strict=True):
        for name in MARKET.names or ():
            assert np.array_equal(one[name], other[name]), name
    assert books == other_books
    states = {role: state for role, state in disturbed.path.states.items() if role != Role.EXECUTION}
    assert stage_accounts(states, {})[1] == 0


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", [name for name in RECORDINGS if name.startswith("BINANCE")])
def test_a_snapshot_older_than_the_stream_gives_no_book_and_is_asked_for_again(dialect: str) -> None:
    stream = Stream(dialect)
    decoder = stream.path.decoder
    old = next(entry for entry in stream.inputs if entry.kind == Entry.SNAPSHOT)
    for entry in stream.inputs:
        decoder.apply(entry)
    decoder.lost(old.source, old.ts_ns)
    for entry in stream.inputs[-200:]:
        if entry.kind == Entry.FRAME:
            decoder.apply(entry)
    given = decoder.snapshot(old.source, old.payload, stream.inputs[-1].ts_ns)
    assert not (decoder.records[:given]["kind"] == Kind.LEVEL).any()
    assert decoder.state["snapshot_wanted"][0][old.source]
