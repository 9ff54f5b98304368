"""A venue on its worst days: thousands of sessions in virtual time, some over real sockets and processes.

A session in virtual time says by itself what it broke (procs/virtual/). One over sockets meets the same
bursts of faults in real time; then the venue heals, and everything that holds at the end of a good day must hold.
"""

from __future__ import annotations

from procs.virtual.hostile import run_hostile_session, script_of
from shm.clock import sleep
from tools.soak.kills import faults_of
from tools.soak.session import engine, leftovers, venue
from tools.soak.tally import Piece

_VIRTUAL_A_PIECE = 50
_SOCKETS_A_PIECE = 2
_CALM_S = 4.0
_HEALED_S = 12.0  # two answers "not found" lie 2 s apart, and queries back off up to 8 s


def again_in_virtual_time(seed: int) -> str:
    """The command that runs one session in virtual time again."""
    return f"python -c 'from procs.virtual.hostile import *; print(run_hostile_session({seed}))'"


def run_hostile(piece: Piece) -> None:
    """Fifty sessions in virtual time, with seeds of their own."""
    for seed in range(piece.seed * _VIRTUAL_A_PIECE, (piece.seed + 1) * _VIRTUAL_A_PIECE):
        outcome = run_hostile_session(seed)
        if outcome.violations:
            text = f"session {seed}: {outcome.violations[0]}"
            if len(outcome.violations) > 1:
                text += f", and {len(outcome.violations) - 1} more"
            piece.hold(False, text, again_in_virtual_time(seed))
        piece.count("sessions")
        piece.count("orders", outcome.orders)
        piece.count("fills", outcome.fills)
        piece.count("orders that were UNKNOWN", outcome.unknown)
        piece.count("virtual seconds", outcome.virtual_s)
        for kind, number in outcome.faults.items():
            piece.count(kind, number)


def run_hostile_sockets(piece: Piece) -> None:
    """Two sessions over sockets."""
    for number in range(_SOCKETS_A_PIECE):
        seed = piece.seed * _SOCKETS_A_PIECE + number
        for text in hostile_socket_session(piece, seed):
            piece.hold(False, f"session {seed}: {text}")
        piece.count("sessions")


def hostile_socket_session(piece: Piece, seed: int) -> list[str]:
    """One session: calm before each burst and after the last, then the stop.

    Returns what it broke; what it did is counted in the piece.
    """
    folder = piece.folder / f"session-{seed}"
    folder.mkdir()
    with venue(folder, seed=seed + 1) as place, engine(folder, venue=place.connection) as made:
        made.start()
        made.wait_trading()
        for burst in script_of(seed).bursts:
            sleep(_CALM_S)
            place.fault(seed=seed, rates=burst.rates, delay_ms=burst.delay_ms, duration_ms=burst.duration_ms)
            sleep(burst.length_ms / 1e3)
            place.heal()
        sleep(_HEALED_S)
        code, out, err = made.finish(timeout=90)
        if not made.summary_file.exists():
            return [f"no summary, exit code {code}: {out[-1000:]} {err[-1000:]}"]
        summary = made.summary()
        truth = place.state()
        piece.count("orders", summary["orders"]["sent"])
        piece.count("fills", summary["fills"])
        piece.count("orders that were UNKNOWN", summary["orders"]["unknown"])
        for kind, times in truth["counters"]["faults"].items():
            piece.count(kind, times)
        broken = faults_of(summary, truth, ingestion_deaths=0)
        if code != 0:
            broken.append(f"exit code {code}: {err[-1000:]}")
        if truth["counters"]["bans"]:
            broken.append(f"{truth['counters']['bans']} bans (418) that nobody ordered")
        if leftovers(made.name):
            broken.append(f"left behind: {leftovers(made.name)}")
        return broken
