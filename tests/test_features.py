"""The features stage against an independent plain-Python one, on random and recorded streams, in any batching."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.layout import FAR_LIMIT, WINDOW_TICKS
from engine.features.settings import SAMPLE_PLACES, FeatureSettings
from engine.features.state import features_dtype, make_features_state
from engine.features.step import FEATURES
from engine.features.vector import FEATURE_NAMES, FEATURES_BY_NAME, schema_hash
from engine.reasons import Reason
from engine.records import CONTROL_KINDS, FEATURE, FEATURE_COUNT, Kind
from engine.settings import as_plain
from engine.stage import as_bytes
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from tests.market_records import (
    ALONE,
    BUY,
    FIELDS,
    FIRST,
    LAST,
    MS,
    SELL,
    SNAPSHOT,
    START_NS,
    as_rows,
    batch_splits,
    level,
    make_instrument,
    random_market,
    record,
    recorded_market,
    run_stage,
    trade,
)
from tests.recordings import USDM_CAPTURES

SETTINGS = FeatureSettings()
QUICK = FeatureSettings(trade_flow_ms=700, sample_interval_ms=20, volatility_ms=500, return_intervals=SAMPLE_PLACES - 1)
INSTRUMENTS = [make_instrument(0), make_instrument(1, price_exp=5)]
BOOK_GROUP = [
    level(BUY, 1000, 5, SNAPSHOT | FIRST),
    level(BUY, 990, 10, SNAPSHOT),
    level(SELL, 1010, 15, SNAPSHOT),
    level(SELL, 1030, 20, SNAPSHOT | LAST),
]
VALID = record(Kind.BOOK_VALID, flags=ALONE, recv_ts_ns=START_NS)
TOLERANCE = 1e-12
HEAD_NAMES = ("ingest_id", "recv_ts_ns", "exch_ts_ns", "sequence", "venue", "instrument")


class Reference:
    """One instrument's features as vector.py defines them, with dicts, sorting and math.exp/log."""

    def __init__(self, price_exp: int, chosen: FeatureSettings) -> None:
        self.price_exp, self.chosen = price_exp, chosen
        self.sides: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}
        self.based = self.valid = False
        self.trades: list[tuple[int, int, int]] = []  # (time, side, size)
        self.flow = (0.0, 0.0)
        self.mids: list[tuple[int, int]] = []  # (time, bid + ask) of the vectors since the book was lost
        self.returns = (0.0, 0.0)
        self.samples: list[int] = []

    def lose(self) -> None:
        self.based = self.valid = False
        self.mids, self.samples = [], []

    def trade(self, now: int, side: int, size: int) -> None:
        last = self.trades[-1][0] if self.trades else now
        fade = math.exp(-(now - last) / (self.chosen.trade_flow_ms * MS))
        self.flow = (self.flow[0] * fade + side * size, self.flow[1] * fade + size)
        self.trades.append((now, side, size))

    def sample_up_to(self, now: int) -> None:
        """Take the mid at every grid point after the last vector, one by one."""
        grid = self.chosen.sample_interval_ms * MS
        weight = math.exp(-self.chosen.sample_interval_ms / self.chosen.volatility_ms)
        if not self.mids:
            return
        then, mid = self.mids[-1]
        for _ in range(now // grid - then // grid):
            if self.samples:
                step = math.log(mid / self.samples[-1])
                squares, total = self.returns
                self.returns = (weight * squares + (1 - weight) * step * step, weight * total + (1 - weight))
            self.samples.append(mid)

    def vector(self, now: int) -> tuple[list[int], list[float]] | None:
        bids, asks = (sorted(self.sides[side].items(), reverse=side == BUY)[:5] for side in (BUY, SELL))
        if not self.valid or not bids or not asks or bids[0][0] >= asks[0][0]:
            return None
        (bid, bid_size), (ask, ask_size) = bids[0], asks[0]
        self.sample_up_to(now)
        self.mids.append((now, bid + ask))
        mid = (bid + ask) / 2
        deep_bid, deep_ask = sum(size for _, size in bids), sum(size for _, size in asks)
        micro = (bid * ask_size + ask * bid_size) / (bid_size + ask_size)
        squares, total = self.returns
        back = self.chosen.return_intervals
        past = self.samples[-1 - back] / 2 if len(self.samples) > back else 0
        return [bid, bid_size, ask, ask_size], [
            (ask - bid) / mid * 1e4,
            mid / 10**self.price_exp,
            (micro - mid) / mid * 1e4,
            (bid_size - ask_size) / (bid_size + ask_size),
            (deep_bid - deep_ask) / (deep_bid + deep_ask),
            self.flow[0] / self.flow[1] if self.flow[1] else 0.0,
            1e4 * math.sqrt(squares / total / (self.chosen.sample_interval_ms / 1000)) if total else 0.0,
            1e4 * (mid / past - 1) if past else 0.0,
        ]


def reference_run(records: np.ndarray, chosen: FeatureSettings) -> tuple[list[dict[str, Any]], Counter, int]:
    """(output rows, drops by reason, crossed books) of the plain-Python stage."""
    items = {item.index: Reference(item.price_exp, chosen) for item in INSTRUMENTS}
    ticks: dict[int, int] = {}
    now = crossed = 0
    dropped: Counter[Reason] = Counter()
    rows: list[dict[str, Any]] = []
    for row in as_rows(records):
        now = max(now, row["recv_ts_ns"])
        item = items.get(row["instrument"])
        kind, flags = row["kind"], row["flags"]
        if kind in CONTROL_KINDS:
            rows.append({**row, "touch": [0] * 4, "features": [0.0] * FEATURE_COUNT})
            if kind == Kind.INSTRUMENT:
                if item and ticks.setdefault(row["instrument"], row["price"]) != row["price"]:
                    item.lose()
                ticks[row["instrument"]] = row["price"]
            elif item and kind in (Kind.GAP, Kind.BOOK_INVALID):
                item.lose()
            elif item and kind == Kind.BOOK_VALID:
                item.valid = item.based
            continue
        if kind in (Kind.QUOTE, Kind.LIQUIDATION, Kind.OPEN_INTEREST):
            continue
        if item is None or row["instrument"] not in ticks:
            dropped[Reason.NO_INSTRUMENT] += 1
            continue
        if kind == Kind.LEVEL:
            if flags & SNAPSHOT and flags & FIRST:
                item.lose()
                item.based = True
                item.sides = {BUY: {}, SELL: {}}
            if not item.based:
                dropped[Reason.NO_SNAPSHOT] += 1
                continue
            levels = item.sides[row["side"]]
            levels.pop(row["price"], None)
            if row["size"]:
                levels[row["price"]] = row["size"]
            bids, asks = item.sides[BUY], item.sides[SELL]
            crossed += bool(item.valid and flags & LAST and bids and asks and max(bids) >= min(asks))
        else:
            item.trade(now, row["side"], row["size"])
        result = item.vector(now) if flags & LAST else None
        if result:
            rows.append({**row, "kind": int(Kind.VECTOR), "aux": kind, "touch": result[0], "features": result[1]})
    return rows, dropped, crossed


def assert_equal(out: np.ndarray, rows: list[dict[str, Any]]) -> None:
    assert out["kind"].tolist() == [row["kind"] for row in rows]
    for name in (*HEAD_NAMES, "aux"):
        assert out[name].tolist() == [row[name] for row in rows]
    touch = [list(values) for values in zip(*(out[name].tolist() for name in
                                              ("bid_price", "bid_size", "ask_price", "ask_size")))]
    assert touch == [row["touch"] for row in rows]
    expected = np.array([row["features"] for row in rows]).reshape(-1, FEATURE_COUNT)
    assert np.isfinite(out["vector"]).all()
    # Absolute where a feature is a difference of near-equal numbers in the reference's own arithmetic.
    absolute = {"microprice_bps": 1e-11, "trade_flow": TOLERANCE, "short_return_bps": 1e-11}
    for place, name in enumerate(FEATURE_NAMES):
        np.testing.assert_allclose(
            out["vector"][:, place], expected[:, place], rtol=TOLERANCE, atol=absolute.get(name, 0.0), err_msg=name
        )
    vectors = out["kind"] == Kind.VECTOR
    for name in ("price", "size", "side", "reason"):
        assert not out[name][vectors].any()
    assert (out["flags"][vectors] == ALONE).all()
    for name in ("spare0", "spare1", "spare2"):
        assert not out[name].any()


def assert_balanced(state: np.ndarray, out: np.ndarray) -> None:
    head = state[0]
    assert head["records_in"] == head["processed"] + head["quarantined"].sum() + head["dropped"].sum()
    assert head["out"] == len(out)


# Books that cross or lock reach the features, which must bear them too.
LENIENT = ValidationSettings(crossed_books=False, locked_books=False)


def validated(records: np.ndarray) -> np.ndarray:
    """The records as the stage before passes them on."""
    return run_stage(VALIDATION, make_validation_state(LENIENT, INSTRUMENTS), records)


def run(*records: np.ndarray, chosen: FeatureSettings = SETTINGS) -> tuple[np.ndarray, np.ndarray]:
    """(output without the INSTRUMENT record, state) of a fresh stage that has seen one instrument."""
    state = make_features_state(chosen, INSTRUMENTS[:1])
    out = run_stage(FEATURES, state, np.concatenate([INSTRUMENTS[0].record(), *records]))
    assert_balanced(state, out)
    return out[1:], state


def kinds(out: np.ndarray) -> list[Kind]:
    return [Kind(kind) for kind in out["kind"]]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), chosen=st.sampled_from((SETTINGS, QUICK)), hostile=st.booleans())
