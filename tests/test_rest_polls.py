"""A listing that changes while ingestion runs, and what it asks REST for: against the embedded venue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import requests

from engine.config import Settings
from engine.ingest.settings import FeedSettings
from engine.ingest.state import make_ingest_state
from engine.instruments import Dialect, Instrument
from engine.matching.settings import VenueSettings
from engine.reasons import Reason
from engine.records import Kind, Status
from procs import rest_polls
from procs.budget import Budget
from procs.capture.inputs import open_part
from procs.capture.reader import Selection
from procs.decoding import Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.rest_polls import RestPolls
from procs.venues.binance import entries_within
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.market import market_of
from procs.venues.terms import Terms
from tests.embedded_venue import RunningVenue, running_venue
from tests.instance_memory import listed_instruments, own_budget
from tests.recordings import require_capture
from tests.test_ingestion import Run, at, running
from tests.test_markets import LISTINGS, Direction, session_lines
from tests.trading_desk import ScriptedServer
from tests.waiting import run_tasks, until

OFTEN = replace(Settings(), feed=FeedSettings(listing_refresh_s=0.1, open_interest_interval_s=1.0))


@pytest.fixture
def venue() -> Iterator[RunningVenue]:
    with running_venue() as running_one:
        yield running_one


def list_anew(venue: RunningVenue, **request: str) -> requests.Response:
    return requests.post(f"{venue.address.rest_url}/bot4/listing", json=request, timeout=10)


def of_kind(run: Run, kind: Kind) -> np.ndarray:
    return run.take()[run.records["kind"] == kind]


def test_a_new_tick_is_a_new_epoch_and_one_resync_and_replays(venue: RunningVenue, tmp_path: Path) -> None:
    with running(at(venue), tmp_path, 1 << 14, settings=OFTEN) as run:
        until(lambda: run.ready, "books")
        assert list_anew(venue, symbol="BTCUSDT", tick_size="0.50", min_notional="120").status_code == 200
        until(lambda: len(of_kind(run, Kind.INSTRUMENT)) == 3, "new epoch")
        until(lambda: not run.ingestion._decoder.state["snapshot_wanted"][0, 0], "book again")
        refreshes = run.ingestion._polls.refreshes
        until(lambda: run.ingestion._polls.refreshes >= refreshes + 3, "listings that say the same")
        run.take()
    instrument = run.records[run.records["kind"] == Kind.INSTRUMENT][2]
    assert (instrument["instrument"], instrument["price"], instrument["aux"], instrument["sequence"]) == (
        0, 50, 120 * 10**8, 1
    )
    gaps = run.records[run.records["kind"] == Kind.GAP]
    assert gaps["instrument"].tolist() == [0] and gaps["reason"].tolist() == [Reason.NEW_EPOCH]
    assert int(run.ingestion._decoder.state["resyncs"][0]) == 1
    assert sum(entry.kind == Entry.LISTED for entry in read_stream(tmp_path, "ingestion")) == 1
    records, state = run.replayed()
    assert records.tobytes() == run.records.tobytes()
    assert state.tobytes() == run.ingestion._decoder.state.tobytes()
    ours = run.records[(run.records["instrument"] == 0) & (run.records["kind"] == Kind.LEVEL)]
    after = ours[ours["ingest_id"] > instrument["ingest_id"]]
    assert after["flags"][0] & 1, "the first level of the new epoch begins a snapshot"


def test_a_status_is_told_when_it_changes_and_leaves_the_books_alone(venue: RunningVenue, tmp_path: Path) -> None:
    with running(at(venue), tmp_path, 1 << 14, settings=OFTEN) as run:
        until(lambda: run.ready, "books")
        for word in ("SETTLING", "TRADING"):
            known = len(of_kind(run, Kind.STATUS))
            assert list_anew(venue, symbol="ETHUSDT", status=word).json()["status"] == word
            until(lambda n=known: len(of_kind(run, Kind.STATUS)) == n + 1, word)  # type: ignore[misc]
        run.take()
    told = run.records[run.records["kind"] == Kind.STATUS]
    assert [(int(row["instrument"]), int(row["aux"])) for row in told] == [(1, Status.CLOSED), (1, Status.TRADING)]
    assert not (run.records["kind"] == Kind.GAP).any()
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_open_interest_is_asked_for_in_turn(venue: RunningVenue, tmp_path: Path) -> None:
    with running(at(venue), tmp_path, 1 << 14, settings=OFTEN) as run:
        until(lambda: set(of_kind(run, Kind.OPEN_INTEREST)["instrument"].tolist()) == {0, 1}, "open interest of both")
        run.take()
    row = run.records[run.records["kind"] == Kind.OPEN_INTEREST][0]
    assert row["size"] == 0 and row["exch_ts_ns"] > 1.6e18, "the crowd is one account"
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_an_order_for_what_does_not_trade_is_refused_by_the_venue_too(venue: RunningVenue) -> None:
    assert list_anew(venue, symbol="BTCUSDT", status="SETTLING").status_code == 200
    info = venue.get("/fapi/v1/exchangeInfo").json()["symbols"]
    assert [entry["status"] for entry in info] == ["SETTLING", "TRADING"]
    assert list_anew(venue, symbol="ETHUSDT", tick_size="0.05").json()["tick_size"] == "0.05"
    assert venue.get("/fapi/v1/exchangeInfo").json()["symbols"][1]["filters"][0]["tickSize"] == "0.05"
    assert venue.call(lambda: [int(flow["tick"][0]) for flow in venue.venue.exchange.market.flows]) == [10, 5]


@pytest.mark.parametrize(
    "request_", [{"symbol": "XRPUSDT"}, {"symbol": "BTCUSDT", "tick_size": "0.001"}, {"symbol": "BTCUSDT", "lot": "1"},
                 {"symbol": "BTCUSDT", "status": "ASLEEP"}, {"symbol": "BTCUSDT", "tick_size": "0"}],
)  # fmt: skip
def test_a_listing_that_cannot_be_is_refused(venue: RunningVenue, request_: dict[str, str]) -> None:
    before = venue.get("/fapi/v1/exchangeInfo").json()["symbols"]
    answer = list_anew(venue, **request_)
    assert answer.status_code == 400 and answer.json()["error"]
    assert venue.get("/fapi/v1/exchangeInfo").json()["symbols"] == before


# --- by themselves ---------------------------------------------------------------------------------------------------


class Polling:
    """Polls of a scripted server, for as long as a test looks."""

    def __init__(
        self, url: str, feed: FeedSettings, dialect: Dialect = Dialect.BINANCE_USDM, status: Status = Status.TRADING
    ) -> None:
        self.listed: list[tuple[int, Instrument | None]] = []
        self.frames: list[bytes] = []
        self.said: list[str] = []
        item = replace(VenueSettings().btcusdt.instrument(0), status=status)
        market = market_of(dialect)
        self.budget: Budget = own_budget()
        self.polls = RestPolls(
            market, self.budget, url, [item, replace(item, index=1, symbol="GONE")], feed,
            lambda index, listed: self.listed.append((index, listed)),
            lambda index, url, body: self.frames.append(body), self.said.append,
        )

    def run(self, done: Callable[[], bool]) -> None:
        run_tasks(self.polls.tasks, done)
        self.polls.close()
        assert done()


LISTED = (
    b'{"rateLimits":[],"symbols":[{"symbol":"BTCUSDT","status":"%s","baseAsset":"BTC","quoteAsset":"USDT",'
    b'"pricePrecision":2,"quantityPrecision":3,"filters":[{"filterType":"PRICE_FILTER","tickSize":"0.50"},'
    b'{"filterType":"LOT_SIZE","stepSize":"0.001","maxQty":"1"}]}]}'
)


def test_the_listing_is_read_more_often_while_something_is_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_polls, "_HALTED_REFRESH_S", 0.05)
    answers = [LISTED % b"BREAK", LISTED % b"BREAK", LISTED % b"TRADING"]
    with ScriptedServer(lambda method, path: (200, answers.pop(0))) as server:
        polling = Polling(server.url, FeedSettings(kinds=("book",), listing_refresh_s=3600.0), status=Status.HALTED)
        polling.run(lambda: len(polling.listed) == 6)
    assert [listed.status for _, listed in polling.listed if listed] == [Status.HALTED, Status.HALTED, Status.TRADING]
    assert len(server.requests) == 3 and polling.said == []


def test_a_listing_that_fails_is_said_once_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_polls, "_LADDER_S", (0.05,))
    asked: list[str] = []
    answers = [(503, b""), (200, b"<html>"), (200, b'{"symbols":[{"symbol":"BTCUSDT"}]}'), (200, LISTED % b"BREAK")]

    def answer(method: str, path: str) -> tuple[int, bytes]:
        asked.append(path)
        return answers[min(len(asked), len(answers)) - 1]

    with ScriptedServer(answer) as server:
        polling = Polling(server.url, FeedSettings(kinds=("book",), listing_refresh_s=0.05))
        polling.run(lambda: len(polling.listed) >= 4)
    assert len(polling.said) == 1 and "HTTP 503" in polling.said[0]
    assert polling.polls.refusals.total == 3
    (index, listed), gone = polling.listed[0], polling.listed[1]
    assert index == 0 and listed is not None
    assert (listed.tick_size, listed.status) == (50, Status.HALTED) and gone == (1, None)
    assert set(asked) == {"/fapi/v1/exchangeInfo"}


def test_every_question_is_paid_for_and_none_is_asked_that_is_not_wanted() -> None:
    with ScriptedServer(lambda method, path: (200, path.encode())) as server:
        polling = Polling(server.url, FeedSettings(listing_refresh_s=0.0, open_interest_interval_s=1.0))
        polling.run(lambda: len(polling.frames) == 3)
        assert [path for _, path, _ in server.requests] == ["/fapi/v1/openInterest"] * 3
        assert [given["symbol"] for _, _, given in server.requests] == ["BTCUSDT", "GONE", "BTCUSDT"]
        assert cost_of("GET", "/fapi/v1/openInterest?symbol=BTCUSDT") == (1, 0)
        assert polling.budget.report()["taken"] == 3
        silent = Polling(server.url, FeedSettings(kinds=("book",), listing_refresh_s=0.0))
        silent.run(lambda: True)
        spot = Polling(server.url, FeedSettings(listing_refresh_s=0.0), Dialect.BINANCE_SPOT)
        spot.run(lambda: True)
        assert len(server.requests) == 3


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", LISTINGS)
def test_a_recorded_listing_read_again(dialect: Dialect) -> None:
    name, path, symbol = LISTINGS[dialect]
    lines = session_lines(require_capture(name))
    body = next(line.data for line in lines if line.direction is Direction.REST)
    market = market_of(dialect)
    with (
        ScriptedServer(lambda method, asked: (200, body) if asked == path else (404, b"")) as server,
        requests.Session() as session,
    ):
        (first,) = market.fetch_listing(server.url, [symbol]).instruments
        assert market.list_again(session, server.url, [symbol, "NONSENSE"]) == {symbol: first}
        assert first.status == Status.TRADING
        assert cost_of("GET", path)[0] <= 20
    with requests.Session() as session, pytest.raises(VenueUnreachable):
        market.list_again(session, "http://127.0.0.1:1", [symbol])


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", [Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM])
def test_entries_are_cut_out_as_reading_all_of_it_gives_them(dialect: Dialect) -> None:
    name = LISTINGS[dialect][0]
    body = next(line.data for line in session_lines(require_capture(name)) if line.direction is Direction.REST)
    whole = {entry["symbol"]: entry for entry in orjson.loads(body)["symbols"]}
    assert len(whole) > 20 and entries_within(body, list(whole)) == whole
    assert entries_within(body, ["NONSENSE"]) == {} == entries_within(body[:-3], [list(whole)[-1]])
    other_order = orjson.dumps({"symbols": [dict(reversed(entry.items())) for entry in whole.values()]})
    assert entries_within(other_order, list(whole)[:2]) == {}
    twice = orjson.dumps({"symbols": [*whole.values(), *whole.values()]})
    assert entries_within(twice, list(whole)[:2]) == {}


def test_a_part_of_a_session_has_the_terms_that_hold_where_it_begins() -> None:
    items = listed_instruments()
    names = [item.symbol for item in items]
    bodies = [b'{"openInterest":"1","symbol":"%s","time":1}' % name.encode() for name in names]
    entries = [
        JournalEntry(Entry.START, 0, 10, 0, 1, b""),
        *(JournalEntry(Entry.LISTED, 1, 20, place, 1, Terms(50, 1, 0, 1).to_bytes()) for place in (0, 1)),
        *(JournalEntry(Entry.FRAME, 2, 40, 0, 1, body) for body in bodies),
    ]
    selection = Selection(from_ns=30, symbols=(names[1],))
    chosen, inputs = open_part(Path("session"), items, lambda: iter(entries), selection)
    assert [item.symbol for item in chosen] == [names[1]]
    assert [(entry.kind, entry.ts_ns, entry.source) for entry in inputs()] == [
        (Entry.START, 30, 0), (Entry.LISTED, 30, 0), (Entry.FRAME, 40, 0)
    ]
    decoder = Decoder(make_ingest_state(chosen), chosen)
    counts = list(replay_inputs(decoder, inputs()))
    assert counts == [1, 1, 1] and decoder.terms(0).tick_size == 50 and not decoder.refused
