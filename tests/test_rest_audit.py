"""The audit of books by REST: a right book is never refused, whatever the delays; a wrong one is, in so many audits."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from engine.reasons import Reason
from engine.records import Kind
from engine.validation.rest_audit import CHANGE_PLACES
from engine.validation.settings import ValidationSettings
from tests.audited_market import BUY, MS, SELL, START_NS, WINDOW_MS, Course, Desk, Moment, best, moments
from tests.market_records import ALONE, record

INVALID = (Kind.BOOK_INVALID, int(Reason.REST_MISMATCH))
COURSES = {
    "whole book": Course(0),
    "cut to ten levels": Course(0, depth=10),
    "cut to 25 levels": Course(0, depth=25),
    "sizes cut": Course(0, depth=25, unit=1_000),
    "numbered": Course(0, numbered=True),
    "numbered, many changes in a diff": Course(0, numbered=True, batch=5),
    "five levels": Course(0, depth=10, settings=replace(Course(0).settings, rest_audit_levels=5)),
}


@pytest.mark.parametrize("name", COURSES)
def test_a_right_book_is_never_refused(name: str) -> None:
    """Over books that walk, with a feed and answers as late as the window allows."""
    agreed = without = 0
    for seed in range(8):
        desk = replace(COURSES[name], seed=seed).run()
        assert desk.counts["disagreed"] == 0, seed
        assert desk.said == [(Kind.BOOK_VALID, 0)]
        agreed += int(desk.counts["agreed"])
        without += int(desk.counts["without_verdict"])
    assert agreed > 60 and without < agreed / 10


@pytest.mark.parametrize("name", ["whole book", "cut to ten levels", "numbered"])
def test_what_is_later_than_the_window_allows_is_what_would_be_refused(name: str) -> None:
    """The bound of the rule is not idle: beyond it right books disagree."""
    desks = [replace(COURSES[name], seed=seed, late_ms=6 * WINDOW_MS, stale_ms=0).run() for seed in range(3)]
    assert sum(int(desk.counts["disagreed"]) for desk in desks) > 0


def is_told_again(played: list[Moment], side: int, price: int, from_ms: int, to_ms: int) -> bool:
    """Whether the feed tells a level anew, which makes it right."""
    return any(
        (side, price) == told[:2] for moment in played if from_ms - WINDOW_MS <= moment.at_ms <= to_ms
        for told in moment.told
    )


@pytest.mark.parametrize("how", ["altered", "missing", "extra", "shifted"])
@pytest.mark.parametrize("name", ["whole book", "cut to ten levels", "sizes cut", "numbered"])
def test_a_wrong_book_is_found_by_as_many_audits_as_are_asked_for(name: str, how: str) -> None:
    """One level is spoiled before the fourth audit, until it is told again; two audits find what stays wrong."""
    found = healed = 0
    for seed in range(6):
        course = replace(COURSES[name], seed=seed, calm=30)
        draw = random.Random(seed)
        spoiled: list[tuple[int, int, int]] = []

        def spoil(desk: Desk, number: int) -> None:
            if number != 3:
                return
            side = draw.choice((BUY, SELL))  # noqa: B023
            prices, sizes = desk.levels(side)
            place = draw.randrange(8)  # noqa: B023
            price, size = int(prices[place]), int(sizes[place])
            now_ms = (int(desk.state["now_ns"][0]) - START_NS) // MS
            if how == "altered":
                desk.spoil(side, price, size + 50_000)
            elif how == "missing":
                desk.spoil(side, price, 0)
            elif how == "extra":
                price = int(prices[0]) + side * 10
                desk.spoil(side, price, 70_000)
            else:
                for each, old in zip(prices.tolist(), sizes.tolist(), strict=True):
                    desk.spoil(side, each, 0)
                    desk.spoil(side, each - side * 5, old)
            spoiled.append((side, price, now_ms))  # noqa: B023

        desk = course.run(spoil)
        side, price, now_ms = spoiled[0]
        if INVALID in desk.said:
            found += 1
            assert desk.counts["wrong"] == 1 and desk.state["instruments"]["resync_wanted"][0, 0] == 1
            continue
        played = course.moments()
        assert how != "shifted", "most levels are wrong"
        assert is_told_again(played, side, price, now_ms, now_ms + 20 * WINDOW_MS), "nothing made it right"
        healed += 1
    assert found == 6 if how == "shifted" else found > healed


def quiet(settings: ValidationSettings | None = None, **fields: object) -> Desk:
    """A book of two levels a side, in which nothing happens."""
    desk = Desk(settings or replace(Course(0).settings, rest_audit_disagreements=3), **fields)  # type: ignore[arg-type]
    book = {(BUY, 1000): 5, (BUY, 990): 6, (SELL, 1010): 7, (SELL, 1020): 8}
    desk.feed(Moment(0, 100, book, [(side, price, size) for (side, price), size in book.items()]), 0, is_snapshot=True)
    return desk


BOOK = {(BUY, 1000): 5, (BUY, 990): 6, (SELL, 1010): 7, (SELL, 1020): 8}


def audit(desk: Desk, at_ms: int, book: dict[tuple[int, int], int], update_id: int = 0, unit: int = 1) -> None:
    """A whole audit; the desk's clock stands behind its window then."""
    desk.ask(at_ms)
    desk.answer(at_ms + WINDOW_MS, book, 10, update_id, unit)
    desk.clock(at_ms + 2 * WINDOW_MS + 10)


