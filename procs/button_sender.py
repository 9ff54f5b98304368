"""The machine beside the button: watches the contact and tells the engine, for as long as it runs.

Needs nothing but Python and, for real pins, one of their libraries: numba, numpy and the rest of the engine are not
imported here. Ending this program is the loss of the button, and trips.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Any

from engine.safety.button_settings import GpioSettings, RemoteButtonSettings
from engine.safety.panel import View
from engine.safety.remote_protocol import DATAGRAM_BYTES, MOCK_PINS, NONCE_BYTES, ButtonEnd, EngineState
from procs.gpio.button import Button, OpenLines
from procs.gpio.panel import PanelThread
from procs.identity import new_key
from shm.python_clock import python_monotonic_ns

_URGENT_NS = 20_000_000  # between two reports of a press that nobody has answered
_LOOK_UP_EVERY_NS = 10_000_000_000
_SECOND_NS = 1_000_000_000


class EngineUnknown(RuntimeError):
    """The engine's address cannot be looked up."""


class ButtonSender:
    """Tells an engine how the button is. `say(event, **fields)` gets one line for each change."""

    def __init__(
        self, gpio: GpioSettings, remote: RemoteButtonSettings, instance: str, address: tuple[str, int], key: bytes,
        open_pins: OpenLines, say: Callable[..., None],
    ) -> None:
        """address: host and port of the engine; instance: its engine.name."""
        self._address, self._say = address, say
        flags = MOCK_PINS if gpio.backend == "mock" else 0
        self._end = ButtonEnd(
            key, instance, int(remote.heartbeat_s * _SECOND_NS), int(remote.lost_s * _SECOND_NS),
            lambda: new_key(NONCE_BYTES), flags,
        )
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._pressed = False
        self.button = Button(gpio, self._press, say, open_pins)
        self._panel = PanelThread(gpio, self.button, self._view, say)
        self._socket: socket.socket | None = None
        self._looked_up_ns = 0
        self._said: tuple[bool, int] | None = None

    def _press(self) -> None:
        """On the thread that heard the edge."""
        self._pressed = True
        os.eventfd_write(self._wake, 1)

    def _view(self) -> View:
        heard = self._end.heard(python_monotonic_ns())
        state = self._end.engine_state if heard else EngineState.NOT_READY
        return View(
            tripped=bool(state & EngineState.TRIPPED), normal=not state & EngineState.NOT_NORMAL,
            ready=not state & EngineState.NOT_READY, warning=not heard,
        )

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Serve the button until goes_on() is false. Raises EngineUnknown when the address never could be looked up."""
        self._connect()
        self.button.start()
        self._panel.start()
        try:
            while goes_on():
                self._turn()
        finally:
            self._panel.close()
            self.button.close()
            if self._socket is not None:
                self._socket.close()
            os.close(self._wake)

    def _turn(self) -> None:
        self.button.check()
        pressed, self._pressed = self._pressed, False
        self._end.update(self.button.state, pressed)
        now = python_monotonic_ns()
        if now >= self._end.next_ns(_URGENT_NS) or pressed:
            for datagram in self._end.datagrams(now):
                self._send(datagram)
        if not self._end.heard(now) and now - self._looked_up_ns > _LOOK_UP_EVERY_NS:
            self._connect()
        self._await(max(0, self._end.next_ns(_URGENT_NS) - python_monotonic_ns()) / 1e6)
        self._tell()

    def _connect(self) -> None:
        """Look the engine up; a failure leaves the address that was known before."""
        self._looked_up_ns = python_monotonic_ns()
        host, port = self._address
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind)
            made.setblocking(False)
            made.connect(address)
        except OSError as error:
            if self._socket is None:
                raise EngineUnknown(f"{host}:{port}: {error.strerror or error}") from None
            return
        if self._socket is not None:
            self._socket.close()
        self._socket = made

    def _send(self, datagram: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.send(datagram)
        except OSError:
            return  # nobody listens, or the network is away: what counts is whether an answer comes

    def _await(self, timeout_ms: float) -> None:
        """Until a datagram comes, the button is pressed, or it is time to send."""
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        for descriptor, _ in poller.poll(timeout_ms):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
                continue
            try:
                self._end.receive(self._socket.recv(DATAGRAM_BYTES + 1), python_monotonic_ns())
            except OSError:
                continue  # the error of an earlier send: nobody listens there

    def _tell(self) -> None:
        heard = self._end.heard(python_monotonic_ns())
        state = self._end.engine_state if heard else 0
        if (heard, state) != self._said:
            self._said = (heard, state)
            bits: dict[str, Any] = {bit.name.lower(): bool(state & bit) for bit in EngineState} if heard else {}
            self._say("the engine hears this button" if heard else "the engine does not hear this button", **bits)
