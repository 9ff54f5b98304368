"""Strategy files: what is refused and how it is said; what several of them do beside one another in one stage."""

from __future__ import annotations

import dataclasses
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import config_hash, settings_from
from engine.execution.summary import decision_hash, strategy_summary
from engine.features.settings import FeatureSettings
from engine.features.vector import schema_hash
from engine.reasons import Reason
from engine.records import MARKET, SOURCE_COMMANDS, Kind, OrderAction, ReportKind, TimeInForce
from engine.settings import SettingsError
from engine.strategies.plugin import Bound, StrategyError, value_of, word_of
from engine.strategies.registry import CODES
from engine.strategies.table import missing_strategies
from procs import strategies
from procs.replay import open_source, replay_fused
from procs.replay_processes import replay_auto
from procs.strategies import check_declared, keep_strategies, kept_strategies, load_strategies, read_strategies
from procs.strategy_desk import StrategyDesk
from tests.execution_harness import (
    BTC,
    ETH,
    MS,
    START_NS,
    command,
    control,
    feed,
    make_state,
    opening,
    prediction,
    record_of,
    report,
    step,
    step_batch,
)
from tests.recordings import USDM_CAPTURES, require_capture
from tools.new_strategy import TEMPLATES

SOUND = (TEMPLATES / "strategy.py.txt").read_text().replace("NAME", "mine")
BID, ASK = 60_000_00, 60_000_10


def written(folder: Path, content: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(content)
    path.chmod(0o600)
    return path


def load(path: Path, **parameters: Any) -> Bound:
    values = {"strategies": {"mine": {"file": str(path), "parameters": parameters}}}
    return load_strategies(settings_from(values))[0]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("    imbalance = view", "    imbalance = nothing + view", "nothing +", "does not compile: NameError"),
        ("    imbalance = view", "    imbalance = 'a' + view", "'a' +", "does not compile: No implementation"),
        ("    imbalance = view", "    imbalance == = view", "    imbalance == =", "invalid syntax"),
        ("view.vector[IMBALANCE_1]", "view.vectr[IMBALANCE_1]", "view.vectr", "compile: there is no field 'vectr'"),
        ("parameters.lean else -1", "parameters.laen else -1", "parameters.laen", "there is no field 'laen'"),
        ("from dataclasses", "import requests\nfrom dataclasses", "import requests", "imports 'requests'; a "),
        ("from dataclasses", "from . import helper\nfrom dataclasses", "from . import", "imports '.'; a strategy"),
        ("view.vector[IMBALANCE_1]", "np.exp(view.vector[IMBALANCE_1])", "np.exp", "np.exp gives other bits"),
        ("view.vector[IMBALANCE_1]", "np.random.random()", "np.random", "np.random: a strategy is a function of its"),
        ('features=("imbalance_1",)', 'features=("imbalance_9",)', "imbalance_9", "features names 'imbalance_9'"),
        ('features=("imbalance_1",)', "features=()", "view.vector[IMBALANCE_1]", "reads IMBALANCE_1; declare it"),
        ("    side: int", "    side: dict", "@strategy(", "State.side: int, float, bool, ints(n) or floats(n)"),
        ("lean: float = setting(0.3", "lean: list = setting(0.3", "@strategy(", "Parameters.lean: int, float, bool"),
        ("@dataclass(frozen=True)", "@dataclass", "@strategy(", "parameters are a class with @dataclass(frozen=True)"),
        ("    side: int", "    side: floats(65)", "    side: floats", "name 'floats' is not defined"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_run_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: str, message: str
) -> None:
    assert SOUND.count(old) == 1
    content = SOUND.replace(old, new)
    path = written(tmp_path, content)
    number = next(place for place, text in enumerate(content.splitlines(), 1) if line in text)
    with pytest.raises(StrategyError) as caught:
        load(path)
    words = str(caught.value)
    assert message in words and words.startswith(str(path)) and "\n" not in words
    if "not defined" not in message:
        assert f"line {number}: " in words


def test_a_file_needs_one_strategy(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match=r"0 functions with @strategy"):
        load(written(tmp_path, '"""Nothing."""\n'))
    with pytest.raises(SettingsError, match=r"strategies.mine.file = .*No such file"):
        load(tmp_path / "none.py")


def test_code_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    path.chmod(0o666)
    with pytest.raises(StrategyError, match=r"strategies.mine.file: .*mode 0666 lets others write it"):
        load(path)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    try:
        with pytest.raises(StrategyError, match=r"mode 0777 lets others write it"):
            load(path)
    finally:
        tmp_path.chmod(0o700)
    load(path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lean": 1.5}, "strategies.mine.parameters.lean = 1.5: allowed is a number from 0.0 to 1.0"),
        ({"lean": "much"}, "strategies.mine.parameters.lean = 'much': allowed is a number from 0.0 to 1.0"),
        ({"laen": 0.5}, "strategies.mine.parameters.laen: unknown key; did you mean 'lean'?"),
        ({"quote_life_ms": 1.5}, "quote_life_ms = 1.5: allowed is a whole number, at least 0"),
    ],
)  # fmt: skip
def test_parameters_are_checked_like_any_setting(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        load(written(tmp_path, SOUND), **parameters)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategies": {"Mine": {}}}, "strategies.Mine: a name has 1 to 32 lower-case letters"),
        ({"strategies": {"mine": {}}}, "strategies.mine.file = '': allowed is a .py file or one of 'maker'"),
        ({"strategies": {"maker": {"symbols": ["XRPUSDT"]}}}, "maker.symbols: 'XRPUSDT' is not in venue.symbols"),
        ({"strategies": {"maker": 3}}, "strategies.maker = 3: allowed is a table"),
        ({"strategies": {"maker": {"parameters": {"a": {}}}}}, "strategies.maker.parameters.a = a table: allowed is"),
        ({"strategies": {f"m{n}": {"file": "maker"} for n in range(9)}}, "strategies: 9 of them, 8 are the most"),
        ({"strategies": {"maker": {}}, "maker": {"order_value": 1.0}}, "maker: is of the strategy that runs"),
    ],
)  # fmt: skip
def test_configurations_that_name_no_strategy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        settings_from(values)


