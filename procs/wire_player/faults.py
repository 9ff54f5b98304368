"""Faults over a sequence of items, pure and seeded: no sockets, no clocks.

`with_faults` takes items and gives items; `Injector` is the same one item at a time, for who has to keep pace. Whether
a fault meets the n-th candidate depends on the seed, on the place of the fault in the list and on n alone. An item
meets one fault at the most: the first of the list that wants it. Replies are left alone.

    drop        the frame does not come
    duplicate   it comes twice
    reorder     it comes behind the next frame of its stream
    delay       it comes `ms` later; what follows overtakes it
    corrupt     one byte of its event becomes another printable character
    stall       its connection says nothing for `ms`, then everything comes at once
    mute        the same of its stream alone; what else its connection carries goes on
    disconnect  its connection breaks before it; for `ms` nobody can connect, and what falls in that time is lost, with
                what other faults held back of the connection
    429         a REST request is refused
    stale       a depth snapshot is the oldest of its symbol that was given, once there is a newer one

Held in memory: what is on its way late; for stall and mute that is what comes in their time.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from procs.embedded.mix import Draws
from procs.wire_player.sequence import Item, What

FRAME_FAULTS = ("drop", "duplicate", "reorder", "delay", "corrupt", "stall", "mute", "disconnect")
REST_FAULTS = ("429", "stale")
TOO_MANY = b'{"code":-1003,"msg":"Too many requests; please use the websocket for live updates."}'
_DEFAULT_MS = {"delay": 500, "stall": 6_000, "mute": 6_000, "disconnect": 1_000}
_SPEC = re.compile(
    r"(?P<kind>[a-z0-9]+)(?::(?P<part>[^=]+?))?(?:=(?P<rate>[0-9.]+)|@(?P<at>[0-9]{1,12}))(?:,(?P<ms>[0-9]{1,8}))?"
)
_PRINTABLE = range(0x20, 0x7F)


@dataclass(frozen=True)
class Fault:
    """One order for faults: for a share of the candidates (`rate`), or for one (`at`)."""

    kind: str
    part: str = ""  # candidates: frames whose stream, or requests whose path and query, hold this text
    rate: float = 0.0
    at: int = 0  # the first candidate with this ordinal or a later one, once; of requests: counted from 1
    ms: int = 0


class Injected(NamedTuple):
    """A fault that took effect."""

    ordinal: int  # of the item in the recording; of a REST fault: of the request
    kind: str
    ts_ns: int  # of the item, in the time of the recording
    stream: str
    detail: str = ""


def parse_fault(text: str) -> Fault:
    """KIND[:PART]=RATE[,MS] or KIND[:PART]@ORDINAL[,MS]. Raises ValueError that says what is allowed."""
    match = _SPEC.fullmatch(text)
    if match is None or match["kind"] not in (*FRAME_FAULTS, *REST_FAULTS):
        kinds = ", ".join((*FRAME_FAULTS, *REST_FAULTS))
        raise ValueError(f"{text!r}: allowed are KIND[:PART]=RATE[,MS] and KIND[:PART]@ORDINAL[,MS], KIND of {kinds}")
    kind = match["kind"]
    if match["ms"] and kind not in _DEFAULT_MS:
        raise ValueError(f"{text!r}: only {', '.join(_DEFAULT_MS)} last some milliseconds")
    try:
        rate = float(match["rate"] or 0)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1 or (match["at"] and int(match["at"]) < 1):
        raise ValueError(f"{text!r}: a rate is a number from 0 to 1, an ordinal counts from 1")
    ms = int(match["ms"] or _DEFAULT_MS.get(kind, 0))
    if kind in _DEFAULT_MS and ms < 1:
        raise ValueError(f"{text!r}: at least one millisecond")
    return Fault(kind, match["part"] or "", rate, int(match["at"] or 0), ms)


class _Chooser:
    """Which candidate a fault meets."""

    def __init__(self, fault: Fault, seed: int, number: int):
        self.fault = fault
        self.draws = Draws(seed, number)
        self._done = False

    def wants(self, ordinal: int, name: str) -> bool:
        """True when the candidate is one that the fault wants. Draws once a candidate."""
        fault = self.fault
        if fault.part not in name:
            return False
        if fault.at:
            return not self._done and ordinal >= fault.at
        return self.draws.uniform() < fault.rate

    def take(self) -> None:
        """It has met one."""
        self._done = True


def _choosers(faults: Sequence[Fault], seed: int, kinds: Sequence[str]) -> list[_Chooser]:
    return [_Chooser(fault, seed, number) for number, fault in enumerate(faults) if fault.kind in kinds]


class RestFaults:
    """What REST requests meet, one after the other."""

    def __init__(self, faults: Sequence[Fault], seed: int, note: Callable[[Injected], None]):
        self._choosers = _choosers(faults, seed, REST_FAULTS)
        self._note = note
        self._requests = 0

    def meet(self, name: str, ts_ns: int, may_be_stale: bool) -> str:
        """What the next request meets: "429", "stale" or "". name: its path and query."""
        self._requests += 1
        met: _Chooser | None = None
        for chooser in self._choosers:
            if chooser.fault.kind == "stale" and not may_be_stale:
                continue
            if chooser.wants(self._requests, name) and met is None:
                met = chooser
        if met is None:
            return ""
        met.take()
        self._note(Injected(self._requests, met.fault.kind, ts_ns, name))
        return met.fault.kind


class Injector:
    """Faults on items that come one at a time: for each first `before` its time, then `take`; at the end `rest`.

    of_rest: whether recorded REST answers meet those of REST too; where requests are served, RestFaults meets them.
    """

    def __init__(self, faults: Sequence[Fault], seed: int, note: Callable[[Injected], None], of_rest: bool = True):
        self.lost = 0  # frames that fell into the time of a broken connection
        self._choosers = _choosers(faults, seed, FRAME_FAULTS)
        self._rest = RestFaults(faults if of_rest else (), seed, note)
        self._note = note
        self._late: list[tuple[int, int, Item]] = []  # heap: due, in which order asked for
        self._asked = 0
        self._last_ns = 0  # the latest time of anything that has come
        self._overtaken: dict[str, list[Item]] = {}  # reordered: they wait for the next of their stream
        self._stalled: dict[int, int] = {}  # connection: until when
        self._muted: dict[tuple[int, str], int] = {}  # connection and stream: until when
        self._broken: dict[int, int] = {}
        self._oldest: dict[str, bytes] = {}  # snapshot by symbol

    def before(self, ts_ns: int) -> Iterator[Item]:
        """What was held back and is due by then, in the order of its time."""
        while self._late and self._late[0][0] <= ts_ns:
            due, _, item = heapq.heappop(self._late)
            self._last_ns = max(self._last_ns, due)
            until = self._silent_until(item)
            if until > due and item.what is What.FRAME:
                self._hold(item, until)
            elif item.what is What.CONNECT:
                self._broken.pop(item.connection, None)
                yield item
            else:
                yield from self._out(item._replace(ts_ns=due))

    def take(self, item: Item) -> list[Item]:
        """What comes of the next item of the recording, now."""
        self._last_ns = max(self._last_ns, item.ts_ns)
        if item.what is What.SNAPSHOT:
            return [self._snapshot(item)]
        if item.what is What.DISCONNECT:
            self._forget(item.connection)
        if item.what is What.CONNECT and item.connection in self._broken:
            return []  # for a fault has broken it for longer
        if item.what is not What.FRAME:
            return [item]
        met: _Chooser | None = None
        for chooser in self._choosers:
            if chooser.wants(item.ordinal, item.stream) and met is None:
                met = chooser
        if item.connection in self._broken:
            self.lost += 1
            return []
        if met is not None:
            met.take()
            return self._fault(item, met)
        return self._pass(item)

    def rest(self) -> Iterator[Item]:
        """What is still held back when the recording is over."""
        while self._late:
            yield from self.before(self._late[0][0])
        for items in self._overtaken.values():
            for item in items:
                yield item._replace(ts_ns=self._last_ns)
        self._overtaken.clear()

    def _hold(self, item: Item, due_ns: int) -> None:
        self._asked += 1
        heapq.heappush(self._late, (due_ns, self._asked, item))

    def _silent_until(self, item: Item) -> int:
        """Until when nothing comes of the connection or of the stream of an item; 0: it does."""
        muted = self._muted.get((item.connection, item.stream), 0)
        return max(muted, self._stalled.get(item.connection, 0))

    def _pass(self, item: Item) -> list[Item]:
        """An item goes out, unless its connection is stalled or its stream muted."""
        until = self._silent_until(item)
        if until > item.ts_ns:
            self._hold(item, until)
            return []
        return self._out(item)

    def _out(self, item: Item) -> list[Item]:
        """An item, and behind it those that it was to overtake."""
        behind = self._overtaken.pop(item.stream, []) if item.what is What.FRAME else []
        for late in behind:
            self._note(Injected(late.ordinal, "reorder", late.ts_ns, late.stream, f"behind {item.ordinal}"))
        return [item, *(late._replace(ts_ns=item.ts_ns) for late in behind)]

    def _fault(self, item: Item, met: _Chooser) -> list[Item]:
        fault = met.fault
        if fault.kind == "reorder":  # noted once something has overtaken it
            self._overtaken.setdefault(item.stream, []).append(item)
            return []
        until = item.ts_ns + fault.ms * 1_000_000
        detail = f"{fault.ms} ms" if fault.ms else ""
        gives: list[Item] = []
        if fault.kind == "duplicate":
            gives = self._pass(item) + self._pass(item)
        elif fault.kind == "delay":
            self._hold(item, until)
        elif fault.kind == "corrupt":
            item, detail = _corrupted(item, met.draws)
            gives = self._pass(item)
        elif fault.kind == "stall":
            self._stalled[item.connection] = max(until, self._stalled.get(item.connection, 0))
            gives = self._pass(item)
        elif fault.kind == "mute":
            stream = item.connection, item.stream
            self._muted[stream] = max(until, self._muted.get(stream, 0))
            gives = self._pass(item)
        elif fault.kind == "disconnect":
            gives = self._break(item, until)
        self._note(Injected(item.ordinal, fault.kind, item.ts_ns, item.stream, detail))
        return gives

    def _break(self, item: Item, until_ns: int) -> list[Item]:
        """The connection of an item breaks before it; what was on its way late goes with it."""
        self.lost += 1
        self._forget(item.connection)
        self._broken[item.connection] = until_ns
        event = item._replace(what=What.DISCONNECT, data=b"", start=0)
        self._hold(event._replace(ts_ns=until_ns, what=What.CONNECT), until_ns)
        return [event]

    def _forget(self, gone: int) -> None:
        """What was on its way late is lost with its connection."""
        kept = [entry for entry in self._late if entry[2].connection != gone or entry[2].what is not What.FRAME]
        self.lost += len(self._late) - len(kept)
        heapq.heapify(kept)
        self._late = kept
        for stream, items in list(self._overtaken.items()):
            staying = [other for other in items if other.connection != gone]
            self.lost += len(items) - len(staying)
            self._overtaken[stream] = staying
        self._stalled.pop(gone, None)
        self._muted = {stream: until for stream, until in self._muted.items() if stream[0] != gone}

    def _snapshot(self, item: Item) -> Item:
        oldest = self._oldest.setdefault(item.stream, item.data)
        met = self._rest.meet(item.stream, item.ts_ns, oldest != item.data)
        if met == "429":
            return item._replace(what=What.REFUSED, data=TOO_MANY)
        return item._replace(data=oldest) if met == "stale" else item


def _corrupted(item: Item, draws: Draws) -> tuple[Item, str]:
    """The item with another byte at a drawn place of its event, and what was done."""
    end = len(item.data) - (item.start > 0)  # an envelope closes behind its event
    if end <= item.start:
        return item, "nothing to corrupt"
    place = draws.whole(item.start, end - 1)
    old = item.data[place]
    new = draws.choice([byte for byte in _PRINTABLE if byte != old])
    data = item.data[:place] + bytes((new,)) + item.data[place + 1 :]
    return item._replace(data=data), f"byte {place}: {old:#04x} became {new:#04x}"


def with_faults(
    items: Iterable[Item], faults: Sequence[Fault], seed: int, note: Callable[[Injected], None]
) -> Iterator[Item]:
    """Items with faults, in the order in which they come then; their times never fall below an earlier one's unless
    the recording's do. `note` is told of every fault that took effect."""
    injector = Injector(faults, seed, note)
    for item in items:
        yield from injector.before(item.ts_ns)
        yield from injector.take(item)
    yield from injector.rest()
