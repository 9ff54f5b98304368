"""Market data of Binance's three markets: spot, USD-M and COIN-M futures. They differ in paths and stream roots.

                 REST        sockets                                    depth every ms        snapshot
    spot         /api/v3     one root; no mark price, no liquidations   100, 1000             1,000 levels, weight 50
    USD-M        /fapi/v1    /public: depth, bookTicker, trade          0, 100, 250, 500      1,000 levels, weight 20
                             /market: mark price, liquidations
    COIN-M       /dapi/v1    one root                                   0, 100, 250, 500      1,000 levels, weight 20

A depth stream that comes as often as is usual has no interval in its name: `@depth` is 1000 ms on spot, 250 ms on
futures; asked for by that number the venue accepts a subscription and sends nothing. `@depth@0ms` of futures, as often
as there is something to tell, is no longer documented; recordings have it and clients go on using it. Open interest of
futures is told by REST alone.
`!contractInfo` tells of every contract of a futures market that is listed, settled or halted: its status, no more, so
that the listing is read again then. Spot has no such stream.
Streams are named in the URL, so a socket that opens is subscribed: there is nothing to send, and nothing to answer.
Source: Binance spot, USD-M and COIN-M futures, "WebSocket Market Streams", "Market Data Endpoints"; for USD-M the
notice "Base URL Split & Migration" of 2026. The server pings every 20 s (spot) or 3 min (futures), too seldom to tell a
dead socket by, and answers our pings; an address may open 300 connections in 5 min (spot, "Limits").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import requests

from engine.binance_listing import instrument_from_binance, status_of
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.integrity.checked_book import SNAPSHOT_LEVELS
from engine.records import Status
from engine.validation.settings import AUDIT_LEVELS
from procs.back_off import ConnectionRule
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import limits_of
from procs.venues.market import Capabilities, Listing, Request, Socket, get
from procs.venues.subscriptions import Answer

REST_PATHS = {
    Dialect.BINANCE_SPOT: "/api/v3", Dialect.BINANCE_USDM: "/fapi/v1", Dialect.BINANCE_COINM: "/dapi/v1",
}
_USUAL_INTERVAL_MS = {Dialect.BINANCE_SPOT: 1000, Dialect.BINANCE_USDM: 250, Dialect.BINANCE_COINM: 250}
_STREAMS = {
    "ticker": "bookTicker", "trade": "trade", "mark_price": "markPrice@1s", "liquidation": "forceOrder",
}
_BRACES = re.compile(rb"[{}]")
_OF_ALL = {"listing": "!contractInfo"}  # streams that name no symbol
_PUBLIC, _OF_FUTURES = ("book", "ticker", "trade"), ("mark_price", "liquidation", "listing")
_SELDOM = {"liquidation", "listing"}
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
        kinds = tuple(kind for carried in _ROOTS[self.dialect].values() for kind in carried) + self.polled
        intervals = ", ".join(map(str, _INTERVALS_MS[self.dialect]))
        proof = "U, u" if self.dialect == Dialect.BINANCE_SPOT else "U, u, pu"
        return Capabilities(
            kinds, "REST snapshot", f"sequence ({proof})", f"{SNAPSHOT_LEVELS}, then what changes", f"{intervals} ms",
            "answers to our pings", "listing; contractInfo" if "listing" in kinds else "listing",
        )

    @property
    def connection_rule(self) -> ConnectionRule:
        """See Market."""
        return _CONNECTION_RULE

    @property
    def polled(self) -> tuple[str, ...]:
        """See Market."""
        return () if self.dialect == Dialect.BINANCE_SPOT else ("open_interest",)

    def fetch_listing(self, rest_url: str, symbols: Sequence[str]) -> Listing:
        """See Market. Raises ValueError also for a limit that exchangeInfo does not name."""
        url = f"{rest_url}{self.listing_path}"
        with requests.Session() as session:
            answer, listed = _exchange_info(get(session, url), url)
        missing = [symbol for symbol in symbols if symbol not in listed]
        if missing:
            raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
        instruments = (
            instrument_from_binance(listed[symbol], index, self.dialect) for index, symbol in enumerate(symbols)
        )
        return Listing(tuple(instruments), limits_of(answer))

    @property
    def listing_path(self) -> str:
        """See Market."""
        return f"{REST_PATHS[self.dialect]}/exchangeInfo"

    def parse_listing(self, body: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        listed = entries_within(body, symbols) or _exchange_info(body, self.listing_path)[1]
        try:
            known = [symbol for symbol in symbols if symbol in listed]
            return {symbol: instrument_from_binance(listed[symbol], 0, self.dialect) for symbol in known}
        except ValueError as error:
            raise VenueUnreachable(f"{self.listing_path}: {error}") from None

    def list_again(self, session: requests.Session, rest_url: str, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        return self.parse_listing(get(session, f"{rest_url}{self.listing_path}"), symbols)

    def fetch_open_interest(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        return get(session, f"{rest_url}{REST_PATHS[self.dialect]}/openInterest", {"symbol": symbol})

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market."""
        streams = {symbol: _STREAMS | {"book": self._book_stream(symbol, feed)} for symbol in symbols}
        sockets = []
        for root, carried in _ROOTS[self.dialect].items():
            kinds = [kind for kind in carried if feed.brings(kind, symbols)]
            if kinds and _SELDOM.issuperset(kinds):
                raise ValueError(
                    f"feed.kinds: {' and '.join(kinds)} alone leave a socket silent for minutes; add 'mark_price'"
                )
            listened = [
                f"{symbol.lower()}@{streams[symbol][kind]}"
                for symbol in symbols for kind in kinds if kind not in _OF_ALL and kind in feed.of(symbol).kinds
            ]
            listened += [_OF_ALL[kind] for kind in kinds if kind in _OF_ALL]
            if listened:
                sockets.append(Socket(f"{ws_url}{root}/stream?streams={'/'.join(listened)}"))
        return tuple(sockets)

    def _book_stream(self, symbol: str, feed: FeedSettings) -> str:
        """The stream of a symbol's book. Raises ValueError for an interval that the market does not have."""
        allowed = _INTERVALS_MS[self.dialect]
        interval_ms = feed.of(symbol).book_interval_ms or allowed[0]
        if interval_ms not in allowed:
            raise ValueError(
                f"{feed.key(symbol, 'book_interval_ms')} = {interval_ms}: this market tells its books every "
                f"{', '.join(map(str, allowed))} ms"
            )
        return "depth" if interval_ms == _USUAL_INTERVAL_MS[self.dialect] else f"depth@{interval_ms}ms"

    def book_depth(self, feed: FeedSettings) -> int:
        """See Market."""
        return 0

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        url = f"{rest_url}{REST_PATHS[self.dialect]}/depth"
        return get(session, url, {"symbol": symbol, "limit": SNAPSHOT_LEVELS})

    @property
    def has_audits(self) -> bool:
        """See Market."""
        return True

    def fetch_audit(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        url = f"{rest_url}{REST_PATHS[self.dialect]}/depth"
        return get(session, url, {"symbol": symbol, "limit": AUDIT_LEVELS})

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """Nothing: a book begins with a REST snapshot."""
        return ()

    def news(self, frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument | Status]:
        """See Market."""
        if b"contractInfo" not in frame:
            return {}
        try:
            message = orjson.loads(frame)
            event = message.get("data", message)
            is_news = event["e"] == "contractInfo" and event["s"] in symbols
            return {event["s"]: status_of(str(event["cs"]))} if is_news else {}
        except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
            return {}

    def answer(self, frame: bytes) -> Answer | None:
        """None: nothing is asked for over these sockets."""
        return None


def _exchange_info(body: bytes, url: str) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """exchangeInfo, and its entries by symbol. Raises VenueUnreachable."""
    try:
        answer = orjson.loads(body)
        return answer, {entry["symbol"]: entry for entry in answer["symbols"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise VenueUnreachable(f"{url}: the answer is no exchangeInfo") from None


def entries_within(body: bytes, symbols: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The entries of these symbols, cut out of an exchangeInfo whose entries begin with the symbol, as the venue prints
    them; empty where one cannot be found so, and all of it has to be read.

    Reading all holds the interpreter for 10 ms a megabyte, in which nothing else is done; this is 20 times as fast.
    """
    entries: dict[str, Mapping[str, Any]] = {}
    for symbol in symbols:
        head = b'{"symbol":"%s",' % symbol.encode()
        at = body.find(head)
        if at < 0 or body.find(head, at + 1) >= 0:
            return {}
        end = at
        depth = 0
        for brace in _BRACES.finditer(body, at):
            depth += 1 if brace[0] == b"{" else -1
            if depth == 0:
                end = brace.end()
                break
        try:
            entries[symbol] = orjson.loads(body[at:end])
        except orjson.JSONDecodeError:
            return {}
    return entries
