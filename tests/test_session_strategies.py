"""Maker and taker together on paper, a parameter changed while they trade, and the replay of all of that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.records import MARKET, SOURCE_COMMANDS, Kind
from procs.audit import entries_of
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalWriter
from procs.strategies import MANIFEST
from tests.engine_session import Engine, bot4, engine, leftovers, replay, wait_until
from tests.session_records import json_lines
from tests.test_strategies import SOUND

pytestmark = pytest.mark.session
PARAMETERS = {"entry_bps": 0.05, "cooldown_ms": 300, "hold_ms": 1_500, "order_value": 150.0}


class Traded:
    """The session, and what was answered while it ran."""

    def __init__(self, made: Engine, answers: dict[str, dict[str, Any]]) -> None:
        self.answers = answers
        self.name = made.name
        self.summary = made.summary()
        self.folder = Path(self.summary["engine"]["folder"])
        self.audit = entries_of((made.folder / "var" / "control" / made.name / "audit.jsonl").read_bytes())


def all_at_work(session: Path) -> bool:
    """Whether all three have sent an order and the first two had a fill, by what the recorder has written."""
    orders, fills = (
        [orjson.loads(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()] if path.exists() else []
        for path in (session / "orders.jsonl", session / "fills.jsonl")
    )
    of = {order["order_id"]: order["strategy"] for order in orders if order["action"] == "NEW"}
    filled = {of[fill["order_id"]] for fill in fills if fill["kind"] == "FILL" and fill["order_id"] in of}
    return {0, 1} <= filled and 2 in of.values()


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traded]:
    """Maker, taker and a file of the user's own, until the first two had fills."""
    folder = tmp_path_factory.mktemp("strategies")
    file = folder / "mine.py"
    file.write_text(SOUND)
    file.chmod(0o600)
    tables = {
        "strategies.maker": {"symbols": ["BTCUSDT"]}, "strategies.momentum.parameters": PARAMETERS,
        "strategies.mine": {"file": str(file), "symbols": ["ETHUSDT"]}, "strategies.mine.parameters": {"lean": 0.6},
    }
    with engine(folder, **tables) as made:
        made.start()
        made.wait_trading()
        file.unlink()  # what runs was kept
        asked = {
            "sound": ("momentum.order_value", "90"), "unknown": ("momentum.order_valeu", "90"),
            "bounds": ("mine.lean", "1.5"), "rule": ("momentum.exit_bps", "7"), "text": ("mine.quote_life_ms", "soon"),
            "stranger": ("follower.lean", "1"),
        }  # fmt: skip
        answers = {
            key: orjson.loads(made.command("set", *words, "--reason", "a test", "--json").stdout)
            for key, words in asked.items()
        }
        (session,) = (folder / "var" / "sessions").iterdir()
        wait_until(lambda: all_at_work(session), 60, "fills of maker and taker")
        code, _, error = made.finish()
        assert code == 0, error
        assert leftovers(made.name) == []
        yield Traded(made, answers)


def test_all_of_them_trade_and_the_ledger_is_the_venues(traded: Traded) -> None:
    summary = traded.summary
    strategies = summary["strategies"]
    assert list(strategies) == ["maker", "momentum", "mine"]
    assert all(found["intents"] > 0 and found["faults"] == 0 for found in strategies.values()), strategies
    assert strategies["maker"]["fills"] > 0 and strategies["momentum"]["fills"] > 0
    assert summary["ledger_matches_venue"] is True and summary["unaccounted"] == 0
    assert sum(found["intents"] for found in strategies.values()) == summary["decisions"]["intents"]
    for symbol, held in summary["positions"].items():
        parts = [found["positions"][symbol] for found in strategies.values()]
        assert sum(round(float(part) * 1000) for part in parts) == round(float(held) * 1000)
    orders = json_lines(traded.folder / "orders.jsonl")
    new = [order for order in orders if order["action"] == "NEW"]
    kinds = {(order["strategy"], order["time_in_force"]) for order in new}
    assert kinds == {(0, "GTX"), (1, "IOC"), (2, "GTX")}


def test_a_parameter_is_changed_within_its_bounds_and_audited(traded: Traded) -> None:
    answers = traded.answers
    assert answers["sound"] == {"ok": True, "before": 150.0, "after": 90.0}
    for key, words in (
        ("unknown", "momentum.order_valeu: there is no such parameter; did you mean 'order_value'?"),
        ("bounds", "mine.lean = 1.5: allowed is a number from 0.0 to 1.0"),
        ("rule", "momentum: exit_bps is 7.0: at most entry_bps = 0.05 is needed"),
        ("text", "mine.quote_life_ms = 'soon': allowed is a whole number"),
        ("stranger", "'follower' is no strategy of this session; there are maker, momentum, mine"),
    ):
        assert answers[key] == {"ok": False, "error": words}
    (entry,) = [entry for entry in traded.audit if entry["event"] == "parameter"]
    assert (entry["strategy"], entry["parameter"], entry["before"], entry["after"]) == (
        "momentum", "order_value", 150.0, 90.0,
    )
    assert entry["reason"] == "a test" and entry["who"]
    assert sum(entry["event"] == "refused" for entry in traded.audit) == 5


def test_the_replay_has_the_change_and_without_it_decides_otherwise(traded: Traded, tmp_path: Path) -> None:
    wanted = traded.summary["decision_hash"]
    for placement in ("fused", "auto"):
        again = replay(traded.folder, "--placement", placement)
        assert again["decision_hash"] == wanted
        assert again["strategies"] == traded.summary["strategies"]
    copy = tmp_path / "without"
    shutil.copytree(traded.folder, copy)
    entries = list(read_stream(copy, "execution"))
    for journal in copy.glob("execution-*"):
        journal.unlink()
    session = orjson.loads((copy / "session.json").read_bytes())["session"]
    writer = JournalWriter(copy, "execution", session)
    changes = 0
    for entry in entries:
        if entry.source == SOURCE_COMMANDS:
            kept = np.frombuffer(entry.payload, MARKET)
            kept = kept[kept["kind"] != Kind.PARAMETER]
            changes += entry.count - len(kept)
            if not len(kept):
                continue
            assert writer.append(Entry(entry.kind), kept.tobytes(), entry.ts_ns, entry.source, len(kept))
        else:
            assert writer.append(Entry(entry.kind), entry.payload, entry.ts_ns, entry.source, entry.count)
    writer.close()
    assert changes == 1
    assert replay(copy)["decision_hash"] != wanted


def test_a_session_whose_strategy_was_changed_says_that_it_cannot_be_replayed(traded: Traded, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(traded.folder, copy)
    path = copy / "strategies" / "mine.py"
    path.write_text(path.read_text().replace("0.3", "0.4"))
    done = bot4("replay", str(copy))
    assert done.returncode == 2 and "strategies/mine.py: is not the file that ran" in done.stderr
    (copy / MANIFEST).unlink()
    done = bot4("replay", str(copy))
    assert done.returncode == 2 and "cannot be replayed as it ran" in done.stderr
