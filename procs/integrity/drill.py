"""One run of the drill: a recording with faults, the engine's kernels, the resync between them, in virtual time.

The client does what live ingestion does (procs/ingestion.py, procs/market_sockets.py): one snapshot at a time for a
book, later again after a refusal, thrown away when the connection was lost meanwhile; a book over the socket is asked
for again after 5 s; a connection of which nothing was heard for as long as its market's rule says is closed. It is less
patient than live ingestion, whose pace (procs/back_off.py, procs/book_requests.py) has tests of its own, so that more
books stand to be harmed. Whatever is lost makes
every book begin anew. The venue is the wire player's, its faults are the player's pure functions. What answers a
request comes through the same connection, so it waits behind a stall too.

After every message of a book that is called valid, the engine's integrity book is held against the truth: what the
venue had at the newest position that the engine has taken a message of.
"""

from __future__ import annotations

import pickle
from bisect import bisect_right
from collections.abc import Sequence

from engine.ingest.dialects import has_rest_snapshots
from engine.instruments import Dialect
from procs.back_off import LADDER_S
from procs.decoding import ALL_INSTRUMENTS
from procs.embedded.mix import Draws
from procs.integrity.aim import ANSWERED, Order, again, order_of, subscription
from procs.integrity.damage import Judge
from procs.integrity.outcome import Outcome
from procs.integrity.parts import lost_part, part_of
from procs.integrity.script import WINDOW_NS, Script
from procs.integrity.side import EngineSide, Saying
from procs.integrity.told import BUY, SELL, Reader, Told
from procs.integrity.truth import TrueBook
from procs.venues.detectability import RECOVERY_MS, SILENCE_MS, STALLED_BOOK_MS, Row, rows_of
from procs.venues.market import market_of
from procs.virtual.loop import Loop
from procs.wire_player.faults import Injected, Injector, RestFaults
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import Listener, PlayedVenue

MS = 1_000_000
_POLL_NS = 10 * MS  # as ingestion looks round
_WATCH_NS = 1_000 * MS
_ASK_AGAIN_NS = 5_000 * MS
_ONE_WAY_MS = (1, 60)  # of a request or its answer
_LEVELS = 1_000  # that a snapshot of REST is asked for


