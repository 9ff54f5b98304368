"""Order entry and questions through the stock ccxt client, with the last gate below it.

ccxt signs and sends; prices and sizes are handed to it as exact decimal text. Whatever cannot be understood as a
definite answer becomes an UNKNOWN report: a network error never means that an order does not exist.
`maxRetriesOnFailure` stays 0, so nothing is ever sent twice by a library.

Where the venue refuses a time stamp its clock is read, and cancels and questions go by that; they are never too late.
New orders go by our own clock alone, and are refused as long as it is wrong: an order is valid for a second, and
no clock that may be set back must prolong that.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import ccxt
import numpy as np
import orjson
import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from engine.execution.reconcile import RECONCILE_DEEPLY, RECONCILE_OPENING
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import Flag, OrderAction, OrderType, ReportKind, Side, TimeInForce
from engine.units import MONEY_EXP, format_units, parse_units
from procs.budget import Budget
from procs.last_words import log
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.known_orders import KnownOrders
from procs.venues.binance_usdm.order_check import NotAsDecided, OrderCheck
from procs.venues.binance_usdm.paying import NotSent, PayingAdapter
from procs.venues.binance_usdm.payments import Payments
from procs.venues.binance_usdm.rate_limits import BudgetSpent, is_new_order
from procs.venues.binance_usdm.reports import (
    UNTIMELY,
    ClientIds,
    from_order,
    from_user_trade,
    owner_of,
    reason_of_code,
    report,
)

# At DEBUG the library writes the headers of every request, the API key among them.
logging.getLogger("ccxt").setLevel(logging.INFO)

_HOSTS = (
    "https://fapi.binance.com", "https://dapi.binance.com", "https://eapi.binance.com", "https://api.binance.com",
    "https://papi.binance.com",
)
# Codes by which the venue says that it does not know whether the order took effect.
_UNKNOWN_CODES = (-1000, -1001, -1006, -1007)
_TRADES_PAGE = 1000
_RESTING = ("NEW", "PARTIALLY_FILLED")
_NOT_OPENED = -1
_SERVER_ERROR = 500
_BAD_REQUEST = 400
_REFUSED_FOR_RATE = (418, 429)
_PICTURE_TRIES = 3
_TOLD_AGAIN_MS = 500


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    """An answer without what it must hold is one of ccxt's errors too: BadResponse."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ccxt.BadResponse(f"an answer of the venue cannot be read: {type(error).__name__}: {error}") from error


