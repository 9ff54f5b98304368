"""A forked child that runs one function and cannot hang its parent."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from shm.clock import python_monotonic_ns, sleep


class Fork:
    """A child that exits with what its function returns (0 to 255)."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 255
            try:
                status = int(function())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def join(self, seconds: float = 60.0) -> int:
        """Wait for the end; the exit status, or minus the signal. Kills the child and raises when time is up."""
        deadline = python_monotonic_ns() + int(seconds * 1e9)
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if python_monotonic_ns() > deadline:
                self.kill()
                raise TimeoutError(f"child {self.pid} ran for more than {seconds} s")
            sleep(0.002)

    def kill(self) -> None:
        """SIGKILL and reap."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
