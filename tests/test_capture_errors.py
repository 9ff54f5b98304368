"""What is wrong with a capture is said with its file: versions, damage, missing parts, somebody else's files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import orjson
import pytest

from procs.capture.layout import CaptureEntry, segment_header, segment_path
from procs.capture.manifest import FILE
from procs.captures import CaptureError
from tests.test_capture import NS, read, written
from tools.cli import main


def _edited(folder: Path, **changes: object) -> None:
    content = orjson.loads((folder / FILE).read_bytes())
    (folder / FILE).write_bytes(orjson.dumps(content | changes))


def _first_segment(folder: Path, content: bytes) -> None:
    segment_path(folder, 0).write_bytes(content)


ID = "0123456789abcdef"
SPOILT = {
    "there is no such folder": shutil.rmtree,
    "not a capture (no capture.json)": lambda folder: (folder / FILE).unlink(),
    "of version 2 of the format; this engine reads 1": lambda folder: _edited(folder, version=2),
    "changed since it was written": lambda folder: _edited(folder, venue="kraken"),
    "no description of a capture (JSONDecodeError)": lambda folder: (folder / FILE).write_bytes(b"{"),
    "no description of a capture (TypeError)": lambda folder: (folder / FILE).write_bytes(b"[1]"),
    "no description of a capture (KeyError)": lambda folder: (folder / FILE).write_bytes(b"{}"),
    "capture.json: is a symbolic link": lambda folder: (
        (folder / FILE).rename(folder / "elsewhere"), (folder / FILE).symlink_to("elsewhere")
    ),
    "lets others write it": lambda folder: folder.chmod(0o777),
    "segment-000000.capture: mode 0666 lets others write it": lambda folder: segment_path(folder, 0).chmod(0o666),
    "segment-000000.capture is missing": lambda folder: segment_path(folder, 0).unlink(),
    "segment-000001.capture is missing": lambda folder: segment_path(folder, 1).unlink(),
    "segment-000000.capture: not a segment of a capture": lambda folder: _first_segment(folder, b"B4JRNL01" * 9),
    "of another version of the format (b'02')": lambda folder: _first_segment(folder, b"B4CAPT02" * 9),
    "says it is segment 1": lambda folder: _first_segment(folder, segment_header(ID, 1, 1)),
    "begins with entry 7, but entry 1 is next": lambda folder: _first_segment(folder, segment_header(ID, 0, 7)),
    "belongs to another capture": lambda folder: _first_segment(folder, segment_header("f" * 16, 0, 1)),
    "ends within the block at byte 44 (entries from 1 on)": lambda folder: os.truncate(segment_path(folder, 0), 99),
    "the segment's header is damaged": lambda folder: os.truncate(segment_path(folder, 0), 43),
}  # fmt: skip


@pytest.mark.parametrize("words", SPOILT)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, words: str) -> None:
    entries = [CaptureEntry(n, NS + n, 1, 0, 0, "", os.urandom(90)) for n in range(1, 60)]
    folder = written(tmp_path / "c", entries)
    assert segment_path(folder, 2).exists() and read(folder) == entries
    SPOILT[words](folder)
    with pytest.raises(CaptureError) as caught:
        read(folder)
    assert words in str(caught.value) and str(caught.value).startswith(str(folder))


def test_a_folder_that_we_may_not_look_into_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user would see it whom root, who may run this test, is not."""
    folder = written(tmp_path / "c", [CaptureEntry(1, NS, 1, 0, 0, "", b"x")])

    def refuse(path: Path) -> bool:
        if path.parent == folder or path.name == "hidden":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return os.path.exists(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    for command in ("replay", "play"):
        assert main([command, str(folder)]) == 1
        assert capsys.readouterr().err == f"bot4: {folder}: Permission denied\n"
    monkeypatch.setattr(Path, "exists", refuse)
    assert main(["replay", str(tmp_path / "hidden")]) == 2
    assert capsys.readouterr().err == f"bot4: {tmp_path / 'hidden'}: Permission denied\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", FILE, "segment-000000.capture"])
def test_what_belongs_to_somebody_else_is_not_believed(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "c", [CaptureEntry(1, NS, 1, 0, 0, "", b"x")])
    os.chown(folder / name, 12345, 12345)
    with pytest.raises(CaptureError, match="belongs to user 12345"):
        read(folder)
