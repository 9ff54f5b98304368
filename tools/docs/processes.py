"""docs/reference/processes.md: processes, rings and cores, from procs/table.py."""

from __future__ import annotations

from engine.config import EngineSettings
from engine.records import ALL_RECORDS
from procs.table import (
    CHECKPOINTED,
    DOES,
    PROCESS_BY_ROLE,
    RINGS,
    STRATEGIES,
    VITAL,
    Role,
    placement,
    rings_of,
)
from tools.docs.markdown import code, table
from tools.docs.source_text import MissingText

_HEAD = """# Processes, rings, cores

`procs/table.py` is the one place that lists them; `bot4 status` shows them as they run.

## Processes

A forked process comes from the zygote, with every kernel loaded; a spawned one starts clean. Without a vital one
nothing is entered; a hot one lies on the path from frame to order; a checkpointed one is continued by its successor
where its effects end. What a process follows it looks at: nobody waits for it, and it counts what it missed.
"""
_RINGS = """
## Rings

One producer, one consumer. Capacities are the most; the largest ring is halved until all fit
`engine.memory_budget_mib` together with what lies beside them (default {budget} MiB; all rings at their most take
{most} MiB). A `targets` ring is there for each strategy in a process of its own, and counts beside them.

"""
_CORES = """
## Cores

`engine.placement` is `auto` or `pinned`, the table for 16 cores. Spinning processes are those on the hot path, where
each of them has a core. Numbers are places among the cores that the engine may use.

"""
_PLACES = ((1, "auto"), (2, "auto"), (4, "auto"), (6, "auto"), (8, "auto"), (16, "auto"), (16, "pinned"))


def spans(cores: tuple[int, ...]) -> str:
    """Core numbers in few words: 0, 3-5."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _process(role: Role) -> tuple[str, ...]:
    """A row of the table of processes. Raises MissingText for a role of which nothing is said."""
    if role not in DOES:
        raise MissingText(f"procs/table.py: DOES has nothing on {role.label}")
    spec = PROCESS_BY_ROLE.get(role)
    if spec is None:  # the supervisor, which is nobody's child
        written = tuple(ring.name for ring in RINGS if ring.producer == role)
        return role.label, DOES[role], "by the launcher", "", "", _names(written), ""
    traits = (("vital", role in VITAL), ("hot", spec.hot), ("checkpointed", role in CHECKPOINTED))
    return (
        role.label, DOES[role], "spawned" if spec.spawned else "forked", ", ".join(name for name, has in traits if has),
        _names(spec.inputs), _names(spec.outputs), _names(spec.follows),
    )  # fmt: skip


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(map(code, names))


def page() -> str:
    """The whole page."""
    processes = table(("process", "does", "started", "is", "reads", "writes", "follows"), map(_process, Role))
    names = {id(dtype): name for name, dtype in ALL_RECORDS.items()}
    rings = table(("ring", "record", "bytes", "capacity", "MiB", "from", "to"), (
        (
            code(ring.name), f"[{names[id(ring.dtype)]}](records.md#{names[id(ring.dtype)].lower()})",
            str(ring.dtype.itemsize), str(ring.capacity), f"{ring.capacity * ring.dtype.itemsize / 2**20:g}",
            ring.producer.label, ring.consumer.label,
        )
        for ring in rings_of(len(STRATEGIES))
    ))  # fmt: skip
    most = sum(ring.capacity * ring.dtype.itemsize for ring in RINGS) / 2**20
    placed = [placement(tuple(range(count)), chosen) for count, chosen in _PLACES]
    cores = table(
        ("process", *(f"{count}, {chosen}" for count, chosen in _PLACES)),
        [
            ("hot stages", *("spin" if spin else "block" for _, spin, _ in placed)),
            *((role.label, *(spans(assigned[role]) for assigned, _, _ in placed)) for role in Role),
        ],
    )
    budget = EngineSettings().memory_budget_mib
    return f"{_HEAD}\n{processes}{_RINGS.format(budget=budget, most=f'{most:.2f}')}{rings}{_CORES}{cores}"
