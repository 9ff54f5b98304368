"""A whole engine with both buttons, on paper: it waits for the remote one, loses it, and is pressed besides."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from procs.key_file import make_key
from shm.control import ControlBlock, TripSource, tripped_sources
from tests.engine_session import BOT4, PROJECT_ROOT, engine, leftovers, wait_until

pytestmark = pytest.mark.session


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_engine_trades_only_with_its_buttons_and_both_stop_it(tmp_path: Path) -> None:
    port, key = free_port(), tmp_path / "button.key"
    make_key(key)
    gpio = {"enabled": True, "backend": "mock", "pulse_s": 0.05}
    remote = {"enabled": True, "port": port, "key_file": str(key)}
    button_config = tmp_path / "button.toml"
    button_config.write_text('[gpio]\nbackend = "mock"\n')
    with engine(tmp_path, gpio=gpio, remote_button=remote) as made:
        made.start()
        folder = Path(wait_until(lambda: list((tmp_path / "var/sessions").glob("*/button")), 60, "button")[0]).parent

        def notes() -> list[dict]:
            file = folder / "killswitch.jsonl"  # made by the first note
            return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

        tests = wait_until(lambda: [note for note in notes() if note["event"] == "self-test"], 30, "self-test")
        assert [test["passed"] for test in tests] == [True]
        status = made.status()
        assert status is not None and status["orders"]["acked"] == 0, "no remote button, no orders"
        button = subprocess.Popen(
            [*BOT4, "button", "--engine", f"127.0.0.1:{port}", "--key", str(key), "--name", made.name, "--config",
             str(button_config)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=PROJECT_ROOT,
        )
        try:
            made.wait_trading()
            control = ControlBlock.attach(instance=made.name, kernel_digest=None, read_only=True)
            assert control.word == 0 and control.asserted == []
            button.send_signal(signal.SIGKILL)
            wait_until(lambda: control.word, 10, "trip")
            assert tripped_sources(control.word) == [TripSource.DEAD_MAN]
            wait_until(lambda: TripSource.DEAD_MAN in control.asserted, 10, "held trigger")
            with (folder / "button").open("w") as pipe:
                pipe.write("press\n")
            wait_until(lambda: TripSource.HARDWARE in tripped_sources(control.word), 10, "second source")
            wait_until(lambda: TripSource.HARDWARE in control.asserted, 30, "held button")
            control.close()
        finally:
            button.kill()
            button.communicate()
        code, _, err = made.finish()
        assert code == 1 and "emergency stop (hardware, dead_man)" in err
        events = [note["event"] for note in notes()]
        assert events.index("remote button lost") < events.index("button pressed")
        assert events.count("tripped") >= 1 and "nothing rests" in events
        assert leftovers(made.name) == []
