"""`bot4 bench NAME`: measure one part of the engine, beside its peers where there are any."""

from __future__ import annotations

import argparse
import sys

import orjson

from models.inference import ModelError
from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.replay import ReplayError
from shm.segment import SegmentError
from tools.bench.report import BenchError, as_json, as_words
from tools.bench.suites import run_suite


def bench_command(options: argparse.Namespace) -> int:
    """Run a suite and report; 1 when a ratio falls below its gate or something could not be measured."""
    settings = read_settings(options.config)
    try:
        report = run_suite(options.suite, settings, options.full)
    except (BenchError, CaptureError, ReplayError, ModelError, SegmentError) as error:
        print(f"bot4: bench {options.suite}: {error}", file=sys.stderr)
        return 1
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(as_json(report)) + b"\n")
    else:
        print(as_words(report))
    for finding in report.findings:
        print(f"bot4: {finding}", file=sys.stderr)
    for ratio in report.ratios:
        if not ratio.passed:
            print(f"bot4: {ratio.name} to {ratio.peer} is {ratio.value:.2f}, gate {ratio.gate:g}", file=sys.stderr)
    return 0 if report.passed else 1
