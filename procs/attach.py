"""Finding a running instance by its name, to look at it."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from procs.instance import Mapping, Plan
from shm.control import ControlBlock
from shm.lease import Lease
from shm.segment import SegmentError


def started_ticks(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 when there is none of that pid, or only a zombie.

    Source: proc(5), /proc/PID/stat.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


class NotRunning(LookupError):
    """No engine of that name runs."""


def lock_path(name: str) -> Path:
    """The file whose lease the supervisor of an instance holds as long as it lives."""
    return Path(f"/dev/shm/bot4-{name}.lock")


def plan_path(name: str) -> Path:
    """Where a running instance leaves its plan for those who attach; beside its segments, gone with them."""
    return Path(f"/dev/shm/bot4-{name}.plan")


def leave_plan(name: str, content: bytes) -> None:
    """Write the plan file of an instance; only its owner may read it."""
    path = plan_path(name)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def launcher_of(name: str) -> int:
    """Pid of the launcher of an instance while it lives, else 0.

    Its supervisor may be dead at this moment: then it starts another, and the instance is not free.
    """
    try:
        plan = orjson.loads(plan_path(name).read_bytes())
        pid, started = int(plan["launcher_pid"]), int(plan["launcher_started"])
    except (OSError, ValueError, LookupError, TypeError):  # none, unfinished, or foreign
        return 0
    return pid if pid and started and started_ticks(pid) == started else 0


def attach(name: str) -> Mapping:
    """Map a running instance read-only. Raises NotRunning."""
    try:
        plan = Plan.from_json(plan_path(name).read_bytes())
        ControlBlock.attach(instance=name, kernel_digest=None, read_only=True).close()
    except (OSError, SegmentError, ValueError, LookupError, TypeError, AttributeError):  # none, unfinished, or foreign
        raise NotRunning(f"no engine named {name!r} is running") from None
    if not Lease.is_held(lock_path(name)):
        raise NotRunning(f"an engine named {name!r} died and left its memory; the next `bot4 run` clears it")
    try:
        return Mapping(plan, read_only=True)
    except SegmentError as error:
        raise NotRunning(f"the engine named {name!r} cannot be looked at: {error}") from None
