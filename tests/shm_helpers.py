"""Helpers of the shared-memory tests: an instance that must leave nothing behind, forks that cannot hang."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from itertools import count

from shm.clock import python_monotonic_ns, sleep
from shm.segment import list_segments, unlink_all

DIGEST = "5a" * 32
_numbers = count()


def fresh_instance() -> Iterator[str]:
    """Yield an instance name of this test's own; fail if the test leaves a segment of it in /dev/shm."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    try:
        yield name
        left = list_segments(name)
        assert left == [], f"the test left {left}"
    finally:
        unlink_all(name)


class Fork:
    """A forked child that runs one function and exits with what it returns (0 to 255)."""

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
        """Wait for the end; returns the exit status, or minus the signal. Kills the child when time is up."""
        deadline = python_monotonic_ns() + int(seconds * 1e9)
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if python_monotonic_ns() > deadline:
                self.kill()
                raise AssertionError(f"child {self.pid} ran for more than {seconds} s")
            sleep(0.002)

    def kill(self) -> None:
        """SIGKILL and reap."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
