"""Hand-signed requests over warmed connections: what the kill switch and the dead-man switch ask of the venue.

No ccxt, no queue, no throttle, no ring: sign, pay, write. A test holds every byte against those of stock ccxt.
Several calls leave together: all are written, each on a connection of its own, before the first answer is awaited.
Connections go straight to the venue (no proxy is asked for), with TCP_NODELAY.
Validity: a new order is taken for a second, everything else for a minute, since a cancel is never too late. That covers
a request that is long under way and a clock of ours that is slow, never one that is fast. So where the venue refuses a
time stamp its clock is read, and from then on gone by; what was refused is made again, once.
Source: Binance USD-M futures, "General Info" (SIGNED endpoint security, timing security).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import http.client
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import certifi
import orjson

from procs.budget import Budget, Level
from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.rate_limits import Paid, hear, is_new_order, pay
from procs.venues.binance_usdm.reports import UNTIMELY

TIMEOUT_S = 2.0
ORDER_WINDOW_MS = 1_000  # how long the venue takes a request after its time stamp: one that enters an order
WINDOW_MS = 60_000  # any other; the longest that the venue allows
_PING = "/fapi/v1/ping"
_TIME = "/fapi/v1/time"
_LATEST_TIME_MS = 10**14
_NOTHING = Paid(0, 0, 0)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Line(Protocol):
    """A connection to the venue that carries one request at a time. What goes wrong is an OSError or HTTPException."""

    def send(self, method: str, target: str, body: str | None, headers: Mapping[str, str]) -> None:
        """Write a request."""

    def receive(self, timeout_s: float) -> Answer:
        """The answer to the request that was written."""

    def is_open(self) -> bool:
        """Whether it can carry another request: an answer may end its connection."""

    def close(self) -> None:
        """Let go."""


@functools.cache
def tls_context() -> ssl.SSLContext:
    """What every connection goes by; reading the certificates takes 20 ms."""
    return ssl.create_default_context(cafile=certifi.where())


class HttpLine:
    """A line over HTTP or HTTPS; connected when it is made."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        host, port = parts.hostname or "", parts.port
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        )
        self._connection.connect()

    def send(self, method: str, target: str, body: str | None, headers: Mapping[str, str]) -> None:
        """Write a request."""
        if not self.is_open():
            raise http.client.NotConnected
        self._connection.sock.settimeout(TIMEOUT_S)
        self._connection.request(method, target, body, headers)

    def receive(self, timeout_s: float) -> Answer:
        """The answer to the request that was written."""
        self._connection.sock.settimeout(max(timeout_s, 0.001))
        response = self._connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def is_open(self) -> bool:
        """False once an answer has said that its connection ends, or was of HTTP/1.0: http.client closes it then."""
        return self._connection.sock is not None

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()


@dataclass(frozen=True)
class Call:
    """A request to make: how, where, with what. Parameters keep their order."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Refused(VenueUnreachable):
    """The venue has answered, with an error. code: the venue's own, 0 where there is none."""

    def __init__(self, text: str, status: int, code: int) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


@dataclass
class _Sent:
    """A call under way: the line it went over, or what kept it from leaving."""

    call: Call
    line: Line | None = None
    paid: Paid = _NOTHING
    error: VenueUnreachable | None = None
    reused: bool = False  # the line had been idle: it may have been closed by the venue meanwhile


