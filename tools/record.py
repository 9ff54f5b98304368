"""`bot4 record`: the configured venue's market data into a capture. Nothing is traded, and no engine is needed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from engine.config import MARKETS, Settings, settings_from
from engine.settings import as_plain
from procs.budget import Budget
from procs.capture.manifest import Manifest, new_capture_id
from procs.capture.recorder import Recorder
from procs.capture.writer import open_writer
from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.venue_process import VenueDidNotStart, VenueProcess
from procs.venues.binance_usdm.endpoints import Endpoints, VenueUnreachable
from procs.venues.market import check_feed, market_of, subscribed
from shm.clock import new_session_offset_ns, python_monotonic_ns, python_session_ns, wall_ns


def _settings(options: argparse.Namespace) -> Settings:
    """The configuration, with the symbols of the command line. Raises SettingsError."""
    settings = read_settings(options.config)
    if options.symbols:
        venue = dataclasses.replace(settings.venue, symbols=options.symbols)
        own = {symbol: item for symbol, item in settings.feed.symbols.items() if symbol in options.symbols}
        feed = dataclasses.replace(settings.feed, symbols=own)
        # No strategy runs here, so what is recorded need not be what they trade.
        settings = settings_from(as_plain(dataclasses.replace(settings, venue=venue, feed=feed, strategies={})))
    check_feed(settings)
    return settings


@contextlib.contextmanager
def _endpoints(settings: Settings) -> Iterator[Endpoints]:
    """Where the venue is; the embedded exchange runs as long as this lasts, and not longer than this process."""
    if not settings.venue.embedded:
        yield Endpoints(settings.venue.rest_url, settings.venue.ws_url)
        return
    lifeline, held = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="bot4-record-") as folder:
            venue = VenueProcess.start(settings, Path(folder) / "venue.log", lifeline)
            try:
                yield venue.endpoints
            finally:
                venue.stop()
    finally:
        os.close(lifeline)
        os.close(held)


def _folder(options: argparse.Namespace, settings: Settings, started_ns: int) -> Path:
    if options.out is not None:
        return Path(options.out).resolve()
    stamp = datetime.fromtimestamp(started_ns / 1e9, UTC).strftime("%Y%m%d-%H%M%S")
    return Path(settings.engine.data_folder).resolve() / "captures" / f"{settings.engine.name}-{stamp}"


class _Progress:
    """A line every few seconds; nothing when standard output holds JSON."""

    def __init__(self, recorder: Recorder, every_s: float, quiet: bool) -> None:
        self._recorder = recorder
        self._every_ns = int(every_s * 1e9)
        self._next_ns = python_monotonic_ns() + self._every_ns
        self._quiet = quiet

    def __call__(self) -> None:
        if not self._quiet and python_monotonic_ns() >= self._next_ns:
            self._next_ns += self._every_ns
            print(_words(self._recorder.counts()), flush=True)


async def _record(recorder: Recorder, seconds: float | None, report: _Progress) -> None:
    """Until the time is over, a signal comes, or the disk is full."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, recorder.stop)
    if seconds is not None:
        loop.call_later(seconds, recorder.stop)
    await recorder.run(report)


def record(settings: Settings, endpoints: Endpoints, folder: Path, options: argparse.Namespace) -> int:
    """Record the configured market into a folder and say what was recorded. Exit code 0 or 1.

    Raises CaptureError, VenueUnreachable, or ValueError for a symbol that the venue does not list.
    """
    market, symbols = market_of(MARKETS[settings.venue.market]), settings.venue.symbols
    listing = market.fetch_listing(endpoints.rest_url, symbols)
    instruments = subscribed(market, listing, settings.feed)
    sockets = market.sockets(endpoints.ws_url, symbols, settings.feed)
    manifest = Manifest(
        capture=new_capture_id(), instruments=instruments, connections=tuple(item.url for item in sockets),
        started_ns=wall_ns(), subscription={"market": settings.venue.market, **as_plain(settings.feed)},
        source={"made_by": "record"},
    )
    writer, offset_ns = open_writer(folder, manifest), new_session_offset_ns()
    recorder = Recorder(
        market, endpoints, instruments, settings.feed,
        Budget.of_own(listing.rate_limits, python_monotonic_ns), writer, lambda: python_session_ns(offset_ns),
        lambda words: print(f"bot4: {words}", file=sys.stderr),
    )
    if not options.json:
        cut = f"; {writer.cut_bytes} bytes of a torn tail are cut off" if writer.cut_bytes else ""
        print(f"recording {', '.join(symbols)} into {folder}{cut}; Ctrl-C stops", flush=True)
    began_ns = python_monotonic_ns()
    asyncio.run(_record(recorder, options.duration, _Progress(recorder, settings.engine.status_every_s, options.json)))
    found: dict[str, Any] = {
        "folder": str(folder), "seconds": round((python_monotonic_ns() - began_ns) / 1e9, 3), **recorder.counts(),
        "error": str(recorder.failure or ""),
    }
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    else:
        print(f"{folder}: {found['seconds']:.1f} s, {_words(found)}")
    if found["books_never_begun"]:
        print(f"bot4: no book of {', '.join(found['books_never_begun'])} has begun: what was recorded gives none",
              file=sys.stderr)
    if recorder.failure is not None:
        print(f"bot4: {recorder.failure}", file=sys.stderr)
        return 1
    return 0


def record_command(options: argparse.Namespace) -> int:
    """Record until the time is over or a signal comes; exit code 1 where that could not be done."""
    settings = _settings(options)
    folder = _folder(options, settings, wall_ns())
    try:
        with _endpoints(settings) as endpoints:
            return record(settings, endpoints, folder, options)
    except (CaptureError, VenueDidNotStart, VenueUnreachable) as error:
        words = str(error)
    except ValueError as error:  # a symbol that the venue does not list
        words = f"--symbols or venue.symbols: {error}"
    print(f"bot4: {words}", file=sys.stderr)
    return 1


def _words(counts: dict[str, Any]) -> str:
    symbols = ", ".join(f"{name} {count}" for name, count in counts["symbols"].items())
    refused = ", ".join(f"{reason} {count}" for reason, count in counts["refused_requests"].items()) or "none"
    wrong = ", ".join(f"{reason} {count}" for reason, count in counts["wrong_books"].items()) or "none"
    return (
        f"{counts['entries']} entries, {counts['frames']} frames ({symbols}), {counts['snapshots']} snapshots, "
        f"refused requests: {refused}, {counts['open_interests']} open interests, "
        f"{counts['listings']} listings changed, {counts['losses']} connections lost, "
        f"{counts['data_bytes']} bytes in {counts['stored_bytes']}; {counts['gaps']} gaps, "
        f"wrong books: {wrong}, checksums: {counts['checksums_verified']} verified, "
        f"{counts['checksums_failed']} failed"
    )
