"""The red button on this machine's pins: the edge itself trips; everything else about it happens on another thread.

Fails closed: a line that cannot be opened or read trips, and so does one that nobody has managed to look at for
gpio.unreadable_s (a library that hangs, a thread that died). Reading every 10 ms finds what an edge should have told.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from engine.safety.button_settings import GpioSettings
from engine.safety.contact import ButtonState, Contact
from procs.gpio.lines import EdgeHandler, GpioError, Lines
from shm.python_clock import python_monotonic_ns

LOOK_EVERY_S = 0.01
_SECOND_NS = 1_000_000_000
# Notes of presses that nobody has written yet: a contact that never rests must not fill the memory.
_NOTES = 64

Note = Callable[..., None]
OpenLines = Callable[[GpioSettings, EdgeHandler], Lines]


class Button:
    """Trips at the first edge; `state` is what is known of the contact. Call `check` from another thread."""

    def __init__(self, settings: GpioSettings, trip: Callable[[], Any], note: Note, open_lines: OpenLines) -> None:
        """trip: two atomic instructions, called on the thread that hears the edge; note(event, **fields)."""
        self.contact = Contact(int(settings.debounce_s * _SECOND_NS))
        self.lines: Lines | None = None
        self._settings = settings
        self._trip, self._note, self._open_lines = trip, note, open_lines
        self._looked_ns = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # (why, stamp of the edge or 0, when it was heard, when everybody was woken; CLOCK_MONOTONIC ns): noted by the
        # thread that looks, after the fact.
        self._presses: deque[tuple[str, int, int, int]] = deque(maxlen=_NOTES)

    @property
    def state(self) -> ButtonState:
        """What is known of the button."""
        return self.contact.state

    def reads_pressed(self) -> bool:
        """Look at the line. Raises GpioError."""
        assert self.lines is not None
        return self.lines.level(self._settings.button_pin) == (self._settings.contact == "normally_closed")

    def start(self) -> None:
        """Open the pins and look for the first time: a button that is pressed, or cannot be read, trips here."""
        try:
            self.lines = self._open_lines(self._settings, self._on_edge)
        except Exception as error:  # whatever a library may raise, the kill switch goes on, tripped
            self._unreadable(error)
            return
        self._looked_ns = python_monotonic_ns()
        self._look("pressed at the start")
        self._thread = threading.Thread(target=self._watch, name="gpio-button", daemon=True)
        self._thread.start()

    def _on_edge(self, edge_ns: int) -> None:
        """The kill path: nothing before the trip but the question whether this edge is another bounce."""
        heard_ns = python_monotonic_ns()
        if self.contact.edge(heard_ns):
            self._trip()
            self._presses.append(("pressed", edge_ns, heard_ns, python_monotonic_ns()))

    def _look(self, why: str) -> None:
        try:
            pressed = self.reads_pressed()
        except Exception as error:
            self._unreadable(error)
        else:
            heard_ns = python_monotonic_ns()
            if self.contact.level(pressed, heard_ns):
                self._trip()
                self._presses.append((why, 0, heard_ns, python_monotonic_ns()))
        self._looked_ns = python_monotonic_ns()

    def _unreadable(self, error: Exception) -> None:
        if self.contact.unreadable():
            self._trip()
            self._note("button cannot be read", error=str(error) or type(error).__name__)

    def _watch(self) -> None:
        told = self.contact.state
        while not self._stopping.wait(LOOK_EVERY_S):
            self._look("pressed, and no edge was heard")
            while self._presses:
                why, edge_ns, heard_ns, awake_ns = self._presses.popleft()
                took = {"edge_to_awake_us": (awake_ns - edge_ns) / 1e3} if edge_ns else {}
                self._note(f"button {why}", edges=self.contact.edges, heard_ns=heard_ns, awake_ns=awake_ns, **took)
            if self.contact.state != told:
                told = self.contact.state
                if told == ButtonState.RELEASED:
                    self._note("button released")

    def check(self) -> None:
        """Trip when nobody has looked at the line for too long. Called in the loop of the kill switch."""
        silent_s = (python_monotonic_ns() - self._looked_ns) / _SECOND_NS
        if self._thread is not None and silent_s > self._settings.unreadable_s:
            self._unreadable(GpioError(f"nobody has looked at the line for {silent_s:.1f} s"))

    def close(self) -> None:
        """Stop looking and let go of the pins."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None
        if self.lines is not None:
            try:
                self.lines.close()
            except GpioError as error:
                self._note("pins could not be closed", error=str(error))
            self.lines = None
