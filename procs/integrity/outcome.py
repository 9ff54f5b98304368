"""What comes of one run of the drill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.instruments import Dialect
from procs.integrity.damage import Found


@dataclass
class Outcome:
    """What came of a run. It is sound when there are no violations."""

    dialect: Dialect
    seed: int
    order: str  # what was ordered, in words
    injected: Counter[str] = field(default_factory=Counter)
    found: Mapping[tuple[str, str], Found] = field(default_factory=dict)
    messages: int = 0  # of books, taken by the engine
    compared: int = 0  # valid books that were held against the truth
    wrong: int = 0  # of them: wrong, as the table allows
    snapshots: int = 0
    recovery_ms: float = 0.0  # longest, from the last fault until every book was valid
    violations: list[str] = field(default_factory=list)
