"""Kraken's lists of instruments, of what a capture says it is of: what it does not say is left out.

Source: Kraken REST, "Get Tradable Asset Pairs"; Kraken Futures REST, "Get instruments".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from engine.instruments import Dialect, Instrument
from engine.units import MONEY_EXP, format_units
from procs.venues.kraken_spot.instruments import v1_symbol


def asset_pairs(instruments: Sequence[Instrument]) -> bytes:
    """The answer to AssetPairs, by the names of WebSocket v1."""
    return orjson.dumps({"error": [], "result": dict(map(_pair, instruments))})


def _pair(item: Instrument) -> tuple[str, dict[str, Any]]:
    name = v1_symbol(item.symbol) if item.dialect == Dialect.KRAKEN_SPOT_V2 else item.symbol
    base, _, quote = name.partition("/")
    return base + quote, {
        "altname": base + quote, "wsname": name, "base": base, "quote": quote, "pair_decimals": item.price_exp,
        "lot_decimals": item.size_exp, "lot_multiplier": item.lot_size,
        "tick_size": format_units(item.tick_size, item.price_exp),
        "costmin": format_units(item.min_notional, MONEY_EXP), "status": "online",
    }


def contracts(instruments: Sequence[Instrument]) -> bytes:
    """The answer to instruments of Kraken Futures."""
    return orjson.dumps({"result": "success", "instruments": [_contract(item) for item in instruments]})


def _contract(item: Instrument) -> dict[str, Any]:
    """A lot of several contracts is told as a precision below none."""
    entry: dict[str, Any] = {
        "symbol": item.symbol, "type": "futures_inverse" if item.contract_value else "flexible_futures",
        "base": item.base, "quote": item.quote, "tradeable": True,
        "tickSize": float(format_units(item.tick_size, item.price_exp)),
        "contractValueTradePrecision": item.size_exp or 1 - len(str(item.lot_size)),
    }
    if item.contract_value:
        entry["contractSize"] = float(format_units(item.contract_value, MONEY_EXP))
    return entry
