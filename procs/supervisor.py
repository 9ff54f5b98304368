"""The supervisor: makes the memory, starts the processes in order, watches them, and stops them in order.

Starting: embedded venue -> instruments -> memory -> processes (procs/crew.py) -> opening reconciliation -> trading.
Stopping: no more entries, cancel all, wait for the final reports, compare with the venue, then drain the path from its
head. A process that dies gets a successor, which takes up where its effects end.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import orjson

from engine.config import MARKETS, Settings, config_hash
from engine.kernel import kernel_digest
from engine.records import MARKET, Kind
from engine.settings import as_plain
from engine.stage import as_bytes
from models.card import load_card
from procs import VERSION
from procs.attach import launcher_of, leave_plan, lock_path, plan_path, started_ticks
from procs.audit import entries_of, read_log
from procs.children import STOP_SIGNALS, kill, wait_all
from procs.control_plane import ControlPlane
from procs.control_requests import ControlRequests
from procs.cores import usable_cores
from procs.crew import Crew
from procs.handover import Handover
from procs.identity import new_session_id
from procs.inference import model_path
from procs.instance import Mapping, Plan, create_memory, memory_beside_rings
from procs.kill_credentials import kill_credentials
from procs.kill_record import KillRecord
from procs.memory_use import pss_bytes
from procs.nursery import Nursery, NurseryError
from procs.orphans import free_instance, sweep
from procs.panic import PanicWatch
from procs.parameters import Parameters
from procs.ports import Outlet
from procs.states import initial_states
from procs.strategies import (
    check_declared,
    check_imports,
    keep_strategies,
    kept_strategies,
    load_strategies,
    read_strategies,
)
from procs.summary import machine_versions, summarise
from procs.table import STRATEGIES, VITAL, Role, placement, ring_capacities
from procs.triggers import triggers_lack
from procs.trusted import check_shared_memory
from procs.venue_process import VenueDidNotStart, VenueProcess
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints, load_credentials
from procs.venues.market import market_of, subscribed
from shm.clock import python_monotonic_ns, sleep, wall_ns
from shm.control import Stop, TripSource, tripped_sources
from shm.lease import Lease, LeaseHeld

_START_TIMEOUT_S = 60.0
_QUIESCENCE_TIMEOUT_S = 15.0
_COMPARISONS = 3
_COMPARE_AGAIN_S = 0.5
_STOP_TIMEOUT_S = 10.0
_TICK_S = 0.05
_KILL_SWITCH_TIME_S = 2.0
# After the market data the gateway, so that every report is in its ring, then execution, which takes them.
# Strategies go first: nothing is entered any more. Observers go last: they see the end of all others.
_STOP_ORDER = (
    *STRATEGIES, Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML, Role.GATEWAY, Role.EXECUTION, Role.KILLSWITCH,
    Role.MONITORING, Role.RECORDER,
)


class EngineError(RuntimeError):
    """The engine cannot start or go on; the message is for the person who started it."""


class Supervisor:
    """One session of one instance, from start to summary. Call `start`, `run`, `stop`, then `close`."""

    def __init__(self, settings: Settings, say: Callable[[str], None], handover: Handover) -> None:
        self.settings = settings
        self._handover = handover
        self._say = say
        self._nursery: Nursery | None = None
        self._plane: ControlPlane | None = None
        self._requests: ControlRequests | None = None
        self._kill_record: KillRecord | None = None
        self._trip_wanted = False
        self._folder: Path | None = None
        self._crew: Crew | None = None
        self._venue: VenueProcess | None = None
        self._lease: Lease | None = None
        self._mapping: Mapping | None = None
        self._commands: Outlet | None = None
        self._stop_wanted = False
        self._failure = ""
        self._started_ns = 0
        self.trading_ns = 0  # CLOCK_MONOTONIC when trading began
        self._credentials: Credentials | None = None
        self.summary: dict[str, Any] = {}

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up to the point where it trades. Raises EngineError, NotOurs, SegmentError, …"""
        settings = self.settings
        name = settings.engine.name
        card = load_card(model_path(settings.model.path), settings.features)
        files = read_strategies(settings)
        strategies = load_strategies(settings, files)
        check_declared(strategies, settings.features, card)
        check_imports(files)
        apart = tuple(file.name for file in files if file.apart)
        self._take_lease()
        free_instance(name)  # of a supervisor that is dead: we hold its lease
        sweep()
        if missing := triggers_lack(settings):
            raise EngineError(missing)
        self._plane = ControlPlane(settings, self._say)
        self._folder = folder = self._make_folder(name)
        self._nursery = Nursery(folder)  # it gets ready while the venue starts
        endpoints, credentials = self._venue_access(folder)
        market = market_of(MARKETS[settings.venue.market])
        listing = market.fetch_listing(endpoints.rest_url, settings.venue.symbols)
        instruments = subscribed(market, listing, settings.feed)
        states = initial_states(settings, instruments, strategies=strategies)
        capacities = ring_capacities(
            settings.engine.memory_budget_mib << 20, memory_beside_rings(states), len(apart)
        )
        cores, spin, why = placement(usable_cores(), settings.engine.placement)
        self.plan = Plan(
            name=name, session=new_session_id(), folder=str(folder), kernel_digest=kernel_digest(), settings=settings,
            instruments=instruments, endpoints=endpoints, capacities=capacities,
            cores={role.label: cores[role] for role in Role}, spin=spin, launcher_pid=self._handover.launcher_pid,
            launcher_started=started_ticks(self._handover.launcher_pid),
            rate_limits=listing.rate_limits, apart=apart,
        )
        self._write_session_file(folder, why, card)
        keep_strategies(files, folder)
        control = create_memory(self.plan, states)
        control.supervisor_pid = os.getpid()
        self._plane.arm(control)
        control.close()
        leave_plan(name, self.plan.to_json())
        self._started_ns = python_monotonic_ns()
        self._say(f"session {folder.name}: {', '.join(settings.venue.symbols)}; placement {why}")
        self._credentials = credentials
        self._gather_crew().start()
        self._serve_control(adopted=False)
        self._await_ready()
        self._open_account()
        if not self._execution_state()["opened"][0]:
            raise EngineError(
                "the venue's account cannot be adopted: orders rest there already, or the answer was not whole "
                f"(see {folder}/execution-*.journal)"
            )
        self.crew.start_observers()
        self.trading_ns = python_monotonic_ns()
        self._leave_report()

    def _gather_crew(self) -> Crew:
        """Map the memory and make the crew, empty as yet."""
        assert self._nursery is not None and self._credentials is not None
        self._mapping = Mapping(self.plan)
        if self._trip_wanted:  # while there was nothing to trip yet, or while a predecessor was being replaced
            self._mapping.control.trip(TripSource.OPERATOR)
        self._commands = Outlet(self._mapping, "commands")
        try:
            self._nursery.settle(self.plan)
        except OSError as error:
            raise EngineError(f"the zygote does not start: {error}; see {self.plan.folder}/zygote.log") from None
        self._crew = Crew(self.plan, self._mapping, self._nursery, self._credentials, self.command, self._say_and_note)
        return self._crew

    def _serve_control(self, adopted: bool) -> None:
        """From here on the mode is looked after, and the control socket answered, in every tick."""
        assert self._plane is not None
        self._plane.attach(self.mapping, self.command, adopted)
        strategies = load_strategies(self.plan.settings, kept_strategies(self.plan.path, self.plan.settings))
        self._requests = ControlRequests(self._plane, adopted, Parameters(strategies, self._execution_state()))
        told = entries_of(read_log(self._plane.folder)[0]) if adopted else []
        self._kill_record = KillRecord(self.plan.path, self.plan.session, self._plane.note, told)

    def _say_and_note(self, words: str) -> None:
        """What happens to processes is said, and belongs into the audit log."""
        self._say(words)
        if self._plane is not None:
            self._plane.note("process", words=words)

    def _open_account(self) -> None:
        """Adopt the venue's account. An emergency that was kept from before does not hinder it, a new one does."""
        assert self._plane is not None
        control, word = self.mapping.control, self._plane.kept_word
        if word:  # the kill switch has cancelled what an earlier session left; an account with orders is not adopted
            self._until(lambda: control.gate_epoch(Role.KILLSWITCH) == control.token, _QUIESCENCE_TIMEOUT_S)
        self._reconcile(opening=True)
        if control.word and not word:
            raise EngineError(f"{self._emergency_in_words()} while starting")

    @property
    def crew(self) -> Crew:
        """The other processes."""
        assert self._crew is not None
        return self._crew

    def _take_lease(self) -> None:
        name = self.settings.engine.name
        check_shared_memory(name)
        try:
            if launcher_of(name) not in (0, self._handover.launcher_pid):
                raise LeaseHeld("its supervisor is dead, and its launcher starts another")
            self._lease = Lease.acquire(lock_path(name))
        except LeaseHeld:
            raise EngineError(f"an engine named {name!r} is running already (`bot4 status` shows it)") from None
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_trip_signal)
        # The launcher started this process deaf to them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGUSR1})

    def _leave_report(self) -> None:
        """Tell the launcher what the next supervisor needs, should this one be killed."""
        assert self._credentials is not None
        self._handover.leave(
            {
                "started_ns": self._started_ns, "trading_ns": self.trading_ns,
                "deaths_to_stop": self.settings.engine.deaths_to_stop,
                "credentials": {"api_key": self._credentials.api_key, "secret": self._credentials.secret},
                "venue": self._venue.report() if self._venue is not None else None,
            }
        )

    def adopt(self) -> None:
        """Take over the live instance of a supervisor that was killed. Raises EngineError when it cannot be."""
        report = self._handover.report
        name = self.settings.engine.name
        self._take_lease()
        self.plan = Plan.from_json(plan_path(name).read_bytes())
        if self.plan.kernel_digest != kernel_digest():
            raise EngineError("the code has changed since the engine was started: it cannot be adopted")
        self._started_ns, self.trading_ns = report["started_ns"], report["trading_ns"]
        self._credentials = Credentials(**report["credentials"])
        known = {os.getpid(), report["console_pid"]}
        if report["venue"] is not None:
            self._venue = VenueProcess.adopt(report["venue"], self._credentials)
            known.add(self._venue.pid)
        self._plane = ControlPlane(self.settings, self._say)
        self._nursery = Nursery(self.plan.path)
        crew = self._gather_crew()
        self.mapping.control.supervisor_pid = os.getpid()
        self._serve_control(adopted=True)
        crew.adopt(known)
        self._leave_report()

    def _make_folder(self, name: str) -> Path:
        root = Path(self.settings.engine.data_folder).resolve() / "sessions"
        try:
            root.mkdir(parents=True, exist_ok=True)
            stamp = np.datetime64(wall_ns(), "ns").astype("datetime64[ms]").item().strftime("%Y%m%d-%H%M%S-%f")[:-3]
            folder = root / f"{name}-{stamp}"
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise EngineError(f"engine.data_folder {root}: {error.strerror}") from None
        return folder

    def _venue_access(self, folder: Path) -> tuple[Endpoints, Credentials]:
        venue = self.settings.venue
        if venue.embedded:
            try:
                self._venue = VenueProcess.start(self.settings, folder / "venue.log", self._handover.venue_fd)
            except VenueDidNotStart as error:
                raise EngineError(str(error)) from None
            return self._venue.endpoints, self._venue.credentials
        credentials = load_credentials(Path(venue.credentials_file))
        kill_credentials(venue, {"api_key": credentials.api_key, "secret": credentials.secret})  # can they be used?
        return Endpoints(venue.rest_url, venue.ws_url), credentials

    def _write_session_file(self, folder: Path, why: str, card: dict[str, Any]) -> None:
        """What a replay needs beside the journals, and what a person asks first."""
        content = {
            "name": self.plan.name, "session": self.plan.session, "engine_version": VERSION,
            "kernel_digest": self.plan.kernel_digest, "config_hash": config_hash(self.settings),
            "settings": as_plain(self.settings), "instruments": [item.as_dict() for item in self.plan.instruments],
            "model": card, "placement": why, "versions": machine_versions(),
        }
        (folder / "session.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))

    def _await_ready(self) -> None:
        deadline = python_monotonic_ns() + int(_START_TIMEOUT_S * 1e9)
        while True:
            waiting = self.crew.waiting_for()
            if not waiting:
                return
            for child in self.crew.deaths_within(_TICK_S):
                raise EngineError(
                    f"{child.role.label} {child.died_in_words()} while starting; its last words are in "
                    f"{self.plan.folder}/{child.role.label}.log"
                )
            self._look_at_the_mode()
            if python_monotonic_ns() > deadline:
                raise EngineError(f"not ready after {_START_TIMEOUT_S:.0f} s: {', '.join(waiting)}{self._why_not()}")
            if self._stop_wanted:
                raise EngineError("stopped while starting")

    def _why_not(self) -> str:
        """What is known of why a process is not ready."""
        if self.settings.remote_button.enabled and self.crew.waiting_for() == ["killswitch"]:
            return " (it waits for the remote button)"
        if not self.mapping.state(Role.GATEWAY)["dead_man_missed"][0]:
            return ""
        return (
            " (the venue's dead-man switch is not acknowledged; venue.accept_no_deadman = true trades without it; see "
            f"{self.plan.folder}/gateway.log)"
        )

    # --- talking to execution -------------------------------------------------------------------------------------

    def _execution_state(self) -> np.ndarray:
        assert self._mapping is not None
        return self._mapping.state(Role.EXECUTION)

    def command(self, kind: Kind, aux: int = 0, strategy: int = 0, number: int = 0) -> None:
        """Put a command on execution's command ring; strategy: of a PARAMETER or ABSENT, number: of a PARAMETER.

        Raises EngineError when nobody takes them any more.
        """
        assert self._commands is not None and self._mapping is not None
        record = np.zeros(1, MARKET)
        record["kind"], record["aux"], record["recv_ts_ns"] = kind, aux, self._mapping.now_ns()
        record["instrument"], record["size"] = strategy, number
        if not self._commands.give(as_bytes(record), 1):
            raise EngineError("execution takes no commands any more")

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition while watching the children."""
        deadline = python_monotonic_ns() + int(timeout_s * 1e9)
        while not condition():
            if python_monotonic_ns() > deadline or not self._watch(_TICK_S):
                return condition()
        return True

    def _reconcile(self, opening: bool) -> bool:
        """Ask the venue and wait for the answer to be taken; True when ledger and venue agree."""
        state = self._execution_state()
        reconcile = state["reconcile"]
        whole = int(reconcile["done"][0])
        before = whole + int(reconcile["failed"][0])
        word = self.mapping.control.word
        self.command(Kind.RECONCILE, aux=1 if opening else 0)
        self._until(
            lambda: (
                int(reconcile["done"][0]) + int(reconcile["failed"][0]) > before or self.mapping.control.word != word
            ),
            _QUIESCENCE_TIMEOUT_S,
        )
        return int(reconcile["done"][0]) > whole and int(reconcile["mismatch"][0]) == 0

    def _equals_venue(self) -> bool:
        """Whether ledger and venue agree. An answer that is not whole is asked for again for a while (the venue may be
        away for a moment, or want no calls); whole ones that differ are believed after some."""
        done = self._execution_state()["reconcile"]["done"]
        enough = int(done[0]) + _COMPARISONS
        deadline = python_monotonic_ns() + int(_QUIESCENCE_TIMEOUT_S * 1e9)
        while not self._reconcile(opening=False):
            if int(done[0]) >= enough or python_monotonic_ns() > deadline or self.mapping.control.tripped:
                return False
            self._until(lambda: False, _COMPARE_AGAIN_S)
        return True

    # --- running --------------------------------------------------------------------------------------------------

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._stop_wanted = True

    def _on_trip_signal(self, signum: int, frame: FrameType | None) -> None:
        """Somebody sent SIGUSR1: stop trading at once, or as soon as there is something to stop."""
        self._trip_wanted = True
        if self._mapping is not None:
            self._mapping.control.trip(TripSource.OPERATOR)

    def _look_at_the_mode(self) -> None:
        assert self._plane is not None and self._requests is not None
        self._plane.look()
        self._requests.serve()
        if self._kill_record is not None:
            self._kill_record.look()

    def _watch(self, timeout_s: float) -> bool:
        """Look after the processes and the mode for a moment. False when the session cannot go on."""
        try:
            self.crew.watch(timeout_s)
            self._look_at_the_mode()
        except NurseryError as error:
            raise EngineError(str(error)) from None
        self._failure = self._failure or self.crew.failure
        return not self._failure

    def run(self, duration_s: float | None, every_tick: Callable[[Supervisor], None]) -> None:
        """Trade until the time is over, somebody asks to stop, or a process dies too often."""
        assert self._plane is not None
        panic = PanicWatch(self.mapping, self._plane)
        end = self.trading_ns + int(duration_s * 1e9) if duration_s is not None else None
        while not self._stop_wanted and (end is None or python_monotonic_ns() < end):
            if not self._watch(_TICK_S):
                return
            panic.look()
            every_tick(self)

    @property
    def mapping(self) -> Mapping:
        """The instance's memory."""
        assert self._mapping is not None
        return self._mapping

    # --- stopping -------------------------------------------------------------------------------------------------

    def stop(self) -> dict[str, Any]:
        """Bring the engine to rest, compare it with the venue, stop every process, and return the summary."""
        assert self._mapping is not None
        duration_s = (python_monotonic_ns() - self._started_ns) / 1e9
        memory = {child.role.label: pss_bytes(child.pid) for child in self.crew.living()}
        memory |= {"supervisor": pss_bytes(os.getpid()), "zygote": pss_bytes(self._nursery.pid) if self._nursery else 0}
        memory |= {f"standby of {role.label}": pss_bytes(pid) for role, pid in self.crew.standby_pids().items()}
        self._come_to_rest()
        self._stop_children()
        if self._mapping.control.tripped and not self._failure:
            self._failure = self._emergency_in_words()
        self.summary = summarise(self._mapping, duration_s, memory, "paper" if self.settings.venue.embedded else "live")
        if self.summary["unaccounted"] and not self._failure:
            self._failure = f"{self.summary['unaccounted']} records are unaccounted for"
        self.summary["engine"] |= {"failure": self._failure, "restarts": self.crew.restarts()}
        return self.summary

    def _emergency_in_words(self) -> str:
        names = ", ".join(source.name.lower() for source in tripped_sources(self.mapping.control.word))
        return f"emergency stop ({names})"

    @property
    def failure(self) -> str:
        """Why the session did not end well; empty when it did."""
        return self._failure

    def _come_to_rest(self) -> None:
        """No more entries, cancel what rests, wait for the final reports, compare ledger and venue."""
        living = {child.role for child in self.crew.living()}
        if not {Role.EXECUTION, Role.GATEWAY} <= living:
            # Nobody is left to ask; the kill switch cancels by itself, and is given the time for it.
            sleep(_KILL_SWITCH_TIME_S)
            return
        state = self._execution_state()
        self.command(Kind.QUIESCE)
        if not self._until(lambda: bool(state["quiescent"][0]), _QUIESCENCE_TIMEOUT_S):
            self._failure = self._failure or "orders are still open or unknown after the stop"
        if self._mapping is not None and self._mapping.control.tripped:
            return  # the session has failed already; what a reset compares is compared there
        if not self._equals_venue():
            self._failure = self._failure or "the ledger does not equal the venue's account"

    def _stop_children(self) -> None:
        """Stop every process in the order of the data, each once it has drained its inputs."""
        assert self._mapping is not None
        for role in _STOP_ORDER:
            child = self.crew.child(role)
            if child is None:
                continue
            self._mapping.control.request_stop(role, Stop.DRAIN)
            stopped = not child.alive or wait_all([child], _STOP_TIMEOUT_S)
            if not stopped:
                kill(child)
            if role not in VITAL:
                continue  # whatever becomes of an observer, the session ended as it ended
            if not stopped:
                self._failure = self._failure or f"{role.label} did not stop by itself"
            if child.status:
                self._failure = self._failure or f"{role.label} {child.died_in_words()} while stopping"

    def _cancel_what_rests(self) -> None:
        """An error ended the session without its orderly stop: the kill switch cancels before everything ends."""
        living = self._crew.living([Role.KILLSWITCH]) if self._crew is not None else []
        if self._mapping is not None and self.trading_ns and living:
            self._mapping.control.trip(TripSource.SUPERVISOR)
            self._mapping.control.request_stop(Role.KILLSWITCH, Stop.DRAIN)
            wait_all(living, _STOP_TIMEOUT_S)

    def close(self) -> None:
        """End what still runs and leave nothing in shared memory. Safe at any point, again and again."""
        self._cancel_what_rests()
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._kill_record is not None:
            self._kill_record.look()
            self._kill_record = None
        if self._plane is not None:
            self._plane.close()
            self._plane = None
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        elif self._nursery is not None:
            self._nursery.close()
        self._nursery = None
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self._venue is not None:
            self._venue.stop()
            self._venue = None
        if self._folder is not None and not any(file.stat().st_size for file in self._folder.glob("*")):
            shutil.rmtree(self._folder, ignore_errors=True)  # it never came to anything worth keeping
        if self._lease is not None:
            free_instance(self.settings.engine.name)
            lock_path(self.settings.engine.name).unlink(missing_ok=True)
            self._lease.release()
            self._lease = None
