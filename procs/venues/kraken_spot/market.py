"""Market data of Kraken spot over WebSocket v2: one socket; the book, its checksum, trades and the touch of each pair,
and the list of all pairs, which the venue sends whole at first and then as it changes.

A book that is wrong is left and subscribed again, one pair at a time; the venue then sends a snapshot.
Source: Kraken, "Spot WebSocket API v2"; "Spot REST API, rate limits": one public call a second; "WebSocket API FAQ":
about 150 connections of an address in any ten minutes, after which it is shut out for ten.
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
from engine.validation.settings import AUDIT_LEVELS
from procs.back_off import ConnectionRule
from procs.budget import ORDERS, WEIGHT, RateLimit
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.kraken_spot.instruments import (
    instrument_from_pair,
    listed_in_channel,
    parse_asset_pairs,
    v1_symbol,
    v2_symbol,
)
from procs.venues.kraken_spot.subscriptions import BOOK_DEPTHS, answer_v2, subscribe_v2
from procs.venues.market import EVERY_CHANGE, Capabilities, Listing, Request, Socket, get
from procs.venues.subscriptions import Answer, Wanted

USUAL_LEVELS = 100
CONNECTION_RULE = ConnectionRule(
    silence_s=5.0, ping_s=0.0, quiet_s=5.0, longest_wait_s=20.0, opens=50, window_s=600.0
)
_RATE_LIMITS = (RateLimit(WEIGHT, 10, 10, ""), RateLimit(ORDERS, 60, 60, ""))
_BOOK = 1
_CHANNELS = {_BOOK: "book", 2: "trade", 3: "ticker"}  # by the number that the answers repeat; spot has no others
_LISTING = 4  # the number of the channel that is of all pairs
_OF_ALL = {_LISTING: (Wanted("instrument", ""),)}


@dataclass(frozen=True)
class KrakenSpotMarket:
    """See procs/venues/market.py. Symbols are those of v2: BTC/USD."""

    dialect: Dialect = field(default=Dialect.KRAKEN_SPOT_V2, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """See Market."""
        depths = ", ".join(map(str, BOOK_DEPTHS))
        return Capabilities(
            (*_CHANNELS.values(), "listing"), "snapshot over the socket", "checksum of ten levels (CRC-32)",
            f"{depths} levels a side", EVERY_CHANGE, "a message a second",
            "listing; channels of instruments and of the system",
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
            pairs = _pairs(get(session, url), url)
        if missing := [symbol for symbol in symbols if symbol not in pairs]:
            raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
        instruments = (instrument_from_pair(pairs[symbol], index, v2=True) for index, symbol in enumerate(symbols))
        return Listing(tuple(instruments), _RATE_LIMITS)

    @property
    def listing_path(self) -> str:
        """See Market."""
        return "/0/public/AssetPairs"

    def parse_listing(self, body: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        pairs = _pairs(body, self.listing_path)
        try:
            return {symbol: instrument_from_pair(pairs[symbol], 0, v2=True) for symbol in symbols if symbol in pairs}
        except ValueError as error:
            raise VenueUnreachable(f"{self.listing_path}: {error}") from None

    def list_again(self, session: requests.Session, rest_url: str, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        return self.parse_listing(get(session, f"{rest_url}{self.listing_path}"), symbols)

    def fetch_open_interest(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: a pair has none."""
        raise VenueUnreachable(f"{rest_url}: {symbol} has no open interest")

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market."""
        asked = []
        for number, channel in _CHANNELS.items():
            wanted = feed.brings(channel, symbols)
            of_depth: dict[int, list[str]] = {}
            for symbol in wanted:
                of_depth.setdefault(_levels(symbol, feed) if number == _BOOK else 0, []).append(symbol)
            asked += [_subscribe(number, named, levels) for levels, named in of_depth.items()]
        if feed.brings("listing", symbols):
            params = {"channel": "instrument", "snapshot": True}
            frame = orjson.dumps({"method": "subscribe", "params": params, "req_id": _LISTING})
            asked.append(Request(frame, _OF_ALL[_LISTING]))
        return (Socket(f"{ws_url}/v2", tuple(asked)),)

    def book_depth(self, feed: FeedSettings) -> int:
        """See Market."""
        return feed.book_levels or USUAL_LEVELS

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: what REST says of a book has neither checksum nor sequence."""
        raise VenueUnreachable(f"{rest_url}: books of {symbol} come over the socket")

    @property
    def has_audits(self) -> bool:
        """See Market."""
        return True

    def fetch_audit(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """See Market."""
        pair = v1_symbol(symbol).replace("/", "")
        return get(session, f"{rest_url}/0/public/Depth", {"pair": pair, "count": AUDIT_LEVELS})

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """See Market."""
        symbol = instrument.symbol
        levels = _levels(symbol, feed)
        params = {"channel": "book", "symbol": [symbol], "depth": levels}
        leave = Request(orjson.dumps({"method": "unsubscribe", "params": params}))
        return leave, _subscribe(_BOOK, [symbol], levels)

    def news(self, frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument | Status]:
        """See Market. Reading the whole list holds the interpreter for some milliseconds, once a connection."""
        if not any(symbol.encode() in frame for symbol in symbols):
            return {}
        try:
            return dict(listed_in_channel(frame, symbols))
        except ValueError:
            return {}

    def answer(self, frame: bytes) -> Answer | None:
        """See Market."""
        found = answer_v2(frame, _OF_ALL)
        if found is None or found.wanted or found.accepted:
            return found
        return _by_number(frame, found)


def _pairs(body: bytes, where: str) -> dict[str, dict[str, Any]]:
    """What `AssetPairs` lists, by the symbol of v2. Raises VenueUnreachable."""
    try:
        return {v2_symbol(name): entry for name, entry in parse_asset_pairs(body).items()}
    except ValueError as error:
        raise VenueUnreachable(f"{where}: {error}") from None


def _levels(symbol: str, feed: FeedSettings) -> int:
    """Levels a side of a symbol's book. Raises ValueError for a depth that the market does not have."""
    levels = feed.of(symbol).book_levels or USUAL_LEVELS
    if levels not in BOOK_DEPTHS:
        allowed = ", ".join(map(str, BOOK_DEPTHS))
        raise ValueError(f"{feed.key(symbol, 'book_levels')} = {levels}: this market has {allowed} levels a side")
    return levels


def _subscribe(number: int, symbols: Sequence[str], levels: int) -> Request:
    return Request(*subscribe_v2(_CHANNELS[number], symbols, number, levels))


def _by_number(frame: bytes, refusal: Answer) -> Answer:
    """A refusal that names only the symbol: the channel is that of its number."""
    message = orjson.loads(frame)
    number, symbol = message.get("req_id"), message.get("symbol")
    channel = _CHANNELS.get(number) if isinstance(number, int) else None
    if channel is None or not isinstance(symbol, str):
        return refusal
    return Answer((Wanted(channel, symbol),), False, refusal.reason)
