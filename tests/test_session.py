"""Whole sessions over real sockets and processes: trading, equality with the venue, replay, the decision hash."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.records import ORDER, REPORT, SOURCE_FILLS, Flag, OrderAction, ReportKind, Side
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.journal.writer import JournalWriter
from procs.table import PROCESSES
from tests.engine_session import Engine, Venue, bot4, engine, leftovers, replay, venue, wait_until
from tests.session_records import check_records, json_lines

pytestmark = pytest.mark.session


class Session:
    """A session that has ended: its summary, its folder, and what the venue said when it was over."""

    def __init__(self, made: Engine, place: Venue) -> None:
        self.summary = made.summary()
        self.folder = Path(self.summary["engine"]["folder"])
        self.name = made.name
        client = place.client()
        self.account = client.fapiPrivateV3GetAccount()
        self.positions = {entry["symbol"]: entry for entry in client.fapiPrivateV3GetPositionRisk()}
        self.open_orders = client.fapiPrivateGetOpenOrders()
        self.trades = {
            symbol: client.fapiPrivateGetUserTrades({"symbol": symbol, "limit": 1000})
            for symbol in self.summary["positions"]
        }

    def fills(self) -> np.ndarray:
        """Every fill report that execution took, from its journal."""
        batches = [
            np.frombuffer(entry.payload, REPORT)
            for entry in read_stream(self.folder, "execution")
            if entry.source == SOURCE_FILLS
        ]
        reports = np.concatenate(batches)
        return reports[reports["kind"] == ReportKind.FILL]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One minute of trading on a venue that outlives the engine, with books held against REST."""
    folder = tmp_path_factory.mktemp("session")
    with venue(folder) as place, engine(folder, venue=place.connection, feed={"rest_audit_s": 8.0}) as made:
        result = made.run("--for", "60s")
        assert result.returncode == 0, result.stderr
        assert leftovers(made.name) == []
        yield Session(made, place)


def test_trades_enough_and_both_ways(session: Session) -> None:
    orders, fills = session.summary["orders"], session.fills()
    assert orders["sent"] >= 200
    assert session.summary["fills"] >= 50
    sides = Counter((int(fill["instrument"]), int(fill["side"])) for fill in fills)
    assert set(sides) >= {(0, Side.BUY), (0, Side.SELL), (1, Side.BUY), (1, Side.SELL)}
    assert orders["partially_filled"] > 0
    assert orders["cancelled"] > 0
    assert orders["filled"] > 0
    # A cancel that crosses a fill leaves its order UNKNOWN until the venue is asked; none may stay so.
    ended = orders["filled"] + orders["cancelled"] + orders["expired"] + orders["rejected"]
    assert ended == orders["sent"]
    assert orders["illegal_transitions"] == 0


def test_books_agree_with_rest(session: Session) -> None:
    """The replays below make the same hash of a session with these inputs."""
    kinds = Counter(entry.kind for entry in read_stream(session.folder, "ingestion"))
    assert kinds[Entry.AUDIT] >= 4 and kinds[Entry.AUDIT_ASKED] - kinds[Entry.AUDIT] in (0, 1)
    *_, last = json_lines(session.folder / "metrics.jsonl")
    books = [item["book"] for item in last["instruments"].values()]
    assert sum(book["rest_audits_agreed"] for book in books) >= 3
    assert not any(book["rest_audits_disagreed"] for book in books)


def test_every_record_is_accounted_for(session: Session) -> None:
    summary = session.summary
    assert summary["unaccounted"] == 0
    for name, stage in summary["stages"].items():
        left = stage["processed"] + stage["in_flight"]
        left += sum(stage["quarantined"].values()) + sum(stage["dropped"].values())
        assert stage["in"] == left, name
        assert stage["in"] > 0, name
    for name, ring in summary["rings"].items():
        assert ring["produced"] == ring["consumed"] > 0, name
        assert ring["in_flight"] == ring["dropped"] == 0, name
    assert summary["stages"]["ingestion"]["out"] == summary["rings"]["market"]["produced"]
    assert summary["rings"]["orders"]["produced"] == summary["stages"]["gateway"]["in"]


def test_balance_positions_and_fees_equal_the_venues(session: Session) -> None:
    summary = session.summary
    assert summary["ledger_matches_venue"] is True
    assert Decimal(summary["cash"]) == Decimal(session.account["totalWalletBalance"])
    for symbol, size in summary["positions"].items():
        # The venue lists no position that is flat.
        assert Decimal(size) == Decimal(session.positions.get(symbol, {"positionAmt": "0"})["positionAmt"])
    commissions = sum(Decimal(trade["commission"]) for trades in session.trades.values() for trade in trades)
    assert Decimal(summary["pnl"]["fees"]) == commissions
    realised = sum(Decimal(trade["realizedPnl"]) for trades in session.trades.values() for trade in trades)
    assert Decimal(summary["pnl"]["realised"]) == realised
    assert summary["fills"] == sum(len(trades) for trades in session.trades.values())
    assert session.open_orders == []


