"""What a listing changes, in the kernels: epochs and their one resync, status, open interest, small liquidations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features.settings import FeatureSettings
from engine.features.state import make_features_state
from engine.features.step import FEATURES
from engine.ingest.settings import FeedSettings, liquidation_min
from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, OrderAction, ReportKind, Status
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state, quarantined_records
from engine.validation.step import VALIDATION
from procs.decoding import Decoder
from procs.venues.terms import Terms, terms_of
from tests.execution_harness import (
    BTC,
    MS,
    START_NS,
    control,
    feed,
    make_state,
    opened_state,
    prediction,
    report,
    step,
)
from tests.ingest_oracle import Session, btcusdt
from tests.kraken_oracle import Session as KrakenSession
from tests.kraken_oracle import instrument as kraken_instrument
from tests.market_records import FIRST, LAST, SNAPSHOT, make_instrument, record, run_stage
from tests.test_kraken_futures import BITCOIN as CONTRACT
from tests.test_kraken_futures import SNAPSHOT as CONTRACT_BOOK
from tests.test_kraken_futures import TICKER, TRADE
from tests.test_kraken_spot_v2 import BITCOIN as PAIR

T = 1_000_000_000_000
BOOK = b'{"lastUpdateId":10,"E":1,"T":1,"bids":[["100.00","1.000"]],"asks":[["101.00","2.000"]]}'
FORCED = (
    b'{"stream":"btcusdt@forceOrder","data":{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL",'
    b'"o":"LIMIT","f":"IOC","q":"%s","p":"%s","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":1568014460893}}}'
)
OPEN_INTEREST = b'{"openInterest":"10659.509","symbol":"BTCUSDT","time":1589437530011}'


# --- ingestion ------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What a listing should do, in plain Python."""

    tick: int = 10
    lot: int = 1
    minimum: int = 100 * 10**8
    epoch: int = 7
    status: int = int(Status.TRADING)
    in_sequence: bool = False

    def listed(self, tick: int, lot: int, minimum: int, status: int) -> list[tuple[int, ...]]:
        """(kind, price, size, aux, sequence) of the records."""
        rows: list[tuple[int, ...]] = []
        if status != self.status:
            rows.append((Kind.STATUS, 0, 0, status, 0))
        self.status = status
        if (tick, lot, minimum) != (self.tick, self.lot, self.minimum):
            if self.in_sequence:
                rows.append((Kind.GAP, 0, 0, 0, 0))
            self.in_sequence = False
            self.tick, self.lot, self.minimum, self.epoch = tick, lot, minimum, self.epoch + 1
            rows.append((Kind.INSTRUMENT, tick, lot, minimum, self.epoch))
        return rows


@settings(max_examples=60)
@given(st.lists(st.one_of(
    st.just(None), st.tuples(st.sampled_from((5, 10)), st.integers(1, 2), st.integers(0, 1), st.sampled_from(Status)),
), max_size=25))  # fmt: skip
def test_every_listing_gives_what_has_changed_and_every_epoch_one_resync(
    steps: list[tuple[int, int, int, Status] | None],
) -> None:
    session, model, snapshots = Session([btcusdt()]), Model(), 0
    session.start(T)
    for number, item in enumerate(steps):
        if item is None:
            if model.in_sequence != (session.row["snapshot_wanted"][0] == 0):
                pytest.fail("the book and the model differ")
            body = BOOK.replace(b":10,", b":%d," % (10 + number))
            assert session.snapshot(0, body, T, number + 1) == 2
            model.in_sequence, snapshots = True, snapshots + 1
            continue
        count = session.listed(0, *item, T)
        rows = session.written[-1][:count] if count else np.zeros(0, MARKET)
        assert [tuple(int(row[name]) for name in ("kind", "price", "size", "aux", "sequence")) for row in rows] == (
            model.listed(*item)
        )
        assert set(rows["venue"].tolist()) <= {3} and set(rows["recv_ts_ns"].tolist()) <= {T}
        assert set(rows["reason"][rows["kind"] == Kind.GAP].tolist()) <= {int(Reason.NEW_EPOCH)}
    assert session.balances() and int(session.row["out"]) == len(session.records())
    assert session.listed(9, 1, 1, 1, Status.TRADING, T) == -Reason.UNKNOWN_SYMBOL
    assert int(session.row["resyncs"]) == max(0, snapshots - 1)


