"""The gate in front of every new order: hard checks, each counted under its reason, each failing closed.

Purpose: refuse an order that breaks a limit, at the last place where the whole state is known.
Order, cheapest first, the one that spends something last:
  NOT_TRADING     mode, trip, quiescence, no opening balance yet, or the venue halted the instrument
  STALE_DATA      the book is invalid, one-sided, crossed or older than the limit on the record clock
  OFF_TICK        price not on the tick; SIZE_RANGE: size not in whole lots or not positive
  PRICE_COLLAR    price too far from mid, or from the mark price where one is known
  ORDER_VALUE     value of the order above the limit, or below the venue's minimum; reduce-only orders have no minimum
  POSITION_LIMIT  position + all open orders of the side (UNKNOWN ones in full) + this order, valued at the
                  higher of price and mid, above the limit; an order that only reduces always passes, and one that
                  says it only reduces must, with all open orders of its side
  MESSAGE_RATE    token bucket on record time; cancels and queries never ask but take their token, into debt
TOO_MANY_ORDERS is checked by the order table, which owns the count.
Invariants: a limit <= 0 denies; nothing here raises: a value beyond int64 is the largest int64.
Cost: some 20 ns an order. Limits: one bucket a stage; one collar and one set of limits for all instruments.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from engine.reasons import Reason
from engine.risk.market_view import book_is_fresh
from engine.risk.settings import GateSettings, limit_units, money
from engine.units import INT64_MAX, MONEY_EXP, mul_div

_COLLAR_UNIT = 10**9
_TOKEN = 10**9  # one message in the bucket's unit, so that a nanosecond at rate r adds exactly r
_NEAR_INT64_MAX = 9.0e18
POWERS_OF_10 = np.array([10**exp for exp in range(19)], np.int64)

GATE = np.dtype(
    [
        ("max_order_value", "<i8"),  # 1e-8 quote
        ("max_position_value", "<i8"),  # 1e-8 quote
        ("collar", "<i8"),  # 1e-9 of the reference price
        ("message_rate", "<i8"),  # messages a second
        ("message_burst", "<i8"),  # messages
        ("max_data_age_ns", "<i8"),
        ("tokens", "<i8"),  # 1e-9 message, may be in debt by a burst
        ("tokens_at_ns", "<i8"),  # record time up to which the bucket was filled
    ],
    align=True,
)


def fill_gate(gate: np.record, settings: GateSettings) -> None:
    """Write limits into a GATE record and fill its bucket."""
    gate["max_order_value"] = money(settings.max_order_value)
    gate["max_position_value"] = money(settings.max_position_value)
    gate["collar"] = min(limit_units(settings.price_collar_bps, 5), _COLLAR_UNIT)
    gate["message_rate"] = min(limit_units(settings.max_messages_per_second, 0), 10**6)
    gate["message_burst"] = min(limit_units(settings.message_burst, 0), 10**6)
    gate["max_data_age_ns"] = limit_units(settings.max_data_age_ms, 6)
    gate["tokens"] = gate["message_burst"] * _TOKEN


@kernel()
def value_or_max(price: int, size: int, unit_exp: int) -> int:
    """notional(price, size), or the largest int64 where it would not fit. price and size are not negative."""
    product = float(price) * float(size)
    if unit_exp >= MONEY_EXP:
        scale = POWERS_OF_10[unit_exp - MONEY_EXP]
        if product / float(scale) >= _NEAR_INT64_MAX:
            return INT64_MAX
        return int(mul_div(price, size, scale))
    scale = POWERS_OF_10[MONEY_EXP - unit_exp]
    if product * float(scale) >= _NEAR_INT64_MAX:
        return INT64_MAX
    return price * size * scale


@kernel()
def breaks_collar(price: int, reference: int, collar: int) -> bool:
    """True when price is further from the reference (same unit) than collar * 1e-9 of it."""
    if collar <= 0 or reference <= 0 or price <= 0:
        return True
    return abs(price - reference) > mul_div(reference, collar, _COLLAR_UNIT)


@kernel()
def breaks_order_value(price: int, size: int, unit_exp: int, limit: int, minimum: int) -> bool:
    """True when the order's value is above the limit or below the venue's minimum."""
    if limit <= 0:
        return True
    value = value_or_max(price, size, unit_exp)
    return value > limit or value < minimum


@kernel()
def breaks_position_limit(
    side: int, price: int, size: int, position: int, open_same_side: int, unit_exp: int, limit: int
) -> bool:
    """True when the position would go beyond the limit with all open orders of this side and this one filled."""
    if limit <= 0:
        return True
    exposure = side * position + open_same_side + size
    if exposure <= 0:
        return False
    return value_or_max(price, exposure, unit_exp) > limit


@kernel()
def refill(gate: np.record, now_ns: int) -> None:
    """Fill the bucket up to now."""
    full = gate.message_burst * _TOKEN
    elapsed = now_ns - gate.tokens_at_ns
    if gate.message_rate <= 0 or elapsed <= 0:
        return
    if elapsed >= 2 * full // gate.message_rate:
        gate.tokens = full
    else:
        gate.tokens = min(gate.tokens + elapsed * gate.message_rate, full)
    gate.tokens_at_ns = now_ns


@kernel()
def take_message(gate: np.record, now_ns: int) -> None:
    """Take a token for a message that always passes (cancel, query); the debt is at most one burst."""
    refill(gate, now_ns)
    gate.tokens = max(gate.tokens - _TOKEN, -gate.message_burst * _TOKEN)


@kernel()
def check_order(
    gate: np.record,
    view: np.record,
    trading: bool,
    now_ns: int,
    side: int,
    price: int,
    size: int,
    position: int,
    open_same_side: int,
    reduce_only: bool,
) -> int:
    """Reason.NONE when a new order may be sent (its token is then taken), else why not.

    trading: mode, trip, quiescence and opening allow entries. open_same_side: size of all open orders of this
    side and instrument, UNKNOWN ones in full, without this one. reduce_only: the venue takes it for closing alone.
    """
    if not trading or view.known == 0 or view.trading == 0:
        return Reason.NOT_TRADING.value
    if not book_is_fresh(view, now_ns, gate.max_data_age_ns):
        return Reason.STALE_DATA.value
    if view.tick_size <= 0 or price <= 0 or price % view.tick_size != 0:
        return Reason.OFF_TICK.value
    if view.lot_size <= 0 or size <= 0 or size % view.lot_size != 0:
        return Reason.SIZE_RANGE.value
    if breaks_collar(2 * price, view.bid_price + view.ask_price, gate.collar):
        return Reason.PRICE_COLLAR.value
    if view.mark_price > 0 and breaks_collar(
        value_or_max(price, 1, view.price_exp), view.mark_price, gate.collar
    ):
        return Reason.PRICE_COLLAR.value
    minimum = 0 if reduce_only else view.min_notional
    if breaks_order_value(price, size, view.unit_exp, gate.max_order_value, minimum):
        return Reason.ORDER_VALUE.value
    if reduce_only and side * position + open_same_side + size > 0:
        return Reason.POSITION_LIMIT.value
    reference = max(price, (view.bid_price + view.ask_price + 1) // 2)
    if breaks_position_limit(
        side, reference, size, position, open_same_side, view.unit_exp, gate.max_position_value
    ):
        return Reason.POSITION_LIMIT.value
    refill(gate, now_ns)
    if gate.message_rate <= 0 or gate.tokens < _TOKEN:
        return Reason.MESSAGE_RATE.value
    gate.tokens -= _TOKEN
    return Reason.NONE.value
