"""Whole sessions that meet trouble: killed stages, a hostile venue, no room, bad input. Nothing may be left behind."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from engine.records import MARKET, SOURCE_COMMANDS, Kind
from procs.journal.reader import read_stream
from procs.orphans import sweep
from procs.table import VITAL, Role
from shm.clock import sleep
from tests.engine_session import PROJECT_ROOT, Engine, bot4, engine, leftovers, replay, venue, wait_until
from tests.session_records import check_records
from tools.soak import kills
from tools.soak.tally import Piece

pytestmark = pytest.mark.session


def _back_in_service(made: Engine, role: str, dead: int) -> bool:
    """Whether the role has a successor that says it is ready, and orders flow again."""
    status = made.status()
    entry = status["processes"][role] if status else {"pid": dead}
    return entry["pid"] not in (0, dead) and entry["readiness"] == "ready"


def test_every_process_is_killed_and_stopped_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One session of the long suite: kill -9 and SIGSTOP to every process, supervisor and launcher included.

    The suite itself looks at accounts, ledger, fills and the hash of the replay. How long anything took is not judged.
    """
    monkeypatch.setattr(kills, "IN_SERVICE_S", 600.0)
    piece = Piece(0, 0.0, tmp_path)
    kills.run_kills(piece)
    assert piece.violations == [], piece.notes
    assert {what for what, number in piece.counts.items() if number == 1} >= {
        f"{victim} {name}" for victim in kills.VICTIMS for name in kills.SIGNALS
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    check_records(summary)
    told = _missing_told(summary["engine"]["folder"])
    assert {1 << role for role in VITAL if role != Role.EXECUTION} <= set(told)


def _missing_told(folder: str) -> list[int]:
    """Which processes were missing, each time that execution was told: the aux words of its READINESS commands."""
    told = []
    for entry in read_stream(Path(folder), "execution"):
        if entry.source == SOURCE_COMMANDS:
            told += [int(one["aux"]) for one in np.frombuffer(entry.payload, MARKET) if one["kind"] == Kind.READINESS]
    assert told[-1] == 0
    return told


def _zygote_of(supervisor: int, before: int = 0) -> psutil.Process | None:
    """The zygote of a supervisor, another than `before`; None while there is none."""
    children = psutil.Process(supervisor).children()
    return next((one for one in children if one.pid != before and "procs.zygote" in one.cmdline()), None)


def test_the_zygote_holds_nothing_and_is_replaced(tmp_path: Path) -> None:
    with engine(tmp_path) as made:
        made.start()
        status = made.wait_trading()
        zygote = _zygote_of(status["supervisor_pid"])
        assert zygote is not None
        assert zygote.num_threads() == 1
        mapped = Path(f"/proc/{zygote.pid}/maps").read_text()
        for stranger in ("/dev/shm/", "onnxruntime", "ccxt", "picows"):
            assert stranger not in mapped
        stages = {name: entry["pid"] for name, entry in status["processes"].items()}
        assert psutil.Process(stages["execution"]).ppid() == zygote.pid
        zygote.kill()
        wait_until(lambda: _zygote_of(status["supervisor_pid"], before=zygote.pid), 20, "new zygote")
        os.kill(stages["features"], signal.SIGKILL)
        wait_until(lambda: _back_in_service(made, "features", stages["features"]), 30, "successor from the new zygote")
        made.wait_trading(orders=made.wait_trading()["orders"]["acked"] + 3)
        code, out, err = made.finish()
        assert code == 0, out + err
        summary = made.summary()
        assert summary["engine"]["restarts"] == {"features": 1, "zygote": 1}
        _sound(summary)
        assert leftovers(made.name) == []


def test_observers_that_die_too_often_are_left_out_and_trading_goes_on(tmp_path: Path) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection, engine={"deaths_to_stop": 1}) as made:
        made.start()
        made.wait_trading()
        for role in ("monitoring", "recorder"):
            wait_until(lambda role=role: _back_in_service(made, role, 0), 30, role)
            os.kill(made.wait_trading()["processes"][role]["pid"], signal.SIGKILL)
        sent = made.wait_trading()["orders"]["sent"]
        status = made.wait_trading(orders=sent + 5)
        assert [status["processes"][role]["pid"] for role in ("monitoring", "recorder")] == [0, 0]
        assert (status["mode"], status["emergency_word"]) == ("NORMAL", 0)
        code, out, err = made.finish()
        assert code == 0, out + err
        for role in ("monitoring", "recorder"):
            assert f"{role} was ended by SIGKILL, too often: going on without it" in out
        summary = made.summary()
        assert summary["engine"]["restarts"] == {"monitoring": 1, "recorder": 1}
        assert summary["ledger_matches_venue"] is True and summary["unaccounted"] == 0
        assert leftovers(made.name) == []


