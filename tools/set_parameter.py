"""`bot4 set STRATEGY.PARAMETER VALUE --reason TEXT`: another value for a parameter of a running strategy."""

from __future__ import annotations

import argparse

from procs.config_file import read_settings
from procs.control_socket import ControlError, ask
from tools.text import show_answer
from tools.usage import UsageError

_TIMEOUT_S = 10.0


def set_command(options: argparse.Namespace) -> int:
    """Ask the running engine for it; exit code 1 when it was refused. Raises UsageError."""
    strategy, dot, parameter = options.parameter.partition(".")
    if not (strategy and dot and parameter):
        raise UsageError(f"{options.parameter!r}: STRATEGY.PARAMETER is needed, such as maker.order_value")
    name = read_settings(options.config).engine.name
    request = {
        "command": "set", "strategy": strategy, "parameter": parameter, "value": options.value,
        "reason": options.reason,
    }
    try:
        answer = ask(name, request, _TIMEOUT_S)
    except ControlError as error:
        answer = {"ok": False, "error": str(error)}
    words = (
        f"{name}: {options.parameter} was {answer.get('before')}, is {answer.get('after')} until the engine stops; the "
        "configuration file is as it was"
    )
    return show_answer(options, answer, words)
