"""The rooms of market data: where their sockets are, what they list, how a book begins again, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import picows
import pytest
import requests

from engine.config import MARKETS, check_trading, settings_from
from engine.ingest.dialects import has_rest_snapshots
from engine.ingest.settings import KINDS, FeedSettings
from engine.instruments import Dialect, Instrument
from engine.records import Kind
from engine.settings import SettingsError, as_plain, build
from procs import market_sockets
from procs.budget import ORDERS, WEIGHT
from procs.config_file import read_settings
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.session_logs import Direction, session_lines
from procs.venues.binance_usdm.endpoints import Endpoints, VenueUnreachable
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.market import Listing, Market, check_feed, ignored_settings, market_of, subscribed
from procs.venues.subscriptions import Answer, Wanted
from shm.clock import python_monotonic_ns, sleep
from tests.market_records import make_instrument
from tests.recordings import require_capture
from tests.socket_venue import SocketVenue
from tests.test_ingestion import running
from tests.test_kraken_futures import BITCOIN, SNAPSHOT, update
from tests.trading_desk import ScriptedServer
from tests.waiting import until
from tools.cli import main

ROOT = "wss://venue"
LISTINGS = {
    Dialect.BINANCE_SPOT: ("ws/binance-spot/cf_20211011_rest_instruments.txt.gz", "/api/v3/exchangeInfo", "NKNUSDT"),
    Dialect.BINANCE_USDM: ("ws/binance-usdm/cf_20210722_rest_instruments.txt.gz", "/fapi/v1/exchangeInfo", "CTKUSDT"),
    Dialect.BINANCE_COINM: (
        "ws/binance-coinm/cf_20210721_rest_instruments.txt.gz", "/dapi/v1/exchangeInfo", "BCHUSD_PERP"
    ),
    Dialect.KRAKEN_SPOT_V2: (
        "ws/kraken-spot-v1/cf_20210417_rest_instruments.txt.gz", "/0/public/AssetPairs", "ADA/BTC"
    ),
    Dialect.KRAKEN_SPOT_V1: (
        "ws/kraken-spot-v1/cf_20210417_rest_instruments.txt.gz", "/0/public/AssetPairs", "ADA/XBT"
    ),
    Dialect.KRAKEN_FUTURES: (
        "ws/kraken-futures/cf_20210722_rest_instruments.txt.gz", "/derivatives/api/v3/instruments", "PI_XBTUSD"
    ),
}


def instruments(dialect: Dialect, *symbols: str) -> tuple[Instrument, ...]:
    return tuple(
        Instrument(index, symbol, symbol[:3], symbol[-3:], 1, 0, 1, 1, 0, dialect=dialect)
        for index, symbol in enumerate(symbols)
    )


def test_every_market_that_can_be_configured_has_a_room() -> None:
    assert {market_of(dialect).dialect for dialect in MARKETS.values()} == set(MARKETS.values()) == set(Dialect)


@pytest.mark.parametrize(
    ("dialect", "symbols", "urls"),
    [
        (
            Dialect.BINANCE_USDM, ("BTCUSDT", "ETHUSDT"),
            [
                "wss://venue/public/stream?streams=btcusdt@depth@0ms/btcusdt@bookTicker/btcusdt@trade/"
                "ethusdt@depth@0ms/ethusdt@bookTicker/ethusdt@trade",
                "wss://venue/market/stream?streams=btcusdt@markPrice@1s/btcusdt@forceOrder/"
                "ethusdt@markPrice@1s/ethusdt@forceOrder/!contractInfo",
            ],
        ),
        (
            Dialect.BINANCE_SPOT, ("BTCUSDT",),
            ["wss://venue/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade"],
        ),
        (
            Dialect.BINANCE_COINM, ("BTCUSD_PERP",),
            ["wss://venue/stream?streams=btcusd_perp@depth@0ms/btcusd_perp@bookTicker/btcusd_perp@trade/"
             "btcusd_perp@markPrice@1s/btcusd_perp@forceOrder/!contractInfo"],
        ),
        (Dialect.KRAKEN_SPOT_V2, ("BTC/USD",), ["wss://venue/v2"]),
        (Dialect.KRAKEN_SPOT_V1, ("XBT/USD",), ["wss://venue"]),
        (Dialect.KRAKEN_FUTURES, ("PI_XBTUSD",), ["wss://venue/ws/v1"]),
    ],
)  # fmt: skip
def test_sockets(dialect: Dialect, symbols: tuple[str, ...], urls: list[str]) -> None:
    market = market_of(dialect)
    sockets = market.sockets(ROOT, symbols, FeedSettings())
    assert [socket.url for socket in sockets] == urls
    requests_ = [request for socket in sockets for request in socket.requests]
    assert bool(requests_) != has_rest_snapshots(dialect)
    named = {item.symbol for request in requests_ for item in request.wanted if item.channel != "instrument"}
    assert named == (set(symbols) if requests_ else set())
    again = market.ask_again(instruments(dialect, *symbols)[0], FeedSettings())
    assert bool(again) != has_rest_snapshots(dialect)
    if again:
        leave, enter = again
        assert "unsubscribe" in leave.frame.decode() and not leave.wanted
        assert [item.channel for item in enter.wanted] == ["book-100" if dialect == Dialect.KRAKEN_SPOT_V1 else "book"]


@pytest.mark.parametrize(
    ("dialect", "interval_ms", "name"),
    [
        (Dialect.BINANCE_USDM, 250, "depth"), (Dialect.BINANCE_USDM, 100, "depth@100ms"),
        (Dialect.BINANCE_USDM, 500, "depth@500ms"), (Dialect.BINANCE_COINM, 250, "depth"),
        (Dialect.BINANCE_SPOT, 1000, "depth"), (Dialect.BINANCE_SPOT, 100, "depth@100ms"),
    ],
)  # fmt: skip
def test_a_depth_stream_of_the_usual_interval_has_none_in_its_name(
    dialect: Dialect, interval_ms: int, name: str
) -> None:
    """As the venue documents them; `@depth@250ms` is accepted and silent."""
    feed = FeedSettings(kinds=("book",), book_interval_ms=interval_ms)
    (socket,) = market_of(dialect).sockets(ROOT, ["BTCUSDT"], feed)
    assert socket.url.endswith(f"/stream?streams=btcusdt@{name}")


def test_what_is_subscribed_is_what_the_settings_say() -> None:
    feed = FeedSettings(kinds=("trade", "book"), book_interval_ms=500)
    (socket,) = market_of(Dialect.BINANCE_USDM).sockets(ROOT, ["BTCUSDT"], feed)
    assert socket.url == "wss://venue/public/stream?streams=btcusdt@depth@500ms/btcusdt@trade"
    feed = FeedSettings(kinds=("book", "liquidation"), book_levels=25)
    (socket,) = market_of(Dialect.KRAKEN_FUTURES).sockets(ROOT, ["PI_XBTUSD"], feed)
    assert [json.loads(request.frame)["feed"] for request in socket.requests] == ["heartbeat", "book", "trade"]
    (socket,) = market_of(Dialect.KRAKEN_SPOT_V2).sockets(ROOT, ["BTC/USD"], feed)
    assert [json.loads(request.frame)["params"] for request in socket.requests] == [
        {"channel": "book", "symbol": ["BTC/USD"], "snapshot": True, "depth": 25}
    ]
    leave, enter = market_of(Dialect.KRAKEN_SPOT_V2).ask_again(instruments(Dialect.KRAKEN_SPOT_V2, "BTC/USD")[0], feed)
    assert [json.loads(request.frame)["params"]["depth"] for request in (leave, enter)] == [25, 25]


@pytest.mark.parametrize(
    ("market", "feed", "words"),
    [
        ("binance_spot", {"book_interval_ms": 500}, "feed.book_interval_ms = 500: this market tells its books every"),
        ("kraken_spot", {"book_levels": 50}, "feed.book_levels = 50: this market has 10, 25, 100, 500, 1000"),
        ("binance_usdm", {"kinds": ["trade"]}, "feed.kinds = \\['trade'\\]: allowed are 'book' and others of"),
        ("binance_usdm", {"kinds": ["book", "candles"]}, "feed.kinds = "),
        ("binance_usdm", {"kinds": ["book", "book"]}, "feed.kinds = "),
        ("binance_usdm", {"kinds": ["book", "liquidation"]}, "liquidation alone leave a socket silent"),
    ],
)  # fmt: skip
def test_a_feed_that_the_market_does_not_have_is_refused_before_the_start(
    tmp_path: Path, market: str, feed: dict, words: str
) -> None:
    path = tmp_path / "bot4.toml"
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in feed.items())
    path.write_text(
        f'[venue]\nmarket = "{market}"\nembedded = false\nrest_url = "https://a"\nws_url = "wss://a"\n[feed]\n{lines}\n'
    )
    with pytest.raises(SettingsError, match=words):
        check_feed(read_settings(path))


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", LISTINGS)
def test_instruments_as_the_venue_listed_them(dialect: Dialect) -> None:
    name, path, symbol = LISTINGS[dialect]
    lines = session_lines(require_capture(name))
    body = next(line.data for line in lines if line.direction is Direction.REST)
    market = market_of(dialect)
    with ScriptedServer(lambda method, asked: (200, body) if asked == path else (404, b"")) as server:
        listing = market.fetch_listing(server.url, [symbol])
        (item,) = listing.instruments
        assert (item.index, item.symbol, item.dialect) == (0, symbol, dialect)
        assert item.tick_size > 0 and item.lot_size > 0
        assert {limit.kind for limit in listing.rate_limits} >= {WEIGHT, ORDERS}
        with pytest.raises(ValueError, match="does not list NONSENSE"):
            market.fetch_listing(server.url, [symbol, "NONSENSE"])
    assert (item.contract_value > 0) == (dialect in (Dialect.BINANCE_COINM, Dialect.KRAKEN_FUTURES))


@pytest.mark.parametrize("dialect", LISTINGS)
@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"{}", b"[]", b'{"error":["EService:Unavailable"]}'])
def test_a_listing_that_is_none(dialect: Dialect, body: bytes) -> None:
    with ScriptedServer(lambda method, path: (200, body)) as server, pytest.raises(VenueUnreachable, match=server.url):
        market_of(dialect).fetch_listing(server.url, ["BTCUSDT"])
    with ScriptedServer(lambda method, path: (503, body)) as server, pytest.raises(VenueUnreachable, match="HTTP 503"):
        market_of(dialect).fetch_listing(server.url, ["BTCUSDT"])


@pytest.mark.parametrize(
    ("dialect", "path", "weight"),
    [(Dialect.BINANCE_SPOT, "/api/v3/depth", 50), (Dialect.BINANCE_USDM, "/fapi/v1/depth", 20),
     (Dialect.BINANCE_COINM, "/dapi/v1/depth", 20)],
)  # fmt: skip
def test_a_snapshot_is_asked_for_where_the_market_has_it_and_costs_what_the_venue_says(
    dialect: Dialect, path: str, weight: int
) -> None:
    with ScriptedServer(lambda method, asked: (200, asked.encode())) as server, requests.Session() as session:
        assert market_of(dialect).fetch_book(session, server.url, "BTCUSDT") == path.encode()
        assert server.requests == [("GET", path, {"symbol": "BTCUSDT", "limit": "1000"})]
    assert cost_of("GET", f"{path}?symbol=BTCUSDT&limit=1000") == (weight, 0)


@pytest.mark.parametrize(
    ("status", "body", "words", "reason"),
    [
        (451, b'{"code":0,"msg":"Service unavailable\\n from a restricted location"}',
         ': HTTP 451 not served where we are: {"code":0,"msg":"Service unavailable', "HTTP 451"),
        (503, b"<html>be back soon", ": HTTP 503 Service Unavailable: a page of HTML instead of data", "HTTP 503"),
        (200, b"\n <!DOCTYPE html><p>maintenance", ": a page of HTML instead of data",
         "a page of HTML instead of data"),
        (418, b"", ": HTTP 418 banned for a time", "HTTP 418"),
        (599, b"\xff" * 999, ": HTTP 599: " + "\ufffd" * 160, "HTTP 599"),
    ],
)  # fmt: skip
def test_what_a_venue_says_instead_of_answering_is_named(status: int, body: bytes, words: str, reason: str) -> None:
    with ScriptedServer(lambda method, path: (status, body)) as server, requests.Session() as session:
        with pytest.raises(VenueUnreachable) as caught:
            market_of(Dialect.BINANCE_USDM).fetch_book(session, server.url, "BTCUSDT")
        assert words in str(caught.value) and caught.value.reason == reason
    with requests.Session() as session, pytest.raises(VenueUnreachable) as caught:
        market_of(Dialect.BINANCE_USDM).fetch_book(session, server.url, "BTCUSDT")
    assert caught.value.reason == "ConnectionError"


@pytest.mark.parametrize("dialect", [Dialect.KRAKEN_SPOT_V2, Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_FUTURES])
def test_books_that_come_over_the_socket_are_not_fetched(dialect: Dialect) -> None:
    with requests.Session() as session, pytest.raises(VenueUnreachable, match="over the socket"):
        market_of(dialect).fetch_book(session, "http://127.0.0.1:1", "BTC/USD")


def test_a_refusal_of_kraken_spot_names_what_it_refuses() -> None:
    market = market_of(Dialect.KRAKEN_SPOT_V2)
    refusal = b'{"method":"subscribe","error":"Currency pair not supported","success":false,"symbol":"A/B","req_id":2}'
    assert market.answer(refusal) == Answer((Wanted("trade", "A/B"),), False, "Currency pair not supported")
    unclear = refusal.replace(b',"req_id":2', b"")
    assert market.answer(unclear) == Answer((), False, "Currency pair not supported")
    assert market.answer(b'{"channel":"heartbeat"}') is None


def test_kraken_spot_v1_asks_for_the_touch_as_it_changes_and_tells_a_refusal_from_a_pair_that_was_left() -> None:
    market, symbols = market_of(Dialect.KRAKEN_SPOT_V1), ("XBT/USD", "ETH/USD")
    feed = of_symbols({"book_levels": 25}, **{"ETH/USD": {"kinds": ["book"], "book_levels": 10}})
    (socket,) = market.sockets(ROOT, symbols, feed)
    asked = [json.loads(request.frame) for request in socket.requests]
    assert [(message["event"], message["pair"], message["subscription"]) for message in asked] == [
        ("subscribe", ["XBT/USD"], {"name": "book", "depth": 25}),
        ("subscribe", ["ETH/USD"], {"name": "book", "depth": 10}),
        ("subscribe", ["XBT/USD"], {"name": "trade"}),
        ("subscribe", ["XBT/USD"], {"name": "spread"}),
    ]
    told = {"channelName": "book-25", "event": "subscriptionStatus", "pair": "XBT/USD", "status": "subscribed",
            "subscription": {"depth": 25, "name": "book"}}  # fmt: skip
    wanted = (Wanted("book-25", "XBT/USD"),)
    assert market.answer(json.dumps(told).encode()) == Answer(wanted, True, "")
    assert market.answer(json.dumps(told | {"status": "unsubscribed"}).encode()) is None
    del told["channelName"]
    refused = told | {"status": "error", "errorMessage": "Subscription depth not supported"}
    assert market.answer(json.dumps(refused).encode()) == Answer(wanted, False, "Subscription depth not supported")
    assert {item for request in socket.requests for item in request.wanted} > set(wanted)


# --- over a socket --------------------------------------------------------------------------------------------------


def kraken_futures(number: int, frame: bytes) -> list[bytes]:
    """What the venue answers to a subscription: one answer a product, and a snapshot of a book."""
    if not frame:
        return [b'{"event":"info","version":1}']
    asked = json.loads(frame)
    if asked["feed"] == "heartbeat":
        return [b'{"event":"subscribed","feed":"heartbeat"}', b'{"feed":"heartbeat","time":1534262350627}']
    answers = [
        json.dumps({"event": f"{asked['event']}d", "feed": asked["feed"], "product_ids": [name]}).encode()
        for name in asked["product_ids"]
    ]
    return [*answers, SNAPSHOT] if (asked["event"], asked["feed"]) == ("subscribe", "book") else answers



def contract() -> tuple[Instrument, ...]:
    item = BITCOIN["PI_XBTUSD"]
    return (Instrument(**(item.as_dict() | {"dialect": Dialect.KRAKEN_FUTURES})),)


def test_a_book_with_a_gap_is_subscribed_again_and_only_that(tmp_path: Path) -> None:
    with SocketVenue(kraken_futures).running() as venue:
        with running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, contract()) as run:
            until(lambda: run.ready, "book")
            asked = len(venue.heard)
            venue.tell(update(326072250), update(326072252))
            until(lambda: len(venue.heard) == asked + 2, "new subscription")
            until(lambda: not run.ingestion._decoder.state["snapshot_wanted"][0, 0], "book again")
            venue.tell(update(326072250))
            until(lambda: int((run.take()["kind"] == Kind.LEVEL).sum()) == 4 + 1 + 4 + 1, "levels")
        assert venue.connections == 1
        assert not run.ingestion._decoder.state["quarantined"].any()
    assert [json.loads(frame)["event"] for frame in venue.heard[asked:]] == ["unsubscribe", "subscribe"]
    assert int((run.records["kind"] == Kind.GAP).sum()) == 1
    assert run.replayed()[0].tobytes() == run.records.tobytes()


def test_a_cut_connection_is_a_loss_and_brings_a_new_book(tmp_path: Path) -> None:
    with (
        SocketVenue(kraken_futures).running() as venue,
        running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, contract()) as run,
    ):
        until(lambda: run.ready, "book")
        venue.cut()
        until(lambda: venue.connections == 2, "second connection")
        until(lambda: int((run.take()["kind"] == Kind.LEVEL).sum()) == 8, "second snapshot")
    kinds = [Entry(entry.kind) for entry in read_stream(tmp_path, "ingestion") if entry.kind == Entry.LOST]
    assert len(kinds) == 1 and int((run.records["kind"] == Kind.GAP).sum()) == 1


def test_a_refused_subscription_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(market_sockets, "_WATCH_S", 0.02)

    def refusing_at_first(number: int, frame: bytes) -> list[bytes]:
        if number < 2 and frame:
            return [b'{"event":"error","message":"Invalid feed"}', b'{"feed":"heartbeat","time":1}']
        return kraken_futures(number, frame)

    with (
        SocketVenue(refusing_at_first).running() as venue,
        running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, contract()) as run,
    ):
        until(lambda: run.ready, "book")
        assert venue.connections == 3
    said = [line for line in capfd.readouterr().out.splitlines() if "refused" in line]
    said_so = f"ingestion: {venue.url}/ws/v1: refused: Invalid feed"  # of as many as were answered when it looked
    assert said and all(line.removeprefix(said_so).replace(", Invalid feed", "") == "" for line in said)


def test_a_venue_that_shows_everybody_out_is_not_stormed(tmp_path: Path) -> None:
    with (
        SocketVenue(kraken_futures).running() as venue,
        running(Endpoints("http://127.0.0.1:1", venue.url), tmp_path, 1 << 12, contract()),
    ):
        end = python_monotonic_ns() + 3_000_000_000
        while python_monotonic_ns() < end:
            venue.cut()
            sleep(0.02)
        assert 2 <= venue.connections <= 9  # after 0.1, 0.25, 0.5, 1 s ..., half of it at the least


def of_symbols(feed: dict[str, Any], **symbols: dict[str, Any]) -> FeedSettings:
    return build(FeedSettings, feed | {"symbols": symbols}, "feed")


def test_a_symbol_may_have_a_subscription_of_its_own() -> None:
    feed = of_symbols({"kinds": ["book", "mark_price"], "book_interval_ms": 500}, ETHUSDT={"book_interval_ms": 0},
                      BNBUSDT={"kinds": ["book", "trade"]})  # fmt: skip
    public, other = market_of(Dialect.BINANCE_USDM).sockets(ROOT, ["BTCUSDT", "ETHUSDT", "BNBUSDT"], feed)
    assert public.url == (
        "wss://venue/public/stream?streams=btcusdt@depth@500ms/ethusdt@depth@0ms/bnbusdt@depth@500ms/bnbusdt@trade"
    )
    assert other.url == "wss://venue/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s"


def test_the_ticker_of_kraken_spot_is_told_when_the_best_bid_or_offer_changes() -> None:
    """By itself the venue tells it when there was a trade."""
    (socket,) = market_of(Dialect.KRAKEN_SPOT_V2).sockets(ROOT, ["BTC/USD"], FeedSettings())
    asked = {params["channel"]: params for params in (json.loads(item.frame)["params"] for item in socket.requests)}
    assert asked["ticker"] == {"channel": "ticker", "symbol": ["BTC/USD"], "snapshot": True, "event_trigger": "bbo"}
    assert not any("event_trigger" in asked[channel] for channel in ("book", "trade", "instrument"))


def test_pairs_of_kraken_of_several_depths_are_asked_for_apart() -> None:
    feed = of_symbols({"kinds": ["book", "trade"]}, **{"ETH/USD": {"book_levels": 10}, "XRP/USD": {"kinds": ["book"]}})
    symbols = ("BTC/USD", "ETH/USD", "XRP/USD")
    market = market_of(Dialect.KRAKEN_SPOT_V2)
    (socket,) = market.sockets(ROOT, symbols, feed)
    assert [json.loads(request.frame)["params"] for request in socket.requests] == [
        {"channel": "book", "symbol": ["BTC/USD", "XRP/USD"], "snapshot": True, "depth": 100},
        {"channel": "book", "symbol": ["ETH/USD"], "snapshot": True, "depth": 10},
        {"channel": "trade", "symbol": ["BTC/USD", "ETH/USD"], "snapshot": True},
    ]
    items = instruments(Dialect.KRAKEN_SPOT_V2, *symbols)
    assert [item.book_depth for item in subscribed(market, Listing(items, ()), feed)] == [100, 10, 100]
    for item, depth in zip(items, (100, 10, 100), strict=True):
        again = [json.loads(request.frame)["params"] for request in market.ask_again(item, feed)]
        assert [(params["symbol"], params["depth"]) for params in again] == [([item.symbol], depth)] * 2


def test_contracts_of_kraken_that_want_less_are_left_out_of_a_feed() -> None:
    feed = of_symbols({}, PI_ETHUSD={"kinds": ["book"]})
    (socket,) = market_of(Dialect.KRAKEN_FUTURES).sockets(ROOT, ["PI_XBTUSD", "PI_ETHUSD"], feed)
    asked = [json.loads(request.frame) for request in socket.requests]
    assert {message["feed"]: message.get("product_ids") for message in asked} == {
        "heartbeat": None, "book": ["PI_XBTUSD", "PI_ETHUSD"], "trade": ["PI_XBTUSD"], "ticker": ["PI_XBTUSD"],
    }


@pytest.mark.parametrize(
    ("market", "symbol", "own", "message"),
    [
        ("binance_usdm", "BTCUSDT", {"book_interval_ms": 300}, r"feed\.symbols\.BTCUSDT\.book_interval_ms = 300"),
        ("kraken_spot", "BTC/USD", {"book_levels": 11}, r"feed\.symbols\.BTC/USD\.book_levels = 11: this market"),
        ("binance_usdm", "BTCUSDT", {"kinds": ["trade"]}, r"feed\.symbols\.BTCUSDT\.kinds = \['trade'\]: allowed are"),
        ("binance_usdm", "BTCUSD", {"kinds": ["book"]}, r"feed\.symbols\.BTCUSD: allowed are those of venue\.symbols"),
        ("binance_usdm", "BTCUSDT", {"book_depth": 5}, r"feed\.symbols\.BTCUSDT\.book_depth: unknown key"),
    ],
)
def test_what_a_symbol_cannot_have_is_said_with_its_key(
    market: str, symbol: str, own: dict[str, Any], message: str
) -> None:
    listed = ["BTC/USD"] if market == "kraken_spot" else ["BTCUSDT", "ETHUSDT"]
    venue = {"market": market, "symbols": listed, "embedded": False, "rest_url": "http://x", "ws_url": "ws://x"}
    with pytest.raises(SettingsError, match=message):
        check_feed(settings_from({"venue": venue, "feed": {"symbols": {symbol: own}}}))


@pytest.mark.parametrize(
    ("market", "symbols", "feed", "said"),
    [
        ("binance_usdm", ["BTCUSDT"], {"book_levels": 20},
         ["feed.book_levels = 20: binance_usdm tells of every level"]),
        ("binance_usdm", ["BTCUSDT"], {"book_interval_ms": 100}, []),
        ("binance_spot", ["BTCUSDT"], {"kinds": ["book"], "book_interval_ms": 100}, []),
        ("binance_spot", ["BTCUSDT"], {"kinds": ["book", "open_interest"], "liquidation_min_usd": 5.0},
         ["feed.kinds: binance_spot has no open_interest",
          "feed.liquidation_min_usd = 5.0: binance_spot has no liquidations"]),
        ("kraken_spot", ["BTC/USD", "ETH/USD"], {"kinds": ["book"], "book_levels": 25, "book_interval_ms": 250},
         ["feed.book_interval_ms = 250: kraken_spot tells every change"]),
        ("kraken_futures", ["PI_XBTUSD", "PI_ETHUSD"],
         {"kinds": ["book"], "symbols": {"PI_ETHUSD": {"book_levels": 10, "kinds": ["book", "listing"]}},
          "open_interest_interval_s": 5.0},
         ["feed.symbols.PI_ETHUSD.kinds: kraken_futures has no listing",
          "feed.symbols.PI_ETHUSD.book_levels = 10: kraken_futures tells of every level",
          "feed.open_interest_interval_s = 5.0: kraken_futures has no open interest to ask for by REST"]),
        ("binance_spot", ["BTCUSDT"], {},
         ["feed.kinds: binance_spot has no mark_price, liquidation, open_interest, listing"]),
    ],
)  # fmt: skip
def test_what_a_market_does_not_have_is_said_and_not_silently_ignored(
    market: str, symbols: list[str], feed: dict[str, Any], said: list[str]
) -> None:
    venue = {"market": market, "symbols": symbols, "embedded": False, "rest_url": "http://x", "ws_url": "ws://x"}
    settings = settings_from({"venue": venue, "feed": feed})
    check_feed(settings)
    assert list(ignored_settings(settings)) == said


def test_a_quiet_socket_that_answers_pings_is_kept_and_a_dead_one_is_not() -> None:
    """Binance says nothing by itself for minutes; a market with heartbeats of its own is not asked."""
    now = [0]

    def connection_of(dialect: Dialect) -> market_sockets._Connection:
        market = market_of(dialect)
        sockets = market.sockets(ROOT, ["BTCUSD"], FeedSettings())
        owner = market_sockets.MarketSockets(market, sockets, lambda *_: None, lambda _: None, lambda: now[0], print)
        return market_sockets._Connection(owner, 0)

    quiet, pong = connection_of(Dialect.BINANCE_COINM), Mock(msg_type=picows.WSMsgType.PONG)
    for second in range(1, 300):
        now[0] = second * 10**9
        quiet.on_ws_frame(Mock(), pong)
        assert quiet.fault(now[0]) == ""
    now[0] += 4 * 10**9
    quiet.on_ws_frame(Mock(), pong)
    assert quiet.fault(now[0]) == "no data for 300 s"
    now[0] += 6 * 10**9
    assert quiet.fault(now[0]) == "nothing was heard for 5 s"
    now[0] = 0
    beating = connection_of(Dialect.KRAKEN_SPOT_V2)
    now[0] = 5 * 10**9 + 1
    beating.on_ws_frame(Mock(), pong)
    assert beating.fault(now[0]) == "no data for 5 s"
    rules = {name: market_of(dialect).connection_rule for name, dialect in MARKETS.items()}
    assert {name for name in rules if rules[name].ping_s} == {name for name in MARKETS if name.startswith("binance")}


# --- configuration --------------------------------------------------------------------------------------------------


def test_a_market_that_takes_no_orders_can_be_configured_but_not_traded() -> None:
    venue = {"market": "kraken_spot", "embedded": False, "rest_url": "https://a", "ws_url": "wss://a"}
    settings = settings_from({"venue": venue})
    with pytest.raises(SettingsError, match="orders go to binance_usdm alone"):
        check_trading(settings)
    with pytest.raises(SettingsError, match=r"venue\.credentials_file = '': needed"):
        check_trading(settings_from({"venue": venue | {"market": "binance_usdm"}}))
    with pytest.raises(SettingsError, match=r"when venue\.embedded is true"):
        settings_from({"venue": {"market": "kraken_spot"}})


def test_several_connections_need_a_venue_that_numbers_what_it_sends() -> None:
    venue = {"embedded": False, "rest_url": "https://a", "ws_url": "wss://a"}
    for market in MARKETS:
        settings = settings_from({"venue": venue | {"market": market}, "feed": {"connections": 2}})
        if market.startswith("kraken_spot"):
            with pytest.raises(SettingsError, match=r"allowed is 1; kraken_spot(_v1)? does not number"):
                check_feed(settings)
        else:
            check_feed(settings)
    with pytest.raises(SettingsError, match=r"feed\.connections = 4: allowed is a whole number from 1 to 3"):
        settings_from({"feed": {"connections": 4}})


def test_the_embedded_exchange_speaks_as_the_market_that_is_configured() -> None:
    spot = settings_from({"venue": {"market": "binance_spot"}})
    assert spot.embedded.market == "binance_spot" and settings_from({}).embedded.market == "binance_usdm"
    assert settings_from(as_plain(spot)) == spot
    with pytest.raises(SettingsError, match="orders go to binance_usdm alone; this one can be recorded"):
        check_trading(spot)
    real = {"market": "binance_spot", "embedded": False, "rest_url": "https://a", "ws_url": "wss://a"}
    assert settings_from({"venue": real}).embedded.market == "binance_spot"
    assert settings_from({"venue": real, "embedded": {"market": "binance_usdm"}}).embedded.market == "binance_usdm"
    assert settings_from({"venue": real | {"market": "kraken_spot"}}).embedded.market == "binance_usdm"


@pytest.mark.parametrize(
    ("venue", "embedded", "words"),
    [
        ({}, {"market": "binance_spot"},
         "embedded.market = 'binance_spot': allowed is venue.market = 'binance_usdm' when venue.embedded is true"),
        ({"market": "binance_coinm"}, {},
         "venue.market = 'binance_coinm': allowed is binance_usdm or binance_spot when venue.embedded is true"),
        ({}, {"market": "kraken_spot"}, "embedded.market = 'kraken_spot': allowed is one of"),
        ({"market": "binance_spot"}, {"spot": {"holdings": ["BTC=1", "DOGE=5"]}},
         "embedded: spot.holdings: 'DOGE=5': allowed is one ASSET=AMOUNT each of BTC, USDT, ETH"),
        ({"market": "binance_spot"}, {"spot": {"holdings": ["BTC=1", "BTC=2"]}}, "spot.holdings: 'BTC=2'"),
        ({"market": "binance_spot"}, {"spot": {"holdings": ["BTC"]}}, "spot.holdings: 'BTC': '' is not a number"),
        ({"market": "binance_spot"}, {"spot": {"holdings": ["BTC=-1"]}}, "allowed are amounts from 0"),
        ({"market": "binance_spot"}, {"taker_fee": "1"}, "taker_fee = '1': allowed is 0 to below 1"),
    ],
)
def test_a_market_that_the_embedded_exchange_cannot_be_is_said_plainly(venue: dict, embedded: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        settings_from({"venue": venue, "embedded": embedded})


def test_the_contract_is_kept_by_every_room() -> None:
    for dialect in MARKETS.values():
        market: Market = market_of(dialect)
        for name in (
            "fetch_listing", "list_again", "fetch_open_interest", "sockets", "book_depth", "fetch_book", "ask_again",
            "answer", "news", "fetch_audit", "parse_listing",
        ):
            assert callable(getattr(market, name)) and getattr(market, name).__doc__


def test_the_command_shows_what_the_rooms_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["venues", "--json"]) == 0
    offered = json.loads(capsys.readouterr().out)
    assert list(offered) == list(MARKETS) and [name for name in offered if offered[name]["orders"]] == ["binance_usdm"]
    for market in offered.values():
        assert set(market["kinds"]) <= set(KINDS) and "book" in market["kinds"]
    assert main(["venues"]) == 0
    assert "proof of the book   checksum of ten levels" in capsys.readouterr().out


def test_instruments_know_how_deep_their_books_are_subscribed_to() -> None:
    item = make_instrument()
    for name, asked, told in (("kraken_spot", 25, 25), ("kraken_spot_v1", 0, 100), ("kraken_futures", 0, 0)):
        market = market_of(MARKETS[name])
        (found,) = subscribed(market, Listing((item,), ()), FeedSettings(book_levels=asked))
        assert found == replace(item, book_depth=told)


def test_an_answer_is_waited_for_from_when_it_was_asked_for() -> None:
    """A book is asked for again over a socket that has stood for long: its answer has as much time as the first."""
    now = [0]
    market = market_of(Dialect.KRAKEN_FUTURES)
    sockets = market.sockets(ROOT, [item.symbol for item in contract()], FeedSettings())
    owner = market_sockets.MarketSockets(market, sockets, lambda *_: None, lambda _: None, lambda: now[0], print)
    connection = market_sockets._Connection(owner, 0)
    connection.transport = Mock()
    now[0] = connection.last_frame_ns = connection.heard_ns = 60_000_000_000
    connection.send(market.ask_again(contract()[0], FeedSettings()))
    assert connection.fault(now[0]) == ""
    connection.last_frame_ns = connection.heard_ns = now[0] + 11_000_000_000
    assert connection.fault(now[0] + 11_000_000_000) == "1 subscriptions were not answered"
