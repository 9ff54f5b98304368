"""One engine on paper that is tripped and reset again and again: the real way, through its control socket.

Button on mock pins, remote button, no operator secret and no cooldown: all of it is accepted on the embedded venue
alone. The venue is a process of its own and keeps its own log. What must outlive the engine (`terminal`) has a venue
that nobody of the engine has started, and then it is a session for one trip: nobody resets it within minutes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from procs.attach import NotRunning, attach
from procs.control_plane import control_folder
from procs.control_socket import ControlError, ask
from procs.gpio.mock_pins import PIPE_NAME
from procs.instance import Mapping
from procs.key_file import make_key
from procs.latch import read_latch
from procs.table import VITAL, Role
from procs.venues.binance_usdm.reports import ClientIds
from shm.clock import python_monotonic_ns, sleep, wall_ns
from shm.control import Readiness, tripped_sources
from tools.soak.session import (
    BOT4,
    BUSY_MARKET,
    CALM,
    PROJECT_ROOT,
    WIDE_LIMITS,
    Engine,
    SessionError,
    VenueAccess,
    engine,
    venue,
    wait_until,
)
from tools.trips.judge import Facts
from tools.trips.watch import TripWatch, is_done

_ORDERS_AFTER = 3
_STALL_S = 3.0
_STALLED_S = 1.0
_ANSWER_S = 100.0
_TMPFS_MIB = 384
FILLER = "filler"  # what fills it


def free_port() -> int:
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mount a small disk of its own there where that is permitted; yields why not, empty when it is mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MIB}m,mode=0700", "tmpfs", str(folder)], capture_output=True,
        check=False,
    ) if shutil.which("mount") else None
    if mounted is None or mounted.returncode:
        yield "no small disk can be mounted here"
        return
    try:
        yield ""
    except BaseException:  # what is on it says why
        ignored = shutil.ignore_patterns(FILLER, PIPE_NAME)
        shutil.copytree(folder, folder.with_name(f"{folder.name}-kept"), ignore=ignored)
        raise
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@dataclass
class TripSession:
    """See the module; made by `trip_session`."""

    made: Engine
    data: Path
    no_disk: str  # why there is no disk that could be filled; empty: there is one
    port: int
    key: Path
    own_venue: VenueAccess | None  # where the engine has not started its venue itself
    secret: str = ""  # the operator's, where one is needed
    button: subprocess.Popen[bytes] | None = None
    mapping: Mapping | None = None
    cleanups: list[Callable[[], None]] = field(default_factory=list)

    # --- beginning and end ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine and, where one is served, the remote button; wait until both are ready."""
        self.made.start()
        if self.own_venue is None:
            self.press_on()
        wait_until(self._attach, 90, "engine")
        self.wait_ready()

    def _attach(self) -> bool:
        if self.ended:
            raise SessionError(f"the engine ended early: {self.made.finish(signum=None)}")
        try:
            self.mapping = attach(self.made.name)
            for role in (Role.GATEWAY, Role.EXECUTION):  # now: it may be looked at when the engine has ended
                self.mapping.state(role)
        except NotRunning:
            return False
        return True

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every process that trading needs is there, and the control plane answers."""

        def ready() -> bool:
            if self.ended:
                raise SessionError(f"the engine ended: {self.made.finish(signum=None)}")
            control = self.live.control
            return all(control.readiness(role) == Readiness.READY for role in VITAL) and self.status() is not None

        wait_until(ready, timeout_s, "engine with all its processes")

    def stop(self) -> tuple[int, str, str]:
        """End the engine in order, where it still runs; exit code, output, errors."""
        self.detach()
        result = self.made.finish(None if self.ended else signal.SIGINT)
        self.let_go_of_button()
        return result

    @property
    def running(self) -> bool:
        """Whether the engine is there."""
        return self.mapping is not None and not self.ended

    @staticmethod
    def wait(condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition came true in time."""
        try:
            wait_until(condition, timeout_s, "it")
        except TimeoutError:
            return False
        return True

    @property
    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return self.made.launcher.poll() is not None

    @property
    def gone(self) -> bool:
        """Whether nothing of the engine is left but what this process has mapped."""
        return self.ended and not list(Path("/dev/shm").glob(f"bot4*{self.made.name}*"))

    def detach(self) -> None:
        """Let go of the engine's memory."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None

    @property
    def live(self) -> Mapping:
        """The engine's memory. Raises SessionError when it does not run."""
        if self.mapping is None:
            raise SessionError(f"{self.made.name} does not run")
        return self.mapping

    @property
    def folder(self) -> Path:
        """Folder of the session."""
        return Path(self.live.plan.folder)

    @property
    def venue(self) -> VenueAccess:
        """The venue's own endpoints."""
        return self.own_venue or VenueAccess(self.live.plan.endpoints.rest_url)

    def pid(self, role: Role) -> int:
        """Of a process, the supervisor included."""
        control = self.live.control
        return int(control.supervisor_pid) if role == Role.SUPERVISOR else control.pid(role)

    # --- the remote button and the button on the pins ---------------------------------------------------------------

    def press_on(self) -> None:
        """Start the remote button's process: its heartbeat is what the engine waits for."""
        config = self.made.folder / "button.toml"
        config.write_text('[gpio]\nbackend = "mock"\n')
        self.button = subprocess.Popen(
            [*BOT4, "button", "--engine", f"127.0.0.1:{self.port}", "--key", str(self.key), "--name", self.made.name,
             "--config", str(config)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT_ROOT,
        )

    def let_go_of_button(self) -> None:
        """End the remote button's process, as a cut cable would."""
        if self.button is not None:
            self.button.kill()
            self.button.communicate()
            self.button = None

    def contact(self, word: str) -> None:
        """Move the mock pin: press or release."""
        # Without waiting for a reader: a kill switch that has none is what is found, not what is waited for.
        descriptor = os.open(self.folder / PIPE_NAME, os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(descriptor, f"{word}\n".encode())
        finally:
            os.close(descriptor)

    # --- modes ------------------------------------------------------------------------------------------------------

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request to the control plane; a supervisor that does not answer has refused."""
        if self.secret:
            request = {"secret": self.secret} | request
        try:
            return ask(self.made.name, request, _ANSWER_S)
        except ControlError as error:
            return {"ok": False, "error": str(error)}

    def status(self) -> dict[str, Any] | None:
        """What the control plane says of the mode; None where it does not answer."""
        try:
            answer = ask(self.made.name, {"command": "status"}, 2.0)
        except ControlError:
            return None
        return answer if answer["ok"] else None

    def go_to(self, mode: str, timeout_s: float = 60.0) -> None:
        """Bring the engine from wherever it is into NORMAL, with orders flowing, and from there into a mode.

        Raises TimeoutError with the last refusal.
        """
        self._insist(self._normal, timeout_s)
        self.wait_orders()
        if mode != "NORMAL":
            self._insist(lambda: self.ask(command="mode", mode=mode, reason="to be tripped in it"), timeout_s)
        if mode == "EMERGENCY":
            wait_until(lambda: is_done(self.live.control), timeout_s, "confirmed stop")

    def _normal(self) -> dict[str, Any]:
        status = self.status()
        if status is None:
            return {"ok": False, "error": "no answer"}
        if status["mode"] == "EMERGENCY":
            answer = self.ask(command="reset", reason="the trip was meant", acknowledge=True)
            if not answer["ok"]:
                return answer
        return self.ask(command="mode", mode="NORMAL", reason="the trip was meant")

    def _insist(self, attempt: Callable[[], dict[str, Any]], timeout_s: float) -> None:
        deadline = python_monotonic_ns() + int(timeout_s * 1e9)
        while not (answer := attempt())["ok"]:
            if self.ended:
                raise SessionError(f"the engine ended: {self.made.finish(signum=None)}")
            if python_monotonic_ns() > deadline:
                raise SessionError(f"still refused after {timeout_s:.0f} s: {answer}")
            sleep(0.1)

    def wait_orders(self, timeout_s: float = 40.0) -> None:
        """Wait until the venue has confirmed some more orders."""
        acked = self.live.state(Role.EXECUTION)["orders"]["acked"]
        before = int(acked[0])
        wait_until(lambda: int(acked[0]) >= before + _ORDERS_AFTER, timeout_s, "orders that flow")

    # --- facts ------------------------------------------------------------------------------------------------------

    def facts(self, watch: TripWatch) -> Facts:
        """What is known of a trip that a watch has seen."""
        mapping, venue = self.live, self.venue
        to_session_ns = watch.now_ns() - wall_ns()
        log = [event | {"at_ns": event["at_ns"] + to_session_ns} for event in venue.log()]
        ids = ClientIds(mapping.plan.session)
        stamps = mapping.state(Role.GATEWAY)["gate"][0].copy()
        return Facts(
            began_ns=watch.began_ns, untripped_ns=watch.untripped_ns, tripped_ns=watch.tripped_ns,
            shut_ns=watch.shut_ns, confirmed_ns=watch.confirmed_ns,
            gate={int(stamp["order_id"]): int(stamp["at_ns"]) for stamp in stamps if stamp["order_id"]},
            log=[event for event in log if event["at_ns"] >= watch.began_ns],
            own={event["client_id"]: ids.number(event["client_id"]) for event in log if "client_id" in event},
            symbols=tuple(item.symbol for item in mapping.plan.instruments),
            resting=len(venue.state()["open_orders"]),
            sources=tuple(source.name for source in tripped_sources(mapping.control.word)),
            latched=self.latched(),
        )

    def latched(self) -> tuple[str, ...]:
        """The sources of the emergency in the latch file; empty where there is none in it."""
        name = self.made.name
        latch = read_latch(control_folder(self.data.resolve(), name), name, expected=False, now_ns=wall_ns())
        return latch.state.emergency.sources if latch.state.emergency is not None else ()

    def notes(self) -> list[dict[str, Any]]:
        """What the kill switch has written down."""
        path = self.folder / "killswitch.jsonl"
        return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@contextlib.contextmanager
def trip_session(
    folder: Path, load: bool = False, panic: bool = False, terminal: bool = False, deaths_to_stop: int = 1000,
    **tables: dict[str, Any],
) -> Iterator[TripSession]:
    """A session that is not started yet. load: three times the market's usual flow; panic: a process that shows no life
    for a second is an emergency; terminal: see the module. tables: more of the configuration.
    """
    folder = folder.resolve()
    key, port = folder / "button.key", free_port()
    make_key(key)
    flow = {**WIDE_LIMITS, **(BUSY_MARKET if load else {})}
    settings: dict[str, dict[str, Any]] = {
        "engine": {"memory_budget_mib": 12, "deaths_to_stop": deaths_to_stop, "stall_s": _STALL_S},
        "panic": CALM | ({"stalled": "emergency", "stalled_s": _STALLED_S} if panic else {}),
    }
    with contextlib.ExitStack() as stack:
        own_venue = None
        if terminal:
            own_venue = stack.enter_context(venue(folder, **flow))
            settings["venue"] = own_venue.connection
        else:
            settings["embedded"] = flow
            settings["safety"] = {"cooldown_s": 0.0, "operator_secret": "none"}
            settings["gpio"] = {"enabled": True, "backend": "mock", "pulse_s": 0.05}
            settings["remote_button"] = {"enabled": True, "port": port, "key_file": str(key)}
        for name, values in tables.items():
            settings[name] = settings.get(name, {}) | values
        data = folder / "var"
        no_disk = stack.enter_context(small_disk(data))
        made = stack.enter_context(engine(folder, **settings))
        session = TripSession(made, data, no_disk, port, key, own_venue)
        try:
            yield session
        finally:
            for cleanup in session.cleanups:
                cleanup()
            session.detach()
            session.let_go_of_button()
