"""The launcher: a tiny parent that outlives the supervisor, starts it again when it is killed, and reaps what it left.

It imports nothing but the standard library, so there is little in it that could fail. As child subreaper it becomes the
parent of every process of a supervisor that died; the next supervisor adopts them. What a supervisor must know of the
one before it (venue, credentials, since when it trades) is kept here, in memory, and handed over through a pipe.
On a terminal it opens the console once the session trades (tools/beside.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from shm.python_clock import python_monotonic_ns
from tools.beside import Beside

_PR_SET_CHILD_SUBREAPER = 36
_DEATHS_WINDOW_NS = 600 * 1_000_000_000
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TRIP_SIGNAL = signal.SIGUSR1  # stops trading and cancels everything; the engine stays
_TRIP_AGAIN_NS = 10 * 1_000_000_000


class Launcher:
    """Runs one session; `run` returns its exit code."""

    def __init__(self, arguments: Sequence[str], console: Sequence[str] | None = None) -> None:
        """arguments: of `bot4`, as they were typed; console: those of the console to open, None for lines alone."""
        self._arguments = list(arguments)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._deaths: list[int] = []
        self._handed_over: dict[str, Any] = {}
        self._asked_to_stop: int | None = None  # by which signal
        self._asked_to_trip_ns = 0
        self._beside = Beside(console)
        # The embedded venue reads the other end: it lives as long as this process does.
        self._venue_end, self._keep_alive = os.pipe()

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        if signum == _TRIP_SIGNAL:
            self._asked_to_trip_ns = python_monotonic_ns()
        else:
            self._asked_to_stop = signum
        self._send(signum)

    def _send(self, signum: int) -> None:
        # Not through Popen, which could reap it in passing; unreaped, its pid is still its own.
        if self._supervisor is not None and self._supervisor.returncode is None:
            os.kill(self._supervisor.pid, signum)

    def run(self) -> int:
        """Start the supervisor, and again after each death by a signal; its exit code in the end."""
        try:
            return self._run()
        finally:
            self._beside.close()

    def _run(self) -> int:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for signum in (*_STOP_SIGNALS, _TRIP_SIGNAL):
            signal.signal(signum, self._forward)
        while True:
            code = self._run_supervisor()
            if code >= 0:
                return code
            now = python_monotonic_ns()
            self._deaths = [at for at in self._deaths if now - at < _DEATHS_WINDOW_NS] + [now]
            words = f"bot4: the supervisor was ended by {signal.Signals(-code).name}"
            # Who gives up ends too, and the kill switch, left alone, cancels and ends the rest.
            if not self._handed_over or len(self._deaths) >= self._handed_over["deaths_to_stop"]:
                self._beside.say(f"{words}; giving up")
                return 1
            self._beside.say(f"{words}; starting it again")

    def _run_supervisor(self) -> int:
        """One supervisor from start to end: its exit code, or minus the signal that ended it."""
        report_end, supervisors_end = os.pipe()
        # It starts deaf to them until it can stop in order; what came before is then heard.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, _TRIP_SIGNAL))
        self._supervisor = subprocess.Popen(
            [
                sys.executable, "-m", "tools.supervised", str(self._venue_end), str(supervisors_end),
                str(self._beside.flag), *self._arguments,
            ],
            stdin=subprocess.PIPE, pass_fds=(self._venue_end, supervisors_end, self._beside.flag),
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOP_SIGNALS, _TRIP_SIGNAL))
        # Its predecessor may have died before it did what it was asked to.
        if self._asked_to_trip_ns and python_monotonic_ns() - self._asked_to_trip_ns < _TRIP_AGAIN_NS:
            self._send(_TRIP_SIGNAL)
        if self._asked_to_stop is not None:
            self._send(self._asked_to_stop)
        os.close(supervisors_end)
        assert self._supervisor.stdin is not None
        try:
            if self._handed_over:  # a child of ours that its processes do not know
                self._handed_over["console_pid"] = self._beside.pid
            self._supervisor.stdin.write(json.dumps(self._handed_over).encode() + b"\n")
            self._supervisor.stdin.close()
        except BrokenPipeError:
            self._supervisor.stdin = None
        with os.fdopen(report_end, "rb") as report:
            line = report.readline()  # once it trades; nothing when it ends before
        if line.endswith(b"\n"):
            self._handed_over = json.loads(line)
            self._beside.open()
        return self._reap(self._supervisor.pid)

    def _reap(self, supervisor: int) -> int:
        """Wait for the supervisor, and on the way for every process that became ours."""
        assert self._supervisor is not None
        while True:
            pid, status = os.waitpid(-1, 0)
            self._beside.reaped(pid, status)
            if pid == supervisor:
                code = os.waitstatus_to_exitcode(status)
                self._supervisor.returncode = code
                return code
