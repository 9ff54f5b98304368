"""What passed every hop of a running engine, second by second, from copies of its histograms in shared memory.

Reading costs the engine nothing. It counts as ended when its plan file has gone, belongs to a later session, or nobody
holds its lease and no launcher is left who would start a supervisor. The memory stays mapped here, so what was counted
up to the end is in the last interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from procs.attach import launcher_of, lock_path, plan_path
from procs.instance import Mapping
from procs.summary import hop_histograms
from shm.clock import python_monotonic_ns, sleep, wall_ns
from shm.histogram import merge, new_histogram
from shm.lease import Lease
from tools.latency.buckets import passed

SECOND_NS = 1_000_000_000
_LOOK_S = 0.05


@dataclass(frozen=True)
class Interval:
    """What passed in one interval, normally of a second."""

    begin_ns: int  # since the sampling began
    length_ns: int
    histograms: dict[str, np.ndarray]  # by hop; int64[HISTOGRAM_WORDS] each, in ns

    @property
    def seconds(self) -> int:
        """Whole seconds from the beginning of the sampling to the end of the interval."""
        return (self.begin_ns + self.length_ns) // SECOND_NS


def total(intervals: list[Interval]) -> dict[str, np.ndarray]:
    """The sum of the intervals, by hop."""
    totals: dict[str, np.ndarray] = {}
    for interval in intervals:
        for hop, histogram in interval.histograms.items():
            merge(totals.setdefault(hop, new_histogram()), histogram)
    return totals


class Sampling:
    """Intervals of a second each. started_ns: Unix time of the first; ended: the engine was gone at the last look."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._plan = plan_path(mapping.plan.name)
        self._started = python_monotonic_ns()
        self._before = self._copies()
        self.started_ns = wall_ns()
        self.ended = False

    def _copies(self) -> dict[str, np.ndarray]:
        return {hop: histogram.copy() for hop, histogram in hop_histograms(self._mapping).items()}

    def _lives(self) -> bool:
        name = self._mapping.plan.name
        try:
            session = orjson.loads(self._plan.read_bytes())["session"]
        except (OSError, ValueError, LookupError, TypeError):  # none, or another's that is being written
            return False
        return session == self._mapping.plan.session and (Lease.is_held(lock_path(name)) or launcher_of(name) != 0)

    def intervals(self, duration_s: float | None = None) -> Iterator[Interval]:
        """An interval at each second that is over, until the time is up or the engine has ended; then what is left.

        Call it once. A reader that was away for longer than a second gets one interval for all of it.
        """
        most = None if duration_s is None else round(duration_s * SECOND_NS)
        begin, due = 0, SECOND_NS
        while True:
            now = python_monotonic_ns() - self._started
            over = most is not None and now >= most
            self.ended = not (self._lives() if now >= due else self._plan.exists())
            if now < due and not over and not self.ended:
                wait = due - now if most is None else min(due, most) - now
                sleep(min(_LOOK_S, wait / SECOND_NS))
                continue
            after = self._copies()
            yield Interval(begin, now - begin, {hop: passed(self._before[hop], after[hop]) for hop in after})
            if over or self.ended:
                return
            self._before = after
            begin, due = now, now - now % SECOND_NS + SECOND_NS
