"""The recorder: orders and fills complete and once whatever dies, an index that finds what a full scan finds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.reasons import Reason
from engine.records import (
    MARKET,
    ORDER,
    PREDICTION,
    REPORT,
    SOURCE_FILLS,
    SOURCE_MAIN,
    Kind,
    OrderAction,
    ReportKind,
    Side,
)
from engine.stage import as_bytes
from engine.validation.step import VALIDATION
from procs.children import kill
from procs.instance import Mapping, Plan, ProcessContext
from procs.journal.index import StreamIndexer, find_entry
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.journal.writer import JournalWriter
from procs.lines import LineFile
from procs.ports import Outlet
from procs.recorder import Recorder
from procs.summary import journal_summary
from procs.table import STREAMS, Role
from shm.clock import sleep
from shm.control import Stop
from tests.instance_memory import small_instance
from tests.market_records import run_stage
from tests.session_records import json_lines
from tests.test_observers import has_ended, start, until


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=64) as made:
        yield made


class Journals:
    """The journals of a session, written by the test, and what the recorder must make of them."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.dice = random.Random(seed)
        self._writers = {
            stream: JournalWriter(plan.path, stream, plan.session, segment_bytes=4096) for stream in STREAMS
        }
        self.orders: list[int] = []
        self.reports: list[int] = []

    def write(self, count: int) -> None:
        for _ in range(count):
            kind = self.dice.randint(0, 5)
            if kind <= 1:
                self._append("ingestion", Entry.FRAME, self.dice.randbytes(self.dice.randint(0, 300)))
            elif kind == 2:
                order = np.zeros(1, ORDER)
                order["order_id"], order["kind"], order["side"] = len(self.orders) + 1, OrderAction.NEW, Side.BUY
                self.orders.append(len(self.orders) + 1)
                self._append("gateway", Entry.REQUEST, order.tobytes())
            elif kind == 3:
                self._append("gateway", self.dice.choice([Entry.ANSWER, Entry.PRIVATE]), b"{}")
            elif kind == 4:
                reports = np.zeros(self.dice.randint(1, 4), REPORT)
                reports["kind"] = ReportKind.FILL
                reports["trade_id"] = np.arange(len(self.reports) + 1, len(self.reports) + 1 + len(reports))
                self.reports += reports["trade_id"].tolist()
                self._append("execution", Entry.BATCH, reports.tobytes(), SOURCE_FILLS, len(reports))
            else:
                self._append("execution", Entry.BATCH, bytes(16), SOURCE_MAIN, 2)

    def _append(self, stream: str, kind: Entry, payload: bytes, source: int = 0, count: int = 1) -> None:
        self._writers[stream].append(kind, payload, 5, source, count)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def check(self, folder: Path) -> None:
        """Every record once and in order, and the index finds what a full scan finds."""
        orders, reports = json_lines(folder / "orders.jsonl"), json_lines(folder / "fills.jsonl")
        assert [line["order_id"] for line in orders] == self.orders
        assert [line["trade_id"] for line in reports] == self.reports
        for lines in (orders, reports):
            assert [line["record"] for line in lines] == list(range(1, len(lines) + 1))
        for stream in STREAMS:
            entries = list(read_stream(folder, stream))
            assert journal_summary(folder)[stream]["entries"] == len(entries)
            for entry in self.dice.sample(entries, min(5, len(entries))):
                assert find_entry(folder, stream, ordinal=entry.ordinal) == entry
        for line in orders[-3:]:
            entry = find_entry(folder, "gateway", ordinal=line["ordinal"])
            assert entry is not None and np.frombuffer(entry.payload, ORDER)[0]["order_id"] == line["order_id"]


