"""`bot4 kill`: set the emergency word. Needs nobody: maps the control block of the instance and trips."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from procs.config_file import read_settings
from shm.control import ControlBlock, TripSource, trip_count, tripped_sources
from shm.segment import SegmentError


def kill_command(options: argparse.Namespace) -> int:
    """Trip the instance; exit code 1 when none of that name is there, or only what a dead one left."""
    name = read_settings(options.config).engine.name
    try:
        control = ControlBlock.attach(instance=name, kernel_digest=None)
    except SegmentError as error:
        print(f"bot4: no engine named {name!r} is running ({error})", file=sys.stderr)
        return 1
    word = control.trip(TripSource.OPERATOR)
    alive = Path(f"/proc/{control.supervisor_pid}").exists()
    control.close()
    sources = [source.name.lower() for source in tripped_sources(word)]
    if options.json:
        sys.stdout.buffer.write(orjson.dumps({"name": name, "emergency_word": word, "tripped_by": sources}) + b"\n")
    else:
        then = "; cancelling everything" if alive else ""
        print(f"{name}: emergency word set by {', '.join(sources)} (trip {trip_count(word)}){then}")
    if not alive:
        print("bot4: its supervisor is dead; look at the venue itself for orders that rest there", file=sys.stderr)
        return 1
    return 0
