"""Kraken spot v2: documented shapes, stored single messages, and a recorded v1 session re-expressed in v2's form.

No recorded v2 session exists here. The re-expressed one holds real prices, sizes, times and checksums; its form is the
documented one: bare numbers with the text of v1, ISO times, a checksum on snapshots too.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from engine.ingest.kraken_state import FrameKind
from engine.instruments import Dialect
from engine.integrity.checked_book import check_records, make_checked_books
from engine.integrity.wire_checksum import unpack_checksum
from engine.reasons import Reason
from engine.records import Flag, Kind
from engine.stage import as_bytes
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs, v2_symbol
from tests.kraken_oracle import (
    V1_CAPTURES,
    V1_LISTING,
    V1_PAIRS,
    Session,
    TextBook,
    decode_v2,
    instrument,
    received,
    rest_body,
    rows_of,
)
from tests.recordings import require_capture

SNAPSHOT = (
    b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.10000000},'
    b'{"price":45283.4,"qty":1.54582015}],"asks":[{"price":45285.2,"qty":0.00100000},{"price":45286.4,"qty":1.54571953}'
    b'],"checksum":3310070434,"timestamp":"2023-10-06T17:35:55.440295Z"}]}'
)
UPDATE = (
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.00000000}],'
    b'"asks":[],"checksum":2114181697,"timestamp":"2023-10-06T17:35:55.440295Z"}]}'
)
TRADES = (
    b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":45117.2,"qty":0.02000000,'
    b'"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"},{"symbol":"BTC/USD",'
    b'"side":"buy","price":45117.3,"qty":0.00060000,"ord_type":"limit","trade_id":4665907,'
    b'"timestamp":"2023-09-25T07:49:38.1Z"}]}'
)
PAST_TRADES = TRADES.replace(b"update", b"snapshot")
TICKER = (
    b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":45283.5,"bid_qty":2.50000000,"ask":45285.2,'
    b'"ask_qty":0.00100000,"last":45283.5,"change":-0.0001,"timestamp":"2023-09-25T07:49:38.123456789Z"}]}'
)
OTHERS = {
    FrameKind.ACK: b'{"method":"subscribe","result":{"channel":"book","symbol":"BTC/USD","depth":10,"snapshot":true},'
    b'"success":true,"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":1}',
    FrameKind.REFUSAL: b'{"error":"Subscription depth not supported","method":"subscribe","success":false,'
    b'"symbol":"BTC/USD","req_id":1,"time_in":"2023-09-25T09:04:31.742599Z"}',
    FrameKind.HEARTBEAT: b'{"channel":"heartbeat"}',
    FrameKind.STATUS: b'{"channel":"status","type":"update","data":[{"version":"2.0.0","system":"online",'
    b'"api_version":"v2","connection_id":18146744073709551615}]}',
    FrameKind.PONG: b'{"method":"pong","req_id":42,"time_in":"2023-09-25T09:05:00.123456Z"}',
    FrameKind.METADATA: b'{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"BTC/USD",'
    b'"qty_increment":1e-08}]}}',
    FrameKind.PAST_TRADES: PAST_TRADES,
}
CORPUS = (SNAPSHOT, UPDATE, TRADES, TICKER, *OTHERS.values())
BITCOIN = {"BTC/USD": instrument("BTC/USD")}


def session() -> Session:
    return Session(list(BITCOIN.values()), Dialect.KRAKEN_SPOT_V2)


def test_a_snapshot_and_an_update() -> None:
    spot = session()
    assert spot.frame(UPDATE) == 0 and spot.reasons("dropped") == {Reason.NO_SNAPSHOT: 1}
    records = spot.records(SNAPSHOT)
    assert rows_of(records) == decode_v2(SNAPSHOT, BITCOIN)
    assert unpack_checksum(records["aux"][-1]) == (True, 3310070434, True, 1, 8)
    assert records["flags"][0] == Flag.SNAPSHOT | Flag.FIRST and records["flags"][-1] == Flag.SNAPSHOT | Flag.LAST
    records = spot.records(UPDATE)
    assert rows_of(records) == decode_v2(UPDATE, BITCOIN)
    assert unpack_checksum(records["aux"][-1]) == (True, 2114181697, True, 1, 8)


@pytest.mark.parametrize("frame", [TRADES, TICKER], ids=["trade", "ticker"])
def test_trades_and_quotes(frame: bytes) -> None:
    records = session().records(frame)
    assert rows_of(records) == decode_v2(frame, BITCOIN)
    assert records["flags"].tolist() == [Flag.FIRST, Flag.LAST]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_frames_are_told_apart(kind: FrameKind) -> None:
    spot = session()
    assert spot.frame(OTHERS[kind]) == 0
    assert spot.frames_of() == {kind: 1}
    assert spot.balances()


def test_trades_seen_before_are_dropped() -> None:
    spot = session()
    spot.frame(PAST_TRADES.replace(b"4665907", b"4665900"))
    assert int(spot.row["past_trades"]) == 2
    records = spot.records(TRADES)
    assert records["aux"].tolist() == [4665907]
    assert records["flags"].tolist() == [Flag.FIRST | Flag.LAST]
    assert int(spot.row["records_dropped"][Reason.DUPLICATE]) == 1
    assert spot.frame(TRADES) == 0
    assert spot.reasons("dropped") == {Reason.DUPLICATE: 1}
    assert spot.balances()


def test_a_frame_of_several_books_is_several_groups() -> None:
    items = [instrument("BTC/USD"), instrument("ETH/USD", index=3)]
    both = json.loads(SNAPSHOT)["data"][0]
    frame = SNAPSHOT.replace(b"}]}", b"},%s]}" % json.dumps({**both, "symbol": "ETH/USD"}).encode())
    spot = Session(items, Dialect.KRAKEN_SPOT_V2)
    records = spot.records(frame)
    assert rows_of(records) == decode_v2(frame, {item.symbol: item for item in items})
    assert records["instrument"].tolist() == [0] * 4 + [3] * 4
    assert [at for at, flags in enumerate(records["flags"]) if flags & Flag.LAST] == [3, 7]
    update = frame.replace(b"snapshot", b"update")
    spot.lost(0, 0, 1)
    records = spot.records(update)
    assert records["instrument"].tolist() == [3] * 4, "the other book stands on no snapshot"
    assert spot.balances()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (SNAPSHOT.replace(b"BTC/USD", b"BTC/EUR"), Reason.UNKNOWN_SYMBOL),
        (SNAPSHOT.replace(b'"book"', b'"level3"'), Reason.UNKNOWN_STREAM),
        (b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[],"asks":[]}]}',
         Reason.EMPTY_SNAPSHOT),
        (SNAPSHOT.replace(b"snapshot", b"tea"), Reason.BAD_JSON),
        (SNAPSHOT.replace(b"45283.5", b"45283.55"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"45283.5", b"null"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"3310070434", b"3310070434.5"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"2023-10-06", b"2023-13-06"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b',"qty":0.10000000', b""), Reason.BAD_JSON),
        (SNAPSHOT.replace(b'"price":45283.5', b'"price":45283.5,"price":1.0'), Reason.BAD_JSON),
        (TRADES.replace(b'"side":"buy",', b""), Reason.BAD_JSON),
        (b'{"method":"tea","success":true}', Reason.UNKNOWN_STREAM),
        (b'{"channel":"book","type":"update"}', Reason.BAD_JSON),
        (b'{"channel":"book","type":"update","data":[1]}', Reason.BAD_JSON),
        (SNAPSHOT[:-1], Reason.BAD_JSON),
    ],
)  # fmt: skip
def test_refusals_change_nothing_but_counters(frame: bytes, reason: Reason) -> None:
    spot = session()
    spot.frame(SNAPSHOT)
    before = spot.state.copy()
    assert spot.frame(frame, 10**18) == -reason
    for name in set(spot.state.dtype.names or ()) - {"frames", "records_in", "quarantined", "value_at", "inner_at"}:
        np.testing.assert_array_equal(spot.state[name], before[name], name)


def _iso(seconds: str) -> str:
    """A v1 time as v2 prints it."""
    whole, _, fraction = seconds.partition(".")
    return f"{datetime.fromtimestamp(int(whole), UTC):%Y-%m-%dT%H:%M:%S}.{fraction}Z"


def re_expressed(books: dict[str, TextBook]) -> Iterator[tuple[int, bytes, bytes]]:
    """(receive time, v1 frame, v2 frame) of the recorded book session; `books` follow and give snapshots a checksum."""
    for recv_ts_ns, frame in received(V1_CAPTURES[2]):
        message = json.loads(frame)
        if isinstance(message, dict):
            continue
        book = books[message[-1]]
        sides: dict[str, list] = {"b": [], "a": []}
        for part in message[1:-2]:
            for key, levels in part.items():
                if key != "c":
                    sides[key[0]] += levels
        for key, levels in sides.items():
            for price, size, *_ in levels:
                book.apply(key == "b", price, size)
        book.cut()
        bids, asks = (
            ",".join(f'{{"price":{price},"qty":{size}}}' for price, size, *_ in sides[key]) for key in ("b", "a")
        )
        checksum = message[-3].get("c", book.checksum())
        time = _iso(max(level[2] for levels in sides.values() for level in levels))
        kind = "snapshot" if "as" in message[1] else "update"
        text = (
            f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{v2_symbol(message[-1])}","bids":[{bids}],'
            f'"asks":[{asks}],"checksum":{checksum},"timestamp":"{time}"}}]}}'
        )
        yield recv_ts_ns, frame, text.encode()


def test_a_recorded_session_gives_the_same_books_in_both_forms() -> None:
    listing = rest_body(V1_LISTING)
    first = Session(instruments_from_asset_pairs(listing, V1_PAIRS), Dialect.KRAKEN_SPOT_V1)
    second = Session(instruments_from_asset_pairs(listing, V1_PAIRS, v2=True), Dialect.KRAKEN_SPOT_V2)
    assert second.instruments[8].symbol == "BTC/CHF"
    by_symbol = {item.symbol: item for item in second.instruments}
    checks, books = make_checked_books(second.instruments, dict.fromkeys(range(10), 1000))
    for recv_ts_ns, v1, v2 in re_expressed({symbol: TextBook(1000) for symbol in V1_PAIRS}):
        one, other = first.records(v1, recv_ts_ns), second.records(v2, recv_ts_ns)
        assert sorted(rows_of(one)) == sorted(rows_of(other))
        assert rows_of(other) == decode_v2(v2, by_symbol)
        if unpack_checksum(one["aux"][-1]).given:
            assert one["aux"][-1] == other["aux"][-1]
        assert check_records(as_bytes(checks), as_bytes(books), as_bytes(other), len(other)) == 0
    assert int(checks["verified"].sum()) == 4269 + 10
    assert int(checks["mismatched"].sum()) == int(checks["crossed"].sum()) == 0
    assert second.frames_of() == {FrameKind.BOOK_SNAPSHOT: 10, FrameKind.BOOK_UPDATE: 4269}
    assert second.decoded() == {Kind.LEVEL: first.decoded()[Kind.LEVEL]}


@pytest.mark.parametrize("depth", [10, 25, 100])
def test_books_of_smaller_depths_stay_right_by_being_cut(depth: int) -> None:
    """The recorded session as a venue of a smaller depth would send it, levels that come into depth included."""
    listing = rest_body(V1_LISTING)
    items = instruments_from_asset_pairs(listing, V1_PAIRS)
    session = Session(items, Dialect.KRAKEN_SPOT_V1)
    checks, books = make_checked_books(items, dict.fromkeys(range(10), depth))
    full = {symbol: TextBook(1000) for symbol in V1_PAIRS}
    seen: dict[str, tuple[dict, dict]] = {}
    verified = 0
    for recv_ts_ns, v1, _ in re_expressed(full):
        symbol = json.loads(v1)[-1]
        whole = full[symbol]
        now = TextBook(depth, dict(whole.bids), dict(whole.asks))
        now.cut()
        view = (now.bids, now.asks)
        if symbol not in seen:
            keys, changes = ("bs", "as"), [list(side.values()) for side in view]
        else:
            # what falls out of the depth is not told; what was there and is gone from the whole book is removed
            keys, changes = ("b", "a"), []
            for old, new, all_levels in zip(seen[symbol], view, (whole.bids, whole.asks)):
                changed = [level for price, level in new.items() if old.get(price) != level]
                removed = [(level[0], "0.00000000") for price, level in old.items() if price not in all_levels]
                changes.append(removed + changed)
        seen[symbol] = view
        parts = {key: [[*level, "1.000000"] for level in levels] for key, levels in zip(keys, changes) if levels}
        if parts:
            frame = json.dumps([1, {**parts, "c": str(now.checksum())}, f"book-{min(depth, 1000)}", symbol]).encode()
            records = session.records(frame, recv_ts_ns)
            assert check_records(as_bytes(checks), as_bytes(books), as_bytes(records), len(records)) == 0
            verified += 1
    assert int(checks["verified"].sum()) == verified > 200
    assert int(checks["cut"].sum()) > 0


FIXTURES = {
    "ws_book_snapshot.json": FrameKind.BOOK_SNAPSHOT,
    "ws_book_update.json": FrameKind.BOOK_UPDATE,
    "ws_trade_update.json": FrameKind.TRADES,
    "ws_ticker_snapshot.json": FrameKind.TICKER,
    "ws_pong.json": FrameKind.PONG,
    "ws_subscribe_response.json": FrameKind.ACK,
}


def test_stored_messages_of_one_test_suite() -> None:
    """Shapes after the documentation; their checksums were invented, so none is verified."""
    texts = json.loads(gzip.decompress(require_capture("fixtures/kraken_nautilus.json.gz").read_bytes()))
    by_symbol = {"BTC/USD": instrument("BTC/USD", price_exp=2)}
    spot = Session(list(by_symbol.values()), Dialect.KRAKEN_SPOT_V2)
    for name, kind in FIXTURES.items():
        frame = texts[name].encode()
        before = spot.frames_of().get(kind, 0)
        assert rows_of(spot.records(frame)) == decode_v2(frame, by_symbol), name
        assert spot.frames_of()[kind] == before + 1, name
    for name in texts:
        if name.startswith("ws_l3") or name == "ws_ohlc_update.json":
            assert spot.frame(texts[name].encode()) == -Reason.UNKNOWN_STREAM, name


def test_stored_dialogues_of_another() -> None:
    """Lines that open with `=` come before data, `<` marks an answer; values between bars are placeholders."""
    texts = json.loads(gzip.decompress(require_capture("fixtures/kraken_v2_jkorf.json.gz").read_bytes()))
    by_symbol = {"ETH/USDT": instrument("ETH/USDT", price_exp=4)}
    spot = Session(list(by_symbol.values()), Dialect.KRAKEN_SPOT_V2)
    answers = 0
    for name in (name for name in texts if name.startswith("Spot/")):
        for line in re.findall(r"^<\d* (\{.*\}) *$", texts[name], re.MULTILINE):
            frame = re.sub(r'"?\|[^|]*\|"?', "1", line).encode()
            assert spot.frame(frame) == 0, line
            answers += 1
    assert spot.frames_of()[FrameKind.ACK] == answers > 3
    book = texts["Spot/AggBook.txt"].partition("\n= ")[2].strip().encode()
    assert rows_of(spot.records(book)) == decode_v2(book, by_symbol)
    assert len(decode_v2(book, by_symbol)) == 20
