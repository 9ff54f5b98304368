"""Single frames of spot and COIN-M: what differs from USD-M, real wire texts, and mutations of recorded frames."""

from __future__ import annotations

import gzip
import itertools
from functools import cache
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.kernel import make_ingest_state
from engine.ingest.state import BINANCE_DIALECTS
from engine.instruments import Dialect
from engine.reasons import Reason
from engine.records import Flag, Kind, Side
from procs.embedded.mix import Draws
from tests.ingest_fuzz import CORPUS
from tests.ingest_oracle import Oracle, Session, btcusdt
from tests.recordings import open_capture, require_capture
from tests.test_ingest_frames import LIQUIDATION, MARK, T0, TICKER, TRADE, dumps, only
from tests.test_ingest_fuzz import NO_ANSWER
from tools.soak.accidents import mutated

SPOT, USDM, COINM = Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM
CAPTURES = {
    SPOT: ("ws/binance-spot/btcusdt_20240808.raw.gz", btcusdt(0, "BTCUSDT", 8, 8, SPOT)),
    USDM: ("ws/binance-usdm/btcusdt_20230404.raw.gz", btcusdt(0, "BTCUSDT", 2, 3, USDM)),
    COINM: ("ws/binance-coinm/btcusd_perp_20240808.raw.gz", btcusdt(0, "BTCUSD_PERP", 1, 0, COINM)),
}

SPOT_DEPTH = {
    "e": "depthUpdate", "E": 1723161255208, "s": "BTCUSDT", "U": 101, "u": 110,
    "b": [["61737.63000000", "0.00000000"], ["61730.17000000", "0.25000000"]], "a": [["61837.64000000", "1.54698000"]],
}  # fmt: skip
SPOT_TICKER = {
    "u": 50093239212, "s": "BTCUSDT", "b": "61837.63000000", "B": "3.78826000", "a": "61837.64000000",
    "A": "1.54698000",
}  # fmt: skip
SPOT_TRADE = {
    "e": "trade", "E": 1723161255343, "s": "BTCUSDT", "t": 3735683259, "p": "61837.63000000", "q": "0.02000000",
    "b": 88, "a": 99, "T": 1723161255342, "m": True, "M": True,
}  # fmt: skip
AGGREGATE = {
    "e": "aggTrade", "E": 1723161255343, "s": "BTCUSDT", "a": 665076760, "p": "61837.63000000", "q": "0.02000000",
    "f": 745522877, "l": 745522880, "T": 1723161255342, "m": False, "M": True,
}  # fmt: skip
SPOT_SNAPSHOT = {"lastUpdateId": 105, "bids": [["61837.63000000", "3.78826000"]], "asks": [["61837.64000000", "1"]]}
SPOT_EVENTS = {"depth": SPOT_DEPTH, "ticker": SPOT_TICKER, "trade": SPOT_TRADE, "aggregate": AGGREGATE}


def ready(dialect: Dialect = SPOT, update_id: int = 105) -> tuple[Session, Oracle]:
    """Ingestion and the oracle with one book in sequence."""
    item = CAPTURES[dialect][1]
    body = dumps({**SPOT_SNAPSHOT, "lastUpdateId": update_id, "bids": [["1", "1"]], "asks": [["2", "1"]]})
    session, oracle = Session([item]), Oracle([item])
    session.snapshot(0, body, T0, 1)
    oracle.snapshot(0, body, T0, 1)
    session.written.clear()
    oracle.out.clear()
    return session, oracle


@pytest.mark.parametrize("combined", [True, False])
@pytest.mark.parametrize("name", SPOT_EVENTS)
def test_each_spot_kind_equals_the_oracle(name: str, combined: bool) -> None:
    event = SPOT_EVENTS[name]
    frame = dumps({"stream": "btcusdt@any", "data": event} if combined else event)
    session, oracle = ready()
    assert session.frame(frame, T0 + 5, 2) > 0
    oracle.frame(frame, T0 + 5, 2)
    np.testing.assert_array_equal(session.records(), oracle.records())


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(sorted(SPOT_EVENTS)), combined=st.booleans())
def test_key_order_and_unknown_keys_change_nothing(data: st.DataObject, name: str, combined: bool) -> None:
    event: dict[str, Any] = SPOT_EVENTS[name]
    strangers = {"zz": [1, {"e": "trade"}], "ps": "X", "V": {"b": []}}
    shuffled = dict(data.draw(st.permutations(list((event | strangers).items()))))
    once, again = ready()[0], ready()[0]
    for session, body in ((once, event), (again, shuffled)):
        assert session.frame(dumps({"data": body, "stream": "x"} if combined else body), T0 + 5, 2) > 0
    np.testing.assert_array_equal(once.records(), again.records())
    assert once.counters() == again.counters()