def test_the_order_of_the_tables_counts() -> None:
    one, other = ({name: {} for name in names} for names in (("maker", "momentum"), ("momentum", "maker")))
    assert config_hash(settings_from({"strategies": one})) != config_hash(settings_from({"strategies": other}))


def test_features_and_model_are_those_it_was_made_for(tmp_path: Path) -> None:
    card = {"name": "short_return", "version": 1}
    schema = schema_hash(FeatureSettings())

    def declared(words: str) -> tuple[Bound]:
        content = SOUND.replace('features=("imbalance_1",)', f'features=("imbalance_1",), {words}')
        return (load(written(tmp_path, content)),)

    sound = f'feature_schema="{schema[:10]}", model="short_return", model_version=1'
    check_declared(declared(sound), FeatureSettings(), card)
    for words, message in (
        ('feature_schema="0123abcd"', f"feature_schema '0123abcd', this engine computes '{schema[:12]}'"),
        ('model="transformer"', "strategies.mine: declares model 'transformer', model.path serves 'short_return'"),
        ('model="short_return", model_version=2', "version 2 of model 'short_return', model.path serves version 1"),
    ):
        with pytest.raises(StrategyError, match=re.escape(message)):
            check_declared(declared(words), FeatureSettings(), card)
    with pytest.raises(StrategyError, match="feature_schema"):
        check_declared(declared(f'feature_schema="{schema}"'), FeatureSettings(volatility_ms=1_000), card)


