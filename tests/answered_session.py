"""A session folder as an engine leaves it, made without processes: recorded market data, random batches, and a venue
that accepts and cancels at once whatever it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from engine.config import Settings, config_hash
from engine.execution.kernel import EXECUTION
from engine.kernel import kernel_digest
from engine.records import MARKET, REPORT, SOURCE_COMMANDS, SOURCE_FILLS, SOURCE_MAIN, Kind, OrderAction, ReportKind
from engine.settings import as_plain
from engine.stage import as_bytes
from models.card import load_card
from procs.capture.inputs import Inputs
from procs.fused import BATCH, FusedPath
from procs.inference import model_path
from procs.journal.layout import LEFT_STAMPS, Entry
from procs.journal.writer import JournalWriter
from procs.replay import open_source
from procs.table import Role
from tests.recordings import USDM_CAPTURES, require_capture

SESSION = "0123abcd"
VENUE_IDS = 7_000_000  # the venue's number of our order n is this and n
_US = 1_000


@dataclass
class Answered:
    """The session and what was decided in it."""

    folder: Path
    settings: Settings
    sent: list[np.void]  # every ORDER record, in order
    refused: int  # by the gate

    def numbers(self, action: OrderAction) -> list[int]:
        """The order numbers of all records of an action."""
        return [int(order["order_id"]) for order in self.sent if order["kind"] == action]


def _one(dtype: np.dtype, kind: int, now: int, **values: int) -> np.ndarray:
    record = np.zeros(1, dtype)
    record["kind"], record["recv_ts_ns"] = kind, now
    for name, value in values.items():
        record[name] = value
    return record


def _opening(now: int) -> np.ndarray:
    return np.concatenate([
        _one(REPORT, ReportKind.BALANCE, now, aux=100_000 * 10**8), _one(REPORT, ReportKind.OPEN_ORDERS, now),
        _one(REPORT, ReportKind.FEES, now), _one(REPORT, ReportKind.RECONCILE_END, now, aux=1),
    ])


def _answer(order: np.void, now: int, fill: bool) -> np.ndarray | None:
    """What the venue says to an order; fill: it is matched at once."""
    about = {
        "order_id": int(order["order_id"]), "instrument": int(order["instrument"]), "price": int(order["price"]),
        "side": int(order["side"]), "size": int(order["size"]), "venue_order_id": VENUE_IDS + int(order["order_id"]),
    }
    if order["kind"] == OrderAction.NEW:
        accepted = _one(REPORT, ReportKind.ACCEPTED, now, **about)
        if not fill:
            return accepted
        trade = {"trade_id": int(order["order_id"]), "cumulative_size": int(order["size"]), "fee": 10**6}
        return np.concatenate([accepted, _one(REPORT, ReportKind.FILL, now, **about, **trade)])
    return _one(REPORT, ReportKind.CANCELLED, now, **about) if order["kind"] == OrderAction.CANCEL else None


def make_answered_session(
    folder: Path, settings: Settings, frames: int = 2_500, seed: int = 1, commands: dict[int, np.ndarray] | None = None
) -> Answered:
    """commands: MARKET records that execution is given behind the frame of that number."""
    capture = open_source(require_capture(USDM_CAPTURES[0]), settings)
    folder.mkdir()
    card = load_card(model_path(settings.model.path), settings.features)
    (folder / "session.json").write_bytes(orjson.dumps({
        "name": settings.engine.name, "session": SESSION, "engine_version": "0.1.0", "kernel_digest": kernel_digest(),
        "config_hash": config_hash(settings), "settings": as_plain(settings), "model": card,
        "instruments": [item.as_dict() for item in capture.instruments],
    }))
    return _Maker(folder, settings, capture.instruments, capture.read, seed).run(frames, commands or {})


class _Maker:
    """Ingestion, execution, a gateway and its venue in one loop."""

    def __init__(
        self, folder: Path, settings: Settings, instruments: tuple, inputs: Inputs, seed: int
    ) -> None:
        self._dice = random.Random(seed)
        self._folder, self._settings, self._inputs = folder, settings, inputs
        self._writers = {
            role: JournalWriter(folder, role.label, SESSION, segment_bytes=1 << 20)
            for role in (Role.INGESTION, Role.EXECUTION, Role.GATEWAY)
        }
        self._path = FusedPath(settings, instruments, open_loop=False)
        self._state = self._path.states[Role.EXECUTION]
        self._outbox = np.zeros(64 * EXECUTION.max_out, EXECUTION.out_dtype)
        self._routes = np.zeros(len(self._outbox), np.uint8)
        self._waiting: list[np.ndarray] = []
        self.sent: list[np.void] = []

    def _step(self, source: int, records: np.ndarray, now: int) -> None:
        payload = records["output"].tobytes() if source == SOURCE_MAIN else records.tobytes()
        self._writers[Role.EXECUTION].append(Entry.BATCH, payload, now, source=source, count=len(records))
        written = int(EXECUTION.step(
            as_bytes(self._state), source, as_bytes(records.copy()), len(records), as_bytes(self._outbox), self._routes
        ))
        orders = self._outbox[:written].copy()
        self.sent += list(orders)
        for order in orders:
            self._send(order, now)

    def _send(self, order: np.void, now: int) -> None:
        gateway, number = self._writers[Role.GATEWAY], int(order["order_id"])
        gateway.append(Entry.REQUEST, order.tobytes(), now + 20 * _US, count=number)
        if order["kind"] == OrderAction.RECONCILE:
            return
        if order["kind"] == OrderAction.NEW:
            passed = (now - us * _US for us in (40, 30, 20, 10))
            gateway.append(Entry.LEFT, LEFT_STAMPS.pack(*passed, now + 10 * _US, now + 500 * _US), now, count=number)
        gateway.append(Entry.ANSWER, b"{}", now + 900 * _US, count=number)
        answer = _answer(order, now + 900 * _US, fill=self._dice.random() < 0.2)
        if answer is not None:
            self._step(SOURCE_FILLS, answer, now + 950 * _US)

    def _flush(self, now: int) -> None:
        whole = np.concatenate(self._waiting) if self._waiting else self._path.predictions[:0].copy()
        while len(whole):
            count = self._dice.randint(1, min(64, len(whole)))
            self._step(SOURCE_MAIN, np.ascontiguousarray(whole[:count]), now)
            whole = whole[count:]
        self._waiting = []

    def run(self, frames: int, commands: dict[int, np.ndarray]) -> Answered:
        """Take so many inputs."""
        path, now = self._path, 0
        for entry in self._inputs():
            now = entry.ts_ns
            self._writers[Role.INGESTION].append(Entry(entry.kind), entry.payload, now, source=entry.source)
            count = path.decoder.apply(entry)
            if entry.kind == Entry.START:
                self._step(SOURCE_COMMANDS, _one(MARKET, Kind.RECONCILE, now, aux=1), now)
                self._step(SOURCE_FILLS, _opening(now), now)
            for first in range(0, count, BATCH):
                found = path.predict(first, min(BATCH, count - first))
                self._waiting.append(path.predictions[:found].copy())
            if self._dice.random() < 0.3:
                self._flush(now)
            if entry.ordinal in commands:
                command = commands[entry.ordinal].copy()
                command["recv_ts_ns"] = now
                self._step(SOURCE_COMMANDS, command, now)
            if entry.ordinal >= frames:
                break
        self._flush(now)
        for writer in self._writers.values():
            writer.close()
        row = self._state[0]
        return Answered(self._folder, self._settings, self.sent, int(row["gate"]["checked"]) - int(row["sent"]))


def rewrite_stream(folder: Path, stream: str, change: Callable[[list], list]) -> None:
    """Write a stream anew with its entries changed."""
    from procs.journal.reader import read_stream, segment_path

    entries = change(list(read_stream(folder, stream)))
    number = 0
    while segment_path(folder, stream, number).exists():
        segment_path(folder, stream, number).unlink()
        number += 1
    writer = JournalWriter(folder, stream, SESSION)
    for entry in entries:
        writer.append(Entry(entry.kind), entry.payload, entry.ts_ns, source=entry.source, count=entry.count)
    writer.close()
