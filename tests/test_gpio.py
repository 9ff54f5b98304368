"""Button and panel on gpiozero's mock pins, and on pins that fail.

No GPIO hardware, gpiochip device or kernel simulator took part in any of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import Settings
from engine.safety.button_settings import GpioSettings, RemoteButtonSettings
from engine.safety.contact import ButtonState
from engine.safety.mode import Mode
from engine.safety.panel import View
from procs.gpio.button import Button
from procs.gpio.gpiozero_lines import GpiozeroLines, pin_factory
from procs.gpio.lines import GpioError, host_lacks, open_lines
from procs.gpio.mock_pins import ContactPin, mock_factory, move
from procs.gpio.panel import PanelThread
from procs.instance import Mapping, Plan, ProcessContext
from procs.table import VITAL, Role
from procs.triggers import Triggers, triggers_lack
from shm.clock import sleep
from shm.control import Readiness, TripSource, trip_count, tripped_sources
from tests.instance_memory import small_instance
from tests.waiting import until

RELEASED, PRESSED, UNKNOWN = ButtonState.RELEASED, ButtonState.PRESSED, ButtonState.UNKNOWN
CONTACTS = ("normally_closed", "normally_open")
QUICK = GpioSettings(enabled=True, backend="mock", pulse_s=0.02, self_test_hour=-1, trip_buzzer_s=0.0)
NORMAL = View(tripped=False, normal=True, ready=True, warning=False)


class Bench:
    """A button, and a panel where one is wanted, on mock pins; trips and notes are lists."""

    def __init__(self, settings: GpioSettings, pressed: bool = False) -> None:
        self.settings = settings
        self.factory = mock_factory(settings)
        if pressed:
            self.factory.pin(settings.button_pin).grounded ^= True
        self.trips: list[str] = []
        self.notes: list[dict[str, Any]] = []
        self.happened: list[str] = []
        self.view = NORMAL
        self.button = Button(
            settings, self._trip, self._note, lambda settings, on_edge: GpiozeroLines(settings, on_edge, self.factory)
        )
        self.panel = PanelThread(settings, self.button, lambda: self.view, self._note)

    def _trip(self) -> None:
        self.trips.append(threading.current_thread().name)
        self.happened.append("trip")

    def _note(self, event: str, **fields: Any) -> None:
        self.happened.append(event)
        self.notes.append({"event": event, **fields})

    def events(self, name: str) -> list[dict[str, Any]]:
        return [note for note in self.notes if note["event"] == name]

    def pin(self, number: int) -> ContactPin:
        return self.factory.pin(number)

    def contact(self, pressed: bool) -> None:
        move(self.factory, self.settings, pressed)

    def lights(self) -> str:
        names = {"green": self.settings.green_pin, "yellow": self.settings.yellow_pin, "red": self.settings.red_pin}
        return " ".join(name for name, pin in names.items() if self.pin(pin).state)


@contextlib.contextmanager
def bench(settings: GpioSettings = QUICK, pressed: bool = False, panel: bool = False) -> Iterator[Bench]:
    made = Bench(settings, pressed)
    made.button.start()
    if panel:
        made.panel.start()
    try:
        yield made
    finally:
        if panel:
            made.panel.close()
        made.button.close()


@pytest.mark.parametrize("contact", CONTACTS)
def test_the_edge_itself_trips_before_anything_else(contact: str) -> None:
    with bench(dataclasses.replace(QUICK, contact=contact)) as made:
        until(lambda: made.events("button released"), "button at rest")
        assert made.trips == []
        made.contact(pressed=True)
        assert made.trips == [threading.current_thread().name], "on the thread of the edge, before it returned"
        note = until(lambda: made.events("button pressed"), "note")[0]
        assert note["edges"] == 1
        assert made.happened == ["button released", "trip", "button pressed"], "the note comes after the trip"
        made.contact(pressed=False)
        until(lambda: made.button.state == RELEASED, "release")
        until(lambda: len(made.events("button released")) == 2, "note")
        assert len(made.trips) == 1


def test_a_cut_wire_of_a_normally_closed_button_trips() -> None:
    with bench() as made:
        until(lambda: made.button.state == RELEASED, "button at rest")
        made.pin(17).ground(False)  # whether the contact or the wire has opened, the pull-up cannot know
        assert len(made.trips) == 1 and made.button.state == PRESSED


def test_the_bounces_of_a_press_are_one_trip_and_those_of_a_release_none() -> None:
    with bench() as made:
        until(lambda: made.button.state == RELEASED, "button at rest")
        for _ in range(7):
            made.contact(pressed=True)
            made.contact(pressed=False)
        made.contact(pressed=True)
        assert len(made.trips) == 1
        for _ in range(5):
            made.contact(pressed=False)
            made.contact(pressed=True)
        made.contact(pressed=False)
        assert made.button.state == PRESSED, "50 ms have not passed"
        until(lambda: made.button.state == RELEASED, "release")
        assert len(made.trips) == 1
        made.contact(pressed=True)
        assert len(made.trips) == 2, "the next press is a trip of its own"


@pytest.mark.parametrize("contact", CONTACTS)
def test_a_button_that_is_pressed_at_the_start_trips(contact: str) -> None:
    with bench(dataclasses.replace(QUICK, contact=contact), pressed=True) as made:
        assert len(made.trips) == 1 and made.button.state == PRESSED
        until(lambda: made.events("button pressed at the start"), "note")


def test_an_edge_that_nobody_heard_is_found_by_looking() -> None:
    with bench() as made:
        until(lambda: made.button.state == RELEASED, "button at rest")
        made.pin(17).when_changed = None
        made.contact(pressed=True)
        until(lambda: made.trips, "trip")
        assert made.trips == ["gpio-button"]
        until(lambda: made.events("button pressed, and no edge was heard"), "note")


def test_a_line_that_cannot_be_read_trips_once_and_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as made:
        until(lambda: made.button.state == RELEASED, "button at rest")

        def broken(pin: ContactPin) -> bool:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(ContactPin, "_get_state", broken)
        until(lambda: made.trips, "trip")
        note = until(lambda: made.events("button cannot be read"), "note")
        assert "OSError: [Errno 5]" in note[0]["error"] and made.button.state == UNKNOWN
        sleep(0.1)
        assert len(made.trips) == 1
        monkeypatch.undo()
        until(lambda: made.button.state == RELEASED, "button at rest again")
        assert len(made.trips) == 1


def test_a_library_that_hangs_trips() -> None:
    release = threading.Event()
    with bench(dataclasses.replace(QUICK, unreadable_s=0.2)) as made:
        until(lambda: made.button.state == RELEASED, "button at rest")
        made.button.check()
        assert made.trips == []
        assert made.button.lines is not None
        made.button.lines.level = lambda pin: release.wait(30) or False  # type: ignore[method-assign]
        until(lambda: made.button.check() or made.trips, "trip")
        assert "nobody has looked at the line" in made.events("button cannot be read")[0]["error"]
        release.set()


def test_pins_that_cannot_be_opened_trip_and_raise_nothing() -> None:
    made = Bench(QUICK)

    def refuse(settings: GpioSettings, on_edge: Any) -> Any:
        raise RuntimeError("This module can only be run on a Raspberry Pi!")

    made.button = Button(QUICK, made._trip, made._note, refuse)
    made.button.start()
    made.button.check()
    assert len(made.trips) == 1 and made.button.state == UNKNOWN
    assert made.events("button cannot be read")[0]["error"] == "This module can only be run on a Raspberry Pi!"
    made.button.close()


# --- panel ------------------------------------------------------------------------------------------------------------


def test_the_lights_follow_the_engine() -> None:
    with bench(panel=True) as made:
        for view, shown in (
            (NORMAL, "green"), (NORMAL._replace(ready=False), "yellow"), (NORMAL._replace(normal=False), "yellow"),
            (NORMAL._replace(tripped=True), "red"), (NORMAL, "green"),
        ):
            made.view = view
            until(lambda shown=shown: made.lights() == shown, f"{shown} light")  # type: ignore[misc]
    assert made.lights() == "", "dark when nobody serves it"


def test_the_buzzer_sounds_at_a_trip() -> None:
    with bench(dataclasses.replace(QUICK, trip_buzzer_s=5.0), panel=True) as made:
        until(lambda: made.events("self-test"), "self-test")
        made.pin(25).clear_states()
        made.view = NORMAL._replace(tripped=True)
        until(lambda: len(made.pin(25).states) >= 4, "two beeps")
        assert [state.state for state in made.pin(25).states][:4] == [False, True, False, True]


def test_a_light_and_a_buzzer_that_fail_are_noted_and_stop_nothing() -> None:
    with bench(dataclasses.replace(QUICK, trip_buzzer_s=5.0), panel=True) as made:
        until(lambda: made.lights() == "green", "green light")

        def broken(value: bool) -> None:
            raise RuntimeError("short circuit")

        made.pin(24)._set_state = broken
        made.pin(25)._set_state = broken
        made.view = NORMAL._replace(tripped=True)
        until(lambda: len(made.events("output cannot be moved")) == 2, "notes")
        assert {note["pin"] for note in made.events("output cannot be moved")} == {24, 25}
        made.contact(pressed=True)
        assert len(made.trips) == 1
        made.view = NORMAL
        until(lambda: "yellow" in made.lights(), "warning")
        for pin in (24, 25):
            del made.pin(pin)._set_state
        until(lambda: made.lights() == "green", "green light again")


def test_a_view_that_fails_is_noted_and_the_panel_goes_on() -> None:
    with bench(panel=True) as made:
        until(lambda: made.lights() == "green", "green light")
        made.view = None  # type: ignore[assignment]
        until(lambda: made.events("panel failed"), "note")
        made.view = NORMAL._replace(tripped=True)
        until(lambda: made.lights() == "red", "red light")


def test_the_self_test_pulses_everything_and_reads_it_back() -> None:
    with bench(panel=True) as made:
        note = until(lambda: made.events("self-test"), "self-test")[0]
        assert note == {"event": "self-test", "passed": True, "findings": [], "loopback": False}
        for pin in (22, 23, 24, 25):
            assert any(state.state for state in made.pin(pin).states), f"pin {pin} was never on"
        assert made.trips == []


def test_an_output_that_does_not_follow_is_a_finding_and_a_warning() -> None:
    made = Bench(QUICK)
    made.pin(22)._get_state = lambda: True
    made.button.start()
    made.panel.start()
    try:
        note = until(lambda: made.events("self-test"), "self-test")[0]
        assert note["findings"] == ["pin 22 reads high when it is driven low"] and not note["passed"]
        until(lambda: made.lights() == "green yellow", "yellow light beside the one that is stuck")
        assert made.trips == [], "a failed self-test warns"
    finally:
        made.panel.close()
        made.button.close()


class Relay:
    """Wires the loopback pin to the button's loop, as a relay in series with its contact."""

    def __init__(self, made: Bench, works: bool = True) -> None:
        pin, button = made.pin(made.settings.loopback_pin), made.pin(made.settings.button_pin)
        drive = pin._set_state

        def switch(value: bool) -> None:
            drive(value)
            if works:
                (button.drive_high if value else button.drive_low)()

        pin._set_state = switch


