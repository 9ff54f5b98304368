"""What can be asked of `bot4 latency`; nothing heavy is imported here. One line in SUBCOMMANDS adds another."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.text import parse_duration


class Subcommand(NamedTuple):
    """One of them."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # imports what it needs


def _jitter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", metavar="LIST", help="such as 0,2-3; without it all that this process may use")
    parser.add_argument("--for", dest="duration", type=parse_duration, default=10.0, metavar="TIME",
                        help="how long each core is watched (default: 10s)")
    parser.add_argument("--threshold", type=parse_duration, default=1e-6, metavar="TIME",
                        help="how long nothing may happen before it is a gap (default: 1us)")
    parser.add_argument("--together", action="store_true", help="all cores at once; without it one after the other")


def _jitter(options: argparse.Namespace) -> int:
    from tools.latency.jitter import jitter_command

    return jitter_command(options)


def _trace_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="an order as explain takes it, or frame:INGEST_ID")
    parser.add_argument("--session", type=Path, metavar="FOLDER", default=argparse.SUPPRESS,
                        help="its folder (default: the running engine's, or the newest)")


def _trace(options: argparse.Namespace) -> int:
    from tools.trace import trace_command

    return trace_command(options)


SUBCOMMANDS = (
    Subcommand("jitter", "what each core of this machine itself costs; needs no engine", _jitter_options, _jitter),
    Subcommand("trace", "the hops of one decision with their times", _trace_options, _trace),
)


def add_options(latency: argparse.ArgumentParser) -> None:
    """Give the parser of `latency` its options and sub-commands."""
    latency.add_argument("--watch", action="store_true", help="once a second, of the last second; Ctrl-C ends it")
    latency.add_argument("--histogram", nargs="?", const="", metavar="HOP", help="as bars; without HOP every hop")
    latency.add_argument("--export", type=Path, metavar="FILE",
                         help=".hlog: for the tools of HdrHistogram; .html: a page with plots that needs no network")
    latency.add_argument("--for", dest="duration", type=parse_duration, metavar="TIME",
                         help="how long to sample for --export (default: 10s), or to watch")
    latency.add_argument("--session", type=Path, metavar="FOLDER",
                         help="export what the folder of this session keeps, instead of sampling a running engine")
    # Given before the name of a sub-command they hold for it too, so there they must not fall back to a default.
    again = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    again.add_argument("--config", type=Path, metavar="FILE", help="configuration file (default: bot4.toml)")
    again.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else there")
    parsers = latency.add_subparsers(metavar="SUBCOMMAND", title="sub-commands")
    for subcommand in SUBCOMMANDS:
        parser = parsers.add_parser(subcommand.name, parents=[again], help=subcommand.help)
        subcommand.add_options(parser)
        parser.set_defaults(run=subcommand.run)
