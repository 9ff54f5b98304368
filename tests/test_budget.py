"""The rate budget: against an oracle that counts every call, between processes, under bans, at the embedded venue."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.matching.settings import VenueSettings
from procs.budget import BUDGET_WORDS, ORDERS, WEIGHT, Budget, Level, RateLimit, take, write_limits
from procs.embedded.answers import exchange_information
from procs.venues.binance_usdm.paying import PayingAdapter, paying_session
from procs.venues.binance_usdm.rate_limits import BudgetSpent, Paid, cost_of, hear, limits_of
from shm.clock import python_monotonic_ns
from tests.embedded_venue import RunningVenue, running_venue
from tests.instance_memory import venue_limits

S = 1_000_000_000
# What each may use of a limit, percent.
SHARES = {Level.ORDINARY: 80, Level.URGENT: 90, Level.FLATTEN: 95, Level.KILL: 100}
START = 1_700_000_000 * S + 123_456_789


class Oracle:
    """Every call that was let through, by time; the bound holds in any stretch of the limit's length."""

    def __init__(self, seconds: int, bound: int) -> None:
        self.length, self.bound = seconds * S, bound
        self.paid: list[tuple[int, int]] = []

    def most(self) -> int:
        """The most that was paid in any stretch of the limit's length that ends with a call."""
        return max(
            (sum(n for at, n in self.paid if end - self.length < at <= end) for end, _ in self.paid), default=0
        )

    def lately(self, now: int, parts: int) -> int:
        """What was paid in the last `parts` 32nds of the length."""
        return sum(n for at, n in self.paid if at > now - self.length * parts // 32)


def clock_at(now: list[int]) -> Budget:
    limits = [RateLimit(WEIGHT, 60, 200, "weight"), RateLimit(ORDERS, 10, 30, "orders")]
    return Budget.of_own(limits, lambda: now[0])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 2 * S), st.integers(0, 40), st.integers(0, 6), st.sampled_from(Level), st.booleans()),
        min_size=10, max_size=120,
    )
)
def test_no_stretch_of_a_limits_length_sees_more_than_its_bound(
    script: list[tuple[int, int, int, Level, bool]],
) -> None:
    now = [START]
    budget = clock_at(now)
    weight, orders = Oracle(60, 200), Oracle(10, 30)
    for pause, cost, count, level, back in script:
        now[0] += pause
        allowed = budget.take(now[0], cost, count, level) == 0
        room = all(
            oracle.lately(now[0], 38) + amount <= oracle.bound * SHARES[level] // 100
            for oracle, amount in ((weight, cost), (orders, count)) if amount
        )
        assert allowed or not room, "refused although there was room for sure"
        if not allowed:
            continue
        if back:
            budget.give_back(now[0], cost, count)
            continue
        weight.paid.append((now[0], cost))
        orders.paid.append((now[0], count))
        for oracle, amount in ((weight, cost), (orders, count)):
            assert not amount or oracle.lately(now[0], 32) <= oracle.bound * SHARES[level] // 100
    assert weight.most() <= 200 and orders.most() <= 30


def test_each_level_has_a_share_that_lower_ones_cannot_use() -> None:
    now = [START]
    budget = clock_at(now)
    taken = dict.fromkeys(Level, 0)
    for level in Level:
        while budget.take(now[0], 1, level=level) == 0:
            taken[level] += 1
    assert list(taken.values()) == [160, 20, 10, 10]
    report = budget.report()
    assert report["limits"]["weight_60s"] == {"limit": 200, "used": 200}
    assert report["taken"] == 200 and report["refused"] == 4
    now[0] += 70 * S
    assert budget.take(now[0], 160) == 0


