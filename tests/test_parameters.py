"""Hot parameters at the control plane: checked, written down first, then one record for execution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.records import Kind
from engine.strategies.plugin import word_of
from engine.strategies.settings import MakerSettings
from engine.strategies.table import default_strategies
from procs.audit import AuditError, entries_of, read_log
from procs.parameters import Parameters, parameters_of
from procs.strategy_desk import StrategyDesk
from tests.control_desk import Desk, control_desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    with control_desk() as made:
        made.requests._parameters = Parameters(default_strategies(), made.execution)
        yield made


def set_value(desk: Desk, parameter: str, value: str) -> dict[str, object]:
    return desk.ask(command="set", strategy="maker", parameter=parameter, value=value, reason="a reason")


def test_a_change_is_audited_and_sent(desk: Desk) -> None:
    assert set_value(desk, "order_value", "90") == {"ok": True, "before": 500.0, "after": 90.0}
    assert desk.commands[-1] == (Kind.PARAMETER, word_of(MakerSettings, "order_value", 90.0), 0, 0)
    assert set_value(desk, "requote_ticks", "3")["after"] == 3
    assert desk.commands[-1] == (Kind.PARAMETER, 3, 0, 6)
    # Execution has not taken the first one yet, and it counts all the same.
    assert set_value(desk, "order_value", "80")["before"] == 90.0
    entries = [entry for entry in entries_of(read_log(desk.folder)[0]) if entry["event"] == "parameter"]
    assert [(entry["parameter"], entry["after"]) for entry in entries] == [
        ("order_value", 90.0), ("requote_ticks", 3), ("order_value", 80.0),
    ]


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("order_value", "-1", "maker.order_value = -1.0: allowed is a number, at least 0.0"),
        ("order_value", "nan", "maker.order_value = nan: allowed is a number, at least 0.0"),
        ("requote_ticks", "0", "maker: maker requote_ticks is 0: at least 1 is needed"),
        ("requote_ticks", "1.5", "maker.requote_ticks = '1.5': allowed is a whole number"),
        ("requote_tick", "1", "maker.requote_tick: there is no such parameter; did you mean 'requote_ticks'?"),
    ],
)
def test_what_is_no_value_changes_nothing(desk: Desk, parameter: str, value: str, words: str) -> None:
    before = list(desk.commands)
    assert set_value(desk, parameter, value) == {"ok": False, "error": words}
    assert desk.commands == before


def test_what_cannot_be_written_down_is_not_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(desk.commands)

    def fails(*_: object, **__: object) -> None:
        raise AuditError("the disk is full")

    monkeypatch.setattr(desk.plane.audit, "append", fails)
    assert set_value(desk, "order_value", "90") == {"ok": False, "error": "the disk is full"}
    assert desk.commands == before


def test_a_state_tells_parameters_and_memory_by_their_names() -> None:
    desk = StrategyDesk("momentum", order_value=321.0, cooldown_ms=7)
    desk.set("stop_bps", 2.5)
    desk.prediction(60_000.0, 60_000.1, output=9.0)
    found = parameters_of(desk.state, 0, desk.bound)
    assert (found["order_value"], found["cooldown_ms"], found["stop_bps"]) == (321.0, 7, 2.5)
    assert desk.memory() == {"order_ns": desk.now_ns, "entry_ns": desk.now_ns, "entry_mid": 6_000_005.0}


@pytest.mark.parametrize("missing", ["strategy", "parameter", "value", "reason"])
def test_a_request_needs_all_of_its_keys(desk: Desk, missing: str) -> None:
    request = {"strategy": "maker", "parameter": "order_value", "value": "1", "reason": "x"}
    del request[missing]
    answer = desk.ask(command="set", **request)
    assert answer["ok"] is False and answer["error"].startswith(f"{missing}: a text of 1 to")
