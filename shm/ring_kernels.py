"""Single-producer single-consumer ring of fixed slots: the kernels.

Purpose: hand records from one process to the next without a lock, a copy or a system call. `shm.ring` wraps
the same functions for Python.

Layout: `control` is int64[::1] of CONTROL_WORDS in shared memory, one cursor per 128 bytes (two cache lines:
processors fetch them in pairs). `slots` is uint8[::1] of capacity * record_size bytes; capacity is a power of
two. Cursors count records from 0 for ever and never wrap; the record with cursor c lies in slot
c & (capacity - 1).
  HEAD     records published              written by the producer
  CLAIM    records begun, >= HEAD         written by the producer, before it overwrites a slot
  TAIL     records released               written by the consumer
  DROPPED  records refused for want of room, counted by the producer
`local` is int64[::1] of LOCAL_WORDS in private memory of one side (new_local()):
  CURSOR   the next record to write or to read: the consumer may read ahead of TAIL and release later
  LIMIT    the other side's cursor when last looked at
  CLAIMED  the largest CLAIM so far (producer)
  MASK, RECORD_SIZE   the geometry

Ordering:
  HEAD     store-release after the slots are written; load-acquire before they are read
  TAIL     store-release after the slots are read; load-acquire before they are overwritten
  CLAIM    relaxed store, then fence release, then the slots. An observer copies a slot, then fence acquire,
           then loads CLAIM: its copy of record c is whole if CLAIM <= c + capacity
  A side reads its own cursors from `local`, and the other's only when LIMIT does not promise enough.

Invariants: TAIL <= consumer's CURSOR <= HEAD <= CLAIM <= TAIL + capacity. A producer killed between claim and
publish leaves nothing visible. The doorbell is rung by the caller, after publishing.

Limits: callers keep their counts within what producer_room and consumer_ready said; nothing is checked here.
Cost: see tests and `bot4 bench`; some ns a record singly, below one in batches.

Source: Lamport, "Proving the Correctness of Multiprocess Programs" (1977); cursor caching after Lee, Bu and
Chandranmenon, "A Lock-Free, Cache-Efficient Shared Ring Buffer" (2010).
"""

from __future__ import annotations

import numpy as np

from shm.atomics import fence_release, inlined, load_acquire, load_relaxed, store_relaxed, store_release
from shm.memory import copy_bytes

# Indexes into control.
HEAD = 0
CLAIM = 16
TAIL = 32
DROPPED = 48
CONTROL_WORDS = 64

# Indexes into local.
CURSOR = 0
LIMIT = 1
CLAIMED = 2
MASK = 3
RECORD_SIZE = 4
LOCAL_WORDS = 8


def new_local(control: np.ndarray, capacity: int, record_size: int, *, producer: bool) -> np.ndarray:
    """The private words of one side, taking up where the shared cursors stand."""
    if capacity < 1 or capacity & (capacity - 1):
        raise ValueError(f"capacity {capacity}: a power of two is needed")
    local = np.zeros(LOCAL_WORDS, np.int64)
    local[CURSOR] = load_acquire(control, HEAD if producer else TAIL)
    local[LIMIT] = load_acquire(control, TAIL if producer else HEAD)
    local[CLAIMED] = load_acquire(control, CLAIM)
    local[MASK] = capacity - 1
    local[RECORD_SIZE] = record_size
    return local


# --- producer ------------------------------------------------------------------------------------------


@inlined
def producer_room(control: np.ndarray, local: np.ndarray, wanted: int) -> int:
    """Free slots: at least `wanted` if there are as many, else all."""
    capacity = local[MASK] + 1
    room = capacity - (local[CURSOR] - local[LIMIT])
    if room < wanted:
        local[LIMIT] = load_acquire(control, TAIL)
        room = capacity - (local[CURSOR] - local[LIMIT])
    return room


@inlined
def producer_claim(control: np.ndarray, local: np.ndarray, count: int) -> None:
    """Announce that the next `count` slots are about to be overwritten; needed before writing them."""
    end = local[CURSOR] + count
    if end > local[CLAIMED]:
        local[CLAIMED] = end
        store_relaxed(control, CLAIM, end)
        fence_release()


@inlined
def producer_slot(local: np.ndarray) -> int:
    """The slot that the next record goes to."""
    return local[CURSOR] & local[MASK]


@inlined
def producer_run(local: np.ndarray, count: int) -> int:
    """How many of the next `count` slots lie side by side, from producer_slot on."""
    return min(count, local[MASK] + 1 - (local[CURSOR] & local[MASK]))


