"""Pins through Linux's GPIO character device, with the package gpiod (libgpiod 2).

Edges carry the kernel's CLOCK_MONOTONIC stamp. The kernel's debounce stays off: it reports an edge only once the line
has rested for the whole period, which would delay every trip by it.
"""

from __future__ import annotations

import threading
from typing import Any

from engine.safety.button_settings import GpioSettings
from procs.gpio.lines import EdgeHandler, GpioError, outputs_of

_CONSUMER = "bot4"
_WAIT_S = 0.25
_EVENTS = 64


class CdevLines:
    """Lines of one chip (procs/gpio/lines.py); a thread hears the edges."""

    def __init__(self, settings: GpioSettings, on_edge: EdgeHandler, gpiod: Any) -> None:
        """gpiod: the module, or one that behaves like it."""
        line = gpiod.line
        self._values = {True: line.Value.ACTIVE, False: line.Value.INACTIVE}
        self._high = line.Value.ACTIVE
        self._button = settings.button_pin
        self._on_edge = on_edge
        self._failure = ""
        self._closing = threading.Event()
        # An object of the library is not safe against two threads; it is held for one call at a time.
        self._lock = threading.Lock()
        config: dict[Any, Any] = {
            settings.button_pin: gpiod.LineSettings(
                direction=line.Direction.INPUT, edge_detection=line.Edge.BOTH, bias=line.Bias.PULL_UP,
                event_clock=line.Clock.MONOTONIC,
            ),
            tuple(outputs_of(settings)): gpiod.LineSettings(
                direction=line.Direction.OUTPUT, output_value=line.Value.INACTIVE
            ),
        }
        try:
            self._request = gpiod.request_lines(
                settings.chip, config=config, consumer=_CONSUMER, event_buffer_size=_EVENTS
            )
        except (OSError, ValueError) as error:
            raise GpioError(f"{settings.chip}: lines cannot be requested: {error}") from None
        self._thread = threading.Thread(target=self._listen, name="gpio-edges", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while not self._closing.is_set():
                if self._request.wait_edge_events(_WAIT_S):
                    with self._lock:
                        events = self._request.read_edge_events(_EVENTS)
                    for event in events:
                        self._on_edge(event.timestamp_ns)
        except Exception as error:
            # Whoever looks at the level next hears of it, and trips.
            self._failure = f"edges are not heard any more: {type(error).__name__}: {error}"

    def level(self, pin: int) -> bool:
        """See Lines."""
        if self._failure and pin == self._button:
            raise GpioError(self._failure)
        try:
            with self._lock:
                return bool(self._request.get_value(pin) == self._high)
        except Exception as error:
            raise GpioError(f"line {pin} cannot be read: {type(error).__name__}: {error}") from None

    def drive(self, pin: int, high: bool) -> None:
        """See Lines."""
        try:
            with self._lock:
                self._request.set_value(pin, self._values[high])
        except Exception as error:
            raise GpioError(f"line {pin} cannot be set: {type(error).__name__}: {error}") from None

    def close(self) -> None:
        """See Lines."""
        self._closing.set()
        self._thread.join(4 * _WAIT_S)
        try:
            with self._lock:
                self._request.release()
        except Exception as error:
            raise GpioError(f"lines cannot be released: {type(error).__name__}: {error}") from None
