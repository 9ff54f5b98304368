"""The ingestion process in a thread of the test: sockets of the embedded venue in, market ring and journal out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.config import Settings
from engine.ingest.dialects import make_state
from engine.ingest.settings import liquidation_min
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import MARKET, Kind
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.decoding import Decoder, replay_inputs
from procs.feed_counts import FEED_COUNTS
from procs.ingestion import Ingestion
from procs.instance import Mapping, ProcessContext
from procs.journal.layout import FRAMES, Entry
from procs.journal.reader import read_stream
from procs.table import Role
from procs.venues.binance import BinanceMarket
from procs.venues.binance_usdm.endpoints import Endpoints
from shm.clock import sleep
from shm.control import Readiness, Stop
from tests.embedded_venue import RunningVenue
from tests.instance_memory import listed_instruments, small_instance
from tests.market_records import run_stage
from tests.waiting import until


class Run:
    """Ingestion at work, and what it has put into its ring."""

    def __init__(self, ingestion: Ingestion, mapping: Mapping, folder: Path) -> None:
        self.ingestion, self.mapping, self.folder = ingestion, mapping, folder
        self.records = np.zeros(0, MARKET)

    def take(self) -> np.ndarray:
        parts = [self.records]
        while len(batch := self.mapping.ring("market").pop(4096)):
            parts.append(batch.copy())
        self.records = np.concatenate(parts)
        return self.records

    @property
    def ready(self) -> bool:
        return self.mapping.control.readiness(Role.INGESTION) == Readiness.READY

    def replayed(self) -> tuple[np.ndarray, np.ndarray]:
        """Records and state that the journal gives."""
        instruments = self.mapping.plan.instruments
        least = liquidation_min(self.mapping.plan.settings.feed)
        again = Decoder(make_state(instruments, least), instruments)
        counts = replay_inputs(again, read_stream(self.folder, "ingestion"))
        return np.concatenate([again.records[:count].copy() for count in counts]), again.state


def at(venue: RunningVenue) -> Endpoints:
    return Endpoints(venue.address.rest_url, venue.address.ws_url)


@contextlib.contextmanager
def running(
    endpoints: Endpoints, folder: Path, capacity: int, instruments: tuple[Instrument, ...] = (),
    settings: Settings | None = None,
) -> Iterator[Run]:
    """Ingestion from its start to its orderly end."""
    with small_instance(folder, endpoints, capacity, instruments=instruments, settings=settings) as plan:
        context = ProcessContext(plan, Role.INGESTION)
        run = Run(Ingestion(context), Mapping(plan), folder)
        thread = threading.Thread(target=run.ingestion.run, daemon=True)
        thread.start()
        try:
            yield run
        finally:
            run.mapping.control.request_stop(Role.INGESTION, Stop.NOW)
            thread.join(20)
            assert not thread.is_alive()
            run.take()


def test_what_reaches_the_ring_is_what_the_journal_gives_again(venue: RunningVenue, tmp_path: Path) -> None:
    with running(at(venue), tmp_path, 1 << 14) as run:
        until(lambda: run.ready, "books")
        until(lambda: len(run.take()) > 3_000, "records")
        feed = run.mapping.feed_counts()
        in_hand, passed = run.mapping.stamps(), run.mapping.passed(Role.INGESTION)
        until(lambda: feed.tolist() == [2, *[0] * (len(FEED_COUNTS) - 1)], "two open sockets and nothing else")
    live = run.ingestion._decoder.state
    records, state = run.replayed()
    frames = [entry for entry in read_stream(tmp_path, "ingestion") if entry.kind in FRAMES]
    assert in_hand[1 : len(frames) + 1].tolist() == [entry.ts_ns for entry in frames], "REST snapshots too"
    assert (passed >= in_hand).all() and not passed[len(frames) + 1 :].any()
    assert records.tobytes() == run.records.tobytes()
    assert state.tobytes() == live.tobytes()
    assert int(live["dropped"][0, Reason.RING_FULL]) == 0 == run.mapping.ring("market").dropped
    kinds = set(run.records["kind"].tolist())
    assert {Kind.INSTRUMENT, Kind.LEVEL, Kind.TRADE, Kind.QUOTE, Kind.MARK_PRICE, Kind.CLOCK} <= kinds
    assert np.all(np.diff(run.records["ingest_id"]) >= 0)
    # The venue's ticker tells the touch of every book that it makes.
    judged = make_validation_state(Settings().validation, run.mapping.plan.instruments)
    run_stage(VALIDATION, judged, records)
    audits = judged["audits"][0]
    assert audits["agreed"].sum() > 20 and audits["disagreed"].sum() == 0


def test_a_ring_that_nobody_empties_drops_with_gaps_and_the_journal_knows(venue: RunningVenue, tmp_path: Path) -> None:
    with running(at(venue), tmp_path, 4096) as run:
        until(lambda: run.mapping.ring("market").dropped > 500, "drops")
        run.take()  # the consumer is back
        until(lambda: run.ready, "books")
        sleep(0.3)
        run.take()
    ring, live = run.mapping.ring("market"), run.ingestion._decoder.state
    records, state = run.replayed()
    assert records.tobytes() == run.records.tobytes()
    assert state.tobytes() == live.tobytes()
    row = live[0]
    assert int(row["dropped"][Reason.RING_FULL]) > 10
    assert int(row["records_in"]) == (
        int(row["processed"]) + int(row["quarantined"].sum()) + int(row["dropped"].sum()) + int(row["pending_frames"])
    )
    assert int(row["out"]) == ring.produced == len(run.records)
    assert sum(entry.kind == Entry.DROPPED for entry in read_stream(tmp_path, "ingestion")) > 10
    assert int((run.records["kind"] == Kind.GAP).sum()) >= 2
    assert not run.mapping.control.tripped


def test_a_snapshot_that_is_refused_is_said_once_and_counted(
    venue: RunningVenue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venue.fault(fault="http", action="error_before", path="/fapi/v1/depth", count=6, status=503)
    with running(at(venue), tmp_path, 1 << 14) as run:
        until(lambda: run.ready, "books")
        refusals = FEED_COUNTS.index("rest_refusals")
        until(lambda: run.mapping.feed_counts()[refusals] == 6, "six refusals in shared memory")
    said = [line for line in capsys.readouterr().out.splitlines() if "HTTP 503 Service Unavailable" in line]
    assert sorted(line.partition(": http")[0] for line in said) == [
        "ingestion: snapshot of BTCUSDT", "ingestion: snapshot of ETHUSDT"
    ]


def test_no_snapshot_is_fetched_while_a_socket_is_not_open(
    venue: RunningVenue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A book that begins without its diffs would be called valid while nobody hears of its changes."""
    fetched: list[bool] = []
    fetch = BinanceMarket.fetch_book
    known = threading.Event()  # that `run` is; its sockets are open before it is

    def counting(*arguments: object) -> bytes:
        assert known.wait(10)
        fetched.append(run.ingestion.sockets.all_open)
        return fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BinanceMarket, "fetch_book", counting)
    with running(at(venue), tmp_path, 1 << 14) as run:
        known.set()
        until(lambda: run.ready, "books")
        run.take()
        for _ in range(2):
            before = len(fetched)
            venue.fault(fault="disconnect", streams="public")
            until(lambda b=before: len(fetched) >= b + 2, "new snapshots")  # type: ignore[misc]
            until(lambda: not run.ingestion._decoder.state["snapshot_wanted"][0, :2].any(), "books again")
            run.take()
    assert len(fetched) >= 6 and set(fetched) == {True}
    assert int((run.records["kind"] == Kind.GAP).sum()) == 4, "one for each book and loss"
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_the_books_stand_while_the_socket_of_the_mark_prices_is_lost(venue: RunningVenue, tmp_path: Path) -> None:
    """Books and trades come over another one: without mark prices nobody is blind."""
    with running(at(venue), tmp_path, 1 << 16) as run:
        until(lambda: run.ready, "books")
        sockets = run.ingestion.sockets
        for _ in range(3):
            until(lambda: sockets.all_open, "both sockets")
            run.take()
            losses = sockets.losses
            venue.fault(fault="disconnect", streams="market")
            until(lambda n=losses: sockets.losses > n, "loss")  # type: ignore[misc]
            before = len(run.take())
            until(lambda n=before: len(run.take()) > n + 100, "records")  # type: ignore[misc]
        until(lambda: sockets.all_open, "both sockets again")
        before = len(run.take())
        until(lambda: (run.take()[before:]["kind"] == Kind.MARK_PRICE).any(), "mark prices again")
    assert not (run.records["kind"] == Kind.GAP).any()
    assert Entry.LOST not in {entry.kind for entry in read_stream(tmp_path, "ingestion")}


def test_a_snapshot_of_before_a_loss_is_thrown_away(
    venue: RunningVenue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = BinanceMarket.fetch_book
    slow: list[str] = []

    def waiting(*arguments: object) -> bytes:
        body = fetch(*arguments)  # type: ignore[arg-type]
        if not slow:
            slow.append(str(arguments[-1]))
            losses = run.ingestion.sockets.losses
            venue.fault(fault="disconnect", streams="public")
            until(lambda: run.ingestion.sockets.losses > losses, "loss")
        return body

    monkeypatch.setattr(BinanceMarket, "fetch_book", waiting)
    with running(at(venue), tmp_path, 1 << 14) as run:
        until(lambda: run.ready, "books")
        run.take()
    index = [item.symbol for item in listed_instruments()].index(slow[0])
    kinds = [
        Entry(entry.kind) for entry in read_stream(tmp_path, "ingestion")
        if entry.kind == Entry.LOST or (entry.kind == Entry.SNAPSHOT and entry.source == index)
    ]
    assert kinds[0] == Entry.LOST and Entry.SNAPSHOT in kinds
