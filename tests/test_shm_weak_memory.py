"""The shared-memory protocols on a weakly ordered machine, exhaustively; and each of their orderings is needed.

x86-64 hides most missing fences, so a litmus on it proves little. These try every order that the fences leave open.
"""

from __future__ import annotations

import numpy as np
import pytest

from shm import doorbell, follower, ring_kernels, seqlock
from shm.ring_kernels import CLAIM, CLAIMED, CURSOR, HEAD, LIMIT, LOCAL_WORDS, MASK, RECORD_SIZE, TAIL
from tests.weak_memory import Machine, Shared, outcomes

WORDS = 2  # of a record or value: enough to be torn
CONTROL, SLOTS, BLOCK, BELLS = Shared("control"), Shared("slots"), Shared("block"), Shared("bells")


def content(record: int) -> np.ndarray:
    """What a record holds: the same number in each word."""
    return np.full(WORDS, 10 + record, np.int64)


def local_words(cursor: int) -> np.ndarray:
    """Private words of one side of a ring of one slot."""
    local = np.zeros(LOCAL_WORDS, np.int64)
    local[[CURSOR, LIMIT, CLAIMED, MASK, RECORD_SIZE]] = (cursor, cursor, cursor, 0, 8 * WORDS)
    return local


def slot_holding(record: int) -> dict[tuple[str, int], int]:
    return {("slots", word): int(value) for word, value in enumerate(content(record))}


# --- sequence lock --------------------------------------------------------------------------------------


def values_read(monkeypatch: pytest.MonkeyPatch, weaken: str) -> tuple[set[int], bool]:
    """Versions that a reader can return while two values are written, and whether one can be torn."""
    machine = Machine(monkeypatch, [seqlock], weaken)
    target = np.zeros(WORDS, np.int64)

    def write_two_values() -> None:
        for version in (1, 2):
            seqlock.seqlock_write(BLOCK, np.full(WORDS, version), WORDS)

    def read() -> int:
        return int(seqlock.seqlock_read(BLOCK, target, WORDS, 1))

    writer, reader = machine.record({}, write_two_values), machine.record({}, read)
    versions: set[int] = set()
    torn = False
    for _, loads in outcomes({}, writer, reader):
        version = machine.replay(loads, read)
        versions.add(version)
        torn |= version >= 0 and not (target == version).all()
    return versions, torn


def test_a_seqlock_returns_whole_values_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert values_read(monkeypatch, "") == ({-1, 0, 1, 2}, False)


@pytest.mark.parametrize("weaken", ["fence_release", "fence_acquire", "load_acquire", "store_release"])
def test_a_seqlock_tears_without_any_of_its_orderings(monkeypatch: pytest.MonkeyPatch, weaken: str) -> None:
    assert values_read(monkeypatch, weaken)[1]


# --- follower ---------------------------------------------------------------------------------------------


def records_followed(
    monkeypatch: pytest.MonkeyPatch, weaken: str, *, starts: bool = False
) -> tuple[set[tuple[int, int]], bool]:
    """(records read, records lapped) while two more overwrite a ring of one slot, and whether one can be torn.

    The follower stands at the first record, or starts meanwhile at the oldest one that it finds.
    """
    machine = Machine(monkeypatch, [follower, ring_kernels], weaken)
    memory = slot_holding(0) | {("control", HEAD): 1, ("control", CLAIM): 1}
    target = np.zeros(8 * WORDS, np.uint8)
    local, started_at = local_words(0), [0]

    def overwrite_twice() -> None:
        producer = local_words(1)
        for record in (1, 2):
            ring_kernels.producer_claim(CONTROL, producer, 1)
            ring_kernels.producer_write(producer, SLOTS, 0, content(record).view(np.uint8), 0, 1)
            ring_kernels.producer_publish(CONTROL, producer, 1)

    def follow() -> int:
        local[:] = follower.new_follower(CONTROL, 1, 8 * WORDS, oldest=True) if starts else local_words(0)
        started_at[0] = local[CURSOR]
        return int(follower.follower_read(CONTROL, local, SLOTS, target, 0, 1))

    producer, reader = machine.record(memory, overwrite_twice), machine.record(memory, follow)
    seen: set[tuple[int, int]] = set()
    torn = False
    for _, loads in outcomes(memory, producer, reader):
        read = machine.replay(loads, follow)
        lapped = int(local[follower.LAPPED])
        assert read >= 0, "a sound ring was taken for a broken one"
        assert local[CURSOR] == started_at[0] + read + lapped
        seen.add((read, lapped))
        torn |= read == 1 and not (target.view(np.int64) == content(local[CURSOR] - 1)).all()
    return seen, torn


