"""Sizes in base units, whatever a venue counts: linear instruments count base, inverse ones count contracts.

An inverse contract is worth a fixed amount of the quote currency (`contract_value`, 1e-8 quote) and is settled in
the base, so its base size depends on the price: contracts * contract_value / price.

Invariants: base sizes are int64 in units of 10^-8, truncated towards zero, and never pass through a float; there and
back again never gives more than was put in. Cost: some ns, one or two divisions of 128 bits.
Source: Binance COIN-M futures, "Contract Specifications".
"""

from __future__ import annotations

import numpy as np

from engine.instruments import Instrument
from engine.kernel import kernel
from engine.units import mul_div

BASE_EXP = 8
MAX_UNIT_EXP = 18
_TEN = np.array([10**power for power in range(MAX_UNIT_EXP + 1)], np.int64)


@kernel()
def inverse_base_size(contracts: int, contract_value: int, price: int, price_exp: int) -> int:
    """Base units of 10^-8 that so many contracts are at a price (units of 10^-price_exp), truncated.

    contract_value in 1e-8 quote units. Raises ZeroDivisionError for price 0, OverflowError beyond int64.
    """
    # contracts * (contract_value / 10^8) / (price / 10^price_exp) * 10^8
    return mul_div(contracts, mul_div(contract_value, _TEN[price_exp], 1), price)


@kernel()
def inverse_contracts(base_size: int, contract_value: int, price: int, price_exp: int) -> int:
    """Whole contracts that a base size (units of 10^-8) makes at a price, truncated. Raises as `inverse_base_size`."""
    return mul_div(base_size, price, mul_div(contract_value, _TEN[price_exp], 1))


@kernel()
def linear_base_size(size: int, size_exp: int) -> int:
    """Base units of 10^-8 of a linear size (units of 10^-size_exp), truncated. Raises OverflowError beyond int64."""
    if size_exp <= BASE_EXP:
        return mul_div(size, _TEN[BASE_EXP - size_exp], 1)
    return mul_div(size, 1, _TEN[size_exp - BASE_EXP])


def base_size(instrument: Instrument, price: int, size: int) -> int:
    """A price and size of any instrument, in its own units, as base units of 10^-8, truncated.

    Raises ValueError for units finer than 10^-18, and as `inverse_base_size`.
    """
    if not (0 <= instrument.price_exp <= MAX_UNIT_EXP and 0 <= instrument.size_exp <= MAX_UNIT_EXP):
        raise ValueError(f"{instrument.symbol}: units of 10^-{max(instrument.price_exp, instrument.size_exp)}")
    if instrument.contract_value == 0:
        return int(linear_base_size(size, instrument.size_exp))
    whole = inverse_base_size(size, instrument.contract_value, price, instrument.price_exp)
    return int(mul_div(whole, 1, int(_TEN[instrument.size_exp])))
