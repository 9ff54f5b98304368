"""The decision hash: every decision counts, nothing else does; batches, repeats and restarts change nothing."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.decision_hash import DECISION_HASH, Decision, add_decision, chain_hex, open_chain
from engine.execution.summary import decision_hash
from engine.records import SOURCE_FILLS, SOURCE_MAIN, Kind, OrderAction
from tests.execution_harness import START_NS, Input, ToyVenue, command, make_state, opening, step, step_batch

FIELDS = ("tag", "strategy", "instrument", "side", "order_type", "time_in_force", "price", "size", "ingest_id")
decisions = st.tuples(
    st.sampled_from([int(tag) for tag in Decision]), st.integers(0, 255), st.integers(0, 65_535),
    st.sampled_from((-1, 0, 1)), st.integers(0, 1), st.integers(0, 3), st.integers(-(2**62), 2**62),
    st.integers(-(2**62), 2**62), st.integers(0, 2**62),
)


def hash_of(links: list[tuple[int, ...]]) -> str:
    chain = np.zeros(1, DECISION_HASH)
    open_chain(chain[0])
    for link in links:
        add_decision(chain[0], *link)
    assert chain[0]["links"] == len(links)
    return chain_hex(chain[0])


@settings(max_examples=300)
@given(links=st.lists(decisions, min_size=1, max_size=5), other=decisions, data=st.data())
def test_any_change_of_any_field_changes_both_lanes(
    links: list[tuple[int, ...]], other: tuple[int, ...], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(links) - 1))
    field = data.draw(st.integers(0, len(FIELDS) - 1))
    changed = list(links)
    changed[place] = (*links[place][:field], other[field], *links[place][field + 1 :])
    before, after = hash_of(links), hash_of(changed)
    assert len(before) == 32
    if changed == links:
        assert before == after
    else:
        assert before[:16] != after[:16]
        assert before[16:] != after[16:]


@settings(max_examples=100)
@given(first=decisions, second=decisions)
def test_order_and_number_of_decisions_count(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    assert hash_of([first]) != hash_of([first, first]) != hash_of([])
    assert (hash_of([first, second]) == hash_of([second, first])) == (first == second)


def test_the_chain_is_the_documented_one() -> None:
    """The mixing, written again in Python integers."""
    mask = 2**64 - 1
    lane0, lane1 = 0x243F6A8885A308D3, 0x13198A2E03707344
    tag, strategy, instrument, side, order_type, time_in_force, price, size, ingest_id = (3, 0, 1, -1, 0, 3, 7, -8, 9)
    head = tag | strategy << 8 | instrument << 16 | (side + 1) << 32 | order_type << 40 | time_in_force << 48
    for word in (head, price, size, ingest_id):
        x = ((lane0 ^ (word & mask)) + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        lane0 = x ^ x >> 31
        y = ((lane1 + word) & mask) ^ 0xD1B54A32D192ED03
        y = ((y ^ y >> 32) * 0xAFF51AF28C00D7A9) & mask
        y = ((y ^ y >> 28) * 0x9FB21C651E98DF25) & mask
        lane1 = y ^ y >> 32
    link = (tag, strategy, instrument, side, order_type, time_in_force, price, size, ingest_id)
    assert hash_of([link]) == f"{lane0:016x}{lane1:016x}"


@pytest.fixture(scope="module")
def session() -> list[Input]:
    """Everything that execution saw in a faulty session of 40 s, quiescence included, in order."""
    venue, state = ToyVenue(seed=5, faults=0.1), make_state()
    seen: list[Input] = []

    def give(item: Input) -> None:
        seen.append(item)
        venue.take(step(state, item))

    for item in opening(START_NS):
        give(item)
    for _ in range(2_000):
        for item in [venue.market(), *venue.due()]:
            give(item)
    give(command(Kind.QUIESCE, venue.now_ns))
    assert state[0]["intents"] > 300
    assert state[0]["ledger"]["fills"] > 50
    assert state[0]["orders"]["unknown"] > 10
    return seen


def run(items: list[Input]) -> tuple[bytes, bytes]:
    """State and outputs after stepping one by one."""
    state = make_state()
    outputs = [step(state, item).tobytes() for item in items]
    return state.tobytes(), b"".join(outputs)


def test_the_same_sequence_gives_the_same_bytes(session: list[Input]) -> None:
    assert run(session) == run(session)


@pytest.mark.parametrize("seed", range(4))
def test_where_a_batch_ends_changes_nothing(session: list[Input], seed: int) -> None:
    rng = random.Random(seed)
    state = make_state()
    outputs: list[bytes] = []
    place = 0
    largest = (2, 7, 50, 10_000)[seed]
    batches = 0
    while place < len(session):
        source = session[place][0]
        end = place + 1
        limit = place + rng.randrange(1, largest + 1)
        while end < min(limit, len(session)) and session[end][0] == source:
            end += 1
        batch = np.concatenate([item[1] for item in session[place:end]])
        outputs.append(step_batch(state, source, batch).tobytes())
        place = end
        batches += 1
    assert batches < len(session)
    assert (state.tobytes(), b"".join(outputs)) == run(session)


def test_a_restart_from_a_copied_state_changes_nothing(session: list[Input]) -> None:
    state = make_state()
    outputs = []
    for place, item in enumerate(session):
        if place % 97 == 0:
            state = np.frombuffer(bytearray(state.tobytes()), state.dtype)
        outputs.append(step(state, item).tobytes())
    assert (state.tobytes(), b"".join(outputs)) == run(session)


def hash_after(items: list[Input]) -> tuple[str, int]:
    state = make_state()
    for item in items:
        step(state, item)
    return decision_hash(state), int(state[0]["intents"])


def test_one_best_level_size_before_an_intent_changes_the_hash(session: list[Input]) -> None:
    original, intents = hash_after(session)
    assert intents > 0
    state = make_state()
    deciding = []
    for place, item in enumerate(session):
        if (step(state, item)["kind"] == OrderAction.NEW).any():
            deciding.append(place)
    for place in random.Random(1).sample(deciding, 15):
        changed = [(source, record.copy()) for source, record in session]
        changed[place][1]["bid_size"] += 1
        assert hash_after(changed)[0] != original


def test_a_dropped_fill_or_another_cause_changes_the_hash(session: list[Input]) -> None:
    original, _ = hash_after(session)
    first_fill = next(n for n, (source, record) in enumerate(session) if source == SOURCE_FILLS and record["size"][0])
    assert hash_after(session[:first_fill] + session[first_fill + 1 :])[0] != original
    state = make_state()
    deciding = next(n for n, item in enumerate(session) if (step(state, item)["kind"] == OrderAction.NEW).any())
    changed = [(source, record.copy()) for source, record in session]
    changed[deciding][1]["ingest_id"] += 100_000
    assert hash_after(changed)[0] != original


def test_ids_and_clocks_are_not_in_the_hash() -> None:
    """The same market an hour later, with other order ids in use, hashes to the same."""
    hashes = []
    for shift_ns, first_id in ((0, 1), (3_600_000_000_000, 500)):
        state = make_state()
        state["orders"]["next_order_id"] = first_id
        venue = ToyVenue(seed=2)
        items = [*opening(START_NS), *(venue.market() for _ in range(200))]
        order_ids = []
        for source, record in items:
            moved = record.copy()
            moved["recv_ts_ns"] += shift_ns
            if source == SOURCE_MAIN and "book_recv_ts_ns" in (moved.dtype.names or ()):
                moved["book_recv_ts_ns"] += shift_ns
            order_ids += step(state, (source, moved))["order_id"].tolist()
        new_ids = [order_id for order_id in order_ids if order_id > 0]
        assert min(new_ids) == first_id
        assert all(a <= b for a, b in pairwise(new_ids))
        assert state[0]["intents"] > 0
        hashes.append(decision_hash(state))
    assert hashes[0] == hashes[1]
