"""Which faults a seed orders: a row of the table in turn, or a mixture of all.

Faults of a row meet one at a time, so that each can be held to its row. The wire player draws which byte it corrupts;
to have a row of the table met, the seed of its faults is searched for one that corrupts such a byte.
"""

from __future__ import annotations

import pickle
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest, nsmallest

import orjson

from engine.ingest.settings import FeedSettings
from engine.instruments import Dialect, Instrument
from procs.embedded.mix import Draws
from procs.integrity.parts import part_of
from procs.integrity.script import Script
from procs.integrity.told import BUY, Reader, Told
from procs.integrity.truth import TrueBook
from procs.venues.detectability import Row, rows_of
from procs.venues.kraken_futures.subscriptions import subscribe
from procs.venues.kraken_spot.subscriptions import subscribe_v1, subscribe_v2
from procs.venues.market import market_of
from procs.wire_player.faults import Fault, with_faults
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import PlayedVenue

MIXTURES = 4  # of these as many for each round of the rows
ANSWERED = "snapshot "  # begins the stream of a book that was asked for; the symbol follows
_FIRST_NS, _LAST_NS = 700_000_000, 10_000_000_000  # of the window, in which faults begin
_APART_NS = 1_300_000_000
_MOST = 6  # faults of a row in a run
_SEEDS = 60_000
_TRIES = 1_500  # of seeds that are looked at closely
_BYTE = re.compile(r"byte (\d+): 0x(..) became 0x(..)")
# Where in a frame the numbers stand that prove it.
_NUMBERS = {
    "U": re.compile(rb'"U":(\d+)'), "pu": re.compile(rb'"pu":(\d+)'), "u": re.compile(rb'"u":(\d+)'),
    "seq": re.compile(rb'"seq":(\d+)'), "checksum": re.compile(rb'"c(?:hecksum)?":"?(\d+)'),
}
_NEVER = Fault("drop", part="\0")
_UPDATE_FAULTS = ("drop", "duplicate", "reorder", "delay")


@dataclass(frozen=True)
class Order:
    """What a run is asked for."""

    text: str
    start: int  # of the script's
    faults: tuple[Fault, ...]
    fault_seed: int
    strict: bool
    longest_ms: int = 0  # of a fault that lasts


# --- requests --------------------------------------------------------------------------------------------------------


def subscription(script: Script, venue: PlayedVenue) -> tuple[str, Mapping[str, str], list[bytes]]:
    """How a client connects: path, query, and what it sends."""
    symbols = [item.symbol for item in script.instruments]
    depth = script.instruments[0].book_depth
    if script.dialect == Dialect.KRAKEN_SPOT_V1:
        return "/", {}, [subscribe_v1("book", symbols, depth)[0]]
    if script.dialect == Dialect.KRAKEN_SPOT_V2:
        return "/v2", {}, [subscribe_v2("book", symbols, 1, depth)[0]]
    if script.dialect == Dialect.KRAKEN_FUTURES:
        return "/ws/v1", {}, [subscribe("book", symbols)[0]]
    return "/stream", {"streams": "/".join(venue.streams)}, []


def again(script: Script, item: Instrument) -> list[bytes]:
    """What asks for a book over the socket anew."""
    if script.dialect == Dialect.KRAKEN_SPOT_V1:  # there is no live market of it
        frame = subscribe_v1("book", [item.symbol], item.book_depth)[0]
        return [orjson.dumps(orjson.loads(frame) | {"event": "unsubscribe"}), frame]
    requests = market_of(script.dialect).ask_again(item, FeedSettings(book_levels=item.book_depth))
    return [request.frame for request in requests]


# --- orders ----------------------------------------------------------------------------------------------------------


def order_of(script: Script, seed: int, rows: Sequence[Row] = ()) -> Order:
    """The order of a seed. rows: the table; by default that of the script's market."""
    rows = rows or rows_of(script.dialect)
    draws = Draws(seed, 2_000)
    turn = seed % (len(rows) + MIXTURES)
    start = draws.whole(0, len(script.starts) - 1)
    if turn >= len(rows):
        return _mixture(script, start, draws)
    row = rows[turn]
    text = f"{row.fault} {row.part}"
    if row.part.startswith("snapshot, "):
        start = draws.whole(1, len(script.starts) - 1)  # books that are told late
        return _at_snapshot(script, row, start, draws)
    if row.fault in ("stale", "429"):
        away = (Fault("disconnect", at=item.ordinal, ms=draws.whole(50, 500))
                for item in _targets(script, start, draws, _MOST))  # fmt: skip
        return Order(text, start, (*away, Fault(row.fault, rate=0.5)), seed, True, 500)
    if row.fault == "stall":
        ms = draws.whole(1_000, 4_000) if row.part.startswith("shorter") else draws.whole(7_000, 9_000)
        return Order(text, start, (Fault("stall", at=_early(script, start, draws), ms=ms),), seed, True, ms)
    if row.fault == "mute":
        ms = draws.whole(5_000, 8_000) if row.part.startswith("longer") else draws.whole(500, 2_500)
        return Order(text, start, (Fault("mute", at=_early(script, start, draws), ms=ms),), seed, True, ms)
    if row.fault == "disconnect":
        ms = draws.whole(50, 3_000)
        return Order(text, start, (Fault("disconnect", at=_early(script, start, draws), ms=ms),), seed, True, ms)
    if row.fault == "corrupt":
        return _corrupt(script, row, start, draws)
    found = [item for item in _candidates(script, start) if _fits(script, start, item, row)]
    kind = row.fault if row.fault in _UPDATE_FAULTS else "reorder"
    ms = 800 if kind == "delay" else 0
    faults = tuple(
        Fault(kind, item.stream, at=item.ordinal, ms=draws.whole(1, ms) if ms else 0)
        for item in _chosen(found, draws, _MOST)
    )
    return Order(text, start, faults, seed, True, ms)


