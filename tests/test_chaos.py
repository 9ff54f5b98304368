"""The chaos suite without an engine: its blows follow from the seed, and its inspector finds what it must find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.execution.order_states import OrderStatus
from engine.execution.state import EXECUTION_STATE
from procs.control_plane import control_folder
from tests.execution_harness import BTC, ETH
from tools.soak import chaos
from tools.soak.chaos import STRIKES, Inspector, Strike, strikes_of
from tools.soak.kills import VICTIMS
from tools.soak.tally import Piece

BLOW = Strike("execution", "SIGKILL", "", 0.1, -1)


def test_the_blows_of_a_seed_are_the_same_and_all_are_met() -> None:
    assert list(strikes_of(3)) == list(strikes_of(3)) != list(strikes_of(4))
    blows = [blow for seed in range(8) for blow in strikes_of(seed)]
    assert len(blows) == 8 * STRIKES == 200
    met = Counter((blow.victim, blow.name) for blow in blows)
    assert {victim for victim, _ in met} == set(VICTIMS)
    assert ("launcher", "SIGKILL") not in met
    assert len(met) == 2 * len(VICTIMS) - 1
    assert sum(bool(blow.also) for blow in blows) > 30 and sum(blow.burst >= 0 for blow in blows) > 70
    assert all(blow.also not in (blow.victim, "launcher") for blow in blows)
    assert len({blow.burst for blow in blows if blow.burst >= 0}) == sum(blow.burst >= 0 for blow in blows)


class World:
    """An engine and a venue of plain values."""

    def __init__(self, folder: Path) -> None:
        self.execution = np.zeros(1, EXECUTION_STATE)
        self.truth: dict[str, Any] = {
            "open_orders": [], "positions": {"BTCUSDT": {"size": "0.000"}, "ETHUSDT": {"size": "0.000"}},
        }
        self.log: list[dict[str, Any]] = []
        settings = SimpleNamespace(gate=SimpleNamespace(max_position_value=1_000.0))
        plan = SimpleNamespace(instruments=(BTC, ETH), session="abcd", settings=settings)
        control = SimpleNamespace(tripped=False, word=0)
        mapping = SimpleNamespace(plan=plan, control=control, state=lambda role: self.execution)
        made = SimpleNamespace(name="chaos-of-a-test", folder=folder)
        place = SimpleNamespace(address={"secret": "canary"}, state=lambda: self.truth, log=lambda: self.log)
        watch = SimpleNamespace(mapping=mapping, pid=lambda victim: 1)
        self.control = control
        self.piece = Piece(0, 1.0, folder)
        self.inspector = Inspector(self.piece, made, place, watch)  # type: ignore[arg-type]

    def broken(self, killed_ns: int = 0, ready_ns: int = 0) -> list[str]:
        self.piece.violations.clear()
        self.inspector.check(BLOW, killed_ns, ready_ns)
        return [violation.what for violation in self.piece.violations]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(chaos, "_AGREE_S", 0.0)
    monkeypatch.setattr(chaos.psutil, "Process", lambda pid: SimpleNamespace(children=lambda recursive: []))
    monkeypatch.setattr(chaos, "read_log", lambda folder: (b"", None))
    return World(tmp_path)


def rests(world: World) -> None:
    world.truth["open_orders"] = [{"clientOrderId": "b4abcd-7"}]


def position(world: World) -> None:
    world.truth["positions"]["ETHUSDT"]["size"] = "0.001"


def holding(world: World) -> None:
    world.execution["reconcile"]["holding"] = 1


def exposure(world: World) -> None:
    world.log = [{"event": "fill", "symbol": "BTCUSDT", "price": 6_000_000, "position": -20, "at_ns": 1}]


def tripped(world: World) -> None:
    world.control.tripped = True


def audit(world: World) -> None:
    chaos.read_log = lambda folder: (b'{"n": 2}\n', None)  # type: ignore[assignment]


FAULTS: dict[str, tuple[Callable[[World], None], str]] = {
    "an order that is not known": (rests, "I5: ['b4abcd-7'] rest"),
    "a position": (position, "I1: ETHUSDT is 0.000 here"),
    "reconciliation": (holding, "I1: reconciliation holds"), "exposure": (exposure, "I2: a position was worth 1200.00"),
    "a trip": (tripped, "I3:"), "the audit log": (audit, "I6: line 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_inspector_finds(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.broken() == []
    monkeypatch.setattr(chaos, "read_log", chaos.read_log)  # put back what a fault changes
    change, words = FAULTS[name]
    change(world)
    broken = world.broken()
    assert len(broken) == 1 and words in broken[0], broken


def test_an_order_that_is_known_may_rest(world: World) -> None:
    rests(world)
    slots = world.execution["orders"]["slots"][0]
    slots["order_id"][7], slots["status"][7] = 7, OrderStatus.LIVE
    assert world.broken() == []


def test_an_entry_without_a_vital_process(world: World) -> None:
    world.log = [{"event": "accepted", "client_id": "late", "at_ns": 2_500_000_000}]
    assert world.broken(killed_ns=1_000_000_000, ready_ns=2_400_000_000) == []
    assert world.broken(killed_ns=1_600_000_000, ready_ns=3_000_000_000) == []
    assert "I10: ['late'] were entered" in world.broken(killed_ns=1_000_000_000, ready_ns=3_000_000_000)[0]


def test_a_secret_on_disk(world: World, tmp_path: Path) -> None:
    folder = control_folder(tmp_path / "var", "x")
    folder.mkdir(parents=True)
    (folder / "log").write_text("nothing")
    assert world.inspector.secrets_on_disk() == []
    (folder / "other").write_text("with a canary in it")
    assert len(world.inspector.secrets_on_disk()) == 1
