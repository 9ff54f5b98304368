"""Two processes for a benchmark: this one, and a forked child on a core of its own that does one thing and ends."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable

import numpy as np

from shm.clock import python_monotonic_ns, sleep
from tools.bench.report import BenchError
from tools.bench.ring_kernels import ANSWER_WORDS

_READY = ANSWER_WORDS  # the first word behind the answer: the child has said that it is ready
_PATIENCE_S = 30.0
_LOOK_AGAIN_S = 0.0005


class OtherEnd:
    """A child on a core that runs `body(answer, ready)`: it calls ready() when it may be measured, and fills answer.

    answer  int64[ANSWER_WORDS] that both of us see
    As a context it ends the child: waits for it, or kills it when this end has failed.
    """

    def __init__(self, core: int, body: Callable[[np.ndarray, Callable[[], None]], None]) -> None:
        self._memory = mmap.mmap(-1, (ANSWER_WORDS + 8) * 8)
        self._shared = np.frombuffer(self._memory, np.int64)
        self.answer = self._shared[:ANSWER_WORDS]
        self._ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.sched_setaffinity(0, {core})
                body(self.answer, self._say_ready)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def _say_ready(self) -> None:
        self._shared[_READY] = 1

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._pid

    def wait_ready(self) -> None:
        """Wait until the child is ready. Raises BenchError when it ends or hangs before."""
        self._wait(lambda: self._shared[_READY] != 0)
        if not self._shared[_READY]:
            raise BenchError("the other process of a benchmark ended before it was ready")
        sleep(0.001)  # until it is in its loop

    def join(self) -> None:
        """Wait for the end of the child. Raises BenchError when it failed or hangs."""
        self._wait(lambda: False)

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Until something is so, or the child has ended."""
        deadline = python_monotonic_ns() + int(_PATIENCE_S * 1e9)
        while not self._ended and not reached():
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if ended:
                self._ended = True
                if status:
                    code = os.waitstatus_to_exitcode(status)
                    raise BenchError(f"the other process of a benchmark failed with {code}")
            elif python_monotonic_ns() > deadline:
                self._kill()
                raise BenchError("the other process of a benchmark hangs")
            else:
                sleep(_LOOK_AGAIN_S)

    def _kill(self) -> None:
        if not self._ended:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._ended = True

    def __enter__(self) -> OtherEnd:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._kill()
        else:
            self.join()
