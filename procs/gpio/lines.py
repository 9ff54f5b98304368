"""The pins as the button and the panel see them, whoever moves them.

Wiring: the contact lies between its pin and ground, and the pin is pulled up, so that an open contact or a cut wire
reads high and a closed one low. Outputs are on when high. Nothing here debounces: every edge is reported.

The libraries are imported by whoever opens the lines; a machine without pins needs none of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.safety.button_settings import GpioSettings

# Called with the kernel's CLOCK_MONOTONIC stamp of an edge in ns, 0 where there is none, on a thread of the library.
EdgeHandler = Callable[[int], None]


class GpioError(RuntimeError):
    """Pins that cannot be opened, read or moved; the message says what is missing."""


class Lines(Protocol):
    """Opened pins. Every method may be called from any thread and raises GpioError."""

    def level(self, pin: int) -> bool:
        """Whether a pin, input or output, is high."""

    def drive(self, pin: int, high: bool) -> None:
        """Set an output."""

    def close(self) -> None:
        """Let go of the pins; afterwards no edge is reported."""


def outputs_of(settings: GpioSettings) -> list[int]:
    """The pins that are driven."""
    pins = [settings.green_pin, settings.yellow_pin, settings.red_pin, settings.buzzer_pin]
    return [*pins, settings.loopback_pin] if settings.loopback_pin >= 0 else pins


def open_lines(settings: GpioSettings, on_edge: EdgeHandler) -> Lines:
    """Open real pins as the settings say; on_edge hears every edge of the button's pin. Raises GpioError."""
    missing = host_lacks(settings)
    if missing:
        raise GpioError(missing)
    if settings.backend == "cdev":
        import gpiod

        from procs.gpio.cdev_lines import CdevLines

        return CdevLines(settings, on_edge, gpiod)
    from procs.gpio.gpiozero_lines import GpiozeroLines, pin_factory

    return GpiozeroLines(settings, on_edge, pin_factory(settings))


def host_lacks(settings: GpioSettings) -> str:
    """What this machine lacks for the pins of the settings, in words; empty when nothing is seen to be missing.

    Imports nothing: some of these libraries refuse to be imported where there are no pins.
    """
    extra = "install Bot4 with the extra 'gpio'"
    if settings.backend == "cdev":
        if importlib.util.find_spec("gpiod") is None:
            return f"gpio.backend = 'cdev': the package gpiod is not installed; {extra}"
        return _chip_lacks(settings)
    if importlib.util.find_spec("gpiozero") is None:
        return f"gpio.backend = {settings.backend!r}: the package gpiozero is not installed; {extra}"
    if settings.backend == "mock":
        return ""
    names = {"lgpio": ("lgpio",), "rpigpio": ("RPi",), "auto": ("lgpio", "RPi")}[settings.factory]
    if not any(importlib.util.find_spec(name) for name in names):
        wanted = " or ".join({"RPi": "RPi.GPIO"}.get(name, name) for name in names)
        return f"gpio.backend = 'gpiozero': neither its pin library {wanted} is installed; {extra} on a Raspberry Pi"
    if not list(Path("/dev").glob("gpiochip*")) and not Path("/dev/gpiomem").exists():
        return "gpio.backend = 'gpiozero': this machine has no pins (no /dev/gpiochip* and no /dev/gpiomem)"
    return ""


def _chip_lacks(settings: GpioSettings) -> str:
    if not Path(settings.chip).exists():
        found = ", ".join(sorted(str(path) for path in Path("/dev").glob("gpiochip*"))) or "none"
        return f"gpio.chip = {settings.chip!r}: there is no such device; there are: {found}"
    if not os.access(settings.chip, os.R_OK | os.W_OK):
        return f"gpio.chip = {settings.chip!r}: no permission; add this user to the group that owns it (gpio)"
    return ""
