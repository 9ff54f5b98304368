"""Processes of another version of the code refuse to work on an engine's memory, however they are started."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from engine.kernel import PROJECT_ROOT, kernel_digest
from procs.instance import OtherCode, Plan
from procs.zygote import MESSAGE_BYTES
from tests.instance_memory import small_instance


def spawned(plan: Plan, role: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "procs.spawned", role, "first"], input=plan.to_json() + b"\n{}\n", capture_output=True,
        cwd=PROJECT_ROOT, timeout=60, check=False,
    )


@pytest.mark.parametrize("role", ["recorder", "gateway", "killswitch"])
def test_a_spawned_process(tmp_path: Path, role: str) -> None:
    with small_instance(tmp_path) as plan:  # of a digest of its own
        done = spawned(plan, role)
        assert done.returncode == 1
        assert b"OtherCode: the code has changed since the engine was started" in done.stderr
        assert kernel_digest()[:12].encode() in done.stderr


def test_a_plan_that_names_another_code_than_the_memory_does(tmp_path: Path) -> None:
    """A process of the plan's code, on memory that another code has made."""
    with small_instance(tmp_path) as plan:
        done = spawned(dataclasses.replace(plan, kernel_digest=kernel_digest()), "recorder")
        assert done.returncode == 1
        assert b"SegmentError" in done.stderr and b"kernel digest" in done.stderr


def test_a_zygote(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with small_instance(tmp_path) as plan, ours:
        with theirs:
            zygote = subprocess.Popen(
                [sys.executable, "-m", "procs.zygote", str(theirs.fileno())], pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE, cwd=PROJECT_ROOT,
            )
        ours.settimeout(60)
        ours.send(orjson.dumps({"plan": orjson.loads(plan.to_json())}))
        assert ours.recv(MESSAGE_BYTES) == b""
        _, error = zygote.communicate(timeout=60)
        assert zygote.returncode == 1 and b"OtherCode" in error


def test_the_same_code_is_no_error(tmp_path: Path) -> None:
    with small_instance(tmp_path) as plan:
        dataclasses.replace(plan, kernel_digest=kernel_digest()).require_same_code()
        with pytest.raises(OtherCode):
            plan.require_same_code()
