"""Market data of Binance's three markets: spot, USD-M and COIN-M futures. They differ in paths and stream roots.

                 REST        sockets                                    depth every ms        snapshot
    spot         /api/v3     one root; no mark price, no liquidations   100, 1000             1,000 levels, weight 50
    USD-M        /fapi/v1    /public: depth, bookTicker, trade          0, 100, 250, 500      1,000 levels, weight 20
                             /market: mark price, liquidations
    COIN-M       /dapi/v1    one root                                   0, 100, 250, 500      1,000 levels, weight 20

Streams are named in the URL, so a socket that opens is subscribed: there is nothing to send, and nothing to answer.
Source: Binance spot, USD-M and COIN-M futures, "WebSocket Market Streams", "Market Data Endpoints"; for USD-M the
notice "Base URL Split & Migration" of 2026. The server pings every 20 s (spot) or 3 min (futures), too seldom to tell a
dead socket by, and answers our pings; an address may open 300 connections in 5 min (spot, "Limits").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import requests

from engine.binance_listing import instrument_from_binance
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from procs.back_off import ConnectionRule
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import limits_of
from procs.venues.market import Capabilities, Listing, Request, Socket, get
from procs.venues.subscriptions import Answer

SNAPSHOT_LEVELS = 1000
REST_PATHS = {
    Dialect.BINANCE_SPOT: "/api/v3", Dialect.BINANCE_USDM: "/fapi/v1", Dialect.BINANCE_COINM: "/dapi/v1",
}
_STREAMS = {
    "ticker": "bookTicker", "trade": "trade", "mark_price": "markPrice@1s", "liquidation": "forceOrder",
}
_PUBLIC, _OF_FUTURES = ("book", "ticker", "trade"), ("mark_price", "liquidation")
# By dialect: what each root of sockets carries.
_ROOTS: dict[Dialect, dict[str, tuple[str, ...]]] = {
    Dialect.BINANCE_SPOT: {"": _PUBLIC},
    Dialect.BINANCE_USDM: {"/public": _PUBLIC, "/market": _OF_FUTURES},
    Dialect.BINANCE_COINM: {"": (*_PUBLIC, *_OF_FUTURES)},
}
_CONNECTION_RULE = ConnectionRule(
    silence_s=5.0, ping_s=2.5, quiet_s=300.0, longest_wait_s=10.0, opens=100, window_s=300.0
)
_FUTURES_INTERVALS_MS = (0, 100, 250, 500)
_INTERVALS_MS = {
    Dialect.BINANCE_SPOT: (100, 1000), Dialect.BINANCE_USDM: _FUTURES_INTERVALS_MS,
    Dialect.BINANCE_COINM: _FUTURES_INTERVALS_MS,
}


@dataclass(frozen=True)
class BinanceMarket:
    """See procs/venues/market.py. `dialect` is one of Binance's."""

    dialect: Dialect

    @property
    def capabilities(self) -> Capabilities:
        """See Market."""
        kinds = tuple(kind for carried in _ROOTS[self.dialect].values() for kind in carried)
        intervals = ", ".join(map(str, _INTERVALS_MS[self.dialect]))
        proof = "U, u" if self.dialect == Dialect.BINANCE_SPOT else "U, u, pu"
        return Capabilities(
            kinds, "REST snapshot", f"sequence ({proof})", "sequence", "whole", f"{intervals} ms",
            "answers to our pings",
        )

    @property
    def connection_rule(self) -> ConnectionRule:
        """See Market."""
        return _CONNECTION_RULE

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

    def sockets(self, ws_url: str, instruments: Sequence[Instrument], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market."""
        allowed = _INTERVALS_MS[self.dialect]
        interval_ms = feed.book_interval_ms or allowed[0]
        if interval_ms not in allowed:
            raise ValueError(
                f"feed.book_interval_ms = {interval_ms}: this market tells its books every "
                f"{', '.join(map(str, allowed))} ms"
            )
        streams = _STREAMS | {"book": f"depth@{interval_ms}ms"}
        names = [item.symbol.lower() for item in instruments]
        sockets = []
        for root, carried in _ROOTS[self.dialect].items():
            kinds = [streams[kind] for kind in carried if kind in feed.kinds]
            if kinds == [streams["liquidation"]]:
                raise ValueError("feed.kinds: liquidations alone leave a socket silent for minutes; add 'mark_price'")
            if kinds:
                listened = "/".join(f"{name}@{kind}" for name in names for kind in kinds)
                sockets.append(Socket(f"{ws_url}{root}/stream?streams={listened}"))
        return tuple(sockets)

    def book_depth(self, feed: FeedSettings) -> int:
        """See Market."""
        return 0

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        url = f"{rest_url}{REST_PATHS[self.dialect]}/depth"
        return get(session, url, {"symbol": symbol, "limit": SNAPSHOT_LEVELS})

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """Nothing: a book begins with a REST snapshot."""
        return ()

    def answer(self, frame: bytes) -> Answer | None:
        """None: nothing is asked for over these sockets."""
        return None
