"""Request weight and order counts, the headers that tell a client about them, and the ban of who does not listen.

Beyond the weight limit a request is answered with 429; a client that goes on regardless is banned with 418. Which
limits there are is a matter of the market: USD-M counts orders by minute and ten seconds, spot by ten seconds and day,
and there an order that trades is counted no more.
Source: Binance USD-M futures, "General Info", limits; Binance spot, "Limits", "Spot Unfilled Order Count Rules".
"""

from __future__ import annotations

from typing import Any

from engine.matching.settings import VenueSettings
from procs.embedded.errors import ApiError

WINDOWS_MS = {"10S": 10_000, "1M": 60_000, "1D": 86_400_000}


def banned(until_ms: int, now_ms: int) -> ApiError:
    """The answer to a banned client."""
    return ApiError(
        -1003, f"Way too many requests; IP(127.0.0.1) banned until {until_ms}. Please use the websocket for live "
        "updates to avoid bans.", 418, max(1, (until_ms - now_ms + 999) // 1_000),
    )


class Limits:
    """Counters on fixed windows of the venue's clock."""

    def __init__(self, settings: VenueSettings):
        self._weight_limit, self._order_limits = settings.limits()
        self._minute = -1
        self._weight = 0
        self._ban_after = settings.ban_after
        self._ban_ms = settings.ban_s * 1_000
        self._over = 0  # requests beyond the weight limit in this minute
        self.banned_until_ms = 0
        self.bans = 0
        self._orders = dict.fromkeys(self._order_limits, (-1, 0))  # window -> (which, how many)

    def request(self, weight: int, now_ms: int) -> None:
        """Count a request. Raises ApiError: 429 beyond the limit, 418 while banned."""
        if now_ms < self.banned_until_ms:
            raise banned(self.banned_until_ms, now_ms)
        minute = now_ms // 60_000
        if minute != self._minute:
            self._minute, self._weight, self._over = minute, 0, 0
        self._weight += weight
        if self._weight > self._weight_limit:
            self._over += 1
            if self._over > self._ban_after:
                self.banned_until_ms = now_ms + self._ban_ms
                self.bans += 1
                raise banned(self.banned_until_ms, now_ms)
            raise ApiError(
                -1003,
                f"Too many requests; current limit is {self._weight_limit} request weight per 1 MINUTE. Please use "
                "the websocket for live updates to avoid polling the API.",
                429,
                retry_after_s=60 - now_ms // 1_000 % 60,
            )

    def order(self, now_ms: int) -> None:
        """Count an order. Raises ApiError beyond a limit."""
        for name, limit in self._order_limits.items():
            window = WINDOWS_MS[name]
            count = self._count(name, now_ms) + 1
            self._orders[name] = (now_ms // window, count)
            if count > limit:
                raise ApiError(-1015, f"Too many new orders; current limit is {limit} orders per {window} ms.", 429,
                               (window - now_ms % window + 999) // 1_000)

    def filled(self, now_ms: int) -> None:
        """An order has traded for the first time: it is counted no more."""
        for name in self._order_limits:
            count = self._count(name, now_ms)
            self._orders[name] = (now_ms // WINDOWS_MS[name], max(0, count - 1))

    def _count(self, window: str, now_ms: int) -> int:
        """Orders counted in the window that goes on now."""
        which, count = self._orders[window]
        return count if which == now_ms // WINDOWS_MS[window] else 0

    def weight_header(self) -> dict[str, str]:
        """What every answer carries."""
        return {"X-MBX-USED-WEIGHT-1M": str(self._weight)}

    def order_headers(self) -> dict[str, str]:
        """What the answers to orders carry, and on USD-M all others too."""
        return {f"X-MBX-ORDER-COUNT-{name}": str(count) for name, (_, count) in self._orders.items()}

    def headers(self) -> dict[str, str]:
        """Both."""
        return self.weight_header() | self.order_headers()

    def usage(self, now_ms: int) -> list[dict[str, Any]]:
        """The order limits with how many are counted now, as spot lists them."""
        words = {"10S": ("SECOND", 10), "1M": ("MINUTE", 1), "1D": ("DAY", 1)}
        return [
            {"rateLimitType": "ORDERS", "interval": words[name][0], "intervalNum": words[name][1], "limit": limit,
             "count": self._count(name, now_ms)}
            for name, limit in self._order_limits.items()
        ]
