"""The rate budget of a venue, in shared memory: what all processes together may still ask of it.

Purpose: every call to the venue is paid for here before its bytes leave, whoever makes it. One fifth of every limit is
kept back, for four levels of urgency: ordinary calls may use 80 % of a limit; the gateway's cancels, and its questions
about orders that are UNKNOWN, 90 %; what the kill switch brings positions to zero with 95 %; its cancels all of it.
So nobody can use up what the next has of its own.
Rule: a limit of n in w seconds is kept for *any* w seconds, and some more, since nobody knows where the venue's own
windows begin or how long a request was under way. What is counted is therefore kept by slots of w / 32 and forgotten
w * 36 / 32 later. An answer that tells of more than is counted here (others call from the same address) is counted up.
Bans: after 429 or 418 nobody calls until the venue's Retry-After is over, and a moment longer nobody but the urgent: a
call during a 429 earns a 418. A 429 about the number of orders holds back new orders alone.
Layout: `words`, int64[::1]: bans and counters, then for each limit its length, its bound and SLOTS slots. A slot is one
word, the number of its stretch of time above COUNT_BITS bits of count, and changes by compare-exchange only, so a
process that dies anywhere leaves no lock; one that dies between paying and calling has paid for nothing.
Ordering: pay first, then look whether that was too much, and take it back. Of two that pay at once the later sees
both, so the bound holds; both may be refused.
Cost: 1.7 us a call from Python with three limits. Limits: MAX_LIMITS limits, counts below 2^22.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numba import types

from engine.kernel import kernel
from shm.atomics import compare_exchange, fence_seq_cst, fetch_add, load_acquire

WEIGHT = 0  # what a request costs
ORDERS = 1  # what a new or amended order costs beside it
REQUESTS = 2  # one for each request
MAX_LIMITS = 6
LARGEST_LIMIT = (1 << 22) - 1
KEPT_BACK_PERCENT = (20, 10, 5, 0)  # of every limit, by Level
LONGEST_BAN_S = 3 * 86_400  # the longest there is at the venue; what says more is not believed
_GRACE_NS = 1_000_000_000

# Index into the words.
BANNED_UNTIL = 0
ORDERS_BANNED_UNTIL = 1
LIMITS = 2  # how many there are
TAKEN = 3
REFUSED = 4
ANSWERS_429 = 5
ANSWERS_418 = 6
_FIRST_LIMIT = 8
_KIND, _LENGTH_NS, _BOUND = 0, 1, 2  # within a limit
_FIRST_SLOT = 8
SLOTS = 64
_PARTS = 32  # slots in the length of a limit
_KEPT = 36  # slots that count beside the present one
_LIMIT_WORDS = _FIRST_SLOT + SLOTS
BUDGET_WORDS = _FIRST_LIMIT + MAX_LIMITS * _LIMIT_WORDS
_COUNT_BITS = 24
_COUNT_MASK = (1 << _COUNT_BITS) - 1

_WORDS = types.Array(types.int64, 1, "C")


class Level(IntEnum):
    """How urgent a call is, so how much of a limit it may use; see the module."""

    ORDINARY = 0
    URGENT = 1  # the gateway: cancels, questions about what is UNKNOWN
    FLATTEN = 2  # the kill switch: bringing positions to zero
    KILL = 3  # the kill switch: cancelling


@dataclass(frozen=True)
class RateLimit:
    """One limit of a venue."""

    kind: int  # WEIGHT, ORDERS or REQUESTS
    seconds: int
    bound: int
    header: str  # of an answer that tells how much is used, lower case; empty: there is none

    @property
    def name(self) -> str:
        """For people."""
        return f"{('weight', 'orders', 'requests')[self.kind]}_{self.seconds}s"


@kernel()
def _change(words: np.ndarray, limit: int, stretch: int, amount: int) -> None:
    """Count `amount`, negative to take it back, in the slot of a stretch of time."""
    at = limit + _FIRST_SLOT + stretch % SLOTS
    while True:
        seen = load_acquire(words, at)
        held = seen >> _COUNT_BITS
        if held == stretch or (held > stretch and amount > 0):
            changed = seen + amount
        elif amount > 0:
            changed = (stretch << _COUNT_BITS) + amount
        else:
            return  # taken back too late to matter
        if compare_exchange(words, at, seen, changed) == seen:
            return


@kernel()
def _used(words: np.ndarray, limit: int, stretch: int) -> int:
    """What counts against a limit now."""
    total = 0
    for slot in range(SLOTS):
        word = load_acquire(words, limit + _FIRST_SLOT + slot)
        if word >> _COUNT_BITS >= stretch - _KEPT:
            total += word & _COUNT_MASK
    return total


@kernel()
def _stretch(words: np.ndarray, limit: int, now_ns: int) -> int:
    return now_ns // (words[limit + _LENGTH_NS] // _PARTS)


@kernel()
def _amount(words: np.ndarray, limit: int, weight: int, orders: int) -> int:
    kind = words[limit + _KIND]
    if kind == WEIGHT:
        return weight
    return orders if kind == ORDERS else 1


@kernel()
def _banned_for(words: np.ndarray, at: int, now_ns: int, level: int) -> int:
    until = load_acquire(words, at)
    if level == 0 and until > 0:
        until += _GRACE_NS
    return max(until - now_ns, 0)


@kernel(types.void(_WORDS, types.int64, types.int64, types.int64))
def give_back(words: np.ndarray, now_ns: int, weight: int, orders: int) -> None:
    """Take back what `take` paid at `now_ns` for a call that was not made."""
    for place in range(words[LIMITS]):
        limit = _FIRST_LIMIT + place * _LIMIT_WORDS
        amount = _amount(words, limit, weight, orders)
        if amount > 0:
            _change(words, limit, _stretch(words, limit, now_ns), -amount)


@kernel(types.int64(_WORDS, types.int64, types.int64, types.int64, types.int64))
def take(words: np.ndarray, now_ns: int, weight: int, orders: int, level: int) -> int:
    """Pay for a call of a Level. Returns 0, or in how many ns it is worth trying again; then nothing is paid."""
    wait = _banned_for(words, BANNED_UNTIL, now_ns, level)
    if orders > 0:
        wait = max(wait, _banned_for(words, ORDERS_BANNED_UNTIL, now_ns, level))
    if wait > 0:
        fetch_add(words, REFUSED, 1)
        return wait
    for place in range(words[LIMITS]):
        limit = _FIRST_LIMIT + place * _LIMIT_WORDS
        amount = _amount(words, limit, weight, orders)
        if amount == 0:
            continue
        stretch = _stretch(words, limit, now_ns)
        _change(words, limit, stretch, amount)
        fence_seq_cst()
        bound = words[limit + _BOUND]
        bound -= (bound * KEPT_BACK_PERCENT[level] + 99) // 100
        if _used(words, limit, stretch) > bound:
            for paid in range(place + 1):
                earlier = _FIRST_LIMIT + paid * _LIMIT_WORDS
                paid_amount = _amount(words, earlier, weight, orders)
                if paid_amount > 0:
                    _change(words, earlier, _stretch(words, earlier, now_ns), -paid_amount)
            fetch_add(words, REFUSED, 1)
            return words[limit + _LENGTH_NS] // _PARTS
    fetch_add(words, TAKEN, 1)
    return 0


@kernel(types.void(_WORDS, types.int64, types.int64, types.int64))
def told(words: np.ndarray, place: int, now_ns: int, used: int) -> None:
    """The venue counts `used` against a limit: what we do not know of is counted as of now."""
    limit = _FIRST_LIMIT + place * _LIMIT_WORDS
    stretch = _stretch(words, limit, now_ns)
    unknown = min(used, LARGEST_LIMIT) - _used(words, limit, stretch)
    if unknown > 0:
        _change(words, limit, stretch, unknown)


@kernel(types.int64(_WORDS, types.int64, types.int64))
def used_of(words: np.ndarray, place: int, now_ns: int) -> int:
    """What counts against a limit now."""
    limit = _FIRST_LIMIT + place * _LIMIT_WORDS
    return _used(words, limit, _stretch(words, limit, now_ns))


@kernel(types.void(_WORDS, types.int64, types.int64))
def ban(words: np.ndarray, at: int, until_ns: int) -> None:
    """Nobody calls before `until_ns`; at: BANNED_UNTIL or ORDERS_BANNED_UNTIL."""
    while True:
        seen = load_acquire(words, at)
        if seen >= until_ns or compare_exchange(words, at, seen, until_ns) == seen:
            return


@kernel(types.void(_WORDS, types.int64))
def _count(words: np.ndarray, at: int) -> None:
    fetch_add(words, at, 1)


def write_limits(words: np.ndarray, limits: Iterable[RateLimit]) -> None:
    """Give zeroed words their limits, before anybody else maps them. Raises ValueError naming a senseless one."""
    known = tuple(limits)
    if len(known) > MAX_LIMITS:
        raise ValueError(f"{len(known)} rate limits: at most {MAX_LIMITS} can be kept")
    for place, limit in enumerate(known):
        if limit.kind not in (WEIGHT, ORDERS, REQUESTS) or not 0 < limit.bound <= LARGEST_LIMIT or limit.seconds <= 0:
            raise ValueError(f"{limit} is no rate limit")
        at = _FIRST_LIMIT + place * _LIMIT_WORDS
        words[at + _KIND], words[at + _LENGTH_NS], words[at + _BOUND] = limit.kind, limit.seconds * 10**9, limit.bound
    words[LIMITS] = len(known)


class Budget:
    """One process's hand on the budget of a venue.

    words   int64[BUDGET_WORDS], shared, with the limits written
    limits  the same limits; there must be one of weight and one of orders, else ValueError: without them nobody can
            say what may be sent
    now_ns  the clock that all who share the words go by
    """

    def __init__(self, words: np.ndarray, limits: Iterable[RateLimit], now_ns: Callable[[], int]) -> None:
        self._words = words
        self._limits = tuple(limits)
        self.now_ns = now_ns
        for kind, name in ((WEIGHT, "request weight"), (ORDERS, "number of orders")):
            if not any(limit.kind == kind for limit in self._limits):
                raise ValueError(f"the venue's limit of {name} is not known: nothing can be sent")
        if int(words[LIMITS]) != len(self._limits):
            raise ValueError(f"the budget in memory has {int(words[LIMITS])} limits, not {len(self._limits)}")

    @classmethod
    def of_own(cls, limits: Iterable[RateLimit], now_ns: Callable[[], int]) -> Budget:
        """A budget that nobody shares."""
        words = np.zeros(BUDGET_WORDS, np.int64)
        known = tuple(limits)
        write_limits(words, known)
        return cls(words, known, now_ns)

    def take(self, now_ns: int, weight: int, orders: int = 0, level: int = Level.ORDINARY) -> int:
        """See the kernel `take`."""
        return int(take(self._words, now_ns, weight, orders, int(level)))

    def give_back(self, now_ns: int, weight: int, orders: int = 0) -> None:
        """A call that was paid for at `now_ns` was not made."""
        give_back(self._words, now_ns, weight, orders)

    def hear(self, headers: Mapping[str, str], of_order: bool) -> None:
        """What the headers of an answer say is used. Counts of orders are believed from the answer to an order only:
        elsewhere they may be those of a window that is over."""
        now = self.now_ns()
        for place, limit in enumerate(self._limits):
            text = headers.get(limit.header, "") if limit.header else ""
            if text.isascii() and text.isdigit() and (limit.kind != ORDERS or of_order):
                told(self._words, place, now, min(int(text), LARGEST_LIMIT))

    def refused_by_venue(self, status: int, wait_s: float, orders_only: bool) -> None:
        """The venue has answered 429 or 418 and wants no call (or no order) for `wait_s` seconds; at most
        LONGEST_BAN_S of them are believed."""
        _count(self._words, ANSWERS_418 if status == 418 else ANSWERS_429)
        at = ORDERS_BANNED_UNTIL if orders_only and status != 418 else BANNED_UNTIL
        ban(self._words, at, self.now_ns() + int(min(wait_s, LONGEST_BAN_S) * 1e9))

    def report(self) -> dict[str, Any]:
        """For people: {limits: {NAME: {limit, used}}, taken, refused, answers_429, answers_418, banned_s}."""
        now = self.now_ns()
        words = self._words.copy()  # it may be mapped read-only
        return {
            "limits": {
                limit.name: {"limit": limit.bound, "used": int(used_of(words, place, now))}
                for place, limit in enumerate(self._limits)
            },
            "taken": int(words[TAKEN]), "refused": int(words[REFUSED]), "answers_429": int(words[ANSWERS_429]),
            "answers_418": int(words[ANSWERS_418]),
            "banned_s": round(max(int(words[BANNED_UNTIL]) - now, 0) / 1e9, 3),
        }