@pytest.mark.parametrize(
    "wrong",
    [
        BOOK | {(BUY, 1000): 4}, BOOK | {(SELL, 1020): 9}, BOOK | {(BUY, 995): 1}, BOOK | {(SELL, 1005): 1},
        {key: size for key, size in BOOK.items() if key != (BUY, 990)},
        {key: size for key, size in BOOK.items() if key != (SELL, 1010)},
        {(side, price + 5): size for (side, price), size in BOOK.items()},
        {key: size for key, size in BOOK.items() if key[0] == BUY},
    ],
)  # fmt: skip
def test_every_single_difference_counts_and_a_row_of_them_makes_the_book_wrong(
    wrong: dict[tuple[int, int], int]
) -> None:
    desk = quiet()
    for number in range(2):
        audit(desk, 2_000 * (number + 1), wrong)
        assert desk.counts["in_a_row"] == number + 1
    audit(desk, 6_000, BOOK)
    assert desk.counts["in_a_row"] == 0 and desk.said == [(Kind.BOOK_VALID, 0)]
    for number in range(3):
        audit(desk, 8_000 + 2_000 * number, wrong)
    assert desk.said == [(Kind.BOOK_VALID, 0), INVALID]
    assert (desk.counts["agreed"], desk.counts["disagreed"], desk.counts["wrong"]) == (1, 5, 1)
    # The book begins anew, and is believed.
    desk.feed(Moment(0, 200, BOOK, [(side, price, size) for (side, price), size in BOOK.items()]), 15_000, True)
    audit(desk, 16_000, BOOK)
    assert desk.said[-1] == (Kind.BOOK_VALID, 0) and desk.counts["agreed"] == 2


def test_sizes_are_held_against_each_other_as_far_as_they_are_printed() -> None:
    desk = quiet()
    desk.feed(Moment(0, 0, {}, [(BUY, 1000, 5_999), (SELL, 1010, 12_001)]), 100)
    book = BOOK | {(BUY, 1000): 5_000, (SELL, 1010): 13_000, (BUY, 990): 0, (SELL, 1020): 0}
    audit(desk, 1_000, book, unit=1_000)
    assert desk.counts["agreed"] == 1
    audit(desk, 4_000, book | {(BUY, 1000): 4_000}, unit=1_000)
    audit(desk, 7_000, book | {(SELL, 1010): 14_000}, unit=1_000)
    assert desk.counts["disagreed"] == 2


