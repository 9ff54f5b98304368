"""The moments at which an order was decided: the session's journals once more through the same kernels, up to there.

Execution takes its batches in the journaled order. A batch that may hold what is looked for is taken twice: whole, as
the session took it, and from a copy of the state before it record by record, so that the state right before and right
after the deciding record can be looked at. Both ways must end in the same state.
The model is not run: execution takes its journaled outputs, as in every replay of a session. Memory does not grow with
the session: of the inputs the newest GROUPS are kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.execution.kernel import EXECUTION
from engine.execution.orders import ORDER_SLOTS, SLOT_MASK
from engine.execution.state import EXECUTION_STATE
from engine.records import FEATURE_COUNT, OUTPUT_COUNT, OrderAction
from engine.risk.gate import KEPT
from engine.stage import as_bytes
from procs.decoding import replay_inputs
from procs.explain.session import ExplainError, Placed, Session, placed_entries
from procs.fused import BATCH, FusedPath
from procs.journal.layout import FRAMES
from procs.journal.reader import JournalEntry
from procs.replay import MergeReplayer, Waiting
from procs.table import Role

GROUPS = 256
Progress = Callable[[int, int], None]  # session time reached, entries of execution's journal taken


class _Journaled:
    """In the place of a model: its outputs are read from the journal."""

    version = 0

    def __init__(self) -> None:
        self.input, self.output = np.zeros(FEATURE_COUNT, np.float32), np.zeros(OUTPUT_COUNT, np.float32)

    def run(self) -> None:
        """Nothing: `output` stays zero."""


@dataclass(frozen=True)
class Group:
    """A frame or REST body, and what decoding made of it."""

    ingest_id: int
    frame: Placed
    records: np.ndarray  # MARKET


@dataclass(frozen=True)
class Moment:
    """One record that execution took, with the state on both sides of it."""

    batch: Placed  # of execution's journal
    place: int  # of the record in its batch, from 1
    source: int
    record: np.void  # PREDICTION, REPORT or MARKET
    before: np.void  # EXECUTION_STATE
    after: np.void
    orders: np.ndarray  # ORDER: what it made execution send
    group: Group | None  # of the ingest id that was the newest then; None: before the first frame

    def checks(self) -> list[np.void]:
        """What the gate saw of the orders that were checked at this record (CHECKED), in order."""
        first, last = int(self.before["gate"]["checked"]), int(self.after["gate"]["checked"])
        return [self.after["gate"]["kept"][number & (KEPT - 1)] for number in range(max(first, last - KEPT), last)]

    def sent(self, action: OrderAction, order_id: int) -> np.void | None:
        """The record of an action on an order that was sent at this moment."""
        return next((one for one in self.orders if one["kind"] == action and one["order_id"] == order_id), None)


class Search(ABC):
    """What is looked for: asked before and after every batch; the base keeps its moments and never ends."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    @abstractmethod
    def may_be_near(self, state: np.void, records: np.ndarray) -> bool:
        """Whether these records can bring it; where they cannot the state is not copied."""

    @abstractmethod
    def met(self, before: np.void, after: np.void, orders: np.ndarray) -> bool:
        """Whether it happened between two states, between which these ORDER records were sent."""

    def emitted(self, orders: np.ndarray) -> None:  # noqa: B027 - who needs it says so
        """The ORDER records of every batch."""

    def take(self, moment: Moment) -> None:
        """Keep a moment."""
        self.moments.append(moment)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to look for."""
        return bool(self.moments)


class OrderSearch(Search):
    """One order: when it was decided, when a cancel of it was wanted, and when one was sent."""

    def __init__(self, order_id: int, decided_ns: int, cancels: int) -> None:
        """decided_ns: when it was decided, 0 where no gateway's journal tells; cancels: how many are to be found."""
        super().__init__()
        self._order_id, self._decided_ns, self._cancels = order_id, decided_ns, cancels
        self._decided = False

    def may_be_near(self, state: np.void, records: np.ndarray) -> bool:
        """By its time, else by its number."""
        if self._decided:
            return True
        if self._decided_ns:
            return max(int(state["now_ns"]), int(records["recv_ts_ns"].max())) >= self._decided_ns
        # A number whose slot is still needed is passed over, and no slot is before all were used.
        next_id = int(state["orders"]["next_order_id"])
        last_id = next_id + len(records) * EXECUTION.max_out
        return next_id <= self._order_id <= last_id + (ORDER_SLOTS if last_id > ORDER_SLOTS else 0)

    def met(self, before: np.void, after: np.void, orders: np.ndarray) -> bool:
        """A record of the order, or a cancel that became wanted."""
        mine = orders[orders["order_id"] == self._order_id]
        if np.isin(mine["kind"], (OrderAction.NEW, OrderAction.CANCEL)).any():
            return True
        one, other = (state["orders"]["slots"][self._order_id & SLOT_MASK] for state in (before, after))
        held = one["order_id"] == other["order_id"] == self._order_id
        return bool(held and not one["cancel_wanted"] and other["cancel_wanted"])

    def take(self, moment: Moment) -> None:
        """Keep a moment."""
        super().take(moment)
        self._decided = self._decided or moment.sent(OrderAction.NEW, self._order_id) is not None
        self._cancels -= moment.sent(OrderAction.CANCEL, self._order_id) is not None

    @property
    def done(self) -> bool:
        """Decided, and every cancel found."""
        return self._decided and self._cancels <= 0


