"""`bot4 latency`: what the histograms in shared memory hold, as a table, as lines, as JSON, once or once a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.attach import plan_path
from procs.instance import Mapping, Plan
from procs.ports import record_latency
from procs.table import HOPS
from tests.instance_memory import attachable, small_instance
from tools import cli

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=16) as made:
        yield made


@pytest.fixture
def config(plan: Plan, tmp_path: Path) -> Iterator[Path]:
    with attachable(plan, tmp_path) as path:
        yield path


def record(mapping: Mapping, hop: str, *values_ns: int) -> None:
    for value in values_ns:
        record_latency(mapping.histogram(*HOPS[hop]), value)


def test_hops_that_something_passed_in_microseconds(
    plan: Plan, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = Mapping(plan)
    record(mapping, "wire", *range(1, 64))
    record(mapping, "checkpoint.validation", 5)
    assert cli.main(["latency", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": plan.name,
        "latency_us": {
            "wire": {"count": 63, "p50": 0.032, "p99": 0.063, "p99_9": 0.063, "max": 0.063},
            "checkpoint.validation": {"count": 1, "p50": 0.005, "p99": 0.005, "p99_9": 0.005, "max": 0.005},
        },
    }
    assert cli.main(["latency", "--config", str(config)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["hop", "count", "p50"]
    assert [line.split()[:2] for line in lines] == [["wire", "63"], ["checkpoint.validation", "1"]]
    mapping.close()


@pytest.fixture(autouse=True)
def _hears_interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background makes them, and what they start, deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_terminal_is_redrawn_each_second(plan: Plan, config: Path) -> None:
    mapping = Mapping(plan)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.cli", "latency", "--watch", "--config", str(config)], cwd=PROJECT_ROOT,
        stdout=theirs, stderr=subprocess.PIPE,
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"\x1b[2J") < 3:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    os.close(ours)
    assert process.returncode == 0
    screens = seen.split(b"\x1b[H\x1b[2J")
    assert screens[0] == b"" and all(plan.name.encode() in screen and b"p99.9" in screen for screen in screens[1:3])
    mapping.close()


def watch(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.cli", "latency", "--watch", "--config", str(config), *arguments],
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def test_watching_shows_what_passed_in_the_last_second_and_ends_with_the_engine(plan: Plan, config: Path) -> None:
    mapping = Mapping(plan)
    record(mapping, "decision", *[10**9] * 50)  # before anybody watched
    process = watch(config, "--json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["seconds"] >= 1 and "decision" not in first["latency_us"]
    record(mapping, "decision", 7, 7, 9)
    seen = [json.loads(process.stdout.readline()) for _ in range(3)]
    counts = [one["latency_us"].get("decision", {"count": 0})["count"] for one in seen]
    assert sum(counts) == 3
    (decision,) = [one["latency_us"]["decision"] for one in seen if one["latency_us"]][:1]
    assert decision["max"] < 1.0, "the second before the last is not in it"
    plan_path(plan.name).unlink()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err == f"bot4: the engine named {plan.name!r} has ended\n"
    mapping.close()


def test_watching_in_a_pipe_gives_plain_lines_until_it_is_interrupted(plan: Plan, config: Path) -> None:
    mapping = Mapping(plan)
    process = watch(config)
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.02):
            record(mapping, "ml", 12_000)
            record(mapping, "wire", 40_000)

    thread = threading.Thread(target=work)
    thread.start()
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    ended.set()
    thread.join()
    assert process.returncode == 0, err
    assert err == "" and "\x1b" not in out + "".join(lines)
    for line in lines:
        second, hop, count = line.split()[:3]
        assert hop in ("ml", "wire") and int(count) >= 1 and int(second) >= 1
    mapping.close()
