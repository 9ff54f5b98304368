"""The capture format: round trips, torn tails, flipped bytes, selection by the index, a full disk, clear errors."""

from __future__ import annotations

import os
import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.instruments import MAX_INSTRUMENTS, Instrument
from procs.capture.layout import (
    BLOCK_HEADER,
    NO_CONNECTION,
    NO_SYMBOL,
    SEGMENT_HEADER,
    Captured,
    CaptureEntry,
    index_path,
    segment_path,
)
from procs.capture.manifest import FILE, Manifest, read_manifest, write_manifest
from procs.capture.overview import overview
from procs.capture.reader import EVERYTHING, CaptureReader, Selection
from procs.capture.writer import MAX_AGE_NS, CaptureFull, CaptureWriter, open_writer
from procs.captures import CaptureError

NS = 1_700_000_000_000_000_000
SMALL = {"block_bytes": 400, "segment_bytes": 700}


def manifest(symbols: int = 3, capture: str = "0123456789abcdef") -> Manifest:
    instruments = tuple(
        Instrument(index, f"S{index}USDT", f"S{index}", "USDT", 2, 3, 10, 1, 0) for index in range(symbols)
    )
    return Manifest(capture, instruments, ("ws://a", "ws://b"), NS, {"streams": ["depth"]}, {})


@st.composite
def entry_lists(draw: st.DrawFn, most: int = 60) -> list[CaptureEntry]:
    """Entries as a venue might send them: times that mostly rise, data of any bytes, some larger than a block."""
    found = []
    now = NS
    for ordinal in range(1, draw(st.integers(0, most)) + 1):
        now += draw(st.integers(-50, 1_000))
        data = draw(st.binary(max_size=90)) * draw(st.sampled_from((1, 1, 1, 30)))
        found.append(
            CaptureEntry(
                ordinal, now, int(draw(st.sampled_from(Captured))), draw(st.sampled_from((0, 1, NO_CONNECTION))),
                draw(st.sampled_from((0, 1, 2, NO_SYMBOL))), draw(st.text(max_size=5)), data,
            )
        )
    return found


def append(writer: CaptureWriter, entries: list[CaptureEntry]) -> None:
    for one in entries:
        ordinal = writer.append(
            Captured(one.kind), one.ts_ns, one.data, connection=one.connection, symbol=one.symbol, key=one.key
        )
        assert ordinal == one.ordinal


def written(folder: Path, entries: list[CaptureEntry], **sizes: int) -> Path:
    """A finished capture in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = CaptureWriter.create(folder, manifest(), **(sizes or SMALL))
    append(writer, entries)
    writer.close()
    return folder


def read(folder: Path, selection: Selection = EVERYTHING) -> list[CaptureEntry]:
    return list(CaptureReader(folder).entries(selection))


def last_segment(folder: Path) -> Path:
    return sorted(folder.glob("segment-*.capture"))[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name may be used again and again."""
    return tmp_path_factory.mktemp("captures") / "capture"


@settings(max_examples=60)
@given(entry_lists(), st.integers(1, 2_000), st.integers(1, 4_000))
def test_what_was_written_is_read(
    place: Path, entries: list[CaptureEntry], block_bytes: int, segment_bytes: int
) -> None:
    written(place, entries, block_bytes=block_bytes, segment_bytes=segment_bytes)
    reader = CaptureReader(place)
    assert list(reader.entries()) == entries
    assert reader.torn_bytes == 0 and reader.manifest == manifest()


@settings(max_examples=80)
@given(entry_lists(), entry_lists(20), st.data())
def test_a_cut_file_keeps_everything_before_the_cut_block_and_goes_on(
    place: Path, entries: list[CaptureEntry], more: list[CaptureEntry], data: st.DataObject
) -> None:
    written(place, entries)
    if not entries:
        return
    path = last_segment(place)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    # What must be left, told by the block headers of the whole file.
    blocks = [block for block in CaptureReader(place).blocks() if block.path != path or block.end <= cut]
    kept = sum(block.header.entries for block in blocks)
    ends = [SEGMENT_HEADER.size, *(block.end for block in blocks if block.path == path)]
    path.write_bytes(whole[:cut])
    index = data.draw(st.sampled_from(("kept", "cut", "gone")))
    if index == "cut":
        os.truncate(index_path(path), data.draw(st.integers(0, index_path(path).stat().st_size)))
    elif index == "gone":
        index_path(path).unlink()

    reader = CaptureReader(place)
    assert list(reader.entries()) == entries[:kept]
    torn = cut - ends[-1] if cut >= SEGMENT_HEADER.size else cut
    assert reader.torn_bytes == torn
    writer = CaptureWriter.reopen(place, **SMALL)
    assert writer.cut_bytes == torn and writer.ordinal == kept
    further = [one._replace(ordinal=kept + one.ordinal) for one in more]
    append(writer, further)
    writer.close()
    assert read(place) == entries[:kept] + further


