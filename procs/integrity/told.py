"""What a frame says of a book, read slowly: json and Decimal, and no code of the kernels.

A size of 0 removes a level. Numbers that are no whole units of the instrument, and frames that are no JSON or have
another form than the venue's, say nothing: None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Any, NamedTuple

from engine.instruments import Dialect, Instrument

BUY, SELL = 1, -1


class Told(NamedTuple):
    """What one frame or body says of one book."""

    instrument: int  # its index
    is_snapshot: bool
    levels: tuple[tuple[int, int, int], ...]  # (side, price, size) in units, in the order of the frame
    numbers: tuple[str, ...]  # what proves it: U, pu, u; seq; the checksum; lastUpdateId. "" for one that is not there
    time: str  # the venue's, as printed


_MISSING = object()


@lru_cache(maxsize=1 << 18)
def _units(text: str, exp: int) -> int:
    """Raises ValueError for what is no whole number of units."""
    try:
        value = Decimal(text).scaleb(exp)
    except DecimalException:  # no number, or one with an exponent beyond all bounds
        raise ValueError(text) from None
    if not value.is_finite() or value != value.to_integral_value():
        raise ValueError(text)
    return int(value)


def _side(side: int, pairs: Any, item: Instrument) -> list[tuple[int, int, int]]:
    return [(side, _units(pair[0], item.price_exp), _units(pair[1], item.size_exp)) for pair in pairs]


def _objects(side: int, levels: Any, item: Instrument) -> list[tuple[int, int, int]]:
    return _side(side, [(level["price"], level["qty"]) for level in levels], item)


def _text(value: Any) -> str:
    return "" if value is _MISSING or value is None else str(value)


class Reader:
    """Reads the frames of one dialect."""

    def __init__(self, instruments: tuple[Instrument, ...]) -> None:
        self.dialect = Dialect(instruments[0].dialect)
        self._by_symbol: Mapping[str, Instrument] = {item.symbol: item for item in instruments}

    def read(self, frame: bytes) -> Told | None:
        """What a frame says of a book; None for any other frame, and for one that cannot be read."""
        try:
            message = json.loads(frame, parse_float=str, parse_int=str)
            if self.dialect == Dialect.KRAKEN_SPOT_V1:
                return self._v1(message)
            if self.dialect == Dialect.KRAKEN_SPOT_V2:
                return self._v2(message)
            if self.dialect == Dialect.KRAKEN_FUTURES:
                return self._futures(message)
            return self._binance(message.get("data", message))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None

    def body(self, symbol: str, body: bytes) -> Told:
        """What a REST depth body of Binance says. Raises ValueError for one that is none."""
        item = self._by_symbol[symbol]
        message = json.loads(body, parse_float=str, parse_int=str)
        levels = _side(BUY, message["bids"], item) + _side(SELL, message["asks"], item)
        return Told(item.index, True, tuple(levels), (message["lastUpdateId"],), _text(message.get("E")))

    def _binance(self, event: Any) -> Told | None:
        if event.get("e") != "depthUpdate":
            return None
        item = self._by_symbol[event["s"]]
        levels = _side(BUY, event["b"], item) + _side(SELL, event["a"], item)
        numbers = tuple(_text(event.get(name, _MISSING)) for name in ("U", "pu", "u"))
        return Told(item.index, False, tuple(levels), numbers, _text(event.get("T", event.get("E"))))

    def _v1(self, message: Any) -> Told | None:
        if not isinstance(message, list) or not message[-2].startswith("book-"):
            return None
        item = self._by_symbol[message[-1]]
        merged: dict[str, Any] = {}
        for payload in message[1:-2]:
            merged |= payload
        is_snapshot = "as" in merged or "bs" in merged
        if is_snapshot:
            levels = _side(BUY, merged["bs"], item) + _side(SELL, merged["as"], item)
        else:
            levels = _side(BUY, merged.get("b", ()), item) + _side(SELL, merged.get("a", ()), item)
        return Told(item.index, is_snapshot, tuple(levels), (_text(merged.get("c", _MISSING)),), "")

    def _v2(self, message: Any) -> Told | None:
        if message.get("channel") != "book":
            return None
        (data,) = message["data"]
        item = self._by_symbol[data["symbol"]]
        levels = _objects(BUY, data["bids"], item) + _objects(SELL, data["asks"], item)
        numbers = (_text(data.get("checksum", _MISSING)),)
        return Told(item.index, message["type"] == "snapshot", tuple(levels), numbers, _text(data.get("timestamp")))

    def _futures(self, message: Any) -> Told | None:
        feed = message.get("feed")
        if feed not in ("book", "book_snapshot") or "event" in message:
            return None
        item = self._by_symbol[message["product_id"]]
        if feed == "book_snapshot":
            levels = _objects(BUY, message["bids"], item) + _objects(SELL, message["asks"], item)
            levels = [level for level in levels if level[2]]
        else:
            levels = _objects({"buy": BUY, "sell": SELL}[message["side"]], (message,), item)
        is_snapshot = feed == "book_snapshot"
        return Told(item.index, is_snapshot, tuple(levels), (_text(message["seq"]),), _text(message["timestamp"]))
