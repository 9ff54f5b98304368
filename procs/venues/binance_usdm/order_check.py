"""Order against intent: what is about to leave is compared with what execution decided, field by field.

The request is parsed back from the bytes that the socket would get, after ccxt has built and signed it. Everything
must be in it that the ORDER record says, and nothing that it does not say. What was ever sent under one order number
adds up to at most its size. What cannot be read is a difference.
Limits: KEPT order numbers are remembered one by one; those below, and those of a predecessor, count as sent in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import numpy as np
import requests

from engine.instruments import Instrument
from engine.records import Flag, OrderAction, OrderType, Side, TimeInForce
from engine.units import parse_units
from procs.venues.binance_usdm.rate_limits import ORDER_PATH
from procs.venues.binance_usdm.reports import ClientIds

KEPT = 1024
# Fields that say how to talk, not what to trade.
_ENVELOPE = {"recvWindow", "timestamp", "signature"}


class NotAsDecided(ValueError):
    """A request that is not what was decided; the message says in what."""


def fields_of(request: requests.PreparedRequest) -> dict[str, str]:
    """The parameters of a request, from its URL and its body. Raises NotAsDecided for one that is there twice."""
    body = request.body or b""
    text = body.decode("ascii", "replace") if isinstance(body, bytes) else str(body)
    pairs = parse_qsl(request.path_url.partition("?")[2], keep_blank_values=True)
    pairs += parse_qsl(text, keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise NotAsDecided("a parameter is there twice")
    return {name: value for name, value in fields.items() if name not in _ENVELOPE}


def _units(fields: Mapping[str, str], name: str, exp: int) -> int:
    try:
        return parse_units(fields[name], exp)
    except (KeyError, ValueError):
        raise NotAsDecided(f"{name} is {fields.get(name)!r}") from None


class OrderCheck:
    """Of one trading client. `expect` what is to leave next, then `check` what is about to."""

    def __init__(self, instruments: Mapping[int, Instrument], ids: ClientIds) -> None:
        self._instruments = instruments
        self._ids = ids
        self._expected: np.void | None = None
        self._sent: dict[int, int] = {}  # size by order number, rising numbers
        self._floor = 0

    def expect(self, order: np.void | None) -> None:
        """The ORDER record that the next request must be of; None: there must be no request but questions."""
        # A copy: what happens to the record from here on changes nothing.
        self._expected = None if order is None else np.frombuffer(order.tobytes(), order.dtype)[0]

    def succeed(self, floor: int) -> None:
        """Order numbers up to here were perhaps sent by a predecessor."""
        self._floor = max(self._floor, floor)

    def check(self, request: requests.PreparedRequest) -> None:
        """Raises NotAsDecided; otherwise what leaves is counted as sent."""
        method = request.method or ""
        if method == "GET":
            return
        path, order = request.path_url.partition("?")[0], self._expected
        if order is None or not path.endswith(ORDER_PATH):
            raise NotAsDecided(f"{method} {path}: nobody decided it")
        fields = fields_of(request)
        if method == "POST" and order["kind"] == OrderAction.NEW:
            self._check_new(order, fields)
        elif method == "DELETE" and order["kind"] == OrderAction.CANCEL:
            self._compare(fields, self._named(order, "origClientOrderId"))
        else:
            raise NotAsDecided(f"{method} {path}: it is not what {OrderAction(int(order['kind'])).name} asks for")

    def _named(self, order: np.void, field: str) -> dict[str, str]:
        symbol = self._instruments[int(order["instrument"])].symbol
        return {"symbol": symbol, field: self._ids.text(int(order["order_id"]))}

    def _check_new(self, order: np.void, fields: dict[str, str]) -> None:
        instrument = self._instruments[int(order["instrument"])]
        expected = self._named(order, "newClientOrderId") | {
            "side": Side(int(order["side"])).name,
            "type": OrderType(int(order["order_type"])).name,
            "newOrderRespType": "ACK",
        }
        if order["flags"] & Flag.REDUCE_ONLY:
            expected["reduceOnly"] = "true"
        if order["order_type"] == OrderType.LIMIT:
            expected["timeInForce"] = TimeInForce(int(order["time_in_force"])).name
            price = _units(fields, "price", instrument.price_exp)
            if price != order["price"]:
                raise NotAsDecided(f"price {fields['price']}, {int(order['price'])} units were decided")
            del fields["price"]
        size = _units(fields, "quantity", instrument.size_exp)
        if size != order["size"]:
            raise NotAsDecided(f"quantity {fields['quantity']}, {int(order['size'])} units were decided")
        del fields["quantity"]
        self._compare(fields, expected)
        self._count(int(order["order_id"]), size, int(order["size"]))

    @staticmethod
    def _compare(fields: Mapping[str, str], expected: Mapping[str, str]) -> None:
        for name in sorted(fields.keys() | expected.keys()):
            if fields.get(name) != expected.get(name):
                raise NotAsDecided(f"{name} is {fields.get(name)!r}, {expected.get(name)!r} was decided")

    def _count(self, order_id: int, size: int, decided: int) -> None:
        """All that was sent under an order number is at most what was decided (Knight 2012)."""
        if order_id <= self._floor:
            raise NotAsDecided(f"order {order_id} was sent before")
        total = self._sent.get(order_id, 0) + size
        if total > decided:
            raise NotAsDecided(f"order {order_id}: {total} units would be sent of {decided} decided")
        self._sent[order_id] = total
        if len(self._sent) > KEPT:
            oldest = min(self._sent)
            del self._sent[oldest]
            self._floor = max(self._floor, oldest)
