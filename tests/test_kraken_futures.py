"""Kraken Futures: every shape, the sequence rule, and every recorded frame against an oracle and dict books."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.book import book_top
from engine.ingest.kraken_kernel import sequence_verdict
from engine.ingest.kraken_state import FrameKind
from engine.instruments import Dialect
from engine.integrity.checked_book import check_records, make_checked_books
from engine.reasons import Reason
from engine.records import Flag, Kind, Side
from engine.stage import as_bytes
from procs.venues.kraken_futures.instruments import instruments_from_rest
from tests.kraken_oracle import (
    FUTURES_CAPTURE,
    FUTURES_LISTING,
    PRODUCTS,
    Session,
    decode_futures,
    instrument,
    received,
    rest_body,
    rows_of,
)
from tests.recordings import require_capture

T0 = 1_612_269_825_817_000_000
SNAPSHOT = (
    b'{"feed":"book_snapshot","product_id":"PI_XBTUSD","timestamp":1612269825817,"seq":326072249,"tickSize":null,'
    b'"bids":[{"price":34892.5,"qty":6385.0},{"price":34892.0,"qty":10924}],"asks":[{"price":34911.5,"qty":20598.0},'
    b'{"price":34912,"qty":2300.0}]}'
)
TRADE = (
    b'{"feed":"trade","product_id":"PI_XBTUSD","uid":"05af78ac","side":"sell","type":"fill","seq":653355,'
    b'"time":1612266317519,"qty":15000.0,"price":34969.5}'
)
PAST_TRADES = (
    b'{"feed":"trade_snapshot","product_id":"PI_XBTUSD","trades":[{"feed":"trade","product_id":"PI_XBTUSD","uid":"a",'
    b'"side":"buy","type":"fill","seq":653354,"time":1612266317000,"qty":2519.0,"price":39096.0},{"feed":"trade",'
    b'"product_id":"PI_XBTUSD","uid":"b","side":"sell","type":"liquidation","seq":653353,"time":1612266316000,'
    b'"qty":636.0,"price":39077.0}]}'
)
TICKER = (
    b'{"time":1676393235406,"product_id":"PI_XBTUSD","funding_rate":-6.2604214e-11,'
    b'"relative_funding_rate":-1.380384722222e-6,"relative_funding_rate_prediction":-8.047629166667e-6,'
    b'"next_funding_rate_time":1676394000000,"feed":"ticker","bid":21978.5,"ask":21987.0,"bid_size":2536.0,'
    b'"ask_size":13948.0,"volume":31403908.0,"leverage":"50x","index":21984.54,"premium":-0.0,"last":21983.5,'
    b'"suspended":false,"tag":"perpetual","openInterest":30072580.0,"markPrice":21979.68641534714,"maturityTime":0}'
)
LITE = (
    b'{"feed":"ticker_lite","product_id":"PI_XBTUSD","bid":32170.5,"ask":32192.5,"change":0.347779978478191,'
    b'"premium":0.1,"volume":2375190.0,"tag":"month","pair":"XBT:USD","dtm":7,"maturityTime":1627657200000}'
)
OTHERS = {
    FrameKind.ACK: b'{"event":"subscribed","feed":"book","product_ids":["PI_XBTUSD"]}',
    FrameKind.REFUSAL: b'{"event":"error","message":"Invalid product id"}',
    FrameKind.HEARTBEAT: b'{"feed":"heartbeat","time":1534262350627}',
    FrameKind.STATUS: b'{"event":"info","version":1}',
    FrameKind.PAST_TRADES: PAST_TRADES,
}
BITCOIN = {"PI_XBTUSD": instrument("PI_XBTUSD", price_exp=1, size_exp=0, tick_size=5)}


def update(
    sequence: int, size: str = "3.0", side: str = "buy", price: str = "34892.5", time_ms: int = 1612269825900
) -> bytes:
    return (
        f'{{"feed":"book","product_id":"PI_XBTUSD","side":"{side}","seq":{sequence},"price":{price},"qty":{size},'
        f'"timestamp":{time_ms}}}'
    ).encode()


CORPUS = (SNAPSHOT, update(326072250), TRADE, PAST_TRADES, TICKER, LITE, *OTHERS.values())


def session() -> Session:
    return Session(list(BITCOIN.values()), Dialect.KRAKEN_FUTURES)


@pytest.mark.parametrize("frame", [SNAPSHOT, TRADE, TICKER, LITE], ids=["snapshot", "trade", "ticker", "lite"])
def test_frames_that_make_records(frame: bytes) -> None:
    records = session().records(frame, T0)
    assert rows_of(records) == decode_futures(frame, BITCOIN)
    assert records["flags"][0] & Flag.FIRST and records["flags"][-1] & Flag.LAST
    assert set(records["venue"]) == {5}


def test_what_a_ticker_says() -> None:
    records = session().records(TICKER)
    assert records["kind"].tolist() == [Kind.QUOTE, Kind.QUOTE, Kind.MARK_PRICE, Kind.FUNDING, Kind.OPEN_INTEREST]
    assert (records["price"][2], records["size"][2]) == (2197968641535, 2198454000000)
    assert (records["aux"][3], records["size"][3]) == (-1380385, 1676394000000), "rounded to 1e-12"
    assert records["size"][4] == 30072580
    assert session().records(LITE)["size"].tolist() == [0, 0], "sizes that are not told"
    one_sided = LITE.replace(b"32170.5", b"null")
    assert rows_of(session().records(one_sided)) == decode_futures(one_sided, BITCOIN)
    assert session().records(one_sided)["side"].tolist() == [Side.SELL]


def test_a_level_of_size_zero_is_no_level_of_a_snapshot() -> None:
    frame = SNAPSHOT.replace(b"6385.0", b"0.0").replace(b"2300.0", b"0")
    records = session().records(frame)
    assert rows_of(records) == decode_futures(frame, BITCOIN)
    assert records["price"].tolist() == [348920, 349115]
    assert records["flags"].tolist() == [Flag.SNAPSHOT | Flag.FIRST, Flag.SNAPSHOT | Flag.LAST]
    empty = SNAPSHOT.replace(b"6385.0", b"0").replace(b"10924", b"0").replace(b"20598.0", b"0").replace(b"2300.0", b"0")
    assert session().frame(empty) == -Reason.EMPTY_SNAPSHOT


def test_a_liquidation_is_a_trade_too_and_an_assignment_is_none() -> None:
    futures = session()
    frame = TRADE.replace(b"fill", b"liquidation")
    records = futures.records(frame)
    assert rows_of(records) == decode_futures(frame, BITCOIN)
    assert records["kind"].tolist() == [Kind.TRADE, Kind.LIQUIDATION]
    assert futures.frame(frame) == 0, "seen before, both of them"
    assert futures.reasons("dropped") == {Reason.DUPLICATE: 1}
    assert session().frame(TRADE.replace(b"fill", b"assignment")) == 0


def test_live_trades_go_on_after_past_ones() -> None:
    futures = session()
    assert futures.frame(PAST_TRADES) == 0
    assert int(futures.row["past_trades"]) == 2 and futures.decoded() == {}
    assert futures.frame(TRADE.replace(b"653355", b"653354")) == 0
    assert futures.frame(TRADE) == 1
    assert futures.balances()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_frames_are_told_apart(kind: FrameKind) -> None:
    futures = session()
    assert futures.frame(OTHERS[kind]) == 0
    assert futures.frames_of() == {kind: 1}


def test_the_sequence_rule() -> None:
    futures = session()
    first = 326072250
    assert futures.frame(update(first)) == 0 and futures.reasons("dropped") == {Reason.NO_SNAPSHOT: 1}
    assert futures.frame(SNAPSHOT) == 4
    assert futures.frame(update(first - 1)) == 0 and futures.reasons("dropped")[Reason.STALE_DIFF] == 1
    records = futures.records(update(first))
    assert (records["sequence"][0], records["flags"][0]) == (first, Flag.FIRST | Flag.LAST)
    assert futures.frame(update(first)) == 0 and futures.reasons("dropped")[Reason.DUPLICATE] == 1
    gap = futures.records(update(first + 2), T0)
    assert (gap["kind"].tolist(), gap["reason"].tolist()) == ([Kind.GAP], [Reason.SEQUENCE_GAP])
    assert (gap["instrument"][0], gap["recv_ts_ns"][0], gap["venue"][0]) == (0, T0, 5)
    assert futures.row["snapshot_wanted"][0] == 1 and int(futures.row["gaps"]) == 1
    assert futures.frame(update(first + 3)) == 0, "one gap, one GAP"
    assert futures.frame(SNAPSHOT.replace(b"326072249", b"326072300"), T0) == 4
    assert int(futures.row["resyncs"]) == 1
    assert futures.frame(update(326072301), T0) == 1
    assert futures.balances()


@settings(max_examples=100)
@given(st.lists(st.integers(-3, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_any_order_of_updates_keeps_exactly_the_contiguous_ones(steps: list[int], resync: int) -> None:
    """What is kept is the snapshot's seq + 1, + 2, and so on; a hole stops it until a snapshot."""
    futures = session()
    futures.frame(SNAPSHOT.replace(b"326072249", b"1000"))
    expected, sequence, in_sequence = 1001, 1000, True
    for number, step in enumerate(steps):
        if number % 10 == resync:
            sequence += 1
            futures.frame(SNAPSHOT.replace(b"326072249", str(sequence).encode()))
            expected, in_sequence = sequence + 1, True
        sequence = max(0, sequence + step)
        kept = futures.frame(update(sequence))
        if not in_sequence or sequence < expected:
            assert kept == 0
        elif sequence == expected:
            assert kept == 1 and futures.outbox["kind"][0] == Kind.LEVEL
            expected += 1
        else:
            assert kept == 1 and futures.outbox["kind"][0] == Kind.GAP
            in_sequence = False
    assert futures.balances()


