"""The pump: the one compiled loop that every kernel stage runs in.

Purpose: take batches from the input rings, journal them where the stage meets several inputs, step the stage,
publish what it wrote, ring the consumers, stamp latency. The stage comes as a first-class function of
STEP_SIGNATURE, so one compiled pump serves all stages; it never knows what a record means beyond its ingest id, the
first word of every record.

Ordering: the emergency word is read with acquire in every turn; heads and tails as in shm/ring.py; a stage that
meets inputs journals a batch before it steps it. The inputs before the targets are looked at from the last source to
the first, so commands and fills never wait behind market data; then those with targets, for which nobody waits.

Cost: some 100 ns a turn beside the stage. Limits: seven inputs, two outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.records import MARKET, SOURCE_TARGETS, TARGET_SOURCES, Kind
from engine.stage import BYTES, STEP
from procs.checkpoint import (
    BACKLOG_SEEN,
    INPUT_CURSOR,
    JOURNAL_ORDINAL,
    OUTPUT_CURSOR,
    WORD_SEEN,
    write_checkpoint,
)
from procs.journal.kernel import journal_append, journal_room
from procs.journal.layout import Entry
from shm.atomics import cpu_pause
from shm.clock import session_ns
from shm.control import Stop, add_progress, beat, emergency_word, stop_requested
from shm.doorbell import cancel_wait, commit_wait, prepare_wait, ring_bell
from shm.histogram import record
from shm.memory import copy_bytes
from shm.ring_kernels import (
    CURSOR,
    MASK,
    RECORD_SIZE,
    consumer_advance,
    consumer_ready,
    consumer_release,
    consumer_run,
    consumer_slot,
    producer_claim,
    producer_publish,
    producer_room,
    producer_write,
    ring_consumed,
    ring_produced,
)

MAX_INPUTS = SOURCE_TARGETS + TARGET_SOURCES
MAX_OUTPUTS = 2

# Why the pump came back to Python.
STOPPED = 0  # asked to stop, and every input is empty
JOURNAL_FULL = 1  # the next batch does not fit into the journal segment; nothing was taken
LOOK = 2  # it is time to look around, for which a loop in a kernel has no eyes

# Indexes into params (int64[PARAM_COUNT]).
P_INPUTS = 0
P_OUTPUTS = 1
P_BATCH = 2  # most records a step
P_MAX_OUT = 3  # most output records an input record can cause
P_SPIN = 4  # 1: never sleep
P_CLOCK_OFFSET = 5
P_ROLE = 6
P_OWN_BELL = 7  # index of this process's doorbell
P_JOURNAL = 8  # 1: journal every batch before it is stepped
P_WANTS_TRIP = 9  # 1: insert a TRIP record when the emergency word changes
# 1: since-origin latency of every batch, and note when a frame passed; 0: of every record of the main input that had
# output.
P_STAMP_ALL = 10
P_TRIP_SOURCE = 11  # source number under which the TRIP record is stepped
P_IN_SLICE = 12  # ..18 by source: first byte of a record that is journaled
P_IN_LENGTH = 19  # ..25 by source: bytes of a record that are journaled
P_OUT_BELL = 26  # ..27 by route: doorbell of the consumer
P_WORD_SEEN = 28  # emergency word of the last TRIP inserted
P_SUPPRESS = 29  # ..30 by route: records that a predecessor has already published
P_CHECKPOINT = 31  # 1: input slots are freed by checkpoints only
P_CHECKPOINT_RECORDS = 32  # most records between two checkpoints
P_CHECKPOINT_NS = 33  # most time between two checkpoints while there is something new
P_STAMP_PUBLISHED = 34  # 1: note when each record of the first output was published
P_OUT_SIZE = 35  # bytes of an output record
P_LOOK_NS = 36  # come back to Python so often; 0: never
P_WANTS_BACKLOG = 37  # 1: insert a BACKLOG record when the rings beside this stage fill up or have room again
P_BACKLOG = 38  # level of the last BACKLOG inserted
PARAM_COUNT = 40

Arrays = tuple[np.ndarray, ...]
INT64S = types.Array(types.int64, 1, "C")
INT32S = types.Array(types.int32, 1, "C")
_INPUT_WORDS = types.UniTuple(INT64S, MAX_INPUTS)
_INPUT_BYTES = types.UniTuple(BYTES, MAX_INPUTS)
_OUTPUT_WORDS = types.UniTuple(INT64S, MAX_OUTPUTS)
_OUTPUT_BYTES = types.UniTuple(BYTES, MAX_OUTPUTS)

_MARKET_SIZE = MARKET.itemsize
_TRIP = int(Kind.TRIP)
_BACKLOG = int(Kind.BACKLOG)
_BATCH_ENTRY = int(Entry.BATCH)
_STOP_NOW = int(Stop.NOW)
_ROOM_RETRY_NS = 100_000
_IDLE_WAIT_NS = 10_000_000


@kernel()
def _publish(
    outbox: np.ndarray, routes: np.ndarray, produced: int, outputs: int, controls: Arrays, locals_: Arrays,
    slots: Arrays, bells: np.ndarray, params: np.ndarray, published: np.ndarray,
) -> None:
    """Copy the outbox to the rings that its routes name, run by run, and ring their consumers."""
    first = 0
    while first < produced:
        route = np.int64(routes[first]) if outputs > 1 else 0
        end = first + 1
        if outputs == 1:
            end = produced
        else:
            while end < produced and np.int64(routes[end]) == route:
                end += 1
        # What a predecessor published before it died comes out the same again, and is not published twice.
        skipped = min(end - first, params[P_SUPPRESS + route])
        params[P_SUPPRESS + route] -= skipped
        first += skipped
        count = end - first
        if count == 0:
            continue
        producer_claim(controls[route], locals_[route], count)
        producer_write(locals_[route], slots[route], 0, outbox, first, count)
        if params[P_STAMP_PUBLISHED] != 0 and route == 0:
            # Before the records are visible: whoever takes one finds its stamp.
            now = session_ns(params[P_CLOCK_OFFSET])
            for index in range(count):
                published[(locals_[route][CURSOR] + index) & (published.size - 1)] = now
        producer_publish(controls[route], locals_[route], count)
        ring_bell(bells, params[P_OUT_BELL + route])
        first = end


@kernel(makes_arrays=True)
def _journal_batch(
    journal: np.ndarray, cursor: np.ndarray, source: int, inbox: np.ndarray, count: int, record_size: int, now: int,
    scratch: np.ndarray, params: np.ndarray,
) -> bool:
    """Journal what must be known of a batch to step it again; False when the segment has no room for it."""
    start = params[P_IN_SLICE + source]
    length = params[P_IN_LENGTH + source]
    if not journal_room(journal, cursor, count * length):
        return False
    for index in range(count):
        copy_bytes(scratch, index * length, inbox, index * record_size + start, length)
    journal_append(journal, cursor, _BATCH_ENTRY, source, count, now, scratch, count * length)
    return True


@kernel(
    types.void(
        BYTES, BYTES, types.int64, types.int64, _OUTPUT_WORDS, _OUTPUT_WORDS, _OUTPUT_BYTES, INT32S, INT64S, INT64S
    )
)
def publish_again(
    outbox: np.ndarray, routes: np.ndarray, produced: int, outputs: int, controls: Arrays, locals_: Arrays,
    slots: Arrays, bells: np.ndarray, params: np.ndarray, published: np.ndarray,
) -> None:
    """Publish, from Python, what a successor's step wrote; what its predecessor published is left out."""
    if produced > 0 and outputs > 0:
        _publish(outbox, routes, produced, outputs, controls, locals_, slots, bells, params, published)


