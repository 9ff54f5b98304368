"""Audits by REST from the request to the verdict: bodies as inputs, who is asked when, and sessions that replay."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from engine.config import MARKETS, Settings, settings_from
from engine.ingest.dialects import make_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import Flag, Kind
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs import rest_audits
from procs.decoding import Decoder
from procs.integrity.script import RECORDINGS, script_of
from procs.integrity.side import EngineSide
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.rest_audits import RestAudits
from procs.table import Role
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.market import audit_period_s, market_of
from procs.wire_player.kraken_spot import KrakenSpotV2
from procs.wire_player.sequence import Item, What
from tests.embedded_venue import running_venue
from tests.instance_memory import own_budget
from tests.market_records import run_stage
from tests.recordings import recordings_root, require_capture
from tests.test_ingestion import at, running
from tests.trading_desk import ScriptedServer
from tests.waiting import run_tasks, until

PAIR = Instrument(0, "BTC/USD", "BTC", "USD", 5, 8, 1, 1, 0, venue=3, dialect=Dialect.KRAKEN_SPOT_V2)
# A message as it is among the fixtures of public code, and as the venue documents it.
DEPTH = (
    b'{"error":[],"result":{"XXBTZUSD":{"asks":[["29727.10000","0.420",1654302625],["29728.30000","5.047",1654302622]],'
    b'"bids":[["29727.00000","3.127",1654302625],["29725.10000","0.085",1654302625]]}}}'
)
SNAPSHOT = b'{"lastUpdateId":%d,"E":7,"T":7,"bids":[["100.00","1.000"]],"asks":[["101.00","2.000"]]}'


def decoder_of(item: Instrument) -> Decoder:
    return Decoder(make_state([item]), [item])


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_a_body_of_kraken_is_levels_that_no_book_is_made_of() -> None:
    decoder = decoder_of(PAIR)
    assert decoder.audit(0, DEPTH, 5) == 4 and decoder.refused == Reason.NONE
    rows = decoder.records[:4]
    assert rows["kind"].tolist() == [Kind.AUDIT_LEVEL] * 4 and rows["side"].tolist() == [1, 1, -1, -1]
    assert rows["price"].tolist() == [2972700000, 2972510000, 2972710000, 2972830000]
    assert rows["size"].tolist() == [312700000, 8500000, 42000000, 504700000]
    assert set(rows["aux"].tolist()) == {100_000}, "three decimals are printed of eight"
    assert rows["flags"].tolist() == [Flag.FIRST, 0, 0, Flag.LAST] and not rows["sequence"].any()
    assert set(rows["ingest_id"].tolist()) == {1} and set(rows["venue"].tolist()) == {3}
    row = decoder.state[0]
    assert row["snapshot_wanted"][0] == 1 and row["snapshots_applied"][0] == 0 and row["processed"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":["EQuery:Unknown asset pair"]}', Reason.BAD_JSON), (DEPTH[:-2], Reason.BAD_JSON),
        (b'{"error":[],"result":{}}', Reason.BAD_JSON), (b"<html>", Reason.BAD_JSON), (b"", Reason.BAD_JSON),
        (b'{"error":[],"result":{"A":{"asks":[],"bids":[]}}}', Reason.EMPTY_SNAPSHOT),
        (DEPTH.replace(b'"error":[]', b'"error":["EService:Busy"]'), Reason.BAD_JSON),
        (DEPTH.replace(b"}}}", b'},"B":{}}}'), Reason.BAD_JSON), (DEPTH.replace(b"3.127", b"3.x"), Reason.BAD_NUMBER),
        (DEPTH.replace(b'"bids"', b'"kids"'), Reason.BAD_JSON), (b'{"error":', Reason.BAD_JSON),
        (b'{"result":{"A":', Reason.BAD_JSON), (b'{"result":{', Reason.BAD_JSON), (b'{"error":[', Reason.BAD_JSON),
    ],
)  # fmt: skip
def test_a_body_that_is_none_is_refused_and_counted(body: bytes, reason: Reason) -> None:
    decoder = decoder_of(PAIR)
    assert decoder.audit(0, body, 5) == 0 and decoder.refused == reason
    row = decoder.state[0]
    assert row["quarantined"][reason] == 1 == row["records_in"]


def test_a_body_of_binance_has_its_update_id_and_leaves_the_sequence_alone() -> None:
    item = replace(PAIR, symbol="BTCUSDT", price_exp=2, size_exp=3, dialect=Dialect.BINANCE_USDM)
    decoder = decoder_of(item)
    decoder.snapshot(0, SNAPSHOT % 10, 5)
    before = decoder.state.copy()
    assert decoder.audit_begins(0, 6) == 1 and decoder.records[0]["kind"] == Kind.AUDIT
    assert decoder.audit(0, SNAPSHOT % 99, 7) == 2
    rows = decoder.records[:2]
    assert rows["sequence"].tolist() == [99, 99] and rows["aux"].tolist() == [1, 1]
    for name in ("snapshot_wanted", "last_update_id", "bridged", "resyncs", "snapshots_applied", "book_ts_ns"):
        assert (decoder.state[name] == before[name]).all(), name
    assert decoder.audit(5, SNAPSHOT % 99, 7) == 0 and decoder.refused == Reason.UNKNOWN_SYMBOL
    futures = decoder_of(replace(PAIR, dialect=Dialect.KRAKEN_FUTURES))
    assert futures.audit(0, DEPTH, 5) == 0 and futures.refused == Reason.UNKNOWN_STREAM


def test_an_audit_that_finds_no_room_costs_no_book() -> None:
    decoder = decoder_of(PAIR)
    decoder.start(1)
    decoder.state["snapshot_wanted"] = 0
    for entry in (JournalEntry(Entry.AUDIT_ASKED, 1, 5, 0, 1, b""), JournalEntry(Entry.AUDIT, 2, 6, 0, 1, DEPTH)):
        assert decoder.apply(entry) > 0
        assert decoder.dropped(7) == 0 and decoder.state["snapshot_wanted"][0, 0] == 0


# --- who is asked, and when -----------------------------------------------------------------------------------------


def test_what_is_audited_is_what_the_settings_say() -> None:
    asked = FeedSettings(rest_audit_s=60.0, unverified_audit_s=20.0)
    for name, dialect in MARKETS.items():
        market = market_of(dialect)
        usual = audit_period_s(Settings(), market)
        unproven = replace(Settings(), validation=ValidationSettings(checksums=False))
        assert usual == 0.0, "books that are proven are audited only when that is asked for"
        assert audit_period_s(unproven, market) == (30.0 if name.startswith("kraken_spot") else 0.0)
        expected = 0.0 if name == "kraken_futures" else 60.0
        assert audit_period_s(replace(Settings(), feed=asked), market) == expected
    assert cost_of("GET", "/0/public/Depth?pair=XBTUSD&count=100") == (1, 0)
    assert cost_of("GET", "/fapi/v1/depth?symbol=BTCUSDT&limit=100") == (5, 0)
    with pytest.raises(ValueError, match="unverified_audit_s"):
        settings_from({"feed": {"unverified_audit_s": -1.0}})


class Auditing:
    """Audits against a scripted server, for as long as a test looks."""

    def __init__(self, url: str, period_s: float = 0.1, window_s: float = 0.05, symbols: int = 3) -> None:
        self.events: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.valid = [True] * symbols
        self.doubted: set[int] = set()
        names = [f"A{index}/USD" for index in range(symbols)]
        self.budget = own_budget()
        self.audits = RestAudits(
            market_of(Dialect.KRAKEN_SPOT_V2), self.budget, url, names, period_s, window_s, self._asked,
            lambda index, body: self.events.append(("answer", index)), lambda index: self.valid[index],
            lambda index: index in self.doubted, self.said.append,
        )

    def _asked(self, index: int) -> bool:
        self.events.append(("asked", index))
        return True

    def run(self, done: Callable[[], bool]) -> None:
        run_tasks(self.audits.tasks, done)
        self.audits.close()
        assert done()


def test_books_take_turns_one_at_a_time_and_every_request_is_paid_for() -> None:
    with ScriptedServer(lambda method, path: (200, DEPTH)) as server:
        auditing = Auditing(server.url)
        auditing.valid[1] = False
        auditing.run(lambda: len(auditing.events) >= 8)
        assert auditing.events[:8] == [
            (what, index) for index in (0, 2, 0, 2) for what in ("asked", "answer")
        ]
        method, path, query = server.requests[0]
        assert (method, path, query) == ("GET", "/0/public/Depth", {"pair": "A0USD", "count": "100"})
        assert auditing.budget.report()["taken"] == len(server.requests)
        off = Auditing(server.url, period_s=0.0)
        off.run(lambda: True)
        assert off.events == []


def test_a_book_in_doubt_comes_first_and_a_request_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_audits, "_LADDER_S", (0.02,))
    monkeypatch.setattr(rest_audits, "_IN_DOUBT_S", 0.02)
    answers = [503, 503, 200]
    with ScriptedServer(lambda method, path: (answers.pop(0) if len(answers) > 1 else answers[0], DEPTH)) as server:
        auditing = Auditing(server.url, period_s=30.0)
        auditing.doubted = {2}
        auditing.run(lambda: ("answer", 2) in auditing.events)
        assert {index for _, index in auditing.events} == {2}
        assert len(auditing.said) == 1 and "HTTP 503" in auditing.said[0]
        assert auditing.audits.refusals.counts == {"HTTP 503": 2}


# --- a whole ingestion ----------------------------------------------------------------------------------------------


def test_live_books_are_audited_and_the_journal_gives_the_same_again(tmp_path: Path) -> None:
    """Over the embedded exchange, whose depth bodies have an update id."""
    feed = FeedSettings(rest_audit_s=0.5)
    chosen = replace(Settings(), feed=feed, validation=ValidationSettings(rest_audit_window_ms=200))
    with running_venue() as venue, running(at(venue), tmp_path, 1 << 15, settings=chosen) as run:
        until(lambda: run.ready, "books")
        run.mapping.state(Role.VALIDATION)["instruments"]["announced"][0, :2] = 1  # nobody validates here
        until(lambda: run.take() is not None and run.ingestion._audits.answers >= 6, "audits")
        until(lambda: len(run.take()) > 3_000, "records")
    records, state = run.replayed()
    assert records.tobytes() == run.records.tobytes() and state.tobytes() == run.ingestion._decoder.state.tobytes()
    kinds = [entry.kind for entry in read_stream(tmp_path, "ingestion")]
    assert kinds.count(Entry.AUDIT) >= 6 and kinds.count(Entry.AUDIT_ASKED) - kinds.count(Entry.AUDIT) in (0, 1)
    judged = make_validation_state(chosen.validation, run.mapping.plan.instruments)
    out = run_stage(VALIDATION, judged, records)
    counts = judged["rest_audits"][0]
    assert counts["agreed"][:2].min() >= 2 and not counts["disagreed"].any()
    assert not np.isin(out["kind"], (Kind.AUDIT, Kind.AUDIT_LEVEL, Kind.BOOK_INVALID)).any()
    row = judged[0]
    assert row["records_in"] == row["processed"] + row["quarantined"].sum() + row["dropped"].sum()
    # A level that is missing at the venue alone: the same session with one size of every answer altered.
    altered = records.copy()
    first = (altered["kind"] == Kind.AUDIT_LEVEL) & (altered["flags"] & Flag.FIRST != 0)
    altered["size"][first] += 7
    again = make_validation_state(chosen.validation, run.mapping.plan.instruments)
    out = run_stage(VALIDATION, again, altered)
    invalid = out[out["kind"] == Kind.BOOK_INVALID]
    assert set(invalid["reason"].tolist()) == {int(Reason.REST_MISMATCH)} and len(invalid) >= 1


def test_the_player_tells_kraken_books_over_rest_too(tmp_path: Path) -> None:
    venue = KrakenSpotV2()
    frame = (
        b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.10000000},'
        b'{"price":45283.4,"qty":1.54582015}],"asks":[{"price":45285.2,"qty":0.00100000}],"checksum":1}]}'
    )
    item = Item(1, 0, What.FRAME, frame, 1, "book BTC/USD")
    venue.learn(item)
    venue.see(item)
    answer = venue.rest("/0/public/Depth", {"pair": "XBTUSD", "count": "1"}, 5_000_000_000)
    assert answer.status == 200 and orjson.loads(answer.body or b"") == {
        "error": [],
        "result": {"XBTUSD": {"asks": [["45285.2", "0.001", 5]], "bids": [["45283.5", "0.100", 5]]}},
    }
    assert b"Unknown asset pair" in (venue.rest("/0/public/Depth", {"pair": "ADAUSD"}, 5).body or b"")
    decoder = decoder_of(replace(PAIR, price_exp=1))
    assert decoder.audit(0, venue.rest("/0/public/Depth", {"pair": "XBT/USD"}, 5).body or b"", 1) == 3
    listener = venue.open("/v2", {})
    assert listener is not None
    request = {"method": "subscribe", "params": {"channel": "instrument", "snapshot": True}, "req_id": 4}
    (ack,) = venue.answer(listener, orjson.dumps(request))
    assert (found := market_of(Dialect.KRAKEN_SPOT_V2).answer(ack)) is not None and found.accepted and found.wanted


# --- recordings -----------------------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", [Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM])
def test_recorded_books_agree_with_what_rest_would_have_said_however_late_the_socket_is(dialect: Dialect) -> None:
    """Recorded frames reach the engine up to a second late, in order; the player answers as of the moment it is asked.

    With one level of each answer altered, audits disagree.
    """
    require_capture(RECORDINGS[dialect][0])
    played = script_of(recordings_root(), dialect)
    for seed, alters in ((1, False), (2, False), (3, True)):
        draw = random.Random(seed)
        unminded = ValidationSettings(rest_audit_disagreements=1_000)
        side, place = EngineSide(played.instruments, unminded), played.starts[1]
        venue = pickle.loads(place.venue)
        item, symbol = played.items[place.first], played.instruments[0].symbol
        side.start(item.ts_ns)
        side.snapshot(0, venue.rest("/depth", {"symbol": symbol, "limit": "1000"}, item.ts_ns).body, item.ts_ns)
        due: list[tuple[int, int, Callable[[int], object]]] = []  # what reaches the engine, by time
        number, heard_ns, next_ns = 0, item.ts_ns, item.ts_ns
        clock_ns = item.ts_ns
        for item in played.items[place.first :]:
            if item.ts_ns > played.items[place.first].ts_ns + 25 * 10**9:
                break
            if item.ts_ns >= next_ns:
                if number % 2 == 0:
                    due.append((item.ts_ns, number, lambda now: side.audit_begins(0, now)))  # noqa: B023
                    next_ns = item.ts_ns + 1_600_000_000
                else:
                    body = venue.rest("/depth", {"symbol": symbol, "limit": "100"}, item.ts_ns).body
                    if alters:
                        told = orjson.loads(body)
                        told["bids"][draw.randrange(5)][1] = "123.0"
                        body = orjson.dumps(told)
                    at_ns = item.ts_ns + draw.randint(1, 100) * 1_000_000
                    due.append((at_ns, number, lambda now, body=body: side.audit(0, body, now)))  # type: ignore[misc]  # noqa: B023
                    next_ns = at_ns + 1_600_000_000
                number += 1
            venue.see(item)
            heard_ns = max(heard_ns, item.ts_ns + draw.choice((0, 0, 5, 200, 1_000)) * 1_000_000)
            if item.what is What.FRAME:
                due.append((heard_ns, -1, lambda now, data=item.data: side.frame(data, now)))  # type: ignore[misc]  # noqa: B023
            due.sort(key=lambda one: one[0])
            while due and due[0][0] <= item.ts_ns:
                at_ns, _, action = due.pop(0)
                clock_ns = max(clock_ns, at_ns)
                action(clock_ns)
            side.timer(item.ts_ns)
        counts = side.validation["rest_audits"][0, 0]
        assert side.valid == [True] and counts["agreed"] + counts["disagreed"] >= 5
        if alters:  # an altered level may be one of those that the next diff changes, which are left out
            assert counts["disagreed"] > 2 * counts["agreed"]
        else:
            assert counts["disagreed"] == 0, seed