def test_a_seq_that_stands_still_while_the_venue_s_time_goes_on_is_a_gap() -> None:
    """One seq of a snapshot that was read far too large made every update stale, and the book stood still."""
    futures = session()
    time_ms = 1612269825817
    futures.frame(SNAPSHOT.replace(b"326072249", b"926072249"))
    assert futures.frame(update(326072250, time_ms=time_ms + 1_000)) == 0
    assert futures.reasons("dropped") == {Reason.STALE_DIFF: 1}
    gap = futures.records(update(326072251, time_ms=time_ms + 1_001))
    assert (gap["kind"].tolist(), gap["reason"].tolist()) == ([Kind.GAP], [Reason.SEQUENCE_GAP])
    assert futures.row["snapshot_wanted"][0] == 1
    futures.frame(SNAPSHOT)
    assert futures.frame(update(326072250, time_ms=time_ms + 1_002)) == 1
    assert futures.frame(update(326072250, time_ms=time_ms + 1_002)) == 0, "an update that comes twice is no gap"
    assert futures.frame(update(326072251, time_ms=time_ms + 9_000)) == 1, "nor is a quiet book"


def test_verdicts_at_the_edges() -> None:
    assert sequence_verdict(0, 5, 5) == Reason.STALE_DIFF
    assert sequence_verdict(1, 5, 5) == Reason.DUPLICATE
    assert sequence_verdict(1, 5, 6) == sequence_verdict(0, 5, 6) == Reason.NONE
    assert sequence_verdict(1, 5, 7) == Reason.SEQUENCE_GAP


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (SNAPSHOT.replace(b"PI_XBTUSD", b"PI_ETHUSD"), Reason.UNKNOWN_SYMBOL),
        (SNAPSHOT.replace(b"book_snapshot", b"open_orders"), Reason.UNKNOWN_STREAM),
        (b'{"event":"challenge","message":"x"}', Reason.UNKNOWN_STREAM),
        (SNAPSHOT.replace(b'"seq":326072249,', b""), Reason.BAD_JSON),
        (SNAPSHOT.replace(b"326072249", b"-1"), Reason.BAD_NUMBER),
        (SNAPSHOT.replace(b"34892.5", b"34892.55"), Reason.BAD_NUMBER),
        (update(1, size="0.5"), Reason.BAD_NUMBER),
        (update(1, side="tea"), Reason.BAD_JSON),
        (update(1, price="null"), Reason.BAD_NUMBER),
        (TRADE.replace(b'"type":"fill",', b""), Reason.BAD_JSON),
        (TICKER.replace(b"21979.68641534714", b"1e300"), Reason.BAD_NUMBER),
        (TICKER.replace(b"1676394000000", b"1e30"), Reason.BAD_NUMBER),
        (LITE.replace(b"32170.5", b"nul"), Reason.BAD_NUMBER),
        (TICKER.replace(b"30072580.0", b'"much"'), Reason.BAD_NUMBER),
        (TICKER.replace(b'"suspended":false', b'"suspended":1'), Reason.BAD_JSON),
        (PAST_TRADES.replace(b'"uid":"b"', b'"seq":1'), Reason.BAD_JSON),
        (SNAPSHOT[:-1], Reason.BAD_JSON),
    ],
)
def test_refusals_change_nothing_but_counters(frame: bytes, reason: Reason) -> None:
    futures = session()
    futures.frame(SNAPSHOT)
    before = futures.state.copy()
    assert futures.frame(frame, 10**18) == -reason
    for name in set(futures.state.dtype.names or ()) - {"frames", "records_in", "quarantined", "value_at", "inner_at"}:
        np.testing.assert_array_equal(futures.state[name], before[name], name)