def _mixture(script: Script, start: int, draws: Draws) -> Order:
    """Everything at once; each kind is left out by half of the seeds."""
    part = "@depth" if "@depth" in script.streams[0] else "book"
    wanted = [kind for kind in (*_UPDATE_FAULTS, "corrupt", "stall", "disconnect", "429", "stale")
              if draws.uniform() < 0.5]  # fmt: skip
    faults = [Fault(kind, item.stream, at=item.ordinal, ms=draws.whole(1, 800) if kind == "delay" else 0)
              for kind in wanted if kind in (*_UPDATE_FAULTS, "corrupt")
              for item in _targets(script, start, draws, _MOST * 2, apart_ns=50_000_000)]  # fmt: skip
    longest = 800
    if "corrupt" in wanted and part == "book":
        faults.append(Fault("corrupt", ANSWERED, rate=0.1))
    for kind, most in (("stall", 8_000), ("disconnect", 2_000)):
        if kind in wanted:
            ms = draws.whole(50, most)
            longest = max(longest, ms)
            faults.append(Fault(kind, part, at=_early(script, start, draws), ms=ms))
    faults += [Fault(kind, rate=0.3) for kind in ("429", "stale") if kind in wanted]
    return Order(f"mixture of {', '.join(wanted) or 'nothing'}", start, tuple(faults), draws.whole(0, 1 << 30), False,
                 longest)  # fmt: skip


def _candidates(script: Script, start: int) -> list[Item]:
    """Updates of books that faults may meet."""
    first = script.items[script.starts[start].first].ts_ns
    return [
        item for item in script.items[script.starts[start].first :]
        if first + _FIRST_NS <= item.ts_ns <= first + _LAST_NS and item.what is What.FRAME
        and item.ordinal in script.told and not script.told[item.ordinal].is_snapshot
    ]  # fmt: skip


def _chosen(found: Sequence[Item], draws: Draws, most: int, apart_ns: int = _APART_NS) -> list[Item]:
    """Some of them, apart from one another, in their order."""
    chosen: list[Item] = []
    for _ in range(most * 4 if found else 0):
        item = draws.choice(found)
        if len(chosen) < most and all(abs(item.ts_ns - other.ts_ns) >= apart_ns for other in chosen):
            chosen.append(item)
    return sorted(chosen, key=lambda item: item.ordinal)


def _targets(script: Script, start: int, draws: Draws, most: int, apart_ns: int = _APART_NS) -> list[Item]:
    """Some updates of any kind."""
    return _chosen(_candidates(script, start), draws, most, apart_ns)


def _fits(script: Script, start: int, item: Item, row: Row) -> bool:
    """Whether an update is of the levels that a row speaks of, and is overtaken by one that says all of it anew where
    the row is of what comes late."""
    if row.part.endswith("deeper") and item.ordinal not in _deep(script, start):
        return False
    if row.part.endswith("ten best") and item.ordinal in _deep(script, start):
        return False
    if row.fault != "late":
        return True
    told = script.told[item.ordinal]
    ordinals = script.ordinals[told.instrument]
    after = bisect_right(ordinals, item.ordinal)
    if after == len(ordinals):
        return False
    following = {level[:2]: level[2] for level in script.told[ordinals[after]].levels}
    return all(level[:2] in following for level in told.levels) and any(
        following[level[:2]] != level[2] for level in told.levels
    )


@lru_cache(maxsize=32)
def _deep(script: Script, start: int) -> frozenset[int]:
    """Ordinals of the updates from a start on that are of levels beyond the ten best alone."""
    place = script.starts[start]
    books: dict[int, TrueBook] = pickle.loads(place.books)
    deep: set[int] = set()
    for item in script.items[place.first :]:
        told = script.told.get(item.ordinal)
        if told is None:
            continue
        book = books.setdefault(told.instrument, TrueBook(script.instruments[told.instrument].book_depth))
        if not told.is_snapshot and all(_is_deep(book, side, price) for side, price, _ in told.levels):
            deep.add(item.ordinal)
        book.take(told)
    return frozenset(deep)


