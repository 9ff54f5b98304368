"""Plain REST: public data for ingestion and the supervisor, the listen key of the private stream.

Source: Binance USD-M futures, "Market Data Endpoints" and "User Data Streams".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import requests

from engine.binance_listing import instrument_from_binance
from engine.instruments import Instrument
from procs.budget import Budget, RateLimit
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.binance_usdm.rate_limits import limits_of

_TIMEOUT_S = 5.0
SNAPSHOT_LEVELS = 1000


def _get(session: requests.Session, url: str, params: Mapping[str, Any] | None = None) -> bytes:
    try:
        answer = session.get(url, params=params, timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise VenueUnreachable(f"{url}: {type(error).__name__}") from None
    if answer.status_code != 200:
        raise VenueUnreachable(f"{url}: HTTP {answer.status_code}")
    return answer.content


@dataclass(frozen=True)
class Listing:
    """What exchangeInfo says of what is traded, and how much may be asked."""

    instruments: tuple[Instrument, ...]
    rate_limits: tuple[RateLimit, ...]


def fetch_listing(rest_url: str, symbols: Sequence[str]) -> Listing:
    """The named instruments as the venue describes them now, indexed in the order of `symbols`, and its rate limits.

    The one call that no budget pays for: it brings the limits. Raises VenueUnreachable, and ValueError for a symbol
    that the venue does not list or a limit that it does not name.
    """
    with requests.Session() as session:
        url = f"{rest_url}/fapi/v1/exchangeInfo"
        try:
            answer = orjson.loads(_get(session, url))
            listed = {entry["symbol"]: entry for entry in answer["symbols"]}
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise VenueUnreachable(f"{url}: the answer is no exchangeInfo") from None
    missing = [symbol for symbol in symbols if symbol not in listed]
    if missing:
        raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
    instruments = tuple(instrument_from_binance(listed[symbol], index) for index, symbol in enumerate(symbols))
    return Listing(instruments, limits_of(answer))


def fetch_depth(session: requests.Session, rest_url: str, symbol: str) -> bytes:
    """The body of a depth snapshot, untouched. Raises VenueUnreachable."""
    return _get(session, f"{rest_url}/fapi/v1/depth", {"symbol": symbol, "limit": SNAPSHOT_LEVELS})


def listen_key(rest_url: str, credentials: Credentials, budget: Budget, prolong: bool = False) -> str:
    """A listen key of the private stream, or with `prolong` the current one kept alive (it dies after 60 minutes).

    Raises VenueUnreachable (BudgetSpent when it was not asked). Needs the API key alone, so it can be asked for beside
    a busy trading session.
    """
    url = f"{rest_url}/fapi/v1/listenKey"
    try:
        method = "PUT" if prolong else "POST"
        with paying_session(budget) as session:
            answer = session.request(method, url, headers={"X-MBX-APIKEY": credentials.api_key}, timeout=_TIMEOUT_S)
        if answer.status_code != 200:
            raise VenueUnreachable(f"{method} {url}: HTTP {answer.status_code}")
        key = str(orjson.loads(answer.content).get("listenKey", ""))
        if not key and not prolong:
            raise VenueUnreachable(f"{method} {url}: an answer without a listen key")
        return key
    except (requests.RequestException, orjson.JSONDecodeError, AttributeError) as error:
        raise VenueUnreachable(f"{url}: {type(error).__name__}") from None
