"""`bot4 latency --export FILE`: a running engine is sampled once a second, or a session's folder read, into one file.

The file appears whole or not at all: it is written beside its place and renamed. Exit code 0 when all was sampled that
was asked for, or Ctrl-C cut it short; 1 when the engine ended meanwhile (what was sampled until then is kept).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from procs import VERSION
from procs.attach import NotRunning, attach
from procs.config_file import read_settings
from procs.instance import Mapping
from tools.latency.hlog import log_lines
from tools.latency.kept import NothingKept, session_report
from tools.latency.page import NoPlotly, page, plotly_script
from tools.latency.report import as_plain, machine_now, report_of
from tools.latency.sampling import Interval, Sampling
from tools.usage import UsageError

_DEFAULT_S = 10.0
_KINDS = (".hlog", ".html")


def check_place(path: Path) -> None:
    """Refuse a file that cannot be made before anything is sampled. Raises UsageError."""
    if path.suffix not in _KINDS:
        raise UsageError(f"--export {path}: allowed are files ending in {' or '.join(_KINDS)}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--export {path}: a file in a folder that exists and can be written to is needed")


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place, or leave what was there as it was. Raises UsageError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"--export {path}: {error.strerror}") from None


def _sampled(sampling: Sampling, duration_s: float, show: Callable[[str], None]) -> tuple[list[Interval], bool]:
    """(intervals, whether all of the time was sampled or it was cut short by Ctrl-C)."""
    intervals: list[Interval] = []
    try:
        for interval in sampling.intervals(duration_s):
            intervals.append(interval)
            show(f"{interval.seconds} of {duration_s:.0f} s sampled")
    except KeyboardInterrupt:
        show("cut short")
    return intervals, not sampling.ended


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _complain(error: str) -> int:
    print(f"bot4: {error}", file=sys.stderr)
    return 1


def _say(options: argparse.Namespace, answer: dict[str, Any]) -> None:
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        return
    passed = sum(int(known["count"]) for known in answer["latency_us"].values())
    print(f"{answer['file']}: {len(answer['latency_us'])} hops, {passed:,} values, {answer['seconds']:.1f} s")


def _of_engine(options: argparse.Namespace, mapping: Mapping, script: str) -> int:
    path: Path = options.export
    plan = mapping.plan
    machine = machine_now(plan.settings)
    sampling = Sampling(mapping)
    intervals, whole = _sampled(sampling, options.duration or _DEFAULT_S, _progress)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if not intervals:
        return _complain("nothing was sampled; no file was written")
    load = dict(machine_now(plan.settings))["load"]
    report = report_of(plan, intervals, sampling.started_ns, sampling.ended, [*machine, ("load at the end", load)])
    if path.suffix == ".html":
        content = page(report, script)
    else:
        about = [f"Bot4 {VERSION}, engine {plan.name}, session {plan.session}; values in ns; tags are hops"]
        content = "\n".join([*log_lines(intervals, sampling.started_ns, about), ""])
    write_whole(path, content.encode())
    seconds = sum(interval.length_ns for interval in intervals) / 1e9
    _say(options, {
        "name": plan.name, "file": str(path), "seconds": round(seconds, 3), "ended": sampling.ended, **as_plain(report),
    })
    if not whole:
        return _complain(f"the engine named {plan.name!r} ended after {seconds:.1f} s; {path} holds them")
    return 0


def _of_session(options: argparse.Namespace, script: str) -> int:
    path: Path = options.export
    if path.suffix != ".html":
        raise UsageError(
            f"--export {path}: a session keeps percentiles, no histograms, so no .hlog can be made of it; .html can, "
            "and a running engine gives both"
        )
    try:
        report = session_report(options.session)
    except NothingKept as error:
        return _complain(str(error))
    write_whole(path, page(report, script).encode())
    seconds = max((course.at_s[-1] for course in report.courses.values()), default=0.0)
    _say(options, {"session": str(options.session), "file": str(path), "seconds": seconds, **as_plain(report)})
    return 0


def export_command(options: argparse.Namespace) -> int:
    """Sample or read, and write the file; exit codes as the module says."""
    check_place(options.export)
    name = read_settings(options.config).engine.name
    try:
        script = plotly_script() if options.export.suffix == ".html" else ""
        if options.session is not None:
            return _of_session(options, script)
        mapping = attach(name)
    except (NoPlotly, NotRunning) as error:
        return _complain(str(error))
    try:
        return _of_engine(options, mapping, script)
    finally:
        mapping.close()
