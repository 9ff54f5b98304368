"""Kraken's checksum of a spot book, from integers.

Rule: the best ten asks, best first, then the best ten bids, best first; of each level the price, then the size, as the
venue prints them, without point and leading zeros, all in one string; CRC-32 of it. A side with fewer levels gives
those it has. The integer of a price with its trailing zeros put back is just that text: 0.0000229 printed with nine
decimals, "0.000022900", and 229 units of 1e-7 both give 22900.

Cost: 40 numbers, about 2 us. Known limit: an instrument prints all its prices with the same decimals, and all its
sizes; if it ever does not, the checksum does not agree and the book counts as wrong.
Source: Kraken, "WebSocket book checksum", v1 and v2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.book.book import book_top
from engine.integrity.crc32 import CRC_START, ZERO, crc_byte, crc_digits, crc_end
from engine.kernel import kernel

CHECKSUM_LEVELS = 10
CANNOT_PRINT = -1


@kernel()
def crc_printed(crc: int, units: int, exp: int, decimals: int) -> int:
    """The running value after a number as printed with `decimals`, or CANNOT_PRINT where it has more than those.

    units: the number in 10^-exp, not negative.
    """
    for _ in range(exp - decimals):
        if units % 10 != 0:
            return CANNOT_PRINT
        units //= 10
    crc = crc_digits(crc, units)
    if units > 0:
        for _ in range(decimals - exp):
            crc = crc_byte(crc, ZERO)
    return crc


@kernel()
def kraken_checksum(
    books: np.ndarray, i: int, price_exp: int, size_exp: int, price_decimals: int, size_decimals: int,
    prices: Any, sizes: Any,
) -> int:  # fmt: skip
    """The checksum of book i, or CANNOT_PRINT. prices, sizes: scratch, int64, CHECKSUM_LEVELS or more."""
    crc = CRC_START
    for side in (-1, 1):
        found = book_top(books, i, side, CHECKSUM_LEVELS, prices, sizes)
        for place in range(found):
            crc = crc_printed(crc, prices[place], price_exp, price_decimals)
            if crc < 0:
                return CANNOT_PRINT
            crc = crc_printed(crc, sizes[place], size_exp, size_decimals)
            if crc < 0:
                return CANNOT_PRINT
    return crc_end(crc)
