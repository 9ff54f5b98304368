"""`bench ingest`: recorded frames over a socket into ingestion and validation of a live engine, to the valid ring.

Four processes: the source (tools/bench/lap.py), which sends as fast as it is read; ingestion with its journal and
validation, as an engine runs them; and one that empties the valid ring, in the place of the features. Measured over
SECONDS between two looks: LEVEL records out of the valid ring, frames, and the share of a core that each process took.

Then everything has to balance: frames sent = taken + refused + dropped for a gap, at every stage and ring; and the book
of validation must be that of the text of what was sent. What does not is a finding.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from engine.config import Settings
from engine.ingest.settings import FeedSettings
from engine.instruments import Instrument
from engine.kernel import kernel_digest
from engine.records import Kind
from engine.units import parse_units
from engine.validation.step import VALIDATION
from procs.attach import lock_path
from procs.budget import ORDERS, WEIGHT, RateLimit
from procs.children import Child, fork_child, kill, wait_all, wait_for_death
from procs.identity import new_session_id
from procs.ingestion import Ingestion
from procs.instance import Mapping, Plan, ProcessContext, create_memory, memory_beside_rings
from procs.orphans import free_instance
from procs.ports import Inlet, Turns
from procs.stage_process import run_stage
from procs.states import initial_states
from procs.summary import ring_counts, stage_accounts
from procs.table import Role, ring_capacities
from procs.venues.binance_usdm.endpoints import Endpoints
from shm.clock import python_monotonic_ns, sleep
from shm.control import Readiness, Stop
from shm.lease import Lease
from tools.bench import stages
from tools.bench.frames import RECORDED, load
from tools.bench.lap import BROKEN, END, FRAMES, LEVELS, ORDER, PORT, SNAPSHOTS, STOP, Lap, Sides, serve
from tools.bench.machine import recording
from tools.bench.pairs import OtherEnd
from tools.bench.report import BenchError, Report, Result, rate

SECONDS = 30.0
GOAL = "1 M level updates/s"
_PATH = (Role.INGESTION, Role.VALIDATION, Role.FEATURES)  # the last one empties the ring
_TAKE = 4096
_WARM_S = 0.5
_PATIENCE_S = 20.0
_LOOK_S = 0.02
_IDLE_NS = 10_000_000
_DRAINED, _DRAINED_LEVELS = 0, 1


def _drain(context: ProcessContext, counts: np.ndarray) -> None:
    """Body of the process behind the valid ring: count what comes."""
    inlet, turns, moved = Inlet(context, "valid", _TAKE), Turns(context), 0
    context.ready()
    while True:
        stop = turns.turn(moved)
        moved = inlet.take()
        if moved:
            counts[_DRAINED_LEVELS] += np.count_nonzero(inlet.records["kind"][:moved] == Kind.LEVEL)
            counts[_DRAINED] += moved
            inlet.release()
        elif stop:
            return
        else:
            inlet.wait(_IDLE_NS)


def _cores() -> dict[str, tuple[int, ...]]:
    """Ingestion, which has most to do, has the last core; the others share the rest."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return {role.label: cores[-1:] if role == Role.INGESTION or len(cores) == 1 else cores[:-1] for role in Role}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _remove_finished(folder: Path) -> None:
    """Delete journal segments that are full: some 60 MB a second are written."""
    for segment in sorted(folder.glob("ingestion-*.journal"))[:-2]:
        segment.unlink()


def _last_words(folder: Path, role: Role) -> str:
    log = folder / f"{role.label}.log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no last words"


def _until(reached: Callable[[], Any], children: list[Child], folder: Path, what: str) -> None:
    """Wait for a condition. Raises BenchError after _PATIENCE_S, or when a process has ended."""
    deadline = python_monotonic_ns() + int(_PATIENCE_S * 1e9)
    while not reached():
        wait_for_death(children, _LOOK_S)
        for child in children:
            if not child.alive:
                words = _last_words(folder, child.role)
                raise BenchError(f"{child.role.label} {child.died_in_words()} early: {words}")
        if python_monotonic_ns() > deadline:
            raise BenchError(f"{what} not within {_PATIENCE_S:.0f} s")


