"""Panic monitors: windows against brute force, limits with hysteresis, each figure at both sides of its limit."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import settings_from
from engine.safety.level import Level
from engine.safety.monitors import Fill, InstrumentSample, Monitors, Sample
from engine.safety.panic_settings import PanicSettings
from engine.safety.windows import CounterWindow, ExtremeWindow, MedianWindow
from engine.settings import SettingsError

MS = 1_000_000
SECOND = 1_000 * MS
TICK = 50 * MS
WINDOW = 100
START = 1_700_000_000 * SECOND

times = st.lists(st.integers(0, 60), min_size=1, max_size=60).map(lambda steps: list(accumulate(steps)))


# --- windows against brute force ------------------------------------------------------------------------------------


@given(times, st.randoms(use_true_random=False))
def test_counter_window_is_the_growth_since_the_last_sample_outside_it(at: list[int], rng: random.Random) -> None:
    window, samples, total = CounterWindow(WINDOW, 1), [], 0
    for now in at:
        total += rng.randrange(5)
        if rng.random() < 0.05 and samples and samples[-1][1] > 0:
            total, samples = 0, []  # it began again
        samples.append((now, total))
        window.add(now, (total,))
        outside = [value for when, value in samples if when <= now - WINDOW]
        base = outside[-1] if outside else samples[0][1]
        assert window.growth == (total - base,)


def test_counter_window_begins_again_when_a_counter_shrinks() -> None:
    window = CounterWindow(WINDOW, 2)
    window.add(0, (10, 5))
    window.add(10, (20, 6))
    assert window.growth == (10, 1)
    window.add(20, (3, 6))
    assert window.growth == (0, 0)
    window.add(15, (4, 7))  # time that goes back is the last time
    assert window.growth == (1, 1) and window.span_ns == 0


@given(times, st.randoms(use_true_random=False))
def test_extreme_window_is_the_least_of_what_lies_in_it(at: list[int], rng: random.Random) -> None:
    window, values = ExtremeWindow(WINDOW), []
    for now in at:
        value = float(rng.randrange(-20, 20))
        values.append((now, value))
        window.add(now, value)
        assert window.least(now) == min(value for when, value in values if when > now - WINDOW)
        assert window.whole == (now - at[0] >= WINDOW)
    assert math.isnan(window.least(at[-1] + WINDOW))


@given(times, st.integers(0, 30), st.randoms(use_true_random=False))
def test_median_window_is_the_lower_middle_of_what_was_taken(at: list[int], every: int, rng: random.Random) -> None:
    window, taken = MedianWindow(WINDOW, every), []
    for now in at:
        value = float(rng.randrange(10))
        if not taken or now - taken[-1][0] >= every:
            taken.append((now, value))
        window.add(now, value)
        last = taken[-1][0]
        inside = sorted(value for when, value in taken if when > last - WINDOW)
        assert window.median == inside[(len(inside) - 1) // 2]


# --- one limit ------------------------------------------------------------------------------------------------------


def level() -> Level:
    return Level("spread X", "reduce", "spread of X", "times", 0.8, 5 * SECOND)


@given(st.lists(st.one_of(st.none(), st.floats(0, 10), st.just(math.nan)), max_size=80))
def test_a_level_follows_the_rule_in_words(figures: list[float | None]) -> None:
    made, raised, missing_since = level(), False, None
    for tick, figure in enumerate(figures):
        now = tick * SECOND
        made.update(now, figure, 3.0)
        if figure is None:
            missing_since = None
        elif math.isnan(figure):
            missing_since = now if missing_since is None else missing_since
            raised = raised or now - missing_since >= 5 * SECOND
        else:
            missing_since = None
            raised = figure > 3.0 or (raised and figure > 3.0 * 0.8)
        assert made.raised == raised
        assert bool(made.reason) == raised


def test_a_reason_names_figure_and_limit() -> None:
    made = level()
    made.update(0, 4.2, 3.0)
    assert made.reason == "spread of X: 4.2 times, 3 allowed"
    made = level()
    for second in range(6):
        made.update(second * SECOND, math.nan, 3.0)
    assert made.raised and "no figure for 5 s" in made.reason


# --- a whole engine -------------------------------------------------------------------------------------------------


class Feed:
    """A healthy engine with one instrument, from which a test takes something away."""

    def __init__(self, **settings: Any) -> None:
        self.monitors = Monitors(
            replace(PanicSettings(), **settings), ("BTCUSDT",), "binance_usdm", ("orders",), ("market",),
            ("execution",), ("requests", "decisions"),
        )
        self.sample = Sample(
            START, True, 0, (InstrumentSample("BTCUSDT", 0, 0, True, 100.0, 101.0),), (), 0, 0,
            {"requests": 10.0, "decisions": 0.1}, {"orders": 0.0, "market": 0.0}, 5.0, "", {"execution": 0.0}, 0,
        )
        self.book_every_ns = 100 * MS
        self.heartbeat_ns = SECOND
        self.found: list[str] = []

    def run(self, seconds: float, book: bool = True, heartbeat: bool = True, **change: Any) -> list[str]:
        """Let time pass with these things changed; returns the causes of the last moment."""
        own = {key: change.pop(key) for key in ("bid", "ask", "book_valid") if key in change}
        end = self.sample.now_ns + int(seconds * SECOND)
        while self.sample.now_ns < end:
            now = self.sample.now_ns + TICK
            item, frames = self.sample.instruments[0], self.sample.frames
            if book and now - item.book_ns >= self.book_every_ns:
                item = replace(item, book_ns=now, book_events=item.book_events + 1)
                frames += 1
            if heartbeat and now // self.heartbeat_ns != self.sample.now_ns // self.heartbeat_ns:
                frames += 1
            item = replace(item, **own)
            self.sample = replace(self.sample, now_ns=now, frames=frames, instruments=(item,), **change)
            findings = self.monitors.judge(self.sample)
            self.found = [finding.cause for finding in findings]
            self.findings = {finding.cause: finding for finding in findings}
        return self.found


@pytest.fixture
def feed() -> Feed:
    made = Feed()
    assert made.run(70) == []
    return made


def test_zombie_socket_10_is_found_within_three_seconds(feed: Feed) -> None:
    """passivbot_lighter #3: the connection stands, nothing is subscribed, quotes stand for hours."""
    assert feed.run(1.2, book=False, heartbeat=False) == ["staleness BTCUSDT"]
    assert sorted(feed.run(1.5, book=False, heartbeat=False)) == ["staleness BTCUSDT", "staleness binance_usdm"]
    assert all(finding.action == "pause" for finding in feed.findings.values())
    assert "1500 allowed" in feed.findings["staleness binance_usdm"].reason
    assert len(feed.run(3600, book=False, heartbeat=False)) == 2  # silence does not teach patience
    assert feed.run(5) == []