@settings(max_examples=60)
@given(
    bound=st.integers(1, 3_000),
    calls=st.lists(st.tuples(st.sampled_from(list(Level)[:3]), st.integers(1, 400)), max_size=60),
)
def test_whatever_others_ask_the_kill_switch_has_a_twentieth(bound: int, calls: list[tuple[Level, int]]) -> None:
    now = [START]
    limits = [RateLimit(WEIGHT, 60, bound, ""), RateLimit(ORDERS, 60, bound, "")]
    budget = Budget.of_own(limits, lambda: now[0])
    used = 0
    for level, cost in calls:
        allowed = budget.take(now[0], cost, cost, level) == 0
        assert allowed == (used + cost <= bound * SHARES[level] // 100), (level, used, cost)
        used += cost * allowed
    left = bound - bound * 95 // 100
    assert left >= 1 and budget.take(now[0], left, left, Level.KILL) == 0


def test_what_the_venue_counts_beyond_us_is_counted() -> None:
    now = [START]
    budget = clock_at(now)
    assert budget.take(now[0], 10) == 0
    budget.hear({"weight": "155", "orders": "30"}, of_order=False)
    budget.hear({"weight": "120"}, of_order=False)  # an older answer, late
    assert budget.take(now[0], 6) > 0 and budget.take(now[0], 5, 24) == 0
    budget.hear({"weight": "garbage", "orders": "29"}, of_order=True)
    assert budget.take(now[0], 0, 1) > 0 and budget.take(now[0], 0, 1, level=Level.KILL) == 0
    now[0] += 12 * S
    assert budget.take(now[0], 0, 20) == 0


def test_during_a_ban_nobody_calls_and_then_the_urgent_first() -> None:
    now = [START]
    budget = clock_at(now)
    budget.refused_by_venue(429, 7.0, orders_only=False)
    budget.refused_by_venue(418, 3.0, orders_only=False)  # a shorter one does not shorten it
    assert budget.take(now[0], 1, level=Level.URGENT) == 7 * S
    now[0] += 7 * S
    assert budget.take(now[0], 1) > 0 and budget.take(now[0], 1, level=Level.URGENT) == 0
    now[0] += S
    assert budget.take(now[0], 1) == 0
    budget.refused_by_venue(429, 5.0, orders_only=True)
    assert budget.take(now[0], 1, orders=1) > 0 and budget.take(now[0], 1) == 0
    assert budget.report()["answers_429"] == 2 and budget.report()["answers_418"] == 1


@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7), ("0", 0), ("259200", 259_200), ("86400000", 259_200), ("999999999", 259_200),
        ("99999999999", None), ("9" * 40, None), ("-5", None), ("7.5", None), ("", None), ("soon", None),
        ("\u0667", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_a_ban_lasts_as_long_as_the_venue_says_and_three_days_at_the_most(
    status: int, text: str, seconds: int | None
) -> None:
    now = [START]
    budget = clock_at(now)
    hear(budget, Paid(now[0], 1, 0), status, {"retry-after": text}, b"{}")
    expected = seconds if seconds is not None else {429: 60, 418: 120}[status]
    assert budget.take(now[0], 1, level=Level.KILL) == expected * S


def test_whoever_says_so_no_ban_is_longer_than_three_days() -> None:
    now = [START]
    budget = clock_at(now)
    budget.refused_by_venue(418, 1e12, orders_only=False)
    assert budget.take(now[0], 1, level=Level.KILL) == 3 * 86_400 * S


def test_two_processes_together_stay_within_the_bound() -> None:
    """Both take as fast as they can while the clock runs through four windows; each call is written down."""
    bound, calls = 3000, 40_000
    limits = [RateLimit(WEIGHT, 1, bound, ""), RateLimit(ORDERS, 60, 2**20, "")]
    shared = mmap.mmap(-1, 8 * (BUDGET_WORDS + 1 + 2 * calls))
    everything = np.frombuffer(shared, np.int64)
    words, gate, logs = everything[:BUDGET_WORDS], everything[BUDGET_WORDS : BUDGET_WORDS + 1], everything[-2 * calls :]
    write_limits(words, limits)
    assert take(np.zeros(BUDGET_WORDS, np.int64), START, 1, 0, 0) == 0  # compiled before the fork

    def hammer(log: np.ndarray) -> None:
        gate[0] += 1
        while gate[0] < 2 and python_monotonic_ns() < deadline:
            pass
        written = 0
        while written < calls and python_monotonic_ns() < until:
            now = python_monotonic_ns()
            if take(words, now, 1, 0, int(Level.KILL)) == 0:
                log[written] = now
                written += 1

    deadline = python_monotonic_ns() + 5 * S
    until = python_monotonic_ns() + 4 * S
    child = os.fork()
    if child == 0:
        try:
            hammer(logs[calls:])
        finally:
            os._exit(0)
    hammer(logs[:calls])
    assert os.waitpid(child, 0)[1] == 0
    mine, others = int((logs[:calls] > 0).sum()), int((logs[calls:] > 0).sum())
    stamps = np.sort(logs[logs > 0])
    assert mine > 100 and others > 100 and len(stamps) > 2 * bound
    within = np.searchsorted(stamps, stamps, side="right") - np.searchsorted(stamps, stamps - S, side="right")
    assert within.max() <= bound
    within_two = np.searchsorted(stamps, stamps, side="right") - np.searchsorted(stamps, stamps - 2 * S, side="right")
    assert within_two.max() > bound, "the second window was never used: the test shows nothing"


# --- Binance's words ------------------------------------------------------------------------------------------------


def test_limits_of_exchange_info() -> None:
    limits = limits_of(exchange_information(VenueSettings(), 0))
    assert [(limit.name, limit.bound, limit.header) for limit in limits] == [
        ("weight_60s", 2400, "x-mbx-used-weight-1m"), ("orders_60s", 1200, "x-mbx-order-count-1m"),
        ("orders_10s", 300, "x-mbx-order-count-10s"),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries.pop(0), "no rate limit of type REQUEST_WEIGHT"),
        (lambda entries: entries.__delitem__(slice(1, 3)), "no rate limit of type ORDERS"),
        (lambda entries: entries[1].pop("limit"), "cannot be understood"),
        (lambda entries: entries[1].update(interval="FORTNIGHT"), "cannot be understood"),
        (lambda entries: entries[1].update(rateLimitType="MOOD"), "cannot be understood"),
    ],
)
def test_a_limit_that_is_missing_or_strange_is_an_error(change, words: str) -> None:
    info = exchange_information(VenueSettings(), 0)
    change(info["rateLimits"])
    with pytest.raises(ValueError, match=words):
        limits_of(info)