def test_every_recorded_frame_is_what_the_oracle_says_and_no_sequence_has_a_hole() -> None:
    items = instruments_from_rest(rest_body(FUTURES_LISTING), PRODUCTS)
    by_symbol = {item.symbol: item for item in items}
    futures = Session(items, Dialect.KRAKEN_FUTURES)
    checks, books = make_checked_books(items)
    frames: Counter[FrameKind] = Counter()
    kinds: Counter[Kind] = Counter()
    past = 0
    levels: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    feeds = {
        "book": FrameKind.BOOK_UPDATE, "book_snapshot": FrameKind.BOOK_SNAPSHOT, "trade": FrameKind.TRADES,
        "trade_snapshot": FrameKind.PAST_TRADES, "ticker_lite": FrameKind.TICKER,
    }  # fmt: skip
    events = {"info": FrameKind.STATUS, "subscribed": FrameKind.ACK}
    for recv_ts_ns, frame in received(FUTURES_CAPTURE):
        message = json.loads(frame)
        expected = decode_futures(frame, by_symbol)
        records = futures.records(frame, recv_ts_ns)
        assert rows_of(records) == expected
        assert check_records(as_bytes(checks), as_bytes(books), as_bytes(records), len(records)) == 0
        kinds.update(Kind(row.kind) for row in expected)
        frames[events[message["event"]] if "event" in message else feeds[message["feed"]]] += 1
        past += len(message.get("trades", []))
        if message.get("feed") == "book_snapshot":
            for side in ("bids", "asks"):
                levels[message["product_id"], side].clear()
        for row in expected:
            if row.kind == Kind.LEVEL:
                side = levels[message["product_id"], "bids" if row.side == Side.BUY else "asks"]
                side[row.price] = row.size
                if row.size == 0:
                    del side[row.price]
    assert futures.frames_of() == dict(frames)
    assert futures.decoded() == dict(kinds)
    assert int(futures.row["past_trades"]) == past > 900
    assert frames[FrameKind.BOOK_UPDATE] == 7014 and sum(frames.values()) == 7175
    assert int(futures.row["gaps"]) == 0
    assert not futures.reasons("quarantined") and not futures.reasons("dropped")
    assert int(checks["crossed"].sum()) == 0 and checks["valid"][0, : len(items)].all()
    prices, sizes = np.zeros(5000, np.int64), np.zeros(5000, np.int64)
    for (symbol, name), held in levels.items():
        found = book_top(books, by_symbol[symbol].index, 1 if name == "bids" else -1, 5000, prices, sizes)
        ours = list(zip(prices[:found].tolist(), sizes[:found].tolist()))
        assert ours == sorted(held.items(), reverse=name == "bids")


