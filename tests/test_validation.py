"""The validation stage: each rule by itself, a plain-Python model on hostile streams, and any batching."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.layout import FAR_LIMIT, WINDOW_TICKS
from engine.reasons import Reason
from engine.records import MARKET, Kind
from engine.settings import build
from engine.stage import as_bytes
from engine.validation.settings import MEDIAN_PLACES, ValidationSettings
from engine.validation.state import (
    QUARANTINE_PLACES,
    book_valid_ratio,
    book_valid_times,
    make_validation_state,
    quarantined_records,
    validation_dtype,
    validation_rate,
)
from engine.validation.step import VALIDATION
from tests.market_records import (
    ALONE,
    BUY,
    FIRST,
    LAST,
    MARK,
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
from tests.validation_oracle import Model

SETTINGS = ValidationSettings()
INSTRUMENTS = (make_instrument(0), make_instrument(1))
SNAPSHOT_GROUP = [
    level(BUY, 1000, 5, SNAPSHOT | FIRST),
    level(SELL, 1010, 6, SNAPSHOT | LAST),
]
SNAPSHOT_GROUP_LATER = [
    level(BUY, 1000, 5, SNAPSHOT | FIRST, at=2),
    level(SELL, 1010, 6, SNAPSHOT | LAST, at=2),
]


def run(*records: np.ndarray, chosen: ValidationSettings = SETTINGS) -> tuple[np.ndarray, np.ndarray]:
    """(output, state) of a fresh stage that has seen the instrument first."""
    state = make_validation_state(chosen, INSTRUMENTS)
    out = run_stage(VALIDATION, state, np.concatenate([make_instrument().record(), *records]))
    assert_balanced(state, out)
    return out[1:], state


def mark(price: float, index: float = 0, at: int = 1) -> np.ndarray:
    """Mark and index price in ticks."""
    return record(Kind.MARK_PRICE, price=round(price * MARK), size=round(index * MARK), recv_ts_ns=START_NS + at)


def funding(rate: int, at: int = 1) -> np.ndarray:
    """A rate in 1e-12."""
    return record(Kind.FUNDING, aux=rate, recv_ts_ns=START_NS + at)


def assert_balanced(state: np.ndarray, out: np.ndarray) -> None:
    head = state[0]
    assert head["records_in"] == head["processed"] + head["quarantined"].sum() + head["dropped"].sum()
    assert head["out"] == len(out)
    assert head["quarantine_total"] == head["quarantined"].sum()


def kinds(out: np.ndarray) -> list[Kind]:
    return [Kind(kind) for kind in out["kind"]]


def counted(state: np.ndarray, column: str) -> dict[Reason, int]:
    return {Reason(code): int(n) for code, n in enumerate(state[0][column]) if n}


REFUSED_TRADES = [
    (trade(BUY, 0, 1), Reason.PRICE_RANGE),
    (trade(BUY, -10, 1), Reason.PRICE_RANGE),
    (trade(BUY, (1 << 60) + 10, 1), Reason.PRICE_RANGE),
    (trade(BUY, 1000, 0), Reason.SIZE_RANGE),
    (trade(BUY, 1000, -1), Reason.SIZE_RANGE),
    (trade(BUY, 1000, (1 << 56) + 1), Reason.SIZE_RANGE),
    (trade(BUY, 1003, 1), Reason.OFF_TICK),
    (trade(0, 1000, 1), Reason.BAD_SIDE),
    (trade(BUY, 1000, 1, instrument=3), Reason.NO_INSTRUMENT),
    (trade(BUY, 1000, 1, instrument=2), Reason.NO_INSTRUMENT),
    (trade(BUY, 1000, 1, instrument=16), Reason.NO_INSTRUMENT),
    (trade(BUY, 1000, 1, instrument=65535), Reason.NO_INSTRUMENT),
    (record(Kind.QUOTE, side=BUY, price=1000, size=-1, recv_ts_ns=START_NS), Reason.SIZE_RANGE),
    (record(Kind.QUOTE, side=BUY, price=1001, size=1, recv_ts_ns=START_NS), Reason.OFF_TICK),
    (record(Kind.LIQUIDATION, side=BUY, price=1000, size=0, recv_ts_ns=START_NS), Reason.SIZE_RANGE),
    (record(Kind.LIQUIDATION, side=BUY, price=1003, size=1, recv_ts_ns=START_NS), Reason.OFF_TICK),
    (record(Kind.MARK_PRICE, price=0), Reason.PRICE_RANGE),
    (record(Kind.MARK_PRICE, price=MARK, size=-1), Reason.PRICE_RANGE),
    (record(Kind.FUNDING, aux=100_000_000_001), Reason.RATE_RANGE),
    (record(Kind.FUNDING, aux=-9_000_000_000_000_000), Reason.RATE_RANGE),
    (record(Kind.INSTRUMENT, price=0, size=1), Reason.PRICE_RANGE),
    (record(Kind.INSTRUMENT, price=1, size=0), Reason.SIZE_RANGE),
    (record(Kind.VECTOR), Reason.UNKNOWN_STREAM),
    (record(Kind.BOOK_VALID), Reason.UNKNOWN_STREAM),
    (record(Kind.NONE), Reason.UNKNOWN_STREAM),
]


@pytest.mark.parametrize(("bad", "reason"), REFUSED_TRADES, ids=lambda value: getattr(value, "name", None))
def test_refused_record_is_counted_kept_and_not_passed_on(bad: np.ndarray, reason: Reason) -> None:
    out, state = run(bad)
    assert len(out) == 0
    assert counted(state, "quarantined") == {reason: 1}
    kept = quarantined_records(state)
    expected = bad.copy()
    expected["reason"] = reason
    assert kept.tobytes() == expected.tobytes()


def test_good_records_pass_unchanged_and_in_order() -> None:
    good = [
        *SNAPSHOT_GROUP, level(BUY, 1003, 0, ALONE), trade(SELL, 1000, 1, trade_id=9),
        record(Kind.QUOTE, side=BUY, price=1000, size=0, recv_ts_ns=START_NS),
        record(Kind.LIQUIDATION, side=SELL, price=1010, size=1, recv_ts_ns=START_NS),
        record(Kind.CLOCK, recv_ts_ns=START_NS + 1), record(Kind.STATUS, aux=1), funding(-5),
        mark(102, 98), level(SELL, 1 << 60, 1, ALONE, at=1),
    ]
    out, state = run(*good)
    assert np.delete(out, 2).tobytes() == np.concatenate(good).tobytes()
    assert out[2]["kind"] == Kind.BOOK_VALID
    assert state[0]["quarantine_total"] == 0
    assert state[0]["now_ns"] == START_NS + 1


def test_data_before_its_instrument_record_are_refused() -> None:
    state = make_validation_state(SETTINGS, INSTRUMENTS)
    out = run_stage(VALIDATION, state, np.concatenate([*SNAPSHOT_GROUP, trade(BUY, 1000, 1)]))
    assert len(out) == 0
    assert counted(state, "quarantined") == {Reason.NO_INSTRUMENT: 3}


def test_time_backwards() -> None:
    out, state = run(trade(BUY, 1000, 1, at=5), trade(BUY, 1000, 2, at=4), trade(BUY, 1000, 3, at=5))
    assert out["size"].tolist() == [1, 3]
    assert counted(state, "quarantined") == {Reason.TIME_BACKWARDS: 1}
    # What must reach execution is never held back for its stamp.
    out, _ = run(trade(BUY, 1000, 1, at=5), record(Kind.GAP, recv_ts_ns=START_NS))
    assert kinds(out) == [Kind.TRADE, Kind.GAP]


def test_duplicate_trade_ids() -> None:
    ids = [7, 8, 7, 9, 8]
    out, state = run(*(trade(BUY, 1000, 1, trade_id=number) for number in ids))
    assert out["aux"].tolist() == [7, 8, 9]
    assert counted(state, "quarantined") == {Reason.DUPLICATE: 2}
    twice = ValidationSettings(unique_trades=False)
    out, _ = run(*(trade(BUY, 1000, 1, trade_id=number) for number in ids), chosen=twice)
    assert out["aux"].tolist() == ids
    # Only trades have trade ids.
    quote = record(Kind.QUOTE, side=BUY, price=1000, size=1, aux=11, recv_ts_ns=START_NS)
    out, _ = run(quote, trade(BUY, 1000, 1, trade_id=11))
    assert kinds(out) == [Kind.QUOTE, Kind.TRADE]
    # Zero is no id; a refused trade's id is not used up; a venue may start again from a low id.
    out, _ = run(
        trade(BUY, 1000, 1), trade(BUY, 1000, 1), trade(BUY, 1001, 1, trade_id=5), trade(BUY, 1000, 1, trade_id=5),
        trade(BUY, 1000, 1, trade_id=3),
    )
    assert out["aux"].tolist() == [0, 0, 5, 3]


def test_price_band_refuses_a_stray_print_and_follows_a_moved_market() -> None:
    out, state = run(trade(BUY, 1000, 1), trade(BUY, 1110, 1), trade(BUY, 890, 1), trade(BUY, 1100, 1))
    assert out["price"].tolist() == [1000, 1100]
    assert counted(state, "quarantined") == {Reason.PRICE_RANGE: 2}

    confirmations = SETTINGS.band_confirmations
    out, state = run(trade(BUY, 1000, 1), *(trade(BUY, 5000, 1) for _ in range(confirmations + 3)))
    assert out["price"].tolist() == [1000, 5000, 5000, 5000]
    # Strays between good prints never move it.
    out, state = run(*(trade(BUY, price, 1) for price in [1000, 5000] * (3 * confirmations)))
    assert set(out["price"].tolist()) == {1000}
    # Strays that do not agree with each other never move it.
    strays = [trade(BUY, 10 * 2**k, 1) for k in range(10, 40)]
    out, state = run(trade(BUY, 1000, 1), *strays, trade(BUY, 1010, 1))
    assert out["price"].tolist() == [1000, 1010]


def test_a_mark_price_far_from_the_market_is_refused() -> None:
    """It is held against the median of trades and quotes, in its own units; the gate's collar stands on it."""
    out, state = run(trade(BUY, 1000, 1), mark(105), mark(100_000), mark(0.1), mark(111, at=2), mark(110, at=2))
    assert out["price"][1:].tolist() == [105 * MARK, 111 * MARK, 110 * MARK], "also by the last good one"
    assert counted(state, "quarantined") == {Reason.PRICE_RANGE: 2}
    assert quarantined_records(state)["kind"].tolist() == [Kind.MARK_PRICE] * 2
    # Without trades and quotes it is held against the last good one; with the rule off against nothing.
    out, _ = run(mark(100), mark(111), mark(109))
    assert out["price"].tolist() == [100 * MARK, 109 * MARK]
    out, _ = run(trade(BUY, 1000, 1), mark(100_000), chosen=ValidationSettings(price_band=False))
    assert len(out) == 2


