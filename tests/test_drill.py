"""The kill drill: its report says what it saw; one passes, and one of an engine that forgets fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.drill import Report, as_markdown

ROOT = Path(__file__).resolve().parent.parent
PASSES = {
    "an engine that ends tripped says so", "latch: started again", "no way from EMERGENCY straight to NORMAL",
    "reset with all five conditions leads to PAUSE", "back to NORMAL", "orders flow again", "an orderly end",
    "the audit log holds together",
    *(f"reset refused: {need} is missing" for need in (
        "trigger released", "cause acknowledged", "venue reconciliation clean", "cooldown over", "operator authorised",
    )),
}


def drill(root: Path, folder: Path, *triggers: str) -> tuple[int, dict]:
    arguments = [argument for name in triggers for argument in ("--trigger", name)]
    result = subprocess.run(
        [sys.executable, "-m", "tools.cli", "drill", "--json", "--report", str(folder), *arguments], cwd=root,
        capture_output=True, text=True, timeout=500, check=False,
    )
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_a_report_for_people() -> None:
    report = Report("2026-11-22 21:00:00 UTC", {"host": "here"})
    report.add("trigger: kill", True, "everything | stopped", a=1.0, b=2.5, c=3.0, d=1500.0,
               orders_between_trip_and_acknowledgement=1)
    report.add("back to NORMAL", False, "REFUSED\nbecause")
    text = as_markdown(report)
    assert "FAILED" in text.splitlines()[0] and "2026-11-22" in text.splitlines()[0]
    assert "| trigger: kill | ok | everything / stopped |" in text
    assert "| back to NORMAL | **FAILED** | REFUSED because |" in text
    assert "| kill | 1.0 ms | 2.5 ms | 3.0 ms | 1500.0 ms | 1 |" in text
    report.passed = True
    assert "FAILED" not in as_markdown(report).splitlines()[0]


@pytest.mark.session
@pytest.mark.timeout(600)
def test_a_drill_passes_and_leaves_its_report(tmp_path: Path) -> None:
    code, report = drill(ROOT, tmp_path, "button", "kill")
    failed = [step for step in report["steps"] if not step["passed"]]
    assert failed == [], failed
    assert code == 0 and report["passed"]
    steps = {step["what"]: step for step in report["steps"]}
    assert {"trigger: button", "trigger: kill"} | PASSES <= set(steps)
    figures = steps["trigger: button"]["figures"]
    assert 0 < figures["trigger_to_word_ms"] < figures["word_to_confirmed_ms"] < 60_000
    assert 0 <= figures["word_to_gate_shut_ms"] < figures["word_to_confirmed_ms"]
    written = sorted(path.suffix for path in tmp_path.iterdir())
    assert written == [".json", ".md"]
    assert Path(report["report"]).read_text().startswith("# Kill drill of 20")


@pytest.mark.session
@pytest.mark.timeout(600)
def test_a_drill_of_an_engine_that_forgets_its_trips_fails(tmp_path: Path) -> None:
    """A copy of the project in which the latch keeps nothing; nobody waits a minute for what will not come."""
    copy = tmp_path / "copy"
    kept = shutil.ignore_patterns(".*", "var", "tests", "docs")
    shutil.copytree(ROOT, copy, ignore=kept, symlinks=True)
    writing = "    path, spare = folder / LATCH_NAME"
    edit(copy / "procs" / "latch.py", writing, f"    return\n{writing}")
    edit(copy / "tools" / "trips" / "cells.py", "_LATCH_S = 60.0 ", "_LATCH_S = 3.0 ")
    code, report = drill(copy, tmp_path, "kill")
    assert code == 1 and not report["passed"]
    failed = {step["what"]: step["seen"] for step in report["steps"] if not step["passed"]}
    assert "not in the latch file" in failed["trigger: kill"]
