"""An account beside a recording of Binance USD-M: the embedded exchange's accounts, answers and events over the
recorded market (engine/matching/recorded.py). No sockets and no clocks: time is that of the recording.

The market is decoded by the engine's own kernels from what was recorded, whatever faults do to it on the way to the
clients. Its book begins with a recorded snapshot; where the recording holds none, with the levels that diffs told so
far. Orders are refused (-4108) while there is no book, or it is not in sequence, and once the recording is over. Signed
requests are held against the clock that their timestamp is nearer to, that of the recording or the wall's: a client
that asked for the time signs with the one, one that did not with the other.
What is about the account is of the recording's time too: countdowns, funding (at the rate of the settings), limits.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from engine.ingest.dialects import make_state
from engine.instruments import Dialect, Instrument
from engine.matching.events import Refusal
from engine.matching.exchange import Exchange
from engine.matching.orders import Notice, WalletChange
from engine.matching.recorded import RecordedMarket
from engine.matching.settings import SymbolSettings, VenueSettings
from engine.matching.wire import ContractFeed
from engine.units import MONEY_EXP, format_units
from procs.captures import CaptureError
from procs.decoding import ALL_INSTRUMENTS, Decoder
from procs.embedded.answers import fill_answer, money, order_answer
from procs.embedded.credentials import random_key
from procs.embedded.errors import refused
from procs.embedded.events import account_event, order_event, wallet_event
from procs.embedded.rest_usdm import UsdmRest
from procs.embedded.signing import parameters
from procs.wire_player.binance import BinanceVenue
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import PlayedVenue, last_part

NS_PER_MS = 1_000_000
_SNAPSHOT_LEVELS = 1_000_000  # all there are
_MARKET_DATA = ("ping", "time", "depth", "trades", "aggTrades", "bookTicker", "premiumIndex")  # the recording's own
_LARGEST_ORDER = "10000"
_ORDER = "/fapi/v1/order"


@dataclass(frozen=True)
class PlayedSettings(VenueSettings):
    """The settings of the embedded exchange, with the contracts of a recording."""

    contracts: tuple[SymbolSettings, ...] = ()

    def listed(self) -> tuple[SymbolSettings, ...]:
        """See the base."""
        return self.contracts


class Event(NamedTuple):
    """What the user data stream says."""

    name: str
    payload: bytes


class _NoMarketData:
    """Questions about the market are answered by the player, not by the account."""

    def __init__(self) -> None:
        self.contracts: list[ContractFeed] = []


def _ignore(_: int, __: np.ndarray) -> None:
    """The book's events: the clients hear of the market from the recording."""


def _contract(item: Instrument) -> SymbolSettings:
    return SymbolSettings(
        symbol=item.symbol, base=item.base, quote=item.quote, price_exp=item.price_exp, size_exp=item.size_exp,
        tick_size=format_units(item.tick_size, item.price_exp), lot_size=format_units(item.lot_size, item.size_exp),
        max_size=_LARGEST_ORDER, min_notional=format_units(item.min_notional, MONEY_EXP),
    )


