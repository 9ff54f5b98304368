"""The metrics block: the latest state of an engine in one record, for people, consoles and alerts.

Monitoring writes it once a second through a sequence lock; whoever maps the instance reads it, never torn. Nothing that
trades reads it. All fields are words of 8 bytes. `as_plain` is the form that reports and metrics.jsonl share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.instruments import MAX_INSTRUMENTS, Instrument
from engine.records import OUTPUT_COUNT
from engine.safety.mode import Mode, mode_of
from engine.units import MONEY_EXP, format_units
from procs.feed_counts import FEED_COUNTS
from procs.table import HOPS, RING_BY_NAME, STRATEGIES, Role
from shm.control import Readiness
from shm.seqlock import seqlock_bytes

RING_METRICS = np.dtype(
    [("produced", "<i8"), ("consumed", "<i8"), ("dropped", "<i8"), ("capacity", "<i8"), ("per_second", "<f8")]
)
# Of the last interval, in ns.
HOP_METRICS = np.dtype([("count", "<i8"), ("p50", "<i8"), ("p99", "<i8"), ("p99_9", "<i8"), ("max", "<i8")])
PROCESS_METRICS = np.dtype(
    [
        ("pid", "<i8"),  # 0: there is none now
        ("readiness", "<i8"),  # Readiness
        ("heartbeat_age_ns", "<i8"),  # -1 before the first
        ("progress", "<i8"),
        ("per_second", "<f8"),  # progress
        ("restarts", "<i8"),  # deaths that the supervisor saw
        ("pss_bytes", "<i8"),  # at most some seconds old
        ("descriptors", "<i8"),
    ]
)
# Records of validation; in = accepted + quarantined + dropped, but for what it is at while it is looked at.
VALIDATION_METRICS = np.dtype(
    [(name, "<i8") for name in ("in", "accepted", "quarantined", "dropped", "checksums_verified", "checksums_failed")]
)
INSTRUMENT_METRICS = np.dtype(
    [
        ("bid_price", "<i8"), ("bid_size", "<i8"), ("ask_price", "<i8"), ("ask_size", "<i8"),  # own units, 0: none
        ("trade_price", "<i8"),  # of the last public trade
        ("position", "<i8"),  # size units, signed
        ("unrealised", "<i8"),  # 1e-8 quote
        ("output", "<f8", (OUTPUT_COUNT,)),  # of the model, last
        ("book_valid_ns", "<i8"), ("book_ns", "<i8"),  # with a valid book, since the first record
        ("books_lost", "<i8"),  # how often a valid book became invalid
        ("audits_agreed", "<i8"), ("audits_disagreed", "<i8"),  # of the book with the venue's ticker
        ("rest_audits_agreed", "<i8"), ("rest_audits_disagreed", "<i8"),  # of the book with snapshots of REST
        ("rest_audits_without_verdict", "<i8"),
    ]
)
REST_AUDITS = ("rest_audits_agreed", "rest_audits_disagreed", "rest_audits_without_verdict")
# Of ingestion's connections, and of the venue's clock.
FEED_METRICS = np.dtype(
    [(name, "<i8") for name in FEED_COUNTS] + [
        ("venue_lag_ns", "<i8"),  # the least that the venue's stamps were behind our receipt of late; may be negative
        ("venue_lag_known", "<i8"),  # 1: venue_lag_ns says something
    ]
)
# What passed since the engine started, as the followers saw it.
SEEN = ("trades", "predictions", "orders", "fills")
METRICS = np.dtype(
    [
        ("at_ns", "<i8"),  # session time
        ("interval_ns", "<i8"),  # since the metrics before; 0 in the first of a monitoring process
        ("emergency_word", "<i8"),
        ("mode", "<i8"),  # Mode
        ("frames", "<i8"),
        ("frames_per_second", "<f8"),
        ("feed", FEED_METRICS),
        ("signals", "<i8"), ("intents", "<i8"), ("sent", "<i8"), ("open_orders", "<i8"), ("fills", "<i8"),
        ("realised", "<i8"), ("unrealised", "<i8"), ("fees", "<i8"), ("funding", "<i8"), ("balance", "<i8"),
        ("seen", "<i8", (len(SEEN),)),
        ("validation", VALIDATION_METRICS),
        ("rings", RING_METRICS, (len(RING_BY_NAME),)),  # in that order; no capacity: it is not there
        ("hops", HOP_METRICS, (len(HOPS),)),
        ("processes", PROCESS_METRICS, (len(Role),)),
        ("instruments", INSTRUMENT_METRICS, (MAX_INSTRUMENTS,)),
    ]
)  # fmt: skip
METRICS_WORDS = seqlock_bytes(METRICS) // 8


def mode_name(value: int, emergency_word: int) -> str:
    """The mode in force; what is not known, and any emergency word, reads EMERGENCY."""
    return (Mode.EMERGENCY if emergency_word else mode_of(value)).name


def _readiness(value: int) -> str:
    known = value in Readiness._value2member_map_
    return (Readiness(value) if known else Readiness.STARTING).name.lower()


def as_plain(metrics: np.void, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """A METRICS record as JSON has it: times in ms, latencies in us, memory in MB, prices and amounts as text."""

    def money(field: str) -> str:
        return format_units(int(metrics[field]), MONEY_EXP)

    return {
        "at_ns": int(metrics["at_ns"]),
        "interval_ms": round(int(metrics["interval_ns"]) / 1e6, 1),
        "mode": mode_name(int(metrics["mode"]), int(metrics["emergency_word"])),
        "emergency_word": int(metrics["emergency_word"]),
        "frames": int(metrics["frames"]),
        "frames_per_second": round(float(metrics["frames_per_second"]), 1),
        "feed": _feed(metrics["feed"]),
        **{key: int(metrics[key]) for key in ("signals", "intents", "sent", "open_orders", "fills")},
        "pnl": {key: money(key) for key in ("realised", "unrealised", "fees", "funding")},
        "cash": money("balance"),
        "seen": {name: int(metrics["seen"][place]) for place, name in enumerate(SEEN)},
        "validation": _validation(metrics["validation"]),
        "rings": {
            name: _ring(row) for name, row in zip(RING_BY_NAME, metrics["rings"], strict=True) if row["capacity"]
        },
        "latency_us": {
            hop: {"count": int(row["count"]), **{key: int(row[key]) / 1000 for key in ("p50", "p99", "p99_9", "max")}}
            for hop, row in zip(HOPS, metrics["hops"], strict=True)
            if row["count"]
        },
        "processes": {
            role.label: _process(metrics["processes"][role])
            for role in Role
            if role not in STRATEGIES or metrics["processes"][role]["pid"] or metrics["processes"][role]["restarts"]
        },
        "instruments": {item.symbol: _instrument(metrics["instruments"][item.index], item) for item in instruments},
    }


def _feed(row: np.void) -> dict[str, Any]:
    lag = round(int(row["venue_lag_ns"]) / 1e6, 3) if row["venue_lag_known"] else None
    return {name: int(row[name]) for name in FEED_COUNTS} | {"venue_lag_ms": lag}


def _validation(row: np.void) -> dict[str, Any]:
    counts = {name: int(row[name]) for name in VALIDATION_METRICS.names or ()}
    rate = counts["accepted"] / counts["in"] if counts["in"] else 1.0
    return counts | {"rate": round(rate, 6)}


def _ring(row: np.void) -> dict[str, Any]:
    in_flight = int(row["produced"] - row["consumed"])
    fill = in_flight / int(row["capacity"]) if row["capacity"] else 0.0
    return {
        **{key: int(row[key]) for key in ("produced", "consumed", "dropped")},
        "in_flight": in_flight, "fill": round(fill, 4), "per_second": round(float(row["per_second"]), 1),
    }


def _process(row: np.void) -> dict[str, Any]:
    age = int(row["heartbeat_age_ns"])
    return {
        "pid": int(row["pid"]), "readiness": _readiness(int(row["readiness"])),
        "heartbeat_age_ms": None if age < 0 else round(age / 1e6, 1), "progress": int(row["progress"]),
        "per_second": round(float(row["per_second"]), 1), "restarts": int(row["restarts"]),
        "pss_mb": round(int(row["pss_bytes"]) / 2**20, 1), "descriptors": int(row["descriptors"]),
    }


def _hours(ns: int) -> float:
    """Hours, of a time at least a minute: rates of less say nothing."""
    return max(int(ns), 60_000_000_000) / 3.6e12


def _instrument(row: np.void, item: Instrument) -> dict[str, Any]:
    return {
        **{key: format_units(int(row[key]), item.price_exp) for key in ("bid_price", "ask_price", "trade_price")},
        **{key: format_units(int(row[key]), item.size_exp) for key in ("bid_size", "ask_size", "position")},
        "unrealised": format_units(int(row["unrealised"]), MONEY_EXP),
        "output": [float(value) for value in row["output"]],
        "book": {
            "valid_ratio": round(int(row["book_valid_ns"]) / int(row["book_ns"]), 6) if row["book_ns"] else 0.0,
            "lost": int(row["books_lost"]), "lost_per_hour": round(int(row["books_lost"]) / _hours(row["book_ns"]), 3),
            "audits_agreed": int(row["audits_agreed"]), "audits_disagreed": int(row["audits_disagreed"]),
            **{name: int(row[name]) for name in REST_AUDITS},
        },
    }
