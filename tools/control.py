"""`bot4 mode`, `bot4 acknowledge`, `bot4 reset`: ask the control plane of a running engine for another mode.

The secret is asked for only when the supervisor says that it needs one.
"""

from __future__ import annotations

import argparse
from typing import Any

from engine.safety.mode import Mode
from procs.config_file import read_settings
from procs.control_socket import ControlError, ask
from tools.kill import NoEngine, trip_by_name
from tools.secret import read_secret
from tools.text import show_answer

TIMEOUT_S = 100.0


def _ask(name: str, request: dict[str, Any]) -> dict[str, Any]:
    answer = ask(name, request, TIMEOUT_S)
    if answer.get("needs") == "secret":
        answer = ask(name, request | {"secret": read_secret(f"operator secret of {name}: ")}, TIMEOUT_S)
    return answer


def control_command(options: argparse.Namespace) -> int:
    """Ask for a mode, acknowledge an emergency, or reset it; exit code 1 when that was refused."""
    name = read_settings(options.config).engine.name
    tripped = False
    request: dict[str, Any] = {"command": options.command, "reason": options.reason}
    try:
        if options.command == "mode":
            request["mode"] = options.mode.upper()
            if request["mode"] == Mode.EMERGENCY.name:
                trip_by_name(name)  # it needs nobody; the supervisor is told why afterwards
                tripped = True
        elif options.command == "reset":
            request["acknowledge"] = options.acknowledge
        answer = _ask(name, request)
    except (ControlError, NoEngine) as error:
        answer = {"ok": False, "error": str(error)}
        if request.get("mode") == Mode.EMERGENCY.name and tripped:
            answer = {"ok": True, "mode": Mode.EMERGENCY.name, "after": f"it was not told why: {error}"}
    words = f"{name}: {answer.get('mode')}"
    if answer.get("after"):
        words += f"; {answer['after']}"
    if options.command == "reset":
        words += "; `bot4 mode normal --reason TEXT` goes on trading"
    if options.command == "acknowledge":
        words += "; the cause is acknowledged"
    return show_answer(options, answer, words)


def control_status(name: str) -> dict[str, Any] | None:
    """What the control plane says of the mode; None where it does not answer."""
    try:
        answer = ask(name, {"command": "status"}, 2.0)
    except ControlError:
        return None
    return answer if answer["ok"] else None


def control_lines(control: dict[str, Any] | None) -> list[str]:
    """The control plane's part of a status for people."""
    if control is None:
        return ["the supervisor does not answer: who holds the mode is not known"]
    now = control["now_ns"]
    lines = [
        f"  {item['mode']} by {item['by']} for {(now - item['since_ns']) / 1e9:.0f} s, "
        f"{item['cause']}: {item['reason']}"
        + (f" (clear for {(now - item['clear_since_ns']) / 1e9:.0f} s)" if item["clear_since_ns"] else "")
        + (" (of an earlier session)" if item["stale"] else "")
        for item in control["holds"]
    ]
    emergency = control["emergency"]
    if emergency is not None:
        by = f", acknowledged by {emergency['acknowledged_by']}" if emergency["acknowledged_by"] else ""
        lines.insert(
            0,
            f"  EMERGENCY by {', '.join(emergency['sources']).lower()} for "
            f"{(now - emergency['since_ns']) / 1e9:.0f} s: {emergency['reason']}{by}",
        )
        lines += [f"  a reset needs: {item['need']} ({item['why']})" for item in control["reset_needs"]]
    elif control["not_armed"]:
        lines.append(f"  not armed: {control['not_armed']}")
    if control["locked"]:
        lines.append(f"  the operator's secret is {control['locked']}")
    return lines
