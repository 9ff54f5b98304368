"""The main kernels, each by itself, for pytest-benchmark: `make bench-kernels`. Else they run once and are checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.config import Settings
from engine.features.step import FEATURES
from engine.ingest.kernel import make_ingest_state
from engine.matching.market import SimulatedMarket
from engine.matching.settings import VenueSettings
from engine.records import FEATURE, MARKET, SOURCE_MAIN
from engine.stage import as_bytes
from engine.validation.step import VALIDATION
from procs.decoding import Decoder
from procs.states import initial_states
from procs.table import Role
from shm.ring import Ring
from shm.segment import unlink_all
from tests.execution_harness import opened_state, prediction, step
from tests.recordings import require_capture
from tests.shm_helpers import DIGEST, fresh_instance
from tools.bench.frames import RECORDED, Frames, load

START_NS = 1_700_000_000_000_000_000
INPUTS = 3000  # of the recording; the snapshot is among the first


@pytest.fixture(scope="module")
def frames() -> Frames:
    return load(require_capture(RECORDED), Settings(), INPUTS)


@pytest.fixture
def ring() -> Iterator[Ring]:
    for instance in fresh_instance():
        yield Ring.create("market", MARKET, 1024, instance=instance, kernel_digest=DIGEST)
        unlink_all(instance)


def test_kernel_of_the_ring(ring: Ring, benchmark: Any) -> None:
    """256 records in and out again."""
    records = np.zeros(256, MARKET)
    records["ingest_id"] = np.arange(256)

    def both() -> np.ndarray:
        ring.push(records)
        return ring.pop(256)

    assert np.array_equal(benchmark(both), records)


@pytest.mark.recordings
def test_kernel_of_decoding(frames: Frames, benchmark: Any) -> None:
    def decode() -> int:
        decoder = Decoder(make_ingest_state(frames.source.instruments), frames.source.instruments)
        return sum(decoder.apply(entry) for entry in frames.entries)

    assert benchmark(decode) == len(_records(frames)) > INPUTS


def _records(frames: Frames) -> np.ndarray:
    decoder = Decoder(make_ingest_state(frames.source.instruments), frames.source.instruments)
    return np.concatenate([decoder.records[: decoder.apply(entry)].copy() for entry in frames.entries])


@pytest.mark.recordings
def test_kernel_of_validation(frames: Frames, benchmark: Any) -> None:
    records = _records(frames)
    outbox, routes = np.zeros(2 * len(records), MARKET), np.zeros(2 * len(records), np.uint8)

    def step() -> int:
        state = initial_states(frames.source.settings, frames.source.instruments, open_loop=True)[Role.VALIDATION]
        return int(
            VALIDATION.step(as_bytes(state), SOURCE_MAIN, as_bytes(records), len(records), as_bytes(outbox), routes)
        )

    assert benchmark(step) >= len(records)


@pytest.mark.recordings
def test_kernel_of_features(frames: Frames, benchmark: Any) -> None:
    records = _records(frames)
    outbox, routes = np.zeros(4 * len(records), FEATURE), np.zeros(4 * len(records), np.uint8)
    valid = np.zeros(2 * len(records), MARKET)
    states = initial_states(frames.source.settings, frames.source.instruments, open_loop=True)
    checked = int(
        VALIDATION.step(
            as_bytes(states[Role.VALIDATION]), SOURCE_MAIN, as_bytes(records), len(records), as_bytes(valid), routes
        )
    )

    def step() -> int:
        state = initial_states(frames.source.settings, frames.source.instruments, open_loop=True)[Role.FEATURES]
        return int(FEATURES.step(as_bytes(state), SOURCE_MAIN, as_bytes(valid), checked, as_bytes(outbox), routes))

    assert benchmark(step) > 50


def test_kernel_of_execution(benchmark: Any) -> None:
    """One prediction at a moving touch: strategy, sizing, gate, order state."""
    state = opened_state()
    now_ns, turn = START_NS + 10**9, 0

    def decide() -> np.ndarray:
        nonlocal now_ns, turn
        now_ns, turn = now_ns + 500_000_000, turn + 1
        return step(state, prediction(now_ns, turn, 0, 60_000_00 + turn % 7 * 10, 60_000_10 + turn % 7 * 10))

    orders = benchmark(decide)
    assert state[0]["signals"] >= 1 and orders.dtype.itemsize % 64 == 0


def test_kernel_of_matching(benchmark: Any) -> None:
    """A second of the default flow in both contracts."""
    market = SimulatedMarket(VenueSettings(), 1, START_NS)
    until = START_NS

    def advance() -> np.ndarray:
        nonlocal until
        until += 10**9
        return market.advance(until)

    assert len(benchmark(advance)) > 100
