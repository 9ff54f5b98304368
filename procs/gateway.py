"""The gateway process of one venue: orders out, the private stream and answers back.

Four threads around a GatewayCore (gateway_core.py): `sender` performs one order after the other through ccxt,
`private-stream` listens, `dead-man` keeps the venue's own switch from going off, and the main loop alone decides the
order in which answers and private frames are taken. What arrives while the venue is slow waits in a queue; nothing is
dropped.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.safety.mode import Mode, mode_of
from engine.stage import as_bytes
from procs.budget import Level
from procs.gateway_core import KEEP_ALIVE, Answer, Errands, GatewayCore, Job
from procs.instance import ProcessContext
from procs.journal.layout import NO_WAY
from procs.journal.reader import read_stream
from procs.last_words import log
from procs.orphans import end_instance
from procs.ports import EdgeJournal, Inlet, Outlet, Turns, record_latency, ring_own_bell
from procs.sweep import Sweep, sweep_until_nothing_rests
from procs.table import Role
from procs.venues.binance_usdm.dead_man import DeadManSwitch, countdown_ms
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.private_stream import PrivateStream, StreamEvent
from procs.venues.binance_usdm.rest import listen_key
from procs.venues.binance_usdm.signed import SignedSession
from procs.venues.binance_usdm.trading import TradingClient
from shm.clock import python_monotonic_ns, sleep
from shm.control import Readiness, Stop, TripSource

_TIMEOUT_MS = 5000
_RECV_WINDOW_MS = 1000
_KEEP_ALIVE_NS = 25 * 60 * 1_000_000_000
# The kill switch turns every few milliseconds; in the middle of a request it is silent for longer.
_KILL_SWITCH_SILENT_NS = 1_500_000_000
_DEAD_MAN_TICK_S = 0.05
_DEAD_MAN_AGAIN_NS = 1_000_000_000


@dataclass(frozen=True)
class PrivateEvent:
    """Something from the private stream."""

    event: StreamEvent
    data: bytes


class Gateway:
    """See the module. `run` returns when the process is asked to stop and every order has its answer."""

    def __init__(self, context: ProcessContext, credentials: Credentials) -> None:
        plan = context.plan
        self._context = context
        self._credentials = credentials
        self._wire = context.histogram(context.role, "intent")
        self._frame_wire = context.histogram(context.role, "origin")
        self._hop = context.histogram(context.role, "hop")
        self._calls = context.histogram(context.role, "call")
        self._stamps = context.stamps()
        self._intent_stamps = context.intent_stamps()
        self._way_of = context.way_of()
        # Of the order that the main loop is at, and of the one that the sender is at.
        self._taken_way = self._sent_way = NO_WAY
        self._budget = context.budget()

        def make_client(before_order: Callable[[], None]) -> TradingClient:
            return TradingClient(
                plan.endpoints, credentials, list(plan.instruments), plan.session, before_order, _TIMEOUT_MS,
                _RECV_WINDOW_MS, self._budget,
            )

        self._journal = EdgeJournal(context)
        self._core = GatewayCore(self, context.state(context.role), plan.instruments, self._journal, make_client)
        self._client = self._core.client
        self._inlet = Inlet(context, "orders", 64)
        self._outlet = Outlet(context, "fills")
        self._turns = Turns(context)
        self._arrivals: queue.SimpleQueue[Answer | PrivateEvent] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[tuple[Job | None, tuple[int, ...]]] = queue.SimpleQueue()  # and its way
        self._stream = PrivateStream(self._stream_url, self._deliver)
        self._sender = threading.Thread(target=self._send_loop, name="sender", daemon=True)
        self._stream_up = False
        self._ready = False
        symbols = [item.symbol for item in plan.instruments]
        self._dead_man_session = SignedSession(
            plan.endpoints.rest_url, credentials, self._budget, len(symbols), level=Level.URGENT
        )
        countdown = countdown_ms(len(symbols), plan.rate_limits, plan.settings.venue.deadman_s)
        self._dead_man = DeadManSwitch(self._dead_man_session, symbols, countdown)
        self._ending = threading.Event()
        self._dead_man_thread = threading.Thread(target=self._dead_man_loop, name="dead-man", daemon=True)
        self._seen_turning_ns = 0  # when the main loop last turned, CLOCK_MONOTONIC

    # --- what the core asks of its place --------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Session time."""
        return self._context.now_ns()

    def emergency_word(self) -> int:
        """The emergency word, read afresh."""
        return self._context.control.word

    def mode(self) -> Mode:
        """The mode, read afresh."""
        return mode_of(self._context.control.mode)

    def trip(self, why: str) -> None:
        """Set the emergency word, then say why in the log."""
        self._context.control.trip(TripSource.GATEWAY)
        log(f"tripped: {why}")

    def gate_is_shut(self, word: int) -> None:
        """Show it in the control block."""
        self._context.control.set_gate_epoch(self._context.role, word)

    def order_leaves(self, cause: int) -> tuple[int, ...]:
        """Count the wire hop, from the intent and from the frame behind it."""
        now = self._context.now_ns()
        record_latency(self._wire, now - self._sent_way[-1])
        stamp = int(self._stamps[cause & (len(self._stamps) - 1)])
        if stamp:
            record_latency(self._frame_wire, now - stamp)
        return self._sent_way

    def call_ended(self, took_ns: int) -> None:
        """Count it."""
        record_latency(self._calls, took_ns)

    def hand_over(self, job: Job) -> None:
        """Queue a job for the sender."""
        self._work.put((job, self._taken_way))

    def prolong_listen_key(self) -> None:
        """See procs.venues.binance_usdm.rest.listen_key."""
        listen_key(self._context.plan.endpoints.rest_url, self._credentials, self._budget, prolong=True)

    def reconnect_stream(self) -> None:
        """Break the private stream's socket; its thread makes a new one."""
        self._stream.reconnect()

    def stream_is_up(self) -> None:
        """The first connection puts the process in service, together with the dead-man switch."""
        self._stream_up = True

    def publish(self, reports: np.ndarray) -> int:
        """Publish reports; a full ring is waited for, since a report is never dropped."""
        outbox = as_bytes(reports)
        given = self._outlet.give(outbox, len(reports))
        while given < len(reports) and self._context.stop != Stop.NOW:
            self._turns.turn(0)  # it waits for somebody else: it is not stuck
            sleep(0.001)
            given += self._outlet.give(outbox, len(reports) - given, given)
        return given

    # --- threads --------------------------------------------------------------------------------------------------

    def _stream_url(self) -> str:
        endpoints = self._context.plan.endpoints
        key = listen_key(endpoints.rest_url, self._credentials, self._budget)
        return f"{endpoints.ws_url}/private/ws?listenKey={key}"

    def _deliver(self, event: StreamEvent, data: bytes) -> None:
        self._arrivals.put(PrivateEvent(event, data))
        ring_own_bell(self._context)

    def _send_loop(self) -> None:
        errands = Errands()
        while True:
            job, self._sent_way = self._next_job(errands)
            if job is None:
                return
            answer = self._core.perform(job)
            if answer is None:
                assert isinstance(job, str)
                errands.put_off(job, python_monotonic_ns())
            else:
                self._arrivals.put(answer)
                ring_own_bell(self._context)

    def _dead_man_loop(self) -> None:
        """Arm the venue's dead-man switch and refresh it as long as this process works; after a trip shorten it."""
        dead_man, control = self._dead_man, self._context.control
        due_ns, shortened = 0, False
        while not self._ending.wait(_DEAD_MAN_TICK_S):
            now = python_monotonic_ns()
            if control.word:
                shortened = shortened or dead_man.shorten()
                due_ns = 0  # armed again as soon as the word is reset
            elif now >= due_ns and now - self._seen_turning_ns < dead_man.interval_ns:
                shortened = False
                if dead_man.refresh():
                    due_ns = now + dead_man.interval_ns
                else:
                    due_ns = now + min(dead_man.interval_ns, _DEAD_MAN_AGAIN_NS)
                    log(f"dead-man switch: {dead_man.refused or dead_man.failed}")

    def _follow_dead_man(self) -> None:
        """In service only while the venue would cancel for us if we died; publish how that stands.

        It goes out of service one refresh before the venue's countdown may end, so that nothing is entered by then. In
        an emergency no order leaves, and the switch is not armed again before it is over.
        """
        dead_man, control = self._dead_man, self._context.control
        state = self._context.state(self._context.role)
        state["dead_man_missed"] = dead_man.missed
        left_ns = dead_man.armed_until_ns - python_monotonic_ns()
        state["dead_man_until_ns"] = self._context.now_ns() + left_ns if left_ns > 0 else 0
        covered = left_ns > dead_man.interval_ns or self._context.plan.settings.venue.accept_no_deadman
        ready = self._stream_up and (covered or control.tripped)
        if ready != self._ready:
            self._ready = ready
            control.set_readiness(self._context.role, Readiness.READY if ready else Readiness.STARTING)

    def _follow_stop(self) -> None:
        """Once the kill switch has confirmed the stop, only questions go to the venue, until the word is reset."""
        control = self._context.control
        confirmed = control.gate_epoch(Role.KILLSWITCH) == control.token
        self._client.cut_orders(control.tripped and confirmed)

    def _next_job(self, errands: Errands) -> tuple[Job | None, tuple[int, ...]]:
        """What to do next, and the way that it came.

        Orders go on while housekeeping waits for its next try: a cancel must not stand behind.
        """
        wait_ns = errands.wait_ns(python_monotonic_ns())
        if wait_ns is None:
            return self._work.get()
        if wait_ns > 0:
            try:
                return self._work.get(timeout=wait_ns / 1e9)
            except queue.Empty:
                pass
        return errands.take(), NO_WAY

    # --- main loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped."""
        self._client.warm_up()
        if self._context.successor:
            entries = read_stream(self._context.plan.path, self._context.role.label)
            execution = self._context.state(Role.EXECUTION)[0]
            self._inlet.seek(self._core.take_up(entries, self._outlet.published, execution))
        self._sender.start()
        self._stream.start()
        self._dead_man_thread.start()
        next_keep_alive = python_monotonic_ns() + _KEEP_ALIVE_NS
        while True:
            moved = self._take_orders() + self._take_arrivals()
            stop = self._turns.turn(moved)
            if stop >= Stop.NOW or self._turns.orphaned or (stop and not moved and self._core.pending == 0):
                break
            if python_monotonic_ns() > next_keep_alive:
                next_keep_alive += _KEEP_ALIVE_NS
                self._core.hand_over(KEEP_ALIVE)
            self._core.follow_gate()
            self._follow_stop()
            self._seen_turning_ns = python_monotonic_ns()
            self._follow_dead_man()
            if not (self._sender.is_alive() and self._stream.is_alive() and self._dead_man_thread.is_alive()):
                raise RuntimeError("a thread of the gateway has ended; its last words are above")
            if not moved and self._arrivals.empty():
                self._inlet.wait(10_000_000)
        self._work.put((None, NO_WAY))
        self._stream.stop()
        self._sender.join(timeout=_TIMEOUT_MS / 1000)
        self._take_arrivals()
        self._end_dead_man(stop)
        self._client.close()
        self._journal.close()
        if self._turns.orphaned:
            self._leave_nothing_behind()

    def _end_dead_man(self, stop: int) -> None:
        """After an orderly stop that left nothing at the venue the switch is disarmed; else it does what it is for."""
        self._ending.set()
        self._dead_man_thread.join(timeout=_TIMEOUT_MS / 1000)
        if stop == Stop.DRAIN and not self._turns.orphaned and not self._client.may_rest:
            self._dead_man.disarm()
        self._dead_man_session.close()

    def _leave_nothing_behind(self) -> None:
        """Nobody is left who would end the engine: the kill switch does, and where there is none, this process."""
        control, plan = self._context.control, self._context.plan
        control.trip(TripSource.GATEWAY)
        seen, ends_ns = control.heartbeat(Role.KILLSWITCH), python_monotonic_ns() + _KILL_SWITCH_SILENT_NS
        while python_monotonic_ns() < ends_ns:
            if control.heartbeat(Role.KILLSWITCH) != seen:
                return
            sleep(0.05)
        symbols = [item.symbol for item in plan.instruments]

        def make_sweep() -> Sweep:
            session = SignedSession(plan.endpoints.rest_url, self._credentials, self._budget, len(symbols))
            return Sweep(session, symbols, lambda: self._turns.turn(0))

        # The embedded venue has gone with the launcher, and its orders with it.
        sweep_until_nothing_rests(make_sweep, lambda failed: not (failed and plan.settings.venue.embedded))
        end_instance(plan.name)

    def _take_orders(self) -> int:
        count = self._inlet.take()
        cursor = self._inlet.cursor - count
        for place, order in enumerate(self._inlet.records[:count]):
            started = self._context.now_ns()
            published_ns = int(self._intent_stamps[(cursor + place) & (len(self._intent_stamps) - 1)])
            self._taken_way = (*self._way_of(int(order["ingest_id"]), published_ns), published_ns)
            self._core.take_order(order, started)
            record_latency(self._hop, self._context.now_ns() - started)
        if count:
            self._inlet.release()
        return count

    def _take_arrivals(self) -> int:
        moved = 0
        while True:
            try:
                item = self._arrivals.get_nowait()
            except queue.Empty:
                return moved
            moved += 1
            if isinstance(item, Answer):
                self._core.take_answer(item)
            else:
                self._core.take_private(item.event, item.data)
