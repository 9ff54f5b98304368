"""HTTP between the clients of a session and its venue, in virtual time.

`Wire` carries requests both ways and has them treated as the venue's faults say. `Connections` stands below the stock
HTTP adapter in the place of its sockets, so that ccxt, requests, budget and last gate run unchanged; a caller waits by
running the loop. A request whose client has died goes on to the venue: bytes on the wire belong to nobody.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import urllib3
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from procs.budget import Budget
from procs.embedded.answers import exchange_information
from procs.embedded.mix import Draws
from procs.embedded.venue import Reply, Treatment, Venue
from procs.venues.binance_usdm.rate_limits import cost_of, limits_of
from procs.virtual.loop import EventLog, Loop

MS = 1_000_000
_POLL_NS = 20 * MS
ORDER_PATH = "/fapi/v1/order"


class ProcessKilled(BaseException):
    """The process that was waiting for an answer is no more."""


@dataclass
class Flight:
    """A new order on its way to the venue's book."""

    client_id: str
    valid_until_ms: int  # timestamp and recvWindow: later than this the venue refuses it


class Wire:
    """See the module. `last_trouble_ns`: when a request last met a fault."""

    def __init__(self, loop: Loop, venue: Venue, draws: Draws, log: EventLog):
        self.loop = loop
        self.venue = venue
        self.draws = draws
        self.log = log
        self.flights: dict[int, Flight] = {}
        self.last_trouble_ns = 0
        limits = limits_of(exchange_information(venue.settings, 0))
        self.budget = Budget.of_own(limits, lambda: loop.now_ns)  # of all processes
        self.sent = 0
        self.statuses: dict[int, int] = {}

    def latency_ns(self) -> int:
        """One way: mostly a third of a millisecond, now and then much more, so that answers and fills overtake."""
        if self.draws.uniform() < 0.05:
            return self.draws.whole(2, 40) * MS
        return self.draws.whole(100, 600) * 1_000

    def send_paid(
        self, method: str, path_url: str, api_key: str | None, done: Callable[[Reply | None], None]
    ) -> None:
        """The same for a caller that does not wait, paid as paying.PayingAdapter pays for those who do."""
        weight, orders = cost_of(method, path_url)
        if self.budget.take(self.loop.now_ns, weight, orders):
            self.loop.after(0, lambda: done(None))
            return

        def heard(reply: Reply | None) -> None:
            if reply is not None:
                headers = CaseInsensitiveDict(reply.headers)
                self.budget.hear(headers, of_order=orders > 0)
                if reply.status in (418, 429):
                    self.budget.refused_by_venue(reply.status, float(headers["Retry-After"]), False)
            done(reply)

        self.send(method, path_url, "", api_key, heard)

    def send(
        self, method: str, path_url: str, body: str, api_key: str | None, done: Callable[[Reply | None], None]
    ) -> None:
        """Put a request on the wire. `done` is called with the answer, or with None when the connection breaks."""
        self.sent += 1
        number = self.sent
        path, _, query = path_url.partition("?")
        if method == "POST" and path == ORDER_PATH:
            given = dict(parse_qsl(query)) | dict(parse_qsl(body))
            valid_ms = int(given.get("timestamp", 0)) + int(given.get("recvWindow", 0))
            self.flights[number] = Flight(given.get("newClientOrderId", ""), valid_ms)
        self.log.add(self.loop.now_ns, f"request {method} {path_url}", body.encode())

        def back(reply: Reply | None, after_ns: int = 0) -> None:
            self.flights.pop(number, None)
            status = reply.status if reply is not None else 0
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.log.add(self.loop.now_ns, f"answer {number} {status}", reply.body if reply is not None else b"")
            self.loop.after(after_ns + self.latency_ns(), lambda: done(reply))

        def wait_for_the_end(place: str) -> None:
            self.last_trouble_ns = self.loop.now_ns
            if self.venue.faults.half_open(place):
                self.loop.after(_POLL_NS, lambda: wait_for_the_end(place))
            else:
                back(None)

        def carry_out(met: Treatment) -> None:
            self.venue.hub.now_ms = max(self.venue.hub.now_ms, self.loop.now_ns // MS)
            reply = self.venue.answer(method, path, query, body, api_key)
            back(met.reply or reply, met.after_ms * MS)

        def arrive() -> None:
            if self.venue.faults.lasting("gone"):
                self.last_trouble_ns = self.loop.now_ns
                back(None)
                return
            met = self.venue.treatment(method, path)
            if met != Treatment():
                self.last_trouble_ns = self.loop.now_ns + (met.before_ms + met.after_ms) * MS
            if met.dead_end:
                wait_for_the_end(met.dead_end)
            elif met.carried_out:
                self.loop.after(met.before_ms * MS, lambda: carry_out(met))
            else:
                back(met.reply)

        self.loop.after(self.latency_ns(), arrive)


class Connections(urllib3.PoolManager):
    """In the place of urllib3's pool of sockets, of one process. is_dead: whether that process has been killed."""

    def __init__(self, wire: Wire, is_dead: Callable[[], bool]):
        super().__init__()
        self._wire = wire
        self._is_dead = is_dead

    def connection_from_host(self, *_: Any, **__: Any) -> Any:
        """The one connection there is."""
        return self

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None,
        timeout: Any = None, **_: Any,
    ) -> urllib3.HTTPResponse:
        """Send and wait. Raises what urllib3 raises, and ProcessKilled."""
        answers: list[Reply | None] = []
        text = body.decode() if isinstance(body, bytes) else body or ""
        key = (headers or {}).get("X-MBX-APIKEY")
        loop = self._wire.loop
        self._wire.send(method, url, text, key if key is None else str(key), answers.append)
        patience_ns = int((timeout.read_timeout or 5.0) * 1e9)
        loop.run(loop.now_ns + patience_ns, lambda: bool(answers) or self._is_dead())
        if self._is_dead():
            raise ProcessKilled
        if not answers:
            self._wire.log.add(loop.now_ns, "time-out")
            raise ReadTimeoutError(self, url, "Read timed out.")  # type: ignore[arg-type]
        reply = answers[0]
        if reply is None:
            if self._wire.venue.faults.lasting("gone"):
                raise MaxRetryError(self, url, NewConnectionError(self, "refused"))  # type: ignore[arg-type]
            raise ProtocolError("Connection aborted.", ConnectionResetError())
        headers = {"Content-Type": reply.content_type, **reply.headers}
        return urllib3.HTTPResponse(
            body=io.BytesIO(reply.body), headers=headers, status=reply.status, reason="", preload_content=False
        )
