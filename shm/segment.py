"""Named shared-memory segments that refuse to be misread.

A segment is one POSIX shared-memory object: a header page that says what it holds, then the payload. It
belongs to an instance and a boot, not to a process: it outlives every process until somebody unlinks it.

Creation is exclusive (O_EXCL), mode 0600, and takes its memory at once (posix_fallocate): a sparse segment
would raise SIGBUS at some later write when /dev/shm is full. Attaching compares the header with what the
caller expects and raises SegmentError on any difference. The header never changes after creation and carries
a checksum, so one that is still being written is refused too.

Lifetime of views: an array from Segment.array() keeps the mapping alive. close() drops the segment's own
references; the memory is unmapped when the last view is gone, so a view never dangles, but nobody should keep
one. Not multiprocessing.shared_memory: its tracker on 3.11 unlinks a segment when any attached process ends.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import posix_ipc

HEADER_BYTES = 4096  # the first page; the payload starts on the second
MAGIC = 0x3447_4553_3454_4F42  # "BOT4SEG4" in memory on a little-endian machine
LAYOUT_VERSION = 1

# Written once by the creator. Every field is little-endian; digests are the 32 bytes of a SHA-256.
HEADER_DTYPE = np.dtype(
    [
        ("magic", "<u8"),
        ("layout_version", "<u4"),
        ("header_crc32", "<u4"),  # of the header with this field zero
        ("layout_hash", "u1", (32,)),  # layout_hash(dtype, capacity)
        ("kernel_digest", "u1", (32,)),  # of the sources that the creator runs
        ("total_size", "<i8"),  # bytes, header included
        ("record_size", "<i8"),  # bytes of one record or slot
        ("capacity", "<i8"),  # records or slots
        ("epoch", "<i8"),  # which incarnation of the instance created it
        ("boot_id", "S40"),  # /proc/sys/kernel/random/boot_id
        ("instance", "S40"),
        ("name", "S72"),  # the short name
    ],
    align=True,
)

_SHM_FOLDER = Path("/dev/shm")
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class SegmentError(Exception):
    """A segment cannot be created or must not be used; the message says which, why, and what was expected."""


def boot_id() -> str:
    """The kernel's id of this boot: a segment of another boot is refused."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def segment_name(instance: str, name: str) -> str:
    """The full name in /dev/shm: /bot4.INSTANCE.BOOT8.NAME."""
    if not _INSTANCE.fullmatch(instance):
        raise SegmentError(f"instance {instance!r}: 1 to 32 letters, digits, '_' or '-' are allowed")
    if not _NAME.fullmatch(name):
        raise SegmentError(f"segment {name!r}: 1 to 64 letters, digits, '_', '-' or '.' are allowed")
    return f"/bot4.{instance}.{boot_id()[:8]}.{name}"


def layout_hash(dtype: np.dtype, capacity: int) -> str:
    """Hex SHA-256 of a record layout (names, types, offsets, size) and a capacity."""
    return hashlib.sha256(repr((dtype.descr, dtype.itemsize, capacity)).encode()).hexdigest()


@dataclass(frozen=True)
class Header:
    """What a segment says about itself. Digests in hex, sizes in bytes."""

    layout_version: int
    layout_hash: str
    kernel_digest: str
    total_size: int
    record_size: int
    capacity: int
    epoch: int
    boot_id: str
    instance: str
    name: str


def _encode(header: Header) -> bytes:
    for label, digest in (("layout_hash", header.layout_hash), ("kernel_digest", header.kernel_digest)):
        if not _DIGEST.fullmatch(digest):
            raise SegmentError(f"{label} {digest!r}: 64 hex digits are needed")
    raw = np.zeros(1, HEADER_DTYPE)
    raw["magic"] = MAGIC
    raw["layout_version"] = header.layout_version
    raw["layout_hash"] = np.frombuffer(bytes.fromhex(header.layout_hash), np.uint8)
    raw["kernel_digest"] = np.frombuffer(bytes.fromhex(header.kernel_digest), np.uint8)
    for field in ("total_size", "record_size", "capacity", "epoch"):
        raw[field] = getattr(header, field)
    for field in ("boot_id", "instance", "name"):
        raw[field] = getattr(header, field).encode()
    raw["header_crc32"] = zlib.crc32(raw.tobytes())
    return raw.tobytes()


