"""Limits of the gate, as a person writes them, and their conversion to exact units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from engine.settings import setting
from engine.units import INT64_MAX, MONEY_EXP

Number = int | float | str | Decimal | None


@dataclass(frozen=True)
class GateSettings:
    """Hard limits. A limit that is missing, not a number, infinite, zero or negative denies every order."""

    max_order_value: float = setting(
        2_000.0,
        "Largest value of one order, quote currency.",
        minimum=0.0,
    )
    max_position_value: float = setting(
        10_000.0,
        "Largest value of a position with every open order of its side filled, quote currency, per instrument.",
        minimum=0.0,
    )
    price_collar_bps: float = setting(
        50.0,
        "Largest distance of an order's price from mid and from mark price, basis points.",
        minimum=0.0,
    )
    max_messages_per_second: float = setting(
        50.0,
        "Sustained rate of requests to the venue: orders, cancels and queries together.",
        minimum=0.0,
    )
    message_burst: float = setting(
        100.0,
        "Requests that may be sent at once after a quiet time.",
        minimum=0.0,
    )
    max_data_age_ms: float = setting(
        1_000.0,
        "Oldest book that an order may rest on, ms of record time since the book's last event.",
        minimum=0.0,
    )


def limit_units(value: Number, exp: int) -> int:
    """A limit in units of 10^-exp, rounded down; 0, which denies everything, where the value is no usable limit."""
    if value is None or isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return 0
    try:
        scaled = Decimal(str(value)).scaleb(exp)
    except InvalidOperation:
        return 0
    if not scaled.is_finite() or scaled <= 0:
        return 0
    return min(int(scaled), INT64_MAX)


def money(value: Number) -> int:
    """A limit in quote currency as money units of 1e-8; 0 where it is no usable limit."""
    return limit_units(value, MONEY_EXP)
