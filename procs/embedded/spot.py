"""The embedded venue as Binance spot: balances, and user data over the WebSocket API.

User data are subscribed to by a signed request over /ws-api/v3 (listen keys are gone from spot); each change of an
order is told as executionReport and then outboundAccountPosition, wrapped with the subscription's id. Of the WebSocket
API there is what that needs: ping, time, subscribe, unsubscribe, and the list of subscriptions.
Source: Binance spot, "WebSocket API", "User Data Streams".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from engine.matching.orders import SpotNotice
from engine.matching.settings import VenueSettings
from engine.matching.spot import SpotExchange
from engine.matching.wire import MarketFeed
from procs.embedded.answers import NS_PER_MS, money
from procs.embedded.answers_spot import fill_answer, order_answer
from procs.embedded.dialect import VenueDialect, Wiring
from procs.embedded.errors import ApiError
from procs.embedded.events_spot import balance_event, order_event
from procs.embedded.fanout import Listener
from procs.embedded.rest_spot import SpotRest
from procs.embedded.signing import check_key, check_signature

_WEIGHTS = {
    "ping": 1, "time": 1, "userDataStream.subscribe.signature": 2, "userDataStream.unsubscribe": 2,
    "session.subscriptions": 2,
}


class SpotDialect(VenueDialect):
    """See VenueDialect."""

    api_root = "/api/"
    cancel_all_path = "/api/v3/openOrders"
    ping_interval_s = 20.0
    exchange: SpotExchange
    rest: SpotRest

    def __init__(self, settings: VenueSettings, wiring: Wiring):
        self._hub = wiring.hub
        self._wiring = wiring
        self._reports = 0
        self.exchange = SpotExchange(settings, wiring.start_ns, wiring.on_market, wiring.on_notice)
        self.market = self.exchange.market
        self.feed = MarketFeed(self.market, wiring.hub.wanted, wiring.clock_ms())
        self.rest = SpotRest(self.exchange, self.feed, wiring.key, wiring.secret, wiring.clock_ms, wiring.shown_ms)
        self.socket_api = self._socket_request
        self._hub.listen_key = wiring.listen_key  # the name of the user stream, which no client is told

    def turn(self, now_ns: int) -> None:
        """Nothing: there is no dead-man switch on spot, and user streams do not expire."""

    def requested(self, now_ms: int) -> None:
        """Nothing."""

    def tell(self, notice: SpotNotice) -> None:
        """See VenueDialect."""
        instrument = self.exchange.instruments[notice.order.symbol]
        told_ms = self.exchange.now_ns // NS_PER_MS + self._wiring.skew_ms()
        fill = notice.fill
        self._reports += 1
        self._hub.publish_user(order_event(notice, instrument, self._reports, told_ms), is_fill=fill is not None)
        self._hub.publish_user(balance_event(notice, told_ms))
        if fill is not None and notice.order.executed == fill.size:
            self.rest.limits.filled(self._wiring.clock_ms())

    def log_entry(self, notice: SpotNotice) -> dict[str, Any]:
        """See VenueDialect. What the account has of the base asset, free and locked, 1e-8."""
        _, free, locked = notice.balances[0]
        return {"base": free + locked}

    def state(self) -> dict[str, Any]:
        """See VenueDialect. Amounts as decimal text; `totals` never change."""
        exchange, balances = self.exchange, self.exchange.balances
        names = exchange.instruments
        return {
            "balances": {
                asset: {"free": money(balances.free[asset]), "locked": money(balances.locked[asset])}
                for asset in balances.free
            },
            "fees": {asset: money(amount) for asset, amount in balances.fees.items()},
            "totals": {asset: money(balances.total(asset)) for asset in balances.free},
            "open_orders": [order_answer(order, names[order.symbol]) for order in exchange.open.values()],
            "fills": [fill_answer(fill, names[fill.symbol]) for fill in list(exchange.fills)[-1000:]],
        }

    # the WebSocket API

    def _socket_request(self, listener: Listener, text: str | bytes) -> dict[str, Any]:
        """The answer to one request."""
        number = None
        try:
            try:
                request = orjson.loads(text)
                number, method, given = request.get("id"), str(request["method"]), request.get("params") or {}
                fields = {str(name): str(value) for name, value in given.items()}
            except (orjson.JSONDecodeError, KeyError, AttributeError):
                raise ApiError(-1135, "Invalid JSON Request") from None
            if method not in _WEIGHTS:
                raise ApiError(-1020, "This operation is not supported.")
            self.rest.limits.request(_WEIGHTS[method], self._wiring.clock_ms())
            return {"id": number, "status": 200, "result": self._carry_out(listener, method, fields)}
        except ApiError as error:
            return {"id": number, "status": error.status, "error": {"code": error.code, "msg": error.message}}

    def _carry_out(self, listener: Listener, method: str, given: Mapping[str, str]) -> Any:
        if method == "time":
            return {"serverTime": self._wiring.shown_ms()}
        if method == "userDataStream.subscribe.signature":
            return self._subscribe(listener, given)
        if method == "userDataStream.unsubscribe":
            self._unsubscribe(listener, given.get("subscriptionId", ""))
        if method == "session.subscriptions":
            return [] if listener.subscription is None else [{"subscriptionId": listener.subscription}]
        return {}

    def _subscribe(self, listener: Listener, given: Mapping[str, str]) -> Any:
        """Check key and signature, which covers the parameters in alphabetical order; one stream a connection."""
        check_key(given.get("apiKey"), self._wiring.key)
        payload = "&".join(f"{name}={given[name]}" for name in sorted(given) if name != "signature")
        signed = f"{payload}&signature={given['signature']}" if "signature" in given else payload
        check_signature(signed, "", self._wiring.secret, self._wiring.shown_ms())
        if listener.subscription is not None:
            raise ApiError(-2035, "User Data Stream subscription already active.")
        listener.subscriptions += 1
        listener.subscription = listener.subscriptions - 1
        self._hub.subscribe(listener, [self._hub.listen_key])
        return {"subscriptionId": listener.subscription}

    def _unsubscribe(self, listener: Listener, number: str) -> None:
        if listener.subscription is None or number not in ("", str(listener.subscription)):
            raise ApiError(-2036, "User Data Stream subscription not active.")
        self._hub.unsubscribe(listener, [self._hub.listen_key])
        ended = {"e": "eventStreamTerminated", "E": self._wiring.shown_ms()}
        listener.send(orjson.dumps({"subscriptionId": listener.subscription, "event": ended}))
        listener.subscription = None
