"""A whole engine with a strategy in a process of its own, beside the maker: it trades, fails, falls silent, is killed
and replaced, and a replay of all of that has the same decisions without running a line of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.records import MARKET, SOURCE_COMMANDS, SOURCE_TARGETS, TARGET, Kind
from engine.strategies.relay import relay_memory
from procs.attach import NotRunning, attach
from procs.control_socket import ask
from procs.instance import Mapping
from procs.journal.reader import read_stream
from procs.table import Role
from shm.clock import python_monotonic_ns
from tests.engine_session import Engine, bot4, engine, leftovers, replay, wait_until
from tests.session_records import json_lines
from tools.explain_text import explanation_lines

pytestmark = pytest.mark.session
PLACE, BTC = 1, 0  # of the strategy, and its instrument
STALE_MS = 700
FILE = '''"""Rests on both sides of the touch, and leaves a line where its file is executed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

with Path("EXECUTED").open("a") as file:
    file.write("x")

import beside

from engine.strategies.api import ask, bid, may_change, python_strategy, setting, size_for


@dataclass(frozen=True)
class Parameters:
    """[strategies.slow.parameters]"""

    order_value: float = setting(300.0, "Value of one order, quote currency.", minimum=0.0)
    broken: bool = setting(False, "Whether it fails.")
    hangs: bool = setting(False, "Whether it never comes back.")


@python_strategy(Parameters, features=("imbalance_1",))
def on_event(event, view, own, parameters, state, quotes):
    if parameters.broken:
        raise RuntimeError("broken as it was told to be")
    while parameters.hangs:
        time.sleep(1.0)
    life = beside.LIFE_MS
    if may_change(event, quotes.bid, life):
        bid(quotes, view, view.bid_price, size_for(view, own, 1, view.bid_price, parameters.order_value))
    if may_change(event, quotes.ask, life):
        ask(quotes, view, view.ask_price, size_for(view, own, -1, view.ask_price, parameters.order_value))
