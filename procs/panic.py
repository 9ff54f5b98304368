"""The panic watch: reads every figure from shared memory in the supervisor's tick and acts on what the monitors find.

A finding that wants REDUCE or PAUSE holds that mode for its cause until it is over; the mode machine takes care of the
way back (engine/safety/modes.py). One that wants EMERGENCY trips with the source PANIC. Both are in the audit log, with
the reason that names figure and limit. Nothing here waits, and nothing is written but through the control plane.
Cost of a tick with two instruments, on a shared virtual machine: 0.4 ms, p99 0.65 ms; histograms are looked at once a
second only.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Protocol

import numpy as np

from engine.execution.slippage import FILLS_SEEN
from engine.safety.mode import Mode
from engine.safety.modes import By, ModeState
from engine.safety.monitors import Fill, Finding, InstrumentSample, Monitors, Sample
from procs.instance import Mapping
from procs.table import HOPS, VITAL, Role
from procs.venue_lag import least_lag_ns
from shm.control import Readiness, TripSource
from shm.histogram import COUNT, between, percentiles

_SECOND = 1_000_000_000
_MS = 1_000_000
_ORDER_RINGS = ("orders", "fills", "commands")
_MARKET_RINGS = ("market", "valid", "features", "predictions")
_FEED = (Role.INGESTION, Role.VALIDATION, Role.FEATURES)
_LATENCIES = {"calls": "call", "decisions": "decision"}  # figure -> hop
_PERCENT = 90
# The newest fill may be under way while it is read, and half of the places may be written while the other is read.
_FILLS_READ = FILLS_SEEN // 2
_MODES = {"reduce": Mode.REDUCE, "pause": Mode.PAUSE}
_DIFFERENCES = ("balance", "fees", "open orders")


class Plane(Protocol):
    """What the watch needs of the control plane."""

    @property
    def state(self) -> ModeState:
        """The mode machine's state."""

    def want(self, mode: Mode, cause: str, reason: str) -> None:
        """Hold a safer mode for a cause."""

    def clear(self, cause: str) -> None:
        """The cause is gone."""

    def trip(self, source: TripSource, words: str) -> None:
        """Set the emergency word."""

    def note(self, event: str, **fields: Any) -> None:
        """An audit entry."""


class _Latency:
    """A percentile of a histogram over a window, brought up to date once a second."""

    def __init__(self, histogram: np.ndarray, window_s: float, at_least: int) -> None:
        self._histogram = histogram
        self._kept: deque[np.ndarray] = deque(maxlen=max(2, math.ceil(window_s) + 1))
        self._at_least = at_least
        self._due_ns = 0
        self.figure_ms = 0.0

    def look(self, now_ns: int) -> float:
        """The percentile in ms; 0 with too few values."""
        if now_ns < self._due_ns:
            return self.figure_ms
        self._due_ns = now_ns + _SECOND
        self._kept.append(self._histogram.copy())
        grown = between(self._kept[0], self._kept[-1])
        enough = int(grown[COUNT]) >= self._at_least
        self.figure_ms = percentiles(grown, [_PERCENT])[0] / _MS if enough else 0.0
        return self.figure_ms


