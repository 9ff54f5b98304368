"""The processes of an instance but for its supervisor: started, watched, and replaced when they die.

What a death means (the death table):
  any process             no entries until its successor is ready (execution is told by READINESS commands)
  ingestion               also STALE: the quotes are taken back at once
  execution, gateway      the kill switch cancels what rests after a second of silence
  kill switch             after 5 s without one: emergency
  observers               nothing: they are replaced, and left out when they die too often
  strategies of Python    execution takes back what they wanted (ABSENT); they are replaced after a pause that grows,
                          and left out when they die too often
  too many deaths         emergency (engine.deaths_to_stop within ten minutes)
A stuck process (procs/stall.py) is killed before it is replaced: nothing is taken from one that may wake up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import orjson

from engine.records import Kind
from procs.back_off import back_off_s
from procs.children import (
    Child,
    adopt_child,
    end_unknown_children,
    give_plan,
    kill,
    reap,
    spawn_child,
    strike,
    wait_all,
    wait_for_death,
)
from procs.deaths import Deaths
from procs.instance import Mapping, Plan
from procs.kill_credentials import has_own_key
from procs.nursery import Nursery
from procs.stall import StallWatch
from procs.standby import Standby
from procs.table import PROCESS_BY_ROLE, PROCESSES, STRATEGIES, VITAL, Role
from procs.venues.binance_usdm.endpoints import Credentials
from shm.clock import python_monotonic_ns
from shm.control import Readiness, TripSource

_KILL_TIMEOUT_S = 10.0
# The kill switch waits for the venue's answers in its own loop, each for seconds.
_KILL_SWITCH_PATIENCE = 10
_UNGUARDED_NS = 5 * 1_000_000_000
# From its start to its first sign of life.
_BIRTH_NS = 60 * 1_000_000_000
# How long a strategy that died waits for its successor, by its deaths of late.
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Crew:
    """See the module. `failure` says why the session must end; empty while it need not."""

    def __init__(
        self, plan: Plan, mapping: Mapping, nursery: Nursery, credentials: Credentials,
        command: Callable[..., None], say: Callable[[str], None],
    ) -> None:
        self._plan, self._mapping, self._nursery, self._credentials = plan, mapping, nursery, credentials
        self._command, self._say = command, say
        self._children: dict[Role, Child] = {}
        self._due_ns: dict[Role, int] = {}  # when a successor is to be started
        self._deaths = Deaths(mapping.deaths())
        self._stalls = StallWatch()
        self._standbys = {role: Standby(plan.path, role) for role in (Role.KILLSWITCH, Role.GATEWAY)}
        self._limit_ns = int(plan.settings.engine.stall_s * 1e9)
        self._not_ready_told = 0
        self._unguarded_since_ns = 0
        self.failure = ""

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every process without which nothing is traded, those first that take longest."""
        for process in sorted(PROCESSES, key=lambda process: not process.spawned):
            if process.role in VITAL:
                self._start(process.role, successor=False)

    def start_observers(self) -> None:
        """Start the others, once nobody waits for the processors any more. They see what has passed before, too."""
        for process in self._plan.processes:
            if process.role not in VITAL:
                self._start(process.role, successor=False)

    def adopt(self, also_known: Iterable[int]) -> None:
        """Take over the processes of a supervisor that died; end what it left and nobody knows, replace what is gone.

        also_known: pids of the launcher's other children.
        """
        control = self._mapping.control
        pids = {process.role: control.pid(process.role) for process in self._plan.processes}
        end_unknown_children(self._plan.launcher_pid, {*also_known, *pids.values(), self._nursery.pid})
        self._deaths.add(Role.SUPERVISOR, self._mapping.now_ns())
        self._not_ready_told = -1  # what the other one told last is not known
        for role, pid in pids.items():
            child = adopt_child(self._plan, role, pid) if pid else None
            if child is not None:
                self._children[role] = child
            else:
                self._succeed(role, "has ended while there was no supervisor")

    def _start(self, role: Role, successor: bool) -> None:
        if PROCESS_BY_ROLE[role].spawned:
            secrets = {}
            if role in VITAL and not (role == Role.KILLSWITCH and has_own_key(self._plan.settings.venue)):
                secrets = {"api_key": self._credentials.api_key, "secret": self._credentials.secret}
            waiting = self._standbys[role].take() if role in self._standbys and successor else None
            if waiting is not None:
                child = give_plan(waiting, self._plan, role, orjson.dumps(secrets))
            else:
                child = spawn_child(self._plan, role, orjson.dumps(secrets), successor)
        else:
            child = self._nursery.fork(role, successor)
        # It says so itself later on; a supervisor that takes over before must not start a second one.
        self._mapping.control.set_pid(role, child.pid)
        self._children[role] = child

    # --- looking ----------------------------------------------------------------------------------------------------

    def living(self, roles: Iterable[Role] | None = None) -> list[Child]:
        """The children that have not been seen to end; roles: of these alone."""
        wanted = set(self._children if roles is None else roles)
        return [child for role, child in self._children.items() if role in wanted and child.alive]

    def waiting_for(self) -> list[str]:
        """Names of the processes that are not ready."""
        control = self._mapping.control
        return [role.label for role in self._children if control.readiness(role) != Readiness.READY]

    def restarts(self) -> dict[str, int]:
        """{process: how often it was replaced}, those that never were left out."""
        zygote = {"zygote": self._nursery.deaths} if self._nursery.deaths else {}
        return self._deaths.by_label() | zygote

    def deaths_within(self, timeout_s: float) -> list[Child]:
        """The children that died within the time; returns as soon as one has."""
        return wait_for_death(self.living(), timeout_s)

    # --- watching ---------------------------------------------------------------------------------------------------

    def watch(self, timeout_s: float) -> None:
        """Look after the processes for a moment: the dead and the stuck get successors, execution hears who is missing.

        Sets `failure` when it cannot go on.
        """
        for child in self.deaths_within(timeout_s):
            self._replace(child)
        self._start_the_due()
        if self._nursery.look_after():
            self._say("the zygote has ended: another is there")
        self._kill_the_stuck()
        self._tell_readiness()
        self._guard_the_kill_switch()
        self._keep_standbys()

    def _kill_the_stuck(self) -> None:
        control, now = self._mapping.control, self._mapping.now_ns()
        for child in self.living():
            heartbeat = control.heartbeat(child.role)
            if not heartbeat:
                stuck = python_monotonic_ns() - child.started_ns > _BIRTH_NS
                silent = python_monotonic_ns() - child.started_ns
            else:
                silent = now - heartbeat
                stuck = self._stalls.stuck(child.pid, heartbeat, silent, self._limit_of(child.role))
            if not stuck:
                continue
            self._say(f"{self._name(child.role)} has not moved for {silent / 1e9:.1f} s: killing it")
            strike(child)
            if not wait_all([child], _KILL_TIMEOUT_S):
                # Stuck in the kernel, it may wake up yet: nobody takes its place.
                if child.role in VITAL:
                    self._fail(f"{child.role.label} cannot be ended")
                    return
                self._leave_out(child.role, "cannot be ended")
                continue
            self._replace(child)

    def _limit_of(self, role: Role) -> int:
        """How long a process may be silent, ns."""
        if role in STRATEGIES:
            return int(self._plan.settings.strategies[self._plan.strategy_of(role)].hang_s * 1e9)
        return self._limit_ns * (_KILL_SWITCH_PATIENCE if role == Role.KILLSWITCH else 1)

    def _start_the_due(self) -> None:
        """Start the successors whose pause is over."""
        for role in [role for role, due in self._due_ns.items() if python_monotonic_ns() >= due]:
            del self._due_ns[role]
            self._start(role, successor=True)

    def _fail(self, words: str) -> None:
        self.failure = self.failure or words
        self._say(f"{self.failure}: no more orders, cancelling everything")
        self._mapping.control.trip(TripSource.SUPERVISOR)

    def _replace(self, dead: Child) -> None:
        self._stalls.forget(dead.pid)
        if dead.role == Role.KILLSWITCH and (dead.status or 0) > 0:
            # It was not killed: an error ended it, perhaps before it could set the word itself.
            self._mapping.control.trip(TripSource.KILLSWITCH)
        self._succeed(dead.role, dead.died_in_words())

    def _succeed(self, role: Role, words: str) -> None:
        """Start the successor of a process that is surely dead, or stop everything after too many deaths."""
        control = self._mapping.control
        deaths = self._deaths.add(role, self._mapping.now_ns())
        if role in STRATEGIES:
            self._tell_absent(role, self._deaths.total(role))
        if deaths >= self._plan.settings.engine.deaths_to_stop:
            if role in VITAL:
                self._fail_of(role, words)
            else:
                self._leave_out(role, f"{words}, too often")
            return
        if role in STRATEGIES:
            pause_s = back_off_s(deaths - 1, _PAUSES_S)
            self._say(f"{self._name(role)} {words}: its successor comes in {pause_s:.1f} s")
            self._children.pop(role, None)
            control.clear_role(role)
            self._due_ns[role] = python_monotonic_ns() + int(pause_s * 1e9)
            return
        self._say(f"{role.label} {words}: starting its successor")
        control.clear_role(role)
        if role == Role.INGESTION:
            self._command(Kind.STALE, 0)  # until its successor has synchronised the books again
        self._start(role, successor=True)

    def _name(self, role: Role) -> str:
        """As people know it: with the strategy that it runs."""
        strategy = self._plan.strategy_of(role)
        return f"{role.label} ({strategy})" if strategy else role.label

    def _tell_absent(self, role: Role, lives: int) -> None:
        """Execution takes back what a strategy wanted of which so many processes have ended."""
        place = list(self._plan.settings.strategies).index(self._plan.strategy_of(role))
        self._command(Kind.ABSENT, lives, place)

    def _leave_out(self, role: Role, words: str) -> None:
        self._say(f"{self._name(role)} {words}: going on without it")
        if role in STRATEGIES:  # it may not have ended, and nothing that it says counts any more
            self._tell_absent(role, self._deaths.total(role) + 1)
        self._children.pop(role, None)
        self._mapping.control.clear_role(role)

    def _fail_of(self, role: Role, words: str) -> None:
        if role == Role.KILLSWITCH:
            # Without it nobody would act on a trip: the orderly stop cancels through the gateway.
            self.failure = self.failure or f"{role.label} {words}, too often to go on"
            self._say(f"{self.failure}: cancelling everything")
        else:
            self._fail(f"{role.label} {words}, too often to go on")

    def _tell_readiness(self) -> None:
        """Tell execution when the set of missing processes has changed."""
        control = self._mapping.control
        missing = 0
        for role in VITAL:
            if role != Role.EXECUTION and control.readiness(role) != Readiness.READY:
                missing |= 1 << role
        if missing != self._not_ready_told:
            self._command(Kind.READINESS, missing)
            self._not_ready_told = missing

    def _guard_the_kill_switch(self) -> None:
        """Emergency when there has been no armed kill switch for too long."""
        control, now = self._mapping.control, python_monotonic_ns()
        if control.readiness(Role.KILLSWITCH) == Readiness.READY:
            self._unguarded_since_ns = 0
        elif not self._unguarded_since_ns:
            self._unguarded_since_ns = now
        elif now - self._unguarded_since_ns > _UNGUARDED_NS and not control.tripped:
            self._say("no kill switch for 5 s: emergency")
            control.trip(TripSource.KILLSWITCH)

    def _keep_standbys(self) -> None:
        """New ones once everybody is ready: whoever starts has the machine for himself."""
        waiting = bool(self.waiting_for())
        for standby in self._standbys.values():
            if (standby.pid or not waiting) and (words := standby.look_after()):
                self._say(words)

    def standby_pids(self) -> dict[Role, int]:
        """Of the standbys that are there."""
        return {role: standby.pid for role, standby in self._standbys.items() if standby.pid}

    # --- ending -----------------------------------------------------------------------------------------------------

    def child(self, role: Role) -> Child | None:
        """The process of a role; None when it was left out."""
        return self._children.get(role)

    def close(self) -> None:
        """End whatever still runs."""
        for standby in self._standbys.values():
            standby.close()
        for child in self.living():
            if not reap(child, wait=False):
                kill(child)
        self._nursery.close()
