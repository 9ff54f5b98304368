"""The Promela models of docs/models: they hold, they are not vacuous, and each seeded bug is found."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parent.parent / "docs" / "models"
README = (MODELS / "README.md").read_text()
SOURCES = {path.stem: path.read_text() for path in sorted(MODELS.glob("*.pml"))}

# A row of the README's last table: bug, options of the build, the property that breaks, the mistake.
BUG_ROW = re.compile(r"^\| `(BUG_\w+)` \| (?:`([^`]*)`)? ?\| (assertion|invalid end state) \| (.+) \|$", re.MULTILINE)
# A row of its table of state spaces: model, options, states, seconds.
CLEAN_ROW = re.compile(r"^\| (ring|trip|modes) \| (?:`([^`]*)`)? ?\| ([\d,]+) \| [\d.]+ \|$", re.MULTILINE)
BUGS = BUG_ROW.findall(README)
CLEAN = CLEAN_ROW.findall(README)

SAFETY = ("-O2", "-DSAFETY", "-DCOLLAPSE")
SOON_FOUND = ("-O0", "-DSAFETY")  # a bug is found in fewer seconds than the optimiser takes
CYCLES = ("-O1", "-DNP", "-DCOLLAPSE")  # for `pan -l`: cycles without progress; no step is marked as progress

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")),
    reason="the Debian packages spin and gcc are needed to check the models",
)


@dataclass(frozen=True)
class Verdict:
    """What the checker said."""

    errors: int
    states: int
    first_error: str
    unreached: dict[str, list[str]]  # of each process, statements that no run got to


def check(model: str, options: str, folder: Path, build: tuple[str, ...], *run: str) -> Verdict:
    """Build and run the checker of a model, to the end or to the first error."""
    source = str(MODELS / f"{model}.pml")
    for command in (
        ["spin", *options.split(), "-a", source],
        ["gcc", "-w", *build, "-o", "pan", "pan.c"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    report = subprocess.run(
        ["./pan", "-m100000", *run], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    ).stdout
    assert "max search depth too small" not in report and "out of memory" not in report, report
    errors = re.search(r"errors: (\d+)", report)
    states = re.search(r"(\d+) states, stored", report)
    assert errors and states, report
    first = re.search(r"^pan:\d+: (.*)$", report, re.MULTILINE)
    unreached = {
        name: re.findall(r'"(.*)"$', lines, re.MULTILINE)
        for name, lines in re.findall(r"^unreached in (?:proctype )?(\w+)\n((?:\t.*\n)+)", report, re.MULTILINE)
    }
    return Verdict(int(errors[1]), int(states[1]), first[1] if first else "", unreached)


def model_of(bug: str) -> str:
    """The one model that knows the bug."""
    (model,) = [name for name, text in SOURCES.items() if re.search(rf"\b{bug}\b", text)]
    return model


@needs_spin
@pytest.mark.parametrize(("model", "options", "states"), CLEAN)
def test_the_model_holds_in_as_many_states_as_the_readme_says(
    model: str, options: str, states: str, tmp_path: Path
) -> None:
    verdict = check(model, options, tmp_path, SAFETY)
    assert verdict.errors == 0, verdict.first_error
    ratio = verdict.states / int(states.replace(",", ""))
    assert 0.5 < ratio < 2, verdict.states  # another version of Spin may merge steps differently
    if "FOLLOWER" not in options:  # there the stage is not run
        assert {name: [step for step in steps if step != "-end-"] for name, steps in verdict.unreached.items()} == {
            name: [] for name in verdict.unreached
        }
        reported = verdict.unreached.keys()
        assert any(pair <= reported for pair in ({"producer", "stage"}, {"source", "resetter"}, {"supervisor", "gate"}))


@needs_spin
@pytest.mark.parametrize(
    ("model", "options"), [("ring", "-DRECORDS=3"), ("ring", "-DFOLLOWER"), ("trip", ""), ("modes", "-DTRIPS=2")]
)
def test_every_run_ends(model: str, options: str, tmp_path: Path) -> None:
    """No cycle, and (above) no invalid end state: whoever is killed, all records are processed in the end."""
    verdict = check(model, options, tmp_path, CYCLES, "-l")
    assert verdict.errors == 0, verdict.first_error


@needs_spin
@pytest.mark.parametrize(("bug", "options", "found_as"), [row[:3] for row in BUGS])
def test_a_seeded_bug_is_found(bug: str, options: str, found_as: str, tmp_path: Path) -> None:
    verdict = check(model_of(bug), f"-D{bug} {options}", tmp_path, SOON_FOUND)
    assert verdict.errors == 1
    assert verdict.first_error.startswith(found_as), verdict.first_error


def test_the_readme_lists_every_bug_and_each_model_has_five() -> None:
    seeded = {name: set(re.findall(r"\bBUG_[A-Z_]+[A-Z]\b", text)) for name, text in SOURCES.items()}
    assert sorted(row[0] for row in BUGS) == sorted(set().union(*seeded.values()))
    assert set(seeded) == {"ring", "trip", "modes"} and all(len(bugs) >= 5 for bugs in seeded.values())
    clean = {("ring", ""), ("ring", "-DFOLLOWER -DRECORDS=6"), ("trip", ""), ("modes", "")}
    assert {(row[0], row[1]) for row in CLEAN} >= clean