class PanicWatch:
    """See the module. `look` once a tick, from when trading began."""

    def __init__(self, mapping: Mapping, plane: Plane) -> None:
        own, plan = mapping.plan.settings.panic, mapping.plan
        self._mapping, self._plane, self._settings = mapping, plane, own
        self._symbols = {item.index: item.symbol for item in plan.instruments}
        self._monitors = Monitors(
            own, tuple(self._symbols.values()), "the venue", _ORDER_RINGS, _MARKET_RINGS,
            tuple(role.label for role in VITAL), tuple(_LATENCIES),
        )
        self._causes = {level.cause for level in self._monitors.levels}
        self._flows = mapping.state(Role.FEATURES)["flows"][0]
        execution = mapping.state(Role.EXECUTION)
        self._views, self._reconcile = execution["views"][0], execution["reconcile"]
        self._slippages = execution["slippages"]
        self._frames = mapping.state(Role.INGESTION)["frames"]
        self._gateway = mapping.state(Role.GATEWAY)
        self._rings = {name: mapping.ring(name) for name in (*_ORDER_RINGS, *_MARKET_RINGS)}
        self._lags = mapping.lags()
        self._latencies = {
            name: _Latency(mapping.histogram(*HOPS[hop]), own.latency_window_s, own.latency_at_least)
            for name, hop in _LATENCIES.items()
        }
        self._fills_seen = int(self._slippages["count"][0])
        self._gone_since_ns: dict[Role, int] = {}
        self.findings: dict[str, Finding] = {}

    # --- sampling -------------------------------------------------------------------------------------------------

    def sample(self, now_ns: int) -> Sample:
        """All figures of this moment."""
        control, gateway = self._mapping.control, self._gateway
        feed_ready = all(control.readiness(role) == Readiness.READY for role in _FEED)
        return Sample(
            now_ns, feed_ready, int(self._frames[0]), self._instruments(), self._fills(), int(gateway["calls"][0]),
            int(gateway["call_errors"][0]),
            {name: latency.look(now_ns) for name, latency in self._latencies.items()},
            {name: (ring.produced - ring.consumed) / ring.capacity for name, ring in self._rings.items()},
            least_lag_ns(self._lags, now_ns, self._settings.clock_window_s) / _MS if feed_ready else None,
            self._ledger(),
            {role.label: self._silent_s(role, now_ns) for role in VITAL}, int(gateway["breaches"][0]),
        )

    def _instruments(self) -> tuple[InstrumentSample, ...]:
        flows, views = self._flows, self._views
        book_ns, events, valid = flows["book_recv_ts_ns"], flows["vectors"], flows["valid"]
        bids, asks = views["bid_price"], views["ask_price"]
        return tuple(
            InstrumentSample(
                symbol, int(book_ns[index]), int(events[index]), bool(valid[index]),
                float(bids[index]) or math.nan, float(asks[index]) or math.nan,
            )
            for index, symbol in self._symbols.items()
        )

    def _fills(self) -> list[Fill]:
        count = int(self._slippages["count"][0])
        if count == self._fills_seen:
            return []
        fills = self._slippages["fills"][0]
        first = max(self._fills_seen, count - _FILLS_READ)
        self._fills_seen = count
        return [
            Fill(number, int(fill["at_ns"]), self._symbols[int(fill["instrument"])], float(fill["share"]))
            for number in range(first, count)
            for fill in (fills[number % FILLS_SEEN],)
        ]

    def _ledger(self) -> str:
        if not self._reconcile["holding"][0]:
            return ""
        names = (*_DIFFERENCES, *(f"position of {symbol}" for symbol in self._symbols.values()))
        places = (0, 1, 2, *(3 + index for index in self._symbols))
        values = self._reconcile["differences"][0]
        found = [f"{name} by {int(values[place])} units" for name, place in zip(names, places, strict=True)
                 if values[place]]
        return f"confirmed, {', '.join(found) or 'but no amount'}"

    def _silent_s(self, role: Role, now_ns: int) -> float:
        """How long a process has shown no life; one that is being replaced counts from when it was missed."""
        heartbeat = self._mapping.control.heartbeat(role)
        if heartbeat:
            self._gone_since_ns.pop(role, None)
            return (now_ns - heartbeat) / _SECOND
        return (now_ns - self._gone_since_ns.setdefault(role, now_ns)) / _SECOND

    # --- acting ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """One tick: take a sample, judge it, ask the control plane for what is found."""
        found = {item.cause: item for item in self._monitors.judge(self.sample(self._mapping.now_ns()))}
        for cause in found.keys() - self.findings.keys():
            item = found[cause]
            self._plane.note("finding", cause=cause, action=item.action, reason=item.reason)
        for cause in self.findings.keys() - found.keys():
            self._plane.note("finding over", cause=cause)
        self.findings = found
        for item in found.values():
            self._act(item)
        self._let_go(found)

    def _act(self, item: Finding) -> None:
        if item.action == "emergency":
            if self._plane.state.emergency is None and not self._mapping.control.tripped:
                self._plane.trip(TripSource.PANIC, f"{item.cause}: {item.reason}")
            return
        mode = _MODES[item.action]
        held = next((one for one in self._plane.state.holds if one.cause == item.cause), None)
        if held is None or held.stale or held.clear_since_ns or held.mode < mode:
            self._plane.want(mode, item.cause, item.reason)

    def _let_go(self, found: dict[str, Finding]) -> None:
        """Say what is over, of what is held since earlier sessions too; a cause that nobody watches is over."""
        held = [one.cause for one in self._plane.state.holds if one.by == By.MONITOR and not one.clear_since_ns]
        if not held:
            return
        over = set(self._monitors.known_causes())
        for cause in held:
            if cause in over or cause not in self._causes:
                self._plane.clear(cause)
