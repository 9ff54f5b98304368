"""What one supervisor leaves to the next, through the launcher."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass
class Handover:
    """The launcher's pipes, its pid, and what a predecessor reported: empty for the first supervisor."""

    venue_fd: int  # what the embedded venue reads: it ends when the launcher does
    report_fd: int  # where the report for the next supervisor is written
    launcher_pid: int
    report: dict[str, Any]

    def __post_init__(self) -> None:
        # No child may hold them: the launcher knows by the end of the report that a supervisor died without one.
        os.set_inheritable(self.venue_fd, False)
        os.set_inheritable(self.report_fd, False)
        os.register_at_fork(after_in_child=self._close_in_child)

    def _close_in_child(self) -> None:
        for descriptor in (self.venue_fd, self.report_fd):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    @property
    def adopts(self) -> bool:
        """Whether there is a live instance to adopt."""
        return bool(self.report)

    def leave(self, report: dict[str, Any]) -> None:
        """Tell the launcher what the next supervisor must know. It holds credentials: a pipe, memory, nothing else."""
        os.write(self.report_fd, orjson.dumps(report) + b"\n")
        os.close(self.report_fd)
        self.report_fd = -1