class Drill:
    """See the module. `run` returns the outcome."""

    def __init__(
        self, script: Script, order: Order, seed: int, side: EngineSide | None = None, rows: Sequence[Row] = ()
    ) -> None:
        """rows: the table that it is held to; by default that of the script's market."""
        start = script.starts[order.start]
        self.script, self.order = script, order
        self.side = side or EngineSide(script.instruments)
        self.venue: PlayedVenue = pickle.loads(start.venue)
        self.now_true: dict[int, TrueBook] = pickle.loads(start.books)  # as the venue has them now
        self.judge = Judge({row.key: row for row in rows or rows_of(script.dialect)}, order.strict)
        self.outcome = Outcome(script.dialect, seed, order.text)
        count = len(script.instruments)
        self._draws = Draws(seed, 1_000)
        self._items = script.items[start.first :]
        self._loop = Loop(self._items[0].ts_ns)
        self._injector = Injector(order.faults, order.fault_seed, self._note, of_rest=False)
        self._rest = RestFaults(order.faults, order.fault_seed, self._note)
        self._reader = Reader(script.instruments)
        self._is_rest = has_rest_snapshots(script.dialect)
        self._ordinals = script.ordinals
        self._streams = {stream: index for index, stream in enumerate(script.streams)}
        self._played = script.items[start.first - 1].ordinal if start.first else 0
        # The client's connection.
        self._listener: Listener | None = None
        self._broken = False
        self._silence_ns = _silence_ns(script.dialect)
        self._opened_ns = self._heard_ns = 0
        self._opened_at = 0  # ordinal of the last item before
        self._losses = self._failures = 0
        # Its books: truth at the position that the engine has taken, and what was asked for.
        self._truth: list[TrueBook | None] = [None] * count
        self._whole: list[TrueBook | None] = [None] * count  # where a snapshot does not tell of all levels: with them
        self._reach: list[tuple[int, int]] = [(0, 0)] * count  # where that snapshot was cut: lowest bid, highest ask
        self._position = [0] * count
        self._reached = [0] * count  # the newest message that the engine could read
        self._asked_ns = [0] * count
        self._fetching: set[int] = set()
        self._fetch_failures = [0] * count
        self._resyncs_seen = [0] * count
        self._answers: dict[tuple[int, str], tuple[Told, int, bytes]] = {}
        self._last_fault_ns = 0
        self._recovered_ns = 0

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Play the window; faults end long before it does."""
        loop, end_ns = self._loop, self._items[0].ts_ns + WINDOW_NS
        self._say(self.side.start(loop.now_ns))
        self._open()
        loop.every(_POLL_NS, self._poll)
        loop.every(_WATCH_NS, self._watch)
        for item in self._items:
            if item.ts_ns > end_ns:
                break
            for late in self._injector.before(item.ts_ns):
                self._until(late.ts_ns)
                self._play(late)
            self._until(item.ts_ns)
            self._played = item.ordinal
            self._see(item)
            for given in self._injector.take(item):
                self._play(given)
        self._finish()
        return self.outcome

    def _until(self, time_ns: int) -> None:
        self._loop.run(time_ns, lambda: False)

    def _see(self, item: Item) -> None:
        """The venue goes on."""
        self.venue.see(item)
        told = self.script.told.get(item.ordinal)
        if told is None or item.what is What.SNAPSHOT:
            return
        if told.is_snapshot:
            self.now_true[told.instrument] = TrueBook(self.script.instruments[told.instrument].book_depth)
        if told.instrument in self.now_true:
            self.now_true[told.instrument].take(told)

    def _finish(self) -> None:
        self.judge.end()
        calm_ms = (self._loop.now_ns - self._last_fault_ns) / MS
        for index, valid in enumerate(self.side.valid):
            if index in self.now_true and not valid and calm_ms > RECOVERY_MS:
                self.judge.violation(f"instrument {index} is not valid at the end")
        outcome = self.outcome
        if self._recovered_ns >= self._last_fault_ns > 0:
            outcome.recovery_ms = (self._recovered_ns - self._last_fault_ns) / MS
            if outcome.recovery_ms > RECOVERY_MS:
                self.judge.violation(f"books were valid again {outcome.recovery_ms:.0f} ms after the last fault")
        outcome.found, outcome.violations, outcome.wrong = self.judge.found, self.judge.violations, self.judge.wrong
        outcome.snapshots = sum(self.side.snapshots(index) for index in range(len(self.side.valid)))

    # --- faults -----------------------------------------------------------------------------------------------------

    def _note(self, injected: Injected) -> None:
        """The player has made a fault."""
        self.outcome.injected[injected.kind] += 1
        now = self._loop.now_ns
        self._last_fault_ns = max(self._last_fault_ns, now + self.order.longest_ms * MS)
        kind, index = injected.kind, self._streams.get(injected.stream)
        if kind in ("stall", "disconnect"):
            is_long = self.order.longest_ms > SILENCE_MS
            length = "longer than the silence" if is_long else "shorter than the silence"
            part = length if kind == "stall" else "connection"
            for each, valid in enumerate(self.side.valid):
                if valid:
                    self.judge.harm((kind, part), each, injected.ordinal, now, True)
            return
        if kind == "mute" and index is not None:
            length = "longer" if self.order.longest_ms > STALLED_BOOK_MS else "shorter"
            part = f"{length} than the bound" if self._is_rest else "book"
            self.judge.harm((kind, part), index, injected.ordinal, now, self.side.valid[index])
            return
        told = self.script.told.get(injected.ordinal)
        if index is None or told is None or kind not in ("drop", "duplicate", "reorder", "delay"):
            return  # harm to what is no book, or judged when it comes
        truth = self._truth[index]
        part = lost_part(self.script.dialect, truth, told) if kind != "duplicate" else "update"
        self.judge.harm((kind, part), index, injected.ordinal, now, self.side.valid[index], _venue_ms(told))

    # --- what comes -------------------------------------------------------------------------------------------------

    def _play(self, item: Item) -> None:
        """One thing comes over the connection, or happens to it."""
        if item.what is What.DISCONNECT:
            self._broken = True
            self._close()
        elif item.what is What.CONNECT:
            self._broken = False
        elif item.what is What.FRAME and self._listener is not None and item.ordinal > self._opened_at:
            is_answer = item.stream.startswith(ANSWERED)
            if is_answer or self.venue.hears(self._listener, item) or not item.stream:
                self._heard_ns = self._loop.now_ns
                self._frame(item)

    def _true(self, item: Item) -> tuple[Told, int, bytes] | None:
        """What an item said before faults: (of a book, the position it stands for, its bytes)."""
        if item.stream.startswith(ANSWERED):
            return self._answers[item.ordinal, item.stream]
        told = self.script.told.get(item.ordinal)
        if told is None or not item.stream:
            return None
        return told, item.ordinal, self.script.items[item.ordinal - 1].data

    def _frame(self, item: Item) -> None:
        now, side = self._loop.now_ns, self.side
        true = self._true(item)
        if true is None:
            self._say(side.frame(item.data, now))
            return
        told, position, data = true
        index = told.instrument
        valid, taken = side.valid[index], side.snapshots(index)
        # Without REST nothing waits for a snapshot: what comes before it is dropped, and found missing behind it.
        is_kept = self._is_rest or told.is_snapshot or not side.wanted(index)
        sayings = side.frame(item.data, now)
        if not side.refused:
            self.judge.message(index, _venue_ms(told))
        if side.snapshots(index) > taken:
            self._take(index, told, position)
        if item.data != data:
            part, of = part_of(self._reader, told, item.data, side.refused, self._truth[index])
            if part != "form":
                venue_ms = _venue_ms(of or told)
                waits = self._is_rest and not side.valid[index]
                self.judge.harm(("corrupt", part), index, position, now, valid or told.is_snapshot, venue_ms, waits)
        self._say(sayings)
        if side.refused:
            return
        self.outcome.messages += 1
        is_late = position <= self._position[index] and not told.is_snapshot
        if is_kept:
            self._reached[index] = max(self._reached[index], position)
        self._advance(index)
        self._compare(index, item.ordinal if is_late and item.data == data else 0)

    def _take(self, index: int, told: Told, position: int) -> None:
        """The engine stands on a snapshot."""
        self.judge.renewed(index, position)
        truth = self._truth[index] = TrueBook(self.script.instruments[index].book_depth, marked=True)
        truth.take(told)
        self._position[index] = position

    def _advance(self, index: int) -> None:
        """Let the truth go on to the newest message that the engine could read."""
        truth, reached = self._truth[index], self._reached[index]
        if truth is None or reached <= self._position[index]:
            return
        ordinals = self._ordinals[index]
        for at in range(bisect_right(ordinals, self._position[index]), bisect_right(ordinals, reached)):
            told = self.script.told[ordinals[at]]
            if not (told.is_snapshot and self._is_rest):
                truth.take(told)
                if (whole := self._whole[index]) is not None:
                    whole.take(told)
        self._position[index] = reached

    def _compare(self, index: int, late: int = 0) -> None:
        """Hold a valid book against the truth. late: the ordinal of a message that came behind newer ones, else 0."""
        truth = self._truth[index]
        if not self.side.valid[index]:
            return
        self.outcome.compared += 1
        if truth is None:
            self.judge.violation(f"instrument {index} is valid and stands on no snapshot")
            return
        if self.side.fingerprint(index) == truth.fingerprint:
            self._compare_touch(index)
            return
        ours = self.side.book(index)
        if (whole := self._whole[index]) is not None and truth.within(ours) and ours.within(whole):
            truth.change(ours.levels())  # the update that the snapshot ended with came too, with levels beyond it
            return
        wrong_best = not truth.equals(ours, 10)
        now = self._loop.now_ns
        if late and self.script.dialect in (Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_SPOT_V2):
            self.judge.harm(("late", "ten best" if wrong_best else "deeper"), index, late, now, True)
        where = f"instrument {index}, item {self._position[index]}: {truth.difference(ours)}"
        self.judge.compared(index, now, True, wrong_best, where)

    def _compare_touch(self, index: int) -> None:
        """Where its snapshot does not reach, hold the touch of a valid book against the venue's."""
        whole = self._whole[index]
        if whole is None:
            return
        (bid, ask), (lowest, highest) = self.side.touch(index), self._reach[index]
        if lowest <= bid and 0 < ask <= highest:
            return
        there = max(whole.sides[BUY], default=0), min(whole.sides[SELL], default=0)
        if there != (bid, ask):
            self.judge.violation(f"instrument {index}: the touch of a valid book is {bid}, {ask}, the venue's {there}")

    def _say(self, sayings: list[Saying]) -> None:
        for saying in sayings:
            if not saying.valid:
                self.judge.said(saying.instrument, self._loop.now_ns)

    # --- the client: as live ingestion ------------------------------------------------------------------------------

    def _poll(self) -> None:
        """Ten milliseconds have passed."""
        now = self._loop.now_ns
        self._say(self.side.timer(now))
        if self._recovered_ns < self._last_fault_ns <= now and all(self.side.valid[index] for index in self.now_true):
            self._recovered_ns = now
        for index in range(len(self.side.valid)):
            asked = self.side.resyncs_asked(index)
            if asked > self._resyncs_seen[index]:
                self._resyncs_seen[index] = asked
                self._say(self.side.lost(index, now))
            if self._listener is None or not self.side.wanted(index):
                continue
            if self._is_rest:
                self._fetch(index)
            elif now - max(self._asked_ns[index], self._opened_ns) >= _ASK_AGAIN_NS:
                self._asked_ns[index] = now
                self._send(again(self.script, self.script.instruments[index]))

    def _watch(self) -> None:
        """A second has passed."""
        if self._listener is not None and self._loop.now_ns - self._heard_ns > self._silence_ns:
            self._close()

    def _open(self) -> None:
        """Try to connect."""
        if self._broken:
            self._failures += 1
            self._loop.after(self._back_off_ns(self._failures), self._open)
            return
        self._opened_ns = self._heard_ns = self._loop.now_ns
        self._opened_at = self._played
        path, query, frames = subscription(self.script, self.venue)
        self._listener = self.venue.open(path, query)
        self._send(frames, 0 if self._losses == 0 else None)

    def _close(self) -> None:
        """The connection is gone."""
        if self._listener is None:
            return
        self._listener = None
        self._losses += 1
        self._failures = 0
        self._say(self.side.lost(ALL_INSTRUMENTS, self._loop.now_ns))
        self._loop.after(self._back_off_ns(0), self._open)

    def _back_off_ns(self, failures: int) -> int:
        step_s = LADDER_S[min(failures, len(LADDER_S) - 1)]
        return int(step_s * (0.5 + self._draws.uniform() / 2) * 1_000 * MS)

    def _one_way_ns(self) -> int:
        return self._draws.whole(*_ONE_WAY_MS) * MS

    def _send(self, frames: list[bytes], way_ns: int | None = None) -> None:
        """Requests; the answers come through the connection."""
        losses = self._losses

        def answer() -> None:
            if self._losses != losses or self._listener is None:
                return
            for data in (found for text in frames for found in self.venue.answer(self._listener, text)):
                told = self._reader.read(data)
                ordinal, stream = self._played + 1, ""
                if told is not None:
                    stream = ANSWERED + self.script.instruments[told.instrument].symbol
                    newest = bisect_right(self._ordinals[told.instrument], self._played)
                    position = self._ordinals[told.instrument][newest - 1] if newest else 0
                    self._answers[ordinal, stream] = (told, position, data)
                    self._check_player(told)
                item = Item(self._loop.now_ns, 0, What.FRAME, data, ordinal, stream)
                for given in self._injector.take(item):
                    self._play(given)

        if way_ns == 0:
            answer()
        else:
            self._loop.after(self._one_way_ns(), answer)

    def _check_player(self, told: Told, levels: int = 0) -> None:
        """What the player says of a book must be what the venue had: two codes, one answer."""
        said = TrueBook(0)
        said.take(told)
        if not self.now_true[told.instrument].copy(levels).equals(said):
            where = self.now_true[told.instrument].copy(levels).difference(said)
            self.judge.violation(f"the player tells of another book than there was: {where}")

    def _fetch(self, index: int) -> None:
        """Ask REST for a book, unless that is under way."""
        if index in self._fetching:
            return
        self._fetching.add(index)
        losses, symbol = self._losses, self.script.instruments[index].symbol

        def at_venue() -> None:
            path = f"/depth?symbol={symbol}&limit={_LEVELS}"
            answer = self.venue.rest("/depth", {"symbol": symbol, "limit": str(_LEVELS)}, self._loop.now_ns)
            met = self._rest.meet(path, self._loop.now_ns, answer.stale is not None)
            body = (answer.stale if met == "stale" else answer.body) or b""
            position = self._ordinals[index][bisect_right(self._ordinals[index], self._played) - 1]
            if not met:
                self._check_player(self._reader.body(symbol, body), _LEVELS)
            whole = self.now_true[index].copy()
            self._loop.after(self._one_way_ns(), lambda: come(met, body, position, whole))

        def come(met: str, body: bytes, position: int, whole: TrueBook) -> None:
            if self._losses != losses:
                self._fetching.discard(index)
            elif met == "429":
                self.judge.harm(("429", "snapshot"), index, position, self._loop.now_ns, True)
                self._fetch_failures[index] += 1
                wait_ns = self._back_off_ns(self._fetch_failures[index])
                self._loop.after(wait_ns, lambda: self._fetching.discard(index))
            else:
                self._fetch_failures[index] = 0
                self._fetching.discard(index)
                self._body(index, body, position, whole, met == "stale")

        self._loop.after(self._one_way_ns(), at_venue)

    def _body(self, index: int, body: bytes, position: int, whole: TrueBook, is_stale: bool) -> None:
        """A body of REST has come. whole: the book as it was when the venue answered."""
        taken = self.side.snapshots(index)
        sayings = self.side.snapshot(index, body, self._loop.now_ns)
        if self.side.snapshots(index) > taken:
            self.judge.renewed(index, position)
            truth = whole.copy(_LEVELS, marked=True)
            self._truth[index], self._whole[index] = truth, whole
            self._reach[index] = min(truth.sides[BUY], default=0), max(truth.sides[SELL], default=0)
            self._position[index] = position
            self._advance(index)
        if is_stale:
            self.judge.harm(("stale", "snapshot"), index, position, self._loop.now_ns, True)
        self._say(sayings)
        self._compare(index)


def _silence_ns(dialect: Dialect) -> int:
    """After how long a market's connection is dead."""
    return int(market_of(dialect).connection_rule.silence_s * 1_000 * MS)


def _venue_ms(told: Told) -> int:
    """The venue's time where it is printed as milliseconds, else 0."""
    return int(told.time) if told.time.isdecimal() else 0


def run_drill(script: Script, seed: int) -> Outcome:
    """The run of a seed."""
    return Drill(script, order_of(script, seed), seed).run()
