"""An exception raised at each line of the kill path in turn still ends tripped, with the cancels sent.

The lines are listed from the syntax tree: every statement of every function of the kill path, none excluded. Scenarios
(a trip, a hostile venue, a gateway that hangs, a first error, …) are run once under a trace to learn which lines they
pass; then each line is run again in the first scenario that passes it, and the trace raises there, once.

Judged each time: the word is set, also when nobody tripped but the error; cancels were carried out after the error;
nothing rests, not even an order that came at the moment of the error; and where an operator tripped, all is flat.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from procs.table import Role
from shm.control import TripSource
from tests.kill_scenarios import SCENARIOS, Injected
from tests.kill_world import World, world

ROOT = Path(__file__).resolve().parent.parent
# Modules of the kill path, whole, or the functions of a module that belong to it.
KILL_PATH: dict[str, tuple[str, ...]] = {
    "procs/killswitch.py": (),
    "procs/kill_credentials.py": (),
    "procs/sweep.py": (),
    "procs/emergency/stop.py": (),
    "procs/emergency/flatten.py": (),
    "procs/emergency/gates.py": (),
    "procs/emergency/witness.py": (),
    "procs/venues/binance_usdm/signed.py": (),
    "procs/venues/binance_usdm/rate_limits.py": ("BudgetSpent", "Paid", "pay", "hear", "is_new_order", "cost_of"),
    "procs/venues/binance_usdm/reports.py": ("ClientIds",),
    "procs/orphans.py": ("_maps_memory", "end_process"),
    "procs/spawned.py": ("run_kill_switch",),
}
Line = tuple[str, int]


def statements_of(path: str, names: tuple[str, ...]) -> list[Line]:
    """The lines of a module on which a statement of a function begins; names: of these functions and classes alone."""
    lines: set[int] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            declares = isinstance(node, ast.Nonlocal | ast.Global) or (
                isinstance(node, ast.AnnAssign) and node.value is None
            )
            if not is_docstring and not declares:
                lines.add(node.lineno if not getattr(node, "decorator_list", []) else node.decorator_list[0].lineno)
            for name in ("body", "orelse", "finalbody"):
                if not isinstance(node, ast.ClassDef | ast.Lambda):
                    visit(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                lines.add(handler.lineno)
                visit(handler.body)

    def find(body: list[ast.stmt], wanted: bool) -> None:
        for node in body:
            inside = wanted or getattr(node, "name", "") in names
            if isinstance(node, ast.FunctionDef) and inside:
                visit(node.body)
            elif isinstance(node, ast.ClassDef):
                find(node.body, inside)

    find(ast.parse((ROOT / path).read_text()).body, not names)
    return [(path, line) for line in sorted(lines)]


LINES = [line for path, names in KILL_PATH.items() for line in statements_of(path, names)]
_PATHS = {str(ROOT / path): path for path in KILL_PATH}
_LISTED = frozenset(LINES)


class Trace:
    """Notes which lines of the kill path are passed; at `target` it raises, once."""

    def __init__(self, target: Line | None, on_error: Callable[[], None]) -> None:
        self.passed: dict[Line, None] = {}
        self.fired = False
        self._target = target
        self._on_error = on_error

    def __enter__(self) -> Trace:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = _PATHS.get(frame.f_code.co_filename)
        if path is None or (self._target is not None and self._target[0] != path):
            return None

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                line = (path, frame.f_lineno)
                self.passed[line] = None
                if line == self._target and not self.fired:
                    self.fired = True
                    sys.settrace(None)
                    self._on_error()
                    raise Injected(f"{path}:{frame.f_lineno}")
            return local

        return local


def _play(folder: Path, scenario: Callable[[World], None], target: Line | None) -> tuple[Trace, list[str]]:
    """Run a scenario, with an error at a line; what was passed, and what is wrong at the end."""
    folder.mkdir()
    with world(folder) as made:
        made.rest(0)
        made.rest(1)
        at_error: dict[str, int] = {}

        def on_error() -> None:
            at_error.update(cancels=made.cancels, word=made.control.word)
            made.fell = True
            made.rest(0, "at-the-moment")

        with Trace(target, on_error) as trace:
            scenario(made)
            made.play()
        wrong = []
        if target is not None and not trace.fired:
            wrong.append("the line was not passed again")
        if not made.control.word:
            wrong.append("not tripped")
        if made.tripped_by_crew and target is not None and target[0] != "procs/spawned.py":
            wrong.append("it did not set the word itself")
        if made.resting():
            wrong.append(f"{made.resting()} orders rest")
        if trace.fired and made.cancels <= at_error["cancels"]:
            wrong.append("no cancel after the error")
        if made.control.word >> TripSource.OPERATOR & 1 and (made.position(0) or made.position(1)):
            wrong.append("not flat")
        return trace, wrong


@pytest.fixture(scope="module")
def by_scenario(tmp_path_factory: pytest.TempPathFactory) -> dict[Line, Callable[[World], None]]:
    """For every line the first scenario that passes it. Without an error each scenario ends well."""
    found: dict[Line, Callable[[World], None]] = {}
    root = tmp_path_factory.mktemp("scenarios")
    for scenario in SCENARIOS:
        trace, wrong = _play(root / scenario.__name__, scenario, None)
        assert wrong == [], f"{scenario.__name__}: {wrong}"
        for line in trace.passed:
            found.setdefault(line, scenario)
    return found


def test_every_line_of_the_kill_path_is_passed_by_a_scenario(
    by_scenario: dict[Line, Callable[[World], None]],
) -> None:
    missing = [f"{path}:{line}" for path, line in LINES if (path, line) not in by_scenario]
    assert not missing, "\n".join(missing)
    assert len(LINES) > 400


@pytest.mark.parametrize("path", KILL_PATH)
def test_an_error_at_each_line_ends_tripped_with_the_cancels_sent(
    path: str, by_scenario: dict[Line, Callable[[World], None]], tmp_path: Path
) -> None:
    failed = []
    lines = [line for line in LINES if line[0] == path]
    for line in lines:
        scenario = by_scenario[line]
        _, wrong = _play(tmp_path / f"{line[1]}", scenario, line)
        if wrong:
            failed.append(f"{path}:{line[1]} in {scenario.__name__}: {', '.join(wrong)}")
    print(f"{path}: an error at each of {len(lines)} lines")
    assert failed == []


def test_an_error_at_the_first_line_of_a_module_leaves_the_process_unready(tmp_path: Path) -> None:
    """What fails at import never says that it is ready; the word is set all the same."""
    with world(tmp_path) as made:
        made.patch("procs.kill_credentials.kill_credentials", lambda *_: (_ for _ in ()).throw(ImportError("broken")))
        with pytest.raises(AssertionError, match="2 kill switches have died"):
            made.run(processes=2)
        assert not made.tripped_by_crew
        assert made.control.word >> TripSource.KILLSWITCH & 1
        assert made.control.readiness(Role.KILLSWITCH).name == "STARTING"


def test_the_test_finds_an_error_that_is_swallowed(tmp_path: Path) -> None:
    """Shown to fail: a kill switch that takes errors for nothing does not trip."""
    line = next(one for one in LINES if one[0] == "procs/killswitch.py" and "_cover_for_the_dead()" in _text(one))

    def quiet(made: World) -> None:
        made.patch("shm.control.ControlBlock.trip", lambda self, source: self.word)
        made.gate_follows()
        made.at_ms(4_000, made.stop)

    _, wrong = _play(tmp_path / "one", quiet, line)
    assert "not tripped" in wrong


def _text(line: Line) -> str:
    return (ROOT / line[0]).read_text().splitlines()[line[1] - 1]
