"""The venue's dead-man switch: armed before the first order, refreshed within the budget, shortened after a trip."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.records import OrderAction, ReportKind
from procs.budget import ORDERS, WEIGHT, RateLimit
from procs.table import Role
from procs.venues.binance_usdm.dead_man import REFRESHES, SHORTEST_MS, DeadManSwitch, countdown_ms
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.rate_limits import cost_of
from procs.venues.binance_usdm.signed import SignedSession
from shm.clock import python_monotonic_ns, sleep
from shm.control import Readiness, TripSource
from tests.embedded_venue import RunningVenue
from tests.gateway_desk import Desk, clear
from tests.instance_memory import small_instance
from tests.kill_world import KEY, MS, SECRET, World, world
from tests.waiting import until

PATH = "/fapi/v1/countdownCancelAll"
FAULTS = ("error_before", "error_after", "garbage_after", "hang_before", "hang_after", "rate_limit")
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
BINANCE = (RateLimit(WEIGHT, 60, 2400, "w"), RateLimit(ORDERS, 60, 1200, "o"))
PAGE = Path(__file__).resolve().parent.parent / "docs/operator.md"


# --- how long the countdown is ---------------------------------------------------------------------------------------


@given(symbols=st.integers(1, 200), bound=st.integers(100, 10_000))
def test_refreshing_takes_a_third_of_the_weight_at_the_most(symbols: int, bound: int) -> None:
    chosen = countdown_ms(symbols, [RateLimit(WEIGHT, 60, bound, "w"), RateLimit(ORDERS, 10, 50, "o")])
    weight, _ = cost_of("POST", PATH)
    a_minute = symbols * weight * REFRESHES * 60_000 / chosen
    assert a_minute <= bound / 3 or chosen == 600_000
    assert chosen <= countdown_ms(symbols + 1, [RateLimit(WEIGHT, 60, bound, "w")])


def test_the_strictest_limit_counts_and_a_setting_wins() -> None:
    strict = RateLimit(WEIGHT, 1, 4, "w")
    assert countdown_ms(2, BINANCE) == 20_000 and countdown_ms(2, [*BINANCE, strict]) == 60_000
    assert countdown_ms(2, [*BINANCE, strict], wanted_s=3) == 3_000


def test_the_table_of_the_operator_page_is_true() -> None:
    rows = re.findall(r"^\| (\d+) to (\d+) \| (\d+) s \| (\d+) s \| (\d+) a symbol \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 3
    for first, last, seconds, every, weight in (map(int, row) for row in rows):
        assert {countdown_ms(count, BINANCE) for count in range(first, last + 1)} == {seconds * 1000}
        assert countdown_ms(last + 1, BINANCE) > seconds * 1000
        assert every * REFRESHES == seconds and weight * seconds == cost_of("POST", PATH)[0] * REFRESHES * 60


# --- what it believes ------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        yield one


def switch_of(made: World, countdown: int = 20_000) -> DeadManSwitch:
    session = SignedSession(
        "http://venue", Credentials(KEY, SECRET), made.context.budget(), len(SYMBOLS), clocks=made.outside.clocks
    )
    return DeadManSwitch(session, SYMBOLS, countdown, made.outside.clocks)


def test_armed_refreshed_shortened_disarmed(made: World) -> None:
    switch, ends = switch_of(made), made.venue.rest.cancel_at_ms
    assert not switch.armed()
    asked_ns = made.now_ns
    assert switch.refresh() and switch.armed()
    assert switch.armed_until_ns == asked_ns + 20_000 * MS, "counted from before the request left"
    assert sorted(ends) == [0, 1]
    made.advance(switch.interval_ns)
    assert switch.refresh() and switch.armed_until_ns >= asked_ns + 25_000 * MS
    assert switch.shorten() and not switch.armed()
    assert all(made.now_ns // MS < end <= made.now_ns // MS + SHORTEST_MS for end in ends.values())
    assert switch.disarm() and not ends


def test_nothing_of_us_and_everything_of_ours_is_cancelled(made: World) -> None:
    switch = switch_of(made)
    switch.refresh()
    made.rest(0)
    made.rest(1)
    made.advance(19_500 * MS)
    assert made.resting() == 2 and switch.armed()
    made.advance(600 * MS)
    assert made.resting() == 0 and not switch.armed()


def test_a_symbol_that_was_not_acknowledged_is_not_covered(made: World) -> None:
    switch = switch_of(made)
    made.fault(fault="http", action="error_before", path=PATH, count=1)
    assert not switch.refresh() and not switch.armed() and switch.missed == 1
    assert "HTTP 503" in switch.failed and switch.refused == ""
    assert not switch_of(made).armed()
    assert switch.refresh() and switch.missed == 0 and switch.failed == ""


def test_a_venue_that_will_not_have_it_is_told_from_one_that_is_busy(made: World) -> None:
    switch = switch_of(made, countdown=-1)  # what it must refuse
    assert not switch.refresh() and f"POST {PATH}: HTTP 400, code -11" in switch.refused


def test_the_part_of_the_budget_that_is_kept_back_is_for_the_trip_alone(made: World) -> None:
    switch, others = switch_of(made), made.context.budget()
    for weight in (10_000, 100, 1):
        while others.take(made.now_ns, weight) == 0:
            pass
    assert not switch.refresh() and "rate budget" in switch.failed
    assert made.sent == [], "a byte left"
    assert switch.shorten()


@pytest.mark.parametrize("seed", [1, 2])
def test_whenever_it_counts_as_armed_the_venue_would_cancel_no_earlier(made: World, seed: int) -> None:
    """Any order of waits and refreshes, at a venue with every fault."""
    rng = random.Random(seed)
    switch, ends = switch_of(made), made.venue.rest.cancel_at_ms
    armed = 0
    for _ in range(200):
        if rng.random() < 0.4:
            action = rng.choice(FAULTS)
            made.fault(fault="http", action=action, path=PATH, count=1, delay_ms=rng.choice([200, 1_500, 4_000]))
        switch.refresh()
        if switch.armed():
            armed += 1
            assert sorted(ends) == [0, 1]
            assert all(end * MS >= switch.armed_until_ns for end in ends.values())
        made.advance(rng.choice([100, 3_000, 9_000, 25_000]) * MS)
        if switch.armed():
            assert all(end * MS >= switch.armed_until_ns for end in ends.values()) and len(ends) == 2
    assert 30 < armed < 200


# --- the gateway -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gateway(venue: RunningVenue, folder: Path, **settings: Any) -> Iterator[Desk]:
    """A gateway that is made and not yet started."""
    clear(venue)
    venue.call(venue.venue.rest.cancel_at_ms.clear)
    with small_instance(folder, Endpoints(venue.address.rest_url, venue.address.ws_url)) as plan:
        settings = dataclasses.replace(plan.settings, venue=dataclasses.replace(plan.settings.venue, **settings))
        desk = Desk(venue, dataclasses.replace(plan, settings=settings))
        try:
            yield desk
        finally:
            venue.call(venue.venue.faults.clear)
            desk.stop()


def ends_of(venue: RunningVenue) -> dict[int, int]:
    """By symbol when the venue cancels, ms from its now."""
    rest = venue.venue.rest
    return venue.call(lambda: {symbol: end - rest._clock_ms() for symbol, end in rest.cancel_at_ms.items()})


def test_the_switch_is_armed_before_the_gateway_is_ready(venue: RunningVenue, tmp_path: Path) -> None:
    with gateway(venue, tmp_path) as desk:
        desk.start()
        assert sorted(ends_of(venue)) == [0, 1]
        assert int(desk.counters()["dead_man_until_ns"]) > desk.mapping.now_ns()


def test_without_an_acknowledgement_the_gateway_is_not_ready_unless_that_is_accepted(
    venue: RunningVenue, tmp_path: Path
) -> None:
    for accepted in (False, True):
        (tmp_path / str(accepted)).mkdir()
        with gateway(venue, tmp_path / str(accepted), accept_no_deadman=accepted) as desk:
            venue.fault(fault="http", action="error_before", path=PATH, count=1_000)
            desk._thread.start()
            until(lambda d=desk: int(d.counters()["dead_man_missed"]) >= 2, "refusals", 30.0)  # type: ignore[misc]
            ready = desk.mapping.control.readiness(Role.GATEWAY) == Readiness.READY
            assert ready == accepted
            assert not ends_of(venue)
            venue.call(venue.venue.faults.clear)
            until(lambda d=desk: int(d.counters()["dead_man_until_ns"]) > 0, "armed switch", 30.0)  # type: ignore[misc]
            until(lambda d=desk: d.mapping.control.readiness(Role.GATEWAY) == Readiness.READY, "gateway")  # type: ignore[misc]


def test_it_is_refreshed_while_the_gateway_works_and_lapses_when_it_hangs(
    venue: RunningVenue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(venue, tmp_path, deadman_s=2) as desk:
        desk.start()
        resting = desk.new(taking=False)
        desk.wait(resting, ReportKind.ACCEPTED)
        begun_ns = python_monotonic_ns()
        while python_monotonic_ns() - begun_ns < 3_500_000_000:
            assert desk.at_venue(resting), "cancelled although the gateway works"
            sleep(0.2)
        goes_on = threading.Event()
        monkeypatch.setattr(desk.gateway._turns, "turn", lambda moved: int(not goes_on.wait(60)))  # its main loop hangs
        until(lambda: not desk.at_venue(resting), "cancel by the venue", 20.0)
        monkeypatch.undo()
        goes_on.set()


def test_a_trip_shortens_it_and_a_reset_arms_it_again(venue: RunningVenue, tmp_path: Path) -> None:
    with gateway(venue, tmp_path) as desk:
        desk.start()
        control = desk.mapping.control
        resting = desk.new(taking=False)
        desk.wait(resting, ReportKind.ACCEPTED)
        word = control.trip(TripSource.DEAD_MAN)
        until(lambda: not desk.at_venue(resting), "cancel by the venue, nobody else is there", 10.0)
        assert control.readiness(Role.GATEWAY) == Readiness.READY, "what a reset asks of the venue goes through it"
        assert int(desk.counters()["dead_man_until_ns"]) == 0
        assert control.reset(word)
        until(lambda: len(ends_of(venue)) == 2 and int(desk.counters()["dead_man_until_ns"]) > 0, "armed switch", 10.0)


@pytest.mark.parametrize("leaves", [False, True], ids=["nothing", "an order"])
def test_it_is_disarmed_only_by_an_orderly_stop_that_leaves_nothing(
    venue: RunningVenue, tmp_path: Path, leaves: bool
) -> None:
    with gateway(venue, tmp_path) as desk:
        desk.start()
        resting = desk.new(taking=False)
        desk.wait(resting, ReportKind.ACCEPTED)
        if not leaves:
            desk.send(OrderAction.CANCEL, resting)
            desk.wait(resting, ReportKind.CANCELLED)
        desk.mapping.control.request_stop(Role.GATEWAY, 1)
        until(desk.ended, "end of the gateway", 20.0)
        assert len(ends_of(venue)) == (2 if leaves else 0)
