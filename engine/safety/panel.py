"""What the lights and the buzzer show, from what is known of the engine and from the time alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_SECOND_NS = 1_000_000_000
# (sounds, is silent) in seconds.
_TRIP_BEEP = (0.5, 0.25)
_WARNING_BEEP = (0.1, 0.1)
_WARNING_BEEPS = 2
_BLINK_S = 0.5


class View(NamedTuple):
    """What a panel is told of the engine."""

    tripped: bool  # EMERGENCY
    normal: bool  # the mode is NORMAL
    ready: bool  # every process is there
    warning: bool  # the panel's own: a self-test failed, an output cannot be moved, the engine is not heard


class Outputs(NamedTuple):
    """What is switched on."""

    green: bool
    yellow: bool
    red: bool
    buzzer: bool


@dataclass
class Panel:
    """Green: NORMAL. Yellow: REDUCE, PAUSE or not ready; blinking: a warning. Red: EMERGENCY. One of them at a time.

    The buzzer sounds for trip_buzzer_ns after each trip, and twice, shortly, when green turns yellow.
    """

    trip_buzzer_ns: int
    _was: str = ""
    _since_ns: int = 0
    _beeps: int = 0

    def outputs(self, view: View, now_ns: int) -> Outputs:
        """What is to be on at a time; now_ns never goes back."""
        if view.tripped:
            shown = "red"
        elif view.normal and view.ready and not view.warning:
            shown = "green"
        else:
            shown = "yellow"
        if shown != self._was:
            self._beeps = _WARNING_BEEPS if (self._was, shown) == ("green", "yellow") else 0
            self._was, self._since_ns = shown, now_ns
        elapsed_ns = now_ns - self._since_ns
        if shown == "red":
            sounds = elapsed_ns < self.trip_buzzer_ns and _is_on(_TRIP_BEEP, elapsed_ns)
        else:
            within = elapsed_ns < self._beeps * sum(_WARNING_BEEP) * _SECOND_NS
            sounds = within and _is_on(_WARNING_BEEP, elapsed_ns)
        steady = not view.warning or _is_on((_BLINK_S, _BLINK_S), elapsed_ns)
        return Outputs(shown == "green", shown == "yellow" and steady, shown == "red", sounds)


def _is_on(beep: tuple[float, float], elapsed_ns: int) -> bool:
    """Whether a pattern that repeats is in its first part."""
    on_ns, period_ns = int(beep[0] * _SECOND_NS), int(sum(beep) * _SECOND_NS)
    return elapsed_ns % period_ns < on_ns


def self_test_due(hour: int, wall_ns: int, last_day: int) -> tuple[bool, int]:
    """Whether the daily self-test is due (hour: UTC, -1 never), and the day since 1970 to remember as the last one."""
    hours = wall_ns // (3600 * _SECOND_NS)
    day = hours // 24
    due = hour >= 0 and hours % 24 == hour and day != last_day
    return due, day if due else last_day
