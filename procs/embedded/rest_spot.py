"""REST side of the embedded venue as Binance spot: its endpoints and its own handlers.

Source: Binance spot, REST reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import orjson

from engine.matching.orders import ClientFill, ClientOrder, OrderRefused
from engine.matching.spot import SpotExchange
from engine.matching.wire import MarketFeed
from procs.embedded.answers_spot import (
    account_answer,
    cancel_answer,
    exchange_information,
    fill_answer,
    new_order_answer,
    order_answer,
    rates_answer,
)
from procs.embedded.errors import ApiError, refused_on_spot
from procs.embedded.orders_spot import SpotRequest, new_id, parse_spot_order
from procs.embedded.rest import Endpoint, Parameters, RestApi

_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1_000, 50), (5_000, 250))  # levels up to -> weight
_MOST_LEVELS = 5_000
_ORDER = "/api/v3/order"
_REPLACE = "/api/v3/order/cancelReplace"


class ReplaceFailed(ApiError):
    """A cancelReplace of which a part or the whole failed; its body tells both halves."""

    def __init__(self, code: int, message: str, status: int, data: dict[str, Any]):
        super().__init__(code, message, status)
        self.data = data

    def body(self) -> bytes:
        """See ApiError."""
        return orjson.dumps({"code": self.code, "msg": self.message, "data": self.data})


class SpotRest(RestApi):
    """See RestApi."""

    elsewhere = ("/fapi/", "/sapi/", "/dapi/", "/eapi/", "/papi/")
    unknown_path = -1020
    of_trade: ClassVar[dict[str, Any]] = {"isBestMatch": True}
    of_aggregate: ClassVar[dict[str, Any]] = {"M": True}

    def __init__(
        self, exchange: SpotExchange, feed: MarketFeed, key: str, secret: str, clock_ms: Callable[[], int],
        shown_ms: Callable[[], int],
    ):
        self.exchange = exchange
        super().__init__(exchange, feed, key, secret, clock_ms, shown_ms)

    def _table(self) -> dict[str, Endpoint]:
        return {
            "GET /api/v3/ping": Endpoint(lambda given: {}, "public"),
            "GET /api/v3/time": Endpoint(self._time, "public"),
            "GET /api/v3/exchangeInfo": Endpoint(self._exchange_info, "public", 20),
            "GET /api/v3/depth": Endpoint(self._depth, "public"),
            "GET /api/v3/trades": Endpoint(self._trades, "public", 25),
            "GET /api/v3/aggTrades": Endpoint(self._aggregate_trades, "public", 4),
            "GET /api/v3/ticker/bookTicker": Endpoint(self._book_ticker, "public", 2),
            f"POST {_ORDER}": Endpoint(self._new_order, "signed"),
            f"POST {_ORDER}/test": Endpoint(self._test_order, "signed"),
            f"GET {_ORDER}": Endpoint(self._query_order, "signed", 4),
            f"DELETE {_ORDER}": Endpoint(self._cancel_order, "signed"),
            f"POST {_REPLACE}": Endpoint(self._replace, "signed"),
            "GET /api/v3/openOrders": Endpoint(self._open_orders, "signed", 6),
            "DELETE /api/v3/openOrders": Endpoint(self._cancel_all, "signed"),
            "GET /api/v3/allOrders": Endpoint(self._all_orders, "signed", 20),
            "GET /api/v3/myTrades": Endpoint(self._own_trades, "signed", 20),
            "GET /api/v3/account": Endpoint(self._account, "signed", 20),
            "GET /api/v3/account/commission": Endpoint(self._commission, "signed", 20),
            "GET /api/v3/rateLimit/order": Endpoint(self._order_count, "signed", 40),
        }

    def _weight(self, endpoint: Endpoint, path: str, given: Parameters) -> int:
        if path == "/api/v3/depth":
            levels = given.get("limit", "100")
            limit = int(levels) if levels.isdigit() else 0
            return next((weight for most, weight in _DEPTH_WEIGHTS if limit <= most), _DEPTH_WEIGHTS[-1][1])
        if path == "/api/v3/openOrders" and endpoint.weight > 1 and "symbol" not in given:
            return 80
        if path == "/api/v3/ticker/bookTicker" and "symbol" not in given:
            return 4
        if path == "/api/v3/myTrades" and "orderId" in given:
            return 5
        return endpoint.weight

    def _headers(self, method: str, path: str) -> dict[str, str]:
        if method == "POST" and path in (_ORDER, _REPLACE):
            return self.limits.headers()
        return self.limits.weight_header()

    def _render(self, order: ClientOrder) -> Any:
        return order_answer(order, self.exchange.instruments[order.symbol])

    def _render_fill(self, fill: ClientFill) -> Any:
        return fill_answer(fill, self.exchange.instruments[fill.symbol])

    # the market

    def _exchange_info(self, given: Parameters) -> Any:
        answer = exchange_information(self.exchange.settings, self._shown_ms(), self.exchange.halted)
        if given.get("symbol"):
            answer["symbols"] = [answer["symbols"][self._symbol(given)]]
        return answer

    def _depth(self, given: Parameters) -> bytes:
        limit = min(self._number(given, "limit", 100), _MOST_LEVELS)
        if limit == 0:
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        return self._contract(given).snapshot(limit, self._clock_ms())

    # orders

    def _parse(self, given: Parameters) -> SpotRequest:
        symbol = self._symbol(given)
        return parse_spot_order(
            given, self.exchange.instruments[symbol], self._listed[symbol], self.exchange.mark(symbol), self._new_name()
        )

    def _new_name(self) -> str:
        return f"auto{next(self._client_ids)}"

    def _test_order(self, given: Parameters) -> Any:
        self._parse(given)
        return {}

    def _new_order(self, given: Parameters) -> Any:
        self.limits.order(self._clock_ms())
        return self._enter(self._parse(given))

    def _enter(self, wanted: SpotRequest) -> Any:
        try:
            order = self.exchange.submit(
                wanted.symbol, wanted.client_id, wanted.side, wanted.order_type, wanted.time_in_force, wanted.price,
                wanted.size, self._clock_ms() * 1_000_000, wanted.self_trade, wanted.quote_wanted,
            )
        except OrderRefused as refusal:
            raise refused_on_spot(refusal.reason) from None
        fills = []
        for fill in reversed(self.exchange.fills):
            if fill.time_ns < order.time_ns:
                break
            if fill.order_id == order.order_id:
                fills.append(fill)
        return new_order_answer(
            order, fills[::-1], self.exchange.instruments[order.symbol], self.exchange.receives(order), wanted.response
        )

    def _cancel_order(self, given: Parameters) -> Any:
        return self._cancel(given, self._found(given), "newClientOrderId")

    def _cancel(self, given: Parameters, order: ClientOrder | None, id_name: str) -> Any:
        """Cancel an order that was found, or not; id_name: the parameter that names the cancel."""
        restriction = given.get("cancelRestrictions") or ""
        if restriction not in ("", "ONLY_NEW", "ONLY_PARTIALLY_FILLED"):
            raise ApiError(-1145, "Invalid cancelRestrictions")
        name = new_id(given, id_name, self._new_name())
        if order is None:
            raise ApiError(-2011, "Unknown order sent.")
        self.exchange.advance(self._clock_ms() * 1_000_000)
        if order.is_open and restriction not in ("", f"ONLY_{order.status}"):
            raise ApiError(-2011, "Order was not canceled due to cancel restrictions.")
        order.cancel_id = name
        try:
            self.exchange.cancel(order.symbol, order.order_id, self.exchange.now_ns)
        except OrderRefused as refusal:
            raise refused_on_spot(refusal.reason) from None
        return cancel_answer(order, self.exchange.instruments[order.symbol])

    def _cancel_all(self, given: Parameters) -> Any:
        symbol = self._symbol(given)
        self.exchange.advance(self._clock_ms() * 1_000_000)
        for order in self.exchange.open.values():
            if order.symbol == symbol:
                order.cancel_id = self._new_name()
        cancelled = self.exchange.clear_orders(symbol)
        if not cancelled:
            raise ApiError(-2011, "Unknown order sent.")
        return [cancel_answer(order, self.exchange.instruments[symbol]) for order in cancelled]

    def _replace(self, given: Parameters) -> Any:
        """Cancel an order and enter another: what fails is told beside what succeeded."""
        self.limits.order(self._clock_ms())
        mode = given.get("cancelReplaceMode") or ""
        if mode not in ("STOP_ON_FAILURE", "ALLOW_FAILURE"):
            raise ApiError(-1130, "Data sent for parameter 'cancelReplaceMode' is not valid.")
        wanted = self._parse(given)
        found = self._found(given, "cancelOrderId", "cancelOrigClientOrderId")
        data: dict[str, Any] = {"cancelResult": "SUCCESS", "newOrderResult": "NOT_ATTEMPTED"}
        try:
            data["cancelResponse"] = self._cancel(given, found, "cancelNewClientOrderId")
        except ApiError as error:
            data |= {"cancelResult": "FAILURE", "cancelResponse": orjson.loads(error.body()), "newOrderResponse": None}
            if mode == "STOP_ON_FAILURE":
                raise ReplaceFailed(-2022, "Order cancel-replace failed.", 400, data) from None
        try:
            data |= {"newOrderResponse": self._enter(wanted), "newOrderResult": "SUCCESS"}
        except ApiError as error:
            data |= {"newOrderResult": "FAILURE", "newOrderResponse": orjson.loads(error.body())}
        results = (data["cancelResult"], data["newOrderResult"])
        if results == ("FAILURE", "FAILURE"):
            raise ReplaceFailed(-2022, "Order cancel-replace failed.", 400, data)
        if "FAILURE" in results:
            raise ReplaceFailed(-2021, "Order cancel-replace partially failed.", 409, data)
        return data

    # the account

    def _account(self, given: Parameters) -> Any:
        without_zeros = given.get("omitZeroBalances", "false").lower() == "true"
        return account_answer(self.exchange.balances, *self.exchange.fee_rates(), self._clock_ms(), without_zeros)

    def _commission(self, given: Parameters) -> Any:
        maker, taker = self.exchange.fee_rates()
        return {
            "symbol": self._listed[self._symbol(given)].symbol,
            "standardCommission": rates_answer(maker, taker),
            "specialCommission": rates_answer(0, 0),
            "taxCommission": rates_answer(0, 0),
            "discount": {"enabledForAccount": False, "enabledForSymbol": False, "discountAsset": "", "discount": "0"},
        }

    def _order_count(self, given: Parameters) -> Any:
        return self.limits.usage(self._clock_ms())
