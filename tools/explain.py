"""`bot4 explain ORDER`: an order back to the frame behind it, from the journals of its session."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from procs.config_file import read_settings
from procs.explain.explanation import explain, session_id_in
from procs.explain.session import ExplainError, Session, UnknownForm, find_session, open_session
from procs.explain.whole import explain_all
from procs.journal.index import read_indexes
from procs.journal.reader import JournalError
from procs.replay import ReplayError
from procs.table import Role
from shm.clock import python_monotonic_ns
from tools.explain_text import explanation_lines, whole_lines
from tools.usage import UsageError, require_there

_QUIET_NS = 1_000_000_000
_REDRAW_NS = 200_000_000


class ReplayProgress:
    """One line on a terminal while a replay goes on, from its second second on; nothing anywhere else."""

    def __init__(self, folder: Path) -> None:
        indexes = read_indexes(folder, Role.EXECUTION.label) if sys.stderr.isatty() else []
        self._first_ns = indexes[0].first_ts_ns if indexes else 0
        self._last_ns = indexes[-1].last.ts_ns if indexes else 0
        self._began = python_monotonic_ns()
        self._due = self._began + _QUIET_NS
        self._shown = False

    def __call__(self, ts_ns: int, _entries: int) -> None:
        """Session time that the replay has come to."""
        if self._last_ns <= self._first_ns or (now := python_monotonic_ns()) < self._due:
            return
        self._due = now + _REDRAW_NS
        self._shown = True
        share = min((ts_ns - self._first_ns) / (self._last_ns - self._first_ns), 1.0)
        took = (now - self._began) / 1e9
        text = f"replaying the session: {100 * share:.0f} % of it in {took:.0f} s"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def session_of(options: argparse.Namespace, named: str = "") -> Session:
    """The session that a command is about: --session, or that of the running engine, or the newest; named: the id of
    the session that a client order id tells. Raises ExplainError, SettingsError, UsageError."""
    if options.session is not None:
        require_there(options.session)
        return open_session(options.session)
    return open_session(find_session(read_settings(options.config), named))


def answer_or_error(options: argparse.Namespace, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What `make` answers, or None after its error was said. Raises UsageError for what names nothing."""
    try:
        return make()
    except UnknownForm as error:
        raise UsageError(str(error)) from None
    except (ExplainError, ReplayError, JournalError) as error:
        if options.json:
            sys.stdout.buffer.write(orjson.dumps({"error": str(error)}) + b"\n")
        else:
            print(f"bot4: {error}", file=sys.stderr)
        return None


def explain_command(options: argparse.Namespace) -> int:
    """Explain an order; exit code 1 where there is none, or where the replay does not agree with what was sent."""

    def make() -> dict[str, Any]:
        session = session_of(options, session_id_in(options.order))
        progress = ReplayProgress(session.folder)
        try:
            if options.order == "all":
                return explain_all(session, lambda _figures: None, progress)
            return explain(session, options.order, progress)
        finally:
            progress.end()

    explanation = answer_or_error(options, make)
    if explanation is None:
        return 1
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(explanation) + b"\n")
    else:
        print("\n".join(whole_lines(explanation) if options.order == "all" else explanation_lines(explanation)))
    return 1 if explanation["findings"] else 0
