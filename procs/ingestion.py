"""The ingestion process: sockets in, one order of frames, MARKET records out.

The loop thread alone chooses the order of inputs: WebSocket frames as their callbacks come, REST snapshots when their
fetch has returned, the timer. A venue without REST snapshots sends a book over the socket when it is subscribed anew.
A listing that has changed is an input too (procs/rest_polls.py), and so are snapshots that a book is held against
(procs/rest_audits.py).
Each input is journaled, then decoded, then published. A full market ring drops the newest input, in the journal and in
the counters, and the books concerned start again from a snapshot.
"""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from engine.ingest.dialects import has_rest_snapshots, listing_frames
from engine.ingest.entry import CLOCK_GRID_NS
from engine.instruments import Instrument
from engine.records import Status
from engine.stage import as_bytes
from procs.arbiter import Arbiter
from procs.book_requests import PATIENCE_NS, BookRequests
from procs.checkpoint import (
    EXTRA,
    HEADER_WORDS,
    JOURNAL_ORDINAL,
    OUTPUT_CURSOR,
    checkpoint_now,
    load_checkpoint,
)
from procs.decoding import ALL_INSTRUMENTS, Decoder, replay_inputs
from procs.frame_outlet import FrameOutlet
from procs.instance import ProcessContext
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.market_sockets import BOOKS, MarketSockets
from procs.ports import EdgeJournal, Turns, record_latency
from procs.refusals import Refusals
from procs.rest_audits import RestAudits
from procs.rest_polls import RestPolls
from procs.table import Role
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.market import audit_period_s, market_of
from procs.venues.terms import terms_after
from shm.clock import python_session_ns, sleep
from shm.control import TripSource

_FRAME = Entry.FRAME  # looked up for every frame
_TIMER_S = 0.01
# Slots of the market ring that only GAP records may use.
_GAP_RESERVE = 64
# Frames of a burst for which validation is woken once: waking costs as much as half a frame, at both ends.
_MOST_UNHEARD = 15
_CHECKPOINT_EVERY_NS = 1_000_000_000
_ROOM_RETRY_S = 0.001


