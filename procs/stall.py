"""Is a silent process stuck, or does the machine just not let it run?

A loop publishes a heartbeat every turn. On a busy machine a healthy loop can be silent for as long as the kernel gives
it no core, and killing it would only add to the load. What it does meanwhile tells: a stopped one never wakes by
itself, a sleeping one sleeps 10 ms at the most between two turns, one that burns the processor without turning spins
in its own code, and one that is ready to run but gets no time is starved.

Source: proc(5), /proc/PID/task/TID/stat.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_RUNNABLE = "R"
_WAITS_FOR_DISK = "D"
# A disk may take its time, a starved process too; but not for ever.
_DISK_PATIENCE = 3
_STARVED_PATIENCE = 20
# Who used so much of its silence did run.
_SPINNING_SHARE = 0.7


@dataclass
class _Silence:
    heartbeat: int
    since_ns: int  # how long it had lasted when it was first looked at
    cpu_ns: int


def thread_states(pid: int) -> tuple[set[str], int]:
    """The states of all threads of a process and the processor time that it has used, ns; empty when it is gone."""
    states: set[str] = set()
    used = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            states.add(fields[0])
            used += int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):  # a thread or the process ended while we looked
        pass
    return states, used * _TICK_NS


def is_stuck(states: set[str], busy: float, silent_ns: int, limit_ns: int) -> bool:
    """Whether a process is stuck that has been silent for so long.

    states: of its threads; busy: processor time that it used in its silence, as a share of it.
    """
    if silent_ns <= limit_ns or not states:  # one that is gone is found by whoever waits for deaths
        return False
    if _RUNNABLE in states:
        return busy > _SPINNING_SHARE or silent_ns > _STARVED_PATIENCE * limit_ns
    if _WAITS_FOR_DISK in states:
        return silent_ns > _DISK_PATIENCE * limit_ns
    return True


class StallWatch:
    """Remembers, for each process, the processor time it had used at its last sign of life."""

    def __init__(self) -> None:
        self._silences: dict[int, _Silence] = {}

    def stuck(self, pid: int, heartbeat: int, silent_ns: int, limit_ns: int) -> bool:
        """Whether a process is stuck whose last heartbeat was `silent_ns` ago. Call it every turn while it lives."""
        if silent_ns <= limit_ns // 2:
            return False
        states, used = thread_states(pid)
        silence = self._silences.get(pid)
        if silence is None or silence.heartbeat != heartbeat:
            silence = self._silences[pid] = _Silence(heartbeat, silent_ns, used)
        busy = (used - silence.cpu_ns) / max(silent_ns - silence.since_ns, 1)
        return is_stuck(states, busy, silent_ns, limit_ns)

    def forget(self, pid: int) -> None:
        """A process has ended."""
        self._silences.pop(pid, None)
