"""Back-off: how often sockets are opened and books are asked for, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from engine.config import MARKETS
from procs.back_off import GOOD_S, ConnectionRule, Pace
from procs.book_requests import GOOD_NS, LADDER_S, PATIENCE_NS, BookRequests
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.market import market_of
from procs.virtual.loop import Loop

SECOND = 1_000_000_000
# What a venue allows an address: connections, in how many seconds.
ALLOWED = dict.fromkeys(("kraken_spot", "kraken_spot_v1", "kraken_futures"), (150, 600)) | dict.fromkeys(
    ("binance_usdm", "binance_spot", "binance_coinm"), (300, 300)
)


def kept_open(rule: ConnectionRule, sockets: int, seconds: int, stands_s: Callable[[], float], seed: int) -> list[int]:
    """When sockets were tried that stand for so long each time; 0: they do not open."""
    draw = random.Random(seed)
    loop, pace, tries = Loop(SECOND), Pace(rule, sockets, draw.random), []

    def keep(number: int) -> None:
        if wait_ns := pace.wait_ns(number, loop.now_ns):
            loop.after(wait_ns, lambda: keep(number))
            return
        pace.tried(loop.now_ns)
        tries.append(loop.now_ns)
        useful_ns = int(stands_s() * SECOND)

        def close() -> None:
            pace.ended(number, loop.now_ns, useful_ns)
            keep(number)

        loop.after(useful_ns or 1_000_000, close)

    for number in range(sockets):
        keep(number)
    loop.run(SECOND * seconds, lambda: False)
    return tries


@pytest.mark.parametrize("market", sorted(MARKETS))
@pytest.mark.parametrize("stands_s", [0.0, 1.0, 6.0, GOOD_S - 0.1, GOOD_S])
def test_no_market_is_opened_more_often_than_a_third_of_what_it_allows(market: str, stands_s: float) -> None:
    rule = market_of(MARKETS[market]).connection_rule
    allowed, window_s = ALLOWED[market]
    for sockets in (1, 2, 6):  # six: two sockets, three copies of each
        tries = kept_open(rule, sockets, 3_000, lambda: stands_s, seed=sockets)
        most = max(sum(first <= at < first + window_s * SECOND for at in tries) for first in tries)
        assert most <= allowed / 3, (market, sockets, most)
        assert len(tries) >= sockets * 3_000 / (stands_s + rule.longest_wait_s) / 4, "and it goes on"


def test_a_ladder_is_climbed_with_jitter_and_left_after_a_good_time() -> None:
    rule = ConnectionRule(silence_s=5.0, ping_s=0.0, quiet_s=5.0, longest_wait_s=20.0, opens=1000, window_s=1.0)
    pace, now, waits = Pace(rule, 2, lambda: 1.0), SECOND, []
    assert pace.wait_ns(0, now) == 0
    for _ in range(9):
        pace.ended(0, now, 0)
        waits.append(pace.wait_ns(0, now) / SECOND)
    assert waits == [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 20.0, 20.0]
    assert pace.wait_ns(1, now) == 0, "of another socket"
    pace.ended(0, now, int(GOOD_S * SECOND))  # whatever ended it: a fault after hours is no ladder
    assert pace.wait_ns(0, now) == SECOND // 20
    pace.ended(0, now, int(GOOD_S * SECOND) - 1)
    assert pace.wait_ns(0, now) == SECOND // 4
    least = Pace(rule, 1, lambda: 0.0)
    least.ended(0, now, 0)
    assert least.wait_ns(0, now) == SECOND // 8


def test_a_rule_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="a ping needs as long again"):
        ConnectionRule(silence_s=5.0, ping_s=3.0, quiet_s=9.0, longest_wait_s=1.0, opens=1, window_s=1.0)


# --- books ----------------------------------------------------------------------------------------------------------


def fetches(seconds: int, helps_for_s: float | None, answer_s: float) -> list[int]:
    """When a book is asked for that each answer helps for so long; None: no answer ever does."""
    loop, requests, asked = Loop(SECOND), BookRequests(1), []
    wanted = [True]

    def lose() -> None:
        wanted[0] = True

    def answered() -> None:
        if helps_for_s is None:
            requests.failed(0, loop.now_ns)
        else:
            wanted[0] = False
            requests.helped(0, loop.now_ns)
            loop.after(int(helps_for_s * SECOND), lose)

    def look() -> None:
        if wanted[0] and requests.due(0, loop.now_ns):
            requests.asked(0, loop.now_ns)
            asked.append(loop.now_ns)
            loop.after(int(answer_s * SECOND), answered)

    loop.every(10_000_000, look)
    loop.run(SECOND * seconds, lambda: False)
    return asked


def test_snapshots_that_do_not_help_are_asked_for_further_apart_and_never_two_at_once() -> None:
    asked = fetches(1_000, None, answer_s=0.1)
    apart = [later - earlier for earlier, later in pairwise(asked)]
    assert min(apart) > SECOND // 10, "one at a time"
    assert all(later >= 15 * SECOND for later in apart[len(LADDER_S) :])
    assert len(asked) < 80
    weight, _ = cost_of("GET", "/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
    a_minute = max(sum(first <= at < first + 60 * SECOND for at in asked) for first in asked[10:])
    assert 16 * weight * a_minute <= 2_400 * 0.8, "16 such books leave the budget alone"


def test_a_book_that_is_wrong_again_at_once_is_not_fetched_as_fast_as_answers_come() -> None:
    assert len(fetches(600, 0.02, answer_s=0.05)) < 60
    asked = fetches(600, GOOD_NS / SECOND + 1, answer_s=0.05)
    apart = {round((later - earlier) / SECOND, 1) for earlier, later in pairwise(asked)}
    assert apart == {11.1}, "one that stood for a good time is asked for the moment it is wanted"


def test_a_book_over_the_socket_is_given_time_to_come() -> None:
    requests = BookRequests(2, PATIENCE_NS)
    requests.asked(0, 0)
    assert not requests.due(0, PATIENCE_NS - 1) and requests.due(1, 0)
    assert not requests.due(0, PATIENCE_NS), "given up, and the next one waits"
    assert requests.due(0, PATIENCE_NS + SECOND // 4)
    requests.asked(0, PATIENCE_NS + SECOND)
    requests.helped(0, PATIENCE_NS + 2 * SECOND)
    requests.helped(0, PATIENCE_NS + 20 * SECOND)  # said again and again while it stands
    assert requests.due(0, PATIENCE_NS + 20 * SECOND), "it has stood since the first"


def test_what_belonged_to_sockets_that_are_gone_does_not_count() -> None:
    requests = BookRequests(1)
    requests.asked(0, 0)
    assert not requests.due(0, 10**12)
    requests.forgotten(0)
    assert requests.due(0, 0)
