"""An order request in Binance's parameters, checked against the contract's filters.

Codes: -1111 too many decimals, -4002/-4013 price bounds, -4014 off tick, -4003/-4004/-4005 size, -4016/-4024 price
band around the mark price. Source: Binance USD-M futures, "New Order", "Filters", "Error Codes".
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
from engine.units import INT64_MAX, parse_units
from procs.embedded.errors import ApiError, missing, refused

_CLIENT_ID = re.compile(r"^[.A-Za-z:/0-9_-]{1,36}$")
MAX_PRICE = "1000000"
_BAND = (95, 105)  # percent of the mark price: lowest sell, highest buy


@dataclass(frozen=True)
class OrderRequest:
    """A checked order, in the contract's units."""

    symbol: int
    client_id: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    size: int
    reduce_only: bool
    acknowledge_only: bool
    self_trade: SelfTrade


def in_units(given: Mapping[str, str], name: str, exp: int) -> int:
    """A mandatory decimal parameter in units of 10^-exp. Raises ApiError."""
    text = given.get(name)
    if not text:
        raise missing(name)
    try:
        value = Decimal(text).scaleb(exp)
    except InvalidOperation:
        raise missing(name) from None
    if not value.is_finite() or abs(value) > INT64_MAX:
        raise missing(name)
    if value != value.to_integral_value():
        raise ApiError(-1111, "Precision is over the maximum defined for this asset.")
    return int(value)


def side_and_type(given: Mapping[str, str]) -> tuple[Side, str]:
    """What an order cannot do without, the type in the client's word. Raises ApiError."""
    for name in ("side", "type"):
        if not given.get(name):
            raise missing(name)
    if given["side"] not in ("BUY", "SELL"):
        raise ApiError(-1117, "Invalid side.")
    return Side[given["side"]], given["type"]


def parse_order(
    given: Mapping[str, str], instrument: Instrument, settings: SymbolSettings, mark: int, next_client_id: str
) -> OrderRequest:
    """Parameters of POST /fapi/v1/order as an OrderRequest.

    mark: mark price in price units; next_client_id: used where the client gives none. Raises ApiError.
    """
    if settings.status != "TRADING":
        raise refused(Refusal.HALTED)
    side, kind = side_and_type(given)
    if kind not in ("LIMIT", "MARKET"):
        raise ApiError(-1116, "Invalid orderType.")
    if given.get("positionSide", "BOTH") != "BOTH":
        raise ApiError(-4061, "Order's position side does not match user's setting.")
    response_type = given.get("newOrderRespType", "ACK")
    if response_type not in ("ACK", "RESULT"):
        raise ApiError(-1136, "Invalid newOrderRespType.")
    order_type = OrderType[kind]
    time_in_force, price = TimeInForce.GTC, 0
    if order_type == OrderType.LIMIT:
        if not given.get("timeInForce"):
            raise missing("timeInForce")
        if given["timeInForce"] not in TimeInForce.__members__:
            raise ApiError(-1115, "Invalid timeInForce.")
        time_in_force = TimeInForce[given["timeInForce"]]
        price = _checked_price(in_units(given, "price", instrument.price_exp), side, instrument, mark)
    else:
        for name in ("price", "timeInForce"):
            if given.get(name):
                raise ApiError(-1106, f"Parameter '{name}' sent when not required.")
    size = _checked_quantity(given, instrument, settings)
    client_id = given.get("newClientOrderId") or next_client_id
    if not _CLIENT_ID.match(client_id):
        raise ApiError(-4015, "Client order id is not valid.")
    reduce_only = given.get("reduceOnly", "false").lower()
    if reduce_only not in ("true", "false"):
        raise missing("reduceOnly")
    mode = given.get("selfTradePreventionMode") or "NONE"
    if mode not in SelfTrade.__members__:
        raise ApiError(-1106, "Parameter 'selfTradePreventionMode' is not valid.")
    return OrderRequest(
        instrument.index, client_id, side, order_type, time_in_force, price, size, reduce_only == "true",
        response_type == "ACK", SelfTrade[mode],
    )


def parse_amendment(
    given: Mapping[str, str], instrument: Instrument, settings: SymbolSettings, mark: int
) -> tuple[Side, int, int]:
    """Parameters of PUT /fapi/v1/order as (side, price, whole size). Raises ApiError."""
    if not given.get("side"):
        raise missing("side")
    if given["side"] not in ("BUY", "SELL"):
        raise ApiError(-1117, "Invalid side.")
    side = Side[given["side"]]
    price = _checked_price(in_units(given, "price", instrument.price_exp), side, instrument, mark)
    return side, price, _checked_quantity(given, instrument, settings)


def _checked_quantity(given: Mapping[str, str], instrument: Instrument, settings: SymbolSettings) -> int:
    """The size if the filters allow it."""
    size = in_units(given, "quantity", instrument.size_exp)
    if size <= 0:
        raise ApiError(-4003, "Quantity less than or equal to zero.")
    if size < instrument.lot_size:
        raise ApiError(-4004, "Quantity less than min quantity.")
    if size > parse_units(settings.max_size, instrument.size_exp):
        raise ApiError(-4005, "Quantity greater than max quantity.")
    if size % instrument.lot_size:
        raise ApiError(-4023, "Qty not increased by step size.")
    return size


def _checked_price(price: int, side: Side, instrument: Instrument, mark: int) -> int:
    """The price if the filters allow it."""
    if price <= 0:
        raise ApiError(-4001, "Price less than 0.")
    if price < instrument.tick_size:
        raise ApiError(-4013, "Price less than min price.")
    if price > parse_units(MAX_PRICE, instrument.price_exp):
        raise ApiError(-4002, "Price greater than max price.")
    if price % instrument.tick_size:
        raise ApiError(-4014, "Price not increased by tick size.")
    if side == Side.BUY and price * 100 > mark * _BAND[1]:
        raise ApiError(-4016, "Limit price can't be higher than the mark price multiplier cap.")
    if side == Side.SELL and price * 100 < mark * _BAND[0]:
        raise ApiError(-4024, "Limit price can't be lower than the mark price multiplier floor.")
    return price
