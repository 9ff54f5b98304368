"""The control socket of an instance: one JSON line in, one JSON line out, for processes of the same user.

The serving end never blocks: it is polled by the supervisor in its tick, takes a few connections at a time, a bounded
line from each, and gives up on those that are slow. Who is at the other end, pid and user, is what the kernel says.
The asking end looks too: it sends nothing (a secret, maybe) to a socket of somebody else.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from procs.trusted import NotOurs, check_ours
from shm.clock import python_monotonic_ns

LONGEST_REQUEST = 4096
_LONGEST_ANSWER = 1 << 18
_CONNECTIONS = 8
_REQUEST_NS = 5 * 1_000_000_000  # to send the whole request in
_ANSWER_NS = 120 * 1_000_000_000  # to wait for the answer and take it in
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ControlError(RuntimeError):
    """The supervisor cannot be asked, or gave no answer that can be understood."""


def socket_path(name: str) -> Path:
    """Where the supervisor of an instance listens; beside its other files."""
    return Path(f"/dev/shm/bot4-{name}.sock")


def _peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other end when it connected or listened."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


@dataclass
class Caller:
    """One connection: who is there, what came so far, what goes out."""

    connection: socket.socket
    pid: int
    uid: int
    until_ns: int
    received: bytearray = field(default_factory=bytearray)
    outgoing: bytes = b""
    asked: bool = False
    answered: bool = False

    def answer(self, content: dict[str, Any]) -> None:
        """Give the one answer; it is sent as the other end takes it."""
        if not self.answered:
            self.answered = True
            self.outgoing = orjson.dumps(content) + b"\n"


def refusal(words: str, **more: Any) -> dict[str, Any]:
    """An answer that says no, and why."""
    return {"ok": False, "error": words, **more}


class ControlServer:
    """The serving end. Call `poll` often; it returns requests that are whole and from a process of our user."""

    def __init__(self, name: str) -> None:
        """The caller holds the lease of the instance, so that what lies there is of a dead one.

        Raises NotOurs when it is somebody else's, or there can be no socket.
        """
        self._path = socket_path(name)
        if check_ours(self._path, stat.S_IFSOCK):
            self._path.unlink()
        self._callers: list[Caller] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        except OSError as error:
            self._listener.close()
            raise NotOurs(f"{self._path}: there can be no control socket: {error.strerror}") from None
        finally:
            os.umask(before)
        self._listener.listen(_CONNECTIONS)

    def poll(self) -> list[tuple[Caller, dict[str, Any]]]:
        """Do what can be done without waiting; the requests that have become whole."""
        self._accept()
        requests = []
        for caller in list(self._callers):
            try:
                if not caller.asked:
                    request = self._receive(caller)
                    if request is not None:
                        requests.append((caller, request))
                self._send(caller)
            except OSError:
                self._drop(caller)  # it has gone
                continue
            if (caller.answered and not caller.outgoing) or python_monotonic_ns() > caller.until_ns:
                self._drop(caller)
        return requests

    def _accept(self) -> None:
        for _ in range(_CONNECTIONS):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # nobody waits, or no descriptor is left for him: later
            connection.setblocking(False)
            pid, uid = _peer(connection)
            caller = Caller(connection, pid, uid, python_monotonic_ns() + _REQUEST_NS)
            if len(self._callers) >= _CONNECTIONS:
                caller.answer(refusal("too many are asking; try again"))
            elif uid != os.geteuid():
                caller.answer(refusal(f"user {uid} may not ask; user {os.geteuid()} may"))
            self._callers.append(caller)
            if caller.answered:  # said as far as it can be said at once
                caller.asked = True
                with contextlib.suppress(OSError):
                    self._send(caller)
                self._drop(caller)

    def _receive(self, caller: Caller) -> dict[str, Any] | None:
        """The request once it is whole; what is wrong with one is answered here. Raises OSError."""
        try:
            data = caller.connection.recv(LONGEST_REQUEST + 1)
        except BlockingIOError:
            return None
        caller.received += data
        line, ended, rest = caller.received.partition(b"\n")
        if not ended and data and len(caller.received) <= LONGEST_REQUEST:
            return None
        caller.asked = True
        caller.until_ns = python_monotonic_ns() + _ANSWER_NS
        if len(line) > LONGEST_REQUEST:
            caller.answer(refusal(f"a request has {LONGEST_REQUEST} bytes at the most"))
        elif not ended:
            caller.answer(refusal("a request is one line, and this one has no end"))
        elif rest:
            caller.answer(refusal("one request a connection"))
        else:
            try:
                request = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                caller.answer(refusal(f"not JSON: {error.msg}"))
                return None
            if isinstance(request, dict):
                return request
            caller.answer(refusal("a request is a JSON object"))
        return None

    def _send(self, caller: Caller) -> None:
        if caller.outgoing:
            with contextlib.suppress(BlockingIOError):
                caller.outgoing = caller.outgoing[caller.connection.send(caller.outgoing) :]

    def _drop(self, caller: Caller) -> None:
        caller.answered, caller.outgoing = True, b""
        caller.connection.close()
        if caller in self._callers:
            self._callers.remove(caller)

    def close(self) -> None:
        """Hang up, and remove the socket."""
        for caller in list(self._callers):
            caller.answer(refusal("the engine has ended"))
            with contextlib.suppress(OSError):
                self._send(caller)
            self._drop(caller)
        self._listener.close()
        self._path.unlink(missing_ok=True)


def ask(name: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Ask the supervisor of an instance; its answer. Raises ControlError.

    An answer has "ok"; one that is not ok has "error".
    """
    path = socket_path(name)
    deadline = python_monotonic_ns() + int(timeout_s * 1e9)
    try:
        if not check_ours(path, stat.S_IFSOCK):
            raise ControlError(f"no engine named {name!r} is running")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            _, uid = _peer(connection)
            if uid != os.geteuid():
                raise ControlError(f"{path}: user {uid} listens there, not you")
            connection.sendall(orjson.dumps(request) + b"\n")
            received = bytearray()
            answered = select.poll()  # select() takes no descriptor above 1023
            answered.register(connection, select.POLLIN)
            while not received.endswith(b"\n"):
                left_ms = (deadline - python_monotonic_ns()) // 1_000_000
                if not answered.poll(max(left_ms, 0)):
                    raise ControlError(f"the supervisor of {name!r} does not answer within {timeout_s:.0f} s")
                data = connection.recv(65536)
                if not data or len(received) > _LONGEST_ANSWER:
                    raise ControlError(f"the supervisor of {name!r} hung up without an answer")
                received += data
    except NotOurs as error:
        raise ControlError(str(error)) from None
    except OSError as error:
        raise ControlError(f"no engine named {name!r} listens ({error.strerror or error})") from None
    try:
        answer = orjson.loads(received)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise ControlError(f"the supervisor of {name!r} gave an answer that cannot be understood")
    return answer
