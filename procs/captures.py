"""Captures: recorded sessions with one frame a line, `RECEIVE_TIME FRAME`, plain or gzipped, read as a stream.

The receive time is Unix ns (19 digits) or us (16 digits). A REST depth body stands inline where it arrived. A
capture says nothing of its instruments, so a first pass reads their units off the wire: decimals as the venue
printed them, tick and lot as the greatest common divisor of what was quoted and traded.
Source: the format of hftbacktest's Binance recordings.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from engine.ingest.kernel import is_snapshot_body
from engine.instruments import Instrument
from engine.units import parse_units
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry


class CaptureError(ValueError):
    """A capture that cannot be read; the message names the file and the line."""


def capture_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, receive time ns, frame) of every line. Raises CaptureError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                stamp, _, frame = line.rstrip(b"\r\n").partition(b" ")
                if not stamp.isdigit() or len(stamp) not in (16, 19) or not frame:
                    raise CaptureError(f"{path}, line {number}: not RECEIVE_TIME FRAME with a time in ns or us")
                yield number, int(stamp) * (1000 if len(stamp) == 16 else 1), frame
    except (OSError, EOFError) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


@dataclass
class _Seen:
    """What the wire shows of one symbol."""

    price_exp: int = 0
    size_exp: int = 0
    prices: set[str] = field(default_factory=set)
    sizes: set[str] = field(default_factory=set)

    def level(self, price: str, size: str) -> None:
        """Learn the precision of a level's text."""
        self.price_exp = max(self.price_exp, len(price.partition(".")[2]))
        self.size_exp = max(self.size_exp, len(size.partition(".")[2]))


def _step(texts: set[str], exp: int) -> int:
    """Greatest common divisor of decimal texts in units of 10^-exp; 1 when there are none."""
    return math.gcd(*(parse_units(text, exp) for text in texts)) or 1


def scan_instruments(path: Path) -> tuple[Instrument, ...]:
    """The instruments of a capture, in the order of their first frame. Raises CaptureError."""
    seen: dict[str, _Seen] = {}
    for number, _, frame in capture_lines(path):
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue  # a broken frame is refused and counted when it is replayed
        data = message.get("data", message) if isinstance(message, dict) else {}
        symbol = data.get("s") if isinstance(data, dict) else None
        if not isinstance(symbol, str):
            continue
        try:
            _learn(seen.setdefault(symbol, _Seen()), data)
        except (KeyError, TypeError, ValueError):
            raise CaptureError(f"{path}, line {number}: no market data of Binance futures") from None
    if not seen:
        raise CaptureError(f"{path}: no frame names a symbol")
    return tuple(
        Instrument(
            index=index, symbol=symbol, base=symbol, quote="", price_exp=item.price_exp, size_exp=item.size_exp,
            tick_size=_step(item.prices, item.price_exp), lot_size=_step(item.sizes, item.size_exp), min_notional=0,
        )
        for index, (symbol, item) in enumerate(seen.items())
    )


def _learn(seen: _Seen, data: dict) -> None:
    kind = data.get("e")
    if kind == "depthUpdate":
        for price, size in (*data["b"], *data["a"]):
            seen.level(price, size)
    elif kind == "bookTicker" or (kind is None and "B" in data):
        for price, size in ((data["b"], data["B"]), (data["a"], data["A"])):
            seen.level(price, size)
            seen.prices.add(price)
            seen.sizes.add(size)
    elif kind == "trade":
        seen.level(data["p"], data["q"])
        seen.sizes.add(data["q"])


def capture_inputs(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[JournalEntry]:
    """A capture as the inputs of a session: the start, then every line as a frame or a snapshot.

    Raises CaptureError for a snapshot that could belong to several symbols.
    """
    for ordinal, (number, ts_ns, frame) in enumerate(capture_lines(path), 1):
        if ordinal == 1:
            yield JournalEntry(Entry.START, 0, ts_ns, 0, 1, b"")
        if is_snapshot_body(frame):
            if len(instruments) != 1:
                raise CaptureError(f"{path}, line {number}: a snapshot names no symbol, and the capture holds several")
            yield JournalEntry(Entry.SNAPSHOT, ordinal, ts_ns, 0, 1, frame)
        else:
            yield JournalEntry(Entry.FRAME, ordinal, ts_ns, 0, 1, frame)
