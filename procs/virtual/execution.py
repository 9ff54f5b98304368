"""The execution stage of a session in virtual time: inputs in the order of their arrival, journaled, stepped.

It can be killed at any event. Its successor loads the last checkpoint, takes what was journaled since again, publishes
nothing of that a second time, and goes on with what has waited. `differences` counts successors whose state or output
was not that of the dead, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.execution.kernel import MAX_OUT, execution_step
from engine.records import ORDER
from engine.stage import as_bytes
from procs.checkpoint import HEADER_WORDS, OUTPUT_CURSOR, SLOTS, checkpoint_now, load_checkpoint, slot_words
from procs.embedded.mix import Draws
from procs.fused import BATCH
from procs.virtual.loop import EventLog, Loop
from procs.virtual.wire import MS

_CHECKPOINT_NS = 100 * MS
_LARGEST_BATCH = 2 * BATCH  # records of one input

Input = tuple[int, int, np.ndarray]  # source, number of records, their bytes


class Execution:
    """See the module.

    state   shape (1,) of EXECUTION_STATE
    emitted called with the ORDER records of each step that made any
    """

    def __init__(
        self, loop: Loop, log: EventLog, draws: Draws, state: np.ndarray, emitted: Callable[[np.ndarray], None]
    ):
        self.loop = loop
        self.log = log
        self.state = state
        self.steps: list[Input] = []  # since the last checkpoint
        self.differences = 0
        self.alive = True
        self._emitted = emitted
        self._draws = draws
        self._bytes = as_bytes(state)
        self._outbox = np.zeros(_LARGEST_BATCH * MAX_OUT, ORDER)
        self._outbox_bytes = as_bytes(self._outbox)
        self._routes = np.zeros(len(self._outbox), np.uint8)
        self._waiting: list[Input] = []
        self._arrived_ns = [0, 0, 0]  # by source: inputs of one ring stay in order
        self._published = 0
        self._arena = np.zeros(SLOTS * slot_words(state.nbytes), np.int64)
        self._header = np.zeros(HEADER_WORDS, np.int64)
        self._checkpoint()

    def give(self, source: int, records: np.ndarray) -> None:
        """Put records on one of the input rings."""
        item = (source, len(records), as_bytes(records).copy())  # copying structured records takes many times as long
        self._arrived_ns[source] = max(self._arrived_ns[source], self.loop.now_ns + self._draws.whole(10, 200) * 1_000)
        self.loop.at(self._arrived_ns[source], lambda: self._arrive(item))

    def _arrive(self, item: Input) -> None:
        if self.alive:
            self._take(item)
        else:
            self._waiting.append(item)

    def _step(self, item: Input) -> np.ndarray:
        """The ORDER records that an input leads to; valid until the next step."""
        source, count, records = item
        written = execution_step(self._bytes, source, records, count, self._outbox_bytes, self._routes)
        return self._outbox[:written]

    def _take(self, item: Input) -> None:
        if self.loop.now_ns >= self._checkpoint_due_ns:
            self._checkpoint()
        self.steps.append(item)
        orders = self._step(item)
        self.log.add(self.loop.now_ns, f"execution takes {item[0]}", item[2].tobytes())
        if len(orders):
            self._published += len(orders)
            self.log.add(self.loop.now_ns, "orders", orders.tobytes())
            self._emitted(orders)

    def _checkpoint(self) -> None:
        self._checkpoint_due_ns = self.loop.now_ns + _CHECKPOINT_NS
        self._header[OUTPUT_CURSOR] = self._published
        checkpoint_now(self._arena, self._bytes, self._header)
        self.steps.clear()

    def kill(self, dead_ns: int) -> None:
        """kill -9; the successor is there `dead_ns` later."""
        if self.alive:
            self.alive = False
            self.log.add(self.loop.now_ns, "execution is killed")
            last_words = self._bytes.copy()
            self.loop.after(dead_ns, lambda: self._succeed(last_words))

    def _succeed(self, last_words: np.ndarray) -> None:
        if not load_checkpoint(self._arena, self._bytes, self._header):
            raise RuntimeError("no whole checkpoint to start from")
        again = int(self._header[OUTPUT_CURSOR]) + sum(len(self._step(item)) for item in self.steps)
        if again != self._published or not np.array_equal(self._bytes, last_words):
            self.differences += 1
        self.alive = True
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            self._take(item)
