"""Request weight and order counts, the headers that tell a client about them, and the ban of who does not listen.

Beyond the weight limit a request is answered with 429; a client that goes on regardless is banned with 418.
Source: Binance USD-M futures, "General Info", limits.
"""

from __future__ import annotations

from engine.matching.settings import VenueSettings
from procs.embedded.errors import ApiError


def banned(until_ms: int, now_ms: int) -> ApiError:
    """The answer to a banned client."""
    return ApiError(
        -1003, f"Way too many requests; IP(127.0.0.1) banned until {until_ms}. Please use the websocket for live "
        "updates to avoid bans.", 418, max(1, (until_ms - now_ms + 999) // 1_000),
    )


class Limits:
    """Counters on fixed windows of the venue's clock."""

    def __init__(self, settings: VenueSettings):
        self._weight_limit = settings.weight_limit_1m
        self._order_limits = {60_000: settings.order_limit_1m, 10_000: settings.order_limit_10s}
        self._minute = -1
        self._weight = 0
        self._ban_after = settings.ban_after
        self._ban_ms = settings.ban_s * 1_000
        self._over = 0  # requests beyond the weight limit in this minute
        self.banned_until_ms = 0
        self.bans = 0
        self._orders = {60_000: (-1, 0), 10_000: (-1, 0)}  # window -> (which, how many)

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
        for window, limit in self._order_limits.items():
            which, count = self._orders[window]
            count = count + 1 if which == now_ms // window else 1
            self._orders[window] = (now_ms // window, count)
            if count > limit:
                raise ApiError(-1015, f"Too many new orders; current limit is {limit} orders per {window} ms.", 429,
                               (window - now_ms % window + 999) // 1_000)

    def headers(self) -> dict[str, str]:
        """What every answer carries."""
        return {
            "X-MBX-USED-WEIGHT-1M": str(self._weight),
            "X-MBX-ORDER-COUNT-1M": str(self._orders[60_000][1]),
            "X-MBX-ORDER-COUNT-10S": str(self._orders[10_000][1]),
        }
