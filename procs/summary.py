"""The summary of a session or a replay: one dict with the keys of the command-line contract.

Everything comes from shared memory: states, ring cursors, histograms. `unaccounted` adds up what balances nowhere:
a stage whose counters do not sum to its inputs, a ring whose two ends disagree with the stages beside it.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from engine.config import config_hash
from engine.execution.summary import execution_summary, reason_counts
from engine.validation.state import book_valid_ratio
from procs import VERSION
from procs.instance import Mapping
from procs.table import PROCESS_BY_ROLE, RINGS, Role
from shm.histogram import summary as histogram_summary

_LIBRARIES = ("numpy", "numba", "llvmlite", "onnxruntime", "ccxt", "picows", "orjson")
STAGES = (Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML, Role.EXECUTION, Role.GATEWAY)
# Hops by name: role and histogram. "decision" is frame in hand -> intent published, "wire" intent's frame -> bytes out.
HOPS = {
    "ingestion": (Role.INGESTION, "hop"),
    "validation": (Role.VALIDATION, "hop"),
    "features": (Role.FEATURES, "hop"),
    "ml": (Role.ML, "hop"),
    "execution": (Role.EXECUTION, "hop"),
    "decision": (Role.EXECUTION, "origin"),
    "wire": (Role.GATEWAY, "origin"),
}


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


def stage_account(state: np.ndarray, consumed: int, published: int) -> dict[str, Any]:
    """in = processed + quarantined + dropped + in_flight of one stage; out is what its rings say was produced."""
    row = state[0]
    quarantined, dropped = reason_counts(row["quarantined"]), reason_counts(row["dropped"])
    names = row.dtype.names or ()
    return {
        "in": consumed, "processed": int(row["processed"]),
        "in_flight": int(row["pending_frames"]) if "pending_frames" in names else 0,
        "quarantined": quarantined, "dropped": dropped, "out": published,
    }


def _stages(states: dict[Role, np.ndarray], rings: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The account of every stage, and how many records balance nowhere."""
    stages: dict[str, Any] = {}
    unaccounted = 0
    for role, state in states.items():
        spec = PROCESS_BY_ROLE[role]
        row = state[0]
        taken = sum(rings[name]["consumed"] for name in spec.inputs if name in rings)
        if not spec.inputs:
            taken = int(row["records_in"])
        # The trip that a stage's pump inserts comes from no ring.
        inserted = int(row["records_in"]) - taken if role == Role.EXECUTION and "tripped" in row.dtype.names else 0
        published = sum(rings[name]["produced"] for name in spec.outputs if name in rings)
        account = stage_account(state, taken + inserted, published)
        stages[role.label] = account
        balance = account["processed"] + account["in_flight"]
        balance += sum(account["quarantined"].values()) + sum(account["dropped"].values())
        unaccounted += abs(account["in"] - balance) + (abs(inserted) if inserted not in (0, 1) else 0)
        unaccounted += abs(int(row["records_in"]) - account["in"])
        if any(name in rings for name in spec.outputs):
            refused = sum(rings[name]["dropped"] for name in spec.outputs)
            unaccounted += abs(int(row["out"]) - published - refused)
    return stages, unaccounted


def ring_counts(mapping: Mapping, names: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Cursors of the named rings, and how many records balance nowhere."""
    rings: dict[str, Any] = {}
    unaccounted = 0
    for name in names:
        ring = mapping.ring(name)
        consumed, produced, dropped = ring.consumed, ring.produced, ring.dropped
        in_flight = ring.in_flight
        rings[name] = {
            "capacity": ring.capacity, "produced": produced, "consumed": consumed, "dropped": dropped,
            "in_flight": in_flight,
        }
        unaccounted += abs(produced - consumed - in_flight)
    return rings, unaccounted


def market_summary(states: dict[Role, np.ndarray]) -> dict[str, Any]:
    """Counters of the market data from the states of ingestion, validation and features."""
    row = states[Role.INGESTION][0]
    keys = (
        "frames", "events", "level_updates", "snapshot_levels", "trades", "book_tickers", "funding", "liquidations",
        "gaps", "resyncs",
    )
    return {
        **{key: int(row[key]) for key in keys},
        # The venue of this dialect sends no checksums: none is verified, none can fail.
        "checksums_verified": 0, "checksums_failed": 0,
        "crossed_books": int(states[Role.FEATURES]["crossed_books"][0]),
        "book_valid_ratio": float(book_valid_ratio(states[Role.VALIDATION])),
    }


def latency_summary(histograms: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """{hop: {count, p50, p99, p99_9, max}} in microseconds; hops that nothing passed are left out."""
    result: dict[str, dict[str, float]] = {}
    for hop, histogram in histograms.items():
        values = histogram_summary(histogram)
        if values["count"]:
            result[hop] = {
                "count": values["count"], **{key: values[key] / 1000 for key in ("p50", "p99", "p99_9", "max")}
            }
    return result


def memory_summary(memory: dict[str, int]) -> dict[str, float]:
    """PSS in MB by process, and the total, from bytes by process."""
    return {name: round(size / 2**20, 1) for name, size in [*memory.items(), ("total", sum(memory.values()))]}


def summarise(
    mapping: Mapping, duration_s: float, memory: dict[str, int], mode: str
) -> dict[str, Any]:
    """The summary of an instance at rest. memory: PSS in bytes by process."""
    plan = mapping.plan
    states = {role: mapping.state(role) for role in STAGES}
    rings, off_rings = ring_counts(mapping, tuple(spec.name for spec in RINGS))
    stages, off_stages = _stages(states, rings)
    histograms = {hop: mapping.histogram(role, kind) for hop, (role, kind) in HOPS.items()}
    return {
        "engine": {
            "version": VERSION, "config_hash": config_hash(plan.settings), "kernel_digest": plan.kernel_digest,
            "mode": mode, "placement": plan.settings.engine.placement, "duration_s": round(duration_s, 3),
            "session": plan.session, "folder": plan.folder,
        },
        "stages": stages,
        "rings": rings,
        "unaccounted": off_rings + off_stages,
        "market": market_summary(states),
        **execution_summary(states[Role.EXECUTION], plan.instruments),
        "latency_us": latency_summary(histograms),
        "memory_mb": memory_summary(memory),
    }
