"""What the suites need of the machine: facts to print, cores to sit on, the recordings."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from procs.summary import machine_versions
from tools.bench.report import BenchError

_PROJECT = Path(__file__).resolve().parents[2]
_ABOUT_MACHINE = ("cpu", "machine", "kernel")


def machine_facts() -> tuple[dict[str, Any], dict[str, str]]:
    """(machine, versions) of a report; the load is the one minute average now."""
    facts = machine_versions()
    cores = len(os.sched_getaffinity(0))
    machine: dict[str, Any] = {"cpu": facts["cpu"], "cores": cores, "architecture": facts["machine"]}
    machine |= {"kernel": facts["kernel"], "load_before": os.getloadavg()[0], "load_after": os.getloadavg()[0]}
    return machine, {name: version for name, version in facts.items() if name not in _ABOUT_MACHINE}


def two_cores() -> tuple[int, int]:
    """The last two cores of this process. Raises BenchError where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two processes that spin need two cores, and this one may use one")
    return cores[-2], cores[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this process on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def quiet(core: int | None = None) -> Iterator[None]:
    """No garbage collection, as in the loops of a live engine; on one core, for None the last one."""
    gc.collect()
    gc.freeze()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with on_core(max(os.sched_getaffinity(0)) if core is None else core):
            yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def recording(relative: str) -> Path:
    """The path of a recording: under BOT4_RECORDINGS, by default ../shared/data beside the project.

    Raises BenchError where it is absent.
    """
    root = Path(os.environ.get("BOT4_RECORDINGS") or _PROJECT / ".." / "shared" / "data").resolve()
    path = root / relative
    if not path.is_file():
        raise BenchError(f"no recording {relative} under {root}; set BOT4_RECORDINGS to the folder that holds it")
    return path
