"""Instruments of Kraken Futures, from `instruments` (REST).

Products are spelt in lower case in old lists and in upper case in new ones and on the wire; here always in upper case.
An inverse contract (PI_, FI_) is counted in contracts of one quote unit each; a flexible one (PF_) in base units, with
contractValueTradePrecision decimals, of which there may be fewer than none: -3 says thousands.
Indices (in_, rr_) are listed too and are no instruments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.contracts import MAX_UNIT_EXP
from engine.instruments import Dialect, Instrument
from engine.listed import checked, unit_exponent
from engine.records import Status
from engine.units import MONEY_EXP, parse_units

PRODUCT_TYPES = ("futures_inverse", "flexible_futures", "futures_vanilla")


def parse_instruments(body: bytes) -> dict[str, dict[str, Any]]:
    """Contracts of an `instruments` answer by their name in upper case; numbers stay text.

    Raises ValueError with what the venue says, or for a body that is no such answer.
    """
    try:
        answer = json.loads(body, parse_float=str, parse_int=str)
        if answer["result"] != "success":
            raise ValueError(f"instruments: {answer.get('error', answer['result'])}")
        return {
            str(entry["symbol"]).upper(): entry for entry in answer["instruments"] if entry.get("type") in PRODUCT_TYPES
        }
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError("instruments: the answer is not a list of contracts") from None


def _decimals(text: str) -> int:
    """Decimals that a number needs, exponent notation included: 0.05 and 5e-2 need two."""
    mantissa, _, exponent = text.lower().partition("e")
    fraction = mantissa.partition(".")[2].rstrip("0")
    return max(0, len(fraction) - int(exponent or 0))


def instrument_from_entry(entry: Mapping[str, Any], index: int, venue: int = 0) -> Instrument:
    """An instrument from one entry of `instruments`, numbers as text. Raises ValueError naming it and the fault."""
    symbol = str(entry.get("symbol", "?")).upper()
    try:
        tick_text = str(entry["tickSize"])
        price_exp = unit_exponent(_decimals(tick_text))
        precision = int(entry.get("contractValueTradePrecision", "0"))
        if abs(precision) > MAX_UNIT_EXP:
            raise ValueError(f"sizes of {precision} decimals: allowed are -{MAX_UNIT_EXP} to {MAX_UNIT_EXP}")
        size_exp = max(0, precision)
        base, quote = _assets(symbol, entry)
        return checked(Instrument(
            index=index,
            symbol=symbol,
            base=base,
            quote=quote,
            price_exp=price_exp,
            size_exp=size_exp,
            tick_size=parse_units(tick_text, price_exp),
            lot_size=10 ** max(0, -precision),
            min_notional=0,
            venue=venue,
            dialect=Dialect.KRAKEN_FUTURES,
            contract_value=parse_units(str(entry.get("contractSize", "1")), MONEY_EXP) if is_inverse(entry) else 0,
            status=status_of(entry),
        ))
    except KeyError as error:
        raise ValueError(f"instruments, {symbol}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"instruments, {symbol}: {error}") from None


def _assets(symbol: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """(base, quote) as listed; lists before 2023 do not say, but the name does: PI_XBTUSD."""
    if "base" in entry and "quote" in entry:
        return str(entry["base"]), str(entry["quote"])
    pair = symbol.partition("_")[2].partition("_")[0]
    if not pair:
        raise ValueError("neither the list nor its name says what it is of")
    return pair[:-3].replace("XBT", "BTC"), pair[-3:]


def instruments_from_rest(body: bytes, symbols: Sequence[str], venue: int = 0) -> tuple[Instrument, ...]:
    """The instruments of these names (either case), indexed in the order given.

    Raises ValueError for a name that the venue does not list, and as the two functions above.
    """
    listed = parse_instruments(body)
    names = [symbol.upper() for symbol in symbols]
    if missing := [name for name in names if name not in listed]:
        raise ValueError(f"instruments: the venue does not list {', '.join(missing)}")
    return tuple(instrument_from_entry(listed[name], index, venue) for index, name in enumerate(names))


def status_of(entry: Mapping[str, Any]) -> Status:
    """Whether a contract takes orders."""
    if entry.get("tradeable") is not True:
        return Status.HALTED
    return Status.POST_ONLY if entry.get("postOnly") is True else Status.TRADING


def is_inverse(entry: Mapping[str, Any]) -> bool:
    """Whether sizes are in contracts of the quote asset: base units are size / price."""
    return entry.get("type") == "futures_inverse"
