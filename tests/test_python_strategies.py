"""Strategies that are Python alone: what the engine knows of their files without running them, how they are tried and
called, and what their process does with more than it can look at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import Settings, settings_from
from engine.reasons import Reason
from engine.records import PREDICTION, TARGET, TARGET_SOURCES, Kind, TimeInForce
from engine.settings import SettingsError
from engine.stage import as_bytes
from engine.strategies.plugin import StrategyError
from engine.strategies.relay import RELAY_CODE
from procs import strategy_process
from procs.instance import Mapping, Plan, ProcessContext
from procs.ports import Inlet, Outlet
from procs.python_strategies import check_import, declare, is_python_alone, load_python
from procs.strategies import check_imports, keep_strategies, load_strategies, read_strategies
from procs.strategy_desk import StrategyDesk
from procs.strategy_process import StrategyProcess
from procs.table import Role
from shm.control import Stop
from tests.instance_memory import small_instance
from tools.new_strategy import TEMPLATES

SCAFFOLD = (TEMPLATES / "python_strategy.py.txt").read_text().replace("NAME", "slow")
# It bids what its parameters say, and does what a test has put in the place of its last line.
PLAIN = '''"""A bid where it is told to."""

from __future__ import annotations

from dataclasses import dataclass

from engine.strategies.api import PREDICTION, ask, bid, buy, np, python_strategy, sell, setting, withdraw

LEAST = 2


@dataclass(frozen=True)
class Parameters:
    """Where, and how much."""

    price: float = setting(60_000_00.0, "Price units.", minimum=0.0)
    size: int = setting(LEAST, "Size units.", minimum=0)
    eager: bool = setting(True, "Whether it bids.")
    side: str = setting("both", "Unused.", choices=("both", "bid"))

    def __post_init__(self) -> None:
        if self.size > 50:
            raise ValueError("size must not be above 50")


class State:
    def __init__(self) -> None:
        self.calls = []


@python_strategy(Parameters, State)
def on_event(event, view, own, parameters, state, quotes):
    state.calls.append((int(event.kind), int(event.ingest_id)))
    bid(quotes, view, parameters.price, parameters.size if parameters.eager else 0)
    LAST
'''


def plain(last: str = "pass") -> str:
    return PLAIN.replace("LAST", last)


def written(folder: Path, content: str, name: str = "slow.py") -> Path:
    path = folder / name
    path.write_text(content)
    path.chmod(0o600)
    return path


def settings_of(path: Path, **tables: Any) -> Settings:
    return settings_from({"strategies": {"slow": {"file": str(path), **tables}}})


# --- known without being run ----------------------------------------------------------------------------------------


def test_a_file_says_itself_that_it_is_python_alone() -> None:
    compiled = (TEMPLATES / "strategy.py.txt").read_text()
    assert is_python_alone(SCAFFOLD.encode()) and is_python_alone(PLAIN.encode())
    assert not is_python_alone(compiled.encode()) and not is_python_alone(b"x = = 1") and not is_python_alone(b"\0")
    spelt = PLAIN.replace("import PREDICTION", "import api, PREDICTION").replace("@python_", "@api.python_")
    assert is_python_alone(spelt.encode())


def test_what_it_declares_is_known_without_running_it(tmp_path: Path) -> None:
    """The rest of the file cannot run at all."""
    ruined = "import a_library_that_is_not_there\nfrom . import neighbour\nraise SystemExit(9)\n"
    content = PLAIN.replace("LEAST = 2\n", "LEAST = 2\n" + ruined).replace("\n\nclass State:", "\n\nclass State(Gone):")
    path = written(tmp_path, content.replace("LAST", "pass"))
    settings = settings_of(path, parameters={"size": 7}, symbols=["BTCUSDT"], stale_ms=300)
    (bound,) = load_strategies(settings)
    assert (bound.code, bound.stale_ms, bound.symbols) == (RELAY_CODE, 300, ("BTCUSDT",))
    assert vars(bound.parameters) == {"price": 60_000_00.0, "size": 7, "eager": True, "side": "both"}
    for wrong, words in (({"size": 51}, "size must not be above 50"), ({"siez": 1}, "did you mean 'size'?")):
        with pytest.raises(SettingsError, match=re.escape(words)):
            load_strategies(settings_of(path, parameters=wrong))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("minimum=0.0)", "minimum=pd.NA)", "pd.NA", "name 'pd' is not defined; the class of the parameters and"),
        ("@python_strategy(Parameters, State)", "@python_strategy()", "@python_strategy()", "begins with the name of"),
        ("@python_strategy(Parameters, State)", "@python_strategy(Nothing)", "@python", "name 'Nothing' is not"),
        ("State)\ndef", "features=('imbalance_9',))\ndef", "imbalance_9", "features names 'imbalance_9'; known are"),
        ("State)\ndef", "features=3)\ndef", "python_strategy(Parameters, features", "features: texts are needed"),
        ("    bid(", "    view.vector[IMBALANCE_1]\n    bid(", "IMBALANCE_1]", 'declare it: features=("imbalance_1",'),
        ('setting(LEAST, "Size units.", minimum=0)', "3", "@python", "Parameters.size: is made with setting(default"),
    ],
)  # fmt: skip
def test_a_declaration_that_does_not_hold_names_its_place(
    tmp_path: Path, old: str, new: str, line: str, message: str
) -> None:
    content = plain().replace(old, new)
    path = written(tmp_path, content)
    with pytest.raises(StrategyError, match=re.escape(message)) as caught:
        load_strategies(settings_of(path))
    number = next((at for at, text in enumerate(content.splitlines(), 1) if line and line in text), 0)
    assert str(path) in str(caught.value)
    assert not number or f"line {number}" in str(caught.value), str(caught.value)


def test_a_file_with_two_of_them_or_more_files_than_can_run_are_refused(tmp_path: Path) -> None:
    two = plain() + plain()[plain().index("@python") :].replace("on_event", "another")
    with pytest.raises(StrategyError, match="2 functions with @python_strategy"):
        load_strategies(settings_of(written(tmp_path, two)))
    path = written(tmp_path, plain())
    names = [f"slow{number}" for number in range(TARGET_SOURCES + 1)]
    settings = settings_from({"strategies": {name: {"file": str(path)} for name in names}})
    with pytest.raises(StrategyError, match=f"slow4 are Python alone; {TARGET_SOURCES} can run in processes"):
        read_strategies(settings)


# --- tried before the start -----------------------------------------------------------------------------------------


def test_a_file_that_can_be_imported_passes_and_what_lies_beside_it_is_found(tmp_path: Path) -> None:
    written(tmp_path, "FACTOR = 3\n", "beside.py")
    path = written(tmp_path, "print('hello')\n" + plain().replace("LEAST = 2", "LEAST = 2\nimport beside"))
    path.write_text(path.read_text().replace("print('hello')\n", "", 1) + "\nprint('hello')\n")
    check_imports(read_strategies(settings_of(path)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        ("raise ValueError('as it must')", "ValueError: as it must"), ("import os; os._exit(7)", "the process with 7"),
        ("import sys; sys.exit('no')", "its import ends the process with 1: no"), ("x = = 1", "invalid syntax"),
        ("Parameters.__dataclass_fields__['size'].default = 9", "its parameters are others when the whole file"),
        ("on_event = __import__('dataclasses').replace(on_event, function=len)", "len takes 1 arguments"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_imported_is_refused(tmp_path: Path, more: str, message: str) -> None:
    path = written(tmp_path, plain() + more + "\n")
    with pytest.raises(StrategyError, match=re.escape(message)) as caught:
        check_import(path)
    assert str(path) in str(caught.value)
    if "Error" in message:
        assert f"line {len(path.read_text().splitlines())}" in str(caught.value)


def test_an_import_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, plain() + "import time\ntime.sleep(600)\n")
    with pytest.raises(StrategyError, match=r"slow\.py: is not imported after 4 s"):
        check_import(path, 4.0)


# --- called ---------------------------------------------------------------------------------------------------------


def test_it_says_what_changed_and_else_only_so_that_it_does_not_grow_old(tmp_path: Path) -> None:
    desk = StrategyDesk(written(tmp_path, plain()))
    taken = [len(desk.prediction(60_000.0, 60_000.1, after_ms=100)) for _ in range(12)]
    assert sum(taken) == 1, "one order"
    process = desk.process()
    assert process["targets"] == 3, "the first one, and at 500 and 1,000 ms"
    desk.set("size", 5)
    desk.set("price", 59_999_90.0)
    assert [order.action for order in desk.prediction(60_000.0, 60_000.1)] == ["CANCEL"]
    (order,) = desk.prediction(60_000.0, 60_000.1)
    assert (order.price, order.size) == (59_999.9, 0.005)
    desk.fill(order)
    again = desk.prediction(60_000.0, 60_000.1)
    assert [one.size for one in again] == [0.005], "said again at once, since a fill came"
    desk.set("eager", False)
    assert [one.action for one in desk.prediction(60_000.0, 60_000.1)] == ["CANCEL"]
    before = desk.process()["targets"]
    for _ in range(30):
        desk.prediction(60_000.0, 60_000.1, after_ms=100)
    assert desk.process()["targets"] == before, "who wants nothing has nothing to renew"
    assert desk.process()["went_stale"] == 0


def test_it_is_shown_time_too_unless_it_does_not_want_to_be(tmp_path: Path) -> None:
    for declared, kinds in (("Parameters, State)", [Kind.PREDICTION, Kind.CLOCK]), ("Parameters, State, clock=False)",
                            [Kind.PREDICTION])):  # fmt: skip
        desk = StrategyDesk(written(tmp_path, plain().replace("Parameters, State)", declared)))
        desk.prediction(60_000.0, 60_000.1)
        desk.clock()
        assert [kind for kind, _ in desk.memory()["calls"]] == kinds
        assert desk.memory()["calls"][0][1] == 1


@pytest.mark.parametrize(
    "last",
    [
        "bid(quotes, view, float('nan'), 5)", "bid(quotes, view, 'much', 5)", "raise RuntimeError('as it must')",
        "quotes.bid.target_size = -5", "quotes.bid.target_price = 0", "quotes.ask.target_order_type = 9; 1 / 0",
        "quotes.bid.target_time_in_force = 77", "bid(quotes, view, view.bid_price, -1)", "view.no_such_field",
    ],
)  # fmt: skip
def test_a_call_that_fails_takes_the_quotes_back_and_is_counted(tmp_path: Path, last: str) -> None:
    desk = StrategyDesk(written(tmp_path, plain(f"if view.output[0] > 1.0:\n        {last}")))
    assert len(desk.prediction(60_000.0, 60_000.1)) == 1 and desk.faults == 0
    assert [order.action for order in desk.prediction(60_000.0, 60_000.1, output=2.0)] == ["CANCEL"]
    assert desk.faults == 1 and desk.state[0]["denied"][Reason.STRATEGY_FAULT] == 1
    if "raise" in last:
        assert "RuntimeError: as it must" in desk.failure and 'slow.py", line' in desk.failure
    assert len(desk.prediction(60_000.0, 60_000.1)) == 1, "the next call is another one"


def test_what_is_done_at_once_is_forgotten_then(tmp_path: Path) -> None:
    last = "withdraw(quotes)\n    now = event.kind == PREDICTION and event.ingest_id < 3\n    " \
        "if now: buy(quotes, view, view.ask_price, 4)"
    desk = StrategyDesk(written(tmp_path, plain(last)))
    for _ in range(2):
        (order,) = desk.prediction(60_000.0, 60_000.1)
        assert (order.time_in_force, order.price, order.size) == ("IOC", 60_000.1, 0.004)
        desk.expire(order)
        assert desk.clock() == []
    assert desk.prediction(60_000.0, 60_000.1) == []


def test_what_it_is_shown_of_its_own_is_what_execution_knows(tmp_path: Path) -> None:
    seen = ["position", "account_position", "open_buy", "open_sell", "fills", "max_order_value", "max_position_value"]
    last = f"state.own = [int(own[name]) for name in {seen!r}]; state.bid = (int(quotes.bid.working), " \
        "int(quotes.bid.order_price)); state.view = (int(view.bid_price), float(view.vector[0]), float(view.output[0]))"
    desk = StrategyDesk(written(tmp_path, plain(last)))
    (order,) = desk.prediction(60_000.0, 60_000.1, spread_bps=0.5, output=1.5)
    assert desk.memory()["view"] == (60_000_00, 0.5, 1.5)
    desk.fill(order, 0.001)
    desk.clock()
    own = dict(zip(seen, desk.memory()["own"], strict=True))
    gate = desk.state[0]["gate"]
    assert own == {
        "position": 1, "account_position": 1, "open_buy": 0, "open_sell": 0, "fills": 1,
        "max_order_value": gate["max_order_value"], "max_position_value": gate["max_position_value"],
    }  # fmt: skip
    assert desk.memory()["bid"] == (1, 60_000_00)


# --- its process ----------------------------------------------------------------------------------------------------

Made = Callable[..., tuple[StrategyProcess, Plan]]
CAPACITY = 64


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Makes the process's body on an instance of its own, in this process."""
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.chdir(tmp_path)
    stack = []

    def make(content: str) -> tuple[StrategyProcess, Plan]:
        settings = settings_of(written(tmp_path, content))
        keep_strategies(read_strategies(settings), tmp_path)
        instance = small_instance(tmp_path, capacity=CAPACITY, settings=settings, apart=("slow",))
        plan = instance.__enter__()
        stack.append(instance)
        return StrategyProcess(ProcessContext(plan, Role.STRATEGY_1)), plan

    yield make
    for instance in stack:
        instance.__exit__(None, None, None)


