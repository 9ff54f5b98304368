"""The latency of a session from what its folder keeps: metrics.jsonl, a line a second, and summary.json, of its end.

They hold percentiles, not histograms. So the courses are whole, and the totals are those of the summary; without one (a
session that still runs, or was killed) the counts are added up, the largest maximum is kept, and percentiles of the
whole are left out: they do not follow from those of its seconds. A curve has the points that the summary knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tools.latency.report import Course, Curve, Fact, LatencyReport, utc
from tools.usage import UsageError

_POINTS = {"p50": 2.0, "p99": 100.0, "p99_9": 1000.0}  # 1 / (1 - p)


class NothingKept(LookupError):
    """The folder holds no metrics; the message says what it lacks."""


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where it is not there or is none."""
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of metrics, those that were put aside first. A torn line is passed over."""
    for name in ("metrics.jsonl.1", "metrics.jsonl"):
        try:
            with (folder / name).open("rb") as file:
                for line in file:
                    try:
                        entry = orjson.loads(line)
                        if isinstance(entry["at_ns"], int) and isinstance(entry["latency_us"], dict):
                            yield entry
                    except (ValueError, LookupError, TypeError):
                        continue
        except FileNotFoundError:
            continue


def _courses(lines: list[dict[str, Any]]) -> dict[str, Course]:
    began_ns = lines[0]["at_ns"]
    courses: dict[str, Course] = {hop: Course() for line in lines for hop in line["latency_us"]}
    for line in lines:
        seconds = line.get("interval_ms", 0.0) / 1000
        for hop, course in courses.items():
            known = line["latency_us"].get(hop)
            # Of the first interval of a monitoring process the length is not known; nor is then the rate.
            rate = (known["count"] if known else 0) / seconds if seconds else None
            course.add((line["at_ns"] - began_ns) / 1e9, rate, known)
    return courses


def _added_up(lines: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    totals: dict[str, dict[str, float]] = {}
    for line in lines:
        for hop, known in line["latency_us"].items():
            so_far = totals.setdefault(hop, {"count": 0, "max": 0.0})
            so_far["count"] += known["count"]
            so_far["max"] = max(so_far["max"], known["max"])
    return totals


def _curve(known: dict[str, float]) -> Curve:
    """The points of a summary. Of n values the largest is at x = n, and every percentile beyond that is the largest."""
    points = [(x, known[key]) for key, x in _POINTS.items() if x < known["count"]]
    points.append((float(known["count"]), known["max"]))
    return Curve([x for x, _ in points], [y for _, y in points])


def _machine(session: dict[str, Any]) -> list[Fact]:
    """What the session wrote down of its machine when it began."""
    versions = session.get("versions", {})
    return [(name, str(versions[name])) for name in ("cpu", "machine", "kernel", "python", "numba") if name in versions]


def session_report(folder: Path) -> LatencyReport:
    """The report of a session's folder. Raises UsageError where there is none, NothingKept without metrics."""
    if not folder.is_dir():
        raise UsageError(f"--session {folder}: there is no such folder")
    lines = list(_lines(folder))
    if not lines:
        raise NothingKept(f"{folder} keeps no metrics: there is no line in metrics.jsonl")
    session, summary = _json(folder / "session.json"), _json(folder / "summary.json")
    totals: dict[str, dict[str, float]] = summary.get("latency_us", {})
    curves = {hop: _curve(known) for hop, known in totals.items()}
    notes = [
        "A session keeps percentiles a second, no histograms: the curves are points of the summary, joined by lines.",
    ]
    if not totals:
        totals = _added_up(lines)
        notes = [
            "The session has no summary (it still runs, or did not end in order). Counts are added up, and maxima are "
            "the largest of any second; percentiles of the whole do not follow from those of its seconds.",
        ]
    length_s = (lines[-1]["at_ns"] - lines[0]["at_ns"]) / 1e9
    facts = [
        ("engine", str(session.get("name", "not said"))),
        ("session", f"{session.get('session', 'not said')} ({folder.resolve().name})"),
        ("version", f"Bot4 {session.get('engine_version', 'not said')}"),
        ("kernel digest", str(session.get("kernel_digest", "not said"))[:12]),
        ("kept", f"{len(lines)} lines of {length_s:.1f} s from {utc(lines[0]['at_ns'])}"),
        ("placement", str(session.get("placement", "not said"))),
    ]
    title = f"Latency of {folder.resolve().name}"
    return LatencyReport(title, facts, _machine(session), totals, curves, _courses(lines), notes)
