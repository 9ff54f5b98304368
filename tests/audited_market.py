"""A small venue whose books are audited: what it tells, what REST answers, and what reaches the engine when.

Plain Python, no code of the engine's but records and the stage under test. Times are ms of a virtual clock. A venue's
event changes its book at once; the feed tells of it `delay` later, in order; an answer of REST is the book of a moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.book.book import book_top, book_update
from engine.instruments import Dialect, Instrument
from engine.records import MARKET, Flag, Kind
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from tests.market_records import (
    ALONE,
    BUY,
    FIRST,
    LAST,
    MS,
    SELL,
    SNAPSHOT,
    START_NS,
    make_instrument,
    record,
    run_stage,
)

WINDOW_MS = 500
Book = dict[tuple[int, int], int]  # size by (side, price)
Told = list[tuple[int, int, int]]  # side, price, size


@dataclass(frozen=True)
class Moment:
    """The venue's book from a time on, and what the feed tells of how it came to that."""

    at_ms: int
    update_id: int
    book: Book
    told: Told


def best(book: Book, side: int, depth: int) -> list[int]:
    """The best prices of a side, all of them for depth 0."""
    prices = sorted((price for held, price in book if held == side), reverse=side == BUY)
    return prices[:depth] if depth else prices


def moments(seed: int, depth: int, duration_ms: int, batch: int = 1, calm: int = 1) -> list[Moment]:
    """A book that walks. depth: a side, as subscribed, 0: all of it; batch: so many events are told of at once; calm:
    so many times slower."""
    draw = random.Random(seed)
    book: Book = {}
    mid = 5_000
    for step in range(1, 31):
        book[BUY, (mid - step) * 10], book[SELL, (mid + step) * 10] = draw.randint(1, 99_999), draw.randint(1, 99_999)
    held = {(side, price): book[side, price] for side in (BUY, SELL) for price in best(book, side, depth)}
    found = [Moment(0, 100, dict(book), [(side, price, size) for (side, price), size in held.items()])]
    at_ms, number = 0, 100
    while at_ms < duration_ms:
        at_ms += calm * draw.choice((1, 5, 20, 50, 120))
        for _ in range(draw.randint(1, batch)):
            number += 1
            mid += draw.choice((-1, 0, 0, 0, 0, 1))
            for side, price in [key for key in book if key[0] * (key[1] - mid * 10) >= 0]:
                del book[side, price]
            for _ in range(draw.randint(1, 4)):
                side = draw.choice((BUY, SELL))
                price = (mid - side * draw.choice((1, 1, 2, 3, 4, 6, 9, 12, 25))) * 10
                if draw.random() < 0.35 and len(best(book, side, 0)) > 12:
                    book.pop((side, price), None)
                else:
                    book[side, price] = draw.randint(1, 99_999)
        seen = {(side, price) for side in (BUY, SELL) for price in best(book, side, depth)}
        told = [(*key, 0) for key in held if key not in book]
        told += [(*key, book[key]) for key in sorted(seen) if held.get(key) != book[key]]
        held = {key: book[key] for key in seen}
        if told:
            found.append(Moment(at_ms, number, dict(book), told))
    return found


