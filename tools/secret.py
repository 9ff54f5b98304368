"""`bot4 secret`: set or change the secret that an operator needs for every step towards less safe.

It is asked for on the terminal, or read line by line from standard input where that is none; never an argument.
"""

from __future__ import annotations

import argparse
import getpass
import sys

from procs.config_file import read_settings
from procs.control_plane import open_control_folder
from procs.operator_secret import SecretError, secret_is_set, set_secret
from procs.trusted import NotOurs
from tools.text import show_answer
from tools.usage import UsageError


def read_secret(prompt: str) -> str:
    """A secret from the terminal, unseen, or one line of standard input. Raises UsageError for an empty one."""
    secret = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not secret:
        raise UsageError("a secret is needed: on the terminal, or as a line on standard input")
    return secret


def secret_command(options: argparse.Namespace) -> int:
    """Set or change the operator's secret of an instance; where one is in force it is asked for first."""
    settings = read_settings(options.config)
    name = settings.engine.name
    try:
        folder = open_control_folder(settings)
        current = read_secret(f"secret in force of {name}: ") if secret_is_set(folder) else None
        secret = read_secret(f"new operator secret of {name}: ")
        if sys.stdin.isatty() and read_secret("again: ") != secret:
            raise SecretError("the two are not the same; nothing was changed")
        set_secret(folder, secret, current)
    except (NotOurs, SecretError, OSError) as error:
        return show_answer(options, {"ok": False, "error": str(error)}, "")
    answer = {"ok": True, "name": name, "folder": str(folder)}
    return show_answer(options, answer, f"{name}: the operator's secret is set")
