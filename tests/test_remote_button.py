"""The remote button over a real socket: the key file, a flood, and the button's own process, killed and pressed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from engine.safety.button_settings import RemoteButtonSettings
from engine.safety.contact import ButtonState
from engine.safety.panel import View
from engine.safety.remote_protocol import DATAGRAM_BYTES, KEY_BYTES, NONCE_BYTES, ButtonEnd, Refusal
from procs.identity import new_key
from procs.key_file import KeyFileError, load_key, make_key
from procs.remote_button import RemoteButton
from shm.clock import python_monotonic_ns
from tests.waiting import until
from tools import cli

PROJECT_ROOT = Path(__file__).resolve().parent.parent
RELEASED, PRESSED, UNKNOWN = ButtonState.RELEASED, ButtonState.PRESSED, ButtonState.UNKNOWN
MOCK_BUTTON = '[gpio]\nbackend = "mock"\npulse_s = 0.02\n'


# --- the key ----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "button.key"
    assert cli.main(["button", "--make-key", str(path)]) == 0
    key = load_key(path)
    assert len(key) == KEY_BYTES and path.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr()
    assert key.hex() not in said.out + said.err
    assert cli.main(["button", "--make-key", str(path)]) == 1
    assert capsys.readouterr().err == f"bot4: key file {path}: File exists\n"
    assert load_key(path) == key, "what is there is never overwritten"
    make_key(tmp_path / "other")
    assert load_key(tmp_path / "other") != key


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"00" * 32, 0o640, "must be a plain file of yours with mode 0600"),
        (b"00" * 32, 0o604, "must be a plain file of yours with mode 0600"),
        (b"00" * 31, 0o600, "not a key"),
        (b"00" * 33, 0o600, "not a key"),
        (b"zz" * 32, 0o600, "not a key"),
        (b"\xff" * 64, 0o600, "not a key"),
        (b"", 0o600, "not a key"),
    ],
)  # fmt: skip
def test_a_key_file_that_is_not_sound_is_refused_and_never_shown(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        load_key(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert not content or content.decode(errors="replace") not in str(caught.value)


def test_links_folders_and_files_of_others_are_no_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "."):
        with pytest.raises(KeyFileError):
            load_key(tmp_path / name)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(KeyFileError, match="of yours"):
        load_key(tmp_path / "key")


# --- the listener -----------------------------------------------------------------------------------------------------


class Ear:
    """A listener with a key of its own; what it did is in lists."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.key_file = folder / "button.key"
        make_key(self.key_file)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.settings = RemoteButtonSettings(enabled=True, port=self.port, key_file=str(self.key_file), **changes)
        self.pressed: list[int] = []
        self.lost: list[int] = []
        self.notes: list[dict[str, Any]] = []
        self.tripped = False
        self.button = RemoteButton(
            self.settings, "bot4", True, lambda: self.pressed.append(python_monotonic_ns()),
            lambda: self.lost.append(python_monotonic_ns()), lambda: View(self.tripped, True, True, False),
            lambda event, **fields: self.notes.append({"event": event, **fields}),
        )


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(tmp_path)
    made.button.start()
    yield made
    made.button.close()


