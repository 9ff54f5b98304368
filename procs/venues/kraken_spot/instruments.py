"""Instruments of Kraken spot, from `AssetPairs` (REST) and from the `instrument` channel (WebSocket v2).

A pair has three names: that of REST (XXBTZUSD), that of WebSocket v1 (XBT/USD) and that of v2 (BTC/USD). v2 has given
Bitcoin and Dogecoin the names that everybody else uses; all others are the same. Dark pools (names that end in `.d`)
have no market data and are left out.

Prices are on a grid of `tick_size`, in older lists of 10^-pair_decimals. The wire prints them with more decimals than
that, always the same for a pair; how many no list says, so the decoder learns it from each snapshot of a book.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from engine.instruments import Dialect, Instrument
from engine.listed import checked, unit_exponent
from engine.records import Status
from engine.units import MONEY_EXP, format_units, parse_units

_STATUS = {
    "online": Status.TRADING, "cancel_only": Status.CANCEL_ONLY, "post_only": Status.POST_ONLY,
    "limit_only": Status.LIMIT_ONLY, "reduce_only": Status.REDUCE_ONLY, "delisted": Status.CLOSED,
}
_V2_ASSETS = {"XBT": "BTC", "XDG": "DOGE"}


def v2_symbol(v1_symbol: str) -> str:
    """The name of a pair on WebSocket v2, from that on v1."""
    base, slash, quote = v1_symbol.partition("/")
    return f"{_V2_ASSETS.get(base, base)}{slash}{_V2_ASSETS.get(quote, quote)}"


def v1_symbol(v2_symbol: str) -> str:
    """The name of a pair on WebSocket v1, from that on v2."""
    names = {new: old for old, new in _V2_ASSETS.items()}
    base, slash, quote = v2_symbol.partition("/")
    return f"{names.get(base, base)}{slash}{names.get(quote, quote)}"


def parse_asset_pairs(body: bytes) -> dict[str, dict[str, Any]]:
    """Entries of an `AssetPairs` answer by their v1 name, dark pools left out.

    Raises ValueError with what the venue says, or for a body that is no such answer.
    """
    try:
        answer = orjson.loads(body)
        errors, pairs = answer["error"], answer.get("result", {})
        if errors:
            raise ValueError(f"AssetPairs: {', '.join(map(str, errors))}")
        return {
            entry["wsname"]: {**entry, "rest_name": name}
            for name, entry in pairs.items()
            if isinstance(entry.get("wsname"), str) and not name.endswith(".d")
        }
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError("AssetPairs: the answer is not a list of pairs") from None


def instrument_from_pair(entry: Mapping[str, Any], index: int, venue: int = 0, v2: bool = False) -> Instrument:
    """An instrument from one entry of `AssetPairs`, named as WebSocket v1 or v2 names it.

    Raises ValueError naming the pair and what is missing.
    """
    symbol = str(entry.get("wsname", "?"))
    try:
        price_exp, size_exp = unit_exponent(entry["pair_decimals"]), unit_exponent(entry["lot_decimals"])
        base, _, quote = v2_symbol(symbol).partition("/")
        tick = parse_units(str(entry.get("tick_size", format_units(1, price_exp))), price_exp)
        return checked(Instrument(
            index=index,
            symbol=f"{base}/{quote}" if v2 else symbol,
            base=base,
            quote=quote,
            price_exp=price_exp,
            size_exp=size_exp,
            tick_size=tick,
            lot_size=parse_units(str(entry.get("lot_multiplier", 1)), 0),
            min_notional=parse_units(str(entry.get("costmin", "0")), MONEY_EXP),
            venue=venue,
            dialect=Dialect.KRAKEN_SPOT_V2 if v2 else Dialect.KRAKEN_SPOT_V1,
            status=status_of(entry),
        ))
    except KeyError as error:
        raise ValueError(f"AssetPairs, {symbol}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"AssetPairs, {symbol}: {error}") from None


def instruments_from_asset_pairs(
    body: bytes, symbols: Sequence[str], venue: int = 0, v2: bool = False
) -> tuple[Instrument, ...]:
    """The instruments of these v1 names, indexed in the order given.

    Raises ValueError for a symbol that the venue does not list, and as the two functions above.
    """
    pairs = parse_asset_pairs(body)
    if missing := [symbol for symbol in symbols if symbol not in pairs]:
        raise ValueError(f"AssetPairs: the venue does not list {', '.join(missing)}")
    return tuple(instrument_from_pair(pairs[symbol], index, venue, v2) for index, symbol in enumerate(symbols))


def instruments_from_channel(frame: bytes, symbols: Sequence[str], venue: int = 0) -> tuple[Instrument, ...]:
    """The instruments of these v2 names from a frame of the `instrument` channel, indexed in the order given.

    Numbers there are bare and may be in exponent notation (1e-08); they are taken from their text. Raises ValueError
    for a symbol that the frame does not hold, or for a frame of another kind.
    """
    pairs = _channel_pairs(frame)
    if missing := [symbol for symbol in symbols if symbol not in pairs]:
        raise ValueError(f"instrument channel: the venue does not list {', '.join(missing)}")
    return tuple(_from_channel_entry(pairs[symbol], index, venue) for index, symbol in enumerate(symbols))


def listed_in_channel(frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
    """Those of these v2 names that a frame of the channel, a snapshot or an update, tells of; their index is 0.

    Raises ValueError for a frame of another kind, and for an entry that lacks something.
    """
    pairs = _channel_pairs(frame)
    return {symbol: _from_channel_entry(pairs[symbol], 0, 0) for symbol in symbols if symbol in pairs}


def _channel_pairs(frame: bytes) -> dict[str, dict[str, Any]]:
    """The entries of a frame of the channel by their v2 names, numbers as texts. Raises ValueError for any other."""
    try:
        message = json.loads(frame, parse_float=str, parse_int=str)
        if message["channel"] != "instrument":
            raise ValueError("not a frame of the instrument channel")
        return {entry["symbol"]: entry for entry in message["data"].get("pairs", ())}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError("not a frame of the instrument channel") from None


def _from_channel_entry(entry: Mapping[str, Any], index: int, venue: int) -> Instrument:
    symbol = str(entry["symbol"])
    try:
        price_exp, size_exp = unit_exponent(entry["price_precision"]), unit_exponent(entry["qty_precision"])
        return checked(Instrument(
            index=index,
            symbol=symbol,
            base=str(entry["base"]),
            quote=str(entry["quote"]),
            price_exp=price_exp,
            size_exp=size_exp,
            tick_size=parse_units(str(entry["price_increment"]), price_exp),
            lot_size=parse_units(str(entry["qty_increment"]), size_exp),
            min_notional=parse_units(str(entry.get("cost_min", "0")), MONEY_EXP),
            venue=venue,
            dialect=Dialect.KRAKEN_SPOT_V2,
            status=status_of(entry),
        ))
    except KeyError as error:
        raise ValueError(f"instrument channel, {symbol}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"instrument channel, {symbol}: {error}") from None


def status_of(entry: Mapping[str, Any]) -> Status:
    """Whether a pair takes orders; lists from before 2022 have no status and hold only pairs that do."""
    return _STATUS.get(str(entry.get("status", "online")), Status.HALTED)
