"""What an instance leaves whose supervisor and launcher are gone: processes that nobody watches, and its memory."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from procs.attach import launcher_of, lock_path, plan_path
from procs.control_plane import control_folder, keep_what_was_tripped
from procs.control_socket import socket_path
from procs.instance import Plan
from procs.table import Role
from procs.trusted import NotOurs
from shm.clock import python_session_ns
from shm.control import ROLES, ControlBlock
from shm.lease import Lease, LeaseHeld
from shm.segment import SegmentError, unlink_all

_END_TIMEOUT_MS = 10_000
_AT_WORK_NS = 10_000_000_000  # a sign of life is no older than this


def _maps_memory(name: str, pid: int) -> bool:
    """Whether a process maps an instance's memory. Raises OSError for one that is gone or somebody else's."""
    return f"/bot4.{name}." in Path(f"/proc/{pid}/maps").read_text()


def end_process(name: str, pid: int, timeout_ms: int = _END_TIMEOUT_MS) -> bool:
    """Kill a process if it still maps an instance's memory: a pid may belong to a stranger by now.

    Returns whether it was one of the instance's and was killed. One that hangs in the kernel may live on for a while
    after the time is over.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _maps_memory(name, pid):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(timeout_ms)
        return True
    except OSError:
        return False  # it ended by itself meanwhile
    finally:
        os.close(pidfd)


def end_processes(name: str, control: ControlBlock) -> list[int]:
    """Kill the processes in an instance's control block that still map its memory, but for this one.

    Returns the pids that were ended.
    """
    pids = [control.pid(role) for role in range(ROLES)]
    return [pid for pid in pids if pid and pid != os.getpid() and end_process(name, pid)]


def _keep_emergency(name: str, word: int) -> None:
    """The memory that says EMERGENCY is about to go: the next engine of that name must come back in it."""
    # No plan, or a disk that takes nothing: the memory goes all the same, nobody could use it.
    with contextlib.suppress(OSError, NotOurs, ValueError, LookupError, TypeError, AttributeError):
        folder = Plan.from_json(plan_path(name).read_bytes()).path
        keep_what_was_tripped(control_folder(folder.parent.parent, name), name, word)


def free_instance(name: str) -> None:
    """End what is left of an instance and remove its memory. The caller holds its lease."""
    with contextlib.suppress(SegmentError):  # there is none, or none that we can read
        control = ControlBlock.attach(instance=name, kernel_digest=None, read_only=True)
        try:
            end_processes(name, control)
            _keep_emergency(name, control.word)
        finally:
            control.close()
    unlink_all(name)
    plan_path(name).unlink(missing_ok=True)
    socket_path(name).unlink(missing_ok=True)


def end_instance(name: str) -> None:
    """What the last one does when supervisor and launcher are gone: `free_instance`, unless a new engine has begun."""
    with contextlib.suppress(LeaseHeld), Lease.acquire(lock_path(name)):
        free_instance(name)
        lock_path(name).unlink(missing_ok=True)


def _last_one_at_work(name: str) -> bool:
    """Whether kill switch or gateway of an instance live on: they cancel, close positions, then free it themselves."""
    with contextlib.suppress(SegmentError):  # there is none, or none that we can read
        control = ControlBlock.attach(instance=name, kernel_digest=None, read_only=True)
        try:
            now = python_session_ns(control.session_offset_ns)
            for role in (Role.KILLSWITCH, Role.GATEWAY):
                with contextlib.suppress(OSError):
                    is_there = control.pid(role) and _maps_memory(name, control.pid(role))
                    if is_there and now - control.heartbeat(role) < _AT_WORK_NS:
                        return True
        finally:
            control.close()
    return False


def sweep() -> list[str]:
    """Free every instance of this user that has no live lease holder, no live launcher and nobody who ends it; their
    names."""
    freed: list[str] = []
    for lock in Path("/dev/shm").glob("bot4-*.lock"):
        name = lock.name.removeprefix("bot4-").removesuffix(".lock")
        if launcher_of(name) or _last_one_at_work(name):
            continue  # looked at before the lease is taken: the next supervisor must find that free
        with contextlib.suppress(LeaseHeld, OSError), Lease.acquire(lock_path(name)):
            free_instance(name)
            lock.unlink(missing_ok=True)
            freed.append(name)
    return freed
