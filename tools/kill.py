"""`bot4 kill`: set the emergency word. Needs nobody: maps the control block of the instance and trips."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from procs.config_file import read_settings
from shm.control import ControlBlock, TripSource, trip_count, tripped_sources
from shm.segment import SegmentError


class NoEngine(LookupError):
    """There is no control block of that name to trip."""


@dataclass(frozen=True)
class Killed:
    """What a trip has come to."""

    name: str
    word: int  # the emergency word
    alive: bool  # there is a supervisor

    @property
    def sources(self) -> list[str]:
        """Who tripped, this trip included."""
        return [source.name.lower() for source in tripped_sources(self.word)]

    @property
    def words(self) -> str:
        """For people."""
        then = "; cancelling everything" if self.alive else "; its supervisor is dead: look at the venue itself"
        return f"{self.name}: emergency word set by {', '.join(self.sources)} (trip {trip_count(self.word)}){then}"


def trip_by_name(name: str) -> Killed:
    """Set the emergency word of an instance, as an operator, without asking anybody. Raises NoEngine."""
    try:
        control = ControlBlock.attach(instance=name, kernel_digest=None)
    except SegmentError as error:
        raise NoEngine(f"no engine named {name!r} is running ({error})") from None
    word = control.trip(TripSource.OPERATOR)
    alive = Path(f"/proc/{control.supervisor_pid}").exists()
    control.close()
    return Killed(name, word, alive)


def kill_command(options: argparse.Namespace) -> int:
    """Trip the instance; exit code 1 when none of that name is there, or only what a dead one left."""
    name = read_settings(options.config).engine.name
    try:
        killed = trip_by_name(name)
    except NoEngine as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    if options.json:
        answer = {"name": name, "emergency_word": killed.word, "tripped_by": killed.sources}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    else:
        print(killed.words)
    if not killed.alive:
        print("bot4: its supervisor is dead; look at the venue itself for orders that rest there", file=sys.stderr)
        return 1
    return 0
