"""The decoder of live ingestion and of replay: the same bytes from a journal, with drops; books that can be trusted.

A small venue with known books is played through a lossy transport into a decoder whose ring is full at random times.
Two oracles: what a reader of the records believes to be a valid book must be the venue's own, and the journal, read
back, must give the same records byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pytest

from engine.ingest.kernel import INGEST_STATE, make_ingest_state
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind
from procs.decoding import ALL_INSTRUMENTS, Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.journal.writer import JournalWriter

START_NS = 1_700_000_000_000_000_000
INSTRUMENTS = tuple(
    Instrument(index, f"{base}USDT", base, "USDT", 2, 3, 1, 1, 0) for index, base in enumerate(("BTC", "ETH", "SOL"))
)
Book = dict[tuple[int, int], int]


@dataclass
class VenueBook:
    """One book of the venue: what it is, and what it was at every update id."""

    symbol: str
    update_id: int = 0
    levels: Book = field(default_factory=dict)
    history: dict[int, Book] = field(default_factory=dict)
    trade_id: int = 0

    def diff(self, dice: random.Random) -> bytes:
        """Change some levels and say so."""
        first, previous = self.update_id + 1, self.update_id
        self.update_id += dice.randint(1, 3)
        changed: Book = {}
        for _ in range(dice.randint(1, 3)):
            side = dice.choice((1, -1))
            changed[side, 10_000 - side * dice.randint(1, 6)] = dice.choice((0, dice.randint(1, 99)))
        for key, size in changed.items():
            self.levels.pop(key, None)
            if size:
                self.levels[key] = size
        self.history[self.update_id] = dict(self.levels)
        return self._event(
            "depth@0ms",
            {"e": "depthUpdate", "U": first, "u": self.update_id, "pu": previous, **self._sides(changed, "b", "a")},
        )

    def trade(self) -> bytes:
        self.trade_id += 1
        return self._event("trade", {"e": "trade", "t": self.trade_id, "p": "100.00", "q": "0.005", "m": True})

    def snapshot(self) -> bytes:
        levels = self._sides(self.levels, "bids", "asks")
        return orjson.dumps({"lastUpdateId": self.update_id, "E": 1, "T": 1, **levels})

    def _event(self, stream: str, data: dict) -> bytes:
        data |= {"E": 1, "T": 1, "s": self.symbol}
        return orjson.dumps({"stream": f"{self.symbol.lower()}@{stream}", "data": data})

    @staticmethod
    def _sides(levels: Book, bids: str, asks: str) -> dict:
        def texts(wanted: int) -> list:
            return [[f"{p / 100:.2f}", f"{s / 1000:.3f}"] for (side, p), s in levels.items() if side == wanted]

        return {bids: texts(1), asks: texts(-1)}


class Reader:
    """Believes the records, and holds every book that they call whole against the venue's."""

    def __init__(self, books: list[VenueBook]) -> None:
        self._books = books
        self._levels: list[Book | None] = [None] * len(books)
        self.compared = 0
        self.gaps = 0

    def take(self, records: np.ndarray) -> None:
        for row in records:
            kind, index = row["kind"], int(row["instrument"])
            if kind == Kind.GAP:
                assert self._levels[index] is not None, "a second GAP for a book that is known to be lost"
                self._levels[index] = None
                self.gaps += 1
            elif kind == Kind.LEVEL:
                if row["flags"] & Flag.SNAPSHOT and row["flags"] & Flag.FIRST:
                    self._levels[index] = {}
                levels = self._levels[index]
                if levels is None:
                    raise AssertionError("a level of a book that has no snapshot")
                levels.pop((int(row["side"]), int(row["price"])), None)
                if row["size"]:
                    levels[int(row["side"]), int(row["price"])] = int(row["size"])
                if row["flags"] & Flag.LAST:
                    assert levels == self._books[index].history[int(row["sequence"])]
                    self.compared += 1


class Live:
    """Ingestion as procs/ingestion.py does it: journal, decode, publish or drop."""

    def __init__(self, folder: Path, dice: random.Random, drop: float) -> None:
        self.decoder = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
        self.journal = JournalWriter(folder, "ingestion", "0" * 8, segment_bytes=1 << 20)
        self.published: list[np.ndarray] = []
        self.refused = 0
        self._dice, self._drop = dice, drop

    def take(self, kind: Entry, payload: bytes, now: int, source: int = 0) -> np.ndarray:
        self.journal.append(kind, payload, now, source=source)
        count = self.decoder.apply(JournalEntry(kind, 0, now, source, 1, payload))
        if count and kind != Entry.START and self._dice.random() < self._drop:
            self.journal.append(Entry.DROPPED, b"", now)
            self.refused += count
            count = self.decoder.dropped(now)
        self.published.append(self.decoder.records[:count].copy())
        return self.published[-1]

    def records(self) -> np.ndarray:
        return np.concatenate(self.published)


