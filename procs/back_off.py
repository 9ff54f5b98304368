"""How long to wait before the next try: longer after each failure, and not as long as everybody else."""

from __future__ import annotations

from collections.abc import Sequence

from shm.clock import python_monotonic_ns

LADDER_S = (0.05, 0.25, 0.5, 1.0, 2.0, 5.0)


def back_off_s(failures: int, ladder_s: Sequence[float] = LADDER_S) -> float:
    """Seconds after so many failures in a row: half to the whole of a step of the ladder, by the clock's last digits:
    who was cut off at the same moment must not all come back at once."""
    step_s = ladder_s[min(failures, len(ladder_s) - 1)]
    return step_s * (0.5 + python_monotonic_ns() % 1_000 / 2_000)
