"""`bot4 latency`: percentiles of every hop of a running engine, from its histograms in shared memory.

Without --watch since the engine started; with it once a second over the last second, until Ctrl-C or the engine's end:
redrawn on a terminal, in a pipe a line a hop that begins with the second since it was asked, as JSON an object a line.
Reading costs the engine nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from procs.attach import NotRunning, attach, plan_path
from procs.config_file import read_settings
from procs.instance import Mapping
from procs.summary import hop_histograms, latency_summary
from shm.clock import python_monotonic_ns, sleep
from shm.histogram import between
from tools.status import latency_table

_SECOND_NS = 1_000_000_000
_LOOK_S = 0.05
_CLEAR = "\x1b[H\x1b[2J"


def _copies(mapping: Mapping) -> dict[str, np.ndarray]:
    return {hop: histogram.copy() for hop, histogram in hop_histograms(mapping).items()}


def _each_second(mapping: Mapping) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Seconds since the beginning and what passed in the last of them, as long as the engine lives."""
    plan = plan_path(mapping.plan.name)  # it goes when the engine ends
    started = python_monotonic_ns()
    before = _copies(mapping)
    seconds = 0
    while plan.exists():
        sleep(_LOOK_S)
        if python_monotonic_ns() - started < (seconds + 1) * _SECOND_NS:
            continue
        seconds = (python_monotonic_ns() - started) // _SECOND_NS
        after = _copies(mapping)
        yield seconds, latency_summary({hop: between(before[hop], after[hop]) for hop in after})
        before = after


def _watch(mapping: Mapping, as_json: bool) -> None:
    on_terminal = sys.stdout.isatty()
    for seconds, latency in _each_second(mapping):
        if as_json:
            text = orjson.dumps({"name": mapping.plan.name, "seconds": seconds, "latency_us": latency}).decode()
        elif on_terminal:
            heading = f"{mapping.plan.name}: the last second; Ctrl-C ends this"
            text = _CLEAR + "\n".join([heading, "", *latency_table(latency)])
        else:
            text = "\n".join(f"{seconds:<6} {line}" for line in latency_table(latency)[1:])
        if text:
            print(text, flush=True)


def latency_command(options: argparse.Namespace) -> int:
    """Show the hops of a running engine; exit code 1 when none of that name runs."""
    name = read_settings(options.config).engine.name
    try:
        mapping = attach(name)
    except NotRunning as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    try:
        if options.watch:
            try:
                _watch(mapping, options.json)
            except KeyboardInterrupt:
                return 0
            print(f"bot4: the engine named {name!r} has ended", file=sys.stderr)
            return 0
        latency: dict[str, Any] = latency_summary(hop_histograms(mapping))
    finally:
        mapping.close()
    if options.json:
        sys.stdout.buffer.write(orjson.dumps({"name": name, "latency_us": latency}) + b"\n")
    else:
        print("\n".join(latency_table(latency)))
    return 0
