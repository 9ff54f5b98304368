"""Redundant sources: the rule that puts them in order, against a brute-force oracle."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.entry import STANDING_NS
from engine.ingest.lines import HELD_MOST, HOLD_NS, NOTHING_YET, Line

# What happens to a source: it brings the next message of the stream, opens (at how far behind or ahead of the
# stream's furthest source), or is lost.
STEP = st.tuples(st.integers(0, 2), st.sampled_from(["bring"] * 8 + ["lose", "open"]), st.integers(-6, 3))


class World:
    """A stream of messages that end at rising numbers, and three sources of it; who is told is written down."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.open: set[int] = set()
        self.line: Line[int] = Line(self.open)
        self.at = dict.fromkeys(range(3), 0)  # the place of the next message that a source brings
        self.brought: set[int] = set()  # places that some source has brought since the line began
        self.passed: list[int] = []

    def before(self, place: int) -> int:
        return self.numbers[place - 1] if place else 0

    def step(self, source: int, what: str, shift: int) -> None:
        furthest = max((self.at[item] for item in self.open), default=0)
        if what == "open" and source not in self.open:
            self.at[source] = min(max(furthest + shift, 0), len(self.numbers) - 1)
            self.open.add(source)
            self.line.opened(source)
        elif what == "lose" and source in self.open:
            self.open.discard(source)
            self.passed += self.line.lost(source)
            if not self.open:
                self.line.begin_again()
                self.brought.clear()
        elif what == "bring" and source in self.open and self.at[source] < len(self.numbers):
            place = self.at[source]
            self.at[source] += 1
            self.brought.add(place)
            self.passed += self.line.take(source, self.before(place), self.numbers[place], place, 0)


def expected(world: World, first: int) -> list[int]:
    """Brute force: from the first place that was passed on, everything that was brought, as far as it has no hole."""
    run = [first]
    while run[-1] + 1 in world.brought:
        run.append(run[-1] + 1)
    return run


@settings(max_examples=300)
@given(st.lists(st.integers(1, 5), min_size=5, max_size=60), st.lists(STEP, max_size=150))
def test_everything_without_a_hole_is_passed_on_once_and_in_order(apart: list[int], steps: list) -> None:
    numbers = [10 + sum(apart[: place + 1]) for place in range(len(apart))]
    world = World(numbers)
    world.step(0, "open", 0)
    began = 0  # messages passed on before the line began anew
    for step in steps:
        alone = len(world.open) == 1
        given_up = world.line.given_up
        world.step(*step)
        if not world.brought:
            began = len(world.passed)
        passed = world.passed[began:]
        assert all(later > earlier for earlier, later in pairwise(passed)), "rising: no duplicate, no way back"
        if not passed:
            continue
        if world.line.given_up == 0:
            assert passed == expected(world, passed[0])[: len(passed)]
            reachable = expected(world, passed[0])
            assert passed == reachable, "nothing that could be passed on is held"
        elif world.line.given_up > given_up:
            # A hole was given up: then no source that is open could have filled it.
            hole = next(
                earlier for earlier, later in reversed(list(pairwise(passed)))
                if numbers[earlier] != world.before(later)
            )
            assert alone or all(world.at[source] > hole + 1 for source in world.open)
    kept = world.line.held + len(set(world.passed[began:]))
    assert kept + world.line.duplicates >= len(world.brought)


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 5), min_size=30, max_size=80), st.integers(0, 20), st.integers(-5, 5),
    st.lists(st.booleans(), min_size=200, max_size=200),
)
def test_a_source_that_dies_and_comes_back_leaves_no_gap(
    apart: list[int], dies_after: int, back_at: int, turns: list[bool]
) -> None:
    """Source 1 lives throughout, source 0 dies and comes back somewhere near; all of the stream passes, once."""
    numbers = [100 + sum(apart[: place + 1]) for place in range(len(apart))]
    world = World(numbers)
    world.step(0, "open", 0)
    world.step(1, "open", 0)
    for turn, first in enumerate(turns):
        if turn == dies_after:
            world.step(0, "lose", 0)
        elif turn == dies_after + 5:
            world.step(0, "open", back_at)
        world.step(0 if first else 1, "bring", 0)
    while world.at[1] < len(numbers):
        world.step(1, "bring", 0)
    assert world.passed == list(range(world.passed[0], len(numbers)))
    assert world.passed[0] == 0 and world.line.given_up == 0 and world.line.held == 0


def test_a_message_that_nobody_brings_is_waited_for_no_longer_than_it_may_take() -> None:
    line: Line[str] = Line({0, 1})
    assert line.take(0, 0, 1, "a", 0) == ["a"]
    assert line.take(0, 2, 3, "c", 5) == []  # the other source has brought nothing yet: it may bring b
    assert line.late(5 + HOLD_NS - 1) == [] and line.held == 1
    assert line.late(5 + HOLD_NS) == ["c"] and line.given_up == 1
    assert line.take(1, 1, 2, "b", 6 + HOLD_NS) == [] and line.duplicates == 1, "too late"


