"""What a contract is worth: a latent value in regimes of changing volatility, and what the public makes of it.

fair        a random walk. Its volatility is the product of the setting, of the regime's factor and of exp(x), x a
            mean-reverting normal process (volatility clusters); factors are scaled so that the mean square of the
            product is that of the setting
walk        what the public thinks: follows fair with a lag. Who knows fair knows where walk goes: informed traders
noise       mean reverting, of one tick: the public is not of one mind

Regimes are a Markov chain in continuous time, each left for one of the others with equal chances after an exponential
time; hence the share of each is proportional to its mean duration.

    RANGING    fair is drawn back to where it was when the regime began
    TRENDING   fair drifts, up or down, by `trend` standard deviations of a second each second
    VOLATILE   no drift, larger steps, more arrivals

The regime stands in the state, for tests and statistics; no record and no frame tells of it. Each contract has a value
and a regime of its own: contracts are independent.
State: a one-element array of a dtype with `counter`, `tick` (price units) and FAIR_FIELDS. Steps are as long as the
time between two arrivals, milliseconds: Euler's method.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from engine.kernel import kernel
from engine.matching.generator import draw, draw_exponential, draw_normal
from engine.matching.settings import FlowSettings
from engine.maths import exp


class Regime(IntEnum):
    """How a market behaves for a while."""

    RANGING = 0
    TRENDING = 1
    VOLATILE = 2


REGIMES = len(Regime)

FAIR_FIELDS: list[tuple] = [
    ("fair", "<f8"),  # price units
    ("walk", "<f8"),  # hidden price without its noise, price units
    ("noise", "<f8"),  # price units
    ("anchor", "<f8"),  # fair when the regime began, price units
    ("clustering", "<f8"),  # x: logarithm of the volatility's own factor
    ("regime", "<i8"),  # Regime
    ("regime_until_ns", "<i8"),
    ("trend_side", "<f8"),  # +1 or -1
    ("volatility", "<f8"),  # relative, per square root of a second
    ("clustering_spread", "<f8"),  # standard deviation of x
    ("clustering_s", "<f8"),  # its memory
    ("trend", "<f8"),
    ("lag_s", "<f8"),
    ("regime_s", "<f8", (REGIMES,)),  # mean durations
    ("regime_volatility", "<f8", (REGIMES,)),  # factors
    ("regime_activity", "<f8", (REGIMES,)),  # factors
    ("regime_ns", "<i8", (REGIMES,)),  # time spent in each so far
]

_RANGING = int(Regime.RANGING)
_TRENDING = int(Regime.TRENDING)
_NS = 1_000_000_000.0
_NOISE_TICKS = 1.0  # standard deviation of the noise, in ticks
_NOISE_DECAY = 0.5  # its mean reversion, per second
_RANGE_DECAY = 0.1  # of fair to its anchor while it ranges, per second


def set_fair_value(state: np.ndarray, settings: FlowSettings, price: float, volatility: float, start_ns: int) -> None:
    """Set where the value starts and what does not change; the regime is drawn from the shares of all.

    price: price units; volatility: relative standard deviation of one second. The counter has to be set.
    """
    row = state[0]
    durations = (settings.ranging_s, settings.trending_s, settings.volatile_s)
    shares = [duration / sum(durations) for duration in durations]
    square = sum(share * factor**2 for share, factor in zip(shares, (1.0, 1.0, settings.volatile_factor), strict=True))
    busy = sum(share * factor for share, factor in zip(shares, (1.0, 1.0, settings.volatile_activity), strict=True))
    row["fair"] = row["walk"] = row["anchor"] = price
    row["volatility"] = volatility
    row["clustering_spread"], row["clustering_s"] = settings.clustering, settings.clustering_s
    row["trend"], row["lag_s"] = settings.trend, settings.information_lag_s
    row["regime_s"] = durations
    row["regime_volatility"] = np.array([1.0, 1.0, settings.volatile_factor]) / np.sqrt(square)
    row["regime_activity"] = np.array([1.0, 1.0, settings.volatile_activity]) / busy
    pick = draw(state)
    regime = 0
    while regime + 1 < REGIMES and pick >= shares[regime]:
        pick -= shares[regime]
        regime += 1
    enter_regime(state, regime, start_ns)


@kernel()
def enter_regime(state: np.ndarray, regime: int, now_ns: int) -> None:
    """A regime begins; how long it lasts and where it trends is drawn."""
    state[0].regime = regime
    state[0].regime_until_ns = now_ns + 1 + np.int64(draw_exponential(state) * state[0].regime_s[regime] * _NS)
    state[0].trend_side = 1.0 if draw(state) < 0.5 else -1.0
    state[0].anchor = state[0].fair


@kernel()
def hidden_price(state: np.ndarray) -> float:
    """What the public thinks, noise and all, price units."""
    return state[0].walk + state[0].noise


@kernel()
def activity(state: np.ndarray) -> float:
    """By how much more arrives now than on average: the market is busier when it is more volatile."""
    spread = state[0].clustering_spread
    own = exp(0.5 * state[0].clustering - 0.125 * spread * spread)
    return state[0].regime_activity[state[0].regime] * own


@kernel()
def move_fair_value(state: np.ndarray, now_ns: int, seconds: float) -> None:
    """Let the value, and what the public makes of it, move on by some seconds up to now."""
    regime = state[0].regime
    state[0].regime_ns[regime] += np.int64(seconds * _NS)
    root = np.sqrt(seconds)
    spread = state[0].clustering_spread
    memory = state[0].clustering_s
    state[0].clustering += (
        spread * np.sqrt(2.0 / memory) * root * draw_normal(state) - seconds / memory * state[0].clustering
    )
    volatility = state[0].volatility * state[0].regime_volatility[regime]
    volatility *= exp(state[0].clustering - spread * spread)
    step = volatility * root * draw_normal(state)
    if regime == _TRENDING:
        step += state[0].trend_side * state[0].trend * volatility * seconds
    fair = state[0].fair * (1.0 + step)
    if regime == _RANGING:
        fair -= min(_RANGE_DECAY * seconds, 1.0) * (fair - state[0].anchor)
    state[0].fair = max(fair, 1000.0 * state[0].tick)
    state[0].walk += (state[0].fair - state[0].walk) * (1.0 - exp(-seconds / state[0].lag_s))
    wide = _NOISE_TICKS * state[0].tick * np.sqrt(2.0 * _NOISE_DECAY) * root
    state[0].noise += wide * draw_normal(state) - _NOISE_DECAY * seconds * state[0].noise
    if now_ns >= state[0].regime_until_ns:
        other = regime + 1 + np.int64(draw(state) * (REGIMES - 1))
        enter_regime(state, other % REGIMES, now_ns)
