"""REST side of the embedded venue: one table of endpoints, the checks before them, and the handlers.

Handlers are plain functions of the parameters: matching and rendering take microseconds, so a request is answered
within the loop turn that read it. What the stock client asks of other venues at load_markets is answered with empty
lists. Source: Binance USD-M futures, REST reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson

from engine.matching.events import Refusal
from engine.matching.exchange import Exchange
from engine.matching.margin import largest_notional
from engine.matching.orders import ClientOrder, OrderRefused
from engine.matching.wire import ContractFeed
from engine.records import Side
from engine.units import MONEY_EXP, format_units
from procs.embedded.answers import (
    AccountAnswers,
    bracket_answer,
    exchange_information,
    fill_answer,
    funding_answer,
    income_answer,
    money,
    order_answer,
)
from procs.embedded.errors import ApiError, missing, refused
from procs.embedded.limits import Limits
from procs.embedded.orders import parse_amendment, parse_order
from procs.embedded.signing import check_key, check_signature, parameters

LISTEN_KEY_LIFE_MS = 3_600_000
_DEPTH_LIMITS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}  # limit -> weight
_ELSEWHERE = ("/api/", "/sapi/", "/dapi/", "/eapi/", "/papi/")
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


class RestApi:
    """Answers requests from an exchange.

    feed: the market's contracts; one without any answers nothing about the market.
    clock_ms: the venue's clock, ms since the epoch; shown_ms: what it tells clients and holds their timestamps against.
    """

    def __init__(
        self, exchange: Exchange, feed: Contracts, key: str, secret: str, listen_key: str,
        clock_ms: Callable[[], int], shown_ms: Callable[[], int],
    ):
        self.exchange = exchange
        self.feed = feed
        self.limits = Limits(exchange.settings)
        self.account = AccountAnswers(exchange)
        self.listen_key_until_ms = 0
        self.cancel_at_ms: dict[int, int] = {}  # dead-man switch: contract -> when all its orders are cancelled
        self._key = key
        self._secret = secret
        self.listen_key = listen_key
        self._clock_ms = clock_ms
        self._shown_ms = shown_ms
        self._listed = exchange.settings.listed()
        self._index = {item.symbol: item.index for item in exchange.instruments}
        self._client_ids = itertools.count(1)
        self._endpoints = self._table()

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
                if path.startswith(_ELSEWHERE):
                    return 200, b'{"symbols":[]}' if path.endswith("/exchangeInfo") else b"[]", headers
                raise ApiError(-5000, f"Path {path}, Method {method} is invalid", 404)
            given = parameters(query, body)
            self.limits.request(self._weight(endpoint, path, given), now_ms)
            if endpoint.access != "public":
                check_key(api_key, self._key)
            if endpoint.access == "signed":
                check_signature(query, body, self._secret, self._shown_ms())
            result = endpoint.handler(given)
        except ApiError as error:
            return error.status, error.body(), self.limits.headers() | error.headers
        return 200, result if isinstance(result, bytes) else orjson.dumps(result), self.limits.headers()

    @staticmethod
    def _weight(endpoint: Endpoint, path: str, given: Parameters) -> int:
        if path == "/fapi/v1/depth" and given.get("limit", "500").isdigit():
            return _DEPTH_LIMITS.get(int(given.get("limit", "500")), 10)
        if path == "/fapi/v1/openOrders" and "symbol" not in given:
            return 40
        return endpoint.weight

    def _table(self) -> dict[tuple[str, str], Endpoint]:
        table = {
            "GET /fapi/v1/ping": Endpoint(lambda given: {}, "public"),
            "GET /fapi/v1/time": Endpoint(lambda given: {"serverTime": self._shown_ms()}, "public"),
            "GET /fapi/v1/exchangeInfo": Endpoint(self._exchange_info, "public"),
            "GET /fapi/v1/depth": Endpoint(self._depth, "public"),
            "GET /fapi/v1/trades": Endpoint(self._trades, "public", 5),
            "GET /fapi/v1/aggTrades": Endpoint(self._aggregate_trades, "public", 20),
            "GET /fapi/v1/ticker/bookTicker": Endpoint(self._book_ticker, "public", 2),
            "GET /fapi/v1/premiumIndex": Endpoint(self._premium_index, "public"),
            "POST /fapi/v1/order": Endpoint(self._new_order, "signed", 0),
            "GET /fapi/v1/order": Endpoint(self._query_order, "signed"),
            "PUT /fapi/v1/order": Endpoint(self._amend_order, "signed"),
            "DELETE /fapi/v1/order": Endpoint(self._cancel_order, "signed"),
            "DELETE /fapi/v1/allOpenOrders": Endpoint(self._cancel_all, "signed"),
            "POST /fapi/v1/countdownCancelAll": Endpoint(self._countdown, "signed", 10),
            "GET /fapi/v1/openOrder": Endpoint(self._query_open_order, "signed"),
            "GET /fapi/v1/openOrders": Endpoint(self._open_orders, "signed"),
            "GET /fapi/v1/allOrders": Endpoint(self._all_orders, "signed", 5),
            "GET /fapi/v1/userTrades": Endpoint(self._user_trades, "signed", 5),
            "GET /fapi/v1/income": Endpoint(self._income, "signed", 30),
            "GET /fapi/v1/fundingRate": Endpoint(self._funding_rates, "public"),
            "GET /fapi/v1/fundingInfo": Endpoint(self._funding_info, "public", 0),
            "GET /fapi/v1/commissionRate": Endpoint(self._commission_rate, "signed", 20),
            "GET /fapi/v1/leverageBracket": Endpoint(self._leverage_bracket, "signed"),
            "POST /fapi/v1/leverage": Endpoint(self._leverage, "signed"),
            "POST /fapi/v1/marginType": Endpoint(self._margin_type, "signed"),
            "POST /fapi/v1/positionSide/dual": Endpoint(self._position_side, "signed"),
            "GET /fapi/v1/positionSide/dual": Endpoint(lambda given: {"dualSidePosition": False}, "signed", 30),
            "GET /fapi/v1/multiAssetsMargin": Endpoint(lambda given: {"multiAssetsMargin": False}, "signed", 30),
            "POST /fapi/v1/listenKey": Endpoint(self._listen_key_open, "key"),
            "PUT /fapi/v1/listenKey": Endpoint(self._listen_key_renew, "key"),
            "DELETE /fapi/v1/listenKey": Endpoint(self._listen_key_close, "key"),
        }
        for version, every in (("v2", True), ("v3", False)):
            table[f"GET /fapi/{version}/account"] = Endpoint(partial(self._account, every), "signed", 5)
            table[f"GET /fapi/{version}/balance"] = Endpoint(self._balance, "signed", 5)
            table[f"GET /fapi/{version}/positionRisk"] = Endpoint(partial(self._position_risk, every), "signed", 5)
        return {(key.split()[0], key.split()[1]): value for key, value in table.items()}

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

    # the market

    def _exchange_info(self, given: Parameters) -> Any:
        return exchange_information(self.exchange.settings, self._shown_ms(), self.exchange.halted)

    def _contracts(self, given: Parameters) -> list[ContractFeed]:
        return [self.feed.contracts[symbol] for symbol in self._symbols(given)]

    def _depth(self, given: Parameters) -> bytes:
        limit = self._number(given, "limit", 500)
        if limit not in _DEPTH_LIMITS:
            raise ApiError(-4021, f"{limit} is not valid depth limit.")
        return self.feed.contracts[self._symbol(given)].snapshot(limit, self._clock_ms())

    def _trades(self, given: Parameters) -> Any:
        contract = self.feed.contracts[self._symbol(given)]
        item = contract.instrument
        limit = min(self._number(given, "limit", 500), 1000)
        return [
            {
                "id": trade_id,
                "price": format_units(price, item.price_exp),
                "qty": format_units(size, item.size_exp),
                "quoteQty": format_units(price * size, item.price_exp + item.size_exp),
                "time": time_ns // 1_000_000,
                "isBuyerMaker": side == Side.SELL,
            }
            for _, price, size, side, trade_id, time_ns in list(contract.recent)[-limit:]
        ]

    def _aggregate_trades(self, given: Parameters) -> Any:
        contract = self.feed.contracts[self._symbol(given)]
        limit = min(self._number(given, "limit", 500), 1000)
        return [
            {
                "a": number,
                "p": contract.price_text(group[0][1]),
                "q": contract.size_text(sum(trade[2] for trade in group)),
                "f": group[0][4],
                "l": group[-1][4],
                "T": group[0][5] // 1_000_000,
                "m": group[0][3] == Side.SELL,
            }
            for number, group in list(contract.recent_aggregates)[-limit:]
        ]

    def _book_ticker(self, given: Parameters) -> Any:
        answers = []
        for contract in self._contracts(given):
            bid, bid_size, ask, ask_size = self.exchange.market.touch(contract.symbol)
            answers.append({
                "symbol": contract.name,
                "bidPrice": contract.price_text(bid),
                "bidQty": contract.size_text(bid_size),
                "askPrice": contract.price_text(ask),
                "askQty": contract.size_text(ask_size),
                "time": self._clock_ms(),
            })
        return answers[0] if given.get("symbol") else answers

    def _premium_index(self, given: Parameters) -> Any:
        answers = []
        for contract in self._contracts(given):
            event = orjson.loads(contract.mark(self._clock_ms()))
            answers.append({
                "symbol": event["s"], "markPrice": event["p"], "indexPrice": event["i"],
                "estimatedSettlePrice": event["P"], "lastFundingRate": event["r"], "interestRate": "0.00000000",
                "nextFundingTime": event["T"], "time": event["E"],
            })
        return answers[0] if given.get("symbol") else answers

    # orders

    def _new_order(self, given: Parameters) -> Any:
        self.limits.order(self._clock_ms())
        symbol = self._symbol(given)
        instrument = self.exchange.instruments[symbol]
        wanted = parse_order(
            given, instrument, self._listed[symbol], self.account.mark(symbol), f"auto{next(self._client_ids)}"
        )
        try:
            order = self.exchange.submit(
                symbol, wanted.client_id, wanted.side, wanted.order_type, wanted.time_in_force, wanted.price,
                wanted.size, wanted.reduce_only, self._clock_ms() * 1_000_000, wanted.self_trade,
            )
        except OrderRefused as refusal:
            raise refused(refusal.reason, self._listed[symbol].min_notional) from None
        return order_answer(order, instrument, wanted.acknowledge_only)

    def _render(self, order: ClientOrder) -> Any:
        return order_answer(order, self.exchange.instruments[order.symbol])

    def _found(self, given: Parameters) -> ClientOrder | None:
        """The order that orderId or origClientOrderId names."""
        symbol = self._symbol(given)
        if not given.get("orderId") and not given.get("origClientOrderId"):
            raise ApiError(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        order_id = self._number(given, "orderId") if given.get("orderId") else None
        return self.exchange.find(symbol, order_id, given.get("origClientOrderId"))

    def _query_order(self, given: Parameters) -> Any:
        order = self._found(given)
        if order is None:
            raise ApiError(-2013, "Order does not exist.")
        return self._render(order)

    def _query_open_order(self, given: Parameters) -> Any:
        order = self._found(given)
        if order is None or not order.is_open:
            raise ApiError(-2013, "Order does not exist.")
        return self._render(order)

    def _amend_order(self, given: Parameters) -> Any:
        self.limits.order(self._clock_ms())
        order = self._found(given)
        if order is None or not order.is_open:
            raise ApiError(-2013, "Order does not exist.")
        symbol = order.symbol
        side, price, size = parse_amendment(
            given, self.exchange.instruments[symbol], self._listed[symbol], self.account.mark(symbol)
        )
        try:
            self.exchange.amend(symbol, order.order_id, side, price, size, self._clock_ms() * 1_000_000)
        except OrderRefused as refusal:
            if refusal.reason == Refusal.MIN_NOTIONAL:
                raise ApiError(
                    -5029, f"Order's notional must be no smaller than {self._listed[symbol].min_notional}"
                ) from None
            raise refused(refusal.reason) from None
        return self._render(order)

    def _cancel_order(self, given: Parameters) -> Any:
        order = self._found(given)
        if order is None:
            raise ApiError(-2011, "Unknown order sent.")
        try:
            self.exchange.cancel(order.symbol, order.order_id, self._clock_ms() * 1_000_000)
        except OrderRefused as refusal:
            raise refused(refusal.reason) from None
        return self._render(order)

    def _cancel_all(self, given: Parameters) -> Any:
        self.exchange.cancel_all(self._symbol(given), self._clock_ms() * 1_000_000)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def _countdown(self, given: Parameters) -> Any:
        symbol, countdown = self._symbol(given), self._number(given, "countdownTime")
        if countdown:
            self.cancel_at_ms[symbol] = self._clock_ms() + countdown
        else:
            self.cancel_at_ms.pop(symbol, None)
        return {"symbol": self._listed[symbol].symbol, "countdownTime": str(countdown)}

    def _open_orders(self, given: Parameters) -> Any:
        chosen = self._symbols(given)
        return [self._render(order) for order in self.exchange.open.values() if order.symbol in chosen]

    def _all_orders(self, given: Parameters) -> Any:
        symbol, limit = self._symbol(given), min(self._number(given, "limit", 500), 1000)
        first = self._number(given, "orderId", 0)
        known = [*self.exchange.finished.values(), *self.exchange.open.values()]
        chosen = sorted(
            (order for order in known if order.symbol == symbol and order.order_id >= first),
            key=lambda order: order.order_id,
        )
        return [self._render(order) for order in (chosen[:limit] if first else chosen[-limit:])]

    def _user_trades(self, given: Parameters) -> Any:
        symbol, limit = self._symbol(given), min(self._number(given, "limit", 500), 1000)
        first, order_id = self._number(given, "fromId", 0), self._number(given, "orderId", 0)
        start_ms, end_ms = self._between(given)
        chosen = [
            fill for fill in self.exchange.fills
            if fill.symbol == symbol and fill.trade_id >= first and order_id in (0, fill.order_id)
            and start_ms <= fill.time_ns // 1_000_000 <= end_ms
        ]
        instrument = self.exchange.instruments[symbol]
        return [fill_answer(fill, instrument) for fill in (chosen[:limit] if first or start_ms else chosen[-limit:])]

    def _between(self, given: Parameters) -> tuple[int, int]:
        """startTime and endTime, ms."""
        start_ms, end_ms = self._number(given, "startTime", 0), self._number(given, "endTime", 2**62)
        if start_ms > end_ms:
            raise ApiError(-1023, "Start time is greater than end time.")
        return start_ms, end_ms

    # the account

    def _income(self, given: Parameters) -> Any:
        symbols, limit = self._symbols(given), min(self._number(given, "limit", 100), 1000)
        start_ms, end_ms = self._between(given)
        kind = given.get("incomeType")
        chosen = [
            entry for entry in self.exchange.clearing.income
            if entry.symbol in symbols and kind in (None, "", entry.income)
            and start_ms <= entry.time_ns // 1_000_000 <= end_ms
        ]
        page = self._number(given, "page", 1)
        chosen = chosen[(page - 1) * limit : page * limit] if start_ms or "page" in given else chosen[-limit:]
        return [income_answer(entry, self.exchange.instruments[entry.symbol]) for entry in chosen]

    def _funding_rates(self, given: Parameters) -> Any:
        symbols, limit = self._symbols(given), min(self._number(given, "limit", 100), 1000)
        start_ms, end_ms = self._between(given)
        chosen = [
            entry for entry in self.exchange.clearing.rates
            if entry.symbol in symbols and start_ms <= entry.time_ns // 1_000_000 <= end_ms
        ]
        chosen = chosen[:limit] if start_ms else chosen[-limit:]
        return [funding_answer(entry, self.exchange.instruments[entry.symbol]) for entry in chosen]

    def _funding_info(self, given: Parameters) -> Any:
        hours = max(1, self.exchange.settings.funding_interval_s // 3_600)
        return [
            {"symbol": item.symbol, "adjustedFundingRateCap": "0.02000000",
             "adjustedFundingRateFloor": "-0.02000000", "fundingIntervalHours": hours, "disclaimer": False}
            for item in self._listed
        ]

    def _account(self, every: bool, given: Parameters) -> Any:
        return self.account.account(self._clock_ms(), every)

    def _balance(self, given: Parameters) -> Any:
        return self.account.balance(self._clock_ms())

    def _position_risk(self, every: bool, given: Parameters) -> Any:
        chosen = [symbol for symbol in self._symbols(given) if every or self.account.in_use(symbol)]
        return [self.account.position(symbol, self._clock_ms()) for symbol in chosen]

    def _commission_rate(self, given: Parameters) -> Any:
        symbol = self._symbol(given)
        maker, taker = self.exchange.fee_rates()
        return {
            "symbol": self._listed[symbol].symbol, "makerCommissionRate": money(maker),
            "takerCommissionRate": money(taker),
        }

    def _leverage_bracket(self, given: Parameters) -> Any:
        return [bracket_answer(self._listed[symbol].symbol) for symbol in self._symbols(given)]

    def _leverage(self, given: Parameters) -> Any:
        symbol, leverage = self._symbol(given), self._number(given, "leverage")
        if not 1 <= leverage <= 125:
            raise ApiError(-4028, f"Leverage {leverage} is not valid")
        try:
            self.exchange.set_leverage(symbol, leverage)
        except OrderRefused as refusal:
            raise refused(refusal.reason) from None
        largest = str(largest_notional(leverage) // 10**MONEY_EXP)
        return {"symbol": self._listed[symbol].symbol, "leverage": leverage, "maxNotionalValue": largest}

    def _margin_type(self, given: Parameters) -> Any:
        self._symbol(given)
        if given.get("marginType") not in ("CROSSED", "CROSS"):
            raise ApiError(-1130, "Data sent for parameter 'marginType' is not valid.")
        return {"code": 200, "msg": "success"}

    def _position_side(self, given: Parameters) -> Any:
        if given.get("dualSidePosition", "").lower() != "false":
            raise ApiError(-1130, "Data sent for parameter 'dualSidePosition' is not valid.")
        return {"code": 200, "msg": "success"}

    # the user data stream

    def _listen_key_open(self, given: Parameters) -> Any:
        self.listen_key_until_ms = self._clock_ms() + LISTEN_KEY_LIFE_MS
        return {"listenKey": self.listen_key}

    def _listen_key_renew(self, given: Parameters) -> Any:
        if self._clock_ms() >= self.listen_key_until_ms:
            raise ApiError(-1125, "This listenKey does not exist.")
        return self._listen_key_open(given)

    def _listen_key_close(self, given: Parameters) -> Any:
        self.listen_key_until_ms = 0
        return {}
