"""CRC-32 (IEEE 802.3), one byte at a time from a table.

A running value starts at CRC_START and becomes a checksum through `crc_end`. Everything is int64 and never negative.
Cost: about 4 ns a byte. Source: the reflected polynomial 0xEDB88320 of IEEE 802.3; the test compares with zlib.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel

POLYNOMIAL = 0xEDB88320
CRC_START = 0xFFFFFFFF
ZERO = ord("0")
_TEN_POWERS = np.array([10**power for power in range(19)], np.int64)


def _table() -> np.ndarray:
    """What eight steps of the division make of each byte (int64[256])."""
    table = np.arange(256, dtype=np.int64)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ POLYNOMIAL, table >> 1)
    return table


_TABLE = _table()


@kernel(inline=True)
def crc_byte(crc: int, byte: int) -> int:
    """The running value after one more byte."""
    return (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]


@kernel(inline=True)
def crc_end(crc: int) -> int:
    """The checksum of a running value, 0 to 2^32 - 1."""
    return crc ^ CRC_START


@kernel()
def crc_digits(crc: int, value: int) -> int:
    """The running value after the decimal digits of a value above 0, without leading zeros; unchanged for 0."""
    place = 18
    while place >= 0 and value < _TEN_POWERS[place]:
        place -= 1
    while place >= 0:
        digit = value // _TEN_POWERS[place]
        value -= digit * _TEN_POWERS[place]
        crc = crc_byte(crc, ZERO + digit)
        place -= 1
    return crc


@kernel(types.int64(types.Bytes(types.uint8, 1, "C")))
def crc32(data: bytes) -> int:
    """The checksum of bytes."""
    crc = CRC_START
    for at in range(len(data)):
        crc = crc_byte(crc, np.int64(data[at]))
    return crc_end(crc)
