"""What the venue's private stream says of orders and positions: the second witness beside REST.

The stream's thread tells it, the kill loop asks it; neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

import orjson

from procs.venues.binance_usdm.private_stream import StreamEvent

_RESTING = ("NEW", "PARTIALLY_FILLED")


class Testimony(Enum):
    """What the witness says about a claim that nothing rests, or that all is flat."""

    CONFIRMS = "confirms"
    CONTRADICTS = "contradicts"
    SILENT = "silent"  # the stream is down, or it has said nothing of it


class Witness:
    """Knows what it was told since the stream was connected; what was there before it has not seen."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._symbols = frozenset(symbols)
        self._connected = False
        self._resting: dict[int, str] = {}  # venue order id -> symbol
        self._positions: dict[str, Decimal] = {}

    def take(self, event: StreamEvent, data: bytes) -> bool:
        """Something from the stream. Returns False when its key has expired: it would say nothing any more."""
        if event != StreamEvent.FRAME:
            self._connected = event == StreamEvent.CONNECTED
            self._resting = {}
            self._positions = {}
            return True
        try:
            frame = orjson.loads(data)
            told = frame.get("data", frame)
            return self._learn(told.get("e"), told)
        except (ValueError, LookupError, TypeError, AttributeError, InvalidOperation):
            self._connected = False  # what it cannot read it does not vouch for
            return True

    def _learn(self, kind: Any, told: Any) -> bool:
        if kind == "ORDER_TRADE_UPDATE" and told["o"]["s"] in self._symbols:
            order = told["o"]
            if order["X"] in _RESTING:
                self._resting[int(order["i"])] = order["s"]
            else:
                self._resting.pop(int(order["i"]), None)
        elif kind == "ACCOUNT_UPDATE":
            for entry in told["a"]["P"]:
                if entry["s"] in self._symbols:
                    self._positions[entry["s"]] = Decimal(entry["pa"])
        return kind != "listenKeyExpired"

    def nothing_rests(self) -> Testimony:
        """Whether every order that it saw enter the book has left it."""
        if not self._connected:
            return Testimony.SILENT
        return Testimony.CONTRADICTS if self._resting else Testimony.CONFIRMS

    def flat(self) -> Testimony:
        """Whether every position that it heard of is zero."""
        if not self._connected or not self._positions:
            return Testimony.SILENT
        return Testimony.CONTRADICTS if any(self._positions.values()) else Testimony.CONFIRMS