def book_in_units(book: Sides, item: Instrument) -> list[dict[int, int]]:
    """[bids, asks] of a book of text as price -> size in the instrument's units."""
    return [
        {parse_units(price, item.price_exp): parse_units(size, item.size_exp) for price, size in side.items()}
        for side in book
    ]


class _Run:
    """The processes of one measurement, and what is told of them."""

    def __init__(self, report: Report, plan: Plan, lap: Lap, words: np.ndarray, source_pid: int) -> None:
        self._report = report
        self._lap = lap
        self._words = words
        self._counts = np.frombuffer(mmap.mmap(-1, 4096), np.int64)
        self._mapping = Mapping(plan)
        bodies = {
            Role.INGESTION: lambda context: Ingestion(context).run(),
            Role.VALIDATION: lambda context: run_stage(context, VALIDATION),
            Role.FEATURES: lambda context: _drain(context, self._counts),
        }
        self._children = [fork_child(plan, role, bodies[role]) for role in reversed(_PATH)]
        self._pids = {child.role.label: child.pid for child in self._children} | {"source": source_pid}

    def _states(self) -> dict[Role, np.ndarray]:
        return {role: self._mapping.state(role) for role in _PATH[:2]}

    def _look(self) -> tuple[int, int, int, dict[str, float]]:
        """(now, levels drained, frames taken, CPU seconds by process)."""
        frames = int(self._mapping.state(Role.INGESTION)["records_in"][0])
        cpu = {name: _cpu_s(pid) for name, pid in self._pids.items()}
        return python_monotonic_ns(), int(self._counts[_DRAINED_LEVELS]), frames, cpu

    def measure(self, seconds: float) -> None:
        """The rates between two looks into the report."""
        control, words = self._mapping.control, self._words
        _until(
            lambda: control.readiness(Role.INGESTION) == Readiness.READY and words[FRAMES], self._children,
            self._mapping.plan.path, "a stream",
        )
        sleep(_WARM_S)
        began = self._look()
        deadline = began[0] + int(seconds * 1e9)
        while python_monotonic_ns() < deadline:
            sleep(min(0.25, seconds))
            _remove_finished(self._mapping.plan.path)
        ended = self._look()
        ns = ended[0] - began[0]
        self._report.results.append(rate("ingest", None, ended[1] - began[1], [ns], "level updates/s"))
        self._report.results.append(rate("ingest_frames", None, ended[2] - began[2], [ns], "frames/s"))
        for name in self._pids:
            share = 100.0 * (ended[3][name] - began[3][name]) / (ns / 1e9)
            self._report.results.append(Result(f"ingest_cpu_{name}", None, share, "% of a core", 1))

    def settle(self) -> None:
        """Let everything sent arrive, then stop process after process once it has drained."""
        self._words[ORDER] = STOP
        arrived = self._mapping.state(Role.INGESTION)["records_in"]

        def quiet() -> bool:
            sent = int(self._words[FRAMES] + self._words[SNAPSHOTS])
            sleep(_LOOK_S)  # a chunk may be on its way out
            return int(arrived[0]) >= sent == int(self._words[FRAMES] + self._words[SNAPSHOTS])

        with suppress(BenchError):  # frames that never arrive are counted in `balance`
            _until(quiet, self._children, self._mapping.plan.path, "the end of the stream")
        for role in _PATH:
            self._mapping.control.request_stop(role, Stop.DRAIN)
            (child,) = (child for child in self._children if child.role == role)
            wait_all([child], 10.0)
            if child.status != 0:
                words = _last_words(self._mapping.plan.path, role)
                raise BenchError(f"{role.label} {child.died_in_words()}: {words}")

    def balance(self) -> None:
        """Every frame and record accounted for, and the book right; what is not is a finding."""
        report, words, states = self._report, self._words, self._states()
        rings = ring_counts(self._mapping, ("market", "valid"))
        accounts, unaccounted = stage_accounts(states, rings)
        sent = int(words[FRAMES] + words[SNAPSHOTS])
        taken = accounts["ingestion"]
        unaccounted += abs(sent - taken["in"]) + sum(ring["in_flight"] for ring in rings.values())
        unaccounted += abs(int(self._counts[_DRAINED]) - rings["valid"]["produced"])
        row = states[Role.INGESTION][0]
        if not taken["dropped"] and not taken["quarantined"] and not accounts["validation"]["quarantined"]:
            levels = int(words[LEVELS] + row["snapshot_levels"])
            unaccounted += abs(levels - int(self._counts[_DRAINED_LEVELS]))
        report.notes.append(
            f"ingest: {sent} frames sent, {words[LEVELS]} level updates in them; ingestion took {taken['in']}: "
            f"{taken['processed']} processed, refused {taken['quarantined']}, dropped {taken['dropped']}, waiting "
            f"{taken['in_flight']}; {self._counts[_DRAINED]} records came out of the valid ring; unaccounted "
            f"{unaccounted}; goal {GOAL}"
        )
        if unaccounted:
            report.findings.append(f"ingest: {unaccounted} frames or records are unaccounted for")
        if row["gaps"] or words[BROKEN] or self._mapping.control.tripped:
            report.findings.append(f"ingest: {row['gaps']} gaps, {words[BROKEN]} broken connections")
        item = self._mapping.plan.instruments[0]
        text = book_in_units(self._lap.book(int(words[FRAMES]) % len(self._lap.frames)), item)
        if stages.book_levels(states[Role.VALIDATION]["books"][0, 0]) != text:
            report.findings.append("ingest: the book of validation is not that of the text that was sent")

    def close(self) -> None:
        """End whatever still runs."""
        for child in self._children:
            kill(child)
        self._mapping.close()


