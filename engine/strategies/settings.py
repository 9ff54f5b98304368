"""What bot4.toml says of strategies, and the parameters of those that are shipped, with their units.

Kept apart from their kernels: whoever reads a configuration compiles nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from engine.settings import SettingsError, setting, table

MAX_STRATEGIES = 8
SHIPPED = ("maker", "momentum")  # strategies that are part of the engine
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class StrategySettings:
    """One strategy of the session, under the name of its table; the order of the tables is that of the strategies."""

    file: str = setting(
        "", f"Python file of the strategy (docs/strategies.md), or one that is shipped: {', '.join(SHIPPED)}. Empty: "
        "the shipped one of the table's name."
    )
    symbols: tuple[str, ...] = setting((), "Instruments that it trades, of venue.symbols; none: all.")
    stale_ms: int = setting(
        2_000, "Of one with @python_strategy: its quotes are taken back when what it wants is an answer to an event so "
        "long ago, ms of record time.", minimum=50, maximum=3_600_000,
    )
    hang_s: float = setting(
        30.0, "Of one with @python_strategy: its process is killed and replaced when one call takes so long.",
        minimum=0.2, maximum=86_400.0,
    )
    parameters: dict[str, Any] = table("Its parameters, as its file declares them.")

    def shipped(self, name: str) -> str:
        """Which of the shipped strategies it is; empty for a file."""
        chosen = self.file or name
        return chosen if chosen in SHIPPED else ""


def check_strategies(strategies: dict[str, StrategySettings], symbols: Sequence[str]) -> None:
    """Refuse what no strategy can be. Raises SettingsError."""
    if len(strategies) > MAX_STRATEGIES:
        raise SettingsError(f"strategies: {len(strategies)} of them, {MAX_STRATEGIES} are the most")
    for name, chosen in strategies.items():
        where = f"strategies.{name}"
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{where}: a name has 1 to 32 lower-case letters, digits and '_', a letter first")
        if not chosen.shipped(name) and not chosen.file.endswith(".py"):
            raise SettingsError(
                f"{where}.file = {chosen.file!r}: allowed is a .py file or one of {', '.join(map(repr, SHIPPED))}"
            )
        unknown = [symbol for symbol in chosen.symbols if symbol not in symbols]
        if unknown:
            raise SettingsError(f"{where}.symbols: {unknown[0]!r} is not in venue.symbols = {list(symbols)!r}")


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


@dataclass(frozen=True)
class MomentumSettings:
    """Parameters of the momentum taker. Raises ValueError where its exit would come before its entry."""

    order_value: float = setting(300.0, "Value of one order, quote currency; rounded down to lots.", minimum=0.0)
    max_position_value: float = setting(
        900.0, "It enters no further with a position of this value, quote currency, in an instrument.", minimum=0.0
    )
    entry_bps: float = setting(
        0.4, "It enters when the predicted next-second return less half the spread is at least this, basis points.",
    )
    exit_bps: float = setting(
        0.0, "It leaves when the predicted return in the direction of its position is below this, basis points.",
    )
    stop_bps: float = setting(
        15.0, "It leaves when the mid has moved so far against its last entry, basis points; 0 never.", minimum=0.0
    )
    hold_ms: int = setting(
        5_000, "It leaves so long after its last entry, whatever the prediction, ms of record time.", minimum=1
    )
    cooldown_ms: int = setting(
        1_000, "Shortest time between two of its orders in an instrument, ms of record time.", minimum=0
    )
    reach_bps: float = setting(
        2.0, "An order reaches at most so far through the touch, basis points of it.", minimum=0.0, maximum=1_000.0
    )

    def __post_init__(self) -> None:
        if self.exit_bps > self.entry_bps:
            raise ValueError(f"exit_bps is {self.exit_bps!r}: at most entry_bps = {self.entry_bps!r} is needed")
