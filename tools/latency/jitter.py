"""`bot4 latency jitter`: what each core of this machine itself costs, without an engine and without root.

A thread on each core reads the clock in a compiled loop, one core after the other so that they do not disturb each
other (--together: all at once, as an engine that spins on all of them would find them). What it has no reading for was
taken away: count, percentiles, share of the time and the longest gaps, with what the kernel says of the reasons.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from procs.cores import usable_cores
from shm.histogram import summary
from tools.bench.machine import machine_facts
from tools.latency.bars import as_plain, bars, in_words
from tools.latency.core_facts import CoreFacts, look
from tools.latency.jitter_kernels import BEGAN, ENDED, FASTEST, STEPS, STOLEN, STOP, new_gaps, watch_core
from tools.usage import UsageError

_LEAST_THRESHOLD_NS = 100
_PERCENTILES = ("p50", "p99", "p99_9", "max")


@dataclass
class Gaps:
    """What was found on one core; the arrays are those of tools/latency/jitter_kernels.py."""

    core: int
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray] = field(default_factory=new_gaps)
    facts: CoreFacts | None = None  # what was added while it was watched
    failure: str = ""  # why the core could not be watched

    @property
    def length_ns(self) -> int:
        """How long the core was watched."""
        return int(self.arrays[0][ENDED] - self.arrays[0][BEGAN])

    def as_plain(self, threshold_ns: int) -> dict[str, Any]:
        """The gaps of the core as JSON has them."""
        counters, longest, histogram = self.arrays
        known = summary(histogram)
        length_ns, steps = max(self.length_ns, 1), max(int(counters[STEPS]), 1)
        pairs = longest.reshape(-1, 2).tolist()
        return {
            "core": self.core, "seconds": round(length_ns / 1e9, 6), "readings": steps,
            "fastest_reading_ns": int(counters[FASTEST]), "mean_reading_ns": round(length_ns / steps, 1),
            "gaps": known["count"], "gaps_per_second": round(known["count"] * 1e9 / length_ns, 2),
            "gap_ns": {key: known[key] for key in _PERCENTILES},
            "stolen_ms": round(int(counters[STOLEN]) / 1e6, 4), "stolen_share": int(counters[STOLEN]) / length_ns,
            "longest": [{"at_s": round(at / 1e9, 6), "gap_ns": gap} for gap, at in pairs if gap],
            "histogram": as_plain(histogram, threshold_ns), "kernel_says": _plain_facts(self.facts),
        }


def _plain_facts(facts: CoreFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    return {
        "voluntary_switches": facts.voluntary, "involuntary_switches": facts.involuntary,
        "waited_ms": None if facts.waited_ns < 0 else round(facts.waited_ns / 1e6, 4),
        "core_ms": facts.times_ms, "interrupts": facts.interrupts,
    }


def chosen_cores(text: str | None, allowed: Sequence[int]) -> list[int]:
    """The cores of a list such as '0,2-3', each once; all that are allowed for None. Raises UsageError."""
    if text is None:
        return sorted(allowed)
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--cores {text}: write a list such as 0,2-3")
        cores.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if missing := sorted(cores - set(allowed)):
        names = ",".join(map(str, sorted(allowed)))
        raise UsageError(f"--cores {text}: core {missing[0]} is not one that this process may use; allowed are {names}")
    return sorted(cores)


def _watch(gaps: Gaps, threshold_ns: int, duration_ns: int) -> None:
    """The body of the thread that watches a core."""
    try:
        os.sched_setaffinity(0, {gaps.core})  # of this thread alone
    except OSError as error:
        gaps.failure = f"core {gaps.core}: {error.strerror}"
        return
    before = look(gaps.core)
    watch_core(*gaps.arrays, threshold_ns, duration_ns)
    gaps.facts = look(gaps.core).since(before)


def _together(group: list[Gaps], threshold_ns: int, duration_ns: int) -> None:
    """Watch these cores at once. Ctrl-C ends their loops."""
    threads = [threading.Thread(target=_watch, args=(gaps, threshold_ns, duration_ns)) for gaps in group]
    others = os.sched_getaffinity(0) - {gaps.core for gaps in group}
    with ExitStack() as stack:
        if others:  # this thread's own work shall not show
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, others)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            for gaps in group:
                gaps.arrays[0][STOP] = 1
            for thread in threads:
                if thread.ident is not None:  # it was started
                    thread.join()
            raise


def _words(gaps: Gaps, threshold_ns: int) -> list[str]:
    """A core for people."""
    found = gaps.as_plain(threshold_ns)
    heading = (
        f"core {gaps.core}: {found['seconds']:.1f} s, a reading every {found['mean_reading_ns']:.0f} ns, "
        f"the fastest {found['fastest_reading_ns']} ns"
    )
    lines = [heading]
    if found["gaps"]:
        figures = "  ".join(f"{key.replace('_', '.')} {in_words(found['gap_ns'][key])}" for key in _PERCENTILES)
        longest = [f"{in_words(one['gap_ns'])} at {one['at_s']:.3f} s" for one in found["longest"]]
        drawn = bars("gaps", gaps.arrays[2], shutil.get_terminal_size().columns - 2, least_ns=threshold_ns)
        lines += [
            f"  gaps of {in_words(threshold_ns)} or more: {found['gaps']:,}, {found['gaps_per_second']:,.1f} a second, "
            f"{100 * found['stolen_share']:.3g} % of the time",
            f"  {figures}",
            "  longest " + ", ".join(longest[:5]),
            *(["          " + ", ".join(longest[5:])] if longest[5:] else []),
            *_reasons(found["kernel_says"], found["stolen_ms"]),
            *(f"  {line}" for line in drawn[1:]),
        ]
    else:
        lines.append(f"  no gap of {in_words(threshold_ns)} or more")
    return lines


def _reasons(says: dict[str, Any], stolen_ms: float) -> list[str]:
    """What the kernel says of the reasons, for people."""
    if not says:
        return []
    parts = [f"put aside for others {says['involuntary_switches']} times"]
    if says["waited_ms"] is not None:
        parts[0] += f", {says['waited_ms']:.1f} of the {stolen_ms:.1f} ms"
    if says["core_ms"]:
        parts.append(f"steal {says['core_ms']['steal']:.0f} ms, interrupts {says['core_ms']['irq']:.0f} ms")
    lines = [f"  the kernel says: {'; '.join(parts)}"]
    if says["interrupts"]:
        sources = ", ".join(f"{name} {count:,}" for name, count in says["interrupts"].items())
        lines.append(f"  interrupts meanwhile: {sources}")
    return lines


def jitter_command(options: argparse.Namespace) -> int:
    """Watch the cores and show what was found; exit code 1 when one could not be watched, or at Ctrl-C."""
    usable = usable_cores()
    cores = chosen_cores(options.cores, usable)
    threshold_ns, duration_ns = round(options.threshold * 1e9), round(options.duration * 1e9)
    if threshold_ns < _LEAST_THRESHOLD_NS:
        raise UsageError(
            f"--threshold {threshold_ns} ns: at least {_LEAST_THRESHOLD_NS} ns (0.1us) are needed, the clock takes 25"
        )
    found = [Gaps(core) for core in cores]
    groups = [found] if options.together else [[gaps] for gaps in found]
    machine, _ = machine_facts()
    machine["cores"] = len(usable)
    machine["nice"] = os.getpriority(os.PRIO_PROCESS, 0)
    if not options.json:
        kind = "all at once" if options.together and len(found) > 1 else "one after the other"
        print(
            f"{machine['cpu']}, {machine['cores']} usable cores, Linux {machine['kernel']}, load "
            f"{machine['load_before']:.2f}, nice {machine['nice']}; {options.duration:g} s a core, {kind}", flush=True,
        )
    for group in groups:
        _together(group, threshold_ns, duration_ns)
        for gaps in group:
            if gaps.failure:
                print(f"bot4: {gaps.failure}", file=sys.stderr)
            elif not options.json:
                print("\n".join(["", *_words(gaps, threshold_ns)]), flush=True)
    machine["load_after"] = os.getloadavg()[0]
    if options.json:
        watched = [gaps.as_plain(threshold_ns) for gaps in found if not gaps.failure]
        answer = {"machine": machine, "threshold_ns": threshold_ns, "together": options.together, "cores": watched}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    return int(any(gaps.failure for gaps in found))
