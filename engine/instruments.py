"""Instruments: what is fixed for life (units) and what a venue may change (filters)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.records import MARKET, Flag, Kind
from engine.units import MONEY_EXP, parse_units

MAX_INSTRUMENTS = 16  # of one shard; arrays of every stage's state have this many places


@dataclass(frozen=True)
class Instrument:
    """One tradable instrument of one venue. Integers are in the instrument's own units unless named."""

    index: int
    symbol: str  # the venue's own name, upper case
    base: str
    quote: str
    price_exp: int  # price unit is 10^-price_exp quote
    size_exp: int  # size unit is 10^-size_exp base
    tick_size: int  # price units
    lot_size: int  # size units
    min_notional: int  # 1e-8 quote
    venue: int = 0
    epoch: int = 0  # of tick, lot and filters

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


def instrument_from_binance(entry: Mapping[str, Any], index: int, venue: int = 0) -> Instrument:
    """An instrument from one entry of `symbols` of Binance USD-M `exchangeInfo`.

    price_exp and size_exp are the wire precisions; tick, lot and minimum notional come from the filters.
    Raises ValueError naming the symbol and what is missing.
    Source: Binance USD-M futures, "Exchange Information".
    """
    symbol = str(entry.get("symbol", "?"))
    try:
        filters = {item["filterType"]: item for item in entry["filters"]}
        price_exp, size_exp = int(entry["pricePrecision"]), int(entry["quantityPrecision"])
        return Instrument(
            index=index,
            symbol=symbol,
            base=str(entry["baseAsset"]),
            quote=str(entry["quoteAsset"]),
            price_exp=price_exp,
            size_exp=size_exp,
            tick_size=parse_units(filters["PRICE_FILTER"]["tickSize"], price_exp),
            lot_size=parse_units(filters["LOT_SIZE"]["stepSize"], size_exp),
            min_notional=parse_units(filters.get("MIN_NOTIONAL", {}).get("notional", "0"), MONEY_EXP),
            venue=venue,
        )
    except KeyError as error:
        raise ValueError(f"exchangeInfo of {symbol}: {error.args[0]} is missing") from None


def instruments_by_index(items: Sequence[Instrument]) -> dict[int, Instrument]:
    """Instruments by their index. Raises ValueError for a repeated index or one beyond MAX_INSTRUMENTS."""
    table: dict[int, Instrument] = {}
    for item in items:
        if item.index in table or not 0 <= item.index < MAX_INSTRUMENTS:
            raise ValueError(f"instrument {item.symbol}: index {item.index} is taken or beyond {MAX_INSTRUMENTS}")
        table[item.index] = item
    return table
