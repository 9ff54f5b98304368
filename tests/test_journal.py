"""The journal: round trips, torn tails, segments, and the kernel writer against the Python writer."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from procs.journal.crc import CAN_FOLD, crc32, crc32_from
from procs.journal.kernel import journal_append, journal_room
from procs.journal.layout import Entry
from procs.journal.reader import JournalError, read_segment, read_stream, segment_path
from procs.journal.writer import JournalFull, JournalWriter

_folds = pytest.mark.skipif(not CAN_FOLD, reason="this processor has no carry-less multiplication")


@njit
def _append(buffer, cursor, kind, source, count, ts, payload, length):
    journal_append(buffer, cursor, kind, source, count, ts, payload, length)


@pytest.mark.parametrize("least_folded", [pytest.param(16, marks=_folds), pytest.param(1 << 62, id="tables")])
@settings(max_examples=200)
@given(data=st.binary(max_size=300), start=st.integers(0, 2**32 - 1), offset=st.integers(0, 40))
def test_crc_equals_zlib(least_folded: int, data: bytes, start: int, offset: int) -> None:
    array = np.frombuffer(data + b"beyond", np.uint8)
    offset = min(offset, len(data))
    told = crc32_from(array, offset, len(data) - offset, start, least_folded)
    assert told == crc32(array, offset, len(data) - offset, start) == zlib.crc32(data[offset:], start)


def test_round_trip_over_segments(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "ingestion", "s1", segment_bytes=4096)
    payloads = [os.urandom(n % 700) for n in range(200)]
    for number, payload in enumerate(payloads):
        if writer.offset > writer.prepare_at:
            writer.prepare_next()
        assert writer.append(Entry.FRAME, payload, 1000 + number, source=number % 3, count=number) == number + 1
    writer.close()
    writer.close()
    entries = list(read_stream(tmp_path, "ingestion"))
    assert [entry.payload for entry in entries] == payloads
    assert [entry.ts_ns for entry in entries] == [1000 + n for n in range(200)]
    assert [entry.source for entry in entries] == [n % 3 for n in range(200)]
    assert [entry.count for entry in entries] == list(range(200))
    assert len(list(tmp_path.iterdir())) > 5


def test_entry_larger_than_a_segment(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "a", "s", segment_bytes=1024)
    writer.append(Entry.FRAME, b"x", 1)
    writer.append(Entry.FRAME, b"y" * 5000, 2)
    writer.close()
    assert [len(e.payload) for e in read_stream(tmp_path, "a")] == [1, 5000]


def test_torn_tail_is_cut_and_nothing_before_it(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "a", "s", segment_bytes=1 << 16)
    for number in range(50):
        writer.append(Entry.FRAME, bytes([number]) * 40, number)
    writer.close()
    path = segment_path(tmp_path, "a", 0)
    whole = path.read_bytes()
    for cut in range(64, len(whole), 37):
        path.write_bytes(whole[:cut])
        assert len(list(read_segment(path))) == (cut - 64) // 72
    for place in range(64, len(whole), 91):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        entries = list(read_segment(path))
        assert len(entries) == (place - 64) // 72
        assert all(e.payload == bytes([n]) * 40 for n, e in enumerate(entries))


def test_unfinished_segment_reads_up_to_its_last_entry(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "a", "s", segment_bytes=1 << 16)
    writer.append(Entry.TIMER, b"", 7)
    writer.prepare_next()
    assert [(e.kind, e.ts_ns) for e in read_stream(tmp_path, "a")] == [(Entry.TIMER, 7)]
    writer.close()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 2**31)), max_size=20))
def test_kernel_writes_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, items: list) -> None:
    folder = tmp_path_factory.mktemp("j")
    by_python = JournalWriter(folder, "python", "s", segment_bytes=1 << 16)
    by_kernel = JournalWriter(folder, "kernel", "s", segment_bytes=1 << 16)
    cursor = np.array([by_kernel.offset, by_kernel.ordinal], np.int64)
    for payload, source, count in items:
        by_python.append(Entry.BATCH, payload, 99, source=source, count=count)
        array = np.frombuffer(payload + b"\0", np.uint8).copy()
        assert journal_room(by_kernel.buffer(), cursor, len(payload))
        _append(by_kernel.buffer(), cursor, int(Entry.BATCH), source, count, 99, array, len(payload))
    by_kernel.adopt(int(cursor[0]), int(cursor[1]))
    by_python.close()
    by_kernel.close()
    one, two = (segment_path(folder, name, 0).read_bytes()[64:] for name in ("python", "kernel"))
    assert one == two


def test_no_room_is_told_before_the_tail_is_lost(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    too_much = (stat.f_bavail + stat.f_bfree) * stat.f_frsize + (1 << 40)
    with pytest.raises(JournalFull, match="no room"):
        JournalWriter(tmp_path, "a", "s", segment_bytes=too_much)
    assert list(tmp_path.iterdir()) == []


def test_not_a_journal(tmp_path: Path) -> None:
    segment_path(tmp_path, "a", 0).write_bytes(b"hello")
    with pytest.raises(JournalError, match="no journal segment"):
        list(read_stream(tmp_path, "a"))
    with pytest.raises(JournalError, match="no journal of 'b'"):
        list(read_stream(tmp_path, "b"))


@settings(max_examples=60)
@given(cut=st.integers(0, 400), zeros=st.integers(0, 4096))
def test_a_power_cut_costs_no_more_than_what_it_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, zeros: int
) -> None:
    """A last segment that ends anywhere, its header included, with zeros behind that."""
    folder = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(folder, "a", "s", segment_bytes=512)
    for number in range(1, 21):
        writer.append(Entry.FRAME, bytes([number]) * 30, number)
    writer.close()
    entries = list(read_stream(folder, "a"))
    last = max(folder.glob("a-*.journal"))
    first = next(read_segment(last)).ordinal
    assert [entry.ordinal for entry in entries] == list(range(1, 21)) and last != segment_path(folder, "a", 0)
    whole = last.read_bytes()
    last.write_bytes(whole[:cut].ljust(min(cut, len(whole)) + zeros, b"\0"))
    left = list(read_stream(folder, "a"))
    assert left == entries[: len(left)]
    assert len(left) >= first - 1 + max(0, min(cut, len(whole)) - 64) // 64, "32 bytes of header, 30 of content, padded"


@pytest.mark.parametrize("torn", [0, 1, 30, 60, 200])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_successor_goes_on_after_the_last_whole_entry(tmp_path: Path, torn: int, ahead: bool) -> None:
    """The writer died: never closed, perhaps in the middle of an entry, perhaps with a segment made ahead."""
    dead = JournalWriter(tmp_path, "a", "s", segment_bytes=1024)
    for number in range(30):
        dead.append(Entry.FRAME, bytes([number]) * 40, number)
    if ahead:
        dead.prepare_next()
    path = sorted(path for path in tmp_path.iterdir() if path.read_bytes()[:8] != bytes(8))[-1]
    whole = path.read_bytes()
    end = dead.offset
    path.write_bytes(whole[: end - torn] + bytes(len(whole) - end + torn))
    kept = [entry.ordinal for entry in read_stream(tmp_path, "a")]
    successor = JournalWriter(tmp_path, "a", "s", segment_bytes=1024, resume=True)
    assert successor.ordinal == kept[-1]
    for number in range(30):
        assert successor.append(Entry.TIMER, b"", 1000 + number) == kept[-1] + number + 1
    successor.close()
    entries = list(read_stream(tmp_path, "a"))
    assert [entry.ordinal for entry in entries] == list(range(1, kept[-1] + 31))
    assert [entry.ts_ns for entry in entries[len(kept) :]] == list(range(1000, 1030))


def test_a_roll_that_fails_leaves_the_next_segment_to_be_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, "ingestion", "s1", segment_bytes=4096)
    half = writer.prepare_at
    writer.prepare_next()
    assert writer.prepare_at > 4096, "it is there"

    def no_room(number: int, size: int) -> None:
        raise JournalFull(28, "no room")

    with monkeypatch.context() as full:
        full.setattr(writer, "_make", no_room)
        with pytest.raises(JournalFull):
            writer.append(Entry.FRAME, b"x" * 8000, 1)
    assert writer.prepare_at == half and not writer.next_ready
    assert writer.append(Entry.FRAME, b"y" * 8000, 1) == 1, "the disk has room again"
    writer.close()
    assert [entry.payload for entry in read_stream(tmp_path, "ingestion")] == [b"y" * 8000]
