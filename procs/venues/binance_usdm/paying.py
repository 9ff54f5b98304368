"""HTTP sessions of requests that pay for every call to the venue; what signs by hand pays by itself (signed.py)."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

from procs.budget import Budget, Level
from procs.venues.binance_usdm.rate_limits import hear, pay


class NotSent(Exception):
    """A request was kept: not a byte of it has left."""


class PayingAdapter(HTTPAdapter):
    """Pays for every request before a byte of it leaves, and takes note of what the answer says.

    urgent: what is asked is of Level.URGENT, else of Level.ORDINARY; set by the thread that asks.
    """

    def __init__(self, budget: Budget, urgent: bool = False) -> None:
        super().__init__(pool_connections=2, pool_maxsize=2, max_retries=0)
        self._budget = budget
        self.urgent = urgent

    def before_sending(self, request: requests.PreparedRequest) -> None:
        """Called when the request is paid for. Raises NotSent to keep it."""

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
