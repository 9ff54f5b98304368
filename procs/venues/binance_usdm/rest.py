"""Plain REST: public data for ingestion and the supervisor, hand-signed requests for the kill switch.

The kill switch must not share code that queues or throttles, so it signs by hand; a test holds the bytes against
ccxt's.
Source: Binance USD-M futures, "General Info" (SIGNED endpoint security) and "Market Data Endpoints".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import requests

from engine.instruments import Instrument, instrument_from_binance
from procs.budget import Budget, RateLimit
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.rate_limits import PayingAdapter, limits_of, paying_session
from shm.clock import wall_ns

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


class SignedSession:
    """A warmed HTTP session that signs by hand: no queue, one request at a time.

    budget: what pays for the calls; `urgent` says whether they may use what is kept back.
    """

    def __init__(self, rest_url: str, credentials: Credentials, budget: Budget, recv_window_ms: int = 1000) -> None:
        self._rest_url = rest_url
        self._secret = credentials.secret.encode()
        self._recv_window_ms = recv_window_ms
        self._session = requests.Session()
        self._adapter = PayingAdapter(budget, urgent=True)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)
        self._session.headers["X-MBX-APIKEY"] = credentials.api_key

    @property
    def urgent(self) -> bool:
        """Whether what is asked may use what is kept back of the budget."""
        return self._adapter.urgent

    @urgent.setter
    def urgent(self, value: bool) -> None:
        self._adapter.urgent = value

    def query(self, params: Mapping[str, Any], timestamp_ms: int) -> str:
        """The signed query string of a request."""
        text = urlencode({**params, "recvWindow": self._recv_window_ms, "timestamp": timestamp_ms}, quote_via=quote)
        return f"{text}&signature={hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()}"

    def call(self, method: str, path: str, **params: Any) -> Any:
        """The decoded answer of a signed request. Raises VenueUnreachable; its text holds no query and no key."""
        url = f"{self._rest_url}{path}?{self.query(params, wall_ns() // 1_000_000)}"
        try:
            answer = self._session.request(method, url, timeout=_TIMEOUT_S)
            body = orjson.loads(answer.content)
        except requests.RequestException as error:
            raise VenueUnreachable(f"{method} {path}: {type(error).__name__}") from None
        except orjson.JSONDecodeError:
            raise VenueUnreachable(f"{method} {path}: HTTP {answer.status_code}, not JSON") from None
        if answer.status_code != 200:
            code = body.get("code") if isinstance(body, dict) else None
            raise VenueUnreachable(f"{method} {path}: HTTP {answer.status_code}, code {code}")
        return body

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