@settings(max_examples=80)
@given(entry_lists(), st.data())
def test_a_flipped_byte_is_found_and_named(place: Path, entries: list[CaptureEntry], data: st.DataObject) -> None:
    written(place, entries)
    segments = sorted(place.glob("segment-*.capture"))
    if not segments:
        return
    path = data.draw(st.sampled_from(segments))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    hit = next((block for block in CaptureReader(place).blocks() if block.path == path and at < block.end), None)
    assert hit is not None
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    if data.draw(st.booleans()):
        index_path(path).unlink()
    if path == segments[-1] and hit.end == len(content) and at >= hit.offset + BLOCK_HEADER.size and not content[-1]:
        reader = CaptureReader(place)  # as a power cut leaves a last block: zeros where it ended
        assert list(reader.entries()) == entries[: hit.header.first_ordinal - 1]
        assert reader.torn_bytes == hit.header.size
        return
    found: list[CaptureEntry] = []
    with pytest.raises(CaptureError) as caught:
        for entry in CaptureReader(place).entries():
            found.append(entry)
    assert str(caught.value).startswith(str(path))
    assert found == entries[: hit.header.first_ordinal - 1]
    if at >= hit.offset:
        assert f"the block at byte {hit.offset} (entries " in str(caught.value)
        assert f"{hit.header.first_ordinal}" in str(caught.value)
    # A writer leaves damage alone that has whole blocks behind it.
    if path == segments[-1] and hit.end < len(content):
        with pytest.raises(CaptureError, match="segment-"):
            CaptureWriter.reopen(place)
        assert path.read_bytes() == bytes(content)


@settings(max_examples=120)
@given(entry_lists(), st.data())
def test_a_power_cut_costs_no_more_than_what_it_cut(
    place: Path, entries: list[CaptureEntry], data: st.DataObject
) -> None:
    """The file ends anywhere, and the system has given it more length, up to a page, but no content."""
    written(place, entries)
    if not entries:
        return
    path = last_segment(place)
    blocks, whole = list(CaptureReader(place).blocks()), path.read_bytes()
    cut, zeros = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 4096))
    left = whole[:cut].ljust(cut + zeros, b"\0")
    path.write_bytes(left)
    if data.draw(st.booleans()):
        index_path(path).unlink()
    here = [block for block in blocks if block.path == path and left.startswith(whole[: block.end])]
    kept = sum(block.header.entries for block in blocks if block.path != path or block in here)
    begun = left.startswith(whole[: SEGMENT_HEADER.size])
    torn = len(left) - (here[-1].end if here else SEGMENT_HEADER.size * begun)

    reader = CaptureReader(place)
    assert reader.find_torn() == torn
    assert list(reader.entries()) == entries[:kept] and reader.torn_bytes == torn
    writer = CaptureWriter.reopen(place, **SMALL)
    assert (writer.cut_bytes, writer.ordinal) == (torn, kept)
    writer.close()
    reader = CaptureReader(place)
    assert list(reader.entries()) == entries[:kept] and reader.torn_bytes == 0


@pytest.mark.parametrize("tail", (bytes(300), b"garbage that is no block" * 20, b"B4", bytes(5_000) + b"x"))
def test_what_never_was_a_block_is_a_torn_tail(tmp_path: Path, tail: bytes) -> None:
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", bytes([n]) * 50) for n in range(1, 25)]
    path = last_segment(written(tmp_path / "c", entries, block_bytes=200, segment_bytes=1 << 20))
    with path.open("ab") as file:
        file.write(tail)
    reader = CaptureReader(tmp_path / "c")
    assert list(reader.entries()) == entries and reader.torn_bytes == len(tail)
    assert overview(tmp_path / "c")["torn_bytes"] == len(tail)


def test_zeros_with_whole_blocks_behind_them_are_damage(tmp_path: Path) -> None:
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", bytes([n]) * 50) for n in range(1, 25)]
    path = last_segment(written(tmp_path / "c", entries, block_bytes=200, segment_bytes=1 << 20))
    index_path(path).unlink()
    third = list(CaptureReader(tmp_path / "c").blocks())[2]
    content = bytearray(path.read_bytes())
    content[third.offset : third.end] = bytes(third.header.size)
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=f"{path}: the block at byte {third.offset} .* its header does not fit"):
        read(tmp_path / "c")
    with pytest.raises(CaptureError, match="its header does not fit"):
        CaptureWriter.reopen(tmp_path / "c")
    assert path.read_bytes() == content