class SignedSession:
    """See the module. One thread calls; another may `warm`.

    lines: how many connections are kept; budget: what pays; level: of
    the calls that are urgent, the others are ordinary. Errors are VenueUnreachable (BudgetSpent, Refused); their
    text holds no query and no key.
    """

    def __init__(
        self, rest_url: str, credentials: Credentials, budget: Budget, lines: int = 1, *,
        level: Level = Level.KILL, open_line: Callable[[str], Line] = HttpLine, clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        self._root = rest_url
        self._prefix = urlsplit(rest_url).path.rstrip("/")
        self._api_key = credentials.api_key
        self._secret = credentials.secret.encode()
        self._budget = budget
        self._lines = lines
        self.level = level
        self._open_line = open_line
        self._clocks = clocks
        self._idle: deque[Line] = deque()  # the one that has been idle for longest comes first
        self._clock_ahead_ms = 0  # how far our clock is ahead of the venue's
        self.written_ns = 0  # CLOCK_MONOTONIC when the last call had been written

    # --- one request ----------------------------------------------------------------------------------------------

    def _query(self, call: Call) -> str:
        """The signed query string of a call made now, with everything where ccxt puts it."""
        stamp_ms = self._clocks.wall_ns() // 1_000_000 - self._clock_ahead_ms
        window_ms = ORDER_WINDOW_MS if is_new_order(call.method, call.path) else WINDOW_MS
        text = urlencode({"timestamp": stamp_ms, **call.params, "recvWindow": window_ms}, quote_via=quote)
        return f"{text}&signature={hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()}"

    def _write(self, line: Line, call: Call) -> None:
        target, body, headers = self._prefix + call.path, None, {"X-MBX-APIKEY": self._api_key}
        if not call.signed:
            query = urlencode(call.params, quote_via=quote)
        else:
            query = self._query(call)
        if call.method in ("GET", "DELETE"):
            target = f"{target}?{query}" if query else target
        else:
            body = query
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        line.send(call.method, target, body, headers)

    def _take_line(self) -> tuple[Line, bool]:
        """A connection, and whether it had been used before. Raises OSError."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._open_line(self._root), False

    def _give_back(self, line: Line) -> None:
        if line.is_open() and len(self._idle) < self._lines:
            self._idle.append(line)
        else:
            line.close()

    def _send(self, call: Call, urgent: bool) -> _Sent:
        sent = _Sent(call)
        try:
            sent.paid = pay(self._budget, call.method, self._target_of(call), self.level if urgent else Level.ORDINARY)
            sent.line, sent.reused = self._take_line()
            self._write(sent.line, call)
        except VenueUnreachable as error:
            sent.error = error
        except (OSError, http.client.HTTPException) as error:
            if sent.line is None:  # no connection, so not a byte has left
                self._budget.give_back(sent.paid.now_ns, sent.paid.weight, sent.paid.orders)
            self._broken(sent, error)
        return sent

    @staticmethod
    def _target_of(call: Call) -> str:
        """What the price of a call depends on."""
        return f"{call.path}?{urlencode(call.params)}"

    def _broken(self, sent: _Sent, error: Exception) -> None:
        sent.error = VenueUnreachable(f"{sent.call}: {type(error).__name__}")
        if sent.line is not None:
            sent.line.close()
            sent.line = None

    def _receive(self, sent: _Sent, deadline_ns: int) -> Any:
        """The decoded answer to a call that was sent. Raises VenueUnreachable."""
        line = sent.line
        if line is None:
            raise sent.error or VenueUnreachable(f"{sent.call}: it was not sent")
        try:
            answer = line.receive((deadline_ns - self._clocks.monotonic_ns()) / 1e9)
        except (OSError, http.client.HTTPException) as error:
            self._broken(sent, error)
            raise VenueUnreachable(f"{sent.call}: {type(error).__name__}") from None
        self._give_back(line)
        hear(self._budget, sent.paid, answer.status, answer.headers, answer.content)
        try:
            body = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            raise Refused(f"{sent.call}: HTTP {answer.status}, not JSON", answer.status, 0) from None
        if answer.status != 200:
            code = body.get("code") if isinstance(body, dict) else None
            number = code if isinstance(code, int) else 0
            raise Refused(f"{sent.call}: HTTP {answer.status}, code {code}", answer.status, number)
        return body

    def _outcome(self, sent: _Sent, deadline_ns: int) -> Any:
        """The decoded answer to a call that was sent, or the VenueUnreachable that came of it."""
        try:
            return self._receive(sent, deadline_ns)
        except VenueUnreachable as error:
            return error

    def _read_clock(self, deadline_ns: int) -> bool:
        """Go by the venue's clock; False where it cannot be had.

        The answer's own way counts as lag, so time stamps come out late: no order is valid for longer than it says.
        """
        answer = self._outcome(self._send(Call("GET", _TIME, signed=False), urgent=True), deadline_ns)
        time_ms: Any = answer.get("serverTime") if isinstance(answer, dict) else None
        is_known = type(time_ms) is int and 0 < time_ms < _LATEST_TIME_MS
        self._clock_ahead_ms = self._clocks.wall_ns() // 1_000_000 - time_ms if is_known else self._clock_ahead_ms
        return is_known

    # --- what callers use -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> int:
        """How many calls could leave now without a new connection."""
        return len(self._idle)

    def send_all(self, calls: Sequence[Call], urgent: bool = True) -> list[_Sent]:
        """Write all calls, each on a connection of its own; nothing is waited for but new connections."""
        sent = [self._send(call, urgent) for call in calls]
        self.written_ns = self._clocks.monotonic_ns()
        return sent

    def receive_all(self, sent: Sequence[_Sent], urgent: bool = True) -> list[Any]:
        """For each call its decoded answer, or the VenueUnreachable that came of it.

        A connection that the venue had closed while it was idle is replaced and the call made again, unless it enters
        an order. A call whose time stamp the venue has refused took no effect, so it is made again, an order too.
        """
        deadline_ns = self._clocks.monotonic_ns() + int(TIMEOUT_S * 1e9)
        outcomes = [self._outcome(one, deadline_ns) for one in sent]
        knows_time = any(map(_is_untimely, sent, outcomes)) and self._read_clock(deadline_ns)
        again: dict[int, _Sent] = {}
        for place, one in enumerate(sent):
            was_closed = isinstance(outcomes[place], VenueUnreachable) and one.line is None and one.reused
            may_repeat = was_closed and not is_new_order(one.call.method, one.call.path)
            may_repeat = may_repeat or (knows_time and _is_untimely(one, outcomes[place]))
            if may_repeat and self._clocks.monotonic_ns() < deadline_ns:
                again[place] = self._send(one.call, urgent)
        for place, one in again.items():
            outcomes[place] = self._outcome(one, deadline_ns)
        return outcomes

    def call_all(self, calls: Sequence[Call], urgent: bool = True) -> list[Any]:
        """`send_all`, then `receive_all`."""
        return self.receive_all(self.send_all(calls, urgent), urgent)

    def call(self, method: str, path: str, *, urgent: bool = True, signed: bool = True, **params: Any) -> Any:
        """The decoded answer of one request. Raises VenueUnreachable."""
        outcome = self.call_all([Call(method, path, params, signed)], urgent)[0]
        if isinstance(outcome, VenueUnreachable):
            raise outcome
        return outcome

    def warm(self) -> bool:
        """Keep one connection alive: open one that is missing, or ping over the one that has been idle for longest.

        Returns whether that went well. For a thread of its own: what waits here takes no line from the others but one.
        """
        try:
            if len(self._idle) < self._lines:
                self._idle.appendleft(self._open_line(self._root))
                return True
            line = self._idle.popleft()
        except (OSError, IndexError):
            return False
        sent = _Sent(Call("GET", _PING, signed=False), line)
        try:
            sent.paid = pay(self._budget, "GET", _PING, Level.ORDINARY)
            self._write(line, sent.call)
            self._receive(sent, self._clocks.monotonic_ns() + int(TIMEOUT_S * 1e9))
            return True
        except VenueUnreachable:
            return False
        except (OSError, http.client.HTTPException) as error:
            self._broken(sent, error)
            return False

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()


def _is_untimely(sent: _Sent, outcome: Any) -> bool:
    """Whether the venue has refused the time stamp of a call."""
    return sent.call.signed and isinstance(outcome, Refused) and outcome.code == UNTIMELY