def test_a_hole_that_every_source_has_is_given_up_at_once() -> None:
    line: Line[str] = Line({0, 1})
    line.take(0, 0, 1, "a", 0)
    assert line.take(0, 2, 3, "c", 0) == []
    assert line.take(1, 2, 3, "c", 0) == ["c"] and (line.given_up, line.duplicates) == (1, 1)
    # the one that might have filled it dies
    assert line.take(0, 4, 5, "e", 0) == []
    line._sources.discard(1)
    assert line.lost(1) == ["e"]


def test_too_much_is_not_held() -> None:
    line: Line[int] = Line({0, 1})
    line.take(0, 0, 1, 1, 0)
    passed = [line.take(0, 1 + number, 2 + number, number, 0) for number in range(1, HELD_MOST + 2)]
    assert not any(passed[:-1]) and len(passed[-1]) == HELD_MOST + 1


def test_sources_that_cut_the_stream_differently_do_not_mix() -> None:
    line: Line[str] = Line({0, 1})
    assert line.take(0, 0, 10, "0-10", 0) == ["0-10"]
    assert line.take(1, 5, 15, "5-15", 0) == [] and line.misaligned == 1
    assert line.take(0, 10, 20, "10-20", 0) == ["10-20"]
    line._sources.discard(0)
    line.lost(0)
    assert line.take(1, 15, 25, "15-25", 0) == ["15-25"], "the sequence rule behind finds out"


def test_where_only_a_number_is_known_the_newest_wins() -> None:
    line: Line[str] = Line({0, 1})
    taken = [line.take(source, NOTHING_YET, last, f"{source}:{last}", 0) for source, last in
             [(0, 5), (1, 5), (1, 9), (0, 7), (0, 9), (0, 11)]]
    assert taken == [["0:5"], [], ["1:9"], [], [], ["0:11"]] and line.duplicates == 3


def test_a_venue_that_counts_anew_is_followed() -> None:
    line: Line[str] = Line({0, 1})
    assert line.take(0, 999_999, 1_000_000, "old", 0) == ["old"]
    assert line.take(0, 4, 5, "new", 0) == ["new"]
    assert line.take(1, 5, 6, "newer", 0) == ["newer"]


@pytest.mark.parametrize("snapshot_at", [8, 12])
def test_a_snapshot_is_passed_on_where_it_is_wanted_and_the_line_goes_on_from_it(snapshot_at: int) -> None:
    line: Line[str] = Line({0, 1})
    assert line.jump(0, 5, "first", False, 0) == ["first"], "nothing stood yet"
    assert line.jump(1, 5, "second", False, 0) == []
    for number in range(6, 11):
        line.take(0, number - 1, number, str(number), 0)
    assert line.jump(1, snapshot_at, "again", True, 0) == ["again"] and line.passed == snapshot_at
    assert line.take(1, snapshot_at, snapshot_at + 1, "next", 0) == ["next"]


@settings(max_examples=200)
@given(
    st.integers(2, 30), st.integers(1, 10**8), st.integers(0, 1), st.booleans(),
    st.lists(st.integers(0, 1), min_size=400, max_size=400),
)
def test_a_number_that_was_read_wrongly_silences_the_line_for_a_while_only(
    at: int, above: int, by: int, dies: bool, turns: list[int]
) -> None:
    """Ten messages a second from two sources; one of them brings one number too high, and may die at once."""
    apart_ns, base = 100_000_000, 10**9  # far from half
    line: Line[int] = Line(sources := {0, 1})
    following, passed = [1, 1], []
    for turn in turns:
        source = turn if turn in sources else 1 - by
        place = following[source]
        following[source] += 1
        now_ns = place * apart_ns
        wrong = place == at and source == by
        passed += line.take(source, base + place - 1, base + place + above * wrong, place, now_ns)
        passed += line.late(now_ns)
        if wrong and dies:
            sources.discard(by)
            passed += line.lost(by)
    silence = max(later - earlier for earlier, later in pairwise(passed))
    # The other source may be behind the one that was wrong, and must come up to where it went on.
    behind = abs(following[0] - following[1])
    assert silence <= STANDING_NS // apart_ns + 3 + behind
    assert passed[-1] >= max(following) - 2 - STANDING_NS // apart_ns - behind


def test_a_source_that_lags_contradicts_nobody() -> None:
    line: Line[int] = Line({0, 1})
    for place in range(1, 50):
        assert line.take(0, place - 1, place, place, place) == [place]
    for place in range(1, 50):
        assert line.take(1, place - 1, place, place, 10 * STANDING_NS + place) == []
    assert line.contradicted == 0 and line.duplicates == 49
