"""Whole engines over real sockets against a venue on its worst days: what virtual time cannot show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine_session import engine, leftovers, venue

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
