"""Redundant connections: recorded streams over two copies one of which dies, and ingestion over sockets of which one
is killed, again and again."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.ingest.dialects import make_state, place_kernel
from engine.ingest.places import PLACE_RECORDS, Stream
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from engine.stage import as_bytes
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.arbiter import Arbiter
from procs.decoding import Decoder
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.replay import open_source
from procs.venues.binance_usdm.endpoints import Endpoints
from tests.embedded_venue import RunningVenue, running_venue
from tests.ingest_oracle import btcusdt
from tests.kraken_oracle import FUTURES_CAPTURE
from tests.market_records import run_stage
from tests.recordings import require_capture
from tests.socket_venue import SocketVenue
from tests.test_ingest_sequence import T0, diff, snapshot
from tests.test_ingestion import Run, at, running
from tests.test_kraken_futures import PAST_TRADES, SNAPSHOT, update
from tests.test_markets import contract, kraken_futures
from tests.waiting import until

REDUNDANT = dataclasses.replace(Settings(), feed=FeedSettings(connections=2))
# The newest wins: what is between may be missed.
NEWEST = (Stream.TICKER, Stream.MARK_PRICE, Stream.LIQUIDATION)
RECORDINGS = (
    "ws/binance-usdm/btcusdt_20240808.raw.gz", "ws/binance-spot/btcusdt_20240808.raw.gz",
    "ws/binance-coinm/btcusd_perp_20240808.raw.gz", FUTURES_CAPTURE,
)
Place = tuple[Stream, int, int, int]


class Places:
    """Where frames stand."""

    def __init__(self, instruments: tuple[Instrument, ...]) -> None:
        self._kernel = place_kernel(instruments[0].dialect)
        self._state = as_bytes(make_state(instruments))
        self._outbox = as_bytes(np.zeros(PLACE_RECORDS, MARKET))
        self._place = np.zeros(3, np.int64)

    def of(self, frame: bytes) -> Place:
        """(stream, instrument, number before, number after) of a frame."""
        stream = Stream(self._kernel(self._state, frame, self._outbox, self._place))
        return (stream, *self._place.tolist())


def recorded_frames(name: str) -> tuple[tuple[Instrument, ...], list[bytes]]:
    source = open_source(require_capture(name), Settings())
    frames = [entry.payload for entry in source.inputs() if entry.kind == Entry.FRAME]
    return source.instruments, frames[:20_000]


def number_of(frame: bytes) -> tuple[str, int]:
    """Stream and number of a frame, read with a library."""
    message = orjson.loads(frame)
    data = message.get("data", message)
    if "feed" in data:
        return f"{data['feed']} {data.get('product_id')}", data.get("seq", data.get("time", 0))
    kind = data.get("e", "bookTicker")
    return f"{kind} {data.get('s')}", data[{"depthUpdate": "u", "trade": "t", "bookTicker": "u"}.get(kind, "E")]


@pytest.mark.recordings
@pytest.mark.parametrize("name", RECORDINGS)
def test_places_are_the_numbers_of_the_wire(name: str) -> None:
    instruments, frames = recorded_frames(name)
    places, seen = Places(instruments), defaultdict(int)
    last_book: dict[int, int] = {}
    for frame in frames:
        stream, instrument, before, last = places.of(frame)
        seen[stream] += 1
        if stream == Stream.NONE:
            continue
        if stream in (Stream.BOOK, Stream.SNAPSHOT, Stream.TRADES):
            assert last == number_of(frame)[1]
        elif stream == Stream.TICKER and instruments[0].dialect != Dialect.KRAKEN_FUTURES:
            assert last == number_of(frame)[1]
        if stream == Stream.BOOK and instrument in last_book:
            assert before == last_book[instrument], "recorded books have no gaps"
        if stream in (Stream.BOOK, Stream.SNAPSHOT):
            last_book[instrument] = last
    assert seen[Stream.BOOK] > 100 and seen[Stream.TRADES] > 2 and (seen[Stream.TICKER] > 10 or name == FUTURES_CAPTURE)


@pytest.mark.recordings
@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_recorded_stream_over_two_copies_one_of_which_dies_is_the_stream(name: str, seed: int) -> None:
    instruments, frames = recorded_frames(name)
    draw, places = random.Random(seed), Places(instruments)
    stands: set[int] = set()  # books that have begun

    def is_wanted(instrument: int) -> bool:
        return instrument not in stands

    arbiter = Arbiter(instruments, is_wanted)
    passed: list[bytes] = []

    def took(given: list[bytes]) -> None:
        passed.extend(given)
        stands.update(place[1] for frame in given if (place := places.of(frame))[0] == Stream.SNAPSHOT)

    following = [0, 0]
    arbiter.opened(0)
    arbiter.opened(1)
    alive, deaths = True, 0
    while following[1] < len(frames):
        if draw.random() < 0.001:
            deaths += alive
            if alive:
                took(arbiter.lost(0))
            else:  # it comes back behind, beside or ahead of the other one
                arbiter.opened(0)
                following[0] = max(0, following[1] + draw.randint(-20, 20))
            alive = not alive
        copy = 0 if alive and draw.random() < 0.5 and following[0] < min(following[1] + 30, len(frames)) else 1
        took(arbiter.take(copy, frames[following[copy]], 0))
        following[copy] += 1
    assert deaths >= 3
    expected, got = ({} for _ in range(2))
    for frames_of, stream_of in ((frames, expected), (passed, got)):
        for frame in frames_of:
            stream, instrument, _, last = places.of(frame)
            if stream not in (Stream.NONE, Stream.PAST_TRADES):
                key = Stream.BOOK if stream == Stream.SNAPSHOT else stream, instrument
                stream_of.setdefault(key, []).append((last, frame))
    for key, wanted in expected.items():
        assert all(later[0] > earlier[0] for earlier, later in pairwise(got[key])), key
        if key[0] not in NEWEST:
            assert got[key] == sorted(dict(wanted).items()), f"{key}: nothing missing, nothing twice"
        else:
            assert set(got[key]) <= set(wanted)
    duplicates, misaligned, given_up, contradicted = arbiter.counts
    assert duplicates > len(frames) / 20 and misaligned == given_up == contradicted == 0


def test_what_is_of_no_stream_is_passed_on_from_every_copy() -> None:
    arbiter = Arbiter(contract(), lambda _: False)
    for frame in (b"<html>", b'{"feed":"heartbeat","time":1}', b'{"event":"info","version":1}', b""):
        assert arbiter.take(0, frame, 0) == arbiter.take(1, frame, 0) == [frame]
    with pytest.raises(ValueError, match="KRAKEN_SPOT_V2 does not number what it sends"):
        Arbiter(tuple(dataclasses.replace(item, dialect=Dialect.KRAKEN_SPOT_V2) for item in contract()), lambda _: True)


def test_a_copy_that_comes_back_brings_a_snapshot_that_a_book_in_sequence_does_not_take() -> None:
    wanted = [True]
    arbiter = Arbiter(contract(), lambda _: wanted[0])
    arbiter.opened(0)
    arbiter.opened(1)
    assert arbiter.take(0, SNAPSHOT, 0) == [SNAPSHOT]
    wanted[0] = False
    assert arbiter.take(1, SNAPSHOT, 0) == []
    assert arbiter.take(0, PAST_TRADES, 0) == [PAST_TRADES] and arbiter.take(1, PAST_TRADES, 0) == []
    assert arbiter.take(0, update(326072250), 0) == [update(326072250)]
    wanted[0] = True
    assert arbiter.take(1, SNAPSHOT, 0) == [SNAPSHOT]
    assert arbiter.take(1, update(326072250), 0) == [update(326072250)]


def test_an_id_read_wrongly_in_one_copy_does_not_leave_an_old_book_valid() -> None:
    """A u far above, in the first of two copies, made every later diff of both a duplicate, for as long as it took the
    venue to count so far."""
    (item,) = instruments = (btcusdt(),)
    decoder, arbiter = Decoder(make_state(instruments), instruments), Arbiter(instruments, lambda _: False)
    decoder.start(T0)
    arbiter.opened(0)
    arbiter.opened(1)
    decoder.snapshot(0, snapshot(10**9), T0)
    gaps: list[int] = []
    for number in range(1, 60):  # ten diffs a second
        now, last = T0 + number * 100_000_000, 10**9 + 10 * number
        true = diff(last - 10, last - 9, last, item.symbol, time_ms=100 * number)
        wrong = diff(last - 10, last - 9, last + 900_000, item.symbol, time_ms=100 * number)
        for copy in range(2):
            for frame in arbiter.take(copy, wrong if (number, copy) == (5, 0) else true, now):
                records = decoder.records[: decoder.frame(frame, now)]
                gaps += [number] * int((records["kind"] == Kind.GAP).sum())
    assert gaps == [16], "by the table: with the first message that is more than a second later"
    assert arbiter.counts[3] == 1


# --- over sockets ---------------------------------------------------------------------------------------------------


def judged(run: Run) -> np.ndarray:
    """What validation makes of everything that was published."""
    instruments = run.mapping.plan.instruments
    return run_stage(VALIDATION, make_validation_state(Settings().validation, instruments), run.records)


def kill_one(venue: RunningVenue, turn: int) -> None:
    """The venue cuts one of the connections that carry books: the elder and the younger by turns."""

    def cut() -> None:
        books = [item for item in venue.venue.hub.connections if item.root == "public"]
        assert len(books) == 2
        books[turn % 2].cut()

    venue.call(cut)


def test_one_killed_socket_of_two_leaves_no_gap(tmp_path: Path) -> None:
    with running_venue() as venue, running(at(venue), tmp_path, 1 << 16, settings=REDUNDANT) as run:
        sockets = run.ingestion.sockets
        until(lambda: run.ready and sockets.open_count == 4, "books over four sockets")
        for turn in range(6):
            until(lambda: sockets.open_count == 4, "every socket")
            before = len(run.take())
            until(lambda b=before: len(run.take()) > b + 400, "records")  # type: ignore[misc]
            kill_one(venue, turn)
            until(lambda t=turn: sockets.copy_losses > t, "loss")  # type: ignore[misc]
        before = len(run.take())
        until(lambda: len(run.take()) > before + 400, "records")
        assert sockets.losses == 0 and sockets.copy_losses == 6
        duplicates = sum(arbiter.counts[0] for arbiter in sockets.arbiters)
        assert [arbiter.counts[1:] for arbiter in sockets.arbiters] == [(0, 0, 0), (0, 0, 0)]
    assert duplicates > 500
    entries = {Entry(entry.kind) for entry in read_stream(tmp_path, "ingestion")}
    assert not entries & {Entry.LOST, Entry.DROPPED} and not (run.records["kind"] == Kind.GAP).any()
    valid = judged(run)
    assert (valid["kind"] == Kind.BOOK_VALID).sum() == 2 and not (valid["kind"] == Kind.BOOK_INVALID).any()
    for index in range(2):
        of_one = valid[valid["instrument"] == index]
        diffs = of_one[(of_one["kind"] == Kind.LEVEL) & (of_one["flags"] & Flag.SNAPSHOT == 0)]
        groups = diffs[diffs["flags"] & Flag.LAST != 0]["sequence"]
        trades = of_one[of_one["kind"] == Kind.TRADE]["sequence"]
        quotes = of_one[(of_one["kind"] == Kind.QUOTE) & (of_one["flags"] & Flag.FIRST != 0)]["sequence"]
        assert len(groups) > 50 and len(trades) > 10
        assert np.all(np.diff(groups) > 0) and np.all(np.diff(trades) == 1) and np.all(np.diff(quotes) > 0)
    records, state = run.replayed()
    assert records.tobytes() == run.records.tobytes(), "the order that was chosen is the one that was journaled"
    assert state.tobytes() == run.ingestion._decoder.state.tobytes()
    dropped = np.flatnonzero(run.ingestion._decoder.state["dropped"][0]).tolist()
    assert set(dropped) <= {Reason.STALE_DIFF}, "nothing comes to the decoder twice; diffs from before the snapshots do"


def test_both_sockets_killed_is_a_loss_like_any_other(tmp_path: Path) -> None:
    with running_venue() as venue, running(at(venue), tmp_path, 1 << 16, settings=REDUNDANT) as run:
        until(lambda: run.ready and run.ingestion.sockets.open_count == 4, "books over four sockets")
        venue.fault(fault="disconnect", streams="public")
        until(lambda: (run.take()["kind"] == Kind.GAP).sum() == 2, "gaps")
        until(lambda: not run.ingestion._wanted[:2].any(), "books again")
        before = len(run.take())
        until(lambda: len(run.take()) > before + 200, "records")
        assert run.ingestion.sockets.losses >= 1
    assert not (judged(run)[-200:]["kind"] == Kind.BOOK_INVALID).any()
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_books_that_come_over_the_socket_stand_while_one_of_two_sockets_is_cut(tmp_path: Path) -> None:
    """Kraken Futures: the copy that comes back brings a book that nobody asked for."""
    with (
        SocketVenue(kraken_futures).running() as venue,
        running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, contract(), REDUNDANT) as run,
    ):
        sockets = run.ingestion.sockets
        until(lambda: run.ready and sockets.open_count == 2 and sockets.all_open, "books over two sockets")
        until(lambda: len(venue.heard) == 8, "subscriptions")
        venue.tell(update(326072250))
        until(lambda: all(item.in_service for item in sockets._open.values()), "both in service")
        venue.cut(1)
        until(lambda: sockets.copy_losses == 1, "loss")
        venue.tell(update(326072251))
        until(lambda: venue.connections == 3 and len(venue.heard) == 12, "the copy again")
        venue.tell(update(326072252), update(326072253))
        until(lambda: (run.take()["kind"] == Kind.LEVEL).sum() == 4 + 4, "levels")
    assert not (run.records["kind"] == Kind.GAP).any()
    levels = run.records[run.records["kind"] == Kind.LEVEL]
    assert levels["sequence"].tolist() == [326072249] * 4 + [326072250, 326072251, 326072252, 326072253]
    valid = judged(run)
    assert (valid["kind"] == Kind.BOOK_VALID).sum() == 1 and not (valid["kind"] == Kind.BOOK_INVALID).any()
