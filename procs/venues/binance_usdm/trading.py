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
from collections.abc import Callable
from typing import Any

import ccxt
import numpy as np
import urllib3

from engine.execution.reconcile import RECONCILE_DEEPLY, RECONCILE_OPENING
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import Flag, OrderAction, OrderType, ReportKind, Side, TimeInForce
from engine.units import format_units
from procs.budget import Budget
from procs.last_words import log
from procs.venues.binance_usdm.account_history import AccountHistory
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.last_gate import GateShut, LastGate, code_of
from procs.venues.binance_usdm.order_check import OrderCheck
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.reports import UNTIMELY, ClientIds, reason_of_code, report
from procs.venues.binance_usdm.stock_client import make_exchange, understanding

# Codes by which the venue says that it does not know whether the order took effect.
_UNKNOWN_CODES = (-1000, -1001, -1006, -1007)
_TOLD_AGAIN_MS = 500


class TradingClient:
    """What a gateway asks of the venue, as REPORT records.

    One thread asks; another may tell `history` meanwhile what the private stream said.
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
        self.history = AccountHistory(self._exchange, instruments, self.ids)
        self._clock_ahead_ms = 0  # how far our clock is ahead of the venue's, for all but new orders

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
        return self.history.may_rest

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
            with understanding():
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
            with understanding():
                if action == OrderAction.NEW:
                    return [self._new(order)]
                if action == OrderAction.CANCEL:
                    return [self._cancel(order_id, index)]
                if action == OrderAction.QUERY:
                    answers = self.history.query(order_id, index)
                    not_found = [one for one in answers if one["kind"][0] == ReportKind.NOT_FOUND]
                    for one in not_found:
                        one["aux"] = order["recv_ts_ns"]  # it counts by when the question was asked
                    return answers
                if action == OrderAction.RECONCILE:
                    return self.history.reconcile(order["aux"] == RECONCILE_OPENING, order["aux"] == RECONCILE_DEEPLY)
        except GateShut as gate:
            self.history.forget(order_id)
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
            self.history.forget(order_id)
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
        self.history.may_rest_now(order_id, instrument.index)
        options = self._exchange.options  # ccxt signs with our time less this
        options["timeDifference"] = 0
        try:
            answer = self._exchange.fapiPrivatePostOrder(params)
        finally:
            options["timeDifference"] = self._clock_ahead_ms
        return self.history.from_order(answer, instrument, order_id)

    def _cancel(self, order_id: int, index: int) -> np.ndarray:
        answer = self._exchange.fapiPrivateDeleteOrder(
            {"symbol": self._symbol(index), "origClientOrderId": self.ids.text(order_id)}
        )
        return self.history.from_order(answer, self._instruments[index], order_id)

    def _failure(self, action: int, order_id: int, index: int, error: ccxt.BaseError) -> np.ndarray:
        code = code_of(self._exchange.last_http_response)
        definite = isinstance(error, ccxt.ExchangeError) and code < 0 and code not in _UNKNOWN_CODES
        if action == OrderAction.RECONCILE:
            return report(ReportKind.RECONCILE_END, 0, 0, Reason.VENUE_ERROR)
        # What is refused for its rate or its time is not looked at: a new order was not entered, and an order that was
        # to be cancelled is as before, which is what REJECTED says of one that the venue knows.
        limited = isinstance(error, ccxt.RateLimitExceeded | ccxt.DDoSProtection)
        unseen = limited or code == UNTIMELY
        refusal = Reason.RATE_LIMITED if limited else reason_of_code(code)
        if action == OrderAction.NEW and (definite or unseen):
            self.history.forget(order_id)
            return report(ReportKind.REJECTED, order_id, index, refusal)
        if action == OrderAction.CANCEL and unseen:
            return report(ReportKind.REJECTED, order_id, index, refusal)
        if action == OrderAction.CANCEL and definite:
            return report(ReportKind.CANCEL_REJECTED, order_id, index, reason_of_code(code))
        unreachable = isinstance(error, ccxt.NetworkError) and not code
        reason = Reason.VENUE_UNREACHABLE if unreachable else Reason.VENUE_ERROR
        return report(ReportKind.UNKNOWN, order_id, index, reason)

    def catch_up(self) -> list[np.ndarray]:
        """What a broken private stream may have kept from us (AccountHistory.catch_up). Raises ccxt errors."""
        self._keep_time()
        with understanding():
            return self.history.catch_up()

    def payments(self) -> list[np.ndarray]:
        """What was paid into the wallet and out of it, trades apart, since this was told. Raises ccxt errors."""
        self._keep_time()
        with understanding():
            return self.history.payments()

    def close(self) -> None:
        """Close the connections."""
        self._exchange.session.close()
