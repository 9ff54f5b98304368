"""What the contact of a red button means: a press at its first edge, a release only when the contact has rested.

Pure: times come in. Two threads use one Contact, without a lock so that neither waits for the other: the one that
hears edges calls `edge`, the one that looks at the line calls `level` and `unreadable`. At worst, when both see the
same press, both report it, and a trip is counted twice.

Invariants: whatever is not known to be at rest is not RELEASED; every way out of RELEASED is reported as a press.
"""

from __future__ import annotations

from enum import IntEnum


class ButtonState(IntEnum):
    """What is known of a button. The number is what stands in a heartbeat."""

    UNKNOWN = 0
    RELEASED = 1
    PRESSED = 2


def state_of(number: int) -> ButtonState:
    """The state of a number; one that is not known reads UNKNOWN."""
    return ButtonState(number) if number in ButtonState._value2member_map_ else ButtonState.UNKNOWN


class Contact:
    """One contact; UNKNOWN until it has been looked at. All times are ns of one clock."""

    def __init__(self, debounce_ns: int) -> None:
        self.state = ButtonState.UNKNOWN
        self.edges = 0
        self._debounce_ns = debounce_ns
        self._resting_since_ns: int | None = None  # None: it does not rest
        self._failed = False
        self._test_until_ns = 0  # 0: no self-test opens the loop

    def edge(self, now_ns: int) -> bool:
        """The line has changed; True when that is a press, which needs no second look at the line."""
        self.edges += 1
        if now_ns < self._test_until_ns:
            return False
        self._resting_since_ns = None
        if self.state == ButtonState.PRESSED:
            return False
        self.state = ButtonState.PRESSED
        return True

    def level(self, pressed: bool, now_ns: int) -> bool:
        """The line was looked at; True when it reads pressed and nobody had heard an edge."""
        self._failed = False
        if now_ns < self._test_until_ns:
            return False
        if pressed:
            self._resting_since_ns = None
            if self.state == ButtonState.PRESSED:
                return False
            self.state = ButtonState.PRESSED
            return True
        if self.state != ButtonState.RELEASED:
            if self._resting_since_ns is None:
                self._resting_since_ns = now_ns
            elif now_ns - self._resting_since_ns >= self._debounce_ns:
                self.state = ButtonState.RELEASED
        return False

    def unreadable(self) -> bool:
        """The line could not be looked at; True the first time in a row."""
        first = not self._failed
        self._failed = True
        self._resting_since_ns = None
        self.state = ButtonState.UNKNOWN
        return first

    def begin_test(self, until_ns: int) -> None:
        """The self-test opens the loop: until that time at the latest the line says nothing about the button."""
        self._test_until_ns = until_ns

    def end_test(self) -> None:
        """The loop is closed again."""
        self._test_until_ns = 0
