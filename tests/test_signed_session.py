"""Hand-signed calls over connections that the venue ends, and while our clock and the venue's do not agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.signed import Refused, SignedSession
from shm.control import TripSource
from tests.embedded_venue import RunningVenue, running_venue
from tests.instance_memory import own_budget
from tests.kill_world import World, world

ENDINGS = ("close_before", "old_before")  # the answer says that the connection ends, or is of HTTP/1.0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        one.gate_follows()
        one.rest(0)
        one.rest(1)
        yield one


@pytest.fixture(scope="module")
def venue() -> Iterator[RunningVenue]:
    with running_venue() as running:
        yield running


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
