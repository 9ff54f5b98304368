"""The two things a console may do, and asking the supervisor who holds the mode.

The supervisor is asked by a thread: one that hangs, or is being replaced, must not hold up the screen.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from procs.control_socket import ControlError, ask
from shm.clock import python_monotonic_ns
from tools.control import TIMEOUT_S, control_status
from tools.kill import NoEngine, trip_by_name

_EVERY_NS = 2_000_000_000


class Asker:
    """Asks the supervisor of one instance, in a thread that ends with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._due_ns = 0
        self._busy = threading.Event()
        self.asked = False
        self.control: dict[str, Any] | None = None  # the newest answer on the mode
        self.answers: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()  # words, whether it failed
        threading.Thread(target=self._serve, daemon=True).start()

    def keep_asking(self) -> None:
        """Ask for the mode again when the last answer is some seconds old. Called often."""
        now = python_monotonic_ns()
        if now >= self._due_ns and not self._busy.is_set():
            self._due_ns = now + _EVERY_NS
            self._requests.put(None)

    def pause(self, reason: str) -> None:
        """Ask for PAUSE, as `bot4 mode pause` does; what became of it comes as an answer."""
        self._requests.put({"command": "mode", "mode": "PAUSE", "reason": reason})

    def _serve(self) -> None:
        while True:
            request = self._requests.get()
            self._busy.set()
            if request is not None:
                self.answers.put(self._pause(request))
            self.control = control_status(self._name)
            self.asked = True
            self._busy.clear()

    def _pause(self, request: dict[str, Any]) -> tuple[str, bool]:
        try:
            answer = ask(self._name, request, TIMEOUT_S)
        except ControlError as error:
            return f"not paused: {error}", True
        if not answer["ok"]:
            return f"not paused: {answer['error']}", True
        return f"the mode is {answer['mode']}", False


def kill(name: str) -> tuple[str, bool]:
    """Set the emergency word, as `bot4 kill` does; what became of it in words, and whether it failed."""
    try:
        killed = trip_by_name(name)
    except NoEngine as error:
        return str(error), True
    return killed.words, not killed.alive
