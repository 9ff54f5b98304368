"""What a gateway does, without threads, sockets and clocks: orders in, jobs for the sender, answers and private frames
back as reports.

The place it runs in (procs/gateway.py: threads and rings; procs/virtual: one loop in virtual time) gives it time, the
emergency word, a journal and somewhere to publish. Two hands touch it. The main loop takes orders, answers and private
frames in one order of its choice, which the journal keeps. The sender performs one job after the other; it shares with
the main loop nothing but the trading client and the counter of sent orders.
Invariants: an order is journaled before it is handed over; nothing that an earlier gateway may have sent is sent again;
an answer is journaled before its reports are published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import ccxt
import numpy as np
import orjson

from engine.execution.order_states import FIRST_TERMINAL
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import ORDER, REPORT, Flag, OrderAction, ReportKind
from engine.safety.mode import Mode, lets_out
from procs.journal.layout import LEFT_STAMPS, Entry
from procs.journal.reader import JournalEntry
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.last_gate import GateShut
from procs.venues.binance_usdm.private_stream import StreamEvent
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.reports import FORCED, from_order_update, report
from procs.venues.binance_usdm.trading import TradingClient

CATCH_UP = "catch up"
KEEP_ALIVE = "keep alive"
PAYMENTS = "payments"
RETRY_NS = 500_000_000
# A gate that is shut is shown once no order is under way any more, or after so long: the kill switch ends a gateway
# that does not show it in time.
_UNDER_WAY_NS = 25_000_000
_TERMINAL = (ReportKind.CANCELLED, ReportKind.EXPIRED, ReportKind.REJECTED)

Job = np.ndarray | str  # an ORDER record, shape (1,), or one of those above


@dataclass(frozen=True)
class Answer:
    """What came of one job."""

    order: np.ndarray | None
    reports: list[np.ndarray]
    body: bytes
    left: tuple[int, ...] | None = None  # a new order that went out: LEFT_STAMPS


class Journal(Protocol):
    """Where a gateway writes what it takes, before it acts on it."""

    @property
    def ordinal(self) -> int:
        """Of the last entry written."""

    def write(self, kind: Entry, payload: bytes, ts_ns: int, source: int = 0, count: int = 1) -> bool:
        """Append an entry; False when it could not be kept."""


class Place(Protocol):
    """What a gateway needs of the place it runs in."""

    def now_ns(self) -> int:
        """Session time."""

    def emergency_word(self) -> int:
        """The emergency word; 0: nobody has tripped."""

    def mode(self) -> Mode:
        """The mode that the control plane published."""

    def trip(self, why: str) -> None:
        """Stop trading: something about our money cannot be understood."""

    def gate_is_shut(self, word: int) -> None:
        """Show for which emergency word no new order leaves any more; 0: the gate is open."""

    def order_leaves(self, cause: int) -> tuple[int, ...]:
        """A new order that ingest id `cause` led to is about to reach the socket; returns the way that it came: all of
        LEFT_STAMPS but the last."""

    def call_ended(self, took_ns: int) -> None:
        """A call to the venue took so long. In the sender."""

    def hand_over(self, job: Job) -> None:
        """Give the sender a job; jobs are done in order."""

    def prolong_listen_key(self) -> None:
        """Keep the key of the private stream alive. Raises VenueUnreachable. In the sender."""

    def reconnect_stream(self) -> None:
        """Have the private stream make a new connection with a new key."""

    def stream_is_up(self) -> None:
        """The private stream is connected."""

    def publish(self, reports: np.ndarray) -> int:
        """Put REPORT records on the fills ring, all of them unless it is time to go; returns how many."""


class Errands:
    """Housekeeping that did not work, until it does: fills may be at stake. For the sender alone."""

    def __init__(self) -> None:
        self._jobs: list[str] = []
        self._due_ns = 0

    def put_off(self, job: str, now_ns: int) -> None:
        """Try again later."""
        self._jobs.append(job)
        self._due_ns = now_ns + RETRY_NS

    def wait_ns(self, now_ns: int) -> int | None:
        """How long until the next try, 0 when it is due; None without errands."""
        return max(0, self._due_ns - now_ns) if self._jobs else None

    def take(self) -> str:
        """The next one."""
        return self._jobs.pop(0)


class GatewayCore:
    """See the module.

    state        counters, shape (1,) of GATEWAY_STATE, possibly shared memory
    make_client  makes the trading client, given what must run before a new order leaves
    """

    def __init__(
        self, place: Place, state: np.ndarray, instruments: Iterable[Instrument], journal: Journal,
        make_client: Callable[[Callable[[], None]], TradingClient],
    ) -> None:
        self.place = place
        self.client = make_client(self._before_order)
        self.client.tell_calls(self._call_ended)
        self.pending = 0  # jobs handed over and not answered
        self._state = state
        self._journal = journal
        self._instruments = {item.symbol: item for item in instruments}
        self._current_order = 0  # number of the order that the sender is at
        self._current_cause = 0  # ingest id behind it
        self._current_deadline = 0
        self._current_reduces_only = False
        self._left: tuple[int, ...] | None = None  # of the order that the sender is at, see Answer
        self._let_out = 0  # number of the last order that passed the gate
        self._under_way = False  # an order is somewhere between the gate and its answer
        self._shut_since_ns = 0  # when the main loop first found the gate shut with one under way

    # --- the sender -----------------------------------------------------------------------------------------------

    def _before_order(self) -> None:
        """The last gate, right before the bytes of a new order reach the socket. Raises GateShut.

        Both come before the word is read: the flag, so that the gate is not shown as shut while an order that has
        passed it waits for a core; the stamp, so that none is later than a trip unless the gate has failed. An order
        for which a connection had to be opened comes here again, and has one stamp: the last.
        """
        self._under_way = True
        at_ns = self.place.now_ns()
        word = self.place.emergency_word()
        if word:
            self.place.gate_is_shut(word)
            raise GateShut(Reason.DENIED_EMERGENCY)
        if not lets_out(self.place.mode(), self._current_reduces_only):
            raise GateShut(Reason.DENIED_MODE)
        if self._current_deadline and at_ns > self._current_deadline:
            raise GateShut(Reason.DENIED_LATE)
        is_first = self._let_out != self._current_order
        self._let_out = self._current_order
        self._state["sent"] += is_first
        stamps = self._state["gate"][0]
        stamps[(int(self._state["sent"][0]) - 1) % len(stamps)] = self._current_order, at_ns
        if is_first:
            self._left = (*self.place.order_leaves(self._current_cause), at_ns)

    def _call_ended(self, took_ns: int, failed: bool) -> None:
        self._state["calls"] += 1
        self._state["call_errors"] += failed
        self.place.call_ended(took_ns)

    def perform(self, job: Job) -> Answer | None:
        """Do one job; None where it is housekeeping that must be tried again."""
        if isinstance(job, str):
            return self._housekeeping(job)
        order = job[0]
        self._current_order = int(order["order_id"])
        self._current_cause = int(order["ingest_id"])
        self._current_deadline = int(order["deadline_ns"])
        self._current_reduces_only = bool(order["flags"] & Flag.REDUCE_ONLY)
        self._left = None
        try:
            reports = self.client.perform(order)
        finally:
            self._under_way = False
        if any(one["reason"][0] == Reason.DENIED_INTENT for one in reports):
            self._state["breaches"] += 1
            self.place.trip(f"what was to be sent for order {self._current_order} is not what was decided")
        return Answer(job, reports, self.client.last_answer, self._left)

    def _housekeeping(self, job: str) -> Answer | None:
        try:
            if job == CATCH_UP:
                return Answer(None, [*self.client.catch_up(), report(ReportKind.CAUGHT_UP, 0)], b"")
            if job == PAYMENTS:
                return Answer(None, self.client.payments(), b"")
            self.place.prolong_listen_key()
        except (ccxt.BaseError, BudgetSpent):
            return None
        except VenueUnreachable:
            self.place.reconnect_stream()  # the key may be dead; a new connection asks for a new one
        return Answer(None, [], b"")

    # --- the main loop --------------------------------------------------------------------------------------------

    def take_up(self, journal: Iterable[JournalEntry], published: int, execution: np.record) -> int:
        """Stand where the predecessor's effects end; returns how many orders it took.

        Whatever it had not finished is UNKNOWN and will be asked for; nothing is sent again: an order that has a
        REQUEST in the journal was perhaps sent.
        journal: the predecessor's; published: reports on the ring; execution: EXECUTION_STATE. Nothing is asked of the
        venue here: it may be away.
        """
        taken, last_order = 0, 0
        for entry in journal:
            if entry.kind == Entry.REQUEST:
                taken += 1
                order = np.frombuffer(entry.payload, ORDER)[0]
                if order["kind"] == OrderAction.NEW:
                    last_order = max(last_order, int(order["order_id"]))
        self.client.was_perhaps_sent(last_order)
        self._state["records_in"] = taken
        self._state["processed"] = taken - int(self._state["dropped"].sum())
        self._state["out"] = published
        # Every trade that the ledger can still tell from a repeat is reported again: it takes each once.
        slots = execution["orders"]["slots"]
        # The venue forgets orders that ended long ago without a fill.
        listed = (slots["venue_order_id"] > 0) & ((slots["filled"] > 0) | (slots["status"] < FIRST_TERMINAL))
        self.client.history.succeed(
            {index: int(log["floor"]) for index, log in enumerate(execution["ledger"]["logs"])},
            dict(enumerate(execution["reconcile"]["opened_after"].tolist())),
            {int(slot["venue_order_id"]): int(slot["order_id"]) for slot in slots[listed]},
            int(execution["reconcile"]["paid_after_ns"]) // 1_000_000,
        )
        unfinished = slots[(slots["order_id"] > 0) & (slots["order_id"] <= last_order)]
        unfinished = unfinished[unfinished["status"] < FIRST_TERMINAL]
        self._publish(
            [
                report(ReportKind.UNKNOWN, int(slot["order_id"]), int(slot["instrument"]), Reason.VENUE_UNREACHABLE)
                for slot in unfinished
            ]
        )
        return taken

    def follow_gate(self) -> None:
        """Show for which emergency word the gate is shut, also when no order comes to meet it, and when it opens.

        With an order under way it is shown when that is answered, or has taken too long: then this one order, the
        newest that has passed the gate, may take effect afterwards, and no other.
        """
        word = self.place.emergency_word()
        if word and self._under_way:
            now = self.place.now_ns()
            self._shut_since_ns = self._shut_since_ns or now
            if now - self._shut_since_ns < _UNDER_WAY_NS:
                return
        else:
            self._shut_since_ns = 0
        self.place.gate_is_shut(word)

    def hand_over(self, job: Job) -> None:
        """Give the sender a job that will be answered."""
        self.pending += 1
        self.place.hand_over(job)

    def take_order(self, order: np.void, now_ns: int) -> None:
        """One ORDER record off the ring: to the sender, or refused here after a trip.

        A new order that could not be journaled is refused too: a successor would not know that it was perhaps sent.
        """
        self._state["records_in"] += 1
        kept = self._journal.write(Entry.REQUEST, order.tobytes(), now_ns, count=int(order["order_id"]))
        if order["kind"] == OrderAction.NEW and (self.place.emergency_word() or not kept):
            denied = report(
                ReportKind.DENIED, int(order["order_id"]), int(order["instrument"]), Reason.DENIED_EMERGENCY
            )
            self._state["dropped"][0, Reason.DENIED_EMERGENCY] += 1
            self._publish([denied])
        else:
            self.hand_over(np.array([order], ORDER))
            self._state["processed"] += 1

    def take_answer(self, answer: Answer) -> None:
        """What the sender made of a job."""
        self.pending -= 1
        order_id = int(answer.order["order_id"][0]) if answer.order is not None else 0
        if answer.left:
            self._journal.write(Entry.LEFT, LEFT_STAMPS.pack(*answer.left), self.place.now_ns(), count=order_id)
        self._journal.write(Entry.ANSWER, answer.body, self.place.now_ns(), count=order_id)
        self._publish(answer.reports)

    def take_private(self, event: StreamEvent, data: bytes) -> None:
        """Something from the private stream."""
        if event == StreamEvent.CONNECTED:
            self.hand_over(CATCH_UP)
            self.place.stream_is_up()
        elif event == StreamEvent.LOST:
            self._state["stream_losses"] += 1
            self.client.history.stream_lost()
        else:
            self._take_frame(data)

    def _take_frame(self, data: bytes) -> None:
        self._state["private_frames"] += 1
        self._journal.write(Entry.PRIVATE, data, self.place.now_ns())
        try:
            frame = orjson.loads(data)
            event = frame.get("data", frame)
            if event.get("e") == "listenKeyExpired":
                self.place.reconnect_stream()  # the socket stays open and would say nothing any more
                return
            if event.get("e") == "ACCOUNT_UPDATE" and (event.get("a") or {}).get("m") != "ORDER":
                self.hand_over(PAYMENTS)  # it says that something was paid; what, the history tells
                return
            if event.get("e") != "ORDER_TRADE_UPDATE":
                return
            record = from_order_update(event, self._instruments, self.client.ids)
            filled = record is not None and event["o"]["X"] == "FILLED"
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            self._state["records_in"] += 1
            self._state["quarantined"][0, Reason.BAD_JSON] += 1
            self.place.trip(
                f"a private frame cannot be understood (journal entry {self._journal.ordinal}): "
                f"{type(error).__name__}: {error}"
            )
            return
        if record is None:
            self._state["foreign_events"] += 1
            return
        order_id = int(record["order_id"][0])
        if not order_id:
            self.place.trip("the venue trades for our account: it is being liquidated")
        self.client.history.learn(
            int(record["venue_order_id"][0]), order_id or FORCED, int(record["instrument"][0]),
            int(record["trade_id"][0]),
        )
        if filled or record["kind"][0] in _TERMINAL:
            self.client.history.forget(int(record["order_id"][0]))
        self._publish([record])

    def _publish(self, reports: list[np.ndarray]) -> None:
        """Stamp reports and publish them."""
        if not reports:
            return
        records = np.concatenate(reports).astype(REPORT, copy=False)
        records["recv_ts_ns"] = self.place.now_ns()
        records["ingest_id"] = self._journal.ordinal
        self._state["out"] += self.place.publish(records)
