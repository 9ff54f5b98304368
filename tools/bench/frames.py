"""The inputs of a recording, held in memory, and what each of them is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import orjson

from engine.config import Settings
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.replay import Source, open_source

RECORDED = "ws/binance-usdm/btcusdt_20240808.raw.gz"
RECORDED_MORE = "ws/binance-usdm/ethusdt_20240808.raw.gz"


@dataclass(frozen=True)
class Beginning(Source):
    """The first `most` inputs of a source."""

    most: int

    def inputs(self) -> Iterator[JournalEntry]:
        """They alone."""
        return islice(super().inputs(), self.most)


@dataclass
class Frames:
    """The inputs of a capture.

    levels  int64 by input: price levels of a depth frame, 1 of a trade, 2 of a ticker, 0 of anything else
    depth   bool by input: a depth frame of a stream
    """

    source: Source
    entries: list[JournalEntry]
    levels: np.ndarray = field(init=False)
    depth: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.levels = np.zeros(len(self.entries), np.int64)
        self.depth = np.zeros(len(self.entries), np.bool_)
        for index, entry in enumerate(self.entries):
            if entry.kind == Entry.FRAME:
                numbers = numbers_of(orjson.loads(entry.payload))
                self.levels[index] = len(numbers) // 2
                self.depth[index] = b'"depthUpdate"' in entry.payload[:80]


def numbers_of(message: dict) -> list[str]:
    """Every price and size that a frame of Binance USD-M quotes, updates or trades, as text."""
    data = message.get("data", message)
    kind = data.get("e")
    if kind == "depthUpdate":
        return [text for level in (*data["b"], *data["a"]) for text in level]
    if kind == "bookTicker":
        return [data["b"], data["B"], data["a"], data["A"]]
    if kind == "trade":
        return [data["p"], data["q"]]
    return []


def load(path: Path, settings: Settings, most: int | None = None) -> Frames:
    """A capture, or its first `most` inputs. Raises CaptureError."""
    source = open_source(path, settings)
    if most is not None:
        source = Beginning(source.path, source.settings, source.instruments, source.read, source.is_session, most)
    return Frames(source, list(source.inputs()))
