"""The stock ccxt client of Binance USD-M, and what its answers that cannot be read become."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import ccxt

from procs.venues.binance_usdm.endpoints import Credentials, Endpoints

# At DEBUG the library writes the headers of every request, the API key among them.
logging.getLogger("ccxt").setLevel(logging.INFO)

_HOSTS = (
    "https://fapi.binance.com", "https://dapi.binance.com", "https://eapi.binance.com", "https://api.binance.com",
    "https://papi.binance.com",
)


@contextlib.contextmanager
def understanding() -> Iterator[None]:
    """An answer without what it must hold is one of ccxt's errors too: BadResponse."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ccxt.BadResponse(f"an answer of the venue cannot be read: {type(error).__name__}: {error}") from error


def make_exchange(
    endpoints: Endpoints, credentials: Credentials, timeout_ms: int, recv_window_ms: int
) -> ccxt.binanceusdm:
    """The stock ccxt class, with its URLs pointed at the endpoints and nothing else changed."""
    exchange = ccxt.binanceusdm(
        {
            "apiKey": credentials.api_key,
            "secret": credentials.secret,
            "enableRateLimit": False,
            "timeout": timeout_ms,
            "options": {"recvWindow": recv_window_ms},
        }
    )
    if endpoints.rest_url not in _HOSTS:
        api = exchange.urls["api"]
        for key, url in api.items():
            for host in _HOSTS:
                if isinstance(url, str) and url.startswith(host):
                    api[key] = endpoints.rest_url + url[len(host) :]
    return exchange
