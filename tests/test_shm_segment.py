"""Segments: what attaching refuses, what creation leaves behind when it fails, how long views live."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import shm.segment
from shm.atomics import load_acquire
from shm.segment import (
    HEADER_BYTES,
    HEADER_DTYPE,
    Segment,
    SegmentError,
    boot_id,
    layout_hash,
    list_segments,
    read_header,
    segment_name,
    unlink_all,
)
from tests.shm_helpers import DIGEST, fresh_instance
from tools.soak.forks import Fork

RECORD = np.dtype([("price", "<i8"), ("size", "<i8")], align=True)
LAYOUT = layout_hash(RECORD, 64)
EXPECTED: dict[str, Any] = {
    "layout_hash": LAYOUT,
    "record_size": 16,
    "capacity": 64,
    "kernel_digest": DIGEST,
    "epoch": 3,
}


@pytest.fixture
def instance() -> Iterator[str]:
    yield from fresh_instance()


@pytest.fixture
def segment(instance: str) -> Iterator[Segment]:
    made = Segment.create("market", 1024, instance=instance, **EXPECTED)
    yield made
    made.close()
    made.unlink()


def path_of(segment: Segment) -> Path:
    return Path("/dev/shm" + segment.full_name)


def test_attached_views_share_the_memory_and_the_header_comes_back(segment: Segment, instance: str) -> None:
    with Segment.attach("market", instance=instance, **EXPECTED) as other:
        segment.array(RECORD, 16, 2)["price"] = [5, 7]
        assert list(other.array(RECORD, 16, 2)["price"]) == [5, 7]
        assert other.header == segment.header == read_header(segment.full_name)
        assert (other.header.instance, other.header.name, other.header.epoch) == (instance, "market", 3)
        assert other.size == 1024 and other.header.total_size == HEADER_BYTES + 1024
    assert other.closed


def test_another_process_attaches(segment: Segment, instance: str) -> None:
    def child() -> int:
        with Segment.attach("market", instance=instance, **EXPECTED) as mine:
            mine.array(np.int64, 8, 1)[0] = 77
        return 9

    assert Fork(child).join() == 9
    assert segment.array(np.int64, 8, 1)[0] == 77


def test_mode_size_and_reserved_blocks(segment: Segment) -> None:
    status = path_of(segment).stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == HEADER_BYTES + 1024
    assert status.st_blocks * 512 >= status.st_size
    assert HEADER_DTYPE.itemsize >= 256


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layout_hash", layout_hash(RECORD, 128), "layout hash"),
        ("layout_hash", layout_hash(np.dtype([("price", "<i8"), ("volume", "<i8")], align=True), 64), "layout hash"),
        ("record_size", 32, "record size is 16, expected 32"),
        ("capacity", 128, "capacity is 64, expected 128"),
        ("kernel_digest", "00" * 32, "kernel digest is '5a5a"),
        ("epoch", 4, "epoch is 3, expected 4"),
    ],
)
def test_attach_refuses_each_difference(
    segment: Segment, instance: str, field: str, value: Any, message: str
) -> None:
    with pytest.raises(SegmentError, match=message) as raised:
        Segment.attach("market", instance=instance, **(EXPECTED | {field: value}))
    assert segment.full_name in str(raised.value)
    Segment.attach("market", instance=instance, **(EXPECTED | {field: None})).close()


def test_attach_refuses_another_boot(segment: Segment, instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = boot_id()[:8] + "-0000-0000-0000-000000000000"
    monkeypatch.setattr(shm.segment, "boot_id", lambda: other)
    with pytest.raises(SegmentError, match=f"boot id is '{segment.header.boot_id}', expected '{other}'"):
        Segment.attach("market", instance=instance, **EXPECTED)


def test_attach_refuses_a_renamed_segment(segment: Segment, instance: str) -> None:
    renamed = Path("/dev/shm" + segment_name(instance + "x", "market"))
    path_of(segment).rename(renamed)
    try:
        with pytest.raises(SegmentError, match=f"instance is '{instance}', expected '{instance}x'"):
            Segment.attach("market", instance=instance + "x", **EXPECTED)
    finally:
        renamed.unlink()


def patched(field: str, value: int) -> Callable[[bytes], bytes]:
    def patch(page: bytes) -> bytes:
        at = HEADER_DTYPE.fields[field][1]  # type: ignore[index]
        size = HEADER_DTYPE[field].itemsize
        return page[:at] + value.to_bytes(size, "little") + page[at + size :]

    return patch


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (patched("magic", 0), "magic is 0x0, expected 0x"),
        (patched("layout_version", 2), "header layout version is 2, expected 1"),
        (patched("record_size", 17), "header checksum is"),
        (lambda page: page[:100], "100 bytes are no header"),
        (lambda page: page[:-1], "total size is 5119, expected 5120"),
        (lambda page: page + b"\0", "total size is 5121, expected 5120"),
    ],
)
def test_attach_refuses_a_damaged_segment(
    segment: Segment, instance: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = path_of(segment)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SegmentError, match=message):
        Segment.attach("market", instance=instance, **EXPECTED)


def test_attaching_and_being_refused_leak_no_descriptor(segment: Segment, instance: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Segment.attach("market", instance=instance, **EXPECTED).close()
        with pytest.raises(SegmentError):
            Segment.attach("market", instance=instance, **(EXPECTED | {"capacity": 1}))
        read_header(segment.full_name)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_create_refuses_an_existing_name_and_leaves_it_alone(segment: Segment, instance: str) -> None:
    segment.array(np.int64, 0, 1)[0] = 5
    with pytest.raises(SegmentError, match="exists already"):
        Segment.create("market", 1024, instance=instance, **EXPECTED)
    assert Segment.attach("market", instance=instance, **EXPECTED).array(np.int64, 0, 1)[0] == 5


def test_attach_refuses_what_is_not_there(instance: str) -> None:
    with pytest.raises(SegmentError, match=r"/bot4\..*market: does not exist"):
        Segment.attach("market", instance=instance, **EXPECTED)


def test_more_than_the_free_space_is_refused_with_the_figures(instance: str) -> None:
    status = os.statvfs("/dev/shm")
    wanted = status.f_blocks * status.f_frsize + 1
    figures = rf"market: /dev/shm is full: {wanted + HEADER_BYTES} bytes wanted, \d+ free"
    with pytest.raises(SegmentError, match=figures):
        Segment.create("market", wanted, instance=instance, **EXPECTED)
    assert list_segments(instance) == []


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "full: 5120 bytes wanted, [0-9]+ free"), (errno.EIO, "cannot reserve 5120")]
)
def test_a_failing_reservation_leaves_nothing_behind(
    instance: str, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def fail(*arguments: int) -> None:
        raise OSError(code, os.strerror(code))

    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(SegmentError, match=message):
        Segment.create("market", 1024, instance=instance, **EXPECTED)
    assert list_segments(instance) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mar/ket", {}, "letters, digits"),
        ("", {}, "letters, digits"),
        ("market", {"kernel_digest": "short"}, "64 hex digits"),
        ("market", {"size": 0}, "at least one byte"),
    ],
)
def test_create_refuses_bad_arguments(instance: str, name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SegmentError, match=message):
        Segment.create(name, **({"size": 64, "instance": instance} | EXPECTED | arguments))
    with pytest.raises(SegmentError, match="letters, digits"):
        segment_name("two.words", "market")
    assert list_segments(instance) == []


def test_views_outlive_close_and_then_free_the_mapping(instance: str) -> None:
    made = Segment.create("market", 1 << 20, instance=instance, **EXPECTED)
    view = made.array(np.int64, 0, 4)
    made.close()
    made.close()
    made.unlink()
    made.unlink()
    view[3] = 9  # still mapped
    assert view[3] == 9 and made.closed
    with pytest.raises(SegmentError, match="used after close"):
        made.array(np.int64, 0, 4)
    assert made.full_name in Path("/proc/self/maps").read_text()
    del view
    assert made.full_name not in Path("/proc/self/maps").read_text()


def test_array_refuses_to_leave_the_payload(segment: Segment) -> None:
    assert len(segment.array(np.uint8, 0, 1024)) == 1024
    assert len(segment.array(np.uint8, 1024, 0)) == 0
    for offset, count in ((0, 1025), (1, 1024), (-1, 1), (0, -1)):
        with pytest.raises(SegmentError, match="do not lie within 1024 bytes"):
            segment.array(np.uint8, offset, count)
    with pytest.raises(SegmentError, match="offset 4 is not a multiple of 8"):
        segment.array(np.int64, 4, 1)


def test_payload_starts_as_zeros_on_a_page(segment: Segment) -> None:
    payload = segment.array(np.uint8, 0, 1024)
    assert not payload.any()
    assert payload.ctypes.data % 4096 == 0


def test_read_only_views_cannot_be_written(segment: Segment, instance: str) -> None:
    segment.array(np.int64, 0, 1)[0] = 11
    with Segment.attach("market", instance=instance, read_only=True, **EXPECTED) as reader:
        view = reader.array(np.int64, 0, 1)
        assert load_acquire(view, 0) == 11
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 12

        @numba.njit
        def write(array: np.ndarray) -> None:
            array[0] = 12

        with pytest.raises(numba.core.errors.TypingError):
            write(view)
    assert segment.array(np.int64, 0, 1)[0] == 11


def test_lock_memory_says_whether_it_did(segment: Segment) -> None:
    def locked_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))

    before = locked_kib()
    assert segment.lock_memory() == (locked_kib() > before)


def test_list_and_unlink_all_see_their_instance_only(instance: str) -> None:
    for name in ("market", "valid"):
        Segment.create(name, 64, instance=instance, **EXPECTED).close()
    neighbour = Segment.create("market", 64, instance=instance + "-b", **EXPECTED)
    try:
        names = [segment_name(instance, "market"), segment_name(instance, "valid")]
        assert list_segments(instance) == names
        assert unlink_all(instance) == names and unlink_all(instance) == []
        assert list_segments(instance + "-b") == [neighbour.full_name]
    finally:
        neighbour.unlink()


def test_the_layout_hash_covers_names_types_offsets_and_capacity() -> None:
    padded = np.dtype({"names": ["price", "size"], "formats": ["<i8", "<i8"], "offsets": [0, 8], "itemsize": 24})
    unsigned = np.dtype([("price", "<u8"), ("size", "<i8")], align=True)
    swapped = np.dtype([("size", "<i8"), ("price", "<i8")], align=True)
    hashes = {layout_hash(dtype, 64) for dtype in (RECORD, padded, unsigned, swapped)} | {layout_hash(RECORD, 32)}
    assert len(hashes) == 5
    assert layout_hash(np.dtype(RECORD.descr, align=True), 64) == LAYOUT