def through_sockets(report: Report, settings: Settings, lap: Lap, item: Instrument, seconds: float) -> None:
    """Measure into the report. Raises BenchError where a process fails."""
    # No ticker tells of the diffs that lead a lap's book back, so the audit by tickers would find them wrong.
    settings = replace(
        settings, feed=FeedSettings(kinds=("book", "ticker", "trade")),
        validation=replace(settings.validation, ticker_audit=False),
    )
    with tempfile.TemporaryDirectory(prefix="bot4-bench-") as folder:
        others = min(os.sched_getaffinity(0))
        with OtherEnd(others, lambda words, ready: serve(lap, words, ready)) as source:
            source.wait_ready()
            port = int(source.answer[PORT])
            states = initial_states(settings, (item,))
            name = f"bench-{new_session_id()}"
            plan = Plan(
                name=name, session="00000000", folder=folder, kernel_digest=kernel_digest(), settings=settings,
                instruments=(item,), endpoints=Endpoints(f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"),
                capacities=ring_capacities(settings.engine.memory_budget_mib << 20, memory_beside_rings(states)),
                cores=_cores(), spin=False,
                rate_limits=tuple(RateLimit(kind, 60, 1_000_000, "") for kind in (WEIGHT, ORDERS)),
            )
            lease = Lease.acquire(lock_path(name))
            try:
                create_memory(plan, states).close()
                run = _Run(report, plan, lap, source.answer, source.pid)
                try:
                    run.measure(seconds)
                    run.settle()
                    run.balance()
                finally:
                    run.close()
            finally:
                source.answer[ORDER] = END
                free_instance(name)
                lock_path(name).unlink(missing_ok=True)
                lease.release()


def run(report: Report, settings: Settings, full: bool) -> None:
    """Measure the sockets, and what decoding alone takes. Raises BenchError."""
    frames = load(recording(RECORDED), settings, None)
    through_sockets(report, settings, Lap(frames.entries), frames.source.instruments[0], SECONDS)
    stages.decoder(report, settings, full)
