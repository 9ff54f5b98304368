"""`bot4 new strategy NAME [--python]`: a strategy to begin with, and a test beside it that passes as it stands."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import sys
from pathlib import Path

import orjson

from engine.strategies.settings import SHIPPED
from tools.usage import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
TEMPLATES = Path(__file__).parent / "templates"


def _hidden_module(name: str) -> str:
    """Where the module lies that a file of this name would hide from whatever imports it; empty where there is none.

    A strategy's own folder is looked in first when it imports something.
    """
    if name in sys.stdlib_module_names:
        return "Python's own"
    spec = importlib.util.find_spec(name)
    return "" if spec is None or spec.origin is None else spec.origin  # without an origin it is a folder like any other


def new_command(options: argparse.Namespace) -> int:
    """Write the two files and say what comes next. Raises UsageError; nothing is written then."""
    name, folder = options.name, options.folder
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("test_") or name in SHIPPED:
        raise UsageError(
            f"{name!r}: a name has 1 to 32 lower-case letters, digits and '_', a letter first, and is no word of "
            f"Python's, none that begins with test_, none of {', '.join(SHIPPED)}"
        )
    kind = "python_strategy" if options.python else "strategy"
    files = {folder / f"{name}.py": f"{kind}.py.txt", folder / f"test_{name}.py": f"test_{kind}.py.txt"}
    for path in files:
        if path.exists():
            raise UsageError(f"{path}: is there already; nothing was written")
    if place := _hidden_module(name):
        raise UsageError(
            f"{name!r}: a module of this name can be imported already ({place}), and {name}.py would be taken for it; "
            "choose another name"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write((TEMPLATES / template).read_text().replace("NAME", name))
            path.chmod(0o644)  # code that others may write is refused
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}") from None
    path, test = files
    table = f'[strategies.{name}]\nfile = "{path}"\n\n[strategies.{name}.parameters]\norder_value = 200.0\n'
    if options.json:
        answer = {"strategy": str(path), "test": str(test), "toml": table}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        return 0
    print(f"{path} and {test} are written. Next:\n")
    print(f"1. try it:            python -m pytest {test}")
    print("2. put into bot4.toml (in the place of [maker]; further strategies are further tables):\n")
    print("".join(f"       {line}\n" if line else "\n" for line in table.splitlines()))
    print("3. see that it holds:  bot4 check")
    print("4. trade on paper:     bot4 run --for 1m\n")
    print("docs/strategies.md says what a strategy sees and can do.")
    return 0