class GateShut(NotSent):
    """The last gate refused a request; nothing was sent."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class LastGate(PayingAdapter):
    """The last thing that runs before a request's bytes reach a socket: budget, order against intent, gate, the stamp
    of the wire hop. after_call: told of every call that was made, how long it took (ns) and whether it failed.
    before_order: called for a new order, and again where a connection had to be opened for it.
    One thread sends; another may `cut`.
    """

    def __init__(self, budget: Budget, before_order: Callable[[], None], check: OrderCheck) -> None:
        super().__init__(budget)
        self._before_order = before_order
        self._check = check
        self._only_reads = False
        self._renew = False
        self._is_order = False
        self.after_call: Callable[[int, bool], None] = lambda took_ns, failed: None
        self._left_ns = 0  # when the last call was let out, 0: none was
        self.is_untimely = False  # the venue has refused a time stamp

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, and tell what became of it. Raises as PayingAdapter.send does."""
        if self._renew:
            self._renew = False
            self.close()
        self._left_ns = 0
        self._is_order = False
        failed = True
        try:
            response = super().send(request, *args, **kwargs)
            failed = response.status_code >= _SERVER_ERROR or response.status_code in _REFUSED_FOR_RATE
            self.is_untimely |= response.status_code == _BAD_REQUEST and _code_of(response.text) == UNTIMELY
            return response
        finally:
            if self._left_ns:
                self.after_call(self._budget.now_ns() - self._left_ns, failed)

    def cut(self, cut: bool) -> None:
        """Let only questions pass, over new connections; or everything again."""
        if cut and not self._only_reads:
            self._renew = True
        self._only_reads = cut

    def before_sending(self, request: requests.PreparedRequest) -> None:
        """Compare with what was decided; the last thing is `before_order`, for an order. Raises GateShut."""
        if self._only_reads and request.method != "GET":
            raise GateShut(Reason.DENIED_EMERGENCY)
        try:
            self._check.check(request)
        except NotAsDecided as difference:
            log(f"not sent, it is not what was decided: {difference}")
            raise GateShut(Reason.DENIED_INTENT) from None
        self._is_order = is_new_order(request.method or "", request.path_url)
        self._look()
        self._left_ns = self._budget.now_ns()

    def _look(self) -> None:
        if self._is_order:
            self._before_order()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by the base class: connections that look at the gate when they are opened.

        The library opens one anew where it finds it closed; that takes time, in which the gate may have been shut.
        """
        super().init_poolmanager(*args, **kwargs)
        gate = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                gate._look()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                gate._look()

        self.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure}),
        }


def make_exchange(
    endpoints: Endpoints, credentials: Credentials, timeout_ms: int, recv_window_ms: int
) -> ccxt.binanceusdm:
    """The stock ccxt class, with its URLs pointed at the endpoints and nothing else changed."""
    exchange = ccxt.binanceusdm(
        {
            "apiKey": credentials.api_key,
            "secret": credentials.secret,
            "enableRateLimit": False,
            "timeout": timeout_ms,
            "options": {"recvWindow": recv_window_ms},
        }
    )
    if endpoints.rest_url not in _HOSTS:
        api = exchange.urls["api"]
        for key, url in api.items():
            for host in _HOSTS:
                if isinstance(url, str) and url.startswith(host):
                    api[key] = endpoints.rest_url + url[len(host) :]
    return exchange


class TradingClient:
    """What a gateway asks of the venue, as REPORT records.

    One thread asks; another may tell meanwhile what the private stream said: `learn`, `forget`, `stream_lost`.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        credentials: Credentials,
        instruments: list[Instrument],
        session: str,
        before_order: Callable[[], None],
        timeout_ms: int,
        recv_window_ms: int,
        budget: Budget,
    ) -> None:
        self._exchange = make_exchange(endpoints, credentials, timeout_ms, recv_window_ms)
        self._instruments = {item.index: item for item in instruments}
        self.ids = ClientIds(session)
        self._check = OrderCheck(self._instruments, self.ids)
        self._gate = LastGate(budget, before_order, self._check)
        for scheme in ("http://", "https://"):
            self._exchange.session.mount(scheme, self._gate)
        self._known_orders = KnownOrders(lambda order_id: order_id in self._open)
        self._payments = Payments(self._exchange, instruments)
        self._open: dict[int, int] = {}  # order id -> instrument index, of orders that may rest at the venue
        # By instrument: the last trade before the session, the last one known, and, since the private stream broke,
        # the last one that is surely known with all before it.
        self._opened_after = {item.index: _NOT_OPENED for item in instruments}
        self._last_trade = dict(self._opened_after)
        self._missed_after: dict[int, int] = {}
        self._recall_due = False
        self._must_be_listed: set[int] = set()  # the venue's ids, until they were
        # By instrument, of the trades that reconciliations have gone through: the last one, and what was reported.
        self._gone_through = {item.index: 0 for item in instruments}
        self._told: dict[int, set[int]] = {item.index: set() for item in instruments}
        self._booked_to = dict(self._gone_through)  # what a predecessor has surely told
        self._missed: list[np.ndarray] = []  # found by a reconciliation that has not come to its end
        self._fees = 0  # of this session's fills among them, 1e-8 quote
        self._clock_ahead_ms = 0  # how far our clock is ahead of the venue's, for all but new orders
        self._lock = threading.Lock()

    @property
    def last_answer(self) -> bytes:
        """Body of the last answer of the venue, for the journal; empty when there was none."""
        return (self._exchange.last_http_response or "").encode()

    def tell_calls(self, after_call: Callable[[int, bool], None]) -> None:
        """Have every call told: how long it took, ns, and whether it failed."""
        self._gate.after_call = after_call

    def was_perhaps_sent(self, order_id: int) -> None:
        """Orders up to this number are never sent (again)."""
        self._check.succeed(order_id)

    def connect_through(self, connections: urllib3.PoolManager, clock_ms: Callable[[], int]) -> None:
        """Reach the venue through these connections instead of sockets, and sign with the time of this clock."""
        for adapter in self._exchange.session.adapters.values():
            adapter.poolmanager = connections
        self._exchange.milliseconds = clock_ms

    @property
    def may_rest(self) -> bool:
        """Whether an order of ours may rest at the venue, as far as this client knows."""
        return bool(self._open)

    def cut_orders(self, cut: bool) -> None:
        """The stop is confirmed: only questions pass, and not over connections that orders went over. With cut=False,
        after a reset, everything does."""
        self._gate.cut(cut)

    def warm_up(self) -> None:
        """Open the connection, so that the first order does not pay for it. A venue that is away is no reason not to
        start: what concerns it will be asked again."""
        with contextlib.suppress(ccxt.BaseError, BudgetSpent):
            self._exchange.fapiPublicGetTime()

    def perform(self, order: np.void) -> list[np.ndarray]:
        """Carry out one ORDER record and report what became of it. Never raises for what a venue can do.

        What was refused for its time stamp took no effect; all but a new order is made again by the venue's clock.
        """
        self._keep_time()
        reports = self._carry_out(order)
        if self._gate.is_untimely and self._keep_time() and order["kind"] != OrderAction.NEW:
            return self._carry_out(order)
        return reports

    def _keep_time(self) -> bool:
        """Go by the venue's clock where it has refused a time stamp; False where that clock cannot be had.

        The answer's own way counts as lag, so time stamps come out late.
        """
        if not self._gate.is_untimely:
            return True
        self._gate.urgent = True  # a cancel may wait for it
        answer = self._exchange.last_http_response  # what the journal keeps is the answer to the order
        try:
            with _understanding():
                ahead_ms = int(self._exchange.load_time_difference())
        except (ccxt.BaseError, BudgetSpent):
            return False
        finally:
            self._gate.urgent = False
            self._exchange.last_http_response = answer
        self._gate.is_untimely = False
        if abs(ahead_ms - self._clock_ahead_ms) >= _TOLD_AGAIN_MS:
            log(f"the venue refused a time stamp: our clock is {ahead_ms} ms ahead of its")
        self._clock_ahead_ms = ahead_ms
        return True

    def _carry_out(self, order: np.void) -> list[np.ndarray]:
        self._exchange.last_http_response = None
        action, order_id, index = int(order["kind"]), int(order["order_id"]), int(order["instrument"])
        self._gate.urgent = action in (OrderAction.CANCEL, OrderAction.QUERY)
        self._check.expect(order if action in (OrderAction.NEW, OrderAction.CANCEL) else None)
        try:
            with _understanding():
                if action == OrderAction.NEW:
                    return [self._new(order)]
                if action == OrderAction.CANCEL:
                    return [self._cancel(order_id, index)]
                if action == OrderAction.QUERY:
                    answers = self.query(order_id, index)
                    not_found = [one for one in answers if one["kind"][0] == ReportKind.NOT_FOUND]
                    for one in not_found:
                        one["aux"] = order["recv_ts_ns"]  # it counts by when the question was asked
                    return answers
                if action == OrderAction.RECONCILE:
                    return self.reconcile(order["aux"] == RECONCILE_OPENING, order["aux"] == RECONCILE_DEEPLY)
        except GateShut as gate:
            self._open.pop(order_id, None)
            return [report(ReportKind.DENIED, order_id, index, gate.reason)]
        except BudgetSpent:
            return [self._not_sent(action, order_id, index)]
        except ccxt.BaseError as error:
            return [self._failure(action, order_id, index, error)]
        finally:
            self._gate.urgent = False
            self._check.expect(None)
        return [report(ReportKind.DENIED, order_id, index, Reason.VENUE_ERROR)]

    def _not_sent(self, action: int, order_id: int, index: int) -> np.ndarray:
        """The budget had nothing left for it: execution learns that nothing was sent, and asks or cancels again."""
        if action == OrderAction.RECONCILE:
            return report(ReportKind.RECONCILE_END, 0, 0, Reason.DENIED_RATE_BUDGET)
        if action == OrderAction.QUERY:
            return report(ReportKind.UNKNOWN, order_id, index, Reason.DENIED_RATE_BUDGET)
        if action == OrderAction.NEW:
            self._open.pop(order_id, None)
        return report(ReportKind.DENIED, order_id, index, Reason.DENIED_RATE_BUDGET)

    def _symbol(self, index: int) -> str:
        return self._instruments[index].symbol

    def _new(self, order: np.void) -> np.ndarray:
        instrument = self._instruments[int(order["instrument"])]
        order_id = int(order["order_id"])
        params: dict[str, Any] = {
            "symbol": instrument.symbol,
            "side": "BUY" if order["side"] == Side.BUY else "SELL",
            "quantity": format_units(int(order["size"]), instrument.size_exp),
            "newClientOrderId": self.ids.text(order_id),
            "newOrderRespType": "ACK",
        }
        if order["order_type"] == OrderType.LIMIT:
            params |= {
                "type": "LIMIT",
                "price": format_units(int(order["price"]), instrument.price_exp),
                "timeInForce": TimeInForce(int(order["time_in_force"])).name,
            }
        else:
            params["type"] = "MARKET"
        if order["flags"] & Flag.REDUCE_ONLY:
            params["reduceOnly"] = "true"
        self._open[order_id] = instrument.index
        options = self._exchange.options  # ccxt signs with our time less this
        options["timeDifference"] = 0
        try:
            answer = self._exchange.fapiPrivatePostOrder(params)
        finally:
            options["timeDifference"] = self._clock_ahead_ms
        return self._from_order(answer, instrument, order_id)

    def _cancel(self, order_id: int, index: int) -> np.ndarray:
        answer = self._exchange.fapiPrivateDeleteOrder(
            {"symbol": self._symbol(index), "origClientOrderId": self.ids.text(order_id)}
        )
        return self._from_order(answer, self._instruments[index], order_id)

    def _from_order(self, answer: Mapping[str, Any], instrument: Instrument, order_id: int) -> np.ndarray:
        self._known_orders.remember(int(answer["orderId"]), order_id)
        record = from_order(answer, instrument, order_id)
        if record["kind"][0] != ReportKind.ACCEPTED or answer["status"] == "FILLED":
            self._open.pop(order_id, None)
        return record

    def forget(self, order_id: int) -> None:
        """The private stream said that this order is done."""
        self._open.pop(order_id, None)

    def learn(self, venue_order_id: int, order_id: int, index: int, trade_id: int) -> None:
        """What the private stream says of an order: its venue id and its last trade."""
        self._known_orders.remember(venue_order_id, order_id)
        with self._lock:
            self._last_trade[index] = max(self._last_trade[index], trade_id)
            if trade_id > self._gone_through[index]:
                self._told[index].add(trade_id)

    def stream_lost(self) -> None:
        """The private stream broke: what it says from now on does not prove that nothing was missed before."""
        with self._lock:
            for index, last in self._last_trade.items():
                self._missed_after.setdefault(index, last)

    def _failure(self, action: int, order_id: int, index: int, error: ccxt.BaseError) -> np.ndarray:
        code = _code_of(self._exchange.last_http_response)
        definite = isinstance(error, ccxt.ExchangeError) and code < 0 and code not in _UNKNOWN_CODES
        if action == OrderAction.RECONCILE:
            return report(ReportKind.RECONCILE_END, 0, 0, Reason.VENUE_ERROR)
        # What is refused for its rate or its time is not looked at: a new order was not entered, and an order that was
        # to be cancelled is as before, which is what REJECTED says of one that the venue knows.
        limited = isinstance(error, ccxt.RateLimitExceeded | ccxt.DDoSProtection)
        unseen = limited or code == UNTIMELY
        refusal = Reason.RATE_LIMITED if limited else reason_of_code(code)
        if action == OrderAction.NEW and (definite or unseen):
            self._open.pop(order_id, None)
            return report(ReportKind.REJECTED, order_id, index, refusal)
        if action == OrderAction.CANCEL and unseen:
            return report(ReportKind.REJECTED, order_id, index, refusal)
        if action == OrderAction.CANCEL and definite:
            return report(ReportKind.CANCEL_REJECTED, order_id, index, reason_of_code(code))
        unreachable = isinstance(error, ccxt.NetworkError) and not code
        reason = Reason.VENUE_UNREACHABLE if unreachable else Reason.VENUE_ERROR
        return report(ReportKind.UNKNOWN, order_id, index, reason)

    def query(self, order_id: int, index: int) -> list[np.ndarray]:
        """What the venue knows of an order, its fills first. Raises ccxt errors other than 'no such order'."""
        symbol = self._symbol(index)
        try:
            answer = self._exchange.fapiPrivateGetOrder(
                {"symbol": symbol, "origClientOrderId": self.ids.text(order_id)}
            )
        except ccxt.OrderNotFound:
            return [report(ReportKind.NOT_FOUND, order_id, index, Reason.UNKNOWN_ORDER)]
        self._known_orders.remember(int(answer["orderId"]), order_id)
        trades = self._exchange.fapiPrivateGetUserTrades(
            {"symbol": symbol, "orderId": answer["orderId"], "limit": _TRADES_PAGE}
        )
        fills = [from_user_trade(trade, self._instruments[index], order_id) for trade in trades]
        return [*fills, self._from_order(answer, self._instruments[index], order_id)]

    def succeed(
        self, last_trades: Mapping[int, int], opened_after: Mapping[int, int], orders: Mapping[int, int],
        payments_after_ms: int,
    ) -> None:
        """This client takes the place of one that died: what that one knew is asked for before the first catch-up or
        reconciliation, so that it may start while the venue is away.

        last_trades, opened_after: by instrument index the venue's trade ids up to which nothing is missing, and after
        which the session began; orders: our numbers of orders that the venue must list, by its ids;
        payments_after_ms: the venue's time up to which payments are part of the opening balance.
        """
        self._known_orders.remember_all(orders)
        self._must_be_listed = set(orders)
        for index in self._instruments:
            self._opened_after[index] = self._gone_through[index] = opened_after.get(index, 0)
            self._last_trade[index] = self._booked_to[index] = last_trades.get(index, 0)
        self._payments.resume(payments_after_ms)
        self._recall_due = True

    def _recall(self) -> None:
        """Ask for what a successor must know of its session: the venue's ids of its orders. Raises ccxt errors.

        A list without an order that the venue must list is no answer, whatever its status: it is asked for again,
        since the fees of what it leaves out would be missing for good.
        """
        if not self._recall_due:
            return
        listed = set()
        for instrument in self._instruments.values():
            from_id = 1  # without an id the venue would give the newest page only
            while True:
                page = self._exchange.fapiPrivateGetAllOrders(
                    {"symbol": instrument.symbol, "limit": _TRADES_PAGE, "orderId": from_id}
                )
                for order in page:
                    from_id = max(from_id, int(order["orderId"]) + 1)
                    listed.add(int(order["orderId"]))
                    order_id = owner_of(order["clientOrderId"], self.ids)
                    self._known_orders.remember(int(order["orderId"]), order_id)
                    if order_id > 0 and order["status"] in _RESTING:
                        self._open[order_id] = instrument.index
                if len(page) < _TRADES_PAGE:
                    break
        if not self._must_be_listed <= listed:
            raise ccxt.BadResponse("the list of orders lacks some that the venue must know")
        self._must_be_listed.clear()
        self._recall_due = False

    def _trades_after(self, instrument: Instrument, last: int) -> Iterator[Mapping[str, Any]]:
        """Own trades of an instrument with a larger id, oldest first."""
        while True:
            page = self._exchange.fapiPrivateGetUserTrades(
                {"symbol": instrument.symbol, "limit": _TRADES_PAGE, "fromId": last + 1}
            )
            for trade in page:
                last = max(last, int(trade["id"]))
                yield trade
            if len(page) < _TRADES_PAGE:
                return

    def catch_up(self) -> list[np.ndarray]:
        """Everything that a broken private stream may have kept from us: fills, then orders that are no more.

        Raises ccxt errors; asking again later is safe, since fills are idempotent by trade id.
        """
        self._keep_time()
        with _understanding():
            self._recall()
        with self._lock:
            missed, self._missed_after = self._missed_after, {}
            begin = self._last_trade | missed
        try:
            with _understanding():
                paid = self._payments.since_told()
                reports = [*self._missed_reports(begin), *paid]
                self._payments.told(paid)
                return reports
        except BaseException:
            with self._lock:
                for index, last in missed.items():
                    self._missed_after[index] = min(last, self._missed_after.get(index, last))
            raise

    def _missed_reports(self, begin: Mapping[int, int]) -> list[np.ndarray]:
        reports: list[np.ndarray] = []
        told: set[tuple[int, int]] = set()
        for index, instrument in self._instruments.items():
            if begin[index] == _NOT_OPENED:
                continue  # before the opening no order is ours
            for trade in self._trades_after(instrument, begin[index]):
                order_id = self._owner(int(trade["orderId"]), instrument)
                if order_id:
                    reports.append(from_user_trade(trade, instrument, max(order_id, 0)))
                    told.add((index, int(trade["id"])))
                    self.learn(int(trade["orderId"]), order_id, index, int(trade["id"]))
        for order_id, index in list(self._open.items()):
            answers = self.query(order_id, index)
            reports += [one for one in answers if (index, int(one["trade_id"][0])) not in told]
        return reports

    def _owner(self, venue_order_id: int, instrument: Instrument) -> int:
        """Whose order it is, by the venue's id (reports.owner_of); the venue is asked where it is not known (any more).

        Before the opening no order is ours but those that were sent.
        """
        owner = self._known_orders.owner(venue_order_id)
        if owner is None and self._opened_after[instrument.index] != _NOT_OPENED:
            try:
                order = self._exchange.fapiPrivateGetOrder({"symbol": instrument.symbol, "orderId": venue_order_id})
                owner = owner_of(order["clientOrderId"], self.ids)
            except ccxt.OrderNotFound:
                owner = 0
            self._known_orders.remember(venue_order_id, owner)
        return owner or 0

    def _new_trades(self) -> int:
        """Go through the trades since the last time and keep those of ours that nobody has told of. Returns how many
        trades there were."""
        count = 0
        for index, instrument in self._instruments.items():
            for trade in self._trades_after(instrument, self._gone_through[index]):
                count += 1
                trade_id, order_id = int(trade["id"]), self._owner(int(trade["orderId"]), instrument)
                with self._lock:
                    told = trade_id in self._told[index]
                if order_id:
                    fill = from_user_trade(trade, instrument, max(order_id, 0))
                    self._fees += int(fill["fee"][0])
                    if not told and trade_id > self._booked_to[index]:
                        self._missed.append(fill)
                with self._lock:
                    self._gone_through[index] = trade_id
                    self._told[index].discard(trade_id)
        return count

    def _resting_orders(self) -> tuple[int, list[np.ndarray]]:
        """How many orders rest, and what became of those of ours that do not rest any more, or that rest unknown."""
        resting = 0
        reports: list[np.ndarray] = []
        for index, instrument in self._instruments.items():
            believed = {order_id for order_id, place in list(self._open.items()) if place == index}
            found = self._exchange.fapiPrivateGetOpenOrders({"symbol": instrument.symbol})
            resting += len(found)
            for order in found:
                order_id = owner_of(order["clientOrderId"], self.ids)
                if order_id > 0 and order_id not in believed:
                    self._open[order_id] = index
                    reports.append(self._from_order(order, instrument, order_id))
                believed.discard(order_id)
            for order_id in believed:
                # Its fills are gone through with all others.
                reports += [one for one in self.query(order_id, index) if one["kind"][0] != ReportKind.FILL]
        return resting, reports

    def _begin(self) -> dict[int, int]:
        """Trades up to now are not of this session: the newest one by instrument."""
        for index, instrument in self._instruments.items():
            newest = self._exchange.fapiPrivateGetUserTrades({"symbol": instrument.symbol, "limit": 1})
            self._opened_after[index] = max((int(trade["id"]) for trade in newest), default=0)
            with self._lock:
                self._last_trade[index] = max(self._last_trade[index], self._opened_after[index])
                self._gone_through[index] = self._opened_after[index]
                self._told[index].clear()
        self._fees = 0
        self._payments.begin()
        return self._opened_after

    def payments(self) -> list[np.ndarray]:
        """What was paid into the wallet and out of it, trades apart, since this was told. Raises ccxt errors."""
        self._keep_time()
        with _understanding():
            paid = self._payments.since_told()
        self._payments.told(paid)
        return paid

    def reconcile(self, opening: bool, deeply: bool = False) -> list[np.ndarray]:
        """Balance, positions, open orders and fees as the venue has them, after every fill and end of an order that
        nobody has told of. Raises ccxt errors.

        opening: adopt as the session's opening state (older trades are not ours to count); deeply: look for payments
        too, which is dear. The parts are asked for one by one; a trade between them makes it start again.
        """
        self._recall()
        flags = Flag.FIRST if opening else 0
        ends: list[np.ndarray] = []
        newest = self._begin() if opening else {}
        paid = self._payments.since_told() if deeply else []
        for _ in range(_PICTURE_TRIES):
            self._new_trades()
            account = self._exchange.fapiPrivateV3GetAccount()
            # Only the opening must know what a position cost; what is asked again and again must be cheap.
            listed = self._exchange.fapiPrivateV3GetPositionRisk() if opening else account["positions"]
            positions = {entry["symbol"]: entry for entry in listed}
            resting, ended = self._resting_orders()
            ends += ended
            moved = self._new_trades()
            if opening:
                moved += len(self._payments.since_told())
                moved += self._sizes(account["positions"]) != self._sizes(listed)
            if opening and moved:
                newest = self._begin()
            if not moved:
                break
        if opening and self._sizes(account["positions"]) != self._sizes(listed):
            raise ccxt.BadResponse("the account and the list of positions differ in size")
        missed, self._missed = self._missed, []
        self._payments.told(paid)
        reports = [*missed, *ends, *paid]
        reports.append(
            report(
                ReportKind.BALANCE, 0, flags=flags, aux=parse_units(account["totalWalletBalance"], MONEY_EXP),
                exch_ts_ns=self._payments.opened_ms * 1_000_000,
            )
        )
        for instrument in self._instruments.values():
            position = _position(positions.get(instrument.symbol), instrument, flags, opening)
            position["trade_id"] = newest.get(instrument.index, 0)
            reports.append(position)
        reports.append(report(ReportKind.OPEN_ORDERS, 0, flags=flags, aux=resting))
        reports.append(report(ReportKind.FEES, 0, flags=flags, aux=self._fees))
        reports.append(report(ReportKind.RECONCILE_END, 0, flags=flags, aux=1))
        return reports

    def _sizes(self, listed: list[Mapping[str, Any]]) -> dict[str, int]:
        """Sizes of our instruments that are not flat, by symbol, of entries of account or positionRisk."""
        traded = {one.symbol: one for one in self._instruments.values()}
        sizes = {
            entry["symbol"]: parse_units(entry["positionAmt"], traded[entry["symbol"]].size_exp)
            for entry in listed if entry["symbol"] in traded
        }
        return {symbol: size for symbol, size in sizes.items() if size}

    def close(self) -> None:
        """Close the connections."""
        self._exchange.session.close()


