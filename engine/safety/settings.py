"""Settings of safety: what a trip does, cooldown, hysteresis, automatic returns, the operator's secret."""

from __future__ import annotations

from dataclasses import dataclass

from engine.safety.trip_settings import TripSettings
from engine.settings import setting

SHORTEST_LIVE_COOLDOWN_S = 300.0


@dataclass(frozen=True)
class SafetySettings(TripSettings):
    """[safety]. What is accepted on paper only is checked where the venue is known (engine/config.py)."""

    cooldown_s: float = setting(
        300.0,
        "After a trip, and after a monitor's REDUCE or PAUSE, nothing gets less safe for so long; less than 300 on "
        "paper only.",
        minimum=0.0,
        maximum=86_400.0,
    )
    hysteresis_s: float = setting(
        30.0, "What a monitor set goes back only when its cause has been clear for so long.", minimum=0.0,
        maximum=86_400.0,
    )
    reduce_over_s: float = setting(
        300.0, "In REDUCE positions go to zero in a straight line over so long.", minimum=1.0, maximum=86_400.0
    )
    auto_returns_a_day: int = setting(
        12, "Most steps towards less safe that the engine takes by itself within 24 hours; 0: only an operator does.",
        minimum=0, maximum=1000,
    )
    operator_secret: str = setting(
        "required",
        "Whether a step towards less safe needs the operator's secret (`bot4 secret` sets it); none: on paper only.",
        choices=("required", "none"),
    )