def test_marks_that_agree_again_and_again_are_those_of_a_moved_market() -> None:
    confirmations = SETTINGS.band_confirmations
    out, _ = run(trade(BUY, 1000, 1), *(mark(500) for _ in range(confirmations + 2)), mark(510), mark(101))
    assert out["price"][1:].tolist() == [500 * MARK] * 2 + [510 * MARK, 101 * MARK]
    out, _ = run(trade(BUY, 1000, 1), *(mark(10 * 2**k) for k in range(6, 30)))
    assert len(out) == 1, "strays that do not agree with each other move nothing"


def test_an_index_price_is_held_against_the_mark_and_against_the_last_one() -> None:
    out, state = run(mark(100, 95), mark(100, 0), mark(100, 100_000), mark(100, 1), mark(100, 88), mark(100, 80))
    assert (out["size"] / MARK).tolist() == [95, 0, 88, 80], "a basis may grow"
    assert counted(state, "quarantined") == {Reason.PRICE_RANGE: 2}
    # A contract whose basis is wide from the beginning is believed after a while.
    out, _ = run(*(mark(100, 80) for _ in range(SETTINGS.band_confirmations + 3)))
    assert len(out) == 3


def test_mark_price_and_funding_received_earlier_than_what_came_before_are_refused() -> None:
    out, state = run(trade(BUY, 1000, 1, at=5), mark(100, at=4), funding(1, at=4), mark(100, at=5), funding(1, at=5))
    assert kinds(out) == [Kind.TRADE, Kind.MARK_PRICE, Kind.FUNDING]
    assert counted(state, "quarantined") == {Reason.TIME_BACKWARDS: 2}
    out, _ = run(mark(100, at=5), mark(100, at=4), chosen=ValidationSettings(monotonic_time=False))
    assert len(out) == 2


