"""`bot4 mode`, `acknowledge`, `reset`, `secret` and `audit`, against a control plane in a thread."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.safety.mode import Mode
from shm.clock import sleep
from tests.control_desk import SECRET, Desk, S, control_desk
from tools import cli
from tools.control import control_lines, control_status

FINDING, USAGE = 1, 2


class Served:
    """A desk that ticks, and its configuration file."""

    def __init__(self, desk: Desk, config: Path) -> None:
        self.desk, self.config = desk, config
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self.over.is_set():
            self.desk.sweep()
            self.desk.tick()
            sleep(0.001)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with control_desk() as desk:
        config = tmp_path / "bot4.toml"
        engine = desk.settings.engine
        config.write_text(f'[engine]\nname = "{engine.name}"\ndata_folder = "{engine.data_folder}"\n')
        made = Served(desk, config)
        made.thread.start()
        try:
            yield made
        finally:
            made.over.set()
            made.thread.join()


@pytest.fixture
def run(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: str, stdin: str = "") -> tuple[int, Any, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = cli.main([*arguments, "--json", "--config", str(served.config)])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return call


def test_a_day_with_the_modes(served: Served, run: Any) -> None:
    assert run("secret", stdin="short\n")[:2] == (
        FINDING, {"ok": False, "error": "a secret needs 8 characters at the least"},
    )
    assert run("secret", stdin=f"{SECRET}\n")[0] == 0
    code, answer, _ = run("secret", stdin="something wrong\nanother secret\n")
    assert code == FINDING and "nothing was changed" in answer["error"]
    served.desk.keep_secret()
    assert run("mode", "pause", "--reason", "looking")[:2] == (0, {"ok": True, "mode": "PAUSE"})
    code, answer, _ = run("mode", "normal", "--reason", "go on", stdin="wrong one\n")
    assert code == FINDING and answer["missing"][0]["need"] == "operator authorised"
    assert run("mode", "normal", "--reason", "go on", stdin="")[0] == USAGE, "no secret to be had"
    assert run("mode", "normal", "--reason", "go on", stdin=f"{SECRET}\n")[0] == 0
    code, answer, _ = run("mode", "emergency", "--reason", "the price is mad")
    assert (code, answer["mode"]) == (0, "EMERGENCY")
    state = served.desk.plane.state
    assert state.mode == Mode.EMERGENCY and state.emergency is not None and "the price is mad" in state.emergency.reason
    status = control_status(served.desk.settings.engine.name)
    lines = "\n".join(control_lines(status))
    assert "EMERGENCY by operator" in lines and "the price is mad" in lines
    assert "a reset needs: cause acknowledged (nobody has acknowledged it)" in lines
    assert run("acknowledge", "--reason", "a typing error", stdin=f"{SECRET}\n")[0] == 0
    code, answer, _ = run("reset", "--reason", "too early", stdin=f"{SECRET}\n")
    assert code == FINDING and [item["need"] for item in answer["missing"]] == ["cooldown over"]
    served.desk.now += 301 * S
    code, answer, _ = run("reset", "--reason", "calm again", stdin=f"{SECRET}\n")
    assert (code, answer["mode"], answer["after"]) == (0, "PAUSE", "ledger and venue agree")
    code, answer, _ = run("audit", "verify")
    assert code == 0 and answer["entries"] > 8
    code, answer, _ = run("audit", "show")
    assert [entry["event"] for entry in answer["entries"]][:2] == ["start", "mode"]


def test_without_an_engine_everything_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "bot4.toml"
    config.write_text(f'[engine]\nname = "nobody-there"\ndata_folder = "{tmp_path}/var"\n')
    for command in (
        ["mode", "pause"], ["mode", "emergency"], ["reset"], ["acknowledge"],
    ):
        assert cli.main([*command, "--reason", "x", "--config", str(config)]) == FINDING
        assert "no engine named 'nobody-there'" in capsys.readouterr().err
    assert cli.main(["audit", "verify", "--config", str(config)]) == FINDING
    assert "there is none" in capsys.readouterr().err
    assert control_lines(control_status("nobody-there")) == [
        "the supervisor does not answer: who holds the mode is not known"
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(["mode", "faster", "--reason", "x"])
    assert ended.value.code == USAGE
    with pytest.raises(SystemExit) as ended:
        cli.main(["mode", "pause"])
    assert ended.value.code == USAGE


def test_an_edited_log_is_a_finding_and_names_the_line(
    served: Served, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("mode", "pause", "--reason", "looking")
    log = served.desk.folder / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"looking", b"resting"))
    code, answer, _ = run("audit", "verify")
    assert code == FINDING and answer["finding"].startswith("line 2: its hash does not follow")
    assert cli.main(["audit", "verify", "--config", str(served.config)]) == FINDING
    assert "audit.jsonl, line 2" in capsys.readouterr().err
    assert cli.main(["audit", "show", "--config", str(served.config)]) == 0
    assert "target PAUSE" in capsys.readouterr().out
