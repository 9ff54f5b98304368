"""What everybody needs of a venue's market data, whatever the venue: the contract of a room, and the table of rooms.

A room says where its sockets are and what is sent over them, lists instruments with the venue's rate limits, and knows
how a book begins: by a REST snapshot (`fetch_book`), or over the socket when it is subscribed anew (`ask_again`); which
of the two `engine.ingest.dialects.has_rest_snapshots` says of its dialect. It keeps no state and opens no socket.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import requests

from engine.config import MARKETS, Settings
from engine.ingest.dialects import is_numbered
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from engine.records import Status
from engine.settings import SettingsError
from procs.back_off import ConnectionRule
from procs.budget import RateLimit
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.subscriptions import Answer, Wanted

_TIMEOUT_S = 5.0
_MOST_TOLD = 160  # bytes of what an answer says
_A_PAGE = "a page of HTML instead of data"
_STATUSES = {418: "banned for a time", 429: "too many requests", 451: "not served where we are"}


@dataclass(frozen=True)
class Listing:
    """What the venue says of what can be traded, and how much may be asked of it."""

    instruments: tuple[Instrument, ...]
    rate_limits: tuple[RateLimit, ...]


@dataclass(frozen=True)
class Request:
    """A frame to send, and the answers that it must get; none where the venue does not answer."""

    frame: bytes
    wanted: tuple[Wanted, ...] = ()


@dataclass(frozen=True)
class Socket:
    """One connection: where to, and what is sent as soon as it is open."""

    url: str
    requests: tuple[Request, ...] = ()


EVERY_CHANGE = "every change"  # the interval of a market whose books are told as they change


@dataclass(frozen=True)
class Capabilities:
    """What a market offers, in words for people; `bot4 venues` and docs/venues.md show them as they stand here."""

    kinds: tuple[str, ...]  # of engine/ingest/settings.py
    book_begins: str  # how a book comes, at first and after a loss
    book_proof: str  # how we know that no change of a book is missing, `proof` first; empty: it cannot be known
    depth: str
    interval: str
    heartbeat: str  # how a connection that is alive is told from a silent one
    status: str  # how it comes to be known that an instrument takes no orders

    @property
    def proof(self) -> str:
        """By what a book is proven: "sequence", "checksum" or nothing."""
        return self.book_proof.partition(" ")[0]


class Market(Protocol):
    """The contract. Methods that take a URL get the root that the configuration names, without a slash at its end."""

    @property
    def dialect(self) -> Dialect:
        """In which format its frames come."""

    @property
    def capabilities(self) -> Capabilities:
        """What it offers."""

    @property
    def connection_rule(self) -> ConnectionRule:
        """How its sockets are told from dead ones, and how often they may be opened."""

    @property
    def polled(self) -> tuple[str, ...]:
        """Kinds that no socket tells and REST does."""

    def fetch_listing(self, rest_url: str, symbols: Sequence[str]) -> Listing:
        """The named instruments as the venue describes them now, indexed in the order of `symbols`, and its limits.

        The one call that no budget pays for: it brings the limits. Raises VenueUnreachable, and ValueError for a symbol
        that the venue does not list.
        """

    @property
    def listing_path(self) -> str:
        """Where REST lists instruments: how the paths of such answers end."""

    def parse_listing(self, body: bytes, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Those of the named instruments that a body of the listing holds, by symbol; their index is 0.

        Raises VenueUnreachable for one that cannot be understood.
        """

    def list_again(self, session: requests.Session, rest_url: str, symbols: Sequence[str]) -> dict[str, Instrument]:
        """`parse_listing` of what the venue lists now. Raises VenueUnreachable."""

    def fetch_open_interest(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """The body of what is open of a contract, which is decoded as a frame. Raises VenueUnreachable."""

    def sockets(self, ws_url: str, symbols: Sequence[str], feed: FeedSettings) -> tuple[Socket, ...]:
        """Every connection that the market data of these symbols need, each by `feed.of`; the first carries the books.

        Raises ValueError for a book that the venue does not tell so deep, or so often.
        """

    def book_depth(self, feed: FeedSettings) -> int:
        """Levels a side that the venue tells of in such a book; 0: of all. What falls out of the depth is not told.

        feed: of one symbol (feed.of).
        """

    def fetch_book(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """The body of a depth snapshot, untouched. Raises VenueUnreachable."""

    @property
    def has_audits(self) -> bool:
        """Whether `fetch_audit` has an answer."""

    def fetch_audit(self, session: requests.Session, rest_url: str, symbol: str) -> bytes:
        """The body of the best AUDIT_LEVELS levels, to hold a book against, untouched. Raises VenueUnreachable."""

    def ask_again(self, instrument: Instrument, feed: FeedSettings) -> tuple[Request, ...]:
        """What to send over the first socket to get the book of an instrument anew."""

    def news(self, frame: bytes, symbols: Sequence[str]) -> dict[str, Instrument | Status]:
        """What a frame of the channel that tells of listings says of these symbols: a whole listing, or a status alone.

        Empty for any other frame, and for one that cannot be understood.
        """

    def answer(self, frame: bytes) -> Answer | None:
        """What a frame says of a subscription; None for any other frame."""


def market_of(dialect: int) -> Market:
    """The room of a dialect. Raises ValueError where there is none."""
    if dialect in (Dialect.BINANCE_USDM, Dialect.BINANCE_SPOT, Dialect.BINANCE_COINM):
        from procs.venues.binance import BinanceMarket

        return BinanceMarket(Dialect(dialect))
    if dialect == Dialect.KRAKEN_SPOT_V2:
        from procs.venues.kraken_spot.market import KrakenSpotMarket

        return KrakenSpotMarket()
    if dialect == Dialect.KRAKEN_SPOT_V1:
        from procs.venues.kraken_spot.market import KrakenSpotV1Market

        return KrakenSpotV1Market()
    if dialect == Dialect.KRAKEN_FUTURES:
        from procs.venues.kraken_futures.market import KrakenFuturesMarket

        return KrakenFuturesMarket()
    raise ValueError(f"there is no live market of dialect {Dialect(dialect).name}")


def subscribed(market: Market, listing: Listing, feed: FeedSettings) -> tuple[Instrument, ...]:
    """The listed instruments with books as deep as they are subscribed to."""
    return tuple(replace(item, book_depth=market.book_depth(feed.of(item.symbol))) for item in listing.instruments)


def audit_period_s(settings: Settings, market: Market) -> float:
    """How often the books of a market are to be held against REST, each of them; 0: never."""
    if not market.has_audits:
        return 0.0
    proof = market.capabilities.proof
    is_proven = proof == "sequence" or (proof == "checksum" and settings.validation.checksums)
    return settings.feed.rest_audit_s if is_proven else settings.feed.unverified_audit_s


def ignored_settings(settings: Settings) -> tuple[str, ...]:
    """What the feed's settings ask for and the configured market does not have, so that it changes nothing there."""
    name, feed = settings.venue.market, settings.feed
    market = market_of(MARKETS[name])
    offered, usual = market.capabilities, FeedSettings()
    lines: dict[str, str] = {}  # by key: symbols that share a setting share a line
    for symbol in settings.venue.symbols:
        own = feed.of(symbol)
        missing = [kind for kind in own.kinds if kind not in offered.kinds]
        if missing:
            lines[feed.key(symbol, "kinds")] = f": {name} has no {', '.join(missing)}"
        if own.book_levels and not market.book_depth(own):
            lines[feed.key(symbol, "book_levels")] = f" = {own.book_levels}: {name} tells of every level"
        if own.book_interval_ms and offered.interval == EVERY_CHANGE:
            lines[feed.key(symbol, "book_interval_ms")] = f" = {own.book_interval_ms}: {name} tells every change"
    lacks = {
        "liquidation_min_usd": "" if "liquidation" in offered.kinds else "has no liquidations",
        "open_interest_interval_s": "" if market.polled else "has no open interest to ask for by REST",
        "rest_audit_s": "" if market.has_audits else "has no snapshots to audit by",
        "unverified_audit_s": "" if market.has_audits else "has no snapshots to audit by",
    }
    for key, lack in lacks.items():
        if lack and getattr(feed, key) != getattr(usual, key):
            lines[f"feed.{key}"] = f" = {getattr(feed, key)}: {name} {lack}"
    return tuple(f"{key}{words}" for key, words in lines.items())


def check_feed(settings: Settings) -> None:
    """Raises SettingsError for market data that the configured market does not offer as they are asked for."""
    dialect, copies = MARKETS[settings.venue.market], settings.feed.connections
    try:
        market_of(dialect).sockets("", settings.venue.symbols, settings.feed)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if copies > 1 and not is_numbered(dialect):
        raise SettingsError(
            f"feed.connections = {copies}: allowed is 1; {settings.venue.market} does not number what it sends, so "
            "several connections cannot be put in order"
        )


def check_verified(settings: Settings) -> None:
    """Raises SettingsError for trading on books that nothing proves, unless that is accepted in so many words."""
    name = settings.venue.market
    offered = market_of(MARKETS[name]).capabilities
    if settings.feed.accept_unverified or offered.proof == "sequence":
        return
    if offered.proof == "checksum" and settings.validation.checksums:
        return
    why = "its checksums are not verified (validation.checksums)" if offered.proof else "it proves no book"
    raise SettingsError(
        f"feed.accept_unverified = false: books of {name} are unverified, {why}; set it to true to trade on books that "
        "are held against its ticker alone"
    )


def get(session: requests.Session, url: str, params: Mapping[str, Any] | None = None) -> bytes:
    """The body of an answer. Raises VenueUnreachable for no answer, for one that is not HTTP 200, and for a page of
    HTML, which venues show while they are being maintained."""
    try:
        answer = session.get(url, params=params, timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise VenueUnreachable(f"{url}: {type(error).__name__}", type(error).__name__) from None
    is_page = answer.content.lstrip()[:1] == b"<"
    if answer.status_code != 200:
        told = _A_PAGE if is_page else " ".join(answer.content[:_MOST_TOLD].decode("utf-8", "replace").split())
        named = _STATUSES.get(answer.status_code) or http.client.responses.get(answer.status_code, "")
        words = ": ".join(filter(None, (f"HTTP {answer.status_code} {named}".rstrip(), told)))
        raise VenueUnreachable(f"{url}: {words}", f"HTTP {answer.status_code}")
    if is_page:
        raise VenueUnreachable(f"{url}: {_A_PAGE}", _A_PAGE)
    return answer.content
