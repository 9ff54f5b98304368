"""How long to wait before the next try: longer after each failure, and not as long as everybody else.

Rules for connections. Each socket climbs a ladder of its own: a failure is a try that did not open, or a socket that
was of use for less than GOOD_S; one that was of use for longer begins at the bottom again, whatever ended it. All
sockets of a market together are tried at most `opens` times in any `window_s`, since venues count by address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shm.clock import python_monotonic_ns

LADDER_S = (0.05, 0.25, 0.5, 1.0, 2.0, 5.0)
GOOD_S = 20.0
_SOCKET_LADDER_S = (*LADDER_S, 10.0, 20.0)


def clock_jitter() -> float:
    """0 to 1, by the clock's last digits: who was cut off at the same moment must not all come back at once."""
    return python_monotonic_ns() % 1_000 / 1_000


def back_off_s(
    failures: int, ladder_s: Sequence[float] = LADDER_S, jitter: Callable[[], float] = clock_jitter
) -> float:
    """Seconds after so many failures in a row: half to the whole of a step of the ladder."""
    step_s = ladder_s[min(failures, len(ladder_s) - 1)]
    return step_s * (0.5 + jitter() / 2)


@dataclass(frozen=True)
class ConnectionRule:
    """How the sockets of a market are kept; every room has one."""

    silence_s: float  # a socket that is not heard of for so long is dead; an answer to a ping is heard too
    ping_s: float  # we ask with a ping after so long without data; 0: the venue says something by itself in time
    quiet_s: float  # one that answers pings and sends no data for so long is given up all the same
    longest_wait_s: float  # between two tries of a socket
    opens: int  # so many tries in any `window_s`, a part of what the venue allows an address
    window_s: float

    def __post_init__(self) -> None:
        """Raises ValueError for a rule that cannot be kept."""
        if not 0 <= 2 * self.ping_s <= self.silence_s <= self.quiet_s or self.opens < 1:
            raise ValueError("a ping needs as long again for its answer, and silence no longer than quiet")


class Pace:
    """When the sockets of a market are tried. Time comes in; all times are ns."""

    def __init__(self, rule: ConnectionRule, sockets: int, jitter: Callable[[], float] = clock_jitter) -> None:
        self._rule = rule
        self._jitter = jitter
        self._ladder_s = tuple(step for step in _SOCKET_LADDER_S if step <= rule.longest_wait_s)
        self._failures = [0] * sockets
        self._not_before_ns = [0] * sockets
        self._tries_ns: deque[int] = deque(maxlen=rule.opens)

    def wait_ns(self, number: int, now_ns: int) -> int:
        """How long this socket has to wait; 0: it may be tried, then say `tried`."""
        wait_ns = self._not_before_ns[number] - now_ns
        if len(self._tries_ns) == self._rule.opens:
            wait_ns = max(wait_ns, self._tries_ns[0] + int(self._rule.window_s * 1e9) - now_ns)
        return max(wait_ns, 0)

    def tried(self, now_ns: int) -> None:
        """A socket is being opened."""
        self._tries_ns.append(now_ns)

    def ended(self, number: int, now_ns: int, useful_ns: int) -> None:
        """A socket has closed that was of use for so long; 0: it did not open."""
        failures = 0 if useful_ns >= GOOD_S * 1e9 else self._failures[number] + 1
        self._failures[number] = failures
        self._not_before_ns[number] = now_ns + int(back_off_s(failures, self._ladder_s, self._jitter) * 1e9)
