"""The process of a kernel stage: maps its memory, binds the pump, and goes back to it until told to stop.

A successor of a process that died loads the newest checkpoint, steps again what its predecessor took after it (from the
input rings; execution from its journal, which has the order in which it merged them), publishes what the output rings
do not hold yet, and goes on. Starting is the same: the first checkpoint is the initial state.
"""

from __future__ import annotations

import numpy as np

from engine.records import MARKET, OUTPUT_COUNT, PREDICTION, SOURCE_COMMANDS, SOURCE_MAIN, Kind
from engine.stage import Stage, as_bytes
from procs import checkpoint as c
from procs import pump as p
from procs.attach import started_ticks
from procs.instance import ProcessContext
from procs.journal.reader import read_stream
from procs.journal.writer import JournalFull, JournalWriter
from procs.ports import Turns
from procs.table import Role
from shm.control import Readiness, Stop, TripSource
from shm.ring import Ring
from shm.ring_kernels import CURSOR, RECORD_SIZE, consumer_advance, consumer_read, consumer_ready, consumer_release

_BATCH = 64
_CHECKPOINT_NS = 100_000_000
_CHECKPOINT_RECORDS = 1 << 16
_LOOK_NS = 1_000_000_000
# So many looks without a kill switch stop trading, whoever else is there or not.
_LOOKS_UNGUARDED = 8


