"""`bench console`: what three attached consoles cost the decisions of an engine.

One engine under load. Windows with three consoles attached, in pseudo-terminals, on the panes with processes, market
and latency, and windows without any follow one another, pair by pair, and the order within a pair changes: consoles are
opened before a window and closed behind it. A window's latencies are the difference of two copies of the engine's own
histogram of "decision".

Limits: a window holds some hundred decisions, so its p99 is one of its worst few; single pairs differ by half and more
on a machine whose cores are shared, the median over seven by much less. The gate is therefore 1.5 (goal 1.0). On two
cores consoles share one with the supervisor, gateway and kill switch, never that of the hot stages.
Seven pairs of windows of 2 s, with --full 8 s: a minute, two and a half, and the start of the engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from procs.attach import attach
from procs.table import HOPS
from shm.clock import python_monotonic_ns, sleep
from shm.histogram import between, merge, new_histogram, summary
from tools.bench.report import PAIRS, BenchError, Ratio, Report, Result, median_ratio
from tools.soak.session import BOT4, PROJECT_ROOT, SessionError, engine

CONSOLES = 3
_PANES = "124"
_WINDOW_S, _FULL_WINDOW_S = 2.0, 8.0
_SETTLE_S = 0.7
_START_S = 60.0
_GATE, _GOAL = 1.5, 1.0
_FLOW = {"limit_rate": 600.0, "market_rate": 40.0}
_TABLES: dict[str, dict[str, Any]] = {
    "maker": {"min_quote_life_ms": 50}, "gate": {"max_messages_per_second": 1000.0, "message_burst": 1000.0},
    "embedded": {
        "loop_interval_ms": 2, "weight_limit_1m": 1_000_000, "order_limit_10s": 100_000, "order_limit_1m": 1_000_000,
        "btcusdt": _FLOW, "ethusdt": _FLOW,
    },
}


class _Console:
    """One console in a pseudo-terminal that somebody reads."""

    def __init__(self, config: Path, pane: str) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            [*BOT4, "console", "--config", str(config)], cwd=PROJECT_ROOT, stdin=theirs, stdout=theirs,
            stderr=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm-256color"}, start_new_session=True,
        )
        os.close(theirs)
        self._usage = psutil.Process(self._process.pid)
        self.drawn = 0  # bytes
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        deadline = python_monotonic_ns() + int(_START_S * 1e9)
        while not self.drawn:
            if self._process.poll() is not None or python_monotonic_ns() > deadline:
                raise BenchError("a console did not open")
            sleep(0.05)
        os.write(self._ours, pane.encode())

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                self.drawn += len(data)

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used."""
        used = self._usage.cpu_times()
        return float(used.user + used.system)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._ours)


@contextlib.contextmanager
def _consoles(config: Path, count: int) -> Iterator[list[_Console]]:
    opened: list[_Console] = []
    try:
        for pane in _PANES[:count]:
            opened.append(_Console(config, pane))
        yield opened
    finally:
        for console in opened:
            console.close()


class _Windows:
    """The windows of one engine: histograms and what the consoles used."""

    def __init__(self, histogram: np.ndarray, config: Path, seconds: float) -> None:
        self._histogram, self._config, self._seconds = histogram, config, seconds
        self.p99_us: dict[bool, list[float]] = {True: [], False: []}
        self.all = {True: new_histogram(), False: new_histogram()}
        self.cpu_s = self.attached_s = 0.0

    def one(self, attached: bool) -> None:
        """One window. Raises BenchError where nothing was decided in it, or a console does not open or draw."""
        with _consoles(self._config, CONSOLES if attached else 0) as consoles:
            sleep(_SETTLE_S)
            drawn = [console.drawn for console in consoles]
            used = sum(console.cpu_s for console in consoles)
            began, before = python_monotonic_ns(), self._histogram.copy()
            sleep(self._seconds)
            values = between(before, self._histogram.copy())
            took_s = (python_monotonic_ns() - began) / 1e9
            if any(console.drawn == was for console, was in zip(consoles, drawn, strict=True)):
                raise BenchError("a console did not draw")
            self.cpu_s += sum(console.cpu_s for console in consoles) - used
            self.attached_s += took_s if attached else 0.0
        found = summary(values)
        if not found["count"]:
            raise BenchError("the engine decided nothing in a window")
        self.p99_us[attached].append(found["p99"] / 1000)
        merge(self.all[attached], values)


def _result(name: str, peer: str | None, histogram: np.ndarray) -> Result:
    values = summary(histogram)
    p50, p99, p99_9, most = (values[key] / 1000 for key in ("p50", "p99", "p99_9", "max"))
    return Result(name, peer, p99, "us (p99)", values["count"], p50, p99, p99_9, most)


def run(report: Report, full: bool) -> None:
    """Measure into the report. Raises BenchError where engine or consoles do not come up, or end too soon."""
    seconds = _FULL_WINDOW_S if full else _WINDOW_S
    with tempfile.TemporaryDirectory(prefix="bot4-bench-") as folder, engine(Path(folder), **_TABLES) as made:
        made.start()
        try:
            made.wait_trading()
        except (SessionError, TimeoutError) as error:
            raise BenchError(str(error)) from None
        mapping = attach(made.name)
        windows = _Windows(mapping.histogram(*HOPS["decision"]), made.config, seconds)
        for pair in range(PAIRS):
            for attached in (True, False) if pair % 2 else (False, True):
                windows.one(attached)
        mapping.close()
        made.finish()
    report.results += [
        _result("decision_with_consoles", None, windows.all[True]),
        _result("decision_without", "no console", windows.all[False]),
        Result("console_cpu", None, 100 * windows.cpu_s / windows.attached_s / CONSOLES, "% of a core", CONSOLES),
    ]
    report.ratios.append(Ratio(
        f"decision p99 with {CONSOLES} consoles", "without", median_ratio(windows.p99_us[True], windows.p99_us[False]),
        _GATE, _GOAL, at_most=True,
    ))
    pairs = (f"{ours:.0f}/{other:.0f}" for ours, other in zip(windows.p99_us[True], windows.p99_us[False], strict=True))
    report.notes.append(f"p99 with/without by pair, us: {', '.join(pairs)}")
