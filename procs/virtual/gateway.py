"""A gateway process in virtual time: GatewayCore with a sender that waits by running the loop, and a private stream.

One object is one process: it can be killed at any event, also while its sender waits for an answer; what it had queued
is gone, what it had put on the wire goes on. Journal, rings and counters outlive it (`Desk`).
The private stream does as procs/venues/binance_usdm/private_stream.py does with a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import ccxt
import numpy as np
import orjson
import requests
import urllib3

from engine.instruments import Instrument
from engine.records import ORDER, OrderAction
from engine.safety.mode import Mode
from procs.embedded.venue import Reply
from procs.gateway_core import KEEP_ALIVE, Answer, Errands, GatewayCore, Job
from procs.journal.layout import NO_WAY, Entry
from procs.journal.reader import JournalEntry
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints, VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.binance_usdm.private_stream import StreamEvent
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.trading import TradingClient
from procs.virtual.sockets import Socket, connect
from procs.virtual.wire import MS, Connections, ProcessKilled, Wire

_TIMEOUT_MS = 5_000
_RECV_WINDOW_MS = 1_000
_KEEP_ALIVE_NS = 9_000 * MS  # far more often than live, so that it happens in a short session
_PING_NS = 15_000 * MS
_MOST_SILENT = 2
_BACK_OFF_MS = (100, 250, 500, 1_000, 2_000, 5_000)
_LISTEN_KEY = "/fapi/v1/listenKey"


@dataclass
class Desk:
    """What outlives a gateway: its journal, its end of the orders ring, its counters, and the way to execution."""

    wire: Wire
    instruments: tuple[Instrument, ...]
    state: np.ndarray  # shape (1,) of GATEWAY_STATE
    execution: np.ndarray  # shape (1,) of EXECUTION_STATE
    credentials: Credentials
    session: str
    to_execution: Callable[[np.ndarray], None]  # takes REPORT records
    trip: Callable[[], None]
    orders: list[np.ndarray] = field(default_factory=list)  # the orders ring: ORDER records, shape (1,)
    journal: list[JournalEntry] = field(default_factory=list)
    published: int = 0

    @property
    def ordinal(self) -> int:
        """Of the last journal entry."""
        return len(self.journal)

    def write(self, kind: Entry, payload: bytes, ts_ns: int, source: int = 0, count: int = 1) -> bool:
        """Append a journal entry."""
        self.journal.append(JournalEntry(kind, len(self.journal) + 1, ts_ns, source, count, payload))
        return True


class VirtualGateway:
    """One gateway process. ended: called when it dies by itself, which it must not."""

    def __init__(self, desk: Desk, successor: bool, ended: Callable[[str], None]):
        self.desk = desk
        self.loop = desk.wire.loop
        self.dead = False
        self._started = False  # while it asks the venue it takes no orders, as in procs/gateway.py
        self.cursor = sum(entry.kind == Entry.REQUEST for entry in desk.journal)  # of the orders ring
        self.jobs: deque[Job] = deque()
        self.at_work: Job | None = None  # what the sender has not put on the wire yet
        self._ended = ended
        self._busy = False
        self._errands = Errands()
        self._failures = 0
        self._silent = 0
        self._socket: Socket | None = None
        self._connections: urllib3.PoolManager = Connections(desk.wire, lambda: self.dead)
        self.core = GatewayCore(self, desk.state, desk.instruments, desk, self._make_client)
        self.loop.after(0, lambda: self._start(successor))

    def _make_client(self, before_order: Callable[[], None]) -> TradingClient:
        desk = self.desk
        client = TradingClient(
            Endpoints("http://venue", "ws://venue"), desk.credentials, list(desk.instruments), desk.session,
            before_order, _TIMEOUT_MS, _RECV_WINDOW_MS, desk.wire.budget,
        )
        client.connect_through(self._connections, lambda: self.loop.now_ns // MS)
        return client

    # --- what the core asks of its place --------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Virtual time."""
        return self.loop.now_ns

    def emergency_word(self) -> int:
        """Nobody trips in these sessions; who does is a finding."""
        return 0

    def mode(self) -> Mode:
        """These sessions have no control plane."""
        return Mode.NORMAL

    def trip(self, why: str) -> None:
        """Something about our money could not be understood."""
        self.desk.trip()

    def gate_is_shut(self, word: int) -> None:
        """Nobody looks."""

    def order_leaves(self, cause: int) -> tuple[int, ...]:
        """The order is the wire's from now on."""
        self.at_work = None
        return NO_WAY

    def call_ended(self, took_ns: int) -> None:
        """Nobody looks."""

    def hand_over(self, job: Job) -> None:
        """Queue a job for the sender."""
        self.jobs.append(job)
        self.loop.after(5_000, self._work)

    def prolong_listen_key(self) -> None:
        """Ask for it and wait."""
        session = paying_session(self.desk.wire.budget)
        for adapter in session.adapters.values():
            adapter.poolmanager = self._connections  # type: ignore[attr-defined]
        key = {"X-MBX-APIKEY": self.desk.credentials.api_key}
        try:
            answer = session.request("PUT", f"http://venue{_LISTEN_KEY}", headers=key, timeout=_TIMEOUT_MS / 1000)
        except requests.RequestException as error:
            raise VenueUnreachable(f"PUT {_LISTEN_KEY}: {type(error).__name__}") from None
        if answer.status_code != 200:
            raise VenueUnreachable(f"PUT {_LISTEN_KEY}: HTTP {answer.status_code}")

    def reconnect_stream(self) -> None:
        """Break the socket; a new one is made with a new key."""
        if self._socket is not None and not self._socket.closed:
            self._socket.close()
            self.loop.after(0, self.on_lost)

    def stream_is_up(self) -> None:
        """Nobody waits for it."""

    def publish(self, reports: np.ndarray) -> int:
        """Put reports on the fills ring."""
        self.desk.published += len(reports)
        self.desk.to_execution(reports)
        return len(reports)

    # --- the process ----------------------------------------------------------------------------------------------

    def _start(self, successor: bool) -> None:
        try:
            self.core.client.warm_up()
            if successor:
                self.cursor = self.core.take_up(self.desk.journal, self.desk.published, self.desk.execution[0])
        except (ccxt.BaseError, BudgetSpent) as error:
            self.dead = True
            self._ended(f"{type(error).__name__} while starting")
            return
        except ProcessKilled:
            return
        self._started = True
        self._connect()
        self._keep_alive()
        self.take_orders()

    def kill(self) -> None:
        """kill -9."""
        self.dead = True
        self.jobs.clear()
        self.at_work = None
        if self._socket is not None:
            self._socket.close()

    def _keep_alive(self) -> None:
        if not self.dead:
            self.core.hand_over(KEEP_ALIVE)
            self.loop.after(_KEEP_ALIVE_NS, self._keep_alive)

    def take_orders(self) -> None:
        """The doorbell rang: take what is on the orders ring."""
        while self._started and not self.dead and self.cursor < len(self.desk.orders):
            order = self.desk.orders[self.cursor][0]
            self.cursor += 1
            self.core.take_order(order, self.loop.now_ns)

    def _work(self) -> None:
        """The sender does its next job."""
        if self.dead or self._busy:
            return
        wait_ns = self._errands.wait_ns(self.loop.now_ns)
        if self.jobs:
            job = self.jobs.popleft()
        elif wait_ns == 0:
            job = self._errands.take()
        else:
            if wait_ns is not None:
                self.loop.after(wait_ns, self._work)
            return
        self._busy = True
        self.at_work = job
        try:
            answer = self.core.perform(job)
        except ProcessKilled:
            return
        finally:
            self._busy = False
            self.at_work = None
        if answer is None:
            assert isinstance(job, str)
            self._errands.put_off(job, self.loop.now_ns)
        else:
            self.loop.after(20_000, lambda: self._take_answer(answer))
        self.loop.after(5_000, self._work)

    def _take_answer(self, answer: Answer) -> None:
        if not self.dead:
            self.core.take_answer(answer)

    def unsent(self) -> list[np.ndarray]:
        """New orders that it may still put on the wire, those on the ring included."""
        waiting = [job for job in (*self.jobs, self.at_work) if isinstance(job, np.ndarray)]
        return [order for order in (*waiting, *self.desk.orders[self.cursor :]) if order["kind"][0] == OrderAction.NEW]

    # --- the private stream ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self.dead:
            return
        answered: list[bool] = []

        def done(reply: Reply | None) -> None:
            if self.dead or answered:
                return
            answered.append(True)
            key = _key_in(reply)
            if key:
                connect(
                    self.desk.wire, self, "private", (key,), False, _PING_NS, self._opened,
                )
            else:
                self._failed()

        self.desk.wire.send_paid("POST", _LISTEN_KEY, self.desk.credentials.api_key, done)
        self.loop.after(_TIMEOUT_MS * MS, lambda: done(None))

    def _opened(self, socket: Socket | None) -> None:
        if self.dead:
            if socket is not None:
                socket.close()
        elif socket is None:
            self._failed()
        else:
            self._socket = socket
            self._failures = 0
            self._silent = 0
            self.core.take_private(StreamEvent.CONNECTED, b"")
            self.loop.after(_PING_NS, lambda: self._ping(socket))

    def _failed(self) -> None:
        self._socket = None
        self.core.take_private(StreamEvent.LOST, b"")
        self.loop.after(_BACK_OFF_MS[min(self._failures, len(_BACK_OFF_MS) - 1)] * MS, self._connect)
        self._failures += 1

    def _ping(self, socket: Socket) -> None:
        """Ping a silent socket; one that answers nothing is broken."""
        if self.dead or socket.closed or socket is not self._socket:
            return
        quiet = self.loop.now_ns - socket.heard_ns >= _PING_NS
        self._silent = self._silent + 1 if quiet and socket.silent else 0
        if self._silent > _MOST_SILENT:
            socket.close()
            self.on_lost()
        else:
            self.loop.after(_PING_NS, lambda: self._ping(socket))

    def on_frame(self, data: bytes) -> None:
        """A frame of the private stream."""
        if not self.dead:
            self.desk.wire.log.add(self.loop.now_ns, "private", data)
            self.core.take_private(StreamEvent.FRAME, data)

    def on_lost(self) -> None:
        """The private stream broke."""
        if not self.dead:
            self._failed()


def _key_in(reply: Reply | None) -> str:
    """The listen key of an answer, or nothing."""
    if reply is None or reply.status != 200:
        return ""
    try:
        answer = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return ""
    return str(answer.get("listenKey", "")) if isinstance(answer, dict) else ""


def as_records(orders: np.ndarray) -> list[np.ndarray]:
    """ORDER records one by one, each of shape (1,)."""
    return [np.array([order], ORDER) for order in orders]
