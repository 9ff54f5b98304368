"""Followers: any number of observers of a ring, at no risk to its two sides.

Purpose: monitoring, recording and the console see every record without being a consumer: nobody waits for
them, they come and go at will, and one that is too slow loses records and knows how many.

Layout: the ring's own `control` and `slots`, mapped PROT_READ. `local` is int64[::1] of LOCAL_WORDS in private
memory (new_follower()): CURSOR, MASK and RECORD_SIZE as in shm.ring_kernels, and LAPPED, the records that were
overwritten before they could be copied.

Ordering: HEAD with load-acquire before a slot is copied; a look at CLAIM then skips what is surely gone. After the
copy fence acquire, then a load of CLAIM, which decides.
The producer stores CLAIM, then fence release, then writes the slot: whoever has copied a byte of the new record
also sees the new CLAIM. So the copy of record c is whole if CLAIM <= c + capacity; else it is thrown away.

Invariants: CURSOR = where the follower started + records returned + LAPPED, always. CURSOR <= HEAD. Nothing is
returned twice, out of order, or torn. No word of the segment is written.

Cost: to the follower some 4 ns a record singly, about 1 ns in batches; to the producer the cache lines of its cursors,
which a polling follower fetches from it.
Limits: a record claimed by a producer that died counts as overwritten, whether a byte of it was written or not.
Read in batches that are small against the ring: what the producer claims during a copy is lost from its front.

Source: the claim word before the write, checked after the copy, is that of a sequence lock; a cursor instead of
a lock word as in the broadcast buffers of Thompson, "Agrona" (2014).
"""

from __future__ import annotations

import numpy as np

from shm.atomics import fence_acquire, inlined, load_acquire, load_relaxed
from shm.memory import move_bytes
from shm.ring import Ring, RingError
from shm.ring_kernels import CLAIM, CURSOR, HEAD, LOCAL_WORDS, MASK, RECORD_SIZE, consumer_read

LAPPED = 5  # index into local, after those of shm.ring_kernels


def new_follower(control: np.ndarray, capacity: int, record_size: int, *, oldest: bool) -> np.ndarray:
    """The private words of a follower that starts at the oldest record still there, or at the next to come."""
    head = load_acquire(control, HEAD)
    local = np.zeros(LOCAL_WORDS, np.int64)
    local[CURSOR] = min(max(0, load_acquire(control, CLAIM) - capacity), head) if oldest else head
    local[MASK] = capacity - 1
    local[RECORD_SIZE] = record_size
    return local


@inlined
def follower_behind(control: np.ndarray, local: np.ndarray) -> int:
    """Published records that the follower has neither read nor lost; more than the capacity once lapped."""
    return load_acquire(control, HEAD) - local[CURSOR]


@inlined
def follower_read(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, target: np.ndarray, first: int, most: int
) -> int:
    """Copy the next records, at most `most`, to target[first:]; returns how many, all of them whole.

    control and slots may be read-only arrays; target is uint8[::1] with room for `most` records and may hold
    rubbish beyond those returned. 0 means that there was nothing, or that all of it was overwritten meanwhile
    (LAPPED says so); -1 that the ring's cursors went backwards: then nothing is read.
    """
    capacity = local[MASK] + 1
    head = load_acquire(control, HEAD)
    if head < local[CURSOR]:
        return -1
    # CLAIM is younger than HEAD here, and may be seen before it: the oldest record may lie beyond this head.
    oldest = min(load_relaxed(control, CLAIM) - capacity, head)
    if local[CURSOR] < oldest:
        local[LAPPED] += oldest - local[CURSOR]
        local[CURSOR] = oldest
    count = min(head - local[CURSOR], most, capacity)
    if count <= 0:
        return 0
    consumer_read(local, slots, 0, target, first, count)
    fence_acquire()
    overwritten = load_relaxed(control, CLAIM) - capacity - local[CURSOR]
    lost = min(max(overwritten, 0), count)
    local[CURSOR] += count
    local[LAPPED] += lost
    if lost > 0:  # the lost ones lie in front
        size = local[RECORD_SIZE]
        move_bytes(target, first * size, (first + lost) * size, (count - lost) * size)
    return count - lost


class Follower:
    """One observer of a ring, for Python. Needs no more than a read-only mapping and never writes."""

    def __init__(self, ring: Ring, *, oldest: bool = False) -> None:
        self.ring = ring
        self.local = new_follower(ring.control, ring.capacity, ring.record_size, oldest=oldest)
        self.started_at = int(self.local[CURSOR])

    @classmethod
    def attach(
        cls,
        name: str,
        dtype: np.dtype,
        capacity: int,
        *,
        instance: str,
        kernel_digest: str | None,
        oldest: bool = False,
    ) -> Follower:
        """Map an existing ring with PROT_READ and follow it, from the oldest record still there or from now on.

        Raises SegmentError unless the ring was made with the same dtype and capacity; kernel_digest None accepts any.
        """
        ring = Ring.attach(name, dtype, capacity, instance=instance, kernel_digest=kernel_digest, read_only=True)
        return cls(ring, oldest=oldest)

    def resume(self, cursor: int, lapped: int) -> None:
        """Go on where an earlier follower stood, with its count; what was overwritten since counts as lapped here."""
        self.local[CURSOR], self.local[LAPPED] = cursor, lapped

    @property
    def cursor(self) -> int:
        """The record to be read next, counted from the ring's first; started_at + records read + lapped."""
        return int(self.local[CURSOR])

    @property
    def lapped(self) -> int:
        """Records overwritten before this follower had copied them, since it started."""
        return int(self.local[LAPPED])

    @property
    def behind(self) -> int:
        """Published records neither read nor counted as lapped yet."""
        return int(follower_behind(self.ring.control, self.local))

    def read(self, most: int) -> np.ndarray:
        """A copy of the next records, at most `most`. Raises RingError if the ring's cursors went backwards.

        Empty if there are none, or if the producer overwrote all of them during the copy: see `lapped`.
        """
        ring = self.ring
        records = np.empty(max(0, min(most, self.behind, ring.capacity)), ring.dtype)
        count = int(follower_read(ring.control, self.local, ring.slots, records.view(np.uint8), 0, len(records)))
        if count < 0:
            raise RingError(f"{ring.segment.full_name}: its cursors lie before record {self.cursor}, which was read")
        return records[:count]

    def close(self) -> None:
        """Let go of the ring's mapping."""
        self.ring.close()
