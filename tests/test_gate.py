"""The gate: every limit at its boundary, every missing limit or input closed, sizing that the gate accepts."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.reasons import Reason
from engine.risk.gate import GATE, check_order, fill_gate, take_message, value_or_max
from engine.risk.market_view import MARKET_VIEW
from engine.risk.settings import GateSettings, limit_units
from engine.risk.sizing import order_size
from engine.units import INT64_MAX
from tests.execution_harness import MS, START_NS

SECOND = 1_000_000_000


def new_view(**fields: Any) -> np.ndarray:
    """A sound book 999.90 / 1000.10, tick 0.10, lot 0.001, minimum 5, in units of 0.01 and 0.001."""
    view = np.zeros(1, MARKET_VIEW)
    values = {
        "price_exp": 2, "size_exp": 3, "unit_exp": 5, "tick_size": 10, "lot_size": 1, "min_notional": 5_00000000,
        "bid_price": 999_90, "bid_size": 1, "ask_price": 1000_10, "ask_size": 1, "book_recv_ts_ns": START_NS,
        "known": 1, "book_valid": 1, "trading": 1, **fields,
    }
    for name, value in values.items():
        view[name] = value
    return view


def new_gate(**limits: Any) -> np.ndarray:
    values = {
        "max_order_value": 1_000, "max_position_value": 5_000, "price_collar_bps": 100,
        "max_messages_per_second": 10, "message_burst": 10, "max_data_age_ms": 500, **limits,
    }
    gate = np.zeros(1, GATE)
    fill_gate(gate[0], GateSettings(**values))
    return gate


def decide(
    gate: np.ndarray | None = None, view: np.ndarray | None = None, *, trading: bool = True, now_ns: int = START_NS,
    side: int = 1, price: int = 1000_00, size: int = 100, position: int = 0, open_same_side: int = 0,
) -> Reason:
    gate = new_gate() if gate is None else gate
    view = new_view() if view is None else view
    return Reason(check_order(gate[0], view[0], trading, now_ns, side, price, size, position, open_same_side, False))


def test_a_sound_order_passes() -> None:
    assert decide() == Reason.NONE
    assert decide(side=-1) == Reason.NONE


def test_not_trading() -> None:
    assert decide(trading=False) == Reason.NOT_TRADING
    assert decide(view=new_view(known=0)) == Reason.NOT_TRADING
    assert decide(view=new_view(trading=0)) == Reason.NOT_TRADING


def test_stale_data_at_the_boundary() -> None:
    assert decide(now_ns=START_NS + 500 * MS) == Reason.NONE
    assert decide(now_ns=START_NS + 500 * MS + 1) == Reason.STALE_DATA


@pytest.mark.parametrize(
    "fields",
    [
        {"book_valid": 0}, {"bid_price": 0}, {"ask_price": 0}, {"bid_size": 0}, {"ask_size": 0},
        {"bid_price": 1000_10}, {"ask_price": 999_80}, {"book_recv_ts_ns": 0},
    ],
)
def test_an_unsound_book_is_stale(fields: dict[str, int]) -> None:
    assert decide(view=new_view(**fields)) == Reason.STALE_DATA


def test_filters() -> None:
    assert decide(price=1000_05) == Reason.OFF_TICK
    assert decide(price=0) == Reason.OFF_TICK
    assert decide(view=new_view(tick_size=0)) == Reason.OFF_TICK
    assert decide(view=new_view(lot_size=7)) == Reason.SIZE_RANGE
    assert decide(size=0) == Reason.SIZE_RANGE
    assert decide(size=-5) == Reason.SIZE_RANGE
    assert decide(view=new_view(lot_size=0)) == Reason.SIZE_RANGE


def test_collar_around_mid_at_the_boundary() -> None:
    assert decide(price=1010_00, size=10) == Reason.NONE  # exactly 1 % above mid 1000.00
    assert decide(price=1010_10, size=10) == Reason.PRICE_COLLAR
    assert decide(price=990_00, size=10) == Reason.NONE
    assert decide(price=989_90, size=10) == Reason.PRICE_COLLAR


def test_collar_around_mark_price_where_one_is_known() -> None:
    assert decide(view=new_view(mark_price=1010_10_000000 - 1)) == Reason.NONE
    assert decide(view=new_view(mark_price=1010_20_000000)) == Reason.PRICE_COLLAR
    assert decide(view=new_view(mark_price=985_00_000000)) == Reason.PRICE_COLLAR


def test_order_value_at_the_boundary() -> None:
    assert decide(size=1_000) == Reason.NONE  # 1,000 quote
    assert decide(size=1_001) == Reason.ORDER_VALUE
    assert decide(size=5) == Reason.NONE  # the venue's minimum of 5
    assert decide(size=4) == Reason.ORDER_VALUE


def test_position_limit_counts_position_open_orders_and_this_one() -> None:
    assert decide(position=4_000, open_same_side=900) == Reason.NONE  # 5,000 quote in all
    assert decide(position=4_000, open_same_side=901) == Reason.POSITION_LIMIT
    assert decide(side=-1, position=-4_000, open_same_side=900) == Reason.NONE
    assert decide(side=-1, position=-4_000, open_same_side=901) == Reason.POSITION_LIMIT
    # A position beyond the limit may still be reduced.
    assert decide(side=-1, position=9_000) == Reason.NONE
    assert decide(side=1, position=9_000) == Reason.POSITION_LIMIT


def test_position_is_valued_at_the_higher_of_price_and_mid() -> None:
    gate = new_gate(max_position_value=1_000)
    assert decide(gate, size=950, price=995_00, position=50) == Reason.NONE  # 1.000 at mid 1000.00
    assert decide(gate, size=950, price=995_00, position=51) == Reason.POSITION_LIMIT
    assert decide(gate, size=950, price=1005_00, position=45) == Reason.NONE
    assert decide(gate, size=950, price=1005_00, position=46) == Reason.POSITION_LIMIT


def test_message_rate_burst_then_rate() -> None:
    gate = new_gate(max_messages_per_second=10, message_burst=3)
    assert [decide(gate) for _ in range(4)] == [Reason.NONE] * 3 + [Reason.MESSAGE_RATE]
    view = new_view(book_recv_ts_ns=START_NS + SECOND)
    assert decide(gate, view, now_ns=START_NS + 100 * MS - 1) == Reason.MESSAGE_RATE
    assert decide(gate, view, now_ns=START_NS + 100 * MS) == Reason.NONE
    assert decide(gate, view, now_ns=START_NS + 100 * MS) == Reason.MESSAGE_RATE
    assert [decide(gate, view, now_ns=START_NS + SECOND) for _ in range(4)].count(Reason.NONE) == 3


def test_a_denied_order_takes_no_message_and_cancels_do() -> None:
    gate = new_gate(max_messages_per_second=1, message_burst=2)
    assert decide(gate, size=1_001) == Reason.ORDER_VALUE
    take_message(gate[0], START_NS)
    assert decide(gate) == Reason.NONE
    for _ in range(5):
        take_message(gate[0], START_NS)
    assert gate[0]["tokens"] == -2 * 10**9  # debt is bounded by one burst
    view = new_view(book_recv_ts_ns=START_NS + 3 * SECOND)
    assert decide(gate, view, now_ns=START_NS + 3 * SECOND - 1) == Reason.MESSAGE_RATE
    assert decide(gate, view, now_ns=START_NS + 3 * SECOND) == Reason.NONE


NAMES = {
    "max_order_value": Reason.ORDER_VALUE,
    "max_position_value": Reason.POSITION_LIMIT,
    "price_collar_bps": Reason.PRICE_COLLAR,
    "max_messages_per_second": Reason.MESSAGE_RATE,
    "message_burst": Reason.MESSAGE_RATE,
    "max_data_age_ms": Reason.STALE_DATA,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 0, -1, "abc", "NaN", True, Decimal("-0.1")])
def test_a_limit_that_is_none_denies_everything(name: str, value: object) -> None:
    assert decide(new_gate(**{name: value})) == NAMES[name]


def test_limits_of_zeroed_memory_deny() -> None:
    assert decide(np.zeros(1, GATE)) == Reason.STALE_DATA


@pytest.mark.parametrize(("value", "units"), [(1, 10**8), (0.1, 10**7), ("0.123456789", 12345678), (10**30, INT64_MAX)])
def test_limits_become_exact_units(value: Any, units: int) -> None:
    assert limit_units(value, 8) == units


@settings(max_examples=1_000)
@given(price=st.integers(0, INT64_MAX), size=st.integers(0, INT64_MAX), unit_exp=st.integers(0, 18))
def test_value_saturates_and_never_raises(price: int, size: int, unit_exp: int) -> None:
    exact = price * size * 10**8 // 10**unit_exp
    value = value_or_max(price, size, unit_exp)
    assert value == exact or (value == INT64_MAX and (exact >= 89 * 10**17 or price * size >= 89 * 10**17))


@settings(max_examples=1_000)
@given(
    order_value=st.integers(1, 10**13), price=st.integers(900_0, 1100_0).map(lambda ticks: ticks * 10),
    limit=st.integers(1, 10**13), position=st.integers(-(10**4), 10**4), open_same_side=st.integers(0, 10**4),
    side=st.sampled_from((1, -1)), lot=st.integers(1, 50),
)
def test_sizes_pass_the_gate_and_are_the_largest_that_do(
    order_value: int, price: int, limit: int, position: int, open_same_side: int, side: int, lot: int
) -> None:
    view = new_view(lot_size=lot)
    gate = new_gate(price_collar_bps=2_000, max_order_value=10**9)
    gate["max_position_value"] = limit
    size = order_size(view[0], side, price, order_value, limit, position, open_same_side)
    reference = max(price, 1000_00)

    def fits(candidate: int) -> bool:
        value = Fraction(price * candidate, 10**5) * 10**8
        exposure = side * position + open_same_side + candidate
        return value <= order_value and Fraction(reference * exposure, 10**5) * 10**8 <= limit

    if size == 0:
        smallest = lot * math.ceil(Fraction(5 * 10**5, price * lot))
        assert not fits(smallest)
    else:
        assert size % lot == 0
        assert fits(size)
        assert not fits(size + lot)
        verdict = decide(
            gate, view, side=side, price=price, size=size, position=position, open_same_side=open_same_side
        )
        assert verdict == Reason.NONE
