"""Hand-signed calls over connections that the venue ends, and while our clock and the venue's do not agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.budget import Budget, Level
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.signed import Call, Refused, SignedSession
from shm.control import TripSource
from tests.embedded_venue import RunningVenue
from tests.instance_memory import own_budget
from tests.kill_world import KEY, SECRET, World, world

OPEN_ORDERS = "/fapi/v1/openOrders"
ENDINGS = ("close_before", "old_before")  # the answer says that the connection ends, or is of HTTP/1.0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        one.gate_follows()
        one.rest(0)
        one.rest(1)
        yield one


# --- connections that the venue ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_connection_that_an_answer_has_ended_is_not_used_again(venue: RunningVenue, ending: str) -> None:
    who = Credentials(venue.address.api_key, venue.address.secret)
    session = SignedSession(venue.address.rest_url, who, own_budget())
    assert session.warm()
    venue.fault(fault="http", action=ending, path="/fapi/", count=3)
    for _ in range(2):
        with pytest.raises(Refused, match="HTTP 503"):
            session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert [session.warm() for _ in range(4)] == [True, False, True, True], "opened, refused, opened, pinged"
    assert session.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT") == []
    session.close()


def test_a_connection_that_we_have_closed_ourselves_is_replaced(venue: RunningVenue) -> None:
    who = Credentials(venue.address.api_key, venue.address.secret)
    session = SignedSession(venue.address.rest_url, who, own_budget())
    assert session.warm()
    session._idle[0].close()
    assert session.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT") == []
    session.close()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stop_outlives_a_venue_that_ends_every_connection(made: World, ending: str) -> None:
    made.hold(0, 40)
    made.patch("procs.killswitch._WARM_EVERY_S", 0.2)
    made.at_ms(300, lambda: made.fault(fault="http", action=ending, path="/fapi/", count=100_000))
    made.at_ms(500, lambda: made.trip(TripSource.OPERATOR))
    made.at_ms(5_000, made.faults.clear)
    made.at_ms(20_000, made.stop)
    made.run(processes=1)
    assert made.ended == []
    assert made.faults.applied[ending] > 10
    assert (made.resting(), made.position()) == (0, 0)
    assert made.events()[-1] == "stopped"


# --- clocks that do not agree -----------------------------------------------------------------------------------------

SKEWS = [-3_600_000, -1_500, 1_500, 3_600_000]  # the venue's clock less ours, ms


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_a_stop_is_made_with_a_clock_that_is_off(made: World, skew_ms: int) -> None:
    made.hold(0, 40)
    made.hold(1, -60)
    made.fault(fault="clock", skew_ms=skew_ms, duration_ms=600_000)
    made.at_ms(500, lambda: made.trip(TripSource.OPERATOR))
    made.at_ms(1_000, lambda: resting.append(made.resting()))
    made.at_ms(30_000, made.stop)
    resting: list[int] = []
    made.run(processes=1)
    assert made.ended == [] and resting == [0], "half a second after the trip nothing rests"
    assert (made.resting(), made.position(0), made.position(1)) == (0, 0, 0)
    assert made.events()[-1] == "stopped"


def signed_session(made: World) -> SignedSession:
    return SignedSession("http://venue", Credentials(KEY, SECRET), made.context.budget(), 2, clocks=made.outside.clocks)


def asked_for_the_time(made: World) -> int:
    return sum(target == "/fapi/v1/time" for _, _, target in made.sent)


def test_the_venues_clock_is_asked_for_once_for_each_change(made: World) -> None:
    session = signed_session(made)
    for number, skew_ms in enumerate([3_600_000, -2_500, 90_000], start=1):
        made.fault(fault="clock", skew_ms=skew_ms, duration_ms=600_000)
        for _ in range(3):
            outcomes = session.call_all([Call("GET", OPEN_ORDERS, {"symbol": name}) for name in ("BTCUSDT", "ETHUSDT")])
            assert [len(one) for one in outcomes] == [1, 1]
        assert asked_for_the_time(made) == number


def test_a_slow_clock_that_a_long_window_covers_is_left_alone(made: World) -> None:
    session = signed_session(made)
    made.fault(fault="clock", skew_ms=55_000, duration_ms=600_000)
    assert session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")["code"] == 200
    assert asked_for_the_time(made) == 0 and made.resting() == 1


def test_an_order_is_valid_for_a_second_and_all_else_for_a_minute(made: World) -> None:
    """The request reaches the venue late."""
    session = signed_session(made)
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
    made.fault(fault="clock", skew_ms=900, duration_ms=600_000)
    assert session.call("POST", "/fapi/v1/order", **order)["symbol"] == "BTCUSDT" and not asked_for_the_time(made)
    made.fault(fault="clock", skew_ms=1_100, duration_ms=600_000)
    assert session.call("GET", OPEN_ORDERS, symbol="BTCUSDT") and not asked_for_the_time(made)
    assert session.call("POST", "/fapi/v1/order", **order)["symbol"] == "BTCUSDT" and asked_for_the_time(made) == 1
    assert len(made.fills) >= 2 and made.position() == 20, "an order that was refused for its time is made once"


@pytest.mark.parametrize("action", ["garbage_before", "error_before"])
def test_without_the_venues_time_the_call_fails_and_the_next_asks_again(made: World, action: str) -> None:
    session = signed_session(made)
    made.fault(fault="clock", skew_ms=-3_600_000, duration_ms=600_000)
    made.fault(fault="http", action=action, path="/fapi/v1/time", count=6)
    for _ in range(6):
        with pytest.raises(Refused, match="code -1021"):
            session.call("GET", OPEN_ORDERS, symbol="BTCUSDT")
    assert len(session.call("GET", OPEN_ORDERS, symbol="BTCUSDT")) == 1
    assert asked_for_the_time(made) == 7


@pytest.mark.parametrize("told", [0, -(10**15), 10**30, True, "1700000000000", None])
def test_a_senseless_time_is_not_believed(made: World, told: object) -> None:
    session = signed_session(made)
    made.fault(fault="clock", skew_ms=-3_600_000, duration_ms=600_000)
    table = made.venue.rest._endpoints
    real = table["GET", "/fapi/v1/time"]
    text = json.dumps(told).encode()
    table["GET", "/fapi/v1/time"] = dataclasses.replace(real, handler=lambda given: b'{"serverTime":%b}' % text)
    with pytest.raises(Refused, match="code -1021"):
        session.call("GET", OPEN_ORDERS, symbol="BTCUSDT")
    table["GET", "/fapi/v1/time"] = real
    assert len(session.call("GET", OPEN_ORDERS, symbol="BTCUSDT")) == 1


# --- the budget -------------------------------------------------------------------------------------------------------


def spend(budget: Budget, level: Level) -> None:
    """Take everything that a level may have."""
    while budget.take(budget.now_ns(), 1, level=level) == 0:
        pass


@pytest.mark.parametrize("level", [Level.ORDINARY, Level.URGENT, Level.FLATTEN])
def test_whatever_others_have_spent_the_kill_switch_cancels_at_once(made: World, level: Level) -> None:
    made.at_ms(490, lambda: spend(made.context.budget(), level))
    made.at_ms(500, lambda: made.trip(TripSource.DEAD_MAN))
    made.at_ms(600, lambda: resting.append(made.resting()))
    made.at_ms(6_000, made.stop)
    resting: list[int] = []
    made.run(processes=1)
    assert resting == [0] and made.ended == []


def test_a_session_of_the_gateway_stays_within_the_gateways_share(made: World) -> None:
    budget = made.context.budget()
    session = SignedSession(
        "http://venue", Credentials(KEY, SECRET), budget, level=Level.URGENT, clocks=made.outside.clocks
    )
    spend(budget, Level.URGENT)
    with pytest.raises(BudgetSpent):
        session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert signed_session(made).call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")["code"] == 200


def test_a_call_whose_connection_is_refused_costs_nothing(made: World) -> None:
    budget = made.context.budget()
    used = budget.report()["limits"]
    made.fault(fault="gone", duration_ms=60_000)
    with pytest.raises(VenueUnreachable, match="ConnectionRefusedError"):
        signed_session(made).call("POST", "/fapi/v1/order", symbol="BTCUSDT")
    assert budget.report()["limits"] == used
