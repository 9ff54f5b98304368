"""Replay: the same kernels fed from a journal or a capture instead of sockets.

fused  everything in this process, one input after the other
auto   the processes and rings of a live engine; back-pressure instead of drops, so nothing is ever lost

A journal carries its own closed loop: execution is stepped with the recorded merge order, reports and commands,
and with the recorded outputs of the model; the model is run all the same and every difference is counted. A
capture is an open loop: orders count as accepted at once and never fill.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.config import Settings
from engine.execution.kernel import EXECUTION
from engine.instruments import Instrument, instruments_by_index
from engine.records import OUTPUT_COUNT, PREDICTION, SOURCE_MAIN
from engine.settings import SettingsError, build
from engine.stage import as_bytes
from engine.strategies.plugin import Bound
from models.card import load_card
from procs.capture.inputs import Inputs, open_capture, open_part
from procs.capture.manifest import is_capture
from procs.capture.reader import EVERYTHING, Selection
from procs.decoding import replay_inputs
from procs.fused import BATCH, FusedPath
from procs.inference import model_path
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.memory_use import pss_bytes
from procs.recordings import read_inputs, read_instruments
from procs.strategies import check_declared, kept_strategies, load_strategies
from procs.summary import report
from procs.table import Role
from procs.warm_up import in_two, warm_up
from shm.clock import python_monotonic_ns, sleep
from shm.histogram import new_histogram, record


class ReplayError(ValueError):
    """A source that cannot be replayed; the message names it."""


@dataclass(frozen=True)
class Source:
    """What is replayed: its settings, its instruments, its inputs, and the merge order of execution if it has one."""

    path: Path
    settings: Settings
    instruments: tuple[Instrument, ...]
    read: Inputs
    is_session: bool  # a whole one; a part of it is an open loop, as a capture is
    from_ns: int = field(default=EVERYTHING.from_ns, kw_only=True)  # inputs before are only watched
    strategies: tuple[Bound, ...] = field(default=(), kw_only=True)  # none: those that the settings name

    def inputs(self) -> Iterator[JournalEntry]:
        """The inputs of ingestion, from the beginning."""
        return self.read()

    def in_two(self) -> tuple[Iterator[JournalEntry], Iterator[JournalEntry]]:
        """(those that are only watched, the others), to be taken in this order."""
        return in_two(self.inputs(), self.from_ns, self.path)

    def merges(self) -> Iterator[JournalEntry]:
        """The batches of execution in the order in which they were taken; only of a session."""
        return read_stream(self.path, Role.EXECUTION.label)


def open_source(
    path: Path, settings: Settings, selection: Selection = EVERYTHING, watch_before: bool = False
) -> Source:
    """A session folder (with the settings and instruments of its own), or a capture or another recording (with these
    settings), or the part of it that is selected.

    What ran in a session is its own copies of the strategies. watch_before: what was recorded before the part is among
    the inputs, to be watched only. Raises ReplayError, CaptureError, SettingsError or ModelError.
    """
    is_whole, from_ns = selection.everything, EVERYTHING.from_ns
    if watch_before:
        selection, from_ns = replace(selection, from_ns=from_ns), selection.from_ns
    if not path.exists():
        raise ReplayError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        instruments = read_instruments(path)
        part = open_part(path, instruments, lambda: read_inputs(path, instruments), selection)
        return Source(path, settings, *part, is_session=False, from_ns=from_ns, strategies=_own_strategies(settings))
    if is_capture(path):
        capture = open_capture(path, selection)
        return Source(path, settings, *capture, is_session=False, from_ns=from_ns, strategies=_own_strategies(settings))
    try:
        session = orjson.loads((path / "session.json").read_bytes())
        own = build(Settings, session["settings"])
        listed = tuple(Instrument(**entry) for entry in session["instruments"])
        if not instruments_by_index(listed):
            raise ReplayError(f"{path}: session.json names no instrument")
    except FileNotFoundError:
        raise ReplayError(f"{path}: neither a session (no session.json) nor a capture (no capture.json)") from None
    except SettingsError as error:
        raise ReplayError(f"{path}: session.json: {error}") from None
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ReplayError(f"{path}: no session folder ({type(error).__name__} in session.json)") from None
    part = open_part(path, listed, lambda: read_stream(path, Role.INGESTION.label), selection)
    strategies = load_strategies(own, kept_strategies(path, own))
    return Source(path, own, *part, is_session=is_whole, from_ns=from_ns, strategies=strategies)


def _own_strategies(settings: Settings) -> tuple[Bound, ...]:
    """The strategies that these settings name, for their model and features. Raises SettingsError, ModelError."""
    strategies = load_strategies(settings)
    if settings.strategies:
        check_declared(strategies, settings.features, load_card(model_path(settings.model.path), settings.features))
    return strategies


def is_session_folder(path: Path) -> bool:
    """Whether a source is a session of an engine, rather than recorded market data alone."""
    return path.is_dir() and not is_capture(path)


class Pacer:
    """Holds inputs back to a multiple of the recorded speed; None is as fast as it goes."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._first_input: int | None = None
        self._first_clock = 0

    def wait(self, ts_ns: int) -> None:
        """Sleep until this input is due."""
        if self._speed is None:
            return
        if self._first_input is None:
            self._first_input, self._first_clock = ts_ns, python_monotonic_ns()
        due = self._first_clock + (ts_ns - self._first_input) / self._speed
        ahead = due - python_monotonic_ns()
        if ahead > 0:
            sleep(ahead / 1e9)