def test_one_lost_frame_of_the_recording_gives_one_gap() -> None:
    items = instruments_from_rest(rest_body(FUTURES_LISTING), PRODUCTS)
    futures = Session(items, Dialect.KRAKEN_FUTURES)
    lost = 0
    for number, (recv_ts_ns, frame) in enumerate(received(FUTURES_CAPTURE)):
        if number > 1000 and not lost and b'"feed":"book"' in frame and b"PI_ETHUSD" in frame:
            lost = number
            continue
        futures.frame(frame, recv_ts_ns)
    assert lost and int(futures.row["gaps"]) == 1
    assert futures.row["snapshot_wanted"][PRODUCTS.index("PI_ETHUSD")] == 1
    assert set(futures.reasons("dropped")) == {Reason.NO_SNAPSHOT, Reason.SEQUENCE_GAP}
    assert futures.balances()


def test_stored_messages() -> None:
    texts = json.loads(gzip.decompress(require_capture("fixtures/kraken_nautilus.json.gz").read_bytes()))
    futures = session()
    kinds = {
        "ws_futures_book_snapshot.json": FrameKind.BOOK_SNAPSHOT,
        "ws_futures_book_snapshot_with_zero_qty.json": FrameKind.BOOK_SNAPSHOT,
        "ws_futures_trade.json": FrameKind.TRADES,
        "ws_futures_trade_snapshot.json": FrameKind.PAST_TRADES,
        "ws_futures_ticker.json": FrameKind.TICKER,
    }
    for name, kind in kinds.items():
        frame = texts[name].encode()
        before = futures.frames_of().get(kind, 0)
        assert rows_of(futures.records(frame)) == decode_futures(frame, BITCOIN), name
        assert futures.frames_of()[kind] == before + 1, name
    assert futures.frame(texts["ws_futures_book_delta.json"].encode()) == 1
    assert futures.outbox["kind"][0] == Kind.GAP, "its seq does not follow on that of the snapshot"


