"""An order request in Binance spot's parameters, checked against the filters of its symbol.

Codes: -1013 a filter, -1102 missing, -1106 not wanted here, -1111 too many decimals, -1115 to -1117 words that do not
exist, -2010 kinds of orders that are not supported.
Source: Binance spot, "New order", "Filters", "Error codes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from engine.instruments import Instrument
from engine.matching.events import Refusal, SelfTrade
from engine.matching.settings import SymbolSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import INT64_MAX, MONEY_EXP, parse_units
from procs.embedded.answers_spot import MAX_NOTIONAL, PRICE_BAND, SELF_TRADE_MODES
from procs.embedded.errors import ApiError, missing, refused_on_spot
from procs.embedded.orders import MAX_PRICE, side_and_type

_CLIENT_ID = re.compile(r"^[a-zA-Z0-9-_]{1,36}$")
_UNSUPPORTED = {
    "STOP_LOSS": "Stop loss orders", "STOP_LOSS_LIMIT": "Stop loss limit orders", "TAKE_PROFIT": "Take profit orders",
    "TAKE_PROFIT_LIMIT": "Take profit limit orders",
}
# type -> (mandatory, not wanted)
_RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LIMIT": (("timeInForce", "quantity", "price"), ("quoteOrderQty",)),
    "LIMIT_MAKER": (("quantity", "price"), ("quoteOrderQty", "timeInForce")),
    "MARKET": ((), ("price", "timeInForce")),
}


@dataclass(frozen=True)
class SpotRequest:
    """A checked order: price and size in the symbol's units, quote_wanted in 1e-8 (0: a size is given)."""

    symbol: int
    client_id: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    size: int
    quote_wanted: int
    response: str  # ACK, RESULT or FULL
    self_trade: SelfTrade


def filter_failure(name: str) -> ApiError:
    """The answer to an order that a filter of its symbol does not let through."""
    return ApiError(-1013, f"Filter failure: {name}")


def _amount(given: Mapping[str, str], name: str) -> int:
    """A mandatory decimal parameter in 1e-8. Raises ApiError."""
    text = given.get(name)
    if not text:
        raise missing(name)
    try:
        value = Decimal(text).scaleb(MONEY_EXP)
    except InvalidOperation:
        raise missing(name) from None
    if not value.is_finite() or abs(value) > INT64_MAX:
        raise missing(name)
    if value != value.to_integral_value():
        raise ApiError(-1111, f"Parameter '{name}' has too much precision.")
    return int(value)


def new_id(given: Mapping[str, str], name: str, default: str) -> str:
    """A client's id for an order or a cancel. Raises ApiError."""
    text = given.get(name) or default
    if not _CLIENT_ID.match(text):
        raise ApiError(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '{_CLIENT_ID.pattern}'."
        )
    return text


def _one_of(given: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    text = given.get(name) or default
    if text not in allowed:
        raise ApiError(-1130, f"Data sent for parameter '{name}' is not valid.")
    return text


def parse_spot_order(
    given: Mapping[str, str], instrument: Instrument, settings: SymbolSettings, reference: int, next_client_id: str
) -> SpotRequest:
    """Parameters of POST /api/v3/order as a SpotRequest.

    reference: reference price in price units; next_client_id: used where the client gives none. Raises ApiError.
    """
    if settings.status != "TRADING":
        raise refused_on_spot(Refusal.HALTED)
    side, kind = side_and_type(given)
    if kind in _UNSUPPORTED:
        raise ApiError(-2010, f"{_UNSUPPORTED[kind]} are not supported for this symbol.")
    if kind not in _RULES:
        raise ApiError(-1116, "Invalid orderType.")
    if given.get("icebergQty"):
        raise ApiError(-2010, "Iceberg orders are not supported for this symbol.")
    mandatory, unwanted = _RULES[kind]
    for name in mandatory:
        if not given.get(name):
            raise missing(name)
    by_value = kind == "MARKET" and bool(given.get("quoteOrderQty"))
    for name in (*unwanted, *(("quantity",) if by_value else ())):
        if given.get(name):
            raise ApiError(-1106, f"Parameter '{name}' sent when not required.")
    if kind == "MARKET" and not by_value and not given.get("quantity"):
        raise ApiError(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
    time_in_force = TimeInForce.GTX if kind == "LIMIT_MAKER" else TimeInForce.GTC
    if kind == "LIMIT":
        if given["timeInForce"] not in ("GTC", "IOC", "FOK"):
            raise ApiError(-1115, "Invalid timeInForce.")
        time_in_force = TimeInForce[given["timeInForce"]]
    size = 0 if by_value else _size(_amount(given, "quantity"), instrument, settings)
    price = 0 if kind == "MARKET" else _price(_amount(given, "price"), instrument, reference)
    quote_wanted = _amount(given, "quoteOrderQty") if by_value else 0
    if by_value and quote_wanted <= 0:
        raise filter_failure("NOTIONAL")
    if price * size > int(MAX_NOTIONAL) * 10 ** (instrument.price_exp + instrument.size_exp):
        raise filter_failure("NOTIONAL")
    return SpotRequest(
        instrument.index, new_id(given, "newClientOrderId", next_client_id), side,
        OrderType.MARKET if kind == "MARKET" else OrderType.LIMIT, time_in_force, price, size, quote_wanted,
        _one_of(given, "newOrderRespType", "ACK" if kind == "LIMIT_MAKER" else "FULL", ("ACK", "RESULT", "FULL")),
        SelfTrade[_one_of(given, "selfTradePreventionMode", "NONE", SELF_TRADE_MODES)],
    )


def _size(amount: int, instrument: Instrument, settings: SymbolSettings) -> int:
    """A quantity (1e-8) in size units if the filter allows it."""
    lot = parse_units(settings.lot_size, MONEY_EXP)
    if amount < lot or amount > parse_units(settings.max_size, MONEY_EXP) or amount % lot:
        raise filter_failure("LOT_SIZE")
    return int(amount // 10 ** (MONEY_EXP - instrument.size_exp))


def _price(amount: int, instrument: Instrument, reference: int) -> int:
    """A price (1e-8) in price units if the filters allow it."""
    tick = instrument.tick_size * 10 ** (MONEY_EXP - instrument.price_exp)
    if amount < tick or amount > parse_units(MAX_PRICE, MONEY_EXP) or amount % tick:
        raise filter_failure("PRICE_FILTER")
    price = int(amount // 10 ** (MONEY_EXP - instrument.price_exp))
    least, most = (Decimal(share) * reference for share in PRICE_BAND)
    if not least <= price <= most:
        raise filter_failure("PERCENT_PRICE_BY_SIDE")
    return price
