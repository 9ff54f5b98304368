"""The benchmarks: shapes, counts, gates and hashes on tiny sizes; nothing here depends on how long anything takes."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.ingest.kernel import make_ingest_state
from engine.records import Kind
from procs.decoding import Decoder
from procs.replay import replay_fused
from shm.segment import list_segments
from tests.recordings import require_capture
from tools import bench_command
from tools.bench import SUITE_NAMES, decision, kill, python_queues, rings, stages, trips
from tools.bench.disruptor import Disruptor
from tools.bench.frames import RECORDED, Frames, load
from tools.bench.machine import machine_facts, quiet, recording
from tools.bench.pairs import OtherEnd
from tools.bench.report import (
    BenchError,
    Ratio,
    Report,
    as_json,
    as_words,
    median_ratio,
    rate,
    times,
)
from tools.bench.ring_kernels import SUM, read_records
from tools.bench.suites import SUITES, run_suite
from tools.cli import main

CONTRACT = {"name", "peer", "value", "unit", "count", "p50", "p99", "p99_9", "max"}
MOST = 3000  # inputs of the recording; the snapshot is among the first

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes need two cores")


@pytest.fixture(scope="module")
def frames() -> Frames:
    return load(require_capture(RECORDED), Settings(), MOST)


def new_report(name: str = "rings") -> Report:
    return Report(name, *machine_facts())


def names(report: Report) -> set[tuple[str, str | None]]:
    return {(result.name, result.peer) for result in report.results}


# --- reports


def test_times_are_exact_percentiles_by_rank() -> None:
    samples = np.arange(1, 1001)[::-1].copy()
    assert times("x", None, samples, "ns") == times("x", None, np.sort(samples), "ns")
    result = times("x", None, samples, "us")
    assert (result.value, result.p50, result.p99, result.p99_9, result.max) == (0.5, 0.5, 0.99, 0.999, 1.0)
    assert result.count == 1000
    one = times("x", None, np.array([7]), "ns")
    assert (one.p50, one.p99_9, one.max) == (7, 7, 7)
    with pytest.raises(BenchError, match="nothing was measured"):
        times("x", None, np.zeros(0, np.int64), "ns")


def test_a_rate_is_that_of_the_median_pass() -> None:
    result = rate("x", "peer", 1000, [1_000_000_000, 500_000_000, 9_000_000_000], "records/s")
    assert (result.value, result.count, result.p50, result.peer) == (1000.0, 3000, None, "peer")


def test_ratios_and_their_gates() -> None:
    assert median_ratio([1, 2, 30], [1, 1, 10]) == 2
    assert math.isnan(median_ratio([], []))
    assert Ratio("x", "p", 0.8, 0.8).passed and not Ratio("x", "p", 0.79, 0.8).passed
    assert Ratio("x", "p", 1.5, 1.5, at_most=True).passed and not Ratio("x", "p", 1.51, 1.5, at_most=True).passed
    assert Ratio("x", "p", math.nan, None).passed
    assert not Ratio("x", "p", math.nan, 0.8).passed and not Ratio("x", "p", math.nan, 1.5, at_most=True).passed
    with pytest.raises(ValueError, match="argument 2"):
        median_ratio([1.0], [])


def test_a_report_as_json_has_the_keys_of_the_contract() -> None:
    report = new_report()
    report.results = [times("x", None, np.array([1, 2]), "ns"), rate("y", "p", 1, [1], "records/s")]
    report.ratios = [Ratio("x", "p", 0.5, 0.8)]
    plain = orjson.loads(orjson.dumps(as_json(report)))
    assert {"bench", "machine", "versions", "results"} <= set(plain)
    assert all(set(result) == CONTRACT for result in plain["results"])
    assert plain["results"][0]["peer"] is None
    assert {"cpu", "cores", "kernel", "load_before", "load_after"} <= set(plain["machine"])
    assert {"python", "numba"} <= set(plain["versions"])
    assert plain["passed"] is False
    assert "NOT MET" in as_words(report)
    report.ratios = []
    assert report.passed
    report.findings = ["wrong"]
    assert not report.passed


# --- command


def run_command(monkeypatch: pytest.MonkeyPatch, report: Report | BenchError, as_json_: bool = False) -> int:
    def measured(name: str, settings: Settings, full: bool) -> Report:
        if isinstance(report, BenchError):
            raise report
        return report

    monkeypatch.setattr(bench_command, "run_suite", measured)
    options = argparse.Namespace(config=None, suite="rings", full=False, json=as_json_)
    return bench_command.bench_command(options)


def test_the_exit_code_tells_a_missed_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    report = new_report()
    report.ratios = [Ratio("spsc_single", "LMAX Disruptor", 0.9, 0.8)]
    assert run_command(monkeypatch, report, as_json_=True) == 0
    assert orjson.loads(capsys.readouterr().out)["bench"] == "rings"
    report.ratios = [Ratio("spsc_single", "LMAX Disruptor", 0.7, 0.8)]
    assert run_command(monkeypatch, report) == 1
    assert "spsc_single to LMAX Disruptor is 0.70, gate 0.8" in capsys.readouterr().err
    report.ratios, report.findings = [], ["pass 3 ends with another hash"]
    assert run_command(monkeypatch, report) == 1
    assert "another hash" in capsys.readouterr().err
    assert run_command(monkeypatch, BenchError("no recording")) == 1
    assert capsys.readouterr().err == "bot4: bench rings: no recording\n"


def test_an_absent_recording_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("BOT4_RECORDINGS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match="BOT4_RECORDINGS"):
        recording("ws/none.raw.gz")
    assert main(["bench", "book"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("bot4: bench book: no recording") and said.count("\n") == 1


def test_the_command_knows_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(SUITE_NAMES) == set(SUITES)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "everything"])
    assert ended.value.code == 2
    assert "decision" in capsys.readouterr().err


# --- rings


@needs_two_cores
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_records_cross_a_ring_of_any_batch(batch: int) -> None:
    assert rings.stream((0, 1), 20_011, batch, capacity=256) > 0
    assert list_segments(f"bench-{os.getpid()}") == []


@needs_two_cores
def test_a_record_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def misread(control: Any, local: Any, slots: np.ndarray, count: int, batch: int, answer: np.ndarray) -> bool:
        ended = bool(read_records(control, local, slots, count, batch, answer))
        answer[SUM] += 1
        return ended

    monkeypatch.setattr(rings, "read_records", misread)
    with pytest.raises(BenchError, match="disagree"):
        rings.stream((0, 1), 1000, 1, capacity=256)


@needs_two_cores
def test_every_round_trip_is_answered() -> None:
    samples = rings.round_trips((0, 1), 500)
    assert len(samples) == 500 and samples.min() > 0


@needs_two_cores
@pytest.mark.parametrize("kind", python_queues.QUEUES)
@pytest.mark.parametrize("batched", [False, True])
def test_every_queue_passes_the_same_records(kind: type[python_queues.Queue], batched: bool) -> None:
    queue = kind()
    try:
        assert queue.version is None or queue.version[0].isdigit()
    except BenchError as error:
        pytest.skip(str(error))
    assert python_queues.measure(queue, (0, 1), 2048, batched) > 0
    with pytest.raises(BenchError, match="multiple"):
        python_queues.measure(queue, (0, 1), 1000, batched)


@needs_two_cores
def test_the_disruptor_passes_the_same_records() -> None:
    if shutil.which("javac") is None:
        pytest.skip("no javac")
    try:
        peer = Disruptor(256, (0, 1), warm_up=())
    except BenchError as error:
        pytest.skip(str(error))
    try:
        assert peer.ask("single 5000") > 0
        assert peer.ask("batch 5000 7") > 0
        with pytest.raises(BenchError, match="died"):
            peer.ask("nonsense")
    finally:
        peer.close()


def test_a_child_that_fails_or_hangs_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(answer: np.ndarray, ready: Callable[[], None]) -> None:
        raise BenchError("on purpose")

    core = min(os.sched_getaffinity(0))
    with pytest.raises(BenchError, match="failed with 1"), OtherEnd(core, fail) as other:
        other.wait_ready()
    assert "on purpose" in capfd.readouterr().err

    def leave(answer: np.ndarray, ready: Callable[[], None]) -> None:
        answer[SUM] = 7

    with pytest.raises(BenchError, match="before it was ready"), OtherEnd(core, leave) as other:
        other.wait_ready()
    with OtherEnd(core, leave) as other:
        other.join()
    assert other.answer[SUM] == 7


# --- the path


def test_quiet_gives_everything_back() -> None:
    before = os.sched_getaffinity(0)
    with quiet():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.recordings
def test_frames_know_their_levels(frames: Frames) -> None:
    assert len(frames.entries) == MOST
    assert frames.depth.sum() > 50 and (frames.levels[frames.depth] >= 1).all()
    depth = int(np.flatnonzero(frames.depth)[0])
    data = orjson.loads(frames.entries[depth].payload)["data"]
    assert frames.levels[depth] == len(data["b"]) + len(data["a"])


@pytest.mark.recordings
def test_every_pass_decides_what_replay_decides(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = replay_fused(frames.source, None)
    one, two = decision.fused_pass(frames), decision.fused_pass(frames)
    assert one.hash == two.hash == expected["decision_hash"]
    assert one.intents.sum() == expected["decisions"]["intents"] > 0
    assert one.inferences.sum() > 50
    assert (one.intents[one.inferences == 0] == 0).sum() > 0

    monkeypatch.setattr(decision, "PAIRS", 2)
    report = new_report("decision")
    decision.measure_fused(report, frames)
    assert not report.findings
    assert {
        ("decision_fused", None), ("decision_fused_depth", None), ("decision_fused_depth", decision.PEER),
        ("decision_fused_depth_no_intent", None),
    } <= names(report)
    by_name = {(result.name, result.peer): result for result in report.results}
    frame_count = sum(entry.kind == 1 for entry in frames.entries)
    assert by_name[("decision_fused", None)].count in (2 * frame_count, 2 * (frame_count - 1))
    deep = by_name[("decision_fused_depth", None)].count
    assert deep == by_name[("decision_fused_depth", decision.PEER)].count > 0
    assert deep == sum(by_name[key].count for key in by_name if key[0].startswith("decision_fused_depth_"))
    assert report.ratios[0].gate == 1.5 and report.ratios[0].at_most

    monkeypatch.setattr(decision, "replay_fused", lambda source, speed: {"decision_hash": "another"})
    report = new_report("decision")
    decision.measure_fused(report, frames)
    assert len(report.findings) == 2 and not report.passed


@pytest.mark.recordings
@needs_two_cores
def test_the_processes_decide_the_same_at_a_pace(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "FRAMES_A_SECOND", 3000)
    report = new_report("decision")
    decision.measure_auto(report, frames.source)
    assert report.findings == []
    assert ("decision_auto", None) in names(report)


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (
            stages.decode,
            {
                "decode_binance_usdm_depth", "decode_binance_usdm_trade", "decode_binance_usdm_book_ticker",
                "depth_to_book",
            },
        ),
        (stages.decoder, {"ingest_decoder", "ingest_decoder_frame"}),
        (stages.book, set(stages.BOOKS)),
        (stages.features, {"validation", "features", "features_vector"}),
    ],
)
def test_suites_of_single_parts(
    suite: Callable[[Report, Settings, bool], None], expected: set[str], frames: Frames,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "_frames", lambda settings, full: frames)
    monkeypatch.setattr(stages, "load", lambda path, settings: frames)
    monkeypatch.setattr(stages, "PAIRS", 2)
    report = new_report("book")
    suite(report, Settings(), False)
    assert {result.name for result in report.results} == expected
    assert all(result.value > 0 and result.count >= 2 for result in report.results) and report.findings == []


@pytest.mark.recordings
def test_counts_of_single_parts_are_those_of_the_recording(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_frames", lambda settings, full: frames)
    monkeypatch.setattr(stages, "PAIRS", 2)
    report = new_report("decode")
    stages.decode(report, Settings(), False)
    counted = {result.name: result.count for result in report.results if result.peer is None}
    assert counted["decode_binance_usdm_depth"] == 2 * int(frames.levels[frames.depth].sum())
    report = new_report("book")
    stages.apply_levels(report, "book", frames)
    assert report.findings == []
    state = make_ingest_state(frames.source.instruments)
    decoder = Decoder(state, frames.source.instruments)
    levels = 0
    for entry in frames.entries:
        levels += int((decoder.records[: decoder.apply(entry)]["kind"] == Kind.LEVEL).sum())
    assert report.results[0].count == 2 * levels

    held = stages.book_levels
    monkeypatch.setattr(stages, "book_levels", lambda book: [dict(list(side.items())[1:]) for side in held(book)])
    stages.apply_levels(report, "book", frames)
    assert report.findings == ["book: the book is not that of the recording"], "one level fewer"


@pytest.mark.recordings
def test_inference_beside_session_run(monkeypatch: pytest.MonkeyPatch) -> None:
    require_capture(RECORDED)
    monkeypatch.setattr(stages, "CALLS", 200)
    report = run_suite("inference", Settings(), full=False)
    assert names(report) == {("inference", None), ("inference", "session.run")}


@pytest.mark.session
def test_an_engine_is_tripped_and_comes_back_the_real_way() -> None:
    """Twice: the second trip is of an engine that was reset."""
    report = Report("kill")
    trips.run(report, 2)
    assert names(report) == {(name, None) for name in ("kill_word", "kill_seen", "kill_wire")} | {
        (f"kill_seen_{role.label}", None) for role in trips.HOT
    }
    for result in report.results:
        assert result.count == 2 and 0 < result.p50 <= result.p99 <= result.max and result.unit == "ms"
    assert len(trips.HOT) == 5


@needs_two_cores
@pytest.mark.parametrize("asleep", [False, True])
def test_every_trip_is_seen(asleep: bool) -> None:
    ns = kill.seen((0, 1), 20, asleep)
    assert len(ns) == 20 and ns.min() > 0
    assert list_segments(f"bench-{os.getpid()}") == []
