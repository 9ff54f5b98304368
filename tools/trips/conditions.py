"""What may be wrong with an engine, its machine or its venue when it is tripped; each begins, and is undone.

`load`: two busy processes a core beside three times the market's flow. `spinning`: execution, which is strategies, gate
and orders in one compiled loop, is made to jump on the spot for ever (tools/trips/spin.py). `ring full`: validation,
and whoever takes its place, is stopped until the market ring has no room. Processes that are stopped or spin are not
undone where the supervisor replaces them first. `disk full`: the engine's data lies on a small disk of its own, which
is filled to the last page.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from procs.embedded.mix import Draws
from procs.table import Role
from tools.soak.session import wait_until
from tools.trips.session import FILLER, TripSession
from tools.trips.spin import make_spin, may_spin
from tools.trips.triggers import send

_EVERY_REQUEST = 1_000_000
_HANG_MS = 800  # within the validity of an order: one that hangs still takes effect
_AWAY_MS = 2_500
_HALF_OPEN_MS = 60_000
_FILL_S = 20.0


def _nothing(session: TripSession) -> None:
    """It is over by itself."""


def _always(session: TripSession) -> str:
    return ""


@dataclass(frozen=True)
class Condition:
    """One thing that is wrong."""

    begin: Callable[[TripSession, Draws], None]
    end: Callable[[TripSession], None] = _nothing
    load: bool = False  # needs a venue with more flow
    lacks: Callable[[TripSession], str] = _always  # why it cannot be had here


def _signal(role: Role, signum: int) -> Callable[[TripSession, Draws], None]:
    def begin(session: TripSession, draws: Draws) -> None:
        send(session.pid(role), signum)

    return begin


def _go_on(role: Role) -> Callable[[TripSession], None]:
    def end(session: TripSession) -> None:
        send(session.pid(role), signal.SIGCONT)

    return end


def _load(session: TripSession, draws: Draws) -> None:
    busy = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(busy) for _ in range(2 * len(os.sched_getaffinity(0)))]

    def end() -> None:
        for burner in burners:
            burner.kill()
            burner.wait()

    session.cleanups.append(end)


def _clean_up(session: TripSession) -> None:
    for cleanup in session.cleanups:
        cleanup()
    session.cleanups.clear()


def _fill_ring(session: TripSession, draws: Draws) -> None:
    """Until something was dropped because there was no room. Raises TimeoutError when that does not happen."""
    ring, stopped = session.live.ring("market"), 0
    before = ring.dropped

    def is_full() -> bool:
        nonlocal stopped
        pid = session.pid(Role.VALIDATION)
        if pid != stopped:  # the supervisor replaces one that stands still before the ring is full
            send(pid, signal.SIGSTOP)
            stopped = pid
        return ring.dropped != before

    wait_until(is_full, _FILL_S, "full ring")


def _spin(session: TripSession, draws: Draws) -> None:
    pid = session.pid(Role.EXECUTION)
    make_spin(pid)
    # On a crowded machine it takes the supervisor a while to tell it from one that is starved.
    session.cleanups.append(lambda: send(pid, signal.SIGKILL))


def _cannot_spin(session: TripSession) -> str:
    return may_spin()


def _answers(action: str, status: int = 503, delay_ms: int = 0) -> Callable[[TripSession, Draws], None]:
    def begin(session: TripSession, draws: Draws) -> None:
        session.venue.fault(
            fault="http", action=action, path="/fapi/", count=_EVERY_REQUEST, status=status, delay_ms=delay_ms
        )

    return begin


def _hang(session: TripSession, draws: Draws) -> None:
    """Requests are taken and carried out late, or taken and never answered."""
    if draws.uniform() < 0.5:
        _answers("hang_before", delay_ms=_HANG_MS)(session, draws)
    else:
        session.venue.fault(fault="half_open", streams="rest", duration_ms=_HALF_OPEN_MS)


def _go_away(session: TripSession, draws: Draws) -> None:
    session.venue.fault(fault="gone", duration_ms=_AWAY_MS)


def _heal(session: TripSession) -> None:
    session.venue.heal()


def _fill_disk(session: TripSession, draws: Draws) -> None:
    with (session.data / FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            continue


def _make_room(session: TripSession) -> None:
    (session.data / FILLER).unlink(missing_ok=True)


def _no_disk(session: TripSession) -> str:
    return session.no_disk


def _idle(session: TripSession, draws: Draws) -> None:
    """Nothing is wrong."""


CONDITIONS = {
    "idle": Condition(_idle),
    "load": Condition(_load, _clean_up, load=True),
    "ring full": Condition(_fill_ring, _go_on(Role.VALIDATION)),
    "spinning": Condition(_spin, _clean_up, lacks=_cannot_spin),
    "execution stopped": Condition(_signal(Role.EXECUTION, signal.SIGSTOP), _go_on(Role.EXECUTION)),
    "execution killed": Condition(_signal(Role.EXECUTION, signal.SIGKILL)),
    "gateway stopped": Condition(_signal(Role.GATEWAY, signal.SIGSTOP), _go_on(Role.GATEWAY)),
    "supervisor killed": Condition(_signal(Role.SUPERVISOR, signal.SIGKILL)),
    "venue 5xx": Condition(_answers("error_before"), _heal),
    "venue 429": Condition(_answers("rate_limit"), _heal),
    "venue hangs": Condition(_hang, _heal),
    "venue gone": Condition(_go_away, _heal),
    "disk full": Condition(_fill_disk, _make_room, lacks=_no_disk),
    "recorder down": Condition(_signal(Role.RECORDER, signal.SIGSTOP), _go_on(Role.RECORDER)),
}