def balances(state: np.ndarray) -> bool:
    row = state[0]
    done = int(row["processed"]) + int(row["quarantined"].sum()) + int(row["dropped"].sum())
    return int(row["records_in"]) == done + int(row["pending_frames"])


def play(folder: Path, seed: int, drop: float) -> tuple[Live, Reader]:
    """A session of 1,500 inputs; the journal is in the folder."""
    dice = random.Random(seed)
    books = [VenueBook(item.symbol) for item in INSTRUMENTS]
    live, reader = Live(folder, dice, drop), Reader(books)
    now = START_NS
    live.take(Entry.START, b"", now)
    fetched: list[tuple[int, int, bytes]] = []  # when it arrives, instrument, body
    for _ in range(1500):
        now += dice.choice((50_000, 400_000, 3_000_000, 12_000_000))
        wanted = live.decoder.state["snapshot_wanted"][0]
        for index, book in enumerate(books):
            if wanted[index] and book.update_id and all(index != other for _, other, _ in fetched):
                fetched.append((now + dice.randint(0, 8_000_000), index, book.snapshot()))
        due = [item for item in fetched if item[0] <= now]
        chance = dice.random()
        book = dice.choice(books)
        if due:
            fetched.remove(due[0])
            output = live.take(Entry.SNAPSHOT, due[0][2], now, source=due[0][1])
        elif chance < 0.60:
            frame = book.diff(dice)
            if dice.random() < 0.02:
                continue  # the transport lost it
            output = live.take(Entry.FRAME, frame, now)
        elif chance < 0.80:
            output = live.take(Entry.FRAME, book.trade(), now)
        elif chance < 0.96:
            output = live.take(Entry.TIMER, b"", now)
        elif chance < 0.98:
            output = live.take(Entry.FRAME, dice.choice((b"{", b"", b'{"data": {"s": "BTCUSDT", "e": "trade"}}')), now)
        else:
            output = live.take(Entry.LOST, b"", now, source=dice.randrange(len(books) + 1))
        reader.take(output)
        assert balances(live.decoder.state)
    live.journal.close()
    return live, reader


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_journal_gives_the_same_records_and_no_lost_record_leaves_a_book_that_lies(
    tmp_path: Path, seed: int, drop: float
) -> None:
    live, reader = play(tmp_path, seed, drop)
    state = live.decoder.state[0]
    assert reader.compared > (500 if drop == 0 else 50) and reader.gaps > 10
    assert (int(state["dropped"][Reason.RING_FULL]) > 5) == (drop > 0) == (live.refused > 0)
    assert int(state["out"]) == len(live.records())

    again = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    replayed = [
        again.records[:count].copy() for count in replay_inputs(again, read_stream(tmp_path, "ingestion"))
    ]
    assert np.concatenate(replayed).tobytes() == live.records().tobytes()
    assert again.state.tobytes() == live.decoder.state.tobytes()
    assert again.ingest_id == live.decoder.ingest_id


def test_a_replay_that_ignored_the_drops_would_differ(tmp_path: Path) -> None:
    """The negative control of the test above."""
    live, _ = play(tmp_path, 1, 0.02)
    again = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    entries = (entry for entry in read_stream(tmp_path, "ingestion") if entry.kind != Entry.DROPPED)
    replayed = [again.records[:count].copy() for count in replay_inputs(again, entries)]
    assert np.concatenate(replayed).tobytes() != live.records().tobytes()


def synchronised() -> tuple[Decoder, list[VenueBook], random.Random]:
    """A decoder with three books in sequence."""
    dice = random.Random(3)
    books = [VenueBook(item.symbol) for item in INSTRUMENTS]
    decoder = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    decoder.start(START_NS)
    for index, book in enumerate(books):
        book.diff(dice)
        assert decoder.snapshot(index, book.snapshot(), START_NS) > 0
    return decoder, books, dice


