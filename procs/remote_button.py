"""The engine's ear for a button on another machine: a UDP socket and a thread in the kill-switch process.

Bounded input: one buffer of a datagram's size, a small socket buffer, and at most _BURST datagrams before it pauses, so
that a flood takes a few per cent of a core and nothing else; heartbeats that drown in one are lost, which trips.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.safety.button_settings import RemoteButtonSettings
from engine.safety.contact import ButtonState
from engine.safety.panel import View
from engine.safety.remote_protocol import DATAGRAM_BYTES, NONCE_BYTES, EngineEnd, EngineState
from procs.identity import new_key
from procs.key_file import load_key
from shm.python_clock import python_monotonic_ns

_TURN_S = 0.05
_BURST = 64
_RECEIVE_BUFFER = 32 * 1024
_REFUSALS_EVERY_NS = 10_000_000_000

Note = Callable[..., None]


def state_in_bits(view: View) -> int:
    """The engine's state as a remote button is told it."""
    return (
        (EngineState.TRIPPED if view.tripped else 0)
        | (0 if view.normal else EngineState.NOT_NORMAL)
        | (0 if view.ready else EngineState.NOT_READY)
    )


class RemoteButton:
    """Listens; trips through `pressed` when the button says so and through `lost` when it is not heard any more."""

    def __init__(
        self, settings: RemoteButtonSettings, instance: str, embedded: bool, pressed: Callable[[], Any],
        lost: Callable[[], Any], view: Callable[[], View], note: Note,
    ) -> None:
        """embedded: on paper, where a button of no hardware will do."""
        self._settings, self._instance, self._embedded = settings, instance, embedded
        self._pressed, self._lost, self._view, self._note = pressed, lost, view, note
        self._end: EngineEnd | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()  # of who says first that the button is lost
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._noted_state = ButtonState.UNKNOWN
        self._noted_refusals: dict[str, int] = {}
        self._noted_ns = 0

    @property
    def state(self) -> ButtonState:
        """What is known of the button."""
        return self._end.state if self._end is not None else ButtonState.UNKNOWN

    @property
    def heard(self) -> bool:
        """Whether the button is heard, or was never heard and need not be."""
        armed = self._end is not None and self._end.armed
        return (self._end is not None and self._end.heard) if armed else not self._settings.required

    @property
    def told_to_stop(self) -> bool:
        """Whether the button that is heard is not known to be released."""
        return self._end is not None and self._end.armed and self._end.state != ButtonState.RELEASED

    @property
    def end(self) -> EngineEnd | None:
        """The protocol's end and its counters; None before the start."""
        return self._end

    def start(self) -> None:
        """Read the key and listen. Raises KeyFileError, OSError."""
        settings = self._settings
        end = EngineEnd(
            load_key(Path(settings.key_file)), self._instance, int(settings.lost_s * 1e9),
            lambda: new_key(NONCE_BYTES), self._embedded,
        )
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((settings.host, settings.port))
        self._socket.settimeout(_TURN_S)
        self._end = end
        self._thread = threading.Thread(target=self._listen, name="remote-button", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        taken = 0
        try:
            while not self._stopping.is_set():
                if self._take_one():
                    taken += 1
                else:
                    taken = 0
                if taken >= _BURST:
                    taken = 0
                    self._stopping.wait(_TURN_S)
                self.check()
                self._write_notes()
        except Exception as error:  # nothing is heard any more: the button will be lost, and whoever looks says so
            self._note("remote button: not listening any more", error=f"{type(error).__name__}: {error}")

    def _take_one(self) -> bool:
        """Wait a moment for a datagram; False when none came."""
        assert self._socket is not None and self._end is not None
        try:
            data, sender = self._socket.recvfrom(DATAGRAM_BYTES + 1)
        except TimeoutError:
            return False
        reply, press = self._end.receive(data, python_monotonic_ns(), state_in_bits(self._view()))
        if press:
            self._pressed()
        if reply is not None:
            try:
                self._socket.sendto(reply, sender)
            except OSError as error:  # the way back is gone for now; the button says HELLO again
                self._note("remote button: no answer could be sent", error=str(error))
        return True

    def check(self) -> None:
        """Trip when an armed button has just been lost. Called by the thread and by the loop of the kill switch."""
        with self._lock:
            lost = self._end is not None and self._end.lost(python_monotonic_ns())
            if lost:
                self._lost()
        if lost:
            self._note("remote button lost", beats=self._end.beats if self._end is not None else 0)

    def _write_notes(self) -> None:
        assert self._end is not None
        end, now = self._end, python_monotonic_ns()
        if end.state != self._noted_state:
            self._noted_state = end.state
            self._note(f"remote button {end.state.name.lower()}", beats=end.beats, sessions=end.sessions)
        refused = {refusal.name.lower(): count for refusal, count in end.refused.items()}
        if refused != self._noted_refusals and now - self._noted_ns > _REFUSALS_EVERY_NS:
            self._noted_refusals, self._noted_ns = refused, now
            self._note("remote button: datagrams refused", **refused)

    def close(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)
        if self._socket is not None:
            self._socket.close()