def _is_deep(book: TrueBook, side: int, price: int) -> bool:
    """Whether a price is behind ten better levels."""
    best = nlargest(10, book.sides[side]) if side == BUY else nsmallest(10, book.sides[side])
    return len(best) == 10 and (price < best[-1] if side == BUY else price > best[-1])


def _early(script: Script, start: int, draws: Draws) -> int:
    """The ordinal of an update of the first seconds: what begins there lasts."""
    found = _candidates(script, start)
    return found[draws.whole(0, len(found) // 3)].ordinal


def _corrupted(item: Item, fault: Fault, number: int, seed: int) -> tuple[bytes, bool]:
    """(What a corrupted frame would be, whether a digit became a digit) for the number-th fault of a list."""
    notes: list[str] = []
    faults = (*(_NEVER for _ in range(number)), fault)
    (harmed,) = with_faults([item], faults, seed, lambda injected: notes.append(injected.detail))
    match = _BYTE.fullmatch(notes[0])
    is_digit = match is not None and all(0x30 <= int(match[place], 16) <= 0x39 for place in (2, 3))
    return harmed.data, is_digit


def _suits(reader: Reader, told: Told, data: bytes, is_digit: bool, part: str) -> bool:
    """Whether a corrupted frame is what a row speaks of, as far as its text shows that."""
    if part.startswith("unreadable"):
        return not is_digit and reader.read(data) is None
    of = reader.read(data) if is_digit or part == "anything else" else None
    if of is None:
        return False
    if part in ("price or size", "price or size, ten best", "price or size, deeper"):
        return of.levels != told.levels
    return part_of(reader, told, data, False, None)[0] == part


def _seeds(draws: Draws, item: Item, part: str) -> Iterator[int]:
    """Seeds that may do: the player's first draw is the place, and of a number the place is known."""
    first = draws.whole(0, 1 << 40)
    pattern = _NUMBERS.get(part.removeprefix("snapshot, "))
    if pattern is None:
        yield from range(first, first + _TRIES)
        return
    match = pattern.search(item.data, item.start)
    least, most = match.span(1) if match else (0, 0)
    last = len(item.data) - (item.start > 0) - 1
    for seed in range(first, first + _SEEDS):
        if least <= Draws(seed, 0).whole(item.start, last) < most:
            yield seed


def _corrupt(script: Script, row: Row, start: int, draws: Draws) -> Order:
    """One frame that is harmed as the row says, and others where chance has it."""
    reader, told = Reader(script.instruments), script.told
    found = [item for item in _candidates(script, start) if _fits(script, start, item, row)]
    items = _chosen(found, draws, _MOST, apart_ns=_APART_NS * 2)

    def meets(item: Item, number: int, seed: int) -> bool:
        fault = Fault("corrupt", item.stream, at=item.ordinal)
        data, is_digit = _corrupted(item, fault, number, seed)
        return _suits(reader, told[item.ordinal], data, is_digit, row.part)

    seed = next((seed for seed in _seeds(draws, items[0], row.part) if meets(items[0], 0, seed)), 0)
    chosen = [items[0], *_more(items[1:], found, meets, seed)]
    faults = tuple(Fault("corrupt", item.stream, at=item.ordinal) for item in chosen)
    return Order(f"corrupt {row.part}", start, faults, seed, True)


def _more(
    wanted: Sequence[Item], found: Sequence[Item], meets: Callable[[Item, int, int], bool], seed: int
) -> Iterator[Item]:
    """Near each wanted item, the first one that the seed harms in the same way."""
    number = 1
    for item in wanted:
        near = [other for other in found if 0 <= other.ts_ns - item.ts_ns < _APART_NS]
        met = next((other for other in near if meets(other, number, seed)), None)
        if met is not None:
            number += 1
            yield met


def _at_snapshot(script: Script, row: Row, start: int, draws: Draws) -> Order:
    """The first answer of one book is harmed as the row says."""
    reader = Reader(script.instruments)
    place = script.starts[start]
    venue: PlayedVenue = pickle.loads(place.venue)
    path, query, frames = subscription(script, venue)
    listener = venue.open(path, query)
    assert listener is not None
    books = [(told, data) for text in frames for data in venue.answer(listener, text)
             if (told := reader.read(data)) is not None]  # fmt: skip
    told, data = draws.choice(books)
    stream = ANSWERED + script.instruments[told.instrument].symbol
    fault = Fault("corrupt", stream, at=1)
    item = Item(script.items[place.first].ts_ns, 0, What.FRAME, data, place.first + 1, stream)

    def meets(seed: int) -> bool:
        harmed, is_digit = _corrupted(item, fault, 0, seed)
        return is_digit and part_of(reader, told, harmed, False, None)[0] == row.part

    seed = next((seed for seed in _seeds(draws, item, row.part) if meets(seed)), 0)
    return Order(f"corrupt {row.part}", start, (fault,), seed, True)
