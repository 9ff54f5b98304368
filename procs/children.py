"""Starting, watching and ending the child processes of an instance."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from procs.instance import Plan, ProcessContext
from procs.table import Role
from shm.clock import python_monotonic_ns

_PR_SET_PDEATHSIG = 1
# By which a person or a machine asks an engine to stop in order.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Child:
    """One child process: its pid, a descriptor that becomes readable when it dies, and how it ended."""

    role: Role
    pid: int
    pidfd: int
    popen: subprocess.Popen[bytes] | None = None
    # Where it is not our own child (forked by the zygote, or by one that died): who knows how it ended, given its pid.
    exit_code: Callable[[int], int | None] | None = None
    status: int | None = None  # exit code, or minus the signal that ended it
    untold: bool = False  # it has ended and nobody could say how
    started_ns: int = field(default_factory=python_monotonic_ns)

    @property
    def alive(self) -> bool:
        """False once it was seen to have ended."""
        return self.status is None

    def died_in_words(self) -> str:
        """How it ended, for people."""
        if self.status is None:
            return "is running"
        if self.untold:
            return "has ended"
        if self.status < 0:
            return f"was ended by {signal.Signals(-self.status).name}"
        return f"ended with exit code {self.status}"


def _die_with_parent() -> None:
    """A stage must not outlive its supervisor: nobody would watch it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def open_log(folder: Path, name: str) -> BinaryIO:
    """The file of a session where what a process prints is kept; only its owner may read it."""
    return os.fdopen(os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _redirect_output(folder: Path, role: Role) -> None:
    """Whatever a library prints goes to a file of the session, not to the person's terminal."""
    with open_log(folder, role.label) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def settle(context: ProcessContext) -> None:
    """What every process of the engine does first: its core, its pid, deaf to the terminal's signals.

    The supervisor alone hears Ctrl-C, SIGTERM and the end of the terminal; the others are told to stop in their order.
    """
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    cores = context.plan.cores.get(context.role.label, ())
    if cores:
        os.sched_setaffinity(0, cores)
    context.control.set_pid(context.role, os.getpid())


def fork_child(
    plan: Plan, role: Role, body: Callable[[ProcessContext], None], successor: bool = False
) -> Child:
    """Fork a process that runs `body`; its kernels are those that this process has loaded.

    Without a launcher that could start another supervisor it dies with this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # What is frozen is never visited by a collection, so the child does not copy the pages it shares.
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid:
        return Child(role, pid, os.pidfd_open(pid))
    code = 1
    try:
        gc.disable()
        if not plan.launcher_pid:
            _die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
        _redirect_output(plan.path, role)
        context = ProcessContext(plan, role, successor)
        settle(context)
        body(context)
        code = 0
    except SystemExit as exit_request:
        code = exit_request.code if isinstance(exit_request.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stderr.flush()
        os._exit(code)


def begin_child(folder: Path, role: Role, successor: bool) -> subprocess.Popen[bytes]:
    """Start a clean process (see procs/spawned.py); it waits for its plan. folder: of the session."""
    with open_log(folder, role.label) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "procs.spawned", role.label, "successor" if successor else "first"],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
        )


def give_plan(popen: subprocess.Popen[bytes], plan: Plan, role: Role, secrets_json: bytes) -> Child:
    """Let a process of `begin_child` work; the plan and the credentials reach it through a pipe."""
    assert popen.stdin is not None
    try:
        popen.stdin.write(plan.to_json() + b"\n" + secrets_json + b"\n")
        popen.stdin.close()
    except BrokenPipeError:
        popen.stdin = None  # it died at once; its log says why, and the watcher will see it
    return Child(role, popen.pid, os.pidfd_open(popen.pid), popen)


def spawn_child(plan: Plan, role: Role, secrets_json: bytes, successor: bool = False) -> Child:
    """Start a clean process and let it work."""
    return give_plan(begin_child(plan.path, role, successor), plan, role, secrets_json)


def adopt_child(plan: Plan, role: Role, pid: int) -> Child | None:
    """A process of a supervisor that died, by the pid it left in the control block; None when it is gone.

    A pid may have been given to a stranger since: only a child of the launcher is taken.
    """
    try:
        pidfd = os.pidfd_open(pid)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None
    if parent != plan.launcher_pid:
        os.close(pidfd)
        return None
    return Child(role, pid, pidfd, exit_code=lambda pid: None)


def _has_ended(pidfd: int, timeout_ms: int | None) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def end_unknown_children(parent: int, known: set[int]) -> list[int]:
    """Kill the children of another process of ours that are not known, and theirs as they become its own.

    The launcher inherits what a supervisor leaves: zygotes, and stages that nobody had entered in the control block.
    Returns the pids that were ended.
    """
    ended: list[int] = []
    while True:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        strangers = [int(pid) for pid in listed if int(pid) not in known and int(pid) not in ended]
        if not strangers:
            return ended
        for pid in strangers:
            ended.append(pid)
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _has_ended(pidfd, None)
                os.close(pidfd)


def reap(child: Child, wait: bool) -> bool:
    """Learn how a child ended; True when it has. wait: block until then."""
    if child.status is None and child.exit_code is not None:
        if not _has_ended(child.pidfd, None if wait else 0):
            return False
        status = child.exit_code(child.pid)
        child.status, child.untold = status or 0, status is None
        os.close(child.pidfd)
    if child.status is None:
        if child.popen is not None:
            if not wait and child.popen.poll() is None:
                return False
            child.status = child.popen.wait()
        else:
            pid, status = os.waitpid(child.pid, 0 if wait else os.WNOHANG)
            if pid == 0:
                return False
            child.status = os.waitstatus_to_exitcode(status)
        os.close(child.pidfd)
    return True


def wait_for_death(children: list[Child], timeout_s: float) -> list[Child]:
    """The children that died within the time; returns as soon as one has. Interrupted by signals."""
    poller = select.poll()
    by_descriptor = {child.pidfd: child for child in children if child.alive}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    ready = poller.poll(max(0.0, timeout_s) * 1000)
    dead = [by_descriptor[descriptor] for descriptor, _ in ready]
    for child in dead:
        reap(child, wait=True)
    return dead


def wait_all(children: list[Child], timeout_s: float) -> bool:
    """Wait until all have ended; False when the time was over first."""
    deadline = python_monotonic_ns() + int(timeout_s * 1e9)
    while living := [child for child in children if child.alive]:
        left = (deadline - python_monotonic_ns()) / 1e9
        if left <= 0:
            return False
        wait_for_death(living, left)
    return True


def strike(child: Child) -> None:
    """SIGKILL; one that has ended meanwhile, and was reaped by its parent, is as dead as was wanted."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def kill(child: Child) -> None:
    """End a child for good and reap it."""
    if child.alive:
        strike(child)
        reap(child, wait=True)
