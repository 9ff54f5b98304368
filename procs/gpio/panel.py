"""Lights and buzzer on a thread of their own, and the self-test. Nothing that can cancel waits for anything here."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.safety.button_settings import GpioSettings
from engine.safety.contact import ButtonState
from engine.safety.panel import Outputs, Panel, View, self_test_due
from procs.gpio.button import Button, Note
from procs.gpio.lines import GpioError, Lines
from shm.python_clock import python_monotonic_ns, wall_ns

_TURN_S = 0.05
_LOOKS = 5  # at the button's line while lights and buzzer are on
_SECOND_NS = 1_000_000_000


class PanelThread:
    """Shows what `view` says. An output that cannot be moved is noted, becomes a warning, and is tried again."""

    def __init__(self, settings: GpioSettings, button: Button, view: Callable[[], View], note: Note) -> None:
        self._settings, self._button, self._view, self._note = settings, button, view, note
        self._pins = (settings.green_pin, settings.yellow_pin, settings.red_pin, settings.buzzer_pin)
        self._panel = Panel(int(settings.trip_buzzer_s * _SECOND_NS))
        self._shown: dict[int, bool] = {}
        self._broken: set[int] = set()
        self._failed_test = False
        self._last_day = -1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpio-panel", daemon=True)

    def start(self) -> None:
        """Test lights, buzzer and line once, then show."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and switch everything off."""
        self._stopping.set()
        self._thread.join(1.0)
        self._show(Outputs(False, False, False, False))

    def _run(self) -> None:
        due = True
        noted = ""
        while True:
            try:
                if due and self._button.state != ButtonState.UNKNOWN:
                    due = False
                    self._self_test()
                view = self._view()
                warning = view.warning or self._failed_test or bool(self._broken)
                self._show(self._panel.outputs(view._replace(warning=warning), python_monotonic_ns()))
                noted = ""
            except Exception as error:  # the panel is no reason to stop anything, and goes on itself
                if str(error) != noted:
                    noted = str(error)
                    self._note("panel failed", error=f"{type(error).__name__}: {error}")
            if self._stopping.wait(_TURN_S):
                return
            again, self._last_day = self_test_due(self._settings.self_test_hour, wall_ns(), self._last_day)
            due = due or again

    def _show(self, outputs: Outputs) -> None:
        for pin, high in zip(self._pins, outputs, strict=True):
            if self._shown.get(pin) != high:
                self._drive(pin, high)

    def _drive(self, pin: int, high: bool) -> None:
        lines = self._button.lines
        try:
            if lines is None:
                raise GpioError("pins are not open")
            lines.drive(pin, high)
        except Exception as error:
            if pin not in self._broken:
                self._broken.add(pin)
                self._note("output cannot be moved", pin=pin, error=str(error))
            self._shown.pop(pin, None)
        else:
            self._shown[pin] = high
            self._broken.discard(pin)

    # --- self-test ------------------------------------------------------------------------------------------------

    def _self_test(self) -> None:
        """Pulse lights and buzzer, read them and the button's line back; a finding is noted and stays a warning."""
        lines = self._button.lines
        if lines is None or self._view().tripped:
            self._note("self-test left out", why="pins are not open" if lines is None else "tripped")
            return
        findings = self._pulse(lines)
        if self._settings.loopback_pin >= 0 and self._button.state == ButtonState.RELEASED:
            findings += self._open_the_loop(lines)
        self._failed_test = bool(findings)
        self._note("self-test", passed=not findings, findings=findings, loopback=self._settings.loopback_pin >= 0)

    def _pulse(self, lines: Lines) -> list[str]:
        findings: list[str] = []
        try:
            for high in (True, False):
                for pin in self._pins:
                    self._drive(pin, high)
                findings += [
                    f"pin {pin} reads {'low' if high else 'high'} when it is driven {'high' if high else 'low'}"
                    for pin in self._pins
                    if pin not in self._broken and lines.level(pin) != high
                ]
                for _ in range(_LOOKS):
                    # An edge here is a trip, as at any other time; this finds a line that is not what it was.
                    if self._button.reads_pressed() != (self._button.state == ButtonState.PRESSED):
                        findings.append("the button's line does not read as it did")
                        break
                    self._stopping.wait(self._settings.pulse_s / _LOOKS if high else 0.0)
        except Exception as error:
            findings.append(f"{type(error).__name__}: {error}")
        return findings + [f"pin {pin} cannot be moved" for pin in sorted(self._broken)]

    def _open_the_loop(self, lines: Lines) -> list[str]:
        """The relay opens the button's loop: the line must read pressed, and at rest again when the relay closes.

        For that time, four times relay_settle_s at the most, a press is not heard at its edge but when the loop is
        closed again, from a contact that is still open: the button must latch.
        """
        settle_s, pin = self._settings.relay_settle_s, self._settings.loopback_pin
        findings: list[str] = []
        self._button.contact.begin_test(python_monotonic_ns() + int(4 * settle_s * _SECOND_NS))
        try:
            try:
                lines.drive(pin, True)
                self._stopping.wait(settle_s)
                if not self._button.reads_pressed():
                    findings.append("the loop was opened and the button's line did not see it")
            finally:
                lines.drive(pin, False)
                self._stopping.wait(settle_s)
            if self._button.reads_pressed():
                findings.append("the loop was closed again and the button's line did not see it")
        except Exception as error:
            findings.append(f"loopback: {type(error).__name__}: {error}")
        finally:
            self._button.contact.end_test()
        return findings