LOOPED = dataclasses.replace(QUICK, loopback_pin=26)


@pytest.mark.parametrize("works", [True, False])
def test_the_loopback_opens_the_loop_and_is_no_trip(works: bool) -> None:
    made = Bench(LOOPED)
    Relay(made, works)
    made.button.start()
    made.panel.start()
    try:
        note = until(lambda: made.events("self-test"), "self-test")[0]
        assert note["loopback"] and note["passed"] == works
        assert works or note["findings"] == ["the loop was opened and the button's line did not see it"]
        until(lambda: made.lights() == ("green" if works else "yellow"), "light")
        assert made.trips == [] and made.button.state == RELEASED
        made.contact(pressed=True)
        assert len(made.trips) == 1, "the line is heard again"
    finally:
        made.panel.close()
        made.button.close()


def test_a_press_during_the_loopback_trips_when_the_loop_is_closed_again() -> None:
    made = Bench(LOOPED)
    button = made.pin(17)

    def press_meanwhile(value: bool) -> None:
        button.drive_high()  # the contact opens while the relay has the loop open, and stays open

    made.pin(26)._set_state = press_meanwhile
    made.button.start()
    made.panel.start()
    try:
        until(lambda: made.trips, "trip")
        assert made.button.state == PRESSED
    finally:
        made.panel.close()
        made.button.close()


