"""The properties of the tests with other examples each time: `make test` takes the same ones every time.

A piece is one file of tests, the next one each time, with the piece's seed. What hypothesis found is in what is left:
the smallest example, and the call that shows it again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from engine.kernel import PROJECT_ROOT
from tools.soak.tally import Piece

PASSED = 20_000  # properties, each with all its examples
PROFILE = "search"  # in tests/conftest.py
_FOLDER = PROJECT_ROOT / "tests"
_HUNG_S = 900.0
_NOTHING_CHOSEN = 5  # pytest's exit code
_COUNTED = re.compile(r"(\d+) passed")
_LEFT = "output.txt"


def files_with_properties() -> list[Path]:
    """The files of tests that hold properties, in order."""
    return [path for path in sorted(_FOLDER.glob("test_*.py")) if "from hypothesis import" in path.read_text()]


def command_of(path: Path, seed: int) -> list[str]:
    """Runs the properties of a file with the examples of a seed."""
    wanted = ["-m", "hypothesis and not session"]
    return ["pytest", str(path), *wanted, f"--hypothesis-profile={PROFILE}", f"--hypothesis-seed={seed}"]


def run_file(piece: Piece, path: Path) -> None:
    """The properties of one file."""
    command = command_of(path, piece.seed)
    again = f"python -m {command[0]} {command[1]} -m '{command[3]}' {' '.join(command[4:])}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=_HUNG_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        piece.hold(False, f"{path.name}: not done after {_HUNG_S:.0f} s", again)
        return
    (piece.folder / _LEFT).write_text(done.stdout + done.stderr)
    counted = _COUNTED.search(done.stdout)
    piece.count("properties", int(counted.group(1)) if counted else 0)
    kept = done.returncode in (0, _NOTHING_CHOSEN)
    piece.hold(kept, f"{path.name}: pytest ended with {done.returncode}: {_words(done.stdout)}", again)


def _words(output: str) -> str:
    """Which failed, without what led there."""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "; ".join(failed) or output[-500:]


def run_properties(piece: Piece) -> None:
    """A part of it."""
    files = files_with_properties()
    path = files[piece.seed % len(files)]
    piece.note(path.name)
    run_file(piece, path)
