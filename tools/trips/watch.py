"""An observer beside a trip: when the word was seen set, when the gate was seen shut, when the stop was seen done.

It polls the control block every 0.2 ms in a thread of its own, with real-time priority where that is permitted, so a
stamp is late by that and by what the machine keeps it from running; never early.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from procs.instance import Mapping
from procs.table import Role
from shm.clock import python_monotonic_ns, sleep
from shm.control import ControlBlock, word_of
from tools.soak.session import alive

_POLL_S = 0.0002


def is_done(control: ControlBlock) -> bool:
    """Whether the kill switch has dealt with the emergency word as it is now: nothing rests, the venue says."""
    epoch, word = control.gate_epoch(Role.KILLSWITCH), control.word
    return word != 0 and word_of(epoch) == word_of(word)


class TripWatch:
    """See the module. Begin before the trigger, `stop` when the trip is over; the stamps are session time, 0 before."""

    def __init__(self, mapping: Mapping) -> None:
        self._control = mapping.control
        self._offset_ns = mapping.control.session_offset_ns
        self.began_ns = self.now_ns()
        self.untripped_ns = self.began_ns  # when the word was last seen not set
        self.tripped_ns = 0
        self.shut_ns = 0
        self.shut_by_death = False
        self.confirmed_ns = 0
        self._over = False
        self._thread = threading.Thread(target=self._run, name="trip-watch", daemon=True)
        self._thread.start()

    def now_ns(self) -> int:
        """Session time."""
        return python_monotonic_ns() + self._offset_ns

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))
        gateway = self._control.pid(Role.GATEWAY)
        while not self._over:
            if not self.tripped_ns:
                gateway = self._control.pid(Role.GATEWAY) or gateway
                before = self.now_ns()
                if self._control.word:
                    self.tripped_ns = self.now_ns()
                else:
                    self.untripped_ns = before
            else:
                self._look(gateway)
            sleep(_POLL_S)

    def _look(self, gateway: int) -> None:
        if not self.shut_ns:
            if self._control.gate_epoch(Role.GATEWAY):
                self.shut_ns = self.now_ns()
            elif not alive(gateway):
                self.shut_ns, self.shut_by_death = self.now_ns(), True
        if not self.confirmed_ns and is_done(self._control):
            self.confirmed_ns = self.now_ns()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition came true in time."""
        deadline = python_monotonic_ns() + int(timeout_s * 1e9)
        while not condition():
            if python_monotonic_ns() > deadline:
                return condition()
            sleep(0.002)
        return True

    def stop(self) -> None:
        """No more looking."""
        self._over = True
        self._thread.join()