# --- a host without pins ----------------------------------------------------------------------------------------------


def test_a_host_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    if list(Path("/dev").glob("gpiochip*")):
        pytest.skip("this machine has pins")
    cdev = GpioSettings(enabled=True, backend="cdev")
    assert host_lacks(cdev) == "gpio.chip = '/dev/gpiochip0': there is no such device; there are: none"
    with pytest.raises(GpioError, match="there is no such device"):
        open_lines(cdev, lambda stamp: None)
    assert "neither its pin library lgpio or RPi.GPIO is installed" in host_lacks(GpioSettings(enabled=True))
    assert host_lacks(QUICK) == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "the package gpiod is not installed" in host_lacks(cdev)
    assert "the package gpiozero is not installed" in host_lacks(QUICK)
    with pytest.raises(GpioError, match=r"gpio\.factory = 'auto': lgpio: .*; rpigpio: "):
        pin_factory(GpioSettings())


def test_what_is_missing_is_known_before_the_engine_starts(tmp_path: Path) -> None:
    assert triggers_lack(Settings()) == ""
    remote = RemoteButtonSettings(enabled=True, key_file=str(tmp_path / "no-key"))
    words = triggers_lack(Settings(remote_button=remote))
    assert words == f"remote_button.key_file: key file {tmp_path}/no-key: No such file or directory"


