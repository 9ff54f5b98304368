"""Deaths by role, kept in the instance's memory: a supervisor that takes over knows what its predecessor saw."""

from __future__ import annotations

import numpy as np

from procs.table import Role

WINDOW_NS = 600 * 1_000_000_000
# Times kept by role. More deaths than that within the window cannot be asked for (engine.deaths_to_stop).
TIMES = 1024
DEATH_WORDS = len(Role) * (1 + TIMES)


class Deaths:
    """How often and when each process died. One writer: the supervisor."""

    def __init__(self, words: np.ndarray) -> None:
        """words: int64[DEATH_WORDS], shared; all zero for a new instance."""
        self._rows = words.reshape(len(Role), 1 + TIMES)

    def add(self, role: Role, now_ns: int) -> int:
        """Note a death at a session time; returns how many there were within the window, this one included."""
        row = self._rows[role]
        row[1 + row[0] % TIMES] = now_ns
        row[0] += 1
        times = row[1 : 1 + min(int(row[0]), TIMES)]
        return int(np.count_nonzero(times > now_ns - WINDOW_NS))

    def total(self, role: Role) -> int:
        """All deaths of a role in this session."""
        return int(self._rows[role, 0])

    def by_label(self) -> dict[str, int]:
        """{role: deaths}, those without any left out."""
        return {role.label: self.total(role) for role in Role if self.total(role)}
