"""Market data of Kraken Futures: one socket; the book with its sequence, trades and the ticker of each contract.

A book that is wrong is left and subscribed again, one contract at a time; the venue then sends a snapshot.
Source: Kraken Futures, "WebSocket API" and "REST API". The limit of public calls is that of spot, one a second, and
so is that of connections: this venue states none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import requests

from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.records import Status
from procs.back_off import ConnectionRule
from procs.budget import ORDERS, WEIGHT, RateLimit
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.kraken_futures.instruments import instrument_from_entry, parse_instruments
from procs.venues.kraken_futures.subscriptions import answer, subscribe
from procs.venues.kraken_spot.market import CONNECTION_RULE
from procs.venues.market import EVERY_CHANGE, Capabilities, Listing, Request, Socket, get
from procs.venues.subscriptions import Answer

_HEARTBEAT = Request(b'{"event":"subscribe","feed":"heartbeat"}')
_RATE_LIMITS = (RateLimit(WEIGHT, 10, 10, ""), RateLimit(ORDERS, 60, 60, ""))
# Feeds by the kinds that each carries: liquidations are trades of a type of their own, the ticker has the mark price.
_FEEDS = {
    "book": {"book"}, "trade": {"trade", "liquidation"}, "ticker": {"ticker", "mark_price", "open_interest"},
}


@dataclass(frozen=True)
class KrakenFuturesMarket:
    """See procs/venues/market.py. Symbols are those of the wire, in upper case: PI_XBTUSD."""

    dialect: Dialect = field(default=Dialect.KRAKEN_FUTURES, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """See Market."""
        kinds = ("book", "ticker", "trade", "mark_price", "liquidation", "open_interest")
        return Capabilities(
            kinds, "snapshot over the socket", "sequence (seq)", "whole", EVERY_CHANGE,
            "a message a second", "listing; ticker",
        )

    @property
    def connection_rule(self) -> ConnectionRule:
        """See Market."""
        return CONNECTION_RULE

    @property
    def polled(self) -> tuple[str, ...]:
        """See Market."""
        return ()

    def fetch_listing(self, rest_url: str, symbols: Sequence[str]) -> Listing:
        """See Market."""
        url = f"{rest_url}{self.listing_path}"
        with requests.Session() as session:
            listed = _contracts(get(session, url), url)
        if missing := [symbol for symbol in symbols if symbol not in listed]:
            raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
        instruments = (instrument_from_entry(listed[symbol], index) for index, symbol in enumerate(symbols))
        return Listing(tuple(instruments), _RATE_LIMITS)

    @property
    def listing_path(self) -> str:
        """See Market."""
        return "/derivatives/api/v3/instruments"

    def parse_listing(self, body: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        listed = _contracts(body, self.listing_path)
        try:
            return {symbol: instrument_from_entry(listed[symbol], 0) for symbol in symbols if symbol in listed}
        except ValueError as error:
            raise VenueUnreachable(f"{self.listing_path}: {error}") from None

    def list_again(self, session: requests.Session, rest_url: str, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        return self.parse_listing(get(session, f"{rest_url}{self.listing_path}"), symbols)

    def fetch_open_interest(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: the ticker tells it."""
        raise VenueUnreachable(f"{rest_url}: the open interest of {symbol} comes over the socket")

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market. A book is told whole and at once; its settings change nothing."""
        asked = []
        for name, kinds in _FEEDS.items():
            if wanted := [symbol for symbol in symbols if kinds & set(feed.of(symbol).kinds)]:
                asked.append(Request(*subscribe(name, wanted)))
        return (Socket(f"{ws_url}/ws/v1", (_HEARTBEAT, *asked)),)

    def book_depth(self, feed: FeedSettings) -> int:
        """See Market."""
        return 0

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: what REST says of a book has no sequence."""
        raise VenueUnreachable(f"{rest_url}: books of {symbol} come over the socket")

    @property
    def has_audits(self) -> bool:
        """See Market: sequence proves these books, and what REST tells has no number."""
        return False

    def fetch_audit(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: books are not audited here."""
        raise VenueUnreachable(f"{rest_url}: books of {symbol} are not audited")

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """See Market."""
        leave = {"event": "unsubscribe", "feed": "book", "product_ids": [instrument.symbol]}
        return Request(orjson.dumps(leave)), Request(*subscribe("book", [instrument.symbol]))

    def news(self, frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument | Status]:
        """See Market: there is no such channel; the ticker says that a contract is suspended."""
        return {}

    def answer(self, frame: bytes) -> Answer | None:
        """See Market."""
        return answer(frame)


def _contracts(body: bytes, where: str) -> dict[str, dict[str, Any]]:
    """What `instruments` lists, by symbol. Raises VenueUnreachable."""
    try:
        return parse_instruments(body)
    except ValueError as error:
        raise VenueUnreachable(f"{where}: {error}") from None