@inlined
def producer_write(
    local: np.ndarray, slots: np.ndarray, position: int, source: np.ndarray, first: int, count: int
) -> None:
    """Copy records source[first : first + count] to the claimed slots from `position` on, wrapping.

    position counts records from the producer's cursor; source is a linear uint8[::1] of whole records.
    """
    size = local[RECORD_SIZE]
    slot = (local[CURSOR] + position) & local[MASK]
    run = min(count, local[MASK] + 1 - slot)
    copy_bytes(slots, slot * size, source, first * size, run * size)
    if run < count:
        copy_bytes(slots, 0, source, (first + run) * size, (count - run) * size)


@inlined
def producer_publish(control: np.ndarray, local: np.ndarray, count: int) -> None:
    """Make the next `count` records visible; ring the consumer's doorbell afterwards."""
    head = local[CURSOR] + count
    local[CURSOR] = head
    store_release(control, HEAD, head)


@inlined
def push_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, source: np.ndarray, first: int, count: int
) -> int:
    """Copy and publish source[first : first + count] as far as there is room; returns how many records.

    -1 if the cursors contradict each other (two producers, two consumers): then nothing is written.
    """
    room = producer_room(control, local, count)
    if room < 0 or room > local[MASK] + 1:
        return -1
    taken = min(room, count)
    if taken > 0:
        producer_claim(control, local, taken)
        producer_write(local, slots, 0, source, first, taken)
        producer_publish(control, local, taken)
    return taken


@inlined
def producer_drop(control: np.ndarray, count: int) -> None:
    """Count records that were not put into the ring."""
    store_release(control, DROPPED, load_relaxed(control, DROPPED) + count)


# --- consumer ------------------------------------------------------------------------------------------


@inlined
def consumer_ready(control: np.ndarray, local: np.ndarray, wanted: int) -> int:
    """Published records not yet read: at least `wanted` if there are as many, else all."""
    ready = local[LIMIT] - local[CURSOR]
    if ready < wanted:
        local[LIMIT] = load_acquire(control, HEAD)
        ready = local[LIMIT] - local[CURSOR]
    return ready


@inlined
def consumer_slot(local: np.ndarray) -> int:
    """The slot of the next record to read."""
    return local[CURSOR] & local[MASK]


@inlined
def consumer_run(local: np.ndarray, count: int) -> int:
    """How many of the next `count` records lie side by side, from consumer_slot on."""
    return min(count, local[MASK] + 1 - (local[CURSOR] & local[MASK]))


@inlined
def consumer_read(
    local: np.ndarray, slots: np.ndarray, position: int, target: np.ndarray, first: int, count: int
) -> None:
    """Copy `count` records from `position` on, counted from the cursor, to target[first : first + count]."""
    size = local[RECORD_SIZE]
    slot = (local[CURSOR] + position) & local[MASK]
    run = min(count, local[MASK] + 1 - slot)
    copy_bytes(target, first * size, slots, slot * size, run * size)
    if run < count:
        copy_bytes(target, (first + run) * size, slots, 0, (count - run) * size)


@inlined
def consumer_advance(local: np.ndarray, count: int) -> None:
    """Move the private cursor past `count` records; their slots stay until released."""
    local[CURSOR] += count


@inlined
def consumer_release(control: np.ndarray, local: np.ndarray) -> None:
    """Give all slots before the private cursor back to the producer."""
    store_release(control, TAIL, local[CURSOR])


@inlined
def consumer_release_to(control: np.ndarray, cursor: int) -> None:
    """Give all slots before `cursor` back: the last checkpoint of a stage that may have to read again."""
    store_release(control, TAIL, cursor)


@inlined
def pop_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, target: np.ndarray, first: int, most: int
) -> int:
    """Copy the next records, at most `most`, to target[first:] and release them; returns how many.

    -1 if the cursors contradict each other: then nothing is read.
    """
    ready = consumer_ready(control, local, most)
    if ready < 0 or ready > local[MASK] + 1:
        return -1
    taken = min(ready, most)
    if taken > 0:
        consumer_read(local, slots, 0, target, first, taken)
        consumer_advance(local, taken)
        consumer_release(control, local)
    return taken


# --- anybody -------------------------------------------------------------------------------------------


@inlined
def ring_produced(control: np.ndarray) -> int:
    """Records published since the ring was made."""
    return load_acquire(control, HEAD)


@inlined
def ring_consumed(control: np.ndarray) -> int:
    """Records released since the ring was made. Read it before ring_produced when comparing the two."""
    return load_acquire(control, TAIL)


@inlined
def ring_dropped(control: np.ndarray) -> int:
    """Records that the producer refused."""
    return load_acquire(control, DROPPED)
