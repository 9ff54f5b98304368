"""Terminals for tests: a pseudo-terminal that one process sits on, and tmux with whole screens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.waiting import until

PROJECT_ROOT = Path(__file__).resolve().parent.parent
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (.ci/packages)")


class OnTerminal:
    """A forked process whose input and output are a pseudo-terminal; its standard error is kept apart."""

    def __init__(self, body: Callable[[], int], **environment: str) -> None:
        """body: what the process does; its result is the exit code."""
        self._ours, self._theirs = os.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self._before = termios.tcgetattr(self._theirs)
        errors, their_errors = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._play(body, their_errors, environment)
        os.close(their_errors)
        self._errors = os.fdopen(errors)
        self._status: int | None = None
        self.output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _play(self, body: Callable[[], int], errors: int, environment: dict[str, str]) -> NoReturn:
        code = 99
        try:
            os.setsid()
            for ours, theirs in enumerate((self._theirs, self._theirs, errors)):
                os.dup2(theirs, ours)
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(place, mode) for place, mode in enumerate("rww"))
            os.environ.pop("NO_COLOR", None)
            os.environ.update({"TERM": "xterm-256color"} | environment)
            code = body()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                self.output += data

    def press(self, keys: str) -> None:
        """Type; a byte that belongs to no character as its surrogate."""
        os.write(self._ours, keys.encode(errors="surrogateescape"))

    def wait_for(self, text: str) -> None:
        """Wait until something was drawn in one piece, as curses does on an empty screen."""
        until(lambda: text.encode() in self.output, text, 60)

    def end(self) -> tuple[int, str]:
        """Wait for the end: exit code and standard error. The terminal is as it was before, or this fails."""
        words = self._errors.read()
        self._status = os.waitpid(self.pid, 0)[1]
        assert termios.tcgetattr(self._theirs) == self._before, "the terminal was left in another state"
        if b"\x1b[?1049h" in self.output:
            until(lambda: self.output.rfind(b"\x1b[?1049l") > self.output.rfind(b"\x1b[?1049h"), "first screen", 5)
            assert self.output.rfind(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l"), "the cursor was left hidden"
        return os.waitstatus_to_exitcode(self._status), words

    def close(self) -> None:
        """End it, whatever has happened."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)
        self._errors.close()


@contextlib.contextmanager
def on_terminal(body: Callable[[], int], **environment: str) -> Iterator[OnTerminal]:
    """A function as a process of its own on a pseudo-terminal."""
    made = OnTerminal(body, **environment)
    try:
        yield made
    finally:
        made.close()


class Tmux:
    """A server of our own with one window, in which a shell runs."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._name = f"bot4-{uuid.uuid4().hex[:8]}"
        self._run("new-session", "-d", "-x", str(columns), "-y", str(lines), "env", "PS1=$ ", "sh")
        self.wait_for("$")  # what is typed before the shell is there may be lost

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-L", self._name, "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout

    def press(self, *keys: str) -> None:
        """Send keys by their tmux names, or text."""
        self._run("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self) -> str:
        """What is to be seen, without its colours."""
        return self._run("capture-pane", "-p")

    def wait_for(self, text: str, timeout_s: float = 30.0) -> str:
        """The first screen that holds a text. Raises AssertionError with what is there instead."""
        def shown() -> str:
            screen = self.screen()
            return screen if text in screen else ""

        try:
            return str(until(shown, text, timeout_s))
        except TimeoutError:
            raise AssertionError(f"no {text!r} in\n{self.screen()}") from None

    @property
    def restored(self) -> bool:
        """The first screen is shown, with its cursor."""
        return self._run("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip() == "0 1"

    def close(self) -> None:
        """End the server and all in it."""
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)


@contextlib.contextmanager
def tmux(columns: int = 80, lines: int = 24) -> Iterator[Tmux]:
    """A real terminal."""
    made = Tmux(columns, lines)
    try:
        yield made
    finally:
        made.close()


def masked(screen: str) -> list[str]:
    """Lines of a screen with every figure as 9, bars as [], and one space for many; empty ones left out."""
    text = re.sub(r"\[[#.]+\]", "[]", screen)
    text = re.sub(r"[-+]?\b[\d.,:]*\d[\d.,:]*(ns|us|ms|s|m\d+s|h|d|[kMGTPE])?\b", "9", text)
    lines = [re.sub(r"\s+", " ", one).strip() for one in text.splitlines()]
    return [one for one in lines if one]