def test_funding_rates_have_a_bound() -> None:
    tight = ValidationSettings(funding_rate_max=0.0001)
    out, state = run(funding(10**8), funding(-(10**8)), funding(10**8 + 1), chosen=tight)
    assert out["aux"].tolist() == [10**8, -(10**8)]
    assert counted(state, "quarantined") == {Reason.RATE_RANGE: 1}


def test_a_liquidation_far_from_the_market_is_refused_and_moves_no_median() -> None:
    def liquidation(price: int) -> np.ndarray:
        return record(Kind.LIQUIDATION, side=SELL, price=price, size=1, recv_ts_ns=START_NS)

    far = [liquidation(5000)] * (SETTINGS.band_confirmations + 3)
    out, state = run(liquidation(5000), trade(BUY, 1000, 1), liquidation(1100), *far, trade(BUY, 1000, 1))
    assert out["price"].tolist() == [5000, 1000, 1100, 1000], "before any price there is nothing to hold it against"
    assert counted(state, "quarantined") == {Reason.PRICE_RANGE: len(far)}
    assert state["instruments"][0]["reference_price"][0] == 1000


def test_snapshot_makes_the_book_valid_and_gap_invalid() -> None:
    out, state = run(
        level(BUY, 1000, 1, ALONE), *SNAPSHOT_GROUP, level(BUY, 1000, 2, ALONE),
        record(Kind.GAP, aux=44), record(Kind.GAP, aux=45), level(BUY, 1000, 3, ALONE), *SNAPSHOT_GROUP,
    )
    snapshot = [Kind.LEVEL, Kind.LEVEL, Kind.BOOK_VALID]
    assert kinds(out) == [*snapshot, Kind.LEVEL, Kind.GAP, Kind.BOOK_INVALID, Kind.GAP, *snapshot]
    assert out[5]["aux"] == out[5]["reason"] == Reason.SEQUENCE_GAP
    assert counted(state, "dropped") == {Reason.NO_SNAPSHOT: 2}
    assert state["instruments"][0]["resync_wanted"][0] == 0  # ingestion knows of its own gaps