def test_an_edited_file_is_another_strategy(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    first = load(path)
    assert load(path).strategy is first.strategy
    second = load(written(tmp_path, SOUND.replace("else -1 if", "else -2 if")))
    assert second.code != first.code and second.strategy is not first.strategy


def test_the_cache_folder_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "COPIES_KEPT", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        found = read_strategies(settings_from({"strategies": {"mine": {"file": str(
            written(tmp_path, f'"""Nothing yet, {number}."""\n'))}}}))  # fmt: skip
        with pytest.raises(StrategyError, match="0 functions"):
            load_strategies(settings_from({"strategies": {"mine": {"file": str(tmp_path / "mine.py")}}}), found)
    assert len(list((tmp_path / "cache" / "bot4" / "strategies").iterdir())) == 2


def test_what_ran_is_kept_and_what_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    settings = settings_from({"strategies": {"mine": {"file": str(path)}, "maker": {}}})
    session = tmp_path / "session"
    session.mkdir()
    keep_strategies(read_strategies(settings), session)
    path.unlink()
    kept = load_strategies(settings, kept_strategies(session, settings))
    assert [bound.name for bound in kept] == ["mine", "maker"]
    copy = session / "strategies" / "mine.py"
    copy.write_text(SOUND + "# later\n")
    with pytest.raises(StrategyError, match="is not the file that ran"):
        kept_strategies(session, settings)
    copy.unlink()
    with pytest.raises(StrategyError, match="cannot be replayed as it ran"):
        kept_strategies(session, settings)


# --- parameters as words --------------------------------------------------------------------------------------------


def test_parameters_come_back_from_their_words(tmp_path: Path) -> None:
    cls = load(written(tmp_path, SOUND)).strategy.parameters
    for name, value in (("lean", 0.1), ("order_value", 1e9), ("quote_life_ms", 0)):
        assert value_of(cls, name, word_of(cls, name, value)) == value


def test_bools_and_choices_are_numbers_to_the_kernel(tmp_path: Path) -> None:
    content = SOUND.replace(
        "    quote_life_ms: int", '    eager: bool = setting(True, "Whether it quotes.")\n'
        '    side: str = setting("both", "Which sides it quotes.", choices=("both", "bid"))\n    quote_life_ms: int',
    ).replace("if side < 0 else 0", "if side < 0 and parameters.side == 0 and parameters.eager else 0")
    path = written(tmp_path, content)
    for parameters, orders in (({}, 1), ({"side": "bid"}, 0), ({"eager": False}, 0)):
        desk = StrategyDesk(path, **parameters)
        assert len(desk.prediction(60_000.0, 60_000.1, imbalance_1=-0.9)) == orders
    desk.set("eager", True)
    assert len(desk.prediction(60_000.0, 60_000.1, imbalance_1=-0.9, after_ms=600)) == 1
    with pytest.raises(ValueError, match=r"tuple.index"):
        desk.set("side", "ask")


# --- failing closed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        "bid(quotes, view, np.nan, 5)", "bid(quotes, view, view.bid_price, np.nan)", "bid(quotes, view, np.inf, 5)",
        "bid(quotes, view, -1, 5)", "bid(quotes, view, view.bid_price, -5)", "buy(quotes, view, np.nan, 5)",
        "quotes.bid.target_size = -5", "quotes.bid.target_price = 0", "quotes.bid.target_time_in_force = 77",
        "raise ValueError('no')",
    ],
)  # fmt: skip
def test_a_strategy_that_fails_wants_nothing_and_is_counted(tmp_path: Path, wanted: str) -> None:
    content = SOUND.replace("import IMBALANCE_1,", "import IMBALANCE_1, buy,").replace(
        "    imbalance = ", f"    if view.output[0] > 1.0:\n        {wanted}\n        return\n    imbalance = "
    )
    desk = StrategyDesk(written(tmp_path, content))
    (resting,) = desk.prediction(60_000.0, 60_000.1, imbalance_1=0.8)
    cancelled = desk.prediction(60_000.0, 60_000.1, imbalance_1=0.8, output=2.0)
    assert [(order.action, order.order_id) for order in cancelled] == [("CANCEL", resting.order_id)]
    assert desk.faults == 1 and desk.state[0]["denied"][Reason.STRATEGY_FAULT] == 1
    assert [order.action for order in desk.prediction(60_000.0, 60_000.1, imbalance_1=0.8, after_ms=600)] == ["NEW"]


def test_a_strategy_that_this_process_does_not_have_is_a_fault() -> None:
    desk = StrategyDesk("momentum")
    assert missing_strategies(desk.state[0]["strategies"]) == []
    desk.state["strategies"]["codes"][0, 0] = 12345
    assert missing_strategies(desk.state[0]["strategies"]) == [0]
    assert desk.prediction(60_000.0, 60_000.1, output=9.0) == [] and desk.faults == 1
    assert CODES >= 64


# --- several of them ------------------------------------------------------------------------------------------------


def both(**maker: Any) -> np.ndarray:
    """A state that trades with the maker and the taker."""
    parameters = {"cooldown_ms": 0, "hold_ms": 60_000, "max_position_value": 2_000.0, "order_value": 400.0}
    tables = {"maker": {"parameters": maker}, "momentum": {"parameters": parameters}}
    settings = settings_from({"strategies": tables})
    state = make_state(strategies=load_strategies(settings))
    feed(state, opening(START_NS))
    return state


def quote(ms: int, forecast: float, instrument: int = 0, bid: int = BID, ask: int = ASK) -> Any:
    return prediction(START_NS + ms * MS, 10 + ms, instrument, bid, ask, output=(forecast, 0.0))


def accepted(state: np.ndarray, orders: np.ndarray, ms: int) -> None:
    for order in orders[orders["kind"] == OrderAction.NEW]:
        step(state, report(ReportKind.ACCEPTED, START_NS + ms * MS, int(order["order_id"]), venue_order_id=1))


