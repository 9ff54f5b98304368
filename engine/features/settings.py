"""What a user may set about features. A model is bound to these values through `vector.schema_hash`."""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings import setting

SAMPLE_PLACES = 64  # mids kept for each instrument, a power of two


@dataclass(frozen=True)
class FeatureSettings:
    """Time constants of the feature vector, in record time."""

    trade_flow_ms: int = setting(
        5_000, "time constant of the trade flow's exponential decay", minimum=1, maximum=86_400_000,
    )
    sample_interval_ms: int = setting(
        100, "grid on which the mid is sampled for volatility and short return", minimum=1, maximum=60_000,
    )
    volatility_ms: int = setting(
        30_000, "time constant of the volatility's exponential weights", minimum=1, maximum=86_400_000,
    )
    return_intervals: int = setting(
        10, "the short return looks back so many sample intervals", minimum=1, maximum=SAMPLE_PLACES - 1,
    )