@pytest.mark.parametrize("flags", [FIRST, LAST, ALONE, 0])
def test_refused_level_invalidates_its_book_only(flags: int) -> None:
    other = make_instrument(1)
    bad = level(BUY, -7, 2, flags, at=3, ingest_id=17, sequence=99)
    out, state = run(
        other.record(), *SNAPSHOT_GROUP,
        level(BUY, 1000, 1, SNAPSHOT | FIRST, instrument=1), level(SELL, 1010, 1, SNAPSHOT | LAST, instrument=1),
        bad, level(BUY, 1000, 4, LAST, at=3), level(BUY, 1000, 4, ALONE, at=3, instrument=1),
    )
    assert kinds(out)[-2:] == [Kind.BOOK_INVALID, Kind.LEVEL]
    verdict = out[-2]
    assert verdict["aux"] == verdict["reason"] == Reason.PRICE_RANGE
    assert (verdict["ingest_id"], verdict["sequence"], verdict["recv_ts_ns"]) == (17, 99, START_NS + 3)
    assert verdict["flags"] == ALONE and verdict["price"] == verdict["size"] == verdict["side"] == 0
    assert out[-1]["instrument"] == 1
    assert counted(state, "dropped") == {Reason.NO_SNAPSHOT: 1}
    assert state["instruments"][0]["resync_wanted"].tolist()[:2] == [1, 0]


