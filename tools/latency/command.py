"""`bot4 latency`: percentiles of every hop of a running engine, from its histograms in shared memory.

Without --watch since the engine started; with it once a second over the last second, until Ctrl-C, the end of --for or
the engine's end: redrawn on a terminal, in a pipe a heading and a line a hop that begins with the second since it was
asked, as JSON an object a line. With --histogram bars instead of the table. Reading costs the engine nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

import numpy as np
import orjson

from procs.attach import NotRunning, attach
from procs.config_file import read_settings
from procs.instance import Mapping
from procs.summary import hop_histograms, latency_summary
from procs.table import HOPS
from shm.histogram import COUNT, NEGATIVE, new_histogram
from tools.latency.bars import as_plain, bars
from tools.latency.buckets import passed
from tools.latency.export import export_command
from tools.latency.sampling import Sampling
from tools.status import latency_table
from tools.usage import UsageError

_CLEAR = "\x1b[H\x1b[2J"


def _drawn(histograms: dict[str, np.ndarray], hop: str, before: int = 0) -> list[str]:
    """Bars of one hop, or for "" of every hop that something passed. before: columns that stand before each line."""
    width = shutil.get_terminal_size().columns - before
    if hop:
        return bars(hop, histograms[hop], width)
    lines: list[str] = []
    for name, histogram in histograms.items():
        if histogram[COUNT] or histogram[NEGATIVE]:
            lines += [*([""] if lines else []), *bars(name, histogram, width)]
    return lines or ["nothing passed"]


def _on_screen(histograms: dict[str, np.ndarray], hop: str) -> list[str]:
    """`_drawn` below a heading, no higher than the terminal: fewer rows for one hop, of many what fits."""
    width, height = shutil.get_terminal_size()
    room = max(height - 3, 4)  # two lines of heading, and one for the cursor
    # Beside the rows: the hop's heading, the last edge, and up to five percentiles below where they find no room.
    lines = bars(hop, histograms[hop], width, most_rows=max(room - 7, 1)) if hop else _drawn(histograms, hop)
    more = "... more than fits here" + ("" if hop else ": --histogram HOP shows one")
    return lines if len(lines) <= room else [*lines[: room - 1], more]


def _as_json(name: str, histograms: dict[str, np.ndarray], hop: str | None, **more: Any) -> str:
    answer: dict[str, Any] = {"name": name, **more, "latency_us": latency_summary(histograms)}
    if hop is not None:
        chosen = [hop] if hop else list(answer["latency_us"])
        answer["histograms"] = {one: as_plain(histograms[one]) for one in chosen}
    return orjson.dumps(answer).decode()


def _watch(mapping: Mapping, options: argparse.Namespace) -> bool:
    """Whether the engine has ended."""
    on_terminal = sys.stdout.isatty()
    name, hop = mapping.plan.name, options.histogram
    sampling = Sampling(mapping)
    if hop is None and not on_terminal and not options.json:
        print("\n".join(f"{'second':<6} {line}" for line in latency_table({})), flush=True)
    for interval in sampling.intervals(options.duration):
        if sampling.ended:
            break
        histograms, seconds = interval.histograms, interval.seconds
        table = latency_table(latency_summary(histograms))
        if options.json:
            text = _as_json(name, histograms, hop, seconds=seconds)
        elif on_terminal:
            heading = f"{name}: the last second; Ctrl-C ends this"
            text = _CLEAR + "\n".join([heading, "", *(table if hop is None else _on_screen(histograms, hop))])
        elif hop is None:
            text = "\n".join(f"{seconds:<6} {line}" for line in table[1:])
        else:
            text = "\n".join(f"{seconds:<6} {line}".rstrip() for line in _drawn(histograms, hop, before=7))
        if text:
            print(text, flush=True)
    return sampling.ended


def _check(options: argparse.Namespace) -> None:
    """Refuse what makes no sense together. Raises UsageError."""
    if options.histogram and options.histogram not in HOPS:
        raise UsageError(f"--histogram {options.histogram}: allowed are {', '.join(HOPS)}")
    if options.export is not None and (options.watch or options.histogram is not None):
        raise UsageError("--export: it goes with neither --watch nor --histogram")
    if options.session is not None and (options.export is None or options.duration is not None):
        raise UsageError("--session: it goes with --export and without --for: all is taken that the session keeps")
    if options.duration is not None and options.export is None and not options.watch:
        raise UsageError("--for: it goes with --export or --watch")


def latency_command(options: argparse.Namespace) -> int:
    """Show the hops of a running engine; exit code 1 when none of that name runs."""
    if "run" in options:
        code: int = options.run(options)
        return code
    _check(options)
    if options.export is not None:
        return export_command(options)
    name = read_settings(options.config).engine.name
    try:
        mapping = attach(name)
    except NotRunning as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    try:
        if options.watch:
            try:
                ended = _watch(mapping, options)
            except KeyboardInterrupt:
                return 0
            if ended:
                print(f"bot4: the engine named {name!r} has ended", file=sys.stderr)
            return 0
        empty = new_histogram()
        histograms = {hop: passed(empty, histogram.copy()) for hop, histogram in hop_histograms(mapping).items()}
    finally:
        mapping.close()
    if options.json:
        print(_as_json(name, histograms, options.histogram))
    elif options.histogram is not None:
        print("\n".join(_drawn(histograms, options.histogram)))
    else:
        print("\n".join(latency_table(latency_summary(histograms))))
    return 0
