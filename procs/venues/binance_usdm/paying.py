"""HTTP sessions of requests that pay for every call to the venue; what signs by hand pays by itself (signed.py)."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from procs.budget import Budget, Level
from procs.venues.binance_usdm.rate_limits import hear, pay


class NotSent(Exception):
    """A request was kept: not a byte of it has left."""


class PayingAdapter(HTTPAdapter):
    """Pays for every request before a byte of it leaves, and takes note of what the answer says.

    urgent: what is asked is of Level.URGENT, else of Level.ORDINARY; set by the thread that asks. The library opens a
    connection anew where it finds it closed; that takes time, so `after_connecting` is called then.
    """

    def __init__(self, budget: Budget, urgent: bool = False) -> None:
        super().__init__(pool_connections=2, pool_maxsize=2, max_retries=0)
        self._budget = budget
        self.urgent = urgent

    def before_sending(self, request: requests.PreparedRequest) -> None:
        """Called when the request is paid for. Raises NotSent to keep it."""

    def after_connecting(self) -> None:
        """Called when a connection was opened for a request of which no byte has left. Raises NotSent to keep it."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by the base class: make the connections."""
        super().init_poolmanager(*args, **kwargs)
        adapter = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                adapter.after_connecting()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                adapter.after_connecting()

        self.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure}),
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send. Raises BudgetSpent and NotSent; nothing was sent then."""
        level = Level.URGENT if self.urgent else Level.ORDINARY
        paid = pay(self._budget, request.method or "", request.path_url, level)
        try:
            self.before_sending(request)
            response = super().send(request, *args, **kwargs)
        except NotSent:
            self._budget.give_back(paid.now_ns, paid.weight, paid.orders)
            raise
        hear(self._budget, paid, response.status_code, response.headers, response.content)
        return response


def paying_session(budget: Budget, urgent: bool = False) -> requests.Session:
    """An HTTP session that pays for every request."""
    session = requests.Session()
    adapter = PayingAdapter(budget, urgent)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session
