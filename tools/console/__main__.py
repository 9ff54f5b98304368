"""The console that `bot4 run` opens: `python -m tools.console ARGUMENTS...`, with those of `bot4 console`."""

from __future__ import annotations

import os
import sys

from tools.cli import guarded, parse
from tools.console.command import console_command

if __name__ == "__main__":
    parent = os.getppid()
    sys.exit(guarded(lambda: console_command(parse(["console", *sys.argv[1:]]), owner=parent)))
