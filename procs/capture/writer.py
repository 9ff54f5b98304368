"""Writing a capture: entries gather in memory and reach the disk a compressed block at a time.

A block is written when the next entry would take it beyond BLOCK_BYTES, or when `flush_if_older` finds that its first
entry has waited for MAX_AGE_NS. A process that dies loses at most that; a machine that dies, what `syncing` has not
covered as well. A block is written whole or not at all: where the disk is full, what was begun is cut off again and
CaptureFull raised; everything before stays, and is a whole capture.
One writer at a time has a capture: a lease on writer.lock, which its death gives back.
Cost: 0.9 us an entry, and a block of 64 KiB compressed in one to four ms that hold the thread; in all 2 to 3 us.
Market data become 4.7 to 6 times smaller. Larger blocks gain little (256 KiB: 2 %); a higher level of zlib takes
twice the time for a fifth.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

from procs.capture.blocks import never_begun, open_segment, unpack, walk, whole_block_behind
from procs.capture.layout import (
    ENTRY_HEADER,
    LARGEST_DATA,
    NO_CONNECTION,
    NO_SYMBOL,
    SEGMENT_HEADER,
    BlockHeader,
    Captured,
    DamagedBlock,
    first_ordinal_of,
    index_path,
    segment_header,
    segment_path,
    symbol_bit,
)
from procs.capture.manifest import FILE, Manifest, is_capture, read_manifest, write_manifest
from procs.capture.reader import CaptureReader
from procs.captures import CaptureError
from procs.trusted import OTHERS_MAY_WRITE, NotOurs, our_folder, sync_folder, write_all
from shm.lease import Lease, LeaseHeld

BLOCK_BYTES = 64 << 10  # before compression
MAX_AGE_NS = 1_000_000_000
SEGMENT_BYTES = 32 << 20
LEVEL = 3
_LOCK = "writer.lock"
_LEFT_BY_A_DEAD_CREATOR = (_LOCK, f"{FILE}.new")


class CaptureFull(CaptureError):
    """No room on the disk for another block; what was written before is whole."""


class CaptureWriter:
    """Appends to one capture. Use `create` or `reopen`; `close` writes what is left."""

    def __init__(self, folder: Path, manifest: Manifest, lease: Lease, block_bytes: int, segment_bytes: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lease = lease
        self._block_bytes = block_bytes
        self._segment_bytes = segment_bytes
        self._number = -1  # of the open segment
        self._fd = self._index_fd = -1
        self._offset = 0
        self._written = 0  # ordinal of the last entry on disk
        self._block = bytearray()
        self._entries = 0  # in the block
        self._symbols = 0
        self._first_ns = self._last_ns = self._begun_ns = 0
        self._failed = False
        self.cut_bytes = 0  # of a torn tail, when the capture was opened again
        self.stored_bytes = 0  # written by this writer

    @classmethod
    def create(
        cls, folder: Path, manifest: Manifest, *, block_bytes: int = BLOCK_BYTES, segment_bytes: int = SEGMENT_BYTES
    ) -> CaptureWriter:
        """A new capture in a folder that is empty or not there. Raises CaptureError, or CaptureFull."""
        try:
            our_folder(folder, OTHERS_MAY_WRITE)
            if any(path.name not in _LEFT_BY_A_DEAD_CREATOR for path in folder.iterdir()):
                raise CaptureError(f"{folder}: not empty; a capture needs a folder of its own")
            lease = _lease(folder)
            write_manifest(folder, manifest)
        except NotOurs as error:
            raise CaptureError(str(error)) from None
        except OSError as error:
            raise CaptureFull(f"{folder}: a capture cannot be begun: {error.strerror}") from None
        return cls(folder, manifest, lease, block_bytes, segment_bytes)

    @classmethod
    def reopen(
        cls, folder: Path, *, block_bytes: int = BLOCK_BYTES, segment_bytes: int = SEGMENT_BYTES
    ) -> CaptureWriter:
        """Go on behind the last whole block of a capture; a torn tail is cut off. Raises CaptureError.

        A tail that has its length but not its content, as a power cut leaves it, is torn too. Damage before whole
        blocks is not: nothing is changed then.
        """
        manifest = read_manifest(folder)
        writer = cls(folder, manifest, _lease(folder), block_bytes, segment_bytes)
        try:
            writer._resume(CaptureReader(folder).segments())
        except BaseException:
            writer._lease.release()
            raise
        return writer

    @property
    def ordinal(self) -> int:
        """Of the last entry, on disk or waiting in memory."""
        return self._written + self._entries

    # --- entries ----------------------------------------------------------------------------------------------------

    def append(
        self, kind: Captured, ts_ns: int, data: bytes, *, connection: int = NO_CONNECTION, symbol: int = NO_SYMBOL,
        key: str = "",
    ) -> int:
        """Take one entry and return its ordinal. Raises CaptureFull, and ValueError for what cannot be kept."""
        packed_key = key.encode()
        if len(data) > LARGEST_DATA or len(packed_key) > 0xFFFF:
            raise ValueError(f"an entry of {len(data)} bytes with a key of {len(packed_key)} is too large")
        if symbol != NO_SYMBOL and not 0 <= symbol < len(self.manifest.instruments):
            raise ValueError(f"symbol {symbol} is not one of the {len(self.manifest.instruments)} of the capture")
        size = ENTRY_HEADER.size + len(packed_key) + len(data)
        if self._entries and len(self._block) + size > self._block_bytes:
            self.flush()
        if not self._entries:
            self._first_ns = self._last_ns = self._begun_ns = ts_ns
        elif ts_ns < self._first_ns:
            self._first_ns = ts_ns
        elif ts_ns > self._last_ns:
            self._last_ns = ts_ns
        self._block += ENTRY_HEADER.pack(ts_ns, len(data), connection, symbol, len(packed_key), kind)
        self._block += packed_key
        self._block += data
        self._symbols |= symbol_bit(symbol)
        self._entries += 1
        return self.ordinal

    def flush_if_older(self, now_ns: int, age_ns: int = MAX_AGE_NS) -> None:
        """Write the block if its first entry was received `age_ns` ago or earlier. Raises CaptureFull."""
        if self._entries and now_ns - self._begun_ns >= age_ns:
            self.flush()

    def flush(self) -> None:
        """Hand what is in memory to the operating system as a block. Raises CaptureFull: then it is gone."""
        if not self._entries:
            return
        payload = zlib.compress(self._block, LEVEL)
        header = BlockHeader(
            len(payload), len(self._block), self._entries, self._written + 1, self._first_ns, self._last_ns,
            self._symbols, zlib.crc32(payload),
        )
        entries = self._entries
        self._block, self._entries, self._symbols = bytearray(), 0, 0
        if self._fd < 0 or (self._offset > SEGMENT_HEADER.size and self._offset + header.size > self._segment_bytes):
            self._roll()
        packed = header.pack()
        self._append(self._fd, packed + payload, self._offset)
        self._offset += header.size
        self._written += entries
        self.stored_bytes += header.size
        self._append(self._index_fd, packed, os.fstat(self._index_fd).st_size)

    def _append(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of it, or nothing and CaptureFull."""
        try:
            write_all(descriptor, data)
        except OSError as error:
            self._failed = True
            os.ftruncate(descriptor, offset)
            raise self._full(error) from None

    def _full(self, error: OSError) -> CaptureFull:
        return CaptureFull(
            f"{self.folder}: no further block can be written ({error.strerror}); the capture is whole up to entry "
            f"{self._written}"
        )

    # --- segments ---------------------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Go on in a new segment."""
        path = segment_path(self.folder, self._number + 1)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._close_segment()
            self._fd = os.open(path, flags, 0o600)
            try:
                write_all(self._fd, segment_header(self.manifest.capture, self._number + 1, self._written + 1))
                index_path(path).unlink(missing_ok=True)
                self._index_fd = os.open(index_path(path), flags, 0o600)
                sync_folder(self.folder)
            except OSError:
                path.unlink()
                raise
        except OSError as error:
            self._failed = True
            raise self._full(error) from None
        self._number += 1
        self._offset = SEGMENT_HEADER.size

    def _close_segment(self) -> None:
        """Have it on the disk and let go of it. Raises OSError; then too it is let go of."""
        opened = [descriptor for descriptor in (self._fd, self._index_fd) if descriptor >= 0]
        self._fd = self._index_fd = -1
        try:
            for descriptor in opened:
                os.fdatasync(descriptor)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def syncing(self) -> Callable[[], None]:
        """What has the blocks written so far on the disk itself, once it is called, in whatever thread; then forget it.

        It raises OSError.
        """
        descriptor = os.dup(self._fd) if self._fd >= 0 else -1

        def sync() -> None:
            if descriptor >= 0:
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)

        return sync

    @staticmethod
    def _never_begun(path: Path) -> bool:
        with open_segment(path) as file:
            return never_begun(file)

    def _resume(self, segments: list[Path]) -> None:
        """Stand behind the last whole block."""
        if segments and self._never_begun(segments[-1]):
            self.cut_bytes += segments[-1].stat().st_size
            index_path(segments[-1]).unlink(missing_ok=True)
            segments.pop().unlink()
        if not segments:
            return
        self._number, path = len(segments) - 1, segments[-1]
        headers = []
        with open_segment(path) as file:
            first = first_ordinal_of(path, file.read(SEGMENT_HEADER.size), self.manifest.capture, self._number)
            self._offset, self._written = SEGMENT_HEADER.size, first - 1
            try:
                for block in walk(path, file, first, iter(())):
                    unpack(block, file)
                    headers.append(block.header)
                    self._offset, self._written = block.end, self._written + block.header.entries
            except DamagedBlock:
                if whole_block_behind(file, self._offset + 1):
                    raise
        self.cut_bytes += path.stat().st_size - self._offset
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags)
            os.ftruncate(self._fd, self._offset)
            self._index_fd = os.open(index_path(path), flags | os.O_CREAT | os.O_TRUNC, 0o600)
            write_all(self._index_fd, b"".join(header.pack() for header in headers))
        except OSError as error:
            raise self._full(error) from None

    def close(self) -> None:
        """Write what is left and let go of the files. Idempotent. Raises CaptureFull; then too they are let go of."""
        try:
            if not self._failed:
                self.flush()
        finally:
            self._failed = True
            try:
                self._close_segment()
            except OSError as error:
                raise self._full(error) from None
            finally:
                self._lease.release()


def _lease(folder: Path) -> Lease:
    try:
        return Lease.acquire(folder / _LOCK)
    except LeaseHeld:
        raise CaptureError(f"{folder}: another process is writing this capture") from None
    except OSError as error:
        raise CaptureError(f"{folder / _LOCK}: {error.strerror}") from None


def open_writer(folder: Path, manifest: Manifest) -> CaptureWriter:
    """The capture in a folder gone on with if it is there and of the same, else a new one. Raises CaptureError."""
    if not is_capture(folder):
        return CaptureWriter.create(folder, manifest)
    writer = CaptureWriter.reopen(folder)
    if writer.manifest.instruments != manifest.instruments:
        writer.close()
        raise CaptureError(
            f"{folder}: holds a capture of {writer.manifest.market} {', '.join(writer.manifest.symbols)}, as listed "
            "then; what is to be recorded now differs from that and needs another folder"
        )
    return writer
