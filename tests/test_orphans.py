"""What a dead instance leaves is ended and freed; what lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from procs.attach import launcher_of, lock_path, plan_path, started_ticks
from procs.orphans import _last_one_at_work, end_instance, free_instance, sweep
from procs.table import Role
from shm.clock import python_session_ns
from shm.control import ControlBlock
from shm.lease import Lease
from shm.segment import list_segments, unlink_all

_DIGEST = "0" * 64
# Maps the control block of the instance that it is given, as every process of an engine does.
_PROCESS = """
import sys, time
from shm.control import ControlBlock
block = ControlBlock.attach(instance=sys.argv[1], kernel_digest=None)
print("up", flush=True)
time.sleep(100)
"""


@pytest.fixture
def name() -> Iterator[str]:
    made = f"test-{uuid.uuid4().hex[:8]}"
    yield made
    unlink_all(made)
    for path in (lock_path(made), plan_path(made)):
        path.unlink(missing_ok=True)


def _process(name: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, name], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    return process


def test_processes_that_map_the_memory_are_ended_and_strangers_are_not(name: str) -> None:
    control = ControlBlock.create(instance=name, kernel_digest=_DIGEST)
    ours = _process(name)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        control.set_pid(1, ours.pid)
        control.set_pid(2, stranger.pid)  # a pid that was given away again
        control.set_pid(3, os.getpid())
        control.set_pid(4, 2**22 - 1)  # nobody
        plan_path(name).write_bytes(b"{}")
        free_instance(name)
        assert ours.wait(timeout=10) == -9
        assert stranger.poll() is None
        assert list_segments(name) == [] and not plan_path(name).exists()
    finally:
        control.close()
        for process in (ours, stranger):
            process.kill()
            process.communicate()


def test_the_sweep_takes_only_what_nobody_holds(name: str) -> None:
    ControlBlock.create(instance=name, kernel_digest=_DIGEST).close()
    with Lease.acquire(lock_path(name)):
        assert name not in sweep()
        end_instance(name)  # of a last process that does not know of a new engine of this name
        assert list_segments(name) != []
    assert name in sweep()
    assert list_segments(name) == [] and not lock_path(name).exists()


def test_the_sweep_leaves_an_instance_whose_launcher_starts_another_supervisor(name: str) -> None:
    """Between a supervisor's death and its successor nobody holds the lease: another engine's start freed it."""
    ControlBlock.create(instance=name, kernel_digest=_DIGEST).close()
    Lease.acquire(lock_path(name)).release()
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        started = started_ticks(launcher.pid)
        plan = {"launcher_pid": launcher.pid, "launcher_started": started}
        plan_path(name).write_bytes(orjson.dumps(plan))
        assert launcher_of(name) == launcher.pid
        assert name not in sweep() and list_segments(name) != []
        plan_path(name).write_bytes(orjson.dumps(plan | {"launcher_started": started - 1}))  # another had that pid
        assert launcher_of(name) == 0
        plan_path(name).write_bytes(orjson.dumps(plan))
    finally:
        launcher.kill()
        os.waitid(os.P_PID, launcher.pid, os.WEXITED | os.WNOWAIT)
        assert launcher_of(name) == 0  # a zombie starts nothing
        launcher.communicate()
    assert name in sweep()
    assert list_segments(name) == []


@pytest.mark.parametrize("role", [Role.KILLSWITCH, Role.GATEWAY])
def test_the_sweep_leaves_whoever_still_cancels_for_a_dead_engine(name: str, role: Role) -> None:
    """Another engine's start ended the kill switch of one that had just died, before its positions were closed."""
    control = ControlBlock.create(instance=name, kernel_digest=_DIGEST)
    Lease.acquire(lock_path(name)).release()
    last = _process(name)
    try:
        control.set_pid(role, last.pid)
        control.beat(role, python_session_ns(control.session_offset_ns))
        assert name not in sweep() and last.poll() is None and list_segments(name) != []
        control.set_pid(role, os.getppid())  # somebody who has nothing to do with it
        assert not _last_one_at_work(name)
        control.set_pid(role, last.pid)
        control.beat(role, python_session_ns(control.session_offset_ns) - 11 * 10**9)
        assert name in sweep(), "it hangs"
        assert last.wait(timeout=10) == -9 and list_segments(name) == []
    finally:
        control.close()
        last.kill()
        last.communicate()


def test_a_lease_on_a_file_that_was_removed_meanwhile_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, then removed by its last holder, then locked: two would hold `the` lease without the second look."""
    import shm.lease as module

    opened: list[int] = []
    real = module._open

    def open_and_lose(target: str | Path) -> int:
        descriptor = real(target)
        if not opened:
            Path(target).unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(module, "_open", open_and_lose)
    with Lease.acquire(lock_path(name)):
        assert len(opened) == 2
        monkeypatch.setattr(module, "_open", real)
        assert Lease.is_held(lock_path(name))
