"""What a recording keeps of listings and open interest, and that a replay of it has them as a live session would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import requests

from engine.config import Settings
from engine.ingest.dialects import make_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import Kind, Status
from procs.budget import ORDERS, WEIGHT, Budget, RateLimit
from procs.capture.inputs import open_capture
from procs.capture.layout import NO_SYMBOL, Captured
from procs.capture.manifest import Manifest, new_capture_id
from procs.capture.reader import EVERYTHING, CaptureReader, Selection
from procs.capture.recorder import Recorder
from procs.capture.writer import open_writer
from procs.decoding import Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.replay import open_source, replay_fused, warmed_path
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.market import Listing, Market, market_of
from procs.venues.terms import Terms
from procs.wire_player.recording import Recording
from shm.clock import new_session_offset_ns, python_monotonic_ns, python_session_ns, wall_ns
from tests.embedded_venue import RunningVenue
from tests.socket_venue import SocketVenue
from tests.test_listing_channels import ENTRY, PAIR, channel, kraken

SYMBOLS = ("BTCUSDT", "ETHUSDT")
OFTEN = FeedSettings(listing_refresh_s=0.1, open_interest_interval_s=1.0)
PATIENCE_NS = 60_000_000_000


def relist(venue: RunningVenue, **request: str) -> None:
    assert requests.post(f"{venue.address.rest_url}/bot4/listing", json=request, timeout=10).status_code == 200


def recorded(
    market: Market, endpoints: Endpoints, listing: Listing, folder: Path, feed: FeedSettings,
    *steps: Callable[[Recorder], bool], made_by: str = "record",
) -> Recorder:
    """Record until each step in turn has answered True."""
    symbols = [item.symbol for item in listing.instruments]
    urls = tuple(item.url for item in market.sockets(endpoints.ws_url, symbols, feed))
    manifest = Manifest(new_capture_id(), listing.instruments, urls, wall_ns(), source={"made_by": made_by})
    writer, offset_ns = open_writer(folder, manifest), new_session_offset_ns()
    recorder = Recorder(
        market, endpoints, listing.instruments, feed, Budget.of_own(listing.rate_limits, python_monotonic_ns), writer,
        lambda: python_session_ns(offset_ns), lambda words: None,
    )
    waiting, began_ns = list(steps), python_monotonic_ns()

    def look() -> None:
        assert python_monotonic_ns() - began_ns < PATIENCE_NS, "it does not come to that"
        if waiting and waiting[0](recorder):
            waiting.pop(0)
        if not waiting:
            recorder.stop()

    asyncio.run(recorder.run(look))
    assert recorder.failure is None
    return recorder


def replayed(folder: Path, selection: Selection = EVERYTHING) -> tuple[np.ndarray, np.ndarray]:
    """Records and state that the inputs of a capture give."""
    instruments, inputs = open_capture(folder, selection)
    decoder = Decoder(make_state(instruments), instruments)
    parts = [decoder.records[:count].copy() for count in replay_inputs(decoder, inputs())]
    return np.concatenate(parts), decoder.state


def of_kind(records: np.ndarray, kind: Kind) -> np.ndarray:
    return records[records["kind"] == kind]


def test_a_replay_has_epochs_status_and_open_interest_as_they_were(venue: RunningVenue, tmp_path: Path) -> None:
    market = market_of(Dialect.BINANCE_USDM)
    endpoints = Endpoints(venue.address.rest_url, venue.address.ws_url)
    listing = market.fetch_listing(endpoints.rest_url, SYMBOLS)

    def first(recorder: Recorder) -> bool:
        if recorder.snapshots < 2 or recorder.open_interests < 2:
            return False
        relist(venue, symbol="BTCUSDT", tick_size="0.50")
        relist(venue, symbol="ETHUSDT", status="SETTLING")
        return True

    def second(recorder: Recorder) -> bool:
        if recorder.listings < 2 or recorder.snapshots < 3:
            return False
        relist(venue, symbol="ETHUSDT", status="TRADING")
        return True

    folder = tmp_path / "c"
    try:
        recorder = recorded(
            market, endpoints, listing, folder, OFTEN, first, second,
            lambda recorder: recorder.listings >= 3 and recorder.open_interests >= 4,
        )
    finally:
        relist(venue, symbol="BTCUSDT", tick_size="0.10")
    entries = list(CaptureReader(folder).entries())
    bodies = [entry for entry in entries if entry.kind == Captured.REST and entry.symbol == NO_SYMBOL]
    assert 1 <= len(bodies) <= 3 and all(entry.key.endswith("/fapi/v1/exchangeInfo") for entry in bodies)
    assert any(b"contractInfo" in entry.data for entry in entries if entry.kind == Captured.FRAME)
    records, state = replayed(folder)
    live = recorder._decoder.state
    for name in ("tick_size", "lot_size", "min_notional", "epoch", "status", "gaps", "resyncs", "open_interests"):
        assert (state[name] == live[name]).all(), name
    instruments = of_kind(records, Kind.INSTRUMENT)
    assert instruments["price"].tolist() == [10, 10 if listing.instruments[1].tick_size == 10 else 1, 50]
    assert [(int(row["instrument"]), int(row["aux"])) for row in of_kind(records, Kind.STATUS)] == [
        (1, Status.CLOSED), (1, Status.TRADING)
    ]
    assert of_kind(records, Kind.GAP)["reason"].tolist() == [Reason.NEW_EPOCH]
    assert len(of_kind(records, Kind.OPEN_INTEREST)) == recorder.open_interests >= 4
    # Both parts of the engine take it, and the same comes of it twice; of one symbol what is of that one.
    one, other = (replay_fused(open_source(folder, Settings()), None) for _ in range(2))
    assert one["decision_hash"] == other["decision_hash"] and one["unaccounted"] == 0
    # A part that begins while ETHUSDT is closed knows it, and hears that it trades again, as the manifest has it.
    listed = [entry for entry in open_source(folder, Settings()).inputs() if entry.kind == Entry.LISTED]
    closed_ns = next(entry.ts_ns for entry in listed if Terms.from_bytes(entry.payload).status == Status.CLOSED)
    path, _, others = warmed_path(open_source(folder, Settings(), Selection(from_ns=closed_ns + 1), watch_before=True))
    assert path.decoder.terms(1).status == Status.CLOSED
    for _ in replay_inputs(path.decoder, others):
        pass
    assert path.decoder.terms(1).status == Status.TRADING
    part, _ = replayed(folder, Selection(symbols=("ETHUSDT",)))
    assert of_kind(part, Kind.STATUS)["instrument"].tolist() == [0, 0] and len(of_kind(part, Kind.INSTRUMENT)) == 1
    # The player says at the start what was listed at the start.
    assert Recording([folder]).venue.instruments == listing.instruments


def test_a_recording_that_goes_on_keeps_the_listing_that_it_finds(venue: RunningVenue, tmp_path: Path) -> None:
    """The first part ends with another tick; in between the venue has gone back to the one that the manifest has."""
    market = market_of(Dialect.BINANCE_USDM)
    endpoints = Endpoints(venue.address.rest_url, venue.address.ws_url)
    folder = tmp_path / "c"
    listing = market.fetch_listing(endpoints.rest_url, SYMBOLS)

    def change(recorder: Recorder) -> bool:
        if recorder.snapshots >= 2:
            relist(venue, symbol="BTCUSDT", tick_size="0.50")
        return recorder.snapshots >= 2

    try:
        recorded(market, endpoints, listing, folder, OFTEN, change, lambda recorder: recorder.listings >= 1)
    finally:
        relist(venue, symbol="BTCUSDT", tick_size="0.10")
    seldom = replace(OFTEN, listing_refresh_s=300.0)
    recorded(market, endpoints, listing, folder, seldom, lambda recorder: recorder._polls.refreshes >= 1)
    records, _ = replayed(folder)
    assert of_kind(records, Kind.INSTRUMENT)["price"].tolist()[2:] == [50, 10]


def test_what_others_made_is_read_as_before(venue: RunningVenue, tmp_path: Path) -> None:
    """Captures that were made of other recordings: a body of exchangeInfo in them is nobody's change of terms."""
    market = market_of(Dialect.BINANCE_USDM)
    endpoints = Endpoints(venue.address.rest_url, venue.address.ws_url)
    listing = market.fetch_listing(endpoints.rest_url, SYMBOLS)
    folder = tmp_path / "c"

    def change(recorder: Recorder) -> bool:
        if recorder.snapshots >= 2:
            relist(venue, symbol="BTCUSDT", tick_size="0.50")
        return recorder.snapshots >= 2

    try:
        recorded(market, endpoints, listing, folder, OFTEN, change, lambda recorder: recorder.listings >= 1,
                 made_by="convert")  # fmt: skip
    finally:
        relist(venue, symbol="BTCUSDT", tick_size="0.10")
    _, inputs = open_capture(folder, EVERYTHING)
    assert {Entry(entry.kind) for entry in inputs()} == {Entry.START, Entry.FRAME, Entry.SNAPSHOT}


