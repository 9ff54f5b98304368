"""The console beside a launcher: opened once the session trades, and gone without a trace whatever ends it.

The launcher's part of it, so nothing but the standard library. A byte of a file in memory tells the supervisor whether
the terminal is taken (tools/voice.py). Whatever the launcher itself has to say meanwhile is said afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence

# Out of the alternate screen, cursor shown, attributes off: what a console that was killed could not send.
_AS_BEFORE = "\x1b[?1049l\x1b[?25h\x1b[0m\x1b[?1l\x1b>\r"
_PATIENCE_S = 5.0
_OUT, _ERR = 1, 2


def console_arguments(options: argparse.Namespace) -> list[str] | None:
    """Arguments of the console that `bot4 run` opens; None where none is wanted, or the terminal is not all ours."""
    if options.no_console or options.json or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        ours = os.isatty(0) and os.isatty(_OUT) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is no terminal of our session
        ours = False
    if not ours:
        return None
    return [] if options.config is None else ["--config", str(options.config)]


def _write(descriptor: int, text: str) -> None:
    """Write to a terminal that may be gone: then nobody reads it."""
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())


class Beside:
    """At most one console, of one launcher."""

    def __init__(self, arguments: Sequence[str] | None) -> None:
        """arguments: of the console; None for none."""
        self._arguments = arguments
        self._console: subprocess.Popen[bytes] | None = None
        self._saved: list = []
        self._held: list[str] = []
        self.flag = os.memfd_create("bot4-terminal")

    @property
    def pid(self) -> int:
        """Of the console; 0 where there is none."""
        return self._console.pid if self._console is not None else 0

    def open(self) -> None:
        """Open the console, the first time this is called and one is wanted."""
        if self._arguments is None:
            return
        command = [sys.executable, "-m", "tools.console", *self._arguments]
        self._arguments = None
        with contextlib.suppress(termios.error):
            self._saved = termios.tcgetattr(sys.stdin)
        os.pwrite(self.flag, b"\1", 0)
        try:
            self._console = subprocess.Popen(command)
        except OSError as error:
            self._free()
            self.say(f"bot4: there is no console: {error}; lines from here on")

    def reaped(self, pid: int, status: int) -> None:
        """A child of the launcher has ended: free the terminal where it was the console."""
        if self._console is None or pid != self._console.pid:
            return
        code = self._console.returncode = os.waitstatus_to_exitcode(status)
        self._console = None
        if code < 0:
            _write(_OUT, _AS_BEFORE)
            self._held.append(f"bot4: the console was ended by {signal.Signals(-code).name}; lines from here on")
        with contextlib.suppress(termios.error):
            if self._saved:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)
        self._free()

    def _free(self) -> None:
        """The terminal is free; what was held back is said."""
        for words in self._held:
            _write(_ERR, f"{words}\n")
        self._held = []
        os.pwrite(self.flag, b"\0", 0)

    def say(self, words: str) -> None:
        """Something of the launcher's own, now or once the terminal is free."""
        if self._console is not None:
            self._held.append(words)
        else:
            _write(_ERR, f"{words}\n")

    def close(self) -> None:
        """End a console that is still there."""
        if self._console is None:
            return
        console = self._console
        console.terminate()
        try:
            code = console.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            console.kill()
            code = console.wait()
        self.reaped(console.pid, code << 8 if code >= 0 else -code)
