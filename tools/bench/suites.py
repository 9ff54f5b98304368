"""The suites by name, and running one of them."""

from __future__ import annotations

import os
from collections.abc import Callable

from engine.config import Settings
from tools.bench import console, decision, ingest, journal, kill, rings, stages, strategies
from tools.bench.machine import machine_facts
from tools.bench.report import Report

SUITES: dict[str, Callable[[Report, Settings, bool], None]] = {
    "rings": lambda report, settings, full: rings.run(report, full),
    "decode": stages.decode,
    "ingest": ingest.run,
    "book": stages.book,
    "journal": lambda report, settings, full: journal.run(report, full),
    "features": stages.features,
    "inference": stages.inference,
    "decision": decision.run,
    "strategies": strategies.run,
    "kill": lambda report, settings, full: kill.run(report, full),
    "console": lambda report, settings, full: console.run(report, full),
}


def run_suite(name: str, settings: Settings, full: bool) -> Report:
    """Run one suite. Raises BenchError where something that it needs is missing."""
    machine, versions = machine_facts()
    report = Report(name, machine, versions)
    SUITES[name](report, settings, full)
    machine["load_after"] = os.getloadavg()[0]
    return report
