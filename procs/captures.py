"""Captures: recorded sessions with one frame a line, `RECEIVE_TIME FRAME`, plain or gzipped, read as a stream.

The receive time is Unix ns (19 digits) or us (16 digits). A REST depth body stands inline where it arrived. A
capture says nothing of its instruments, so a first pass reads their units off the wire: decimals as the venue
printed them, tick and lot as the greatest common divisor of what was quoted and traded. So it does with the market,
one of Binance's three: only the depth of futures has `pu`, only that of COIN-M has `ps`; where there is no depth the
tickers tell, then the trades. A frame that cannot be read teaches nothing; it is refused and counted when it is
replayed.
Source: the format of hftbacktest's Binance recordings.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from engine.binance_listing import coin_contract_value
from engine.ingest.kernel import is_snapshot_body
from engine.ingest.state import SYMBOL_BYTES
from engine.instruments import MAX_INSTRUMENTS, Dialect, Instrument
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry

_DEPTH, _TICKER, _TRADE = "depthUpdate", "bookTicker", "trade"
_WITNESSES = (_DEPTH, _TICKER, _TRADE)
# What a venue prints; in units of the last digit it fits int64.
_MOST_DECIMALS = 8
_DECIMAL = re.compile(rf"[0-9]{{1,10}}(?:\.[0-9]{{1,{_MOST_DECIMALS}}})?")


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
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


@dataclass
class _Seen:
    """What the wire shows of one symbol."""

    price_exp: int = 0
    size_exp: int = 0
    price_step: int = 0  # greatest common divisor of what was quoted so far, 10^-_MOST_DECIMALS; 0: nothing was
    size_step: int = 0
    quoted: bool = False
    dialects: dict[str, Counter[Dialect]] = field(default_factory=dict)  # what frames looked like, by their kind
    pair: str = ""  # of a COIN-M contract

    @property
    def dialect(self) -> Dialect:
        """What most frames of the best kind of witness looked like: diffs, else tickers, else trades."""
        return next(self.dialects[kind] for kind in _WITNESSES if kind in self.dialects).most_common(1)[0][0]

    def learn(self, kind: str, dialect: Dialect, prices: list[str], sizes: list[str]) -> None:
        """Take numbers as the venue printed them. What is quoted lies on the tick; a trade's price need not."""
        self.dialects.setdefault(kind, Counter())[dialect] += 1
        self.price_exp = max(self.price_exp, *map(_decimals, prices))
        self.size_exp = max(self.size_exp, *map(_decimals, sizes))
        self.size_step = math.gcd(self.size_step, *map(_finest, sizes))
        if kind != _TRADE:
            self.quoted = True
            self.price_step = math.gcd(self.price_step, *map(_finest, prices))


def _decimals(text: str) -> int:
    """Digits after the point of a decimal text."""
    return len(text.partition(".")[2])


def _finest(text: str) -> int:
    """A decimal text in units of 10^-_MOST_DECIMALS."""
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(_MOST_DECIMALS, "0"))


def _step(finest: int, exp: int) -> int:
    """The same step in units of 10^-exp, which it is a whole number of; 1 where there is none."""
    return finest // 10 ** (_MOST_DECIMALS - exp) or 1


def scan_instruments(path: Path) -> tuple[Instrument, ...]:
    """The instruments of a capture, in the order of their first frame. Raises CaptureError."""
    return instruments_of(path, ((number, frame) for number, _, frame in capture_lines(path)))


