"""--from, --to and --symbols: which part of recorded data is meant."""

from __future__ import annotations

import argparse

from procs.capture.reader import EARLIEST_NS, LATEST_NS, Selection
from tools.usage import UsageError


def selection_of(options: argparse.Namespace) -> Selection:
    """What the options ask for. Raises UsageError."""
    selection = Selection(
        EARLIEST_NS if options.begin is None else options.begin, LATEST_NS if options.end is None else options.end,
        options.symbols or (),
    )
    if selection.from_ns >= selection.to_ns:
        raise UsageError("--from: allowed is a time before that of --to")
    return selection