def test_a_socket_that_never_said_anything_is_found() -> None:
    feed = Feed()
    assert "staleness binance_usdm" in feed.run(3, book=False, heartbeat=False)


def test_a_book_that_dies_alone_is_found_by_its_own_rate(feed: Feed) -> None:
    assert feed.run(0.4, book=False) == []
    assert feed.run(0.5, book=False) == ["staleness BTCUSDT"]
    assert "500 allowed" in feed.findings["staleness BTCUSDT"].reason


def test_a_quiet_market_is_not_stale() -> None:
    feed = Feed()
    feed.book_every_ns = 1_900 * MS
    assert feed.run(300) == []
    assert feed.run(5.6, book=False) == []  # three times as long as usual, with the venue's heartbeat
    assert feed.run(2.1, book=False) == ["staleness BTCUSDT"]


def test_a_market_that_went_quiet_after_a_finding_ends_it(feed: Feed) -> None:
    assert feed.run(2, book=False) == ["staleness BTCUSDT"]
    feed.book_every_ns = 20 * SECOND
    assert feed.run(200) == []


def test_a_feed_that_is_being_replaced_is_not_judged(feed: Feed) -> None:
    assert feed.run(20, book=False, heartbeat=False, feed_ready=False) == []
    assert feed.run(0.4, book=False, heartbeat=False, feed_ready=True) == []
    assert "staleness binance_usdm" in feed.run(2, book=False, heartbeat=False)


def test_a_book_that_does_not_recover_is_found(feed: Feed) -> None:
    assert feed.run(9.9, book_valid=False) == []
    assert feed.run(0.3) == ["book_lost BTCUSDT"]
    assert feed.run(1, book_valid=True) == []
    assert feed.run(11, bid=math.nan) == ["book_lost BTCUSDT"]


def test_spread_is_measured_against_its_median(feed: Feed) -> None:
    assert feed.run(5, ask=103.0) == []
    assert feed.run(1.9, ask=103.1) == []
    assert feed.run(0.2, ask=103.1) == ["spread BTCUSDT"]
    assert feed.findings["spread BTCUSDT"].action == "reduce"
    assert feed.run(1, ask=102.5) == ["spread BTCUSDT"]  # not yet at 80 % of the limit
    assert feed.run(1, ask=102.39) == []


def test_a_spread_that_is_wide_for_moments_is_no_reason(feed: Feed) -> None:
    for _ in range(20):
        assert feed.run(1.5, ask=150.0) == []
        assert feed.run(0.1, ask=101.0) == []


def test_spread_is_not_judged_without_history() -> None:
    feed = Feed()
    assert feed.run(30) == []
    assert feed.run(5, ask=150.0) == []


