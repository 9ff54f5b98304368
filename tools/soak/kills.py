"""Every process of a session is killed, and stopped and continued, at random moments under load.

One piece is one session on a venue of its own that outlives it. Each role is met once with SIGKILL and once with
SIGSTOP, in an order and at moments drawn from the seed. After each the engine must be back in service within five
seconds, unless others crowd the machine; then the time is shown, and counted as not judged. At the end the launcher
is killed too; the session is then ended through its supervisor. What must hold then: every record accounted for, the
ledger equal to the venue's, each fill once, and a replay of the journal with the same decision hash.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from procs.attach import attach
from procs.embedded.mix import Draws
from procs.instance import Mapping
from procs.table import PROCESSES, Role
from shm.clock import python_monotonic_ns, sleep, wall_ns
from shm.control import Readiness, tripped_sources
from tools.soak.session import (
    BUSY_MARKET,
    WIDE_LIMITS,
    Engine,
    SessionError,
    Venue,
    alive,
    engine,
    leftovers,
    replay,
    venue,
    wait_until,
)
from tools.soak.tally import Piece

IN_SERVICE_S = 5.0
_GIVE_UP_S = 40.0
_CROWDED = 3.0  # processes a core that want to run; the engine with its load and this suite are about 1.5
_LONGEST_STOP_S = 3.0
_ORDERS_BEFORE = 8
ROLES = [process.role.label for process in PROCESSES]
VICTIMS = [*ROLES, "zygote", "supervisor", "launcher"]
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
# Whether these stand still is not watched: the kill switch waits for the venue in its own loop, the zygote for work,
# and the other two have nobody above them.
_NEVER_REPLACED_WHEN_STOPPED = ("killswitch", "zygote", "supervisor", "launcher")
LOAD = {**BUSY_MARKET, **WIDE_LIMITS}
SETTINGS = {"deaths_to_stop": 1000}


class Watch:
    """What a session's shared memory says of it, read from outside."""

    def __init__(self, made: Engine) -> None:
        self._made = made
        self._mapping = attach(made.name)
        self.unready_ns = 0  # wall time just before the last look that found the engine out of service

    @property
    def mapping(self) -> Mapping:
        """The engine's memory."""
        return self._mapping

    def close(self) -> None:
        """Let go of the memory."""
        self._mapping.close()

    def pid(self, victim: str) -> int:
        """Of a role, the supervisor or the launcher."""
        if victim == "launcher":
            return self._made.launcher.pid
        if victim == "supervisor":
            return int(self._mapping.control.supervisor_pid)
        if victim == "zygote":
            return _zygote_of(self.pid("supervisor"))
        return int(self._mapping.control.pid(Role[victim.upper()]))

    def acked(self) -> int:
        """Orders that the venue has confirmed so far."""
        return int(self._mapping.state(Role.EXECUTION)["orders"]["acked"][0])

    def ready(self) -> bool:
        """Whether every process is there and says that it is ready."""
        control = self._mapping.control
        return alive(control.supervisor_pid) and all(
            control.readiness(process.role) == Readiness.READY and alive(control.pid(process.role))
            for process in PROCESSES
        )

    def wait_in_service(self, began: int, replaced: Callable[[], bool]) -> tuple[float, float]:
        """Seconds from `began` until the victim is replaced and all are ready, and until orders flow again.

        Raises SessionError when that takes more than 40 s.
        """

        def seconds() -> float:
            return (python_monotonic_ns() - began) / 1e9

        def wait(condition: Callable[[], bool], what: str) -> float:
            while not condition():
                if seconds() > _GIVE_UP_S or self._mapping.control.tripped:
                    names = [source.name for source in tripped_sources(self._mapping.control.word)]
                    raise SessionError(f"not {what} after {seconds():.1f} s; tripped by {names}, {_machine()}")
                sleep(0.01)
            return seconds()

        def is_ready() -> bool:
            looked_ns = wall_ns()
            if replaced() and self.ready():
                return True
            self.unready_ns = looked_ns
            return False

        ready = wait(is_ready, "ready again")
        before = self.acked()
        return ready, wait(lambda: self.acked() != before, f"trading again, ready after {ready:.1f} s,")


def crowded() -> bool:
    """Whether others want more of this machine than it has: a successor then gets no time to start."""
    return os.getloadavg()[0] > _CROWDED * len(os.sched_getaffinity(0))


def _machine() -> str:
    """How busy the machine is."""
    return f"{os.getloadavg()[0]:.1f} processes want {len(os.sched_getaffinity(0))} cores"


def _zygote_of(supervisor: int) -> int:
    """Pid of the zygote that a supervisor has started; 0 while there is none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(supervisor).children():
            if "procs.zygote" in child.cmdline() and alive(child.pid):
                return int(child.pid)
    return 0


def strike(watch: Watch, victim: str, name: str, draws: Draws) -> tuple[float, float]:
    """One signal to one process; seconds until all were ready again, and until orders flowed.

    A stopped process is continued after a while that may be too long for the supervisor's patience; then it is killed
    and replaced, and the time counts from the signal. Else it counts from the moment at which it went on.
    """
    pid = watch.pid(victim)
    if not pid:
        raise SessionError("it is not there")
    began = python_monotonic_ns()
    os.kill(pid, SIGNALS[name])
    if name == "SIGKILL":
        return watch.wait_in_service(began, lambda: victim == "launcher" or watch.pid(victim) not in (0, pid))
    longest = 1.0 if victim in _NEVER_REPLACED_WHEN_STOPPED else _LONGEST_STOP_S
    end = python_monotonic_ns() + int((0.05 + draws.uniform() * longest) * 1e9)
    while python_monotonic_ns() < end and alive(pid):
        sleep(0.01)
    if alive(pid):
        with contextlib.suppress(ProcessLookupError):  # it was given up and killed just now
            os.kill(pid, signal.SIGCONT)
            began = python_monotonic_ns()
    return watch.wait_in_service(began, lambda: alive(watch.pid(victim)))


def plan_of(seed: int) -> list[tuple[str, str]]:
    """(victim, signal) in the order of a seed; the launcher's death comes last: nobody could start it again."""
    draws = Draws(seed, 0)
    todo = [(victim, name) for victim in VICTIMS for name in SIGNALS if (victim, name) != ("launcher", "SIGKILL")]
    shuffled = []
    while todo:
        shuffled.append(todo.pop(draws.whole(0, len(todo) - 1)))
    return [*shuffled, ("launcher", "SIGKILL")]


