"""What calls to Binance cost, which limits the venue sets, and paying for a call. Public data of any of its markets,
and on USD-M futures everything that trading asks for.

Source: Binance spot, USD-M and COIN-M futures, "General Info" (limits), "Exchange Information" (rateLimits), request
weights of the single endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from procs.budget import ORDERS, REQUESTS, WEIGHT, Budget, RateLimit
from procs.venues.binance_usdm.endpoints import VenueUnreachable

_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}
_KINDS = {
    "REQUEST_WEIGHT": (WEIGHT, "x-mbx-used-weight-"),
    "ORDERS": (ORDERS, "x-mbx-order-count-"),
    "RAW_REQUESTS": (REQUESTS, ""),
}
ORDER_PATH = "/fapi/v1/order"
# By levels asked for: the weight of a depth snapshot, by market.
_DEPTHS = {
    "/fapi/v1/depth": ((50, 2), (100, 5), (500, 10), (1000, 20)),
    "/dapi/v1/depth": ((50, 2), (100, 5), (500, 10), (1000, 20)),
    "/api/v3/depth": ((100, 5), (500, 25), (1000, 50), (5000, 250)),
}
_ROOTS = ("/derivatives/", "/fapi/", "/dapi/", "/api/")
_OPEN_ORDERS = "/fapi/v1/openOrders"
_WEIGHTS = {
    "/fapi/v1/ping": 1, "/fapi/v1/time": 1, "/fapi/v1/exchangeInfo": 1, "/fapi/v1/allOpenOrders": 1,
    "/fapi/v1/openOrder": 1, "/fapi/v1/allOrders": 5, "/fapi/v1/userTrades": 5, "/fapi/v1/listenKey": 1,
    "/fapi/v1/income": 30, "/fapi/v1/countdownCancelAll": 10, "/fapi/v3/account": 5, "/fapi/v3/balance": 5,
    "/fapi/v3/positionRisk": 5, "/fapi/v1/openInterest": 1, "/dapi/v1/openInterest": 1, "/dapi/v1/exchangeInfo": 1,
    "/api/v3/exchangeInfo": 20,
    # Kraken counts calls.
    "/0/public/AssetPairs": 1, "/0/public/Depth": 1, "/derivatives/api/v3/instruments": 1,
}
_DEAREST = 40  # what is not listed above counts as the dearest request that is
# Without Retry-After: a minute is the venue's longest window of weight, two minutes its shortest ban.
_WAIT_S = {429: 60.0, 418: 120.0}
_LONGEST_NUMBER = 9  # digits that are taken for a number of seconds
_TOO_MANY_ORDERS = -1015


class BudgetSpent(VenueUnreachable):
    """The rate budget does not allow a call now; nothing was sent. `wait_ns`: when it is worth trying again."""

    def __init__(self, wait_ns: int) -> None:
        super().__init__(f"the rate budget allows no call for {wait_ns / 1e9:.1f} s", "rate budget")
        self.wait_ns = wait_ns


def limits_of(exchange_info: Mapping[str, Any]) -> tuple[RateLimit, ...]:
    """The limits that an exchangeInfo sets. Raises ValueError when one is missing or cannot be understood."""
    limits = []
    entries = exchange_info.get("rateLimits", ())
    if not isinstance(entries, Sequence):
        raise ValueError("exchangeInfo: its rate limits are no list")
    for entry in entries:
        try:
            kind, header = _KINDS[entry["rateLimitType"]]
            number, interval, bound = int(entry["intervalNum"]), entry["interval"], int(entry["limit"])
            seconds = number * _SECONDS[interval]
            header = f"{header}{number}{interval[0].lower()}" if header else ""
            limits.append(RateLimit(kind, seconds, bound, header))
        except (LookupError, TypeError, ValueError, OverflowError):
            raise ValueError(f"exchangeInfo: rate limit {entry} cannot be understood") from None
    for kind, name in ((WEIGHT, "REQUEST_WEIGHT"), (ORDERS, "ORDERS")):
        if not any(limit.kind == kind for limit in limits):
            raise ValueError(f"exchangeInfo names no rate limit of type {name}: without it nothing can be sent")
    return tuple(limits)


def is_new_order(method: str, path_url: str) -> bool:
    """True for a request that enters an order. The venue's root may have a prefix, behind a proxy."""
    return method == "POST" and path_url.partition("?")[0].endswith(ORDER_PATH)


def cost_of(method: str, path_url: str) -> tuple[int, int]:
    """(weight, orders) of a request."""
    path, _, query = path_url.partition("?")
    path = next((path[at:] for root in _ROOTS if (at := path.find(root)) >= 0), path)
    if path == ORDER_PATH:
        return {"POST": (0, 1), "PUT": (1, 1)}.get(method, (1, 0))
    if path in _DEPTHS:
        levels = dict(parse_qsl(query)).get("limit", "500")
        limit = int(levels) if levels.isdigit() and len(levels) <= _LONGEST_NUMBER else 5000
        return next((weight for most, weight in _DEPTHS[path] if limit <= most), _DEPTHS[path][-1][1]), 0
    if path == _OPEN_ORDERS:
        return (1 if "symbol" in dict(parse_qsl(query)) else 40), 0
    return _WEIGHTS.get(path, _DEAREST), 0


@dataclass(frozen=True)
class Paid:
    """What a call has cost, and when."""

    now_ns: int
    weight: int
    orders: int


def pay(budget: Budget, method: str, path_url: str, level: int) -> Paid:
    """Pay for a call of a Level before a byte of it leaves. Raises BudgetSpent."""
    weight, orders = cost_of(method, path_url)
    now_ns = budget.now_ns()
    wait_ns = budget.take(now_ns, weight, orders, level)
    if wait_ns:
        raise BudgetSpent(wait_ns)
    return Paid(now_ns, weight, orders)


def hear(budget: Budget, paid: Paid, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Take note of what an answer says about the limits. headers: found by their names in lower case."""
    budget.hear(headers, of_order=paid.orders > 0)
    if status in _WAIT_S:
        wait_s = _retry_after_s(headers.get("retry-after", ""), status)
        budget.refused_by_venue(status, wait_s, paid.orders > 0 and _is_about_orders(content))


def _retry_after_s(text: str, status: int) -> float:
    """What a header asks for; a date, and what is no number of seconds, says nothing."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
    return float(int(text)) if is_number else _WAIT_S[status]


def _is_about_orders(content: bytes) -> bool:
    try:
        return bool(orjson.loads(content)["code"] == _TOO_MANY_ORDERS)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False