def test_zeros_at_the_end_of_a_segment_that_is_not_the_last_are_damage(tmp_path: Path) -> None:
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", os.urandom(90)) for n in range(1, 60)]
    first = segment_path(written(tmp_path / "c", entries), 0)
    end = first.stat().st_size
    with first.open("ab") as file:
        file.write(bytes(300))
    with pytest.raises(CaptureError, match=f"{first}: ends within the block at byte {end} "):
        read(tmp_path / "c")


def test_a_last_block_without_its_content_is_a_torn_tail(tmp_path: Path) -> None:
    """As a power cut leaves it: the length is there, the content is not."""
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", bytes([n]) * 50) for n in range(1, 25)]
    path = last_segment(written(tmp_path / "c", entries, block_bytes=200, segment_bytes=1 << 20))
    *_, before, last = CaptureReader(tmp_path / "c").blocks()
    content = path.read_bytes()
    path.write_bytes(content[: last.offset + BLOCK_HEADER.size + 5].ljust(len(content), b"\0"))
    left = entries[: before.header.first_ordinal + before.header.entries - 1]
    assert CaptureReader(tmp_path / "c").find_torn() == last.header.size and read(tmp_path / "c") == left
    writer = CaptureWriter.reopen(tmp_path / "c")
    assert writer.cut_bytes == last.header.size and writer.ordinal == last.header.first_ordinal - 1
    writer.close()
    assert read(tmp_path / "c") == left


def test_a_damaged_index_is_made_good_from_the_segment(tmp_path: Path) -> None:
    entries = [CaptureEntry(n, NS + n, 1, 0, n % 3, "", b"x" * 90) for n in range(1, 60)]
    folder = written(tmp_path / "c", entries, block_bytes=300, segment_bytes=1 << 20)
    index = index_path(last_segment(folder))
    good = index.read_bytes()
    assert len(good) > 10 * BLOCK_HEADER.size
    for at in range(0, len(good), 7):
        index.write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        assert read(folder) == entries
    other = written(tmp_path / "d", entries[:5], block_bytes=100, segment_bytes=1 << 20)
    index.write_bytes(index_path(last_segment(other)).read_bytes())
    with pytest.raises(CaptureError, match="its header does not fit"):
        read(folder)  # an index that is whole and of something else: found, never believed
    CaptureWriter.reopen(folder).close()
    assert index.read_bytes() == good and read(folder) == entries


@settings(max_examples=80)
@given(entry_lists(), st.data())
def test_a_selection_is_what_a_filter_finds_and_unpacks_no_other_block(
    place: Path, entries: list[CaptureEntry], data: st.DataObject
) -> None:
    written(place, entries)
    times = [one.ts_ns for one in entries] or [NS]
    low, high = min(times) - 10, max(times) + 10
    first, end = sorted((data.draw(st.integers(low, high)), data.draw(st.integers(low, high))))
    names = tuple(sorted(data.draw(st.sets(st.sampled_from(manifest().symbols)))))
    selection = Selection(first, end, names)
    wanted = {NO_SYMBOL, *(place for place, name in enumerate(manifest().symbols) if not names or name in names)}
    reader = CaptureReader(place)
    expected = [one for one in entries if first <= one.ts_ns < end and one.symbol in wanted]
    assert list(reader.entries(selection)) == expected
    needed = 0
    for block in CaptureReader(place).blocks():
        begin = block.header.first_ordinal - 1
        inside = entries[begin : begin + block.header.entries]
        in_time = min(one.ts_ns for one in inside) < end and max(one.ts_ns for one in inside) >= first
        needed += in_time and any(one.symbol in wanted for one in inside)
    assert reader.blocks_unpacked == needed


def test_a_symbol_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "c", [])
    with pytest.raises(CaptureError, match="holds no XUSDT; it holds S0USDT, S1USDT, S2USDT"):
        read(folder, Selection(symbols=("S1USDT", "XUSDT")))


def peak_of_reading(folder: Path) -> int:
    tracemalloc.start()
    count = sum(1 for _ in CaptureReader(folder).entries())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count
    return peak


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for count in (20_000, 200_000):
        folder = tmp_path / str(count)
        tracemalloc.start()
        writer = CaptureWriter.create(folder, manifest(), block_bytes=16 << 10, segment_bytes=256 << 10)
        for number in range(count):
            writer.append(Captured.FRAME, NS + number, b'{"price":"%d"}' % (number * 7919 % 10_007), symbol=number % 3)
        writer.close()
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        peaks.append((writing, peak_of_reading(folder)))
    (short_write, short_read), (long_write, long_read) = peaks
    assert len(list((tmp_path / "200000").glob("*.capture"))) >= 3
    assert long_write < short_write + 64 * 1024 and long_read < short_read + 64 * 1024
    assert long_read < 1 << 20


