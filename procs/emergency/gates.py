"""Seeing to it that the gateway's gate is shut after a trip: it says so in time, or it is killed.

A gateway publishes the emergency word for which its gate is shut (`gate_epoch`); after that no order leaves. One that
is stopped, stuck or lost says nothing: it is killed, and the sweeps that follow cancel what it had sent by then.
"""

from __future__ import annotations

from enum import Enum

from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.orphans import end_process
from shm.control import ControlBlock

_POLL_S = 0.001
_DEATH_MS = 500


class Gate(Enum):
    """How it stands with a gateway's gate."""

    SHUT = "shut"  # it says so
    KILLED = "killed"  # by us, since it did not say so in time
    ABSENT = "absent"  # there is no gateway, or one that has not begun and meets the word when it does


class GateWatch:
    """Watches one gateway."""

    def __init__(
        self, control: ControlBlock, instance: str, role: int, limit_ms: float, clocks: Clocks = SYSTEM_CLOCKS
    ) -> None:
        """limit_ms: how long a gateway may take."""
        self._control = control
        self._instance = instance
        self._role = role
        self._limit_ns = int(limit_ms * 1e6)
        self._clocks = clocks

    def enforce(self, tripped_ns: int) -> Gate:
        """Wait until the gate is shut, or end who does not shut it. tripped_ns: when the trip was seen."""
        control = self._control
        while True:
            if control.gate_epoch(self._role):
                return Gate.SHUT
            pid = control.pid(self._role)
            if not pid or not control.heartbeat(self._role):
                return Gate.ABSENT
            if self._clocks.monotonic_ns() - tripped_ns >= self._limit_ns:
                return Gate.KILLED if end_process(self._instance, pid, _DEATH_MS) else Gate.ABSENT
            self._clocks.sleep(_POLL_S)
