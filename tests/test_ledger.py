"""The ledger against plain integers, and its trade ids against a set."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.ledger import (
    LEDGER,
    TRADE_IDS,
    TRADE_IDS_KEPT,
    Seen,
    apply_execution,
    remember_trade,
    take_fill,
    unrealised,
)
from engine.units import INT64_MAX
from tests.execution_harness import BTC, ToyLedger

UNIT_EXP = BTC.price_exp + BTC.size_exp
fills = st.lists(
    st.tuples(
        st.sampled_from((1, -1)), st.integers(1, 10**8), st.integers(1, 10**6), st.integers(-(10**6), 10**9),
    ),
    min_size=1, max_size=60,
)


def new_ledger(balance: int = 0) -> np.ndarray:
    ledger = np.zeros(1, LEDGER)
    ledger["balance"] = ledger["opening_balance"] = balance
    return ledger


@settings(max_examples=300, deadline=None)
@given(fills=fills, unit_exp=st.sampled_from((3, 5, 8, 11)))
def test_random_fills_equal_plain_integers(fills: list[tuple[int, int, int, int]], unit_exp: int) -> None:
    instrument = type(BTC)(0, "X", "X", "Y", unit_exp - 1, 1, 1, 1, 0)
    ledger, model = new_ledger(10**15), ToyLedger(10**15)
    flows = 0
    for side, price, size, fee in fills:
        held = int(ledger[0]["positions"][0]["size"])
        closing = min(size, abs(held)) if held * side < 0 else 0
        flows -= side * (model.value(instrument, price, closing) + model.value(instrument, price, size - closing))
        apply_execution(ledger[0], 0, side, price, size, fee, unit_exp)
        model.fill(instrument, side, price, size, fee)
        position = ledger[0]["positions"][0]
        assert position["size"] == model.positions[0]
        assert position["cost"] == model.costs[0] >= 0
        assert (position["size"] == 0) <= (position["cost"] == 0)
        assert ledger[0]["realised"] == position["realised"] == model.realised
        assert ledger[0]["fees"] == position["fees"] == model.fees
        assert ledger[0]["balance"] == model.balance == 10**15 + model.realised - model.fees
        # Money is neither made nor lost by rounding: what flowed is what was realised less what is still held.
        assert flows == model.realised - int(np.sign(position["size"])) * int(position["cost"])
    assert ledger[0]["fills"] == len(fills)


def test_closing_removes_the_truncated_share_of_the_cost() -> None:
    ledger = new_ledger()
    apply_execution(ledger[0], 0, 1, 100, 1, 0, 8)
    apply_execution(ledger[0], 0, 1, 101, 2, 0, 8)
    assert ledger[0]["positions"][0]["cost"] == 302
    apply_execution(ledger[0], 0, -1, 110, 1, 0, 8)
    position = ledger[0]["positions"][0]
    assert (position["size"], position["cost"], ledger[0]["realised"]) == (2, 302 - 100, 110 - 100)
    apply_execution(ledger[0], 0, -1, 110, 5, 0, 8)  # through zero
    position = ledger[0]["positions"][0]
    assert (position["size"], position["cost"], ledger[0]["realised"]) == (-3, 330, 10 + 220 - 202)


@settings(max_examples=100, deadline=None)
@given(fills=fills, seed=st.integers(0, 2**32))
def test_repeats_in_any_order_change_nothing(fills: list[tuple[int, int, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    trades = [(trade_id + 1, *fill) for trade_id, fill in enumerate(fills)]
    once, often = new_ledger(), new_ledger()
    for trade_id, side, price, size, fee in trades:
        assert take_fill(once[0], 0, side, price, size, fee, trade_id, UNIT_EXP)
    # Every trade first comes in order, each followed by repeats of any that came before.
    repeats = 0
    for place, (trade_id, side, price, size, fee) in enumerate(trades):
        assert take_fill(often[0], 0, side, price, size, fee, trade_id, UNIT_EXP)
        for again in rng.choices(trades[: place + 1], k=rng.randrange(3)):
            assert not take_fill(often[0], 0, *again[1:], again[0], UNIT_EXP)
            repeats += 1
    assert often[0]["duplicate_fills"] == repeats
    often["duplicate_fills"] = 0
    assert once.tobytes() == often.tobytes()


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=40), seed=st.integers(0, 2**32))
def test_fills_of_one_side_in_any_order_give_the_same_position(sizes: list[int], seed: int) -> None:
    shuffled = [(trade_id + 1, 100_00 + trade_id, size) for trade_id, size in enumerate(sizes)]
    ordered = list(shuffled)
    random.Random(seed).shuffle(shuffled)
    ledgers = []
    for trades in (ordered, shuffled + shuffled):
        ledger = new_ledger()
        for trade_id, price, size in trades:
            take_fill(ledger[0], 0, -1, price, size, 7, trade_id, UNIT_EXP)
        ledger["duplicate_fills"] = 0
        ledgers.append(ledger.tobytes())
    assert ledgers[0] == ledgers[1]


def test_a_dropped_fill_shows() -> None:
    whole, short = new_ledger(), new_ledger()
    for trade_id in range(1, 20):
        take_fill(whole[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
        if trade_id != 7:
            take_fill(short[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
    assert whole[0]["positions"][0]["size"] == short[0]["positions"][0]["size"] + 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 3 * TRADE_IDS_KEPT), reach=st.integers(1, 40))
def test_trade_ids_equal_a_set(seed: int, count: int, reach: int) -> None:
    rng = random.Random(seed)
    trades = np.zeros(1, TRADE_IDS)
    seen: set[int] = set()
    newest = 0
    for _ in range(count):
        newest += rng.randrange(3)
        trade_id = max(newest - rng.randrange(reach), 1)
        floor = int(trades[0]["floor"])
        expected = Seen.FORGOTTEN if trade_id <= floor else Seen.BEFORE if trade_id in seen else Seen.NEW
        assert remember_trade(trades[0], trade_id) == expected
        if expected == Seen.NEW:
            seen.add(trade_id)
        kept = trades[0]["ids"][: trades[0]["count"]]
        assert (np.diff(kept) > 0).all()
        assert set(kept.tolist()) == {value for value in seen if value > trades[0]["floor"]}
    assert trades[0]["count"] < TRADE_IDS_KEPT


def test_a_fill_below_the_floor_is_refused_and_counted() -> None:
    ledger = new_ledger()
    for trade_id in range(10, 10 + TRADE_IDS_KEPT):
        take_fill(ledger[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
    assert ledger[0]["trade_ids"][0]["floor"] == 10 + TRADE_IDS_KEPT // 2 - 1
    assert not take_fill(ledger[0], 0, 1, 100, 1, 0, 9, UNIT_EXP)
    assert ledger[0]["fills_below_floor"] == 1
    assert ledger[0]["positions"][0]["size"] == TRADE_IDS_KEPT


def test_trade_ids_belong_to_their_instrument() -> None:
    ledger = new_ledger()
    assert take_fill(ledger[0], 0, 1, 100, 1, 0, 5, UNIT_EXP)
    assert take_fill(ledger[0], 1, 1, 100, 1, 0, 5, UNIT_EXP)


@pytest.mark.parametrize(
    ("price", "size", "fee", "before"),
    [
        (10**15, 10**15, 0, 0),  # the value of the fill
        (1, 1, -(2**62), 2**62),  # the balance
        (1, 1, INT64_MAX, -2),
    ],
)
def test_overflow_is_an_error(price: int, size: int, fee: int, before: int) -> None:
    ledger = new_ledger(before)
    with pytest.raises(OverflowError):
        apply_execution(ledger[0], 0, 1, price, size, fee, UNIT_EXP)


def test_unrealised_profit_of_long_and_short() -> None:
    assert unrealised(5, 1_000, 1_100) == 100
    assert unrealised(-5, 1_000, 1_100) == -100
