"""A book of Binance as the player keeps it: texts as they came, by code that shares nothing with the engine's kernels.

What is kept in memory are the levels, and the last diffs until a recorded snapshot that may be older than some of them.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Any

import orjson

from engine.instruments import Dialect
from procs.wire_player.venue import Sides

_RECENT = 1024  # diffs that a snapshot may be behind: seconds of the busiest symbol


def _put(sides: Sides, diff: dict[str, Any]) -> None:
    """Apply the levels of a diff."""
    for side, changes in zip(sides, (diff["b"], diff["a"]), strict=True):
        for price, size in changes:
            if Decimal(size):
                side[price] = size
            else:
                side.pop(price, None)


class PlayedBook:
    """See the module. has_recorded: the recording holds a snapshot of it; until that there is no book."""

    def __init__(self, symbol: str, dialect: Dialect) -> None:
        self.symbol = symbol
        self.has_recorded = False
        self.last_id = 0  # lastUpdateId; 0: no book yet
        self._dialect = dialect
        self._sides: Sides = ({}, {})
        self._recent: deque[bytes] = deque(maxlen=_RECENT)
        self._recorded: bytes | None = None  # the body of the last recorded snapshot, while no diff has come since
        self._diff: dict[str, Any] = {}  # the last one
        self._oldest: bytes | None = None  # the first body that was recorded or given
        self._oldest_id = 0

    def diff(self, event: bytes) -> None:
        """A recorded diff. One that cannot be read changes nothing."""
        if self.has_recorded:
            self._recent.append(event)
        if self.last_id or not self.has_recorded:
            self._apply(event)

    def _apply(self, event: bytes) -> None:
        try:
            diff = orjson.loads(event)
            if int(diff["u"]) <= self.last_id:
                return
            _put(self._sides, diff)
            self.last_id, self._diff, self._recorded = int(diff["u"]), diff, None
        except (KeyError, TypeError, ValueError, ArithmeticError):  # the recording's own bad frame: clients get it too
            return

    def snapshot(self, body: bytes) -> None:
        """A recorded snapshot: the book is as it says, and as the diffs say that went beyond it already."""
        try:
            snapshot = orjson.loads(body)
            bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
            first_id = self.last_id = int(snapshot["lastUpdateId"])
        except (KeyError, TypeError, ValueError):
            return
        self._remember(body, first_id)
        self._sides, self._diff = (bids, asks), snapshot
        for event in self._recent:
            self._apply(event)
        self._recorded = body if self.last_id == first_id else None

    def _remember(self, body: bytes, update_id: int) -> None:
        if self._oldest is None:
            self._oldest, self._oldest_id = body, update_id

    def body(self, levels: int) -> bytes | None:
        """A depth snapshot of now with so many levels a side; None while there is no book."""
        if not self.last_id:
            return None
        body = self._recorded or self.built(levels)
        self._remember(body, self.last_id)
        return body

    def stale(self) -> bytes | None:
        """The first body that was recorded or given, when the book has moved since."""
        return self._oldest if self._oldest_id < self.last_id else None

    def built(self, levels: int) -> bytes:
        """The same, made from the levels, whether anybody is given it or not."""
        return orjson.dumps(self._built(levels))

    def _built(self, levels: int) -> dict[str, Any]:
        bids, asks = self._sides
        body: dict[str, Any] = {"lastUpdateId": self.last_id}
        if self._dialect != Dialect.BINANCE_SPOT:
            body |= {"E": self._diff.get("E", 0), "T": self._diff.get("T", 0)}
        if self._dialect == Dialect.BINANCE_COINM:
            body |= {"symbol": self.symbol, "pair": self.symbol.partition("_")[0]}
        body["bids"] = [[price, bids[price]] for price in sorted(bids, key=Decimal, reverse=True)[:levels]]
        body["asks"] = [[price, asks[price]] for price in sorted(asks, key=Decimal)[:levels]]
        return body
