"""What a kill switch does before it has a plan: load everything that it will need, so that it is armed at once then.

Imports are not all: helpers load their compiled code at their first call, and TLS its certificates. A process that only
waits to be needed (procs/standby.py) has done this.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

import procs.kill_credentials
import procs.killswitch  # noqa: F401  # all that it needs
from procs.budget import ORDERS, REQUESTS, WEIGHT, Budget, Level, RateLimit
from procs.table import Role
from procs.venues.binance_usdm.rate_limits import hear, pay
from procs.venues.binance_usdm.signed import tls_context
from shm.clock import python_monotonic_ns, python_session_ns, sleep, wall_ns
from shm.control import ControlBlock, Readiness, TripSource, set_asserted
from shm.segment import Segment


class _OwnMemory:
    """Zeroes, where a control block has a segment."""

    @staticmethod
    def array(dtype: Any, offset: int, count: int) -> np.ndarray:
        """As of a segment."""
        return np.zeros(count + offset, dtype)


def load() -> None:
    """See the module. What is called works on memory that nobody shares."""
    tls_context()
    block = ControlBlock(cast(Segment, _OwnMemory()))
    role = Role.KILLSWITCH
    block.set_pid(role, 1)
    block.beat(role, python_session_ns(block.session_offset_ns))
    block.set_readiness(role, Readiness.READY)
    block.set_gate_epoch(role, 1)
    set_asserted(block.words, 1)
    block.trip(TripSource.KILLSWITCH)
    bell = block.doorbell(role)
    bell.wait(1, lambda: False)
    seen = (
        block.token, block.word, block.mode, block.pid(role), block.heartbeat(role), block.gate_epoch(role),
        block.readiness(role), block.stop_requested(role), block.supervisor_pid, wall_ns(), python_monotonic_ns(),
    )
    sleep(0.0)
    limits = [RateLimit(kind, 60, 1000, "used") for kind in (WEIGHT, ORDERS, REQUESTS)]
    budget = Budget.of_own(limits, lambda: seen[-1])
    hear(budget, pay(budget, "GET", "/fapi/v1/ping", Level.KILL), 200, {"used": "1"}, b"{}")
