"""Compile every kernel once, in one process, before any fleet starts: `python -m procs.warm`.

Importing a module compiles its entry points or loads them from the cache; helpers that are called from Python
compile at their first call, so a small instance is made, used once all around, and removed. numba's cache index is
not safe against two processes that compile at once, so this runs alone.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile

import procs  # noqa: F401  # its cache locator must be there before any kernel is declared
from engine.kernel import note_imports

FLOORS = ("shm", "engine", "procs", "models")


def import_all() -> int:
    """Import every module of the floors that hold kernels. Returns how many."""
    count = 0
    for floor in FLOORS:
        package = importlib.import_module(floor)
        for module in pkgutil.walk_packages(package.__path__, f"{floor}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                count += 1
    return count


def rehearse() -> None:
    """Call once, on an instance of its own, what processes call from Python when they start, work and stop."""
    import numpy as np

    from engine.config import Settings
    from engine.matching.settings import VenueSettings
    from engine.stage import as_bytes
    from procs.instance import Mapping, Plan, ProcessContext, create_memory
    from procs.monitoring import Monitoring
    from procs.ports import Inlet, Outlet, Turns, record_latency, ring_own_bell
    from procs.recorder import Recorder
    from procs.states import initial_states
    from procs.summary import follower_counts
    from procs.table import RINGS, Role
    from procs.venues.binance_usdm.endpoints import Endpoints
    from shm.control import Readiness, Stop, TripSource
    from shm.segment import unlink_all

    instruments = tuple(item.instrument(index) for index, item in enumerate(VenueSettings().listed()))
    name = f"warm-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            name=name, session="00000000", folder=folder, kernel_digest="0" * 64, settings=Settings(),
            instruments=instruments, endpoints=Endpoints("", ""), capacities={spec.name: 16 for spec in RINGS},
            cores={}, spin=False,
        )
        try:
            create_memory(plan, initial_states(plan.settings, instruments)).close()
            context = ProcessContext(plan, Role.EXECUTION)
            control = context.control
            control.supervisor_pid = control.supervisor_pid
            control.set_pid(context.role, 1)
            control.pid(context.role)
            context.ready()
            if control.readiness(context.role) != Readiness.READY:
                raise RuntimeError("a process that said it is ready is not")
            control.heartbeat(context.role)
            control.progress(context.role)
            control.set_gate_epoch(context.role, control.gate_epoch(context.role))
            for spec in RINGS:
                records = as_bytes(np.zeros(2, spec.dtype))
                Outlet(context, spec.name).give(records, 2)
                ring = context.ring(spec.name)
                inlet = Inlet(context, spec.name, 2)
                inlet.wait(0)
                inlet.take()
                inlet.release()
                if (ring.produced, ring.consumed, ring.dropped) != (2, 2, 0):
                    raise RuntimeError(f"ring {spec.name} lost a record in the rehearsal")
                Outlet(context, spec.name).drop(1)
            Turns(context).turn(1)
            ring_own_bell(context)
            record_latency(context.histogram(context.role, "hop"), 1)
            observer = ProcessContext(plan, Role.MONITORING)
            monitoring = Monitoring(observer)
            if monitoring.follow() == 0:
                raise RuntimeError("a follower saw nothing of what passed in the rehearsal")
            monitoring.measure()
            recorder = Recorder(ProcessContext(plan, Role.RECORDER))
            recorder.turn()
            recorder.pause()
            control.trip(TripSource.OPERATOR)
            context.bell.wait(0, lambda: False)
            control.request_stop(context.role, Stop.DRAIN)
            context.close()
            reader = Mapping(plan, read_only=True)
            reader.ring("market").produced, reader.control.word, reader.control.pid(0)
            if reader.metrics().read() is None or reader.metrics().version != 1:
                raise RuntimeError("the metrics of the rehearsal cannot be read")
            follower_counts(reader)
            reader.control.readiness(0), reader.control.heartbeat(0), reader.control.progress(0)
            reader.close()
        finally:
            unlink_all(name)


def rehearse_a_call() -> None:
    """Call once what a strategy that is Python alone is shown with, and the words with which it says what it wants."""
    import numpy as np

    from engine.config import Settings
    from engine.matching.settings import VenueSettings
    from engine.records import PREDICTION, Kind
    from engine.strategies.api import ask, bid, buy, may_change, mid, money, python_strategy, sell, size_for, withdraw
    from engine.strategies.settings import MakerSettings
    from procs.states import initial_states
    from procs.strategy_caller import Caller
    from procs.table import Role

    @python_strategy(MakerSettings)
    def on_event(
        event: np.record, view: np.record, own: np.record, parameters: MakerSettings, state: object, quotes: np.record
    ) -> None:
        price = int(mid(view))
        for value in (money(1.0), parameters.order_value):
            size_for(view, own, 1, price, value)
        for say in (bid, ask, buy, sell):
            for wanted in ((price, 1), (price, 1.0), (float(price), 1), (float(price), 1.0)):
                say(quotes, view, *wanted)
        may_change(event, quotes.bid, 1)
        withdraw(quotes)

    instruments = tuple(item.instrument(index) for index, item in enumerate(VenueSettings().listed()))
    states = initial_states(Settings(), instruments)
    caller = Caller(on_event, 0, 1, 2_000, states[Role.EXECUTION])
    prediction = np.zeros(1, PREDICTION)
    prediction["bid_price"], prediction["ask_price"] = 1_000, 1_010
    caller.call(Kind.PREDICTION, 0, 1, 1, prediction)
    if caller.faults:
        raise RuntimeError(caller.failure)


if __name__ == "__main__":
    import_all()
    note_imports()
    rehearse()
    rehearse_a_call()
    sys.exit(0)
