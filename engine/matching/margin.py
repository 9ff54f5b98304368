"""Maintenance margin and leverage by the size of a position: the venue's notional brackets.

A position of notional N in a bracket needs N * rate - cum as maintenance margin; cum makes the sum continuous over the
brackets. A leverage allows positions up to the cap of the last bracket whose initial leverage is not below it.
The table is that of BTCUSDT; it is used for every contract. Source: Binance USD-M futures, "Leverage and Margin".
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.matching.account import RATE_ONE
from engine.units import MONEY_EXP, parse_units


@dataclass(frozen=True, slots=True)
class Bracket:
    """One bracket; money and rate in 1e-8."""

    number: int
    leverage: int  # largest initial leverage
    floor: int
    cap: int
    rate: int
    cum: int


def _brackets() -> tuple[Bracket, ...]:
    table = (  # cap in quote units, leverage, maintenance rate
        (50_000, 125, "0.004"), (600_000, 100, "0.005"), (3_000_000, 75, "0.0065"), (12_000_000, 50, "0.01"),
        (70_000_000, 25, "0.02"), (100_000_000, 20, "0.025"), (230_000_000, 10, "0.05"), (480_000_000, 5, "0.1"),
        (600_000_000, 4, "0.125"), (800_000_000, 3, "0.15"), (1_200_000_000, 2, "0.25"), (1_800_000_000, 1, "0.5"),
    )
    made: list[Bracket] = []
    floor = cum = last_rate = 0
    for number, (cap_units, leverage, rate_text) in enumerate(table, 1):
        cap, rate = cap_units * 10**MONEY_EXP, parse_units(rate_text, MONEY_EXP)
        cum += floor * (rate - last_rate) // RATE_ONE
        made.append(Bracket(number, leverage, floor, cap, rate, cum))
        floor, last_rate = cap, rate
    return tuple(made)


BRACKETS = _brackets()


def bracket_of(value: int) -> Bracket:
    """The bracket of a notional (1e-8, unsigned)."""
    return next((item for item in BRACKETS if value <= item.cap), BRACKETS[-1])


def maintenance_margin(value: int) -> int:
    """What a position of this notional (1e-8, unsigned) needs, 1e-8, truncated."""
    bracket = bracket_of(value)
    return value * bracket.rate // RATE_ONE - bracket.cum


def largest_notional(leverage: int) -> int:
    """The largest position, 1e-8, that a leverage allows."""
    return max((item.cap for item in BRACKETS if item.leverage >= leverage), default=BRACKETS[0].cap)
