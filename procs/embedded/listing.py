"""The embedded venue lists a contract anew: another tick, lot or smallest order, or another status.

As at a real venue, what rests keeps its price, also off the new grid. exchangeInfo tells of it; of a status the stream
`!contractInfo` does too, on futures. The flow goes on in a contract that takes no orders from clients (a fault of
maintenance stops it).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from engine.matching.settings import SPOT
from engine.matching.wire import Frame
from engine.settings import SettingsError, build
from procs.embedded.dialect import VenueDialect

_TERMS = ("tick_size", "lot_size", "min_notional", "status")


def told_of(dialect: VenueDialect, request: dict[str, Any], terms: dict[str, str], now_ms: int) -> list[Frame]:
    """What the streams say of a contract that was listed anew: its status, where the request sets one, on futures."""
    if "status" not in request or dialect.exchange.settings.market == SPOT:
        return []
    symbol = request["symbol"]
    event = {"e": "contractInfo", "E": now_ms, "s": symbol, "ps": symbol, "ct": "PERPETUAL", "dt": 4133404800000,
             "ot": 1569398400000, "cs": terms["status"]}  # fmt: skip
    return [("!contractInfo", orjson.dumps(event))]


def list_anew(dialect: VenueDialect, request: Any) -> dict[str, str]:
    """Obey {"symbol": ..., and any of tick_size, lot_size, min_notional, status}; the terms that hold from here on.

    Raises ValueError that says what is allowed.
    """
    if not isinstance(request, dict) or not set(request) <= {"symbol", *_TERMS}:
        raise ValueError(f"a JSON object is expected, with a symbol and any of {', '.join(_TERMS)}")
    exchange = dialect.exchange
    settings = exchange.settings
    place = next((at for at, item in enumerate(settings.listed()) if item.symbol == request.get("symbol")), None)
    if place is None:
        raise ValueError(f"symbol: one of {', '.join(settings.symbols)}")
    entry = settings.listed()[place]
    terms = {name: request.get(name, getattr(entry, name)) for name in _TERMS}
    try:
        build(type(entry), terms)
    except SettingsError as error:
        raise ValueError(str(error)) from None
    entry = replace(entry, **terms)
    instrument = entry.instrument(place)
    if instrument.tick_size <= 0 or instrument.lot_size <= 0:
        raise ValueError("tick_size and lot_size must be more than 0")
    field = next(name for name in ("btcusdt", "ethusdt") if getattr(settings, name).symbol == entry.symbol)
    changed: dict[str, Any] = {field: entry}
    dialect.market.relist(instrument)
    exchange.relist(replace(settings, **changed), instrument)
    return terms
