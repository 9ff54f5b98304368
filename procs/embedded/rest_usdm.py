"""REST side of the embedded venue as Binance USD-M futures: its endpoints and its own handlers.

Source: Binance USD-M futures, REST reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from engine.matching.events import Refusal
from engine.matching.exchange import Exchange
from engine.matching.margin import largest_notional
from engine.matching.orders import ClientFill, ClientOrder, OrderRefused
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
from procs.embedded.errors import ApiError, refused
from procs.embedded.orders import parse_amendment, parse_order
from procs.embedded.rest import Contracts, Endpoint, Parameters, RestApi

LISTEN_KEY_LIFE_MS = 3_600_000
_DEPTH_LIMITS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}  # limit -> weight


class UsdmRest(RestApi):
    """See RestApi. Keeps the listen key alive and the dead-man switches."""

    elsewhere = ("/api/", "/sapi/", "/dapi/", "/eapi/", "/papi/")
    unknown_path = -5000
    dates_tickers = True

    def __init__(
        self, exchange: Exchange, feed: Contracts, key: str, secret: str, listen_key: str,
        clock_ms: Callable[[], int], shown_ms: Callable[[], int],
    ):
        self.exchange = exchange
        self.account = AccountAnswers(exchange)
        self.listen_key = listen_key
        self.listen_key_until_ms = 0
        self.cancel_at_ms: dict[int, int] = {}  # dead-man switch: contract -> when all its orders are cancelled
        super().__init__(exchange, feed, key, secret, clock_ms, shown_ms)

    def _weight(self, endpoint: Endpoint, path: str, given: Parameters) -> int:
        if path == "/fapi/v1/depth" and given.get("limit", "500").isdigit():
            return _DEPTH_LIMITS.get(int(given.get("limit", "500")), 10)
        if path == "/fapi/v1/openOrders" and "symbol" not in given:
            return 40
        return endpoint.weight

    def _headers(self, method: str, path: str) -> dict[str, str]:
        return self.limits.headers()

    def _table(self) -> dict[str, Endpoint]:
        table = {
            "GET /fapi/v1/ping": Endpoint(lambda given: {}, "public"),
            "GET /fapi/v1/time": Endpoint(self._time, "public"),
            "GET /fapi/v1/exchangeInfo": Endpoint(self._exchange_info, "public"),
            "GET /fapi/v1/depth": Endpoint(self._depth, "public"),
            "GET /fapi/v1/trades": Endpoint(self._trades, "public", 5),
            "GET /fapi/v1/aggTrades": Endpoint(self._aggregate_trades, "public", 20),
            "GET /fapi/v1/ticker/bookTicker": Endpoint(self._book_ticker, "public", 2),
            "GET /fapi/v1/premiumIndex": Endpoint(self._premium_index, "public"),
            "GET /fapi/v1/openInterest": Endpoint(self._open_interest, "public"),
            "POST /fapi/v1/order": Endpoint(self._new_order, "signed", 0),
            "GET /fapi/v1/order": Endpoint(self._query_order, "signed"),
            "PUT /fapi/v1/order": Endpoint(self._amend_order, "signed"),
            "DELETE /fapi/v1/order": Endpoint(self._cancel_order, "signed"),
            "DELETE /fapi/v1/allOpenOrders": Endpoint(self._cancel_all, "signed"),
            "POST /fapi/v1/countdownCancelAll": Endpoint(self._countdown, "signed", 10),
            "GET /fapi/v1/openOrder": Endpoint(self._query_open_order, "signed"),
            "GET /fapi/v1/openOrders": Endpoint(self._open_orders, "signed"),
            "GET /fapi/v1/allOrders": Endpoint(self._all_orders, "signed", 5),
            "GET /fapi/v1/userTrades": Endpoint(self._own_trades, "signed", 5),
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
        return table

    # the market

    def _exchange_info(self, given: Parameters) -> Any:
        return exchange_information(self.exchange.settings, self._shown_ms(), self.exchange.halted)

    def _depth(self, given: Parameters) -> bytes:
        limit = self._number(given, "limit", 500)
        if limit not in _DEPTH_LIMITS:
            raise ApiError(-4021, f"{limit} is not valid depth limit.")
        return self._contract(given).snapshot(limit, self._clock_ms())

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

    def _open_interest(self, given: Parameters) -> Any:
        """The crowd is one account: what its members hold against each other is not counted."""
        symbol = self._symbol(given)
        owners = range(len(self.exchange.clearing.accounts))
        size = sum(max(0, self.exchange.clearing.position(symbol, owner)) for owner in owners)
        item = self.exchange.instruments[symbol]
        return {"openInterest": format_units(size, item.size_exp), "symbol": item.symbol, "time": self._shown_ms()}

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

    def _render_fill(self, fill: ClientFill) -> Any:
        return fill_answer(fill, self.exchange.instruments[fill.symbol])

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
