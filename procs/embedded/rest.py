"""REST side of the embedded venue: the checks before a request, and the handlers that its markets share.

A market's own paths, weights and answers are in rest_usdm.py and rest_spot.py: one table of endpoints each. Handlers
are plain functions of the parameters: matching and rendering take microseconds, so a request is answered within the
loop turn that read it. What the stock client asks of other markets at load_markets is answered with empty lists.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson

from engine.matching.desk import OrderDesk
from engine.matching.orders import ClientFill, ClientOrder
from engine.matching.settings import SymbolSettings
from engine.matching.wire import ContractFeed
from engine.records import Side
from engine.units import format_units
from procs.embedded.errors import ApiError, missing
from procs.embedded.limits import Limits
from procs.embedded.signing import check_key, check_signature, parameters

Parameters = Mapping[str, str]
Handler = Callable[[Parameters], Any]  # returns bytes (JSON as it is) or an object to render


@dataclass(frozen=True)
class Endpoint:
    """One entry of the table."""

    handler: Handler
    access: str  # public, key, signed
    weight: int = 1


class Contracts(Protocol):
    """What the market's answers are made of."""

    contracts: list[ContractFeed]  # by index


class RestApi(ABC):
    """Answers requests from an exchange.

    feed: the market's contracts; one without any answers nothing about the market.
    clock_ms: the venue's clock, ms since the epoch; shown_ms: what it tells clients and holds their timestamps against.
    """

    elsewhere: ClassVar[tuple[str, ...]]  # where the paths of other markets begin
    unknown_path: ClassVar[int]  # error code
    of_trade: ClassVar[dict[str, Any]] = {}  # what the answers say of every trade besides
    of_aggregate: ClassVar[dict[str, Any]] = {}
    dates_tickers: ClassVar[bool] = False  # whether a bookTicker has a time

    def __init__(
        self, exchange: OrderDesk, feed: Contracts, key: str, secret: str, clock_ms: Callable[[], int],
        shown_ms: Callable[[], int],
    ):
        self.feed = feed
        self.limits = Limits(exchange.settings)
        self._desk = exchange
        self._key = key
        self._secret = secret
        self._clock_ms = clock_ms
        self._shown_ms = shown_ms
        self._index = {item.symbol: item.index for item in exchange.instruments}
        self._client_ids = itertools.count(1)
        self._endpoints = {
            (name.split()[0], name.split()[1]): endpoint for name, endpoint in self._table().items()
        }

    # what a market has of its own

    @abstractmethod
    def _table(self) -> dict[str, Endpoint]:
        """Endpoints by "METHOD /path"."""

    @abstractmethod
    def _weight(self, endpoint: Endpoint, path: str, given: Parameters) -> int:
        """What a request costs."""

    @abstractmethod
    def _headers(self, method: str, path: str) -> dict[str, str]:
        """What the answer tells about the limits."""

    @abstractmethod
    def _render(self, order: ClientOrder) -> Any:
        """One order as it is shown to who asks."""

    @abstractmethod
    def _render_fill(self, fill: ClientFill) -> Any:
        """One fill of the account as it is shown to who asks."""

    @property
    def _listed(self) -> tuple[SymbolSettings, ...]:
        """What is listed now."""
        return self._desk.settings.listed()

    # dispatch

    def answer(
        self, method: str, path: str, query: str, body: str, api_key: str | None
    ) -> tuple[int, bytes, dict[str, str]]:
        """HTTP status, JSON and headers for one request; query and body raw as received."""
        now_ms = self._clock_ms()
        headers: dict[str, str] = {}
        try:
            endpoint = self._endpoints.get((method, path))
            if endpoint is None:
                if path.startswith(self.elsewhere):
                    return 200, b'{"symbols":[]}' if path.endswith("/exchangeInfo") else b"[]", headers
                raise ApiError(self.unknown_path, f"Path {path}, Method {method} is invalid", 404)
            given = parameters(query, body)
            self.limits.request(self._weight(endpoint, path, given), now_ms)
            if endpoint.access != "public":
                check_key(api_key, self._key)
            if endpoint.access == "signed":
                check_signature(query, body, self._secret, self._shown_ms())
            result = endpoint.handler(given)
        except ApiError as error:
            return error.status, error.body(), self._headers(method, path) | error.headers
        return 200, result if isinstance(result, bytes) else orjson.dumps(result), self._headers(method, path)

    # parameters

    def _symbol(self, given: Parameters) -> int:
        name = given.get("symbol", "")
        if not name:
            raise missing("symbol")
        if name not in self._index:
            raise ApiError(-1121, "Invalid symbol.")
        return self._index[name]

    def _symbols(self, given: Parameters) -> list[int]:
        return [self._symbol(given)] if given.get("symbol") else list(range(len(self._listed)))

    @staticmethod
    def _number(given: Parameters, name: str, default: int | None = None) -> int:
        text = given.get(name)
        if not text and default is not None:
            return default
        if not text or not text.isdigit():
            raise missing(name)
        return int(text)

    def _between(self, given: Parameters) -> tuple[int, int]:
        """startTime and endTime, ms."""
        start_ms, end_ms = self._number(given, "startTime", 0), self._number(given, "endTime", 2**62)
        if start_ms > end_ms:
            raise ApiError(-1023, "Start time is greater than end time.")
        return start_ms, end_ms

    # the market

    def _time(self, given: Parameters) -> Any:
        return {"serverTime": self._shown_ms()}

    def _contracts(self, given: Parameters) -> list[ContractFeed]:
        return [self.feed.contracts[symbol] for symbol in self._symbols(given)]

    def _contract(self, given: Parameters) -> ContractFeed:
        return self.feed.contracts[self._symbol(given)]

    # orders

    def _found(
        self, given: Parameters, id_name: str = "orderId", client_id_name: str = "origClientOrderId"
    ) -> ClientOrder | None:
        """The order that the venue's id or the client's id names."""
        symbol = self._symbol(given)
        if not given.get(id_name) and not given.get(client_id_name):
            raise ApiError(
                -1102, f"Param '{client_id_name}' or '{id_name}' must be sent, but both were empty/null!"
            )
        order_id = self._number(given, id_name) if given.get(id_name) else None
        return self._desk.find(symbol, order_id, given.get(client_id_name))

    # the market

    def _limit(self, given: Parameters) -> int:
        return min(self._number(given, "limit", 500) or 500, 1000)

    def _trades(self, given: Parameters) -> Any:
        contract = self._contract(given)
        item = contract.instrument
        return [
            {
                "id": trade_id,
                "price": contract.price_text(price),
                "qty": contract.size_text(size),
                "quoteQty": format_units(price * size, item.price_exp + item.size_exp),
                "time": time_ns // 1_000_000,
                "isBuyerMaker": side == Side.SELL,
                **self.of_trade,
            }
            for _, price, size, side, trade_id, time_ns in list(contract.recent)[-self._limit(given):]
        ]

    def _aggregate_trades(self, given: Parameters) -> Any:
        contract = self._contract(given)
        return [
            {
                "a": number,
                "p": contract.price_text(group[0][1]),
                "q": contract.size_text(sum(trade[2] for trade in group)),
                "f": group[0][4],
                "l": group[-1][4],
                "T": group[0][5] // 1_000_000,
                "m": group[0][3] == Side.SELL,
                **self.of_aggregate,
            }
            for number, group in list(contract.recent_aggregates)[-self._limit(given):]
        ]

    def _book_ticker(self, given: Parameters) -> Any:
        answers = []
        for contract in self._contracts(given):
            bid, bid_size, ask, ask_size = self._desk.market.touch(contract.symbol)
            answers.append({
                "symbol": contract.name,
                "bidPrice": contract.price_text(bid),
                "bidQty": contract.size_text(bid_size),
                "askPrice": contract.price_text(ask),
                "askQty": contract.size_text(ask_size),
                **({"time": self._clock_ms()} if self.dates_tickers else {}),
            })
        return answers[0] if given.get("symbol") else answers

    # orders

    def _query_order(self, given: Parameters) -> Any:
        order = self._found(given)
        if order is None:
            raise ApiError(-2013, "Order does not exist.")
        return self._render(order)

    def _open_orders(self, given: Parameters) -> Any:
        chosen = self._symbols(given)
        return [self._render(order) for order in self._desk.open.values() if order.symbol in chosen]

    def _all_orders(self, given: Parameters) -> Any:
        symbol, limit = self._symbol(given), self._limit(given)
        first = self._number(given, "orderId", 0)
        known = [*self._desk.finished.values(), *self._desk.open.values()]
        chosen = sorted(
            (order for order in known if order.symbol == symbol and order.order_id >= first),
            key=lambda order: order.order_id,
        )
        return [self._render(order) for order in (chosen[:limit] if first else chosen[-limit:])]

    def _own_trades(self, given: Parameters) -> Any:
        symbol, limit = self._symbol(given), self._limit(given)
        first, order_id = self._number(given, "fromId", 0), self._number(given, "orderId", 0)
        start_ms, end_ms = self._between(given)
        chosen = [
            fill for fill in self._desk.fills
            if fill.symbol == symbol and fill.trade_id >= first and order_id in (0, fill.order_id)
            and start_ms <= fill.time_ns // 1_000_000 <= end_ms
        ]
        return [self._render_fill(fill) for fill in (chosen[:limit] if first or start_ms else chosen[-limit:])]
