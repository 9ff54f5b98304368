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
TOO_MANY_ORDERS, BACKLOG and SELF_TRADE are checked before all these by whoever submits.
Every check notes what it saw and its limit in the gate's state, so that a replay can show why an order passed or did
not (`kept`, the newest KEPT orders that were checked).
Invariants: a limit <= 0 denies; nothing here raises: a value beyond int64 is the largest int64; no check reads a note.
Cost: some 25 ns an order. Limits: one bucket a stage; one collar and one set of limits for all instruments.
"""

from __future__ import annotations

from enum import IntEnum

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


class Check(IntEnum):
    """The checks of the gate, in the order in which they are made: what is seen, and the limit beside it."""

    OPEN_ORDERS = 0  # orders that are open; so many must not be
    BACKLOG = 1  # how full the rings beside execution are; must be below 1
    OWN_ORDERS = 2  # 1 where it could be matched with an order of ours; must be below 1
    TRADING = 3  # bits: 1 mode and all else let entries out, 2 instrument known, 4 venue takes orders; 7 are needed
    BOOK = 4  # age of the book in ns; largest age. Broken by a book that is invalid or unsound, too
    TICK = 5  # price; tick
    LOT = 6  # size; lot
    COLLAR_MID = 7  # twice the distance from mid, price units; twice the largest
    COLLAR_MARK = 8  # distance from the mark price, 1e-8 quote; largest
    ORDER_VALUE = 9  # value, 1e-8 quote; largest
    MIN_VALUE = 10  # value, 1e-8 quote; smallest
    REDUCES = 11  # position of the side with all open orders of the side and this one filled, size units; 0
    POSITION_VALUE = 12  # its value, 1e-8 quote; largest
    MESSAGES = 13  # tokens in the bucket, 1e-9 message; one token


KEPT = 16  # a power of two, at least the orders that one input record can submit

# What the gate saw of one order.
CHECKED = np.dtype(
    [
        ("decision", "<i8"),  # its place in the decision hash, from 1
        ("order_id", "<i8"),  # 0: denied
        ("reason", "<i8"),  # Reason
        ("made", "<i8"),  # bit c: check c was made; where the reason is not NONE the last of them broke
        ("strategy", "<i8"),
        ("instrument", "<i8"),
        ("side", "<i8"),
        ("price", "<i8"),
        ("size", "<i8"),
        ("order_type", "<i8"),
        ("time_in_force", "<i8"),
        ("reduce_only", "<i8"),
        ("position", "<i8"),  # signed, size units
        ("open_same_side", "<i8"),  # open orders of its side without it, size units
        ("seen", "<i8", (len(Check),)),
        ("limit", "<i8", (len(Check),)),
    ],
    align=True,
)

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
        ("checked", "<i8"),  # orders that were checked; the newest of them is at its number - 1, modulo KEPT
        ("kept", CHECKED, (KEPT,)),
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
def collar_reach(reference: int, collar: int) -> int:
    """How far a price may be from the reference (same unit): collar * 1e-9 of it; -1 where none is near enough."""
    if collar <= 0 or reference <= 0:
        return -1
    return int(mul_div(reference, collar, _COLLAR_UNIT))


@kernel()
def newest_check(gate: np.record) -> int:
    """Where in `kept` the order lies that is being checked, or was last."""
    return int((gate.checked - 1) & (KEPT - 1))


@kernel()
def note(gate: np.record, check: int, seen: int, limit: int) -> None:
    """Keep what a check of the order that is being checked saw, and its limit."""
    kept = gate.kept[newest_check(gate)]
    kept.made |= 1 << check
    kept.seen[check] = seen
    kept.limit[check] = limit


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
    note(gate, Check.TRADING.value, (1 if trading else 0) + 2 * view.known + 4 * view.trading, 7)
    if not trading or view.known == 0 or view.trading == 0:
        return Reason.NOT_TRADING.value
    note(gate, Check.BOOK.value, now_ns - view.book_recv_ts_ns, gate.max_data_age_ns)
    if not book_is_fresh(view, now_ns, gate.max_data_age_ns):
        return Reason.STALE_DATA.value
    note(gate, Check.TICK.value, price, view.tick_size)
    if view.tick_size <= 0 or price <= 0 or price % view.tick_size != 0:
        return Reason.OFF_TICK.value
    note(gate, Check.LOT.value, size, view.lot_size)
    if view.lot_size <= 0 or size <= 0 or size % view.lot_size != 0:
        return Reason.SIZE_RANGE.value
    both = view.bid_price + view.ask_price
    reach = collar_reach(both, gate.collar)
    note(gate, Check.COLLAR_MID.value, abs(2 * price - both), reach)
    if abs(2 * price - both) > reach:
        return Reason.PRICE_COLLAR.value
    if view.mark_price > 0:
        in_money = value_or_max(price, 1, view.price_exp)
        reach = collar_reach(view.mark_price, gate.collar)
        note(gate, Check.COLLAR_MARK.value, abs(in_money - view.mark_price), reach)
        if in_money <= 0 or abs(in_money - view.mark_price) > reach:
            return Reason.PRICE_COLLAR.value
    value = value_or_max(price, size, view.unit_exp)
    note(gate, Check.ORDER_VALUE.value, value, gate.max_order_value)
    if gate.max_order_value <= 0 or value > gate.max_order_value:
        return Reason.ORDER_VALUE.value
    minimum = 0 if reduce_only else view.min_notional
    note(gate, Check.MIN_VALUE.value, value, minimum)
    if value < minimum:
        return Reason.ORDER_VALUE.value
    exposure = side * position + open_same_side + size
    if reduce_only:
        note(gate, Check.REDUCES.value, exposure, 0)
        if exposure > 0:
            return Reason.POSITION_LIMIT.value
    reference = max(price, (both + 1) // 2)
    value = value_or_max(reference, exposure, view.unit_exp) if exposure > 0 else 0
    note(gate, Check.POSITION_VALUE.value, value, gate.max_position_value)
    if gate.max_position_value <= 0 or value > gate.max_position_value:
        return Reason.POSITION_LIMIT.value
    refill(gate, now_ns)
    note(gate, Check.MESSAGES.value, gate.tokens, _TOKEN)
    if gate.message_rate <= 0 or gate.tokens < _TOKEN:
        return Reason.MESSAGE_RATE.value
    gate.tokens -= _TOKEN
    return Reason.NONE.value
