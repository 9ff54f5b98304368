"""Pins of no hardware (gpiozero's mock), moved by words: to try the button, on paper, where there are no pins.

`press` and `release`, one a line, move the button's contact. In an engine they are written to a named pipe in the
session's folder, for `bot4 button` to its standard input.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from gpiozero.pins.mock import MockFactory, MockPin

from engine.safety.button_settings import GpioSettings
from procs.gpio.gpiozero_lines import GpiozeroLines
from procs.gpio.lines import EdgeHandler, Lines

PIPE_NAME = "button"


class ContactPin(MockPin):
    """A mock pin whose wire may be closed to ground: then it reads low, whatever pulls it up."""

    grounded = False

    def _set_pull(self, value: str) -> None:
        super()._set_pull(value)
        if self.grounded:
            self.drive_low()

    def ground(self, closed: bool) -> None:
        """Close or open the contact."""
        self.grounded = closed
        if closed:
            self.drive_low()
        else:
            self.drive_high()


def mock_factory(settings: GpioSettings) -> MockFactory:
    """Mock pins with a button at rest."""
    factory = MockFactory(pin_class=ContactPin)
    factory.pin(settings.button_pin).grounded = settings.contact == "normally_closed"
    return factory


def move(factory: MockFactory, settings: GpioSettings, pressed: bool) -> None:
    """Press or release the button; its edge is heard before this returns."""
    factory.pin(settings.button_pin).ground(pressed == (settings.contact == "normally_open"))


def pipe_lines(path: Path) -> Iterable[str]:
    """What is written to a named pipe that is made here, for ever."""
    with contextlib.suppress(FileExistsError):  # of a kill switch before this one
        os.mkfifo(path, 0o600)
    return os.fdopen(os.open(path, os.O_RDWR), encoding="utf-8")  # for both: no end of file when a writer goes


def mock_opener(words: Callable[[], Iterable[str]]) -> Callable[[GpioSettings, EdgeHandler], Lines]:
    """How to open mock pins whose button follows these words."""

    def obey(factory: MockFactory, settings: GpioSettings) -> None:
        for line in words():
            word = line.strip()
            if word in ("press", "release"):
                move(factory, settings, word == "press")

    def open_mock(settings: GpioSettings, on_edge: EdgeHandler) -> Lines:
        factory = mock_factory(settings)
        lines = GpiozeroLines(settings, on_edge, factory)
        threading.Thread(target=obey, args=(factory, settings), name="mock-button", daemon=True).start()
        return lines

    return open_mock