def test_who_does_not_trade_at_the_start_is_announced_so() -> None:
    session = Session([btcusdt(), replace(btcusdt(1, "ETHUSDT"), status=Status.CLOSED)])
    session.start(T)
    assert [(int(row["kind"]), int(row["instrument"]), int(row["aux"])) for row in session.records()] == [
        (Kind.INSTRUMENT, 0, 100 * 10**8), (Kind.INSTRUMENT, 1, 100 * 10**8), (Kind.STATUS, 1, Status.CLOSED)
    ]


def test_diffs_that_wait_at_a_new_epoch_go_on_when_the_book_is_back() -> None:
    diff = b'{"e":"depthUpdate","E":2,"T":2,"s":"BTCUSDT","U":%d,"u":%d,"pu":%d,"b":[["100.50","%s"]],"a":[]}'
    session = Session([btcusdt()])
    session.start(T)
    session.snapshot(0, BOOK, T, 1)
    assert session.frame(diff % (10, 12, 9, b"1.000"), T, 2) == 1
    session.listed(0, 1, 1, 0, Status.TRADING, T)
    assert session.frame(diff % (13, 14, 12, b"2.000"), T, 3) == 0, "it waits"
    assert session.snapshot(0, BOOK.replace(b":10,", b":13,"), T, 4) == 3
    assert session.records()["size"][-1] == 2_000
    assert int(session.row["gaps"]) == 1 == int(session.row["resyncs"])


def test_open_interest() -> None:
    session = Session([btcusdt(1), btcusdt(0, "ETHUSDT")])
    assert session.frame(OPEN_INTEREST, T, 1) == 1
    (row,) = session.records()
    assert (row["kind"], row["instrument"], row["size"], row["exch_ts_ns"], row["flags"]) == (
        Kind.OPEN_INTEREST, 1, 10_659_509, 1589437530011 * 10**6, Flag.FIRST | Flag.LAST
    )
    assert (row["price"], row["aux"], row["side"], row["ingest_id"], row["recv_ts_ns"]) == (0, 0, 0, 1, T)
    assert int(session.row["open_interests"]) == 1
    inverse = Session([btcusdt(0, "BTCUSD_PERP", 1, 0, Dialect.BINANCE_COINM)])
    body = (
        b'{"symbol":"BTCUSD_PERP","pair":"BTCUSD","openInterest":"15004","contractType":"PERPETUAL",'
        b'"time":1591261042378}'
    )
    assert inverse.frame(body, T, 1) == 1 and inverse.records()["size"].tolist() == [15_004]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (OPEN_INTEREST.replace(b"BTC", b"XRP"), Reason.UNKNOWN_SYMBOL),
        (OPEN_INTEREST.replace(b"10659.509", b"10659.5091"), Reason.BAD_NUMBER),
        (OPEN_INTEREST.replace(b"10659.509", b""), Reason.BAD_NUMBER),
        (OPEN_INTEREST.replace(b'"symbol":"BTCUSDT",', b""), Reason.BAD_JSON),
        (OPEN_INTEREST.replace(b',"time":1589437530011', b""), Reason.BAD_JSON),
        (OPEN_INTEREST.replace(b"}", b',"symbol":"BTCUSDT"}'), Reason.BAD_JSON),
        (OPEN_INTEREST.replace(b"1589437530011", b"-1"), Reason.BAD_NUMBER),
        (b'{"code":-1121,"msg":"Invalid symbol."}', Reason.UNKNOWN_STREAM),
        (OPEN_INTEREST[:-1], Reason.BAD_JSON),
    ],
)
def test_what_is_no_open_interest_is_refused(body: bytes, reason: Reason) -> None:
    session = Session([btcusdt()])
    assert session.frame(body, T, 1) == -reason
    assert session.balances() and len(session.records()) == 0


