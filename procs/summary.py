"""The summary of a session or a replay: one dict with the keys of the command-line contract.

Everything comes from shared memory: states, ring cursors, histograms. `unaccounted` adds up what balances nowhere:
a stage whose counters do not sum to its inputs, a ring whose two ends disagree with the stages beside it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Settings, config_hash
from engine.execution.summary import execution_summary, reason_counts, strategy_summary
from engine.ingest.dialects import market_counts, waiting_frames
from engine.instruments import Instrument
from engine.kernel import kernel_digest
from engine.validation.state import book_valid_ratio, validation_rate
from procs import VERSION
from procs.instance import LAPPED, READ, Mapping, follower_place
from procs.journal.index import read_indexes
from procs.quarantine import quarantine_summary
from procs.table import HOPS, PATH, PROCESS_BY_ROLE, STREAMS, Role
from shm.atomics import load_acquire
from shm.histogram import summary as histogram_summary

_LIBRARIES = ("numpy", "numba", "llvmlite", "onnxruntime", "ccxt", "picows", "orjson")
PERCENTILE_KEYS = ("p50", "p99", "p99_9", "max")


def machine_versions() -> dict[str, str]:
    """What a replay elsewhere would have to match."""
    return {
        "python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release(),
        "cpu": _cpu_model(), **{name: version(name) for name in _LIBRARIES},
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return "unknown"


def stage_accounts(
    states: dict[Role, np.ndarray], rings: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The account of every stage, and how many records balance nowhere.

    in = processed + quarantined + dropped + in_flight; out is what the stage's rings say was produced. Where there is
    no ring between two stages (a fused replay) what one put out must be what the next took in. Some inputs come from no
    ring: private frames, which a gateway counts when it refuses them; in a replay those of execution, else the TRIP and
    BACKLOG records that its pump inserts.
    """
    stages: dict[str, Any] = {}
    unaccounted = 0
    before = 0
    for role, state in states.items():
        row = state[0]
        names = PROCESS_BY_ROLE[role].inputs
        inputs = [rings[name] for name in names if name in rings]
        outputs = [rings[name] for name in PROCESS_BY_ROLE[role].outputs if name in rings]
        taken, written = int(row["records_in"]), int(row["out"])
        quarantined, dropped = reason_counts(row["quarantined"]), reason_counts(row["dropped"])
        in_flight = waiting_frames(row) if role == Role.INGESTION else 0
        stages[role.label] = {
            "in": taken, "processed": int(row["processed"]), "in_flight": in_flight, "quarantined": quarantined,
            "dropped": dropped, "out": sum(ring["produced"] for ring in outputs) if outputs else written,
        }
        balance = int(row["processed"]) + in_flight + sum(quarantined.values()) + sum(dropped.values())
        unaccounted += abs(taken - balance)
        if inputs:
            surplus = taken - sum(ring["consumed"] for ring in inputs)
            allowed = 0
            if role == Role.EXECUTION:
                allowed = int(row["trips"] + row["backlogs"]) if "commands" in rings else surplus
            elif role == Role.GATEWAY:
                allowed = sum(quarantined.values())
            unaccounted += max(-surplus, surplus - allowed, 0)
        elif role not in (Role.INGESTION, Role.EXECUTION):
            unaccounted += abs(taken - before)
        if outputs:
            unaccounted += abs(written - sum(ring["produced"] for ring in outputs))
        before = written
    return stages, unaccounted


def ring_counts(mapping: Mapping, names: tuple[str, ...]) -> dict[str, Any]:
    """Cursors of the named rings; consumed is read first, so nothing in flight is ever negative."""
    rings: dict[str, Any] = {}
    for name in names:
        ring = mapping.ring(name)
        consumed = ring.consumed
        produced = ring.produced
        rings[name] = {
            "capacity": ring.capacity, "produced": produced, "consumed": consumed, "in_flight": produced - consumed,
            "dropped": ring.dropped,
        }
    return rings


def market_summary(states: dict[Role, np.ndarray]) -> dict[str, Any]:
    """Counters of the market data from the states of ingestion, validation and features."""
    checks = states[Role.VALIDATION]["checks"]
    return {
        **market_counts(states[Role.INGESTION][0]),
        "checksums_verified": int(checks["verified"].sum()), "checksums_failed": int(checks["mismatched"].sum()),
        # Books that were crossed: those that validation found, and any that it let pass to the features.
        "crossed_books": int(checks["crossed"].sum()) + int(states[Role.FEATURES]["crossed_books"][0]),
        "book_valid_ratio": float(book_valid_ratio(states[Role.VALIDATION])),
        "validation_rate": validation_rate(states[Role.VALIDATION]),
    }


