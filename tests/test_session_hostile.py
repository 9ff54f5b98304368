"""Whole engines over real sockets against a venue on its worst days: what virtual time cannot show."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest

from procs.virtual.hostile import script_of
from shm.clock import sleep
from tests.engine_session import Venue, engine, leftovers, venue, wait_until

pytestmark = pytest.mark.session


def test_a_comparison_that_is_not_answered_is_made_again(tmp_path: Path) -> None:
    """At the stop, the last word on the ledger: an answer that failed is neither a yes nor a no."""
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        made.start()
        made.wait_trading()
        place.fault(fault="http", action="error_before", path="/fapi/v3/account", method="GET", count=2)
        code, out, err = made.finish()
        assert code == 0, out + err
        summary, truth = made.summary(), place.state()
        assert truth["counters"]["faults"]["error_before"] == 2
        assert summary["ledger_matches_venue"] is True
        assert summary["fills"] == truth["fill_count"] and truth["open_orders"] == []
        assert leftovers(made.name) == []


def _healed(place: Venue) -> bool:
    """Whether the venue has taken the order to be well again; one that is gone hears nothing."""
    try:
        place.heal()
    except (URLError, ConnectionError):
        return False
    return True


@pytest.mark.parametrize("seed", [6, 42, 43])
def test_a_burst_of_faults_over_sockets(tmp_path: Path, seed: int) -> None:
    """The bursts that these seeds meet in virtual time; then trading goes on, and ends equal to the venue."""
    with venue(tmp_path, seed=seed) as place, engine(tmp_path, venue=place.connection) as made:
        made.start()
        made.wait_trading()
        for burst in script_of(seed).bursts:
            place.fault(seed=seed, rates=burst.rates, delay_ms=burst.delay_ms, duration_ms=burst.duration_ms)
            sleep(burst.length_ms / 1e3)
            wait_until(lambda: _healed(place), 10, "answer of the venue")
        acked = (made.status() or {"orders": {"acked": 0}})["orders"]["acked"]
        made.wait_trading(orders=acked + 5)
        code, out, err = made.finish()
        assert code == 0, out + err
        summary, truth = made.summary(), place.state()
        assert sum(truth["counters"]["faults"].values()) > 5
        assert summary["ledger_matches_venue"] is True and summary["unaccounted"] == 0
        assert summary["fills"] == truth["fill_count"] > 0
        assert truth["open_orders"] == [] and truth["counters"]["bans"] == 0
        assert summary["orders"]["illegal_transitions"] == summary["orders"]["cumulative_mismatches"] == 0
        assert leftovers(made.name) == []
