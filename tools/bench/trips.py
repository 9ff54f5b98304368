"""Trips of a whole engine under load, with a button on mock pins: from its edge to the last cancel on the wire.

kill_word       edge -> the word is set and every process was woken, as the kill switch has stamped it
kill_seen       word set -> the last of the hot processes has begun a loop turn in which it reads the word
kill_seen_ROLE  the same for one of them
kill_wire       edge -> the kill switch has written the cancels of all symbols

The edge is the moment at which this process moves the mock contact: the pipe to the kill switch and the wake of the
thread that reads it are in every figure, where hardware has an interrupt. Every loop turn publishes its time before it
reads the word, so the first one after the trip is looked for among the heartbeats; where it was overtaken before it was
seen here, a later one counts: the figure is never too small.
Between two trips the engine comes back the real way: button released, cause acknowledged, reset and NORMAL with the
operator's secret; then orders must rest at the venue again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from procs.attach import NotRunning, attach
from procs.control_socket import ask
from procs.gpio.mock_pins import PIPE_NAME
from procs.instance import Mapping
from procs.table import PROCESSES, VITAL, Role
from shm.clock import python_monotonic_ns, sleep
from shm.control import Readiness
from shm.seqlock import Seqlock
from tools.bench.report import BenchError, Report, times
from tools.soak.session import Engine, SessionError, bot4, engine

TRIPS, FULL = 30, 1000
HOT = tuple(process.role for process in PROCESSES if process.hot)
_SECRET = "only for this benchmark"
_FLOW = {"limit_rate": 600.0, "market_rate": 40.0}
_TABLES: dict[str, dict[str, Any]] = {
    "gpio": {"enabled": True, "backend": "mock", "debounce_s": 0.01},
    "safety": {"cooldown_s": 0.0},
    "embedded": {
        "loop_interval_ms": 2, "weight_limit_1m": 1_000_000, "order_limit_10s": 100_000, "order_limit_1m": 1_000_000,
        "btcusdt": _FLOW, "ethusdt": _FLOW,
    },
}
_START_S, _STEP_S = 90.0, 60.0
# How long a trip may take to reach everybody, and how often heartbeats are looked at.
_TRIP_NS = 5_000_000_000
_LOOK_S = 0.00005
_SETTLED_NS = 200_000_000
_RESTING = 4


def _until(condition: Callable[[], Any], what: str, timeout_s: float = _STEP_S) -> Any:
    """The first true value of a condition. Raises BenchError naming what there is none of."""
    deadline = python_monotonic_ns() + int(timeout_s * 1e9)
    while not (value := condition()):
        if python_monotonic_ns() > deadline:
            raise BenchError(f"still no {what} after {timeout_s:.0f} s")
        sleep(0.005)
    return value


class _Trips:
    """An engine that trades, and what is done to it."""

    def __init__(self, made: Engine) -> None:
        self._made = made
        self._metrics: Seqlock | None = None
        self._mapping: Mapping = _until(self._attached, "engine that trades", _START_S)
        self._control = self._mapping.control
        folder = self._mapping.plan.path
        self._notes = folder / "killswitch.jsonl"
        self._button = os.open(folder / PIPE_NAME, os.O_WRONLY)
        self._read_to = 0
        self.samples: dict[str, list[int]] = {}

    def _attached(self) -> Mapping | None:
        if self._made.launcher.poll() is not None:
            raise SessionError(f"the engine ended early: {self._made.finish(signum=None)}")
        try:
            mapping = attach(self._made.name)
        except NotRunning:
            return None
        if all(mapping.control.readiness(role) == Readiness.READY for role in VITAL) and self._resting(mapping):
            return mapping
        self._metrics = None
        mapping.close()
        return None

    def _resting(self, mapping: Mapping) -> bool:
        if self._metrics is None:
            self._metrics = mapping.metrics()  # once: each call maps the block anew
        latest = self._metrics.read()
        return latest is not None and int(latest[0]["open_orders"]) >= _RESTING

    def _move(self, word: str) -> None:
        os.write(self._button, f"{word}\n".encode())

    def _new_notes(self) -> list[dict[str, Any]]:
        """What the kill switch has noted since the last time; whole lines only."""
        data = self._notes.read_bytes()[self._read_to :] if self._notes.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _watch(self) -> dict[Role, list[int]]:
        """The heartbeats of the hot processes until each has turned after the word was set, CLOCK_MONOTONIC."""
        control, offset = self._control, self._control.session_offset_ns
        seen: dict[Role, list[int]] = {role: [] for role in HOT}
        until_ns, tripped_ns = python_monotonic_ns() + _TRIP_NS, 0
        while python_monotonic_ns() < until_ns:
            if not tripped_ns and control.tripped:
                tripped_ns = python_monotonic_ns()
            if tripped_ns and all(beats and beats[-1] >= tripped_ns for beats in seen.values()):
                break
            for role, beats in seen.items():
                beat = control.heartbeat(role) - offset
                if not beats or beats[-1] != beat:
                    beats.append(beat)
            sleep(_LOOK_S)
        return seen

    def once(self) -> None:
        """Trip, measure, and bring the engine back. Raises BenchError where one of the stamps is missing."""
        self._new_notes()
        edge_ns = python_monotonic_ns()
        self._move("press")
        beats = self._watch()
        notes: list[dict[str, Any]] = []

        def both() -> tuple[dict[str, Any], dict[str, Any]] | None:
            notes.extend(self._new_notes())
            pressed = [note for note in notes if note["event"].startswith("button pressed")]
            tripped = [note for note in notes if note["event"] == "tripped"]
            return (pressed[0], tripped[0]) if pressed and tripped else None

        pressed, tripped = _until(both, "note of the trip")
        self._add("kill_word", pressed["awake_ns"] - edge_ns)
        self._add("kill_wire", tripped["written_ns"] - edge_ns)
        after = {role: [beat for beat in beats[role] if beat >= pressed["heard_ns"]] for role in HOT}
        if not all(after.values()):
            raise BenchError(f"no loop turn of {', '.join(role.label for role in HOT if not after[role])} after a trip")
        first = {role: min(beats) - pressed["heard_ns"] for role, beats in after.items()}
        self._add("kill_seen", max(first.values()))
        for role, took_ns in first.items():
            self._add(f"kill_seen_{role.label}", took_ns)
        self._come_back()

    def _add(self, name: str, ns: int) -> None:
        self.samples.setdefault(name, []).append(ns)

    def _come_back(self) -> None:
        control = self._control
        _until(lambda: control.gate_epoch(Role.KILLSWITCH) == control.token, "end of the stop")
        self._move("release")
        _until(lambda: not control.asserted, "released button")
        self._ask(command="reset", acknowledge=True)
        self._ask(command="mode", mode="NORMAL")
        _until(lambda: self._resting(self._mapping), "orders that rest again")
        sleep(_SETTLED_NS / 1e9)

    def _ask(self, **request: Any) -> None:
        """Ask the control plane, again while the engine is not ready for it yet."""
        answers: list[dict[str, Any]] = []

        def granted() -> bool:
            answers.append(ask(self._made.name, {"reason": "bench kill", "secret": _SECRET, **request}, _STEP_S))
            return bool(answers[-1]["ok"])

        try:
            _until(granted, "permission")
        except BenchError as error:
            raise BenchError(f"{request['command']}: {error}: {answers[-1]}") from None

    def close(self) -> None:
        """Let go of button and memory."""
        os.close(self._button)
        self._mapping.close()


def run(report: Report, count: int) -> None:
    """Trip an engine `count` times and add the figures; Ctrl-C ends it early, and what was measured counts.

    Raises BenchError where a step fails.
    """
    with tempfile.TemporaryDirectory(prefix="bot4-bench-") as folder, engine(Path(folder), **_TABLES) as made:
        if bot4("secret", "--config", str(made.config), input=f"{_SECRET}\n").returncode:
            raise BenchError("the operator's secret could not be set")
        made.start()
        try:
            trips = _Trips(made)
            try:
                for number in range(count):
                    if sys.stderr.isatty():
                        print(f"\rtrip {number + 1} of {count}", end="", file=sys.stderr, flush=True)
                    trips.once()
            except KeyboardInterrupt:
                report.notes.append(f"stopped after {len(trips.samples.get('kill_wire', ()))} of {count} trips")
            trips.close()
        except SessionError as error:
            raise BenchError(str(error)) from None
        made.finish()
    for name, samples in sorted(trips.samples.items()):
        report.results.append(times(name, None, np.array(samples, np.int64), "ms"))
    report.notes.append(f"{count} trips of an engine under load; goal on a quiet machine: kill_wire p99 20 ms")