def test_refused_level_inside_a_snapshot_spoils_all_of_it() -> None:
    out, state = run(
        SNAPSHOT_GROUP[0], level(SELL, 1010, -1, SNAPSHOT), level(SELL, 1020, 1, SNAPSHOT | LAST),
        level(BUY, 1000, 4, ALONE), *SNAPSHOT_GROUP,
    )
    assert kinds(out) == [Kind.LEVEL, Kind.BOOK_INVALID, Kind.LEVEL, Kind.LEVEL, Kind.BOOK_VALID]
    assert counted(state, "dropped") == {Reason.NO_SNAPSHOT: 2}


def test_snapshot_without_head_or_end_is_a_loss() -> None:
    out, state = run(*SNAPSHOT_GROUP, level(SELL, 1010, 5, SNAPSHOT | LAST), level(BUY, 1000, 4, ALONE))
    assert kinds(out)[2:] == [Kind.BOOK_VALID, Kind.BOOK_INVALID]
    assert state["instruments"][0]["resync_wanted"][0] == 1
    out, state = run(SNAPSHOT_GROUP[0], level(BUY, 1000, 4, ALONE), SNAPSHOT_GROUP[1])
    assert kinds(out) == [Kind.LEVEL]
    assert counted(state, "dropped") == {Reason.NO_SNAPSHOT: 2}


def test_quarantine_keeps_the_newest_and_counts_all() -> None:
    bad = [trade(BUY, 1003, size) for size in range(1, QUARANTINE_PLACES + 41)]
    _, state = run(*bad)
    kept = quarantined_records(state)
    assert kept["size"].tolist() == list(range(41, QUARANTINE_PLACES + 41))
    assert state[0]["quarantine_total"] == len(bad)


def test_book_valid_time() -> None:
    stamped = [item.copy() for item in SNAPSHOT_GROUP]
    for item in stamped:
        item["recv_ts_ns"] = START_NS + 10 * MS
    _, state = run(
        trade(BUY, 1000, 1, at=0), *stamped, record(Kind.GAP, recv_ts_ns=START_NS + 40 * MS),
        record(Kind.CLOCK, recv_ts_ns=START_NS + 50 * MS),
    )
    valid_ns, total_ns = book_valid_times(state)
    assert (valid_ns[0], total_ns[0]) == (30 * MS, 50 * MS)
    assert book_valid_ratio(state) == pytest.approx(0.6)
    _, state = run(trade(BUY, 1000, 1, at=0), *stamped, record(Kind.CLOCK, recv_ts_ns=START_NS + 20 * MS))
    assert book_valid_ratio(state) == pytest.approx(0.5)
    assert book_valid_ratio(make_validation_state(SETTINGS, INSTRUMENTS)) == 0.0


