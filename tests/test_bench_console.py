"""`bench console`: windows with consoles at work and stopped, played with consoles that are none."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from procs.ports import record_latency
from shm.histogram import COUNT, new_histogram
from tools.bench import console
from tools.bench.report import BenchError


class Played:
    """A console that draws while it is not stopped, and uses 5 ms a look."""

    def __init__(self, obeys: bool = True) -> None:
        self.obeys = obeys
        self.stopped = False
        self._drawn, self._cpu_s = 0, 0.0

    def send(self, signum: int) -> None:
        self.stopped = signum == signal.SIGSTOP and self.obeys

    @property
    def drawn(self) -> int:
        self._drawn += not self.stopped
        return self._drawn

    @property
    def cpu_s(self) -> float:
        self._cpu_s += 0.005
        return self._cpu_s


def windows(histogram: np.ndarray, monkeypatch: pytest.MonkeyPatch, played: list[Played]) -> console._Windows:
    """Windows in which the engine decides three times: 2 us and twice the time below."""
    def pause(seconds: float) -> None:
        if seconds == 1.0:
            slow = 5_000 if played[0].stopped else 6_000
            for value in (2_000, slow, slow):
                record_latency(histogram, value)

    monkeypatch.setattr(console, "sleep", pause)
    return console._Windows(histogram, played, 1.0)  # type: ignore[arg-type]


def test_a_window_holds_what_passed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = new_histogram()
    record_latency(histogram, 10**9)  # before the first window
    seen = windows(histogram, monkeypatch, [Played(), Played()])
    for at_work in (False, True, True, False):
        seen.one(at_work)
    assert seen.p99_us[True] == pytest.approx([6.0, 6.0], rel=0.02)
    assert seen.p99_us[False] == pytest.approx([5.0, 5.0], rel=0.02)
    assert [int(seen.all[at_work][COUNT]) for at_work in (True, False)] == [6, 6]
    assert seen.cpu_s == pytest.approx(2 * 2 * 0.005) and seen.at_work_s > 0
    result = console._result("x", None, seen.all[True])
    assert (result.count, result.value) == (6, pytest.approx(6.0, rel=0.02)) and result.value == result.p99


def test_windows_that_show_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = windows(new_histogram(), monkeypatch, [Played(obeys=False)])
    with pytest.raises(BenchError, match="a console that was to draw did not, or one that was stopped did"):
        seen.one(False)
    monkeypatch.setattr(console, "sleep", lambda seconds: None)
    with pytest.raises(BenchError, match="decided nothing"):
        console._Windows(new_histogram(), [Played()], 1.0).one(True)  # type: ignore[list-item]
