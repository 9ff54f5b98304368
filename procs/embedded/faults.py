"""Faults on demand: what a real venue does on a bad day, deterministic and counted.

POST /bot4/faults takes one JSON object; DELETE clears what is pending.

    {"fault": "drop_depth", "symbol": "BTCUSDT", "count": 3}       the next diffs are not sent (ids move on)
    {"fault": "duplicate_depth", "symbol": "BTCUSDT", "count": 1}  the next diffs are sent twice
    {"fault": "drop_user", "count": 1}                             the next user data events are not sent
    {"fault": "disconnect", "streams": "public"}                   cut sockets: public, market, private or all
    {"fault": "http", "action": ..., "path": "/fapi/v1/order", "method": "POST", "count": 1,
     "status": 503, "delay_ms": 1000}                              the next matching requests; path is a prefix

Actions of "http": error_before (answer `status`, nothing done), error_after (done, then `status`), hang_before (wait
`delay_ms`, then do it), hang_after (do it, then wait), rate_limit (429 with Retry-After, nothing done).
A drop or a duplicate counts frames of all depth streams of the contract that somebody listens to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HTTP_ACTIONS = ("error_before", "error_after", "hang_before", "hang_after", "rate_limit")
SOCKETS = ("public", "market", "private", "all")


@dataclass
class HttpFault:
    """What the next matching requests meet."""

    action: str
    path: str
    method: str  # empty: any
    count: int
    status: int
    delay_ms: int


class Faults:
    """Faults that are pending, and how many took effect (`applied`, by name)."""

    def __init__(self) -> None:
        self.applied: Counter[str] = Counter()
        self._frames: dict[tuple[str, str], int] = {}  # (fault, symbol) -> how many are left
        self._http: list[HttpFault] = []

    def clear(self) -> None:
        """Forget what is pending."""
        self._frames.clear()
        self._http.clear()

    def order(self, request: Mapping[str, Any]) -> None:
        """Take one order for a fault other than "disconnect". Raises ValueError that says what is allowed."""
        fault = request.get("fault")
        count = request.get("count", 1)
        if type(count) is not int or count < 1:
            raise ValueError("count: a whole number, at least 1")
        if fault in ("drop_depth", "duplicate_depth"):
            symbol = str(request.get("symbol", "")).upper()
            if not symbol:
                raise ValueError("symbol: which contract")
            self._add((str(fault), symbol), count)
        elif fault == "drop_user":
            self._add(("drop_user", ""), count)
        elif fault == "http":
            action, path = request.get("action"), request.get("path", "/fapi/")
            status, delay_ms = request.get("status", 503), request.get("delay_ms", 1_000)
            if action not in HTTP_ACTIONS:
                raise ValueError(f"action: one of {', '.join(HTTP_ACTIONS)}")
            if type(status) is not int or not 400 <= status <= 599 or type(delay_ms) is not int or delay_ms < 0:
                raise ValueError("status: 400 to 599; delay_ms: a whole number, at least 0")
            self._http.append(
                HttpFault(action, str(path), str(request.get("method", "")).upper(), count, status, delay_ms)
            )
        else:
            raise ValueError("fault: one of drop_depth, duplicate_depth, drop_user, disconnect, http")

    def pending(self) -> dict[str, Any]:
        """What has been ordered and has not happened yet."""
        frames = {f"{fault} {symbol}".strip(): left for (fault, symbol), left in self._frames.items()}
        return {"frames": frames, "http": [vars(item) for item in self._http]}

    def copies(self, stream: str) -> int:
        """How often a frame of a stream (or "user") is to be sent: 0, 1 or 2."""
        if not self._frames:
            return 1
        if stream == "user":
            return 0 if self._use("drop_user", "") else 1
        symbol, _, kind = stream.partition("@")
        if not kind.startswith("depth"):
            return 1
        if self._use("drop_depth", symbol.upper()):
            return 0
        return 2 if self._use("duplicate_depth", symbol.upper()) else 1

    def http(self, method: str, path: str) -> HttpFault | None:
        """The fault that this request meets, used up by one."""
        for item in self._http:
            if path.startswith(item.path) and item.method in ("", method):
                item.count -= 1
                if item.count == 0:
                    self._http.remove(item)
                self.applied[item.action] += 1
                return item
        return None

    def _add(self, key: tuple[str, str], count: int) -> None:
        self._frames[key] = self._frames.get(key, 0) + count

    def _use(self, fault: str, symbol: str) -> bool:
        left = self._frames.get((fault, symbol), 0)
        if left == 0:
            return False
        if left == 1:
            del self._frames[fault, symbol]
        else:
            self._frames[fault, symbol] = left - 1
        self.applied[fault] += 1
        return True
