"""The options of `bot4 button`, apart so that no other command waits for what serves a button."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_NAME = "bot4"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--engine", metavar="HOST[:PORT]", help="serve the button for the engine there")
    what.add_argument("--make-key", type=Path, metavar="FILE", help="write a new key, mode 0600")
    what.add_argument("--bundle", type=Path, metavar="FILE", help="write this program as one file, for another machine")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the shared key (default: remote_button.key_file)")
    parser.add_argument("--name", help=f"engine.name of the engine (default: the file's, else {DEFAULT_NAME})")
