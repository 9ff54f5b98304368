"""The ledger against plain integers, in any order of arrival."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.ledger import (
    LEDGER,
    TRADES_KEPT,
    open_position,
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


@settings(max_examples=300)
@given(fills=fills, unit_exp=st.sampled_from((3, 5, 8, 11)))
def test_random_fills_equal_plain_integers(fills: list[tuple[int, int, int, int]], unit_exp: int) -> None:
    instrument = type(BTC)(0, "X", "X", "Y", unit_exp - 1, 1, 1, 1, 0)
    ledger, model = new_ledger(10**15), ToyLedger(10**15)
    flows = 0
    for trade_id, (side, drawn, size, fee) in enumerate(fills, 1):
        price = drawn % 10**6 + 1 if unit_exp == 3 else drawn  # sixty of them must fit into 64 bits of money
        held = int(ledger[0]["positions"][0]["size"])
        closing = min(size, abs(held)) if held * side < 0 else 0
        flows -= side * (model.value(instrument, price, closing) + model.value(instrument, price, size - closing))
        assert take_fill(ledger[0], 0, side, price, size, fee, trade_id, unit_exp)
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
    take_fill(ledger[0], 0, 1, 100, 1, 0, 1, 8)
    take_fill(ledger[0], 0, 1, 101, 2, 0, 2, 8)
    assert ledger[0]["positions"][0]["cost"] == 302
    take_fill(ledger[0], 0, -1, 110, 1, 0, 3, 8)
    position = ledger[0]["positions"][0]
    assert (position["size"], position["cost"], ledger[0]["realised"]) == (2, 302 - 100, 110 - 100)
    take_fill(ledger[0], 0, -1, 110, 5, 0, 4, 8)  # through zero
    position = ledger[0]["positions"][0]
    assert (position["size"], position["cost"], ledger[0]["realised"]) == (-3, 330, 10 + 220 - 202)


@settings(max_examples=200)
@given(fills=fills, seed=st.integers(0, 2**32), repeats=st.integers(0, 3))
def test_shuffled_and_repeated_fills_give_the_same_ledger(
    fills: list[tuple[int, int, int, int]], seed: int, repeats: int
) -> None:
    trades = [(*fill, trade_id * 3) for trade_id, fill in enumerate(fills, 1)]
    shuffled = trades * (1 + repeats)
    random.Random(seed).shuffle(shuffled)
    ledgers = [new_ledger(), new_ledger()]
    for ledger, arriving in zip(ledgers, (trades, shuffled), strict=True):
        open_position(ledger[0], 0, -5, 12_345)
        for trade in arriving:
            take_fill(ledger[0], 0, *trade, UNIT_EXP)
    assert ledgers[0][0]["reordered_fills"] == 0
    assert ledgers[1][0]["duplicate_fills"] == repeats * len(trades)
    for ledger in ledgers:
        ledger["duplicate_fills"] = ledger["reordered_fills"] = 0
    assert ledgers[0].tobytes() == ledgers[1].tobytes()


def test_a_dropped_fill_shows() -> None:
    whole, short = new_ledger(), new_ledger()
    for trade_id in range(1, 20):
        take_fill(whole[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
        if trade_id != 7:
            take_fill(short[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
    assert whole[0]["positions"][0]["size"] == short[0]["positions"][0]["size"] + 1


@pytest.mark.parametrize("seed", range(6))
def test_long_streams_with_late_fills_equal_plain_integers(seed: int) -> None:
    """Several times more fills than are kept, each late by at most a few places, some twice."""
    rng = random.Random(seed)
    trades = []
    trade_id = 0
    for _ in range(rng.randrange(TRADES_KEPT - 2, 4 * TRADES_KEPT)):
        trade_id += rng.randrange(1, 4)
        trades.append(
            (rng.choice((1, -1)), rng.randrange(90_00, 110_00), rng.randrange(1, 50), rng.randrange(9), trade_id)
        )
    arrival = sorted((place + rng.randrange(20) * rng.random(), trade) for place, trade in enumerate(trades))
    ledger, model = new_ledger(10**12), ToyLedger(10**12)
    repeats = 0
    for _, trade in arrival:
        assert take_fill(ledger[0], 0, *trade, UNIT_EXP)
        if rng.random() < 0.2:
            assert not take_fill(ledger[0], 0, *trade, UNIT_EXP)
            repeats += 1
    for side, price, size, fee, _ in trades:
        model.fill(BTC, side, price, size, fee)
    record = ledger[0]
    assert tuple(record["positions"][0]) == (model.positions[0], model.costs[0], model.realised, model.fees)
    assert (record["balance"], record["realised"], record["fees"]) == (model.balance, model.realised, model.fees)
    assert record["duplicate_fills"] + record["fills_below_floor"] == repeats
    assert record["reordered_fills"] > 100
    kept = record["logs"][0]["trades"]["trade_id"][: record["logs"][0]["count"]]
    assert (np.diff(kept) > 0).all()


def test_a_fill_below_the_floor_is_refused_and_counted() -> None:
    ledger = new_ledger()
    for trade_id in range(10, 10 + TRADES_KEPT):
        take_fill(ledger[0], 0, 1, 100, 1, 0, trade_id, UNIT_EXP)
    assert ledger[0]["logs"][0]["floor"] == 10 + TRADES_KEPT // 2 - 1
    assert not take_fill(ledger[0], 0, 1, 100, 1, 0, 9, UNIT_EXP)
    assert ledger[0]["fills_below_floor"] == 1
    assert ledger[0]["positions"][0]["size"] == TRADES_KEPT


def test_fills_from_before_the_opening_are_part_of_the_opening_position() -> None:
    ledger = new_ledger()
    take_fill(ledger[0], 0, 1, 100, 3, 0, 5, UNIT_EXP)
    open_position(ledger[0], 0, 10, 1_000)
    assert not take_fill(ledger[0], 0, 1, 100, 1, 0, 4, UNIT_EXP)
    assert take_fill(ledger[0], 0, 1, 100, 1, 0, 6, UNIT_EXP)
    assert ledger[0]["positions"][0]["size"] == 11


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
        take_fill(ledger[0], 0, 1, price, size, fee, 1, UNIT_EXP)


def test_unrealised_profit_of_long_and_short() -> None:
    assert unrealised(5, 1_000, 1_100) == 100
    assert unrealised(-5, 1_000, 1_100) == -100