def _decode(page: bytes, full_name: str) -> Header:
    raw = np.frombuffer(page[: HEADER_DTYPE.itemsize], HEADER_DTYPE).copy()
    if int(raw["magic"][0]) != MAGIC:
        raise SegmentError(
            f"{full_name}: magic is {int(raw['magic'][0]):#x}, expected {MAGIC:#x}: "
            "no Bot4 segment, or unfinished"
        )
    version = int(raw["layout_version"][0])
    if version != LAYOUT_VERSION:
        raise SegmentError(f"{full_name}: header layout version is {version}, expected {LAYOUT_VERSION}")
    found = int(raw["header_crc32"][0])
    raw["header_crc32"] = 0
    expected = zlib.crc32(raw.tobytes())
    if found != expected:
        raise SegmentError(
            f"{full_name}: header checksum is {found:#x}, expected {expected:#x}: damaged or unfinished"
        )
    return Header(
        layout_version=int(raw["layout_version"][0]),
        layout_hash=raw["layout_hash"][0].tobytes().hex(),
        kernel_digest=raw["kernel_digest"][0].tobytes().hex(),
        total_size=int(raw["total_size"][0]),
        record_size=int(raw["record_size"][0]),
        capacity=int(raw["capacity"][0]),
        epoch=int(raw["epoch"][0]),
        boot_id=raw["boot_id"][0].decode(),
        instance=raw["instance"][0].decode(),
        name=raw["name"][0].decode(),
    )


def _reserve(descriptor: int, full_name: str, size: int) -> None:
    """Give the object its memory now, or raise SegmentError."""

    def free() -> int:
        status = os.fstatvfs(descriptor)
        return status.f_bavail * status.f_frsize

    # Looking first keeps a hopeless request from filling the memory of the machine before it fails.
    available = free()
    if size <= available:
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise SegmentError(f"{full_name}: cannot reserve {size} bytes: {error.strerror}") from error
            available = free()
    raise SegmentError(f"{full_name}: /dev/shm is full: {size} bytes wanted, {available} free")