class Waiting:
    """Prediction records waiting for execution's recorded merge order."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self._batches = batches
        self._held = np.zeros(0, PREDICTION)

    def take(self, count: int) -> np.ndarray:
        """The next records, fewer only when there are no more."""
        parts = [self._held] if len(self._held) else []
        have = len(self._held)
        while have < count:
            batch = next(self._batches, None)
            if batch is None:
                break
            parts.append(batch)
            have += len(batch)
        if not parts:
            return self._held
        # Joining structured arrays costs a hundred times what taking one as it is does.
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._held = whole[count:]
        return np.ascontiguousarray(whole[:count])


class MergeReplayer:
    """Steps execution with the recorded merge order, and counts predictions that come out different."""

    def __init__(self, state: np.ndarray, merges: Iterator[JournalEntry], take: Callable[[int], np.ndarray]) -> None:
        self._state = as_bytes(state)
        self._merges = merges
        self._take = take
        self.compared = 0
        self.different = 0
        self.outbox = np.zeros(0, np.uint8)  # what the last step wrote
        self._routes = np.zeros(0, np.uint8)

    def run(self) -> None:
        """To the end of the recorded order. Raises ReplayError when the market data end before it."""
        for entry in self._merges:
            if entry.kind != Entry.BATCH:
                raise ReplayError(f"execution journal: entry {entry.ordinal} is no batch")
            if entry.source == SOURCE_MAIN:
                records = self._take(entry.count)
                if len(records) < entry.count:
                    raise ReplayError(
                        f"the ingestion journal ends before entry {entry.ordinal} of execution's: "
                        f"{entry.count - len(records)} predictions are missing"
                    )
                recorded = np.frombuffer(entry.payload, np.float32).reshape(-1, OUTPUT_COUNT)
                self.compared += entry.count
                self.different += int((records["output"].view(np.uint32) != recorded.view(np.uint32)).any(axis=1).sum())
                records["output"] = recorded
                inbox = as_bytes(records)
            else:
                inbox = np.frombuffer(entry.payload, np.uint8).copy()
            self.step(entry.source, inbox, entry.count)

    def step(self, source: int, inbox: np.ndarray, count: int) -> int:
        """Take a batch; how many ORDER records are in `outbox` then."""
        need = count * EXECUTION.max_out
        if len(self._routes) < need:
            self.outbox = np.zeros(need * EXECUTION.out_dtype.itemsize, np.uint8)
            self._routes = np.zeros(need, np.uint8)
        return int(EXECUTION.step(self._state, source, inbox, count, self.outbox, self._routes))


def warmed_path(source: Source) -> tuple[FusedPath, int, Iterator[JournalEntry]]:
    """The path that a source begins with, how many frames it has watched, and the inputs that follow. Raises
    CaptureError."""
    path = FusedPath(source.settings, source.instruments, not source.is_session, source.strategies)
    before, others = source.in_two()
    warm_up(path, before)
    return path, path.decoder.ingest_id, others


def _paced(
    inputs: Iterator[JournalEntry], speed: float | None, path: FusedPath
) -> Iterator[tuple[int, int]]:
    """Every input through the decoder: (when it was in hand, on the monotonic clock; records decoded)."""
    pacer = Pacer(speed)
    started = 0

    def paced() -> Iterator[JournalEntry]:
        nonlocal started
        for entry in inputs:
            pacer.wait(entry.ts_ns)
            started = python_monotonic_ns()
            yield entry

    for decoded in replay_inputs(path.decoder, paced()):
        yield started, decoded


def _predictions(inputs: Iterator[JournalEntry], speed: float | None, path: FusedPath) -> Iterator[np.ndarray]:
    """Copies of all PREDICTION records, batch by batch."""
    for _, decoded in _paced(inputs, speed, path):
        for first in range(0, decoded, BATCH):
            found = path.predict(first, min(BATCH, decoded - first))
            if found:
                yield path.predictions[:found].copy()


def replay_fused(source: Source, speed: float | None) -> dict[str, Any]:
    """Replay in this process; returns the summary. Raises ReplayError, JournalError, CaptureError or ModelError."""
    path, before, inputs = warmed_path(source)
    began = python_monotonic_ns()
    decision = new_histogram()
    extra: dict[str, Any] = {"warm_up_frames": before}
    if source.is_session:
        waiting = Waiting(_predictions(inputs, speed, path))
        merger = MergeReplayer(path.states[Role.EXECUTION], source.merges(), waiting.take)
        merger.run()
        while len(waiting.take(4096)):
            pass  # what execution never came to take still counts upstream
        extra["predictions"] = {"compared": merger.compared, "different": merger.different}
    else:
        for started, decoded in _paced(inputs, speed, path):
            if path.decide(decoded):
                record(decision, python_monotonic_ns() - started)
    return replay_summary(
        source, path.states, "fused", (python_monotonic_ns() - began) / 1e9, {"decision": decision},
        {"replay": pss_bytes(os.getpid())}, {}, extra,
    )


def replay_summary(
    source: Source,
    states: dict[Role, np.ndarray],
    placement: str,
    duration_s: float,
    histograms: dict[str, np.ndarray],
    memory: dict[str, int],
    rings: dict[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The summary of a replay: the keys of a session's, and `extra`."""
    engine = {
        "mode": "replay", "placement": placement, "duration_s": round(duration_s, 3), "source": str(source.path),
    }
    return report(engine, source.settings, source.instruments, states, rings, histograms, memory) | extra
