"""What `bot4 run` does around its console: whose terminal it is, what is said meanwhile, a console that is killed."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.instance import Plan
from shm.clock import python_monotonic_ns
from tests.instance_memory import attachable, small_instance
from tests.terminals import on_terminal
from tests.waiting import until
from tools import beside
from tools.beside import Beside, console_arguments
from tools.voice import Voice


@pytest.fixture
def flag() -> Iterator[int]:
    made = os.memfd_create("test-flag")
    yield made
    os.close(made)


# --- whose terminal it is -------------------------------------------------------------------------------------------


def options(**changed: object) -> argparse.Namespace:
    return argparse.Namespace(**({"no_console": False, "json": False, "config": Path("a.toml")} | changed))


def test_a_console_is_opened_on_a_terminal_that_is_all_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert console_arguments(options()) is None, "the tests have no terminal"
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())
    assert console_arguments(options()) == ["--config", "a.toml"] and console_arguments(options(config=None)) == []
    assert console_arguments(options(json=True)) is None and console_arguments(options(no_console=True)) is None
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    assert console_arguments(options()) is None, "it runs in the background"

    def none(fd: int) -> int:
        raise OSError(errno.ENOTTY, "no terminal of this session")

    monkeypatch.setattr(os, "tcgetpgrp", none)
    assert console_arguments(options()) is None
    monkeypatch.undo()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    assert console_arguments(options()) is None


# --- what is said ---------------------------------------------------------------------------------------------------


def lines_of(folder: Path) -> list[str]:
    return [text.split("Z ", 1)[1] for text in (folder / "supervisor.log").read_text().splitlines()]


def test_everything_said_is_kept_and_shown_only_while_the_terminal_is_free(flag: int, tmp_path: Path) -> None:
    shown = io.StringIO()
    voice = Voice(shown, flag)
    voice.say("starting")
    voice.keep(tmp_path)
    voice.show("a status line")
    os.pwrite(flag, b"\1", 0)
    voice.say("a process died")
    voice.show("another status line")
    os.pwrite(flag, b"\0", 0)
    voice.say("stopping")
    assert shown.getvalue() == "starting\na status line\nstopping\n"
    assert lines_of(tmp_path) == ["starting", "a process died", "stopping"]
    assert (tmp_path / "supervisor.log").stat().st_mode & 0o777 == 0o600


def test_last_words_wait_for_the_terminal_and_not_for_ever(
    flag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = Voice(io.StringIO(), flag)
    voice.await_terminal()
    os.pwrite(flag, b"\1", 0)
    timer = threading.Timer(0.3, lambda: os.pwrite(flag, b"\0", 0))
    began = python_monotonic_ns()
    timer.start()
    voice.await_terminal()
    assert python_monotonic_ns() - began >= 300_000_000
    timer.join()
    os.pwrite(flag, b"\1", 0)
    monkeypatch.setattr("tools.voice._PATIENCE_NS", 1000)
    voice.await_terminal()


class Broken(io.StringIO):
    """A stream that fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


def test_a_terminal_that_was_closed_is_no_reason_to_end_otherwise_than_in_order(flag: int, tmp_path: Path) -> None:
    closed = Voice(Broken(errno.EIO), flag)
    closed.keep(tmp_path)
    closed.say("stopping")
    assert lines_of(tmp_path) == ["stopping"]
    with pytest.raises(BrokenPipeError):
        Voice(Broken(errno.EPIPE), flag).say("nobody reads this pipe")


def test_a_log_that_cannot_be_written_ends_nothing(flag: int, tmp_path: Path) -> None:
    voice = Voice(shown := io.StringIO(), flag)
    voice.keep(tmp_path / "gone")
    voice.say("going on")
    assert shown.getvalue() == "going on\n"


# --- the console beside ---------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=64) as made:
        yield made


def test_a_console_that_is_killed_leaves_the_terminal_as_it_was(plan: Plan, tmp_path: Path) -> None:
    """The launcher gives back what a killed console cannot, and says afterwards what it had to say meanwhile."""

    def launcher() -> int:
        made = Beside(["--config", str(config)])
        assert os.pread(made.flag, 1, 0) == b"" and beside.console_arguments(options()) is None
        made.open()
        assert os.pread(made.flag, 1, 0) == b"\1" and made._console is not None
        made.open()  # once is enough
        (tmp_path / "pid").write_text(str(made._console.pid))
        made.say("bot4: said meanwhile")
        pid, status = os.waitpid(-1, 0)
        made.reaped(pid + 1, status)
        assert os.pread(made.flag, 1, 0) == b"\1", "it was somebody else"
        made.reaped(pid, status)
        assert os.pread(made.flag, 1, 0) == b"\0"
        made.say("bot4: said at once")
        made.close()
        return 0

    with attachable(plan, tmp_path) as config, on_terminal(launcher) as terminal:
        until(lambda: b"[1 Engine]" in terminal.output, "console", 90)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        code, errors = terminal.end()
        assert code == 0, errors
        assert errors.splitlines() == [
            "bot4: said meanwhile", "bot4: the console was ended by SIGKILL; lines from here on", "bot4: said at once",
        ]


def test_without_a_console_everything_is_said_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    made = Beside(None)
    made.open()
    made.say("bot4: a word")
    made.reaped(1, 0)
    made.close()
    assert capfd.readouterr().err == "bot4: a word\n" and os.pread(made.flag, 1, 0) == b""
    os.close(made.flag)