def filled(state: np.ndarray, order: Any, ms: int, trade_id: int, fee: int = 0) -> None:
    step(state, report(
        ReportKind.FILL, START_NS + ms * MS, int(order["order_id"]), instrument=int(order["instrument"]),
        side=int(order["side"]), price=int(order["price"]), size=int(order["size"]), trade_id=trade_id, fee=fee,
        cumulative_size=int(order["size"]),
    ))  # fmt: skip


def test_each_has_its_own_quotes_and_its_own_position() -> None:
    state = both(order_value=300.0)
    orders = step(state, quote(1, 0.0))
    assert [(int(order["strategy"]), int(order["side"])) for order in orders] == [(0, 1), (0, -1)]
    accepted(state, orders, 2)
    filled(state, orders[0], 3, 1, fee=70)
    # The taker would meet the maker's own ask: that is denied, and the maker's quotes stand.
    assert len(step(state, quote(4, 6.0))) == 0
    assert state[0]["denied"][Reason.SELF_TRADE] == 1
    filled(state, orders[1], 5, 2)
    (taken,) = step(state, quote(6, 6.0))
    assert (taken["strategy"], taken["side"], taken["time_in_force"]) == (1, 1, TimeInForce.IOC)
    assert taken["price"] > ASK
    filled(state, taken, 7, 3, fee=11)
    books = state[0]["strategies"]["books"]
    assert books["position"][:2, 0].tolist() == [5 - 4, int(taken["size"])]
    assert state[0]["ledger"]["positions"][0]["size"] == books["position"][:, 0].sum()
    assert books["cash"][0, 0] == (-5 * BID + 4 * ASK) * 1000 and books["fees"][:2, 0].tolist() == [70, 11]
    step(state, quote(8, 0.0))
    own = state[0]["strategies"]["own"]
    assert own["position"][:2, 0].tolist() == [1, 6] and set(own["account_position"][:2, 0].tolist()) == {7}
    summary = strategy_summary(state, ["maker", "momentum"], [BTC, ETH])
    assert summary["momentum"]["positions"] == {"BTCUSDT": "0.006", "ETHUSDT": "0.000"}
    assert summary["momentum"]["intents"] == 1 and summary["momentum"]["denied"] == 1
    assert sum(item["intents"] for item in summary.values()) == state[0]["intents"]
    assert sum(item["signals"] for item in summary.values()) == state[0]["signals"]


def test_what_only_reduces_the_account_closes_the_last_ones_first() -> None:
    state = both(order_value=300.0)
    strategies = state[0]["strategies"]
    for ms, side, size, trade in ((1, 1, 4, 1), (2, 1, 3, 2)):
        step(state, report(
            ReportKind.FILL, START_NS + ms * MS, 0, instrument=0, side=side, price=BID, size=size, trade_id=trade,
        ))  # fmt: skip
    assert strategies["books"]["position"][:2, 0].tolist() == [7, 0]  # of no order that is known: the first one's
    strategies["books"]["position"][1, 0], strategies["books"]["position"][0, 0] = 5, 2
    step(state, report(
        ReportKind.FILL, START_NS + 3 * MS, 0, instrument=0, side=-1, price=BID, size=6, trade_id=3, fee=60,
    ))  # fmt: skip
    assert strategies["books"]["position"][:2, 0].tolist() == [1, 0]
    assert strategies["books"]["fees"][:2, 0].tolist() == [10, 50]


def test_symbols_keep_a_strategy_to_its_instruments() -> None:
    values = {"maker": {"symbols": ["ETHUSDT"]}, "momentum": {"symbols": ["BTCUSDT"]}}
    state = make_state(strategies=load_strategies(settings_from({"strategies": values})))
    feed(state, opening(START_NS))
    assert step(state, quote(1, 9.0))["strategy"].tolist() == [1]
    assert step(state, quote(2, 9.0, instrument=1, bid=2_600_00, ask=2_600_01))["strategy"].tolist() == [0, 0]


