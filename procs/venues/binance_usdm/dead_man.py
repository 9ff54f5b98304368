"""The venue's dead-man switch: it cancels everything of a symbol when it has not heard from us for a while.

What survives the death of the whole machine. Armed before the first order, refreshed every quarter of the countdown,
set to its shortest when the engine is tripped, disarmed when nothing rests any more.
Invariants: `armed_until_ns` is counted from before the request left, so the venue's countdown never ends before it;
the switch counts as armed only when every symbol has been acknowledged.
Source: Binance USD-M futures, "Auto-Cancel All Open Orders" (countdownCancelAll).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from procs.budget import WEIGHT, RateLimit
from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.binance_usdm.signed import Call, Refused, SignedSession

SHORTEST_MS = 1_000
REFRESHES = 4  # in one countdown
MISSES_TO_WARN = 2
_PATH = "/fapi/v1/countdownCancelAll"
_CHOICES_S = (20, 60, 120, 300, 600)
_LARGEST_SHARE = 3  # refreshing may take a third of the weight


def countdown_ms(symbols: int, limits: Iterable[RateLimit], wanted_s: int = 0) -> int:
    """How long the venue waits: `wanted_s`, or 0 for the shortest of a few whose refreshing the weight budget bears."""
    if wanted_s:
        return wanted_s * 1000
    weight, _ = cost_of("POST", _PATH)
    per_second = min(limit.bound / limit.seconds for limit in limits if limit.kind == WEIGHT)
    for seconds in _CHOICES_S:
        if symbols * weight * REFRESHES / seconds <= per_second / _LARGEST_SHARE:
            return seconds * 1000
    return _CHOICES_S[-1] * 1000


class DeadManSwitch:
    """Arms and refreshes the switch of a few symbols. One thread calls; others may read."""

    def __init__(
        self, session: SignedSession, symbols: Sequence[str], countdown: int, clocks: Clocks = SYSTEM_CLOCKS
    ) -> None:
        """countdown: ms."""
        self._session = session
        self._symbols = list(symbols)
        self._countdown_ms = countdown
        self._clocks = clocks
        self.armed_until_ns = 0  # CLOCK_MONOTONIC
        self.missed = 0  # refreshes in a row that were not acknowledged
        self.refused = ""  # what the venue says where it will not have it
        self.failed = ""

    @property
    def interval_ns(self) -> int:
        """Time between two refreshes."""
        return self._countdown_ms * 1_000_000 // REFRESHES

    def armed(self) -> bool:
        """Whether the venue would cancel if we died now."""
        return self._clocks.monotonic_ns() < self.armed_until_ns

    def _set(self, milliseconds: int, urgent: bool) -> bool:
        calls = [Call("POST", _PATH, {"symbol": name, "countdownTime": milliseconds}) for name in self._symbols]
        outcomes = self._session.call_all(calls, urgent)
        errors = [one for one in outcomes if isinstance(one, VenueUnreachable)]
        if errors:
            self.failed = str(errors[0])
        elif not all(_acknowledges(one, milliseconds) for one in outcomes):
            self.failed = f"POST {_PATH}: the answer is no acknowledgement"
        else:
            self.failed = ""
        refusals = [str(one) for one in errors if isinstance(one, Refused) and one.code < 0 and one.status < 429]
        self.refused = refusals[0] if refusals else ""
        return not self.failed

    def refresh(self) -> bool:
        """Arm, or set the countdown back to its begin; False when a symbol was not acknowledged."""
        sent_ns = self._clocks.monotonic_ns()
        if self._set(self._countdown_ms, urgent=False):
            self.armed_until_ns = sent_ns + self._countdown_ms * 1_000_000
            self.missed = 0
            return True
        self.missed += 1
        return False

    def shorten(self) -> bool:
        """After a trip: have the venue cancel as soon as it can. It does not count as armed any more."""
        self.armed_until_ns = 0
        return self._set(SHORTEST_MS, urgent=True)

    def disarm(self) -> bool:
        """Nothing rests and nothing will: the venue need not watch any more."""
        self.armed_until_ns = 0
        return self._set(0, urgent=True)


def _acknowledges(answer: object, milliseconds: int) -> bool:
    return isinstance(answer, dict) and str(answer.get("countdownTime")) == str(milliseconds)
