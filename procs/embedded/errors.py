"""Errors of the embedded venue: what its operator sees, and what its clients get in the venue's own words.

Source: Binance USD-M futures, "Error Codes" and "General Info" (HTTP return codes); Binance spot, "Error codes".
On USD-M a post-only order that would take is refused with -5022 and never becomes an order, as the venue's newer
interface does it (the older one accepted the order and expired it). A client order id must be unique among open orders
(-4116, on spot -2010).
"""

from __future__ import annotations

import orjson

from engine.matching.events import Refusal


class VenueError(RuntimeError):
    """The embedded venue cannot start or go on; the message is for people."""


class ApiError(Exception):
    """An error answer: HTTP status, the venue's code, its message, and when to come back where the status says so."""

    def __init__(self, code: int, message: str, status: int = 400, retry_after_s: int = 0):
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.status = status
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}

    def body(self) -> bytes:
        """The JSON that goes on the wire."""
        return orjson.dumps({"code": self.code, "msg": self.message})


def missing(name: str) -> ApiError:
    """A mandatory parameter is absent or makes no sense."""
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


_REFUSALS = {
    Refusal.WOULD_TAKE: (
        -5022, "Due to the order could not be executed as maker, the Post Only order will be rejected."
    ),
    Refusal.CANNOT_FILL: (
        -5021, "Due to the order could not be filled immediately, the FOK order has been rejected."
    ),
    Refusal.BOOK_FULL: (-1008, "Server is currently overloaded with other requests. Please try again later."),
    Refusal.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
    Refusal.BAD_SIZE: (-4003, "Quantity less than or equal to zero."),
    Refusal.INSUFFICIENT_MARGIN: (-2019, "Margin is insufficient."),
    Refusal.REDUCE_ONLY: (-2022, "ReduceOnly Order is rejected."),
    Refusal.TOO_MANY_ORDERS: (-2025, "Reach max open order limit."),
    Refusal.DUPLICATE_CLIENT_ID: (-4116, "ClientOrderId is duplicated."),
    Refusal.NO_CHANGE: (-5027, "No need to modify the order."),
    Refusal.TOO_MANY_AMENDMENTS: (-5026, "Exceed maximum modify order limit."),
    Refusal.WRONG_SIDE: (-1117, "Invalid side."),
    Refusal.BEYOND_LEVERAGE: (-2027, "Exceeded the maximum allowable position at current leverage."),
    Refusal.HALTED: (-4108, "Symbol is on delivering or delivered or settling or closed or pre-trading."),
    Refusal.MIN_NOTIONAL: (-4164, "Order's notional must be no smaller than {} (unless you choose reduce only)."),
}


_SPOT_REFUSALS = {
    Refusal.WOULD_TAKE: (-2010, "Order would immediately match and take."),
    Refusal.BOOK_FULL: (
        -1008, "Server is currently overloaded with other requests. Please try again in a few minutes."
    ),
    Refusal.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
    Refusal.BAD_SIZE: (-1013, "Filter failure: LOT_SIZE"),
    Refusal.TOO_MANY_ORDERS: (-1013, "Filter failure: MAX_NUM_ORDERS"),
    Refusal.DUPLICATE_CLIENT_ID: (-2010, "Duplicate order sent."),
    Refusal.HALTED: (-1013, "Market is closed."),
    Refusal.MIN_NOTIONAL: (-1013, "Filter failure: NOTIONAL"),
    Refusal.INSUFFICIENT_BALANCE: (-2010, "Account has insufficient balance for requested action."),
    Refusal.NO_LIQUIDITY: (-2010, "Order book liquidity is less than `LOT_SIZE` filter minimum quantity."),
}


def refused_on_spot(reason: Refusal) -> ApiError:
    """The error answer of spot for a refusal of the exchange."""
    return ApiError(*_SPOT_REFUSALS[reason])


def refused(reason: Refusal, detail: str = "") -> ApiError:
    """The error answer for a refusal of the exchange. detail fills the gap that some messages have."""
    code, message = _REFUSALS[reason]
    return ApiError(code, message.format(detail))