def test_equals_the_plain_stage(seed: int, chosen: FeatureSettings, hostile: bool) -> None:
    records = validated(random_market(seed, 700, hostile=hostile))
    state = make_features_state(chosen, INSTRUMENTS)
    out = run_stage(FEATURES, state, records)
    rows, dropped, crossed = reference_run(records, chosen)
    assert_equal(out, rows)
    assert {Reason(code): int(n) for code, n in enumerate(state[0]["dropped"]) if n} == dropped
    assert state[0]["crossed_books"] == crossed
    assert_balanced(state, out)


def test_random_streams_reach_every_case() -> None:
    """The property above would prove little if its streams gave no vectors, returns or crossed books."""
    records = validated(random_market(3, 6000))
    state = make_features_state(QUICK, INSTRUMENTS)
    out = run_stage(FEATURES, state, records)
    vectors = out[out["kind"] == Kind.VECTOR]["vector"]
    assert len(vectors) > 300
    assert all((vectors[:, place] != 0).sum() > 30 for place in range(FEATURE_COUNT))
    assert state[0]["crossed_books"] > 10
    assert set(kinds(out)) == {*CONTROL_KINDS, Kind.VECTOR}


@pytest.mark.recordings
@pytest.mark.parametrize("capture", USDM_CAPTURES)
def test_recorded_session_equals_the_plain_stage(capture: str) -> None:
    instrument = make_instrument(tick=1 if "ethusdt" in capture else 10)
    records = validated(recorded_market(capture, 5_000, instrument))
    state = make_features_state(SETTINGS, [instrument])
    out = run_stage(FEATURES, state, records)
    rows, _, _ = reference_run(records, SETTINGS)
    assert_equal(out, rows)
    assert (out["kind"] == Kind.VECTOR).sum() > 500
    assert state[0]["crossed_books"] == 0


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_any_batching_gives_the_same_bytes(seed: int) -> None:
    records = validated(random_market(seed, 400))
    whole_state, cut_state = (make_features_state(QUICK, INSTRUMENTS) for _ in range(2))
    whole = run_stage(FEATURES, whole_state, records)
    cut = run_stage(FEATURES, cut_state, records, batch_splits(seed, len(records)))
    assert whole.tobytes() == cut.tobytes()
    assert as_bytes(whole_state).tobytes() == as_bytes(cut_state).tobytes()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), part=st.floats(0.05, 0.95))