def test_what_cannot_be_judged_has_no_verdict() -> None:
    desk = quiet()
    desk.ask(1_000)  # no answer at all: the window stays open until the next one
    desk.clock(2_990)
    before = int(desk.counts["without_verdict"])
    desk.ask(3_000)
    desk.take(record(Kind.GAP, recv_ts_ns=START_NS + 3_100 * MS))
    desk.answer(3_500, BOOK, 10)
    desk.clock(9_000)
    assert desk.counts["without_verdict"] == before + 1, "the book was lost in between"
    desk.ask(10_000)
    assert desk.counts["without_verdict"] == before + 2, "there is no book"
    desk.feed(Moment(0, 100, BOOK, [(side, price, size) for (side, price), size in BOOK.items()]), 11_000, True)
    desk.ask(12_000)
    for number in range(CHANGE_PLACES + 1):
        desk.feed(Moment(0, 0, {}, [(BUY, 980, 1 + number)]), 12_100)
    desk.answer(12_500, BOOK, 10)
    desk.clock(20_000)
    assert desk.counts["without_verdict"] == before + 3, "too much changed"
    desk.ask(21_000)
    worst_first = dict(reversed(BOOK.items()))
    rows = np.concatenate([
        record(Kind.AUDIT_LEVEL, side=side, price=price, size=size, recv_ts_ns=START_NS + 21_500 * MS)
        for (side, price), size in worst_first.items()
    ])
    rows[0]["flags"], rows[-1]["flags"] = 2, 4
    desk.take(rows)
    desk.clock(25_000)
    assert desk.counts["without_verdict"] == before + 4, "not best first"
    assert desk.counts["agreed"] == desk.counts["disagreed"] == 0


def test_an_answer_older_than_the_window_has_no_verdict_where_it_says_so() -> None:
    desk = quiet(dialect=Course(0, numbered=True).run().dialect)
    audit(desk, 1_000, BOOK | {(BUY, 1000): 1}, update_id=99)
    assert desk.counts["without_verdict"] == 1 and desk.counts["disagreed"] == 0
    audit(desk, 4_000, BOOK, update_id=100)
    audit(desk, 7_000, BOOK | {(BUY, 1000): 1}, update_id=100)
    assert (desk.counts["agreed"], desk.counts["disagreed"]) == (1, 1)


def test_records_of_an_audit_that_cannot_be_are_quarantined() -> None:
    desk = quiet()
    desk.ask(1_000)
    rows = [record(Kind.AUDIT_LEVEL, recv_ts_ns=START_NS, flags=ALONE, side=BUY, price=-1, size=1),
            record(Kind.AUDIT_LEVEL, recv_ts_ns=START_NS, flags=ALONE, side=0, price=1, size=1),
            record(Kind.AUDIT_LEVEL, recv_ts_ns=START_NS, flags=ALONE, side=BUY, price=1, size=-1),
            record(Kind.AUDIT, recv_ts_ns=START_NS, flags=ALONE, instrument=3)]  # fmt: skip
    desk.take(np.concatenate(rows))
    row = desk.state[0]
    counted = {Reason(at).name: int(count) for at, count in enumerate(row["quarantined"]) if count}
    assert counted == {"PRICE_RANGE": 1, "BAD_SIDE": 1, "SIZE_RANGE": 1, "NO_INSTRUMENT": 1}
    assert row["records_in"] == row["processed"] + row["quarantined"].sum() + row["dropped"].sum()


def test_a_verdict_depends_on_no_batch() -> None:
    """All records of a session in one batch, and each by itself, give the same state."""
    course = Course(3, depth=10, duration_ms=20_000)
    taken: list[np.ndarray] = []

    class Noting(Desk):
        def take(self, records: np.ndarray) -> np.ndarray:
            taken.append(records.copy())
            return super().take(records)

    first = course.run()
    noting = Noting(course.settings, 10)
    for number, moment in enumerate(moments(3, 10, 5_000)):
        noting.feed(moment, moment.at_ms, is_snapshot=number == 0)
    at = moments(3, 10, 5_000)[40]
    noting.ask(at.at_ms - WINDOW_MS)
    noting.answer(at.at_ms, at.book, 100)
    noting.clock(5_000)
    assert noting.counts["agreed"] == 1 and first.counts["agreed"] > 5
    whole = Desk(course.settings, 10)
    whole.take(np.concatenate(taken)[1:])  # the INSTRUMENT record was its own already
    assert whole.state.tobytes() == noting.state.tobytes()
    assert best(at.book, BUY, 1)
