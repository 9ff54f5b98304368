"""The integrity drill over real sockets: the wire player with faults, the sockets of a live session, one judgement.

What is asserted is what must hold whatever the timing: a book that is called valid is the venue's book at the id that
the engine has reached; faults are noticed; books begin anew.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path

import pytest
import requests

from engine.ingest.dialects import has_rest_snapshots
from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect
from procs.decoding import ALL_INSTRUMENTS
from procs.integrity.script import RECORDINGS
from procs.integrity.side import EngineSide
from procs.integrity.told import Reader, Told
from procs.integrity.truth import TrueBook
from procs.market_sockets import MarketSockets
from procs.recordings import read_instruments
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.market import market_of
from procs.wire_player.faults import Fault, parse_fault
from procs.wire_player.recording import Recording
from procs.wire_player.sequence import What
from tests.playing import desk, run
from tests.recordings import require_capture

pytestmark = pytest.mark.recordings
_FEED = FeedSettings(kinds=("book",))
_LINES = 3_500  # of a capture
_FAULTS = ("drop:{}=0.01", "duplicate:{}=0.01", "reorder:{}=0.01", "delay:{}=0.01,120", "disconnect:{}@900,300")
_REST = ("429=0.3",)
_BEST = 20


def shortened(dialect: Dialect, folder: Path) -> Path:
    """The recording of a dialect, of a capture the first lines."""
    path = require_capture(RECORDINGS[dialect][0])
    if not path.name.endswith(".raw.gz"):
        return path
    short = folder / "short.raw"
    with gzip.open(path, "rb") as lines:
        short.write_bytes(b"".join(next(lines) for _ in range(_LINES)))
    return short


class Truth:
    """Every book of a recording, as it was at an id."""

    def __init__(self, recording: Recording, reader: Reader, count: int) -> None:
        self._told: list[list[Told]] = [[] for _ in range(count)]
        for item in recording.items():
            if item.what is What.SNAPSHOT:
                self._told[0].append(reader.body(item.stream, item.data))
            elif item.what is What.FRAME and (told := reader.read(item.data)) is not None:
                self._told[told.instrument].append(told)
        for told in self._told:
            told.sort(key=lambda one: (int(one.numbers[-1]), not one.is_snapshot))
        self._at = [0] * count
        self.books = [TrueBook(0) for _ in range(count)]

    def move(self, index: int, to_id: int) -> None:
        """Take everything up to an id; ids never fall."""
        told = self._told[index]
        while self._at[index] < len(told) and int(told[self._at[index]].numbers[-1]) <= to_id:
            self.books[index].take(told[self._at[index]])
            self._at[index] += 1


class Client:
    """A session's market side in the test's loop: sockets, decoder, validation, resync."""

    def __init__(self, path: Path, url: str) -> None:
        self.instruments = read_instruments(path)
        dialect = Dialect(self.instruments[0].dialect)
        self.side = EngineSide(self.instruments)
        self.truth = Truth(Recording([path]), Reader(self.instruments), len(self.instruments))
        self.wrong: list[str] = []
        self.compared = self.invalid = 0
        self._url, self._market = url, market_of(dialect)
        self._is_rest = has_rest_snapshots(dialect)
        self._id_field = "last_update_id" if self._is_rest else "last_sequence"
        self._fetching: set[int] = set()
        self._opened_ns = 0  # when a socket was opened last
        self._seen = [0] * len(self.instruments)
        self._asked_ns = [0] * len(self.instruments)
        self.sockets = MarketSockets(
            self._market,
            self._market.sockets(url.replace("http", "ws"), [item.symbol for item in self.instruments], _FEED),
            lambda _, data: self._took(self.side.frame(data, time.time_ns())),
            lambda _: self._took(self.side.lost(ALL_INSTRUMENTS, time.time_ns())), time.time_ns, print,
            self._on_opened,
        )  # fmt: skip

    def _on_opened(self, _: int) -> None:
        self._opened_ns = time.time_ns()

    def _took(self, sayings: list) -> None:
        self.invalid += sum(not saying.valid for saying in sayings)
        for index, valid in enumerate(self.side.valid):
            reached = int(self.side.decoder.state[self._id_field][0, index])
            if not valid or reached == self._seen[index]:
                continue
            self._seen[index] = reached
            if not self._is_rest and reached % 5:  # a message of Kraken is one level; a fifth of them will do
                continue
            self.compared += 1
            self.truth.move(index, reached)
            ours, true = self.side.book(index), self.truth.books[index]
            if not (ours.within(true) and true.equals(ours, _BEST)):
                self.wrong.append(f"{self.instruments[index].symbol} at {reached}: {true.difference(ours)}")

    def _fetch(self, symbol: str) -> bytes | None:
        try:
            with requests.Session() as session:
                return self._market.fetch_book(session, self._url, symbol)
        except VenueUnreachable:
            return None

    async def _snapshot(self, index: int) -> None:
        losses = self.sockets.losses
        body = await asyncio.to_thread(self._fetch, self.instruments[index].symbol)
        if body is not None and losses == self.sockets.losses:
            self._took(self.side.snapshot(index, body, time.time_ns()))
        self._fetching.discard(index)

    def _renew(self, index: int, tasks: set[asyncio.Task[None]]) -> None:
        now = time.time_ns()
        if self._is_rest and index not in self._fetching:
            self._fetching.add(index)
            tasks.add(asyncio.create_task(self._snapshot(index)))
        elif not self._is_rest and now - max(self._asked_ns[index], self._opened_ns) > 1_000_000_000:
            self._asked_ns[index] = now
            self.sockets.send(self._market.ask_again(self.instruments[index], _FEED))

    async def serve(self, ended: asyncio.Event) -> None:
        """Until the recording is over."""
        tasks = self.sockets.tasks()
        self.side.start(time.time_ns())
        asked = [0] * len(self.instruments)
        while not ended.is_set():
            for index in range(len(self.instruments)):
                if self.side.resyncs_asked(index) > asked[index]:
                    asked[index] = self.side.resyncs_asked(index)
                    self._took(self.side.lost(index, time.time_ns()))
                if self.sockets.all_open and self.side.wanted(index):
                    self._renew(index, tasks)
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "dialect", (Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM, Dialect.KRAKEN_FUTURES)
)
def test_a_valid_book_is_the_venue_s_whatever_the_line_does(dialect: Dialect, tmp_path: Path) -> None:
    path = shortened(dialect, tmp_path)
    part = "depth" if has_rest_snapshots(dialect) else "book"
    texts = [text.format(part) for text in _FAULTS] + list(_REST if part == "depth" else ())
    faults: tuple[Fault, ...] = tuple(map(parse_fault, texts))

    async def play() -> None:
        async with desk([path], faults=faults, seed=7, speed=5.0) as at:
            client = Client(path, at.url)
            await client.serve(at.player.ended)
            assert client.wrong == []
            assert client.compared > 100 and client.invalid > 2
            assert sum(client.side.snapshots(index) for index in range(len(client.instruments))) > 2
            injected = at.player.injections
            assert all(injected[kind] for kind in ("drop", "duplicate", "reorder", "disconnect"))
            assert client.sockets.losses >= 1

    run(play())
