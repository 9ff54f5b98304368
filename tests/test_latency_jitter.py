"""The jitter probe: its rule over made readings of the clock, what it reads from /proc, the command."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.histogram import COUNT, INT64_MAX
from tests.latency_samples import histogram_of
from tools import cli
from tools.latency.core_facts import CoreFacts, Proc, core_interrupts, core_times_ms, look
from tools.latency.jitter import Gaps, _watch, _words, chosen_cores
from tools.latency.jitter_kernels import (
    BEGAN,
    COUNTERS,
    ENDED,
    FASTEST,
    LONGEST,
    STEPS,
    STOLEN,
    STOP,
    new_gaps,
    note_stamps,
    watch_core,
)
from tools.usage import UsageError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def gaps_of(steps: list[int], threshold_ns: int, begin: int = 1_000_000) -> Gaps:
    """The gaps of a loop whose readings lie so far apart."""
    gaps = Gaps(3)
    note_stamps(*gaps.arrays, threshold_ns, np.cumsum([begin, *steps], dtype=np.int64))
    return gaps


@settings(max_examples=150)
@given(st.lists(st.integers(0, 60) | st.integers(900, 1100) | st.integers(0, 10**9), max_size=80), st.integers(1, 2000))
def test_gaps_are_those_that_a_sort_of_the_steps_gives(steps: list[int], threshold: int) -> None:
    counters, longest, histogram = gaps_of(steps, threshold).arrays
    gaps = [step for step in steps if step >= threshold]
    assert counters[STEPS] == len(steps) and counters[STOLEN] == sum(gaps)
    assert counters[FASTEST] == min(steps, default=INT64_MAX)
    assert counters[ENDED] - counters[BEGAN] == sum(steps)
    assert np.array_equal(histogram, histogram_of(gaps))
    # Of equals the first comes first, as in a stable sort.
    begins = np.cumsum([0, *steps])[:-1].tolist()
    ordered = sorted(((gap, begin) for gap, begin in zip(steps, begins, strict=True) if gap >= threshold),
                     key=lambda pair: -pair[0])[:LONGEST]
    expected = [*ordered, *[(0, 0)] * (LONGEST - len(ordered))]
    assert [tuple(pair) for pair in longest.reshape(-1, 2).tolist()] == expected


def test_one_step_at_the_threshold_is_a_gap_and_one_below_is_none() -> None:
    assert gaps_of([999, 999], 1000).arrays[2][COUNT] == 0
    assert gaps_of([999, 1000], 1000).arrays[2][COUNT] == 1


def test_figures_of_a_core() -> None:
    plain = gaps_of([25] * 9_000 + [2_000] * 3 + [30_000] + [25] * 995, 1_000).as_plain(1_000)
    assert plain["core"] == 3 and plain["readings"] == 9_999 and plain["fastest_reading_ns"] == 25
    assert plain["gaps"] == 4 and plain["stolen_ms"] == 0.036
    length_ns = 25 * 9_995 + 36_000
    assert plain["stolen_share"] == pytest.approx(36_000 / length_ns)
    assert plain["gaps_per_second"] == round(4e9 / length_ns, 2)
    assert plain["gap_ns"]["max"] == 30_000 and abs(plain["gap_ns"]["p50"] - 2_000) <= 2_000 / 64
    assert plain["longest"] == [
        {"at_s": round((225_000 + 6_000) / 1e9, 6), "gap_ns": 30_000},
        *({"at_s": round((225_000 + place * 2_000) / 1e9, 6), "gap_ns": 2_000} for place in range(3)),
    ]
    assert sum(row["count"] for row in plain["histogram"]) == 4 and plain["histogram"][0]["from_ns"] >= 1_000


def test_a_core_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    gaps = gaps_of([25] * 100 + [2_000] * 11 + [5_000_000], 1_000)
    gaps.facts = CoreFacts(1, 7, 4_900_000, {"steal": 30.0, "irq": 0.0}, {"Local timer interrupts": 1_250})
    text = "\n".join(_words(gaps, 1_000))
    for words in (
        "core 3: 0.0 s, a reading every", "gaps of 1 us or more: 12,", "max 5 ms", "longest 5 ms at 0.000 s, 2 us at",
        "put aside for others 7 times, 4.9 of the 5.0 ms; steal 30 ms, interrupts 0 ms",
        "interrupts meanwhile: Local timer interrupts 1,250",
    ):
        assert words in text, text
    assert _words(gaps_of([25] * 10, 1_000), 1_000)[1:] == ["  no gap of 1 us or more"]


def test_the_loop_watches_for_as_long_as_it_should_or_until_it_is_stopped() -> None:
    arrays = new_gaps()
    watch_core(*arrays, 1_000, 2_000_000)
    counters = arrays[0]
    assert len(counters) == COUNTERS and counters[ENDED] - counters[BEGAN] >= 2_000_000
    assert counters[STEPS] > 0 and 0 < counters[FASTEST] <= 2_000_000
    stopped = new_gaps()
    stopped[0][STOP] = 1
    watch_core(*stopped, 1_000, 10**15)
    assert stopped[0][STEPS] == 0


@pytest.mark.parametrize(
    ("text", "cores"), [(None, [0, 1, 5, 6]), ("1", [1]), (" 0, 5-6,5", [0, 5, 6]), ("0-1", [0, 1])],
)  # fmt: skip
def test_cores_that_are_chosen(text: str | None, cores: list[int]) -> None:
    assert chosen_cores(text, [0, 1, 5, 6]) == cores


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7", "core 7 is not one that this process may use; allowed are 0,1"),
        ("0-999999", "core 2 is not one"), ("", "write a list such as 0,2-3"), ("a", "write a list"),
        ("1-0", "write a list"), ("-1", "write a list"), ("0,", "write a list"), ("99999999999999", "write a list"),
    ],
)  # fmt: skip
def test_cores_that_are_not(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^--cores {text}: .*{words}"):
        chosen_cores(text, [0, 1])


def test_a_core_that_cannot_be_had_is_said() -> None:
    gaps = Gaps(9_999)
    thread = threading.Thread(target=_watch, args=(gaps, 1_000, 1_000))
    thread.start()
    thread.join()
    assert gaps.failure == "core 9999: Invalid argument" and gaps.facts is None


# --- what the kernel says --------------------------------------------------------------------------------------------

STAT = """cpu  7546323 1623446 1155686 5162154 22584 0 51026 3941 0 0
cpu0 100 20 30 400 5 1 2 7 0 0
cpu10 1 2 3 4 5 6 7 8 9 10
intr 5
"""
INTERRUPTS = """           CPU0       CPU1       CPU10
 24:          1          0          4  IO-APIC   5-edge      ACPI:Ged