@pytest.mark.parametrize("role", ["features", "gateway", "killswitch"])
def test_too_many_deaths_stop_the_engine(tmp_path: Path, role: str) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection, engine={"deaths_to_stop": 1}) as made:
        made.start()
        status = made.wait_trading()
        os.kill(status["processes"][role]["pid"], signal.SIGKILL)
        code, out, err = made.finish(signum=None)
        assert code == 1
        assert f"{role} was ended by SIGKILL, too often to go on" in out + err
        assert leftovers(made.name) == []
        assert place.state()["open_orders"] == []


def test_an_error_in_the_supervisor_leaves_no_order_behind(tmp_path: Path) -> None:
    """What nobody has foreseen ends the session; the kill switch cancels before everything is ended."""
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        made.start()
        made.wait_trading()
        wait_until(lambda: place.state()["open_orders"], 20, "resting order")
        status = made.status()
        assert status is not None
        shutil.rmtree(status["folder"])  # a successor finds no place for its log
        os.kill(status["processes"]["gateway"]["pid"], signal.SIGKILL)
        code, _, err = made.finish(signum=None)
        assert code == 1
        assert "FileNotFoundError" in err and "Traceback" not in err
        assert place.state()["open_orders"] == []
        assert leftovers(made.name) == []


def test_the_end_of_the_terminal_stops_it_and_no_second_of_its_name_starts(tmp_path: Path) -> None:
    with engine(tmp_path) as made:
        made.start()
        made.wait_trading(orders=1)
        second = bot4("run", "--config", str(made.config), "--for", "5s")
        assert second.returncode == 1
        assert f"an engine named {made.name!r} is running already" in second.stderr
        status = made.status()
        assert status is not None
        os.kill(made.launcher.pid, signal.SIGSTOP)  # its supervisor dies, and it is slow to start another
        os.kill(status["supervisor_pid"], signal.SIGKILL)
        second = bot4("run", "--config", str(made.config), "--for", "5s")
        assert f"an engine named {made.name!r} is running already" in second.stderr
        assert made.name not in sweep()  # as any other engine does when it starts
        os.kill(made.launcher.pid, signal.SIGCONT)
        killed = status["supervisor_pid"]
        wait_until(lambda: (now := made.status()) and now["supervisor_pid"] != killed, 20, "successor")
        code, out, err = made.finish(signum=signal.SIGHUP)
        assert code == 0, out + err
        assert leftovers(made.name) == []


@pytest.mark.parametrize("also", [(), ("killswitch",)], ids=["", "nor kill switch"])
def test_without_launcher_and_supervisor_everything_ends_and_no_order_rests(
    tmp_path: Path, also: tuple[str, ...]
) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        made.start()
        status = made.wait_trading()
        assert made.process is not None
        pids = {name: entry["pid"] for name, entry in status["processes"].items()}
        for pid in (made.process.pid, status["supervisor_pid"], *(pids[name] for name in also)):
            os.kill(pid, signal.SIGKILL)
        made.process.communicate()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), 30, "end of every process")
        assert place.state()["open_orders"] == []
        wait_until(lambda: leftovers(made.name) == [], 10, "end of the zygote too")
        result = made.run("--for", "3s")  # the name and the memory are free again, and the latch has kept the trip
        assert result.returncode == 1 and "emergency stop" in result.stderr, result.stderr
        assert made.summary()["orders"]["sent"] == 0
        assert leftovers(made.name) == []