def test_a_spot_ticker_spelled_out() -> None:
    session, _ = ready()
    assert session.frame(dumps(SPOT_TICKER), T0 + 5, 9) == 2
    bid, ask = only(session)
    assert (bid["kind"], bid["side"], bid["flags"]) == (Kind.QUOTE, Side.BUY, Flag.FIRST)
    assert (bid["price"], bid["size"], bid["sequence"]) == (6183763000000, 378826000, 50093239212)
    assert (ask["price"], ask["size"], ask["side"], ask["flags"]) == (6183764000000, 154698000, Side.SELL, Flag.LAST)
    assert bid["exch_ts_ns"] == ask["exch_ts_ns"] == 0, "it has no time of its own"


def test_an_aggregate_spelled_out() -> None:
    session, _ = ready()
    assert session.frame(dumps(AGGREGATE), T0 + 5, 9) == 1
    (trade,) = only(session)
    assert (trade["kind"], trade["side"], trade["aux"], trade["sequence"]) == (
        Kind.TRADE, Side.BUY, 745522880, 745522880,
    )  # fmt: skip
    assert (trade["price"], trade["size"]) == (6183763000000, 2000000)
    assert trade["exch_ts_ns"] == 1723161255342_000_000
    assert session.row["trades"] == 1 and session.row["last_trade_id"][0] == 745522880


REFUSALS = [
    *((f"ticker without {key}", {k: v for k, v in SPOT_TICKER.items() if k != key}, reason) for key, reason in (
        ("s", Reason.BAD_JSON), ("b", Reason.BAD_JSON), ("a", Reason.BAD_JSON), ("A", Reason.BAD_JSON),
        ("B", Reason.UNKNOWN_STREAM),
    )),
    *((f"depth without {key}", {k: v for k, v in SPOT_DEPTH.items() if k != key}, Reason.BAD_JSON) for key in "sUuba"),
    *((f"aggregate without {key}", {k: v for k, v in AGGREGATE.items() if k != key}, Reason.BAD_JSON)
      for key in "sflpqm"),
    ("aggregate that ends before it begins", {**AGGREGATE, "l": 1}, Reason.BAD_NUMBER),
    ("another symbol", {**SPOT_TICKER, "s": "ETHUSDT"}, Reason.UNKNOWN_SYMBOL),
    ("too many decimals", {**SPOT_TICKER, "B": "1.000000001"}, Reason.BAD_NUMBER),
    ("too large", {**SPOT_TICKER, "B": "92233720368.54775808"}, Reason.BAD_NUMBER),
]  # fmt: skip


@pytest.mark.parametrize("combined", [True, False])
@pytest.mark.parametrize(("event", "reason"), [pytest.param(event, why, id=name) for name, event, why in REFUSALS])
def test_refusals_change_nothing_but_counters(event: dict, reason: Reason, combined: bool) -> None:
    session, _ = ready()
    if combined:
        event = {"stream": "x", "data": event}
    assert refused_whole(session, dumps(event)) == -reason


def refused_whole(session: Session, frame: bytes) -> int:
    """Give a frame; where it is refused, nothing but the counters of a refusal and the scratch may have changed."""
    before = session.state.copy()
    n = session.frame(frame, T0 + 10**9, 2)
    if n < 0:
        assert session.reasons("quarantined") == {Reason(-n): 1} and not session.written
        after = session.state.copy()
        assert (after["frames"], after["records_in"]) == (before["frames"] + 1, before["records_in"] + 1)
        for name in ("frames", "records_in", "quarantined", "value_at"):
            after[name] = before[name]
        assert after.tobytes() == before.tobytes()
    return n


