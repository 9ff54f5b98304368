"""`bench journal`: MARKET records appended to a journal on disk, each an entry of its own.

journal_append         from a compiled loop, as the stages journal, with everything that belongs to it: new segments are
                       allocated and mapped in between. What was written is read back, every checksum and record.
journal_append_kernel  the same without the segments
journal_append_python  a call from Python, as ingestion and gateway journal
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from engine.records import MARKET
from engine.stage import as_bytes
from procs.journal.layout import Entry
from procs.journal.reader import read_segment, segment_path
from procs.journal.writer import JournalWriter
from shm.clock import python_monotonic_ns
from tools.bench.machine import quiet
from tools.bench.report import Report, Result
from tools.bench.stage_kernels import append_each

RECORDS = 10_000_000
FROM_PYTHON = 500_000
_VARIETY = 1024  # different records, in turn
_STREAM = "bench"


def _check(report: Report, path: Path, records: np.ndarray, ordinal: int) -> int:
    """Read a segment back, then remove it; the ordinal after its last entry. An entry that is wrong is a finding."""
    payloads = [record.tobytes() for record in records]
    turn = 0  # the loop begins with the first record in every segment
    for entry in read_segment(path):
        if entry.ordinal != ordinal or entry.payload != payloads[turn % _VARIETY] or entry.ts_ns != turn:
            report.findings.append(f"journal: entry {ordinal} was read back as another")
            break
        ordinal, turn = ordinal + 1, turn + 1
    path.unlink()
    return ordinal


def append_records(report: Report, folder: Path, count: int) -> None:
    """`count` records from a compiled loop into the report."""
    records = np.zeros(_VARIETY, MARKET)
    records["ingest_id"] = np.arange(_VARIETY)
    records["price"] = 6_000_000 + records["ingest_id"]
    content = as_bytes(records)
    writer = JournalWriter(folder, _STREAM, "bench")
    whole = inside = written = segment = 0
    following = 1
    with quiet():
        while written < count:
            began = python_monotonic_ns()
            writer.prepare_next()
            cursor = np.array([writer.offset, writer.ordinal], np.int64)
            buffer = writer.buffer()
            started = python_monotonic_ns()
            written += int(append_each(buffer, cursor, content, MARKET.itemsize, count - written))
            ended = python_monotonic_ns()
            writer.adopt(int(cursor[0]), int(cursor[1]))
            writer.roll()
            whole += python_monotonic_ns() - began
            inside += ended - started
            following = _check(report, segment_path(folder, _STREAM, segment), records, following)
            segment += 1
    writer.close()
    if following != count + 1:
        report.findings.append(f"journal: {following - 1} of {count} entries were read back")
    report.results.append(Result("journal_append", None, whole / count, "ns", count))
    report.results.append(Result("journal_append_kernel", None, inside / count, "ns", count))


def append_from_python(report: Report, folder: Path, count: int) -> None:
    """`count` records, a call each, into the report."""
    payload = np.ones(1, MARKET).tobytes()
    writer = JournalWriter(folder, "python", "bench", segment_bytes=(MARKET.itemsize + 64) * count)
    with quiet():
        started = python_monotonic_ns()
        for number in range(count):
            writer.append(Entry.FRAME, payload, number)
        took = python_monotonic_ns() - started
    writer.close()
    report.results.append(Result("journal_append_python", None, took / count, "ns", count))


def run(report: Report, full: bool) -> None:
    """Measure into the report; as many records in either case, for a mean over fewer segments would say little."""
    with tempfile.TemporaryDirectory(prefix="bot4-bench-") as folder:
        append_records(report, Path(folder), RECORDS)
        append_from_python(report, Path(folder), FROM_PYTHON * (4 if full else 1))
        device = os.stat(folder).st_dev
    report.notes.append(
        f"entries of {MARKET.itemsize} bytes in segments of 16 MiB on device {os.major(device)}:{os.minor(device)}; "
        "goal: journal_append below 100 ns"
    )