def test_faults_of_market_data_of_order_entry_and_of_the_private_stream(tmp_path: Path) -> None:
    """Lost and repeated diffs, lost sockets: no wrong book is traded on. Lost answers and fills: each fill once."""
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        made.start("--for", "25s")
        made.wait_trading()
        place.fault(fault="drop_depth", symbol="BTCUSDT", count=3)
        place.fault(fault="duplicate_depth", symbol="ETHUSDT", count=2)
        sleep(2.0)
        place.fault(fault="disconnect", streams="public")
        sleep(2.0)
        place.fault(fault="drop_depth", symbol="ETHUSDT", count=1)
        for action in ("error_after", "error_before", "error_after"):
            place.fault(
                fault="http", action=action, path="/fapi/v1/order", method="POST", count=1, status=503, delay_ms=100
            )
            sleep(1.0)
        place.fault(fault="disconnect", streams="private")
        sleep(1.0)
        place.fault(fault="drop_user", count=3)
        sleep(1.0)
        place.fault(
            fault="http", action="error_before", path="/fapi/v1/order", method="DELETE", count=2, status=502, delay_ms=0
        )
        code, _, err = made.finish(signum=None, timeout=90)
        assert code == 0, err
        summary = made.summary()
        market, dropped = summary["market"], summary["stages"]["ingestion"]["dropped"]
        assert market["gaps"] >= 3
        assert market["resyncs"] >= 3
        assert dropped["DUPLICATE"] >= 1
        assert market["crossed_books"] == 0
        assert 0 < market["book_valid_ratio"] < 1
        assert summary["orders"]["unknown"] >= 2
        _sound(summary)
        assert place.state()["fill_count"] == summary["fills"]


def test_an_order_that_nobody_here_has_sent_holds_entries_until_it_is_gone(tmp_path: Path) -> None:
    """The venue has what we have not: no entries, both sides' figures shown; and on when it is cleared up."""
    settings = {"execution": {"reconcile_every_s": 2.0, "reconcile_confirm_s": 0.5}}
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection, **settings) as made:
        made.start()
        made.wait_trading()
        client = place.client()
        price = client.fetch_order_book("BTC/USDT:USDT", 5)["bids"][0][0] * 0.96
        order = client.create_order("BTC/USDT:USDT", "limit", "buy", 0.01, round(price, 1))

        def reconciliation() -> dict[str, Any]:
            return made.status()["reconciliation"]

        wait_until(lambda: reconciliation()["holding"], 20, "entries that are held back")
        shown = reconciliation()
        assert shown["differs"] == ["open_orders"] and shown["confirmed"] == 1
        assert shown["venue"]["open_orders"] == shown["ours"]["open_orders"] + 1
        sent = made.status()["orders"]["sent"]
        sleep(1.5)
        assert made.status()["orders"]["sent"] == sent, "an entry while ledger and venue differ"
        client.cancel_order(order["id"], "BTC/USDT:USDT")
        wait_until(lambda: not reconciliation()["holding"], 20, "end of it")
        wait_until(lambda: made.status()["orders"]["sent"] > sent, 20, "entries that go on")
        code, out, err = made.finish()
        assert code == 0, out + err
        summary = made.summary()
        assert summary["reconciliation"]["compared"] >= 4
        _sound(summary)