def kinds(decoder: Decoder, count: int) -> list[tuple[int, int]]:
    return [(int(row["kind"]), int(row["instrument"])) for row in decoder.records[:count]]


def test_a_gap_that_finds_no_room_is_said_again() -> None:
    decoder, books, dice = synchronised()
    books[1].diff(dice)  # lost on the way
    count = decoder.frame(books[1].diff(dice), START_NS + 1)
    assert kinds(decoder, count) == [(Kind.GAP, 1)]
    assert kinds(decoder, decoder.dropped(START_NS + 1)) == [(Kind.GAP, 1)]
    assert decoder.state["snapshot_wanted"][0, :3].tolist() == [0, 1, 0]
    assert balances(decoder.state)


def test_a_lost_connection_whose_gaps_find_no_room_is_said_again_for_every_book() -> None:
    decoder, _, _ = synchronised()
    count = decoder.lost(ALL_INSTRUMENTS, START_NS + 1)
    assert kinds(decoder, count) == [(Kind.GAP, 0), (Kind.GAP, 1), (Kind.GAP, 2)]
    before = decoder.state.copy()
    assert kinds(decoder, decoder.dropped(START_NS + 1)) == [(Kind.GAP, 0), (Kind.GAP, 1), (Kind.GAP, 2)]
    assert decoder.state["processed"] == before["processed"] and decoder.state["out"] == before["out"]


def test_only_the_books_concerned_are_given_up() -> None:
    decoder, books, dice = synchronised()
    count = decoder.frame(books[2].trade(), START_NS + 1)
    assert kinds(decoder, count) == [(Kind.TRADE, 2)]
    assert kinds(decoder, decoder.dropped(START_NS + 1)) == [(Kind.GAP, 2)]
    assert decoder.frame(books[0].diff(dice), START_NS + 2) > 0


def test_a_timer_that_finds_no_room_costs_no_book_and_no_count() -> None:
    decoder, _, _ = synchronised()
    assert kinds(decoder, decoder.timer(START_NS + 20_000_000)) == [(Kind.CLOCK, 0)]
    assert decoder.dropped(START_NS + 20_000_000) == 0
    assert balances(decoder.state) and int(decoder.state["dropped"].sum()) == 0


def test_a_snapshot_that_finds_no_room_takes_its_waiting_diffs_with_it_and_is_wanted_again() -> None:
    decoder, books, dice = synchronised()
    count = decoder.lost(0, START_NS + 1)
    assert kinds(decoder, count) == [(Kind.GAP, 0)]
    body = books[0].snapshot()
    for step in range(3):
        assert decoder.frame(books[0].diff(dice), START_NS + 2 + step) == 0
    assert int(decoder.state["pending_frames"][0]) == 3
    assert decoder.snapshot(0, body, START_NS + 9) > 3
    # The reader of the records knows already that this book is lost: no second GAP.
    assert decoder.dropped(START_NS + 9) == 0
    assert decoder.state["snapshot_wanted"][0, 0] == 1
    assert int(decoder.state["dropped"][0, Reason.RING_FULL]) == 4
    assert balances(decoder.state)


def test_what_is_refused_takes_an_ingest_id_and_gives_no_record() -> None:
    decoder = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    assert decoder.frame(b"{", START_NS) == 0 and decoder.snapshot(0, b"[]", START_NS) == 0
    assert decoder.ingest_id == 2
    assert int(decoder.state["quarantined"].sum()) == 2
    with pytest.raises(TypeError, match="the state of ingestion"):
        Decoder(np.zeros(1, MARKET), INSTRUMENTS)
    assert decoder.state.dtype == INGEST_STATE


def test_an_entry_that_is_no_input_of_ingestion_is_not_taken_for_one() -> None:
    decoder = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    with pytest.raises(ValueError, match="entry 7 of kind 16"):
        decoder.apply(JournalEntry(Entry.BATCH, 7, START_NS, 0, 1, b""))


def test_the_last_input_is_not_held_back_and_a_drop_without_an_input_harms_nothing() -> None:
    def entries() -> Iterator[JournalEntry]:
        yield JournalEntry(Entry.START, 1, START_NS, 0, 1, b"")

    decoder = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    assert list(replay_inputs(decoder, entries())) == [3]
    alone = Decoder(make_ingest_state(INSTRUMENTS), INSTRUMENTS)
    assert list(replay_inputs(alone, iter([JournalEntry(Entry.DROPPED, 1, START_NS, 0, 1, b"")]))) == [0]
