"""Market data of Kraken spot over WebSocket v2 and v1: one socket; the book, its checksum, trades and the touch of each
pair; of v2 also the list of all pairs, which the venue sends whole at first and then as it changes.

A book that is wrong is left and subscribed again, one pair at a time; the venue then sends a snapshot.
Source: Kraken, "Spot WebSocket API v2"; "WebSockets API v1"; "Spot REST API, rate limits": one public call a second;
"WebSocket API FAQ": about 150 connections of an address in any ten minutes, after which it is shut out for ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from procs.venues.kraken_spot.subscriptions import BOOK_DEPTHS, answer_v1, answer_v2, subscribe_v1, subscribe_v2
from procs.venues.market import EVERY_CHANGE, Capabilities, Listing, Request, Socket, get
from procs.venues.subscriptions import Answer, Wanted

USUAL_LEVELS = 100
CONNECTION_RULE = ConnectionRule(
    silence_s=5.0, ping_s=0.0, quiet_s=5.0, longest_wait_s=20.0, opens=50, window_s=600.0
)
_RATE_LIMITS = (RateLimit(WEIGHT, 10, 10, ""), RateLimit(ORDERS, 60, 60, ""))
_DEPTHS = ", ".join(map(str, BOOK_DEPTHS))
_BOOK = "book"
_NUMBERS = {_BOOK: 1, "trade": 2, "ticker": 3}  # of the requests for a channel, which the answers repeat
_V1_CHANNELS = {_BOOK: "book", "trade": "trade", "ticker": "spread"}  # by kind; `ticker` there comes with trades only
_LISTING = 4  # the number of the channel that is of all pairs
_OF_ALL = {_LISTING: (Wanted("instrument", ""),)}


class _KrakenSpot:
    """What both versions share. See procs/venues/market.py."""

    is_v2: bool

    @property
    def connection_rule(self) -> ConnectionRule:
        """See Market."""
        return CONNECTION_RULE

    @property
    def polled(self) -> tuple[str, ...]:
        """See Market."""
        return ()

    def _named(self, body: bytes, where: str) -> dict[str, dict[str, Any]]:
        """What `AssetPairs` lists, by the symbol of the version. Raises VenueUnreachable."""
        try:
            pairs = parse_asset_pairs(body)
        except ValueError as error:
            raise VenueUnreachable(f"{where}: {error}") from None
        return {v2_symbol(name): entry for name, entry in pairs.items()} if self.is_v2 else pairs

    def fetch_listing(self, rest_url: str, symbols: Sequence[str]) -> Listing:
        """See Market."""
        url = f"{rest_url}{self.listing_path}"
        with requests.Session() as session:
            pairs = self._named(get(session, url), url)
        if missing := [symbol for symbol in symbols if symbol not in pairs]:
            raise ValueError(f"the venue at {rest_url} does not list {', '.join(missing)}")
        instruments = (
            instrument_from_pair(pairs[symbol], index, v2=self.is_v2) for index, symbol in enumerate(symbols)
        )
        return Listing(tuple(instruments), _RATE_LIMITS)

    @property
    def listing_path(self) -> str:
        """See Market."""
        return "/0/public/AssetPairs"

    def parse_listing(self, body: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        pairs = self._named(body, self.listing_path)
        try:
            return {
                symbol: instrument_from_pair(pairs[symbol], 0, v2=self.is_v2) for symbol in symbols if symbol in pairs
            }
        except ValueError as error:
            raise VenueUnreachable(f"{self.listing_path}: {error}") from None

    def list_again(self, session: requests.Session, rest_url: str, symbols: Sequence[str]) -> dict[str, Instrument]:
        """See Market."""
        return self.parse_listing(get(session, f"{rest_url}{self.listing_path}"), symbols)

    def fetch_open_interest(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """Raises VenueUnreachable: a pair has none."""
        raise VenueUnreachable(f"{rest_url}: {symbol} has no open interest")

    def _wanted(
        self, channels: Iterable[str], symbols: Sequence[str], feed: FeedSettings
    ) -> Iterator[tuple[str, list[str], int]]:
        """(kind, symbols, levels) of each request; books of one depth are asked for together."""
        for channel in channels:
            of_depth: dict[int, list[str]] = {}
            for symbol in feed.brings(channel, symbols):
                of_depth.setdefault(_levels(symbol, feed) if channel == _BOOK else 0, []).append(symbol)
            for levels, named in of_depth.items():
                yield channel, named, levels

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


@dataclass(frozen=True)
class KrakenSpotMarket(_KrakenSpot):
    """v2. Symbols are as there: BTC/USD."""

    dialect: Dialect = field(default=Dialect.KRAKEN_SPOT_V2, init=False)
    is_v2: bool = field(default=True, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """See Market."""
        return Capabilities(
            (*_NUMBERS, "listing"), "snapshot over the socket", "checksum of ten levels (CRC-32)",
            f"{_DEPTHS} levels a side", EVERY_CHANGE, "a message a second",
            "listing; channels of instruments and of the system",
        )

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market."""
        asked = [_subscribe(*wanted) for wanted in self._wanted(_NUMBERS, symbols, feed)]
        if feed.brings("listing", symbols):
            params = {"channel": "instrument", "snapshot": True}
            frame = orjson.dumps({"method": "subscribe", "params": params, "req_id": _LISTING})
            asked.append(Request(frame, _OF_ALL[_LISTING]))
        return (Socket(f"{ws_url}/v2", tuple(asked)),)

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """See Market."""
        symbol = instrument.symbol
        levels = _levels(symbol, feed)
        params = {"channel": _BOOK, "symbol": [symbol], "depth": levels}
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


