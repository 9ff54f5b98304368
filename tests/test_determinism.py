"""The same recording decides the same: at any speed, in batches of any size, fused or through processes, every time.

Intents of three markets: a linear future, a spot market, and one whose books are proven by checksums.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest

from engine.config import Settings
from engine.execution.kernel import EXECUTION
from engine.execution.summary import decision_hash
from engine.features.step import FEATURES
from engine.records import SOURCE_MAIN, Kind
from engine.stage import Stage, as_bytes
from engine.validation.step import VALIDATION
from models.inference import InferenceStage, Model
from procs import inference, replay_processes, stage_process
from procs.decoding import Decoder
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.replay import Source, open_source, replay_fused
from procs.replay_processes import replay_auto
from procs.states import initial_states
from procs.table import Role
from tests.recordings import USDM_CAPTURES, require_capture

pytestmark = pytest.mark.recordings

SPEED = 20.0
# Inputs from the beginning of a recording, some 30 s: a second and a half at that speed.
PARTS = {
    "binance usdm": (USDM_CAPTURES[0], 4_000),
    "binance spot": ("ws/binance-spot/btcusdt_20240808.raw.gz", 4_000),
    "kraken spot": ("ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz", 5_000),
}
SAME = ("decision_hash", "market", "decisions", "orders", "positions", "cash")


def limited(source: Source, changed: dict[int, JournalEntry] | None = None, most: int = 1 << 30) -> Source:
    """The first inputs of a source, some of them (by their number) in another form."""
    entries = [(changed or {}).get(number, entry) for number, entry in enumerate(islice(source.inputs(), most))]
    return dataclasses.replace(source, read=lambda: iter(entries))


@cache
def part(name: str) -> Source:
    relative, most = PARTS[name]
    return limited(open_source(require_capture(relative), Settings()), most=most)


@cache
def expected(name: str) -> dict[str, Any]:
    summary = replay_fused(part(name), None)
    assert summary["decisions"]["intents"] > 0 and summary["unaccounted"] == 0
    return summary


def stepped(stage: Stage, state: np.ndarray, records: np.ndarray, batch: int) -> np.ndarray:
    """What a stage makes of records that it takes `batch` at a time."""
    outbox = np.zeros(batch * stage.max_out, stage.out_dtype)
    routes = np.zeros(len(outbox), np.uint8)
    parts = []
    for first in range(0, len(records), batch):
        some = records[first : first + batch]
        count = stage.step(as_bytes(state), SOURCE_MAIN, as_bytes(some), len(some), as_bytes(outbox), routes)
        parts.append(outbox[:count].copy())
    return np.concatenate(parts)


def in_batches(source: Source, batch: int) -> tuple[str, int]:
    """(decision hash, intents) of a source whose records every stage takes `batch` at a time, across all frames."""
    states = initial_states(source.settings, source.instruments, open_loop=True)
    decoder = Decoder(states[Role.INGESTION], source.instruments)
    records = np.concatenate([decoder.records[: decoder.apply(entry)].copy() for entry in source.inputs()])
    for role, stage in ((Role.VALIDATION, VALIDATION), (Role.FEATURES, FEATURES)):
        records = stepped(stage, states[role], records, batch)
    settings = source.settings
    model = Model(inference.model_path(settings.model.path), settings.features)
    ml = InferenceStage(model, states[Role.ML], batch)
    predictions = []
    for first in range(0, len(records), batch):
        some = records[first : first + batch]
        ml.step(as_bytes(some), len(some))
        predictions.append(ml.records[: len(some)].copy())
    stepped(EXECUTION, states[Role.EXECUTION], np.concatenate(predictions), batch)
    state = states[Role.EXECUTION]
    return decision_hash(state), int(state["intents"][0])


@pytest.mark.parametrize("name", PARTS)
def test_again_and_at_twenty_times_the_speed(name: str) -> None:
    first = expected(name)
    for speed in (None, SPEED):
        again = replay_fused(part(name), speed)
        assert {key: again[key] for key in SAME} == {key: first[key] for key in SAME}, speed
    entries = list(part(name).inputs())
    assert again["engine"]["duration_s"] > 0.9 * (entries[-1].ts_ns - entries[0].ts_ns) / 1e9 / SPEED > 0.5


@pytest.mark.parametrize("batch", [1, 4096])
@pytest.mark.parametrize("name", PARTS)
def test_in_batches_of_any_size(name: str, batch: int) -> None:
    first = expected(name)
    assert in_batches(part(name), batch) == (first["decision_hash"], first["decisions"]["intents"])


@pytest.mark.parametrize(
    ("name", "batch", "speed"),
    [("binance usdm", 1, None), ("binance spot", 4096, SPEED), ("kraken spot", 1, SPEED), ("binance usdm", 4096, None)],
)
def test_through_processes(monkeypatch: pytest.MonkeyPatch, name: str, batch: int, speed: float | None) -> None:
    for module in (stage_process, inference, replay_processes):  # the processes are forked from this one
        monkeypatch.setattr(module, "_BATCH", batch)
    summary = replay_auto(part(name), speed)
    assert {key: summary[key] for key in SAME} == {key: expected(name)[key] for key in SAME}
    assert summary["unaccounted"] == 0 and summary["engine"]["placement"] == "auto"


@pytest.mark.parametrize("name", PARTS)
def test_one_changed_size_changes_the_hash(name: str) -> None:
    """Of the first trade after the middle."""
    source = part(name)
    decoder = Decoder(initial_states(source.settings, source.instruments)[Role.INGESTION], source.instruments)
    entries = list(source.inputs())
    for number, entry in enumerate(entries):
        count = decoder.apply(entry)
        trades = decoder.records[:count][decoder.records["kind"][:count] == Kind.TRADE]
        if number > len(entries) // 2 and len(trades) == 1 and entry.kind == Entry.FRAME:
            break
    if name.startswith("kraken"):  # [channel, [[price, size, time, side, type, misc]], "trade", pair]
        size = entry.payload.split(b'"')[3]
    else:
        size = entry.payload.partition(b'"q":"')[2].partition(b'"')[0]
    digit = next(place for place, sign in enumerate(size) if sign in b"123456789")
    larger = size[:digit] + (b"9" if size[digit : digit + 1] != b"9" else b"8") + size[digit + 1 :]
    assert entry.payload.count(size) == 1
    resized = entry._replace(payload=entry.payload.replace(size, larger))
    changed = replay_fused(limited(source, {number: resized}), None)
    assert changed["decisions"]["intents"] > 0
    assert changed["decision_hash"] != expected(name)["decision_hash"]
