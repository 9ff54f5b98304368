"""The feature vector: names, order, exact definitions, and the hash that binds a model to them.

Notation: b, a are best bid and ask price in price units, B, A their sizes; t is the stage's now (largest receive
time seen) at the causing record; g is the sample interval, the grid points are the multiples of g.
"""

from __future__ import annotations

import hashlib

from engine.features.settings import FeatureSettings
from engine.records import FEATURE_COUNT
from engine.settings import as_plain

FEATURES_BY_NAME: dict[str, str] = {
    "spread_bps": "20000 * (a - b) / (a + b)",
    "mid": "(a + b) / (2 * 10**price_exp), in quote units",
    "microprice_bps": "spread_bps / 2 * imbalance_1: (b*A + a*B) / (A + B) less the mid, in bps of the mid",
    "imbalance_1": "(B - A) / (B + A)",
    "imbalance_5": "the same with B, A the sums over the best 5 levels of a side, fewer where there are fewer",
    "trade_flow": (
        "S / V; at a trade at t: S = S * d + side * size, V = V * d + size, d = exp(-(t - t_last) / trade_flow_ms);"
        " 0 before the first trade"
    ),
    "volatility_bps": (
        "10000 * sqrt(Q / W / g in s), bps per sqrt(s). At every grid point passed, x = mid of the last vector"
        " before it, r = ln(x / x of the grid point before), Q = l * Q + (1 - l) * r**2, W = l * W + (1 - l),"
        " l = exp(-g / volatility_ms); no return across a loss of the book; 0 while W is 0"
    ),
    "short_return_bps": (
        "10000 * (mid - x) / x, x the sample of the grid point return_intervals before the last one passed;"
        " 0 until there is one since the book was last lost"
    ),
}
FEATURE_NAMES: tuple[str, ...] = tuple(FEATURES_BY_NAME)

SPREAD_BPS, MID, MICROPRICE_BPS, IMBALANCE_1, IMBALANCE_5, TRADE_FLOW, VOLATILITY_BPS, SHORT_RETURN_BPS = range(
    FEATURE_COUNT
)
DEPTH_LEVELS = 5  # of imbalance_5


def schema_hash(settings: FeatureSettings | None = None) -> str:
    """Hex SHA-256 over names, order, definitions and time constants (default settings for None).

    Two engines with one hash compute the same vector from the same records.
    """
    digest = hashlib.sha256()
    for name, definition in FEATURES_BY_NAME.items():
        digest.update(f"{name}={definition}\n".encode())
    for name, value in as_plain(settings or FeatureSettings()).items():
        digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()
