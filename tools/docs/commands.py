"""docs/reference/commands.md: every command and option, from the parsers that read them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tools.cli import command_parser
from tools.docs.markdown import code, table
from tools.docs.source_text import MissingText

_HEAD = """# Commands

`bot4 COMMAND --help` says the same, `bot4 --version` the version. Exit codes: 0 ok, 1 a finding or a failed run, 2
bad usage or configuration. Every command takes `--config FILE` (default: `bot4.toml` of the working directory, else
the defaults) and `--json`: one object on standard output and nothing else there. A duration is 30s, 5m, 1h, 500ms; a
point in time is ISO 8601 (UTC unless it says otherwise) or Unix seconds.
"""
_SHARED = {"--help", "--config", "--json"}


def subparsers(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """(help, parser) of every command of a parser, by name; none for one that has no commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (helps.get(name, ""), parser) for name, parser in action.choices.items()}
    return {}


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(name, help, parser) of every command, those within a command by both names."""
    for name, (help_text, inner) in subparsers(parser).items():
        yield f"{before}{name}", help_text, inner
        yield from commands(inner, f"{before}{name} ")


def options(name: str, parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """(how it is written, what it does) of every argument of its own. Raises MissingText."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or set(action.option_strings) & _SHARED:
            continue
        if not action.help:
            raise MissingText(f"bot4 {name}: {action.dest} has no help")
        values = "|".join(map(str, action.choices)) if action.choices else (action.metavar or action.dest.upper())
        value = values if isinstance(values, str) else " ".join(values)
        written = action.option_strings[-1] if action.option_strings else value
        if action.option_strings and action.nargs != 0:
            written += f" {value}"
        words = action.help
        if action.required and action.option_strings:
            words += " (needed)"
        if isinstance(action.default, str | int | float) and action.default and "default" not in action.help:
            words += f" (default: {action.default})"
        rows.append((code(written + (" ..." if action.nargs == "+" else "")), words))
    return rows


def page() -> str:
    """The whole page."""
    known = list(commands(command_parser()))
    parts = [_HEAD, "\n", table(("command", "what it does"), ((code(f"bot4 {name}"), text) for name, text, _ in known))]
    for name, help_text, parser in known:
        if not help_text:
            raise MissingText(f"bot4 {name} has no help")
        rows = options(name, parser)
        if rows:
            parts.append(f"\n## bot4 {name}\n\n{help_text[0].upper()}{help_text[1:]}.\n\n")
            parts.append(table(("argument", "what it does"), rows))
    return "".join(parts)
