"""The two ends of a ring for adapters: processes whose body is Python (decoding, inference, gateway).

The runner of an adapter is: kernel drain, call, kernel publish. The kernels here are cached entry points, so that
a spawned process compiles nothing at its start.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from numba import types

from engine.direct import direct
from engine.kernel import kernel
from engine.stage import BYTES, as_bytes
from procs.attach import lock_path
from procs.instance import Mapping, ProcessContext
from procs.journal.layout import Entry
from procs.journal.writer import JournalFull, JournalWriter
from procs.pump import INT32S, INT64S
from shm.control import TripSource, add_progress, beat, stop_requested
from shm.doorbell import cancel_wait, commit_wait, prepare_wait, ring_bell
from shm.histogram import record
from shm.lease import Lease
from shm.ring_kernels import (
    CURSOR,
    consumer_advance,
    consumer_read,
    consumer_ready,
    consumer_release,
    producer_claim,
    producer_publish,
    producer_room,
    producer_write,
)


@kernel(types.int64(INT64S, INT64S, BYTES, BYTES, types.int64))
def _take(control: np.ndarray, local: np.ndarray, slots: np.ndarray, inbox: np.ndarray, most: int) -> int:
    count = min(consumer_ready(control, local, 1), most)
    if count > 0:
        consumer_read(local, slots, 0, inbox, 0, count)
        consumer_advance(local, count)
    return count


@kernel(types.void(INT64S, INT64S))
def _release(control: np.ndarray, local: np.ndarray) -> None:
    consumer_release(control, local)


@kernel(types.int64(INT64S, INT64S, BYTES, BYTES, types.int64, types.int64, INT32S, types.int64))
def _give(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, outbox: np.ndarray, first: int, count: int,
    bells: np.ndarray, bell: int,
) -> int:
    given = min(count, producer_room(control, local, count))
    if given > 0:
        producer_claim(control, local, given)
        producer_write(local, slots, 0, outbox, first, given)
        producer_publish(control, local, given)
        ring_bell(bells, bell)
    return given


@kernel(types.boolean(INT64S, INT64S, BYTES, INT32S, types.int64, BYTES, types.int64, types.int64, types.boolean))
def offer_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, bells: np.ndarray, bell: int, outbox: np.ndarray,
    count: int, reserve: int, wake: bool,
) -> bool:
    """See `Outlet.offer`."""
    if producer_room(control, local, count + reserve) < count + reserve:
        return False
    producer_claim(control, local, count)
    producer_write(local, slots, 0, outbox, 0, count)
    producer_publish(control, local, count)
    if wake:
        ring_bell(bells, bell)
    return True


@kernel(types.int64(INT64S, INT64S, INT32S, types.int64, types.int64))
def _await(control: np.ndarray, local: np.ndarray, bells: np.ndarray, bell: int, timeout_ns: int) -> int:
    ready = consumer_ready(control, local, 1)
    if ready > 0:
        return ready
    seen = prepare_wait(bells, bell)
    ready = consumer_ready(control, local, 1)
    if ready > 0:
        cancel_wait(bells, bell)
        return ready
    commit_wait(bells, bell, seen, timeout_ns)
    return consumer_ready(control, local, 1)


@kernel(types.void(INT32S, types.int64))
def _ring(bells: np.ndarray, bell: int) -> None:
    ring_bell(bells, bell)


@kernel(types.int64(INT64S, types.int64, types.int64, types.int64))
def _turn(control: np.ndarray, role: int, now_ns: int, moved: int) -> int:
    beat(control, role, now_ns)
    if moved > 0:
        add_progress(control, role, moved)
    return stop_requested(control, role)


@kernel(types.void(INT64S, types.int64))
def _record_latency(histogram: np.ndarray, value_ns: int) -> None:
    record(histogram, value_ns)


record_latency = direct(_record_latency)  # (histogram, value in ns): count one latency, from Python


class Inlet:
    """The consuming end of a ring; `take` copies, `release` gives the slots back once the records are dealt with."""

    def __init__(self, context: ProcessContext, ring_name: str, batch: int) -> None:
        ring = context.ring(ring_name)
        self._arguments = (ring.control, ring.consumer)
        self._slots = ring.slots
        self.records = np.zeros(batch, ring.dtype)
        self._inbox = as_bytes(self.records)
        self._bell = (context.control.bells, context.bell.at)

    def wait(self, timeout_ns: int) -> int:
        """Sleep until something is there, the doorbell rings, or the time is over; returns how many are there."""
        return int(_await(*self._arguments, *self._bell, timeout_ns))

    def take(self) -> int:
        """Copy the next records into `records`; returns how many."""
        return int(_take(*self._arguments, self._slots, self._inbox, len(self.records)))

    def seek(self, cursor: int) -> None:
        """Stand at a record that is still in the ring; a successor does so once, before its first `take`."""
        self._arguments[1][CURSOR] = cursor

    @property
    def cursor(self) -> int:
        """Records taken so far, those of predecessors included."""
        return int(self._arguments[1][CURSOR])

    def release(self) -> None:
        """Give the slots of everything taken back to the producer."""
        _release(*self._arguments)


class Outlet:
    """The producing end of a ring."""

    def __init__(self, context: Mapping, ring_name: str) -> None:
        ring = context.ring(ring_name)
        self._cursors = (ring.control, ring.producer)
        self._slots = ring.slots
        self._ring = ring
        self._bell = (context.control.bells, context.consumer_bell(ring_name).at)
        self._offer = partial(direct(offer_records), *self._cursors, self._slots, *self._bell)

    def offer(self, outbox: np.ndarray, count: int, reserve: int, wake: bool = True) -> bool:
        """Publish the first `count` (at least 1) records of outbox if that leaves `reserve` free slots; False when it
        does not, and nothing is published. wake: ring the consumer too; else `ring` has to follow."""
        return bool(self._offer(outbox, count, reserve, wake))

    def ring(self) -> None:
        """Wake the consumer."""
        _ring(*self._bell)

    def give(self, outbox: np.ndarray, count: int, first: int = 0) -> int:
        """Publish outbox[first : first + count] (records as uint8[::1]) as far as there is room, and ring the
        consumer; returns how many."""
        return int(_give(*self._cursors, self._slots, outbox, first, count, *self._bell))

    @property
    def published(self) -> int:
        """Records published so far, those of predecessors included."""
        return int(self._cursors[1][CURSOR])

    def drop(self, count: int) -> None:
        """Count records that found no room."""
        self._ring.drop(count)


class EdgeJournal:
    """The journal of a process at the edge. A full disk trips the engine while there is still room for the tail."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._writer = JournalWriter(
            context.plan.path, context.role.label, context.plan.session, resume=context.successor
        )

    @property
    def ordinal(self) -> int:
        """Of the last entry written."""
        return self._writer.ordinal

    def write(self, kind: Entry, payload: bytes, ts_ns: int, source: int = 0, count: int = 1) -> bool:
        """Append an entry; False when it could not be kept, and must then not be acted upon."""
        try:
            # Not while tripped: market data flows on, and a full disk would be asked for room at every frame.
            if self._writer.offset > self._writer.prepare_at and not self._context.control.tripped:
                self._writer.prepare_next()
        except JournalFull:
            self._trip()
        try:
            self._writer.append(kind, payload, ts_ns, source, count)
            return True
        except JournalFull:
            self._trip()
            return False

    def _trip(self) -> None:
        if not self._context.control.tripped:  # again after a reset: the disk may have filled up once more
            self._context.control.trip(TripSource.STORAGE)

    def close(self) -> None:
        """Cut the last segment to its length."""
        self._writer.close()


class Turns:
    """Heartbeat, progress and the order to stop of an adapter, one call a loop turn."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._words = context.control.words
        self._role = int(context.role)  # numba looks at an enum's whole class in each call: 20 us
        self._parent = os.getppid()

    @property
    def orphaned(self) -> bool:
        """True once the supervisor is gone and no launcher is left that would start another.

        A stranger for a parent does not say so by itself: a zygote may have died, or the launcher that took this
        process over from one, while a supervisor looks after it. Who supervises holds the instance's lease.
        """
        if os.getppid() in (self._parent, self._context.plan.launcher_pid):
            return False
        return not Lease.is_held(lock_path(self._context.plan.name))

    def turn(self, moved: int) -> int:
        """Publish that the process lives and did `moved` things; returns a value of Stop."""
        return int(_turn(self._words, self._role, self._context.now_ns(), moved))


def ring_own_bell(context: ProcessContext) -> None:
    """Wake this process's own main loop, from one of its threads."""
    _ring(context.control.bells, context.bell.at)
