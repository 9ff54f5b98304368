"""The command line: `bot4 COMMAND`. Exit code 0 ok, 1 a finding or failed run, 2 bad usage or configuration."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.settings import SettingsError
from tools.bench import SUITE_NAMES
from tools.button_options import add_options as add_button_options
from tools.data import add_subcommands
from tools.latency.options import add_options as add_latency_options
from tools.text import parse_duration, parse_symbols, parse_time
from tools.trips import TRIGGER_NAMES
from tools.usage import UsageError


def command_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; docs/reference/commands.md is made from it."""
    parser = argparse.ArgumentParser(prog="bot4", description="Bot4: an autonomous crypto trading engine.")
    parser.add_argument("--version", action="version", version=f"bot4 {version('bot4')}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="configuration file (default: bot4.toml)")
    shared.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else there")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[shared], help="start everything and trade (on paper by default)")
    run.add_argument("--for", dest="duration", type=parse_duration, metavar="TIME", help="stop after 30s, 5m, 1h ...")
    run.add_argument("--summary", type=Path, metavar="FILE", help="write the summary there as JSON")
    run.add_argument("--no-console", action="store_true", help="lines on a terminal too, instead of the console")
    run.add_argument("--placement", choices=("auto", "pinned"), help="which process sits on which core")

    replay = commands.add_parser("replay", parents=[shared], help="feed a capture or a journal through the engine")
    replay.add_argument("source", type=Path, metavar="SOURCE", help="a session folder, a capture, or a recorded file")
    _add_selection(replay)
    replay.add_argument("--placement", choices=("fused", "auto"), default="fused",
                        help="all stages in one process, or those and the rings of a live engine")
    replay.add_argument("--fills", choices=("none", "sim"), help="who fills orders when a capture is replayed")
    replay.add_argument("--speed", default="max", help="max, or a factor such as 1x or 10x")
    replay.add_argument("--summary", type=Path, metavar="FILE", help="write the summary there as JSON")

    record = commands.add_parser("record", parents=[shared], help="record the venue's market data, without trading")
    record.add_argument("--for", dest="duration", type=parse_duration, metavar="TIME", help="stop after 30s, 1h ...")
    record.add_argument("--out", type=Path, metavar="FOLDER", help="the capture; one that is there is gone on with")
    record.add_argument("--symbols", type=parse_symbols, metavar="A,B", help="instead of venue.symbols")
    add_subcommands(commands.add_parser("data", help="recorded data: convert it, look at it"), shared)

    commands.add_parser("console", parents=[shared], help="live console on a running engine; attach and detach at will")
    commands.add_parser("status", parents=[shared], help="processes, rings, positions and counters of a running engine")
    add_latency_options(commands.add_parser("latency", parents=[shared], help="live percentiles of every hop; exports"))
    _add_explain(commands, shared)
    commands.add_parser("kill", parents=[shared], help="set the emergency word now")
    button = commands.add_parser("button", parents=[shared], help="serve a red button for an engine on another machine")
    add_button_options(button)
    mode = commands.add_parser("mode", parents=[shared], help="ask for another mode; less safe needs the secret")
    mode.add_argument("mode", type=str.lower, choices=("normal", "reduce", "pause", "emergency"),
                      help="normal, reduce (positions go down), pause (nothing new), emergency (a trip)")
    reset = commands.add_parser("reset", parents=[shared], help="leave EMERGENCY for PAUSE")
    reset.add_argument("--acknowledge", action="store_true", help="acknowledge the cause too; the reason names it")
    acknowledge = commands.add_parser("acknowledge", parents=[shared], help="say that an emergency's cause is known")
    for command in (mode, reset, acknowledge):
        command.add_argument("--reason", required=True, metavar="TEXT", help="why; it is kept in the audit log")
    change = commands.add_parser("set", parents=[shared], help="another value for a parameter of a running strategy")
    change.add_argument("parameter", metavar="STRATEGY.PARAMETER", help="such as maker.order_value")
    change.add_argument("value", metavar="VALUE", help="within the parameter's bounds")
    change.add_argument("--reason", required=True, metavar="TEXT", help="why; it is kept in the audit log")
    new = commands.add_parser("new", parents=[shared], help="begin a strategy of your own: a file and its test")
    new.add_argument("what", choices=("strategy",), help="what to begin: a strategy with its test")
    new.add_argument("name", metavar="NAME", help="lower-case letters, digits and '_'")
    new.add_argument("--folder", type=Path, default=Path("strategies"), help="where to (default: strategies)")
    new.add_argument("--python", action="store_true", help="one that is Python alone, in a process of its own")
    commands.add_parser("secret", parents=[shared], help="set the operator's secret, asked for on the terminal")
    drill = commands.add_parser("drill", parents=[shared], help="the whole kill drill, on paper, and its report")
    drill.add_argument("--trigger", action="append", choices=TRIGGER_NAMES, help="only this one; may be given again")
    drill.add_argument("--report", type=Path, metavar="FOLDER", help="for the report (default: in the data folder)")
    audit = commands.add_parser("audit", parents=[shared], help="the log of what changed what the engine may do")
    audit.add_argument("action", choices=("show", "verify"), help="show it, or follow its chain of hashes")
    venue = commands.add_parser("venue", parents=[shared], help="run the embedded exchange by itself")
    venue.add_argument("--port", type=int, help="TCP port on loopback; 0 for any free one")
    commands.add_parser("venues", parents=[shared], help="which markets there are, and what each of them offers")
    play = commands.add_parser("play", parents=[shared], help="serve a recording as its venue's own endpoints")
    play.add_argument("source", type=Path, nargs="+", metavar="SOURCE",
                      help="captures, capture files, or session logs of one venue")
    _add_selection(play)
    play.add_argument("--port", type=int, help="TCP port on loopback; 0 for any free one")
    play.add_argument("--speed", default="1x", help="max, or a factor such as 1x or 20x")
    play.add_argument("--fault", action="append", default=[], metavar="KIND[:STREAM](=RATE|@ORDINAL)[,MS]",
                      help="such as drop:depth=0.001 or stall@5000,8000; may be given again")
    play.add_argument("--seed", type=int, default=0, help="of the faults")
    play.add_argument("--orders", action="store_true", help="take orders, filled beside the recorded book (USD-M)")
    play.add_argument("--latency", type=int, metavar="MS", help="orders reach the book so much later")
    play.add_argument("--cancelled", choices=("careful", "even"), help="where in a queue sizes are cancelled: behind "
                      "us while they can be (careful, by default), or evenly")
    bench = commands.add_parser("bench", parents=[shared], help="measure a part of the engine, beside its peers")
    bench.add_argument("suite", choices=SUITE_NAMES, help="what to measure")
    bench.add_argument("--full", action="store_true", help="longer passes; without it 30 s at the most (kill: minutes)")
    train = commands.add_parser("train", parents=[shared], help="make the shipped model again, and measure it")
    for name, text in (("seed", "of sessions and weights"), ("sessions", "to fit on"), ("seconds", "of one session"),
                       ("epochs", "passes over the rows")):
        train.add_argument(f"--{name}", type=int, metavar="N", help=f"{text} (default: that of the shipped model)")
    train.add_argument("--recordings", type=Path, metavar="FOLDER", help="measure on recordings too (default: "
                       "$BOT4_RECORDINGS, else none)")
    train.add_argument("--out", type=Path, metavar="FILE", help="ONNX file, its card goes beside it (default: the "
                       "shipped one, and docs/model_card.md)")
    commands.add_parser("doctor", parents=[shared], help="what this machine lacks for low latency or for live trading")
    commands.add_parser("check", parents=[shared], help="show the resolved configuration and whether it is sound")
    return parser


def _add_explain(commands: Any, shared: argparse.ArgumentParser) -> None:
    explain = commands.add_parser("explain", parents=[shared], help="an order, back to the frame behind it")
    explain.add_argument("order", metavar="ORDER", help="its number, its client order id, venue:ID, intent:N (the n-th "
                         "intent), denied:N (the n-th that the gate refused), last, or all")
    explain.add_argument("--session", type=Path, metavar="FOLDER", help="its folder (default: that of the running "
                         "engine, or the newest)")


def _add_selection(command: argparse.ArgumentParser) -> None:
    """Which part of recorded data a command is about; tools/selection.py reads them."""
    command.add_argument(
        "--from", dest="begin", type=parse_time, metavar="TIME",
        help="ISO 8601 or Unix seconds; what was recorded before is only watched",
    )
    command.add_argument("--to", dest="end", type=parse_time, metavar="TIME", help="up to, not including, this time")
    command.add_argument("--symbols", type=parse_symbols, metavar="A,B", help="of these instruments only")


def _run(options: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    """Run the command; each imports what it needs: `kill` must not wait for a library that it does not use."""
    if options.command == "run":
        from tools.beside import console_arguments
        from tools.launcher import Launcher

        return Launcher(sys.argv[1:] if arguments is None else arguments, console_arguments(options)).run()
    if options.command == "replay":
        from tools.replay import replay_command

        return replay_command(options)
    if options.command == "record":
        from tools.record import record_command

        return record_command(options)
    if options.command == "data":
        from tools.data import data_command

        return data_command(options)
    if options.command == "console":
        from tools.console.command import console_command

        return console_command(options)
    if options.command == "status":
        from tools.status import status_command

        return status_command(options)
    if options.command == "explain":
        from tools.explain import explain_command

        return explain_command(options)
    if options.command == "latency":
        from tools.latency.command import latency_command

        return latency_command(options)
    if options.command == "kill":
        from tools.kill import kill_command

        return kill_command(options)
    if options.command == "button":
        from tools.button import button_command

        return button_command(options)
    if options.command in ("mode", "reset", "acknowledge"):
        from tools.control import control_command

        return control_command(options)
    if options.command == "set":
        from tools.set_parameter import set_command

        return set_command(options)
    if options.command == "new":
        from tools.new_strategy import new_command

        return new_command(options)
    if options.command == "secret":
        from tools.secret import secret_command

        return secret_command(options)
    if options.command == "audit":
        from tools.audit import audit_command

        return audit_command(options)
    if options.command == "drill":
        from tools.drill import drill_command

        return drill_command(options)
    if options.command == "venue":
        from tools.venue import venue_command

        return venue_command(options)
    if options.command == "venues":
        from tools.venues import venues_command

        return venues_command(options)
    if options.command == "play":
        from tools.play import play_command

        return play_command(options)
    if options.command == "bench":
        from tools.bench_command import bench_command

        return bench_command(options)
    if options.command == "train":
        from tools.train import train_command

        return train_command(options)
    if options.command == "doctor":
        from tools.doctor.command import doctor_command

        return doctor_command(options)
    from tools.check import check_command

    return check_command(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = parse(arguments)
    return guarded(lambda: _run(options, arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, understood; a bad one ends the process with exit code 2."""
    return command_parser().parse_args(arguments)


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command. No traceback reaches a user: what is not foreseen is said in one line."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except (SettingsError, UsageError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not try to flush the rest of it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    except Exception as error:  # the last resort of the promise above
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        print(f"bot4: {type(error).__name__}: {error} ({where}); this should not happen", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