@pytest.mark.parametrize("seed", range(12))
def test_orders_and_fills_are_complete_whatever_becomes_of_recorders(
    plan: Plan, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each dies somewhere: between lines and marks, in the middle of a line, before it did anything at all."""
    journals = Journals(plan, seed)
    dice = journals.dice

    class Died(Exception):
        """The recorder ends here."""

    really_keep, really_append = StreamIndexer.keep, LineFile.append

    def keep(self: StreamIndexer, pause: bool = True) -> None:
        if dice.random() < 0.1:
            raise Died
        really_keep(self, pause)

    def append(self: LineFile, entries: Any) -> None:
        if dice.random() < 0.1:
            raise Died
        really_append(self, entries)

    for _ in range(8):
        journals.write(dice.randint(0, 40))
        monkeypatch.setattr(StreamIndexer, "keep", keep)
        monkeypatch.setattr(LineFile, "append", append)
        recorder = Recorder(ProcessContext(plan, Role.RECORDER))
        try:
            for _ in range(dice.randint(0, 6)):
                recorder.turn()
                if dice.random() < 0.3:
                    recorder.pause()
        except Died:
            pass
        monkeypatch.undo()
        for name in ("orders.jsonl", "fills.jsonl"):
            path = plan.path / name
            if dice.random() < 0.5 and path.stat().st_size:
                data = path.read_bytes()
                # A line that was not written to its end, and so not marked either.
                last_line = data.rstrip(b"\n").rfind(b"\n") + 1
                if not _is_marked(plan, name, orjson.loads(data[last_line:])["ordinal"]):
                    os.truncate(path, dice.randint(last_line, len(data)))
    journals.write(10)
    last = Recorder(ProcessContext(plan, Role.RECORDER, successor=True))
    while last.turn():
        pass
    last.pause()
    journals.check(plan.path)
    journals.close()


def _is_marked(plan: Plan, name: str, ordinal: int) -> bool:
    stream = {"orders.jsonl": "gateway", "fills.jsonl": "execution"}[name]
    return journal_summary(plan.path).get(stream, {"entries": 0})["entries"] >= ordinal


def test_a_recorder_that_is_killed_again_and_again_leaves_no_hole_and_nothing_twice(plan: Plan) -> None:
    journals = Journals(plan, 99)
    mapping = Mapping(plan)
    for life in range(8):
        child = start(plan, Role.RECORDER, successor=life > 0)
        try:
            before = mapping.control.progress(Role.RECORDER)
            for _ in range(journals.dice.randint(5, 30)):
                journals.write(journals.dice.randint(1, 20))
                sleep(0.001)
            if life % 2:
                until(lambda before=before: mapping.control.progress(Role.RECORDER) > before)
        finally:
            kill(child)
        mapping.control.clear_role(Role.RECORDER)
    child = start(plan, Role.RECORDER, successor=True)
    try:
        mapping.control.request_stop(Role.RECORDER, Stop.DRAIN)
        until(lambda: has_ended(child))
    finally:
        kill(child)
    assert child.status == 0
    journals.check(plan.path)
    journals.close()
    mapping.close()


def test_the_newest_prediction_of_each_instrument_once_a_pause(plan: Plan) -> None:
    mapping = Mapping(plan)
    recorder = Recorder(ProcessContext(plan, Role.RECORDER))
    outlet = Outlet(mapping, "predictions")
    records = np.zeros(6, PREDICTION)
    records["kind"] = [Kind.PREDICTION] * 5 + [Kind.CLOCK]
    records["instrument"] = [0, 1, 0, 1, 0, 1]
    records["ingest_id"] = np.arange(1, 7)
    records["output"][:, 0] = 0.5
    outlet.give(as_bytes(records), 6)
    recorder.turn()
    recorder.pause()
    recorder.turn()
    recorder.pause()
    lines = json_lines(plan.path / "predictions.jsonl")
    assert sorted((line["symbol"], line["ingest_id"]) for line in lines) == [("BTCUSDT", 5), ("ETHUSDT", 4)]
    assert lines[0]["output"] == [0.5, 0.0]
    mapping.close()


def test_what_was_refused_is_in_the_quarantine(plan: Plan) -> None:
    """A frame that ingestion refused and a record that validation refused, each with its frame."""
    mapping = Mapping(plan)
    writer = JournalWriter(plan.path, "ingestion", plan.session)
    writer.append(Entry.FRAME, b"<html>", 5, 0, 1)
    writer.append(Entry.REFUSED, (1).to_bytes(8, "little"), 5, int(Reason.BAD_JSON), 1)
    writer.append(Entry.FRAME, b"a trade", 6, 0, 1)
    recorder = Recorder(ProcessContext(plan, Role.RECORDER))
    recorder.turn()
    bad = np.concatenate([plan.instruments[1].record(), np.zeros(1, MARKET)])
    bad["kind"][1], bad["instrument"][1], bad["ingest_id"][1], bad["side"][1] = Kind.TRADE, 1, 2, Side.BUY
    run_stage(VALIDATION, mapping.state(Role.VALIDATION), bad)
    recorder.turn()
    recorder.turn()
    first, second = json_lines(plan.path / "quarantine.jsonl")
    assert (first["stage"], first["reason"], first["frame"], first["ordinal"]) == ("ingestion", "BAD_JSON", "<html>", 1)
    assert (second["stage"], second["reason"], second["frame"]) == ("validation", "PRICE_RANGE", "a trade")
    assert (second["ingest_id"], second["ordinal"], second["record"]["symbol"]) == (2, 3, "ETHUSDT")
    writer.close()
    mapping.close()


def test_lines_of_orders_and_reports_say_what_the_records_say(plan: Plan) -> None:
    order, reports = np.zeros(1, ORDER), np.zeros(2, REPORT)
    for name, value in {
        "order_id": 5, "kind": OrderAction.NEW, "side": Side.SELL, "instrument": 1, "price": 250055, "size": 1500,
        "time_in_force": 3, "ingest_id": 77, "recv_ts_ns": 8, "deadline_ns": 9,
    }.items():
        order[name] = value
    reports["kind"] = [ReportKind.FILL, ReportKind.BALANCE]
    reports["instrument"], reports["price"], reports["size"], reports["side"] = 1, 250055, 1500, Side.SELL
    reports["trade_id"], reports["fee"], reports["order_id"], reports["aux"] = 3, 20_000_000, 5, 7
    for stream, entry, payload, source in (
        ("gateway", Entry.REQUEST, order.tobytes(), 0), ("execution", Entry.BATCH, reports.tobytes(), SOURCE_FILLS),
    ):
        writer = JournalWriter(plan.path, stream, plan.session)
        writer.append(entry, payload, 1234, source, 2)
        writer.close()
    recorder = Recorder(ProcessContext(plan, Role.RECORDER))
    recorder.turn()
    (line,) = json_lines(plan.path / "orders.jsonl")
    assert line == {
        "record": 1, "ordinal": 1, "place": 1, "taken_ns": 1234, "action": "NEW", "order_id": 5, "symbol": "ETHUSDT",
        "price": "2500.55", "size": "1.500", "side": "SELL", "type": "LIMIT", "time_in_force": "GTX", "strategy": 0,
        "ingest_id": 77, "decided_ns": 8, "deadline_ns": 9,
    }
    fill, balance = json_lines(plan.path / "fills.jsonl")
    assert (fill["kind"], fill["trade_id"], fill["fee"], fill["size"]) == ("FILL", 3, "0.20000000", "1.500")
    assert (balance["record"], balance["kind"], balance["aux"]) == (2, "BALANCE", 7) and "symbol" not in balance
