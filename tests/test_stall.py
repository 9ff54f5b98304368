"""Telling a stuck process from one that the machine does not let run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from procs.children import Child, kill, strike
from procs.deaths import DEATH_WORDS, TIMES, WINDOW_NS, Deaths
from procs.stall import StallWatch, is_stuck, thread_states
from procs.table import Role
from shm.clock import python_monotonic_ns, sleep
from tests.engine_session import wait_until

LIMIT = 1_000


@pytest.mark.parametrize(
    ("states", "busy", "silent", "stuck"),
    [
        ({"S"}, 0.0, 1_000, False),  # silent for no longer than allowed
        ({"S"}, 0.0, 1_001, True),  # sleeps, and nothing will wake it
        ({"T"}, 0.0, 1_001, True),  # stopped
        ({"Z"}, 0.0, 1_001, True),
        (set(), 0.0, 1_001, False),  # gone
        ({"R"}, 1.0, 1_001, True),  # spins
        ({"R"}, 0.3, 1_001, False),  # gets too little time
        ({"S", "R"}, 0.3, 1_001, False),  # waits for a thread that gets too little
        ({"R"}, 0.0, 20_001, True),  # there is an end to patience
        ({"D"}, 0.0, 3_000, False),
        ({"D"}, 0.0, 3_001, True),
        ({"D", "R"}, 0.1, 3_001, False),
    ],
)
def test_what_is_stuck(states: set[str], busy: float, silent: int, stuck: bool) -> None:
    assert is_stuck(states, busy, silent, LIMIT) is stuck


@contextmanager
def _python(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            yield process
        finally:
            process.kill()


def _is_stuck_in_the_end(pid: int) -> bool:
    """Looked at as the supervisor does, 20 ms apart, with a heartbeat that never moves again."""
    watch, began = StallWatch(), python_monotonic_ns()
    for _ in range(100):
        sleep(0.02)
        if watch.stuck(pid, 7, python_monotonic_ns() - began, 400_000_000):
            return True
    return False


def test_real_processes() -> None:
    with _python("print('up', flush=True); import time; time.sleep(60)") as asleep:
        wait_until(lambda: thread_states(asleep.pid)[0] == {"S"}, 10, "sleep")
        assert _is_stuck_in_the_end(asleep.pid)
    with _python("print('up', flush=True)\nwhile True: pass") as spinning:
        # The clock of a busy machine may leave it little: then it is starved, and only that can be said of it.
        wait_until(lambda: thread_states(spinning.pid)[1] > 200_000_000, 30, "time for the spinning process")
        assert thread_states(spinning.pid)[0] == {"R"}
        os.kill(spinning.pid, signal.SIGSTOP)
        wait_until(lambda: thread_states(spinning.pid)[0] == {"T"}, 10, "stop")
        assert _is_stuck_in_the_end(spinning.pid)


def test_one_that_has_ended_meanwhile_is_neither_stuck_nor_killed_again() -> None:
    """It was somebody else's child, so nothing is left of it but its descriptor."""
    with _python("print('up', flush=True); import time; time.sleep(60)") as other:
        child = Child(Role.FEATURES, other.pid, os.pidfd_open(other.pid), exit_code=lambda pid: -9)
        other.kill()
        other.wait()
    assert not StallWatch().stuck(child.pid, 1, 5_000, LIMIT)
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    strike(child)
    kill(child)
    assert child.status == -9 and child.died_in_words() == "was ended by SIGKILL"


def test_a_heartbeat_begins_a_new_silence() -> None:
    watch = StallWatch()
    with _python("print('up', flush=True); import time; time.sleep(60)") as asleep:
        wait_until(lambda: thread_states(asleep.pid)[0] == {"S"}, 10, "sleep")
        assert not watch.stuck(asleep.pid, 1, 900, LIMIT)
        assert not watch.stuck(asleep.pid, 2, 10, LIMIT)
        assert watch.stuck(asleep.pid, 2, 1_100, LIMIT)
        watch.forget(asleep.pid)
        assert watch.stuck(asleep.pid, 2, 1_100, LIMIT)


def test_deaths_are_counted_within_ten_minutes_and_kept_in_shared_words() -> None:
    import numpy as np

    words = np.zeros(DEATH_WORDS, np.int64)
    deaths = Deaths(words)
    assert deaths.add(Role.ML, 5) == 1
    assert deaths.add(Role.ML, 6) == 2
    assert deaths.add(Role.GATEWAY, 6) == 1
    successor = Deaths(words)  # of another supervisor
    assert successor.add(Role.ML, 5 + WINDOW_NS) == 2  # the first is ten minutes ago
    assert successor.add(Role.ML, 20 + 3 * WINDOW_NS) == 1
    assert successor.by_label() == {"ml": 4, "gateway": 1}
    for number in range(TIMES + 3):
        assert successor.add(Role.FEATURES, 10 * WINDOW_NS + number) == min(number + 1, TIMES)
    assert successor.total(Role.FEATURES) == TIMES + 3