def test_a_process_that_dies_loses_what_is_younger_than_the_bound(tmp_path: Path) -> None:
    writer = CaptureWriter.create(tmp_path / "c", manifest())
    writer.append(Captured.FRAME, NS, b"first")
    writer.flush_if_older(NS + MAX_AGE_NS - 1)
    shutil.copytree(tmp_path / "c", tmp_path / "young")
    writer.flush_if_older(NS + MAX_AGE_NS)
    writer.append(Captured.FRAME, NS + MAX_AGE_NS, b"second")
    shutil.copytree(tmp_path / "c", tmp_path / "old")
    assert [one.data for one in read(tmp_path / "young")] == []
    assert [one.data for one in read(tmp_path / "old")] == [b"first"]
    writer.close()
    assert [one.data for one in read(tmp_path / "c")] == [b"first", b"second"]


def test_blocks_are_written_at_their_size(tmp_path: Path) -> None:
    writer = CaptureWriter.create(tmp_path / "c", manifest(), block_bytes=1_000)
    for number in range(100):
        writer.append(Captured.FRAME, NS + number, os.urandom(80))
        on_disk = sum(block.header.entries for block in CaptureReader(tmp_path / "c").blocks())
        assert 0 <= number + 1 - on_disk <= 10
    writer.close()
    assert max(block.header.unpacked_bytes for block in CaptureReader(tmp_path / "c").blocks()) <= 1_000


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this: writing fails in the middle of a block, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [10, 44, 45, 99, 100, 700, 1_234, 5_000])
def test_a_full_disk_is_an_error_and_leaves_a_whole_capture(tmp_path: Path, limit: int) -> None:
    folder = tmp_path / "c"
    writer = CaptureWriter.create(folder, manifest(), block_bytes=500, segment_bytes=1 << 20)
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", os.urandom(60)) for n in range(1, 200)]
    with largest_file(limit), pytest.raises(CaptureFull) as caught:
        append(writer, entries)
    kept = writer.ordinal
    assert f"no further block can be written (File too large); the capture is whole up to entry {kept}" in str(
        caught.value
    )
    writer.close()
    reader = CaptureReader(folder)
    assert list(reader.entries()) == entries[:kept] and reader.torn_bytes == 0
    assert kept == 0 or limit > SEGMENT_HEADER.size + BLOCK_HEADER.size
    writer = CaptureWriter.reopen(folder)  # there is room again
    assert writer.cut_bytes == 0
    append(writer, entries[kept:])
    writer.close()
    assert read(folder) == entries


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = CaptureWriter.create(tmp_path / "c", manifest())
    with pytest.raises(CaptureError, match="another process is writing this capture"):
        CaptureWriter.reopen(tmp_path / "c")
    writer.close()
    writer.close()
    CaptureWriter.reopen(tmp_path / "c").close()
    with pytest.raises(CaptureError, match="not empty; a capture needs a folder of its own"):
        CaptureWriter.create(tmp_path / "c", manifest())


def test_what_a_process_left_that_died_beginning_a_capture_is_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("writer.lock", f"{FILE}.new"):
        (tmp_path / name).write_bytes(b"")
    writer = open_writer(tmp_path, manifest())
    writer.append(Captured.FRAME, NS, b"x")
    writer.close()
    assert [one.data for one in read(tmp_path)] == [b"x"]


def test_a_capture_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    open_writer(tmp_path / "c", manifest()).close()
    open_writer(tmp_path / "c", manifest(capture="another id of 16")).close()
    with pytest.raises(CaptureError, match="needs another folder"):
        open_writer(tmp_path / "c", manifest(symbols=2))
    open_writer(tmp_path / "c", manifest()).close()  # the refusal let go of it


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    writer = CaptureWriter.create(tmp_path / "c", manifest())
    for wrong in ({"symbol": 3}, {"symbol": -1}, {"key": "k" * 70_000}):
        with pytest.raises(ValueError):
            writer.append(Captured.FRAME, NS, b"", **wrong)  # type: ignore[arg-type]
    writer.close()
    assert read(tmp_path / "c") == []


def test_the_largest_number_of_symbols_has_bits_of_its_own(tmp_path: Path) -> None:
    folder, many = tmp_path / "c", manifest(symbols=MAX_INSTRUMENTS)
    writer = CaptureWriter.create(folder, many, block_bytes=1)
    for place in range(MAX_INSTRUMENTS):
        writer.append(Captured.FRAME, NS + place, b"x", symbol=place)
    writer.close()
    for place, name in enumerate(many.symbols):
        reader = CaptureReader(folder)
        assert [one.symbol for one in reader.entries(Selection(symbols=(name,)))] == [place]
        assert reader.blocks_unpacked == 1


def test_the_manifest_is_kept_as_it_was(tmp_path: Path) -> None:
    one = manifest()
    write_manifest(tmp_path, one)
    assert read_manifest(tmp_path) == one and (one.venue, one.market) == ("binance", "BINANCE_USDM")
    assert one.symbols == ("S0USDT", "S1USDT", "S2USDT")
