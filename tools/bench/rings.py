"""`bench rings`: 64-byte records between two pinned processes, ours beside the Disruptor and Python's queues.

Both ends add up every word of every record, the sums must agree, and the reader may take as many as there are. One
pass of each contender after the other, PAIRS times; a ratio is the median over the pairs. A pass is the best of
ATTEMPTS, for us and for the Disruptor alike: on shared cores one preemption is longer than a whole attempt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from shm.clock import python_monotonic_ns
from shm.ring import Ring
from shm.segment import unlink_all
from tools.bench.disruptor import Disruptor
from tools.bench.machine import on_core, two_cores
from tools.bench.pairs import OtherEnd
from tools.bench.python_queues import BATCH, QUEUES, Queue, measure
from tools.bench.report import PAIRS, BenchError, Ratio, Report, median_ratio, rate, times
from tools.bench.ring_kernels import (
    END_NS,
    SUM,
    WORDS,
    WRONG,
    answer_each,
    read_records,
    send_and_wait,
    write_records,
    write_singly,
)

CAPACITY = 1 << 16  # slots, ours and the Disruptor's
ATTEMPTS = 5
UNIT = "records/s"
PAGE = 4096
RECORD = np.dtype([("words", "<i8", (WORDS,))])
_DISRUPTOR_GATE, _DISRUPTOR_GOAL, _QUEUE_GATE = 0.8, 1.5, 10.0
_ROUND_TRIP_GOAL_NS = 150


@contextmanager
def a_ring(name: str, capacity: int) -> Iterator[Ring]:
    """An empty ring of RECORD under an instance name of its own."""
    instance = f"bench-{os.getpid()}"
    ring = Ring.create(name, RECORD, capacity, instance=instance, kernel_digest="0" * 64, prefault=True)
    try:
        yield ring
    finally:
        ring.close()
        unlink_all(instance)


def stream(cores: tuple[int, int], count: int, batch: int, capacity: int = CAPACITY) -> int:
    """ns from the first of `count` records written, published `batch` at a time, to the last one read.

    Raises BenchError when the two ends disagree.
    """
    with a_ring("stream", capacity) as ring:
        producer = ring.producer

        def consume(answer: np.ndarray, ready: Callable[[], None]) -> None:
            ring.slots[::PAGE].sum()  # a forked child maps every page anew
            ready()
            if not read_records(ring.control, ring.consumer, ring.slots, count, capacity // 4, answer):
                raise BenchError("the writer is gone")

        with OtherEnd(cores[1], consume) as other, on_core(cores[0]):
            other.wait_ready()
            started = python_monotonic_ns()
            if batch == 1:
                total = write_singly(ring.control, producer, ring.slots, count)
            else:
                total = write_records(ring.control, producer, ring.slots, count, batch)
            if total < 0:
                raise BenchError("the reader is gone")
        if other.answer[SUM] != total or other.answer[WRONG]:
            raise BenchError(f"the two ends of the ring disagree; {other.answer[WRONG]} records were wrong")
        return int(other.answer[END_NS]) - started


def round_trips(cores: tuple[int, int], count: int) -> np.ndarray:
    """ns of each of `count` records over one ring and their answers over another. Raises BenchError."""
    samples = np.zeros(count, np.int64)
    with a_ring("there", 64) as there, a_ring("back", 64) as back:

        def answer(_: np.ndarray, ready: Callable[[], None]) -> None:
            ready()
            if not answer_each(
                there.control, there.consumer, there.slots, back.control, back.producer, back.slots, count
            ):
                raise BenchError("nobody asks")

        with OtherEnd(cores[1], answer) as other, on_core(cores[0]):
            other.wait_ready()
            right = send_and_wait(
                there.control, there.producer, there.slots, back.control, back.consumer, back.slots, samples
            )
        if right != count:
            raise BenchError(f"{count - right} answers of {count} were wrong or never came")
    return samples


def _best(attempt: Callable[[], int]) -> int:
    return min(attempt() for _ in range(ATTEMPTS))


def _python_queues(report: Report) -> list[Queue]:
    """The queues that are installed; a note for each that is not."""
    found = []
    for kind in QUEUES:
        queue = kind()
        try:
            if queue.version is not None:
                report.versions[queue.name] = queue.version
            found.append(queue)
        except BenchError as error:
            report.notes.append(f"{queue.name} left out: {error}")
    return found


def run(report: Report, full: bool) -> None:
    """Measure everything into the report. Raises BenchError where there is one core."""
    cores = two_cores()
    count, few, trips = (20_000_000, 64 * 1024, 1_000_000) if full else (500_000, 4 * 1024, 50_000)
    queues = _python_queues(report)
    single: list[int] = []
    batched: list[int] = []
    theirs: dict[str, list[int]] = {"single": [], "batch": []}
    one_by_one: dict[str, list[int]] = {queue.name: [] for queue in queues}
    trip_samples = []
    with ExitStack() as stack:
        disruptor: Disruptor | None = None
        try:
            disruptor = Disruptor(CAPACITY, cores)
            stack.callback(disruptor.close)
            report.versions["LMAX Disruptor"] = disruptor.version
        except BenchError as error:
            report.notes.append(f"LMAX Disruptor left out: {error}")
        stream(cores, count // 10, 1)
        for _ in range(PAIRS):
            single.append(_best(lambda: stream(cores, count, 1)))
            if disruptor is not None:
                theirs["single"].append(_best(lambda: disruptor.ask(f"single {count}")))
            batched.append(_best(lambda: stream(cores, count, BATCH)))
            if disruptor is not None:
                theirs["batch"].append(_best(lambda: disruptor.ask(f"batch {count} {BATCH}")))
            trip_samples.append(round_trips(cores, trips))
            for queue in queues:
                one_by_one[queue.name].append(measure(queue, cores, few, batched=False))
    report.results += [rate("spsc_single", None, count, single, UNIT), rate("spsc_batch", None, count, batched, UNIT)]
    report.results.append(times("round_trip", None, np.concatenate(trip_samples), "ns"))
    if disruptor is not None:
        for name, mine in (("single", single), ("batch", batched)):
            report.results.append(rate(f"spsc_{name}", "LMAX Disruptor", count, theirs[name], UNIT))
            ratio = median_ratio([1 / ns for ns in mine], [1 / ns for ns in theirs[name]])
            report.ratios.append(Ratio(f"spsc_{name}", "LMAX Disruptor", ratio, _DISRUPTOR_GATE, _DISRUPTOR_GOAL))
    for queue in queues:
        passes = one_by_one[queue.name]
        many = [measure(queue, cores, 8 * few, batched=True) for _ in range(3)]
        report.results.append(rate("spsc_single", queue.name, few, passes, UNIT))
        report.results.append(rate("spsc_batch", queue.name, 8 * few, many, UNIT))
        ratio = median_ratio([count / ns for ns in single], [few / ns for ns in passes])
        report.ratios.append(Ratio("spsc_single", queue.name, ratio, _QUEUE_GATE))
    report.notes.append(f"round trip goal: p50 at most {_ROUND_TRIP_GOAL_NS} ns between two cores that spin")
