"""The panic monitors: figures of the whole engine in, findings out. Pure; the caller gives the time and the sample.

Each finding has a cause (what is watched, of which instrument, venue or process), the action that the settings ask
for, and a reason that names figure and limit. It is raised beyond the limit and ends well below it (level.py).
Rules:
  - A quiet market is not stale. The venue's heartbeat tells whether the feed lives, and a book is late by its own rate:
    a multiple of the longest wait between two events in the window before its last one, so that silence does not
    teach patience.
  - While a process of the feed is being replaced its figures are not judged: readiness keeps entries away meanwhile,
    and `stalled` says when it takes too long. Ages count from when the feed is in service again.
  - A figure that cannot be known is a finding, after a while; one with too little history is not judged.
Cost: about 15 us an instrument and call, on a shared virtual machine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.safety.level import Level
from engine.safety.panic_settings import PanicSettings
from engine.safety.windows import CounterWindow, ExtremeWindow, MedianWindow

_MS = 1_000_000
_SECOND = 1_000_000_000
_LEAST_EVENTS = 30  # of a book within its window, before its own rate means anything
_SPREAD_EVERY_NS = _SECOND


@dataclass(frozen=True)
class InstrumentSample:
    """What is known of one instrument. Prices in any unit, NaN where there is none."""

    symbol: str
    book_ns: int  # receive time of the book's last event, 0: there was none
    book_events: int  # so far
    book_valid: bool
    bid: float
    ask: float


@dataclass(frozen=True)
class Fill:
    """A fill, by its order in the session; slippage: what it was worse than the mid at its decision, share of it."""

    number: int
    at_ns: int
    symbol: str
    slippage: float


@dataclass(frozen=True)
class Sample:
    """The figures of one moment. Counters are of the whole session."""

    now_ns: int
    feed_ready: bool  # every process from the venue's socket to execution is in service
    frames: int
    instruments: tuple[InstrumentSample, ...]
    fills: Sequence[Fill]  # the last ones, some of them seen before
    calls: int
    call_errors: int
    latencies_ms: dict[str, float | None]  # 90th percentile of the window; None: too few to judge
    rings: dict[str, float]  # share that is full; the order rings by their names
    clock_lag_ms: float | None  # least time from the venue's stamp to our receipt in the window; None: not judged
    ledger: str  # how ledger and venue differ, empty where they agree
    silent_s: dict[str, float]  # by process: how long it has shown no life
    breaches: int  # requests that were not what had been decided


@dataclass(frozen=True)
class Finding:
    """Something that must not go on."""

    cause: str
    action: str
    reason: str


@dataclass
class _Instrument:
    """What is remembered of one instrument."""

    events: CounterWindow
    waits: ExtremeWindow  # of the time between two events, negative: the least is the longest wait
    spreads: MedianWindow
    narrowest: ExtremeWindow  # spread of the last moments
    late: Level
    lost: Level
    spread: Level
    book_ns: int = 0
    right_ns: int = -1  # when the book was last seen to be right


@dataclass
class Monitors:
    """All monitors of an engine. `judge` is given one sample after the other."""

    settings: PanicSettings
    symbols: tuple[str, ...]
    venue: str
    order_rings: tuple[str, ...]
    market_rings: tuple[str, ...]
    processes: tuple[str, ...]
    latencies: tuple[str, ...]
    levels: list[Level] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = self.settings
        self._instruments = {symbol: self._instrument(symbol) for symbol in self.symbols}
        self._silence = self._level("staleness", self.venue, f"silence of {self.venue}", "ms")
        self._heard_ns, self._frames, self._ready_ns = -1, -1, -1
        self._slippage = {name: self._level("slippage", name, f"slippage of {name}", "%") for name in self.symbols}
        self._worst: dict[str, deque[tuple[int, float]]] = {name: deque() for name in self.symbols}
        self._last_fill = -1
        self._calls = CounterWindow(int(own.api_errors_window_s * _SECOND), 2)
        self._api_errors = self._level("api_errors", self.venue, f"failed calls to {self.venue}", "%")
        self._latency = {name: self._level("latency", name, f"90th percentile of {name}", "ms")
                         for name in self.latencies}
        every = (*self.order_rings, *self.market_rings)
        self._fill_of = {name: ExtremeWindow(int(own.rings_window_s * _SECOND)) for name in every}
        self._rings = [
            (self._level(monitor, name, f"ring {name}", "% full"), name, getattr(own, f"{monitor}_percent"))
            for monitor, names in (
                ("order_rings", self.order_rings), ("order_rings_full", self.order_rings),
                ("market_rings", self.market_rings),
            )
            for name in names
        ]
        self._clock = self._level("clock", self.venue, f"clock of {self.venue} against ours", "ms apart")
        self._ledger = self._level("ledger", self.venue, f"ledger against {self.venue}", "differences")
        self._stalled = {name: self._level("stalled", name, f"{name} shows no life", "s") for name in self.processes}
        self._breaches = CounterWindow(int(own.intent_window_s * _SECOND), 1)
        self._intent = self._level("intent", self.venue, f"requests to {self.venue} unlike their orders", "requests")

    def _level(self, monitor: str, subject: str, what: str, unit: str) -> Level:
        own = self.settings
        level = Level(
            f"{monitor} {subject}", getattr(own, monitor), what, unit, own.release_percent / 100,
            int(own.missing_s * _SECOND),
        )
        if level.action != "off":
            self.levels.append(level)
        return level

    def _instrument(self, symbol: str) -> _Instrument:
        own = self.settings
        window_ns = int(own.staleness_window_s * _SECOND)
        return _Instrument(
            CounterWindow(window_ns, 1),
            ExtremeWindow(window_ns),
            MedianWindow(int(own.spread_window_s * _SECOND), _SPREAD_EVERY_NS),
            ExtremeWindow(int(own.spread_for_s * _SECOND)),
            self._level("staleness", symbol, f"age of the book of {symbol}", "ms"),
            self._level("book_lost", symbol, f"book of {symbol} not right", "s"),
            self._level("spread", symbol, f"spread of {symbol}", "times its normal"),
        )

    # --- judging --------------------------------------------------------------------------------------------------

    def judge(self, sample: Sample) -> list[Finding]:
        """Take one sample; returns every finding that stands now."""
        now = sample.now_ns
        self._judge_feed(sample)
        for item in sample.instruments:
            self._judge_book(sample, item, self._instruments[item.symbol])
        self._judge_fills(now, sample.fills)
        self._judge_calls(sample)
        for name, level in self._latency.items():
            level.update(now, sample.latencies_ms.get(name, math.nan), self.settings.latency_ms)
        self._judge_rings(now, sample.rings)
        lag = sample.clock_lag_ms
        self._clock.update(now, None if lag is None else abs(lag), self.settings.clock_ms)
        self._ledger.update(now, 1.0 if sample.ledger else 0.0, 0.5)
        if self._ledger.raised and sample.ledger:
            self._ledger.reason = f"ledger against {self.venue}: {sample.ledger}"
        for name, level in self._stalled.items():
            level.update(now, sample.silent_s.get(name, math.nan), self.settings.stalled_s)
        self._breaches.add(now, (sample.breaches,))
        self._intent.update(now, float(self._breaches.growth[0]), 0.5)
        return [Finding(level.cause, level.action, level.reason) for level in self.levels if level.raised]

    def known_causes(self) -> Iterable[str]:
        """Causes of which it is known that they are not there."""
        return [level.cause for level in self.levels if level.known and not level.raised]

    def _judge_feed(self, sample: Sample) -> None:
        if not sample.feed_ready:
            self._ready_ns = -1
        elif self._ready_ns < 0:
            self._ready_ns = sample.now_ns
        if sample.frames != self._frames:
            self._frames, self._heard_ns = sample.frames, sample.now_ns
        own = self.settings
        age_ns = sample.now_ns - max(self._heard_ns, self._ready_ns)
        self._silence.update(
            sample.now_ns, age_ns / _MS if sample.feed_ready else None, own.staleness_ms + own.staleness_heartbeat_ms
        )

    def _judge_book(self, sample: Sample, item: InstrumentSample, known: _Instrument) -> None:
        now = sample.now_ns
        if item.book_ns > known.book_ns:
            if known.book_ns and not known.late.raised:  # a silence that was a finding is no habit
                known.waits.add(item.book_ns, float(known.book_ns - item.book_ns))
            known.book_ns = item.book_ns
            known.events.add(item.book_ns, (item.book_events,))
        spread = item.ask - item.bid
        right = item.book_valid and spread > 0.0
        if right or not sample.feed_ready or known.right_ns < 0:
            known.right_ns = now
        lost_s = (now - known.right_ns) / _SECOND
        known.lost.update(now, lost_s if sample.feed_ready else None, self.settings.book_lost_s)
        self._judge_age(sample, known)
        if not right:
            return  # a book that is not right has no spread; how long it may be so is another monitor's business
        history_ns = known.spreads.span_ns
        normal = known.spreads.median
        known.spreads.add(now, spread)
        known.narrowest.add(now, spread)
        enough = history_ns >= self.settings.spread_history_s * _SECOND and normal > 0.0 and known.narrowest.whole
        narrowest = known.narrowest.least(now)
        known.spread.update(now, narrowest / normal if enough else None, self.settings.spread_times)

    def _judge_age(self, sample: Sample, known: _Instrument) -> None:
        """How late a book is by its own rate, taken before its last event."""
        own, now = self.settings, sample.now_ns
        if not sample.feed_ready or not known.book_ns:
            known.late.update(now, None, own.staleness_ms)
        elif known.events.growth[0] < _LEAST_EVENTS:
            # Too few to have a rate: nothing new is found, but what was found ends with the next event.
            age_ms = (now - known.book_ns) / _MS
            known.late.update(now, age_ms if known.late.raised else None, own.staleness_ms)
        else:
            age_ms = (now - max(known.book_ns, self._ready_ns)) / _MS
            longest_ms = -known.waits.least(known.book_ns) / _MS
            habit_ms = 0.0 if math.isnan(longest_ms) else own.staleness_times * longest_ms
            known.late.update(now, age_ms, max(own.staleness_ms, habit_ms))

    def _judge_fills(self, now_ns: int, fills: Sequence[Fill]) -> None:
        window_ns = int(self.settings.slippage_window_s * _SECOND)
        for fill in fills:
            if fill.number > self._last_fill:
                self._last_fill = fill.number
                self._worst[fill.symbol].append((now_ns, fill.slippage))
        for symbol, level in self._slippage.items():
            worst = self._worst[symbol]
            while worst and worst[0][0] <= now_ns - window_ns:
                worst.popleft()
            unknown = any(math.isnan(share) for _, share in worst)
            percent = math.nan if unknown else 100.0 * max((share for _, share in worst), default=0.0)
            level.update(now_ns, percent, self.settings.slippage_percent)

    def _judge_calls(self, sample: Sample) -> None:
        own = self.settings
        self._calls.add(sample.now_ns, (sample.calls, sample.call_errors))
        calls, errors = self._calls.growth
        percent = 100.0 * errors / max(calls, own.api_errors_at_least)
        self._api_errors.update(sample.now_ns, percent, own.api_errors_percent)

    def _judge_rings(self, now_ns: int, rings: dict[str, float]) -> None:
        for name, window in self._fill_of.items():
            share = rings.get(name, math.nan)
            if not math.isnan(share):
                window.add(now_ns, share)
        for level, name, percent in self._rings:
            window, share = self._fill_of[name], rings.get(name, math.nan)
            figure = 100.0 * window.least(now_ns) if window.whole else 0.0
            level.update(now_ns, math.nan if math.isnan(share) else figure, percent)
