"""`bot4 replay`: a journal or a capture through the same kernels, without sockets."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType
from typing import Any

import orjson

from models.inference import ModelError
from procs.capture.manifest import is_capture
from procs.capture.reader import CaptureReader
from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.journal.reader import JournalError
from procs.replay import ReplayError, is_session_folder, open_source, replay_fused
from procs.replay_processes import replay_auto
from shm.segment import SegmentError
from tools.run import check_summary_path, write_summary
from tools.selection import selection_of
from tools.text import parse_speed
from tools.usage import UsageError, require_there


def _end(signum: int, frame: FrameType | None) -> None:
    """Leave as after an error: what was made in shared memory is freed on the way out."""
    raise SystemExit(128 + signum)


def replay_command(options: argparse.Namespace) -> int:
    """Replay and report; 0 when every record is accounted for."""
    settings = read_settings(options.config)
    speed = parse_speed(options.speed)
    if options.fills == "sim":
        raise UsageError("--fills sim: captures are replayed without fills as yet; allowed is none")
    selection = selection_of(options)
    check_summary_path(options.summary)
    require_there(options.source)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _end)
    try:
        source = open_source(options.source, settings, selection, watch_before=True)
        if options.fills and source.is_session:
            raise UsageError("--fills: a session's journal holds its own fills; leave the option out")
        if not options.fills and not selection.everything and is_session_folder(options.source):
            raise UsageError(
                "--from, --to, --symbols: the fills of a session belong to all of it; a part of its market data is "
                "replayed without fills (--fills none)"
            )
        if not source.is_session:
            for bound in source.strategies:
                if bound.stale_ms:
                    print(f"bot4: {bound.name} is Python alone: without a session's journal it decides nothing",
                          file=sys.stderr)
        if is_capture(options.source) and (torn := CaptureReader(options.source).find_torn()):
            print(f"bot4: {options.source}: the last {torn} bytes are torn, or being written: they are left out",
                  file=sys.stderr)
        replay = replay_auto if options.placement == "auto" else replay_fused
        summary = replay(source, speed)
    except (ReplayError, CaptureError, JournalError, ModelError, SegmentError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    write_summary(options.summary, "", summary)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(summary) + b"\n")
    else:
        print(_words(summary))
    if summary["unaccounted"]:
        print(f"bot4: {summary['unaccounted']} records are unaccounted for", file=sys.stderr)
        return 1
    return 0


def _refusals(stages: dict[str, Any]) -> list[str]:
    """One line for each stage that refused records: how many of what, and why."""
    lines = []
    for name, stage in stages.items():
        counts = {**stage["quarantined"], **stage["dropped"]}
        if counts:
            lines.append(f"{name} refused {', '.join(f'{count} {reason}' for reason, count in counts.items())}")
    return lines


def _words(summary: dict[str, Any]) -> str:
    market, decisions = summary["market"], summary["decisions"]
    duration = summary["engine"]["duration_s"]
    lines = [
        f"{summary['engine']['source']}: {market['frames']} frames in {duration:.2f} s "
        f"({market['frames'] / max(duration, 1e-9):,.0f} a second), {summary['engine']['placement']}",
        f"{market['level_updates']} level updates, {market['snapshot_levels']} snapshot levels, "
        f"{market['trades']} trades, "
        f"{market['book_tickers']} book tickers, {market['gaps']} gaps, {market['crossed_books']} crossed books",
        f"books right {market['book_valid_ratio']:.2%} of the time",
        *([f"before them {summary['warm_up_frames']} frames were only watched"] if summary["warm_up_frames"] else []),
        *_refusals(summary["stages"]),
        f"{decisions['signals']} signals, {decisions['intents']} intents, {summary['fills']} fills",
        f"decision hash {summary['decision_hash']}, unaccounted records: {summary['unaccounted']}",
    ]
    if "predictions" in summary:
        compared = summary["predictions"]
        lines.append(f"{compared['compared']} predictions made again, {compared['different']} different")
    return "\n".join(lines)
