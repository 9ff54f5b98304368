"""The ml process: an adapter around models/inference.py with the same loop as the kernel stages."""

from __future__ import annotations

from pathlib import Path

from engine.stage import as_bytes
from models.inference import DEFAULT_MODEL, InferenceStage, Model
from procs.instance import ProcessContext
from procs.ports import Inlet, Outlet, Turns, record_latency
from shm.clock import sleep
from shm.control import Stop

_BATCH = 64
_ROOM_RETRY_S = 0.0001


def model_path(setting: str) -> Path:
    """The model file that a setting names; empty means the one that is shipped."""
    return Path(setting) if setting else DEFAULT_MODEL


def _take_up(context: ProcessContext, inlet: Inlet, outlet: Outlet) -> None:
    """Stand where the predecessor's effects end: one prediction a feature record, so the output ring tells it."""
    published = outlet.published
    inlet.seek(published)
    state = context.state(context.role)
    state["records_in"] = state["processed"] = state["out"] = published


def run_inference(context: ProcessContext) -> None:
    """Body of the ml process; returns when it is asked to stop and its input is empty."""
    settings = context.plan.settings
    model = Model(model_path(settings.model.path), settings.features)
    stage = InferenceStage(model, context.state(context.role), _BATCH)
    inlet, outlet, turns = Inlet(context, "features", _BATCH), Outlet(context, "predictions"), Turns(context)
    hop, origin = context.histogram(context.role, "hop"), context.histogram(context.role, "origin")
    stamps, passed = context.stamps(), context.passed(context.role)
    if context.successor:
        _take_up(context, inlet, outlet)
    inbox = as_bytes(inlet.records)
    context.ready()
    moved = 0
    while True:
        stop = turns.turn(moved)
        if stop >= Stop.NOW:
            return
        if turns.orphaned:
            raise SystemExit(4)  # nobody is left who would end it
        moved = inlet.take()
        if not moved:
            if stop:
                return
            if not context.plan.spin:
                inlet.wait(10_000_000)
            continue
        started = context.now_ns()
        stage.step(inbox, moved)
        places = inlet.records["ingest_id"][:moved] & (len(stamps) - 1)
        passed[places[passed[places] < stamps[places]]] = context.now_ns()
        given = outlet.give(stage.outbox, moved)
        while given < moved and context.stop != Stop.NOW:
            turns.turn(0)  # it waits for somebody else: it is not stuck
            sleep(_ROOM_RETRY_S)
            given += outlet.give(stage.outbox, moved - given, given)
        inlet.release()
        ended = context.now_ns()
        record_latency(hop, ended - started)
        stamp = int(stamps[places[-1]])
        if stamp:
            record_latency(origin, ended - stamp)
