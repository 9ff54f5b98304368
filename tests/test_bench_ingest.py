"""`bench ingest`: a recording that goes round, and the sockets, processes and rings that it goes through."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.records import MARKET, SOURCE_MAIN
from engine.stage import as_bytes
from engine.validation.settings import ValidationSettings
from engine.validation.step import VALIDATION
from procs.decoding import Decoder
from procs.states import initial_states
from procs.table import Role
from tests.recordings import require_capture
from tools.bench import ingest, lap, stages
from tools.bench.frames import RECORDED, Frames, load
from tools.bench.lap import FRAMES, LEVELS, ORDER, PORT, Lap
from tools.bench.pairs import OtherEnd
from tools.bench.report import BenchError, Report

pytestmark = pytest.mark.recordings
MOST = 3000  # inputs of the recording; the snapshot is among the first
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes on one core")


@pytest.fixture(scope="module")
def frames() -> Frames:
    return load(require_capture(RECORDED), Settings(), MOST)


@pytest.fixture(scope="module")
def small(frames: Frames) -> Lap:
    return Lap(frames.entries)


def unwired(data: bytes) -> Iterator[bytes]:
    """The payloads of text frames that lie one behind the other."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81
        size, at = data[at + 1], at + 2
        if size in (126, 127):
            more = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + more], "big"), at + more
        yield data[at : at + size]
        at += size


def test_frames_of_any_length_as_a_server_sends_them() -> None:
    payloads = [b"x" * size for size in (1, 125, 126, 65_535, 65_536)]
    assert list(unwired(b"".join(map(lap.wire, payloads)))) == payloads


def test_laps_follow_on_each_other_and_lead_the_book_back(frames: Frames, small: Lap) -> None:
    """Three laps through decoding and validation: no gap, no duplicate, no refusal; each ends with the snapshot."""
    (item,) = frames.source.instruments
    settings = Settings(validation=ValidationSettings(ticker_audit=False))  # no ticker tells of what leads a book back
    states = initial_states(settings, (item,))
    decoder = Decoder(states[Role.INGESTION], (item,))
    room, routes = np.zeros(1 << 13, MARKET), np.zeros(1 << 13, np.uint8)
    now = 1_700_000_000_000_000_000

    def validate(count: int) -> None:
        VALIDATION.step(
            as_bytes(states[Role.VALIDATION]), SOURCE_MAIN, decoder.outbox, count, as_bytes(room), routes
        )

    validate(decoder.start(now))
    validate(decoder.snapshot(0, small.snapshot, now))
    row, book = states[Role.INGESTION][0], states[Role.VALIDATION]["books"][0, 0]
    begin = stages.book_levels(book)
    assert begin == ingest.book_in_units(small.book(0), item) and sum(map(len, begin)) == 2000
    told, sent, chunks = 0, 0, small.chunks()
    for number in range(1, 4):
        while sent < number * len(small.frames):
            data, count, levels = next(chunks)
            payloads = list(unwired(bytes(data)))
            assert len(payloads) == count
            for payload in payloads:
                now += 1000
                validate(decoder.frame(payload, now))
                assert not decoder.refused
            sent, told = sent + count, told + levels
        assert sent == number * len(small.frames) == number * len(small.levels)
        assert stages.book_levels(book) == begin
    assert int(row["gaps"]) == 0 and not row["dropped"].any() and not row["quarantined"].any()
    assert int(row["level_updates"]) == told == 3 * int(small.levels.sum()) > 20_000
    assert not states[Role.VALIDATION]["quarantined"].any() and not states[Role.VALIDATION]["dropped"].any()
    middle = len(small.frames) // 2
    assert small.book(middle) != small.book(0)


def test_only_ids_change_from_lap_to_lap(small: Lap) -> None:
    chunks = small.chunks()
    laps: list[list[bytes]] = []
    for _ in range(2):
        laps.append([])
        while len(laps[-1]) < len(small.frames):
            laps[-1] += unwired(bytes(next(chunks)[0]))
    assert laps[0] == small.frames
    for before, after in zip(*laps, strict=True):
        one, other = orjson.loads(before)["data"], orjson.loads(after)["data"]
        changed = {key for key in one if one[key] != other[key]}
        assert changed == {"depthUpdate": {"U", "u", "pu"}, "bookTicker": {"u"}, "trade": {"t"}}[one["e"]]
        assert all(other[key] > one[key] for key in changed)


def test_a_recording_without_a_snapshot_is_none_to_begin_with(frames: Frames) -> None:
    with pytest.raises(BenchError, match="no snapshot"):
        Lap([entry for entry in frames.entries if b'"lastUpdateId"' not in entry.payload[:40]])


@needs_two_cores
def test_everything_sent_arrives_and_is_accounted_for(frames: Frames, small: Lap) -> None:
    report = Report("ingest")
    ingest.through_sockets(report, Settings(), small, frames.source.instruments[0], 1.0)
    assert report.findings == []
    figures = {result.name: result for result in report.results}
    assert figures["ingest"].value > 1000 and figures["ingest_frames"].count > 1000
    assert {name.removeprefix("ingest_cpu_") for name in figures if "_cpu_" in name} == {
        "ingestion", "validation", "features", "source",
    }
    assert "unaccounted 0" in report.notes[0]


@needs_two_cores
@pytest.mark.parametrize("word", [FRAMES, LEVELS])
def test_what_does_not_arrive_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, frames: Frames, small: Lap, word: int
) -> None:
    """The source says of one frame, or of one level, more than it sent."""
    serve = lap.serve

    def lying(source: Lap, words: np.ndarray, ready: Callable[[], None]) -> None:
        words[word] += 1
        serve(source, words, ready)

    monkeypatch.setattr(ingest, "serve", lying)
    monkeypatch.setattr(ingest, "_PATIENCE_S", 2.0)
    report = Report("ingest")
    ingest.through_sockets(report, Settings(), small, frames.source.instruments[0], 0.2)
    assert not report.passed and any("unaccounted" in finding for finding in report.findings)


@needs_two_cores
def test_a_process_that_ends_early_is_said(
    monkeypatch: pytest.MonkeyPatch, frames: Frames, small: Lap
) -> None:
    def fail(context: object, counts: object) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(ingest, "_drain", fail)
    with pytest.raises(BenchError, match="features ended with exit code 1 early: ValueError: on purpose"):
        ingest.through_sockets(Report("ingest"), Settings(), small, frames.source.instruments[0], 0.2)


@needs_two_cores
def test_only_one_snapshot_is_given(small: Lap) -> None:
    with OtherEnd(min(os.sched_getaffinity(0)), lambda words, ready: lap.serve(small, words, ready)) as source:
        source.wait_ready()
        answers = []
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", int(source.answer[PORT])), timeout=10) as connection:
                connection.sendall(b"GET /fapi/v1/depth?symbol=BTCUSDT HTTP/1.1\r\n\r\n")
                answers.append(b"".join(iter(lambda c=connection: c.recv(1 << 16), b"")))  # type: ignore[misc]
        source.answer[ORDER] = lap.END
    assert answers[0].startswith(b"HTTP/1.1 200 ") and answers[0].endswith(small.snapshot)
    assert answers[1].startswith(b"HTTP/1.1 503 ")