def test_slippage_ends_with_its_window(feed: Feed) -> None:
    assert feed.run(1, fills=(Fill(0, 0, "BTCUSDT", 0.03),)) == []
    bad = (Fill(0, 0, "BTCUSDT", 0.03), Fill(1, 0, "BTCUSDT", 0.031))
    assert feed.run(59.9, fills=bad) == ["slippage BTCUSDT"]
    assert feed.findings["slippage BTCUSDT"].action == "emergency"
    assert feed.run(0.2, fills=bad) == []  # the same fill is not taken twice
    assert feed.run(5.1, fills=(Fill(2, 0, "BTCUSDT", math.nan),)) == ["slippage BTCUSDT"]


def test_one_failed_call_of_a_few_is_no_reason(feed: Feed) -> None:
    assert feed.run(1, calls=3, call_errors=2) == []
    assert feed.run(1, calls=20, call_errors=2) == []
    assert feed.run(1, calls=21, call_errors=3) == ["api_errors binance_usdm"]
    assert feed.run(61) == []


@pytest.mark.parametrize(
    ("change", "back", "cause", "action"),
    [
        ({"latencies_ms": {"requests": 1001.0, "decisions": 1}}, {"latencies_ms": {"requests": 9.0, "decisions": 1.0}},
         "latency requests", "pause"),
        ({"latencies_ms": {"requests": 9.0, "decisions": 1001.0}}, {"latencies_ms": {"requests": 9.0, "decisions": 1}},
         "latency decisions", "pause"),
        ({"rings": {"orders": 0.51, "market": 0.0}}, {"rings": {"orders": 0.0, "market": 0.0}},
         "order_rings orders", "pause"),
        ({"rings": {"orders": 0.0, "market": 0.91}}, {"rings": {"orders": 0.0, "market": 0.0}},
         "market_rings market", "pause"),
        ({"clock_lag_ms": 251.0}, {"clock_lag_ms": 5.0}, "clock binance_usdm", "pause"),
        ({"clock_lag_ms": -251.0}, {"clock_lag_ms": -5.0}, "clock binance_usdm", "pause"),
        ({"ledger": "position of BTCUSDT 1, venue 2"}, {"ledger": ""}, "ledger binance_usdm", "pause"),
        ({"silent_s": {"execution": 5.1}}, {"silent_s": {"execution": 0.0}}, "stalled execution", "pause"),
    ],
)  # fmt: skip
def test_each_figure_beyond_its_limit_is_found_and_ends(
    feed: Feed, change: dict[str, Any], back: dict[str, Any], cause: str, action: str
) -> None:
    assert feed.run(1.2, **change) == [cause]
    assert feed.findings[cause].action == action
    assert feed.run(1.2, **back) == []
    assert cause in feed.monitors.known_causes()


def test_a_ring_that_is_nearly_full_for_a_moment_is_no_reason(feed: Feed) -> None:
    for _ in range(20):
        assert feed.run(0.9, rings={"orders": 0.95, "market": 0.95}) == []
        assert feed.run(0.1, rings={"orders": 0.0, "market": 0.0}) == []
    found = feed.run(1.2, rings={"orders": 0.95, "market": 0.0})
    assert found == ["order_rings orders", "order_rings_full orders"]
    assert feed.findings["order_rings_full orders"].action == "emergency"


def test_knight_2012_a_breach_is_an_emergency_until_its_window_is_over(feed: Feed) -> None:
    assert feed.run(1, breaches=1) == ["intent binance_usdm"]
    assert feed.findings["intent binance_usdm"].action == "emergency"
    assert feed.run(60) == []


@pytest.mark.parametrize(
    "change",
    [{"latencies_ms": {}}, {"rings": {}}, {"silent_s": {}}, {"clock_lag_ms": math.nan}],
    ids=["latency", "rings", "silence", "clock"],
)
def test_a_figure_that_is_missing_is_a_finding(feed: Feed, change: dict[str, Any]) -> None:
    assert feed.run(4.9, **change) == []
    found = feed.run(0.3)
    assert found and all("no figure" in finding.reason for finding in feed.findings.values())


def test_what_is_off_finds_nothing() -> None:
    feed = Feed(staleness="off", book_lost="off")
    assert feed.run(100, book=False, heartbeat=False) == []


def test_settings_are_checked_and_each_action_is_a_line() -> None:
    assert settings_from({"panic": {"spread": "pause"}}).panic.spread == "pause"
    with pytest.raises(SettingsError, match=r"panic.spread = 'stop': allowed is one of 'off', 'reduce'"):
        settings_from({"panic": {"spread": "stop"}})
    with pytest.raises(SettingsError, match=r"panic.api_errors_percent"):
        settings_from({"panic": {"api_errors_percent": 0.0}})
