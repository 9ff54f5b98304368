"""Every way to trip an engine, as something outside does it, and how it is released again.

`risk` sets the bit with the two instructions that anybody's trip is: nothing inside the engine sets it yet.
`execution` is what execution does by itself when there is neither kill switch nor supervisor for eight seconds.
`three deaths` and `dead engine` end the session (`ends`): they need one of their own, with a venue that outlives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from procs.table import Role
from shm.control import ControlBlock, TripSource
from tools.soak.session import alive, wait_until
from tools.trips.session import TripSession

_UNGUARDED_S = 30.0
_DEATHS = 3


def send(pid: int, signum: int) -> None:
    """A signal to a process that may be gone; 0, while nobody has the place, would be our own group."""
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _nothing(session: TripSession) -> None:
    """There is nothing to release."""


@dataclass(frozen=True)
class Trigger:
    """One way to trip."""

    source: TripSource
    pull: Callable[[TripSession], None]
    release: Callable[[TripSession], None] = _nothing
    ends: bool = False
    panic: bool = False  # needs the monitors armed
    patience_s: float = 10.0  # how long it may take until the word is set


def _command(*words: str) -> Callable[[TripSession], None]:
    def pull(session: TripSession) -> None:
        session.made.command(*words)  # whatever it says: whether the word was set is what counts

    return pull


def _press(session: TripSession) -> None:
    session.contact("press")


def _release_contact(session: TripSession) -> None:
    session.contact("release")


def _lose_button(session: TripSession) -> None:
    session.let_go_of_button()


def _button_again(session: TripSession) -> None:
    session.press_on()


def _usr1(session: TripSession) -> None:
    send(session.made.launcher.pid, signal.SIGUSR1)


def _risk(session: TripSession) -> None:
    control = ControlBlock.attach(instance=session.made.name, kernel_digest=None)
    control.trip(TripSource.RISK)
    control.close()


def _show_no_life(session: TripSession) -> None:
    """Features stands still: a monitor finds it before the supervisor's patience is over."""
    send(session.pid(Role.FEATURES), signal.SIGSTOP)


def _live_again(session: TripSession) -> None:
    send(session.pid(Role.FEATURES), signal.SIGCONT)


def _without_guard(session: TripSession) -> None:
    """Neither kill switch nor supervisor, until execution has tripped; then a supervisor goes on."""
    supervisor = session.pid(Role.SUPERVISOR)
    send(supervisor, signal.SIGSTOP)
    send(session.pid(Role.KILLSWITCH), signal.SIGKILL)
    control = session.live.control
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: control.word or session.pid(Role.SUPERVISOR) != supervisor, _UNGUARDED_S, "trip")
    send(supervisor, signal.SIGCONT)


def _three_deaths(session: TripSession) -> None:
    killed: list[int] = []

    def newborn() -> int:
        pid = session.pid(Role.ML)
        return pid if pid not in killed and alive(pid) else 0

    while len(killed) < _DEATHS and not session.live.control.word:
        wait_until(lambda: newborn() or session.live.control.word, 30, "another ml")
        if pid := newborn():
            killed.append(pid)
            send(pid, signal.SIGKILL)


def _dead_engine(session: TripSession) -> None:
    """Launcher and supervisor die: nobody is left who would start anything again."""
    for pid in (session.made.launcher.pid, session.pid(Role.SUPERVISOR)):
        send(pid, signal.SIGKILL)


TRIGGERS = {
    "button": Trigger(TripSource.HARDWARE, _press, _release_contact),
    "remote button lost": Trigger(TripSource.DEAD_MAN, _lose_button, _button_again),
    "kill": Trigger(TripSource.OPERATOR, _command("kill")),
    "SIGUSR1": Trigger(TripSource.OPERATOR, _usr1),
    "mode emergency": Trigger(TripSource.OPERATOR, _command("mode", "emergency", "--reason", "to try it")),
    "panic": Trigger(TripSource.PANIC, _show_no_life, _live_again, panic=True, patience_s=20.0),
    "risk": Trigger(TripSource.RISK, _risk),
    "execution": Trigger(TripSource.EXECUTION, _without_guard, patience_s=_UNGUARDED_S),
    "three deaths": Trigger(TripSource.SUPERVISOR, _three_deaths, ends=True, patience_s=30.0),
    "dead engine": Trigger(TripSource.SUPERVISOR, _dead_engine, ends=True, patience_s=30.0),
}
