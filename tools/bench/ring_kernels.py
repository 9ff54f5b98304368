"""The two ends of the ring benchmarks, as kernels on the ring's own: nothing here that a stage could not do.

A record is eight int64 words, the cursor plus 0 to 7; both ends add up all words (wrapping), and the reader counts
records that are not the next one. Kernels give up after SPINS turns in which nothing moved: the other end is gone.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.stage import BYTES
from shm.atomics import cpu_pause
from shm.clock import monotonic_ns
from shm.ring_kernels import (
    consumer_advance,
    consumer_ready,
    consumer_release,
    consumer_run,
    consumer_slot,
    producer_claim,
    producer_publish,
    producer_room,
    producer_run,
    producer_slot,
)

WORDS = 8
RECORD_BYTES = 64
SPINS = 50_000_000
# A reader that found nothing pauses so often before it looks again: looking takes the head's cache line away from the
# writer, and with it most of the rate. Round trips look after every pause.
PAUSES = 64

# What a reader answers: int64[ANSWER_WORDS].
SUM = 0
WRONG = 1  # records that were not the next one
END_NS = 2  # monotonic time after the last record
ANSWER_WORDS = 8

INT64S = types.Array(types.int64, 1, "C")


@kernel(types.int64(INT64S, INT64S, BYTES, types.int64))
def write_singly(control: np.ndarray, local: np.ndarray, slots: np.ndarray, count: int) -> int:
    """Write `count` records, each published by itself. Returns the sum of all words, -1 when nobody reads."""
    words = slots.view(np.int64)
    total = np.int64(0)
    for cursor in range(count):
        spins = 0
        while producer_room(control, local, 1) < 1:
            cpu_pause()
            spins += 1
            if spins > SPINS:
                return -1
        producer_claim(control, local, 1)
        at = np.uint64(producer_slot(local)) * np.uint64(WORDS)
        for word in range(WORDS):
            words[at + np.uint64(word)] = cursor + word
            total += cursor + word
        producer_publish(control, local, 1)
    return int(total)


@kernel(types.int64(INT64S, INT64S, BYTES, types.int64, types.int64))
def write_records(control: np.ndarray, local: np.ndarray, slots: np.ndarray, count: int, batch: int) -> int:
    """Write `count` records, published `batch` at a time. Returns the sum of all words, -1 when nobody reads."""
    words = slots.view(np.int64)
    total = np.int64(0)
    written = np.int64(0)
    while written < count:
        wanted = min(batch, count - written)
        spins = 0
        while producer_room(control, local, wanted) < wanted:
            cpu_pause()
            spins += 1
            if spins > SPINS:
                return -1
        run = producer_run(local, wanted)
        producer_claim(control, local, run)
        at = producer_slot(local) * WORDS
        for cursor in range(written, written + run):
            for word in range(WORDS):
                words[at + word] = cursor + word
                total += cursor + word
            at += WORDS
        producer_publish(control, local, run)
        written += run
    return int(total)


@kernel(types.boolean(INT64S, INT64S, BYTES, types.int64, types.int64, INT64S))
def read_records(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, count: int, batch: int, answer: np.ndarray
) -> bool:
    """Read `count` records, released at most `batch` at a time, into an answer. False when nobody writes."""
    words = slots.view(np.int64)
    total = np.int64(0)
    wrong = np.int64(0)
    seen = np.int64(0)
    spins = 0
    while seen < count:
        ready = consumer_ready(control, local, 1)
        if ready <= 0:
            for _ in range(PAUSES):
                cpu_pause()
            spins += 1
            if spins > SPINS:
                return False
            continue
        spins = 0
        run = min(consumer_run(local, ready), batch)
        at = consumer_slot(local) * WORDS
        records = words[at : at + run * WORDS]
        for index in range(run):
            if records[index * WORDS] != seen + index:
                wrong += 1
        for index in range(run * WORDS):
            total += records[index]
        consumer_advance(local, run)
        consumer_release(control, local)
        seen += run
    answer[SUM] = total
    answer[WRONG] = wrong
    answer[END_NS] = monotonic_ns()
    return True


@kernel()
def _send_one(control: np.ndarray, local: np.ndarray, words: np.ndarray, cursor: int) -> bool:
    """Write one record in full; False when there is no room for it."""
    if producer_room(control, local, 1) < 1:
        return False
    producer_claim(control, local, 1)
    at = producer_slot(local) * WORDS
    for word in range(WORDS):
        words[at + word] = cursor + word
    producer_publish(control, local, 1)
    return True


@kernel()
def _take_one(control: np.ndarray, local: np.ndarray, words: np.ndarray) -> int:
    """Wait for one record and read it in full; the sum of its words, -1 when none comes."""
    spins = 0
    while consumer_ready(control, local, 1) < 1:
        cpu_pause()
        spins += 1
        if spins > SPINS:
            return -1
    at = consumer_slot(local) * WORDS
    total = np.int64(0)
    for word in range(WORDS):
        total += words[at + word]
    consumer_advance(local, 1)
    consumer_release(control, local)
    return int(total)


@kernel(types.int64(INT64S, INT64S, BYTES, INT64S, INT64S, BYTES, INT64S))
def send_and_wait(
    out_control: np.ndarray, out_local: np.ndarray, out_slots: np.ndarray, in_control: np.ndarray,
    in_local: np.ndarray, in_slots: np.ndarray, samples: np.ndarray,
) -> int:
    """Send a record and wait for its answer, once a sample; writes the times in ns. Returns how many came right."""
    outgoing = out_slots.view(np.int64)
    incoming = in_slots.view(np.int64)
    right = 0
    for cursor in range(len(samples)):
        started = monotonic_ns()
        if not _send_one(out_control, out_local, outgoing, cursor):
            return right
        total = _take_one(in_control, in_local, incoming)
        samples[cursor] = monotonic_ns() - started
        if total < 0:
            return right
        right += 1 if total == WORDS * cursor + WORDS * (WORDS - 1) // 2 else 0
    return right


@kernel(types.boolean(INT64S, INT64S, BYTES, INT64S, INT64S, BYTES, types.int64))
def answer_each(
    in_control: np.ndarray, in_local: np.ndarray, in_slots: np.ndarray, out_control: np.ndarray,
    out_local: np.ndarray, out_slots: np.ndarray, count: int,
) -> bool:
    """The other end of send_and_wait: `count` answers. False when nobody asks."""
    incoming = in_slots.view(np.int64)
    outgoing = out_slots.view(np.int64)
    for cursor in range(count):
        if _take_one(in_control, in_local, incoming) < 0:
            return False
        if not _send_one(out_control, out_local, outgoing, cursor):
            return False
    return True
