"""What the kill switch is armed with beside the emergency word: the button on this machine's pins, the remote one.

The kill switch calls `start`, then `turn` in every loop, then `close`. None of them raises: what fails here is noted
and trips, and cancelling goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.config import Settings
from engine.safety.contact import ButtonState
from engine.safety.mode import Mode, mode_of
from engine.safety.panel import View
from procs.gpio.button import Button, OpenLines
from procs.gpio.lines import host_lacks, open_lines
from procs.gpio.panel import PanelThread
from procs.instance import ProcessContext
from procs.key_file import KeyFileError, load_key
from procs.remote_button import RemoteButton
from procs.table import VITAL
from shm.control import CONTROL_WORDS, Readiness, TripSource, set_asserted, trip

Note = Callable[..., None]


def triggers_lack(settings: Settings) -> str:
    """What this machine lacks for the buttons that are asked for, in words; empty when nothing is missing."""
    if settings.gpio.enabled and (missing := host_lacks(settings.gpio)):
        return missing
    if settings.remote_button.enabled:
        try:
            load_key(Path(settings.remote_button.key_file))
        except KeyFileError as error:
            return f"remote_button.key_file: {error}"
    return ""


def _opener(settings: Settings, folder: Path) -> OpenLines:
    """How to open the pins; a mock's button follows a named pipe in the session's folder."""
    if settings.gpio.backend != "mock":
        return open_lines
    from procs.gpio.mock_pins import PIPE_NAME, mock_opener, pipe_lines

    return mock_opener(lambda: pipe_lines(folder / PIPE_NAME))


class Triggers:
    """See the module. Publishes in the control block which triggers are held, known or feared."""

    def __init__(self, context: ProcessContext, note: Note) -> None:
        settings = context.plan.settings
        self._context, self._note = context, note
        self.button: Button | None = None
        self.remote: RemoteButton | None = None
        self._panel: PanelThread | None = None
        self._ready = False
        self._failed = ""
        if settings.gpio.enabled:
            opener = _opener(settings, context.plan.path)
            self.button = Button(settings.gpio, lambda: context.control.trip(TripSource.HARDWARE), note, opener)
            self._panel = PanelThread(settings.gpio, self.button, self.view, note)
        if settings.remote_button.enabled:
            self.remote = RemoteButton(
                settings.remote_button, context.plan.name, settings.venue.embedded,
                lambda: context.control.trip(TripSource.HARDWARE), lambda: context.control.trip(TripSource.DEAD_MAN),
                self.view, note,
            )

    def view(self) -> View:
        """The engine as the panel shows it."""
        control = self._context.control
        mode = mode_of(control.mode)
        ready = all(control.readiness(role) == Readiness.READY for role in VITAL)
        return View(control.tripped or mode == Mode.EMERGENCY, mode == Mode.NORMAL, ready, warning=False)

    def start(self) -> None:
        """Arm. A button that is pressed, or cannot be served, trips."""
        # The first trip of a process loads compiled code, half a second of it: on a word that is nobody's.
        trip(np.zeros(CONTROL_WORDS, np.int64), int(TripSource.HARDWARE))
        self._context.control.doorbell(self._context.role).ring()
        self._publish()
        if self.button is not None:
            self._guarded(self.button.start, TripSource.HARDWARE)
        if self.remote is not None:
            self._guarded(self.remote.start, TripSource.DEAD_MAN)
        if self._panel is not None:
            self._guarded(self._panel.start, None)

    def turn(self) -> None:
        """Watch the watchers, publish what is held, and be ready once every button that must be was heard."""
        if self.button is not None:
            self._guarded(self.button.check, TripSource.HARDWARE)
        if self.remote is not None:
            self._guarded(self.remote.check, TripSource.DEAD_MAN)
        self._publish()
        if not self._ready and (self.remote is None or self.remote.heard):
            self._ready = True
            self._context.ready()

    def _publish(self) -> None:
        """A trigger that is not known to be released is held: no reset while it is."""
        held = 0
        if self.button is not None and self.button.state != ButtonState.RELEASED:
            held |= 1 << TripSource.HARDWARE
        if self.remote is not None and not self.remote.heard:
            held |= 1 << TripSource.DEAD_MAN
        elif self.remote is not None and self.remote.told_to_stop:
            held |= 1 << TripSource.HARDWARE
        set_asserted(self._context.control.words, held)

    def _guarded(self, step: Callable[[], None], source: TripSource | None) -> None:
        """A step that must not stop the kill switch: its failure trips, and is noted once."""
        try:
            step()
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if words != self._failed:
                self._failed = words
                if source is not None:
                    self._context.control.trip(source)
                self._note("trigger failed", error=words)

    def close(self) -> None:
        """Let go of pins and socket."""
        for part in (self._panel, self.button, self.remote):
            if part is not None:
                self._guarded(part.close, None)