def test_a_flood_is_refused_and_cannot_stop_the_listener(ear: Ear) -> None:
    """Noise of every size, faster than it is taken; then a button comes and is heard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(("127.0.0.1", ear.port))
        end = ear.button.end
        assert end is not None

        def drowned() -> bool:
            for count in range(300):
                stranger.send(bytes(count))
            return end.refused[Refusal.LENGTH] > 300 and end.refused[Refusal.FORMAT] > 0

        until(drowned, "refusals", 60)
        assert set(end.refused) == {Refusal.LENGTH, Refusal.FORMAT} and ear.pressed == []
        button = ButtonEnd(load_key(ear.key_file), "bot4", 1, 10**9, lambda: new_key(NONCE_BYTES))
        button.update(RELEASED, False)
        stranger.settimeout(0.2)

        def heard() -> bool:
            for data in button.datagrams(python_monotonic_ns()):
                stranger.send(data)
            with contextlib.suppress(TimeoutError):
                button.receive(stranger.recv(DATAGRAM_BYTES), python_monotonic_ns())
            return ear.button.state == RELEASED

        until(heard, "heartbeat")
    assert ear.button.heard and not ear.button.told_to_stop


def test_a_button_that_must_be_heard_arms_and_one_that_need_not_does_at_once(tmp_path: Path) -> None:
    assert not Ear(tmp_path).button.heard
    other = tmp_path / "other"
    other.mkdir()
    assert Ear(other, required=False).button.heard


def test_a_listener_without_a_key_or_an_address_says_so(tmp_path: Path) -> None:
    made = Ear(tmp_path)
    made.button.start()
    with pytest.raises(OSError, match="Address already in use"):
        RemoteButton(made.settings, "bot4", True, int, int, lambda: View(False, True, True, False), print).start()
    made.button.close()
    made.key_file.chmod(0o644)
    with pytest.raises(KeyFileError):
        made.button.start()


# --- the other process ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sender(ear: Ear, folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The button's own process, on mock pins that follow its standard input."""
    config = folder / "button.toml"
    config.write_text(MOCK_BUTTON)
    process = subprocess.Popen(
        [*(command or (sys.executable, "-m", "tools.cli", "button")), "--engine", f"127.0.0.1:{ear.port}",
         "--key", str(ear.key_file), "--config", str(config)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT_ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def test_a_button_process_that_is_killed_is_lost_and_one_that_is_pressed_trips(ear: Ear, tmp_path: Path) -> None:
    with sender(ear, tmp_path) as process:
        until(lambda: ear.button.state == RELEASED, "heartbeat", 60)
        assert (ear.pressed, ear.lost) == ([], [])
        stdin(process).write("press\nrelease\n")
        stdin(process).flush()
        until(lambda: ear.pressed, "press")
        until(lambda: ear.button.state == RELEASED, "release")
        ear.tripped = True
        assert len(ear.pressed) == 1 and ear.lost == []
        killed_ns = python_monotonic_ns()
        process.send_signal(signal.SIGKILL)
        until(lambda: ear.lost, "loss")
        print(f"lost {(ear.lost[0] - killed_ns) / 1e9:.2f} s after SIGKILL")
        assert ear.button.state == UNKNOWN and len(ear.pressed) == 1
    with sender(ear, tmp_path) as process:
        until(lambda: ear.button.state == RELEASED, "heartbeat of another process", 60)
        assert len(ear.lost) == 1
        until(lambda: '"tripped": true' in process.stdout.readline(), "state of the engine")  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        until(lambda: len(ear.lost) == 2, "loss")
    events = [note["event"] for note in ear.notes]
    assert events.count("remote button lost") == 2 and "remote button released" in events


def test_the_one_file_copy_needs_nothing_but_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "button.pyz"
    assert cli.main(["button", "--bundle", str(bundle)]) == 0
    capsys.readouterr()
    first = bundle.read_bytes()
    assert cli.main(["button", "--bundle", str(bundle)]) == 0 and bundle.read_bytes() == first
    bare = [sys.executable, "-I", "-S", str(bundle)]  # no installed packages, no project folder
    make = subprocess.run([*bare, "--make-key", str(tmp_path / "key")], capture_output=True, text=True, cwd="/",
                          check=False)
    assert make.returncode == 0, make.stderr
    done = subprocess.run(
        [*bare, "--engine", "127.0.0.1", "--key", str(tmp_path / "key")], capture_output=True, text=True, cwd="/",
        check=False,
    )
    assert done.returncode == 1 and "the package gpiozero is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_one_file_copy_serves_a_button(ear: Ear, tmp_path: Path) -> None:
    bundle = tmp_path / "button.pyz"
    assert cli.main(["button", "--bundle", str(bundle)]) == 0
    with sender(ear, tmp_path, sys.executable, "-P", str(bundle)) as process:
        until(lambda: ear.button.state == RELEASED, "heartbeat", 60)
        stdin(process).write("press\n")
        stdin(process).flush()
        until(lambda: ear.pressed, "press")
        assert ear.button.state == PRESSED


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "one of the arguments --engine --make-key --bundle is required"),
        (("--engine", "x"), 2, "--key FILE is needed"),
        (("--engine", "host:0"), 2, "--engine host:0: HOST or HOST:PORT is needed"),
        (("--engine", "host:abc"), 2, "--engine host:abc: HOST or HOST:PORT is needed"),
        (("--engine", ":9417"), 2, "--engine :9417: HOST or HOST:PORT is needed"),
        (("--engine", "[::1]:9417", "--key", "/no/such"), 1, "key file /no/such: No such file or directory"),
        (("--engine", "::1", "--key", "/no/such"), 1, "key file /no/such: No such file or directory"),
        (("--bundle", "/no/such/folder/x"), 1, "No such file or directory"),
    ],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = cli.main(["button", *arguments])
    except SystemExit as exit_request:
        ended = int(exit_request.code or 0)
    assert ended == code
    assert words in capsys.readouterr().err


def test_a_host_that_cannot_be_looked_up_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(tmp_path / "key")
    config = tmp_path / "button.toml"
    config.write_text(MOCK_BUTTON)
    given = ["button", "--engine", "no-such-host.invalid", "--key", str(tmp_path / "key"), "--config", str(config)]
    assert cli.main(given) == 1
    assert capsys.readouterr().err.startswith("bot4: no-such-host.invalid:9417: ")
