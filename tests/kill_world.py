"""A kill switch and the embedded venue in one thread and in virtual time.

The kill switch is the real one, on a real control block and a real rate budget; what it takes from the world (clocks,
connections, the private stream, threads, sleeping) is made here. The venue is the real exchange behind its real
answers, faults included. Nothing waits: sleeping moves the time and lets the venue have its turns.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import orjson
from requests.structures import CaseInsensitiveDict

from engine.matching.orders import Notice
from engine.matching.settings import SymbolSettings, VenueSettings
from engine.records import OrderType, Side, TimeInForce
from procs.clocks import Clocks
from procs.embedded.fanout import Fanout, Listener
from procs.embedded.faults import Faults
from procs.embedded.venue import Reply, Venue
from procs.instance import Plan, ProcessContext
from procs.killswitch import Outside
from procs.spawned import run_kill_switch
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.private_stream import StreamEvent
from shm.control import Stop, TripSource
from shm.doorbell import Doorbell
from tests.instance_memory import small_instance

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
KEY, SECRET, LISTEN_KEY = "k" * 32, "s" * 32, "l" * 32
_TURN_NS = 50 * MS
_LATENCY_NS = MS
_NOBODY = 1 << 22  # no process can have this number
_HORIZON_NS = 120_000 * MS


def quiet_venue(clock_ns: Callable[[], int], faults: Faults, seed: int = 1) -> Venue:
    """An exchange whose other traders do little, so that its turns are cheap."""
    calm = {"limit_rate": 30.0, "market_rate": 0.5, "order_lifetime_s": 20.0, "volatility": 0.0}
    base = VenueSettings(seed=seed, loop_interval_ms=50)
    settings = replace(base, btcusdt=replace(SymbolSettings(), **calm), ethusdt=replace(base.ethusdt, **calm))
    return Venue(settings, clock_ns, Fanout(faults), faults, KEY, SECRET, LISTEN_KEY)


class _Private(Listener):
    """The private stream of the kill switch, as the venue and as its owner see it."""

    def __init__(
        self, world: World, url: Callable[[], str], deliver: Callable[[StreamEvent, bytes], None]
    ) -> None:
        super().__init__("private", False)
        self._world = world
        self._url = url
        self._deliver = deliver
        self.joined = False
        self._alive = True

    def start(self) -> None:
        self._world.start_thread(self._connect)

    def is_alive(self) -> bool:
        """False once an error has ended its thread."""
        return self._alive

    def _connect(self) -> float | None:
        """What the stream's thread does: try again and again."""
        self._alive = False
        pause_s = self._try()
        self._alive = True
        return pause_s

    def _try(self) -> float | None:
        try:
            if self._world.stream_is_there:
                self._url()
                self._world.venue.hub.join(self, [LISTEN_KEY])
                self.joined = True
                self._deliver(StreamEvent.CONNECTED, b"")
            return None
        except OSError:
            self._deliver(StreamEvent.LOST, b"")
            return 0.5

    def reconnect(self) -> None:
        self.stop()
        self._deliver(StreamEvent.LOST, b"")
        self.start()

    def send(self, frame: bytes) -> None:
        try:
            self._deliver(StreamEvent.FRAME, frame)
        except Exception as error:
            self._alive = False
            self._world.ended.append(error)

    def cut(self) -> None:
        self.reconnect()

    def stop(self) -> None:
        if self.joined:
            self._world.venue.hub.leave(self)
            self.joined = False


