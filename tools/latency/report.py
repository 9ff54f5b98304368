"""What a page about latency shows, from a sampled engine: totals, percentile curves and courses by hop, and about what.

The values are those of the histograms: a percentile is the middle of its bucket, the maximum is exact where theirs is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Settings
from procs import VERSION
from procs.instance import Plan
from shm.histogram import COUNT, MAX, SUM, percentiles, summary
from tools.bench.machine import machine_facts
from tools.doctor.finding import Host, examine
from tools.doctor.machine import CHECKS
from tools.latency.buckets import values_of
from tools.latency.sampling import Interval, total

PERCENTS = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}
# Hops that stages spend their own time in, so that their sums are shares of a second; the others overlap them.
STAGE_HOPS = ("ingestion", "validation", "features", "ml", "execution")
Fact = tuple[str, str]  # what it is, and what was found


@dataclass(frozen=True)
class Curve:
    """Latency by percentile: y us from 1 / (1 - p) = x up to the next x."""

    x: list[float]
    y: list[float]


@dataclass
class Course:
    """One hop over time, a value an interval; None where nothing passed. Times in us, at_s since the beginning."""

    at_s: list[float] = field(default_factory=list)
    per_second: list[float | None] = field(default_factory=list)
    p50: list[float | None] = field(default_factory=list)
    p99: list[float | None] = field(default_factory=list)
    p99_9: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)
    busy_ms: list[float] = field(default_factory=list)  # in each second; empty where it is not known

    def add(self, at_s: float, per_second: float | None, latency_us: dict[str, float] | None) -> None:
        """Append an interval that ended at `at_s`; latency_us: p50, p99, p99_9 and max, None where nothing passed."""
        self.at_s.append(round(at_s, 3))
        self.per_second.append(None if per_second is None else round(per_second, 1))
        for key in ("p50", "p99", "p99_9", "max"):
            getattr(self, key).append(None if latency_us is None else latency_us[key])


@dataclass
class LatencyReport:
    """See the module."""

    title: str
    facts: list[Fact]  # about the engine and the sampling
    machine: list[Fact]
    totals: dict[str, dict[str, float]]  # by hop: count, and what is known of negative, mean, PERCENTS, max; in us
    curves: dict[str, Curve]
    courses: dict[str, Course]
    notes: list[str]  # what a reader should know before believing a plot

    @property
    def timed(self) -> bool:
        """Whether it is known how long each stage was at work."""
        return any(course.busy_ms for course in self.courses.values())


def curve_of(histogram: np.ndarray) -> Curve:
    """The percentile curve of a histogram that is not empty: a step for each value that it knows, MAX at the end.

    Of n values the largest is the percentile from 1 - 1/n on, so the curve ends at x = n.
    """
    values, counts = values_of(histogram)
    count = int(counts.sum())
    below = np.concatenate(([0], np.cumsum(counts)[:-1]))
    x = [*(count / (count - below)).tolist(), float(count)]
    return Curve(x, [value / 1000 for value in (*values.tolist(), int(histogram[MAX]))])


def figures_of(histogram: np.ndarray) -> dict[str, float]:
    """count, negative, mean, the percentiles of PERCENTS and max; times in us."""
    known = summary(histogram)
    found = dict(zip(PERCENTS, percentiles(histogram, list(PERCENTS.values())), strict=True))
    times = {"mean": known["mean"], **found, "max": known["max"]}
    return {"count": known["count"], "negative": known["negative"], **{key: ns / 1000 for key, ns in times.items()}}


def machine_now(settings: Settings, root: Path = Path("/")) -> list[Fact]:
    """The processor, and what `bot4 doctor` says of the machine. root: as that of its Host."""
    facts, _ = machine_facts()
    findings = examine(Host(root, settings), CHECKS)
    return [
        ("processor", f"{facts['cpu']}, {facts['cores']} usable cores, {facts['architecture']}"),
        ("kernel", f"Linux {facts['kernel']}"),
        *((finding.topic, finding.found) for finding in findings),
    ]


def utc(unix_ns: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def report_of(
    plan: Plan, intervals: list[Interval], started_ns: int, ended: bool, machine: list[Fact]
) -> LatencyReport:
    """The report of a sampled engine. started_ns: Unix time; ended: the engine ended while it was sampled."""
    length_s = sum(interval.length_ns for interval in intervals) / 1e9
    totals = {hop: histogram for hop, histogram in total(intervals).items() if histogram[COUNT]}
    courses = {hop: Course() for hop in totals}
    for interval in intervals:
        at_s = (interval.begin_ns + interval.length_ns) / 1e9
        for hop, course in courses.items():
            histogram = interval.histograms[hop]
            known = figures_of(histogram) if histogram[COUNT] else None
            seconds = max(interval.length_ns, 1) / 1e9
            course.add(at_s, int(histogram[COUNT]) / seconds, known)
            course.busy_ms.append(round(int(histogram[SUM]) / 1e6 / seconds, 4))
    facts = [
        ("engine", plan.name), ("session", f"{plan.session} ({Path(plan.folder).name})"),
        ("version", f"Bot4 {VERSION}"),
        ("kernel digest", plan.kernel_digest[:12]), ("sampled", f"{length_s:.1f} s from {utc(started_ns)}"),
        ("placement", placement_of(plan)),
    ]
    notes = []
    if ended:
        notes.append("The engine ended while it was sampled: the last interval goes up to its end.")
    return LatencyReport(
        f"Latency of {plan.name}", facts, machine, {hop: figures_of(histogram) for hop, histogram in totals.items()},
        {hop: curve_of(histogram) for hop, histogram in totals.items()}, courses, notes,
    )


def placement_of(plan: Plan) -> str:
    """Which process may use which cores."""
    places = [f"{role} {','.join(map(str, cores))}" for role, cores in plan.cores.items()]
    return ("spinning; " if plan.spin else "blocking; ") + ("; ".join(places) or "any cores")


def as_plain(report: LatencyReport) -> dict[str, Any]:
    """The report as JSON has it."""
    return {
        "title": report.title, "facts": dict(report.facts), "machine": dict(report.machine), "notes": report.notes,
        "latency_us": report.totals,
    }
