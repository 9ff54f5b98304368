"""`bot4 venues`: which markets there are, and what each of them offers, as their rooms say."""

from __future__ import annotations

import argparse
import dataclasses
import sys

import orjson

from engine.config import MARKETS, TRADED_MARKETS
from procs.venues.market import market_of

_COLUMNS = ("market", "orders", "kinds", "book begins", "proof of the book", "depth", "interval", "heartbeat", "status")


def capability_rows() -> list[tuple[str, ...]]:
    """A row for each market, in the order of _COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for name, dialect in MARKETS.items():
        offered = market_of(dialect).capabilities
        rows.append((
            name, "yes" if name in TRADED_MARKETS else "no", ", ".join(offered.kinds), offered.book_begins,
            offered.book_proof or "none", offered.depth, offered.interval, offered.heartbeat, offered.status,
        ))  # fmt: skip
    return rows


def capability_table() -> str:
    """The same as a table of Markdown, as docs/venues.md has it."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *capability_rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def venues_command(options: argparse.Namespace) -> int:
    """Print the table."""
    if options.json:
        markets = {
            name: dataclasses.asdict(market_of(dialect).capabilities) | {"orders": name in TRADED_MARKETS}
            for name, dialect in MARKETS.items()
        }
        sys.stdout.buffer.write(orjson.dumps(markets) + b"\n")
        return 0
    for row in capability_rows():
        print(row[0])
        for column, value in zip(_COLUMNS[1:], row[1:], strict=True):
            print(f"    {column:<20}{value}")
    return 0
