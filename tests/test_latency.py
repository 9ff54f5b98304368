"""`bot4 latency`: what the histograms in shared memory hold, as a table, as lines, as JSON, once or once a second."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.attach import plan_path
from procs.instance import Mapping, Plan
from tests.instance_memory import attachable, small_instance
from tests.latency_samples import histogram_of, record
from tools import cli
from tools.latency.command import _on_screen

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=16) as made:
        yield made


@pytest.fixture
def config(plan: Plan, tmp_path: Path) -> Iterator[Path]:
    with attachable(plan, tmp_path) as path:
        yield path


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
    heading, *lines = [process.stdout.readline() for _ in range(6)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    ended.set()
    thread.join()
    assert process.returncode == 0, err
    assert err == "" and "\x1b" not in out + "".join(lines)
    assert heading.split()[:5] == ["second", "hop", "count", "p50", "us"] and "hop" not in out
    for line in lines:
        second, hop, count = line.split()[:3]
        assert hop in ("ml", "wire") and int(count) >= 1 and int(second) >= 1
    mapping.close()


def test_bars_of_a_hop_of_all_hops_and_as_json(plan: Plan, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = Mapping(plan)
    record(mapping, "wire", *[40_000] * 3, 90_000)
    record(mapping, "ml", 12_000)
    for arguments, heads in (
        (["--histogram", "wire"], ["wire: 4 values"]), (["--histogram"], ["ml: 1 values", "wire: 4 values"]),
        (["--histogram", "call"], ["call: nothing passed"]),
    ):
        assert cli.main(["latency", *arguments, "--config", str(config)]) == 0
        out = capsys.readouterr().out
        assert re.findall(r"^\w+: (?:\d+ values|nothing passed)", out, re.MULTILINE) == heads and "\x1b" not in out
    assert cli.main(["latency", "--json", "--histogram", "wire", "--config", str(config)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["latency_us"]) == {"ml", "wire"} and set(answer["histograms"]) == {"wire"}
    assert sum(row["count"] for row in answer["histograms"]["wire"]) == 4
    mapping.close()


def test_bars_of_each_second_in_a_pipe(plan: Plan, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = Mapping(plan)
    record(mapping, "wire", 5_000_000)  # before anybody watched
    timer = threading.Timer(0.3, record, (mapping, "wire", 40_000))
    timer.start()
    assert cli.main(["latency", "--watch", "--histogram", "--for", "1.2s", "--config", str(config)]) == 0
    timer.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["1", "wire:", "1", "values,", "mean", "40", "us"]
    assert lines[-1].split() == ["1", "nothing", "passed"], "what was left of the second second"
    assert all(len(line) <= 80 for line in lines)
    mapping.close()


@pytest.mark.parametrize(("hop", "height"), [("wire", 24), ("wire", 20), ("wire", 8), ("", 24), ("", 200)])
def test_bars_are_no_higher_than_the_terminal(hop: str, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", str(height))
    wide = histogram_of([10**power for power in range(3, 9)] * 3)
    lines = _on_screen({"wire": wide, "ml": wide}, hop)
    assert len(lines) <= height - 3 and lines[0].startswith("wire: 18 values")
    words = {True: "... more than fits here", False: "... more than fits here: --histogram HOP shows one"}[bool(hop)]
    assert (lines[-1] == words) == (height == 8 or (not hop and height == 24))


def test_of_two_engines_the_one_that_the_configuration_names(
    plan: Plan, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    mapping = Mapping(plan)
    record(mapping, "wire", 40_000)
    with small_instance(other_folder, capacity=16) as other, attachable(other, other_folder) as other_config:
        for path, name, hops in ((config, plan.name, {"wire"}), (other_config, other.name, set())):
            assert cli.main(["latency", "--json", "--config", str(path)]) == 0
            answer = json.loads(capsys.readouterr().out)
            assert (answer["name"], set(answer["latency_us"])) == (name, hops)
    mapping.close()
