"""The suite of properties: other examples with each seed, what was found is told with the call that shows it again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tools.soak.properties import files_with_properties, run_file
from tools.soak.tally import Piece

PROPERTIES = """
from hypothesis import given, settings, strategies as st
seen = []

@settings(max_examples=20)
@given(st.integers(0, 10**9))
def test_property(number):
    with open(__file__ + ".seen", "a") as file:
        print(number, file=file)

@given(st.integers(0, 10**9))
def test_wrong(number):
    assert number < LEAST

def test_no_property():
    raise AssertionError
"""


def made(folder: Path, least: int) -> Path:
    (folder / "conftest.py").write_text("import tests.profiles\n")
    path = folder / "test_made.py"
    path.write_text(PROPERTIES.replace("LEAST", str(least)))
    return path


def piece(folder: Path, seed: int) -> Piece:
    own = folder / f"piece-{seed}"
    own.mkdir()
    return Piece(seed, 60.0, own)


@pytest.mark.parametrize("place", ["ci", "desk"])
def test_each_seed_has_its_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "ci":  # where hypothesis has a profile of its own, with the same examples each time
        monkeypatch.setenv("CI", "true")
    else:
        monkeypatch.delenv("CI", raising=False)
    path, seen = made(tmp_path, 10**10), tmp_path / "test_made.py.seen"
    examples = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        one = piece(tmp_path / name, seed)
        run_file(one, path)
        assert one.violations == [] and one.counts == {"properties": 2}
        examples.append(seen.read_text())
        seen.unlink()
    assert examples[0] == examples[1] != examples[2]


def test_what_is_found_is_told_and_can_be_shown_again(tmp_path: Path) -> None:
    path = made(tmp_path, 1_000)
    one = piece(tmp_path, 3)
    run_file(one, path)
    assert one.counts == {"properties": 1}
    (violation,) = one.violations
    assert "test_made.py::test_wrong" in violation.what and "test_no_property" not in violation.what
    assert "number=1000" in (one.folder / "output.txt").read_text().replace(" ", "")
    again = [sys.executable, *shlex.split(violation.again)[1:]]
    shown = subprocess.run(again, capture_output=True, text=True, check=False)
    assert shown.returncode == 1 and "number=1000" in shown.stdout.replace(" ", "")


def test_it_knows_its_files() -> None:
    names = {path.name for path in files_with_properties()}
    assert "test_ingest_fuzz.py" in names and "test_tour.py" not in names


@pytest.mark.parametrize("profile", ["gate", "search"])
def test_the_tests_have_both_profiles(profile: str) -> None:
    assert settings.get_profile(profile).derandomize == (profile == "gate")
