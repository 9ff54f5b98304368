"""A control plane on memory of its own, with somebody who answers for kill switch, gateway, execution and venue."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import argon2
import orjson

from engine.config import Settings
from engine.records import Kind
from engine.safety.mode import Mode
from engine.safety.settings import SafetySettings
from procs.control_plane import ControlPlane, open_control_folder
from procs.control_requests import ControlRequests
from procs.control_socket import Caller
from procs.instance import Mapping, Plan
from procs.latch import read_latch
from procs.table import Role
from shm.clock import sleep
from shm.control import Readiness
from tests.instance_memory import small_instance

SECRET = "correct horse battery staple"
S = 1_000_000_000
_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Desk:
    """See the module. Time stands still unless a test moves `now`."""

    def __init__(self, plan: Plan, data_folder: Path, **safety: Any) -> None:
        engine = replace(Settings().engine, name=plan.name, data_folder=str(data_folder))
        self.settings = replace(Settings(), engine=engine, safety=SafetySettings(**safety))
        self.folder = open_control_folder(self.settings)
        self.mapping = Mapping(plan)
        self.control = self.mapping.control
        self.now = self.mapping.now_ns()
        self.mapping.now_ns = lambda: self.now  # type: ignore[method-assign]
        self.execution = self.mapping.state(Role.EXECUTION)
        self.execution["opened"] = 1
        self.commands: list[tuple[int, ...]] = []
        self.said: list[str] = []
        self.mismatch = 0
        self.answers = True
        self.on_reconcile: Any = None
        for role in (Role.KILLSWITCH, Role.GATEWAY):
            self.control.set_readiness(role, Readiness.READY)
        self.start()

    def keep_secret(self, secret: str = SECRET) -> None:
        """As `bot4 secret` does, with a hash that is cheap to check."""
        path = self.folder / "operator.hash"
        path.write_text(_CHEAP.hash(secret))
        path.chmod(0o600)

    def start(self, adopted: bool = False) -> None:
        """A supervisor begins: on this memory as it is (adopted), or as if it were new."""
        self.plane = ControlPlane(self.settings, self.said.append)
        if not adopted:
            while self.control.tripped:
                self.control.reset(self.control.word)
            self.plane.arm(self.control)
        self.plane.attach(self.mapping, self._take_command, adopted)
        self.requests = ControlRequests(self.plane, adopted)

    def die(self) -> None:
        """The supervisor is killed: nothing of it runs any more, and what it had in hand is not finished."""
        self.requests.close()
        self.plane.audit.close()

    def end(self) -> None:
        """The supervisor stops in order."""
        self.requests.close()
        self.plane.close()

    def _take_command(self, kind: Kind, aux: int = 0, *strategy_and_number: int) -> None:
        self.commands.append((kind, aux, *strategy_and_number))
        if kind == Kind.RECONCILE and self.answers:
            if self.on_reconcile is not None:
                self.on_reconcile()
            self.execution["reconcile"]["done"] += 1
            self.execution["reconcile"]["mismatch"] = self.mismatch

    def sweep(self) -> None:
        """Kill switch and gateway have seen the word as it is."""
        self.control_words(Role.KILLSWITCH, self.control.token)
        self.control_words(Role.GATEWAY, self.control.word)

    def control_words(self, role: Role, value: int) -> None:
        """Publish what a role has acted upon."""
        self.control.set_gate_epoch(role, value)

    def tick(self) -> None:
        """As the supervisor does it."""
        self.plane.look()
        self.requests.serve()

    def begin(self, pid: int = 0, **request: Any) -> Caller:
        """Hand in a request without waiting for its answer."""
        caller = Caller(None, pid or os.getpid(), os.geteuid(), 0)  # type: ignore[arg-type]
        try:
            self.requests._take(caller, request)
        except ValueError as error:
            caller.answer({"ok": False, "error": str(error)})
        return caller

    def ask(self, pid: int = 0, **request: Any) -> dict[str, Any]:
        """Hand in a request and tick until it has its answer."""
        caller = self.begin(pid, **request)
        for _ in range(20_000):
            if caller.answered:
                return dict(orjson.loads(caller.outgoing))
            if not self.control.tripped:
                self.sweep()  # a reset is seen soon
            self.tick()
            sleep(0.0002)
        raise TimeoutError(f"no answer to {request}")

    def close(self) -> None:
        """Let go of everything."""
        with contextlib.suppress(OSError, ValueError):
            self.end()
        self.mapping.close()


@contextlib.contextmanager
def control_desk(**safety: Any) -> Iterator[Desk]:
    """A desk with a data folder in memory, where fsync costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bot4test") as folder:
        Path(folder).chmod(0o700)
        with small_instance(Path(folder)) as plan:
            desk = Desk(plan, Path(folder) / "data", **safety)
            try:
                yield desk
            finally:
                desk.close()


def latched(desk: Desk) -> Mode:
    """The mode in the latch file."""
    return read_latch(desk.folder, desk.settings.engine.name, expected=True, now_ns=desk.now).state.mode
