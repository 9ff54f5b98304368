"""A seeded mix of faults: at every opportunity one draw decides whether something goes wrong, and what.

Opportunities are requests (under `path`), frames of depth streams, frames of the user stream, and seconds. Each kind
has a generator of its own, so what happens to the n-th of a kind depends on the seed and n alone. Rates are
probabilities for one opportunity; those of a kind may not add up to more than 1. Names of the user stream and of depth
are those of single faults; `disconnect` and the faults that last are drawn once a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.matching.generator import scattered

HTTP_ACTIONS = (
    "error_before", "error_after", "hang_before", "hang_after", "garbage_before", "garbage_after", "rate_limit"
)
FATES = ("drop", "duplicate", "delay", "reorder")
TIMED = ("gone", "half_open", "maintenance", "ban", "clock")
_KINDS = {
    "http": HTTP_ACTIONS,
    "depth": tuple(f"{fate}_depth" for fate in FATES),
    "user": tuple(f"{fate}_user" for fate in FATES),
    "second": ("disconnect", *TIMED),
}
_STATUSES = (500, 502, 503, 504)
_LARGEST_MS = 600_000


@dataclass(frozen=True)
class HttpChoice:
    """What a request meets."""

    action: str
    status: int
    delay_ms: int


@dataclass(frozen=True)
class Start:
    """A fault that begins now."""

    fault: str
    detail: str
    duration_ms: int
    skew_ms: int


class Draws:
    """A stream of draws that a seed and a number say: hashes of a counter."""

    def __init__(self, seed: int, number: int):
        self._counter = scattered(scattered(seed) + number)

    def uniform(self) -> float:
        """From 0 up to 1."""
        self._counter += 1
        return (scattered(self._counter) >> 11) / 2**53

    def whole(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return least + int(self.uniform() * (most - least + 1))

    def choice(self, items: Sequence[Any]) -> Any:
        """One of several."""
        return items[self.whole(0, len(items) - 1)]


class Mix:
    """The draws of one mix. Delays and durations are drawn too, up to `delay_ms` and `duration_ms`."""

    def __init__(
        self, seed: int, rates: Mapping[str, float], now_ms: int, delay_ms: int, duration_ms: int, path: str
    ):
        self.seed = seed
        self.rates = dict(rates)
        self.path = path
        self._delay_ms = delay_ms
        self._duration_ms = duration_ms
        self._second = now_ms // 1_000
        self._draws = {kind: Draws(seed, number) for number, kind in enumerate(_KINDS)}

    @classmethod
    def from_request(cls, request: Mapping[str, Any], now_ms: int, path: str) -> Mix:
        """A mix as ordered; path: whose requests, where it names none. Raises ValueError that says what is allowed."""
        seed, rates = request.get("seed"), request["rates"]
        if type(seed) is not int:
            raise ValueError("seed: a whole number")
        known = [name for names in _KINDS.values() for name in names]
        if not isinstance(rates, Mapping) or not set(rates) <= set(known):
            raise ValueError(f"rates: an object with names among {', '.join(known)}")
        if any(isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0 for rate in rates.values()):
            raise ValueError("rates: numbers from 0 to 1")
        if any(sum(rates.get(name, 0) for name in names) > 1 for names in _KINDS.values()):
            raise ValueError("rates: those of requests, depth, user events and seconds add up to 1 at the most")
        numbers = {name: request.get(name, 1_000) for name in ("delay_ms", "duration_ms")}
        for name, value in numbers.items():
            if type(value) is not int or not 1 <= value <= _LARGEST_MS:
                raise ValueError(f"{name}: a whole number, 1 to {_LARGEST_MS}")
        return cls(seed, rates, now_ms, path=str(request.get("path", path)), **numbers)

    def describe(self) -> dict[str, Any]:
        """The mix as ordered."""
        return {
            "seed": self.seed, "rates": self.rates, "delay_ms": self._delay_ms, "duration_ms": self._duration_ms,
            "path": self.path,
        }

    def _choose(self, kind: str) -> str | None:
        """One draw of a kind."""
        left = self._draws[kind].uniform()
        for name in _KINDS[kind]:
            left -= self.rates.get(name, 0.0)
            if left < 0:
                return name
        return None

    def http(self) -> HttpChoice | None:
        """What the next request meets."""
        action = self._choose("http")
        if action is None:
            return None
        draw = self._draws["http"]
        return HttpChoice(action, draw.choice(_STATUSES), draw.whole(1, self._delay_ms))

    def frame(self, channel: str) -> tuple[str, int] | None:
        """(fate, delay ms) of the next frame of "depth" or "user", or None."""
        name = self._choose(channel)
        if name is None:
            return None
        return name.partition("_")[0], self._draws[channel].whole(1, self._delay_ms)

    def starts(self, now_ms: int) -> Iterator[Start]:
        """What begins in the seconds that have passed since the last call."""
        while self._second < now_ms // 1_000:
            self._second += 1
            fault = self._choose("second")
            if fault is None:
                continue
            draw = self._draws["second"]
            places = {
                "disconnect": ("public", "market", "private", "all"), "half_open": ("rest", "public", "private"),
                "maintenance": ("closed", "halt"),
            }
            yield Start(
                fault, draw.choice(places.get(fault, ("",))), draw.whole(1, self._duration_ms),
                draw.choice((-5_000, 5_000)),
            )
