"""The long suites: their tally survives a crash and adds up, a violation is told with its seed, and they can fail."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernel import PROJECT_ROOT
from tests.embedded_venue import running_venue
from tools.soak import __main__ as command
from tools.soak.kills import SIGNALS, VICTIMS, plan_of
from tools.soak.resources import Samples, _judge, private_mb, slope
from tools.soak.ring_exchange import exchange
from tools.soak.session import VenueAccess, wait_until
from tools.soak.suites import SUITES, Suite
from tools.soak.tally import Piece, Tally, TallyError


def ran(piece: Piece) -> None:
    piece.count("turns", 2)
    piece.measure("delay", 10.0 - piece.seed)


def broken(piece: Piece) -> None:
    piece.count("turns")
    (piece.folder / "evidence").write_text("here")
    piece.hold(piece.seed != 1, "one is not allowed")
    piece.hold(piece.seed != 2, "nor is two", again="look at two")


def raising(piece: Piece) -> None:
    raise ValueError(f"nothing works with {piece.seed}")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    suites = (Suite("ran", ran, 0, {"turns": 6}), Suite("broken", broken, 0), Suite("raising", raising, 0, once=True))
    monkeypatch.setattr(command, "SUITES", suites)
    monkeypatch.setattr(command, "BY_NAME", {suite.name: suite for suite in suites})
    clock = itertools.count(0, 1_000_000)
    monkeypatch.setattr(command, "python_monotonic_ns", lambda: next(clock))  # each look takes a millisecond


def run(folder: Path, hours: float) -> int:
    return command.run_for(hours, folder, Tally(folder / "tally.json"), command.SUITES)


def test_one_suite_alone_leaves_the_others_where_they_are(tmp_path: Path, table: None) -> None:
    run(tmp_path, 0.05 / 3600)
    before = Tally(tmp_path / "tally.json")
    path = tmp_path / "tally.json"
    assert command.run_for(0.02 / 3600, tmp_path, Tally(path), [command.BY_NAME["ran"]]) == 0
    after = Tally(path)
    assert after.of("ran").pieces > before.of("ran").pieces
    assert after.of("broken") == before.of("broken")


def test_pieces_in_turn_add_up_over_calls(
    tmp_path: Path, table: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path, 0.05 / 3600)
    seen = Tally(tmp_path / "tally.json")
    second = run(tmp_path, 0.05 / 3600)
    tally = Tally(tmp_path / "tally.json")
    assert {name: record.pieces > seen.of(name).pieces for name, record in tally.records.items()} == {
        "ran": True, "broken": True, "raising": True,
    }
    pieces = tally.of("ran").pieces
    assert abs(pieces - tally.of("broken").pieces) <= 2  # in turn
    assert tally.of("ran").counts == {"turns": 2 * pieces}
    assert tally.of("ran").worst == {"delay": 10.0}
    assert tally.of("raising").pieces == 2  # once a call
    assert [(entry["seed"], entry["again"][:17]) for entry in tally.of("broken").violations] == [
        (1, "python -m tools.s"), (2, "look at two"),
    ]
    assert [entry["seed"] for entry in tally.of("raising").violations] == [0, 1]
    assert first + second == tally.violations == 4
    assert sum(tally.of("ran").codes.values()) == pieces
    said = capsys.readouterr().out
    assert "VIOLATION, seed 1: one is not allowed" in said
    assert "again: python -m tools.soak --suite broken --seed 1" in said
    assert "ValueError: nothing works with 0" in said
    assert (tmp_path / "broken-1" / "evidence").exists()
    assert not (tmp_path / "ran-0").exists()
    report = "\n".join(tally.report({"ran": {"turns": 6}}))
    assert f"{2 * pieces:,} of 6" in " ".join(report.split())
    assert report.count("VIOLATION") == 4


def test_a_tally_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(tmp_path / "tally.json")
    tally.of("ran").pieces = 3
    tally.save()
    before = tally.path.read_bytes()
    tally.of("ran").pieces = 4

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        tally.save()
    assert tally.path.read_bytes() == before
    assert Tally(tally.path).of("ran").pieces == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99, "last": "", "suites": {}}', '{"version": 1}'])
def test_a_file_that_is_no_tally_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tally.json").write_text(content)
    with pytest.raises(TallyError, match=r"tally\.json"):
        Tally(tmp_path / "tally.json")


def test_the_command(tmp_path: Path) -> None:
    """The real suites: none has time in a second; a report of nothing; one piece by its seed."""

    def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.soak", "--folder", str(tmp_path), *arguments], cwd=PROJECT_ROOT,
            capture_output=True, text=True, timeout=120, check=False,
        )

    done = soak("--hours", "0.0003")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "] == [s.name for s in SUITES]
    assert soak("--seed", "1").returncode == 2
    (tmp_path / "tally.json").write_text(json.dumps({
        "version": 1, "last": "rings", "suites": {"rings": {"violations": [
            {"seed": 7, "code": "abc", "what": "a record was lost", "again": "python -m tools.soak --suite rings"}
        ]}},
    }))
    done = soak("--report")
    assert done.returncode == 1
    assert "VIOLATION seed 7, code abc: a record was lost" in done.stdout


def test_every_seed_meets_every_process_with_every_signal() -> None:
    everything = {(victim, name) for victim in VICTIMS for name in SIGNALS}
    plans = [plan_of(seed) for seed in range(20)]
    for plan in plans:
        assert set(plan) == everything and len(plan) == len(everything)
        assert plan[-1] == ("launcher", "SIGKILL")
    assert plan_of(3) == plan_of(3)
    assert len({tuple(plan) for plan in plans}) == 20


def test_a_leak_shows_in_the_slope() -> None:
    noise = [0.3 * ((7 * k) % 11 - 5) for k in range(600)]
    hours = [2 * k / 3600 for k in range(600)]
    flat, error = slope(hours, [50 + n for n in noise])
    assert abs(flat) < 2 * error + 0.5
    leaking, error = slope(hours, [50 + 6 * at + n for at, n in zip(hours, noise, strict=True)])
    assert leaking - 2 * error > 4 and leaking + 2 * error < 8
    with pytest.raises(ValueError, match="at least 12"):
        slope(hours[:11], noise[:11])


def test_memory_is_read_in_megabytes() -> None:
    code = "import os, sys; {}print(1, flush=True); sys.stdin.read()"
    measured = []
    for hold in ("", "held = bytearray(os.urandom(64 << 20)); "):
        with subprocess.Popen(
            [sys.executable, "-c", code.format(hold)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            measured.append(private_mb(process.pid))
            process.kill()
    (before, _), (after, resident) = measured
    assert 60 < after - before < 70 and resident >= after


def test_an_exchange_that_does_not_end_is_told() -> None:
    _, bad = exchange(f"test-soak-{os.getpid()}", 50_000_000, seconds=0.05)
    assert bad == -1


def test_a_venue_that_is_gone_is_waited_for_before_it_is_healed() -> None:
    with running_venue() as venue:
        access = VenueAccess(venue.address.rest_url)
        access.fault(fault="gone", duration_ms=1_500)
        wait_until(lambda: not _answers(access), 5, "venue that is gone")
        access.heal()
        assert _answers(access) and not access.state()["positions"]["BTCUSDT"]["size"].strip("0.")


def _answers(access: VenueAccess) -> bool:
    try:
        return bool(access.state())
    except OSError:
        return False


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_whoever_is_told_to_stop_ends_what_it_has_begun(tmp_path: Path, name: str) -> None:
    soak = subprocess.Popen(
        [sys.executable, "-m", "tools.soak", "--suite", "hostile", "--hours", "1", "--folder", str(tmp_path)],
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True,
    )
    assert soak.stdout is not None and "hostile, seed 0" in soak.stdout.readline()
    soak.send_signal(signal.Signals[name])
    said, _ = soak.communicate(timeout=60)
    assert soak.returncode == 1 and "leaves no trace" in said
    assert not (tmp_path / "tally.json").exists()


@pytest.mark.parametrize(
    ("grows_for", "step_at", "found"),
    [(0, 700, 0), (350, 700, 0), (700, 700, 1), (0, 300, 0), (0, 430, 1), (0, 525, 1), (0, 610, 1)],
)
def test_memory_that_goes_on_growing_is_found(tmp_path: Path, grows_for: int, step_at: int, found: int) -> None:
    """Four MB in 24 minutes, or in the first half of them, or never; and one page of the allocator's, early or late."""
    noise = itertools.cycle([0.0, 0.05, -0.05])
    samples = Samples()
    for number in range(700):
        samples.seconds.append(number * 2.0)
        grown = 4.0 * min(number, grows_for) / 700 + (number >= step_at)
        samples.private_mb.append(80.0 + grown + next(noise))
        samples.resident_mb.append(170.0)
        samples.descriptors.append(16)
    piece = Piece(0, 1800.0, tmp_path)
    _judge(piece, {"recorder": samples}, long_enough=True)
    assert len(piece.violations) == found and "recorder: private 80" in piece.notes[0]
