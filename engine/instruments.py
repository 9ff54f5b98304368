"""Instruments: what is fixed for life (units, contract) and what a venue may change (filters)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from engine.records import MARKET, Flag, Kind, Status

MAX_INSTRUMENTS = 16  # of one shard; arrays of every stage's state have this many places


class Dialect(IntEnum):
    """In which wire format, and under which sequence rule, the market data of an instrument come."""

    BINANCE_USDM = 0
    BINANCE_SPOT = 1
    BINANCE_COINM = 2
    KRAKEN_SPOT_V1 = 3
    KRAKEN_SPOT_V2 = 4
    KRAKEN_FUTURES = 5


@dataclass(frozen=True)
class Instrument:
    """One tradable instrument of one venue. Integers are in the instrument's own units unless named."""

    index: int
    symbol: str  # the venue's own name, upper case
    base: str
    quote: str
    price_exp: int  # price unit is 10^-price_exp quote
    size_exp: int  # size unit is 10^-size_exp base, or 10^-size_exp contracts where contract_value is not 0
    tick_size: int  # price units
    lot_size: int  # size units
    min_notional: int  # 1e-8 quote
    venue: int = 0
    epoch: int = 0  # of tick, lot and filters
    dialect: int = Dialect.BINANCE_USDM
    contract_value: int = 0  # inverse: what one contract is worth, 1e-8 quote; 0: linear, sizes are in base
    book_depth: int = 0  # levels a side of the book that was subscribed to, 0: the venue sends the whole book
    status: int = Status.TRADING  # when it was listed

    def record(self) -> np.ndarray:
        """The INSTRUMENT record (MARKET, shape (1,)) that announces this epoch."""
        record = np.zeros(1, MARKET)
        record["kind"] = Kind.INSTRUMENT
        record["flags"] = Flag.FIRST | Flag.LAST
        record["venue"] = self.venue
        record["instrument"] = self.index
        record["price"] = self.tick_size
        record["size"] = self.lot_size
        record["aux"] = self.min_notional
        record["sequence"] = self.epoch
        return record

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def instruments_by_index(items: Sequence[Instrument]) -> dict[int, Instrument]:
    """Instruments by their index. Raises ValueError for a repeated index or one beyond MAX_INSTRUMENTS."""
    table: dict[int, Instrument] = {}
    for item in items:
        if item.index in table or not 0 <= item.index < MAX_INSTRUMENTS:
            raise ValueError(f"instrument {item.symbol}: index {item.index} is taken or beyond {MAX_INSTRUMENTS}")
        table[item.index] = item
    return table
