"""What the kernel says of the engine's processes, and rates of whatever only grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import psutil

_WINDOW_NS = 1_000_000_000


class Rates:
    """How fast counters grow, by key, over about the last second."""

    def __init__(self) -> None:
        self._samples: dict[Hashable, deque[tuple[int, float]]] = {}

    def per_second(self, key: Hashable, value: float, now_ns: int) -> float | None:
        """Take a value in; its growth a second, None where nothing is known yet.

        A counter that fell belongs to a successor: it begins anew.
        """
        samples = self._samples.setdefault(key, deque())
        if samples and value < samples[-1][1]:
            samples.clear()
        samples.append((now_ns, value))
        while len(samples) > 2 and now_ns - samples[1][0] >= _WINDOW_NS:
            samples.popleft()
        before_ns, before = samples[0]
        return (value - before) / (now_ns - before_ns) * 1e9 if now_ns > before_ns else None


class ProcessWatch:
    """Core and processor time of processes, by pid."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}
        self._rates = Rates()

    def look(self, pid: int, now_ns: int) -> tuple[int | None, float | None]:
        """(core on which it ran last, percent of one core over about the last second); None where it has gone."""
        try:
            process = self._known.get(pid)
            if process is None:
                process = self._known[pid] = psutil.Process(pid)
            with process.oneshot():
                used, core = process.cpu_times(), process.cpu_num()
        except psutil.Error:
            self._known.pop(pid, None)
            return None, None
        share = self._rates.per_second((pid, process.create_time()), used.user + used.system, now_ns)
        return int(core), None if share is None else 100.0 * share
