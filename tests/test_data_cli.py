"""`bot4 data`, and `bot4 replay` of captures and parts: what is printed, and what cannot be done said in a line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson
import pytest

from procs.capture.overview import overview
from tests.test_capture_sources import NS, SECOND, kinds_of_sources, spaced, two_symbols
from tests.test_captures import ticker, write
from tools import cli
from tools.text import parse_symbols, parse_time


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bot4.toml"
    path.write_text("")
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    assert cli.main([*map(str, words), "--json"]) == 0
    return orjson.loads(capsys.readouterr().out)


def test_convert_show_and_replay(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = spaced(tmp_path / "a.raw", two_symbols())
    shown = told(capsys, "data", "convert", raw, tmp_path / "own")
    assert shown == told(capsys, "data", "show", tmp_path / "own") == overview(tmp_path / "own")
    assert shown["entries"] == 401 and shown["kinds"] == {"frame": 401} and shown["of_no_symbol"] == 1
    assert shown["symbols"] == {"BTCUSDT": 200, "ETHUSDT": 200} and shown["market"] == "BINANCE_USDM"
    assert (shown["seconds"], shown["longest_silence_s"], shown["losses"]) == (400.0, 1.0, 0)
    assert shown["data_bytes"] == sum(map(len, two_symbols())) and shown["ratio"] > 3
    assert cli.main(["data", "show", str(tmp_path / "own")]) == 0
    assert "401 entries: frame 401" in capsys.readouterr().out
    first = told(capsys, "replay", raw, "--config", config)
    assert told(capsys, "replay", tmp_path / "own", "--config", config)["decision_hash"] == first["decision_hash"]
    part = ["--from", "2023-11-14T22:13:30Z", "--to", f"{NS // SECOND + 100}", "--symbols", "ETHUSDT"]
    some = told(capsys, "replay", tmp_path / "own", "--config", config, *part)
    assert some["market"]["frames"] == 45
    assert some["decision_hash"] == told(capsys, "replay", raw, "--config", config, *part)["decision_hash"]


def test_a_torn_end_is_left_out_and_said(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, own = spaced(tmp_path / "a.raw", two_symbols()), tmp_path / "own"
    told(capsys, "data", "convert", raw, own)
    with (own / "segment-000000.capture").open("ab") as file:
        file.write(b"half a block")
    assert cli.main(["replay", str(own), "--config", str(config)]) == 0
    said = capsys.readouterr()
    assert f"bot4: {own}: the last 12 bytes are torn, or being written: they are left out\n" == said.err
    assert said.out.startswith(f"{own}: 401 frames")


def test_a_part_of_a_session_is_an_open_loop_and_must_be_asked_for_as_one(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = kinds_of_sources(tmp_path, two_symbols())["session"]
    part = ["replay", str(session), "--config", str(config), "--to", f"{NS // SECOND + 10}"]
    assert cli.main(part) == 2
    assert "replayed without fills (--fills none)" in capsys.readouterr().err
    assert told(capsys, *part, "--fills", "none")["market"]["frames"] == 10


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["data", "show", "gone"], 2, "gone: there is no such file or folder"),
        (["data", "show", "."], 1, "not a capture (no capture.json)"),
        (["data", "convert", "gone.raw", "new"], 2, "gone.raw: there is no such file or folder"),
        (["data", "convert", ".", "new"], 1, ".: is no file"),
        (["data", "statistics", "."], 1, ".: neither a session (no session.json) nor a capture (no capture.json)"),
        (["replay", "."], 1, ".: neither a session (no session.json) nor a capture (no capture.json)"),
        (["data", "convert", "bot4.toml", "new"], 1, "bot4.toml, line 1: not RECEIVE_TIME FRAME"),
        (["replay", "a.raw", "--from", "20", "--to", "20"], 2, "--from: allowed is a time before that of --to"),
        (["replay", "a.raw", "--from", "1"], 0, ""),
        (["replay", "a.raw", "--symbols", "XUSDT"], 1, "a.raw: holds no XUSDT; it holds BTCUSDT"),
        (["replay", "a.raw", "--to", "1"], 1, "a.raw: nothing in it is of the times and symbols asked for"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.raw", ticker("1.0", "1", "1.5", "1"))
    (tmp_path / "bot4.toml").write_text("[engine]\n")
    assert cli.main(words) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == (code > 0) and "should not happen" not in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("1700000000", NS), ("1700000000.000000001", NS + 1), (" 1.5 ", 1_500_000_000),
        ("2023-11-14T22:13:20Z", NS), ("2023-11-14T22:13:20", NS), ("2023-11-14 23:13:20.25+01:00", NS + SECOND // 4),
        ("1970-01-02", 86_400 * SECOND), ("1969-12-31T23:59:59Z", -SECOND),
    ],
)  # fmt: skip
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "1.", ".5", "12345678901", "1.1234567891", "24:00", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        parse_time(text)


def test_symbols() -> None:
    assert parse_symbols("BTCUSDT") == ("BTCUSDT",) and parse_symbols("A, B") == ("A", "B")
    for text in ("", "A,", ",A", "A,A", "A,,B"):
        with pytest.raises(argparse.ArgumentTypeError, match="write different names"):
            parse_symbols(text)
