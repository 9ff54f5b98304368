"""The recorder process: the journals' index and JSON lines of what happened, beside the engine and at its own pace.

From the journals on disk, read as they are written: the index of every stream (procs/journal/index.py); orders.jsonl,
every record of the `orders` ring as the gateway took it; fills.jsonl, every record of the `fills` ring as execution
took it. Line n of either is record n of its ring: nothing is missing and nothing is there twice, whatever dies, since
the journals hold what was taken before it was acted upon, and the last line says where a successor goes on.
From ingestion's journal and the state of validation: quarantine.jsonl, what they refused (procs/quarantine.py).
From the `predictions` ring, as a follower: predictions.jsonl, the newest prediction of each instrument once a second. A
follower may be lapped; what that cost is counted. The file is put aside as predictions.jsonl.1 when it is full.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from engine.reasons import Reason
from engine.records import (
    ORDER,
    REPORT,
    SOURCE_FILLS,
    Flag,
    Kind,
    OrderAction,
    OrderType,
    ReportKind,
    Side,
    TimeInForce,
)
from engine.units import MONEY_EXP, format_units
from engine.validation.state import validation_dtype
from procs.following import Following
from procs.instance import ProcessContext, state_segment
from procs.journal.index import StreamIndexer
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.lines import LineFile
from procs.ports import Turns
from procs.quarantine import Quarantine
from procs.table import STREAMS, Role
from shm.clock import sleep
from shm.control import Stop

_POLL_S = 0.05
_EVERY_NS = 1_000_000_000
_BATCH = 512
_PREDICTIONS_FILE_BYTES = 16 << 20
# Reports that are about one order of one instrument.
_OF_AN_ORDER = range(ReportKind.ACCEPTED, ReportKind.CANCEL_REJECTED + 1)


def _name(kind: type, value: int) -> str:
    return str(kind(value).name) if value in kind._value2member_map_ else f"{kind.__name__}_{value}"  # type: ignore[attr-defined]


class RingLines:
    """A file with a line for every record of a ring, made from the journal of whoever takes them.

    take(entry) gives the records of an entry; describe(record) makes the line of one.
    """

    def __init__(
        self, file: LineFile, take: Callable[[JournalEntry], np.ndarray], describe: Callable[[np.void], dict[str, Any]]
    ) -> None:
        self._file = file
        self._take = take
        self._describe = describe
        last = file.last()
        self._number = last["record"] if last else 0
        self._done = (last["ordinal"], last["place"]) if last else (0, 0)

    def write(self, entries: list[JournalEntry]) -> None:
        """Write the lines of these entries; those that an earlier recorder has written are passed over."""
        self._file.append(self._lines(entries))

    def _lines(self, entries: list[JournalEntry]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            for place, record in enumerate(self._take(entry), 1):
                if (entry.ordinal, place) > self._done:
                    self._number += 1
                    yield {
                        "record": self._number, "ordinal": entry.ordinal, "place": place, "taken_ns": entry.ts_ns,
                        **self._describe(record),
                    }

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def orders_taken(entry: JournalEntry) -> np.ndarray:
    """The ORDER records of an entry of the gateway's journal."""
    return np.frombuffer(entry.payload if entry.kind == Entry.REQUEST else b"", ORDER)


def reports_taken(entry: JournalEntry) -> np.ndarray:
    """The REPORT records of an entry of execution's journal."""
    fills = entry.kind == Entry.BATCH and entry.source == SOURCE_FILLS
    return np.frombuffer(entry.payload if fills else b"", REPORT)


