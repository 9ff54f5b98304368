"""How the checksum of a book travels: in `aux` of the LAST record of a group of LEVELs.

Layout of the int64: bits 0-31 the checksum, 32-39 and 40-47 the decimals with which the venue prints prices and sizes
of the instrument, bit 48 set where there is a checksum at all, bit 49 where the decimals are known. 0: nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.kernel import kernel

MAX_CHECKSUM = (1 << 32) - 1
MAX_DECIMALS = 255
GIVEN, KNOWN = 1 << 48, 1 << 49


class WireChecksum(NamedTuple):
    """An unpacked word."""

    given: bool  # there is a checksum
    checksum: int
    known: bool  # the decimals are known
    price_decimals: int
    size_decimals: int


@kernel(inline=True)
def pack_checksum(checksum: int, price_decimals: int, size_decimals: int) -> int:
    """The word; a negative checksum says that there is none, negative decimals that they are not known."""
    word = 0
    if checksum >= 0:
        word |= GIVEN | checksum
    if price_decimals >= 0 and size_decimals >= 0:
        word |= KNOWN | (price_decimals << 32) | (size_decimals << 40)
    return word


@kernel(inline=True)
def unpack_checksum(word: int) -> WireChecksum:
    """The parts of a word."""
    return WireChecksum(
        (word & GIVEN) != 0, word & MAX_CHECKSUM, (word & KNOWN) != 0, (word >> 32) & 255, (word >> 40) & 255
    )
