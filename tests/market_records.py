"""MARKET records for the tests of stages: single ones, random streams, recorded sessions; and a way to step.

`recorded_market` decodes with orjson and applies the venue's snapshot rule itself, so that it can stand as an
oracle beside the engine's own decoder.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from engine.instruments import Instrument
from engine.records import MARKET, Flag, Kind, Side
from engine.stage import Stage, as_bytes
from tests.recordings import open_capture, require_capture

BUY, SELL = int(Side.BUY), int(Side.SELL)
FIRST, LAST, SNAPSHOT = int(Flag.FIRST), int(Flag.LAST), int(Flag.SNAPSHOT)
ALONE = FIRST | LAST
MS = 1_000_000
START_NS = 1_700_000_000_000 * MS
FIELDS = MARKET.names or ()
MARK = 10**7  # mark price units (10^-8) in a tick of 10 price units of 10^-2


def record(kind: Kind, **fields: int) -> np.ndarray:
    """One MARKET record of shape (1,)."""
    made = np.zeros(1, MARKET)
    made["kind"] = kind
    for name, value in fields.items():
        made[name] = value
    return made


def level(side: int, price: int, size: int, flags: int = 0, at: int = 0, **fields: int) -> np.ndarray:
    """A LEVEL record received `at` nanoseconds after START_NS."""
    return record(Kind.LEVEL, side=side, price=price, size=size, flags=flags, recv_ts_ns=START_NS + at, **fields)


def trade(side: int, price: int, size: int, at: int = 0, trade_id: int = 0, **fields: int) -> np.ndarray:
    """A TRADE record, by default a group of its own."""
    fields.setdefault("flags", ALONE)
    return record(Kind.TRADE, side=side, price=price, size=size, recv_ts_ns=START_NS + at, aux=trade_id, **fields)


def make_instrument(index: int = 0, tick: int = 10, price_exp: int = 2) -> Instrument:
    return Instrument(index, f"I{index}USDT", f"I{index}", "USDT", price_exp, 3, tick, 1, 0)


def run_stage(
    stage: Stage, state: np.ndarray, records: np.ndarray, splits: Iterable[int] = ()
) -> np.ndarray:
    """Step a stage over the records, in batches that end at the given positions; everything that it wrote.

    The outbox is filled with noise before every batch: a byte that a stage leaves unwritten shows.
    """
    written = []
    start = 0
    for end in [*sorted(splits), len(records)]:
        batch = records[start:end].copy()
        outbox = np.frombuffer(random.Random(end).randbytes(len(batch) * stage.max_out * stage.out_dtype.itemsize),
                               stage.out_dtype).copy()
        routes = np.full(len(outbox), 255, np.uint8)
        if len(batch):
            count = stage.step(as_bytes(state), 0, as_bytes(batch), len(batch), as_bytes(outbox), routes)
            assert count <= len(outbox)
            assert not routes[:count].any()
            written.append(outbox[:count])
        start = end
    return np.concatenate(written) if written else np.zeros(0, stage.out_dtype)


def random_market(seed: int, count: int, instruments: int = 2, hostile: bool = False) -> np.ndarray:
    """A stream of groups as ingestion would send it; `hostile` mixes in records that no venue should send.

    Prices walk; books get diffs, removals, far and off-tick levels, now and then cross or run empty; snapshots,
    gaps, quotes, liquidations, clocks and control records are mixed in; time stands still, runs or jumps.
    """
    rng = random.Random(seed)
    made: list[np.ndarray] = []
    now = START_NS
    mids = [rng.randrange(2_000, 60_000) for _ in range(instruments)]
    held: list[set[tuple[int, int]]] = [set() for _ in range(instruments)]  # (side, price) sent and not removed
    next_trade = 1
    ingest_id = 0

    def add(kind: Kind, **fields: int) -> None:
        made.append(record(kind, recv_ts_ns=now, exch_ts_ns=now - 5 * MS, ingest_id=ingest_id, **fields))

    for index in range(instruments):
        made.append(make_instrument(index).record())
    total = len(made)
    while total < count:
        before = len(made)
        now += rng.choice((0, 1, 1_000, MS, 30 * MS, 300 * MS)) if rng.random() < 0.98 else 20_000 * MS
        ingest_id += 1
        index = rng.randrange(instruments)
        mids[index] = max(200, mids[index] + rng.choice((-30, -1, 0, 0, 1, 30)))
        mid = mids[index]
        what = rng.random()
        if what < 0.03 or total == instruments:
            group = [(side, (mid - side * (1 + k)) * 10) for k in range(rng.randrange(1, 12)) for side in (BUY, SELL)]
            held[index] = set(group)
            for place, (side, price) in enumerate(group):
                flags = SNAPSHOT | (FIRST if place == 0 else 0) | (LAST if place == len(group) - 1 else 0)
                add(Kind.LEVEL, instrument=index, side=side, price=price, size=rng.randrange(1, 500), flags=flags)
        elif what < 0.55:
            # Mostly the venue takes away what the walk has crossed, as a real one does.
            through = sorted(item for item in held[index] if (item[1] - mid * 10) * item[0] >= 0)
            changes = [(side, price, 0) for side, price in through if rng.random() < 0.98]
            for _ in range(rng.randrange(1, 8)):
                side = rng.choice((BUY, SELL))
                distance = rng.choice((1, 1, 2, 3, 5, 50, 12_000)) if rng.random() < 0.99 else -2
                price = max(1, (mid - side * distance) * 10 + (rng.randrange(10) if rng.random() < 0.03 else 0))
                changes.append((side, price, rng.choice((0, rng.randrange(1, 500), rng.randrange(1, 500)))))
            for place, (side, price, size) in enumerate(changes):
                flags = (FIRST if place == 0 else 0) | (LAST if place == len(changes) - 1 else 0)
                add(Kind.LEVEL, instrument=index, side=side, price=price, flags=flags, size=size)
                held[index].discard((side, price))
                if size:
                    held[index].add((side, price))
        elif what < 0.8:
            length = rng.choice((1, 1, 3))
            for place in range(length):
                flags = (FIRST if place == 0 else 0) | (LAST if place == length - 1 else 0)
                add(Kind.TRADE, instrument=index, side=rng.choice((BUY, SELL)), price=mid * 10, flags=flags,
                    size=rng.randrange(1, 300), aux=next_trade)
                next_trade += 1
        elif what < 0.86:
            add(Kind.QUOTE, instrument=index, side=BUY, price=mid * 10, size=3, flags=FIRST)
            add(Kind.QUOTE, instrument=index, side=SELL, price=mid * 10 + 10, size=0, flags=LAST)
        elif what < 0.9:
            add(Kind.CLOCK, flags=ALONE)
        elif what < 0.96:
            kind = rng.choice((Kind.MARK_PRICE, Kind.FUNDING, Kind.STATUS, Kind.LIQUIDATION))
            price, size = (mid * MARK, mid * MARK) if kind == Kind.MARK_PRICE else (mid * 10, 7)
            add(kind, instrument=index, side=BUY, price=price, size=size, aux=1, flags=ALONE)
        elif what < 0.98:
            add(Kind.GAP, instrument=index, aux=ingest_id, flags=ALONE)
        else:
            made.append(make_instrument(index, tick=rng.choice((10, 10, 5, 20))).record())
        if hostile:
            for item in made[before:]:
                if rng.random() < 0.06:
                    name = rng.choice(("price", "size", "side", "recv_ts_ns", "kind", "instrument", "aux", "flags"))
                    value = rng.choice((0, 1, 2, 7, 15, 16, 17, 200))
                    if name in ("price", "size"):
                        value = rng.choice((-1, 0, 3, 1 << 57, (1 << 62), int(item[name][0]) * 2))
                    elif name == "recv_ts_ns":
                        value = now - rng.choice((1, MS))
                    elif name == "side":
                        value = rng.choice((0, 2, -3))
                    item[name] = value
        total += len(made) - before
    return np.concatenate(made)


def _units(text: str, exp: int) -> int:
    whole, _, fraction = text.partition(".")
    if len(fraction) > exp:
        raise ValueError(f"{text}: more than {exp} decimals")
    return int(whole + fraction.ljust(exp, "0"))


def recorded_market(capture: str, frames: int, instrument: Instrument) -> np.ndarray:
    """The first frames of a recorded USD-M session as MARKET records, INSTRUMENT first; diffs as the venue rules.

    Diffs before the snapshot are held back and follow it, as ingestion does. Skips the test without recordings.
    """
    rows: list[tuple[Any, ...]] = []
    base = np.zeros(1, MARKET)
    waiting: list[tuple[int, int, dict]] = []
    snapshot_id = -1

    def levels(body: dict, bids: str, asks: str, ingest_id: int, at: int, sequence: int, extra: int) -> None:
        group = [(BUY, item) for item in body[bids]] + [(SELL, item) for item in body[asks]]
        for place, (side, (price, size)) in enumerate(group):
            flags = extra | (FIRST if place == 0 else 0) | (LAST if place == len(group) - 1 else 0)
            rows.append((ingest_id, at, body.get("T", 0) * MS, sequence, _units(price, instrument.price_exp),
                         _units(size, instrument.size_exp), 0, int(Kind.LEVEL), 0, side, flags, 0, 0))

    for ingest_id, (at, frame) in enumerate(open_capture(require_capture(capture)), 1):
        if ingest_id > frames:
            break
        body = orjson.loads(frame)
        data = body.get("data", body)
        kind = data.get("e")
        if "lastUpdateId" in data:
            snapshot_id = data["lastUpdateId"]
            levels(data, "bids", "asks", ingest_id, at, snapshot_id, SNAPSHOT)
            for old_id, old_at, old in waiting:
                if old["u"] >= snapshot_id:
                    levels(old, "b", "a", old_id, max(old_at, at), old["u"], 0)
        elif kind == "depthUpdate":
            if snapshot_id < 0:
                waiting.append((ingest_id, at, data))
            elif data["u"] >= snapshot_id:
                levels(data, "b", "a", ingest_id, at, data["u"], 0)
        elif kind == "trade":
            side = SELL if data["m"] else BUY
            rows.append((ingest_id, at, data["T"] * MS, data["t"], _units(data["p"], instrument.price_exp),
                         _units(data["q"], instrument.size_exp), data["t"], int(Kind.TRADE), 0, side, ALONE, 0, 0))
        elif kind == "bookTicker":
            for side, price, size, flags in ((BUY, "b", "B", FIRST), (SELL, "a", "A", LAST)):
                rows.append((ingest_id, at, data["T"] * MS, data["u"], _units(data[price], instrument.price_exp),
                             _units(data[size], instrument.size_exp), 0, int(Kind.QUOTE), 0, side, flags, 0, 0))
    base = instrument.record()
    return np.concatenate([base, np.array(rows, MARKET)])


def as_rows(records: np.ndarray) -> Sequence[dict[str, int]]:
    """Records as plain dicts, for oracles that must not share code with the kernels."""
    columns = {name: records[name].tolist() for name in FIELDS}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def batch_splits(seed: int, count: int) -> list[int]:
    """Some positions to cut a stream at: often a few, sometimes every one."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return list(range(1, count))
    return sorted(rng.randrange(count + 1) for _ in range(rng.randrange(12)))