def run_kills(piece: Piece) -> None:
    """One session with every signal to every process."""
    draws = Draws(piece.seed, 1)
    with (
        venue(piece.folder, seed=piece.seed + 1, **LOAD) as place,
        engine(piece.folder, venue=place.connection, engine=SETTINGS) as made,
    ):
        made.start()
        made.wait_trading(_ORDERS_BEFORE)
        watch = Watch(made)
        try:
            killed = _strike_all(piece, watch, draws)
            supervisor = watch.pid("supervisor")
        finally:
            watch.close()
        end_and_judge(piece, made, place, supervisor, killed.get("ingestion", 0))


def end_and_judge(piece: Piece, made: Engine, place: Venue, supervisor: int, ingestion_deaths: int) -> None:
    """End a session through its supervisor, whether the launcher lives or not, and hold it to its promises."""
    os.kill(supervisor, signal.SIGINT)
    wait_until(lambda: not alive(supervisor), 90, "end of the supervisor")
    _, out, err = made.finish(signum=None)
    if not made.summary_file.exists():
        raise SessionError(f"the session left no summary: {out[-2000:]} {err[-2000:]}")
    summary = made.summary()
    for text in faults_of(summary, place.state(), ingestion_deaths):
        piece.hold(False, text)
    piece.hold(leftovers(made.name) == [], f"left behind: {leftovers(made.name)}")
    piece.count("sessions")
    piece.count("frames", summary["market"]["frames"])
    piece.count("orders", summary["orders"]["sent"])
    piece.count("fills", summary["fills"])


def _strike_all(piece: Piece, watch: Watch, draws: Draws) -> dict[str, int]:
    """All strikes of the piece's plan; how many processes of each role were replaced."""
    replaced: dict[str, int] = {}
    for victim, name in plan_of(piece.seed):
        sleep(0.1 + 1.4 * draws.uniform())
        before = watch.pid(victim)
        roles = {role: watch.pid(role) for role in ROLES}
        try:
            ready, seconds = strike(watch, victim, name, draws)
        except SessionError as error:
            raise SessionError(f"{name} to {victim}: {error}") from None
        if victim == "supervisor" and name == "SIGKILL":
            others = [role for role, pid in roles.items() if watch.pid(role) != pid]
            piece.hold(others == [], f"a new supervisor replaced {others} instead of adopting them")
        changed = watch.pid(victim) != before
        replaced[victim] = replaced.get(victim, 0) + changed
        piece.count(f"{victim} {name}")
        how = ", replaced" if changed else ""
        words = f"{name} to {victim}{how}: ready after {ready:.2f} s, orders after {seconds:.2f} s"
        if crowded():
            piece.count("strikes whose time is not judged")
            piece.note(f"{words}; the time is not judged: {_machine()}")
            continue
        piece.measure(f"seconds {victim} {name}", seconds)
        piece.note(words)
        piece.hold(seconds <= IN_SERVICE_S, f"{words}; {_machine()}")
    return replaced


def faults_of(summary: dict[str, Any], truth: dict[str, Any], ingestion_deaths: int) -> list[str]:
    """What a session that has ended has broken of its promises, its replay included. truth: the venue's state."""
    again = replay(Path(summary["engine"]["folder"]))
    promises = {
        f"the session failed: {summary['engine']['failure']}": not summary["engine"]["failure"],
        f"{summary['unaccounted']} records are unaccounted for": summary["unaccounted"] == 0,
        "the ledger does not equal the venue's account": summary["ledger_matches_venue"] is True,
        f"{len(truth['open_orders'])} orders rest at the venue": truth["open_orders"] == [],
        f"{summary['fills']} fills, {truth['fill_count']} at the venue": summary["fills"] == truth["fill_count"],
        f"positions {summary['positions']}, at the venue {truth['positions']}": all(
            float(size) == float(truth["positions"][symbol]["size"]) for symbol, size in summary["positions"].items()
        ),
        f"{summary['orders']['illegal_transitions']} illegal transitions of orders": (
            summary["orders"]["illegal_transitions"] == 0
        ),
        f"{summary['market']['gaps']} gaps after {ingestion_deaths} deaths of ingestion": (
            summary["market"]["gaps"] >= ingestion_deaths
        ),
        f"decision hash {summary['decision_hash']}, of its replay {again['decision_hash']}": (
            again["decision_hash"] == summary["decision_hash"]
        ),
        f"{summary['fills']} fills, {again['fills']} in the replay": again["fills"] == summary["fills"],
        "no order was ever sent": summary["orders"]["sent"] > 0,
    }
    return [text for text, kept in promises.items() if not kept]
