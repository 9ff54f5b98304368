"""Histograms, running instances, lines of metrics and a reader of pages, for the tests of the latency tools."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from procs.instance import Mapping, Plan
from procs.ports import record_latency
from procs.table import HOPS
from shm.histogram import new_histogram
from tests.instance_memory import attachable, small_instance


def histogram_of(values_ns: list[int] | np.ndarray) -> np.ndarray:
    """A histogram of these values."""
    histogram = new_histogram()
    for value in values_ns:
        record_latency(histogram, int(value))
    return histogram


def record(mapping: Mapping, hop: str, *values_ns: int) -> None:
    """Count values in a hop of an instance."""
    for value in values_ns:
        record_latency(mapping.histogram(*HOPS[hop]), value)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Plan, Path]]:
    """The memory of an instance that looks as if it ran, and the configuration file that names it."""
    with small_instance(folder, capacity=16) as plan, attachable(plan, folder) as config:
        yield plan, config


@contextlib.contextmanager
def meanwhile(every_s: float, work: Callable[[int], None]) -> Iterator[None]:
    """Call work(0), work(1), ... in another thread, so often, until the block ends."""
    over = threading.Event()

    def go() -> None:
        turn = 0
        while not over.wait(every_s):
            work(turn)
            turn += 1

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def line(second: int, interval_ms: float = 1000.0, **p50_us: float) -> dict[str, Any]:
    """A line of metrics.jsonl, with these hops."""
    hops = {hop: {"count": 10 * second, "p50": us, "p99": 2 * us, "p99_9": 3 * us, "max": 4 * us}
            for hop, us in p50_us.items()}
    return {"at_ns": 1_795_000_000_000_000_000 + second * 10**9, "interval_ms": interval_ms, "latency_us": hops}


class Page(HTMLParser):
    """What a page holds: its elements' ids, texts, and scripts by id; and everything it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetches: list[str] = []
        self.policy = ""
        self.texts: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.fetches += [f"{tag} {name}" for name in ("src", "href") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        self._script = found.get("id", "") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))
        elif data.strip():
            self.texts.append(data.strip())

    @property
    def data(self) -> dict[str, Any]:
        """What the page holds as JSON."""
        return dict(json.loads(next(text for name, text in self.scripts if name == "latency-data")))
