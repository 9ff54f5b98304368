"""Finding the blocks of a segment, and unpacking them.

Invariants: what is yielded fits its header's checksum and follows the block before it; payloads are checked when they
are unpacked. One block is in memory at a time.

A torn tail is what a writer that died, or a power cut, leaves behind the last whole block of a capture: the beginning
of a block, zeros that the file system has put in place of what it had no time to write, or bytes that never were a
block, with nothing whole behind them. Whatever else does not fit is damage.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from procs.capture.layout import (
    BLOCK_HEADER,
    BLOCK_MAGIC,
    ENTRY_HEADER,
    SEGMENT_HEADER,
    BlockHeader,
    CaptureEntry,
    DamagedBlock,
    index_path,
    is_segment_header,
)
from procs.captures import CaptureError
from procs.trusted import OTHERS_MAY_WRITE, NotOurs, check_ours

_SEARCH_BYTES = 1 << 20
_END_BYTES = 4096


class Block(NamedTuple):
    """Where a block lies."""

    path: Path
    offset: int
    header: BlockHeader

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + self.header.size

    def damaged(self, what: str) -> DamagedBlock:
        """The error that names it."""
        last = self.header.first_ordinal + self.header.entries - 1
        return DamagedBlock(
            f"{self.path}: the block at byte {self.offset} (entries {self.header.first_ordinal} to {last}) is "
            f"damaged: {what}"
        )


def open_segment(path: Path) -> BinaryIO:
    """A segment for reading. Raises CaptureError for one that is not there, cannot be read, or is not ours."""
    try:
        if not check_ours(path, stat.S_IFREG, OTHERS_MAY_WRITE):
            raise CaptureError(f"{path} is missing")
        return path.open("rb")
    except NotOurs as error:
        raise CaptureError(str(error)) from None
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from None


def indexed_headers(segment: Path) -> Iterator[BlockHeader]:
    """The block headers that a segment's index holds, as far as it is whole; none without an index."""
    try:
        data = index_path(segment).read_bytes()
    except OSError:
        return
    for at in range(0, len(data), BLOCK_HEADER.size):
        header = BlockHeader.unpack(data[at : at + BLOCK_HEADER.size])
        if header is None:
            return
        yield header


def walk(path: Path, file: BinaryIO, ordinal: int, indexed: Iterator[BlockHeader]) -> Iterator[Block]:
    """The whole blocks of a segment in order. ordinal: of the first entry; indexed: headers that need not be read.

    Ends at a torn tail, which begins where the last block ends. Raises DamagedBlock.
    """
    size, offset = os.fstat(file.fileno()).st_size, SEGMENT_HEADER.size
    content_end = _content_end(file, size)
    known: BlockHeader | None = None
    while size - offset >= BLOCK_HEADER.size:
        known = next(indexed, None)
        if known is None or known.first_ordinal != ordinal:
            indexed = iter(())  # an index that ends early, or is of something else
            file.seek(offset)
            known = BlockHeader.unpack(file.read(BLOCK_HEADER.size))
        if known is None or known.first_ordinal != ordinal:
            if content_end - offset < BLOCK_HEADER.size or _never_was_a_block(file, offset):
                return
            raise DamagedBlock(
                f"{path}: the block at byte {offset} (entries from {ordinal} on) is damaged: its header does not fit"
            )
        block = Block(path, offset, known)
        if block.end > size or (block.end > content_end and _is_cut(block, file, content_end)):
            return
        yield block
        offset, ordinal = block.end, ordinal + known.entries


def never_begun(file: BinaryIO) -> bool:
    """Whether the writer of a segment died, or the power went, before its header was on the disk."""
    file.seek(0)
    head = file.read(SEGMENT_HEADER.size)
    if len(head) < SEGMENT_HEADER.size:
        return True
    return not is_segment_header(head) and _content_end(file, os.fstat(file.fileno()).st_size) < SEGMENT_HEADER.size


def _content_end(file: BinaryIO, size: int) -> int:
    """Offset behind the last byte that is no zero."""
    end = size
    while end:
        begin = max(0, end - _END_BYTES)
        file.seek(begin)
        content = file.read(end - begin).rstrip(b"\0")
        if content:
            return begin + len(content)
        end = begin
    return 0


def _never_was_a_block(file: BinaryIO, offset: int) -> bool:
    """Whether what lies from an offset on is neither a block with a damaged header nor before a whole block."""
    file.seek(offset)
    head = file.read(BLOCK_HEADER.size)
    marked = BLOCK_MAGIC + head[len(BLOCK_MAGIC) :]
    return head != marked and BlockHeader.unpack(marked) is None and not whole_block_behind(file, offset + 1)


def _is_cut(block: Block, file: BinaryIO, content_end: int) -> bool:
    """Whether zeros stand where the content of a block, or its header too, ended."""
    if content_end - block.offset < BLOCK_HEADER.size:
        return True
    file.seek(block.offset)
    header, payload = file.read(BLOCK_HEADER.size), file.read(block.header.payload_bytes)
    return header == block.header.pack() and zlib.crc32(payload) != block.header.payload_crc


def unpack(block: Block, file: BinaryIO) -> bytes:
    """The entries of a block, unpacked. Raises DamagedBlock."""
    header = block.header
    file.seek(block.offset)
    if file.read(BLOCK_HEADER.size) != header.pack():
        raise block.damaged("its header does not fit")
    payload = file.read(header.payload_bytes)
    if len(payload) < header.payload_bytes or zlib.crc32(payload) != header.payload_crc:
        raise block.damaged("its content does not fit its checksum")
    try:
        # A stream that unpacks to more than it says is stopped there.
        unpacked = zlib.decompressobj().decompress(payload, header.unpacked_bytes + 1)
    except zlib.error as error:
        raise block.damaged(str(error)) from None
    if len(unpacked) != header.unpacked_bytes:
        raise block.damaged("its content is not as long as it says")
    return unpacked


def entries_of(block: Block, unpacked: bytes) -> Iterator[CaptureEntry]:
    """The entries of an unpacked block. Raises DamagedBlock."""
    at, first = 0, block.header.first_ordinal
    for ordinal in range(first, first + block.header.entries):
        if at + ENTRY_HEADER.size > len(unpacked):
            raise block.damaged("it ends within an entry")
        ts_ns, length, connection, symbol, key_length, kind = ENTRY_HEADER.unpack_from(unpacked, at)
        key_at = at + ENTRY_HEADER.size
        data_at = key_at + key_length
        at = data_at + length
        key = unpacked[key_at:data_at].decode() if key_length else ""
        yield CaptureEntry(ordinal, ts_ns, kind, connection, symbol, key, unpacked[data_at:at])
    if at != len(unpacked):
        raise block.damaged("its entries are not as long as it is")


def whole_block_behind(file: BinaryIO, offset: int) -> bool:
    """Whether a whole block begins anywhere from an offset on: then what lies there is damaged, not torn."""
    size = os.fstat(file.fileno()).st_size
    overlap = BLOCK_HEADER.size - 1
    while offset < size:
        file.seek(offset)
        window = file.read(_SEARCH_BYTES + overlap)
        found = window.find(BLOCK_MAGIC)
        while 0 <= found < _SEARCH_BYTES:
            header = BlockHeader.unpack(window[found : found + BLOCK_HEADER.size])
            if header is not None and offset + found + header.size <= size:
                return True
            found = window.find(BLOCK_MAGIC, found + 1)
        offset += _SEARCH_BYTES
    return False
