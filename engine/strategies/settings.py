"""Parameters of the strategies, with their units."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from engine.settings import setting


@dataclass(frozen=True)
class MakerSettings:
    """Parameters of the maker. Raises ValueError naming the field for a value that makes no sense."""

    order_value: float = setting(
        500.0,
        "Value of one quote, quote currency; rounded down to lots.",
        minimum=0.0,
    )
    half_spread_bps: float = setting(
        0.0,
        "Distance of each quote from the fair price, basis points of it, before rounding away to the tick.",
        minimum=0.0,
    )
    prediction_weight: float = setting(
        0.5,
        "Share of the predicted next-second return by which the fair price is moved; 0 ignores the model.",
        minimum=0.0,
    )
    inventory_skew_ticks: float = setting(
        4.0,
        "Ticks by which the fair price is moved against a position that is at its limit; less in proportion.",
        minimum=0.0,
    )
    max_depth_ticks: int = setting(
        2,
        "A quote is placed at most so many ticks behind the touch.",
        minimum=0,
    )
    improve_ticks: int = setting(
        1,
        "A quote is placed at most so many ticks in front of the touch, where the spread has room; 0 only joins.",
        minimum=0,
    )
    requote_ticks: int = setting(
        1,
        "A resting quote is replaced when the wanted price is at least so many ticks away from it.",
        minimum=0,
    )
    min_quote_life_ms: int = setting(
        400,
        "A quote is neither replaced nor followed by the next of its side before this age, ms of record time.",
        minimum=0,
    )
    max_quote_life_ms: int = setting(
        10_000,
        "From this age on a quote is replaced for any difference of price, however small.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"maker {field.name} is {value!r}: a finite number of at least 0 is needed")
        if self.requote_ticks < 1:
            raise ValueError(f"maker requote_ticks is {self.requote_ticks!r}: at least 1 is needed")
