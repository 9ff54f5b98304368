"""What a list of instruments may say for the engine to hold it, whichever venue it is of.

A list is read anew while orders are out, so whatever stands in it must end in an instrument or a ValueError.
"""

from __future__ import annotations

from typing import Any

from engine.contracts import MAX_UNIT_EXP
from engine.instruments import Instrument
from engine.units import INT64_MAX


def unit_exponent(listed: Any) -> int:
    """The number of decimals of a unit. Raises ValueError for what is none, or is not 0 to MAX_UNIT_EXP."""
    try:
        exponent = int(listed)
    except (TypeError, OverflowError):
        raise ValueError(f"{listed!r} is not a number of decimals") from None
    if not 0 <= exponent <= MAX_UNIT_EXP:
        raise ValueError(f"units of {listed} decimals: allowed are 0 to {MAX_UNIT_EXP}")
    return exponent


def checked(instrument: Instrument) -> Instrument:
    """The same instrument. Raises ValueError where one of its numbers is negative or does not fit int64."""
    numbers = (instrument.tick_size, instrument.lot_size, instrument.min_notional, instrument.contract_value)
    if min(numbers) < 0 or max(numbers) > INT64_MAX:
        raise ValueError("a tick, lot, least value or contract that is negative or does not fit 64 bits")
    return instrument