class Predictions:
    """Both ends of the predictions ring: what is given is consumed at once."""

    def __init__(self, plan: Plan) -> None:
        self._outlet = Outlet(Mapping(plan), "predictions")
        self._inlet = Inlet(ProcessContext(plan, Role.EXECUTION), "predictions", CAPACITY)
        self.count = 0

    def give(self, count: int, instrument: int = 0, kind: Kind = Kind.PREDICTION) -> None:
        for _ in range(count):
            self.count += 1
            record = np.zeros(1, PREDICTION)
            record["kind"], record["instrument"], record["ingest_id"] = kind, instrument, self.count
            record["recv_ts_ns"], record["bid_price"], record["ask_price"] = self.count * 1_000_000, 100, 110
            assert self._outlet.give(as_bytes(record), 1)
            self._inlet.take()
            self._inlet.release()


def said(plan: Plan) -> np.ndarray:
    inlet = Inlet(ProcessContext(plan, Role.EXECUTION), "targets_1", CAPACITY)
    count = inlet.take()
    inlet.release()
    return inlet.records[:count].copy()


def test_a_slow_one_is_shown_the_newest_of_each_instrument_and_what_it_passed_over_is_counted(process: Made) -> None:
    body, plan = process(plain())
    predictions = Predictions(plan)
    predictions.give(3)
    body.look()
    body._caller.begin()
    predictions.give(7)
    predictions.give(4, instrument=1)
    body.look()
    assert body.show() == 1 and body.show() == 1 and body.show() == 0
    calls = [body._caller.state(index).calls for index in range(2)]
    assert calls == [[(Kind.PREDICTION, 14)], [(Kind.PREDICTION, 14)]]
    targets = said(plan)
    # Of ten it saw one; three of the others came before its time, but one of those was still to be looked at then.
    assert targets["instrument"].tolist() == [0, 1] and targets["size"].tolist() == [7, 3]
    assert targets["sequence"].tolist() == [1, 2] and targets["aux"].tolist() == [1, 1]
    assert targets["event_ns"].tolist() == [14_000_000] * 2 and (targets["bid_size"] == 2).all()
    assert (targets["bid_time_in_force"] == TimeInForce.GTX).all()