def instruments_of(path: Path, frames: Iterator[tuple[int, bytes]]) -> tuple[Instrument, ...]:
    """The instruments of Binance's frames, each with the number of its line. Raises CaptureError naming `path`."""
    seen: dict[str, _Seen] = {}
    unreadable = 0
    for number, frame in frames:
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue
        data = message.get("data", message) if isinstance(message, dict) else {}
        symbol = data.get("s") if isinstance(data, dict) else None
        if not isinstance(symbol, str):
            continue
        try:
            kind, prices, sizes = _numbers(data)
        except (KeyError, TypeError, ValueError):
            unreadable = unreadable or number
            continue
        if prices and 0 < len(symbol.encode()) <= SYMBOL_BYTES:
            known = seen.setdefault(symbol, _Seen())
            known.learn(kind, _dialect(kind, data), prices, sizes)
            known.pair = known.pair or str(data.get("ps", ""))
    if not seen and unreadable:
        raise CaptureError(f"{path}, line {unreadable}: no market data of Binance")
    if not seen:
        raise CaptureError(f"{path}: holds no market data")
    if len(seen) > MAX_INSTRUMENTS:
        raise CaptureError(f"{path}: market data of {len(seen)} symbols; allowed are 1 to {MAX_INSTRUMENTS}")
    quoted = [item for item in seen.values() if item.quoted] or [*seen.values()]  # the trades of futures look alike
    dialect, *others = sorted({item.dialect for item in quoted})
    if others:
        names = ", ".join(item.name for item in (dialect, *others))
        raise CaptureError(f"{path}: symbols of several markets, each with rules of its own: {names}")
    return tuple(
        Instrument(
            index=index, symbol=symbol, base=symbol, quote="", price_exp=item.price_exp, size_exp=item.size_exp,
            tick_size=_step(item.price_step, item.price_exp), lot_size=_step(item.size_step, item.size_exp),
            min_notional=0, dialect=dialect,
            contract_value=coin_contract_value(item.pair) if dialect == Dialect.BINANCE_COINM else 0,
        )
        for index, (symbol, item) in enumerate(seen.items())
    )


def _dialect(kind: str, data: dict) -> Dialect:
    """The market that an event looks like; a trade alone cannot tell the two futures apart."""
    if "ps" in data:
        return Dialect.BINANCE_COINM
    spot = {_DEPTH: "pu" not in data, _TICKER: "e" not in data, _TRADE: "M" in data}
    return Dialect.BINANCE_SPOT if spot[kind] else Dialect.BINANCE_USDM


def _numbers(data: dict) -> tuple[str, list[str], list[str]]:
    """(kind, prices, sizes) of everything that a frame quotes or trades; no prices for other events.

    Raises KeyError, TypeError or ValueError for a frame without them, or with what is no number.
    """
    kind = data.get("e")
    if kind == _DEPTH:
        levels = [(price, size) for price, size in (*data["b"], *data["a"])]
    elif kind == _TICKER or (kind is None and "B" in data):
        kind, levels = _TICKER, [(data["b"], data["B"]), (data["a"], data["A"])]
    elif kind in (_TRADE, "aggTrade"):
        kind, levels = _TRADE, [(data["p"], data["q"])]
    else:
        levels = []
    for text in itertools.chain.from_iterable(levels):
        if not _DECIMAL.fullmatch(text):
            raise ValueError(f"{text!r} is no price or size")
    return str(kind), [price for price, _ in levels], [size for _, size in levels]


def snapshot_symbol(body: bytes) -> str:
    """The symbol that a depth body names; empty where it names none."""
    try:
        return str(orjson.loads(body).get("symbol", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return ""


def capture_inputs(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[JournalEntry]:
    """A capture as the inputs of a session: the start, then every line as a frame or a snapshot.

    Raises CaptureError for a snapshot of which nothing says to what symbol it belongs (that of COIN-M names its own).
    """
    symbols = {item.symbol: item.index for item in instruments}
    for ordinal, (number, ts_ns, frame) in enumerate(capture_lines(path), 1):
        if ordinal == 1:
            yield JournalEntry(Entry.START, 0, ts_ns, 0, 1, b"")
        if is_snapshot_body(frame):
            index = instruments[0].index if len(instruments) == 1 else symbols.get(snapshot_symbol(frame))
            if index is None:
                raise CaptureError(f"{path}, line {number}: a snapshot names no symbol, and the capture holds several")
            yield JournalEntry(Entry.SNAPSHOT, ordinal, ts_ns, index, 1, frame)
        else:
            yield JournalEntry(Entry.FRAME, ordinal, ts_ns, 0, 1, frame)
