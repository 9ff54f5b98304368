"""The control socket: whatever comes in is answered or dropped, never waited for, and never believed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procs import control_socket
from procs.control_socket import LONGEST_REQUEST, ControlError, ControlServer, ask, socket_path
from procs.trusted import NotOurs


@pytest.fixture
def name() -> Iterator[str]:
    made = f"test-{uuid.uuid4().hex[:8]}"
    yield made
    socket_path(made).unlink(missing_ok=True)


@pytest.fixture
def server(name: str) -> Iterator[ControlServer]:
    made = ControlServer(name)
    yield made
    made.close()


def caller(server: ControlServer) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(server._path))
    connection.setblocking(False)
    return connection


@contextlib.contextmanager
def served(server: ControlServer) -> Iterator[None]:
    """Somebody who answers while a caller asks."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            for one, request in server.poll():
                one.answer({"ok": True, "echo": request} if request["command"] != "silence" else {"no": 1})
            time.sleep(0.001)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def answer_to(server: ControlServer, data: bytes, finish: bool = True) -> tuple[list, bytes | None]:
    """What the server made of some bytes, and what came back; None when it hung up without a word."""
    requests: list = []
    with caller(server) as connection:
        place = 0
        received = b""
        for _ in range(200):
            if place < len(data):
                try:
                    place += connection.send(data[place : place + 1500])
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    place = len(data)
            elif finish:
                finish = False
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    place = len(data)
            for one, request in server.poll():
                requests.append(request)
                one.answer({"ok": True, "echo": request})
            try:
                chunk = connection.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                break
            received += chunk
            if not chunk or received.endswith(b"\n"):
                break
        return requests, received or None


def test_a_request_and_its_answer(server: ControlServer, name: str) -> None:
    assert socket_path(name).stat().st_mode & 0o777 == 0o600
    assert answer_to(server, b'{"command":"status"}\n') == (
        [{"command": "status"}], b'{"ok":true,"echo":{"command":"status"}}\n'
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello\n", "not JSON"), (b"\n", "not JSON"), (b"[1]\n", "a JSON object"), (b"{}\n{}\n", "one request"),
        (b'{"command":"st', "no end"), (b"", "no end"), (b"\xff\xfe\n", "not JSON"), (b"null\n", "a JSON object"),
        (b"x" * (LONGEST_REQUEST + 1), "4096 bytes at the most"), (b"[" * 4000 + b"\n", "not JSON"),
    ],
)
def test_what_cannot_be_a_request_is_told_what_is_wrong(server: ControlServer, data: bytes, words: str) -> None:
    requests, answer = answer_to(server, data)
    assert requests == [] and answer is not None
    said = json.loads(answer)
    assert said["ok"] is False and words in said["error"]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=6000), st.text(max_size=200).map(lambda text: text.encode() + b"\n")))
def test_any_bytes_are_answered_or_dropped(server: ControlServer, data: bytes) -> None:
    requests, answer = answer_to(server, data)
    if requests:
        assert [json.loads(data.split(b"\n")[0])] == requests
    if answer is not None:
        assert isinstance(json.loads(answer)["ok"], bool)
    assert answer_to(server, b'{"command":"status"}\n')[0] == [{"command": "status"}], "it serves on"


def test_whoever_says_nothing_is_dropped_and_many_are_refused(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(control_socket, "python_monotonic_ns", lambda: now)
    silent = [caller(server) for _ in range(8)]
    server.poll()
    requests, answer = answer_to(server, b'{"command":"status"}\n')
    assert requests == [] and (answer is None or "too many" in json.loads(answer)["error"])
    now += 6 * 10**9
    server.poll()
    assert all(one.recv(10) == b"" for one in silent)
    assert answer_to(server, b'{"command":"status"}\n')[0] == [{"command": "status"}]
    for one in silent:
        one.close()


def test_another_user_is_refused(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_peer", lambda connection: (1, os.geteuid() + 1))
    requests, answer = answer_to(server, b'{"command":"status"}\n')
    assert requests == []
    assert answer is None or "may not ask" in json.loads(answer)["error"]


def test_one_that_goes_away_before_its_answer_harms_nobody(server: ControlServer) -> None:
    connection = caller(server)
    connection.send(b'{"command":"status"}\n')
    ((one, _),) = server.poll()
    connection.close()
    one.answer({"ok": True, "x": "y" * 100_000})
    for _ in range(5):
        server.poll()
    assert answer_to(server, b'{"command":"status"}\n')[0]


def test_what_lies_in_the_way_is_replaced_or_refused(name: str) -> None:
    ControlServer(name)._listener.close()  # of a supervisor that was killed
    ControlServer(name).close()
    path = socket_path(name)
    assert not path.exists()
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(NotOurs, match="is no socket"):
        ControlServer(name)
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(NotOurs, match="is a symbolic link"):
        ControlServer(name)


def test_asking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlError, match="no engine named"):
        ask(name, {"command": "status"}, 1.0)
    server = ControlServer(name)
    with served(server):
        assert ask(name, {"command": "status"}, 5.0) == {"ok": True, "echo": {"command": "status"}}
        with pytest.raises(ControlError, match="cannot be understood"):
            ask(name, {"command": "silence"}, 5.0)
        peer = control_socket._peer
        monkeypatch.setattr(control_socket, "_peer", lambda connection: (peer(connection)[0], os.geteuid() + 1))
        with pytest.raises(ControlError, match="listens there, not you"):
            ask(name, {"command": "status", "secret": "x"}, 5.0)
        monkeypatch.undo()
        Path(server._path).chmod(0o666)
        with pytest.raises(ControlError, match="mode 0666"):
            ask(name, {"command": "status"}, 5.0)
    server.close()
    server = ControlServer(name)
    with pytest.raises(ControlError, match="does not answer within 0 s"):
        ask(name, {"command": "status"}, 0.2)
    server.close()


def test_a_caller_with_a_thousand_open_files_is_answered(server: ControlServer, name: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1_300:
        pytest.skip(f"{soft} open files are allowed here")
    with contextlib.ExitStack() as files, served(server):
        for _ in range(1_100):
            files.enter_context(open(os.devnull, "rb"))
        assert ask(name, {"command": "status"}, 5.0)["ok"]
