"""`bot4 status` and the status line of `bot4 run`: what a mapped instance says of itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.execution.orders import open_order_count
from engine.execution.summary import execution_summary, reason_counts
from engine.reasons import Reason
from engine.units import format_units
from engine.validation.state import validation_rate
from procs.attach import NotRunning, attach
from procs.config_file import read_settings
from procs.deaths import Deaths
from procs.instance import Mapping
from procs.memory_use import descriptor_count, pss_bytes
from procs.metrics import as_plain, mode_name
from procs.summary import by_strategy, follower_counts, hop_histograms, latency_summary, ring_counts
from procs.table import HOPS, Role
from procs.venues.binance_usdm.dead_man import MISSES_TO_WARN
from shm.control import tripped_sources
from tools.control import control_lines, control_status


def _age_ms(heartbeat_ns: int, mapping: Mapping) -> float | None:
    """Milliseconds since a heartbeat; None before the first."""
    return round((mapping.now_ns() - heartbeat_ns) / 1e6, 1) if heartbeat_ns else None


def status_line(mapping: Mapping, frames_before: int, seconds: float) -> tuple[str, int]:
    """One line on the present state, and the number of frames so far for the next line's rate."""
    state = mapping.state(Role.EXECUTION)
    row = state[0]
    frames = int(mapping.state(Role.INGESTION)["frames"][0])
    summary = execution_summary(state, mapping.plan.instruments)
    latency = latency_summary({"decision": mapping.histogram(*HOPS["decision"])})
    word = mapping.control.word
    mode = mode_name(mapping.control.mode, word)
    if word:
        mode = "TRIPPED " + "+".join(source.name for source in tripped_sources(word))
    if row["reconcile"]["holding"]:
        mode += " HOLDING"
    positions = " ".join(
        f"{item.symbol} {format_units(int(row['ledger']['positions'][item.index]['size']), item.size_exp)}"
        for item in mapping.plan.instruments
    )
    decision = f"{latency['decision']['p50']:.0f}/{latency['decision']['p99']:.0f} us" if latency else "-"
    line = (
        f"{mode}  {(frames - frames_before) / seconds:.0f} frames/s  orders {summary['orders']['sent']} "
        f"({int(open_order_count(row['orders']))} open)  fills {summary['fills']}  {positions}  "
        f"realised {float(summary['pnl']['realised']):+.2f}  unrealised {float(summary['pnl']['unrealised']):+.2f}  "
        f"fees {float(summary['pnl']['fees']):.2f}  decision p50/p99 {decision}"
    )
    return line, frames


def status_of(mapping: Mapping) -> dict[str, Any]:
    """Processes, rings, mode, positions and counters of a running instance."""
    control = mapping.control
    deaths = Deaths(mapping.deaths())
    processes: dict[str, Any] = {}
    for process in mapping.plan.processes:
        role = process.role
        pid = control.pid(role)
        strategy = mapping.plan.strategy_of(role)
        processes[role.label] = ({"strategy": strategy} if strategy else {}) | {
            "pid": pid, "readiness": control.readiness(role).name.lower(),
            "heartbeat_age_ms": _age_ms(control.heartbeat(role), mapping),
            "progress": control.progress(role), "restarts": deaths.total(role),
            "pss_mb": round(pss_bytes(pid) / 2**20, 1) if pid else 0.0,
            "descriptors": descriptor_count(pid) if pid else 0,
        }
    rings = ring_counts(mapping, tuple(spec.name for spec in mapping.plan.rings))
    state = mapping.state(Role.EXECUTION)
    metrics = mapping.metrics()
    latest = metrics.read() if metrics.version else None
    return {
        "name": mapping.plan.name, "folder": mapping.plan.folder, "supervisor_pid": control.supervisor_pid,
        "mode": mode_name(control.mode, control.word),
        "emergency_word": control.word,
        "tripped_by": [source.name.lower() for source in tripped_sources(control.word)],
        "processes": processes, "rings": rings,
        "market": {"frames": int(mapping.state(Role.INGESTION)["frames"][0])},
        "validation": _validation(mapping),
        **execution_summary(state, mapping.plan.instruments),
        "strategies": by_strategy(state, mapping.plan.settings, mapping.plan.instruments),
        "latency_us": latency_summary(hop_histograms(mapping)),
        "rate_budget": mapping.budget().report(),
        "followers": follower_counts(mapping),
        "metrics": as_plain(latest[0], mapping.plan.instruments) if latest is not None else None,
        "control": control_status(mapping.plan.name),
        "dead_man": _dead_man(mapping),
    }


def _validation(mapping: Mapping) -> dict[str, Any]:
    """What validation accepted and refused, and what it holds of each book: valid, or the reason why not."""
    state = mapping.state(Role.VALIDATION)
    row = state[0]
    return {
        "in": int(row["records_in"]), "accepted": int(row["processed"]), "rate": round(validation_rate(state), 6),
        "quarantined": reason_counts(row["quarantined"]), "dropped": reason_counts(row["dropped"]),
        "books": {item.symbol: _book_in_a_word(row, item.index) for item in mapping.plan.instruments},
    }


def _book_in_a_word(validation: np.void, index: int) -> str:
    """VALID, UNVERIFIED for one that is right as far as audits tell, or why it is not valid."""
    checks = validation["checks"]
    if not checks["valid"][index]:
        return Reason(int(checks["verdict"][index])).name
    return "VALID" if validation["audits"]["proven"][index] else "UNVERIFIED"


