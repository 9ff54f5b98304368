"""`bot4 check`: the resolved configuration, and whether it is sound."""

from __future__ import annotations

import argparse
import sys

import orjson

from engine.config import config_hash
from engine.settings import as_plain
from models.inference import ModelError, load_card
from procs.config_file import read_settings
from procs.inference import model_path
from procs.strategies import check_declared, check_imports, load_strategies, read_strategies
from procs.venues.market import check_feed, ignored_settings


def check_command(options: argparse.Namespace) -> int:
    """Print every setting as it is in force, and those that the market does not have. A configuration that is not sound
    exits with 2, a bad model with 1."""
    settings = read_settings(options.config)
    check_feed(settings)
    plain = as_plain(settings)
    files = read_strategies(settings)
    strategies = load_strategies(settings, files)
    check_imports(files)
    for bound in strategies if settings.strategies else ():
        plain["strategies"][bound.name]["parameters"] = as_plain(bound.parameters)
    ignored = ignored_settings(settings)
    finding = ""
    try:
        check_declared(strategies, settings.features, load_card(model_path(settings.model.path), settings.features))
    except ModelError as error:
        finding = str(error)
    if options.json:
        content = {
            "settings": plain, "config_hash": config_hash(settings), "findings": [finding] if finding else [],
            "ignored": ignored,
        }
        sys.stdout.buffer.write(orjson.dumps(content) + b"\n")
    else:
        _print_section(plain, "")
        for words in ignored:
            print(f"# ignored: {words}")
        print(f"# configuration {config_hash(settings)[:16]}: {'a finding' if finding else 'sound'}")
    if finding:
        print(f"bot4: {finding}", file=sys.stderr)
    return 1 if finding else 0


def _print_section(values: dict, name: str) -> None:
    """TOML of one section, sub-sections after the plain keys."""
    if name:
        print(f"[{name}]")
        for key, value in values.items():
            if not isinstance(value, dict):
                print(f"{key} = {orjson.dumps(value).decode()}")
        print()
    for key, value in values.items():
        if isinstance(value, dict):
            _print_section(value, f"{name}.{key}" if name else key)
