"""`bot4 data statistics`: what recorded markets look like, beside the generated one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson

from engine.config import Settings
from engine.matching.fair_value import Regime
from engine.matching.market import SimulatedMarket
from models.dataset import OPENING_NS, SEED_SPACING
from models.market_statistics import describe, series_of
from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.journal.reader import JournalError
from procs.market_series import generated_inputs, observe
from procs.replay import ReplayError, open_source
from tools.usage import UsageError, require_there

DEFAULT_SECONDS = 300
LONGEST_S = 86_400
_WIDTH = 14


def statistics_command(options: argparse.Namespace) -> int:
    """Compute and print. Exit code 0, or 1 where a source has no book or cannot be read."""
    settings = read_settings(options.config)
    if not options.sources and options.generated is None:
        raise UsageError("give a recording, or --generated")
    if options.generated is not None and options.generated < 1:
        raise UsageError(f"--generated {options.generated}: allowed is a seed from 1")
    require_there(*options.sources)
    try:
        columns = [column for path in options.sources for column in recorded(path, settings)]
    except (CaptureError, ReplayError, JournalError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    if options.generated is not None:
        longest = max((column["seconds"] for column in columns if column), default=DEFAULT_SECONDS)
        columns += generated(settings, options.generated, min(longest, LONGEST_S))
    if options.json:
        sys.stdout.buffer.write(orjson.dumps({"sources": columns}) + b"\n")
    else:
        print(table(columns))
    return 1 if any(column["error"] for column in columns) else 0


def recorded(path: Path, settings: Settings) -> list[dict[str, Any]]:
    """One column for each instrument of a source. Raises CaptureError, ReplayError or JournalError."""
    source = open_source(path, settings)
    market, features = observe(source.inputs(), source.instruments, source.settings)
    return [_column(path.name, market, features, item) for item in source.instruments]


def generated(settings: Settings, seed: int, seconds: float) -> list[dict[str, Any]]:
    """One column for each listed contract of the embedded exchange, and what its regimes really were."""
    venue = settings.embedded
    instruments = [item.instrument(index) for index, item in enumerate(venue.listed())]
    market, features = observe(generated_inputs(venue, seed, seconds), instruments, settings)
    columns = [_column(f"generated {seed}", market, features, item) for item in instruments]
    for column, shares in zip(columns, true_regimes(settings, seed, seconds), strict=True):
        column["true_regimes"] = shares
    return columns


def true_regimes(settings: Settings, seed: int, seconds: float) -> list[dict[str, float]]:
    """By contract: the shares of the time that the same session spends in each regime, which no record tells."""
    market = SimulatedMarket(settings.embedded, seed * SEED_SPACING, OPENING_NS)
    before = [flow["regime_ns"][0].copy() for flow in market.flows]
    market.advance(OPENING_NS + int(seconds * 1e9))
    spent = [flow["regime_ns"][0] - earlier for flow, earlier in zip(market.flows, before, strict=True)]
    return [{regime.name.lower(): float(one[regime] / max(one.sum(), 1)) for regime in Regime} for one in spent]


def _column(source: str, market: Any, features: Any, instrument: Any) -> dict[str, Any]:
    try:
        found = describe(series_of(market, features, instrument.index, instrument.tick_size))
    except ValueError as error:
        return {"source": source, "symbol": instrument.symbol, "error": str(error), "seconds": 0.0}
    return {"source": source, "symbol": instrument.symbol, "error": "", **found}


def table(columns: list[dict[str, Any]]) -> str:
    """Statistics down, sources across."""
    rows: dict[str, list[str]] = {}
    for place, column in enumerate(columns):
        for name, value in _flat(column).items():
            rows.setdefault(name, [""] * len(columns))[place] = _cell(value)
    head = [
        f"{'':38}" + "".join(f"{str(column[key])[: _WIDTH - 1]:>{_WIDTH}}" for column in columns)
        for key in ("source", "symbol")
    ]
    body = [f"{name:38}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells) for name, cells in rows.items()]
    return "\n".join(head + body)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{name} ")
        elif name not in ("source", "symbol") and item != "":
            flat[f"{prefix}{name}".replace("_", " ")] = item
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)[: _WIDTH - 1]
