"""Layout of a capture: a folder with capture.json and segments of compressed, CRC-framed blocks.

    capture.json              what was recorded (manifest.py)
    segment-NUMBER.capture    segment header, then blocks; appended to, never changed
    segment-NUMBER.index      the block headers of that segment once more, one behind the other

    segment  44 bytes: magic (8), id of the capture (16), segment number i64, first ordinal i64, CRC-32 of these 40
    block    56 bytes: magic (4), bytes of the payload u32, bytes of what it unpacks to u32, entries u32, ordinal of
             the first entry i64, earliest and latest time i64, symbols u64, CRC-32 of the payload u32, CRC-32 of these
             52 bytes u32; then the payload, one zlib stream
    entry    20 bytes: receive time ns i64, bytes of data u32, connection u16, symbol u16, bytes of the key u16, kind
             u8, spare u8; then the key (UTF-8), then the data as they were on the wire

Invariants: ordinals are contiguous from 1 over all segments. A file that ends before its last block does was being
written when its writer died: that block is torn, everything before it is whole. Anything else that does not fit its
CRC is damage. The index holds nothing that the segment does not: a block's place is the sum of the lengths before it,
and what the index lacks is read from the segment.
Bit i of a block's symbols says that an entry of symbol i is in it, ANY_SYMBOL that one is which may be of any.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from procs.captures import CaptureError

SEGMENT_MAGIC = b"B4CAPT01"
BLOCK_MAGIC = b"B4BK"
SEGMENT_HEADER = struct.Struct("<8s16sqqI")
BLOCK_HEADER = struct.Struct("<4sIIIqqqQII")
ENTRY_HEADER = struct.Struct("<qIHHHBx")
assert SEGMENT_HEADER.size == 44 and BLOCK_HEADER.size == 56 and ENTRY_HEADER.size == 20

NO_SYMBOL = 0xFFFF  # an entry of several symbols, of none, or nobody knows of which
NO_CONNECTION = 0xFFFF
ANY_SYMBOL = 1 << 63
LARGEST_DATA = (1 << 32) - (1 << 20)


class Captured(IntEnum):
    """What an entry of a capture holds (its kind)."""

    FRAME = 1  # a WebSocket frame
    REST = 2  # the body of a REST answer; key: the URL that was asked for, empty where the source does not say
    OPENED = 3  # a connection was opened; key: its URL
    LOST = 4  # a connection was lost (NO_CONNECTION: all of them)
    SENT = 5  # what the client sent over a connection, a subscription
    NOTE = 6  # what a recorder wrote down beside the data


class DamagedBlock(CaptureError):
    """A block that does not fit its checksum; the message names the file, the place and the entries."""


class CaptureEntry(NamedTuple):
    """One entry of a capture."""

    ordinal: int
    ts_ns: int  # Unix time
    kind: int  # of Captured
    connection: int  # place in the manifest's connections, or NO_CONNECTION
    symbol: int  # place in the manifest's symbols, or NO_SYMBOL
    key: str
    data: bytes


class BlockHeader(NamedTuple):
    """See the module."""

    payload_bytes: int
    unpacked_bytes: int
    entries: int
    first_ordinal: int
    first_ns: int  # earliest time
    last_ns: int  # latest time
    symbols: int
    payload_crc: int

    def pack(self) -> bytes:
        """As it lies in a segment and in its index."""
        packed = BLOCK_HEADER.pack(BLOCK_MAGIC, *self, 0)[:-4]
        return packed + struct.pack("<I", zlib.crc32(packed))

    @classmethod
    def unpack(cls, data: bytes) -> BlockHeader | None:
        """From bytes; None unless they are a whole header that fits its checksum."""
        if len(data) != BLOCK_HEADER.size:
            return None
        magic, *fields, crc = BLOCK_HEADER.unpack(data)
        return cls(*fields) if magic == BLOCK_MAGIC and crc == zlib.crc32(data[:-4]) else None

    @property
    def size(self) -> int:
        """Bytes in the segment, header included."""
        return BLOCK_HEADER.size + self.payload_bytes


def symbol_bit(symbol: int) -> int:
    """The bit of a block's symbols that an entry of this symbol sets."""
    return 1 << symbol if symbol < 63 else ANY_SYMBOL


def segment_path(folder: Path, number: int) -> Path:
    """File of one segment."""
    return folder / f"segment-{number:06d}.capture"


def index_path(segment: Path) -> Path:
    """File of the index of a segment."""
    return segment.with_suffix(".index")


def segment_header(capture: str, number: int, first_ordinal: int) -> bytes:
    """The first bytes of a segment. capture: the id in capture.json."""
    packed = SEGMENT_HEADER.pack(SEGMENT_MAGIC, capture.encode(), number, first_ordinal, 0)[:-4]
    return packed + struct.pack("<I", zlib.crc32(packed))


def is_segment_header(head: bytes) -> bool:
    """Whether these bytes are a whole header of a segment that fits its checksum."""
    return len(head) == SEGMENT_HEADER.size and zlib.crc32(head[:40]) == int.from_bytes(head[40:44], "little")


def first_ordinal_of(path: Path, head: bytes, capture: str, number: int) -> int:
    """The first ordinal of a segment, from its first bytes. Raises CaptureError saying what is wrong with them."""
    if head[:6] != SEGMENT_MAGIC[:6]:
        raise CaptureError(f"{path}: not a segment of a capture")
    if head[:8] != SEGMENT_MAGIC:
        raise CaptureError(f"{path}: of another version of the format ({head[6:8]!r}); this engine reads 01")
    if not is_segment_header(head):
        raise DamagedBlock(f"{path}: the segment's header is damaged")
    _, whose, own_number, first, _ = SEGMENT_HEADER.unpack(head[: SEGMENT_HEADER.size])
    if whose != capture.encode():
        raise CaptureError(f"{path}: belongs to another capture than the capture.json beside it")
    if own_number != number:
        raise CaptureError(f"{path}: says it is segment {own_number}")
    return int(first)
