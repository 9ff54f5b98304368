"""Recording: the market data of a venue into a capture, without an engine.

The loop thread alone chooses the order of entries: frames as their callbacks come, REST snapshots when their fetch has
returned. What a socket says is written before anybody looks at it. The decoder of live ingestion goes along, so a book
is fetched (or subscribed anew, where the venue sends it over the socket) at the start, after each loss and after a gap,
once all sockets are open, just as an engine would. Its records go through checked books (engine/integrity), so what is
recorded is known to be right: a book that its checksum or its touch proves wrong begins again. Open interest is asked
for as an engine asks (procs/rest_polls.py), and a listing is kept as its body when it has changed an instrument: a
replay finds both (listings.py).
A full disk ends the recording; the capture is whole up to there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from engine.ingest.dialects import has_rest_snapshots, listing_frames, make_state
from engine.ingest.settings import FeedSettings
from engine.instruments import Instrument
from engine.integrity.checked_book import check_records, make_checked_books
from engine.reasons import Reason
from engine.stage import as_bytes
from procs.arbiter import Arbiter
from procs.book_requests import PATIENCE_NS, BookRequests
from procs.budget import Budget
from procs.capture.layout import NO_CONNECTION, NO_SYMBOL, Captured
from procs.capture.listings import Changes, Listings
from procs.capture.writer import CaptureFull, CaptureWriter
from procs.decoding import ALL_INSTRUMENTS, Decoder
from procs.market_sockets import MarketSockets
from procs.refusals import Refusals
from procs.rest_polls import RestPolls
from procs.venues.binance_usdm.endpoints import Endpoints, VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.frame_symbols import symbol_of
from procs.venues.market import Market

_TURN_S = 0.05
_SYNC_EVERY_NS = 5_000_000_000


class Recorder:
    """Records until it is told to stop. `failure` says why it stopped by itself."""

    def __init__(
        self,
        market: Market,
        endpoints: Endpoints,
        instruments: Sequence[Instrument],
        feed: FeedSettings,
        budget: Budget,
        writer: CaptureWriter,
        now_ns: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        """feed: what is subscribed; budget: pays for snapshots; now_ns: the receive time, Unix ns, which must not go
        back; say: tells people. Raises ValueError for a feed that the market does not have."""
        self._market = market
        self._rest_url = endpoints.rest_url
        self._instruments = tuple(instruments)
        self._symbols = [item.symbol for item in instruments]
        self._places = {symbol: place for place, symbol in enumerate(self._symbols)}
        self._feed = feed
        self._budget = budget
        self._writer = writer
        self._now_ns = now_ns
        self._decoder = Decoder(make_state(instruments), instruments)
        sockets = market.sockets(endpoints.ws_url, [item.symbol for item in instruments], feed)
        self._sockets = MarketSockets(
            market, sockets, self._on_frame, self._on_socket_lost, now_ns,
            say, self._on_opened, self._on_sent, copies=feed.connections,
            make_arbiter=lambda: Arbiter(self._instruments, lambda index: bool(self._wanted[index])),
        )
        self._wanted = self._decoder.state["snapshot_wanted"][0]
        self._has_rest_snapshots = has_rest_snapshots(market.dialect)
        self._requests = BookRequests(len(self._symbols), None if self._has_rest_snapshots else PATIENCE_NS)
        checks, books = make_checked_books(self._instruments)
        self._checks, self._checked = checks, (as_bytes(checks), as_bytes(books))
        self._listings = Listings(market, self._instruments)
        self._keeps_listing = False  # the next body, whatever it says
        self._listing_frames, self._listing_frames_seen = listing_frames(self._decoder.state), 0
        self._polls = RestPolls(
            market, budget, endpoints.rest_url, self._instruments, feed, lambda index, listed: None,
            self._on_open_interest, say, self._on_listing,
        )
        self._stop = asyncio.Event()
        self._is_ending = False  # from then on nothing is taken, though sockets speak until the loop is closed
        self._open: set[int] = set()
        self.failure: CaptureFull | None = None
        self.frames: Counter[str] = Counter()  # by symbol; "" for those of none
        self.data_bytes = 0
        self.snapshots = 0
        self.losses = 0
        self.listings = 0  # changes of an instrument's terms
        self.open_interests = 0
        self._refusals = Refusals(say)  # of snapshots
        self._begun: set[int] = set()  # books that have stood
        self.wrong_books: Counter[str] = Counter()  # books that were judged wrong, by reason

    def stop(self) -> None:
        """End the recording; call in the loop's thread."""
        self._stop.set()

    # --- what comes -------------------------------------------------------------------------------------------------

    def _append(
        self, kind: Captured, data: bytes, now: int, connection: int = NO_CONNECTION, symbol: int = NO_SYMBOL,
        key: str = "",
    ) -> None:
        if self.failure is None and not self._is_ending:
            try:
                self._writer.append(kind, now, data, connection=connection, symbol=symbol, key=key)
                self.data_bytes += len(data)
            except CaptureFull as error:
                self._fail(error)

    def _fail(self, error: CaptureFull) -> None:
        self.failure = error
        self._stop.set()

    def _on_opened(self, number: int) -> None:
        now = self._now_ns()
        self._open.add(number)
        self._append(Captured.OPENED, b"", now, number, key=self._sockets.sockets[number].url)
        if number == 0 and not self._has_rest_snapshots:
            for index in range(len(self._symbols)):
                self._requests.asked(index, now)

    def _on_sent(self, number: int, data: bytes) -> None:
        self._append(Captured.SENT, data, self._now_ns(), number)

    def _on_frame(self, number: int, data: bytes) -> None:
        if self._is_ending:
            return
        now = self._now_ns()
        symbol = symbol_of(data, self._market.dialect)
        self._append(Captured.FRAME, data, now, number, self._places.get(symbol, NO_SYMBOL))
        self.frames[symbol if symbol in self._places else ""] += 1
        self._check(self._decoder.frame(data, now), now)
        if self._listing_frames[0] != self._listing_frames_seen:
            self._listing_frames_seen = int(self._listing_frames[0])
            changes = self._listings.frame(data)
            if changes:
                self._polls.heard()
            self._relist(changes, now)

    def _relist(self, changes: Changes, now: int) -> None:
        for index, terms in changes:
            self.listings += 1
            self._check(self._decoder.listed(index, terms, now), now)

    def _on_listing(self, url: str, body: bytes) -> None:
        now = self._now_ns()
        if self._is_ending:
            return
        changes = self._listings.body(body)
        if changes or self._keeps_listing:
            self._keeps_listing = False
            self._append(Captured.REST, body, now, key=url)
            self._relist(changes, now)

    def _on_open_interest(self, index: int, url: str, body: bytes) -> None:
        if self._is_ending:
            return
        now = self._now_ns()
        self.open_interests += 1
        self._append(Captured.REST, body, now, symbol=index, key=url)
        self._check(self._decoder.frame(body, now), now)

    def _on_socket_lost(self, number: int) -> None:
        if number in self._open and not self._is_ending:  # else it could not be opened, and nothing more is lost
            self._open.discard(number)
            self.losses += 1
            self._on_lost(number)

    def _on_lost(self, number: int) -> None:
        """With a connection perhaps data of every book are lost."""
        now = self._now_ns()
        self._append(Captured.LOST, b"", now, number)
        self._check(self._decoder.lost(ALL_INSTRUMENTS, now), now)

    def _on_snapshot(self, index: int, url: str, body: bytes) -> None:
        now = self._now_ns()
        self._append(Captured.REST, body, now, symbol=index, key=url)
        count = self._decoder.snapshot(index, body, now)
        if self._decoder.refused:
            why = self._decoder.refused.name.lower()
            self._refusals.refused(self._snapshot_of(index), VenueUnreachable(f"{url}: no book ({why})", why))
        else:
            self.snapshots += 1
        self._check(count, now)

    def _check(self, count: int, now: int) -> None:
        """Let the books take `count` records; one that is wrong begins again, as it does in an engine."""
        checks, books = self._checked
        if check_records(checks, books, self._decoder.outbox, count):
            for index, verdict in enumerate(self._checks["verdict"][0, : len(self._symbols)].tolist()):
                if verdict != Reason.NONE and not self._wanted[index]:
                    self.wrong_books[Reason(verdict).name.lower()] += 1
                    self._check(self._decoder.lost(index, now), now)

    # --- books ------------------------------------------------------------------------------------------------------

    def _fetch(self, index: int) -> tuple[str, bytes] | None:
        """Thread: (URL, body) of the snapshot of one book, or None."""
        urls: list[str] = []
        what = self._snapshot_of(index)

        def note(answer: requests.Response, **_: Any) -> None:
            urls.append(answer.url)

        try:
            with paying_session(self._budget) as session:
                session.hooks["response"].append(note)
                body = self._market.fetch_book(session, self._rest_url, self._symbols[index])
        except VenueUnreachable as error:
            self._refusals.refused(what, error)
            return None
        self._refusals.answered(what)
        return urls[-1], body

    def _snapshot_of(self, index: int) -> str:
        return f"snapshot of {self._symbols[index]}"

    async def _snapshot(self, pool: ThreadPoolExecutor, index: int) -> None:
        """Fetch one snapshot; where it does not help, the next one waits, longer each time."""
        losses = self._sockets.losses
        answer = await asyncio.get_running_loop().run_in_executor(pool, self._fetch, index)
        if self._sockets.losses != losses:
            self._requests.forgotten(index)  # of a time that the sockets do not continue
            return
        if answer is not None:
            self._on_snapshot(index, *answer)
        if self._wanted[index]:
            self._requests.failed(index, self._now_ns())
        else:
            self._requests.helped(index, self._now_ns())

    def _get_books(self, pool: ThreadPoolExecutor) -> list[asyncio.Task[None]]:
        """Ask for the books that are wanted; a book that began before its diffs flow would lack some of them."""
        tasks: list[asyncio.Task[None]] = []
        for index in range(len(self._symbols)) if self._sockets.all_open else ():
            now = self._now_ns()
            if not self._wanted[index]:
                self._begun.add(index)
                if not self._has_rest_snapshots:
                    self._requests.helped(index, now)
            elif self._requests.due(index, now):
                self._requests.asked(index, now)
                if self._has_rest_snapshots:
                    tasks.append(asyncio.create_task(self._snapshot(pool, index)))
                else:
                    self._sockets.send(self._market.ask_again(self._instruments[index], self._feed))
        return tasks

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self, report: Callable[[], None] = lambda: None) -> None:
        """Record until `stop` or a full disk, then write what is left; report: called some twenty times a second.

        What is not foreseen is raised, after the capture has been closed.
        """
        if self._writer.ordinal:
            self._on_lost(NO_CONNECTION)  # whatever came between an earlier recording and this one
            self._keeps_listing = True  # it may not be what the earlier one has left
            self._polls.heard()
        tasks = self._sockets.tasks() | self._polls.tasks()
        synced_ns = self._now_ns()
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="recorder") as pool:
            try:
                while not self._stop.is_set():
                    now = self._now_ns()
                    self._writer.flush_if_older(now)
                    if now - synced_ns >= _SYNC_EVERY_NS:
                        synced_ns = now
                        tasks.add(asyncio.create_task(self._sync(pool)))
                    tasks.update(self._get_books(pool))
                    for task in [task for task in tasks if task.done()]:
                        tasks.discard(task)
                        task.result()  # an unexpected error ends the recording instead of hiding
                    report()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), _TURN_S)
            except CaptureFull as error:
                self._fail(error)
            finally:
                self._is_ending = True
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._polls.close()
                self._close()

    async def _sync(self, pool: ThreadPoolExecutor) -> None:
        await asyncio.get_running_loop().run_in_executor(pool, self._writer.syncing())

    def _close(self) -> None:
        try:
            self._writer.close()
        except CaptureFull as error:
            self.failure = self.failure or error

    def _never_begun(self) -> list[str]:
        """Symbols whose books are subscribed and have never stood."""
        subscribed = set(self._feed.brings("book", self._symbols))
        return [name for index, name in enumerate(self._symbols) if name in subscribed and index not in self._begun]

    def counts(self) -> dict[str, Any]:
        """What was recorded so far."""
        stored = self._writer.stored_bytes
        return {
            "entries": self._writer.ordinal, "frames": self.frames.total(),
            "symbols": {symbol: self.frames[symbol] for symbol in self._symbols},
            "snapshots": self.snapshots, "open_interests": self.open_interests, "listings": self.listings,
            "books_never_begun": self._never_begun(),
            "refused_requests": dict(self._refusals.counts + self._polls.refusals.counts),
            "losses": self.losses, "broken_messages": self._sockets.broken_messages, "data_bytes": self.data_bytes,
            "stored_bytes": stored, "ratio": round(self.data_bytes / stored, 3) if stored else 0.0,
            "cut_bytes": self._writer.cut_bytes,
            "checksums_verified": int(self._checks["verified"].sum()),
            "checksums_failed": int(self._checks["mismatched"].sum()),
            "wrong_books": dict(self.wrong_books), "gaps": int(self._decoder.state["gaps"][0]),
        }
