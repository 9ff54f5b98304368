"""What a supervisor says: to the terminal, as long as no console has it, and to supervisor.log of the session.

The flag is one byte of a file in memory that the launcher owns: not 0 while a console draws on the terminal.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TextIO

import numpy as np

from procs.children import open_log
from procs.last_words import log
from shm.clock import python_monotonic_ns, sleep, wall_ns

_PATIENCE_NS = 5_000_000_000
_LOOK_S = 0.05


class Voice:
    """One supervisor's. Nothing here may end a session: what cannot be written is lost."""

    def __init__(self, stream: TextIO, flag_fd: int) -> None:
        os.set_inheritable(flag_fd, False)
        self._stream, self._flag = stream, flag_fd
        self._folder: Path | None = None
        self._before: list[str] = []  # said while there was no folder yet

    @property
    def _taken(self) -> bool:
        return os.pread(self._flag, 1, 0) not in (b"", b"\0")

    def keep(self, folder: Path) -> None:
        """From here on everything said goes to supervisor.log in this folder too, with what was said before."""
        self._folder = folder
        self._write(self._before)
        self._before = []

    def say(self, text: str) -> None:
        """Something that is worth keeping."""
        stamped = f"{np.datetime64(wall_ns(), 'ns').astype('datetime64[ms]')}Z {text}\n"
        if self._folder is None:
            self._before.append(stamped)
        else:
            self._write([stamped])
        self.show(text)

    def show(self, text: str) -> None:
        """Something for whoever looks on; nobody sees it while a console has the terminal."""
        if self._taken:
            return
        try:
            print(text, file=self._stream, flush=True)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal was closed: the session is being stopped, in its order
                raise

    def _write(self, lines: list[str]) -> None:
        assert self._folder is not None
        try:
            with open_log(self._folder, "supervisor") as file:
                file.write("".join(lines).encode())
        except OSError as error:
            log(f"supervisor.log cannot be written: {error}")

    def await_terminal(self) -> None:
        """Wait until the console has given the terminal back; it goes by itself when the engine ends."""
        deadline = python_monotonic_ns() + _PATIENCE_NS
        while self._taken and python_monotonic_ns() < deadline:
            sleep(_LOOK_S)