def test_fills_are_the_venues_one_by_one(session: Session) -> None:
    ours = {(int(fill["instrument"]), int(fill["trade_id"])) for fill in session.fills()}
    theirs = {
        (index, int(trade["id"]))
        for index, trades in enumerate(session.trades.values())
        for trade in trades
    }
    assert ours == theirs
    makers = sum(bool(fill["flags"] & Flag.MAKER) for fill in session.fills())
    assert makers == len(session.fills())  # the strategy posts only


def test_what_the_observers_left_equals_the_summary_and_the_journals(session: Session) -> None:
    check_records(session.summary)
    metrics = json_lines(session.folder / "metrics.jsonl")
    assert len(metrics) > 30
    assert any(line["frames_per_second"] > 0 and line["latency_us"] for line in metrics)
    # In the last second they are on their way out.
    before_the_end = metrics[len(metrics) // 2]["processes"]
    for process in PROCESSES:
        seen = before_the_end[process.role.label]
        assert seen["pss_mb"] > 0 and seen["descriptors"] > 0 and seen["pid"] > 0, process
    assert json_lines(session.folder / "predictions.jsonl")


def test_memory_of_the_engine(session: Session) -> None:
    memory = session.summary["memory_mb"]
    assert memory["total"] < 1024  # MiB: a gigabyte
    assert memory["monitoring"] < 60 and memory["recorder"] < 120


def test_latency_of_every_hop_is_there(session: Session) -> None:
    assert set(session.summary["latency_us"]) == {
        "ingestion", "validation", "features", "ml", "execution", "decision", "wire", "frame_wire", "call",
        *(f"checkpoint.{stage}" for stage in ("ingestion", "validation", "features", "execution")),
    }
    latency, sent = session.summary["latency_us"], session.summary["orders"]["sent"]
    assert latency["wire"]["count"] == latency["frame_wire"]["count"] == sent
    assert latency["wire"]["p50"] < latency["frame_wire"]["p50"]


@pytest.mark.parametrize("placement", ["fused", "auto"])
def test_replay_of_the_journal_decides_the_same(session: Session, placement: str) -> None:
    again = replay(session.folder, "--placement", placement)
    assert again["decisions"]["intents"] > 0
    assert again["decision_hash"] == session.summary["decision_hash"]
    for key in ("decisions", "orders", "fills", "positions", "cash", "pnl", "market"):
        assert again[key] == session.summary[key], key
    assert again["predictions"]["different"] == 0
    assert again["predictions"]["compared"] > 0
    assert again["unaccounted"] == 0


def _causes(folder: Path) -> list[int]:
    """Ingest ids that caused a new order, from the gateway's journal."""
    entries = read_stream(folder, "gateway")
    requests = [np.frombuffer(entry.payload, ORDER)[0] for entry in entries if entry.kind == Entry.REQUEST]
    return [int(request["ingest_id"]) for request in requests if request["kind"] == OrderAction.NEW]


def _is_told_again(following: list[JournalEntry], data: dict[str, Any], side: str, price: float) -> bool:
    """Whether one of the next two diffs of a contract has this level."""
    diffs = (orjson.loads(entry.payload).get("data", {}) for entry in following if entry.kind == Entry.FRAME)
    of_contract = (diff for diff in diffs if diff.get("e") == "depthUpdate" and diff["s"] == data["s"])
    return any(float(level[0]) == price for diff in islice(of_contract, 2) for level in diff[side])


def _with_changed_best_size(entries: list[JournalEntry], causes: set[int]) -> list[JournalEntry]:
    """The same inputs, with one best-level size changed in a diff that caused an intent.

    The level is told again in one of the next two diffs: a wrong size that lasts longer is found out by the venue's
    ticker, and the book becomes invalid.
    """
    books: dict[str, tuple[dict[float, str], dict[float, str]]] = {}
    ingest_id = 0
    for place, entry in enumerate(entries):
        if entry.kind not in (Entry.FRAME, Entry.SNAPSHOT):
            continue
        ingest_id += 1
        message = orjson.loads(entry.payload)
        data = message.get("data", message)
        if entry.kind == Entry.SNAPSHOT:
            symbol = ("BTCUSDT", "ETHUSDT")[entry.source]
            books[symbol] = tuple({float(p): q for p, q in data[key]} for key in ("bids", "asks"))  # type: ignore[assignment]
            continue
        if data.get("e") != "depthUpdate" or data["s"] not in books:
            continue
        for side, key in zip(books[data["s"]], ("b", "a"), strict=True):
            for price, size in data[key]:
                side.pop(float(price), None) if float(size) == 0 else side.__setitem__(float(price), size)
        if ingest_id not in causes:
            continue
        bids, asks = books[data["s"]]
        for key, best in (("b", max(bids)), ("a", min(asks))):
            for level in data[key]:
                is_best = float(level[0]) == best and float(level[1]) > 0
                if is_best and _is_told_again(entries[place + 1 :], data, key, best):
                    level[1] = f"{Decimal(level[1]) * 3:.3f}"
                    changed = orjson.dumps(message)
                    return [*entries[:place], entry._replace(payload=changed), *entries[place + 1 :]]
    raise AssertionError("no intent was caused by a change of a best level")


def test_one_changed_best_size_changes_the_hash(session: Session, tmp_path: Path) -> None:
    entries = list(read_stream(session.folder, "ingestion"))
    changed = _with_changed_best_size(entries, set(_causes(session.folder)))
    assert sum(a.payload != b.payload for a, b in zip(entries, changed, strict=True)) == 1
    for kept in session.folder.iterdir():
        if not kept.name.startswith("ingestion-"):
            (tmp_path / kept.name).write_bytes(kept.read_bytes())
    writer = JournalWriter(tmp_path, "ingestion", "changed")
    for entry in changed:
        writer.append(Entry(entry.kind), entry.payload, entry.ts_ns, entry.source, entry.count)
    writer.close()
    again = replay(tmp_path)
    assert again["decisions"]["intents"] > 0
    assert again["decision_hash"] != session.summary["decision_hash"]


def test_a_signal_ends_everything(tmp_path: Path) -> None:
    """SIGTERM; most sessions here end by SIGINT (test_session_modes.py looks at what is said then), one by SIGHUP."""
    with engine(tmp_path) as made:
        made.start()
        status = made.wait_trading()
        shown = made.command("status", "--json")
        assert shown.returncode == 0, shown.stderr
        said = json.loads(shown.stdout)
        assert said.keys() == status.keys() and said["processes"].keys() == status["processes"].keys()
        assert said["orders"]["sent"] >= status["orders"]["sent"] > 0 and said["folder"] == status["folder"]
        code, out, err = made.finish(signal.SIGTERM)
        assert code == 0, err
        assert "ledger equals venue: True" in out
        assert "unaccounted records: 0" in out
        assert leftovers(made.name) == []
        assert made.summary()["orders"]["sent"] > 0


def test_kill_cancels_everything_and_nothing_is_sent_after_it(tmp_path: Path) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        made.start()
        made.wait_trading()
        result = bot4("kill", "--json", "--config", str(made.config))
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["tripped_by"] == ["operator"]
        wait_until(lambda: not place.state()["open_orders"], 5, "empty book")

        def entered() -> list[str]:
            """Orders but the kill switch's own, which only reduce."""
            orders = place.client().fapiPrivateGetAllOrders({"symbol": "BTCUSDT"})
            return [order["clientOrderId"] for order in orders if order["reduceOnly"] is False]

        before = entered()
        wait_until(lambda: made.status()["emergency_word"], 5, "emergency word")  # type: ignore[index]
        assert entered() == before != []
        code, _, err = made.finish()
        assert code == 1
        assert "emergency stop (operator)" in err
        events = (Path(made.summary()["engine"]["folder"]) / "killswitch.jsonl").read_text()
        assert "tripped" in events and "nothing rests" in events
        assert leftovers(made.name) == []
        again = replay(Path(made.summary()["engine"]["folder"]))
        assert again["decision_hash"] == made.summary()["decision_hash"]


def test_denials_and_venue_rejects(tmp_path: Path) -> None:
    """A tight message rate makes the gate deny; the venue's rate limit makes the venue refuse."""
    gate = {"max_messages_per_second": 3.0, "message_burst": 6.0}
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection, gate=gate) as made:
        place.fault(fault="http", action="rate_limit", path="/fapi/v1/order", method="POST", count=3)
        result = made.run("--for", "12s")
        assert result.returncode == 0, result.stderr
        summary = made.summary()
        assert summary["orders"]["denied"]["MESSAGE_RATE"] > 0
        assert summary["orders"]["rejected_by"]["RATE_LIMITED"] == 3
        assert summary["orders"]["sent"] > 0
        assert summary["ledger_matches_venue"] is True
        assert summary["unaccounted"] == 0
