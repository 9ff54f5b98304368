"""Reading a journal while it is written, and finding entries through its index: the same as a full scan, always."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procs.journal import index as index_module
from procs.journal.index import MARK_EVERY, StreamIndexer, find_entry, index_path, read_index, read_indexes
from procs.journal.layout import FILE_HEADER, Entry
from procs.journal.reader import JournalEntry, JournalError, read_stream, segment_path
from procs.journal.tail import CHUNK_BYTES, JournalTail
from procs.journal.writer import JournalWriter

STREAM = "ingestion"
KINDS = [Entry.FRAME] * 6 + [Entry.SNAPSHOT, Entry.TIMER, Entry.TIMER, Entry.LOST, Entry.DROPPED, Entry.START]


def write(writer: JournalWriter, dice: random.Random, count: int, largest: int = 200) -> None:
    for _ in range(count):
        writer.append(dice.choice(KINDS), dice.randbytes(dice.randint(0, largest)), 1000 + writer.ordinal, source=1)


def all_of(tail: JournalTail) -> list[JournalEntry]:
    entries: list[JournalEntry] = []
    while found := tail.read():
        entries += [entry for _, entry in found]
    return entries


def index_all(folder: Path, pause: bool = True) -> list[JournalEntry]:
    """One indexer's life: everything that is there."""
    indexer = StreamIndexer(folder, STREAM)
    entries: list[JournalEntry] = []
    while found := indexer.read():
        entries += found
        indexer.keep(pause=False)
    if pause:
        indexer.close()
    return entries


def test_a_tail_sees_every_entry_once_as_it_is_written_over_the_end_of_segments(tmp_path: Path) -> None:
    dice = random.Random(1)
    tail = JournalTail(tmp_path, STREAM)
    assert tail.read() == []  # there is nothing yet
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=4096)
    assert tail.read() == []
    seen: list[JournalEntry] = []
    for _ in range(300):
        write(writer, dice, dice.randint(0, 5))
        if dice.random() < 0.3 and writer.offset > writer.prepare_at:
            writer.prepare_next()  # a segment made ahead of need is not begun
        if dice.random() < 0.5:
            seen += all_of(tail)
            assert (tail.ordinal, tail.offset) == (writer.ordinal, writer.offset)
    seen += all_of(tail)
    writer.close()
    assert seen == list(read_stream(tmp_path, STREAM))
    assert tail.number > 5 and tail.read() == []
    tail.close()


def test_a_tail_goes_on_from_any_position(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=2048)
    write(writer, random.Random(2), 100)
    writer.close()
    tail, positions = JournalTail(tmp_path, STREAM), []
    while found := tail.read():
        positions += [(tail.number, offset, entry.ordinal) for offset, entry in found]
    whole = list(read_stream(tmp_path, STREAM))
    for number, offset, ordinal in positions:
        assert all_of(JournalTail(tmp_path, STREAM, number, offset, ordinal)) == whole[ordinal:]


def test_an_entry_larger_than_a_chunk_comes_whole(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=8 * CHUNK_BYTES)
    body = random.Random(3).randbytes(3 * CHUNK_BYTES + 5)
    writer.append(Entry.FRAME, b"before", 1)
    writer.append(Entry.SNAPSHOT, body, 2)
    writer.append(Entry.FRAME, b"after", 3)
    writer.close()
    assert [entry.payload for entry in all_of(JournalTail(tmp_path, STREAM))] == [b"before", body, b"after"]


def test_what_is_torn_is_not_there_until_the_writers_successor_has_written_it(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=4096)
    write(writer, random.Random(4), 5)
    writer.append(Entry.FRAME, b"torn" * 20, 9)
    path = segment_path(tmp_path, STREAM, 0)
    with path.open("r+b") as file:
        file.seek(writer.offset - 4)
        file.write(b"\0")
    tail = JournalTail(tmp_path, STREAM)
    assert len(all_of(tail)) == 5
    successor = JournalWriter(tmp_path, STREAM, "s", segment_bytes=4096, resume=True)
    assert tail.read() == []
    successor.append(Entry.FRAME, b"whole", 10)
    assert [entry.payload for entry in all_of(tail)] == [b"whole"]
    successor.close()


def test_a_hole_between_segments_is_an_error(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=1024)
    write(writer, random.Random(5), 60)
    writer.close()
    segment_path(tmp_path, STREAM, 1).rename(tmp_path / "aside")
    segment_path(tmp_path, STREAM, 2).rename(segment_path(tmp_path, STREAM, 1))
    with pytest.raises(JournalError, match="follows entry"):
        all_of(JournalTail(tmp_path, STREAM))


def scan(folder: Path, *, ordinal: int | None = None, ingest_id: int | None = None) -> JournalEntry | None:
    """The oracle: every entry, from the beginning."""
    frames = 0
    for entry in read_stream(folder, STREAM):
        frames += entry.kind in (Entry.FRAME, Entry.SNAPSHOT)
        if entry.ordinal == ordinal or (frames == ingest_id and entry.kind in (Entry.FRAME, Entry.SNAPSHOT)):
            return entry
    return None


@pytest.mark.parametrize("state", ["complete", "half", "none", "torn"])
def test_finding_gives_what_a_full_scan_gives(tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MARK_EVERY", 7)
    dice = random.Random(6)
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=4096)
    write(writer, dice, 150)
    if state != "none":
        index_all(tmp_path)
    if state in ("half", "none"):
        write(writer, dice, 150)
    writer.close()
    if state == "torn":
        path = index_path(tmp_path, STREAM, 2)
        path.write_bytes(path.read_bytes()[:-50] + b"\1" * 20)
    last = writer.ordinal
    frames = sum(entry.kind in (Entry.FRAME, Entry.SNAPSHOT) for entry in read_stream(tmp_path, STREAM))
    for wanted in (0, 1, 2, last - 1, last, last + 1, *dice.sample(range(1, last), 40)):
        assert find_entry(tmp_path, STREAM, ordinal=wanted) == scan(tmp_path, ordinal=wanted)
    for wanted in (0, 1, frames, frames + 1, *dice.sample(range(1, frames), 40)):
        found = find_entry(tmp_path, STREAM, ingest_id=wanted)
        assert found == scan(tmp_path, ingest_id=wanted)
        assert (found is None) == (not 1 <= wanted <= frames)