def test_a_follower_returns_whole_records_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, torn = records_followed(monkeypatch, "")
    assert not torn
    assert seen == {(1, 0), (0, 1), (1, 1), (0, 2), (1, 2)}


def test_a_follower_may_start_while_the_producer_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, torn = records_followed(monkeypatch, "", starts=True)
    assert not torn and {(0, 0), (1, 0), (0, 1)} <= seen


@pytest.mark.parametrize("weaken", ["fence_release", "fence_acquire", "load_acquire", "store_release"])
def test_a_follower_returns_torn_records_without_any_of_the_orderings(
    monkeypatch: pytest.MonkeyPatch, weaken: str
) -> None:
    assert records_followed(monkeypatch, weaken)[1]


# --- ring -------------------------------------------------------------------------------------------------


def hand_over(monkeypatch: pytest.MonkeyPatch, weaken: str) -> tuple[bool, bool]:
    """A ring of one slot: whether a published record can be read unwritten, and an unread one be overwritten."""
    machine = Machine(monkeypatch, [ring_kernels], weaken)
    target = np.zeros(8 * WORDS, np.uint8)

    def produce(record: int) -> list:
        producer = local_words(record)
        producer[LIMIT] = record - 1  # full, as far as it knows: it looks at the tail

        def push() -> None:
            ring_kernels.producer_room(CONTROL, producer, 1)
            ring_kernels.producer_claim(CONTROL, producer, 1)
            ring_kernels.producer_write(producer, SLOTS, 0, content(record).view(np.uint8), 0, 1)
            ring_kernels.producer_publish(CONTROL, producer, 1)

        return machine.record({("control", TAIL): record}, push)

    def consume() -> int:
        local = local_words(0)
        ready = int(ring_kernels.consumer_ready(CONTROL, local, 1))
        ring_kernels.consumer_read(local, SLOTS, 0, target, 0, 1)
        ring_kernels.consumer_advance(local, 1)
        ring_kernels.consumer_release(CONTROL, local)
        return ready

    def bad_copy(memory: dict, record: int) -> bool:
        """Whether a consumer of record 0 that is entitled to it gets anything else while `record` is pushed."""
        reader = machine.record(memory | {("control", HEAD): 1}, consume)
        for pushed, loads in outcomes(memory, produce(record), reader):
            entitled = machine.replay(loads, consume) >= 1 and pushed[0] == record
            if entitled and not (target.view(np.int64) == content(0)).all():
                return True
        return False

    unwritten = bad_copy({}, 0)
    overwritten = bad_copy(slot_holding(0) | {("control", HEAD): 1, ("control", CLAIM): 1}, 1)
    return unwritten, overwritten


def test_a_ring_hands_over_whole_records(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hand_over(monkeypatch, "") == (False, False)


@pytest.mark.parametrize(
    ("weaken", "bad"),
    [
        ("store_release", (True, True)),
        ("load_acquire", (True, False)),  # the claim's fence, too, keeps the slots behind the look at the tail
        ("load_acquire fence_release", (True, True)),
    ],
)
def test_a_ring_hands_over_rubbish_without_its_orderings(
    monkeypatch: pytest.MonkeyPatch, weaken: str, bad: tuple[bool, bool]
) -> None:
    assert hand_over(monkeypatch, weaken) == bad


# --- doorbell ---------------------------------------------------------------------------------------------


def both_miss(monkeypatch: pytest.MonkeyPatch, publisher_fenced: bool, sleeper_fenced: bool) -> bool:
    """Whether a producer can see nobody asleep while the consumer sees nothing published."""

    def record(fenced: bool, program: object) -> list:
        with monkeypatch.context() as patch:
            machine = Machine(patch, [doorbell, ring_kernels], "" if fenced else "fence_seq_cst")
            return machine.record({}, program)  # type: ignore[arg-type]

    def publish() -> None:
        ring_kernels.producer_publish(CONTROL, local_words(0), 1)
        doorbell.ring_bell(BELLS, 0)

    def prepare_and_look() -> None:
        doorbell.prepare_wait(BELLS, 0)
        ring_kernels.consumer_ready(CONTROL, local_words(0), 1)

    publisher, sleeper = record(publisher_fenced, publish), record(sleeper_fenced, prepare_and_look)
    return any(flag == 0 and head == 0 for (flag,), (_, head) in outcomes({}, publisher, sleeper))


def test_a_doorbell_needs_both_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not both_miss(monkeypatch, True, True)
    assert both_miss(monkeypatch, False, True) and both_miss(monkeypatch, True, False)
