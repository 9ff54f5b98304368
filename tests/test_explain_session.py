"""A whole engine whose execution and gateway are killed and that is tripped at the end: its every order explained."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from procs.explain.session import open_session
from procs.explain.whole import explain_all
from procs.kill_record import NOTES_NAME
from tests.engine_session import Engine, bot4, engine, leftovers, wait_until
from tests.session_records import json_lines
from tools.soak.session import alive

pytestmark = pytest.mark.session


def kill_and_wait(session: Engine, role: str) -> None:
    """End a process as a crash does; back is the engine when another one has got orders acknowledged."""
    status = session.status()
    assert status is not None
    pid, acked = status["processes"][role]["pid"], status["orders"]["acked"]
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        now = session.status()
        successor = now["processes"][role]["pid"] if now else pid
        return now is not None and successor != pid and alive(successor) and now["orders"]["acked"] > acked + 4

    wait_until(back, 40, f"orders after the death of {role}")


def explained(folder: Path, name: str) -> dict[str, Any]:
    result = bot4("explain", name, "--session", str(folder), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def clips(folder: Path) -> list[str]:
    """Client ids of the orders that the controlled stop made."""
    notes = folder / NOTES_NAME
    return [note["id"] for note in json_lines(notes) if note["event"] == "clip"] if notes.exists() else []


def test_every_order_is_explained_after_kills_and_a_trip(tmp_path: Path) -> None:
    gate = {"max_order_value": 1_500.0, "max_position_value": 8_000.0}
    with engine(tmp_path, gate=gate) as session:
        session.start()
        folder = Path(session.wait_trading(12)["folder"])
        # While it runs, by its name alone.
        running = session.command("explain", "last", "--json")
        assert running.returncode == 0, running.stdout
        assert json.loads(running.stdout)["session"]["folder"] == str(folder)
        assert session.command("latency", "trace", "1", "--json").returncode == 0
        kill_and_wait(session, "execution")
        kill_and_wait(session, "gateway")
        assert session.command("kill").returncode == 0
        wait_until(lambda: any(note["event"] == "stopped" for note in json_lines(folder / NOTES_NAME)), 30, "stop")
        session.finish()
    assert leftovers(session.name) == []

    whole = open_session(folder)
    figures: list[dict[str, Any]] = []
    told = explain_all(whole, figures.append, lambda _ts_ns, _entries: None)
    assert told["findings"] == whole.warnings() == []
    orders = [line for line in json_lines(folder / "orders.jsonl") if line["action"] == "NEW"]
    by_number = {one["intent"]["order_id"]: one for one in figures}
    assert len(orders) > 25 and {line["order_id"] for line in orders} <= set(by_number)
    for line in orders:
        one = by_number[line["order_id"]]
        for key in ("symbol", "side", "price", "size", "type", "time_in_force", "ingest_id", "decided_ns"):
            assert one["intent"][key] == line[key], (line["order_id"], key)
        limits = {entry["check"]: float(entry["limit"]) for entry in one["gate"]["checks"] if "VALUE" in entry["check"]}
        assert limits["ORDER_VALUE"] == gate["max_order_value"] and one["gate"]["passed"]
        assert limits["POSITION_VALUE"] == gate["max_position_value"] and one["prediction"]["same"]

    # One by one: the first, the last, one whose end a killed gateway left open, one that was filled.
    reports = json_lines(folder / "fills.jsonl")
    unknown = [line["order_id"] for line in reports if line["kind"] == "UNKNOWN"]
    filled = [line["order_id"] for line in reports if line["kind"] == "FILL" and line["order_id"] in by_number]
    numbers = {orders[0]["order_id"], orders[-1]["order_id"], filled[-1], *unknown[:1]}
    for number in numbers:
        found = explained(folder, str(number))
        assert found["order"]["order_id"] == number and found["intent"]["as_journaled"] is True
    held: Counter[str] = Counter()
    trades = {(line["symbol"], line["trade_id"]): line for line in reports if line["kind"] == "FILL"}
    for line in trades.values():
        if line["order_id"] in by_number:
            held[line["symbol"]] += round(float(line["size"]) * 1000) * (1 if line["side"] == "BUY" else -1)
    made_by_stop = clips(folder)
    assert bool(made_by_stop) == any(held.values()), held
    for name in made_by_stop[:1]:
        assert explained(folder, name)["kill_switch"]["tripped_by"] == ["OPERATOR"]
    trace = json.loads(bot4("latency", "trace", str(filled[0]), "--session", str(folder), "--json").stdout)
    hops = {hop["hop"]: hop["at_ns"] for hop in trace["traces"][0]["hops"]}
    ordered = ["frame received", "decoded", "validation", "features", "ml", "prediction taken"]
    ordered += ["intent published", "gateway took it", "bytes out"]
    stamps = [hops[name] for name in ordered]
    assert None not in stamps and stamps == sorted(stamps) and hops["filled"] > hops["bytes out"]
