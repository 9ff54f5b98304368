"""`bot4 run`: start everything, show a status line, stop in order, write the summary."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import orjson

from engine.config import Settings, check_trading
from engine.settings import SettingsError
from models.inference import ModelError
from procs.config_file import DEFAULT_FILE, read_settings
from procs.handover import Handover
from procs.supervisor import EngineError, Supervisor
from procs.trusted import NotOurs, check_config
from procs.venues.binance_usdm.endpoints import CredentialsError, VenueUnreachable
from procs.venues.market import check_feed, check_verified
from shm.clock import python_monotonic_ns
from shm.segment import SegmentError
from tools.status import status_line
from tools.usage import UsageError
from tools.voice import Voice


class _StatusLines:
    """Prints a status line every few seconds; nothing when standard output holds JSON."""

    def __init__(self, every_s: float, quiet: bool, voice: Voice) -> None:
        self._every_ns = int(every_s * 1e9)
        self._next = python_monotonic_ns() + self._every_ns
        self._quiet = quiet
        self._voice = voice
        self._frames = 0

    def __call__(self, supervisor: Supervisor) -> None:
        now = python_monotonic_ns()
        if self._quiet or now < self._next:
            return
        self._next = now + self._every_ns
        line, self._frames = status_line(supervisor.mapping, self._frames, self._every_ns / 1e9)
        self._voice.show(line)


def _settings(options: argparse.Namespace) -> Settings:
    settings = read_settings(options.config)
    check_trading(settings)
    check_feed(settings)
    check_verified(settings)
    try:
        check_config(options.config or Path(DEFAULT_FILE))
    except NotOurs as error:
        raise SettingsError(str(error)) from None
    if options.placement:
        engine = dataclasses.replace(settings.engine, placement=options.placement)
        settings = dataclasses.replace(settings, engine=engine)
    return settings


def check_summary_path(path: Path | None) -> None:
    """Refuse a place where no summary can be written before the work is done, not after. Raises UsageError."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UsageError(f"--summary {path}: a file in a folder that exists and can be written to is needed")


def write_summary(path: Path | None, folder: str, summary: dict[str, Any]) -> None:
    """The summary as JSON, into the session's folder and to the file that was asked for."""
    text = orjson.dumps(summary, option=orjson.OPT_INDENT_2)
    if folder:
        (Path(folder) / "summary.json").write_bytes(text)
    if path is not None:
        try:
            path.write_bytes(text)
        except OSError as error:
            raise UsageError(f"--summary {path}: {error.strerror}") from None


def run_supervised(options: argparse.Namespace, handover: Handover, voice: Voice) -> int:
    """Run an engine until the time is over or Ctrl-C; 0 when it ended clean and equal to the venue.

    handover: what the launcher keeps; after the death of a supervisor this one adopts what it left. voice: what is
    said goes there, and the last words once the terminal is free.
    """
    settings = _settings(options)
    check_summary_path(options.summary)
    supervisor, failed = Supervisor(settings, voice.say, handover), ""
    try:
        if handover.adopts:
            supervisor.adopt()
            voice.keep(supervisor.plan.path)
            voice.say("adopted the running engine")
        else:
            supervisor.start()
            voice.keep(supervisor.plan.path)
            voice.say("trading; Ctrl-C stops")
        supervisor.run(options.duration, _StatusLines(settings.engine.status_every_s, options.json, voice))
        voice.say("stopping: no more entries, cancelling, waiting for final reports")
        summary = supervisor.stop()
        write_summary(options.summary, supervisor.plan.folder, summary)
    except (SettingsError, UsageError):
        raise
    except (EngineError, VenueUnreachable, CredentialsError, ModelError, SegmentError, ValueError) as error:
        failed = str(error)
    finally:
        supervisor.close()
        voice.await_terminal()
    if failed:
        print(f"bot4: {failed}", file=sys.stderr)
        return 1
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(summary) + b"\n")
    else:
        print(_closing_words(summary))
    if supervisor.failure:
        print(f"bot4: {supervisor.failure}", file=sys.stderr)
        return 1
    return 0


def _closing_words(summary: dict[str, Any]) -> str:
    orders, pnl = summary["orders"], summary["pnl"]
    matches = "not compared" if summary["ledger_matches_venue"] is None else summary["ledger_matches_venue"]
    lines = [
        f"{summary['engine']['duration_s']:.0f} s: {summary['market']['frames']} frames, "
        f"{orders['sent']} orders, {summary['fills']} fills, {orders['cancelled']} cancelled, "
        f"{orders['rejected'] + orders['expired']} refused by the venue, {sum(orders['denied'].values())} denied by us",
        f"realised {pnl['realised']}, unrealised {pnl['unrealised']}, fees {pnl['fees']}, cash {summary['cash']}",
        f"ledger equals venue: {matches}, unaccounted records: {summary['unaccounted']}, "
        f"decision hash {summary['decision_hash']}",
        f"session folder: {summary['engine']['folder']}",
    ]
    return "\n".join(lines)