@dataclass(frozen=True)
class KrakenSpotV1Market(_KrakenSpot):
    """v1, for whoever still has to. Symbols are as there: XBT/USD. Its updates carry checksums, its snapshots none."""

    dialect: Dialect = field(default=Dialect.KRAKEN_SPOT_V1, init=False)
    is_v2: bool = field(default=False, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """See Market."""
        return Capabilities(
            tuple(_V1_CHANNELS), "snapshot over the socket", "checksum of ten levels (CRC-32)",
            f"{_DEPTHS} levels a side", EVERY_CHANGE, "a message a second", "listing; events of the system",
        )

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """See Market."""
        wanted = self._wanted(_V1_CHANNELS, symbols, feed)
        asked = tuple(Request(*subscribe_v1(_V1_CHANNELS[kind], named, levels)) for kind, named, levels in wanted)
        return (Socket(ws_url, asked),)

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """See Market."""
        again = subscribe_v1(_BOOK, [instrument.symbol], _levels(instrument.symbol, feed))
        leave = orjson.dumps(orjson.loads(again[0]) | {"event": "unsubscribe"})
        return Request(leave), Request(*again)

    def news(self, frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument | Status]:
        """See Market. No channel of v1 tells of listings."""
        return {}

    def answer(self, frame: bytes) -> Answer | None:
        """See Market. That a pair was left is no answer to what was asked for."""
        found = answer_v1(frame)
        return None if found is not None and found.reason == "unsubscribed" else found


def _levels(symbol: str, feed: FeedSettings) -> int:
    """Levels a side of a symbol's book. Raises ValueError for a depth that the market does not have."""
    levels = feed.of(symbol).book_levels or USUAL_LEVELS
    if levels not in BOOK_DEPTHS:
        allowed = ", ".join(map(str, BOOK_DEPTHS))
        raise ValueError(f"{feed.key(symbol, 'book_levels')} = {levels}: this market has {allowed} levels a side")
    return levels


def _subscribe(channel: str, symbols: Sequence[str], levels: int) -> Request:
    return Request(*subscribe_v2(channel, symbols, _NUMBERS[channel], levels))


def _by_number(frame: bytes, refusal: Answer) -> Answer:
    """A refusal that names only the symbol: the channel is that of its number."""
    message = orjson.loads(frame)
    number, symbol = message.get("req_id"), message.get("symbol")
    channel = next((name for name, asked in _NUMBERS.items() if asked == number), None)
    if channel is None or not isinstance(symbol, str):
        return refusal
    return Answer((Wanted(channel, symbol),), False, refusal.reason)
