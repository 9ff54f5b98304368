"""Market data of Binance's three markets: spot, USD-M and COIN-M futures. They differ in paths and stream roots.

                 REST        sockets                                 depth stream    snapshot
    spot         /api/v3     one root                                depth@100ms     1,000 levels, weight 50
    USD-M        /fapi/v1    /public: depth, bookTicker, trade       depth@0ms       1,000 levels, weight 20
                             /market: mark price
    COIN-M       /dapi/v1    one root                                depth@0ms       1,000 levels, weight 20

Streams are named in the URL, so a socket that opens is subscribed: there is nothing to send, and nothing to answer.
Source: Binance spot, USD-M and COIN-M futures, "WebSocket Market Streams", "Market Data Endpoints"; for USD-M the
notice "Base URL Split & Migration" of 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import requests

from engine.binance_listing import instrument_from_binance
from engine.instruments import Dialect, Instrument
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import limits_of
from procs.venues.market import Listing, Request, Socket, get
from procs.venues.subscriptions import Answer

SNAPSHOT_LEVELS = 1000
REST_PATHS = {
    Dialect.BINANCE_SPOT: "/api/v3", Dialect.BINANCE_USDM: "/fapi/v1", Dialect.BINANCE_COINM: "/dapi/v1",
}
_TOUCH_AND_TRADES = ("bookTicker", "trade")
# By dialect: the streams of each socket, under the root that it has.
_STREAMS: dict[Dialect, dict[str, tuple[str, ...]]] = {
    Dialect.BINANCE_SPOT: {"": ("depth@100ms", *_TOUCH_AND_TRADES)},
    Dialect.BINANCE_USDM: {"/public": ("depth@0ms", *_TOUCH_AND_TRADES), "/market": ("markPrice@1s",)},
    Dialect.BINANCE_COINM: {"": ("depth@0ms", *_TOUCH_AND_TRADES, "markPrice@1s")},
}


@dataclass(frozen=True)
class BinanceMarket:
    """See procs/venues/market.py. `dialect` is one of Binance's."""

    dialect: Dialect

    def fetch_listing(self, rest_url: str, symbols: Sequence[str]) -> Listing:
        """See Market. Raises ValueError also for a limit that exchangeInfo does not name."""
        url = f"{rest_url}{REST_PATHS[self.dialect]}/exchangeInfo"
        with requests.Session() as session:
            body = get(session, url)
        try:
            answer = orjson.loads(body)
            listed = {entry["symbol"]: entry for entry in answer["symbols"]}
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise VenueUnreachable(f"{url}: the answer is no exchangeInfo") from None
        missing = [symbol for symbol in symbols if symbol not in listed]
        if missing:
            raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
        instruments = (
            instrument_from_binance(listed[symbol], index, self.dialect) for index, symbol in enumerate(symbols)
        )
        return Listing(tuple(instruments), limits_of(answer))

    def sockets(self, ws_url: str, instruments: Sequence[Instrument]) -> tuple[Socket, ...]:
        """See Market."""
        names = [item.symbol.lower() for item in instruments]
        return tuple(
            Socket(f"{ws_url}{root}/stream?streams={'/'.join(f'{name}@{kind}' for name in names for kind in kinds)}")
            for root, kinds in _STREAMS[self.dialect].items()
        )

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        url = f"{rest_url}{REST_PATHS[self.dialect]}/depth"
        return get(session, url, {"symbol": symbol, "limit": SNAPSHOT_LEVELS})

    def ask_again(self, instrument: Instrument) -> tuple[Request, ...]:
        """Nothing: a book begins with a REST snapshot."""
        return ()

    def answer(self, frame: bytes) -> Answer | None:
        """None: nothing is asked for over these sockets."""
        return None