def test_no_look_ahead(seed: int, part: float) -> None:
    """What left up to record k is the same whatever comes after, in one batch with it or not."""
    records = validated(random_market(seed, 400))
    cut = int(len(records) * part)
    other = records.copy()
    other[cut:] = other[cut:][::-1]
    other["price"][cut:] *= 3
    other["size"][cut:] += 1
    first = run_stage(FEATURES, make_features_state(QUICK, INSTRUMENTS), records[:cut])
    for stream in (records, other):
        out = run_stage(FEATURES, make_features_state(QUICK, INSTRUMENTS), stream)
        assert out[: len(first)].tobytes() == first.tobytes()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_unvalidated_input_breaks_no_promise(seed: int) -> None:
    """Whatever comes in: finite numbers out, counters that balance, any batching alike."""
    records = random_market(seed, 400, hostile=True)
    whole_state, cut_state = (make_features_state(QUICK, INSTRUMENTS) for _ in range(2))
    out = run_stage(FEATURES, whole_state, records)
    cut = run_stage(FEATURES, cut_state, records, batch_splits(seed, len(records)))
    assert np.isfinite(out["vector"]).all()
    vectors = out[out["kind"] == Kind.VECTOR]
    assert (vectors["bid_price"] < vectors["ask_price"]).all() and (vectors["bid_size"] > 0).all()
    assert_balanced(whole_state, out)
    assert out.tobytes() == cut.tobytes()


