"""`bot4 status` on the memory of an instance without its processes: what strategies did, and what failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.reasons import Reason
from procs.instance import Mapping, Plan
from procs.table import Role
from tests.instance_memory import attachable, small_instance
from tools.cli import main


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=64) as made:
        yield made


def test_strategies_and_what_the_gate_refused(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = Mapping(plan)
    row = mapping.state(Role.EXECUTION)[0]
    with attachable(plan, tmp_path) as config:
        assert main(["status", "--config", str(config)]) == 0
        before = capsys.readouterr().out
        assert "\ndenied " not in before and "strategy " in before
        row["denied"][[Reason.SELF_TRADE, Reason.STRATEGY_FAULT]] = 5, 3
        books = row["strategies"]["books"][0]
        books["signals"][0], books["denied"][0], books["faults"][0], books["position"][0] = 7, 5, 3, 1
        assert main(["status", "--config", str(config)]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert "denied 3 STRATEGY_FAULT, 5 SELF_TRADE" in shown
        (maker,) = [line for line in shown if line.startswith("maker ")]
        first = plan.instruments[0]
        assert maker.split()[1:6] == ["7", "0", "5", "3", "0"] and f" {first.symbol} 0.001" in maker
        assert main(["status", "--json", "--config", str(config)]) == 0
        told = json.loads(capsys.readouterr().out)["strategies"]["maker"]
        assert (told["signals"], told["denied"], told["faults"]) == (7, 5, 3)
    mapping.close()
