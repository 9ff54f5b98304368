"""The last thing that a request of the trading client goes through before its bytes reach a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from engine.reasons import Reason
from procs.budget import Budget
from procs.last_words import log
from procs.venues.binance_usdm.order_check import NotAsDecided, OrderCheck
from procs.venues.binance_usdm.paying import NotSent, PayingAdapter
from procs.venues.binance_usdm.rate_limits import is_new_order
from procs.venues.binance_usdm.reports import UNTIMELY

_SERVER_ERROR = 500
_BAD_REQUEST = 400
_REFUSED_FOR_RATE = (418, 429)


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
            self.is_untimely |= response.status_code == _BAD_REQUEST and code_of(response.text) == UNTIMELY
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


def code_of(body: str | None) -> int:
    """The error code in an answer of the venue, or 0."""
    try:
        answer = orjson.loads(body or "")
    except orjson.JSONDecodeError:
        return 0
    code = answer.get("code", 0) if isinstance(answer, dict) else 0
    return code if isinstance(code, int) else 0