class Trading:
    """See the module.

    venue: what is played; settings: of the account (starting balance, fees, limits); rule: what is thought of cancelled
    sizes (engine/matching/recorded.py). Raises CaptureError for a recording of another market.
    """

    def __init__(
        self, venue: PlayedVenue, settings: VenueSettings, rule: str, start_ns: int, wall_ns: Callable[[], int]
    ) -> None:
        if not isinstance(venue, BinanceVenue) or venue.dialect != Dialect.BINANCE_USDM:
            raise CaptureError(f"own orders are taken beside recordings of BINANCE_USDM, not of {venue.name}")
        self.key, self.secret, self.listen_key = random_key(), random_key(), random_key()
        self.news: deque[Event] = deque()
        self.now_ns = start_ns
        self._venue = venue
        self._wall_ns = wall_ns
        self._client_ms = 0
        self._decoder = Decoder(make_state(venue.instruments), venue.instruments)
        self._index = {item.symbol: item.index for item in venue.instruments}
        self.market = RecordedMarket(venue.instruments, start_ns, rule)
        plain = {field.name: getattr(settings, field.name) for field in dataclasses.fields(VenueSettings)}
        self.settings = PlayedSettings(**plain, contracts=tuple(map(_contract, venue.instruments)))
        self.exchange = Exchange(
            self.settings, start_ns, _ignore, self._on_notice, self._on_wallet, self.market
        )  # fmt: skip
        self.api = UsdmRest(
            self.exchange, _NoMarketData(), self.key, self.secret, self.listen_key, self._now_ms,
            lambda: self._client_ms,
        )  # fmt: skip
        self._take(self._decoder.start(start_ns), start_ns)

    def _now_ms(self) -> int:
        return self.now_ns // NS_PER_MS

    # the market

    def see(self, item: Item) -> None:
        """An item of the recording is played."""
        count = 0
        if item.what is What.FRAME:
            count = self._decoder.frame(item.data, item.ts_ns)
        elif item.what is What.SNAPSHOT and item.stream in self._index:
            count = self._decoder.snapshot(self._index[item.stream], item.data, item.ts_ns)
        elif item.what is What.DISCONNECT:
            count = self._decoder.lost(ALL_INSTRUMENTS, item.ts_ns)
        self._take(count, item.ts_ns)
        for index in np.flatnonzero(self._decoder.state["snapshot_wanted"][0]).tolist():
            self._begin_book(index, item.ts_ns)

    def _begin_book(self, index: int, ts_ns: int) -> None:
        """A book without a recorded snapshot begins with what diffs told so far."""
        book = self._venue.books.get(self._venue.instruments[index].symbol)
        if book is not None and not book.has_recorded and book.last_id:
            self._take(self._decoder.snapshot(index, book.built(_SNAPSHOT_LEVELS), ts_ns), ts_ns)

    def _take(self, count: int, ts_ns: int) -> None:
        if count:
            self.market.feed(self._decoder.records[:count])
        self.advance(ts_ns)

    def advance(self, now_ns: int) -> None:
        """Time has come to this: fills, countdowns, funding."""
        self.now_ns = max(self.now_ns, now_ns)
        self.exchange.advance(self.now_ns)
        for symbol, deadline in list(self.api.cancel_at_ms.items()):
            if self._now_ms() >= deadline:
                del self.api.cancel_at_ms[symbol]
                self.exchange.cancel_all(symbol, self.now_ns)

    def end(self) -> None:
        """The recording is over: nothing trades any more."""
        self.exchange.halt(self.now_ns)

    # the account

    def _on_notice(self, notice: Notice) -> None:
        instrument = self.exchange.instruments[notice.order.symbol]
        if notice.fill is not None:
            self._publish(account_event(notice, instrument, self._now_ms()))
        self._publish(order_event(notice, instrument, self._now_ms()))

    def _on_wallet(self, change: WalletChange) -> None:
        self._publish(wallet_event(change, self.api.account, self._now_ms()))

    def _publish(self, event: dict[str, Any]) -> None:
        self.news.append(Event(event["e"], orjson.dumps(event)))

    def answers(self, path: str) -> bool:
        """Whether a request is the account's to answer, and not the recording's."""
        name = last_part(path)
        return name not in _MARKET_DATA and not (name == "exchangeInfo" and self._venue.has_body(name))

    def answer(
        self, method: str, path: str, query: str, body: str, api_key: str | None
    ) -> tuple[int, bytes, dict[str, str]]:
        """HTTP status, JSON and headers; query and body raw as received."""
        given = parameters(query, body)
        if (method, path) == ("POST", _ORDER) and not self._has_price(given.get("symbol", "")):
            error = refused(Refusal.HALTED)  # without a price no order can be judged
            return error.status, error.body(), error.headers
        stamp = given.get("timestamp", "")
        clocks = (self._now_ms(), self._wall_ns() // NS_PER_MS)
        self._client_ms = clocks[0]
        if stamp.isdecimal() and len(stamp) < 19:
            self._client_ms = min(clocks, key=lambda clock: abs(clock - int(stamp)))
        return self.api.answer(method, path, query, body, api_key)

    def _has_price(self, symbol: str) -> bool:
        """Whether the market of a contract has begun; also of one that there is none of."""
        return symbol not in self._index or self.market.mark_price(self._index[symbol]) > 0

    def state(self) -> dict[str, Any]:
        """The ground truth of the account. Money as decimal text."""
        items = self.exchange.instruments
        sizes = {item.symbol: format_units(self.exchange.position(item.index), item.size_exp) for item in items}
        return {
            "wallet": money(self.exchange.wallet()),
            "positions": sizes,
            "open_orders": [order_answer(order, items[order.symbol]) for order in self.exchange.open.values()],
            "fills": [fill_answer(fill, items[fill.symbol]) for fill in list(self.exchange.fills)[-1000:]],
        }
