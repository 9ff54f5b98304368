"""Whole engines tripped forty times: every trigger, every condition, every mode; judged from the venue's own log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.trips.cells import Cell, Outcome, by_session, few_cells, run_cells
from tools.trips.triggers import TRIGGERS

pytestmark = [pytest.mark.session, pytest.mark.timeout(900)]

SEED = 4
NUMBER = 40


def kind(needs: tuple[bool, bool, bool]) -> str:
    load, panic, ends = needs
    return "ends its session" if ends else "panic" if panic else "load" if load else "plain"


GROUPS: dict[str, list[Cell]] = {}
for needs, group in by_session(few_cells(SEED, NUMBER)):
    GROUPS.setdefault(kind(needs), []).extend(group)


def test_it_is_forty() -> None:
    assert sum(len(cells) for cells in GROUPS.values()) == NUMBER
    assert {cell.trigger for cells in GROUPS.values() for cell in cells} == set(TRIGGERS)


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_a_trip_stops_everything(tmp_path: Path, name: str) -> None:
    outcomes: list[Outcome] = []
    for outcome in run_cells(tmp_path, GROUPS[name], SEED):
        print(outcome.words, *outcome.verdict.broken, sep="\n    BROKEN ", flush=True)
        outcomes.append(outcome)
    assert len(outcomes) == len(GROUPS[name])
    broken = {str(outcome.cell): outcome.verdict.broken for outcome in outcomes if outcome.verdict.broken}
    assert broken == {}, f"seed {SEED}"
    skipped = {outcome.skipped for outcome in outcomes if outcome.skipped}
    assert all("here" in why or "made for" in why or "allows" in why for why in skipped), skipped