def _position(entry: Mapping[str, Any] | None, instrument: Instrument, flags: int, with_cost: bool) -> np.ndarray:
    """The POSITION report of an entry of account or, with_cost, of positionRisk; the venue names none that is zero.

    The printed entry price is rounded; value at mark less unrealised profit is what the position cost, exactly.
    """
    if entry is None:
        return report(ReportKind.POSITION, 0, instrument.index, flags=flags)
    size = parse_units(entry["positionAmt"], instrument.size_exp)
    if not with_cost:
        return report(ReportKind.POSITION, 0, instrument.index, flags=flags, size=size)
    unrealised = parse_units(entry["unRealizedProfit"], MONEY_EXP)
    cost = abs(parse_units(entry["notional"], MONEY_EXP)) - (unrealised if size > 0 else -unrealised)
    price = int(Decimal(entry["entryPrice"]).scaleb(instrument.price_exp))
    return report(
        ReportKind.POSITION, 0, instrument.index, flags=flags, size=size, price=price, aux=cost if size else 0
    )


def _code_of(body: str | None) -> int:
    """The error code in an answer of the venue, or 0."""
    try:
        answer = orjson.loads(body or "")
    except orjson.JSONDecodeError:
        return 0
    code = answer.get("code", 0) if isinstance(answer, dict) else 0
    return code if isinstance(code, int) else 0