def test_a_lapped_one_gets_the_newest_and_knows_what_it_missed(process: Made) -> None:
    body, plan = process(plain())
    predictions = Predictions(plan)
    predictions.give(5 * CAPACITY + 3)
    predictions.give(1, kind=Kind.CLOCK)
    body.look()
    assert body.show() == 1
    assert body._caller.state(0).calls[-1][1] == predictions.count
    follower = body._following._followers["predictions"]
    assert follower.lapped >= 4 * CAPACITY and follower.cursor == predictions.count
    assert int(said(plan)["size"][0]) == CAPACITY - 2, "what it read and did not look at"


def test_when_time_alone_goes_on_it_is_shown_that_and_no_instrument_that_it_never_saw(process: Made) -> None:
    body, plan = process(plain())
    predictions = Predictions(plan)
    predictions.give(1)
    body.look()
    body.show()
    predictions.give(49, kind=Kind.CLOCK)
    body.look()
    assert body.show() == 0
    predictions.give(1, kind=Kind.CLOCK)
    body.look()
    assert body.show() == 1 and body.show() == 0
    assert [kind for kind, _ in body._caller.state(0).calls] == [Kind.PREDICTION, Kind.CLOCK]
    assert body._caller.state(1).calls == []


def test_it_is_shown_no_time_before_it_was_shown_a_market(process: Made) -> None:
    """A successor finds a market that is older than it."""
    body, plan = process(plain())
    predictions = Predictions(plan)
    predictions.give(1)
    body.begin()
    for _ in range(3):
        predictions.give(60, kind=Kind.CLOCK)
        body.look()
        assert body.show() == 0
    predictions.give(1)
    predictions.give(CAPACITY - 4, kind=Kind.CLOCK)
    body.look()
    assert [body.show() for _ in range(2)] == [1, 0]
    assert [kind for kind, _ in body._caller.state(0).calls] == [Kind.PREDICTION]


