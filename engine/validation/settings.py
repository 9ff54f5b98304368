"""What a user may set about validation."""

from __future__ import annotations

from dataclasses import dataclass

from engine.book.book import MAX_PRICE
from engine.settings import setting


@dataclass(frozen=True)
class ValidationSettings:
    """Bounds of plausible market data."""

    band_fraction: float = setting(
        0.1, "trades and quotes farther from the last good price than this part of it are refused",
        minimum=0.0001, maximum=100.0,
    )
    band_confirmations: int = setting(
        8, "so many refused prices in a row that agree with each other move the reference: the market has moved",
        minimum=1, maximum=1_000_000,
    )
    price_max: int = setting(
        MAX_PRICE, "largest price of any record, in price units of its instrument", minimum=1, maximum=MAX_PRICE,
    )
    size_max: int = setting(
        1 << 56, "largest size of any record, in size units of its instrument", minimum=1, maximum=1 << 56,
    )
