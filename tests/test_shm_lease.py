"""Leases: exclusive, freed by any death of the holder, kept by a stopped one, never inherited."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shm.lease import Lease, LeaseHeld
from shm.ring import Ring
from tests.shm_helpers import DIGEST, fresh_instance
from tools.soak.forks import Fork

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from shm.lease import Lease
lease = Lease.acquire(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def instance() -> Iterator[str]:
    yield from fresh_instance()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "lease"


def start_holder(target: str | Path) -> subprocess.Popen[str]:
    """A real child process that holds the lease when this returns."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_one_holder_at_a_time(target: Path) -> None:
    with Lease.acquire(target) as lease:
        assert lease.held and Lease.is_held(target)
        with pytest.raises(LeaseHeld, match=f"{target}: lease 0 is held"):
            Lease.acquire(target)
    assert not lease.held and not Lease.is_held(target)
    lease.release()
    Lease.acquire(target).release()


def test_bytes_are_leases_of_their_own(target: Path) -> None:
    with Lease.acquire(target, 0), Lease.acquire(target, 1):
        assert Lease.is_held(target, 1) and not Lease.is_held(target, 2)


def test_a_dropped_lease_is_free(target: Path) -> None:
    lease = Lease.acquire(target)
    del lease
    assert not Lease.is_held(target)


def test_a_killed_holder_loses_the_lease_and_a_stopped_one_keeps_it(target: Path) -> None:
    holder = start_holder(target)
    try:
        with pytest.raises(LeaseHeld):
            Lease.acquire(target)
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(LeaseHeld):
            Lease.acquire(target)
    finally:
        holder.kill()
        holder.communicate()
    with Lease.acquire(target) as lease:
        assert lease.held


def test_a_forked_child_does_not_keep_the_lease_of_its_dead_parent(target: Path) -> None:
    reader, writer = os.pipe()

    def parent() -> int:
        lease = Lease.acquire(target)
        if os.fork() == 0:
            os.write(writer, struct.pack("<i?", os.getpid(), lease.held))
            signal.pause()
        signal.pause()
        return 0

    child = Fork(parent)
    orphan, believes_to_hold = struct.unpack("<i?", os.read(reader, 5))
    os.close(reader)
    os.close(writer)
    try:
        assert not believes_to_hold
        assert Lease.is_held(target)  # the child closed its own copy only
        child.kill()
        with Lease.acquire(target) as lease:
            os.kill(orphan, 0)  # while the grandchild lives
            assert lease.held
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_spawned_child_does_not_inherit_the_lease(target: Path) -> None:
    lease = Lease.acquire(target)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lease._forget()  # close without unlocking: only an inherited copy could keep it now
        assert not Lease.is_held(target)
    finally:
        child.kill()
        child.wait()


def test_a_lease_on_a_mapped_segment(instance: str) -> None:
    ring = Ring.create("market", np.dtype([("x", "<i8", (8,))]), 8, instance=instance, kernel_digest=DIGEST)
    holder = start_holder(ring.segment.full_name)
    assert Lease.is_held(ring.segment.full_name)
    holder.kill()
    holder.communicate()
    lease = Lease.acquire(ring.segment.full_name)
    lease.release()
    assert not Lease.is_held(ring.segment.full_name)  # though the segment is still mapped here
    ring.close()
    ring.unlink()


def test_a_target_that_cannot_be_opened_is_an_error_of_its_own(tmp_path: Path) -> None:
    for target in (tmp_path / "no" / "such" / "folder", "/bot4.nobody.00000000.market"):
        with pytest.raises(FileNotFoundError):
            Lease.acquire(target)
        assert not Lease.is_held(target)
