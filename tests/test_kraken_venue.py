"""Kraken's lists of instruments, requests for subscriptions, and the answers that have to be looked for."""

from __future__ import annotations

import gzip
import json

import orjson
import pytest

from engine.ingest.kraken_state import FrameKind
from engine.instruments import Dialect
from engine.records import Status
from procs.session_logs import Direction, session_lines
from procs.venues.kraken_futures import instruments as futures_instruments
from procs.venues.kraken_futures import subscriptions as futures_subscriptions
from procs.venues.kraken_spot import instruments as spot_instruments
from procs.venues.kraken_spot.subscriptions import answer_v1, answer_v2, subscribe_v1, subscribe_v2
from procs.venues.subscriptions import Subscriptions, Wanted
from tests.kraken_oracle import (
    FUTURES_CAPTURE,
    FUTURES_LISTING,
    PRODUCTS,
    V1_CAPTURES,
    V1_LISTING,
    V1_PAIRS,
    Session,
    instrument,
    rest_body,
)
from tests.recordings import require_capture
from tests.test_kraken_spot import REFUSAL
from tests.test_kraken_spot_v2 import OTHERS

PAIR = {
    "wsname": "XBT/USDT", "base": "XXBT", "quote": "USDT", "pair_decimals": 1, "lot_decimals": 8, "lot_multiplier": 1,
    "ordermin": "0.00005", "costmin": "0.5", "tick_size": "0.1", "status": "online",
}  # fmt: skip


def asset_pairs(**changes: object) -> bytes:
    entry = {name: value for name, value in (PAIR | changes).items() if value is not None}
    return orjson.dumps({"error": [], "result": {"XBTUSDT": entry}})


def test_a_pair_of_today() -> None:
    (item,) = spot_instruments.instruments_from_asset_pairs(asset_pairs(), ["XBT/USDT"], venue=2)
    assert (item.symbol, item.base, item.quote, item.venue) == ("XBT/USDT", "BTC", "USDT", 2)
    assert (item.price_exp, item.size_exp, item.tick_size, item.lot_size) == (1, 8, 1, 1)
    assert item.min_notional == 50_000_000
    (item,) = spot_instruments.instruments_from_asset_pairs(asset_pairs(), ["XBT/USDT"], v2=True)
    assert item.symbol == "BTC/USDT"
    (item,) = spot_instruments.instruments_from_asset_pairs(asset_pairs(tick_size="0.5"), ["XBT/USDT"])
    assert item.tick_size == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (asset_pairs(wsname="ETH/USDT"), "does not list XBT/USDT"),
        (asset_pairs(pair_decimals=None), "XBT/USDT: pair_decimals is missing"),
        (asset_pairs(tick_size="0.05"), "XBT/USDT: '0.05' is not a whole number"),
        (b'{"error":["EGeneral:Too many requests"]}', "EGeneral:Too many requests"),
        (b"<html>", "not a list of pairs"),
        (b"[]", "not a list of pairs"),
    ],
)
def test_bad_lists_of_pairs_say_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spot_instruments.instruments_from_asset_pairs(body, ["XBT/USDT"])


def test_the_recorded_list_of_pairs() -> None:
    body = rest_body(V1_LISTING)
    listed = orjson.loads(body)["result"]
    pairs = spot_instruments.parse_asset_pairs(body)
    dark = [name for name in listed if name.endswith(".d")]
    assert dark and len(pairs) == len(listed) - len(dark)
    assert not any(entry["rest_name"].endswith(".d") for entry in pairs.values())
    assert pairs["XBT/USD"]["rest_name"] == "XXBTZUSD"
    items = [spot_instruments.instrument_from_pair(entry, 0) for entry in pairs.values()]
    assert {item.symbol: item.price_exp for item in items} == {
        entry["wsname"]: entry["pair_decimals"] for name, entry in listed.items() if name not in dark
    }
    assert all(item.tick_size == 1 and item.lot_size == 1 for item in items)
    assert spot_instruments.v2_symbol("XDG/XBT") == "DOGE/BTC"
    assert all(spot_instruments.status_of(entry) == Status.TRADING for entry in pairs.values())