class Recorder:
    """See the module. `run` returns when the process is asked to stop and everything on disk is taken."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        folder = context.plan.path
        self._instruments = {item.index: item for item in context.plan.instruments}
        self._turns = Turns(context)
        self._following = Following(context)
        self._indexers = {stream: StreamIndexer(folder, stream) for stream in STREAMS}
        self._lines = {
            Role.GATEWAY.label: RingLines(LineFile(folder / "orders.jsonl"), orders_taken, self._order),
            Role.EXECUTION.label: RingLines(LineFile(folder / "fills.jsonl"), reports_taken, self._report),
        }
        self._predictions = LineFile(folder / "predictions.jsonl", _PREDICTIONS_FILE_BYTES)
        self._newest: dict[int, np.void] = {}  # the last PREDICTION record of each instrument since the last pause
        self._quarantine = Quarantine(folder, context.plan.instruments)
        # Mapped by itself: the states of all stages would bring all their kernels into this process.
        dtype = validation_dtype(max(self._instruments) + 1)
        self._validation = state_segment(context.plan, Role.VALIDATION, dtype, create=False, read_only=True)
        self._refused = self._validation.array(dtype, 0, 1)
        self._due_ns = context.now_ns()

    def run(self) -> None:
        """Serve until stopped."""
        gc.enable()
        self._context.ready()
        while True:
            moved = self.turn()
            stop = self._turns.turn(moved)
            if stop >= Stop.NOW or self._turns.orphaned or (stop and not moved):
                break
            if self._context.now_ns() >= self._due_ns:
                self._due_ns += _EVERY_NS
                self.pause()
            if not moved:
                sleep(_POLL_S)
        self.pause()
        self._quarantine.records(self._refused)  # what was counted at the last look is whole by now
        self._quarantine.close()
        self._validation.close()
        for indexer in self._indexers.values():
            indexer.close()
        for lines in self._lines.values():
            lines.close()
        self._predictions.close()
        self._following.close()

    def turn(self) -> int:
        """Take what is new; returns how many entries and records. The lines of entries are written before their marks:
        what a mark covers is never looked at again."""
        moved = 0
        for stream, indexer in self._indexers.items():
            entries = indexer.read()
            if entries and stream in self._lines:
                self._lines[stream].write(entries)
            elif entries and stream == Role.INGESTION.label:
                self._quarantine.frames(entries)
            indexer.keep(pause=False)
            moved += len(entries)
        self._quarantine.records(self._refused)
        records = self._following.read("predictions", _BATCH)
        predictions = records[records["kind"] == Kind.PREDICTION]
        for instrument, place in {int(index): place for place, index in enumerate(predictions["instrument"])}.items():
            self._newest[instrument] = predictions[place].copy()  # a copy, so that the others can go
        return moved + len(records)

    def pause(self) -> None:
        """Once a second: marks where the streams stand, the sample of predictions, new room for refusals."""
        self._quarantine.second()
        for indexer in self._indexers.values():
            indexer.keep()
        self._predictions.append(map(self._prediction, self._newest.values()))
        self._newest.clear()

    # --- records as lines -------------------------------------------------------------------------------------------

    def _market(self, record: np.void, price: str = "price", size: str = "size") -> dict[str, Any]:
        item = self._instruments.get(int(record["instrument"]))
        if item is None:
            return {"symbol": None, price: None, size: None}
        return {
            "symbol": item.symbol, price: format_units(int(record["price"]), item.price_exp),
            size: format_units(int(record["size"]), item.size_exp),
        }

    def _order(self, record: np.void) -> dict[str, Any]:
        return {
            "action": _name(OrderAction, int(record["kind"])), "order_id": int(record["order_id"]),
            **self._market(record), "side": _name(Side, int(record["side"])),
            "type": _name(OrderType, int(record["order_type"])),
            "time_in_force": _name(TimeInForce, int(record["time_in_force"])), "strategy": int(record["strategy"]),
            "ingest_id": int(record["ingest_id"]), "decided_ns": int(record["recv_ts_ns"]),
            "deadline_ns": int(record["deadline_ns"]),
        }

    def _report(self, record: np.void) -> dict[str, Any]:
        line = {
            "kind": _name(ReportKind, int(record["kind"])), "reason": _name(Reason, int(record["reason"])),
            "gateway_ordinal": int(record["ingest_id"]), "exch_ts_ns": int(record["exch_ts_ns"]),
            "recv_ts_ns": int(record["recv_ts_ns"]), "aux": int(record["aux"]),
        }
        if record["kind"] in _OF_AN_ORDER or record["kind"] == ReportKind.NOT_FOUND:
            line |= {
                "order_id": int(record["order_id"]), "venue_order_id": int(record["venue_order_id"]),
                **self._market(record), "side": _name(Side, int(record["side"])),
            }
        if record["kind"] == ReportKind.FILL:
            line |= {
                "trade_id": int(record["trade_id"]), "fee": format_units(int(record["fee"]), MONEY_EXP),
                "maker": bool(record["flags"] & Flag.MAKER), "from_rest": bool(record["flags"] & Flag.FROM_REST),
            }
        return line

    def _prediction(self, record: np.void) -> dict[str, Any]:
        item = self._instruments.get(int(record["instrument"]))
        return {
            "recv_ts_ns": int(record["recv_ts_ns"]), "ingest_id": int(record["ingest_id"]),
            "symbol": item.symbol if item else None, "model_version": int(record["model_version"]),
            "output": [float(value) for value in record["output"]],
            "vector": [float(value) for value in record["vector"]],
        }
