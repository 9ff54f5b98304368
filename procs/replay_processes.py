"""Replay through the processes and rings of a live engine, a feeder in the place of ingestion, no gateway.

Nothing is dropped: the feeder waits for room. Started and stopped like a session, under an instance name of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.execution.kernel import EXECUTION
from engine.features.step import FEATURES
from engine.kernel import kernel_digest
from engine.records import PREDICTION
from engine.validation.step import VALIDATION
from procs.attach import lock_path
from procs.capture.reader import EARLIEST_NS
from procs.children import Child, fork_child, kill, wait_all, wait_for_death
from procs.decoding import Decoder, replay_inputs
from procs.identity import new_session_id
from procs.inference import run_inference
from procs.instance import Mapping, Plan, ProcessContext, create_memory, memory_beside_rings
from procs.memory_use import pss_bytes
from procs.orphans import free_instance, sweep
from procs.ports import Inlet, Outlet, Turns, record_latency
from procs.replay import MergeReplayer, Pacer, ReplayError, Source, replay_summary, warmed_path
from procs.stage_process import run_stage
from procs.states import initial_states
from procs.summary import hop_histograms, ring_counts
from procs.table import Role, placement, ring_capacities
from procs.venues.binance_usdm.endpoints import Endpoints
from shm.clock import python_monotonic_ns, sleep
from shm.control import Stop
from shm.lease import Lease

_ROLES = (Role.EXECUTION, Role.ML, Role.FEATURES, Role.VALIDATION, Role.INGESTION)
_STOP_ORDER = (Role.INGESTION, Role.VALIDATION, Role.FEATURES, Role.ML, Role.EXECUTION)
_ROOM_RETRY_S = 0.0002
_BATCH = 64


def _feed(context: ProcessContext, source: Source, speed: float | None, before: int) -> None:
    """Body of ingestion in a replay: every recorded input, waiting for room instead of dropping.

    before: the frames that its state has seen.
    """
    decoder = Decoder(context.state(context.role), source.instruments)
    decoder.ingest_id = before
    outlet, turns, pacer = Outlet(context, "market"), Turns(context), Pacer(speed)
    stamps = context.stamps()
    hop = context.histogram(context.role, "hop")
    started = context.now_ns()

    def stamped() -> Any:
        nonlocal started
        watched, inputs = source.in_two()
        for _ in watched:
            pass  # its state has seen them
        for entry in inputs:
            pacer.wait(entry.ts_ns)
            started = context.now_ns()
            stamps[(decoder.ingest_id + 1) & (len(stamps) - 1)] = started
            yield entry

    context.ready()
    for count in replay_inputs(decoder, stamped()):
        given = 0
        while given < count:
            given += outlet.give(decoder.outbox, count - given, given)
            if given < count:
                if context.stop == Stop.NOW:
                    return
                sleep(_ROOM_RETRY_S)
        record_latency(hop, context.now_ns() - started)
        turns.turn(count)


def _merge(context: ProcessContext, source: Source) -> None:
    """Body of execution when a session is replayed: the recorded merge order instead of the first come."""
    inlet, turns = Inlet(context, "predictions", _BATCH), Turns(context)
    state = context.state(context.role)
    held = np.zeros(0, PREDICTION)

    def take(count: int) -> np.ndarray:
        nonlocal held
        parts, have = [held], len(held)
        while have < count:
            found = inlet.take()
            turns.turn(found)
            if not found:
                if context.stop:
                    break
                inlet.wait(10_000_000)
                continue
            parts.append(inlet.records[:found].copy())
            inlet.release()
            have += found
        whole = np.concatenate(parts)
        held = whole[count:]
        return np.ascontiguousarray(whole[:count])

    context.ready()
    merger = MergeReplayer(state, source.merges(), take)
    merger.run()
    context.state(Role.GATEWAY)["spare"][0, :2] = merger.compared, merger.different
    while context.stop == Stop.RUN or inlet.wait(0):
        found = inlet.take()
        turns.turn(found)
        inlet.release()
        if not found:
            inlet.wait(10_000_000)


def _bodies(source: Source, speed: float | None, before: int) -> dict[Role, Callable[[ProcessContext], None]]:
    return {
        Role.INGESTION: lambda context: _feed(context, source, speed, before),
        Role.VALIDATION: lambda context: run_stage(context, VALIDATION),
        Role.FEATURES: lambda context: run_stage(context, FEATURES),
        Role.ML: run_inference,
        Role.EXECUTION: (
            (lambda context: _merge(context, source))
            if source.is_session
            else (lambda context: run_stage(context, EXECUTION, live=False))
        ),
    }


def replay_auto(source: Source, speed: float | None) -> dict[str, Any]:
    """Replay through processes; returns the summary. Raises ReplayError or SegmentError."""
    settings = source.settings
    states = initial_states(settings, source.instruments, not source.is_session, source.strategies)
    before = 0
    if source.from_ns > EARLIEST_NS:
        path, before, _ = warmed_path(source)
        states |= path.states
    cores, spin, _ = placement(tuple(sorted(os.sched_getaffinity(0))), "auto")
    name = f"replay-{new_session_id()}"
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="bot4-replay-") as folder:
        plan = Plan(
            name=name, session="00000000", folder=folder, kernel_digest=kernel_digest(), settings=settings,
            instruments=source.instruments, endpoints=Endpoints("", ""),
            capacities=ring_capacities(settings.engine.memory_budget_mib << 20, memory_beside_rings(states)),
            cores={role.label: cores[role] for role in Role}, spin=spin,
        )
        started = python_monotonic_ns()
        sweep()  # of replays that were killed
        lease = Lease.acquire(lock_path(name))
        try:
            create_memory(plan, states).close()
            bodies = _bodies(source, speed, before)
            children = [fork_child(plan, role, bodies[role]) for role in _ROLES]
            mapping = Mapping(plan)
            memory = _run_to_the_end(plan, mapping, children)
            return _summary(source, mapping, (python_monotonic_ns() - started) / 1e9, memory, before)
        finally:
            for child in children:
                kill(child)
            free_instance(name)
            lock_path(name).unlink(missing_ok=True)
            lease.release()


def _run_to_the_end(plan: Plan, mapping: Mapping, children: list[Child]) -> dict[str, int]:
    """Wait for the feeder, then stop stage after stage once each has drained; returns PSS by process."""
    by_role = {child.role: child for child in children}
    feeder = by_role[Role.INGESTION]
    others = [child for child in children if child is not feeder]
    while feeder.alive:
        wait_for_death(children, 0.2)
        _fail_if_dead(plan, [child for child in others if not child.alive])
    _fail_if_dead(plan, [feeder] if feeder.status else [])
    memory = {child.role.label: pss_bytes(child.pid) for child in others}
    memory["replay"] = pss_bytes(os.getpid())
    for role in _STOP_ORDER[1:]:
        mapping.control.request_stop(role, Stop.DRAIN)
        while by_role[role].alive:
            wait_all([by_role[role]], 1.0)
        _fail_if_dead(plan, [by_role[role]] if by_role[role].status else [])
    return memory


def _fail_if_dead(plan: Plan, dead: list[Child]) -> None:
    for child in dead:
        log = Path(plan.folder) / f"{child.role.label}.log"
        words = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        raise ReplayError(f"{child.role.label} {child.died_in_words()}: {words[-1] if words else 'no last words'}")


def _summary(
    source: Source, mapping: Mapping, duration_s: float, memory: dict[str, int], before: int
) -> dict[str, Any]:
    states = {role: mapping.state(role) for role in reversed(_ROLES)}
    rings = ring_counts(mapping, ("market", "valid", "features", "predictions"))
    extra: dict[str, Any] = {"warm_up_frames": before}
    if source.is_session:
        compared, different = mapping.state(Role.GATEWAY)["spare"][0, :2]
        extra["predictions"] = {"compared": int(compared), "different": int(different)}
    return replay_summary(source, states, "auto", duration_s, hop_histograms(mapping), memory, rings, extra)