def pump_params(context: ProcessContext, stage: Stage, batch: int) -> np.ndarray:
    """The pump's parameter words for a stage (see procs/pump.py)."""
    params = np.zeros(p.PARAM_COUNT, np.int64)
    execution = context.role == Role.EXECUTION
    params[p.P_INPUTS] = len(context.inputs)
    params[p.P_OUTPUTS] = len(context.spec.outputs)
    params[p.P_BATCH] = batch
    params[p.P_MAX_OUT] = stage.max_out
    params[p.P_SPIN] = context.plan.spin
    params[p.P_CLOCK_OFFSET] = context.clock_offset
    params[p.P_ROLE] = context.role
    params[p.P_OWN_BELL] = context.bell.at
    params[p.P_JOURNAL] = execution
    params[p.P_WANTS_TRIP] = params[p.P_WANTS_BACKLOG] = execution
    params[p.P_STAMP_ALL] = not execution
    params[p.P_STAMP_PUBLISHED] = execution
    params[p.P_OUT_SIZE] = stage.out_dtype.itemsize
    params[p.P_TRIP_SOURCE] = SOURCE_COMMANDS
    params[p.P_CHECKPOINT] = 1
    params[p.P_LOOK_NS] = _LOOK_NS
    params[p.P_CHECKPOINT_NS] = _CHECKPOINT_NS
    smallest = min(context.ring(name).capacity for name in context.inputs)
    params[p.P_CHECKPOINT_RECORDS] = min(_CHECKPOINT_RECORDS, smallest // 4)
    for route, name in enumerate(context.spec.outputs):
        params[p.P_OUT_BELL + route] = context.consumer_bell(name).at
    for source, dtype in enumerate(stage.in_dtypes):
        params[p.P_IN_LENGTH + source] = dtype.itemsize
    if execution:
        # Of a prediction only the outputs are an input of its own: the rest follows from the frames.
        params[p.P_IN_SLICE + SOURCE_MAIN] = PREDICTION.fields["output"][1]  # type: ignore[index]
        params[p.P_IN_LENGTH + SOURCE_MAIN] = 4 * OUTPUT_COUNT
    return params


def _prepare_next(context: ProcessContext, journal: JournalWriter) -> None:
    """Allocate the next journal segment; trip while there is still room for the tail when the disk is full."""
    try:
        journal.prepare_next()
    except JournalFull:
        context.control.trip(TripSource.STORAGE)


class StageProcess:
    """Everything that one stage binds: rings, state, checkpoint slots, journal, buffers."""

    def __init__(self, context: ProcessContext, stage: Stage, live: bool) -> None:
        self.context = context
        self.stage = stage
        self._turns = Turns(context)
        self._looks_unguarded = 0
        self._was_guarded = False
        self.inputs = [context.ring(name) for name in context.inputs]
        self.outputs = [context.ring(name) for name in context.spec.outputs]
        self.state = as_bytes(context.state(context.role))
        self.arena = context.arena(context.role)
        self.published = context.intent_stamps()
        self.header = np.zeros(c.HEADER_WORDS, np.int64)
        self.params = pump_params(context, stage, _BATCH)
        if not live:
            self.params[[p.P_JOURNAL, p.P_WANTS_TRIP, p.P_WANTS_BACKLOG, p.P_OUTPUTS]] = 0
            self.outputs = []
        self.outbox = np.zeros(_BATCH * stage.max_out * stage.out_dtype.itemsize, np.uint8)
        self.routes = np.zeros(_BATCH * stage.max_out, np.uint8)
        self.scratch = np.zeros(_BATCH * max(dtype.itemsize for dtype in stage.in_dtypes), np.uint8)
        self.journal: JournalWriter | None = None
        if self.params[p.P_JOURNAL]:
            self.journal = JournalWriter(
                context.plan.path, context.role.label, context.plan.session, resume=context.successor
            )
            _prepare_next(context, self.journal)

    def take_up(self) -> None:
        """Stand where the predecessor's effects end. Raises ValueError when no checkpoint is whole."""
        if not c.load_checkpoint(self.arena, self.state, self.header):
            raise ValueError(f"{self.context.role.label}: no whole checkpoint to start from")
        for source, ring in enumerate(self.inputs):
            ring.consumer[CURSOR] = self.header[c.INPUT_CURSOR + source]
            # A predecessor may have died between its checkpoint and this: the producer must not wait for it.
            consumer_release(ring.control, ring.consumer)
        for route, ring in enumerate(self.outputs):
            self.params[p.P_SUPPRESS + route] = ring.producer[CURSOR] - self.header[c.OUTPUT_CURSOR + route]
        self.params[p.P_WORD_SEEN] = self.header[c.WORD_SEEN]
        self.params[p.P_BACKLOG] = self.header[c.BACKLOG_SEEN]
        if self.journal is not None and self.context.successor:
            self._step_journaled_again()

    def _step_journaled_again(self) -> None:
        """Step what the predecessor had journaled after its last checkpoint, in its order."""
        assert self.journal is not None
        for entry in read_stream(self.context.plan.path, self.context.role.label):
            if entry.ordinal <= self.header[c.JOURNAL_ORDINAL]:
                continue
            inbox = self._inbox_of(entry.source, entry.count, entry.payload)
            produced = int(
                self.stage.step(self.state, entry.source, inbox, entry.count, self.outbox, self.routes)
            )
            p.publish_again(
                self.outbox, self.routes, produced, len(self.outputs), *self._padded_outputs(),
                self.context.control.bells, self.params, self.published,
            )

    def _inbox_of(self, source: int, count: int, payload: bytes) -> np.ndarray:
        """The records of a journaled batch: predictions are still in their ring, the rest is in the journal."""
        if source == SOURCE_COMMANDS:
            record = np.frombuffer(payload, MARKET)[0]
            if record["kind"] in (Kind.TRIP, Kind.BACKLOG):  # inserted by the pump: it came from no ring
                seen = p.P_WORD_SEEN if record["kind"] == Kind.TRIP else p.P_BACKLOG
                self.params[seen] = record["aux"]
                return np.frombuffer(payload, np.uint8).copy()
        ring = self.inputs[source]
        inbox = np.zeros(count * int(ring.consumer[RECORD_SIZE]), np.uint8)
        if consumer_ready(ring.control, ring.consumer, count) < count:
            raise ValueError(f"{self.context.role.label}: its journal has more than the ring of input {source} holds")
        consumer_read(ring.consumer, ring.slots, 0, inbox, 0, count)
        consumer_advance(ring.consumer, count)
        return inbox

    def _padded_outputs(self) -> tuple[p.Arrays, p.Arrays, p.Arrays]:
        # The pump is compiled for a fixed number of rings; what is beyond the count is never touched.
        padded = ((self.outputs or self.inputs) * p.MAX_OUTPUTS)[: p.MAX_OUTPUTS]
        return (
            tuple(ring.control for ring in padded), tuple(self._producer(ring) for ring in padded),
            tuple(ring.slots for ring in padded),
        )

    def _producer(self, ring: Ring) -> np.ndarray:
        return ring.producer if ring in self.outputs else ring.consumer

    def run(self) -> None:
        """Serve until asked to stop with every input empty."""
        context, journal = self.context, self.journal
        padded = (self.inputs * p.MAX_INPUTS)[: p.MAX_INPUTS]
        arguments = (
            tuple(ring.control for ring in padded), tuple(ring.consumer for ring in padded),
            tuple(ring.slots for ring in padded), *self._padded_outputs(),
        )
        hop, origin, cost = (context.histogram(context.role, kind) for kind in ("hop", "origin", "checkpoint"))
        stamps = context.stamps()
        passed = context.passed(context.role) if self.params[p.P_STAMP_ALL] else stamps
        buffer = journal.buffer() if journal else np.zeros(8, np.uint8)
        cursor = np.array([journal.offset, journal.ordinal] if journal else [0, 0], np.int64)
        context.ready()
        while True:
            outcome = p.pump(
                self.stage.step, self.state, *arguments, self.outbox, self.routes, context.control.words,
                context.control.bells, hop, origin, stamps, passed, buffer, cursor, self.scratch, self.params,
                self.arena, self.header, cost, self.published,
            )
            if outcome == p.LOOK:
                self._look()
                continue
            if journal is None or outcome == p.STOPPED:
                break
            journal.adopt(int(cursor[0]), int(cursor[1]))
            if not journal.next_ready:
                break  # tripped when there was no room for it; what cannot be journaled is not acted upon
            journal.roll()
            _prepare_next(context, journal)
            buffer = journal.buffer()
            cursor[:] = journal.offset, journal.ordinal
        if journal is not None:
            journal.adopt(int(cursor[0]), int(cursor[1]))
            del buffer
            journal.close()
        if context.stop == Stop.RUN:
            raise SystemExit(3)


    def _look(self) -> None:
        """Once a second: end when nobody is left who would, and trip when there is no kill switch."""
        if self._turns.orphaned:
            raise SystemExit(4)
        if not self.params[p.P_WANTS_TRIP]:
            return
        control = self.context.control
        lives = started_ticks(control.pid(Role.KILLSWITCH)) > 0  # a zombie does not: a stopped supervisor reaps none
        guarded = control.readiness(Role.KILLSWITCH) == Readiness.READY and lives
        self._looks_unguarded = 0 if guarded else self._looks_unguarded + 1
        # The supervisor is quicker (procs/crew.py); this is for when it is gone too.
        if self._looks_unguarded >= _LOOKS_UNGUARDED and self._was_guarded and not control.tripped:
            control.trip(TripSource.EXECUTION)
        self._was_guarded = self._was_guarded or guarded


def run_stage(context: ProcessContext, stage: Stage, live: bool = True) -> None:
    """Body of the process of a kernel stage; returns when it is asked to stop and its inputs are empty.

    live: False for execution in an open-loop replay: nothing is journaled, no trip is inserted, nobody takes orders.
    """
    process = StageProcess(context, stage, live)
    process.take_up()
    process.run()