def test_funding_is_booked_once_over_reconnects(tmp_path: Path) -> None:
    """Settled every three seconds; the private stream breaks and a gateway dies in between."""
    settings = {"execution": {"reconcile_every_s": 4.0}}
    with (
        venue(tmp_path, funding_rate="0.0005", funding_interval_s=3) as place,
        engine(tmp_path, venue=place.connection, **settings) as made,
    ):
        made.start()
        status = made.wait_trading()
        sleep(4.0)
        place.fault(fault="disconnect", streams="private")
        sleep(4.0)
        gateway = status["processes"]["gateway"]["pid"]
        os.kill(gateway, signal.SIGKILL)
        wait_until(lambda: _back_in_service(made, "gateway", gateway), 20, "successor of the gateway")
        sleep(6.0)
        code, out, err = made.finish()
        assert code == 0, out + err
        summary = made.summary()
        assert summary["ledger_matches_venue"] is True and summary["unaccounted"] == 0
        income = place.client().fapiPrivateGetIncome({"incomeType": "FUNDING_FEE", "limit": 1000})
        # The position that is left goes on paying after the session's last comparison.
        sums = list(itertools.accumulate(Decimal(entry["income"]) for entry in income))
        assert len(sums) >= 3 and Decimal(summary["pnl"]["funding"]) in sums[2:]


def _sound(summary: dict[str, Any]) -> None:
    """Whatever happened: equal to the venue, every record accounted for, and the journal decides the same again."""
    assert summary["ledger_matches_venue"] is True
    assert summary["unaccounted"] == 0
    assert summary["orders"]["illegal_transitions"] == 0
    check_records(summary)
    again = replay(Path(summary["engine"]["folder"]))
    assert again["decision_hash"] == summary["decision_hash"]
    assert again["fills"] == summary["fills"]


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with engine(tmp_path, embedded={"port": port}) as made:
            result = made.run("--for", "5s")
            assert result.returncode == 1
            assert str(port) in result.stderr and "in use" in result.stderr
            assert "Traceback" not in result.stderr
            assert leftovers(made.name) == []


def test_a_venue_that_is_not_there(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials.toml"
    descriptor = os.open(credentials, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b'api_key = "canary-key"\nsecret = "canary-secret"\n')
    os.close(descriptor)
    connection = {
        "embedded": False, "rest_url": "http://127.0.0.1:9", "ws_url": "ws://127.0.0.1:9",
        "credentials_file": str(credentials),
    }
    with engine(tmp_path, venue=connection) as made:
        result = made.run("--for", "5s")
        assert result.returncode == 1
        assert "http://127.0.0.1:9" in result.stderr
        assert "Traceback" not in result.stderr
        assert "canary" not in result.stdout + result.stderr
        assert leftovers(made.name) == []


def test_a_symbol_that_the_venue_does_not_list(tmp_path: Path) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue={**place.connection, "symbols": ["DOGEUSDT"]}) as made:
        result = made.run("--for", "5s")
        assert result.returncode == 1
        assert "does not list DOGEUSDT" in result.stderr
        assert leftovers(made.name) == []


def test_bad_configuration(tmp_path: Path) -> None:
    with engine(tmp_path, gate={"max_order_valeu": 5}) as made:
        result = made.run()
        assert result.returncode == 2
        assert made.config.name in result.stderr
        assert "gate.max_order_valeu" in result.stderr and "max_order_value" in result.stderr
        assert leftovers(made.name) == []


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    with venue(tmp_path) as place, engine(tmp_path, venue=place.connection) as made:
        place.credentials.chmod(0o644)
        result = made.run("--for", "5s")
        assert result.returncode == 1
        assert "mode 0600" in result.stderr
        assert place.address["secret"] not in result.stderr
        assert leftovers(made.name) == []


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="needs the right to mount a small /dev/shm of its own")
def test_no_room_in_shared_memory(tmp_path: Path) -> None:
    with engine(tmp_path) as made:
        command = (
            f"mount -t tmpfs -o size=24m tmpfs /dev/shm && {sys.executable} -m tools.cli run --config {made.config} "
            "--for 5s; code=$?; echo left: $(ls /dev/shm); exit $code"
        )
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", command], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120,
            check=False,
        )
        assert result.returncode == 1
        assert "/dev/shm is full" in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout.splitlines()[-1] == "left:"
        assert leftovers(made.name) == []