def test_a_target_that_finds_no_room_is_counted_and_said_again(process: Made) -> None:
    body, plan = process(plain("sell(quotes, view, view.bid_price, 1 + event.ingest_id % 2)"))
    predictions = Predictions(plan)
    for _ in range(CAPACITY + 5):
        predictions.give(1)
        body.look()
        body.show()
    assert Mapping(plan).ring("targets_1").dropped == 5
    targets = said(plan)
    assert targets["sequence"].tolist() == list(range(1, CAPACITY + 1))
    body._caller._of[0].said_fills = 0
    predictions.give(1)
    body.look()
    body.show()
    assert said(plan)["sequence"].tolist() == [CAPACITY + 6]


def test_its_failures_are_written_down_at_a_bounded_rate(
    process: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body, plan = process(plain("raise RuntimeError('as it must')"))
    predictions = Predictions(plan)
    for at in range(40):
        if at == 30:
            monkeypatch.setattr(strategy_process, "LOG_EVERY_NS", 0)
            body._log_due_ns = 0
        predictions.give(1)
        body.look()
        body.show()
    text = capsys.readouterr().err
    assert text.count("RuntimeError: as it must") == 1 + 10
    assert "(29 more since the last that was written down)" in text
    targets = said(plan)
    assert (targets["reason"] == Reason.STRATEGY_FAULT).all() and not targets["bid_size"].any()


def test_it_runs_in_a_folder_of_its_own_until_it_is_asked_to_stop(process: Made, tmp_path: Path) -> None:
    body, plan = process(plain())
    assert Path.cwd() == tmp_path / "strategies" / "slow"
    Mapping(plan).control.request_stop(Role.STRATEGY_1, Stop.DRAIN)
    body.run()
    assert body._context.control.heartbeat(Role.STRATEGY_1) > 0


def test_a_declaration_and_the_whole_file_say_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, SCAFFOLD)
    whole, part = load_python(path.read_bytes(), path), declare(path.read_bytes(), path, "part")
    strip = {"parameters": None}
    assert replace(whole.declared, **strip) == replace(part.declared, **strip)
    assert TARGET.itemsize == 128
