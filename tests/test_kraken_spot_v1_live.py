"""Kraken spot v1 as a live session takes it: ingestion's own sockets, the recorded session served by the wire player.

Of v1 there is a recording, so this is as near as it comes: every update of a book carries the venue's own checksum.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.records import Kind
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.session_logs import Direction, session_lines
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.market import market_of, subscribed
from procs.wire_player.faults import parse_fault
from tests.market_records import run_stage
from tests.playing import desk
from tests.playing import run as run_loop
from tests.recordings import require_capture
from tests.test_ingestion import Run, running

pytestmark = pytest.mark.recordings
TRADES, BOOKS = ("ws/kraken-spot-v1/cf_20210417_ws_48.txt.gz", "ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz")
SYMBOLS = ("XBT/CHF", "XMR/USD", "WAVES/EUR", "ADA/XBT")
FEED = FeedSettings(kinds=("book", "trade"), book_levels=1000)
SETTINGS = dataclasses.replace(Settings(), feed=FEED)


def taken_live(folder: Path, *faults: str) -> Run:
    """What ingestion took until the recorded session was over."""
    market = market_of(Dialect.KRAKEN_SPOT_V1)
    taken: list[Run] = []

    async def play() -> None:
        settings = {"faults": tuple(map(parse_fault, faults)), "seed": 5, "speed": 8.0}
        async with desk([require_capture(TRADES), require_capture(BOOKS)], **settings) as at:
            listing = await asyncio.to_thread(market.fetch_listing, at.url, SYMBOLS)
            instruments = subscribed(market, listing, FEED)
            endpoints = Endpoints(at.url, at.url.replace("http", "ws"))
            with running(endpoints, folder, 1 << 16, instruments, SETTINGS) as run:
                while not at.player.ended.is_set():
                    run.take()
                    await asyncio.sleep(0.01)
                taken.append(run)

    run_loop(play())
    return taken[0]


def judged(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(what validation makes of it, its state)."""
    state = make_validation_state(Settings().validation, run.mapping.plan.instruments)
    return run_stage(VALIDATION, state, run.records), state


def recorded_checksums(instruments: tuple[Instrument, ...]) -> int:
    """How many updates of these books the session held that say a checksum, read with a library."""
    symbols = {item.symbol for item in instruments}
    lines = (line.data for line in session_lines(require_capture(BOOKS)) if line.direction is Direction.RECEIVED)
    frames = (orjson.loads(data) for data in lines if data.startswith(b"["))
    return sum(
        frame[-2] == "book-1000" and frame[-1] in symbols and any("c" in part for part in frame[1:-2])
        for frame in frames
    )


def test_a_recorded_session_taken_live_is_verified_by_the_venue_s_own_checksums(tmp_path: Path) -> None:
    run = taken_live(tmp_path)
    out, state = judged(run)
    instruments = run.mapping.plan.instruments
    verified, failed = (int(state["checks"][name].sum()) for name in ("verified", "mismatched"))
    assert failed == 0 and verified == recorded_checksums(instruments) > 500
    valid = out[out["kind"] == Kind.BOOK_VALID]
    assert sorted(valid["instrument"].tolist()) == [item.index for item in instruments]
    last_level = int(np.flatnonzero(out["kind"] == Kind.LEVEL)[-1])
    assert not (out[:last_level]["kind"] == Kind.BOOK_INVALID).any(), "until the player hangs up"
    assert (out["kind"] == Kind.TRADE).any()
    assert not run.ingestion._decoder.state["quarantined"].any()
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_a_dropped_update_shows_and_a_cut_connection_brings_new_books(tmp_path: Path) -> None:
    run = taken_live(tmp_path, "drop:book=0.02", "disconnect:book@1500,300")
    out, state = judged(run)
    assert int(state["checks"]["mismatched"].sum()) > 0 and (out["kind"] == Kind.BOOK_INVALID).any()
    lost = [entry for entry in read_stream(tmp_path, "ingestion") if entry.kind == Entry.LOST]
    snapshots = out[(out["kind"] == Kind.BOOK_VALID)]
    assert len(lost) >= 1 and len(snapshots) >= 2 * len(SYMBOLS)
