"""The engine's side of the drill: the decoder and the validation step that a live session runs, without processes.

Whatever an input gives goes through validation at once. `valid` is what was said last downstream, BOOK_VALID or
BOOK_INVALID, not what a state holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.book.book import book_best, book_levels, book_top
from engine.ingest.dialects import make_state
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import MARKET, SOURCE_MAIN, Kind
from engine.stage import as_bytes
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import MAX_OUT, validate_step
from procs.decoding import Decoder
from procs.integrity.told import BUY, SELL
from procs.integrity.truth import TrueBook, fingerprint_of

_MOST_LEVELS = 8192  # of a side
_VALID, _INVALID, _NOT_REFUSED = int(Kind.BOOK_VALID), int(Kind.BOOK_INVALID), int(Reason.NONE)
_MASK = (1 << 64) - 1


class Saying(NamedTuple):
    """One BOOK_VALID or BOOK_INVALID."""

    instrument: int
    valid: bool
    reason: Reason


class EngineSide:
    """See the module. Every method that takes an input returns what was said of books."""

    def __init__(self, instruments: Sequence[Instrument], settings: ValidationSettings | None = None) -> None:
        self.decoder = Decoder(make_state(instruments), instruments)
        self.validation = make_validation_state(settings or ValidationSettings(), instruments)
        self.valid = [False] * len(instruments)
        self.passed = np.zeros(0, MARKET)  # what validation gave for the last input
        self._books = self.validation["books"][0]
        self._state = as_bytes(self.validation)
        self._out = np.zeros(len(self.decoder.records) * MAX_OUT, MARKET)
        self._out_bytes = as_bytes(self._out)
        self._routes = np.zeros(len(self._out), np.uint8)
        self._prices, self._sizes = np.zeros(_MOST_LEVELS, np.int64), np.zeros(_MOST_LEVELS, np.int64)

    def start(self, ts_ns: int) -> list[Saying]:
        """The session begins."""
        return self.validate(self.decoder.start(ts_ns))

    def frame(self, data: bytes, ts_ns: int) -> list[Saying]:
        """A frame off the socket."""
        return self.validate(self.decoder.frame(data, ts_ns))

    def snapshot(self, index: int, body: bytes, ts_ns: int) -> list[Saying]:
        """A body of REST."""
        return self.validate(self.decoder.snapshot(index, body, ts_ns))

    def audit_begins(self, index: int, ts_ns: int) -> list[Saying]:
        """REST is about to be asked for a book, to audit it."""
        return self.validate(self.decoder.audit_begins(index, ts_ns))

    def audit(self, index: int, body: bytes, ts_ns: int) -> list[Saying]:
        """What REST answered to that."""
        return self.validate(self.decoder.audit(index, body, ts_ns))

    def lost(self, index: int, ts_ns: int) -> list[Saying]:
        """Data of an instrument, or of all, were lost."""
        return self.validate(self.decoder.lost(index, ts_ns))

    def timer(self, ts_ns: int) -> list[Saying]:
        """Time goes on."""
        return self.validate(self.decoder.timer(ts_ns))

    def validate(self, count: int) -> list[Saying]:
        """Take so many of the decoder's records."""
        self.passed = self._out[:0]
        if count == 0:
            return []
        written = validate_step(self._state, SOURCE_MAIN, self.decoder.outbox, count, self._out_bytes, self._routes)
        self.passed = self._out[:written]
        said = []
        for at, kind in enumerate(self.passed["kind"].tolist()):
            if kind not in (_VALID, _INVALID):
                continue
            record = self._out[at]
            saying = Saying(int(record["instrument"]), kind == _VALID, Reason(int(record["reason"])))
            self.valid[saying.instrument] = saying.valid
            said.append(saying)
        return said

    @property
    def refused(self) -> bool:
        """Whether the last frame or body was."""
        return int(self.decoder.refused) != _NOT_REFUSED

    def wanted(self, index: int) -> bool:
        """Whether ingestion wants a snapshot of a book."""
        return bool(self.decoder.state["snapshot_wanted"][0, index])

    def snapshots(self, index: int) -> int:
        """How many it has taken."""
        return int(self.decoder.state["snapshots_applied"][0, index])

    def resyncs_asked(self, index: int) -> int:
        """How often validation has found a book wrong of which ingestion does not know."""
        return int(self.validation["instruments"]["resync_wanted"][0, index])

    def _side(self, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Prices and sizes of a side; the arrays are used again."""
        held = book_levels(self._books, index, side)
        if held == 0:
            return self._prices[:0], self._sizes[:0]
        found = book_top(self._books, index, side, held, self._prices, self._sizes)
        return self._prices[:found], self._sizes[:found]

    def touch(self, index: int) -> tuple[int, int]:
        """Best bid and best ask of the integrity book, 0 where there is none."""
        return int(book_best(self._books, index, BUY)[0]), int(book_best(self._books, index, SELL)[0])

    def fingerprint(self, index: int) -> int:
        """Of the integrity book, as truth.py makes them."""
        return sum(fingerprint_of(side, *self._side(index, side)) for side in (BUY, SELL)) & _MASK

    def book(self, index: int) -> TrueBook:
        """The integrity book as a dictionary."""
        copy = TrueBook(0)
        for side in (BUY, SELL):
            prices, sizes = self._side(index, side)
            copy.change((side, price, size) for price, size in zip(prices.tolist(), sizes.tolist(), strict=True))
        return copy