@dataclass
class Desk:
    """Validation under test, with one book, and the moments that it has not heard of yet."""

    settings: ValidationSettings
    depth: int = 0
    dialect: Dialect = Dialect.KRAKEN_SPOT_V2
    said: list[tuple[Kind, int]] = field(default_factory=list)  # BOOK_VALID and BOOK_INVALID, with the reason
    item: Instrument = field(init=False)
    state: np.ndarray = field(init=False)
    _waiting: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.item = replace(make_instrument(), dialect=self.dialect, book_depth=self.depth)
        self.state = make_validation_state(self.settings, [self.item])
        self.take(self.item.record())

    @property
    def counts(self) -> Any:
        """Of the audits by REST."""
        return self.state[0]["rest_audits"][0]

    def take(self, records: np.ndarray) -> np.ndarray:
        """Let validation take records; what it passed on."""
        out = run_stage(VALIDATION, self.state, records)
        for row in out[(out["kind"] == Kind.BOOK_VALID) | (out["kind"] == Kind.BOOK_INVALID)]:
            self.said.append((Kind(int(row["kind"])), int(row["reason"])))
        return out

    def feed(self, moment: Moment, at_ms: int, is_snapshot: bool = False) -> None:
        """A moment is told when the clock is there."""
        flags = int(Flag.SNAPSHOT) if is_snapshot else 0
        rows = [
            record(Kind.LEVEL, side=side, price=price, size=size, sequence=moment.update_id if self.is_numbered else 0,
                   recv_ts_ns=START_NS + at_ms * MS, flags=flags)
            for side, price, size in moment.told
        ]
        rows[0]["flags"] |= FIRST
        rows[-1]["flags"] |= LAST
        self._waiting.append((at_ms, np.concatenate(rows)))

    @property
    def is_numbered(self) -> bool:
        return self.dialect != Dialect.KRAKEN_SPOT_V2

    def clock(self, at_ms: int) -> None:
        """Time goes on, with everything that is due."""
        while self._waiting and self._waiting[0][0] <= at_ms:
            self.take(self._waiting.pop(0)[1])
        self.take(record(Kind.CLOCK, flags=ALONE, recv_ts_ns=START_NS + at_ms * MS))

    def ask(self, at_ms: int) -> None:
        """An audit begins."""
        self.clock(at_ms)
        self.take(record(Kind.AUDIT, flags=ALONE, recv_ts_ns=START_NS + at_ms * MS))

    def answer(self, at_ms: int, book: Book, levels: int, update_id: int = 0, unit: int = 1) -> None:
        """The answer comes. unit: sizes are cut to whole multiples of it."""
        self.clock(at_ms)
        rows = [
            record(Kind.AUDIT_LEVEL, side=side, price=price, size=book[side, price] // unit * unit, aux=unit,
                   sequence=update_id, recv_ts_ns=START_NS + at_ms * MS)
            for side in (BUY, SELL) for price in best(book, side, levels)
        ]
        rows[0]["flags"] |= FIRST
        rows[-1]["flags"] |= LAST
        assert len(self.take(np.concatenate(rows))) == 0, "what audits tell ends here"

    def levels(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Prices and sizes of the integrity book, best first."""
        prices, sizes = np.zeros(512, np.int64), np.zeros(512, np.int64)
        found = book_top(self.state[0]["books"], 0, side, 512, prices, sizes)
        return prices[:found], sizes[:found]

    def spoil(self, side: int, price: int, size: int) -> None:
        """Put a level that is wrong into the integrity book."""
        book_update(self.state[0]["books"], 0, side, price, size)


@dataclass(frozen=True)
class Course:
    """How an audited session goes, from a seed."""

    seed: int
    depth: int = 0
    numbered: bool = False
    batch: int = 1
    calm: int = 1
    unit: int = 1
    late_ms: int = WINDOW_MS - 20  # most that the feed is late
    stale_ms: int = WINDOW_MS - 20  # most that an answer is out of date
    duration_ms: int = 30_000
    settings: ValidationSettings = ValidationSettings(
        checksums=False, ticker_audit=False, rest_audit_window_ms=WINDOW_MS, crossed_books=False, locked_books=False
    )

    def moments(self) -> list[Moment]:
        """What happens at the venue."""
        return moments(self.seed, self.depth, self.duration_ms, self.batch, self.calm)

    def run(self, before_audit: Callable[[Desk, int], None] = lambda desk, number: None) -> Desk:
        """Play it; `before_audit` may do what it likes before each audit begins."""
        draw = random.Random(self.seed + 1_000_000)
        desk = Desk(self.settings, self.depth, Dialect.BINANCE_USDM if self.numbered else Dialect.KRAKEN_SPOT_V2)
        played = self.moments()
        heard_ms = 0
        for number, moment in enumerate(played):
            heard_ms = max(heard_ms, moment.at_ms + draw.choice((0, 1, 30, draw.randint(0, self.late_ms))))
            desk.feed(moment, heard_ms, is_snapshot=number == 0)
        now, audits = WINDOW_MS, 0
        while now + 4 * WINDOW_MS < self.duration_ms:
            desk.clock(now)
            before_audit(desk, audits)
            audits += 1
            desk.ask(now)
            asked = now + WINDOW_MS
            answered = asked + draw.randint(1, 400)
            told_of = draw.randint(asked - self.stale_ms, answered)
            at = max(place for place, moment in enumerate(played) if moment.at_ms <= told_of)
            book, update_id = played[at].book, played[at].update_id if self.numbered else 0
            is_within = self.numbered and at + 1 < len(played) and played[at + 1].update_id > update_id + 1
            if is_within and draw.random() < 0.7:
                # Within the next diff: some of what it tells has happened, some not, some otherwise.
                book, update_id = dict(book), draw.randint(update_id + 1, played[at + 1].update_id - 1)
                for side, price, then in played[at + 1].told:
                    size = draw.choice((then, book.get((side, price), 0), draw.randint(1, 9)))
                    book.pop((side, price), None)
                    if size:
                        book[side, price] = size
            desk.answer(answered, book, 100, update_id, self.unit)
            now = answered + WINDOW_MS + 20 + draw.randint(0, 300)
        desk.clock(self.duration_ms)
        return desk


__all__ = ["ALONE", "BUY", "MARKET", "SELL", "SNAPSHOT", "WINDOW_MS", "Course", "Desk", "Moment", "best", "moments"]
