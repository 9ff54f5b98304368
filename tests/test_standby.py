"""Standbys: a real process that waits for its plan, and takes over at once when it gets it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from engine.kernel import kernel_digest
from procs.children import begin_child, give_plan
from procs.instance import Mapping
from procs.standby import Standby
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Endpoints
from shm.control import Readiness, Stop
from tests.instance_memory import small_instance
from tests.waiting import until

_START_S = 60.0


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    made = Standby(tmp_path, Role.KILLSWITCH)
    assert made.look_after() == ""
    yield made
    made.close()


def has_loaded(pid: int) -> bool:
    """Whether it waits for its plan: the certificates of TLS are the last that it loads."""
    return psutil.Process(pid).status() == psutil.STATUS_SLEEPING and "libssl" in Path(f"/proc/{pid}/maps").read_text()


def may_be_real_time() -> bool:
    """Whether this user's processes may have real-time priority."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def test_it_maps_nothing_knows_nothing_and_takes_over_when_it_gets_the_plan(
    tmp_path: Path, standby: Standby
) -> None:
    pid = standby.pid
    until(lambda: has_loaded(pid), "standby that has loaded", _START_S)
    assert "/dev/shm/" not in Path(f"/proc/{pid}/maps").read_text()
    assert not any(name in Path(f"/proc/{pid}/maps").read_text() for name in ("ccxt", "onnxruntime"))
    waiting = standby.take()
    assert waiting is not None and standby.pid == 0
    away = Endpoints("http://127.0.0.1:9", "ws://127.0.0.1:9")
    with small_instance(tmp_path, away, digest=kernel_digest()) as plan:
        mapping = Mapping(plan)
        control = mapping.control
        control.supervisor_pid = os.getpid()
        child = give_plan(waiting, plan, Role.KILLSWITCH, orjson.dumps({"api_key": "k", "secret": "s"}))
        try:
            until(lambda: control.readiness(Role.KILLSWITCH) == Readiness.READY, "armed kill switch", _START_S)
            assert control.pid(Role.KILLSWITCH) == pid == child.pid
            if may_be_real_time():
                policies = [os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
                assert policies.count(os.SCHED_FIFO) >= 4, "its loop, notes, warm connections, private stream"
            control.request_stop(Role.KILLSWITCH, Stop.DRAIN)
            assert waiting.wait(_START_S) == 0
        finally:
            waiting.kill()
            waiting.wait()
            os.close(child.pidfd)
            mapping.close()


def test_a_gateway_waits_loaded_too(tmp_path: Path) -> None:
    standby = Standby(tmp_path, Role.GATEWAY)
    try:
        assert standby.look_after() == ""
        until(lambda: "libssl" in Path(f"/proc/{standby.pid}/maps").read_text(), "gateway that has loaded", _START_S)
        assert "/dev/shm/" not in Path(f"/proc/{standby.pid}/maps").read_text()
    finally:
        standby.close()


def test_it_ends_when_nobody_is_left_who_could_need_it(tmp_path: Path) -> None:
    """The other end of its pipe goes with the supervisor."""
    waiting = begin_child(tmp_path, Role.KILLSWITCH, successor=True)
    assert waiting.stdin is not None
    waiting.stdin.close()
    assert waiting.wait(_START_S) == 0
    assert (tmp_path / "killswitch.log").read_bytes() == b""


def test_one_that_died_is_not_taken_and_is_replaced_after_a_while(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = standby.pid
    assert standby.look_after() == "" and standby.pid == first
    os.kill(first, signal.SIGKILL)
    until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE, "dead standby", 10.0)
    assert standby.look_after() == f"the standby of the killswitch has ended with {-signal.SIGKILL}"
    assert standby.pid == 0 and standby.look_after() == "" and standby.pid == 0, "not at once again"
    monkeypatch.setattr(standby, "_not_before_ns", 0)
    assert standby.look_after() == "" and standby.pid not in (0, first)
    os.kill(standby.pid, signal.SIGKILL)
    until(lambda: psutil.Process(standby.pid).status() == psutil.STATUS_ZOMBIE, "dead standby", 10.0)
    assert standby.take() is None


def test_where_there_is_no_place_for_its_log_there_is_none(tmp_path: Path) -> None:
    lost = Standby(tmp_path / "gone", Role.KILLSWITCH)
    assert lost.look_after().startswith("the killswitch has no standby: ")
    assert lost.look_after() == "" and lost.take() is None
    lost.close()


def test_closing_ends_it(tmp_path: Path) -> None:
    made = Standby(tmp_path, Role.KILLSWITCH)
    made.look_after()
    pid = made.pid
    made.close()
    assert not psutil.pid_exists(pid)
    assert made.pid == 0
