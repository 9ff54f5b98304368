"""A panic monitor over a whole session: the feed falls silent, the engine pauses with nothing resting, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine_session import bot4, engine, leftovers, venue, wait_until

pytestmark = [pytest.mark.session, pytest.mark.timeout(300)]


def test_zombie_socket_10_pauses_a_whole_engine_and_is_written_down(tmp_path: Path) -> None:
    """passivbot_lighter #3: sockets that stay open and say nothing; it quoted for hours."""
    with venue(tmp_path) as place:
        calm = {"latency": "off", "spread": "off", "stalled": "off"}  # the machine may be busy
        with engine(tmp_path, venue=place.connection, panic=calm) as made:
            made.start()
            made.wait_trading()
            place.fault(fault="half_open", streams="public", duration_ms=4_000)
            status = wait_until(lambda: (now := made.status()) and now["mode"] == "PAUSE" and now, 30, "PAUSE")
            assert any("staleness" in hold["cause"] for hold in status["control"]["holds"])
            wait_until(lambda: not place.state()["open_orders"], 30, "cancelled quotes")
            code, _, err = made.finish()
            assert code == 0, err
            shown = bot4("audit", "show", "--json", "--config", str(made.config))
            entries = json.loads(shown.stdout)["entries"]
        assert leftovers(made.name) == []
    found = [entry for entry in entries if entry["event"] == "finding" and "staleness" in entry["cause"]]
    assert found and found[0]["action"] == "pause" and "allowed" in found[0]["reason"]
    assert any(entry["event"] == "mode" and entry["target"] == "PAUSE" for entry in entries)
