"""Channels that tell of listings, Kraken's `instrument` and Binance's `!contractInfo`: as documented, not recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from engine.config import Settings
from engine.ingest.dialects import listing_frames, make_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import Kind, Status
from procs.decoding import Decoder
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.market import market_of
from procs.venues.subscriptions import Answer, Wanted
from procs.venues.terms import Terms, terms_after
from tests.embedded_venue import RunningVenue, running_venue
from tests.socket_venue import SocketVenue
from tests.test_ingestion import at, running
from tests.waiting import until

PAIR = Instrument(0, "BTC/USD", "BTC", "USD", 1, 8, 1, 10_000, 50_000_000, dialect=Dialect.KRAKEN_SPOT_V2)
HELD = Terms(1, 10_000, 50_000_000, int(Status.TRADING))
ENTRY = {
    "symbol": "BTC/USD", "base": "BTC", "quote": "USD", "status": "online", "qty_precision": 8, "qty_increment": 1e-8,
    "price_precision": 1, "cost_precision": 5, "marginable": True, "has_index": True, "cost_min": 0.5,
    "margin_initial": 0.2, "position_limit_long": 300, "tick_size": 0.1, "price_increment": 0.1, "qty_min": 0.0001,
}
OTHER = ENTRY | {"symbol": "ETH/USD", "base": "ETH", "status": "work_in_progress"}


def channel(*pairs: dict, kind: str = "update") -> bytes:
    data = {"assets": [{"id": "USD", "status": "enabled"}] if kind == "snapshot" else [], "pairs": list(pairs)}
    return json.dumps({"channel": "instrument", "type": kind, "data": data}).replace(" ", "").encode()


def contract_info(symbol: str, status: str, combined: bool = True) -> bytes:
    event = {
        "e": "contractInfo", "E": 1669356423908, "s": symbol, "ps": symbol, "ct": "PERPETUAL", "dt": 4133404800000,
        "ot": 1569398400000, "cs": status, "bks": [{"bs": 1, "bnf": 0, "bnc": 5000, "mmr": 0.01, "cf": 0, "mi": 21}],
    }
    return json.dumps({"stream": "!contractInfo", "data": event} if combined else event).encode()


# --- what frames say ------------------------------------------------------------------------------------------------


def test_kraken_tells_whole_listings() -> None:
    market = market_of(Dialect.KRAKEN_SPOT_V2)
    for kind in ("snapshot", "update"):
        (news,) = market.news(channel(OTHER, ENTRY, kind=kind), ["BTC/USD", "XBT/EUR"]).values()
        assert isinstance(news, Instrument) and news.status == Status.TRADING
        assert (news.tick_size, news.lot_size, news.min_notional) == (1, 1, 50_000_000)
    halted = channel(ENTRY | {"status": "cancel_only", "price_increment": 0.5})
    (news,) = market.news(halted, ["BTC/USD"]).values()
    assert terms_after(PAIR, HELD, news) == Terms(5, 1, 50_000_000, int(Status.CANCEL_ONLY))
    finer = channel(ENTRY | {"price_precision": 2, "price_increment": 0.05})
    assert terms_after(PAIR, HELD, market.news(finer, ["BTC/USD"])["BTC/USD"]) == replace(HELD, status=Status.MISFIT)


@pytest.mark.parametrize(
    "frame",
    [
        channel(OTHER), channel(), b'{"channel":"book","data":[{"symbol":"BTC/USD"}]}', channel(ENTRY)[:-3],
        b'{"channel":"instrument","data":["BTC/USD"]}', channel({"symbol": "BTC/USD"}), b'{"channel":"instrument"}',
        channel(ENTRY | {"qty_increment": "many"}), b'["BTC/USD"]', b"BTC/USD", b'{"channel":"instrument","data":null}',
    ],
)  # fmt: skip
def test_what_kraken_does_not_say_of_ours_or_cannot_be_understood_is_no_news(frame: bytes) -> None:
    assert market_of(Dialect.KRAKEN_SPOT_V2).news(frame, ["BTC/USD"]) == {}


@pytest.mark.parametrize("dialect", [Dialect.BINANCE_USDM, Dialect.BINANCE_COINM])
def test_binance_tells_the_status_of_contracts(dialect: Dialect) -> None:
    market = market_of(dialect)
    words = {"TRADING": Status.TRADING, "SETTLING": Status.CLOSED, "PENDING_TRADING": Status.HALTED}
    for word, status in words.items():
        for combined in (True, False):
            frame = contract_info("BTCUSDT", word, combined)
            assert market.news(frame, ["BTCUSDT"]) == {"BTCUSDT": status}
            assert market.news(frame, ["ETHUSDT"]) == {}
    for bad in (b"contractInfo", b'{"data":{"e":"contractInfo"}}', b'["contractInfo"]', b'{"e":"trade","s":"BTCUSDT"}'):
        assert market.news(bad, ["BTCUSDT"]) == {}


def test_a_status_alone_leaves_the_terms_and_does_not_make_a_misfit_fit() -> None:
    assert terms_after(PAIR, HELD, Status.HALTED) == replace(HELD, status=int(Status.HALTED))
    misfit = replace(HELD, status=int(Status.MISFIT))
    assert terms_after(PAIR, misfit, Status.TRADING) == misfit
    assert terms_after(PAIR, misfit, Status.CLOSED).status == Status.CLOSED
    assert terms_after(PAIR, HELD, None).status == Status.CLOSED


@pytest.mark.parametrize(
    ("dialect", "frame", "known"),
    [
        (Dialect.KRAKEN_SPOT_V2, channel(OTHER), True),
        (Dialect.BINANCE_USDM, contract_info("IOTAUSDT", "TRADING"), True),
        (Dialect.BINANCE_COINM, contract_info("APTUSD_PERP", "SETTLING", combined=False), True),
        (Dialect.BINANCE_SPOT, contract_info("BTCUSDT", "TRADING"), False),
    ],
)
def test_the_kernels_know_such_frames_and_make_nothing_of_them(dialect: Dialect, frame: bytes, known: bool) -> None:
    items = [replace(PAIR, dialect=dialect)]
    decoder = Decoder(make_state(items), items)
    assert decoder.frame(frame, 1) == 0
    assert decoder.refused == (Reason.NONE if known else Reason.UNKNOWN_STREAM)
    row = decoder.state[0]
    assert int(listing_frames(decoder.state)[0]) == int(known)
    assert int(row["records_in"]) == int(row["processed"] + row["quarantined"].sum() + row["dropped"].sum()) == 1


def test_it_is_subscribed_where_the_settings_want_it() -> None:
    (socket,) = market_of(Dialect.KRAKEN_SPOT_V2).sockets("ws", [PAIR.symbol], FeedSettings())
    asked = [json.loads(request.frame) for request in socket.requests]
    assert asked[-1] == {"method": "subscribe", "params": {"channel": "instrument", "snapshot": True}, "req_id": 4}
    without = FeedSettings(kinds=("book", "ticker", "mark_price"))
    (socket,) = market_of(Dialect.KRAKEN_SPOT_V2).sockets("ws", [PAIR.symbol], without)
    asked = [json.loads(request.frame)["params"] for request in socket.requests]
    assert [params["channel"] for params in asked] == ["book", "ticker"]
    contract = ["BTCUSDT"]
    urls = [item.url for item in market_of(Dialect.BINANCE_USDM).sockets("ws", contract, FeedSettings())]
    assert urls[1].endswith("/market/stream?streams=btcusdt@markPrice@1s/btcusdt@forceOrder/!contractInfo")
    assert "!contractInfo" not in "".join(
        item.url for dialect in (Dialect.BINANCE_USDM, Dialect.BINANCE_COINM)
        for item in market_of(dialect).sockets("ws", contract, without)
    )
    with pytest.raises(ValueError, match="liquidation and listing alone leave a socket silent"):
        market_of(Dialect.BINANCE_USDM).sockets("ws", contract, FeedSettings(kinds=("book", "listing", "liquidation")))


def test_the_answer_to_it_names_no_symbol() -> None:
    market = market_of(Dialect.KRAKEN_SPOT_V2)
    (wanted,) = market.sockets("ws", [PAIR.symbol], FeedSettings())[0].requests[-1].wanted
    ack = b'{"method":"subscribe","req_id":4,"result":{"channel":"instrument","snapshot":true},"success":true}'
    assert market.answer(ack) == Answer((wanted,), True, "") and wanted == Wanted("instrument", "")
    refusal = b'{"method":"subscribe","req_id":4,"error":"Not now","success":false}'
    assert market.answer(refusal) == Answer((wanted,), False, "Not now")


# --- live -----------------------------------------------------------------------------------------------------------

LIVE = replace(Settings(), feed=FeedSettings(listing_refresh_s=0.0, unverified_audit_s=0.0))
BOOK = (
    b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.10000000},'
    b'{"price":45283.4,"qty":1.54582015}],"asks":[{"price":45285.2,"qty":0.00100000},{"price":45286.4,"qty":1.54571953}'
    b'],"checksum":3310070434,"timestamp":"2023-10-06T17:35:55.440295Z"}]}'
)


def kraken(number: int, heard: bytes) -> list[bytes]:
    """Accepts everything; a book, and the list of pairs, come behind."""
    if not heard:
        return [b'{"channel":"heartbeat"}']
    asked = json.loads(heard)
    params = asked["params"]
    if asked["method"] == "unsubscribe":
        return []
    result = {"channel": params["channel"]} | ({"symbol": "BTC/USD"} if "symbol" in params else {})
    ack = json.dumps({"method": "subscribe", "result": result, "success": True, "req_id": asked["req_id"]}).encode()
    behind = {"book": [BOOK], "instrument": [channel(ENTRY | {"qty_increment": 1e-4}, OTHER, kind="snapshot")]}
    return [ack, *behind.get(params["channel"], ())]


def test_a_halt_and_another_tick_are_seen_when_kraken_tells_them(tmp_path: Path) -> None:
    lot = {"qty_increment": 1e-4}
    with (
        SocketVenue(kraken).running() as venue,
        running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, (PAIR,), LIVE) as run,
    ):
        until(lambda: run.ready, "book")
        assert (run.take()["kind"] == Kind.INSTRUMENT).sum() == 1, "the snapshot of the channel says what REST said"
        venue.tell(channel(OTHER), channel(ENTRY | lot | {"status": "cancel_only"}))
        until(lambda: (run.take()["kind"] == Kind.STATUS).sum() == 1, "halt")
        venue.tell(channel(ENTRY | lot | {"price_increment": 0.5}))
        until(lambda: (run.take()["kind"] == Kind.INSTRUMENT).sum() == 2, "epoch")
        until(lambda: not run.ingestion._decoder.state["snapshot_wanted"][0, 0], "book again")
        run.take()
    told = run.records[run.records["kind"] == Kind.STATUS]
    assert told["aux"].tolist() == [Status.CANCEL_ONLY, Status.TRADING]
    anew = run.records[run.records["kind"] == Kind.INSTRUMENT][1]
    assert (anew["price"], anew["size"], anew["sequence"]) == (5, 10_000, 1)
    gaps = run.records[run.records["kind"] == Kind.GAP]
    assert gaps["reason"].tolist() == [Reason.NEW_EPOCH] and int(run.ingestion._decoder.state["resyncs"][0]) == 1
    assert sum(entry.kind == Entry.LISTED for entry in read_stream(tmp_path, "ingestion")) == 2
    assert run.replayed()[0].tobytes() == run.records.tobytes()
    assert run.replayed()[1].tobytes() == run.ingestion._decoder.state.tobytes()


@pytest.fixture
def venue() -> Iterator[RunningVenue]:
    with running_venue() as running_one:
        yield running_one


def test_a_halt_is_seen_when_binance_tells_it(venue: RunningVenue, tmp_path: Path) -> None:
    """The embedded exchange speaks the stream; nothing is read again here but because of it."""
    seldom = replace(Settings(), feed=FeedSettings(listing_refresh_s=3600.0))
    with running(at(venue), tmp_path, 1 << 14, settings=seldom) as run:
        until(lambda: run.ready, "books")
        for number, word in enumerate(("SETTLING", "TRADING"), 1):
            request = {"symbol": "ETHUSDT", "status": word}
            assert requests.post(f"{venue.address.rest_url}/bot4/listing", json=request, timeout=10).status_code == 200
            until(lambda n=number: (run.take()["kind"] == Kind.STATUS).sum() == n, word)  # type: ignore[misc]
        assert run.ingestion._polls.refreshes == 0, "the socket was sooner"
        until(lambda: run.ingestion._polls.refreshes == 1, "the listing is read after that")
    told = run.records[run.records["kind"] == Kind.STATUS]
    assert [(int(row["instrument"]), int(row["aux"])) for row in told] == [(1, Status.CLOSED), (1, Status.TRADING)]
    assert not (run.records["kind"] == Kind.GAP).any()
    assert run.replayed()[0].tobytes() == run.records.tobytes()
