"""Pins through gpiozero's pin factories: lgpio or RPi.GPIO on a Raspberry Pi (procs/gpio/mock_pins.py: its mock).

The pins are used directly, not through gpiozero's Button: that remembers what it told last and then keeps edges from
its listener (a press that follows a suppressed release is not reported).
"""

from __future__ import annotations

from typing import Any

from engine.safety.button_settings import GpioSettings
from procs.gpio.lines import EdgeHandler, GpioError, outputs_of


def pin_factory(settings: GpioSettings) -> Any:
    """A pin factory of real pins. Raises GpioError saying what each that was tried had to say."""
    said: list[str] = []
    for name in ("lgpio", "rpigpio") if settings.factory == "auto" else (settings.factory,):
        try:
            if name == "lgpio":
                from gpiozero.pins.lgpio import LGPIOFactory

                return LGPIOFactory()
            from gpiozero.pins.rpigpio import RPiGPIOFactory

            return RPiGPIOFactory()
        except Exception as error:  # each library has its own, down to RuntimeError at its import
            said.append(f"{name}: {type(error).__name__}: {error}")
    raise GpioError(f"gpio.factory = {settings.factory!r}: {'; '.join(said)}")


class GpiozeroLines:
    """Lines on the pins of a factory (procs/gpio/lines.py)."""

    def __init__(self, settings: GpioSettings, on_edge: EdgeHandler, factory: Any) -> None:
        self.factory = factory
        # gpiozero keeps a weak reference only: this is the one that keeps the handler alive.
        self._on_change = lambda ticks, state: on_edge(0)
        self._pins: dict[int, Any] = {}
        try:
            for number in outputs_of(settings):
                pin = self._pins[number] = factory.pin(number)
                pin.output_with_state(False)
            button = self._pins[settings.button_pin] = factory.pin(settings.button_pin)
            button.input_with_pull("up")
            button.bounce = None
            button.edges = "both"
            button.when_changed = self._on_change
        except Exception as error:
            raise GpioError(f"pins cannot be opened: {type(error).__name__}: {error}") from None

    def level(self, pin: int) -> bool:
        """See Lines."""
        try:
            return bool(self._pins[pin].state)
        except Exception as error:
            raise GpioError(f"pin {pin} cannot be read: {type(error).__name__}: {error}") from None

    def drive(self, pin: int, high: bool) -> None:
        """See Lines."""
        try:
            self._pins[pin].state = high
        except Exception as error:
            raise GpioError(f"pin {pin} cannot be set: {type(error).__name__}: {error}") from None

    def close(self) -> None:
        """See Lines."""
        try:
            self.factory.close()
        except Exception as error:
            raise GpioError(f"pins cannot be closed: {type(error).__name__}: {error}") from None
