"""How far our clock is from a venue's, by one question over REST that needs no key."""

from __future__ import annotations

from typing import Any

import orjson
import requests

from engine.instruments import Dialect
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.market import get
from shm.clock import wall_ns

TIME_PATHS = {
    Dialect.BINANCE_USDM: "/fapi/v1/time", Dialect.BINANCE_SPOT: "/api/v3/time", Dialect.BINANCE_COINM: "/dapi/v1/time",
}  # fmt: skip


def clock_ahead_ms(url: str) -> tuple[float, float]:
    """(how far ours is ahead in ms, how long the question took in ms); the true value lies within half of that.

    Raises VenueUnreachable.
    """
    with requests.Session() as session:
        asked_ns = wall_ns()
        body = get(session, url)
        answered_ns = wall_ns()
    try:
        answer: Any = orjson.loads(body)
        theirs_ms = int(answer["serverTime"])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError) as error:
        raise VenueUnreachable(f"{url}: an answer without a time ({type(error).__name__})") from None
    return (asked_ns + answered_ns) / 2e6 - theirs_ms, (answered_ns - asked_ns) / 1e6
