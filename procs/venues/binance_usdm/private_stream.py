"""The private stream: a thread that keeps one WebSocket open and hands its frames on untouched.

It knows three events: CONNECTED (catch up by REST, something may have been missed), FRAME and LOST.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from enum import Enum

import websocket

from procs.back_off import back_off_s
from shm.clock import sleep

_PING_EVERY_S = 15.0
_BACK_OFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class StreamEvent(Enum):
    """What the private stream tells its owner."""

    CONNECTED = "connected"
    FRAME = "frame"
    LOST = "lost"


class PrivateStream(threading.Thread):
    """Reconnects for ever with back-off until `stop`; `deliver` is called from this thread."""

    def __init__(self, url_of_key: Callable[[], str], deliver: Callable[[StreamEvent, bytes], None]) -> None:
        super().__init__(name="private-stream", daemon=True)
        self._url_of_key = url_of_key
        self._deliver = deliver
        self._stopping = threading.Event()
        self._socket: websocket.WebSocket | None = None

    def run(self) -> None:
        """Thread body."""
        failures = 0
        while not self._stopping.is_set():
            try:
                self._socket = websocket.create_connection(
                    self._url_of_key(), timeout=_PING_EVERY_S, skip_utf8_validation=True
                )
                self._deliver(StreamEvent.CONNECTED, b"")
                failures = 0
                self._listen(self._socket)
            except (OSError, websocket.WebSocketException) as error:
                if not self._stopping.is_set():
                    self._deliver(StreamEvent.LOST, type(error).__name__.encode())
            if not self._stopping.is_set():
                sleep(back_off_s(failures, _BACK_OFF_S))
                failures += 1

    def _listen(self, connection: websocket.WebSocket) -> None:
        """Deliver frames until the socket breaks; a silent one is pinged, and broken when nothing answers."""
        silent = 0
        while not self._stopping.is_set():
            try:
                opcode, data = connection.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                silent += 1
                if silent > 2:
                    raise
                connection.ping()
                continue
            silent = 0
            if opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                self._deliver(StreamEvent.FRAME, data)
            elif opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException("closed by the venue")

    def reconnect(self) -> None:
        """Break the socket; the thread says LOST and makes a new one, with a new key. From any thread."""
        connection = self._socket
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):  # it is broken already
                connection.sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close the socket and end the thread."""
        self._stopping.set()
        if self._socket is not None:
            self._socket.close(timeout=1)
        self.join(timeout=5)
