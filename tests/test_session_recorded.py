"""A whole engine that trades on a recording: `bot4 play --orders` in the place of the venue, faults included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from engine.kernel import PROJECT_ROOT
from procs.instance import Mapping
from procs.table import Role
from tests.engine_session import bot4, engine, leftovers, replay, wait_until
from tests.recordings import USDM_CAPTURES, require_capture
from tools.soak.session import CALM

pytestmark = [pytest.mark.session, pytest.mark.recordings]


def filled_and_refused(mapping: Mapping) -> bool:
    fills = int(mapping.state(Role.EXECUTION)["ledger"]["fills"][0])
    return fills > 0 and bool(mapping.state(Role.INGESTION)["quarantined"].any())


def test_an_engine_trades_on_a_recording_with_faults(tmp_path: Path) -> None:
    recorded = require_capture(USDM_CAPTURES[1])
    words = ["play", str(recorded), "--port", "0", "--speed", "1x", "--orders", "--json"]
    words += ["--fault", "corrupt:depth=0.004", "--fault", "duplicate:depth=0.01", "--seed", "4"]
    player = subprocess.Popen(
        [sys.executable, "-m", "tools.cli", *words], cwd=tmp_path, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )
    try:
        assert player.stdout is not None
        ready = orjson.loads(player.stdout.readline())
        keys = tmp_path / "keys.toml"
        keys.write_text(f'api_key = "{ready["api_key"]}"\nsecret = "{ready["secret"]}"\n')
        keys.chmod(0o600)
        venue = {
            "embedded": False, "symbols": ["BTCUSDT"], "credentials_file": str(keys), "rest_url": ready["rest_url"],
            "ws_url": ready["ws_url"],
        }
        with engine(tmp_path, venue=venue, panic=dict(CALM) | {"clock": "off"}) as made:
            made.start()
            made.wait_trading(4)
            wait_until(lambda: made.look(filled_and_refused), 120, "fill on the recorded book and harmed frame")
            code, _, errors = made.finish()
            assert code == 0, errors
            summary = made.summary()
            name = made.name
        assert summary["fills"] > 0 and summary["ledger_matches_venue"] is True and summary["unaccounted"] == 0
        assert summary["stages"]["ingestion"]["quarantined"].keys() & {"BAD_NUMBER", "BAD_JSON"}
        folder = Path(summary["engine"]["folder"])
        shown = json.loads(bot4("data", "quarantine", "--session", str(folder), "--json").stdout)
        assert shown["reasons"] == summary["stages"]["ingestion"]["quarantined"]
        assert replay(folder)["decision_hash"] == summary["decision_hash"]
        assert leftovers(name) == []
    finally:
        player.send_signal(signal.SIGTERM)
        player.wait(timeout=20)