def test_a_ticker_without_a_name_is_none_on_futures() -> None:
    futures = {key: value for key, value in TICKER.items() if key != "e"}
    for dialect in (USDM, COINM):
        frame = dumps({**futures, "s": CAPTURES[dialect][1].symbol})
        assert ready(dialect)[0].frame(frame, T0, 2) == -Reason.UNKNOWN_STREAM


def test_a_futures_diff_without_pu_is_refused_and_a_spot_one_needs_none() -> None:
    for dialect in (USDM, COINM):
        event = {**SPOT_DEPTH, "s": CAPTURES[dialect][1].symbol, "b": [], "a": []}
        session, _ = ready(dialect)
        assert session.frame(dumps(event), T0, 2) == -Reason.BAD_JSON
        assert session.frame(dumps({**event, "pu": 100}), T0, 3) == 0 and session.row["last_update_id"][0] == 110
    session, _ = ready()
    assert session.frame(dumps({**SPOT_DEPTH, "pu": "no number"}), T0, 2) == 3, "nobody reads it"


def test_a_session_speaks_one_dialect() -> None:
    with pytest.raises(ValueError, match="instruments of several dialects: BINANCE_USDM, BINANCE_COINM"):
        make_ingest_state([btcusdt(0), btcusdt(1, "BTCUSD_PERP", dialect=COINM)])
    with pytest.raises(ValueError, match="99 is not a valid Dialect"):
        make_ingest_state([btcusdt(0, dialect=99)])  # type: ignore[arg-type]
    for dialect in BINANCE_DIALECTS:
        assert make_ingest_state([btcusdt(0, dialect=dialect)])["dialect"][0] == dialect


def test_wire_texts_of_all_three_markets_equal_the_oracle() -> None:
    """Single frames as others have captured them: every kind that is decoded, in every market that sends it."""
    with gzip.open(require_capture("fixtures/venue_messages_crypto_msg_parser.jsonl.gz"), "rb") as lines:
        texts = [orjson.loads(line) for line in lines]
    taken: dict[tuple[Dialect, str], int] = {}
    for text in (each["raw"] for each in texts if each["venue"] == "binance"):
        message = orjson.loads(text)
        data = message.get("data") if isinstance(message, dict) else None
        if not isinstance(data, dict) or "s" not in data:
            continue
        kind = data.get("e", "bookTicker")
        dialect = COINM if "ps" in data or "USD_" in data["s"] else SPOT if "M" in data or "e" not in data else USDM
        if kind == "depthUpdate" and "pu" not in data:
            dialect = SPOT
        item = btcusdt(0, data["s"], 8, 8, dialect)
        session, oracle = Session([item]), Oracle([item])
        body = dumps({"lastUpdateId": data.get("U", 1), "bids": [["1", "1"]], "asks": [["2", "1"]]})
        session.snapshot(0, body, T0, 1)
        n = session.frame(text.encode(), T0, 2)
        if kind not in ("depthUpdate", "trade", "aggTrade", "bookTicker", "markPriceUpdate"):
            assert n == -Reason.UNKNOWN_STREAM, text
            continue
        oracle.snapshot(0, body, T0, 1)
        oracle.frame(text.encode(), T0, 2)
        assert n > 0, text
        np.testing.assert_array_equal(session.records(), oracle.records())
        taken[dialect, kind] = taken.get((dialect, kind), 0) + 1
    assert {key for key in taken if key[1] != "depthUpdate"} == {
        (SPOT, "aggTrade"), (SPOT, "bookTicker"), (USDM, "aggTrade"), (USDM, "bookTicker"), (USDM, "markPriceUpdate"),
        (COINM, "aggTrade"), (COINM, "bookTicker"), (COINM, "markPriceUpdate"),
    }  # fmt: skip
    assert all(taken[dialect, "depthUpdate"] > 0 for dialect in BINANCE_DIALECTS)


