"""Layout of a journal segment: a file header, then CRC-framed entries, 8-byte aligned.

    file   64 bytes: magic (8), stream name (16), session id (16), segment number (8), first ordinal (8), spare (8)
    entry  32 bytes: payload length u32, CRC-32 u32, ordinal i64, session time ns i64, kind u8, spare u8,
           source u16, count u32; then the payload, padded to a multiple of 8

The CRC (IEEE 802.3, as zlib does it) covers the last 24 bytes of the entry header and the payload. A reader
stops at the first entry whose CRC does not hold: what follows was being written when the writer died. An all-zero
header is no valid entry, so a pre-allocated file needs no length.
"""

from __future__ import annotations

import struct
from enum import IntEnum

MAGIC = b"B4JRNL02"
FILE_HEADER = struct.Struct("<8s16s16sqqq")
ENTRY_HEADER = struct.Struct("<IIqqBBHI")
# Session time in ns, 0 where it is not known: when the frame behind an order was passed on by ingestion, validation,
# features and ml, when its intent was published, when it left.
LEFT_STAMPS = struct.Struct("<6q")
NO_WAY: tuple[int, ...] = (0,) * 5  # all but the last, where nothing is known
CRC_TAIL = struct.Struct("<qqBBHI")  # the part of the entry header that the CRC covers
assert FILE_HEADER.size == 64 and ENTRY_HEADER.size == 32 and CRC_TAIL.size == 24


class Entry(IntEnum):
    """What a journal entry holds (its kind)."""

    FRAME = 1  # ingestion: a WebSocket frame as it came; ordinal of frames = ingest id
    SNAPSHOT = 2  # ingestion: a REST depth body of instrument `source`; counts as a frame
    TIMER = 3  # ingestion: the idle timer fired at this time; no payload
    LOST = 4  # ingestion: data of instrument `source` - 1 were lost (source 0: of all)
    DROPPED = 5  # ingestion: the records of the entry before found no room downstream; no payload
    START = 6  # ingestion: the instruments were announced; no payload
    REFUSED = 7  # ingestion: the frame before was refused for Reason `source`; payload: its ingest id, i64. No input
    LISTED = 8  # ingestion: what the venue lists of instrument `source` now; payload: its Terms (procs/venues/terms.py)
    AUDIT_ASKED = 9  # ingestion: REST is about to be asked for the book of instrument `source`, to audit it; no payload
    AUDIT = 10  # ingestion: the body that came; counts as a frame
    BATCH = 16  # execution: `count` records of input `source`, taken in one step
    ANSWER = 32  # gateway: a REST answer to order `count`
    PRIVATE = 33  # gateway: a frame of the private stream
    REQUEST = 34  # gateway: what is about to be sent for an order
    LEFT = 35  # gateway: new order `count` went out; payload: LEFT_STAMPS


FRAMES = (Entry.FRAME, Entry.SNAPSHOT, Entry.AUDIT)  # of ingestion: the kinds that have an ingest id


def padded(length: int) -> int:
    """Bytes that a payload of this length takes, padding included."""
    return (length + 7) & ~7