@kernel()
def _record_since_origin(
    origin: np.ndarray, stamps: np.ndarray, first_id: int, out_words: np.ndarray, produced: int, size: int, now: int
) -> None:
    """One latency for each record of a batch that had output; the first word of an output is the id of its cause.

    A cause before the batch's first id is that of a timer: it fired by the clock, and no frame is behind it.
    """
    mask = np.int64(stamps.size - 1)
    words = size // 8
    previous = 0
    for index in range(produced):
        cause = out_words[index * words]
        if cause != previous and cause >= first_id and stamps[cause & mask] > 0:
            record(origin, now - stamps[cause & mask])
        previous = cause


@kernel()
def _note_passed(
    passed: np.ndarray, stamps: np.ndarray, inbox: np.ndarray, count: int, size: int, now: int
) -> None:
    """Note when this stage passed the frames of a batch on.

    A frame's first batch counts: records of a timer name the frame before them, and are no part of it.
    """
    ids = inbox[: count * size].view(np.int64)
    mask = np.int64(stamps.size - 1)
    words = size // 8
    for index in range(count):
        place = ids[index * words] & mask
        if passed[place] < stamps[place]:
            passed[place] = now


@kernel()
def _backlog(
    level: int, inputs: int, outputs: int, in_controls: Arrays, in_locals: Arrays, out_controls: Arrays,
    out_locals: Arrays,
) -> int:
    """How full the rings beside a stage are: 2 from 90 % on, 1 from 50 % on; back to 1 below 50 %, to 0 below 25 %.

    Counted from the read cursors, in the fullest ring of its outputs and of its inputs but the main one and those with
    targets: they may be full, since what they carry can be decided later, or not at all.
    """
    percent = 0
    for route in range(outputs):
        unread = out_locals[route][CURSOR] - ring_consumed(out_controls[route])
        percent = max(percent, 100 * unread // (out_locals[route][MASK] + 1))
    for source in range(1, min(inputs, SOURCE_TARGETS)):
        unread = ring_produced(in_controls[source]) - in_locals[source][CURSOR]
        percent = max(percent, 100 * unread // (in_locals[source][MASK] + 1))
    if percent >= 90 or (level == 2 and percent >= 50):
        return 2
    if percent >= 50 or (level > 0 and percent >= 25):
        return 1
    return 0


@kernel()
def _checkpoint(
    state: np.ndarray, arena: np.ndarray, header: np.ndarray, inputs: int, outputs: int, in_controls: Arrays,
    in_locals: Arrays, out_locals: Arrays, journal_cursor: np.ndarray, params: np.ndarray,
) -> None:
    """Copy the state with the cursors at which it stands, then free the input slots that it covers."""
    for source in range(inputs):
        header[INPUT_CURSOR + source] = in_locals[source][CURSOR]
    for route in range(outputs):
        header[OUTPUT_CURSOR + route] = out_locals[route][CURSOR] - params[P_SUPPRESS + route]
    header[JOURNAL_ORDINAL] = journal_cursor[1]
    header[WORD_SEEN] = params[P_WORD_SEEN]
    header[BACKLOG_SEEN] = params[P_BACKLOG]
    write_checkpoint(arena, state, header)
    for source in range(inputs):
        consumer_release(in_controls[source], in_locals[source])


@kernel(
    types.int64(
        STEP, BYTES, _INPUT_WORDS, _INPUT_WORDS, _INPUT_BYTES, _OUTPUT_WORDS, _OUTPUT_WORDS, _OUTPUT_BYTES, BYTES,
        BYTES, INT64S, INT32S, INT64S, INT64S, INT64S, INT64S, BYTES, INT64S, BYTES, INT64S, INT64S, INT64S, INT64S,
        INT64S,
    )
)
def pump(
    step: Any, state: np.ndarray, in_controls: Arrays, in_locals: Arrays, in_slots: Arrays, out_controls: Arrays,
    out_locals: Arrays, out_slots: Arrays, outbox: np.ndarray, routes: np.ndarray, control: np.ndarray,
    bells: np.ndarray, hop: np.ndarray, origin: np.ndarray, stamps: np.ndarray, passed: np.ndarray,
    journal: np.ndarray, journal_cursor: np.ndarray, scratch: np.ndarray, params: np.ndarray, arena: np.ndarray,
    header: np.ndarray, checkpoint_cost: np.ndarray, published: np.ndarray,
) -> int:
    """Run a stage until it is asked to stop and its inputs are empty, or its journal segment is full.

    in_*, out_*     the rings, padded to MAX_INPUTS and MAX_OUTPUTS with any arrays
    outbox, routes  room for P_BATCH * P_MAX_OUT output records
    hop, origin     latency histograms: of a batch in this stage, and since the frame was in hand
    stamps          int64[2^k]: session time at which the frame of an ingest id was in hand
    passed          the same, at which this stage passed it on; not touched without P_STAMP_ALL
    scratch         uint8 with room for a journaled batch
    arena, header   the checkpoint slots and the words of the last one (procs/checkpoint.py)
    checkpoint_cost histogram of what a checkpoint takes
    published       int64[2^k]: session time at which a record of the first output was published, at its cursor
    Returns STOPPED, JOURNAL_FULL or LOOK.
    """
    inputs = params[P_INPUTS]
    before_targets = min(inputs, SOURCE_TARGETS)
    outputs = params[P_OUTPUTS]
    max_out = params[P_MAX_OUT]
    role = params[P_ROLE]
    offset = params[P_CLOCK_OFFSET]
    stamp_mask = np.int64(stamps.size - 1)
    trip_inbox = np.zeros(_MARKET_SIZE, np.uint8)
    out_words = outbox.view(np.int64)
    fresh = 0  # records since the last checkpoint
    due = session_ns(offset) + params[P_CHECKPOINT_NS]
    look_due = session_ns(offset) + params[P_LOOK_NS]
    while True:
        # Read before the inputs are looked at: whoever asks to stop does so after the producers have gone, so inputs
        # found empty afterwards stay empty.
        stop = stop_requested(control, role)
        if stop >= _STOP_NOW:
            return STOPPED
        if fresh > 0 and params[P_CHECKPOINT] != 0:
            now = session_ns(offset)
            if fresh >= params[P_CHECKPOINT_RECORDS] or now >= due:
                _checkpoint(
                    state, arena, header, inputs, outputs, in_controls, in_locals, out_locals, journal_cursor, params
                )
                fresh = 0
                ended = session_ns(offset)
                due = ended + params[P_CHECKPOINT_NS]
                record(checkpoint_cost, ended - now)
        # What was taken since the last checkpoint is counted here alone: never leave in between.
        if params[P_LOOK_NS] != 0 and (fresh == 0 or params[P_CHECKPOINT] == 0) and session_ns(offset) >= look_due:
            return LOOK
        word = emergency_word(control)
        trip = params[P_WANTS_TRIP] != 0 and word != params[P_WORD_SEEN]
        level = params[P_BACKLOG]
        if params[P_WANTS_BACKLOG] != 0:
            level = _backlog(level, inputs, outputs, in_controls, in_locals, out_controls, out_locals)
        moved = 0
        blocked = False
        for place in range(inputs + 1):
            # Place 0 is a trip or else a backlog, then the inputs from the last to the first, then the targets.
            if place == 0:
                if not trip and level == params[P_BACKLOG]:
                    continue
                source = params[P_TRIP_SOURCE]
                count = 1
                size = np.int64(_MARKET_SIZE)
                inbox = trip_inbox
            else:
                source = before_targets - place if place <= before_targets else place - 1
                count = consumer_ready(in_controls[source], in_locals[source], 1)
                if count <= 0:
                    continue
                size = in_locals[source][RECORD_SIZE]
                count = min(consumer_run(in_locals[source], count), params[P_BATCH])
                slot = consumer_slot(in_locals[source])
                inbox = in_slots[source][slot * size : (slot + count) * size]
            for route in range(outputs):
                count = min(count, producer_room(out_controls[route], out_locals[route], count * max_out) // max_out)
            if count <= 0:
                blocked = True
                continue
            started = session_ns(offset)
            if place == 0:
                market = trip_inbox.view(MARKET)
                market[0].kind = _TRIP if trip else _BACKLOG
                market[0].recv_ts_ns = started
                market[0].aux = word if trip else level
            if params[P_JOURNAL] != 0:
                if not _journal_batch(journal, journal_cursor, source, inbox, count, size, started, scratch, params):
                    return JOURNAL_FULL
            if place == 0:
                if trip:
                    params[P_WORD_SEEN] = word
                else:
                    params[P_BACKLOG] = level
            produced = step(state, source, inbox, count, outbox, routes)
            if source == 0 and params[P_STAMP_ALL] != 0:
                # Before what it made of them is visible: whoever takes that finds the stamps.
                _note_passed(passed, stamps, inbox, count, size, session_ns(offset))
            if produced > 0 and outputs > 0:
                _publish(
                    outbox, routes, produced, outputs, out_controls, out_locals, out_slots, bells, params, published
                )
            ended = session_ns(offset)
            record(hop, ended - started)
            if source == 0 and params[P_STAMP_ALL] == 0:
                first_id = inbox[:size].view(np.int64)[0]
                _record_since_origin(origin, stamps, first_id, out_words, produced, params[P_OUT_SIZE], ended)
            elif source == 0:
                # The first word of every record is the ingest id that caused it.
                ingest_id = inbox[(count - 1) * size : count * size].view(np.int64)[0]
                stamp = stamps[ingest_id & stamp_mask]
                if stamp > 0:
                    record(origin, ended - stamp)
            if place > 0:
                consumer_advance(in_locals[source], count)
                if params[P_CHECKPOINT] == 0:
                    consumer_release(in_controls[source], in_locals[source])
            moved += count
            fresh += count
        if moved > 0:
            beat(control, role, session_ns(offset))
            add_progress(control, role, moved)
            continue
        if stop != 0 and not blocked:
            if fresh > 0 and params[P_CHECKPOINT] != 0:
                _checkpoint(
                    state, arena, header, inputs, outputs, in_controls, in_locals, out_locals, journal_cursor, params
                )
            return STOPPED
        beat(control, role, session_ns(offset))
        if params[P_SPIN] != 0:
            cpu_pause()
            continue
        # From here on whoever publishes, trips or asks to stop rings; what came before is looked for once more.
        seen = prepare_wait(bells, params[P_OWN_BELL])
        arrived = emergency_word(control) != word or stop_requested(control, role) != stop
        for source in range(inputs):
            if consumer_ready(in_controls[source], in_locals[source], 1) > 0:
                arrived = True
        if arrived and not blocked:
            cancel_wait(bells, params[P_OWN_BELL])
            continue
        # A full output ring is emptied by somebody who does not ring for it: look again soon.
        commit_wait(bells, params[P_OWN_BELL], seen, _ROOM_RETRY_NS if blocked else _IDLE_WAIT_NS)
