"""Entry of the supervisor's process: `python -m tools.supervised VENUE_FD REPORT_FD ARGUMENTS...`, by the launcher.

Standard input: one JSON line of what a predecessor reported, {} for the first. REPORT_FD: once the session trades, one
JSON line for the launcher to keep.
"""

from __future__ import annotations

import os
import sys

import orjson

from procs.handover import Handover
from tools.cli import guarded, parse
from tools.run import run_supervised


def main() -> int:
    """Supervise one session, new or adopted."""
    os.umask(0o077)  # what a session leaves on disk is its owner's business, and that of every process started here
    venue_fd, report_fd = int(sys.argv[1]), int(sys.argv[2])
    options = parse(sys.argv[3:])
    handover = Handover(venue_fd, report_fd, os.getppid(), orjson.loads(sys.stdin.buffer.readline()))
    return guarded(lambda: run_supervised(options, handover))


if __name__ == "__main__":
    sys.exit(main())
