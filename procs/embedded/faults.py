"""Faults on demand: what a real venue does on a bad day, counted.

POST /bot4/faults takes one JSON object; DELETE ends and forgets everything. One-shot faults, used up by `count`:

    {"fault": "drop_depth", "symbol": "BTCUSDT", "count": 3}       the next diffs are not sent (ids move on)
    {"fault": "duplicate_depth" | "delay_depth" | "reorder_depth", ...}   sent twice, `delay_ms` late, or after the next
    {"fault": "drop_user" | "duplicate_user" | "delay_user" | "reorder_user", "count": 1, "delay_ms": 1000,
     "only": "fills"}                                              the same for user events, all or fills only
    {"fault": "disconnect", "streams": "public"}                   cut sockets: public, market, private or all
    {"fault": "http", "action": ..., "path": "/fapi/v1/order", "method": "POST", "count": 1,
     "status": 503, "delay_ms": 1000}                              the next matching requests; path is a prefix

Faults that last `duration_ms` (by default 1000) from now:

    {"fault": "gone"}                                              connections are cut and refused
    {"fault": "half_open", "streams": "rest"}                      accepted, never answered, then cut; sockets that are
                                                                   open fall silent for good (rest, public, ..., all)
    {"fault": "maintenance", "mode": "closed"}                     503 for everything, nobody trades; mode "halt": the
                                                                   status of the contracts says so, orders are refused
    {"fault": "ban"}                                               418 with Retry-After
    {"fault": "clock", "skew_ms": 3000}                           the venue's time is off: serverTime, -1021, user data

A seeded mix of all of them (mix.py):

    {"seed": 7, "rates": {"error_after": 0.01, "drop_depth": 0.001, "gone": 0.02}, "delay_ms": 500, "duration_ms": 1000,
     "path": "/fapi/v1/order"}

Actions of "http": error_before (answer `status`, nothing done), error_after (done, then `status`), hang_before (wait
`delay_ms`, then do it), hang_after (do it, then wait), garbage_before and garbage_after (200 with senseless bytes,
nothing done or done), rate_limit (429 with Retry-After, nothing done); outside a mix also close_before (as
error_before, and the connection ends, as a header says) and old_before (the same over HTTP/1.0).
A path is by default that of the whole API of the market (/fapi/, on spot /api/); what comes over spot's WebSocket API
meets the faults of sockets, not those of requests.
A frame fault counts frames of all depth streams of the contract that somebody listens to. "reorder" holds a frame back
until the next one of its stream and kind (diffs; event types, fills apart) has passed, `delay_ms` at the most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from procs.embedded.mix import FATES, HTTP_ACTIONS, TIMED, Mix

SOCKETS = ("public", "market", "private", "all")
PLACES = ("rest", *SOCKETS)
MAINTENANCE_MODES = ("closed", "halt")
ENDINGS = ("close_before", "old_before")
_LARGEST_MS = 86_400_000


@dataclass
class HttpFault:
    """What the next matching requests meet."""

    action: str
    path: str
    method: str  # empty: any
    count: int
    status: int
    delay_ms: int


@dataclass
class FrameFault:
    """What happens to the next frames of a channel: drop, duplicate, delay or reorder."""

    fate: str
    channel: str  # depth or user
    symbol: str  # of depth
    only_fills: bool  # of user
    count: int
    delay_ms: int


@dataclass(frozen=True)
class Lasting:
    """A fault that lasts."""

    until_ms: int
    detail: str = ""  # half_open: the place; maintenance: the mode
    skew_ms: int = 0  # clock


def _number(request: Mapping[str, Any], name: str, default: int, least: int, most: int = _LARGEST_MS) -> int:
    value = request.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name}: a whole number, {least} to {most}")
    return value


def _one_of(request: Mapping[str, Any], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = request.get(name, default)
    if value not in allowed:
        raise ValueError(f"{name}: one of {', '.join(allowed)}")
    return str(value)


class Faults:
    """Faults that are pending or in force, and how many took effect (`applied`, by name).

    path: where the paths of the venue's API begin.
    """

    def __init__(self, path: str = "/fapi/") -> None:
        self._path = path
        self.applied: Counter[str] = Counter()
        self._frames: list[FrameFault] = []
        self._http: list[HttpFault] = []
        self._lasting: dict[str, Lasting] = {}
        self._mix: Mix | None = None

    # orders for faults

    def clear(self) -> None:
        """Forget what is pending and end what lasts."""
        self._frames.clear()
        self._http.clear()
        self._lasting.clear()
        self._mix = None

    def order(self, request: Mapping[str, Any], now_ms: int) -> None:
        """Take one order for a fault other than "disconnect". Raises ValueError that says what is allowed."""
        if "rates" in request:
            self._mix = Mix.from_request(request, now_ms, self._path)
            return
        fault = str(request.get("fault", ""))
        fate, _, channel = fault.partition("_")
        if fate in FATES and channel in ("depth", "user"):
            self._order_frames(request, fate, channel)
        elif fault == "http":
            self._http.append(HttpFault(
                _one_of(request, "action", "", (*HTTP_ACTIONS, *ENDINGS)), str(request.get("path", self._path)),
                str(request.get("method", "")).upper(), _number(request, "count", 1, 1),
                _number(request, "status", 503, 400, 599), _number(request, "delay_ms", 1_000, 0),
            ))
        elif fault in TIMED:
            detail = ""
            if fault == "half_open":
                detail = _one_of(request, "streams", "all", PLACES)
            elif fault == "maintenance":
                detail = _one_of(request, "mode", "closed", MAINTENANCE_MODES)
            skew_ms = _number(request, "skew_ms", 0, -_LARGEST_MS)
            self.begin(fault, now_ms, _number(request, "duration_ms", 1_000, 1), detail, skew_ms)
        else:
            names = [f"{fate}_{channel}" for channel in ("depth", "user") for fate in FATES]
            raise ValueError(f"fault: one of {', '.join([*names, 'disconnect', 'http', *TIMED])}")

    def _order_frames(self, request: Mapping[str, Any], fate: str, channel: str) -> None:
        symbol = str(request.get("symbol", "")).upper()
        if channel == "depth" and not symbol:
            raise ValueError("symbol: which contract")
        only = _one_of(request, "only", "all", ("all", "fills"))
        self._frames.append(FrameFault(
            fate, channel, symbol, only == "fills", _number(request, "count", 1, 1),
            _number(request, "delay_ms", 1_000, 1),
        ))

    def begin(self, fault: str, now_ms: int, duration_ms: int, detail: str = "", skew_ms: int = 0) -> None:
        """Put a fault in force that lasts."""
        self._lasting[fault] = Lasting(now_ms + duration_ms, detail, skew_ms)
        self.applied[fault] += 1

    def pending(self) -> dict[str, Any]:
        """What has been ordered and has not happened yet, and what is in force."""
        return {
            "frames": [asdict(item) for item in self._frames],
            "http": [asdict(item) for item in self._http],
            "lasting": {name: asdict(item) for name, item in self._lasting.items()},
            "mix": self._mix.describe() if self._mix else None,
        }

    # what is in force

    def tick(self, now_ms: int) -> list[str]:
        """End what is over and begin what the mix wants; names of what began, "disconnect PLACE" among them."""
        for name in [name for name, item in self._lasting.items() if now_ms >= item.until_ms]:
            del self._lasting[name]
        begun: list[str] = []
        for start in self._mix.starts(now_ms) if self._mix else ():
            if start.fault == "disconnect":
                begun.append(f"disconnect {start.detail}")
            elif start.fault not in self._lasting:
                self.begin(start.fault, now_ms, start.duration_ms, start.detail, start.skew_ms)
                begun.append(start.fault)
        return begun

    def lasting(self, fault: str) -> Lasting | None:
        """A fault in force, or None."""
        return self._lasting.get(fault)

    def skew_ms(self) -> int:
        """How far the venue's shown time is off."""
        item = self._lasting.get("clock")
        return item.skew_ms if item else 0

    def half_open(self, place: str) -> Lasting | None:
        """The half-open fault if it is in force for a place (rest, public, market, private)."""
        item = self._lasting.get("half_open")
        return item if item and item.detail in ("all", place) else None

    # single requests and frames

    def http(self, method: str, path: str) -> HttpFault | None:
        """The fault that this request meets, used up by one."""
        for item in self._http:
            if path.startswith(item.path) and item.method in ("", method):
                item.count -= 1
                if item.count == 0:
                    self._http.remove(item)
                self.applied[item.action] += 1
                return item
        if self._mix is not None and path.startswith(self._mix.path):
            chosen = self._mix.http()
            if chosen is not None:
                self.applied[chosen.action] += 1
                return HttpFault(chosen.action, path, method, 0, chosen.status, chosen.delay_ms)
        return None

    def frame(self, channel: str, symbol: str = "", is_fill: bool = False) -> tuple[str, int] | None:
        """(fate, delay ms) of the next frame of a channel, or None where it passes."""
        for item in self._frames:
            if item.channel == channel and item.symbol == symbol and (is_fill or not item.only_fills):
                item.count -= 1
                if item.count == 0:
                    self._frames.remove(item)
                self.applied[f"{item.fate}_{channel}"] += 1
                return item.fate, item.delay_ms
        chosen = self._mix.frame(channel) if self._mix is not None else None
        if chosen is not None:
            self.applied[f"{chosen[0]}_{channel}"] += 1
        return chosen
