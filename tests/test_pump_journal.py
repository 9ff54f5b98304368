"""What the pump journals is what it stepped, and a segment that is full loses nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.records import MARKET, Kind
from procs import pump as p
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalWriter
from shm.control import Stop, TripSource
from tests.pump_bench import (
    RECORDS,
    ROLE,
    TRIP_SOURCE,
    Bench,
    copied,
    records,
)


def test_what_is_journaled_is_what_was_stepped(bench: Callable[..., Bench], tmp_path: Path) -> None:
    dice = random.Random(11)
    writer = JournalWriter(tmp_path, "execution", "0" * 8, segment_bytes=1 << 20)
    b = bench(inputs=3, in_capacity=32, out_capacity=1024, batch=6, journal=writer)
    b.params[p.P_WANTS_TRIP] = 1
    # Of source 0 a slice is enough: price and size.
    start = MARKET.fields["price"][1]  # type: ignore[index]
    b.params[p.P_IN_SLICE], b.params[p.P_IN_LENGTH] = start, 16
    sent: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    next_id = 1
    for turn in range(40):
        for source in range(3):
            chunk = records(next_id, dice.randint(1, 9), price=next_id * 7)
            next_id += len(chunk)
            sent[source].append(chunk)
            b.feed(chunk, source)
        if turn in (13, 21):
            b.control.trip(TripSource.RISK)
        assert b.drain() == p.STOPPED
        b.take()
    writer.close()
    entries = list(read_stream(tmp_path, "execution"))
    assert [entry.kind for entry in entries] == [Entry.BATCH] * len(entries)
    assert [(entry.source, entry.count) for entry in entries] == [(s, n) for s, n, _ in b.steps()]
    assert all(a.ts_ns <= z.ts_ns for a, z in itertools.pairwise(entries))
    trip_entries = [
        entry for entry in entries if entry.source == 2 and np.frombuffer(entry.payload, MARKET)[0]["kind"] == Kind.TRIP
    ]
    assert len(trip_entries) == 2
    for source in range(3):
        payload = b"".join(e.payload for e in entries if e.source == source and e not in trip_entries)
        whole = np.concatenate(sent[source])
        if source == 0:
            pairs = np.frombuffer(payload, np.int64).reshape(-1, 2)
            assert pairs.tolist() == np.stack([whole["price"], whole["size"]], axis=1).tolist()
        else:
            assert payload == whole.tobytes()


def test_a_full_journal_segment_comes_back_with_nothing_taken_and_nothing_lost(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    writer = JournalWriter(tmp_path, "execution", "0" * 8, segment_bytes=4096)
    b = bench(in_capacity=256, out_capacity=256, batch=8, journal=writer)
    b.params[p.P_WANTS_TRIP] = 1
    whole = records(1, 200)
    b.feed(whole)
    word = b.control.trip(TripSource.RISK)
    b.control.request_stop(ROLE, Stop.DRAIN)
    rolls = 0
    while (outcome := b.pump()) == p.JOURNAL_FULL:
        assert int(b.state[RECORDS]) == b.inputs[0].consumed + 1, "the trip, and as many records as were released"
        assert sum(count for _, count, _ in b.steps()) == int(b.state[RECORDS])
        writer.prepare_next()
        writer.roll()
        rolls += 1
    assert outcome == p.STOPPED and rolls >= 3
    writer.close()
    entries = list(read_stream(tmp_path, "execution"))
    assert [(entry.source, entry.count) for entry in entries] == [(s, n) for s, n, _ in b.steps()]
    assert entries[0].source == TRIP_SOURCE and np.frombuffer(entries[0].payload, MARKET)[0]["aux"] == word
    assert b"".join(entry.payload for entry in entries[1:]) == whole.tobytes()
    got = b.take()
    assert got[got["kind"] != Kind.TRIP].tobytes() == copied(whole).tobytes()
