"""The embedded venue without sockets and clocks: the exchange, its answers, its streams, and the faults in force.

Which market it is (its accounts, paths, answers and events) is a matter of its dialect (dialect.py, settings.market).
The server (server.py) and sessions in virtual time (procs/virtual) both drive it: they call `turn` now and then, ask
what a request meets (`treatment`), wait as long as that says, and have it answered. Time comes from the given clock.
`state` is the ground truth, `log` what was accepted and what traded, `order_fault` orders faults (see faults.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from engine.matching.orders import Execution, OrderNotice
from engine.matching.settings import SPOT, USDM, VenueSettings
from procs.embedded.answers import NS_PER_MS
from procs.embedded.dialect import VenueDialect, Wiring
from procs.embedded.errors import VenueError
from procs.embedded.fanout import Fanout
from procs.embedded.faults import ENDINGS, SOCKETS, Faults
from procs.embedded.limits import banned
from procs.embedded.spot import SpotDialect
from procs.embedded.usdm import UsdmDialect

DIALECTS: Mapping[str, type[UsdmDialect] | type[SpotDialect]] = {USDM: UsdmDialect, SPOT: SpotDialect}
JSON = "application/json"
_KEPT_EVENTS = 20_000
# What a broken proxy answers with status 200, in turn.
_GARBAGE = (b"<html><body>Bad Gateway</body></html>", b"", b"{", b"null", b"\xff\xfe\x00", b"[]")


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    ending: str = ""  # how the connection ends after it: one of ENDINGS; empty: it is kept


@dataclass(frozen=True)
class Treatment:
    """What a request meets. By default it is carried out at once and answered at once with what came of it."""

    dead_end: str = ""  # a place that is half open: no answer until the fault is over, then the connection is cut
    carried_out: bool = True
    before_ms: int = 0  # until it is carried out
    after_ms: int = 0  # from then until the answer
    reply: Reply | None = None  # instead of what came of it


class Venue:
    """See the module.

    settings: see VenueSettings; clock_ns: the venue's clock; hub: who listens. Raises VenueError where the settings
    make no market.
    """

    def __init__(
        self, settings: VenueSettings, clock_ns: Callable[[], int], hub: Fanout, faults: Faults, key: str,
        secret: str, listen_key: str,
    ):
        self.settings = settings
        self.hub = hub
        self.faults = faults
        self.turns = 0
        self._log: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self.watch: Callable[[Any], None] | None = None  # hears first of whatever happens to the client's orders
        self._clock_ns = clock_ns
        wiring = Wiring(
            clock_ns(), hub, self._clock_ms, self._shown_ms, faults.skew_ms, self._on_market, self._on_notice, key,
            secret, listen_key,
        )
        try:
            self.dialect: VenueDialect = DIALECTS[settings.market](settings, wiring)
        except ValueError as error:
            raise VenueError(str(error)) from None
        self.exchange, self.feed, self.rest = self.dialect.exchange, self.dialect.feed, self.dialect.rest

    # time

    def _clock_ms(self) -> int:
        return self._clock_ns() // NS_PER_MS

    def _shown_ms(self) -> int:
        """The clock that clients are shown, which a fault may put off."""
        return self._clock_ms() + self.faults.skew_ms()

    def turn(self, now_ns: int) -> None:
        """Let everything happen that is due: faults, the other traders, dead-man switches, diffs."""
        self.turns += 1
        now_ms = now_ns // NS_PER_MS
        self.hub.now_ms = now_ms
        self._enforce_faults(now_ns)
        self.exchange.advance(now_ns)
        self.dialect.turn(now_ns)
        self.hub.publish(self.feed.turn(now_ms))
        self.hub.release()

    def _enforce_faults(self, now_ns: int) -> None:
        """Begin and end what lasts: whether the market trades and sockets speak."""
        for begun in self.faults.tick(now_ns // NS_PER_MS):
            name, _, place = begun.partition(" ")
            if name == "disconnect":
                self.hub.disconnect(place)
                self.faults.applied["disconnect"] += 1
            self._begin(name)
        if self.exchange.halted and not self.faults.lasting("maintenance"):
            self.exchange.resume(now_ns)

    def _begin(self, fault: str) -> None:
        """The first moment of a fault that lasts."""
        if fault == "half_open" and (lasting := self.faults.lasting(fault)):
            self.hub.silence(lasting.detail)
        elif fault == "maintenance" and (lasting := self.faults.lasting(fault)):
            self.exchange.halt(self.exchange.now_ns)
            if lasting.detail == "closed":
                self.hub.disconnect("all")

    # what the exchange reports

    def _on_market(self, symbol: int, events: np.ndarray) -> None:
        self.hub.publish(self.feed.absorb(symbol, events, self.exchange.now_ns // NS_PER_MS))

    def _on_notice(self, notice: OrderNotice) -> None:
        if self.watch is not None:
            self.watch(notice)
        self._note(notice)
        self.dialect.tell(notice)

    def _note(self, notice: OrderNotice) -> None:
        """Keep an acceptance or a fill for the log."""
        order, fill = notice.order, notice.fill
        if notice.execution != Execution.NEW and fill is None:
            return
        self._log.append({
            "at_ns": self._clock_ns(), "event": "accepted" if fill is None else "fill",
            "client_id": order.client_id,
            "symbol": self.exchange.instruments[order.symbol].symbol, "side": int(order.side),
            "size": int(order.size if fill is None else fill.size),
            "price": int(order.price if fill is None else fill.price),
            **self.dialect.log_entry(notice),
        })

    # requests

    def treatment(self, method: str, path: str, place: str = "rest") -> Treatment:
        """What a request meets that arrives now. place: rest, or public, market, private for a socket."""
        if self.faults.half_open(place):
            return Treatment(dead_end=place, carried_out=False)
        maintenance = self.faults.lasting("maintenance")
        if maintenance is not None and maintenance.detail == "closed":
            return Treatment(carried_out=False, reply=Reply(503, b"Service Unavailable."))
        if place != "rest":
            return Treatment()
        ban = self.faults.lasting("ban")
        if ban is not None:
            error = banned(ban.until_ms, self._clock_ms())
            return Treatment(carried_out=False, reply=Reply(418, error.body(), error.headers, JSON))
        matching_ms = self.settings.matching_delay_ms if method != "GET" else 0
        fault = self.faults.http(method, path)
        if fault is None:
            return Treatment(before_ms=matching_ms)
        if fault.action == "rate_limit":
            body = b'{"code":-1003,"msg":"Too many requests."}'
            return Treatment(carried_out=False, reply=Reply(429, body, {"Retry-After": "1"}, JSON))
        garbage = Reply(200, _GARBAGE[self.faults.applied[fault.action] % len(_GARBAGE)], content_type=JSON)
        if fault.action in ("error_before", *ENDINGS):
            ending = fault.action if fault.action in ENDINGS else ""
            return Treatment(carried_out=False, reply=Reply(fault.status, b"Service Unavailable.", ending=ending))
        if fault.action == "garbage_before":
            return Treatment(carried_out=False, reply=garbage)
        if fault.action == "hang_before":
            return Treatment(before_ms=fault.delay_ms + matching_ms)
        if fault.action == "hang_after":
            return Treatment(before_ms=matching_ms, after_ms=fault.delay_ms)
        if fault.action == "error_after":
            text = b"Unknown error, please check your request or try again later."
            return Treatment(before_ms=matching_ms, reply=Reply(fault.status, text))
        return Treatment(before_ms=matching_ms, reply=garbage)

    def answer(self, method: str, path: str, query: str, body: str, api_key: str | None) -> Reply:
        """Carry out a request; query and body raw as received."""
        if method == "DELETE" and path == self.dialect.cancel_all_path:
            symbol = dict(parse_qsl(query or body)).get("symbol", "")
            self._log.append({"at_ns": self._clock_ns(), "event": "cancel all", "symbol": symbol})
        status, data, headers = self.rest.answer(method, path, query, body, api_key)
        self.dialect.requested(self._clock_ms())
        return Reply(status, data, headers, JSON)

    # the venue's own endpoints

    def order_fault(self, request: Any) -> dict[str, Any]:
        """Obey an order for a fault. Raises ValueError that says what is allowed."""
        if not isinstance(request, dict):
            raise ValueError("a JSON object is expected")
        if request.get("fault") == "disconnect":
            if request.get("streams") not in SOCKETS:
                raise ValueError(f"streams: one of {', '.join(SOCKETS)}")
            self.faults.applied["disconnect"] += 1
            return {"disconnected": self.hub.disconnect(request["streams"])}
        self.faults.order(request, self._clock_ms())
        self._begin(str(request.get("fault", "")))
        return {"pending": self.faults.pending()}

    def log(self) -> list[dict[str, Any]]:
        """The newest events, oldest first: orders that were accepted, each fill with the position after it, requests to
        cancel all orders of a contract. Sizes and prices in units, at_ns on the venue's clock."""
        return list(self._log)

    def state(self) -> dict[str, Any]:
        """The ground truth as one JSON object: account, orders, fills, counters. Money as decimal text."""
        return {
            "time_ms": self._clock_ms(),
            **self.dialect.state(),
            "fill_count": self.exchange.fill_count,
            "counters": {
                "turns": self.turns,
                "arrivals": sum(int(flow["arrivals"][0]) for flow in self.dialect.market.flows),
                **self.hub.counters,
                "faults": dict(self.faults.applied),
                "bans": self.rest.limits.bans,  # that a client brought upon itself
            },
            "pending_faults": self.faults.pending(),
        }
