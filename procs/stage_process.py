"""The process of a kernel stage: maps its memory, binds the pump, and goes back to it until told to stop."""

from __future__ import annotations

import numpy as np

from engine.records import OUTPUT_COUNT, PREDICTION, SOURCE_COMMANDS, SOURCE_MAIN
from engine.stage import Stage, as_bytes
from procs import pump as p
from procs.instance import ProcessContext
from procs.journal.writer import JournalFull, JournalWriter
from procs.table import Role
from shm.control import Stop, TripSource

_BATCH = 64


def pump_params(context: ProcessContext, stage: Stage, batch: int) -> np.ndarray:
    """The pump's parameter words for a stage (see procs/pump.py)."""
    params = np.zeros(p.PARAM_COUNT, np.int64)
    execution = context.role == Role.EXECUTION
    params[p.P_INPUTS] = len(context.spec.inputs)
    params[p.P_OUTPUTS] = len(context.spec.outputs)
    params[p.P_BATCH] = batch
    params[p.P_MAX_OUT] = stage.max_out
    params[p.P_SPIN] = context.plan.spin
    params[p.P_CLOCK_OFFSET] = context.clock_offset
    params[p.P_ROLE] = context.role
    params[p.P_OWN_BELL] = context.bell.at
    params[p.P_JOURNAL] = execution
    params[p.P_WANTS_TRIP] = execution
    params[p.P_STAMP_ALL] = not execution
    params[p.P_TRIP_SOURCE] = SOURCE_COMMANDS
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


def run_stage(context: ProcessContext, stage: Stage, live: bool = True) -> None:
    """Body of the process of a kernel stage; returns when it is asked to stop and its inputs are empty.

    live: False for execution in an open-loop replay: nothing is journaled, no trip is inserted, nobody takes orders.
    """
    spec = context.spec
    inputs = [context.ring(name) for name in spec.inputs]
    outputs = [context.ring(name) for name in spec.outputs]
    state = as_bytes(context.state(context.role))
    params = pump_params(context, stage, _BATCH)
    if not live:
        params[[p.P_JOURNAL, p.P_WANTS_TRIP, p.P_OUTPUTS]] = 0
    padded_in = (inputs * p.MAX_INPUTS)[: p.MAX_INPUTS]
    padded_out = (outputs * p.MAX_OUTPUTS)[: p.MAX_OUTPUTS]
    outbox = np.zeros(_BATCH * stage.max_out * stage.out_dtype.itemsize, np.uint8)
    routes = np.zeros(_BATCH * stage.max_out, np.uint8)
    scratch = np.zeros(_BATCH * max(dtype.itemsize for dtype in stage.in_dtypes), np.uint8)
    journal = JournalWriter(context.plan.path, spec.role.label, context.plan.session) if params[p.P_JOURNAL] else None
    if journal is not None:
        _prepare_next(context, journal)
    buffer = journal.buffer() if journal else np.zeros(8, np.uint8)
    cursor = np.array([journal.offset, journal.ordinal] if journal else [0, 0], np.int64)
    arguments = (
        tuple(ring.control for ring in padded_in), tuple(ring.consumer for ring in padded_in),
        tuple(ring.slots for ring in padded_in), tuple(ring.control for ring in padded_out),
        tuple(ring.producer for ring in padded_out), tuple(ring.slots for ring in padded_out),
    )
    hop, origin = context.histogram(spec.role, "hop"), context.histogram(spec.role, "origin")
    stamps = context.stamps()
    context.ready()
    while True:
        outcome = p.pump(
            stage.step, state, *arguments, outbox, routes, context.control.words, context.control.bells, hop, origin,
            stamps, buffer, cursor, scratch, params,
        )
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