# --- in the kill switch -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def triggers(folder: Path, gpio: GpioSettings) -> Iterator[tuple[Triggers, Mapping, list[dict]]]:
    """The triggers of a kill switch on real shared memory."""
    notes: list[dict] = []
    with small_instance(folder) as small:
        plan: Plan = dataclasses.replace(small, settings=Settings(gpio=gpio))
        context = ProcessContext(plan, Role.KILLSWITCH)
        made = Triggers(context, lambda event, **fields: notes.append({"event": event, **fields}))
        try:
            yield made, context, notes
        finally:
            made.close()
            context.close()


def press(folder: Path, word: str) -> None:
    with (folder / "button").open("w") as pipe:
        pipe.write(f"{word}\n")


def test_a_press_sets_the_emergency_word_and_a_release_clears_nothing(tmp_path: Path) -> None:
    with triggers(tmp_path, QUICK) as (made, mapping, notes):
        control = mapping.control
        made.start()
        assert control.word == 0, "what warms the kill path is not the word"
        assert control.asserted == [TripSource.HARDWARE], "not known to be released, so held"
        control.mode = 77
        assert made.view().tripped, "a mode that nobody knows is an emergency"
        control.mode = Mode.NORMAL
        for role in VITAL:
            control.set_readiness(role, Readiness.READY)
        until(lambda: made.turn() or control.asserted == [], "button at rest")
        until(lambda: (tmp_path / "button").exists(), "pipe of the mock")
        assert control.word == 0 and made.view() == NORMAL
        control.mode = Mode.PAUSE
        assert made.view() == NORMAL._replace(normal=False)
        press(tmp_path, "press")
        until(lambda: control.word, "emergency word")
        word = control.word
        assert tripped_sources(word) == [TripSource.HARDWARE] and trip_count(word) == 1
        made.turn()
        assert control.asserted == [TripSource.HARDWARE] and made.view().tripped
        press(tmp_path, "release")
        until(lambda: made.turn() or control.asserted == [], "release")
        assert control.word == word
    assert [note["event"] for note in notes if note["event"].startswith("button")] == [
        "button released", "button pressed", "button released"
    ]


def test_without_buttons_the_kill_switch_is_ready_at_once_and_says_that_there_is_none(tmp_path: Path) -> None:
    with triggers(tmp_path, GpioSettings()) as (made, mapping, notes):
        made.start()
        made.turn()
        assert mapping.control.readiness(Role.KILLSWITCH) == Readiness.READY
        assert mapping.control.asserted == [] and mapping.control.word == 0 and notes == []


def test_whatever_fails_in_a_turn_trips_and_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with triggers(tmp_path, QUICK) as (made, mapping, notes):
        made.start()

        def fail(self: Button) -> None:
            raise AttributeError("no such thing")

        monkeypatch.setattr(Button, "check", fail)
        for _ in range(3):
            made.turn()
        assert tripped_sources(mapping.control.word) == [TripSource.HARDWARE] and trip_count(mapping.control.word) == 1
        assert [note for note in notes if note["event"] == "trigger failed"] == [
            {"event": "trigger failed", "error": "AttributeError: no such thing"}
        ]