def test_krakens_channel_is_recorded_and_replayed(tmp_path: Path) -> None:
    lot = {"qty_increment": 1e-4}
    item: Instrument = replace(PAIR, book_depth=100)
    limits = (RateLimit(WEIGHT, 1, 1, ""), RateLimit(ORDERS, 60, 60, ""))
    feed = FeedSettings(listing_refresh_s=0.0)
    folder = tmp_path / "c"
    with SocketVenue(kraken).running() as server:

        def tell(recorder: Recorder) -> bool:
            if recorder.frames.total() < 7:
                return False
            server.tell(channel(ENTRY | lot | {"status": "post_only", "price_increment": 0.5}))
            return True

        recorded(
            market_of(Dialect.KRAKEN_SPOT_V2), Endpoints("http://127.0.0.1:1", server.url), Listing((item,), limits),
            folder, feed, tell, lambda recorder: recorder.listings == 1,
        )
    records, state = replayed(folder)
    assert of_kind(records, Kind.INSTRUMENT)["price"].tolist() == [1, 5]
    assert of_kind(records, Kind.STATUS)["aux"].tolist() == [Status.POST_ONLY]
    assert int(state["epoch"][0, 0]) == 1 and of_kind(records, Kind.GAP)["reason"].tolist() == [Reason.NEW_EPOCH]
