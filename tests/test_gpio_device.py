"""The button on Linux's character device: a faithful copy of what a gpiod request does.

No GPIO hardware, gpiochip device or kernel simulator took part in any of this.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from engine.safety.button_settings import GpioSettings
from engine.safety.contact import ButtonState
from procs.gpio.button import Button
from procs.gpio.cdev_lines import CdevLines
from procs.gpio.lines import GpioError
from shm.clock import python_monotonic_ns
from tests.waiting import until


class FakeRequest:
    """What a gpiod 2 line request does, from its documentation: values, an event queue behind a descriptor, release."""

    def __init__(self, gpiod: Any, config: dict[Any, Any]) -> None:
        self.gpiod, self.released, self.failure = gpiod, False, ""
        self.settings: dict[int, Any] = {}
        for lines, line_settings in config.items():
            for line in lines if isinstance(lines, tuple) else (lines,):
                self.settings[line] = line_settings
        self.values = {line: line_settings.output_value for line, line_settings in self.settings.items()}
        self.events: deque[Any] = deque()
        self.readable, self._writable = os.pipe()
        self._poll = select.poll()  # select takes no descriptor above 1023, and a long test run may have as many
        self._poll.register(self.readable, select.POLLIN)

    def wait_edge_events(self, timeout: float) -> bool:
        if self.failure:
            raise OSError(self.failure)
        return bool(self._poll.poll(timeout * 1000))

    def read_edge_events(self, max_events: int) -> list[Any]:
        taken = [self.events.popleft() for _ in range(min(max_events, len(self.events)))]
        os.read(self.readable, len(taken))
        return taken

    def get_value(self, line: int) -> Any:
        assert not self.released
        return self.values[line]

    def set_value(self, line: int, value: Any) -> None:
        assert self.settings[line].direction == self.gpiod.line.Direction.OUTPUT
        self.values[line] = value

    def release(self) -> None:
        assert not self.released
        self.released = True
        os.close(self.readable)
        os.close(self._writable)

    def move(self, line: int, high: bool, stamp_ns: int) -> None:
        """The world moves an input: an event, if the line listens for that edge."""
        line_module = self.gpiod.line
        self.values[line] = line_module.Value.ACTIVE if high else line_module.Value.INACTIVE
        wanted = {line_module.Edge.BOTH, line_module.Edge.RISING if high else line_module.Edge.FALLING}
        if self.settings[line].edge_detection in wanted:
            self.events.append(SimpleNamespace(timestamp_ns=stamp_ns, line_offset=line))
            os.write(self._writable, b"e")


@pytest.fixture
def fake_gpiod() -> SimpleNamespace:
    """The real package's settings and enumerations, with a request that is not the kernel's."""
    real = pytest.importorskip("gpiod", reason="the package gpiod is not installed")
    fake = SimpleNamespace(line=real.line, LineSettings=real.LineSettings, requests=[])

    def request_lines(path: str, config: dict, consumer: str, event_buffer_size: int) -> FakeRequest:
        fake.requests.append((path, consumer, FakeRequest(fake, config)))
        return fake.requests[-1][2]

    fake.request_lines = request_lines
    return fake


def test_the_character_device_is_asked_for_first_edges_with_monotonic_stamps(fake_gpiod: Any) -> None:
    lines = CdevLines(GpioSettings(), lambda stamp: None, fake_gpiod)
    path, consumer, request = fake_gpiod.requests[0]
    line = fake_gpiod.line
    assert (path, consumer) == ("/dev/gpiochip0", "bot4")
    button = request.settings[17]
    assert (button.direction, button.edge_detection) == (line.Direction.INPUT, line.Edge.BOTH)
    assert (button.bias, button.event_clock) == (line.Bias.PULL_UP, line.Clock.MONOTONIC)
    assert button.debounce_period == timedelta(0), "the kernel's debounce would delay the trip"
    outputs = {pin for pin, each in request.settings.items() if each.direction == line.Direction.OUTPUT}
    assert outputs == {22, 23, 24, 25}
    lines.drive(24, True)
    assert lines.level(24) and not lines.level(22)
    lines.close()
    assert request.released


def test_an_edge_of_the_character_device_trips_and_its_latency_is_noted(fake_gpiod: Any) -> None:
    trips: list[str] = []
    notes: list[dict[str, Any]] = []
    button = Button(
        GpioSettings(), lambda: trips.append(threading.current_thread().name),
        lambda event, **fields: notes.append({"event": event, **fields}),
        lambda settings, on_edge: CdevLines(settings, on_edge, fake_gpiod),
    )
    button.start()
    try:
        request = fake_gpiod.requests[0][2]
        until(lambda: button.state == ButtonState.RELEASED, "button at rest")
        for bounce in range(6):
            request.move(17, bounce % 2 == 0, python_monotonic_ns())
        request.move(17, True, python_monotonic_ns())
        until(lambda: trips, "trip")
        note = until(lambda: [note for note in notes if note["event"] == "button pressed"], "note")[0]
        assert trips == ["gpio-edges"] and note["edge_to_awake_us"] > 0
        request.failure = "No such device"  # the chip is unplugged
        until(lambda: button.state == ButtonState.UNKNOWN, "unreadable button")
        assert len(trips) == 2 and "No such device" in notes[-1]["error"]
    finally:
        button.close()


def test_lines_that_are_taken_are_an_error_in_words(fake_gpiod: Any) -> None:
    def busy(path: str, **options: Any) -> None:
        raise OSError(16, "Device or resource busy")

    fake_gpiod.request_lines = busy
    with pytest.raises(GpioError, match=r"/dev/gpiochip0: lines cannot be requested: .*busy"):
        CdevLines(GpioSettings(), lambda stamp: None, fake_gpiod)
