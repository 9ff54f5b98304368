"""What faults did to books, and how long that went unsaid: damages by instrument, each under a row of the table.

A damage stands from its fault until a snapshot that knows better is taken. While it stands it may excuse a valid book
that is wrong, as far and as long as its row says. In a strict run, where faults meet one at a time, a row is also held
to what it promises: said within the bound, or never said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from procs.venues.detectability import Row, Verdict

_MS = 1_000_000
MOST_VIOLATIONS = 20  # of a run that are told


@dataclass
class Damage:
    """One fault and one book."""

    row: Row
    ordinal: int  # of the item that it met
    at_ns: int
    venue_ms: int  # the venue's time of that item
    strict: bool  # the book was valid, and nothing else is wrong with it
    waits: bool = False  # the book was not: the item may wait for its snapshot, and be applied after it
    count: int = 0  # further messages of the book
    said: bool = False
    wrong: bool = False  # a valid book was wrong, and this excuses it

    @property
    def expired(self) -> bool:
        """Whether it need not be said any more."""
        return not self.row.within_ms and not self.row.audits and self.count >= self.row.messages


@dataclass
class Found:
    """What was seen of one row."""

    times: int = 0  # damages that were judged
    said: int = 0
    messages: int = 0  # most until it was said
    ms: float = 0.0  # longest until it was said
    unsaid: int = 0  # never said, and the book right: as the row allows
    unseen: int = 0  # never said, and the book wrong


@dataclass
class Judge:
    """All damages of a run. strict: faults of this run meet one at a time."""

    rows: Mapping[tuple[str, str], Row]
    strict: bool
    found: dict[tuple[str, str], Found] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    wrong: int = 0  # valid books that were wrong, each as the table allows
    _standing: dict[int, list[Damage]] = field(default_factory=dict)

    def violation(self, text: str) -> None:
        """Something that must hold and did not."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(text)

    def harm(
        self, key: tuple[str, str], index: int, ordinal: int, now_ns: int, valid: bool, venue_ms: int = 0,
        waits: bool = False,
    ) -> None:
        """A fault has met a book, which was valid or not. waits: the message ended the book, and is kept."""
        row = self.rows.get(key)
        if row is None:
            self.violation(f"the table has no row for {key}")
            return
        standing = self._standing.setdefault(index, [])
        alone = all(damage.said or damage.expired or damage.row.verdict is not Verdict.SAID for damage in standing)
        standing.append(Damage(row, ordinal, now_ns, venue_ms, self.strict and valid and alone, waits or not valid))

    def message(self, index: int, venue_ms: int) -> None:
        """A further readable message of a book has come; call it before that one's own harm."""
        for damage in self._standing.get(index, ()):
            if not damage.row.after_ms or venue_ms - damage.venue_ms > damage.row.after_ms:
                damage.count += 1

    def said(self, index: int, now_ns: int) -> None:
        """BOOK_INVALID was said of a valid book."""
        standing = self._standing.get(index, [])
        for damage in standing:
            if damage.said:
                continue
            damage.said = True
            row, took_ms = damage.row, (now_ns - damage.at_ns) / _MS
            if not damage.strict:
                continue
            found = self._of(row)
            found.said += 1
            found.messages, found.ms = max(found.messages, damage.count), max(found.ms, took_ms)
            if row.verdict in (Verdict.HARMLESS, Verdict.LATE) and len(standing) == 1:
                self.violation(f"{row.key}, item {damage.ordinal}: called invalid although nothing is wrong")
            elif row.verdict is Verdict.SAID and row.within_ms and took_ms > row.within_ms:
                self.violation(f"{row.key}, item {damage.ordinal}: said after {took_ms:.0f} ms")
            elif row.verdict is Verdict.SAID and not row.within_ms and damage.count > row.messages and not row.unless:
                self.violation(f"{row.key}, item {damage.ordinal}: said with message {damage.count}")

    def compared(self, index: int, now_ns: int, wrong: bool, wrong_best: bool, where: str) -> None:
        """A valid book was held against the truth. wrong_best: among its ten best levels. where: in words."""
        if not wrong:
            return
        standing = self._standing.get(index, [])
        excused = [damage for damage in standing if self._excuses(damage, now_ns, wrong_best)]
        for damage in excused:
            damage.wrong = True
        if excused:
            self.wrong += 1
        else:
            after = ", ".join(f"{damage.row.key} {damage.count} messages ago" for damage in standing) or "no fault"
            self.violation(f"a wrong book is valid after {after}: {where}")

    @staticmethod
    def _excuses(damage: Damage, now_ns: int, wrong_best: bool) -> bool:
        row = damage.row
        if row.verdict is Verdict.UNSEEN or row.unless_unseen:
            return row.blind_beyond == 0 or not wrong_best
        if row.verdict is not Verdict.SAID:
            return False
        in_time = now_ns - damage.at_ns <= row.within_ms * _MS if row.within_ms else not damage.expired
        return in_time or (row.blind_beyond > 0 and not wrong_best)

    def renewed(self, index: int, position: int) -> None:
        """A snapshot that knows everything up to an ordinal was taken: what it knows better stands no more.

        An update that waited for it is applied behind it if it is the last one that the snapshot knows of, or if its
        last id was altered to one beyond that.
        """
        standing = self._standing.get(index, [])
        kept = [
            one for one in standing
            if one.ordinal > position or (one.waits and (one.ordinal == position or one.row.key == ("corrupt", "u")))
        ]
        self._settle(one for one in standing if one not in kept)
        for damage in kept:
            damage.waits &= damage.ordinal > position
        self._standing[index] = kept

    def end(self) -> None:
        """The run is over."""
        for standing in self._standing.values():
            self._settle(standing)

    def stands(self, index: int) -> bool:
        """Whether any fault has met a book that no snapshot has made up for."""
        return bool(self._standing.get(index))

    def blind(self, index: int) -> bool:
        """Whether a book may be wrong and nothing can show it."""
        return any(damage.row.verdict is Verdict.UNSEEN or damage.row.blind_beyond
                   for damage in self._standing.get(index, ()))  # fmt: skip

    def _of(self, row: Row) -> Found:
        return self.found.setdefault(row.key, Found())

    def _settle(self, damages: Iterable[Damage]) -> None:
        for damage in damages:
            if not damage.strict:
                continue
            row, found = damage.row, self._of(damage.row)
            found.times += 1
            if damage.said:
                continue
            if damage.wrong:
                found.unseen += 1
            else:
                found.unsaid += 1
            due = damage.count >= max(row.messages, 1) if not row.within_ms else True
            if row.verdict is Verdict.SAID and not row.unless and due:
                self.violation(f"{row.key}, item {damage.ordinal}: never said, {damage.count} messages since")


def add_found(into: dict[tuple[str, str], Found], more: Mapping[tuple[str, str], Found]) -> None:
    """Add up what several runs have seen."""
    for key, one in more.items():
        all_of = into.setdefault(key, Found())
        for name, value in vars(one).items():
            old = getattr(all_of, name)
            setattr(all_of, name, max(old, value) if name in ("messages", "ms") else old + value)


def counted(found: Mapping[tuple[str, str], Found]) -> Counter[str]:
    """Damages by row, for a tally."""
    return Counter({" ".join(key): one.times for key, one in found.items()})