class Ingestion:
    """See the module. `run` returns when the process is asked to stop."""

    def __init__(self, context: ProcessContext) -> None:
        self.context = context
        plan = context.plan
        self._symbols = [item.symbol for item in plan.instruments]
        self._decoder = Decoder(context.state(context.role), plan.instruments)
        self._listing_frames = listing_frames(self._decoder.state).data  # read at every frame
        self._listing_frames_seen = self._listing_frames[0]
        self._journal = EdgeJournal(context)
        self._outlet = FrameOutlet(context)
        self._turns = Turns(context)
        self._now_ns = partial(python_session_ns, context.clock_offset)  # looked at several times for every frame
        self._budget = context.budget()
        self._feed_counts = context.feed_counts()
        self._checkpoint_cost = context.histogram(context.role, "checkpoint")
        self._market = market_of(plan.instruments[0].dialect)
        self._has_rest_snapshots = has_rest_snapshots(self._market.dialect)
        self.sockets = MarketSockets(
            self._market, self._market.sockets(plan.endpoints.ws_url, self._symbols, plan.settings.feed),
            self._on_socket_frame, self._on_socket_lost, self._now_ns, self._say, self._on_socket_opened,
            copies=plan.settings.feed.connections,
            make_arbiter=lambda: Arbiter(plan.instruments, lambda index: bool(self._wanted[index])),
        )
        self._polls = RestPolls(
            self._market, self._budget, plan.endpoints.rest_url, plan.instruments, plan.settings.feed,
            self._on_listed, lambda index, url, body: self._on_socket_frame(0, body), self._say,
        )
        self._wanted = self._decoder.state["snapshot_wanted"][0]
        self._requests = BookRequests(len(self._symbols), None if self._has_rest_snapshots else PATIENCE_NS)
        self._refusals = Refusals(self._say)  # of snapshots
        self._inputs = 0
        self._unheard = 0  # inputs since validation was woken
        self._book_losses = 0
        self._synced_once = False
        # Stages downstream that found a book wrong count up here: each rise asks for a new snapshot.
        validation, features = context.state(Role.VALIDATION), context.state(Role.FEATURES)
        self._resync_counters = (
            validation["instruments"]["resync_wanted"][0], features["flows"]["resync_wanted"][0]
        )
        self._audits = RestAudits(
            self._market, self._budget, plan.endpoints.rest_url, self._symbols,
            audit_period_s(plan.settings, self._market), plan.settings.validation.rest_audit_window_ms / 1000,
            self._on_audit_asked, self._on_audit,
            lambda index: bool(validation["instruments"]["announced"][0, index]),
            lambda index: bool(validation["rest_audits"]["in_a_row"][0, index]), self._say,
        )
        self._resyncs_seen = [self._resyncs_asked(index) for index in range(len(self._symbols))]
        self._arena = context.arena(context.role)
        self._checkpoint = np.zeros(HEADER_WORDS, np.int64)
        self._checkpoint_due_ns = 0

    # --- one input: journal, decode, publish ------------------------------------------------------------------------

    def _pass_on(self, count: int, now: int, is_live: bool = False, more: bool = False) -> None:
        """Publish what a frame or a body gave. more: others have arrived already; validation is woken for several at
        once."""
        self._inputs += 1
        if more and self._unheard < _MOST_UNHEARD:
            wake = False
            self._unheard += 1
        else:
            wake = count > 0 or self._unheard > 0
            self._unheard = 0
        decoder = self._decoder
        if not self._outlet.pass_on(decoder.outbox, count, _GAP_RESERVE, wake, decoder.ingest_id, now, is_live):
            self._drop(count, now)

    def _publish(self, count: int, now: int) -> None:
        """Publish what another input gave."""
        self._inputs += 1
        if count and not self._outlet.offer(self._decoder.outbox, count, _GAP_RESERVE):
            self._drop(count, now)

    def _drop(self, count: int, now: int) -> None:
        """What the last input gave found no room."""
        self._journal.write(Entry.DROPPED, b"", now)
        self._outlet.drop(count)
        count = self._decoder.dropped(now)
        if self._outlet.give(self._decoder.outbox, count) < count:
            # A book gets one GAP between two snapshots, so the reserve holds them all; without it nothing is sure.
            self.context.control.trip(TripSource.INTEGRITY)

    def _say(self, text: str) -> None:
        print(f"ingestion: {text}", flush=True)

    def _on_socket_frame(self, _: int, data: bytes) -> None:
        now = self._now_ns()
        if self._journal.write(_FRAME, data, now):
            count = self._decoder.frame(data, now)
            if self._decoder.refused:
                self._note_refusal(now)
            self._pass_on(count, now, True, self.sockets.more)
            if self._listing_frames[0] != self._listing_frames_seen:
                self._listing_frames_seen = self._listing_frames[0]
                self._on_news(data)

    def _on_news(self, data: bytes) -> None:
        """A frame of a channel that tells of listings: what it says of ours is an input of its own, behind it."""
        news = self._market.news(data, self._symbols)
        for index, symbol in enumerate(self._symbols):
            if symbol in news:
                self._polls.heard()
                self._on_listed(index, news[symbol])

    def _note_refusal(self, now: int) -> None:
        """Say in the journal that the frame before was refused, for the quarantine (procs/quarantine.py)."""
        ingest_id = self._decoder.ingest_id.to_bytes(8, "little")
        self._journal.write(Entry.REFUSED, ingest_id, now, source=self._decoder.refused)

    def _on_snapshot(self, index: int, body: bytes) -> None:
        now = self.context.now_ns()
        if self._journal.write(Entry.SNAPSHOT, body, now, source=index):
            count = self._decoder.snapshot(index, body, now)
            if self._decoder.refused:
                self._note_refusal(now)
            self._pass_on(count, now)

    def _on_audit_asked(self, index: int) -> bool:
        """A book is about to be held against REST; whether that has begun."""
        now = self._now_ns()
        if not self._journal.write(Entry.AUDIT_ASKED, b"", now, source=index):
            return False
        self._publish(self._decoder.audit_begins(index, now), now)
        return True

    def _on_audit(self, index: int, body: bytes) -> None:
        now = self._now_ns()
        if self._journal.write(Entry.AUDIT, body, now, source=index):
            count = self._decoder.audit(index, body, now)
            if self._decoder.refused:
                self._note_refusal(now)
            self._pass_on(count, now)

    def _on_socket_opened(self, number: int) -> None:
        """A subscription asks for every book of it that comes over the socket."""
        if number == BOOKS and not self._has_rest_snapshots:
            for index in range(len(self._symbols)):
                self._requests.asked(index, self._now_ns())

    def _on_listed(self, index: int, listed: Instrument | Status | None) -> None:
        """What the venue lists of an instrument now; what has not changed is no input."""
        instrument, held = self.context.plan.instruments[index], self._decoder.terms(index)
        terms = terms_after(instrument, held, listed)
        if terms == held:
            return
        now = self._now_ns()
        if self._journal.write(Entry.LISTED, terms.to_bytes(), now, source=index):
            self._say(f"{instrument.symbol}: listed anew, {terms}, {Status(terms.status).name}")
            self._publish(self._decoder.listed(index, terms, now), now)

    def _on_socket_lost(self, number: int) -> None:
        """What was missed while the socket of the books was not open makes each of them start again."""
        if number == BOOKS:
            self._book_losses += 1
            self._on_lost(ALL_INSTRUMENTS)

    def _on_lost(self, index: int) -> None:
        now = self.context.now_ns()
        if self._journal.write(Entry.LOST, b"", now, source=index + 1):
            self._publish(self._decoder.lost(index, now), now)

    def _on_timer(self) -> None:
        now = self.context.now_ns()
        # Only a timer that passes the grid says anything, so only that one is an input.
        passed = now // CLOCK_GRID_NS > int(self._decoder.state["now_ns"][0]) // CLOCK_GRID_NS
        if passed and self._journal.write(Entry.TIMER, b"", now):
            self._publish(self._decoder.timer(now), now)

    def _resyncs_asked(self, index: int) -> int:
        return sum(int(counter[index]) for counter in self._resync_counters)

    def _take_resync_requests(self) -> None:
        for index in range(len(self._symbols)):
            asked = self._resyncs_asked(index)
            if asked > self._resyncs_seen[index]:
                self._resyncs_seen[index] = asked
                self._on_lost(index)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _fetch(self, index: int) -> bytes | None:
        """Thread: the snapshot of one book, or None."""
        what = f"snapshot of {self._symbols[index]}"
        try:
            with paying_session(self._budget) as session:
                body = self._market.fetch_book(session, self.context.plan.endpoints.rest_url, self._symbols[index])
        except VenueUnreachable as error:
            self._refusals.refused(what, error)
            return None
        self._refusals.answered(what)
        return body

    async def _snapshot(self, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor, index: int) -> None:
        """Fetch one wanted snapshot; where that does not help, the next one waits, longer each time."""
        losses = self._book_losses
        body = await loop.run_in_executor(pool, self._fetch, index)
        if self._book_losses != losses:
            self._requests.forgotten(index)  # of a time that the socket does not continue
            return
        if body is not None:
            self._on_snapshot(index, body)
        self._settle(index)

    def _settle(self, index: int) -> None:
        """Note whether a request for a book has helped."""
        now = self.context.now_ns()
        if self._wanted[index]:
            self._requests.failed(index, now)
        else:
            self._requests.helped(index, now)

    def _get_books(self, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor) -> list[asyncio.Task[None]]:
        """Ask for the books that are wanted; the tasks that do. A book that begins before its diffs flow would be
        called valid while nobody hears of its changes."""
        tasks: list[asyncio.Task[None]] = []
        plan = self.context.plan
        for index in range(len(self._symbols)) if self.sockets.is_open(BOOKS) else ():
            now = self.context.now_ns()
            if not self._wanted[index]:
                if not self._has_rest_snapshots:
                    self._requests.helped(index, now)
            elif self._requests.due(index, now):
                self._requests.asked(index, now)
                if self._has_rest_snapshots:
                    tasks.append(asyncio.create_task(self._snapshot(loop, pool, index)))
                else:
                    self.sockets.send(self._market.ask_again(plan.instruments[index], plan.settings.feed))
        return tasks

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = self.sockets.tasks() | self._polls.tasks() | self._audits.tasks()
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="snapshot") as pool:
            try:
                while not self._turns.turn(self._take_inputs()):
                    if self._turns.orphaned:
                        raise SystemExit(4)  # nobody is left who would end it
                    self._on_timer()
                    if self._unheard:  # the burst ended with a frame that is no data
                        self._unheard = 0
                        self._outlet.ring()
                    self._take_resync_requests()
                    self._take_checkpoint()
                    tasks.update(self._get_books(loop, pool))
                    if not self._synced_once and self.sockets.all_open and not self._wanted[: len(self._symbols)].any():
                        self._synced_once = True
                        self.context.ready()
                    for task in [task for task in tasks if task.done()]:
                        tasks.discard(task)
                        task.result()  # an unexpected error ends the process instead of hiding
                    await asyncio.sleep(_TIMER_S)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._polls.close()
                self._audits.close()

    def _take_up(self) -> None:
        """Stand where the predecessor's effects end: decode what it journaled after its last checkpoint again, publish
        what is not in the ring yet, and count everything since as lost."""
        if not load_checkpoint(self._arena, as_bytes(self._decoder.state), self._checkpoint):
            raise ValueError("ingestion: no whole checkpoint to start from")
        self._decoder.ingest_id = int(self._checkpoint[EXTRA])
        published = int(self._outlet.published - self._checkpoint[OUTPUT_CURSOR])
        after = (
            entry
            for entry in read_stream(self.context.plan.path, self.context.role.label)
            if entry.ordinal > self._checkpoint[JOURNAL_ORDINAL]
        )
        for count in replay_inputs(self._decoder, after):
            again = min(count, published)
            published -= again
            if again < count:
                self._outlet.forget(self._decoder.ingest_id)
            while again < count:
                again += self._outlet.give(self._decoder.outbox, count - again, again)
                if again < count:
                    self._turns.turn(0)  # it waits for somebody else: it is not stuck
                    sleep(_ROOM_RETRY_S)
        self._on_lost(ALL_INSTRUMENTS)

    def _take_checkpoint(self) -> None:
        """Once a second: the state, what of the journal it has seen, what of it is published; how the sockets are."""
        now = self.context.now_ns()
        if now >= self._checkpoint_due_ns:
            self._checkpoint_due_ns = now + _CHECKPOINT_EVERY_NS
            self._checkpoint[OUTPUT_CURSOR] = self._outlet.published
            self._checkpoint[JOURNAL_ORDINAL] = self._journal.ordinal
            self._checkpoint[EXTRA] = self._decoder.ingest_id
            refused = self._refusals.total + self._polls.refusals.total + self._audits.refusals.total
            self._feed_counts[:] = [*self.sockets.counts, refused]
            checkpoint_now(self._arena, as_bytes(self._decoder.state), self._checkpoint)
            record_latency(self._checkpoint_cost, self.context.now_ns() - now)

    def _take_inputs(self) -> int:
        taken, self._inputs = self._inputs, 0
        return taken

    def run(self) -> None:
        """Serve until stopped."""
        gc.enable()  # sockets and tasks make cycles; what was there before the fork is frozen and is not visited
        if self.context.successor:
            self._take_up()
        else:
            now = self.context.now_ns()
            self._journal.write(Entry.START, b"", now)
            self._publish(self._decoder.start(now), now)
        asyncio.run(self._serve())
        self._journal.close()
