"""Which of several copies of a message comes first: the rule between redundant connections, by the venue's numbers.

A line is one stream of one instrument as it arrives over several sources, each of which brings it in order but may
begin and end anywhere. A message takes the line from one number to another (`before`, `last`); of some kinds the venue
says only `last`, and then the newest wins. Messages are anything; time comes in.

    last <= what was passed on             a duplicate, dropped
    before = what was passed on            passed on, and what was held behind it with it
    before > what was passed on            held while somebody may bring what is between: a source that is open and has
                                           brought nothing beyond. When nobody can any more, or after HOLD_NS, all that
                                           is held is passed on, and the sequence rule behind finds the gap
    before < what was passed on < last     the sources cut the stream into messages differently: dropped (misaligned)
                                           while another source is open, else passed on

A number that was read wrongly, far above, would make everything after it a duplicate. So a number stands as long as
its source does not contradict it: when that source, or any where it is gone, brings a lower one more than STANDING_NS
later, the line begins again with it, and the rules behind say what is wrong.

Invariants: numbers passed on rise, but for a snapshot (`jump`), a number that is contradicted, and a venue that begins
to count anew (a source whose numbers fall to less than half); every message is passed on once, held, or counted as
dropped; at most HELD_MOST are held. It is Python, and paid for only where connections are redundant.
"""

from __future__ import annotations

from bisect import insort
from typing import Generic, NamedTuple, TypeVar

from engine.ingest.entry import STANDING_NS

T = TypeVar("T")

HOLD_NS = 100_000_000
HELD_MOST = 1024
NOTHING_YET = -1
NOBODY = -1


class _Held(NamedTuple):
    """A message that waits; they sort by their numbers."""

    last: int
    before: int
    since_ns: int
    at: int  # its place among `_messages`
    source: int


class Line(Generic[T]):
    """See the module. `sources` is shared by all lines of a connection: the sources that are open."""

    def __init__(self, sources: set[int]) -> None:
        self.passed = NOTHING_YET  # the highest number that was passed on
        self.duplicates = 0
        self.misaligned = 0
        self.given_up = 0  # holes that nobody filled
        self.contradicted = 0
        self._passed_by = NOBODY  # the source of that number
        self._passed_ns = 0
        self._sources = sources
        self._brought: dict[int, int] = {}  # by source: the highest number since it opened
        self._held: list[_Held] = []
        self._messages: dict[int, T] = {}
        self._count = 0

    @property
    def held(self) -> int:
        """Messages that wait."""
        return len(self._held)

    def take(self, source: int, before: int, last: int, message: T, now_ns: int) -> list[T]:
        """A message; what is to be passed on now, in order. before: NOTHING_YET where the venue does not say it."""
        brought = self._brought.get(source, NOTHING_YET)
        if last < brought // 2:
            self.begin_again()
        elif last < self.passed and now_ns - self._passed_ns > STANDING_NS and self._passed_by in (source, NOBODY):
            self.contradicted += 1
            self.begin_again()
        self._brought[source] = max(last, self._brought.get(source, NOTHING_YET))
        if last <= self.passed:
            self.duplicates += 1
        elif self.passed == NOTHING_YET or before in (NOTHING_YET, self.passed):
            return [self._pass(last, source, now_ns, message), *self._follow()]
        elif before < self.passed:
            if len(self._sources) > 1:
                self.misaligned += 1
            else:
                return [self._pass(last, source, now_ns, message), *self._follow()]
        elif any(held.last == last for held in self._held):
            self.duplicates += 1
        else:
            self._count += 1
            self._messages[self._count] = message
            insort(self._held, _Held(last, before, now_ns, self._count, source))
        return self._settle()

    def jump(self, source: int, number: int, message: T, wanted: bool, now_ns: int) -> list[T]:
        """A snapshot at a number. Passed on where one is wanted or nothing was passed on; the line goes on from it."""
        self._brought[source] = number
        if not wanted and self.passed != NOTHING_YET:
            self.duplicates += 1
            return self._settle()
        return [self._pass(number, source, now_ns, message), *self._follow(), *self._settle()]

    def opened(self, source: int) -> None:
        """A source has opened: it has brought nothing yet."""
        self._forget(source)

    def lost(self, source: int) -> list[T]:
        """A source that is no longer among the open ones; what nobody can complete is passed on."""
        self._forget(source)
        return self._settle()

    def _forget(self, source: int) -> None:
        self._brought.pop(source, None)
        if self._passed_by == source:
            self._passed_by = NOBODY

    def late(self, now_ns: int) -> list[T]:
        """What was held for too long, passed on as it is."""
        if self._held and now_ns - min(held.since_ns for held in self._held) >= HOLD_NS:
            return self._give_up()
        return []

    def begin_again(self) -> None:
        """Forget everything but what was counted: no source is left, or the venue counts anew."""
        self.passed = NOTHING_YET
        self.duplicates += len(self._held)
        self._brought.clear()
        self._held.clear()
        self._messages.clear()

    def _pass(self, last: int, source: int, now_ns: int, message: T) -> T:
        self.passed, self._passed_by, self._passed_ns = last, source, now_ns
        return message

    def _pass_held(self, held: _Held) -> T:
        return self._pass(held.last, held.source, held.since_ns, self._messages.pop(held.at))

    def _follow(self) -> list[T]:
        """What was held and follows on what was passed on."""
        out: list[T] = []
        while self._held and (self._held[0].last <= self.passed or self._held[0].before <= self.passed):
            first = self._held.pop(0)
            if first.last <= self.passed:
                self.duplicates += 1
            elif first.before < self.passed and len(self._sources) > 1:
                self.misaligned += 1
            else:
                out.append(self._pass_held(first))
                continue
            del self._messages[first.at]
        return out

    def _settle(self) -> list[T]:
        """Give up what is held if no open source can bring what is missing, or there is too much of it."""
        if not self._held:
            return []
        hope = any(self._brought.get(source, NOTHING_YET) <= self.passed for source in self._sources)
        return [] if hope and len(self._held) <= HELD_MOST else self._give_up()

    def _give_up(self) -> list[T]:
        """Pass on everything that is held, with its holes."""
        out: list[T] = []
        while self._held:
            first = self._held.pop(0)
            if first.before > self.passed:
                self.given_up += 1
            out.append(self._pass_held(first))
            out.extend(self._follow())
        return out