class _Socket:
    """What http.client needs of a socket, in virtual time. Answers come when the file of the socket is asked for."""

    def __init__(self, world: World) -> None:
        self._world = world
        if world.venue.faults.lasting("gone"):
            raise ConnectionRefusedError
        self._bytes = b""
        self._timeout_s = 0.0

    def setsockopt(self, *_: object) -> None:
        """TCP_NODELAY."""

    def settimeout(self, seconds: float) -> None:
        self._timeout_s = seconds

    def sendall(self, data: bytes) -> None:
        world = self._world
        if world.venue.faults.lasting("gone") or world.lines_closed_before > world.now_ns:
            raise BrokenPipeError
        if not self._bytes:
            method, target = data.split(b" ", 2)[:2]
            world.on_send(method.decode(), target.decode())
            world.sent.append((world.now_ns, method.decode(), target.decode()))
        self._bytes += data

    def makefile(self, mode: str) -> io.BytesIO:
        head, _, body = self._bytes.partition(b"\r\n\r\n")
        self._bytes = b""
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = CaseInsensitiveDict(line.split(": ", 1) for line in lines[1:])
        answer = self._world.exchange(
            method, target, body.decode(), headers.get("X-MBX-APIKEY"), int(self._timeout_s * 1e9)
        )
        told = {"Content-Length": str(len(answer.body)), **answer.headers}
        if answer.ending == "close_before":
            told["Connection"] = "close"
        version = "1.0" if answer.ending == "old_before" else "1.1"
        text = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return io.BytesIO(f"HTTP/{version} {answer.status} X\r\n{text}\r\n".encode() + answer.body)

    def close(self) -> None:
        """Nothing is kept."""


class _Thread:
    """A thread that the world runs, one turn of its body at a time."""

    def __init__(self, world: World, target: Callable[..., None], args: tuple[Any, ...], **_: object) -> None:
        self._world = world
        self._target = target
        self._once, _ = args
        self._alive = True

    def start(self) -> None:
        self._world.start_thread(self._turn)

    def is_alive(self) -> bool:
        return self._alive

    def _turn(self) -> float | None:
        """One turn: what the body wants to sleep is the pause, and the second time it is told to end."""
        pauses: list[float | None] = []

        def once() -> float | None:
            if pauses:
                return None
            pauses.append(self._once())
            return pauses[0]

        self._alive = False
        self._target(once, lambda seconds: None)
        self._alive = pauses[0] is not None
        return pauses[0]


class _RanTooLong(BaseException):
    """Nobody has stopped the kill switch."""


class _Context(ProcessContext):
    """A process of an instance that lives in the world's time."""

    def __init__(self, plan: Plan, role: Role, successor: bool, world: World) -> None:
        self._world = world
        super().__init__(plan, role, successor)

    def now_ns(self) -> int:
        return self._world.now_ns