def test_finding_reads_no_more_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything before the mark may be rubbish: nobody looks at it."""
    monkeypatch.setattr(index_module, "MARK_EVERY", 16)
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=16384)
    write(writer, random.Random(7), 400)
    writer.close()
    whole = list(read_stream(tmp_path, STREAM))
    index_all(tmp_path)
    last = read_indexes(tmp_path, STREAM)[-1]
    first_kept = last.marks[-2]
    for number in range(last.number):
        path = segment_path(tmp_path, STREAM, number)
        path.write_bytes(path.read_bytes()[: FILE_HEADER.size])
    path = segment_path(tmp_path, STREAM, last.number)
    data = path.read_bytes()
    path.write_bytes(data[: FILE_HEADER.size] + bytes(first_kept.offset - FILE_HEADER.size) + data[first_kept.offset :])
    assert find_entry(tmp_path, STREAM, ordinal=len(whole)) == whole[-1]
    assert find_entry(tmp_path, STREAM, ordinal=first_kept.ordinal + 1) == whole[first_kept.ordinal]
    # An index that is missing elsewhere harms nothing; without any the scan stops at what is rubbish.
    index_path(tmp_path, STREAM, 0).unlink()
    assert find_entry(tmp_path, STREAM, ordinal=len(whole)) == whole[-1]
    for number in range(1, last.number + 1):
        index_path(tmp_path, STREAM, number).unlink()
    with pytest.raises(JournalError):
        find_entry(tmp_path, STREAM, ordinal=len(whole))


def test_what_the_index_says_of_a_segment(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, STREAM, "s", segment_bytes=65536)
    write(writer, random.Random(8), 3 * MARK_EVERY + 10)
    writer.close()
    entries = list(read_stream(tmp_path, STREAM))
    assert index_all(tmp_path) == entries
    indexes = read_indexes(tmp_path, STREAM)
    assert [each.number for each in indexes] == list(range(len(indexes))) and len(indexes) > 1
    reached = 0
    for each in indexes:
        assert each.first_ordinal == reached + 1
        assert each.first_ts_ns == entries[reached].ts_ns
        reached = each.last.ordinal
        assert each.last.ts_ns == entries[reached - 1].ts_ns
        frames = sum(entry.kind in (Entry.FRAME, Entry.SNAPSHOT) for entry in entries[:reached])
        assert each.last.ingest_id == frames
        assert each.last.offset == segment_path(tmp_path, STREAM, each.number).stat().st_size
        ordinals = [mark.ordinal for mark in each.marks]
        assert max(b - a for a, b in pairwise(ordinals)) <= MARK_EVERY
        assert each.intact(tmp_path)
    assert reached == len(entries)
    path = segment_path(tmp_path, STREAM, 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not indexes[0].intact(tmp_path) and indexes[1].intact(tmp_path)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_indexers_that_die_anywhere_leave_one_whole_index(
    tmp_path_factory: pytest.TempPathFactory, seed: int, every: int
) -> None:
    """Some are killed before they keep, some leave a torn mark: what was not kept is read again, none is left out."""
    dice, folder = random.Random(seed), tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "MARK_EVERY", every)
        writer = JournalWriter(folder, STREAM, "s", segment_bytes=2048)
        for _ in range(6):
            write(writer, dice, dice.randint(0, 30), 100)
            indexer = StreamIndexer(folder, STREAM)
            for _ in range(dice.randint(0, 8)):
                before = indexer.ordinal
                found = indexer.read()
                assert [entry.ordinal for entry in found] == list(range(before + 1, before + 1 + len(found)))
                if dice.random() < 0.2:
                    break  # dies with what it read
                indexer.keep(pause=dice.random() < 0.5)
            indexes = read_indexes(folder, STREAM)
            if indexes and dice.random() < 0.5:
                path = index_path(folder, STREAM, indexes[-1].number)
                os.truncate(path, max(0, path.stat().st_size - dice.randint(1, 50)))
        writer.close()
        index_all(folder)
        entries = list(read_stream(folder, STREAM)) if writer.ordinal else []
        indexes = read_indexes(folder, STREAM)
        assert (indexes[-1].last.ordinal if indexes else 0) == len(entries)
        assert all(each.intact(folder) for each in indexes)
        for wanted in range(1, len(entries) + 1, 7):
            assert find_entry(folder, STREAM, ordinal=wanted) == entries[wanted - 1]


def test_an_index_that_is_no_index_is_none(tmp_path: Path) -> None:
    assert read_index(tmp_path, STREAM, 0) is None
    index_path(tmp_path, STREAM, 0).write_bytes(b"x" * 200)
    assert read_index(tmp_path, STREAM, 0) is None


def test_questions_that_make_no_sense(tmp_path: Path) -> None:
    for question in ({}, {"ordinal": 1, "ingest_id": 1}):
        with pytest.raises(ValueError, match="either an ordinal or an ingest id"):
            find_entry(tmp_path, STREAM, **question)
    with pytest.raises(ValueError, match="'gateway' have no ingest id"):
        find_entry(tmp_path, "gateway", ingest_id=1)
    assert find_entry(tmp_path, "gateway", ordinal=1) is None
