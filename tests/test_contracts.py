"""Contracts to base units and back, against fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Settings
from engine.contracts import base_size, inverse_base_size, inverse_contracts, linear_base_size
from engine.execution.state import make_execution_state
from engine.instruments import Dialect, Instrument
from engine.units import INT64_MAX

USD = 10**8


def contract(value: int, price_exp: int = 1, size_exp: int = 0) -> Instrument:
    return Instrument(
        0, "BTCUSD_PERP", "BTC", "USD", price_exp, size_exp, 1, 1, 0, dialect=Dialect.BINANCE_COINM,
        contract_value=value,
    )  # fmt: skip


def truncated(value: Fraction) -> int:
    return -int(-value) if value < 0 else int(value)


def test_a_contract_of_100_dollars_at_61_804_dollars_70() -> None:
    # 35 contracts are 3,500 USD: 3500 / 61804.7 = 0.0566299974
    assert base_size(contract(100 * USD), 618_047, 35) == 5_662_999
    assert base_size(contract(100 * USD), 618_047, -35) == -5_662_999
    assert base_size(contract(10 * USD), 1_000, 1) == 10_000_000, "10 USD at 100.0 are 0.1"
    assert inverse_contracts(10_000_000, 10 * USD, 1_000, 1) == 1


@settings(max_examples=1_000)
@given(
    contracts=st.integers(-(10**9), 10**9), value=st.integers(1, 1_000).map(lambda usd: usd * USD),
    price=st.integers(1, 10**12), price_exp=st.integers(0, 6), size_exp=st.integers(0, 3),
)
def test_inverse_sizes_equal_fractions(contracts: int, value: int, price: int, price_exp: int, size_exp: int) -> None:
    exact = Fraction(contracts * value * 10**price_exp, price)
    if abs(exact) > INT64_MAX:
        with pytest.raises(OverflowError):
            inverse_base_size(contracts, value, price, price_exp)
        return
    base = inverse_base_size(contracts, value, price, price_exp)
    assert base == truncated(exact)
    assert base_size(contract(value, price_exp, size_exp), price, contracts) == truncated(exact / 10**size_exp)
    back = inverse_contracts(base, value, price, price_exp)
    assert back == truncated(Fraction(base * price, value * 10**price_exp))
    assert abs(back) <= abs(contracts) and back * contracts >= 0


@settings(max_examples=500)
@given(size=st.integers(-(10**15), 10**15), size_exp=st.integers(0, 12))
def test_linear_sizes_equal_fractions(size: int, size_exp: int) -> None:
    exact = Fraction(size * 10**8, 10**size_exp)
    if abs(exact) > INT64_MAX:
        with pytest.raises(OverflowError):
            linear_base_size(size, size_exp)
        return
    assert linear_base_size(size, size_exp) == truncated(exact)
    linear = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, size_exp, 1, 1, 0)
    assert base_size(linear, 12_345, size) == truncated(exact), "whatever the price"


def test_an_inverse_contract_is_never_traded() -> None:
    """Execution values everything as price * size, which says nothing of a contract whose worth is fixed."""
    items = [contract(100 * USD), Instrument(1, "BTCUSDT", "BTC", "USDT", 2, 3, 1, 1, 0)]
    settings = Settings()
    state = make_execution_state(settings.execution, settings.gate, settings.maker, items)
    views = state["views"][0]
    assert views["trading"][:3].tolist() == [0, 1, 0] and views["known"][:3].tolist() == [1, 1, 0]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        base_size(contract(100 * USD), 0, 1)
    with pytest.raises(OverflowError):
        base_size(contract(10**12, price_exp=18), 1, 1)
    for item in (contract(USD, price_exp=19), contract(USD, size_exp=-1)):
        with pytest.raises(ValueError, match="units of"):
            base_size(item, 1, 1)
