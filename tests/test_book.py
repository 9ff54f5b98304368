"""The order book against a dict book: every operation, drift, off-tick levels, forgetting."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.book import (
    CROSSED,
    LOCKED,
    MAX_PRICE,
    UNCROSSED,
    book_best,
    book_clear,
    book_crossing,
    book_depth,
    book_levels,
    book_set_tick,
    book_size_at,
    book_top,
    book_update,
    make_books,
)
from engine.book.layout import BEST_INDEX, BOOK, FAR_LIMIT, MAX_TOP, WINDOW_TICKS
from engine.records import Side

BUY, SELL = int(Side.BUY), int(Side.SELL)
TICK = 10


class DictBook:
    """The oracle: two dicts and sorting."""

    def __init__(self) -> None:
        self.sides: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}

    def update(self, side: int, price: int, size: int) -> None:
        if size:
            self.sides[side][price] = size
        else:
            self.sides[side].pop(price, None)

    def clear(self) -> None:
        for levels in self.sides.values():
            levels.clear()

    def top(self, side: int, count: int) -> list[tuple[int, int]]:
        return sorted(self.sides[side].items(), reverse=side == BUY)[:count]

    def best(self, side: int) -> tuple[int, int]:
        levels = self.sides[side]
        if not levels:
            return 0, 0
        price = max(levels) if side == BUY else min(levels)
        return price, levels[price]


def top_of(books: np.ndarray, side: int, count: int) -> list[tuple[int, int]]:
    prices, sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    found = book_top(books, 0, side, count, prices, sizes)
    return list(zip(prices[:found].tolist(), sizes[:found].tolist()))


def assert_same_touch(books: np.ndarray, oracle: DictBook) -> None:
    bid, ask = oracle.best(BUY), oracle.best(SELL)
    assert book_best(books, 0, BUY) == bid
    assert book_best(books, 0, SELL) == ask
    crossing = UNCROSSED
    if bid[0] and ask[0] and bid[0] >= ask[0]:
        crossing = LOCKED if bid[0] == ask[0] else CROSSED
    assert book_crossing(books, 0) == crossing


def assert_same(books: np.ndarray, oracle: DictBook) -> None:
    assert_same_touch(books, oracle)
    for side in (BUY, SELL):
        levels = oracle.sides[side]
        assert book_levels(books, 0, side) == len(levels)
        for count in (1, 5, MAX_TOP):
            best = oracle.top(side, count)
            assert top_of(books, side, count) == best
            assert book_depth(books, 0, side, count) == sum(size for _, size in best)
        for price, size in levels.items():
            assert book_size_at(books, 0, side, price) == size
    # Nothing is left behind in the arrays: what they hold is what is counted.
    record = books[0]
    assert int((record["sizes"] != 0).sum()) == int(record["near_count"].sum())
    assert int((record["far_sizes"] != 0).sum()) == int(record["far_count"].sum())


def fresh(tick: int = TICK) -> tuple[np.ndarray, DictBook]:
    books = make_books(1)
    book_set_tick(books, 0, tick)
    return books, DictBook()


side_of = st.sampled_from((BUY, SELL))
size_of = st.integers(1, 1 << 50)
near = st.integers(-60, 60)
anywhere = st.integers(-3 * WINDOW_TICKS, 3 * WINDOW_TICKS)
operation = st.one_of(
    st.tuples(st.just("set"), side_of, near, size_of),
    st.tuples(st.just("set"), side_of, anywhere, size_of),
    st.tuples(st.just("off_tick"), side_of, near, size_of),
    st.tuples(st.just("remove_absent"), side_of, anywhere, st.just(0)),
    st.tuples(st.just("remove"), side_of, st.integers(0, 1 << 20), st.just(0)),
    st.tuples(st.just("remove_best"), side_of, st.just(0), st.just(0)),
    st.tuples(st.just("drift"), side_of, st.integers(-WINDOW_TICKS, WINDOW_TICKS), st.just(0)),
    st.tuples(st.just("tick"), side_of, st.sampled_from((1, 5, 10, 20)), st.just(0)),
    st.tuples(st.just("clear"), side_of, st.just(0), st.just(0)),
)


@settings(max_examples=250)
@given(st.lists(operation, min_size=1, max_size=120))
def test_equals_dict_book(operations: list[tuple[str, int, int, int]]) -> None:
    books, oracle = fresh()
    centre = 10 * WINDOW_TICKS
    for name, side, number, size in operations:
        price = (centre + number) * TICK
        if name == "drift":
            centre = max(centre + number, 5 * WINDOW_TICKS)
            continue
        if name == "tick":
            book_set_tick(books, 0, number)
        elif name == "clear":
            book_clear(books, 0)
            oracle.clear()
        else:
            if name == "off_tick":
                price += 3
            elif name in ("remove", "remove_best"):
                levels = sorted(oracle.sides[side], reverse=side == BUY)
                if not levels:
                    continue
                price = levels[number % len(levels)]
            book_update(books, 0, side, price, size)
            oracle.update(side, price, size)
        assert_same_touch(books, oracle)
    assert_same(books, oracle)
    assert books[0]["faults"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_long_drifting_stream(seed: int) -> None:
    """The touch drifts through many windows, both ways, over far and off-tick levels."""
    rng = random.Random(seed)
    books, oracle = fresh()
    centre = 30 * WINDOW_TICKS
    for step in range(40_000):
        centre += rng.choice((-1, 1)) * rng.choice((0, 0, 1, 3, 40))
        if step % 5_000 == 0:
            centre += rng.choice((-2, -1, 1, 2)) * WINDOW_TICKS // 2
        side = rng.choice((BUY, SELL))
        distance = int(min(rng.paretovariate(0.35), 4.0 * WINDOW_TICKS))
        price = (centre - side * distance) * TICK + (rng.randrange(TICK) if rng.random() < 0.02 else 0)
        size = rng.choice((0, rng.randrange(1, 1000)))
        book_update(books, 0, side, price, size)
        oracle.update(side, price, size)
        # A real book has no levels through the touch: take away what the drift crossed.
        best = oracle.best(-side)[0]
        while best and size and (price - best) * side >= 0:
            book_update(books, 0, -side, best, 0)
            oracle.update(-side, best, 0)
            best = oracle.best(-side)[0]
        assert_same_touch(books, oracle)
        if step % 500 == 0:
            assert_same(books, oracle)
    assert books[0]["moves"] > 0
    assert books[0]["faults"] == 0


@pytest.mark.parametrize("side", [BUY, SELL])
def test_dense_ladder_walks_up_and_is_taken_down_again(side: int) -> None:
    """A level at every tick: whatever a move loses or doubles shows."""
    books, _ = fresh()
    ladder = [(100_000 + side * step) * TICK for step in range(BEST_INDEX + FAR_LIMIT)]
    for size, price in enumerate(ladder, 1):
        book_update(books, 0, side, price, size)
    assert book_levels(books, 0, side) == len(ladder)
    assert [int(book_size_at(books, 0, side, price)) for price in ladder] == list(range(1, len(ladder) + 1))
    for size in range(len(ladder), 0, -1):
        assert book_best(books, 0, side) == (ladder[size - 1], size)
        book_update(books, 0, side, ladder[size - 1], 0)
    assert book_best(books, 0, side) == (0, 0)
    assert books[0]["faults"] == 0 and books[0]["forgotten"] == 0


@pytest.mark.parametrize("side", [BUY, SELL])
def test_full_far_table_forgets_the_worse_half_and_stays_right(side: int) -> None:
    books, oracle = fresh()
    touch = 10 * WINDOW_TICKS

    def put(ticks: int, size: int) -> None:
        book_update(books, 0, side, (touch - side * ticks) * TICK, size)
        oracle.update(side, (touch - side * ticks) * TICK, size)

    for ticks in range(50):
        put(ticks, 1 + ticks)
    far = list(range(WINDOW_TICKS, WINDOW_TICKS + FAR_LIMIT + 1))
    random.Random(5).shuffle(far)
    for ticks in far:
        put(ticks, ticks)
    record = books[0]
    kept = int(record["far_count"][0 if side == BUY else 1])
    assert kept in (FAR_LIMIT // 2, FAR_LIMIT // 2 + 1) and record["forgotten"] == len(far) - kept
    assert record["faults"] == 0
    assert top_of(books, side, MAX_TOP) == oracle.top(side, MAX_TOP)
    # The touch falls until the window needs levels that were forgotten: from there the book owns up.
    ticks = 0
    while record["faults"] == 0:
        price = oracle.best(side)[0]
        assert price, "the side ran empty without a fault"
        assert book_best(books, 0, side) == oracle.best(side)
        assert book_depth(books, 0, side, 5) == sum(size for _, size in oracle.top(side, 5))
        book_update(books, 0, side, price, 0)
        oracle.update(side, price, 0)
        ticks += 1
    assert 0 < ticks < len(far) + 50
    book_clear(books, 0)
    assert books[0]["faults"] == 0 and book_levels(books, 0, side) == 0


@pytest.mark.parametrize(
    ("price", "size"), [(0, 1), (-5, 1), (MAX_PRICE + 1, 1), (100, -1), (np.iinfo(np.int64).min, 1)]
)
def test_impossible_level_is_a_fault(price: int, size: int) -> None:
    books, oracle = fresh()
    book_update(books, 0, BUY, 1000, 7)
    oracle.update(BUY, 1000, 7)
    book_update(books, 0, BUY, price, size)
    assert books[0]["faults"] == 1
    assert_same(books, oracle)


def test_level_before_the_tick_is_known_is_a_fault() -> None:
    books = make_books(1)
    book_update(books, 0, SELL, 1000, 7)
    assert books[0]["faults"] == 1
    assert book_best(books, 0, SELL) == (0, 0)


def test_extreme_prices_stand_beside_ordinary_ones() -> None:
    """Venues keep levels at one tick and at absurd prices; they must not disturb the touch."""
    books, oracle = fresh()
    for side, price, size in (
        (BUY, 600_000, 3), (SELL, 600_010, 4), (BUY, 10, 9), (SELL, MAX_PRICE, 1), (SELL, MAX_PRICE - 7, 2),
    ):
        book_update(books, 0, side, price, size)
        oracle.update(side, price, size)
    assert_same(books, oracle)
    for price, side in ((600_000, BUY), (600_010, SELL)):
        book_update(books, 0, side, price, 0)
        oracle.update(side, price, 0)
        assert_same(books, oracle)


def test_books_of_an_array_are_independent() -> None:
    books = make_books(3)
    for i in range(3):
        book_set_tick(books, i, 1)
    book_update(books, 1, BUY, 500, 2)
    assert book_best(books, 1, BUY) == (500, 2)
    assert book_best(books, 0, BUY) == (0, 0) and book_best(books, 2, BUY) == (0, 0)


def test_layout() -> None:
    assert BOOK.itemsize % 8 == 0
    assert BOOK.itemsize <= 300_000