@cache
def recorded_frames(dialect: Dialect) -> list[bytes]:
    """Thirty frames of each kind from a recording, none longer than 4 KB."""
    kinds: dict[bytes, list[bytes]] = {b"@depth": [], b"@bookTicker": [], b"@trade": [], b"@markPrice": []}
    for _, frame in itertools.islice(open_capture(require_capture(CAPTURES[dialect][0])), 6_000):
        for kind, frames in kinds.items():
            if kind in frame[:60] and len(frames) < 30 and len(frame) < 4_000:
                frames.append(frame)
    return [frame for frames in kinds.values() for frame in frames]


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", BINANCE_DIALECTS)
def test_mutated_recorded_frames_are_decoded_whole_or_refused_whole(dialect: Dialect) -> None:
    frames = recorded_frames(dialect)
    assert len(frames) >= 90
    answers: dict[int, int] = {}

    @settings(max_examples=700)
    @given(place=st.integers(0, len(frames) - 1), seed=st.integers(0, 2**32), times=st.integers(0, 2))
    def check(place: int, seed: int, times: int) -> None:
        frame, draws = frames[place], Draws(seed, 0)
        original = orjson.loads(frame)["data"]
        for _ in range(times):
            frame = mutated(frame, CORPUS, draws)
        # A snapshot on which the frame follows, if it is a diff and its ids are still what they were.
        session, oracle = ready(dialect, original.get("U", 1))
        n = refused_whole(session, frame)
        assert session.balances()
        answers[min(n, 0)] = answers.get(min(n, 0), 0) + 1
        if n < 0:
            return
        records = session.records()
        groups = records[records["kind"] != Kind.CLOCK]
        if len(groups):
            assert groups["flags"][0] & Flag.FIRST and groups["flags"][-1] & Flag.LAST
            assert len(set(groups["sequence"].tolist())) == 1
        try:
            oracle.frame(frame, T0 + 10**9, 2)
        except NO_ANSWER:
            assert times > 0, "an untouched frame has an answer"
            return
        np.testing.assert_array_equal(records, oracle.records())

    check()
    assert answers[0] > 50 and answers[-Reason.BAD_JSON] > 50 and answers[-Reason.BAD_NUMBER] > 0


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", BINANCE_DIALECTS)
def test_every_truncation_of_a_recorded_frame_is_refused(dialect: Dialect) -> None:
    session, _ = ready(dialect)
    for frame in recorded_frames(dialect)[::30]:
        for cut in range(len(frame)):
            assert session.frame(frame[:cut], T0, 2) == -Reason.BAD_JSON
    assert not session.written


@pytest.mark.parametrize("dialect", [USDM, COINM])
def test_liquidations_and_mark_prices_of_futures_equal_the_oracle(dialect: Dialect) -> None:
    symbol = CAPTURES[dialect][1].symbol
    pair = {"ps": "BTCUSD"} if dialect == COINM else {}
    order = {**LIQUIDATION["o"], "s": symbol, "q": "7", "p": "61804.8", **pair}  # type: ignore[dict-item]
    session, oracle = ready(dialect)
    for number, event in enumerate(({**LIQUIDATION, "o": order}, {**MARK, "s": symbol, "ps": symbol}), 2):
        assert session.frame(dumps(event), T0 + number, number) == number - 1
        oracle.frame(dumps(event), T0 + number, number)
    np.testing.assert_array_equal(session.records(), oracle.records())
    assert (session.row["liquidations"], session.row["mark_prices"], session.row["funding"]) == (1, 1, 1)


def test_a_snapshot_that_names_another_symbol_is_refused() -> None:
    body = {"lastUpdateId": 5, "symbol": "BTCUSD_PERP", "pair": "BTCUSD", "bids": [["1", "1"]], "asks": []}
    for symbol, taken in (("BTCUSD_PERP", True), ("ETHUSD_PERP", False), ("NONE", False), (7, False), (None, False)):
        session = Session([btcusdt(0, "BTCUSD_PERP", 1, 0, COINM), btcusdt(1, "ETHUSD_PERP", 2, 0, COINM)])
        n = session.snapshot(0, dumps({**body, "symbol": symbol}), T0, 1)
        assert n == (1 if taken else -Reason.UNKNOWN_SYMBOL)
        assert session.row["snapshot_wanted"][0] == (n < 0) and session.balances()


def test_the_trade_of_futures_may_be_given_to_spot_and_back() -> None:
    """What the three markets share is decoded alike."""
    for dialect in BINANCE_DIALECTS:
        item = btcusdt(0, "BTCUSDT", dialect=dialect)
        session = Session([item])
        assert session.frame(dumps(TRADE), T0, 1) == 1
        assert session.records()["price"][0] == 2814510