def latency_summary(histograms: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """{hop: {count, p50, p99, p99_9, max}} in microseconds; hops that nothing passed are left out."""
    result: dict[str, dict[str, float]] = {}
    for hop, histogram in histograms.items():
        values = histogram_summary(histogram)
        if values["count"]:
            result[hop] = {"count": values["count"], **{key: values[key] / 1000 for key in PERCENTILE_KEYS}}
    return result


def memory_summary(memory: dict[str, int]) -> dict[str, float]:
    """PSS in MB by process, and the total, from bytes by process."""
    return {name: round(size / 2**20, 1) for name, size in [*memory.items(), ("total", sum(memory.values()))]}


def report(
    engine: dict[str, Any],
    settings: Settings,
    instruments: Sequence[Instrument],
    states: dict[Role, np.ndarray],
    rings: dict[str, Any],
    histograms: dict[str, np.ndarray],
    memory: dict[str, int],
) -> dict[str, Any]:
    """The keys that every summary has. engine: what its first key says beside versions; memory: PSS by process."""
    stages, unaccounted = stage_accounts(states, rings)
    unaccounted += sum(abs(ring["produced"] - ring["consumed"] - ring["in_flight"]) for ring in rings.values())
    return {
        "engine": {
            "version": VERSION, "config_hash": config_hash(settings), "kernel_digest": kernel_digest(), **engine,
        },
        "stages": stages,
        "rings": rings,
        "unaccounted": unaccounted,
        "market": market_summary(states),
        **execution_summary(states[Role.EXECUTION], instruments),
        "strategies": by_strategy(states[Role.EXECUTION], settings, instruments),
        "latency_us": latency_summary(histograms),
        "memory_mb": memory_summary(memory),
    }


def by_strategy(execution: np.ndarray, settings: Settings, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """What each strategy of a session decided and holds (strategy_summary); without any configured it is the maker."""
    return strategy_summary(execution, list(settings.strategies) or ["maker"], instruments)


def summarise(mapping: Mapping, duration_s: float, memory: dict[str, int], mode: str) -> dict[str, Any]:
    """The summary of an instance at rest."""
    plan = mapping.plan
    engine = {
        "mode": mode, "placement": plan.settings.engine.placement, "duration_s": round(duration_s, 3),
        "session": plan.session, "folder": plan.folder,
    }
    states = {role: mapping.state(role) for role in PATH}
    rings = ring_counts(mapping, tuple(spec.name for spec in plan.rings))
    found = report(engine, plan.settings, plan.instruments, states, rings, hop_histograms(mapping), memory)
    return found | {
        "rate_budget": mapping.budget().report(), "followers": follower_counts(mapping),
        "journal": journal_summary(plan.path),
        "quarantine": quarantine_summary(plan.path, refusals(states)),
    }


def refusals(states: dict[Role, np.ndarray]) -> dict[str, int]:
    """What ingestion (frames) and validation (records) refused, by stage."""
    return {role.label: int(states[role]["quarantined"].sum()) for role in (Role.INGESTION, Role.VALIDATION)}


def follower_counts(mapping: Mapping) -> dict[str, dict[str, dict[str, int]]]:
    """{process: {ring: {read, lapped}}} of those who look at rings without being waited for."""
    counts = mapping.follower_counts()
    result: dict[str, dict[str, dict[str, int]]] = {}
    for process in mapping.plan.processes:
        for name in process.follows:
            place = follower_place(process.role, name)
            read, lapped = (int(load_acquire(counts, place + word)) for word in (READ, LAPPED))
            result.setdefault(process.role.label, {})[name] = {"read": read, "lapped": lapped}
    return result


def journal_summary(folder: Path) -> dict[str, dict[str, int]]:
    """{stream: {segments, entries, frames}} as far as the journals of a session are indexed."""
    result = {}
    for stream in STREAMS:
        if indexes := read_indexes(folder, stream):
            last = indexes[-1].last
            result[stream] = {"segments": len(indexes), "entries": last.ordinal, "frames": last.ingest_id}
    return result


def hop_histograms(mapping: Mapping) -> dict[str, np.ndarray]:
    """The histogram of every hop."""
    return {hop: mapping.histogram(role, kind) for hop, (role, kind) in HOPS.items()}
