"""The gateway process of one venue: orders out, the private stream and answers back.

Three threads: `sender` performs one order after the other through ccxt, `private-stream` listens, and the main loop
alone decides the order in which answers and private frames are taken, journals it, and publishes reports. What
arrives while the venue is slow waits in a queue; nothing is dropped.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import ccxt
import numpy as np
import orjson

from engine.execution.order_states import FIRST_TERMINAL
from engine.reasons import Reason
from engine.records import ORDER, REPORT, OrderAction, ReportKind
from engine.stage import as_bytes
from procs.instance import ProcessContext
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.ports import EdgeJournal, Inlet, Outlet, Turns, record_latency, ring_own_bell
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.private_stream import PrivateStream, StreamEvent
from procs.venues.binance_usdm.reports import from_order_update, report
from procs.venues.binance_usdm.rest import listen_key
from procs.venues.binance_usdm.trading import GateShut, TradingClient
from shm.clock import python_monotonic_ns, sleep
from shm.control import Stop, TripSource, set_gate_epoch

CATCH_UP = "catch up"
KEEP_ALIVE = "keep alive"
_TIMEOUT_MS = 5000
_RECV_WINDOW_MS = 1000
_KEEP_ALIVE_NS = 25 * 60 * 1_000_000_000
_RETRY_NS = 500_000_000
_TERMINAL = (ReportKind.CANCELLED, ReportKind.EXPIRED, ReportKind.REJECTED)


@dataclass(frozen=True)
class Answer:
    """What came of one order record, a catch-up or a keep-alive."""

    order: np.ndarray | None
    reports: list[np.ndarray]
    body: bytes


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
        self._state = context.state(context.role)
        self._wire = context.histogram(context.role, "origin")
        self._hop = context.histogram(context.role, "hop")
        self._stamps = context.stamps()
        self._current_cause = 0  # ingest id behind the order that the sender is at
        self._current_deadline = 0
        self._instruments = {item.symbol: item for item in plan.instruments}
        self._client = TradingClient(
            plan.endpoints, credentials, list(plan.instruments), plan.session, self._before_order, _TIMEOUT_MS,
            _RECV_WINDOW_MS,
        )
        self._inlet = Inlet(context, "orders", 64)
        self._outlet = Outlet(context, "fills")
        self._turns = Turns(context)
        self._journal = EdgeJournal(context)
        self._arrivals: queue.SimpleQueue[Answer | PrivateEvent] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[np.ndarray | str | None] = queue.SimpleQueue()
        self._pending = 0  # orders handed to the sender and not answered
        self._stream = PrivateStream(self._stream_url, self._deliver)
        self._sender = threading.Thread(target=self._send_loop, name="sender", daemon=True)
        self._caught_up = False

    # --- the last gate, in the sender thread, right before bytes reach the socket --------------------------------

    def _before_order(self) -> None:
        word = self._context.control.word
        if word:
            set_gate_epoch(self._context.control.words, self._context.role, word)
            raise GateShut(Reason.DENIED_EMERGENCY)
        now = self._context.now_ns()
        if self._current_deadline and now > self._current_deadline:
            raise GateShut(Reason.DENIED_LATE)
        self._state["sent"] += 1
        stamp = int(self._stamps[self._current_cause & (len(self._stamps) - 1)])
        if stamp:
            record_latency(self._wire, now - stamp)

    # --- threads --------------------------------------------------------------------------------------------------

    def _stream_url(self) -> str:
        endpoints = self._context.plan.endpoints
        return f"{endpoints.ws_url}/private/ws?listenKey={listen_key(endpoints.rest_url, self._credentials)}"

    def _deliver(self, event: StreamEvent, data: bytes) -> None:
        self._arrivals.put(PrivateEvent(event, data))
        ring_own_bell(self._context)

    def _send_loop(self) -> None:
        again: list[str] = []  # housekeeping that did not work, until it does: fills may be at stake
        retry_ns = 0
        while True:
            job = self._next_job(again, retry_ns)
            if job is None:
                return
            if isinstance(job, str):
                answer = self._housekeeping(job)
                if answer is None:
                    again.append(job)
                    retry_ns = python_monotonic_ns() + _RETRY_NS
                    continue
                self._arrivals.put(answer)
            else:
                order = job[0]
                self._current_cause = int(order["ingest_id"])
                self._current_deadline = int(order["deadline_ns"])
                reports = self._client.perform(order)
                self._arrivals.put(Answer(job, reports, self._client.last_answer))
            ring_own_bell(self._context)

    def _next_job(self, again: list[str], retry_ns: int) -> np.ndarray | str | None:
        """What to do next. Orders go on while housekeeping waits for its next try: a cancel must not stand behind."""
        if not again:
            return self._work.get()
        left_s = (retry_ns - python_monotonic_ns()) / 1e9
        if left_s > 0:
            try:
                return self._work.get(timeout=left_s)
            except queue.Empty:
                pass
        return again.pop(0)

    def _housekeeping(self, job: str) -> Answer | None:
        """Catch up or keep alive; None when it must be tried again."""
        try:
            if job == CATCH_UP:
                return Answer(None, self._client.catch_up(), b"")
            listen_key(self._context.plan.endpoints.rest_url, self._credentials, prolong=True)
        except ccxt.BaseError:
            return None
        except VenueUnreachable:
            self._stream.reconnect()  # the key may be dead; a new connection asks for a new one
        return Answer(None, [], b"")

    # --- main loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped."""
        self._client.warm_up()
        if self._context.successor:
            self._take_up()
        self._sender.start()
        self._stream.start()
        next_keep_alive = python_monotonic_ns() + _KEEP_ALIVE_NS
        while True:
            moved = self._take_orders() + self._take_arrivals()
            stop = self._turns.turn(moved)
            if stop >= Stop.NOW or self._turns.orphaned or (stop and not moved and self._pending == 0):
                break
            if python_monotonic_ns() > next_keep_alive:
                next_keep_alive += _KEEP_ALIVE_NS
                self._hand_over(KEEP_ALIVE)
            self._follow_gate()
            if not (self._sender.is_alive() and self._stream.is_alive()):
                raise RuntimeError("a thread of the gateway has ended; its last words are above")
            if not moved and self._arrivals.empty():
                self._inlet.wait(10_000_000)
        self._work.put(None)
        self._stream.stop()
        self._sender.join(timeout=_TIMEOUT_MS / 1000)
        self._take_arrivals()
        self._client.close()
        self._journal.close()

    def _take_up(self) -> None:
        """Stand where the predecessor's effects end. Whatever it had not finished is UNKNOWN and will be asked for;
        nothing is sent again: an order that has a REQUEST in the journal was perhaps sent."""
        taken, last_order = 0, 0
        for entry in read_stream(self._context.plan.path, self._context.role.label):
            if entry.kind == Entry.REQUEST:
                taken += 1
                order = np.frombuffer(entry.payload, ORDER)[0]
                if order["kind"] == OrderAction.NEW:
                    last_order = max(last_order, int(order["order_id"]))
        self._inlet.seek(taken)
        self._state["records_in"] = taken
        self._state["processed"] = taken - int(self._state["dropped"].sum())
        self._state["out"] = self._outlet.published
        execution = self._context.state(Role.EXECUTION)[0]
        # Every trade that the ledger can still tell from a repeat is reported again: it takes each once.
        self._client.recall({index: int(log["floor"]) for index, log in enumerate(execution["ledger"]["logs"])})
        slots = execution["orders"]["slots"]
        unfinished = slots[(slots["order_id"] > 0) & (slots["order_id"] <= last_order)]
        unfinished = unfinished[unfinished["status"] < FIRST_TERMINAL]
        self._publish(
            [
                report(ReportKind.UNKNOWN, int(slot["order_id"]), int(slot["instrument"]), Reason.VENUE_UNREACHABLE)
                for slot in unfinished
            ]
        )

    def _follow_gate(self) -> None:
        """Show for which emergency word the gate is shut, also when no order comes to meet it."""
        word = self._context.control.word
        if word:
            set_gate_epoch(self._context.control.words, self._context.role, word)

    def _hand_over(self, job: np.ndarray | str) -> None:
        self._pending += 1
        self._work.put(job)

    def _take_orders(self) -> int:
        count = self._inlet.take()
        for order in self._inlet.records[:count]:
            started = self._context.now_ns()
            self._state["records_in"] += 1
            self._journal.write(Entry.REQUEST, order.tobytes(), started, count=int(order["order_id"]))
            if order["kind"] == OrderAction.NEW and self._context.control.word:
                denied = report(
                    ReportKind.DENIED, int(order["order_id"]), int(order["instrument"]), Reason.DENIED_EMERGENCY
                )
                self._state["dropped"][0, Reason.DENIED_EMERGENCY] += 1
                self._publish([denied])
            else:
                self._hand_over(np.array([order], ORDER))
                self._state["processed"] += 1
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
                self._pending -= 1
                order_id = int(item.order["order_id"][0]) if item.order is not None else 0
                self._journal.write(Entry.ANSWER, item.body, self._context.now_ns(), count=order_id)
                self._publish(item.reports)
            else:
                self._take_private(item)

    def _take_private(self, item: PrivateEvent) -> None:
        if item.event == StreamEvent.CONNECTED:
            self._hand_over(CATCH_UP)
            if not self._caught_up:
                self._caught_up = True
                self._context.ready()
            return
        if item.event == StreamEvent.LOST:
            self._state["stream_losses"] += 1
            self._client.stream_lost()
            return
        self._state["private_frames"] += 1
        self._journal.write(Entry.PRIVATE, item.data, self._context.now_ns())
        try:
            frame = orjson.loads(item.data)
            event = frame.get("data", frame)
            if event.get("e") == "listenKeyExpired":
                self._stream.reconnect()  # the socket stays open and would say nothing any more
                return
            if event.get("e") != "ORDER_TRADE_UPDATE":
                return
            record = from_order_update(event, self._instruments, self._client.ids)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            self._state["quarantined"][0, Reason.BAD_JSON] += 1
            self._context.control.trip(TripSource.GATEWAY)  # an event about our money that we cannot read
            return
        if record is None:
            self._state["foreign_events"] += 1
            return
        self._client.learn(
            int(record["venue_order_id"][0]), int(record["order_id"][0]), int(record["instrument"][0]),
            int(record["trade_id"][0]),
        )
        done = event["o"]["X"] == "FILLED" or record["kind"][0] in _TERMINAL
        if done:
            self._client.forget(int(record["order_id"][0]))
        self._publish([record])

    def _publish(self, reports: list[np.ndarray]) -> None:
        """Stamp and publish reports; a full ring is waited for, since a report is never dropped."""
        if not reports:
            return
        records = np.concatenate(reports).astype(REPORT, copy=False)
        records["recv_ts_ns"] = self._context.now_ns()
        records["ingest_id"] = self._journal.ordinal
        outbox = as_bytes(records)
        given = self._outlet.give(outbox, len(records))
        while given < len(records) and self._context.stop != Stop.NOW:
            sleep(0.001)
            given += self._outlet.give(outbox, len(records) - given, given)
        self._state["out"] += given
