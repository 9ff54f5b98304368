"""Modes over whole sessions: a trip outlives the session, and every step back is asked for, refused, granted, kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shm.clock import sleep
from tests.engine_session import Engine, bot4, engine, leftovers, replay, wait_until

pytestmark = [pytest.mark.session, pytest.mark.timeout(600)]  # two sessions and a replay

SECRET = "correct horse battery staple"


def asked(made: Engine, *arguments: str, secret: str = "") -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a command."""
    result = bot4(*arguments, "--json", "--config", str(made.config), input=secret + "\n")
    return result.returncode, json.loads(result.stdout) if result.stdout else {"error": result.stderr}


def needs(answer: dict[str, Any]) -> set[str]:
    return {item["need"] for item in answer["missing"]}


def mode_of(made: Engine) -> str:
    status = made.status()
    return str(status["mode"]) if status else ""


def open_orders(made: Engine) -> int:
    status = made.status()
    return int(status["metrics"]["open_orders"]) if status and status["metrics"] else -1


def events(made: Engine) -> list[dict[str, Any]]:
    code, answer = asked(made, "audit", "show")
    assert code == 0, answer
    return list(answer["entries"])


def test_a_trip_outlives_the_session_until_an_operator_resets_it(tmp_path: Path) -> None:
    safety = {"cooldown_s": 20.0}
    with engine(tmp_path, safety=safety) as made:
        code, answer = asked(made, "secret", secret=SECRET)
        assert code == 0, answer
        made.start()
        made.wait_trading()
        assert bot4("kill", "--config", str(made.config)).returncode == 0
        code, _, err = made.finish()
        assert code == 1 and "emergency stop (operator)" in err
        assert leftovers(made.name) == []
        did = [entry["did"] for entry in events(made) if entry["event"] == "kill switch"]
        assert did[0] == "tripped" and "nothing rests" in did and did[-1] == "stopped"

        made.start()
        status = wait_until(
            lambda: (found := made.status()) and found["metrics"] and found["control"] and found, 90, "engine again",
        )
        assert status["mode"] == "EMERGENCY"
        assert status["control"]["emergency"]["sources"] == ["OPERATOR"]
        code, answer = asked(made, "mode", "normal", "--reason", "no reset before", secret=SECRET)
        assert code == 1 and "no way from EMERGENCY" in answer["error"]
        code, answer = asked(made, "reset", "--reason", "at once", secret="wrong wrong wrong")
        assert code == 1
        assert {"operator authorised", "cause acknowledged", "venue reconciliation clean"} <= needs(answer)
        code, answer = asked(made, "reset", "--reason", "not acknowledged", secret=SECRET)
        assert code == 1 and "cause acknowledged" in needs(answer)
        code, answer = asked(made, "acknowledge", "--reason", "it was this test", secret=SECRET)
        assert code == 0, answer

        def reset() -> dict[str, Any] | None:
            code, answer = asked(made, "reset", "--reason", "the test goes on", secret=SECRET)
            assert code == 0 or needs(answer) <= {"cooldown over", "venue reconciliation clean"}, answer
            return answer if code == 0 else None

        assert wait_until(reset, 90, "reset")["after"] == "ledger and venue agree"
        assert mode_of(made) == "PAUSE"
        assert made.status()["orders"]["sent"] == 0, "nothing was sent"  # type: ignore[index]
        code, answer = asked(made, "mode", "normal", "--reason", "go on", secret=SECRET)
        assert (code, answer["mode"]) == (0, "NORMAL")
        made.wait_trading()
        code, out, err = made.finish()
        assert code == 0, err
        assert "ledger equals venue: True" in out and "unaccounted records: 0" in out
        assert leftovers(made.name) == []
        summary = made.summary()
        assert summary["orders"]["sent"] > 0
        again = replay(Path(summary["engine"]["folder"]))
        assert again["decisions"]["intents"] > 0
        assert again["decision_hash"] == summary["decision_hash"], "trip, reset and modes are in the journal"
        code, answer = asked(made, "audit", "verify")
        assert code == 0 and answer["entries"] >= 10
        kinds = [entry["event"] for entry in events(made)]
        assert kinds[0] == "start" and kinds[-1] == "stop"
        assert {"trip", "wrong secret", "refused", "acknowledged", "reset", "mode"} <= set(kinds)
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert SECRET.encode() not in kept, "the secret is nowhere"
        log = next(tmp_path.rglob("audit.jsonl"))
        log.write_bytes(log.read_bytes().replace(b'"event":"trip"', b'"event":"help"', 1))
        code, answer = asked(made, "audit", "verify")
        assert code == 1 and "its hash does not follow" in answer["error"]
        result = made.run("--for", "1s")
        assert result.returncode == 1 and "its hash does not follow" in result.stderr
        assert leftovers(made.name) == []


def test_a_signal_trips_and_a_killed_supervisor_finds_the_mode_as_it_was(tmp_path: Path) -> None:
    safety = {"cooldown_s": 0.0, "operator_secret": "none"}
    with engine(tmp_path, safety=safety) as made:
        made.start()
        made.wait_trading()
        code, answer = asked(made, "mode", "pause", "--reason", "looking at something")
        assert (code, answer["mode"]) == (0, "PAUSE")
        wait_until(lambda: open_orders(made) == 0, 10, "quotes taken back")
        pid = made.status()["supervisor_pid"]  # type: ignore[index]
        os.kill(pid, signal.SIGKILL)
        status = wait_until(
            lambda: (found := made.status()) and found["supervisor_pid"] != pid and found["control"] and found,
            60, "second supervisor",
        )
        assert status["mode"] == "PAUSE"
        assert [(item["cause"], item["reason"]) for item in status["control"]["holds"]] == [
            ("operator", "looking at something")
        ]
        # The supervisor dies with the signal that it was sent: its successor must hear it.
        pid = made.status()["supervisor_pid"]  # type: ignore[index]
        os.kill(pid, signal.SIGSTOP)
        made.launcher.send_signal(signal.SIGUSR1)
        sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mode_of(made) == "EMERGENCY", 30, "emergency")

        def reset() -> bool:
            return asked(made, "reset", "--acknowledge", "--reason", "it was this test")[0] == 0

        wait_until(reset, 60, "reset")
        code, answer = asked(made, "mode", "normal", "--reason", "go on")
        assert (code, answer["mode"]) == (0, "NORMAL"), answer
        wait_until(lambda: open_orders(made) > 0, 30, "orders again")
        code, out, err = made.finish()
        assert code == 0, err
        assert "unaccounted records: 0" in out
        kinds = [entry["event"] for entry in events(made)]
        assert "supervisor replaced" in kinds and asked(made, "audit", "verify")[0] == 0
        assert leftovers(made.name) == []
