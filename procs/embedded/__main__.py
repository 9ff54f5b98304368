"""The embedded exchange as a process: settings as its argument, its address on standard output, both JSON.

It ends on SIGTERM, and when its standard input closes: with whoever started it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import orjson

from engine.matching.settings import VenueSettings
from engine.settings import build
from procs.embedded.errors import VenueError
from procs.embedded.server import VenueAddress, serve_forever


def _end_with_parent() -> None:
    # os.read, not sys.stdin: a daemon thread must not hold the lock of a Python file when the interpreter ends.
    while os.read(0, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(address: VenueAddress) -> None:
    sys.stdout.buffer.write(orjson.dumps(address.as_dict()) + b"\n")
    sys.stdout.buffer.flush()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def main() -> int:
    """Serve until told to stop."""
    settings = build(VenueSettings, orjson.loads(sys.argv[1]), "embedded")
    try:
        return serve_forever(settings, _announce)
    except VenueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
