"""Parameters of the strategies, with their units."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class MakerSettings:
    """Parameters of the maker. Raises ValueError naming the field for a value that makes no sense."""

    order_value: float = 500.0
    """Value of one quote, quote currency; rounded down to lots."""
    half_spread_bps: float = 0.0
    """Distance of each quote from the fair price, basis points of it, before rounding away to the tick."""
    prediction_weight: float = 0.5
    """Share of the predicted next-second return by which the fair price is moved; 0 ignores the model."""
    inventory_skew_ticks: float = 4.0
    """Ticks by which the fair price is moved against a position that is at its limit; less in proportion."""
    max_depth_ticks: int = 2
    """A quote is placed at most so many ticks behind the touch."""
    improve_ticks: int = 1
    """A quote is placed at most so many ticks in front of the touch, where the spread has room; 0 only joins."""
    requote_ticks: int = 1
    """A resting quote is replaced when the wanted price is at least so many ticks away from it."""
    min_quote_life_ms: int = 400
    """A quote is neither replaced nor followed by the next of its side before this age, ms of record time."""
    max_quote_life_ms: int = 10_000
    """From this age on a quote is replaced for any difference of price, however small."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"maker {field.name} is {value!r}: a finite number of at least 0 is needed")
        if self.requote_ticks < 1:
            raise ValueError(f"maker requote_ticks is {self.requote_ticks!r}: at least 1 is needed")