def test_a_stored_dialogue() -> None:
    texts = json.loads(gzip.decompress(require_capture("fixtures/kraken_v2_jkorf.json.gz").read_bytes()))
    frame = texts["Futures/Ticker.txt"].partition("\n= ")[2].strip().encode()
    by_symbol = {"PF_ETHUSD": instrument("PF_ETHUSD", price_exp=1, size_exp=3)}
    records = Session(list(by_symbol.values()), Dialect.KRAKEN_FUTURES).records(frame)
    assert rows_of(records) == decode_futures(frame, by_symbol)
    (funding,) = records[records["kind"] == Kind.FUNDING]
    assert funding["aux"] == 18671188, "0.0000186711875 in 1e-12, rounded"


def test_messages_that_a_crawler_captured() -> None:
    """Text as it came, spot v1 and futures, 2021 to 2023."""
    lines = gzip.decompress(require_capture("fixtures/venue_messages_crypto_msg_parser.jsonl.gz").read_bytes())
    frames = [entry["raw"].encode() for entry in map(json.loads, lines.splitlines()) if entry["venue"] == "kraken"]
    quarter = instrument("FI_XBTUSD_220624", price_exp=1, size_exp=0, index=1, tick_size=5)
    futures = Session([*BITCOIN.values(), quarter], Dialect.KRAKEN_FUTURES)
    by_symbol = {item.symbol: item for item in futures.instruments}
    feeds = [frame for frame in frames if frame.startswith(b"{") and b'"feed"' in frame]
    for frame in feeds:
        assert futures.frame(frame) >= 0
        if b'"feed":"book",' not in frame:
            futures.row["last_trade_id"][:] = -1
            assert rows_of(futures.records(frame)) == decode_futures(frame, by_symbol)
    assert len(feeds) == 10 and sum(futures.frames_of().values()) == 18
