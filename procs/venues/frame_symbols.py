"""Whose frame it is, told without decoding it: what an index of recorded frames needs.

Patterns are those of the wire formats; a name that they find is one that the venue has written as the symbol.
"""

from __future__ import annotations

import re

from engine.instruments import Dialect

_BINANCE = re.compile(rb'"s(?:ymbol)?"\s*:\s*"([^"\\]+)"')
_PATTERNS = {
    Dialect.BINANCE_USDM: _BINANCE,
    Dialect.BINANCE_SPOT: _BINANCE,
    Dialect.BINANCE_COINM: _BINANCE,
    Dialect.KRAKEN_SPOT_V1: re.compile(rb'\A\s*\[.*,\s*"([^"\\]+)"\s*\]\s*\Z', re.DOTALL),
    Dialect.KRAKEN_SPOT_V2: re.compile(rb'"symbol"\s*:\s*"([^"\\]+)"'),
    Dialect.KRAKEN_FUTURES: re.compile(rb'"product_id"\s*:\s*"([^"\\]+)"'),
}


def symbol_of(frame: bytes, dialect: int) -> str:
    """The one symbol that a frame is of; empty where it names none or several."""
    names = set(_PATTERNS[Dialect(dialect)].findall(frame))
    return names.pop().decode(errors="replace") if len(names) == 1 else ""