@settings(max_examples=60)
@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(0, 10**5))
def test_small_liquidations_are_counted_and_not_passed_on(price: int, size: int, least: int) -> None:
    """The oracle is Decimal; values that differ from the bound are far enough from it for a float."""
    session = Session([btcusdt()], liquidation_min(FeedSettings(liquidation_min_usd=float(least))))
    frame = FORCED % (str(Decimal(size).scaleb(-3)).encode(), str(Decimal(price).scaleb(-2)).encode())
    passed = Decimal(price).scaleb(-2) * Decimal(size).scaleb(-3) >= least
    assert session.frame(frame, T, 1) == int(passed)
    assert int(session.row["liquidations"]) == 1
    assert session.reasons("dropped") == ({} if passed else {Reason.BELOW_THRESHOLD: 1})
    assert session.balances()


def test_a_liquidation_of_contracts_is_worth_what_they_are() -> None:
    item = replace(btcusdt(0, "BTCUSD_PERP", 1, 0, Dialect.BINANCE_COINM), contract_value=100 * 10**8)
    frame = (FORCED % (b"5", b"9910.0")).replace(b"BTCUSDT", b"BTCUSD_PERP")
    for least, count in ((500, 1), (501, 0)):
        assert Session([item], least * 10**8).frame(frame, T, 1) == count


# --- Kraken ---------------------------------------------------------------------------------------------------------


def test_a_ticker_tells_when_a_contract_stops_and_goes_on() -> None:
    futures = KrakenSession(list(CONTRACT.values()), Dialect.KRAKEN_FUTURES)

    def statuses(frame: bytes) -> list[int]:
        records = futures.records(frame)
        return [int(row["aux"]) for row in records if row["kind"] == Kind.STATUS]

    suspended = TICKER.replace(b'"suspended":false', b'"suspended":true')
    only = TICKER.replace(b'"suspended":false', b'"suspended":false,"post_only":true')
    silent = TICKER.replace(b'"suspended":false,', b"")
    assert [statuses(frame) for frame in (TICKER, suspended, suspended, silent, TICKER, only, TICKER)] == [
        [], [Status.HALTED], [], [], [Status.TRADING], [Status.POST_ONLY], [Status.TRADING]
    ]
    assert futures.balances()


def test_the_listing_and_the_sockets_must_agree_that_a_contract_trades() -> None:
    futures = KrakenSession(list(CONTRACT.values()), Dialect.KRAKEN_FUTURES)
    suspended = TICKER.replace(b'"suspended":false', b'"suspended":true')
    terms = (5, 1, 0)
    assert futures.listed(0, *terms, Status.CLOSED, 1)["aux"].tolist() == [Status.CLOSED]
    assert [row["kind"] for row in futures.records(suspended) if row["kind"] == Kind.STATUS] == [], "known already"
    assert futures.listed(0, *terms, Status.TRADING, 1)["aux"].tolist() == [Status.HALTED], "the ticker says so"
    assert [int(row["aux"]) for row in futures.records(TICKER) if row["kind"] == Kind.STATUS] == [Status.TRADING]
    assert futures.reasons("records_dropped") == {Reason.DUPLICATE: 1}


def test_a_new_tick_of_a_contract_is_one_gap_and_the_next_snapshot_ends_it() -> None:
    futures = KrakenSession(list(CONTRACT.values()), Dialect.KRAKEN_FUTURES)
    assert futures.frame(CONTRACT_BOOK) == 4
    records = futures.listed(0, 10, 1, 0, Status.TRADING, 1)
    assert records["kind"].tolist() == [Kind.GAP, Kind.INSTRUMENT]
    assert (records["price"][1], records["sequence"][1]) == (10, 3)
    assert futures.row["snapshot_wanted"][0] == 1
    assert len(futures.listed(0, 20, 1, 0, Status.TRADING, 1)) == 1, "no second gap while the book is awaited"
    assert futures.frame(CONTRACT_BOOK) == 4 and futures.row["snapshot_wanted"][0] == 0
    assert int(futures.row["gaps"]) == 1 == int(futures.row["resyncs"])


def test_small_liquidations_of_a_contract_leave_their_trade() -> None:
    item = replace(CONTRACT["PI_XBTUSD"], contract_value=10**8)  # 15,000 contracts of a dollar
    frame = TRADE.replace(b"fill", b"liquidation")
    for least, kinds in ((15_000, [Kind.TRADE, Kind.LIQUIDATION]), (15_001, [Kind.TRADE])):
        futures = KrakenSession([item], Dialect.KRAKEN_FUTURES, least * 10**8)
        records = futures.records(frame)
        assert records["kind"].tolist() == kinds
        assert records["flags"][0] & Flag.FIRST and records["flags"][-1] & Flag.LAST
        assert futures.balances()