class World:
    """See the module.

    on_send: called with method and target before a request counts as sent; cancels: how often the venue has cancelled
    all orders of a symbol.
    """

    def __init__(self, plan: Plan, venue: Venue | None = None) -> None:
        self.plan = plan
        self.now_ns = START_NS
        self.faults = Faults()
        self.venue = quiet_venue(lambda: self.now_ns, self.faults)
        self.venue.watch = self._on_notice
        self._cancel_all = self.venue.exchange.cancel_all
        self.venue.exchange.cancel_all = self._count_cancel  # type: ignore[method-assign]
        self.stream_is_there = True
        self.lines_closed_before = 0
        self.cancels = 0
        self.sent: list[tuple[int, str, str]] = []  # time, method, target
        self.fills: list[Notice] = []
        self.processes = 0
        self.ended: list[BaseException] = []
        self.tripped_by_crew = False  # a kill switch ended with an exit code and had not set the word
        self.fell = False  # an error was put in
        self.instead: Callable[[World], Any] | None = None  # what is run in the place of the kill switch
        self.cleanups: list[Callable[[], Any]] = []
        self.on_send: Callable[[str, str], None] = lambda method, target: None
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._threads: list[tuple[int, Callable[[], float | None]]] = []
        self._advancing = False
        self._turned_ns = 0
        self._wall_offset = 0
        self.context = _Context(plan, Role.KILLSWITCH, False, self)
        self.control = self.context.control
        clocks = Clocks(lambda: self.now_ns, lambda: self.now_ns, lambda seconds: self.advance(int(seconds * 1e9)))
        real = Outside()

        def wait(bell: Doorbell, timeout_ns: int, ready: Callable[[], bool]) -> None:
            real.wait(bell, 0, ready)
            self.advance(_TURN_NS)
            if self.now_ns - START_NS > _HORIZON_NS:
                raise _RanTooLong

        self.outside = Outside(clocks, make_stream=partial(_Private, self), wait=wait)
        for _ in range(40):  # until there is a book
            self.advance(_TURN_NS)

    # --- time -----------------------------------------------------------------------------------------------------

    def later(self, after_ns: int, action: Callable[[], None]) -> None:
        """Do something after a while."""
        self._later.append((self.now_ns + after_ns, len(self._later), action))
        self._later.sort(key=lambda one: one[:2])

    def at_ms(self, ms: int, action: Callable[[], None]) -> None:
        """Do something so many ms after the process was started."""
        self.later(ms * MS, action)

    def advance(self, duration_ns: int) -> None:
        """Let time pass, and everything happen that is due."""
        end_ns = self.now_ns + duration_ns
        if self._advancing:  # a thread that sleeps in its turn
            self.now_ns = end_ns
            return
        self._advancing = True
        try:
            while True:
                due_ns = self._later[0][0] if self._later else end_ns + 1
                step_ns = min(end_ns, max(due_ns, self.now_ns), self._turned_ns + _TURN_NS)
                self.now_ns = max(self.now_ns, step_ns)
                if self.now_ns >= self._turned_ns + _TURN_NS:
                    self._turned_ns = self.now_ns
                    self.venue.turn(self.now_ns)
                    self._run_threads()
                while self._later and self._later[0][0] <= self.now_ns:
                    self._later.pop(0)[2]()
                if self.now_ns >= end_ns:
                    return
        finally:
            self._advancing = False

    def start_thread(self, once: Callable[[], float | None]) -> None:
        """Have something done again and again, from the next turn on."""
        self._threads.append((self.now_ns, once))

    def _run_threads(self) -> None:
        waiting, self._threads = self._threads, []
        for due_ns, once in waiting:
            if due_ns > self.now_ns:
                self._threads.append((due_ns, once))
                continue
            try:
                pause_s = once()
            except Exception as error:  # as in a thread: it ends, nobody else hears of it
                self.ended.append(error)
                continue
            if pause_s is not None:
                self._threads.append((self.now_ns + max(int(pause_s * 1e9), _TURN_NS), once))

    # --- what happens -----------------------------------------------------------------------------------------------

    def exchange(self, method: str, target: str, body: str, key: str | None, timeout_ns: int) -> Reply:
        """What becomes of a request. Raises what a socket raises."""
        path, _, query = target.partition("?")
        met = self.venue.treatment(method, path)
        deadline_ns = self.now_ns + timeout_ns
        if self.venue.faults.lasting("gone"):
            raise ConnectionResetError
        if met.dead_end or met.before_ms * MS > timeout_ns:
            if not met.dead_end:
                self.later(met.before_ms * MS, lambda: self.venue.answer(method, path, query, body, key))
            self.advance(deadline_ns - self.now_ns)
            raise TimeoutError
        self.advance(_LATENCY_NS + met.before_ms * MS)
        reply = self.venue.answer(method, path, query, body, key) if met.carried_out else met.reply
        assert reply is not None
        if met.after_ms * MS > timeout_ns:
            self.advance(max(deadline_ns - self.now_ns, 0))
            raise TimeoutError
        self.advance(met.after_ms * MS)
        return met.reply or reply

    def _count_cancel(self, symbol: int, now_ns: int) -> Any:
        self.cancels += 1
        return self._cancel_all(symbol, now_ns)

    def _on_notice(self, notice: Notice) -> None:
        if notice.fill is not None:
            self.fills.append(notice)

    def fault(self, **request: Any) -> None:
        """Order a fault."""
        self.venue.order_fault(request)

    def rest(self, symbol: int = 0, client_id: str = "") -> None:
        """An order of ours that rests far below the market."""
        bid = self.venue.exchange.market.touch(symbol)[0]
        price = bid * 97 // 100 // 10 * 10
        self._submit(symbol, client_id, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, price, 10)

    def hold(self, symbol: int, size: int) -> None:
        """A position of this many lots more."""
        side = Side.BUY if size > 0 else Side.SELL
        self._submit(symbol, "", side, OrderType.MARKET, TimeInForce.IOC, 0, abs(size))

    def _submit(
        self, symbol: int, client_id: str, side: Side, kind: OrderType, tif: TimeInForce, price: int, size: int
    ) -> None:
        exchange = self.venue.exchange
        name = client_id or f"test{len(exchange.finished) + len(exchange.open)}-{self.now_ns}"
        exchange.submit(symbol, name, side, kind, tif, price, size, False, self.now_ns)

    def resting(self) -> int:
        """How many orders of ours rest."""
        return len(self.venue.exchange.open)

    def position(self, symbol: int = 0) -> int:
        """Lots."""
        return int(self.venue.exchange.position(symbol))

    def gate_follows(self) -> None:
        """A gateway that lives: it beats, and shuts its gate as soon as it can."""

        def turn() -> None:
            self.control.beat(Role.GATEWAY, self.now_ns)
            self.control.beat(Role.EXECUTION, self.now_ns)
            self.control.set_gate_epoch(Role.GATEWAY, self.control.word)
            self.later(10 * MS, turn)

        self.control.set_pid(Role.GATEWAY, _NOBODY)
        turn()

    # --- the process ------------------------------------------------------------------------------------------------

    def run(self, processes: int = 4) -> None:
        """The kill switch until it is stopped; one that dies gets a successor, as the crew sees to."""
        for number in range(processes):
            self.processes = number + 1
            self._threads.clear()
            try:
                context = _Context(self.plan, Role.KILLSWITCH, number > 0, self)
                self.cleanups.append(context.close)
                run_kill_switch(context, {"api_key": KEY, "secret": SECRET}, self.outside)
                self.advance(1_000 * MS)  # its threads end
                return
            except _RanTooLong as error:
                self.ended.append(error)
                return
            except Exception as error:
                self.ended.append(error)
                self.advance(100 * MS)
                if not self.control.word:
                    self.tripped_by_crew = True
                    self.control.trip(TripSource.KILLSWITCH)
        raise AssertionError(f"{processes} kill switches have died: {self.ended}")

    def tell(self, frame: Any) -> None:
        """A frame on the private stream, whatever the venue thinks of it."""
        for listener in list(self.venue.hub.connections):
            listener.send(orjson.dumps(frame))

    def play(self) -> None:
        """Run what there is to run."""
        if self.instead is None:
            self.run()
        else:
            self.instead(self)

    def patch(self, name: str, value: object) -> None:
        """Put something in the place of a name until the world ends."""
        one = patch(name, value)
        one.start()
        self.cleanups.append(one.stop)

    def stop(self, stop: Stop = Stop.DRAIN) -> None:
        """Ask the kill switch to end."""
        self.control.request_stop(Role.KILLSWITCH, stop)

    def trip(self, source: TripSource = TripSource.OPERATOR) -> None:
        """Set the word."""
        self.control.trip(source)

    def notes(self) -> list[dict[str, Any]]:
        """What the kill switch wrote."""
        lines = (self.plan.path / "killswitch.jsonl").read_bytes().splitlines()
        return [orjson.loads(line) for line in lines]

    def events(self) -> list[str]:
        """The names of what it wrote."""
        return [note["event"] for note in self.notes()]


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """A world of its own; this process keeps its priority."""
    with small_instance(folder, Endpoints("http://venue", "ws://venue")) as plan, contextlib.ExitStack() as patches:
        made = World(plan)
        for name, value in (
            ("socket.create_connection", lambda *_, **__: _Socket(made)),
            ("procs.killswitch.threading.Thread", partial(_Thread, made)),
            ("procs.killswitch.os.sched_setscheduler", Mock(side_effect=PermissionError(1, "Operation not permitted"))),
        ):
            patches.enter_context(patch(name, value))
        try:
            yield made
        finally:
            while made.cleanups:
                made.cleanups.pop()()
            made.context.close()


@contextlib.contextmanager
def sleeping_child() -> Iterator[int]:
    """A process that maps what this one maps and does nothing; its pid."""
    pid = os.fork()
    if not pid:
        while True:
            signal.pause()
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
