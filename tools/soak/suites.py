"""The long suites: one line each. A suite is a function that is given a Piece and tells it what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tools.soak.chaos import run_chaos
from tools.soak.crash_points import run_crash_points
from tools.soak.fuzz import RECORDINGS, run_fuzz
from tools.soak.guided import EXECUTIONS, run_atheris
from tools.soak.hostile import run_hostile, run_hostile_sockets
from tools.soak.integrity import MARKETS, RUNS, run_integrity
from tools.soak.kills import SIGNALS, VICTIMS, run_kills
from tools.soak.matrix import run_matrix
from tools.soak.properties import PASSED, run_properties
from tools.soak.resources import run_resources
from tools.soak.ring_exchange import RECORDS, run_rings
from tools.soak.tally import Piece
from tools.soak.target_table import TARGET_NAMES


@dataclass(frozen=True)
class Suite:
    """A line of the table."""

    name: str
    run: Callable[[Piece], None]
    least_s: float  # with less time left no piece is begun
    goals: dict[str, int] = field(default_factory=dict)  # counts that are wanted, all pieces together
    once: bool = False  # one piece a call: it takes what time there is


SUITES = (
    Suite("kills", run_kills, 240, {f"{victim} {name}": 20 for victim in VICTIMS for name in SIGNALS}),
    Suite("matrix", run_matrix, 300, {"trips": 200}),
    Suite("chaos", run_chaos, 300, {"strikes": 200}),
    Suite("hostile", run_hostile, 60, {"sessions": 1_000}),
    Suite("hostile_sockets", run_hostile_sockets, 120, {"sessions": 60}),
    Suite("rings", run_rings, 60, {"records": RECORDS}),
    Suite("crash_points", run_crash_points, 30, {"killed writer": 500, "killed reader": 500}),
    Suite("fuzz", run_fuzz, 240, dict.fromkeys(RECORDINGS, 2_000_000)),
    Suite("atheris", run_atheris, 60, dict.fromkeys(TARGET_NAMES, EXECUTIONS)),
    Suite("properties", run_properties, 60, {"properties": PASSED}),
    Suite("integrity", run_integrity, 90, dict.fromkeys(MARKETS, RUNS)),
    Suite("resources", run_resources, 120, {"minutes": 30}, once=True),
)
BY_NAME = {suite.name: suite for suite in SUITES}
