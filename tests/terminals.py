"""Terminals for tests: a pseudo-terminal that one process sits on, and tmux with whole screens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.waiting import until

PROJECT_ROOT = Path(__file__).resolve().parent.parent
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (.ci/packages)")


class OnTerminal:
    """One process whose input and output are a pseudo-terminal; its standard error is kept apart."""

    def __init__(self, command: Sequence[str], columns: int = 80, lines: int = 24, **environment: str) -> None:
        self._ours, self._theirs = os.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        given = {key: value for key, value in os.environ.items() if key not in ("TERM", "NO_COLOR")}
        self.process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, stdin=self._theirs, stdout=self._theirs, stderr=subprocess.PIPE,
            env=given | {"TERM": "xterm-256color"} | environment, start_new_session=True,
        )
        self.output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                self.output += data

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until something was drawn in one piece, as curses does on an empty screen."""
        until(lambda: text.encode() in self.output or self.process.poll() is not None, text, 60)
        assert text.encode() in self.output, (self.output[-2000:], self.process.poll())

    def end(self) -> tuple[int, str]:
        """Wait for the end: exit code and standard error. The terminal is as it was before, or this fails."""
        assert self.process.stderr is not None
        errors = self.process.stderr.read().decode()
        code = self.process.wait(60)
        assert termios.tcgetattr(self._theirs) == self.before, "the terminal was left in another state"
        if b"\x1b[?1049h" in self.output:
            until(lambda: self.output.rfind(b"\x1b[?1049l") > self.output.rfind(b"\x1b[?1049h"), "first screen", 5)
            assert self.output.rfind(b"\x1b[?25h") < self.output.rfind(b"\x1b[?1049l") + 40
            shown = max(self.output.rfind(b"\x1b[?25h"), self.output.rfind(b"\x1b[?12l\x1b[?25h"))
            assert shown > self.output.rfind(b"\x1b[?25l"), "the cursor was left hidden"
        return code, errors

    def close(self) -> None:
        """End it, whatever has happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextlib.contextmanager
def on_terminal(*command: str, columns: int = 80, lines: int = 24, **environment: str) -> Iterator[OnTerminal]:
    """`python ARGUMENTS` on a pseudo-terminal."""
    made = OnTerminal([sys.executable, *command], columns, lines, **environment)
    try:
        yield made
    finally:
        made.close()


class Tmux:
    """A server of our own with one window, in which a shell runs."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._name = f"bot4-{uuid.uuid4().hex[:8]}"
        self._run("new-session", "-d", "-x", str(columns), "-y", str(lines), "env", "PS1=$ ", "sh")

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._name, "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout

    def window(self) -> None:
        """Open another window and go there; the first is number 0."""
        self._run("new-window", "env", "PS1=$ ", "sh")

    def select(self, number: int) -> None:
        """Go to a window."""
        self._run("select-window", "-t", f":{number}")

    def press(self, *keys: str) -> None:
        """Send keys by their tmux names, or text."""
        self._run("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self, history: int = 0, escapes: bool = False) -> str:
        """What is to be seen, without its colours unless asked for; with so many lines of what scrolled away."""
        more = (["-S", f"-{history}"] if history else []) + (["-e"] if escapes else [])
        return self._run("capture-pane", "-p", *more)

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
