"""A whole engine and the venue's dead-man switch: no entries without it, and it is what survives everything."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from shm.clock import sleep
from tests.engine_session import engine, leftovers, venue, wait_until

pytestmark = pytest.mark.session

_DEADMAN_S = 5


def test_no_entry_without_it_and_it_cancels_when_every_process_of_the_engine_is_killed(tmp_path: Path) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection | {"deadman_s": _DEADMAN_S}) as made:
        made.start()
        status = made.wait_trading()
        assert status["dead_man"]["armed"] and status["dead_man"]["left_s"] <= _DEADMAN_S

        # The venue acknowledges it no more: entries stop before the countdown is over, and what rests is cancelled.
        place.fault(fault="http", action="error_before", path="/fapi/v1/countdownCancelAll", count=10_000)
        status = wait_until(
            lambda: (found := made.status()) and found["processes"]["gateway"]["readiness"] != "ready" and found,
            30, "gateway out of service",
        )
        assert status["dead_man"]["missed"] >= 2 and "not acknowledged" in status["dead_man"]["warning"]
        wait_until(lambda: not place.state()["open_orders"], 20, "cancel of what rested")
        sent = made.status()["orders"]["sent"]
        sleep(2.0)
        assert made.status()["orders"]["sent"] == sent, "an entry while nobody would cancel it"
        place.heal()
        wait_until(lambda: made.status()["orders"]["sent"] > sent, 30, "entries that go on")
        assert made.status()["emergency_word"] == 0

        # Every process stands still at once, so that none of them can cancel, and is then killed.
        wait_until(lambda: place.state()["open_orders"], 20, "resting order")
        launcher = psutil.Process(made.launcher.pid)
        family = [launcher, *launcher.children(recursive=True)]
        assert len(family) > 10
        for one in family:
            one.send_signal(signal.SIGSTOP)
        left = {order["clientOrderId"] for order in place.state()["open_orders"]}
        for one in family:
            one.kill()
        made.launcher.wait()
        assert left, "nothing rested when everything ended"
        wait_until(lambda: not place.state()["open_orders"], _DEADMAN_S + 15, "cancel by the venue")

        result = made.run("--for", "3s")  # and the next engine of the name finds its way
        assert result.returncode == 0, result.stderr
        assert leftovers(made.name) == []