'''


class Traded:
    """The session, and what was seen while it ran."""

    def __init__(self, made: Engine, seen: dict[str, Any], executed: Path) -> None:
        self.seen, self.executed = seen, executed
        self.summary = made.summary()
        self.out = made.finish(signum=None)[1]
        self.folder = Path(self.summary["engine"]["folder"])


def quotes_of(mapping: Mapping) -> np.ndarray:
    """The two quotes of the strategy."""
    quotes: np.ndarray = mapping.state(Role.EXECUTION)[0]["quotes"][PLACE, BTC]
    return quotes


def stands(mapping: Mapping) -> bool:
    """Whether an order of the strategy is behind one of its quotes."""
    return bool((quotes_of(mapping)["order_id"] > 0).any() and (quotes_of(mapping)["target_size"] > 0).any())


def gone_after_ms(mapping: Mapping) -> float:
    """How long it takes until it has no order and wants none."""
    began = python_monotonic_ns()
    slots = mapping.state(Role.EXECUTION)[0]["orders"]["open_size"]
    wait_until(lambda: not quotes_of(mapping)["target_size"].any() and not slots[BTC].any(), 10, "quotes taken back")
    return (python_monotonic_ns() - began) / 1e6


def kept(mapping: Mapping, name: str) -> int:
    return int(relay_memory(mapping.state(Role.EXECUTION)[0]["strategies"]["memory"][PLACE, BTC])[name])


def mapped(made: Engine) -> Mapping | None:
    """The engine's memory, once it is there."""
    try:
        return attach(made.name)
    except NotRunning:
        return None


def change(made: Engine, parameter: str, value: str) -> dict[str, Any]:
    """`bot4 set slow.PARAMETER VALUE`, without a process for it."""
    request = {"command": "set", "strategy": "slow", "parameter": parameter, "value": value, "reason": "a test"}
    return ask(made.name, request, 10.0)


def trouble(made: Engine, mapping: Mapping) -> dict[str, Any]:
    """Everything that can happen to it, one after the other; it trades again after each."""
    control, seen = mapping.control, dict[str, Any]()
    wait_until(lambda: stands(mapping), 90, "quotes of the strategy")
    pid = control.pid(Role.STRATEGY_1)
    seen["nice"] = os.getpriority(os.PRIO_PROCESS, pid)

    seen["set"] = change(made, "order_value", "150")
    change(made, "broken", "true")
    gone_after_ms(mapping)
    change(made, "broken", "false")
    wait_until(lambda: stands(mapping), 10, "quotes after its failures")

    stale = kept(mapping, "went_stale")
    os.kill(pid, signal.SIGSTOP)
    seen["silent_ms"] = gone_after_ms(mapping)  # sooner than by age where they were filled
    wait_until(lambda: kept(mapping, "went_stale") > stale, 10, "target that is too old")
    seen["went_stale"] = kept(mapping, "went_stale") - stale
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: stands(mapping), 10, "quotes after its silence")

    os.kill(pid, signal.SIGKILL)
    seen["killed_ms"] = gone_after_ms(mapping)
    seen["ended"] = kept(mapping, "ended")
    wait_until(lambda: control.pid(Role.STRATEGY_1) not in (0, pid) and stands(mapping), 20, "quotes of its successor")
    seen["life"] = kept(mapping, "life")
    seen["status"] = made.status()

    change(made, "hangs", "true")
    gone_after_ms(mapping)
    wait_until(lambda: control.pid(Role.STRATEGY_1) == 0, 10, "end of the strategy")
    sent, state = int(mapping.state(Role.EXECUTION)["sent"][0]), mapping.state(Role.EXECUTION)
    wait_until(lambda: int(state["sent"][0]) > sent + 2, 30, "orders of the maker")
    seen["stands_without_it"] = stands(mapping)
    return seen


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traded]:
    """The maker on ETHUSDT, the strategy on BTCUSDT."""
    folder = tmp_path_factory.mktemp("slow")
    executed = folder / "executed"
    for name, content in (("slow.py", FILE.replace("EXECUTED", str(executed))), ("beside.py", "LIFE_MS = 200\n")):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    tables = {
        "strategies.maker": {"symbols": ["ETHUSDT"]},
        "strategies.slow": {
            "file": str(folder / "slow.py"), "symbols": ["BTCUSDT"], "stale_ms": STALE_MS, "hang_s": 4.0,
        },
        "engine": {"deaths_to_stop": 2},
    }
    with engine(folder, **tables) as made:
        made.start()
        mapping = wait_until(lambda: mapped(made), 60, "engine")
        try:
            seen = trouble(made, mapping)
        finally:
            mapping.close()
        (session,) = (folder / "var" / "sessions").iterdir()
        fills = session / "fills.jsonl"
        wait_until(lambda: b'"BTCUSDT"' in fills.read_bytes() and b'"FILL"' in fills.read_bytes(), 30, "fills")
        code, out, error = made.finish()
        assert code == 0, out + error
        assert leftovers(made.name) == []
        yield Traded(made, seen, executed)


def test_it_trades_beside_the_maker_and_everything_is_accounted_for(traded: Traded) -> None:
    summary = traded.summary
    slow = summary["strategies"]["slow"]
    assert slow["intents"] > 0 and summary["strategies"]["maker"]["intents"] > 0
    assert summary["unaccounted"] == 0 and summary["ledger_matches_venue"] is True
    assert sum(found["intents"] for found in summary["strategies"].values()) == summary["decisions"]["intents"]
    ring = summary["rings"]["targets_1"]
    assert ring["produced"] == ring["consumed"] > 0 and ring["dropped"] == 0 and "targets_2" not in summary["rings"]
    last = orjson.loads((traded.folder / "metrics.jsonl").read_bytes().splitlines()[-1])
    assert last["rings"].keys() == summary["rings"].keys()
    assert last["rings"]["targets_1"]["produced"] == ring["produced"]
    refused = summary["stages"]["execution"]["quarantined"].get("ENDED_PROCESS", 0)
    assert slow["process"]["targets"] == ring["produced"] - refused
    follower = summary["followers"]["strategy_1"]["predictions"]
    assert 0 < follower["read"] + follower["lapped"] <= summary["rings"]["predictions"]["produced"]
    assert summary["engine"]["restarts"] == {"strategy_1": 2}


def test_its_quotes_are_gone_soon_after_whatever_happens_to_it(traded: Traded) -> None:
    seen = traded.seen
    assert seen["set"] == {"ok": True, "before": 300.0, "after": 150.0}
    assert seen["killed_ms"] < 1_000, "by the supervisor's word, not by their age"
    assert seen["silent_ms"] < STALE_MS + 1_500 and seen["went_stale"] == 1
    assert traded.summary["strategies"]["slow"]["faults"] > 0
    assert (seen["ended"], seen["life"]) == (1, 2)
    assert seen["nice"] == 10
    assert "strategy_1 (slow) was ended by SIGKILL: its successor comes in 0." in traded.out
    log = (traded.folder / "strategy_1.log").read_text()
    assert "RuntimeError: broken as it was told to be" in log and log.count("Traceback") == 1
    processes = seen["status"]["processes"]
    assert processes["strategy_1"]["strategy"] == "slow" and processes["strategy_1"]["readiness"] == "ready"
    assert "strategy_2" not in processes and (traded.folder / "strategies" / "slow").is_dir()


def test_one_that_dies_too_often_is_left_out_and_the_engine_trades_on(traded: Traded) -> None:
    assert "strategy_1 (slow) has not moved for 4." in traded.out, "one call took so long"
    assert "strategy_1 (slow) was ended by SIGKILL, too often: going on without it" in traded.out
    assert traded.seen["stands_without_it"] is False


def test_a_changed_parameter_reaches_it(traded: Traded) -> None:
    orders = [one for one in json_lines(traded.folder / "orders.jsonl") if one["strategy"] == PLACE]
    new = [one for one in orders if one["action"] == "NEW"]
    values = [float(one["price"]) * float(one["size"]) for one in new]
    assert 150.0 < values[0] <= 300.0 and values[-1] <= 150.0


def test_a_replay_has_the_same_decisions_and_runs_nothing_of_it(traded: Traded, tmp_path: Path) -> None:
    executed = traded.executed.read_text()
    assert executed == "xxx", "tried before the start, run, and run again by its successor"
    for placement in ("fused", "auto"):
        again = replay(traded.folder, "--placement", placement)
        assert again["decision_hash"] == traded.summary["decision_hash"]
        assert again["strategies"] == traded.summary["strategies"]
    assert traded.executed.read_text() == executed
    kinds: dict[int, int] = {}
    for entry in read_stream(traded.folder, "execution"):
        if entry.source == SOURCE_TARGETS:
            kinds[Kind.TARGET] = kinds.get(Kind.TARGET, 0) + len(np.frombuffer(entry.payload, TARGET))
        elif entry.source == SOURCE_COMMANDS:
            for record in np.frombuffer(entry.payload, MARKET):
                kinds[int(record["kind"])] = kinds.get(int(record["kind"]), 0) + 1
    assert kinds[Kind.TARGET] == traded.summary["rings"]["targets_1"]["produced"]
    assert (kinds[Kind.ABSENT], kinds[Kind.PARAMETER]) == (3, 4), "of two deaths, and when it was left out"


def test_an_order_of_it_is_explained_with_the_target_that_caused_it(traded: Traded) -> None:
    orders = [one for one in json_lines(traded.folder / "orders.jsonl") if one["strategy"] == PLACE]
    last = [one for one in orders if one["action"] == "NEW"][-1]
    done = bot4("explain", str(last["order_id"]), "--session", str(traded.folder), "--json")
    assert done.returncode == 0, done.stderr
    found = orjson.loads(done.stdout)
    assert found["findings"] == [] and found["strategy"]["parameters"]["order_value"] == 150.0
    target, side = found["target"], "bid" if last["side"] == "BUY" else "ask"
    assert target["life"] == 2 and target["sequence"] > 0 and target["age_ms"] <= STALE_MS
    assert (target[side]["price"], target[side]["size"]) == (last["price"], last["size"])
    if found["trigger"] == "TARGET":
        assert target["taken_now"] is True
    assert any(line.startswith(f"target {target['sequence']} of process 2 of the") for line in explanation_lines(found))