def test_without_limits_nothing_can_be_sent() -> None:
    with pytest.raises(ValueError, match="not known: nothing can be sent"):
        Budget.of_own([], python_monotonic_ns)
    with pytest.raises(ValueError, match="is no rate limit"):
        Budget.of_own([RateLimit(WEIGHT, 60, 0, "")], python_monotonic_ns)


@pytest.mark.parametrize(
    ("method", "path", "cost"),
    [
        ("POST", "/fapi/v1/order", (0, 1)), ("PUT", "/proxy/fapi/v1/order?x=1", (1, 1)),
        ("GET", "/fapi/v1/order?symbol=BTCUSDT", (1, 0)), ("DELETE", "/fapi/v1/order?symbol=BTCUSDT", (1, 0)),
        ("GET", "/fapi/v1/depth?symbol=BTCUSDT&limit=1000", (20, 0)), ("GET", "/fapi/v1/depth?limit=50", (2, 0)),
        ("GET", "/fapi/v1/openOrders", (40, 0)), ("GET", "/fapi/v1/openOrders?symbol=BTCUSDT", (1, 0)),
        ("GET", "/fapi/v1/userTrades?symbol=BTCUSDT", (5, 0)), ("GET", "/fapi/v1/somethingNew", (40, 0)),
    ],
)  # fmt: skip
def test_costs(method: str, path: str, cost: tuple[int, int]) -> None:
    assert cost_of(method, path) == cost


def test_what_we_count_is_what_the_venue_counts(venue: RunningVenue) -> None:
    budget = Budget.of_own(venue_limits(), python_monotonic_ns)
    with paying_session(budget) as session:
        for path in ("time", "depth?symbol=BTCUSDT&limit=1000", "depth?symbol=BTCUSDT&limit=100", "exchangeInfo"):
            before = budget.report()["limits"]["weight_60s"]["used"]
            cost, _ = cost_of("GET", f"/fapi/v1/{path}")
            answer = session.get(f"{venue.address.rest_url}/fapi/v1/{path}", timeout=10)
            assert answer.status_code == 200
            after = budget.report()["limits"]["weight_60s"]["used"]
            told = int(answer.headers["X-MBX-USED-WEIGHT-1M"])
            assert after == max(before + cost, told)


def test_a_client_that_wants_everything_is_never_refused_by_the_venue() -> None:
    """Nobody else calls: the budget alone keeps 2,000 urgent and other calls within the venue's 400 a minute."""
    with running_venue(VenueSettings(weight_limit_1m=400)) as small:
        now = [python_monotonic_ns()]
        limits = limits_of(requests.get(small.address.rest_url + "/fapi/v1/exchangeInfo", timeout=10).json())
        budget = Budget.of_own(limits, lambda: now[0])
        session = requests.Session()
        adapter = PayingAdapter(budget)
        session.mount("http://", adapter)
        sent = 0
        for number in range(2000):
            adapter.urgent = number % 3 == 0
            try:
                answer = session.get(small.address.rest_url + "/fapi/v1/time", timeout=10)
            except BudgetSpent as spent:
                assert spent.wait_ns > 0
                continue
            sent += 1
            assert answer.status_code == 200
        session.close()
        assert 340 <= sent <= 360
        assert budget.report()["answers_429"] == 0


def test_a_ban_is_sat_out(venue: RunningVenue) -> None:
    now = [python_monotonic_ns()]
    budget = Budget.of_own(venue_limits(), lambda: now[0])
    url = venue.address.rest_url + "/fapi/v1/time"
    venue.fault(fault="http", action="rate_limit", path="/fapi/v1/time", method="GET", count=1)
    with paying_session(budget, urgent=True) as session:
        answer = session.get(url, timeout=10)
        assert answer.status_code == 429
        wait_s = int(answer.headers["Retry-After"])
        counted = venue.call(lambda: venue.venue.rest.limits._weight)
        for _ in range(50):
            with pytest.raises(BudgetSpent, match="allows no call"):
                session.get(url, timeout=10)
        assert venue.call(lambda: venue.venue.rest.limits._weight) == counted, "a call during the ban"
        now[0] += wait_s * S
        assert session.get(url, timeout=10).status_code == 200
