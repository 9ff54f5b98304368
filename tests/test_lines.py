"""Files of JSON lines: whole lines only, whatever became of the writer."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from procs.lines import LineFile


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_lines_come_one_after_the_other_and_a_successor_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    file = LineFile(path)
    assert file.last() is None
    file.append([])
    file.append([{"n": 1}, {"n": 2, "text": "\n"}])
    assert file.last() == {"n": 2, "text": "\n"}
    file.close()
    file.close()
    again = LineFile(path)
    assert again.last() == {"n": 2, "text": "\n"}
    again.append([{"n": 3}])
    again.close()
    assert [line["n"] for line in lines(path)] == [1, 2, 3]


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_a_torn_line_is_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.jsonl"
    whole = [{"n": 1, "text": "a" * size}, {"n": 2, "text": "b" * size}]
    file = LineFile(path)
    file.append(whole)
    file.close()
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for end, kept in ((len(data) - 1, 1), (first + 1, 1), (first, 1), (first - 1, 0), (1, 0), (0, 0)):
        path.write_bytes(data[:end])
        file = LineFile(path)
        assert lines(path) == whole[:kept]
        assert file.last() == (whole[kept - 1] if kept else None)
        file.append([{"n": 9}])
        file.close()
        assert lines(path) == [*whole[:kept], {"n": 9}]


def test_a_full_disk_leaves_nothing_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    file = LineFile(path)
    file.append([{"n": 1}])
    really, room = os.write, [5]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no room")
        count = really(descriptor, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="no room"):
        file.append([{"n": 2}])
    monkeypatch.undo()
    assert lines(path) == [{"n": 1}]
    file.append([{"n": 3}])
    assert lines(path) == [{"n": 1}, {"n": 3}]
    file.close()


def test_a_file_that_is_full_is_put_aside_and_the_one_before_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    file = LineFile(path, limit_bytes=100)
    for number in range(60):
        file.append([{"n": number}])
        assert path.stat().st_size <= 100 + 10
    file.close()
    kept = [line["n"] for line in lines(tmp_path / "x.jsonl.1") + lines(path)]
    assert kept == list(range(60 - len(kept), 60)) and len(kept) > 13
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.jsonl", "x.jsonl.1"]
