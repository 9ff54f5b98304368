"""Faults over a sequence, pure: nothing invented, nothing lost that is not said, the same for the same seed."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procs.wire_player.faults import (
    FRAME_FAULTS,
    TOO_MANY,
    Fault,
    Injected,
    Injector,
    RestFaults,
    parse_fault,
    with_faults,
)
from procs.wire_player.sequence import Item, What

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000


def frame(ordinal: int, ms: int = 0, connection: int = 0, stream: str = "a@depth", data: bytes = b"") -> Item:
    data = data or b'{"n":%d}' % ordinal
    return Item(START_NS + (ms or ordinal) * MS, connection, What.FRAME, data, ordinal, stream)


def run(items: list[Item], *faults: Fault, seed: int = 1) -> tuple[list[Item], list[Injected], int]:
    """(what comes, what was noted, how many frames a broken connection lost)."""
    notes: list[Injected] = []
    injector = Injector(faults, seed, notes.append)
    given_out: list[Item] = []
    for item in items:
        given_out += injector.before(item.ts_ns)
        given_out += injector.take(item)
    given_out += injector.rest()
    again: list[Injected] = []
    assert list(with_faults(items, faults, seed, again.append)) == given_out
    assert again == notes
    return given_out, notes, injector.lost


FAULTS = st.builds(
    Fault,
    kind=st.sampled_from(FRAME_FAULTS), part=st.sampled_from(("", "depth", "trade")),
    rate=st.sampled_from((0.0, 0.02, 0.3, 1.0)), at=st.sampled_from((0, 0, 1, 7, 30)), ms=st.integers(1, 40),
)  # fmt: skip


@st.composite
def sequences(draw: st.DrawFn) -> list[Item]:
    """Frames of two connections and four streams, replies among them, in time that does not go back."""
    ms, items = 0, []
    for ordinal in range(1, draw(st.integers(0, 60)) + 1):
        ms += draw(st.integers(0, 6))
        connection = draw(st.integers(0, 1))
        stream = draw(st.sampled_from(("x@depth", "x@trade", "y@depth")))
        what = draw(st.sampled_from((What.FRAME, What.FRAME, What.FRAME, What.REPLY)))
        data = b'{"stream":"","data":{"n":%d}}' % ordinal
        items.append(Item(START_NS + ms * MS, connection, what, data, ordinal, f"{connection}{stream}", 20))
    return items


@given(sequences(), st.lists(FAULTS, max_size=4), st.integers(0, 2**32))
def test_what_comes_is_what_was_recorded_less_what_is_said(items: list[Item], faults: list[Fault], seed: int) -> None:
    came, notes, lost = run(items, *faults, seed=seed)
    kinds = Counter(note.kind for note in notes)
    recorded = {item.ordinal: item for item in items}
    frames = [item for item in came if item.what is What.FRAME]
    total = sum(item.what is What.FRAME for item in items)
    # A disconnect counts its own frame as lost.
    assert len(frames) == total + kinds["duplicate"] - kinds["drop"] - lost
    assert kinds["disconnect"] == sum(item.what is What.DISCONNECT for item in came)
    corrupted = {note.ordinal for note in notes if note.kind == "corrupt"}
    for item in frames:
        original = recorded[item.ordinal]
        differing = [place for place, pair in enumerate(zip(item.data, original.data)) if pair[0] != pair[1]]
        assert len(item.data) == len(original.data)
        assert len(differing) == (item.ordinal in corrupted)
        assert all(20 <= place < len(item.data) - 1 and 0x20 <= item.data[place] < 0x7F for place in differing)
        assert (item.connection, item.stream, item.start) == (original.connection, original.stream, original.start)
        assert item.ts_ns >= original.ts_ns
    replies = [item for item in items if item.what is What.REPLY]
    assert [item for item in came if item.what is What.REPLY] == replies
    assert [item.ts_ns for item in came] == sorted(item.ts_ns for item in came)
    assert run(items, *faults, seed=seed) == (came, notes, lost)
    for note in notes:
        met = recorded[note.ordinal]
        assert (note.ts_ns, note.stream) == (met.ts_ns, met.stream)
        assert any(fault.kind == note.kind and fault.part in met.stream for fault in faults)


@given(sequences(), st.lists(FAULTS, max_size=4))
def test_nothing_comes_of_a_broken_connection_and_every_break_ends(items: list[Item], faults: list[Fault]) -> None:
    broken: set[int] = set()
    for item in run(items, *faults)[0]:
        if item.what is What.DISCONNECT:
            assert item.connection not in broken
            broken.add(item.connection)
        elif item.what is What.CONNECT:
            broken.remove(item.connection)
        elif item.what is What.FRAME:
            assert item.connection not in broken
    assert not broken


@given(sequences(), st.sampled_from(("drop", "duplicate", "corrupt")), st.integers(0, 2**32))
def test_faults_in_place_leave_the_order_alone(items: list[Item], kind: str, seed: int) -> None:
    """An oracle by list: what the notes say, done to the list of ordinals."""
    came, notes, _ = run(items, Fault(kind, rate=0.3), seed=seed)
    met = {note.ordinal for note in notes}
    times = {"drop": 0, "duplicate": 2, "corrupt": 1}[kind]
    expected = [item.ordinal for item in items for _ in range(times if item.ordinal in met else 1)]
    assert [item.ordinal for item in came] == expected


def test_without_faults_nothing_happens() -> None:
    items = [frame(number) for number in range(1, 50)]
    assert run(items) == (items, [], 0)
    assert run(items, Fault("drop", part="trade", rate=1.0)) == (items, [], 0)
    assert run(items, Fault("drop", rate=0.0)) == (items, [], 0)


def test_a_rate_is_a_share_of_the_candidates() -> None:
    items = [frame(number) for number in range(1, 20_001)]
    _, notes, _ = run(items, Fault("drop", rate=0.05), seed=3)
    assert abs(len(notes) - 1000) < 5 * (20_000 * 0.05 * 0.95) ** 0.5
    assert run(items, Fault("drop", rate=0.05), seed=4)[1] != notes


def test_reorder_puts_a_frame_behind_the_next_of_its_stream() -> None:
    items = [frame(1), frame(2, stream="b@trade"), frame(3), frame(4)]
    came, notes, _ = run(items, Fault("reorder", at=1))
    assert [item.ordinal for item in came] == [2, 3, 1, 4]
    assert came[2].ts_ns == items[2].ts_ns
    assert notes == [Injected(1, "reorder", items[0].ts_ns, "a@depth", "behind 3")]
    # Nothing comes behind it: it was not reordered, and nothing says so.
    came, notes, _ = run(items[:2], Fault("reorder", at=1))
    assert [item.ordinal for item in came] == [2, 1] and notes == []


def test_delay_is_exact_and_others_overtake() -> None:
    items = [frame(number, ms=number * 10) for number in range(1, 6)]
    came, notes, _ = run(items, Fault("delay", at=2, ms=25))
    assert [item.ordinal for item in came] == [1, 3, 4, 2, 5]
    assert came[3].ts_ns == items[1].ts_ns + 25 * MS
    assert notes == [Injected(2, "delay", items[1].ts_ns, "a@depth", "25 ms")]


def test_a_stall_holds_its_connection_and_lets_everything_go_at_once() -> None:
    items = [frame(number, ms=number * 10, connection=number % 2) for number in range(1, 11)]
    came, notes, _ = run(items, Fault("stall", at=3, ms=45))
    assert [item.ordinal for item in came] == [1, 2, 4, 6, 3, 5, 7, 8, 9, 10]
    assert {item.ts_ns for item in came[4:7]} == {items[2].ts_ns + 45 * MS}
    assert [note.kind for note in notes] == ["stall"]


def test_a_disconnect_loses_its_time_and_what_was_on_its_way() -> None:
    items = [frame(number, ms=number * 10) for number in range(1, 9)]
    came, notes, lost = run(items, Fault("delay", at=2, ms=100), Fault("disconnect", at=4, ms=25))
    assert [(item.what, item.ordinal) for item in came] == [
        (What.FRAME, 1), (What.FRAME, 3), (What.DISCONNECT, 4), (What.CONNECT, 4), (What.FRAME, 7), (What.FRAME, 8),
    ]  # fmt: skip
    assert came[3].ts_ns == items[3].ts_ns + 25 * MS
    assert lost == 4  # 2 on its way, 4, 5 and 6
    assert [(note.ordinal, note.kind) for note in notes] == [(2, "delay"), (4, "disconnect")]


def test_a_mute_holds_one_stream_and_leaves_the_others_of_its_connection_alone() -> None:
    items = [frame(n, 10 * n, stream="a@trade" if n % 2 == 0 else "a@depth") for n in range(1, 11)]
    other = frame(11, 102, connection=1)
    came, notes, _ = run([*items, other], Fault("mute", at=3, ms=45))
    # The third comes at 30 ms and is held with the fifth and seventh until 75 ms.
    assert [item.ordinal for item in came] == [1, 2, 4, 6, 3, 5, 7, 8, 9, 10, 11]
    assert [(note.kind, note.stream, note.detail) for note in notes] == [("mute", "a@depth", "45 ms")]
    assert {item.ts_ns for item in came if item.ordinal in (3, 5, 7)} == {START_NS + 75 * MS}
    # A late frame does not come through it; a stall may outlast it; a break ends it.
    came, _, _ = run(items, Fault("delay", at=1, ms=15), Fault("mute", at=3, ms=45))
    assert [item.ordinal for item in came][:4] == [2, 1, 4, 6]
    came, _, _ = run(items, Fault("mute", at=3, ms=15), Fault("stall", at=4, ms=45))
    assert [item.ordinal for item in came if item.ts_ns == START_NS + 85 * MS] == [4, 3, 5, 6, 7, 8]
    came, _, lost = run(items, Fault("mute", at=3, ms=500), Fault("disconnect", at=6, ms=15))
    assert lost == 4 and [item.ordinal for item in came if item.what is What.FRAME] == [1, 2, 4, 8, 9, 10]


def test_a_break_ends_a_stall_and_loses_what_was_to_be_overtaken() -> None:
    items = [frame(number, ms=number * 10) for number in range(1, 9)]
    came, _, lost = run(items, Fault("stall", at=2, ms=500), Fault("disconnect", at=4, ms=15))
    assert [(item.what, item.ordinal) for item in came[1:3]] == [(What.DISCONNECT, 4), (What.CONNECT, 4)]
    assert [(item.ordinal, item.ts_ns) for item in came[3:]] == [(item.ordinal, item.ts_ns) for item in items[5:]]
    assert lost == 4  # 2 and 3 were held, 4 and 5 fell into the break
    came, notes, lost = run(items, Fault("reorder", at=2), Fault("disconnect", at=3, ms=15))
    assert [item.ordinal for item in came if item.what is What.FRAME] == [1, 5, 6, 7, 8]
    assert lost == 3 and [note.kind for note in notes] == ["disconnect"]


def test_a_late_frame_does_not_come_through_a_stall() -> None:
    items = [frame(number, ms=number * 10) for number in range(1, 9)]
    came, _, _ = run(items, Fault("delay", at=1, ms=15), Fault("stall", at=2, ms=45))
    assert [item.ordinal for item in came] == [2, 1, 3, 4, 5, 6, 7, 8]
    assert {item.ts_ns for item in came[:6]} == {items[1].ts_ns + 45 * MS}


def test_corruption_is_anywhere_in_the_event_and_nowhere_else() -> None:
    data = b'{"stream":"a","data":{"p":1}}'
    items = [frame(number, data=data)._replace(start=21) for number in range(1, 1_001)]
    came, _, _ = run(items, Fault("corrupt", rate=1.0))
    places = [next(place for place in range(len(data)) if item.data[place] != data[place]) for item in came]
    assert set(places) == set(range(21, len(data) - 1))
    assert len({item.data[place] for item, place in zip(came, places, strict=True)}) == 95
    bare = run([item._replace(start=0) for item in items], Fault("corrupt", rate=1.0))[0]
    assert any(item.data[-1:] != b"}" for item in bare) and any(item.data[:1] != b"{" for item in bare)


def test_snapshots_are_refused_or_old() -> None:
    bodies = [b'{"lastUpdateId":%d}' % number for number in (1, 1, 2, 3, 4)]
    items = [
        Item(START_NS + number, 0, What.SNAPSHOT, body, number, "BTCUSDT") for number, body in enumerate(bodies, 1)
    ]
    came, notes, _ = run(items, Fault("stale", rate=1.0))
    assert [item.data for item in came] == [bodies[0]] * 5
    assert [(note.ordinal, note.kind) for note in notes] == [(3, "stale"), (4, "stale"), (5, "stale")]
    came, notes, _ = run(items, Fault("429", at=2), Fault("stale", at=4))
    assert [item.what is What.REFUSED for item in came] == [False, True, False, False, False]
    assert [item.data for item in came] == [bodies[0], TOO_MANY, bodies[2], bodies[0], bodies[4]]
    assert [(note.ordinal, note.kind) for note in notes] == [(2, "429"), (4, "stale")]


def test_rest_requests_meet_faults_by_their_number() -> None:
    notes: list[Injected] = []
    faults = RestFaults([Fault("429", part="depth", at=2), Fault("stale", rate=1.0)], 0, notes.append)
    answers = [faults.meet(f"/api/v3/{name}", 5, may_be_stale=True) for name in ("depth", "time", "depth", "depth")]
    assert answers == ["stale", "stale", "429", "stale"]
    assert faults.meet("/api/v3/depth", 6, may_be_stale=False) == ""
    assert notes[2] == Injected(3, "429", 5, "/api/v3/depth")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop=0.001", Fault("drop", rate=0.001)),
        ("drop:depth=1", Fault("drop", "depth", 1.0)),
        ("stall@500", Fault("stall", at=500, ms=6_000)),
        ("stall:book-10 XBT/USD@500,250", Fault("stall", "book-10 XBT/USD", at=500, ms=250)),
        ("delay:depth@0ms=0.5,20", Fault("delay", "depth@0ms", 0.5, ms=20)),
        ("429@3", Fault("429", at=3)),
        ("stale:symbol=1", Fault("stale", "symbol", 1.0)),
    ],
)
def test_orders_for_faults(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    ["", "drop", "drop=", "drop=2", "drop=x", "drop=1.2.3", "drop@0", "drop=-1", "explode=0.1", "stall=0.1,0",
     "drop=0.1,50", "stall=0.1,x", "drop:=0.1"],
)  # fmt: skip
def test_orders_that_make_no_sense_say_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are|a rate is|milliseconds|millisecond"):
        parse_fault(text)


def test_memory_does_not_grow_with_length() -> None:
    def long() -> Iterator[Item]:
        for number in range(1, 60_001):
            yield frame(number, stream=f"{number % 3}@depth", data=b"%0200d" % number)

    faults = [Fault(kind, rate=0.02, ms=50) for kind in FRAME_FAULTS]
    counts: Counter[str] = Counter()
    tracemalloc.start()
    total = sum(1 for _ in with_faults(long(), faults, 5, lambda note: counts.update((note.kind,))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 10_000 and set(counts) == set(FRAME_FAULTS)
    assert peak < 500_000


def test_a_sequence_without_end_is_read_no_further_than_needed() -> None:
    endless = (frame(number) for number in itertools.count(1))
    first = itertools.islice(with_faults(endless, [Fault("duplicate", at=2)], 0, lambda note: None), 4)
    assert [item.ordinal for item in first] == [1, 2, 2, 3]
    assert next(endless).ordinal == 4
