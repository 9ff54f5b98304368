"""What a suite gives back: results, ratios with their gates, notes; as JSON and as words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

PAIRS = 7  # interleaved pairs behind every ratio
_NS_PER = {"ns": 1.0, "us": 1e3, "ms": 1e6}


class BenchError(Exception):
    """A benchmark that cannot be run here; the message says what is missing."""


@dataclass(frozen=True)
class Result:
    """One measured figure. peer: what was measured, None for Bot4. Percentiles in `unit`; a rate has none."""

    name: str
    peer: str | None
    value: float
    unit: str
    count: int
    p50: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Bot4 to a peer, the median over interleaved pairs, and what it must not be worse than.

    at_most: False for rates, where more is better; True for times. gate None: printed only.
    """

    name: str
    peer: str
    value: float
    gate: float | None
    goal: float | None = None
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the gate holds; a ratio that is no number never passes."""
        if self.gate is None:
            return True
        return self.value <= self.gate if self.at_most else self.value >= self.gate


@dataclass
class Report:
    """One suite's figures. findings: what was wrong, apart from ratios; any of them fails the run."""

    bench: str
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong and every gate holds."""
        return not self.findings and all(ratio.passed for ratio in self.ratios)


def times(name: str, peer: str | None, samples_ns: np.ndarray, unit: str) -> Result:
    """A result from single times in ns: its value is the median. Raises BenchError where there are none."""
    if not len(samples_ns):
        raise BenchError(f"{name}: nothing was measured")
    ordered = np.sort(samples_ns)
    scale = _NS_PER[unit]

    def rank(thousandths: int) -> float:
        return float(ordered[max(0, math.ceil(len(ordered) * thousandths / 1000) - 1)]) / scale

    return Result(
        name, peer, rank(500), unit, len(ordered), rank(500), rank(990), rank(999), float(ordered[-1]) / scale
    )


def rate(name: str, peer: str | None, count: int, passes_ns: Sequence[int], unit: str) -> Result:
    """A result from the times of equal passes over `count` things each: things a second in the median pass."""
    return Result(name, peer, count / median(passes_ns) * 1e9, unit, count * len(passes_ns))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over pairs of ours / theirs; NaN without pairs, which passes no gate."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True) if other > 0]
    return median(pairs) if pairs else math.nan


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values: the keys of the contract, and what was compared."""
    return {
        "bench": report.bench,
        "machine": report.machine,
        "versions": report.versions,
        "results": [vars(result) for result in report.results],
        "ratios": [{**vars(ratio), "passed": ratio.passed} for ratio in report.ratios],
        "notes": report.notes,
        "findings": report.findings,
        "passed": report.passed,
    }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_words(report: Report) -> str:
    """The report for people."""
    machine = report.machine
    lines = [
        f"bench {report.bench} on {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; "
        f"load {machine['load_before']:.2f} before, {machine['load_after']:.2f} after",
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "",
        f"{'name':<34}{'of':<26}{'value':>14} {'unit':<16}{'count':>12}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>10}",
    ]
    for item in report.results:
        percentiles = f"{_number(item.p50):>9}{_number(item.p99):>9}{_number(item.p99_9):>9}{_number(item.max):>10}"
        lines.append(
            f"{item.name:<34}{item.peer or 'bot4':<26}{_number(item.value):>14} {item.unit:<16}{item.count:>12}"
            f"{percentiles}".rstrip()
        )
    if report.ratios:
        lines += ["", f"medians of {PAIRS} interleaved pairs:"]
    for ratio in report.ratios:
        sign = "at most" if ratio.at_most else "at least"
        gate = f", gate {sign} {ratio.gate:g}: {'met' if ratio.passed else 'NOT MET'}" if ratio.gate is not None else ""
        goal = f", goal {ratio.goal:g}" if ratio.goal is not None else ""
        lines.append(f"{ratio.name} to {ratio.peer}: {ratio.value:.2f}{gate}{goal}")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)