def test_the_same_records_in_batches_of_any_size_and_by_another_order_of_strategies() -> None:
    settings = settings_from({"strategies": {"momentum": {"parameters": {"cooldown_ms": 20}}, "maker": {}}})
    items = [quote(20 * n, float(n % 7 - 3) * 2, instrument=n % 2) if n % 3 else control(
        Kind.CLOCK, START_NS + 20 * n * MS) for n in range(1, 400)]  # fmt: skip
    whole = np.concatenate([record for _, record in items])
    hashes = []
    for batch in (1, 7, 399):
        state = make_state(strategies=load_strategies(settings), open_loop=True)
        feed(state, opening(START_NS)[-2:])
        for first in range(0, len(whole), batch):
            step_batch(state, 0, whole[first : first + batch])
        assert state[0]["intents"] > 50
        hashes.append(decision_hash(state))
    assert len(set(hashes)) == 1
    turned = dataclasses.replace(settings, strategies=dict(reversed(settings.strategies.items())))
    state = make_state(strategies=load_strategies(turned), open_loop=True)
    feed(state, opening(START_NS)[-2:])
    step_batch(state, 0, whole)
    assert decision_hash(state) != hashes[0]


def test_at_a_clock_the_records_are_bounded_and_everybody_has_a_turn(tmp_path: Path) -> None:
    """Eight strategies that want to cancel both quotes of two instruments at a CLOCK: 32 records."""
    content = SOUND.replace("import IMBALANCE_1,", "import IMBALANCE_1, withdraw,").replace(
        "    if event.kind != PREDICTION:\n        return\n",
        "    if event.kind != PREDICTION:\n        state.turns += 1\n        withdraw(quotes)\n        return\n"
        "    bid(quotes, view, view.bid_price, 5)\n    ask(quotes, view, view.ask_price, 5)\n    return\n",
    )
    path = str(written(tmp_path, content))
    settings = settings_from({"strategies": {f"s{n}": {"file": path} for n in range(8)}})
    state = make_state(strategies=load_strategies(settings))
    feed(state, opening(START_NS))
    for instrument, touch in ((0, (BID, ASK)), (1, (2_600_00, 2_600_01))):
        orders = step(state, quote(1, 0.0, instrument, *touch))
        assert len(orders) == 16
        accepted(state, orders, 2)
    turns = []
    for n in range(2):
        orders = step(state, control(Kind.CLOCK, START_NS + (10 + 10 * n) * MS))
        assert len(orders) == 16 and set(orders["kind"].tolist()) == {OrderAction.CANCEL}
        turns.append(state[0]["strategies"]["memory"][:, :2, 0].sum())
    assert turns == [8, 16]


# --- parameters that are changed ------------------------------------------------------------------------------------


def change(ms: int, strategy: int, number: int, word: int) -> Any:
    return command(Kind.PARAMETER, START_NS + ms * MS, instrument=strategy, size=number, aux=word)


def test_a_parameter_record_changes_what_is_decided_from_there_on() -> None:
    def run(with_change: bool) -> str:
        state = both()
        step(state, quote(1, 0.0))
        if with_change:
            cls = load_strategies(settings_from({}))[0].strategy.parameters
            step(state, change(2, 0, 0, word_of(cls, "order_value", 100.0)))
        step(state, quote(3, 0.0, instrument=1, bid=2_600_00, ask=2_600_01))
        return decision_hash(state)

    assert run(True) == run(True) != run(False)


@pytest.mark.parametrize(("strategy", "number"), [(2, 0), (0, 9), (0, -1), (255, 0), (1, 8)])
def test_a_parameter_that_is_not_there_is_quarantined(strategy: int, number: int) -> None:
    state = both()
    before = state["strategies"]["parameters"].copy()
    record = record_of(MARKET, Kind.PARAMETER, instrument=strategy, size=number, aux=1, recv_ts_ns=START_NS)
    step(state, (SOURCE_COMMANDS, record))
    assert state[0]["quarantined"][Reason.BAD_NUMBER] == 1
    assert (state["strategies"]["parameters"] == before).all()


# --- recordings -----------------------------------------------------------------------------------------------------


@pytest.mark.recordings
def test_maker_taker_and_a_file_decide_the_same_fused_and_through_processes(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    tables = {"maker": {}, "momentum": {"parameters": {"entry_bps": 0.0}}, "mine": {"file": str(path)}}
    source = open_source(require_capture(USDM_CAPTURES[0]), settings_from({"strategies": tables, "venue": {
        "symbols": ["BTCUSDT"]}}))  # fmt: skip
    entries = list(islice(source.inputs(), 4_000))
    part = dataclasses.replace(source, read=lambda: iter(entries))
    fused, again, auto = replay_fused(part, None), replay_fused(part, None), replay_auto(part, None)
    assert fused["decision_hash"] == again["decision_hash"] == auto["decision_hash"]
    assert fused["strategies"] == auto["strategies"]
    assert all(item["intents"] > 0 and item["faults"] == 0 for item in fused["strategies"].values())