def test_numbers_by_hand() -> None:
    out, _ = run(*BOOK_GROUP, VALID, trade(SELL, 1000, 3, at=MS), trade(BUY, 1010, 1, at=MS))
    assert kinds(out) == [Kind.BOOK_VALID, Kind.VECTOR, Kind.VECTOR]
    first, second = out[1], out[2]
    assert first["aux"] == Kind.TRADE and first["book_recv_ts_ns"] == START_NS
    spread, mid, micro, touch, depth, flow, volatility, change = first["vector"].tolist()
    assert spread == pytest.approx(10 / 1005 * 1e4)
    assert mid == 10.05
    assert touch == pytest.approx((5 - 15) / 20)
    assert micro == pytest.approx(spread / 2 * touch)
    assert depth == pytest.approx((15 - 35) / 50)
    assert (flow, volatility, change) == (-1.0, 0.0, 0.0)
    assert second["vector"][FEATURE_NAMES.index("trade_flow")] == pytest.approx((-3 + 1) / 4)


def test_time_never_runs_back() -> None:
    """An older stamp is taken as now: nothing decays by a negative time."""
    out, state = run(*BOOK_GROUP, VALID, trade(SELL, 1000, 3, at=900 * MS), trade(BUY, 1010, 1, at=100 * MS))
    assert out[2]["vector"][FEATURE_NAMES.index("trade_flow")] == (-3 + 1) / 4
    assert state[0]["now_ns"] == START_NS + 900 * MS


def test_short_return_and_volatility_of_one_step() -> None:
    """The mid is 1005 for 1.05 s, then 1010 (bid gone up): a return of 5/1005 exactly once seen."""
    chosen = FeatureSettings(sample_interval_ms=100, return_intervals=10, volatility_ms=1000)
    second_ns = 1000 * MS
    out, _ = run(
        *BOOK_GROUP, VALID, level(BUY, 990, 10, ALONE, at=0), level(SELL, 1010, 0, FIRST, at=second_ns + 50 * MS),
        level(SELL, 1020, 1, LAST, at=second_ns + 50 * MS), level(BUY, 980, 1, ALONE, at=second_ns + 150 * MS),
        chosen=chosen,
    )
    volatility, change = FEATURE_NAMES.index("volatility_bps"), FEATURE_NAMES.index("short_return_bps")
    vectors = out["vector"][out["kind"] == Kind.VECTOR]
    # At 1.05 s ten grid points have passed: not yet the eleven that a look ten points back takes.
    assert vectors[:, change].tolist() == [0.0, 0.0, pytest.approx(5 / 1005 * 1e4)]
    assert vectors[:2, volatility].tolist() == [0.0, 0.0]
    fade = math.exp(-0.1)
    expected = 1e4 * math.sqrt((1 - fade) * math.log(1010 / 1005) ** 2 / (1 - fade**10) / 0.1)
    assert vectors[2, volatility] == pytest.approx(expected)


def test_vectors_only_from_whole_valid_books() -> None:
    change = level(BUY, 1000, 6, ALONE)
    print_ = trade(BUY, 1010, 1)
    lost = record(Kind.BOOK_INVALID, flags=ALONE, recv_ts_ns=START_NS)
    out, state = run(
        change, print_, *BOOK_GROUP, change, print_, VALID, change, lost, change, print_, *BOOK_GROUP[:2], VALID,
    )
    assert kinds(out) == [Kind.BOOK_VALID, Kind.VECTOR, Kind.BOOK_INVALID, Kind.BOOK_VALID]
    assert state[0]["dropped"][Reason.NO_SNAPSHOT] == 2
    # A new snapshot without a word before it: nothing until it is said to be whole; one side only: nothing.
    out, state = run(*BOOK_GROUP, VALID, BOOK_GROUP[0], print_, VALID, print_, change)
    assert kinds(out) == [Kind.BOOK_VALID, Kind.BOOK_VALID]
    # Inside a group nothing leaves.
    out, _ = run(*BOOK_GROUP, VALID, level(BUY, 1000, 6, FIRST), level(BUY, 1000, 7), level(BUY, 1000, 8, LAST))
    assert out["bid_size"][1:].tolist() == [8]


