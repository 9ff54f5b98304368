"""The command line as a person meets it: exit codes, one JSON object, words instead of tracebacks."""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from procs import VERSION
from procs.attach import plan_path
from shm.control import ControlBlock
from shm.segment import unlink_all
from tests.recordings import open_capture, require_capture
from tools import cli
from tools.text import parse_duration
from tools.usage import UsageError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
OK, FINDING, USAGE = 0, 1, 2


def bot4(*arguments: str, cwd: Path = PROJECT_ROOT) -> subprocess.CompletedProcess[str]:
    """One command to its end; whatever happens, no traceback is to be seen."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=100,
        check=False, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A configuration with an instance name that nobody else has."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    path = tmp_path / "bot4.toml"
    path.write_text(f'[engine]\nname = "{name}"\ndata_folder = "{tmp_path}/var"\n')
    yield path
    unlink_all(name)
    plan_path(name).unlink(missing_ok=True)


def instance_name(config: Path) -> str:
    return config.read_text().split('"')[1]


def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bot4")), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    commands = ("run", "replay", "status", "latency", "kill", "venue", "check")
    assert all(f"    {name} " in done.stdout for name in commands)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("run", "--for", "soon"), "'soon' is no duration; write 30s, 5m or 1h"),
        (("run", "--for", "0s"), "'0s' is no duration"),
        (("run", "--for", "-5s"), "argument --for: expected one argument"),
        (("run", "--placement", "everywhere"), "argument --placement: invalid choice: 'everywhere'"),
        (("replay",), "the following arguments are required: SOURCE"),
        (("replay", "x", "--fills", "maybe"), "argument --fills: invalid choice: 'maybe'"),
        (("venue", "--port", "http"), "argument --port: invalid int value: 'http'"),
        (("check", "--config"), "argument --config: expected one argument"),
    ],
)  # fmt: skip
def test_bad_usage_exits_with_2_before_anything_is_imported(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == USAGE
    said = capsys.readouterr()
    assert said.out == "" and words in said.err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == OK and capsys.readouterr().out == f"bot4 {VERSION}\n"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command: here in the process, or for `run`, which makes others, outside."""
    if arguments[0] == "run":
        command = [sys.executable, "-m", "tools.cli", *arguments]
        ended = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False)
        return ended.returncode, ended.stdout, ended.stderr
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay", "x", "--speed", "fast"), "--speed fast: allowed are max, or a factor such as 1x or 10x"),
        (("replay", "x", "--speed", "0x"), "--speed 0x: allowed are max"),
        (("replay", "x", "--fills", "sim"), "--fills sim: captures are replayed without fills as yet"),
        (("replay", "x", "--summary", "/no/such/folder/s.json"), "/no/such/folder/s.json: a file in a folder"),
        (("run", "--summary", "/proc"), "--summary /proc: a file in a folder"),
        (("run", "--config", "/no/such.toml"), "/no/such.toml: No such file or directory"),
    ],
)  # fmt: skip
def test_usage_that_makes_no_sense_together_exits_with_2(
    arguments: tuple[str, ...], words: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--config" in arguments else (*arguments, "--config", str(config))
    code, _, said = call(capsys, *given)
    assert code == USAGE
    assert said.startswith("bot4: ") and words in said and "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "status", "latency", "kill", "check", "venue", "replay"])
def test_every_command_refuses_a_configuration_that_is_not_sound(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bot4.toml"
    arguments = [command, "--config", str(path), "--json", *(["capture.raw"] if command == "replay" else [])]
    for text, words in (
        ("[engine", "Expected ']'"),
        ("[engine]\nnmae = 'x'\n", "engine.nmae: unknown key; did you mean 'name'?"),
        ("[engine]\nname = '../x'\n", "engine.name = '../x': allowed are 1 to 32"),
        ("[maker]\nrequote_ticks = 0\n", "requote_ticks is 0: at least 1 is needed"),
    ):
        path.write_text(text)
        code, out, said = call(capsys, *arguments)
        assert code == USAGE
        assert out == ""
        assert said.startswith(f"bot4: {path}: ") and words in said
        assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "arguments", "code", "words"),
    [
        ('[embedded]\nhost = "192.0.2.1"\n', (), FINDING, "venue.host = '192.0.2.1': allowed is a loopback address"),
        ("", ("--placement", "pinned"), USAGE, "engine.placement = 'pinned': 16 cores are needed"),
    ],
)  # fmt: skip
def test_run_that_cannot_start_says_why_and_leaves_nothing(
    settings: str, arguments: tuple[str, ...], code: int, words: str, config: Path
) -> None:
    if arguments and len(os.sched_getaffinity(0)) >= 16:
        pytest.skip("this machine has 16 cores")
    config.write_text(config.read_text() + settings)
    done = bot4("run", "--for", "1s", "--json", "--config", str(config), *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("bot4: ") and words in done.stderr
    assert not list(Path("/dev/shm").glob(f"*{instance_name(config)}*"))


@pytest.mark.parametrize("command", ["status", "latency", "kill"])
def test_without_an_engine(command: str, config: Path) -> None:
    done = bot4(command, "--json", "--config", str(config))
    assert (done.returncode, done.stdout) == (FINDING, "")
    assert done.stderr.startswith(f"bot4: no engine named {instance_name(config)!r} is running")
    assert not list(Path("/dev/shm").glob(f"*{instance_name(config)}*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"{}", b'{"settings": {}}', b"\xff"])
def test_status_of_a_plan_that_is_unfinished_or_foreign(
    content: bytes, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_path(instance_name(config)).write_bytes(content)
    assert cli.main(["status", "--config", str(config)]) == FINDING
    assert capsys.readouterr().err == f"bot4: no engine named {instance_name(config)!r} is running\n"


def test_kill_sets_the_word_of_an_engine_whose_supervisor_died_and_says_so(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = ControlBlock.create(instance=instance_name(config), kernel_digest="0" * 64)
    gone = subprocess.Popen(["true"])
    gone.wait()
    control.supervisor_pid = gone.pid
    assert cli.main(["kill", "--json", "--config", str(config)]) == FINDING
    said = capsys.readouterr()
    answer = orjson.loads(said.out)
    assert answer["tripped_by"] == ["operator"] and answer["emergency_word"] == control.word != 0
    assert "its supervisor is dead" in said.err
    control.supervisor_pid = os.getpid()
    assert cli.main(["kill", "--config", str(config)]) == OK
    said = capsys.readouterr()
    assert said.err == "" and "emergency word set by operator (trip 2); cancelling everything" in said.out
    control.close()


def test_check_with_a_model_that_is_not_there_is_a_finding(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + '[model]\npath = "/no/such.onnx"\n')
    assert cli.main(["check", "--json", "--config", str(config)]) == FINDING
    said = capsys.readouterr()
    answer = orjson.loads(said.out)
    assert len(answer["findings"]) == 1 and "/no/such" in answer["findings"][0]
    assert said.err == f"bot4: {answer['findings'][0]}\n"


def test_check_says_what_the_market_does_not_have(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + "[feed]\nbook_levels = 20\n")
    words = "feed.book_levels = 20: binance_usdm tells of every level"
    assert cli.main(["check", "--json", "--config", str(config)]) == OK
    assert orjson.loads(capsys.readouterr().out)["ignored"] == [words]
    assert cli.main(["check", "--config", str(config)]) == OK
    assert f"# ignored: {words}\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def short_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 3,000 lines of a recording."""
    path = tmp_path_factory.mktemp("capture") / "short.raw.gz"
    whole = open_capture(require_capture("ws/binance-usdm/btcusdt_20230404.raw.gz"))
    with gzip.open(path, "wb", 1) as file:
        for ts_ns, frame in itertools.islice(whole, 3000):
            file.write(b"%d %s\n" % (ts_ns, frame))
    return path


def test_replay_prints_exactly_one_object_and_the_summary_file_is_the_same(
    short_capture: Path, config: Path, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.json"
    done = bot4("replay", str(short_capture), "--json", "--summary", str(summary), "--config", str(config))
    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout.count("\n") == 1
    answer = orjson.loads(done.stdout)
    assert answer == orjson.loads(summary.read_bytes())
    wanted = {
        "engine", "stages", "rings", "unaccounted", "market", "decisions", "orders", "fills", "positions", "cash",
        "pnl", "ledger_matches_venue", "decision_hash", "latency_us", "memory_mb",
    }
    assert wanted <= set(answer)
    assert answer["unaccounted"] == 0 and answer["market"]["frames"] == 3000
    assert {"version", "config_hash", "kernel_digest", "mode", "placement", "duration_s"} <= set(answer["engine"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.raw", None, "there is no such file or folder"),
        ("empty.raw", b"", "empty.raw: holds no market data"),
        ("words.raw", b"hello world\n", "line 1: not RECEIVE_TIME FRAME"),
        ("cut.raw.gz", gzip.compress(b"1" * 100, mtime=0)[:14], "ended before the end-of-stream marker"),
        ("flipped.raw.gz", b"", "Error -3 while decompressing"),
        ("plain.raw.gz", b"1 {}", "Not a gzipped file"),
        ("other.raw", b'1680652700016000000 {"data": {"s": "X", "e": "depthUpdate"}}\n', "line 1: no market data"),
        ("folder", {}, "neither a session (no session.json) nor a capture (no capture.json)"),
        ("folder", {"session.json": b"[1]"}, "no session folder (TypeError in session.json)"),
        ("folder", {"session.json": b"{}"}, "no session folder (KeyError in session.json)"),
        ("folder", {"session.json": b'{"settings": 5, "instruments": []}'}, "no session folder (AttributeError"),
        ("folder", {"session.json": b'{"settings": {"new": 5}, "instruments": []}'}, "session.json: new: unknown key"),
        ("folder", {"session.json": b'{"settings": {}, "instruments": []}'}, "session.json names no instrument"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_named(
    name: str, content: bytes | dict[str, bytes] | None, words: str, tmp_path: Path, config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if name == "flipped.raw.gz":
        stamps = np.random.default_rng(1).integers(10**18, 10**19, 400, np.uint64)
        text = b"".join(b"%d {}\n" % stamp for stamp in stamps)
        whole = bytearray(gzip.compress(text))
        whole[1500:1510] = bytes(10)
        path.write_bytes(bytes(whole))
    elif isinstance(content, dict):
        path.mkdir()
        for file, data in content.items():
            (path / file).write_bytes(data)
    elif content is not None:
        path.write_bytes(content)
    # A name that leads nowhere is bad usage; what is there and cannot be used is a finding.
    wanted = USAGE if name == "gone.raw" else FINDING
    assert cli.main(["replay", str(path), "--json", "--config", str(config)]) == wanted
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1
    assert said.err.startswith(f"bot4: {path}") and words in said.err
    assert "should not happen" not in said.err


def test_fills_of_a_session_cannot_be_chosen(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    instrument = {
        "index": 0, "symbol": "X", "base": "X", "quote": "", "price_exp": 2, "size_exp": 3, "tick_size": 10,
        "lot_size": 1, "min_notional": 0,
    }
    (tmp_path / "session.json").write_bytes(orjson.dumps({"settings": {}, "instruments": [instrument]}))
    assert cli.main(["replay", str(tmp_path), "--fills", "none", "--config", str(config)]) == USAGE
    assert "--fills: a session's journal holds its own fills" in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: argparse.Namespace, arguments: object) -> int:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["check"]) == FINDING
    said = capsys.readouterr().err
    assert said.startswith("bot4: ZeroDivisionError: by nothing (test_cli.py, line ") and said.count("\n") == 1


def test_ctrl_c_and_usage_errors_keep_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((KeyboardInterrupt(), FINDING), (UsageError("x"), USAGE)):
        def fail(options: argparse.Namespace, arguments: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(cli, "_run", fail)
        assert cli.main(["check"]) == code


def test_a_reader_that_goes_away_is_no_error(config: Path) -> None:
    """`bot4 check | head -1`: quiet, whatever the size of the rest."""
    command = [sys.executable, "-m", "tools.cli", "check", "--config", str(config)]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) in (OK, FINDING)
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5m", 90), ("2h", 7200), ("500ms", 0.5), ("1d", 86400), ("7", 7), (" 3s ", 3)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "0", "0.0s", "-1s", "1e3", "inf", "nan", "5 minutes", "1:30", ".5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no duration"):
        parse_duration(text)