NMI:         10         20         30   Non-maskable interrupts
LOC:        100        200        300   Local timer interrupts
ERR:          0
"""


def test_times_and_interrupts_of_a_core() -> None:
    assert core_times_ms(STAT, 0, 100) == {
        "user": 1000, "nice": 200, "system": 300, "idle": 4000, "iowait": 50, "irq": 10, "softirq": 20, "steal": 70,
    }
    assert core_times_ms(STAT, 10, 1000)["steal"] == 8
    assert core_times_ms(STAT, 1, 100) == core_times_ms("", 0, 100) == {}
    assert core_interrupts(INTERRUPTS, 10) == {
        "IO-APIC 5-edge ACPI:Ged": 4, "Non-maskable interrupts": 30, "Local timer interrupts": 300,
    }
    assert core_interrupts(INTERRUPTS, 2) == core_interrupts("", 0) == {}


def test_what_was_added_since_a_look() -> None:
    before = CoreFacts(1, 2, 3_000, {"steal": 10.0}, {"a": 5, "b": 7})
    after = CoreFacts(4, 9, 8_000, {"steal": 30.0}, {"a": 6, "b": 7, "c": 20})
    assert after.since(before) == CoreFacts(3, 7, 5_000, {"steal": 20.0}, {"c": 20, "a": 1})
    assert after.since(CoreFacts(0, 0, -1, {}, {})).waited_ns == -1
    many = CoreFacts(0, 0, 0, {}, {str(number): number for number in range(20)})
    assert list(many.since(CoreFacts(0, 0, 0, {}, {})).interrupts) == ["19", "18", "17", "16", "15", "14"]


def test_a_kernel_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    silent = look(0, Proc(tmp_path))
    assert silent.waited_ns == -1 and silent.times_ms == {} and silent.interrupts == {} and silent.involuntary >= 0
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self" / "schedstat").write_text("5 777 9\n")
    told = look(0, Proc(tmp_path))
    assert told.waited_ns == 777 and told.times_ms["steal"] > 0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [(), ("--together",)])
def test_jitter_of_every_core_as_json(together: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    affinity = os.sched_getaffinity(0)
    assert cli.main(["latency", "--json", "jitter", "--for", "20ms", "--threshold", "2us", *together]) == 0
    answer = json.loads(out.buffer.getvalue())  # type: ignore[attr-defined]
    assert os.sched_getaffinity(0) == affinity
    assert [core["core"] for core in answer["cores"]] == sorted(affinity)
    assert answer["threshold_ns"] == 2_000 and answer["together"] is bool(together)
    for core in answer["cores"]:
        assert core["seconds"] >= 0.02 and core["readings"] > 0
        assert 0 <= core["stolen_share"] <= 1
        assert len(core["longest"]) == min(core["gaps"], LONGEST)
        assert all(gap["gap_ns"] >= 2_000 and gap["at_s"] <= core["seconds"] for gap in core["longest"])
        assert sum(row["count"] for row in core["histogram"]) == core["gaps"]
        assert core["kernel_says"]["involuntary_switches"] >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cores", "9999"), "--cores 9999: core 9999 is not one that this process may use; allowed are "),
        (("--threshold", "0.05us"), "--threshold 50 ns: at least 100 ns (0.1us) are needed"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["latency", "jitter", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and words in said.err


def test_ctrl_c_ends_it_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
         "from tools.cli import main; raise SystemExit(main(['latency', 'jitter', '--for', '1h']))"],
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    assert "1 s a core" in process.stdout.readline().replace("3600 s", "1 s")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err == ""