def test_pairs_of_the_instrument_channel_have_exponents() -> None:
    frame = (
        b'{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"SHIB/USD","base":"SHIB",'
        b'"quote":"USD","status":"online","qty_precision":5,"qty_increment":1e-05,"price_precision":9,'
        b'"price_increment":1e-09,"cost_min":0.5,"cost_precision":8,"qty_min":50000}]}}'
    )
    (item,) = spot_instruments.instruments_from_channel(frame, ["SHIB/USD"])
    assert (item.price_exp, item.tick_size, item.size_exp, item.lot_size) == (9, 1, 5, 1)
    assert (item.base, item.quote, item.min_notional) == ("SHIB", "USD", 50_000_000)
    spot = Session([instrument("SHIB/USD")], Dialect.KRAKEN_SPOT_V2)
    assert spot.frame(frame) == 0 and spot.frames_of() == {FrameKind.METADATA: 1}
    for bad, message in (
        (frame.replace(b"1e-09", b"1e-10"), "SHIB/USD: '1e-10' is not a whole number"),
        (frame.replace(b'"price_precision":9,', b""), "price_precision is missing"),
        (b'{"channel":"heartbeat"}', "not a frame of the instrument channel"),
        (b"[1]", "not a frame of the instrument channel"),
    ):
        with pytest.raises(ValueError, match=message):
            spot_instruments.instruments_from_channel(bad, ["SHIB/USD"])
    with pytest.raises(ValueError, match="does not list BTC/USD"):
        spot_instruments.instruments_from_channel(frame, ["BTC/USD"])


def test_the_recorded_list_of_contracts() -> None:
    body = rest_body(FUTURES_LISTING)
    listed = futures_instruments.parse_instruments(body)
    products = [entry for entry in json.loads(body)["instruments"] if "tickSize" in entry]
    assert sorted(listed) == sorted(entry["symbol"].upper() for entry in products)
    items = futures_instruments.instruments_from_rest(body, PRODUCTS)
    assert [item.symbol for item in items] == list(PRODUCTS)
    ticks = {entry["symbol"].upper(): entry["tickSize"] for entry in products}
    for item in items:
        assert item.tick_size / 10**item.price_exp == ticks[item.symbol]
        assert (item.size_exp, item.lot_size, item.quote) == (0, 1, "USD")
        assert futures_instruments.is_inverse(listed[item.symbol])
        assert (item.status == Status.TRADING) == (listed[item.symbol]["tradeable"] is True)
    assert {item.base for item in items} == {"BTC", "ETH", "XRP", "LTC", "BCH"}


def test_contracts_of_today() -> None:
    texts = json.loads(gzip.decompress(require_capture("fixtures/kraken_nautilus.json.gz").read_bytes()))
    body = texts["http_futures_instruments.json"].encode()
    names = ["pf_ethusd", "PF_PEPEUSD", "PI_XBTUSD"]
    ether, pepe, bitcoin = futures_instruments.instruments_from_rest(body, names)
    assert (ether.price_exp, ether.tick_size, ether.size_exp, ether.lot_size) == (1, 1, 3, 1)
    assert (pepe.price_exp, pepe.tick_size, pepe.size_exp, pepe.lot_size) == (10, 1, 0, 1000)
    assert (bitcoin.price_exp, bitcoin.tick_size, bitcoin.base) == (1, 5, "BTC")
    assert not futures_instruments.is_inverse(futures_instruments.parse_instruments(body)["PF_ETHUSD"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"result":"error","error":"apiLimitExceeded"}', "apiLimitExceeded"),
        (b'{"result":"success","instruments":[]}', "does not list PI_XBTUSD"),
        (b'{"result":"success","instruments":[{"symbol":"PI_XBTUSD","type":"futures_inverse"}]}', "tickSize is"),
        (b"<html>", "not a list of contracts"),
    ],
)
def test_bad_lists_of_contracts_say_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        futures_instruments.instruments_from_rest(body, ["PI_XBTUSD"])