@pytest.mark.parametrize(("price", "reason"), [(1010, Reason.LOCKED_BOOK), (1020, Reason.CROSSED_BOOK)])
def test_a_book_whose_sides_meet_is_invalid_until_the_next_snapshot(price: int, reason: Reason) -> None:
    meets = level(BUY, price, 4, ALONE, at=1, ingest_id=9, sequence=77)
    apart = level(BUY, price, 0, ALONE, at=2)
    out, state = run(*SNAPSHOT_GROUP, meets, apart, *SNAPSHOT_GROUP_LATER, apart)
    snapshot = [Kind.LEVEL, Kind.LEVEL, Kind.BOOK_VALID]
    assert kinds(out) == [*snapshot, Kind.BOOK_INVALID, *snapshot, Kind.LEVEL]
    verdict = out[3]
    assert (verdict["aux"], verdict["reason"], verdict["ingest_id"], verdict["sequence"]) == (reason, reason, 9, 77)
    assert counted(state, "quarantined") == {reason: 1} and counted(state, "dropped") == {Reason.NO_SNAPSHOT: 1}
    assert quarantined_records(state)["price"].tolist() == [price]
    assert state["instruments"][0]["resync_wanted"][0] == 1
    # What holds only inside a group is no fault: the venue states a book at its end.
    out, _ = run(*SNAPSHOT_GROUP, level(BUY, price, 4, FIRST, at=1), level(SELL, 1010, 0, at=1),
                 level(SELL, 1030, 2, LAST, at=1))
    assert kinds(out) == [*snapshot, Kind.LEVEL, Kind.LEVEL, Kind.LEVEL]
    # Switched off it is counted, and passes.
    off = ValidationSettings(crossed_books=False, locked_books=False)
    out, state = run(*SNAPSHOT_GROUP, meets, chosen=off)
    assert kinds(out) == [*snapshot, Kind.LEVEL]
    assert state["checks"][0]["crossed"][0] + state["checks"][0]["locked"][0] == 1


def test_a_snapshot_that_is_crossed_is_never_valid() -> None:
    out, state = run(
        level(BUY, 1020, 5, SNAPSHOT | FIRST), level(SELL, 1010, 6, SNAPSHOT | LAST), level(BUY, 900, 1, ALONE)
    )
    assert kinds(out) == [Kind.LEVEL, Kind.BOOK_INVALID]
    assert state["instruments"][0]["resync_wanted"][0] == 1
    assert state["checks"][0]["verdict"][0] == Reason.CROSSED_BOOK


def test_a_level_that_the_book_has_no_room_for_makes_it_invalid() -> None:
    """Far levels fill the table; when the touch goes, what was forgotten is needed."""
    snapshot = [level(SELL, 10_000_010, 1, SNAPSHOT | FIRST), level(BUY, 10_000_000, 1, SNAPSHOT | LAST)]
    far = [10_000_000 - (WINDOW_TICKS + k) * 10 for k in range(FAR_LIMIT + 1)]
    out, state = run(
        *snapshot, *(level(BUY, price, 1, ALONE) for price in far), level(BUY, 10_000_000, 0, ALONE, at=1),
        *(level(BUY, price, 0, ALONE, at=1) for price in far[: FAR_LIMIT // 2]),
    )
    verdicts = out[out["kind"] == Kind.BOOK_INVALID]
    assert verdicts["reason"].tolist() == [Reason.BOOK_INCOMPLETE]
    assert kinds(out)[-1] == Kind.BOOK_INVALID
    assert counted(state, "quarantined") == {Reason.BOOK_INCOMPLETE: 1}


def test_rules_can_be_switched_off() -> None:
    off = ValidationSettings(monotonic_time=False, tick_grid=False, price_band=False)
    records = [trade(BUY, 1000, 1, at=5), trade(BUY, 1003, 2, at=4), trade(BUY, 90_000, 3, at=5)]
    out, state = run(*records, chosen=off)
    assert out["size"].tolist() == [1, 2, 3] and validation_rate(state) == 1.0
    out, state = run(*records)
    assert out["size"].tolist() == [1]
    assert validation_rate(state) == pytest.approx(2 / 4)  # the INSTRUMENT record counts


@settings(max_examples=60)
@given(
    window=st.integers(1, MEDIAN_PLACES),
    ticks=st.lists(st.integers(1, 60) | st.integers(1, 10**9), min_size=1, max_size=200),
)
def test_prices_are_held_against_the_exact_median_of_the_newest(window: int, ticks: list[int]) -> None:
    prices = [10 * tick for tick in ticks]
    chosen = ValidationSettings(median_window=window, band_confirmations=1_000_000, band_fraction=0.25)
    out, state = run(*(trade(BUY, price, 1) for price in prices), chosen=chosen)
    accepted: list[int] = []
    for price in prices:
        median = statistics.median_low(accepted[-window:]) if accepted else price
        if abs(price - median) <= 0.25 * median:
            accepted.append(price)
    assert out["price"].tolist() == accepted
    assert state["instruments"][0]["reference_price"][0] == statistics.median_low(accepted[-window:])


def simplified(out: np.ndarray) -> list[tuple[Any, ...]]:
    names = ("ingest_id", "recv_ts_ns", "instrument", "kind", "price", "size", "aux")
    return list(zip(*(out[name].tolist() for name in names)))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), hostile=st.booleans())
