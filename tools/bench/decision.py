"""`bench decision`: from the bytes of a frame in hand to the order intent published, or to knowing that there is none.

fused  every frame of a recording through the path that replay runs on (procs/fused.py), PAIRS passes from fresh state;
       each pass must end with the decision hash that `replay` of the same file gives. Percentiles over all frames,
       and apart over the depth frames of at least DEPTH_LEVELS levels that led to an inference, with and without
       intent.
peer   what a decision costs at least with the usual parts, on the same depth frames in the same run:
       orjson.loads + float() of every price and size + session.run of the same model. Nothing else of a decision is
       in it.
auto   the processes and rings of a live engine, fed at 1,000 frames a second as they were recorded, until the intent
       is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from engine.config import Settings
from engine.execution.summary import decision_hash
from models.inference import load_verified, open_session
from procs.fused import FusedPath
from procs.inference import model_path
from procs.journal.layout import Entry
from procs.replay import Source, replay_fused
from procs.replay_processes import replay_auto
from procs.table import Role
from shm.clock import python_monotonic_ns
from tools.bench.frames import RECORDED, RECORDED_MORE, Beginning, Frames, load
from tools.bench.machine import quiet, recording
from tools.bench.report import PAIRS, Ratio, Report, Result, median_ratio, times

DEPTH_LEVELS = 10
GATE = 1.5
FRAMES_A_SECOND = 1000
PEER = "orjson+float+session.run"


@dataclass
class Pass:
    """One pass over all inputs: ns, intents and inferences by input, and the hash at the end."""

    ns: np.ndarray
    intents: np.ndarray
    inferences: np.ndarray
    hash: str


def fused_pass(frames: Frames) -> Pass:
    """Every input of a capture from fresh state."""
    source = frames.source
    path = FusedPath(source.settings, source.instruments, open_loop=True)
    decoder, decide = path.decoder, path.decide
    execution, ml = path.states[Role.EXECUTION][0], path.states[Role.ML][0]
    count = len(frames.entries)
    result = Pass(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), "")
    # Python's own lists and integers in the loop: numpy's items would cost as much as what is measured.
    ns, intents, inferences = [0] * count, [0] * count, [0] * count
    with quiet():
        for index, entry in enumerate(frames.entries):
            if entry.kind == Entry.FRAME:
                started = python_monotonic_ns()
                decide(decoder.frame(entry.payload, entry.ts_ns))
                ns[index] = python_monotonic_ns() - started
            else:
                decide(decoder.apply(entry))
            intents[index] = execution["intents"]
            inferences[index] = ml["predictions"]
    result.ns[:] = ns
    result.intents[:] = np.diff(intents, prepend=0)
    result.inferences[:] = np.diff(inferences, prepend=0)
    result.hash = decision_hash(path.states[Role.EXECUTION])
    return result


def usual_parts(frames: Frames, chosen: np.ndarray) -> np.ndarray:
    """ns of the peer for each chosen input."""
    settings = frames.source.settings
    _, content = load_verified(model_path(settings.model.path), settings.features)
    session = open_session(content)
    given = session.get_inputs()[0]
    feed = {given.name: np.zeros((1, given.shape[1]), np.float32)}
    session.run(None, feed)
    payloads = [frames.entries[index].payload for index in chosen]
    ns = [0] * len(payloads)
    with quiet():
        for place, payload in enumerate(payloads):
            started = python_monotonic_ns()
            data = orjson.loads(payload)["data"]
            for side in (data["b"], data["a"]):
                for price, size in side:
                    float(price)
                    float(size)
            session.run(None, feed)
            ns[place] = python_monotonic_ns() - started
    return np.array(ns, np.int64)


def _hop(name: str, hop: dict[str, Any]) -> Result:
    return Result(name, None, hop["p50"], "us", hop["count"], hop["p50"], hop["p99"], hop["p99_9"], hop["max"])


def measure_fused(report: Report, frames: Frames, name: str = "decision_fused") -> None:
    """PAIRS passes of both into the report; a wrong hash is a finding."""
    expected = replay_fused(frames.source, None)["decision_hash"]
    measured = np.array([entry.kind == Entry.FRAME for entry in frames.entries])
    large = frames.depth & (frames.levels >= DEPTH_LEVELS)
    ours: list[Pass] = []
    theirs: list[np.ndarray] = []
    chosen = np.zeros(0, np.int64)
    for number in range(PAIRS):
        ours.append(fused_pass(frames))
        if ours[-1].hash != expected:
            report.findings.append(f"{name}: pass {number + 1} ends with {ours[-1].hash}, replay with {expected}")
        chosen = np.flatnonzero(large & (ours[-1].inferences > 0))
        theirs.append(usual_parts(frames, chosen))
    every = np.concatenate([one.ns[measured] for one in ours])
    deep = np.concatenate([one.ns[chosen] for one in ours])
    intended = np.concatenate([one.intents[chosen] > 0 for one in ours])
    report.results.append(times(name, None, every, "us"))
    report.results.append(times(f"{name}_depth", None, deep, "us"))
    for label, some in (("intent", deep[intended]), ("no_intent", deep[~intended])):
        if len(some):
            report.results.append(times(f"{name}_depth_{label}", None, some, "us"))
    report.results.append(times(f"{name}_depth", PEER, np.concatenate(theirs), "us"))
    ratio = median_ratio(
        [float(np.median(one.ns[chosen])) for one in ours], [float(np.median(one)) for one in theirs]
    )
    report.ratios.append(Ratio(f"{name}_depth p50", PEER, ratio, GATE, at_most=True))
    without = int(large.sum()) - len(chosen)
    report.notes.append(
        f"{name}: {frames.source.path.name}, {len(ours)} passes of {int(measured.sum())} frames; depth: of at least "
        f"{DEPTH_LEVELS} levels and with an inference ({len(chosen)} a pass, {without} without one left out); "
        f"hash {expected} in every pass and in replay"
        if not report.findings
        else f"{name}: hashes differ"
    )


def measure_auto(report: Report, source: Source) -> None:
    """The processes, at FRAMES_A_SECOND on average; their hash must be that of the fused path."""
    entries = list(source.inputs())
    seconds = (entries[-1].ts_ns - entries[0].ts_ns) / 1e9
    summary = replay_auto(source, FRAMES_A_SECOND * seconds / len(entries))
    expected = replay_fused(source, None)["decision_hash"]
    if summary["decision_hash"] != expected:
        report.findings.append(f"decision_auto: ends with {summary['decision_hash']}, the fused path with {expected}")
    if summary["unaccounted"]:
        report.findings.append(f"decision_auto: {summary['unaccounted']} records are unaccounted for")
    hops = summary["latency_us"]
    for hop in ("decision", "ingestion", "validation", "features", "ml", "execution"):
        if hop in hops:
            report.results.append(_hop("decision_auto" if hop == "decision" else f"hop_{hop}", hops[hop]))
    report.notes.append(
        f"decision_auto: {len(entries)} inputs at {FRAMES_A_SECOND} a second on average, as bursty as recorded, "
        "until an intent is published"
    )


def run(report: Report, settings: Settings, full: bool) -> None:
    """Measure both into the report. Raises BenchError without the recording."""
    path = recording(RECORDED)
    frames = load(path, settings)
    measure_fused(report, frames)
    if full:
        measure_fused(report, load(recording(RECORDED_MORE), settings), "decision_fused_eth")
    whole = frames.source
    most = len(frames.entries) if full else 6 * FRAMES_A_SECOND
    measure_auto(report, Beginning(whole.path, whole.settings, whole.instruments, whole.read, whole.is_session, most))
    report.notes.append(
        "goals, p50/p99 in us: decision_fused 5/15, its depth frames 7/35, decision_auto on two cores 50/150"
    )
