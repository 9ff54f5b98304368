"""Finding a running instance by its name, to look at it."""

from __future__ import annotations

import os
from pathlib import Path

from procs.instance import Mapping, Plan
from shm.control import ControlBlock
from shm.lease import Lease
from shm.segment import SegmentError


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