@pytest.mark.parametrize("price", [1010, 1020])
def test_locked_or_crossed_book_is_counted_and_silent(price: int) -> None:
    out, state = run(*BOOK_GROUP, VALID, level(BUY, price, 6, ALONE), trade(BUY, 1010, 1), level(BUY, price, 0, ALONE))
    assert kinds(out) == [Kind.BOOK_VALID, Kind.VECTOR]
    assert state[0]["crossed_books"] == 1


def test_lost_book_makes_no_return() -> None:
    later = [item.copy() for item in BOOK_GROUP]
    for item in later:
        item["price"] *= 2
        item["recv_ts_ns"] += 500 * MS
    out, _ = run(
        *BOOK_GROUP, VALID, level(BUY, 980, 1, ALONE), level(BUY, 980, 2, ALONE, at=200 * MS),
        record(Kind.GAP, recv_ts_ns=START_NS + 300 * MS), *later, VALID, level(BUY, 980, 1, ALONE, at=600 * MS),
        level(BUY, 980, 1, ALONE, at=5000 * MS), chosen=FeatureSettings(return_intervals=1),
    )
    vectors = out["vector"][out["kind"] == Kind.VECTOR]
    assert len(vectors) == 4
    assert not vectors[:, FEATURE_NAMES.index("volatility_bps")].any()
    assert not vectors[:, FEATURE_NAMES.index("short_return_bps")].any()


def test_book_that_forgot_what_it_needs_says_so() -> None:
    snapshot = [level(SELL, 10_000_010, 1, SNAPSHOT | FIRST), level(BUY, 10_000_000, 1, SNAPSHOT | LAST)]
    far = [level(BUY, 10_000_000 - (WINDOW_TICKS + k) * 10, 1, ALONE) for k in range(FAR_LIMIT + 1)]
    gone = level(BUY, 10_000_000, 0, ALONE, at=MS)
    collapse = [level(BUY, 10_000_000 - (WINDOW_TICKS + k) * 10, 0, ALONE, at=MS) for k in range(FAR_LIMIT // 2)]
    out, state = run(*snapshot, VALID, *far, gone, *collapse, *snapshot, VALID, gone)
    said = [kind for kind in kinds(out) if kind != Kind.VECTOR]
    assert said == [Kind.BOOK_VALID, Kind.BOOK_INVALID, Kind.BOOK_VALID]
    verdict = out[out["kind"] == Kind.BOOK_INVALID][0]
    assert verdict["aux"] == verdict["reason"] == Reason.BOOK_INCOMPLETE
    assert state["flows"][0]["resync_wanted"].tolist() == [1]
    assert state["books"][0]["forgotten"][0] > 0
    # Silent from the verdict to the next snapshot.
    after = kinds(out)[kinds(out).index(Kind.BOOK_INVALID) + 1:]
    assert after[0] == Kind.BOOK_VALID


def test_unknown_instruments_and_kinds_are_dropped_and_counted() -> None:
    state = make_features_state(SETTINGS, INSTRUMENTS[:1])
    out = run_stage(FEATURES, state, np.concatenate([
        level(BUY, 1000, 1, ALONE), trade(BUY, 1000, 1), trade(BUY, 1000, 1, instrument=1), record(Kind.PREDICTION),
        record(Kind.BOOK_VALID, instrument=9),
    ]))
    assert kinds(out) == [Kind.BOOK_VALID]
    assert state[0]["dropped"][Reason.NO_INSTRUMENT] == 3
    assert state[0]["dropped"][Reason.UNKNOWN_STREAM] == 1
    assert_balanced(state, out)


def test_state_grows_with_the_instruments_only() -> None:
    one, two = (make_features_state(SETTINGS, INSTRUMENTS[:n]) for n in (1, 2))
    assert one.dtype == features_dtype(1) and two.dtype == features_dtype(2)
    assert one.nbytes < 300_000
    with pytest.raises(ValueError, match="no instruments"):
        make_features_state(SETTINGS, [])
    with pytest.raises(ValueError, match="16"):
        make_features_state(SETTINGS, [make_instrument(16)])


def test_schema() -> None:
    assert len(FEATURE_NAMES) == FEATURE_COUNT == FEATURE["vector"].shape[0]
    assert all(FEATURES_BY_NAME.values())
    assert schema_hash() == schema_hash(SETTINGS)
    for name, value in as_plain(SETTINGS).items():
        assert schema_hash(FeatureSettings(**{name: value + 1})) != schema_hash()
    assert list(FEATURE.fields or ())[: len(FIELDS)] == list(FIELDS)
