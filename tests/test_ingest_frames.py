"""Decoding single frames: every kind, any key order, any white space, every refusal, and nothing half-applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.kernel import INGEST_OUTBOX_RECORDS, INGEST_STATE, ingest_frame, is_snapshot_body, make_ingest_state
from engine.ingest.state import MAX_LEVELS_PER_FRAME
from engine.instruments import MAX_INSTRUMENTS
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, Side
from engine.stage import as_bytes
from tests.ingest_oracle import Oracle, Session, btcusdt

T0 = 1_700_000_000_000_000_000
COUNTERS_OF_A_REFUSAL = ("frames", "records_in", "quarantined")

DEPTH = {
    "e": "depthUpdate", "E": 1680652700594, "T": 1680652700586, "s": "BTCUSDT", "U": 101, "u": 110, "pu": 100,
    "b": [["5000.00", "14.368"], ["28018.90", "0.000"]], "a": [["28145.20", "6.961"]],
}  # fmt: skip
TRADE = {
    "e": "trade", "E": 1680652700455, "T": 1680652700452, "s": "BTCUSDT", "t": 3535186032, "p": "28145.10",
    "q": "0.002", "X": "MARKET", "m": True,
}  # fmt: skip
TICKER = {
    "e": "bookTicker", "u": 2710246762461, "s": "BTCUSDT", "b": "28145.10", "B": "3.868", "a": "28145.20",
    "A": "6.887", "T": 1680652700430, "E": 1680652700435,
}  # fmt: skip
MARK = {
    "e": "markPriceUpdate", "E": 1680652701000, "s": "BTCUSDT", "p": "28147.27373413", "P": "28142.15563565",
    "i": "28159.75642857", "r": "-0.00002754", "T": 1680652800000,
}  # fmt: skip
LIQUIDATION = {
    "e": "forceOrder", "E": 1568014460893,
    "o": {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9910.12345678",
          "X": "FILLED", "l": "0.014", "z": "0.014", "T": 1568014460892},
}  # fmt: skip
SNAPSHOT = {
    "lastUpdateId": 105, "E": 1680652700590, "T": 1680652700580,
    "bids": [["28145.10", "3.818"], ["28145.00", "0.413"]], "asks": [["28145.20", "1.000"]],
}  # fmt: skip
EVENTS = {"depth": DEPTH, "trade": TRADE, "ticker": TICKER, "mark": MARK, "liquidation": LIQUIDATION}


def dumps(value: Any) -> bytes:
    return orjson.dumps(value)


def ready(*instruments: Any) -> Session:
    """A session whose first book is in sequence at update id 105."""
    session = Session(instruments or [btcusdt()])
    assert session.snapshot(0, dumps(SNAPSHOT), T0, 1) == 3
    session.written.clear()
    return session


def only(session: Session) -> list[dict[str, int]]:
    return [dict(zip(MARKET.names or (), map(int, row), strict=True)) for row in session.records().tolist()]


def test_start_announces_the_instruments_by_index() -> None:
    items = [btcusdt(5, "ETHUSDT"), btcusdt(2, "BTCUSDT")]
    session = Session(items)
    assert session.start(T0) == 2
    first, second = session.records()
    for record, item in ((first, items[1]), (second, items[0])):
        expected = item.record()[0]
        expected["recv_ts_ns"] = T0
        assert record == expected
    assert session.row["out"] == 2 and session.row["snapshot_wanted"].tolist().count(1) == 2


@pytest.mark.parametrize("combined", [True, False])
@pytest.mark.parametrize("name", EVENTS)
def test_each_kind_equals_the_oracle(name: str, combined: bool) -> None:
    event = EVENTS[name]
    frame = dumps({"stream": "btcusdt@any", "data": event} if combined else event)
    session, oracle = ready(), Oracle([btcusdt()])
    oracle.snapshot(0, dumps(SNAPSHOT), T0, 1)
    oracle.out.clear()
    assert session.frame(frame, T0 + 5, 2) > 0
    oracle.frame(frame, T0 + 5, 2)
    np.testing.assert_array_equal(session.records(), oracle.records())


def test_a_trade_spelled_out() -> None:
    session = ready()
    assert session.frame(dumps(TRADE), T0 + 5, 9) == 1
    assert only(session) == [
        {"ingest_id": 9, "recv_ts_ns": T0 + 5, "exch_ts_ns": 1680652700452_000_000, "sequence": 3535186032,
         "price": 2814510, "size": 2, "aux": 3535186032, "kind": Kind.TRADE, "venue": 3, "side": Side.SELL,
         "flags": Flag.FIRST | Flag.LAST, "instrument": 0, "reason": 0}
    ]  # fmt: skip
    session.frame(dumps({**TRADE, "t": 3535186033, "m": False}), T0 + 5, 10)
    assert only(session)[1]["side"] == Side.BUY


def test_a_mark_price_spelled_out() -> None:
    session = ready()
    assert session.frame(dumps(MARK), T0 + 5, 2) == 2
    mark, funding = only(session)
    assert (mark["price"], mark["size"], mark["flags"]) == (2814727373413, 2815975642857, Flag.FIRST)
    assert (funding["aux"], funding["size"], funding["flags"]) == (-27540000, 1680652800000, Flag.LAST)
    assert mark["exch_ts_ns"] == funding["exch_ts_ns"] == 1680652701000_000_000


def test_a_delivery_contract_has_no_funding() -> None:
    session = ready()
    assert session.frame(dumps({**MARK, "r": "", "T": 0}), T0 + 5, 2) == 1
    assert only(session)[0]["flags"] == Flag.FIRST | Flag.LAST
    assert (session.row["mark_prices"], session.row["funding"]) == (1, 0)
    without = {key: value for key, value in MARK.items() if key not in "riT"}
    assert session.frame(dumps(without), T0 + 5, 3) == 1


@pytest.mark.parametrize("change", [{"X": "NA", "p": "0", "q": "0"}, {"X": "INSURANCE_FUND"}, {"X": "ADL"}])
def test_odd_trades_are_decoded_and_left_to_validation(change: dict[str, str]) -> None:
    session = ready()
    assert session.frame(dumps({**TRADE, **change}), T0 + 5, 2) == 1
    assert only(session)[0]["price"] == (0 if "p" in change else 2814510)


def test_the_time_of_a_frame_is_T_else_E_else_none() -> None:
    for keys, expected in (("", 1680652700452), ("T", 1680652700455), ("TE", 0)):
        session = ready()
        assert session.frame(dumps({key: value for key, value in TRADE.items() if key not in keys}), T0, 2) == 1
        assert only(session)[0]["exch_ts_ns"] == expected * 1_000_000


def test_the_time_of_a_liquidation_is_the_order_s_else_the_event_s() -> None:
    order = {key: value for key, value in LIQUIDATION["o"].items() if key != "T"}  # type: ignore[attr-defined]
    for frame, expected in ((LIQUIDATION, 1568014460892), ({**LIQUIDATION, "o": order}, 1568014460893)):
        session = ready()
        assert session.frame(dumps(frame), T0, 2) == 1
        assert only(session)[0]["exch_ts_ns"] == expected * 1_000_000


def test_answers_to_subscriptions_are_counted() -> None:
    session = ready()
    for frame in (b'{"result":null,"id":1}', b' { "id" : 1 , "result" : ["btcusdt@trade"] } '):
        assert session.frame(frame, T0 + 5, 2) == 0
    assert session.row["acks"] == 2 and session.balances()
    assert session.frame(b'{"error":{"code":2,"msg":"Invalid request"},"id":1}', T0, 3) == -Reason.UNKNOWN_STREAM


def test_an_answer_that_is_news_too_is_refused() -> None:
    """Two frames that ran into one another; in an event that names itself, `result` is one more unknown member."""
    wrapped = {"result": None, "data": TRADE}
    interest = {"result": None, "openInterest": "1", "symbol": "BTCUSDT", "time": 1}
    session = ready()
    for news in (wrapped, interest):
        for frame in (news, dict(reversed(news.items()))):
            assert session.frame(dumps(frame), T0 + 5, 2) == -Reason.BAD_JSON
    assert not session.written and session.balances()
    for frame in ({"result": None, **TRADE}, {**TRADE, "t": TRADE["t"] + 1, "result": None}):
        assert session.frame(dumps(frame), T0 + 5, 3) == 1
    assert session.row["acks"] == 0 and session.row["trades"] == 2 and session.balances()


def test_an_empty_diff_moves_the_sequence_and_makes_no_record() -> None:
    session = ready()
    assert session.frame(dumps({**DEPTH, "b": [], "a": []}), T0 + 5, 2) == 0
    assert session.row["last_update_id"][0] == 110
    assert session.frame(dumps({**DEPTH, "U": 111, "u": 120, "pu": 110}), T0 + 5, 3) == 3
    assert session.row["gaps"] == 0 and session.balances()


def test_levels_may_carry_more_elements_and_bare_numbers() -> None:
    session = ready()
    frame = dumps(DEPTH).replace(b'["28145.20","6.961"]', b'[28145.20,6.961,[],"x"],[1e4 , 2E-3]')
    assert session.frame(frame, T0 + 5, 2) == 4
    assert [(row["price"], row["size"]) for row in only(session)[2:]] == [(2814520, 6961), (1000000, 2)]


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(sorted(EVENTS)), combined=st.booleans(), indent=st.booleans())
def test_key_order_unknown_keys_and_white_space_change_nothing(
    data: st.DataObject, name: str, combined: bool, indent: bool
) -> None:
    event = EVENTS[name]
    ours = [event, event.get("o")]
    strangers: dict[str, Any] = {"zz": [1, {"e": "trade"}, ']\\"'], "ü": None, "V": {"b": []}}

    def shuffled(value: dict[str, Any]) -> dict[str, Any]:
        members = data.draw(st.permutations(list({**value, **strangers}.items())))
        return {key: shuffled(inner) if isinstance(inner, dict) and inner in ours else inner for key, inner in members}

    plain = {"stream": "btcusdt@any", "data": event} if combined else event
    frame = orjson.dumps(shuffled(plain), option=orjson.OPT_INDENT_2 if indent else None)
    if indent:
        frame = b" \r\n\t" + frame.replace(b",", b" , ").replace(b'":', b'"\t:') + b"\n"
    once, again = ready(), ready()
    assert once.frame(dumps(plain), T0 + 5, 2) == again.frame(frame, T0 + 5, 2) > 0
    np.testing.assert_array_equal(once.records(), again.records())
    assert once.counters() == again.counters()


@settings(max_examples=60)
@given(data=st.data(), spaces=st.booleans())
def test_a_snapshot_reads_the_same_in_any_order(data: st.DataObject, spaces: bool) -> None:
    members = data.draw(st.permutations(list({**SNAPSHOT, "symbol": "BTCUSDT", "x": [[]]}.items())))
    body = orjson.dumps(dict(members), option=orjson.OPT_INDENT_2 if spaces else None)
    once, again = Session([btcusdt()]), Session([btcusdt()])
    assert once.snapshot(0, dumps(SNAPSHOT), T0, 1) == again.snapshot(0, body, T0, 1) == 3
    np.testing.assert_array_equal(once.records(), again.records())
    first, middle, last = once.records()["flags"].tolist()
    assert (first, middle, last) == (Flag.SNAPSHOT | Flag.FIRST, Flag.SNAPSHOT, Flag.SNAPSHOT | Flag.LAST)


def refusals() -> list[tuple[str, bytes, Reason]]:
    """(what is wrong, frame, reason)."""
    cases = [
        ("empty", b"", Reason.BAD_JSON),
        ("no object", b"[1]", Reason.BAD_JSON),
        ("nothing in it", b"{}", Reason.UNKNOWN_STREAM),
        ("trailing bytes", dumps(TRADE) + b"x", Reason.BAD_JSON),
        ("two frames", dumps(TRADE) * 2, Reason.BAD_JSON),
        ("data is no object", b'{"stream":"x","data":[]}', Reason.UNKNOWN_STREAM),
        ("a list of marks", b'{"stream":"!markPrice@arr","data":[' + dumps(MARK) + b"]}", Reason.UNKNOWN_STREAM),
        ("another stream", dumps({**TRADE, "e": "kline"}), Reason.UNKNOWN_STREAM),
        ("almost a name", dumps({**TRADE, "e": "trade\0"}), Reason.UNKNOWN_STREAM),
        ("event is no text", dumps({**TRADE, "e": 5}), Reason.UNKNOWN_STREAM),
        ("another symbol", dumps({**TRADE, "s": "ETHUSDT"}), Reason.UNKNOWN_SYMBOL),
        ("longer symbol", dumps({**TRADE, "s": "BTCUSDTX"}), Reason.UNKNOWN_SYMBOL),
        ("shorter symbol", dumps({**TRADE, "s": "BTCUSD"}), Reason.UNKNOWN_SYMBOL),
        ("empty symbol", dumps({**TRADE, "s": ""}), Reason.UNKNOWN_SYMBOL),
        ("symbol is no text", dumps({**TRADE, "s": 1}), Reason.BAD_JSON),
        ("unknown symbol in an order", dumps({**LIQUIDATION, "o": {**LIQUIDATION["o"], "s": "X"}}),  # type: ignore[dict-item]
         Reason.UNKNOWN_SYMBOL),
        ("order is no object", dumps({**LIQUIDATION, "o": 1}), Reason.BAD_JSON),
        ("no side", dumps({**LIQUIDATION, "o": {**LIQUIDATION["o"], "S": "sell"}}), Reason.BAD_JSON),  # type: ignore[dict-item]
        ("a key twice", dumps(TRADE)[:-1] + b',"p":"1.00"}', Reason.BAD_JSON),
        ("maker is a number", dumps({**TRADE, "m": 1}), Reason.BAD_JSON),
        ("too many decimals", dumps({**TRADE, "p": "28145.105"}), Reason.BAD_NUMBER),
        ("id with a fraction", dumps({**TRADE, "t": 1.5}), Reason.BAD_NUMBER),
        ("id too large", dumps({**TRADE, "t": 2**63}), Reason.BAD_NUMBER),
        ("price is null", dumps({**TRADE, "p": None}), Reason.BAD_NUMBER),
        ("time beyond 2262", dumps({**TRADE, "T": 10**13}), Reason.BAD_NUMBER),
        ("time before 1970", dumps({**TRADE, "T": -1}), Reason.BAD_NUMBER),
        ("bids are text", dumps({**DEPTH, "b": "1.00"}), Reason.BAD_JSON),
        ("asks are missing", dumps({key: value for key, value in DEPTH.items() if key != "a"}), Reason.BAD_JSON),
        ("pu is missing", dumps({key: value for key, value in DEPTH.items() if key != "pu"}), Reason.BAD_JSON),
        ("level without size", dumps({**DEPTH, "b": [["1.00"]]}), Reason.BAD_JSON),
        ("level is text", dumps({**DEPTH, "b": ["1.00"]}), Reason.BAD_JSON),
        ("comma before the end", dumps(DEPTH).replace(b'"6.961"]]', b'"6.961"],]'), Reason.BAD_JSON),
        ("bad size in asks", dumps({**DEPTH, "a": [["1.00", "1.0005"]]}), Reason.BAD_NUMBER),
        ("too many levels", dumps({**DEPTH, "b": [["1.00", "1.000"]] * (MAX_LEVELS_PER_FRAME + 1)}),
         Reason.FRAME_TOO_LARGE),
    ]  # fmt: skip
    required = {"trade": "stpqm", "bookTicker": "usbBaA", "markPriceUpdate": "sp"}
    for event in (TRADE, TICKER, MARK):
        for key in required[str(event["e"])]:
            frame = dumps({name: value for name, value in event.items() if name != key})
            cases.append((f"{event['e']} without {key}", frame, Reason.BAD_JSON))
    return cases


@pytest.mark.parametrize(("frame", "reason"), [pytest.param(f, r, id=name) for name, f, r in refusals()])
def test_refusals_change_nothing_but_counters(frame: bytes, reason: Reason) -> None:
    session = ready()
    before = session.state.copy()
    # later than the clock's next grid point: a refused frame must not move time either
    assert session.frame(frame, T0 + 10**9, 2) == -reason
    assert session.reasons("quarantined") == {reason: 1}
    after = session.state.copy()
    assert (after["frames"], after["records_in"]) == (before["frames"] + 1, before["records_in"] + 1)
    for name in COUNTERS_OF_A_REFUSAL:
        after[name] = before[name]
    after["value_at"] = before["value_at"]  # scratch
    assert after.tobytes() == before.tobytes()
    assert session.balances() and not session.written
    assert session.frame(dumps(DEPTH), T0 + 10**9, 3) == 4, "the CLOCK that was due, and the diff"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lastUpdateId": None}, Reason.BAD_NUMBER),
        ({"bids": None}, Reason.BAD_JSON),
        ({"bids": [], "asks": []}, Reason.BAD_JSON),
        ({"asks": [["1.00", "x"]]}, Reason.BAD_NUMBER),
        ({"T": "soon"}, Reason.BAD_NUMBER),
        ({"asks": [["1.00", "1.000"]] * MAX_LEVELS_PER_FRAME}, Reason.FRAME_TOO_LARGE),
    ],
)
def test_refused_snapshots_leave_the_book_waiting(change: dict[str, Any], reason: Reason) -> None:
    session = Session([btcusdt()])
    session.frame(dumps(DEPTH), T0, 1)
    assert session.snapshot(0, dumps({**SNAPSHOT, **change}), T0, 2) == -reason
    assert session.row["snapshot_wanted"][0] == 1 and session.row["pending_frames"] == 1
    assert session.snapshot(0, dumps(SNAPSHOT), T0, 3) == 6 and session.balances()


def test_a_snapshot_needs_a_known_instrument_and_all_its_keys() -> None:
    session = Session([btcusdt()])
    for instrument in (-1, 1, MAX_INSTRUMENTS, 2**40):
        assert session.snapshot(instrument, dumps(SNAPSHOT), T0, 1) == -Reason.UNKNOWN_SYMBOL
        if instrument != -1:
            assert session.lost(instrument, 0, T0) == -Reason.UNKNOWN_SYMBOL
    for key in ("lastUpdateId", "bids", "asks"):
        body = dumps({name: value for name, value in SNAPSHOT.items() if name != key})
        assert session.snapshot(0, body, T0, 1) == -Reason.BAD_JSON
    assert session.snapshot(0, b"{}", T0, 1) == session.snapshot(0, b"", T0, 1) == -Reason.BAD_JSON
    assert session.balances()


def test_the_largest_frame_is_taken() -> None:
    session = ready()
    half = [["28145.00", "0.001"]] * (MAX_LEVELS_PER_FRAME // 2)
    assert session.frame(dumps({**DEPTH, "b": half, "a": half}), T0, 2) == MAX_LEVELS_PER_FRAME


def test_symbols_are_told_apart() -> None:
    names = ["BTC", "BTCUSDT", "BTCUSDT_240927", "X" * 32, "1000PEPEUSDT"]
    session = Session([btcusdt(index, name) for index, name in enumerate(names)])
    for index, name in enumerate(names):
        assert session.frame(dumps({**TRADE, "s": name}), T0, index + 1) == 1
        assert session.records()["instrument"][-1] == index


def test_units_are_the_instrument_s_own() -> None:
    session = Session([btcusdt(0, "BTCUSDT", 1, 4), btcusdt(1, "ETHUSDT", 6, 0)])
    session.frame(dumps({**TRADE, "p": "28145.10", "q": "0.0020"}), T0, 1)
    session.frame(dumps({**TRADE, "s": "ETHUSDT", "p": "0.001230", "q": "12"}), T0, 2)
    assert session.records()["price"].tolist() == [281451, 1230]
    assert session.records()["size"].tolist() == [20, 12]


def test_impossible_instruments_are_refused() -> None:
    for items in (
        [btcusdt(0), btcusdt(0)],
        [btcusdt(0), btcusdt(1)],
        [btcusdt(16)],
        [btcusdt(0, "")],
        [btcusdt(0, "X" * 33)],
    ):
        with pytest.raises(ValueError, match="instrument"):
            make_ingest_state(items)


def test_an_outbox_that_is_too_small_is_refused() -> None:
    state = make_ingest_state([btcusdt()])
    small = np.zeros(INGEST_OUTBOX_RECORDS - 1, MARKET)
    with pytest.raises(ValueError, match="outbox holds fewer"):
        ingest_frame(as_bytes(state), dumps(TRADE), T0, 1, as_bytes(small))


def test_snapshot_bodies_are_told_from_frames() -> None:
    assert is_snapshot_body(dumps(SNAPSHOT)) and is_snapshot_body(b'{"lastUpdateId": 1, "bids": []}')
    assert not any(is_snapshot_body(dumps(event)) for event in EVENTS.values())


def test_the_state_stays_within_a_level_two_cache() -> None:
    assert INGEST_STATE.itemsize < 512 * 1024 and INGEST_STATE.itemsize % 8 == 0