@pytest.mark.parametrize(("capture", "channel"), list(zip(V1_CAPTURES, ["trade", "ticker", "book"])))
def test_the_recorded_subscriptions_of_spot(capture: str, channel: str) -> None:
    """Our request is the recorded one, and the recorded answers complete it."""
    lines = list(session_lines(require_capture(capture)))
    (sent,) = [line.data for line in lines if line.direction is Direction.SENT]
    frame, wanted = subscribe_v1(channel, V1_PAIRS, depth=1000 if channel == "book" else 0)
    assert orjson.loads(frame) == orjson.loads(sent)
    subscriptions = Subscriptions()
    subscriptions.ask(wanted)
    assert not subscriptions.complete()
    for line in lines:
        if line.direction is Direction.RECEIVED:
            subscriptions.take(answer_v1(line.data))
    assert subscriptions.accepted == set(wanted)
    assert subscriptions.complete()


def test_the_recorded_subscriptions_of_futures() -> None:
    lines = list(session_lines(require_capture(FUTURES_CAPTURE)))
    sent = [orjson.loads(line.data) for line in lines if line.direction is Direction.SENT]
    subscriptions = Subscriptions()
    for request in sent:
        frame, wanted = futures_subscriptions.subscribe(request["feed"], request["product_ids"])
        ours = orjson.loads(frame)
        assert ours == request | {"product_ids": [name.upper() for name in request["product_ids"]]}
        subscriptions.ask(wanted)
    for line in lines:
        if line.direction is Direction.RECEIVED:
            subscriptions.take(futures_subscriptions.answer(line.data))
    assert subscriptions.complete() and len(subscriptions.accepted) == 30


def test_refusals_are_found() -> None:
    subscriptions = Subscriptions()
    _, wanted = subscribe_v1("book", ["XBT/USD", "ETH/USD"], depth=10)
    subscriptions.ask(wanted)
    subscriptions.take(answer_v1(REFUSAL.replace(b"42", b"10")))
    assert subscriptions.refused == {Wanted("book-10", "XBT/USD"): "Subscription depth not supported"}
    assert subscriptions.pending == {Wanted("book-10", "ETH/USD")}
    subscriptions.ask(wanted[:1])
    assert not subscriptions.refused
    subscriptions.take(answer_v1(b'{"errorMessage":"Malformed request","event":"error"}'))
    assert subscriptions.unexplained == ["Malformed request"] and not subscriptions.complete()


def test_answers_of_v2_by_name_or_by_number() -> None:
    frame, wanted = subscribe_v2("book", ["BTC/USD", "ETH/USD"], request=1, depth=10)
    assert orjson.loads(frame) == {
        "method": "subscribe", "req_id": 1,
        "params": {"channel": "book", "symbol": ["BTC/USD", "ETH/USD"], "depth": 10, "snapshot": True},
    }  # fmt: skip
    requests = {1: wanted}
    assert answer_v2(OTHERS[FrameKind.ACK], requests) == (wanted[:1], True, "")
    refusal = answer_v2(OTHERS[FrameKind.REFUSAL], requests)
    assert refusal == (wanted[:1], False, "Subscription depth not supported")
    nameless = answer_v2(b'{"error":"tea","method":"subscribe","success":false,"req_id":1}', requests)
    assert nameless == (wanted, False, "tea")
    assert answer_v2(b'{"error":"Malformed","success":false}', requests) == ((), False, "Malformed")
    for kind in (FrameKind.HEARTBEAT, FrameKind.STATUS, FrameKind.PONG, FrameKind.PAST_TRADES):
        assert answer_v2(OTHERS[kind], requests) is None


def test_refusals_of_futures_name_nothing() -> None:
    assert futures_subscriptions.answer(b'{"event":"alert","message":"no"}') == ((), False, "no")
    assert futures_subscriptions.answer(b'{"feed":"heartbeat"}') is None
    for frame in (b"[1]", b"x", b'{"event":"subscribed"}'):
        assert futures_subscriptions.answer(frame) is None
        assert answer_v1(frame) is None
        assert answer_v2(frame, {}) is None


def test_a_book_of_another_depth_is_not_asked_for() -> None:
    for subscribe in (lambda: subscribe_v1("book", ["XBT/USD"], 42), lambda: subscribe_v2("book", ["BTC/USD"], 1, 42)):
        with pytest.raises(ValueError, match="not 42"):
            subscribe()
