"""The standby of a process that trades or stops: it has everything loaded and waits to take the place of one that died.

A process needs a second and more of a core before it can work, several on a busy machine. Without a gateway the venue
is out of reach for so long, and without a kill switch the engine is an emergency after five. A standby has done that
work before it is needed (procs/spawned.py): it then has to read the plan and to open its connections.
Invariants: it maps no memory of the instance and holds no secret; both reach it with the plan. It ends by itself when
the supervisor does, whose end of the pipe is the only one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from procs.children import begin_child
from procs.table import Role
from shm.clock import python_monotonic_ns

_AGAIN_NS = 10_000_000_000
_END_TIMEOUT_S = 5.0


class Standby:
    """See the module. At most one is there."""

    def __init__(self, folder: Path, role: Role) -> None:
        """folder: of the session."""
        self._folder = folder
        self._role = role
        self._popen: subprocess.Popen[bytes] | None = None
        self._not_before_ns = 0

    @property
    def pid(self) -> int:
        """Of the process; 0 where there is none."""
        return self._popen.pid if self._popen is not None else 0

    def look_after(self) -> str:
        """Start one where there is none. Returns what went wrong, empty when nothing did."""
        words = ""
        if self._popen is not None and self._popen.poll() is not None:
            words = f"the standby of the {self._role.label} has ended with {self._popen.returncode}"
            self._forget()
            self._not_before_ns = python_monotonic_ns() + _AGAIN_NS
        if self._popen is None and python_monotonic_ns() >= self._not_before_ns:
            try:
                self._popen = begin_child(self._folder, self._role, successor=True)
            except OSError as error:
                self._not_before_ns = python_monotonic_ns() + _AGAIN_NS
                return f"the {self._role.label} has no standby: {error}"
        return words

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process, for `give_plan`; None where none lives."""
        popen, self._popen = self._popen, None
        if popen is not None and popen.poll() is not None:
            if popen.stdin is not None:
                popen.stdin.close()
            return None
        return popen

    def _forget(self) -> None:
        assert self._popen is not None
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self._popen = None

    def close(self) -> None:
        """End it."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(_END_TIMEOUT_S)
            self._forget()