def test_equals_the_plain_model(seed: int, hostile: bool) -> None:
    records = random_market(seed, 600, hostile=hostile)
    state = make_validation_state(SETTINGS, INSTRUMENTS)
    out = run_stage(VALIDATION, state, records)
    model = Model(SETTINGS, len(INSTRUMENTS))
    for row in as_rows(records):
        model.take(row)
    assert simplified(out) == model.out
    assert counted(state, "quarantined") == model.quarantined
    assert counted(state, "dropped") == model.dropped
    assert {i: int(n) for i, n in enumerate(state["instruments"][0]["resync_wanted"]) if n} == model.resync
    assert state[0]["now_ns"] == records["recv_ts_ns"].max()
    assert_balanced(state, out)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_any_batching_gives_the_same_bytes(seed: int) -> None:
    records = random_market(seed, 400, hostile=True)
    whole_state, cut_state = make_validation_state(SETTINGS, INSTRUMENTS), make_validation_state(SETTINGS, INSTRUMENTS)
    whole = run_stage(VALIDATION, whole_state, records)
    cut = run_stage(VALIDATION, cut_state, records, batch_splits(seed, len(records)))
    assert whole.tobytes() == cut.tobytes()
    assert as_bytes(whole_state).tobytes() == as_bytes(cut_state).tobytes()


@pytest.mark.recordings
@pytest.mark.parametrize("capture", USDM_CAPTURES)
def test_recorded_session_passes_whole(capture: str) -> None:
    records = recorded_market(capture, 10_000, make_instrument(tick=1 if "ethusdt" in capture else 10))
    state = make_validation_state(SETTINGS, INSTRUMENTS)
    out = run_stage(VALIDATION, state, records)
    assert state[0]["quarantine_total"] == 0
    assert state[0]["dropped"].sum() == 0
    assert (out["kind"] == Kind.BOOK_VALID).sum() == 1
    assert out[out["kind"] != Kind.BOOK_VALID].tobytes() == records.tobytes()


def test_settings_are_checked() -> None:
    assert build(ValidationSettings, {"band_fraction": 0.5}).band_fraction == 0.5
    with pytest.raises(ValueError, match="band_fraction"):
        build(ValidationSettings, {"band_fraction": 0})
    with pytest.raises(ValueError, match="median_window"):
        build(ValidationSettings, {"median_window": MEDIAN_PLACES + 1})


def test_state_layout() -> None:
    state = make_validation_state(SETTINGS, INSTRUMENTS)
    assert state.shape == (1,) and state.dtype == validation_dtype(2)
    assert VALIDATION.state_dtype == validation_dtype(16)
    assert state.dtype.itemsize % 8 == 0 and MARKET.itemsize == 64
    assert make_validation_state(SETTINGS, INSTRUMENTS[:1]).nbytes < 540_000
    with pytest.raises(ValueError, match="no instruments"):
        make_validation_state(SETTINGS, [])
    with pytest.raises(ValueError, match="16"):
        make_validation_state(SETTINGS, [make_instrument(16)])