SYSTEM = b'{"channel":"status","type":"update","data":[{"version":"2.0.0","system":"%s","api_version":"v2"}]}'
OLD_SYSTEM = b'{"connectionID":1,"event":"systemStatus","status":"%s","version":"1.8.3"}'


@pytest.mark.parametrize(
    ("frame", "dialect", "first"),
    [
        (SYSTEM, Dialect.KRAKEN_SPOT_V2, PAIR["BTC/USD"]),
        (OLD_SYSTEM, Dialect.KRAKEN_SPOT_V1, kraken_instrument("XBT/USD")),
    ],
)
def test_the_status_of_the_trading_engine_is_that_of_every_pair(
    frame: bytes, dialect: Dialect, first: Instrument
) -> None:
    second = replace(first, index=3, symbol="ETH/USD")
    spot = KrakenSession([first, second], dialect)
    said = [b"online", b"cancel_only", b"cancel_only", b"post_only", b"maintenance", b"something new", b"online"]
    told = []
    for word in said:
        records = spot.records(frame % word)
        assert records["kind"].tolist() == [Kind.STATUS] * len(records)
        assert records["instrument"].tolist() == ([0, 3] if len(records) else [])
        told.append(sorted(set(records["aux"].tolist())))
    assert told == [[], [Status.CANCEL_ONLY], [], [Status.POST_ONLY], [Status.HALTED], [], [Status.TRADING]]
    assert spot.balances()


# --- what it means for us --------------------------------------------------------------------------------------------


