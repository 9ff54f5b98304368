"""Sizes: from a value to whole lots, cut by the room that the position limit leaves.

Invariants: sizes are rounded down to lots; a size that would miss the venue's minimum value is 0; the result,
sent at the price it was computed for, passes the gate's ORDER_VALUE minimum and POSITION_LIMIT.
Cost: two 128-bit divisions.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from engine.risk.gate import POWERS_OF_10, value_or_max
from engine.units import INT64_MAX, MONEY_EXP, mul_div


@kernel()
def size_for_value(value: int, price: int, unit_exp: int) -> int:
    """The largest size (size units) whose value at this price (price units) is at most `value` (1e-8 quote)."""
    if price <= 0 or value <= 0:
        return 0
    if unit_exp < MONEY_EXP:
        return int(value // POWERS_OF_10[MONEY_EXP - unit_exp] // price)
    scale = POWERS_OF_10[unit_exp - MONEY_EXP]
    if float(value) * float(scale) / float(price) >= 9.0e18:
        return INT64_MAX
    return int(mul_div(value, scale, price))


@kernel()
def order_size(
    view: np.record, side: int, price: int, order_value: int, limit: int, position: int, open_same_side: int
) -> int:
    """Size of an order of about order_value at price, in whole lots; 0 where none fits.

    limit: the gate's position limit, 1e-8 quote. open_same_side: open orders of this side and instrument that
    will still be there beside the new one.
    """
    if view.lot_size <= 0:
        return 0
    reference = max(price, (view.bid_price + view.ask_price + 1) // 2)
    room = size_for_value(limit, reference, view.unit_exp) - side * position - open_same_side
    size = min(size_for_value(order_value, price, view.unit_exp), room)
    size -= size % view.lot_size
    if size <= 0 or value_or_max(price, size, view.unit_exp) < view.min_notional:
        return 0
    return size
