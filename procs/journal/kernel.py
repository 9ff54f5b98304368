"""Appending journal entries from inside a compiled loop.

Same bytes as procs/journal/writer.py. The CRC is computed slice-by-8 over tables made at import (about 2 us for
4 KiB); the payload is copied first, the header last, so that a killed writer leaves no entry that looks whole.
cursor: int64[2] = {offset of the next entry, ordinal of the last entry}.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from procs.journal.layout import ENTRY_HEADER


def _crc_tables() -> np.ndarray:
    """Slice-by-8 tables of the reflected polynomial 0xEDB88320, uint32[8, 256]."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        tables[0, byte] = value
    for table in range(1, 8):
        for byte in range(256):
            previous = int(tables[table - 1, byte])
            tables[table, byte] = (previous >> 8) ^ int(tables[0, previous & 0xFF])
    return tables


_TABLES = _crc_tables()
_HEADER = ENTRY_HEADER.size


@kernel()
def crc32(data: np.ndarray, start: int, length: int, crc: int) -> int:
    """CRC-32 (IEEE) of data[start : start + length], uint8, continuing from `crc`, as zlib.crc32."""
    value = np.uint32(crc) ^ np.uint32(0xFFFFFFFF)
    position = start
    end = start + length
    mask = np.uint32(0xFF)
    while position + 8 <= end:
        low = value ^ (
            np.uint32(data[position])
            | np.uint32(np.uint32(data[position + 1]) << np.uint32(8))
            | np.uint32(np.uint32(data[position + 2]) << np.uint32(16))
            | np.uint32(np.uint32(data[position + 3]) << np.uint32(24))
        )
        value = (
            _TABLES[7, low & mask]
            ^ _TABLES[6, (low >> np.uint32(8)) & mask]
            ^ _TABLES[5, (low >> np.uint32(16)) & mask]
            ^ _TABLES[4, low >> np.uint32(24)]
            ^ _TABLES[3, data[position + 4]]
            ^ _TABLES[2, data[position + 5]]
            ^ _TABLES[1, data[position + 6]]
            ^ _TABLES[0, data[position + 7]]
        )
        position += 8
    while position < end:
        value = np.uint32(value >> np.uint32(8)) ^ _TABLES[0, (value ^ np.uint32(data[position])) & mask]
        position += 1
    return np.int64(value ^ np.uint32(0xFFFFFFFF))  # type: ignore[return-value]


@kernel()
def journal_room(buffer: np.ndarray, cursor: np.ndarray, length: int) -> bool:
    """True when an entry with a payload of this length fits into the segment."""
    return cursor[0] + _HEADER + ((length + 7) & ~7) <= buffer.size


@kernel(makes_arrays=True)
def journal_append(
    buffer: np.ndarray, cursor: np.ndarray, kind: int, source: int, count: int, ts_ns: int, payload: np.ndarray,
    length: int,
) -> None:
    """Append one entry of payload[:length] (uint8); the caller has checked `journal_room`."""
    offset = cursor[0]
    ordinal = cursor[1] + 1
    words = buffer[offset : offset + _HEADER].view(np.int64)
    buffer[offset + _HEADER : offset + _HEADER + length] = payload[:length]
    words[1] = ordinal
    words[2] = ts_ns
    words[3] = kind | (source << 16) | (count << 32)
    crc = crc32(buffer, offset + 8, 24 + length, 0)
    words[0] = length | (crc << 32)
    cursor[0] = offset + _HEADER + ((length + 7) & ~7)
    cursor[1] = ordinal
