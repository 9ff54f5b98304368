"""Session logs: every kind of line, clear errors, and every recorded log against a count by patterns."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from procs.captures import CaptureError
from procs.session_logs import Direction, SessionLine, session_lines
from tests.recordings import recordings_root

LOG = (
    b"wss://ws.kraken.com <-> 1618678132.368463\n"
    b'wss://ws.kraken.com <- 1618678132.83097: {"event":"subscribe"}\n'
    b"\n"
    b'1618678132.9348202: {"text":"a: b -> c"}\n'
    b"https://api.kraken.com/0/public/AssetPairs -> 1618678133: {}\n"
    b"1618678134.5: \xff\n"
    b'configuration: {"trades":["BTC-USD"]}\n'
)


def test_every_kind_of_line(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(LOG)
    url, rest = "wss://ws.kraken.com", "https://api.kraken.com/0/public/AssetPairs"
    expected = [
        SessionLine(1, 1618678132_368463000, url, Direction.OPENED, b""),
        SessionLine(2, 1618678132_830970000, url, Direction.SENT, b'{"event":"subscribe"}'),
        SessionLine(4, 1618678132_934820200, url, Direction.RECEIVED, b'{"text":"a: b -> c"}'),
        SessionLine(5, 1618678133_000000000, rest, Direction.REST, b"{}"),
        SessionLine(6, 1618678134_500000000, url, Direction.RECEIVED, b"\xff"),
        SessionLine(7, 1618678134_500000000, url, Direction.CONFIGURATION, b'{"trades":["BTC-USD"]}'),
    ]
    assert list(session_lines(path)) == expected
    packed = tmp_path / "log.txt.gz"
    packed.write_bytes(gzip.compress(LOG))
    assert list(session_lines(packed)) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"hello", b"wss://x <-> tea", b"wss://x <-> 1.5: text", b"wss://x <- 1.5", b"1.5", b"1.2.3: x",
        b"1.1234567891: x", b"12345678901: x", b'1618678132368463000 {"a":1}', b'{"a":1}', b"\x00\xff",
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"1.5: fine\n\n" + line + b"\n")
    lines = session_lines(path)
    assert next(lines).data == b"fine"
    with pytest.raises(CaptureError, match=re.escape(f"{path}, line 3: not a line of a session log")):
        next(lines)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"absent\.txt: No such file"):
        list(session_lines(tmp_path / "absent.txt"))
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(LOG * 50)[:-20])
    with pytest.raises(CaptureError, match=r"torn\.gz"):
        list(session_lines(torn))
    other = tmp_path / "other.gz"
    other.write_bytes(LOG)
    with pytest.raises(CaptureError, match=r"other\.gz"):
        list(session_lines(other))


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"1.5: " + b"x" * 1000 + b"\n" + LOG * 20_000)
    tracemalloc.start()
    total = sum(1 for _ in session_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 120_001
    assert peak < 1_000_000


PATTERNS = {
    Direction.RECEIVED: rb"^[0-9.]+: ",
    Direction.OPENED: rb"^[a-z]+:[^ ]+ <-> ",
    Direction.SENT: rb"^[a-z]+:[^ ]+ <- ",
    Direction.REST: rb"^[a-z]+:[^ ]+ -> ",
    Direction.CONFIGURATION: rb"^configuration: ",
}


@pytest.mark.recordings
def test_every_recorded_session_log() -> None:
    paths = sorted((recordings_root() / "ws").rglob("cf_*.txt.gz"))
    if not paths:
        pytest.skip(f"no session logs under {recordings_root()} (set BOT4_RECORDINGS)")
    for path in paths:
        text = gzip.decompress(path.read_bytes())
        expected = {way: len(re.findall(pattern, text, re.MULTILINE)) for way, pattern in PATTERNS.items()}
        lines = list(session_lines(path))
        counted = Counter(line.direction for line in lines)
        assert {way: counted[way] for way in Direction} == expected, path
        times = [line.ts_ns for line in lines if line.direction is Direction.RECEIVED]
        assert all(10**18 < time < 2 * 10**18 for time in times), path
