"""`bot4 data SUBCOMMAND`: what can be done with recorded data. One line in SUBCOMMANDS adds another."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Subcommand(NamedTuple):
    """One of them."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # imports what it needs


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a recorded file; a session log with all beside it")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the capture; empty, or not there yet")


def _convert(options: argparse.Namespace) -> int:
    from tools.data_capture import convert_command

    return convert_command(options)


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a capture")


def _show(options: argparse.Namespace) -> int:
    from tools.data_capture import show_command

    return show_command(options)


def _quarantine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", type=Path, metavar="FOLDER", help="folder of a session (default: the newest one)")
    parser.add_argument("--reason", type=str.upper, metavar="R", help="only what was refused for this reason")


def _quarantine(options: argparse.Namespace) -> int:
    from tools.data_quarantine import quarantine_command

    return quarantine_command(options)


def _statistics_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="*", metavar="SOURCE", help="captures, sessions, recorded files")
    parser.add_argument("--generated", type=int, nargs="?", const=1, metavar="SEED",
                        help="the embedded exchange's flow beside them, as long as the longest of them (seed: 1)")


def _statistics(options: argparse.Namespace) -> int:
    from tools.data_statistics import statistics_command

    return statistics_command(options)


SUBCOMMANDS = (
    Subcommand("convert", "make a capture of a recording in another format", _convert_options, _convert),
    Subcommand("show", "what a capture holds; reads all of it", _show_options, _show),
    Subcommand("quarantine", "frames and records that a session refused, and why", _quarantine_options, _quarantine),
    Subcommand("statistics", "what a market looks like: returns, spreads, lifetimes, arrivals", _statistics_options,
               _statistics),
)


def add_subcommands(data: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
    """Give the parser of `data` its sub-commands. shared: the options that all commands have."""
    parsers = data.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for subcommand in SUBCOMMANDS:
        parser = parsers.add_parser(subcommand.name, parents=[shared], help=subcommand.help)
        subcommand.add_options(parser)
        parser.set_defaults(run=subcommand.run)


def data_command(options: argparse.Namespace) -> int:
    """Run the sub-command."""
    code: int = options.run(options)
    return code
