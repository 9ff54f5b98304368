"""`bench console`: windows with and without consoles attached, played with consoles that are none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from procs.ports import record_latency
from shm.histogram import COUNT, new_histogram
from tools.bench import console
from tools.bench.report import BenchError


class Played:
    """A console that draws, or does not, and uses 5 ms a look."""

    def __init__(self, draws: bool) -> None:
        self._draws = draws
        self._drawn, self._cpu_s = 0, 0.0

    @property
    def drawn(self) -> int:
        self._drawn += self._draws
        return self._drawn

    @property
    def cpu_s(self) -> float:
        self._cpu_s += 0.005
        return self._cpu_s


def windows(
    histogram: np.ndarray, monkeypatch: pytest.MonkeyPatch, draws: bool = True, decides: bool = True
) -> tuple[console._Windows, list[int]]:
    """(windows in which the engine decides three times, 5 us or, with consoles, 6; how many were opened each time)."""
    opened: list[int] = []
    attached: list[Played] = []

    @contextlib.contextmanager
    def consoles(config: Path, count: int) -> Iterator[list[Played]]:
        opened.append(count)
        attached[:] = [Played(draws) for _ in range(count)]
        yield attached
        attached.clear()

    def pause(seconds: float) -> None:
        if seconds == 1.0 and decides:
            slow = 6_000 if attached else 5_000
            for value in (2_000, slow, slow):
                record_latency(histogram, value)

    monkeypatch.setattr(console, "_consoles", consoles)
    monkeypatch.setattr(console, "sleep", pause)
    return console._Windows(histogram, Path("bot4.toml"), 1.0), opened


def test_a_window_holds_what_passed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = new_histogram()
    record_latency(histogram, 10**9)  # before the first window
    seen, opened = windows(histogram, monkeypatch)
    for attached in (False, True, True, False):
        seen.one(attached)
    assert opened == [0, console.CONSOLES, console.CONSOLES, 0]
    assert seen.p99_us[True] == pytest.approx([6.0, 6.0], rel=0.02)
    assert seen.p99_us[False] == pytest.approx([5.0, 5.0], rel=0.02)
    assert [int(seen.all[attached][COUNT]) for attached in (True, False)] == [6, 6]
    assert seen.cpu_s == pytest.approx(2 * console.CONSOLES * 0.005) and seen.attached_s > 0
    result = console._result("x", None, seen.all[True])
    assert (result.count, result.value) == (6, pytest.approx(6.0, rel=0.02)) and result.value == result.p99


def test_windows_that_show_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="a console did not draw"):
        windows(new_histogram(), monkeypatch, draws=False)[0].one(True)
    with pytest.raises(BenchError, match="decided nothing"):
        windows(new_histogram(), monkeypatch, decides=False)[0].one(True)
