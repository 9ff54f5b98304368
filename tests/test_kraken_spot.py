"""Kraken spot v1: every shape, and every recorded frame against an oracle, dict books and the venue's checksums."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from engine.book.book import book_top
from engine.ingest.kraken_kernel import KRAKEN_OUTBOX_RECORDS
from engine.ingest.kraken_state import FrameKind, make_kraken_state
from engine.instruments import Dialect
from engine.integrity.checked_book import check_records, make_checked_books
from engine.integrity.wire_checksum import unpack_checksum
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, Side
from engine.stage import as_bytes
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs
from tests.kraken_oracle import (
    V1_CAPTURES,
    V1_LISTING,
    V1_PAIRS,
    Row,
    Session,
    TextBook,
    decode_v1,
    instrument,
    received,
    rest_body,
    rows_of,
)
from tests.recordings import require_capture

T0 = 1_616_333_924_737_428_000
SNAPSHOT = (
    b'[320,{"as":[["39090.60000","0.00007039","1622714245.847093"],["39094.90000","0.20000000","1622714255.810162"]],'
    b'"bs":[["39071.40000","7.93106570","1622714255.963942"]]},"book-25","XBT/USD"]'
)
UPDATE = b'[320,{"b":[["39071.40000","7.26106570","1622714256.068601"]],"c":"2040672112"},"book-25","XBT/USD"]'
BOTH = (
    b'[320,{"a":[["39090.60000","0.02203518","1622766170.577187"],["39095.00000","0.50000000","1622766170.577187","r"]]'
    b'},{"b":[["38800.00000","0.00000000","1622766170.577304"]],"c":"2479000840"},"book-25","XBT/USD"]'
)
TRADES = (
    b'[321,[["57126.70000","0.02063928","1616333924.737428","b","m",""],["57126.60000","1.00000000",'
    b'"1616333924.737429","s","l",""]],"trade","XBT/USD"]'
)
TICKER = (
    b'[340,{"a":["29938.60000",12,"12.41074632"],"b":["29938.50000",0,"0.08410000"],"c":["29938.60000","0.10146338"],'
    b'"v":["735.06931643","5243.60824494"]},"ticker","XBT/USD"]'
)
SPREAD = b'[341,["31760.00000","31760.10000","1654031976.197239","0.02167307","6.46761464"],"spread","XBT/USD"]'
ACK = (
    b'{"channelID":1665,"channelName":"trade","event":"subscriptionStatus","pair":"XBT/USD","status":"subscribed",'
    b'"subscription":{"name":"trade"}}'
)
REFUSAL = (
    b'{"errorMessage":"Subscription depth not supported","event":"subscriptionStatus","pair":"XBT/USD",'
    b'"status":"error","subscription":{"depth":42,"name":"book"}}'
)
STATUS = b'{"connectionID":18239578009413566319,"event":"systemStatus","status":"online","version":"1.8.3"}'
EVENTS = {
    FrameKind.ACK: ACK,
    FrameKind.REFUSAL: REFUSAL,
    FrameKind.STATUS: STATUS,
    FrameKind.HEARTBEAT: b'{"event":"heartbeat"}',
    FrameKind.PONG: b'{"event":"pong","reqid":42}',
}
CORPUS = (SNAPSHOT, UPDATE, BOTH, TRADES, TICKER, SPREAD, *EVENTS.values())
BITCOIN = {"XBT/USD": instrument("XBT/USD")}


def session() -> Session:
    return Session(list(BITCOIN.values()), Dialect.KRAKEN_SPOT_V1)


def test_a_book_snapshot() -> None:
    spot = session()
    records = spot.records(SNAPSHOT, T0)
    assert rows_of(records) == decode_v1(SNAPSHOT, BITCOIN)
    assert records["flags"].tolist() == [Flag.SNAPSHOT | Flag.FIRST, Flag.SNAPSHOT, Flag.SNAPSHOT | Flag.LAST]
    assert set(records["recv_ts_ns"]) == {T0} and set(records["ingest_id"]) == {1} and set(records["venue"]) == {5}
    assert (spot.row["price_decimals"][0], spot.row["size_decimals"][0]) == (5, 8)
    assert spot.row["snapshot_wanted"][0] == 0


def test_updates_of_one_side_and_of_both() -> None:
    spot = session()
    spot.frame(SNAPSHOT)
    for frame, checksum in ((UPDATE, 2040672112), (BOTH, 2479000840)):
        records = spot.records(frame)
        assert rows_of(records) == decode_v1(frame, BITCOIN)
        told = unpack_checksum(records["aux"][-1])
        assert told == (True, checksum, True, 5, 8)
        assert (records["aux"][:-1] == 0).all()
    assert records["price"].tolist() == [390906, 390950, 388000], "a republished level is a level"
    assert records["flags"].tolist() == [Flag.FIRST, 0, Flag.LAST]


def test_an_update_without_a_snapshot_is_dropped() -> None:
    spot = session()
    assert spot.frame(UPDATE) == 0
    assert spot.reasons("dropped") == {Reason.NO_SNAPSHOT: 1}
    spot.frame(SNAPSHOT)
    assert spot.frame(UPDATE) == 1
    assert spot.lost(-1, 7, 2) == 1
    assert (spot.outbox["kind"][0], spot.outbox["aux"][0]) == (Kind.GAP, 7)
    assert spot.lost(-1, 0, 2) == 0, "a book that waits has had its GAP"
    assert spot.frame(UPDATE) == 0
    spot.frame(SNAPSHOT)
    assert int(spot.row["resyncs"]) == 1 and int(spot.row["gaps"]) == 1
    assert spot.balances()


@pytest.mark.parametrize("frame", [TRADES, TICKER, SPREAD], ids=["trade", "ticker", "spread"])
def test_trades_and_quotes(frame: bytes) -> None:
    records = session().records(frame)
    assert rows_of(records) == decode_v1(frame, BITCOIN)
    assert records["flags"].tolist() == [Flag.FIRST, Flag.LAST]


@pytest.mark.parametrize("kind", EVENTS)
def test_events_are_told_apart(kind: FrameKind) -> None:
    spot = session()
    assert spot.frame(EVENTS[kind]) == 0
    assert spot.frames_of() == {kind: 1}
    assert spot.balances()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (SNAPSHOT.replace(b"XBT/USD", b"XBT/EUR"), Reason.UNKNOWN_SYMBOL),
        (SNAPSHOT.replace(b"book-25", b"book-26"), Reason.UNKNOWN_STREAM),
        (b'[343,["1675209613.118218","1675209660.000000"],"ohlc-1","XBT/USD"]', Reason.UNKNOWN_STREAM),
        (b'{"event":"tea"}', Reason.UNKNOWN_STREAM),
        (b"{}", Reason.UNKNOWN_STREAM),
        (SNAPSHOT.replace(b"39090.60000", b"39090.65000"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"39090.60000", b""), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"39090.60000", b"NaN"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"7.93106570", b"7.9310657000001"), Reason.BAD_NUMBER),
        (UPDATE.replace(b"2040672112", b"4294967296"), Reason.BAD_NUMBER),
        (UPDATE.replace(b"2040672112", b"-1"), Reason.BAD_NUMBER),
        (b'[6304,{"as":[],"bs":[]},"book-25","XBT/USD"]', Reason.EMPTY_SNAPSHOT),
        (b'[6304,{"as":[],"a":[]},"book-25","XBT/USD"]', Reason.BAD_JSON),
        (SNAPSHOT.replace(b'"bs"', b'"b"'), Reason.BAD_JSON),
        (SNAPSHOT.replace(b'"bs"', b'"xs"'), Reason.BAD_JSON),
        (UPDATE.replace(b'"b"', b'"bs"'), Reason.BAD_JSON),
        (b'[6304,{"c":"1"},"book-25","XBT/USD"]', Reason.BAD_JSON),
        (b'[6304,{"a":[],"a":[]},"book-25","XBT/USD"]', Reason.BAD_JSON),
        (TRADES.replace(b'"s"', b'"x"'), Reason.BAD_JSON),
        (b"<html>", Reason.BAD_JSON),
        (b"", Reason.BAD_JSON),
        (b"[", Reason.BAD_JSON),
        (SNAPSHOT + b"x", Reason.BAD_JSON),
    ],
)
def test_refusals_change_nothing_but_counters(frame: bytes, reason: Reason) -> None:
    spot = session()
    spot.frame(SNAPSHOT, T0)
    before = spot.state.copy()
    assert spot.frame(frame, T0 + 10**9) == -reason
    assert spot.reasons("quarantined") == {reason: 1}
    assert spot.balances()
    for name in set(spot.state.dtype.names or ()) - {"frames", "records_in", "quarantined", "value_at", "inner_at"}:
        np.testing.assert_array_equal(spot.state[name], before[name], name)


def test_the_most_levels_of_a_frame() -> None:
    level = b'["1.0","1","1.0"]'
    for count, answer in ((4096, 4096), (4097, -Reason.FRAME_TOO_LARGE)):
        frame = b'[1,{"as":[],"bs":[' + b",".join([level] * count) + b']},"book-1000","XBT/USD"]'
        assert session().frame(frame) == answer


def test_clock_start_and_timer() -> None:
    spot = session()
    assert spot.start(T0) == 1
    assert (spot.outbox["kind"][0], spot.outbox["price"][0]) == (Kind.INSTRUMENT, 1)
    assert spot.timer(T0 + 20_000_000) == 1
    assert spot.outbox["kind"][0] == Kind.CLOCK and spot.outbox["recv_ts_ns"][0] % 10_000_000 == 0
    assert spot.frame(SNAPSHOT, T0 + 40_000_000) == 4
    assert spot.outbox["kind"][0] == Kind.CLOCK
    small = np.zeros(KRAKEN_OUTBOX_RECORDS - 1, MARKET)
    spot.outbox = small
    with pytest.raises(ValueError, match="outbox"):
        spot.timer(T0)


def test_states_refuse_impossible_instruments() -> None:
    v1 = [replace(instrument("XBT/USD", index=index), dialect=Dialect.KRAKEN_SPOT_V1) for index in range(2)]
    with pytest.raises(ValueError, match="taken"):
        make_kraken_state(v1)
    with pytest.raises(ValueError, match="KRAKEN_SPOT_V1, KRAKEN_SPOT_V2"):
        make_kraken_state([v1[0], replace(instrument("ETH/USD", index=1), dialect=Dialect.KRAKEN_SPOT_V2)])
    with pytest.raises(ValueError, match="BINANCE_USDM is another venue's"):
        make_kraken_state([instrument("XBT/USD")])


def test_every_recorded_frame_is_what_the_oracle_says() -> None:
    items = instruments_from_asset_pairs(rest_body(V1_LISTING), V1_PAIRS)
    by_symbol = {item.symbol: item for item in items}
    spot = Session(items, Dialect.KRAKEN_SPOT_V1)
    frames: Counter[FrameKind] = Counter()
    kinds: Counter[Kind] = Counter()
    snapshot_levels = 0
    events = {"systemStatus": FrameKind.STATUS, "heartbeat": FrameKind.HEARTBEAT, "subscriptionStatus": FrameKind.ACK}
    channels = {"trade": FrameKind.TRADES, "ticker": FrameKind.TICKER}
    for capture in V1_CAPTURES:
        for recv_ts_ns, frame in received(capture):
            message = json.loads(frame)
            expected = decode_v1(frame, by_symbol)
            assert rows_of(spot.records(frame, recv_ts_ns)) == expected
            kinds.update(Kind(row.kind) for row in expected)
            if isinstance(message, dict):
                frames[events[message["event"]]] += 1
            elif message[-2] in channels:
                frames[channels[message[-2]]] += 1
            else:
                is_snapshot = "as" in message[1]
                frames[FrameKind.BOOK_SNAPSHOT if is_snapshot else FrameKind.BOOK_UPDATE] += 1
                snapshot_levels += len(expected) if is_snapshot else 0
    assert spot.frames_of() == dict(frames)
    assert spot.decoded() == dict(kinds)
    assert int(spot.row["snapshot_levels"]) == snapshot_levels
    assert frames[FrameKind.BOOK_UPDATE] == 4269 and sum(frames.values()) == 4430
    assert not spot.reasons("quarantined") and not spot.reasons("dropped")
    assert spot.balances()


def test_every_recorded_checksum_agrees_and_every_book_is_that_of_the_text() -> None:
    """The kernel's checksum from integers, the rule on the text of the wire, and the venue's own: all three equal."""
    items = instruments_from_asset_pairs(rest_body(V1_LISTING), V1_PAIRS)
    by_symbol = {item.symbol: item for item in items}
    spot = Session(items, Dialect.KRAKEN_SPOT_V1)
    checks, books = make_checked_books(items, dict.fromkeys(range(len(items)), 1000))
    text_books = {item.symbol: TextBook(1000) for item in items}
    compared = 0
    for recv_ts_ns, frame in received(V1_CAPTURES[2]):
        records = spot.records(frame, recv_ts_ns)
        if len(records) == 0:
            continue
        assert check_records(as_bytes(checks), as_bytes(books), as_bytes(records), len(records)) == 0
        message = json.loads(frame)
        book = text_books[message[-1]]
        for part in message[1:-2]:
            for key, levels in part.items():
                if key != "c":
                    for price, size, *_ in levels:
                        book.apply(key[0] == "b", price, size)
        book.cut()
        if "c" in message[-3]:
            assert book.checksum() == int(message[-3]["c"])
            compared += 1
    assert compared == int(checks["verified"].sum()) == 4269
    assert int(checks["mismatched"].sum()) == int(checks["crossed"].sum()) == 0
    assert checks["valid"][0, : len(items)].all()
    prices, sizes = np.zeros(1001, np.int64), np.zeros(1001, np.int64)
    for symbol, item in by_symbol.items():
        for side, levels in zip((Side.BUY, Side.SELL), text_books[symbol].levels(item)):
            found = book_top(books, item.index, side, 1001, prices, sizes)
            assert list(zip(prices[:found].tolist(), sizes[:found].tolist())) == levels


def best_ten(books: np.ndarray, index: int) -> list[tuple[int, int]]:
    """The levels that the checksum covers, asks first."""
    prices, sizes = np.zeros(10, np.int64), np.zeros(10, np.int64)
    levels: list[tuple[int, int]] = []
    for side in (Side.SELL, Side.BUY):
        found = book_top(books, index, side, 10, prices, sizes)
        levels += zip(prices[:found].tolist(), sizes[:found].tolist())
    return levels


def test_a_book_that_lost_a_frame_is_never_valid_with_other_best_levels() -> None:
    """One recorded update is left out, 200 times. Most losses show in the next checksum of the pair.

    The rest lie behind the best ten, which stay those of the whole session for as long as the book counts as valid.
    """
    items = instruments_from_asset_pairs(rest_body(V1_LISTING), V1_PAIRS)
    session = Session(items, Dialect.KRAKEN_SPOT_V1)
    frames = [frame for _, frame in received(V1_CAPTURES[2])]
    groups: dict[int, list[np.ndarray]] = {item.index: [] for item in items}
    for records in filter(len, map(session.records, frames)):
        groups[int(records["instrument"][0])].append(records)
    truth: dict[int, list[list[tuple[int, int]]]] = {}
    depths = dict.fromkeys(range(len(items)), 1000)
    for index, group in groups.items():
        checks, books = make_checked_books(items, depths)
        truth[index] = []
        for records in group:
            check_records(as_bytes(checks), as_bytes(books), as_bytes(records), len(records))
            truth[index].append(best_ten(books, index))
    source = random.Random(5)
    found_after: Counter[int] = Counter()
    for _ in range(200):
        index = source.randrange(len(items))
        group = groups[index]
        lost = source.randrange(1, len(group) - 1)
        checks, books = make_checked_books(items, depths)
        for at, records in enumerate(group):
            if at == lost:
                continue
            check_records(as_bytes(checks), as_bytes(books), as_bytes(records), len(records))
            if not checks["valid"][0, index]:
                assert at > lost
                assert checks["verdict"][0, index] in (Reason.CHECKSUM_MISMATCH, Reason.CROSSED_BOOK)
                found_after[at - lost] += 1
                break
            assert best_ten(books, index) == truth[index][at]
    assert found_after[1] > 100, found_after


def test_messages_that_a_crawler_captured() -> None:
    """Text as it came, 2021 to 2023: books, a trade, a ticker, a spread, and a book without any level."""
    lines = gzip.decompress(require_capture("fixtures/venue_messages_crypto_msg_parser.jsonl.gz").read_bytes())
    frames = [entry["raw"].encode() for entry in map(json.loads, lines.splitlines()) if entry["venue"] == "kraken"]
    spot = Session([instrument("XBT/USD"), instrument("PERP/EUR", price_exp=4, index=1)], Dialect.KRAKEN_SPOT_V1)
    by_symbol = {item.symbol: item for item in spot.instruments}
    lists = [frame for frame in frames if frame.startswith(b"[")]
    for frame in lists:
        if b"ohlc" in frame or b"PERP" in frame:
            spot.frame(frame)
        else:
            assert rows_of(spot.records(frame)) == decode_v1(frame, by_symbol)
    assert spot.reasons("quarantined") == {Reason.UNKNOWN_STREAM: 1, Reason.EMPTY_SNAPSHOT: 1}
    assert spot.frames_of() == {
        FrameKind.BOOK_SNAPSHOT: 1, FrameKind.BOOK_UPDATE: 2, FrameKind.TRADES: 1, FrameKind.TICKER: 2,
    }  # fmt: skip
    assert len(lists) == 8


def test_the_oracle_can_disagree() -> None:
    wrong = {"XBT/USD": instrument("XBT/USD", price_exp=2)}
    assert decode_v1(UPDATE, BITCOIN) != decode_v1(UPDATE, wrong)
    assert decode_v1(UPDATE, BITCOIN) == [
        Row(Kind.LEVEL, Side.BUY, 390714, 726106570, 0, 0, int(Decimal("1622714256.068601") * 10**9), 0)
    ]