class Segment:
    """One mapped segment. Made by create() or attach(); usable as a context manager, which closes it."""

    def __init__(
        self, full_name: str, header: Header, descriptor: int, read_only: bool, prefault: bool
    ) -> None:
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if prefault else 0)
        access = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
        self.full_name = full_name
        self.header = header
        self.read_only = read_only
        self._map: mmap.mmap | None = mmap.mmap(descriptor, header.total_size, flags=flags, prot=access)

    @classmethod
    def create(
        cls,
        name: str,
        size: int,
        *,
        layout_hash: str,
        record_size: int,
        capacity: int,
        instance: str,
        kernel_digest: str,
        epoch: int = 0,
        prefault: bool = False,
    ) -> Segment:
        """Make the segment `name` of an instance, of `size` zeroed payload bytes.

        Raises SegmentError if it exists or there is no room; nothing is left behind then.
        """
        full_name = segment_name(instance, name)
        if size <= 0:
            raise SegmentError(f"{full_name}: size {size}: at least one byte is needed")
        total = HEADER_BYTES + size
        header = Header(
            LAYOUT_VERSION,
            layout_hash,
            kernel_digest,
            total,
            record_size,
            capacity,
            epoch,
            boot_id(),
            instance,
            name,
        )
        encoded = _encode(header)
        try:
            shared = posix_ipc.SharedMemory(full_name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.ExistentialError as error:
            raise SegmentError(f"{full_name}: exists already") from error
        try:
            _reserve(shared.fd, full_name, total)
            segment = cls(full_name, header, shared.fd, read_only=False, prefault=prefault)
            segment._mapped()[: len(encoded)] = encoded
        except BaseException:
            _unlink(full_name)
            raise
        finally:
            shared.close_fd()
        return segment

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        instance: str,
        layout_hash: str | None,
        record_size: int | None,
        kernel_digest: str | None,
        capacity: int | None = None,
        epoch: int | None = None,
        read_only: bool = False,
        prefault: bool = False,
    ) -> Segment:
        """Map an existing segment; raises SegmentError if it is not there or differs from what is expected.

        None means that the caller accepts any value, which is for tools that only look and for the emergency
        trip. Instance, boot and size are always compared. read_only maps with PROT_READ: a write through any
        view raises ValueError.
        """
        full_name = segment_name(instance, name)
        header, descriptor = _open(full_name, read_only)
        try:
            expectations: list[tuple[str, Any, Any]] = [
                ("instance", instance, header.instance),
                ("name", name, header.name),
                ("boot id", boot_id(), header.boot_id),
                ("layout hash (record dtype and capacity)", layout_hash, header.layout_hash),
                ("record size", record_size, header.record_size),
                ("capacity", capacity, header.capacity),
                ("kernel digest", kernel_digest, header.kernel_digest),
                ("epoch", epoch, header.epoch),
                ("total size", header.total_size, os.fstat(descriptor).st_size),
            ]
            for label, expected, found in expectations:
                if expected is not None and expected != found:
                    raise SegmentError(f"{full_name}: {label} is {found!r}, expected {expected!r}")
            return cls(full_name, header, descriptor, read_only, prefault)
        finally:
            os.close(descriptor)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            raise SegmentError(f"{self.full_name}: used after close")
        return self._map

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return self.header.total_size - HEADER_BYTES

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._map is None

    def array(self, dtype: Any, offset: int, count: int) -> np.ndarray:
        """A view of `count` items of a dtype at a byte offset of the payload; read-only if the segment is."""
        item = np.dtype(dtype)
        if count < 0 or offset < 0 or offset + count * item.itemsize > self.size:
            raise SegmentError(
                f"{self.full_name}: {count} items of {item.itemsize} bytes at {offset} "
                f"do not lie within {self.size} bytes"
            )
        if offset % item.alignment:
            raise SegmentError(f"{self.full_name}: offset {offset} is not a multiple of {item.alignment}")
        return np.frombuffer(self._mapped(), item, count, HEADER_BYTES + offset)

    def lock_memory(self) -> bool:
        """Keep the pages in memory (mlock, which faults them in too); False where that is not permitted."""
        whole = np.frombuffer(self._mapped(), np.uint8)
        locked: int = ctypes.CDLL(None, use_errno=True).mlock(
            ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(whole.size)
        )
        return locked == 0

    def close(self) -> None:
        """Forget the mapping; it goes when the last view of it goes. May be called again."""
        self._map = None

    def unlink(self) -> None:
        """Remove the name; mappings live on until closed. May be called again, and by any process."""
        _unlink(self.full_name)

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open(full_name: str, read_only: bool) -> tuple[Header, int]:
    """Open a segment and read its header; the caller closes the descriptor."""
    try:
        shared = posix_ipc.SharedMemory(full_name, read_only=read_only)
    except posix_ipc.ExistentialError as error:
        raise SegmentError(f"{full_name}: does not exist") from error
    except posix_ipc.PermissionsError as error:
        raise SegmentError(f"{full_name}: belongs to another user") from error
    descriptor: int = shared.fd
    try:
        page = os.pread(descriptor, HEADER_DTYPE.itemsize, 0)
        if len(page) < HEADER_DTYPE.itemsize:
            raise SegmentError(f"{full_name}: {len(page)} bytes are no header: unfinished")
        return _decode(page, full_name), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _unlink(full_name: str) -> bool:
    """Remove a name; False if it was gone already."""
    try:
        posix_ipc.unlink_shared_memory(full_name)
    except posix_ipc.ExistentialError:
        return False
    return True


def read_header(full_name: str) -> Header:
    """What a segment from list_segments() says about itself."""
    header, descriptor = _open(full_name, read_only=True)
    os.close(descriptor)
    return header


def list_segments(instance: str) -> list[str]:
    """Full names of all segments of an instance, of any boot, sorted."""
    if not _INSTANCE.fullmatch(instance):
        raise SegmentError(f"instance {instance!r}: 1 to 32 letters, digits, '_' or '-' are allowed")
    return sorted("/" + path.name for path in _SHM_FOLDER.glob(f"bot4.{instance}.*"))


def unlink_all(instance: str) -> list[str]:
    """Remove all segments of an instance, in which nobody lives any more; returns the names removed."""
    return [name for name in list_segments(instance) if _unlink(name)]
