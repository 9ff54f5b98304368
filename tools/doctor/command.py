"""`bot4 doctor`: every check in turn, in words or as JSON. Exit code 1 when there is a problem."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import orjson

from procs.config_file import DEFAULT_FILE, read_settings
from tools.doctor import machine, rights, software
from tools.doctor.finding import Check, Host, Level, examine

CHECKS: tuple[Check, ...] = (*machine.CHECKS, *rights.CHECKS, *software.CHECKS)
_MARKS = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}
_WIDTH = 110
_INDENT = " " * 30


def doctor_command(options: argparse.Namespace) -> int:
    """Look at this machine as the engine of this configuration would find it."""
    config = options.config or Path(DEFAULT_FILE)
    findings = examine(Host(Path("/"), read_settings(options.config), config), CHECKS)
    problems = sum(finding.level == Level.PROBLEM for finding in findings)
    if options.json:
        content = [asdict(finding) | {"level": _MARKS[finding.level].lower()} for finding in findings]
        sys.stdout.buffer.write(orjson.dumps({"findings": content, "problems": problems}) + b"\n")
        return 1 if problems else 0
    for finding in findings:
        print(f"{_MARKS[finding.level]:<9}{finding.topic:<20} {finding.found}")
        for what, text in (("so", finding.effect), ("do", finding.remedy)):
            if text:
                print(textwrap.fill(f"{_INDENT}{what}: {text}", _WIDTH, subsequent_indent=_INDENT + "    "))
    counts = ", ".join(
        f"{sum(finding.level == level for finding in findings)} {mark.lower()}" for level, mark in _MARKS.items()
    )
    print(f"\n{len(findings)} findings: {counts}")
    return 1 if problems else 0
