"""Records between two processes, every bit of them checked: the proof that a ring loses, repeats and tears nothing.

A record is eight int64 words: its sequence, six words of noise that follow from it, and the exclusive or of the seven.
Producer and consumer take turns between copying and working in place, in batches of varying size, and sleep on
doorbells when there is nothing to do.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.stage import BYTES
from shm.clock import monotonic_ns, python_monotonic_ns
from shm.doorbell import cancel_wait, commit_wait, prepare_wait, ring_bell
from shm.ring import Ring
from shm.ring_kernels import (
    CURSOR,
    MASK,
    consumer_advance,
    consumer_read,
    consumer_ready,
    consumer_release,
    consumer_run,
    consumer_slot,
    producer_claim,
    producer_publish,
    producer_room,
    producer_run,
    producer_slot,
    producer_write,
)
from shm.segment import Segment, layout_hash
from tools.soak.forks import Fork
from tools.soak.tally import Piece

DIGEST = "5a" * 32  # the memory is the exchange's own: any will do
RECORD = np.dtype([("sequence", "<i8"), ("words", "<i8", (6,)), ("check", "<i8")], align=True)
_WORDS = 8
_LARGEST_BATCH = 128
_WAIT_NS = 10_000_000
_INT64S = types.Array(types.int64, 1, "C")
_INT32S = types.Array(types.int32, 1, "C")
# The bells of the two ends, as places in the array that they share.
_CONSUMER_BELL = 0
_PRODUCER_BELL = 2


@kernel()
def mix(x: int) -> int:
    """A 64-bit number in which every bit depends on x (splitmix64's finaliser)."""
    z = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(z ^ (z >> np.uint64(31)))  # type: ignore[return-value]


@kernel()
def fill(words: np.ndarray, at: int, sequence: int) -> None:
    """Write the record of a sequence number at a word."""
    words[at] = sequence
    check = sequence
    for k in range(1, 7):
        words[at + k] = mix(sequence * 8 + k)
        check ^= words[at + k]
    words[at + 7] = check


@kernel()
def intact(words: np.ndarray, at: int, sequence: int) -> bool:
    """Whether the record of a sequence number stands at a word, every bit of it."""
    if words[at] != sequence:
        return False
    check = sequence
    for k in range(1, 7):
        if words[at + k] != mix(sequence * 8 + k):
            return False
        check ^= words[at + k]
    return bool(words[at + 7] == check)


@kernel(
    types.int64(
        _INT64S, _INT64S, BYTES, _INT64S, _INT32S, BYTES, _INT64S, types.int64, types.int64, types.int64
    )
)
def produce(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, slot_words: np.ndarray, bells: np.ndarray,
    scratch: np.ndarray, scratch_words: np.ndarray, total: int, corrupt: int, deadline_ns: int,
) -> int:
    """Publish `total` records; 0 when done, 1 when time was up. corrupt: flip a bit in this one, -1 in none."""
    done = 0
    while done < total:
        batch = min(1 + mix(done) % 64 + 63, total - done)
        if producer_room(control, local, batch) < batch:
            if monotonic_ns() > deadline_ns:
                return 1
            seen = prepare_wait(bells, _PRODUCER_BELL)
            if producer_room(control, local, batch) < batch:
                commit_wait(bells, _PRODUCER_BELL, seen, _WAIT_NS)
            else:
                cancel_wait(bells, _PRODUCER_BELL)
            continue
        producer_claim(control, local, batch)
        if batch % 2:
            for k in range(batch):
                fill(scratch_words, _WORDS * k, done + k)
            producer_write(local, slots, 0, scratch, 0, batch)
        else:
            batch = producer_run(local, batch)
            first = producer_slot(local)
            for k in range(batch):
                fill(slot_words, _WORDS * (first + k), done + k)
        if done <= corrupt < done + batch:
            slot_words[_WORDS * ((local[CURSOR] + corrupt - done) & local[MASK]) + 3] ^= 1 << 40
        producer_publish(control, local, batch)
        ring_bell(bells, _CONSUMER_BELL)
        done += batch
    return 0


@kernel(types.int64(_INT64S, _INT64S, BYTES, _INT64S, _INT32S, BYTES, _INT64S, types.int64, types.int64))
def consume(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, slot_words: np.ndarray, bells: np.ndarray,
    scratch: np.ndarray, scratch_words: np.ndarray, total: int, deadline_ns: int,
) -> int:
    """Check `total` records; how many were bad, -1 when time was up."""
    done = 0
    bad = 0
    while done < total:
        ready = consumer_ready(control, local, 1)
        if ready == 0:
            if monotonic_ns() > deadline_ns:
                return -1
            seen = prepare_wait(bells, _CONSUMER_BELL)
            if consumer_ready(control, local, 1) == 0:
                commit_wait(bells, _CONSUMER_BELL, seen, _WAIT_NS)
            else:
                cancel_wait(bells, _CONSUMER_BELL)
            continue
        batch = min(ready, _LARGEST_BATCH)
        if done % 2:
            consumer_read(local, slots, 0, scratch, 0, batch)
            for k in range(batch):
                bad += not intact(scratch_words, _WORDS * k, done + k)
        else:
            batch = consumer_run(local, batch)
            first = consumer_slot(local)
            for k in range(batch):
                bad += not intact(slot_words, _WORDS * (first + k), done + k)
        consumer_advance(local, batch)
        consumer_release(control, local)
        ring_bell(bells, _PRODUCER_BELL)
        done += batch
    return bad


def exchange(
    instance: str, total: int, corrupt: int = -1, capacity: int = 1024, seconds: float = 40.0
) -> tuple[int, int]:
    """Run both ends in two processes: (the producer's exit status, bad records or -1 when time was up).

    Raises ValueError when the ring's cursors do not say the same.
    """
    ring = Ring.create("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST)
    bell_segment = Segment.create(
        "bells", 64, layout_hash=layout_hash(np.dtype(np.int32), 16), record_size=4, capacity=16,
        instance=instance, kernel_digest=DIGEST,
    )  # fmt: skip
    bells = bell_segment.array(np.int32, 0, 16)
    scratch = np.zeros(_LARGEST_BATCH * RECORD.itemsize, np.uint8)
    words = scratch.view(np.int64)
    deadline_ns = python_monotonic_ns() + int(seconds * 1e9)

    def run_producer() -> int:
        mine = Ring.attach("market", RECORD, capacity, instance=instance, kernel_digest=DIGEST)
        return int(
            produce(
                mine.control, mine.producer, mine.slots, mine.slots.view(np.int64), bells, scratch, words, total,
                corrupt, deadline_ns,
            )
        )

    try:
        child = Fork(run_producer)
        bad = consume(
            ring.control, ring.consumer, ring.slots, ring.slots.view(np.int64), bells, scratch, words, total,
            deadline_ns,
        )
        status = child.join(seconds + 10)
        if bad >= 0 and (ring.produced, ring.consumed, ring.in_flight) != (total, total, 0):
            raise ValueError(f"{total} records exchanged; the cursors say {ring.produced} and {ring.consumed}")
    finally:
        ring.unlink()
        bell_segment.unlink()
    return status, int(bad)


RECORDS = 100_000_000
_SECONDS = 900.0


def run_rings(piece: Piece) -> None:
    """10^8 records between two processes, through a ring whose size the seed says."""
    capacity = 1 << (8 + piece.seed % 10)
    instance = f"soak-rings-{piece.seed}"
    began = python_monotonic_ns()
    status, bad = exchange(instance, RECORDS, capacity=capacity, seconds=_SECONDS)
    seconds = (python_monotonic_ns() - began) / 1e9
    piece.hold(bad != -1 and status == 0, f"ring of {capacity}: no end after {_SECONDS:.0f} s")
    piece.hold(bad <= 0, f"ring of {capacity}: {bad} records were not the ones that were written")
    piece.count("records", RECORDS)
    piece.note(f"{RECORDS:,} records through a ring of {capacity} in {seconds:.1f} s")
