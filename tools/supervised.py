"""Entry of the supervisor's process, by the launcher: `-m tools.supervised VENUE_FD REPORT_FD FLAG_FD ARGUMENTS`.

Standard input: one JSON line of what a predecessor reported, {} for the first. REPORT_FD: once the session trades, one
JSON line for the launcher to keep. FLAG_FD: whether a console has the terminal (tools/voice.py).
"""

from __future__ import annotations

import os
import sys

import orjson

from procs.handover import Handover
from tools.cli import guarded, parse
from tools.run import run_supervised
from tools.voice import Voice


def main() -> int:
    """Supervise one session, new or adopted."""
    os.umask(0o077)  # what a session leaves on disk is its owner's business, and that of every process started here
    venue_fd, report_fd, flag_fd = map(int, sys.argv[1:4])
    options = parse(sys.argv[4:])
    voice = Voice(sys.stderr if options.json else sys.stdout, flag_fd)
    handover = Handover(venue_fd, report_fd, os.getppid(), orjson.loads(sys.stdin.buffer.readline()))
    return guarded(lambda: run_supervised(options, handover, voice))


if __name__ == "__main__":
    sys.exit(main())
