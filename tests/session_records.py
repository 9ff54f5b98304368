"""What the observers of a session must have left in its folder, compared with the summary and the journals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from engine.records import ORDER, OrderAction
from procs.journal.index import find_entry, read_indexes
from procs.journal.layout import FRAMES, Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.table import STREAMS


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def check_records(summary: dict[str, Any]) -> None:
    """Every order and report once, every record followed or counted as lapped, every cause found by the index."""
    folder = Path(summary["engine"]["folder"])
    orders, reports = json_lines(folder / "orders.jsonl"), json_lines(folder / "fills.jsonl")
    assert len(orders) == summary["rings"]["orders"]["produced"] > 0
    assert len(reports) == summary["rings"]["fills"]["produced"]
    for lines in (orders, reports):
        assert [line["record"] for line in lines] == list(range(1, len(lines) + 1))
    kinds = Counter(line["kind"] for line in reports)
    assert kinds["FILL"] == summary["fills"] + summary["duplicate_fills"]
    assert len({line["order_id"] for line in orders if line["action"] == "NEW"}) == _new_orders(folder)

    for process, rings in summary["followers"].items():
        for ring, row in rings.items():
            assert row["read"] + row["lapped"] == summary["rings"][ring]["produced"], (process, ring)

    last = json_lines(folder / "metrics.jsonl")[-1]
    assert last["frames"] == summary["market"]["frames"] and last["fills"] == summary["fills"]
    assert last["pnl"] == summary["pnl"]
    assert {name: row["produced"] for name, row in last["rings"].items()} == {
        name: row["produced"] for name, row in summary["rings"].items()
    }

    frames: dict[int, JournalEntry] = {}
    for stream in STREAMS:
        entries = list(read_stream(folder, stream))
        assert summary["journal"][stream]["entries"] == len(entries)
        assert all(index.intact(folder) for index in read_indexes(folder, stream))
        if stream == "ingestion":
            taken = [entry for entry in entries if entry.kind in FRAMES]
            frames = dict(enumerate(taken, 1))
    for line in orders[:: max(1, len(orders) // 50)]:
        assert find_entry(folder, "ingestion", ingest_id=line["ingest_id"]) == frames[line["ingest_id"]]
        request = find_entry(folder, "gateway", ordinal=line["ordinal"])
        assert request is not None and request.kind == Entry.REQUEST


def _new_orders(folder: Path) -> int:
    """How many new orders the gateway's journal holds."""
    kind = ORDER.fields["kind"][1]  # type: ignore[index]
    requests = [entry.payload for entry in read_stream(folder, "gateway") if entry.kind == Entry.REQUEST]
    return sum(payload[kind] == OrderAction.NEW for payload in requests)