class CountSearch(Search):
    """The n-th of something that is counted in the state."""

    def __init__(self, number: int, count: Callable[[np.void], int]) -> None:
        """count: of an EXECUTION_STATE; one record cannot raise it by more than it sends or is checked for."""
        super().__init__()
        self._number, self._count = number, count

    def may_be_near(self, state: np.void, records: np.ndarray) -> bool:
        """By its number."""
        return self._count(state) + len(records) * EXECUTION.max_out >= self._number

    def met(self, before: np.void, after: np.void, orders: np.ndarray) -> bool:
        """When the count has come to the number."""
        return self._count(before) < self._number <= self._count(after)


def intents(state: np.void) -> int:
    """How many new orders and cancels were decided."""
    return int(state["intents"])


def refused_by_gate(state: np.void) -> int:
    """How many orders execution's own gate has refused."""
    return int(state["gate"]["checked"]) - int(state["sent"])


def _copied(state: np.ndarray) -> np.ndarray:
    """A copy with the bytes between the fields too, which numpy's own leaves as they come."""
    return as_bytes(state).copy().view(state.dtype)


class _Watching(MergeReplayer):
    """Takes the batches and keeps the moments that are wanted."""

    def __init__(
        self, state: np.ndarray, merges: Iterator[Placed], take: Callable[[int], np.ndarray], wanted: Search,
        group: Callable[[int], Group | None], progress: Progress,
    ) -> None:
        self._whole, self._wanted, self._group, self._progress = state, wanted, group, progress
        self._batches = merges
        self._batch: Placed | None = None
        super().__init__(state, self._until_done(), take)

    def _until_done(self) -> Iterator[JournalEntry]:
        for placed in self._batches:
            self._batch = placed
            self._progress(placed.entry.ts_ns, placed.entry.ordinal)
            yield placed.entry
            if self._wanted.done:
                return

    def step(self, source: int, inbox: np.ndarray, count: int) -> int:
        """Take a batch; see the module."""
        dtype = EXECUTION.in_dtypes[source]
        records = inbox[: count * dtype.itemsize].view(dtype)
        before = _copied(self._whole) if self._wanted.may_be_near(self._whole[0], records) else None
        written = super().step(source, inbox, count)
        orders = self.outbox[: written * EXECUTION.out_dtype.itemsize].view(EXECUTION.out_dtype)
        self._wanted.emitted(orders)
        if before is not None and self._wanted.met(before[0], self._whole[0], orders):
            self._one_by_one(before, source, records)
        return written

    def _one_by_one(self, state: np.ndarray, source: int, records: np.ndarray) -> None:
        assert self._batch is not None
        outbox = np.zeros(EXECUTION.max_out, EXECUTION.out_dtype)
        routes = np.zeros(EXECUTION.max_out, np.uint8)
        for place in range(len(records)):
            before, record = _copied(state), records[place : place + 1].copy()
            written = int(EXECUTION.step(as_bytes(state), source, as_bytes(record), 1, as_bytes(outbox), routes))
            if self._wanted.met(before[0], state[0], outbox[:written]):
                self._wanted.take(Moment(
                    self._batch, place + 1, source, record[0], before[0], _copied(state)[0], outbox[:written].copy(),
                    self._group(int(state["last_ingest_id"][0])),
                ))
        if as_bytes(state).tobytes() != as_bytes(self._whole).tobytes():
            raise ExplainError(
                f"entry {self._batch.entry.ordinal} of execution's journal comes out different when it is taken record "
                "by record: this should not happen"
            )


class _Inputs:
    """Ingestion's journal as PREDICTION records, and the newest groups of it."""

    def __init__(self, session: Session, path: FusedPath) -> None:
        self._folder, self._path = session.folder, path
        self._groups: OrderedDict[int, Group] = OrderedDict()
        self._frames: dict[int, Placed] = {}  # read and not decoded yet
        self._count = 0

    def group(self, ingest_id: int) -> Group | None:
        """What came with an ingest id that is not long gone."""
        return self._groups.get(ingest_id)

    def _entries(self) -> Iterator[JournalEntry]:
        for placed in placed_entries(self._folder, Role.INGESTION.label):
            if placed.entry.kind in FRAMES:
                self._count += 1
                self._frames[self._count] = placed
            yield placed.entry

    def predictions(self) -> Iterator[np.ndarray]:
        """Copies of all PREDICTION records, batch by batch."""
        path, seen = self._path, 0
        for decoded in replay_inputs(path.decoder, self._entries()):
            if path.decoder.ingest_id != seen:
                seen = path.decoder.ingest_id
                self._groups[seen] = Group(seen, self._frames.pop(seen), path.decoder.records[:decoded].copy())
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            for first in range(0, decoded, BATCH):
                found = path.predict(first, min(BATCH, decoded - first))
                if found:
                    yield path.predictions[:found].copy()


def find_moments(session: Session, wanted: Search, progress: Progress = lambda _ts_ns, _entries: None) -> list[Moment]:
    """Replay until all that is wanted was met, or the journals end; the moments in order.

    Raises ReplayError where the market data end before the decisions, JournalError, ExplainError.
    """
    path = FusedPath(session.settings, session.instruments, False, session.strategies, _Journaled())
    state = path.states[Role.EXECUTION]
    assert state.dtype == EXECUTION_STATE
    inputs = _Inputs(session, path)
    merges = placed_entries(session.folder, Role.EXECUTION.label)
    waiting = Waiting(inputs.predictions())
    _Watching(state, merges, waiting.take, wanted, inputs.group, progress).run()
    return wanted.moments


