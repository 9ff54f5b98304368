"""A ring in a segment of its own, for Python: adapters, tools and tests. shm/ring_kernels.py has the kernels.

Payload: the control words, then the slots. A Ring object takes the producer's side at its first claim or push
and the consumer's at its first read; who may do so in which process is the caller's business (one of each).
"""

from __future__ import annotations

import numpy as np

from shm import ring_kernels as kernels
from shm.segment import Segment, layout_hash

CONTROL_BYTES = kernels.CONTROL_WORDS * 8


class RingError(Exception):
    """A ring was asked for more than it can do."""


def ring_bytes(record_size: int, capacity: int) -> int:
    """Payload bytes of a ring's segment."""
    return CONTROL_BYTES + record_size * capacity


class Ring:
    """One mapped ring.

    control  int64[CONTROL_WORDS], shared    slots    uint8[capacity * record_size], shared
    records  the same slots as records
    """

    def __init__(self, segment: Segment, dtype: np.dtype, capacity: int) -> None:
        self.segment = segment
        self.dtype = dtype
        self.capacity = capacity
        self.record_size = dtype.itemsize
        self.control = segment.array(np.int64, 0, kernels.CONTROL_WORDS)
        self.slots = segment.array(np.uint8, CONTROL_BYTES, capacity * dtype.itemsize)
        self.records = segment.array(dtype, CONTROL_BYTES, capacity)
        self._producer: np.ndarray | None = None
        self._consumer: np.ndarray | None = None

    @classmethod
    def create(
        cls,
        name: str,
        dtype: np.dtype,
        capacity: int,
        *,
        instance: str,
        kernel_digest: str,
        epoch: int = 0,
        prefault: bool = False,
    ) -> Ring:
        """Make an empty ring of `capacity` slots, a power of two. Raises RingError or SegmentError."""
        if capacity < 1 or capacity & (capacity - 1):
            raise RingError(f"ring {name}: capacity {capacity} is not a power of two")
        segment = Segment.create(
            name,
            ring_bytes(dtype.itemsize, capacity),
            layout_hash=layout_hash(dtype, capacity),
            record_size=dtype.itemsize,
            capacity=capacity,
            instance=instance,
            kernel_digest=kernel_digest,
            epoch=epoch,
            prefault=prefault,
        )
        return cls(segment, dtype, capacity)

    @classmethod
    def attach(
        cls,
        name: str,
        dtype: np.dtype,
        capacity: int,
        *,
        instance: str,
        kernel_digest: str | None,
        epoch: int | None = None,
        read_only: bool = False,
        prefault: bool = False,
    ) -> Ring:
        """Map an existing ring; raises SegmentError unless it was made with the same dtype and capacity."""
        segment = Segment.attach(
            name,
            instance=instance,
            layout_hash=layout_hash(dtype, capacity),
            record_size=dtype.itemsize,
            capacity=capacity,
            kernel_digest=kernel_digest,
            epoch=epoch,
            read_only=read_only,
            prefault=prefault,
        )
        return cls(segment, dtype, capacity)

    # --- counters, for anybody ---

    @property
    def produced(self) -> int:
        """Records published so far."""
        return int(kernels.ring_produced(self.control))

    @property
    def consumed(self) -> int:
        """Records released so far."""
        return int(kernels.ring_consumed(self.control))

    @property
    def dropped(self) -> int:
        """Records that the producer refused for want of room."""
        return int(kernels.ring_dropped(self.control))

    @property
    def in_flight(self) -> int:
        """Published and not released. Consumed is read first, so the answer is never negative."""
        consumed = self.consumed
        return self.produced - consumed

    # --- producer ---

    @property
    def producer(self) -> np.ndarray:
        """The producer's private words, for kernels; made at the first use, from the shared cursors."""
        if self._producer is None:
            self._check_writable()
            self._producer = kernels.new_local(self.control, self.capacity, self.record_size, producer=True)
        return self._producer

    def room(self) -> int:
        """Free slots."""
        return self._plausible(int(kernels.producer_room(self.control, self.producer, self.capacity)))

    def push(self, records: np.ndarray) -> int:
        """Copy and publish as many of the records as there is room for; returns how many."""
        if records.dtype != self.dtype:
            raise RingError(f"{self.segment.full_name}: records of {records.dtype}, expected {self.dtype}")
        linear = np.ascontiguousarray(records).reshape(-1)
        source = linear.view(np.uint8)
        count = kernels.push_records(self.control, self.producer, self.slots, source, 0, len(linear))
        return self._plausible(int(count))

    def drop(self, count: int) -> None:
        """Count records that were not pushed."""
        kernels.producer_drop(self.control, count)

    def claim(self, count: int) -> np.ndarray:
        """A view of the next slots to fill: `count`, or fewer (even none) where the ring is full or wraps."""
        run = int(kernels.producer_run(self.producer, min(count, self.room())))
        kernels.producer_claim(self.control, self.producer, run)
        slot = int(kernels.producer_slot(self.producer))
        return self.records[slot : slot + run]

    def publish(self, count: int) -> None:
        """Make the first `count` claimed records visible. Raises RingError for more than were claimed."""
        claimed = int(self.producer[kernels.CLAIMED] - self.producer[kernels.CURSOR])
        if not 0 <= count <= claimed:
            raise RingError(f"{self.segment.full_name}: publish {count} of {claimed} claimed records")
        kernels.producer_publish(self.control, self.producer, count)

    # --- consumer ---

    @property
    def consumer(self) -> np.ndarray:
        """The consumer's private words, for kernels; made at the first use, from the shared cursors."""
        if self._consumer is None:
            self._check_writable()
            self._consumer = kernels.new_local(self.control, self.capacity, self.record_size, producer=False)
        return self._consumer

    def ready(self) -> int:
        """Published records not yet read."""
        return self._plausible(int(kernels.consumer_ready(self.control, self.consumer, self.capacity)))

    def pop(self, most: int) -> np.ndarray:
        """A copy of the next records, at most `most`; their slots are released."""
        records = np.empty(min(most, self.ready()), self.dtype)
        target = records.view(np.uint8)
        kernels.pop_records(self.control, self.consumer, self.slots, target, 0, len(records))
        return records

    def readable(self, most: int | None = None) -> np.ndarray:
        """A view of the next records that lie side by side, at most `most`; valid until released."""
        ready = self.ready()
        run = int(kernels.consumer_run(self.consumer, ready if most is None else min(most, ready)))
        slot = int(kernels.consumer_slot(self.consumer))
        return self.records[slot : slot + run]

    def release(self, count: int) -> None:
        """Give the next `count` slots back. Raises RingError for more than are readable."""
        ready = self.ready()
        if not 0 <= count <= ready:
            raise RingError(f"{self.segment.full_name}: release {count} of {ready} readable records")
        kernels.consumer_advance(self.consumer, count)
        kernels.consumer_release(self.control, self.consumer)

    def _plausible(self, count: int) -> int:
        """The count, if the cursors make sense: the kernels trust it."""
        if not 0 <= count <= self.capacity:
            raise RingError(
                f"{self.segment.full_name}: {count} of {self.capacity} slots: "
                "the cursors contradict each other, as with two producers or two consumers"
            )
        return count

    def _check_writable(self) -> None:
        if self.segment.read_only:
            raise RingError(f"{self.segment.full_name}: mapped read-only, so neither side can be taken")

    # --- lifetime ---

    def close(self) -> None:
        """Let go of the segment and the views of it; those handed out keep the mapping while they live."""
        for view in ("control", "slots", "records"):
            vars(self).pop(view, None)
        self.segment.close()

    def unlink(self) -> None:
        """Remove the segment's name."""
        self.segment.unlink()
