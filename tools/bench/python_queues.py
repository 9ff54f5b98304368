"""Queues of Python's world as peers of `bench rings`: two processes, 64 bytes a record.

The producer takes records from a small stock made beforehand, which favours the queue; the consumer unpacks and adds
up every word. Batched: BATCH records at once in the way that the queue offers, or joined into one message.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from shm.clock import python_monotonic_ns
from tools.bench.machine import on_core
from tools.bench.pairs import OtherEnd
from tools.bench.report import BenchError
from tools.bench.ring_kernels import END_NS, SUM

BATCH = 64
_STOCK = 1024  # a power of two, and a multiple of BATCH
_RECORD = Struct("<8q")
_RECORDS = [_RECORD.pack(*range(number, number + 8)) for number in range(_STOCK)]
_BATCHES = [_RECORDS[first : first + BATCH] for first in range(0, _STOCK, BATCH)]
_JOINED = [b"".join(batch) for batch in _BATCHES]
_STOCK_SUM = sum(int(np.frombuffer(batch, np.int64).sum()) for batch in _JOINED)


class Queue(ABC):
    """One queue between two processes: records one by one, or BATCH at a time."""

    name: str
    package: str | None = None  # None: part of Python

    @property
    def version(self) -> str | None:
        """Version of the package; None for a part of Python. Raises BenchError where it is not installed."""
        if self.package is None:
            return None
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise BenchError(f"{self.package} is not installed; the extra `bench` does it") from None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the queue, before the fork; close this end after."""
        yield

    @contextmanager
    def producing(self) -> Iterator[None]:
        """What the producer needs of its own, after the fork."""
        yield

    @contextmanager
    def consuming(self) -> Iterator[None]:
        """What the consumer needs of its own, after the fork."""
        yield

    @abstractmethod
    def put_each(self, count: int) -> None:
        """Send `count` records, one a message."""

    @abstractmethod
    def get_each(self, count: int) -> int:
        """Take `count` records, one a message; the sum of their words."""

    @abstractmethod
    def put_batches(self, count: int) -> None:
        """Send `count` records, BATCH at a time."""

    @abstractmethod
    def get_batches(self, count: int) -> int:
        """Take `count` records, batched; the sum of their words."""


def _sum(message: bytes) -> int:
    return int(np.frombuffer(message, np.int64).sum())


class MultiprocessingQueue(Queue):
    """multiprocessing.Queue: pickles through a pipe, a feeder thread in the producer."""

    name = "multiprocessing.Queue"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Bounded, so that the backlog is not what is measured."""
        self._queue: Any = multiprocessing.get_context("fork").Queue(4096)
        try:
            yield
        finally:
            self._queue.close()
            self._queue.join_thread()

    def put_each(self, count: int) -> None:
        """One record a message."""
        for number in range(count):
            self._queue.put(_RECORDS[number % _STOCK])

    def get_each(self, count: int) -> int:
        """One record a message."""
        return sum(sum(_RECORD.unpack(self._queue.get())) for _ in range(count))

    def put_batches(self, count: int) -> None:
        """BATCH records joined into one message."""
        for number in range(count // BATCH):
            self._queue.put(_JOINED[number % len(_JOINED)])

    def get_batches(self, count: int) -> int:
        """BATCH records joined into one message."""
        return sum(_sum(self._queue.get()) for _ in range(count // BATCH))


class FasterFifo(Queue):
    """faster-fifo: a queue in shared memory, written in C++."""

    name = "faster-fifo"
    package = "faster-fifo"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Room for some 10,000 records."""
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401  # teaches pickle about its queues

        self._queue: Any = faster_fifo.Queue(max_size_bytes=1 << 20)
        try:
            yield
        finally:
            self._queue.close()

    def put_each(self, count: int) -> None:
        """One record a message."""
        for number in range(count):
            self._queue.put(_RECORDS[number % _STOCK], timeout=10.0)

    def get_each(self, count: int) -> int:
        """One record a message."""
        return sum(sum(_RECORD.unpack(self._queue.get(timeout=10.0))) for _ in range(count))

    def put_batches(self, count: int) -> None:
        """BATCH messages at once."""
        for number in range(count // BATCH):
            self._queue.put_many(_BATCHES[number % len(_BATCHES)], timeout=10.0)

    def get_batches(self, count: int) -> int:
        """As many messages as there are at once."""
        total = 0
        while count:
            found = self._queue.get_many(timeout=10.0, max_messages_to_get=1024)
            total += _sum(b"".join(found))
            count -= len(found)
        return total


class ZeroMq(Queue):
    """pyzmq, PUSH to PULL over ipc."""

    name = "pyzmq ipc"
    package = "pyzmq"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """An address in a folder of its own; each end makes its socket after the fork."""
        with tempfile.TemporaryDirectory(prefix="bot4-bench-") as folder:
            self._address = f"ipc://{Path(folder) / 'queue'}"
            yield

    @contextmanager
    def producing(self) -> Iterator[None]:
        """The binding end."""
        import zmq

        with zmq.Context() as context, context.socket(zmq.PUSH) as self._socket:
            self._socket.bind(self._address)
            yield

    @contextmanager
    def consuming(self) -> Iterator[None]:
        """The connecting end."""
        import zmq

        with zmq.Context() as context, context.socket(zmq.PULL) as self._socket:
            self._socket.connect(self._address)
            yield

    def put_each(self, count: int) -> None:
        """One record a message."""
        for number in range(count):
            self._socket.send(_RECORDS[number % _STOCK])

    def get_each(self, count: int) -> int:
        """One record a message."""
        return sum(sum(_RECORD.unpack(self._socket.recv())) for _ in range(count))

    def put_batches(self, count: int) -> None:
        """BATCH records joined into one message."""
        for number in range(count // BATCH):
            self._socket.send(_JOINED[number % len(_JOINED)])

    def get_batches(self, count: int) -> int:
        """BATCH records joined into one message."""
        return sum(_sum(self._socket.recv()) for _ in range(count // BATCH))


QUEUES: tuple[type[Queue], ...] = (MultiprocessingQueue, FasterFifo, ZeroMq)


def measure(queue: Queue, cores: tuple[int, int], count: int, batched: bool) -> int:
    """ns from the first record sent to the last one read, of `count`, a multiple of the stock.

    Connections and threads are made before, by a first round of the stock. Raises BenchError when the ends disagree.
    """
    if count % _STOCK:
        raise BenchError(f"{count} records are no multiple of {_STOCK}")
    put = queue.put_batches if batched else queue.put_each
    get = queue.get_batches if batched else queue.get_each

    def consume(answer: np.ndarray, ready: Callable[[], None]) -> None:
        with queue.consuming():
            get(_STOCK)
            ready()
            answer[SUM] = get(count)
            answer[END_NS] = python_monotonic_ns()

    with queue.opened(), OtherEnd(cores[1], consume) as other, on_core(cores[0]), queue.producing():
        put(_STOCK)
        other.wait_ready()
        started = python_monotonic_ns()
        put(count)
        other.join()
    if other.answer[SUM] != _STOCK_SUM * (count // _STOCK):
        raise BenchError(f"{queue.name}: the two ends disagree")
    return int(other.answer[END_NS]) - started
