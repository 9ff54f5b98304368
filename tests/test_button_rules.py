"""The rules of button and panel: contact, lights, buzzer, self-test hour, settings. Time is a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import settings_from
from engine.safety.contact import ButtonState, Contact, state_of
from engine.safety.panel import Outputs, Panel, View, self_test_due
from engine.settings import SettingsError

MS = 1_000_000
DEBOUNCE_NS = 50 * MS
RELEASED, PRESSED, UNKNOWN = ButtonState.RELEASED, ButtonState.PRESSED, ButtonState.UNKNOWN


def at_rest() -> Contact:
    contact = Contact(DEBOUNCE_NS)
    assert not contact.level(False, 0) and contact.state == UNKNOWN, "not believed at the first look"
    assert not contact.level(False, DEBOUNCE_NS) and contact.state == RELEASED
    return contact


def test_the_first_edge_is_the_press_and_its_bounces_are_not() -> None:
    contact = at_rest()
    start = 100 * MS
    assert [contact.edge(start + bounce * MS) for bounce in range(9)] == [True] + [False] * 8
    assert contact.state == PRESSED and contact.edges == 9


def test_a_release_counts_once_the_contact_has_rested_and_each_bounce_begins_again() -> None:
    contact = at_rest()
    contact.edge(100 * MS)
    for ms in range(200, 260, 10):
        contact.level(False, ms * MS)
        assert contact.state == (PRESSED if ms < 250 else RELEASED)
    assert contact.edge(300 * MS), "pressed again"
    contact.level(False, 310 * MS)
    assert not contact.edge(350 * MS), "a bounce of the release"
    contact.level(False, 360 * MS)
    assert contact.state == PRESSED
    contact.level(True, 380 * MS)
    contact.level(False, 390 * MS)
    contact.level(False, 439 * MS)
    assert contact.state == PRESSED
    contact.level(False, 440 * MS)
    assert contact.state == RELEASED


def test_what_is_pressed_at_the_first_look_is_a_press_and_an_edge_missed_is_found() -> None:
    contact = Contact(DEBOUNCE_NS)
    assert contact.level(True, 0) and contact.state == PRESSED
    contact = at_rest()
    assert contact.level(True, 60 * MS) and not contact.level(True, 70 * MS)


def test_a_line_that_cannot_be_read_is_told_once_and_must_rest_again() -> None:
    contact = at_rest()
    assert contact.unreadable() and not contact.unreadable() and contact.state == UNKNOWN
    contact.level(False, 100 * MS)
    assert contact.state == UNKNOWN
    assert contact.unreadable(), "it could be read in between"
    contact.level(False, 200 * MS)
    contact.level(False, 250 * MS)
    assert contact.state == RELEASED


def test_the_self_test_masks_the_line_for_its_time_only() -> None:
    contact = at_rest()
    contact.begin_test(180 * MS)
    assert not contact.edge(110 * MS) and not contact.level(True, 120 * MS) and contact.state == RELEASED
    assert contact.edge(180 * MS), "its time is over although nobody has ended it"
    contact = at_rest()
    contact.begin_test(180 * MS)
    contact.end_test()
    assert contact.edge(110 * MS)


@given(st.lists(st.tuples(st.sampled_from(["edge", "high", "low", "fail"]), st.integers(0, 80)), max_size=80))
def test_no_way_out_of_released_is_silent_and_none_back_is_short(events: list[tuple[str, int]]) -> None:
    """Oracle: the plain reading of the rule, over the whole history."""
    contact = Contact(DEBOUNCE_NS)
    now = 1
    history: list[tuple[int, str]] = []
    for kind, after_ms in events:
        now += after_ms * MS
        before = contact.state
        if kind == "edge":
            reported = contact.edge(now)
        elif kind == "fail":
            reported = contact.unreadable()
        else:
            reported = contact.level(kind == "high", now)
        history.append((now, kind))
        if before == RELEASED and contact.state != RELEASED:
            assert reported
        if reported and kind in ("edge", "high"):
            assert before != PRESSED
        calm = 0
        for when, what in reversed(history):
            if what != "low":
                break
            calm = now - when
        at_calm = calm >= DEBOUNCE_NS
        assert (contact.state == RELEASED) == at_calm


def test_a_number_that_is_no_state_reads_unknown() -> None:
    assert [state_of(number) for number in (0, 1, 2, 3, -1)] == [UNKNOWN, RELEASED, PRESSED, UNKNOWN, UNKNOWN]


NORMAL = View(tripped=False, normal=True, ready=True, warning=False)


@pytest.mark.parametrize(
    ("view", "light"),
    [
        (NORMAL, "green"),
        (NORMAL._replace(normal=False), "yellow"),
        (NORMAL._replace(ready=False), "yellow"),
        (NORMAL._replace(warning=True), "yellow"),
        (NORMAL._replace(tripped=True), "red"),
        (View(True, False, False, True), "red"),
    ],
)
def test_one_light_at_a_time(view: View, light: str) -> None:
    shown = Panel(0).outputs(view, 0)
    assert shown == Outputs(light == "green", light == "yellow", light == "red", False)


def sounds(panel: Panel, view: View, start: int, stop: int) -> str:
    """One character for every 50 ms."""
    return "".join("#" if panel.outputs(view, ms * MS).buzzer else "." for ms in range(start, stop, 50))


def test_the_patterns_of_the_buzzer() -> None:
    panel = Panel(2_000 * MS)
    assert sounds(panel, NORMAL, 0, 1000) == "." * 20
    assert sounds(panel, NORMAL._replace(ready=False), 1000, 1600) == "##..##......", "twice, when green turns yellow"
    tripped = NORMAL._replace(tripped=True)
    assert sounds(panel, tripped, 2000, 4500) == ("#" * 10 + "." * 5) * 2 + "#" * 10 + "." * 10
    assert sounds(panel, NORMAL._replace(normal=False), 4500, 5000) == "." * 10, "red to yellow is no warning"


def test_a_warning_blinks() -> None:
    panel = Panel(0)
    view = NORMAL._replace(warning=True)
    assert [panel.outputs(view, ms * MS).yellow for ms in (0, 499, 500, 999, 1000)] == [True, True, False, False, True]


def test_the_daily_self_test_is_due_once_a_day_in_its_hour() -> None:
    hour_ns = 3600 * 10**9
    last, days = -1, []
    for half_hour in range(24 * 2 * 3):
        due, last = self_test_due(6, 20_000 * 24 * hour_ns + half_hour * hour_ns // 2, last)
        if due:
            days.append(half_hour)
    assert days == [12, 60, 108]
    assert self_test_due(-1, 6 * hour_ns, -1) == (False, -1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpio": {"red_pin": 17}}, "gpio.red_pin = 17: button_pin has that pin; all pins must differ"),
        ({"gpio": {"loopback_pin": 25}}, "gpio.loopback_pin = 25: buzzer_pin has that pin"),
        ({"gpio": {"button_pin": 28}}, "gpio.button_pin = 28: allowed is a whole number from 0 to 27"),
        ({"gpio": {"contact": "open"}}, "gpio.contact = 'open': allowed is one of 'normally_closed', 'normally_open'"),
        ({"remote_button": {"enabled": True}}, "remote_button.key_file = '': an absolute path is needed"),
        ({"remote_button": {"enabled": True, "key_file": "key"}}, "remote_button.key_file = 'key': an absolute path"),
        ({"remote_button": {"lost_s": 0.5}}, "remote_button.lost_s = 0.5: at least three times heartbeat_s, 0.2,"),
        (
            {
                "gpio": {"enabled": True, "backend": "mock"},
                "venue": {"embedded": False, "rest_url": "x", "ws_url": "x", "credentials_file": "x"},
            },
            "gpio.backend = 'mock': allowed on the embedded exchange only",
        ),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(values)
    assert str(caught.value).startswith(message)
    assert settings_from({"gpio": {"enabled": True, "backend": "mock"}}).gpio.loopback_pin == -1