def _dead_man(mapping: Mapping) -> dict[str, Any]:
    """The venue's dead-man switch: seconds until it cancels without us, and how many refreshes in a row failed."""
    gateway = mapping.state(Role.GATEWAY)[0]
    until_ns, missed = int(gateway["dead_man_until_ns"]), int(gateway["dead_man_missed"])
    left_s = max(until_ns - mapping.now_ns(), 0) / 1e9
    warning = ""
    if missed >= MISSES_TO_WARN:
        warning = f"{missed} refreshes of the venue's dead-man switch were not acknowledged"
    return {"armed": left_s > 0, "left_s": round(left_s, 1), "missed": missed, "warning": warning}


def latency_table(latency_us: dict[str, dict[str, float]]) -> list[str]:
    """Percentiles by hop (procs.summary.latency_summary) for people: a heading, then a line a hop."""
    lines = [f"{'hop':<24}{'count':>10}{'p50 us':>10}{'p99 us':>10}{'p99.9 us':>10}{'max us':>12}"]
    for hop, values in latency_us.items():
        lines.append(
            f"{hop:<24}{values['count']:>10}{values['p50']:>10.1f}{values['p99']:>10.1f}{values['p99_9']:>10.1f}"
            f"{values['max']:>12.1f}"
        )
    return lines


def _as_text(status: dict[str, Any]) -> str:
    lines = [
        f"{status['name']}: {status['mode']}"
        + (f", TRIPPED by {', '.join(status['tripped_by'])}" if status["emergency_word"] else ""),
        *control_lines(status["control"]),
        f"session {Path(status['folder']).name}, supervisor pid {status['supervisor_pid']}",
        "",
        f"{'process':<12}{'pid':>8}  {'readiness':<10}{'heartbeat':>12}{'progress':>12}{'restarts':>10}{'PSS MB':>8}"
        f"{'files':>7}",
    ]
    for name, entry in status["processes"].items():
        age = "-" if entry["heartbeat_age_ms"] is None else f"{entry['heartbeat_age_ms']:.1f} ms"
        lines.append(
            f"{name:<12}{entry['pid']:>8}  {entry['readiness']:<10}{age:>12}{entry['progress']:>12}"
            f"{entry['restarts']:>10}{entry['pss_mb']:>8}{entry['descriptors']:>7}"
        )
    rates = status["metrics"]["rings"] if status["metrics"] else {}
    heading = f"{'ring':<12}{'capacity':>10}{'produced':>12}{'consumed':>12}{'in flight':>10}{'dropped':>9}"
    lines += ["", heading + f"{'a second':>10}"]
    for name, ring in status["rings"].items():
        rate = f"{rates[name]['per_second']:.0f}" if name in rates else "-"
        lines.append(
            f"{name:<12}{ring['capacity']:>10}{ring['produced']:>12}{ring['consumed']:>12}{ring['in_flight']:>10}"
            f"{ring['dropped']:>9}{rate:>10}"
        )
    lines += ["", f"{'follower':<12}{'ring':<12}{'read':>10}{'lapped':>12}"]
    for process, rings in status["followers"].items():
        lines += [f"{process:<12}{ring:<12}{row['read']:>10}{row['lapped']:>12}" for ring, row in rings.items()]
    lines += ["", *latency_table(status["latency_us"])]
    orders, compared = status["orders"], status["reconciliation"]
    if compared["holding"]:
        lines += [
            "", f"HOLDING: no entries, ledger and venue differ in {', '.join(compared['differs'])}",
            f"  ours  {compared['ours']}", f"  venue {compared['venue']}",
        ]
    lines += ["", *_strategy_table(status["strategies"]), ""]
    if orders["denied"]:
        lines.append("denied " + ", ".join(f"{count} {reason}" for reason, count in orders["denied"].items()))
    lines += [
        f"orders {orders['sent']} sent, {orders['filled']} filled, {orders['cancelled']} cancelled, "
        f"{orders['rejected']} rejected, {orders['unknown']} unknown; fills {status['fills']}",
        "positions " + ", ".join(f"{symbol} {size}" for symbol, size in status["positions"].items()),
        f"cash {status['cash']}, " + ", ".join(f"{name} {value}" for name, value in status["pnl"].items()),
    ]
    validation = status["validation"]
    refused = sum(validation["quarantined"].values())
    lines.append(f"validation: {100 * validation['rate']:.3f} % accepted, {refused} refused, books " + ", ".join(
        f"{symbol} {word}" for symbol, word in validation["books"].items()
    ))
    dead_man = status["dead_man"]
    lines.append("the venue's dead-man switch is " + (
        f"armed for {dead_man['left_s']} s" if dead_man["armed"] else "not armed"
    ))
    if status["dead_man"]["warning"]:
        lines.append(f"WARNING: {status['dead_man']['warning']}")
    return "\n".join(lines)


def _strategy_table(strategies: dict[str, Any]) -> list[str]:
    """What each strategy decided, was refused and holds: a heading, then a line a strategy."""
    lines = [f"{'strategy':<24}{'signals':>10}{'intents':>10}{'denied':>10}{'faults':>10}{'fills':>10}  positions"]
    for name, row in strategies.items():
        counts = "".join(f"{row[key]:>10}" for key in ("signals", "intents", "denied", "faults", "fills"))
        held = ", ".join(f"{symbol} {size}" for symbol, size in row["positions"].items())
        lines.append(f"{name:<24}{counts}  {held}")
    return lines


def status_command(options: argparse.Namespace) -> int:
    """Show a running engine; exit code 1 when none of that name runs."""
    name = read_settings(options.config).engine.name
    try:
        mapping = attach(name)
    except NotRunning as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    try:
        status = status_of(mapping)
    finally:
        mapping.close()
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(status) + b"\n")
    else:
        print(_as_text(status))
    return 0
