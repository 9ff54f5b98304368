"""`bot4 console`: the console on a running engine."""

from __future__ import annotations

import argparse
import os
import sys

from tools.console.terminal import check_terminal
from tools.usage import UsageError

_NICE = 10  # what is loaded first costs a second of a core, which the engine may need


def console_command(options: argparse.Namespace, owner: int = 0) -> int:
    """Attach to the engine of the configuration; exit code 1 when none of that name runs, or it died.

    owner: pid of the `bot4 run` that opens it, 0 for none. Raises UsageError without a terminal to draw on.
    """
    if options.json:
        raise UsageError("console: it draws on a terminal and has no --json; `bot4 status --json` has what it shows")
    check_terminal()
    os.nice(_NICE)
    from procs.attach import NotRunning
    from procs.config_file import read_settings
    from tools.console.loop import watch

    try:
        return watch(read_settings(options.config).engine.name, owner)
    except NotRunning as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
