"""The order table: its states against rules written out in Python, slots, exposure, timers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.order_states import (
    EVENT_COUNT,
    FIRST_TERMINAL,
    ILLEGAL,
    STATUS_COUNT,
    TRANSITIONS,
    OrderEvent,
    OrderStatus,
)
from engine.execution.orders import (
    NEVER,
    ORDER_SLOTS,
    ORDER_TABLE,
    Due,
    acknowledge,
    apply_event,
    apply_fill,
    apply_not_found,
    fill_order_table,
    find_order,
    fire,
    new_order,
    next_due,
    open_order_count,
    want_cancel,
)
from engine.execution.settings import ExecutionSettings
from tests.execution_harness import MS, START_NS

S, E = OrderStatus, OrderEvent
OPEN = {S.LIVE, S.PARTIALLY_FILLED}
WORKING = {S.PENDING_NEW, *OPEN, S.PENDING_CANCEL, S.UNKNOWN}


def new_table(**times: Any) -> np.ndarray:
    table = np.zeros(1, ORDER_TABLE)
    fill_order_table(table[0], ExecutionSettings(**times))
    return table


def add(table: np.ndarray, size: int = 10, side: int = 1, now_ns: int = START_NS, instrument: int = 0) -> np.void:
    slot = new_order(table[0], now_ns, 0, instrument, side, 100_00, size, 0, 3)
    assert slot >= 0
    return table[0]["slots"][slot]


def model(status: OrderStatus, event: OrderEvent, filled: int) -> OrderStatus | None:
    """Where an event leads, rule by rule; None where it must not happen."""
    alive = S.PARTIALLY_FILLED if filled else S.LIVE
    if status == S.DENIED:  # never sent: nothing can be heard of it but denials and failed questions
        return status if event in (E.DENIED, E.UNKNOWN, E.NOT_FOUND, E.GONE) else None
    if event == E.FULL_FILL:  # a fill is a fact
        return S.FILLED if status != S.FILLED else None
    if status == S.FILLED:
        late = (E.ACCEPTED, E.UNKNOWN, E.CANCEL_REJECTED, E.CANCEL_REFUSED, E.NOT_FOUND, E.GONE)
        return status if event in late else None
    if status in (S.CANCELLED, S.EXPIRED):  # done; only a fill of all could still change it
        return None if event in (E.REJECTED, E.DENIED, E.CANCEL_SENT) else status
    if status == S.REJECTED:  # signs of life are looked into
        if event in (E.ACCEPTED, E.PARTIAL_FILL):
            return S.UNKNOWN
        if event in (E.CANCELLED, E.EXPIRED):
            return S.CANCELLED if event == E.CANCELLED else S.EXPIRED
        return None if event in (E.DENIED, E.CANCEL_SENT) else status
    if event == E.CANCELLED:
        return S.CANCELLED
    if event == E.EXPIRED:
        return S.EXPIRED
    if event == E.UNKNOWN:
        return S.UNKNOWN
    if status == S.PENDING_NEW:
        answers = {E.ACCEPTED: alive, E.PARTIAL_FILL: alive, E.REJECTED: S.REJECTED, E.DENIED: S.DENIED}
        return answers.get(event)
    if status == S.UNKNOWN:
        answers = {E.ACCEPTED: alive, E.REJECTED: S.REJECTED, E.DENIED: S.DENIED, E.GONE: S.REJECTED}
        return answers.get(event, None if event == E.CANCEL_SENT else S.UNKNOWN)
    if event == E.CANCEL_REJECTED:  # the venue does not know it: ask
        return S.UNKNOWN
    if event == E.CANCEL_SENT:
        return S.PENDING_CANCEL if status in OPEN else None
    if event == E.CANCEL_REFUSED:
        return alive if status == S.PENDING_CANCEL else None
    if event in (E.ACCEPTED, E.PARTIAL_FILL, E.NOT_FOUND):
        return S.PENDING_CANCEL if status == S.PENDING_CANCEL else alive
    return None


def test_the_table_says_what_the_rules_say() -> None:
    for status in S:
        for event in E:
            if status == S.EMPTY:
                assert TRANSITIONS[status, event] == ILLEGAL
                continue
            filled = 1 if status == S.PARTIALLY_FILLED or event == E.PARTIAL_FILL else 0
            expected = model(status, event, filled)
            entry = int(TRANSITIONS[status, event])
            if entry == S.LIVE and filled:  # what apply_event makes of it
                entry = int(S.PARTIALLY_FILLED)
            assert entry == (ILLEGAL if expected is None else expected), (status.name, event.name)
    assert TRANSITIONS.shape == (STATUS_COUNT, EVENT_COUNT)
    assert {int(value) for value in TRANSITIONS.flat} <= {*map(int, S), ILLEGAL}


def check_sums(table: np.ndarray) -> None:
    """Counters, exposures and timers by brute force."""
    record = table[0]
    held = record["slots"][record["slots"]["status"] != S.EMPTY]
    assert record["status_count"].sum() >= len(held)
    for status in S:
        if S.EMPTY < status < FIRST_TERMINAL:
            assert record["status_count"][status] == (held["status"] == status).sum()
    for instrument in range(2):
        for place, side in enumerate((1, -1)):
            mine = held[(held["instrument"] == instrument) & (held["side"] == side)]
            exposure = sum(
                max(int(order["size"] - order["filled"]), 0) if order["status"] < FIRST_TERMINAL
                else max(int(order["cumulative"] - order["filled"]), 0)
                for order in mine
            )
            assert record["open_size"][instrument, place] == exposure
    assert open_order_count(record) == (held["status"] < FIRST_TERMINAL).sum()
    timers = held["timer_ns"][held["timer_ns"] > 0]
    assert record["next_timer_ns"] <= (timers.min() if len(timers) else NEVER)
    unresolved = held[(held["status"] == S.UNKNOWN) | (held["status"] == S.PENDING_NEW)]
    assert (unresolved["timer_ns"] > 0).all(), "an order that nobody asks about"


@settings(max_examples=200)
@given(
    script=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(E)), st.integers(1, 6)), max_size=60),
)
def test_random_events_follow_the_rules(script: list[tuple[int, OrderEvent, int]]) -> None:
    table = new_table()
    orders = [add(table, 10, 1 if n % 2 else -1, instrument=n // 2) for n in range(4)]
    filled, illegal, unknown, partial = [0] * 4, 0, set(), set()
    status = [S.PENDING_NEW] * 4
    now_ns = START_NS
    for which, drawn, size in script:
        order, now_ns, event = orders[which], now_ns + MS, drawn
        if event in (E.PARTIAL_FILL, E.FULL_FILL):
            filled[which] += size
            event = E.FULL_FILL if filled[which] >= 10 else E.PARTIAL_FILL
            if event == E.PARTIAL_FILL:
                partial.add(which)
            apply_fill(table[0], order, size, now_ns)
        else:
            assert apply_event(table[0], order, int(event), now_ns) == (
                model(status[which], event, filled[which]) is not None
            )
        after = model(status[which], event, filled[which])
        if after is None:
            illegal += 1
        else:
            status[which] = after
            if after == S.UNKNOWN:
                unknown.add(which)
        assert OrderStatus(int(order["status"])) == status[which]
        assert order["filled"] == filled[which]
        assert table[0]["illegal_transitions"] == illegal
        assert table[0]["unknown"] == len(unknown)
        assert table[0]["partially_filled"] == len(partial)
        assert table[0]["status_count"].sum() == 4
        check_sums(table)


def test_a_slot_is_reused_only_when_its_order_is_done_and_owes_nothing() -> None:
    table = new_table()
    alive = add(table)
    owing = add(table)
    acknowledge(table[0], owing, 0, 4)
    apply_event(table[0], owing, int(E.CANCELLED), START_NS)
    assert owing["exposure"] == 4
    ids = set()
    for _ in range(2 * ORDER_SLOTS):
        order = add(table)
        assert int(order["order_id"]) not in ids
        ids.add(int(order["order_id"]))
        apply_event(table[0], order, int(E.REJECTED), START_NS)
    assert (alive["order_id"], alive["status"]) == (1, S.PENDING_NEW)
    assert (owing["order_id"], owing["status"]) == (2, S.CANCELLED)
    assert not ids & {1 + ORDER_SLOTS, 2 + ORDER_SLOTS}, "ids whose slot was taken are skipped"
    assert find_order(table[0], 1) == 1
    assert find_order(table[0], 3) == -1
    assert find_order(table[0], 0) == find_order(table[0], -5) == -1
    check_sums(table)


def test_unknown_orders_count_against_the_number_of_open_orders() -> None:
    table = new_table(max_open_orders=3)
    orders = [add(table) for _ in range(3)]
    for order in orders:
        apply_event(table[0], order, int(E.UNKNOWN), START_NS)
    assert new_order(table[0], START_NS, 0, 0, 1, 100, 1, 0, 3) == -1
    apply_event(table[0], orders[1], int(E.REJECTED), START_NS)
    add(table)


def due_times(table: np.ndarray, until_ns: int) -> list[tuple[int, int, Due]]:
    """Fire all timers up to a time: (ms since start, order id, what is to be sent)."""
    fired = []
    while table[0]["next_timer_ns"] <= until_ns:
        now_ns = int(table[0]["next_timer_ns"])
        slot = next_due(table[0], now_ns)
        if slot >= 0:
            order = table[0]["slots"][slot]
            fired.append(((now_ns - START_NS) // MS, int(order["order_id"]), Due(fire(table[0], order, now_ns))))
    return fired


def test_an_order_without_an_answer_is_asked_for_at_growing_intervals() -> None:
    table = new_table(answer_timeout_ms=1_000, query_after_ms=500, query_backoff_max_ms=2_000)
    order = add(table)
    fired = due_times(table, START_NS + 9_000 * MS)
    assert order["status"] == S.UNKNOWN
    assert fired == [
        (1_000, 1, Due.NOTHING), (1_500, 1, Due.QUERY), (2_500, 1, Due.QUERY), (4_500, 1, Due.QUERY),
        (6_500, 1, Due.QUERY), (8_500, 1, Due.QUERY),
    ]
    apply_event(table[0], order, int(E.ACCEPTED), START_NS + 9_000 * MS)
    assert due_times(table, START_NS + 99_000 * MS) == []


def test_not_found_twice_and_far_enough_apart_ends_an_unknown_order() -> None:
    table = new_table(not_found_gap_ms=2_000, order_lifetime_ms=400)
    order = add(table)
    apply_event(table[0], order, int(E.UNKNOWN), START_NS)
    assert apply_not_found(table[0], order, START_NS + 550 * MS, START_NS + 500 * MS)
    assert apply_not_found(table[0], order, START_NS + 2_600 * MS, START_NS + 2_500 * MS - 1)
    assert (order["status"], order["exposure"]) == (S.UNKNOWN, 10)
    assert apply_not_found(table[0], order, START_NS + 2_600 * MS, START_NS + 2_500 * MS)
    assert (order["status"], order["exposure"]) == (S.REJECTED, 0)
    apply_event(table[0], order, int(E.ACCEPTED), START_NS + 3_000 * MS)  # it lives after all
    assert (order["status"], order["exposure"], order["not_found_ns"]) == (S.UNKNOWN, 10, 0)


def test_after_not_found_the_next_question_comes_when_it_can_end_the_order() -> None:
    """However far apart the questions have become meanwhile: the venue can be reached again."""
    table = new_table(query_after_ms=500, query_backoff_max_ms=60_000, not_found_gap_ms=2_000)
    order = add(table)
    apply_event(table[0], order, int(E.UNKNOWN), START_NS)
    assert due_times(table, START_NS + 20_000 * MS)[-1] == (15_500, 1, Due.QUERY)
    assert apply_not_found(table[0], order, START_NS + 20_000 * MS, START_NS + 19_900 * MS)
    assert due_times(table, START_NS + 23_000 * MS) == [(22_000, 1, Due.QUERY)]
    assert apply_not_found(table[0], order, START_NS + 22_100 * MS, START_NS + 22_000 * MS)
    assert order["status"] == S.REJECTED


def test_not_found_for_an_order_that_is_known_changes_nothing() -> None:
    table = new_table()
    order = add(table)
    apply_event(table[0], order, int(E.ACCEPTED), START_NS)
    for after_ms in (1, 10_000, 20_000):
        assert apply_not_found(table[0], order, START_NS + after_ms * MS, START_NS + after_ms * MS)
    assert order["status"] == S.LIVE


def test_questions_within_the_lifetime_of_an_order_prove_nothing() -> None:
    """Its request may lie somewhere and be taken later. Only when it was asked counts, not when the answer came."""
    table = new_table(not_found_gap_ms=1_000, order_lifetime_ms=3_000, query_after_ms=500)
    order = add(table)
    apply_event(table[0], order, int(E.UNKNOWN), START_NS)
    for asked_ms in (0, 500, 1_500, 2_999):
        assert apply_not_found(table[0], order, START_NS + 60_000 * MS, START_NS + asked_ms * MS)
    assert apply_not_found(table[0], order, START_NS + 60_000 * MS, 0)  # nobody knows when it was asked
    assert (order["status"], order["exposure"], order["not_found_ns"]) == (S.UNKNOWN, 10, 0)


@pytest.mark.parametrize("answer_ms", [5, 900, 4_000])
def test_an_order_that_never_was_is_unknown_no_longer_than_its_lifetime_and_the_gap(answer_ms: int) -> None:
    """Every question is answered "not found" after a while; questions come when they can count, not at leisure."""
    settings = ExecutionSettings()
    table = new_table()
    order = add(table)
    apply_event(table[0], order, int(E.UNKNOWN), START_NS)
    now, last = START_NS, START_NS
    questions: list[int] = []
    while order["status"] == S.UNKNOWN:
        now += 10 * MS
        assert now < START_NS + 60_000 * MS, "never resolved"
        while (slot := next_due(table[0], now)) >= 0:
            if fire(table[0], table[0]["slots"][slot], now) == Due.QUERY:
                questions.append(now)
        while questions and questions[0] + answer_ms * MS <= now:
            last = questions.pop(0)
            assert apply_not_found(table[0], order, now, last)
    assert order["status"] == S.REJECTED
    lifetime, gap = settings.order_lifetime_ms * MS, settings.not_found_gap_ms * MS
    assert lifetime + gap <= last - START_NS <= lifetime + gap + 2 * answer_ms * MS + 30 * MS


def test_a_done_order_that_owes_fills_is_asked_for_until_they_come() -> None:
    table = new_table(query_after_ms=500)
    order = add(table)
    apply_fill(table[0], order, 3, START_NS)
    acknowledge(table[0], order, 77, 7)
    apply_event(table[0], order, int(E.CANCELLED), START_NS)
    assert (order["exposure"], order["venue_order_id"]) == (4, 77)
    assert due_times(table, START_NS + 1_600 * MS) == [(500, 1, Due.QUERY), (1_500, 1, Due.QUERY)]
    apply_fill(table[0], order, 4, START_NS + 1_700 * MS)
    assert (order["exposure"], order["status"]) == (0, S.CANCELLED)
    assert due_times(table, START_NS + 99_000 * MS) == []
    assert table[0]["cumulative_mismatches"] == 0


def test_fills_beyond_what_the_venue_counts_are_noticed() -> None:
    table = new_table()
    order = add(table)
    acknowledge(table[0], order, 1, 3)
    apply_fill(table[0], order, 4, START_NS)
    assert table[0]["cumulative_mismatches"] == 1
    other = add(table)
    apply_fill(table[0], other, 11, START_NS)
    assert table[0]["cumulative_mismatches"] == 2
    assert other["status"] == S.FILLED


def test_a_wanted_cancel_waits_for_the_answer_and_is_tried_again_when_refused() -> None:
    table = new_table(cancel_retry_ms=250, answer_timeout_ms=5_000)
    order = add(table)
    want_cancel(table[0], order, START_NS)
    assert next_due(table[0], START_NS + 10 * MS) == -1
    apply_event(table[0], order, int(E.ACCEPTED), START_NS + 20 * MS)
    assert due_times(table, START_NS + 20 * MS) == [(20, 1, Due.CANCEL)]
    apply_event(table[0], order, int(E.CANCEL_SENT), START_NS + 20 * MS)
    apply_event(table[0], order, int(E.CANCEL_REFUSED), START_NS + 30 * MS)
    assert due_times(table, START_NS + 279 * MS) == []
    assert due_times(table, START_NS + 280 * MS) == [(280, 1, Due.CANCEL)]


def test_a_cancel_without_an_answer_leaves_the_order_unknown() -> None:
    table = new_table(answer_timeout_ms=1_000)
    order = add(table)
    apply_event(table[0], order, int(E.ACCEPTED), START_NS)
    apply_event(table[0], order, int(E.CANCEL_SENT), START_NS)
    assert due_times(table, START_NS + 1_000 * MS) == [(1_000, 1, Due.NOTHING)]
    assert order["status"] == S.UNKNOWN


@pytest.mark.parametrize("seed", range(5))
def test_timers_fire_by_deadline_then_id(seed: int) -> None:
    rng = random.Random(seed)
    table = new_table(answer_timeout_ms=1_000)
    expected = []
    starts = sorted(rng.randrange(5) for _ in range(40))
    for order_id, start in enumerate(starts, 1):
        add(table, now_ns=START_NS + start * MS)
        expected.append((1_000 + start, order_id, Due.NOTHING))
    assert due_times(table, START_NS + 1_100 * MS) == expected
