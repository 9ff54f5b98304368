"""The drill of books that nothing proves: Kraken spot v2 without checksums, held against snapshots of REST alone.

One book of the script is audited, that which the first fault meets, as live ingestion does it (procs/rest_audits.py)
with the pause that follows a disagreement. What must hold beside what every drill asserts:

    a level that is wrong among the seven best, the same through AUDITS whole audits in a row, has its book invalid then
    a book that no fault has met is never refused

The seven best are always among the ten that an audit looks at, whatever moment its answer is of.
"""

from __future__ import annotations

from engine.reasons import Reason
from engine.validation.settings import ValidationSettings
from procs.integrity.aim import ANSWERED, Order, order_of
from procs.integrity.drill import MS, Drill
from procs.integrity.outcome import Outcome
from procs.integrity.script import Script
from procs.integrity.side import EngineSide, Saying
from procs.integrity.told import BUY, SELL
from procs.venues.detectability import AUDITS, unverified_rows_of
from procs.venues.kraken_spot.instruments import v1_symbol

_SURE = 7  # best levels that an audit must see, also of a book with three levels too many
_PAUSE_MS = 2_700
_SETTLE_MS = 30
UNPROVEN = ValidationSettings(checksums=False)
_Wrong = set[tuple[int, int, int, int]]  # side, price, our size, the true one


class AuditedDrill(Drill):
    """See the module. `run` returns the outcome."""

    def __init__(self, script: Script, order: Order, seed: int, side: EngineSide | None = None) -> None:
        side = side or EngineSide(script.instruments, UNPROVEN)
        super().__init__(script, order, seed, side, unverified_rows_of(script.dialect))
        self.agreed = self.disagreed = 0
        self.found = 0  # books that audits found wrong
        self._index = _met_by(script, order)
        self._window_ns = UNPROVEN.rest_audit_window_ms * MS
        self._is_auditing = False
        self._next_ns = self._loop.now_ns
        self._wrong: _Wrong = set()  # since this audit began
        self._wrong_before: _Wrong = set()  # through the whole one before
        self._rows = 0  # whole audits in a row through which a level stayed wrong

    def _levels(self) -> _Wrong:
        """Levels of the audited book that are wrong, among the best of ours or of the truth."""
        truth, ours = self._truth[self._index], self.side.book(self._index)
        if truth is None:
            return set()
        found: _Wrong = set()
        for side in (BUY, SELL):
            for one in (truth, ours):
                for price in sorted(one.sides[side], reverse=side == BUY)[:_SURE]:
                    here, there = ours.sides[side].get(price, 0), truth.sides[side].get(price, 0)
                    if here != there:
                        found.add((side, price, here, there))
        return found

    def _poll(self) -> None:
        """Ten milliseconds have passed."""
        super()._poll()
        if self._listener is not None and not self._is_auditing and self._loop.now_ns >= self._next_ns:
            if self.side.valid[self._index]:
                self._begin()

    def _begin(self) -> None:
        index, losses, taken = self._index, self._losses, self.side.snapshots(self._index)
        symbol = self.script.instruments[index].symbol
        self._is_auditing = True
        self._say(self.side.audit_begins(index, self._loop.now_ns))
        self._wrong = self._levels()

        def at_venue() -> None:
            query = {"pair": v1_symbol(symbol).replace("/", ""), "count": "100"}
            body = self.venue.rest("/0/public/Depth", query, self._loop.now_ns).body or b""
            self._loop.after(self._one_way_ns(), lambda: come(body))

        def come(body: bytes) -> None:
            self._say(self.side.audit(index, body, self._loop.now_ns))
            self._loop.after(self._window_ns + _SETTLE_MS * MS, end)

        def end() -> None:
            self._is_auditing = False
            self._next_ns = self._loop.now_ns + _PAUSE_MS * MS
            if self._losses != losses or self.side.snapshots(index) != taken or not self.side.valid[index]:
                self._wrong_before = set()
                self._rows = 0
                return
            same = self._wrong & self._wrong_before if self._rows else self._wrong
            self._rows = self._rows + 1 if same else int(bool(self._wrong))
            self._wrong_before = same or self._wrong
            if self._rows >= AUDITS:
                self.judge.violation(f"instrument {index} is valid, and wrong through {AUDITS} audits: {sorted(same)}")

        self._loop.after(self._window_ns + self._one_way_ns(), at_venue)

    def _compare(self, index: int, late: int = 0) -> None:
        """Hold a valid book against the truth."""
        super()._compare(index, late)
        if index == self._index and self._is_auditing:
            self._wrong &= self._levels()

    def _say(self, sayings: list[Saying]) -> None:
        for saying in sayings:
            if saying.reason == Reason.REST_MISMATCH:
                self.found += 1
                if not self.judge.stands(saying.instrument):
                    self.judge.violation(f"snapshots of REST have refused book {saying.instrument}, which is right")
        super()._say(sayings)

    def run(self) -> Outcome:
        """Play the window."""
        outcome = super().run()
        counts = self.side.validation["rest_audits"][0, self._index]
        self.agreed, self.disagreed = int(counts["agreed"]), int(counts["disagreed"])
        return outcome


def _met_by(script: Script, order: Order) -> int:
    """The instrument that the first fault meets; 0 where it is of no book."""
    streams = {stream: index for index, stream in enumerate(script.streams)}
    streams |= {ANSWERED + item.symbol: item.index for item in script.instruments}
    return next((streams[fault.part] for fault in order.faults if fault.part in streams), 0)


def run_audited(script: Script, seed: int) -> Outcome:
    """The run of a seed."""
    return AuditedDrill(script, order_of(script, seed, unverified_rows_of(script.dialect)), seed).run()