def held(**fields: int) -> Terms:
    return replace(Terms(10, 1, 5, int(Status.TRADING)), **fields)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({}, {}),
        ({"tick_size": 5}, {"tick_size": 5}),
        ({"price_exp": 1, "tick_size": 2}, {"tick_size": 20}),
        ({"price_exp": 4, "tick_size": 500}, {"tick_size": 5}),
        ({"price_exp": 3, "tick_size": 5}, {"status": Status.MISFIT}),
        ({"size_exp": 5, "lot_size": 1}, {"status": Status.MISFIT}),
        ({"contract_value": 1}, {"status": Status.MISFIT}),
        ({"size_exp": 0, "lot_size": 2**63 - 1}, {"status": Status.MISFIT}),  # more than int64 holds in our units
        ({"price_exp": 0, "tick_size": 2**63 // 100 + 1}, {"status": Status.MISFIT}),
        ({"price_exp": 0, "tick_size": 2**63 // 100}, {"tick_size": 2**63 // 100 * 100}),
        ({"status": Status.POST_ONLY, "lot_size": 7}, {"status": Status.POST_ONLY, "lot_size": 7}),
        ({"min_notional": 9}, {"min_notional": 9}),
        (None, {"status": Status.CLOSED}),
    ],
)
def test_a_listing_in_the_units_of_the_session(listed: dict[str, int] | None, expected: dict[str, int]) -> None:
    ours = Instrument(0, "X", "X", "Y", price_exp=2, size_exp=3, tick_size=10, lot_size=1, min_notional=5)
    terms = terms_of(ours, held(), None if listed is None else replace(ours, **listed))
    assert terms == held(**{name: int(value) for name, value in expected.items()})
    assert Terms.from_bytes(terms.to_bytes()) == terms


def test_nothing_of_a_listing_is_lost_where_the_ring_is_full() -> None:
    items = [btcusdt(), btcusdt(1, "ETHUSDT")]
    decoder = Decoder(Session(items).state, items)
    decoder.start(T)
    decoder.snapshot(0, BOOK, T)
    decoder.snapshot(1, BOOK, T)
    assert decoder.listed(0, Terms(20, 1, 5, int(Status.HALTED)), T) == 3
    count = decoder.dropped(T)
    assert decoder.records["kind"][:count].tolist() == [Kind.GAP, Kind.STATUS, Kind.INSTRUMENT]
    assert decoder.state["snapshot_wanted"][0, :2].tolist() == [1, 0]
    decoder.listed(1, Terms(10, 1, 100 * 10**8, int(Status.HALTED)), T)
    count = decoder.dropped(T)
    assert decoder.records["kind"][:count].tolist() == [Kind.STATUS], "a book does not depend on it"
    decoder.frame(OPEN_INTEREST, T)
    assert decoder.dropped(T) == 0
    assert decoder.terms(0) == Terms(20, 1, 5, int(Status.HALTED))
    row = decoder.state[0]
    assert int(row["dropped"][Reason.RING_FULL]) == 1
    assert int(row["records_in"]) == int(row["processed"]) + int(row["dropped"].sum())


# --- the stages ------------------------------------------------------------------------------------------------------


def book(at: int, tick: int = 10) -> np.ndarray:
    """A snapshot of two levels."""
    flags = [SNAPSHOT | FIRST, SNAPSHOT | LAST]
    return np.concatenate([
        record(Kind.LEVEL, side=side, price=1_000 + tick * (side < 0), size=5, flags=flag, recv_ts_ns=at)
        for side, flag in zip((1, -1), flags)
    ])


def test_a_new_epoch_ends_the_book_in_every_stage_and_its_snapshot_begins_it_anew() -> None:
    item = make_instrument()
    first, second = (record(Kind.INSTRUMENT, price=tick, size=1, sequence=epoch, recv_ts_ns=T)
                     for tick, epoch in ((10, 0), (5, 1)))
    gap = record(Kind.GAP, reason=Reason.NEW_EPOCH, recv_ts_ns=T)
    trade = record(Kind.TRADE, side=1, price=1_005, size=1, aux=1, recv_ts_ns=T, flags=FIRST | LAST)
    market = np.concatenate([first, book(T), trade, gap, second, trade, book(T, tick=5)])
    state = make_validation_state(ValidationSettings(), [item])
    valid = run_stage(VALIDATION, state, market)
    assert valid["kind"].tolist() == [
        Kind.INSTRUMENT, Kind.LEVEL, Kind.LEVEL, Kind.BOOK_VALID, Kind.GAP, Kind.BOOK_INVALID, Kind.INSTRUMENT,
        Kind.TRADE, Kind.LEVEL, Kind.LEVEL, Kind.BOOK_VALID,
    ]
    assert valid["reason"][5] == Reason.NEW_EPOCH
    assert quarantined_records(state)["reason"].tolist() == [Reason.OFF_TICK], "of the old grid, not of the new one"
    assert int(state["instruments"][0]["resync_wanted"][0]) == 0, "ingestion knows of it"
    out = run_stage(FEATURES, make_features_state(FeatureSettings(), [item]), valid)
    vectors = [place for place, kind in enumerate(out["kind"].tolist()) if kind == Kind.VECTOR]
    assert vectors == [] and int(out["kind"][-1]) == Kind.BOOK_VALID


@pytest.mark.parametrize("announced", [True, False])
def test_an_epoch_that_comes_without_a_gap_ends_the_book_all_the_same(announced: bool) -> None:
    item = make_instrument()
    first, second = (record(Kind.INSTRUMENT, price=10, size=lot, sequence=lot, recv_ts_ns=T) for lot in (1, 2))
    state = make_validation_state(ValidationSettings(), [item])
    valid = run_stage(VALIDATION, state, np.concatenate([first, *([book(T)] if announced else []), second]))
    assert (valid["kind"][-1] == Kind.BOOK_INVALID) == announced
    assert int(state["instruments"][0]["resync_wanted"][0]) == int(announced)
    again = run_stage(VALIDATION, state, np.concatenate([second, book(T)[1:]]))
    assert again["kind"].tolist() == [Kind.INSTRUMENT], "no level stands on nothing"


def test_a_book_on_another_grid_gives_no_vector_before_its_snapshot() -> None:
    """Features by themselves: a tick that changes ends the book there too."""
    item = make_instrument()
    instruments = [record(Kind.INSTRUMENT, price=tick, size=1, sequence=tick, recv_ts_ns=T) for tick in (10, 5)]
    update = record(Kind.LEVEL, side=1, price=990, size=1, flags=FIRST | LAST, recv_ts_ns=T)
    valid = record(Kind.BOOK_VALID, recv_ts_ns=T)
    state = make_features_state(FeatureSettings(), [item])
    before = run_stage(FEATURES, state, np.concatenate([instruments[0], book(T), valid, update]))
    assert before["kind"].tolist() == [Kind.INSTRUMENT, Kind.BOOK_VALID, Kind.VECTOR]
    after = run_stage(FEATURES, state, np.concatenate([instruments[1], update, book(T, 5), valid, update]))
    assert after["kind"].tolist() == [Kind.INSTRUMENT, Kind.BOOK_VALID, Kind.VECTOR]
    assert (after["bid_price"][-1], after["ask_price"][-1]) == (1_000, 1_005)


def test_open_interest_is_judged_and_ends_at_the_features() -> None:
    item = make_instrument()
    first = record(Kind.INSTRUMENT, price=10, size=1, recv_ts_ns=T)
    good, bad = (record(Kind.OPEN_INTEREST, size=size, recv_ts_ns=T) for size in (5, -5))
    state = make_validation_state(ValidationSettings(), [item])
    valid = run_stage(VALIDATION, state, np.concatenate([good, first, good, bad]))
    assert valid["kind"].tolist() == [Kind.INSTRUMENT, Kind.OPEN_INTEREST]
    assert quarantined_records(state)["reason"].tolist() == [Reason.NO_INSTRUMENT, Reason.SIZE_RANGE]
    out = run_stage(FEATURES, make_features_state(FeatureSettings(), [item]), valid)
    assert out["kind"].tolist() == [Kind.INSTRUMENT]


@pytest.mark.parametrize("status", [status for status in Status if status != Status.TRADING])
def test_only_cancels_while_an_instrument_does_not_trade(status: Status) -> None:
    state, now = opened_state(), START_NS + MS
    sent = step(state, prediction(now, 10, 0, 6_000_000, 6_000_100))
    assert [OrderAction(kind) for kind in sent["kind"]] == [OrderAction.NEW] * 2
    taken_back = step(state, control(Kind.STATUS, now + MS, 11, aux=int(status)))
    kinds = set(taken_back["kind"].tolist())
    for number in range(20):
        at = now + (number + 2) * 100 * MS
        kinds |= set(step(state, prediction(at, 12, 0, 6_000_000, 6_000_100))["kind"].tolist())
    assert OrderAction.NEW not in kinds
    other = step(state, prediction(now + 3_000 * MS, 40, 1, 260_000, 260_002))
    assert OrderAction.NEW in other["kind"].tolist(), "the other instrument goes on"


def test_no_order_on_an_old_touch_after_a_new_tick() -> None:
    state, now = opened_state(), START_NS + MS
    step(state, prediction(now, 10, 0, 6_000_000, 6_000_100))
    step(state, control(Kind.INSTRUMENT, now + MS, 11, price=50, size=1, aux=5_00000000, sequence=1))
    assert state[0]["views"][0]["book_valid"] == 0
    for number in range(20):
        orders = step(state, prediction(now + (number + 2) * 100 * MS, 12, 0, 6_000_000, 6_000_100))
        assert OrderAction.NEW not in orders["kind"].tolist()
    later = now + 3_000 * MS
    feed(state, [report(ReportKind.CANCELLED, later, number) for number in (1, 2)])
    step(state, control(Kind.BOOK_VALID, later, 40))
    orders = step(state, prediction(later, 41, 0, 6_000_000, 6_000_100))
    assert orders["kind"].tolist() == [OrderAction.NEW] * 2
    assert (orders["price"] % 50 == 0).all()


def test_a_contract_that_we_do_not_trade_is_not_traded_because_its_venue_does() -> None:
    inverse = replace(BTC, contract_value=100 * 10**8)
    halted = replace(BTC, status=Status.HALTED)
    for item, trading in ((inverse, 0), (halted, 1), (BTC, 1)):
        state = make_state(instruments=[item])
        assert state[0]["views"][0]["trading"] == int(item is BTC)
        step(state, control(Kind.STATUS, START_NS, 1, aux=int(Status.TRADING)))
        assert state[0]["views"][0]["trading"] == trading
