"""Market data of the simulated market as frames: bytes, exactly as the embedded server sends them.

How they look is a matter of the market (frames.py); here is what goes into which, and when. Each depth stream of a
contract keeps its own previous id. A diff covers whole commands only, and bookTicker frames carry the update id of the
command that moved the touch, so after a diff with final id u a client's best bid and ask equal the bookTicker with the
largest u not above it. A snapshot's lastUpdateId is the id of the last level change, hence the first diff that ends at
or after it satisfies U <= lastUpdateId <= u on USD-M, and the first that ends behind it U <= lastUpdateId + 1 <= u on
spot. While a side is empty no bookTicker is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from engine.instruments import Instrument
from engine.matching.book import levels
from engine.matching.events import EventKind
from engine.matching.frames import FRAMES, NS_PER_MS, Trade, decimal_text
from engine.matching.market import SimulatedMarket
from engine.records import Side

IMMEDIATE = ("trade", "aggTrade", "bookTicker")
SNAPSHOT_DELAY_MS = 600  # of a rendered session, longer than any depth interval of USD-M

Frame = tuple[str, bytes]  # stream name, JSON of the bare event


def combined(stream: str, payload: bytes) -> bytes:
    """A frame as it stands on a combined stream."""
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


class DepthStream:
    """Levels that changed since the last diff of one depth stream."""

    def __init__(self, last_update_id: int):
        self.previous_id = last_update_id  # u of the last diff
        self.first_id = 0  # U of the coming one; 0: nothing changed
        self.last_id = last_update_id
        self.time_ns = 0
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}

    def add(self, side: int, price: int, size: int, update_id: int, time_ns: int) -> None:
        """Note a level's new size."""
        if self.first_id == 0:
            self.first_id = update_id
        self.last_id = update_id
        self.time_ns = time_ns
        (self.bids if side == Side.BUY else self.asks)[price] = size


class ContractFeed:
    """Frames of one contract. Feed it every event of its book, in order."""

    def __init__(self, market: SimulatedMarket, symbol: int, wanted: Callable[[str], bool]):
        self.market = market
        self.symbol = symbol
        self.instrument: Instrument = market.instruments[symbol]
        self.name = self.instrument.symbol
        self.frames = FRAMES[market.settings.market](self.instrument)
        self.price_text, self.size_text = self.frames.price_text, self.frames.size_text
        self._wanted = wanted
        prefix = self.name.lower()
        depths, marks = self.frames.depth_intervals_ms, self.frames.mark_intervals_ms
        self.streams = {kind: f"{prefix}@{kind}" for kind in (*depths, *marks, *IMMEDIATE)}
        last = int(market.books[symbol]["last_update_id"][0])
        self.depth = {kind: DepthStream(last) for kind in depths}
        self.recent: deque[Trade] = deque(maxlen=1000)  # the last trades, oldest first
        self.recent_aggregates: deque[tuple[int, list[Trade]]] = deque(maxlen=1000)  # (aggregate id, its trades)
        self._aggregate_id = int(market.books[symbol]["next_trade_id"][0])

    def absorb(self, events: np.ndarray, now_ms: int) -> list[Frame]:
        """Take in new events (EVENT records of this contract); trades and touches become frames at once."""
        frames: list[Frame] = []
        fills: list[Trade] = []
        depth = list(self.depth.values())
        names = (
            "kind", "side", "time_ns", "price", "size", "update_id", "trade_id", "order_id", "ask_price", "ask_size"
        )
        for kind, side, time_ns, price, size, update_id, trade_id, order_id, ask_price, ask_size in zip(
            *(events[name].tolist() for name in names)
        ):
            if kind == EventKind.LEVEL:
                for stream in depth:
                    stream.add(side, price, size, update_id, time_ns)
            elif kind == EventKind.FILL:
                fills.append((order_id, price, size, side, trade_id, time_ns))
            elif kind == EventKind.TOUCH:
                self._trades(frames, fills, now_ms)
                if price and ask_price and self._wanted(self.streams["bookTicker"]):
                    frames.append((self.streams["bookTicker"], self.frames.book_ticker(
                        now_ms, time_ns, update_id, price, size, ask_price, ask_size
                    )))
        self._trades(frames, fills, now_ms)
        return frames

    def _trades(self, frames: list[Frame], fills: list[Trade], now_ms: int) -> None:
        """Frames of the fills collected so far; empties the list."""
        if not fills:
            return
        self.recent.extend(fills)
        if self._wanted(self.streams["trade"]):
            frames += [(self.streams["trade"], self.frames.trade(now_ms, fill)) for fill in fills]
        groups: list[list[Trade]] = []
        for fill in fills:
            if groups and groups[-1][0][:2] == fill[:2]:
                groups[-1].append(fill)
            else:
                groups.append([fill])
        for group in groups:
            self.recent_aggregates.append((self._aggregate_id, group))
            if self._wanted(self.streams["aggTrade"]):
                frames.append((self.streams["aggTrade"], self.frames.aggregate(now_ms, self._aggregate_id, group)))
            self._aggregate_id += 1
        fills.clear()

    def diff(self, kind: str, now_ms: int) -> Frame | None:
        """The diff of one depth stream, or None where nothing changed or nobody listens; starts the next one."""
        stream = self.depth[kind]
        if stream.first_id == 0:
            return None
        payload = b""
        if self._wanted(self.streams[kind]):
            payload = self.frames.diff(
                now_ms, stream.time_ns, stream.previous_id, stream.first_id, stream.last_id,
                sorted(stream.bids.items()), sorted(stream.asks.items()),
            )
        self.depth[kind] = DepthStream(stream.last_id)
        return (self.streams[kind], payload) if payload else None

    def mark(self, now_ms: int) -> bytes:
        """A markPriceUpdate event, as USD-M has them."""
        text = decimal_text(8)
        scale = int(10 ** (8 - self.instrument.price_exp))
        mark = text(self.market.mark_price(self.symbol) * scale)
        index = text(int(self.market.hidden_price(self.symbol)) * scale)
        period_ms = self.market.settings.funding_interval_s * 1_000
        funding_ms = (now_ms // period_ms + 1) * period_ms
        rate = f"{float(self.market.settings.funding_rate):.8f}"
        return (
            f'{{"e":"markPriceUpdate","E":{now_ms},"s":"{self.name}","p":"{mark}","P":"{mark}","i":"{index}",'
            f'"r":"{rate}","T":{funding_ms}}}'
        ).encode()

    def snapshot(self, limit: int, now_ms: int) -> bytes:
        """The body of a depth request."""
        book = self.market.books[self.symbol]
        return self.frames.snapshot(
            now_ms, int(book["last_update_id"][0]), levels(book, Side.BUY, limit), levels(book, Side.SELL, limit)
        )


class MarketFeed:
    """Frames of all contracts of a market, published on a grid of times.

    wanted: says for a stream name whether anybody listens; frames of others are not built.
    """

    def __init__(self, market: SimulatedMarket, wanted: Callable[[str], bool], now_ms: int):
        self.market = market
        self._wanted = wanted
        self.contracts = [ContractFeed(market, index, wanted) for index in range(len(market.instruments))]
        frames = FRAMES[market.settings.market]
        self._depths_ms, self._marks_ms = frames.depth_intervals_ms, frames.mark_intervals_ms
        self._due_ms = dict.fromkeys((*self._depths_ms, *self._marks_ms), now_ms)

    def absorb(self, symbol: int, events: np.ndarray, now_ms: int) -> list[Frame]:
        """Take in events of one contract; frames to send at once."""
        return self.contracts[symbol].absorb(events, now_ms) if len(events) else []

    def turn(self, now_ms: int) -> list[Frame]:
        """Diffs and mark prices that are due."""
        frames: list[Frame] = []
        for kind, interval in self._depths_ms.items():
            if self._is_due(kind, interval, now_ms):
                diffs = [contract.diff(kind, now_ms) for contract in self.contracts]
                frames += [frame for frame in diffs if frame is not None]
        for kind, interval in self._marks_ms.items():
            if self._is_due(kind, interval, now_ms):
                for contract in self.contracts:
                    stream = contract.streams[kind]
                    if self._wanted(stream):
                        frames.append((stream, contract.mark(now_ms)))
        return frames

    def _is_due(self, kind: str, interval_ms: int, now_ms: int) -> bool:
        """Whether the interval of a stream kind is over; if so the next one starts on its grid."""
        if now_ms < self._due_ms[kind]:
            return False
        if interval_ms:
            self._due_ms[kind] = (now_ms // interval_ms + 1) * interval_ms
        return True


def render_session(
    market: SimulatedMarket, to_ns: int, streams: tuple[str, ...] = ("depth@0ms", "bookTicker", "trade")
) -> Iterator[tuple[int, str, bytes]]:
    """Run a market in virtual time and yield (publication time ns, stream name, bare event) as the server would.

    streams: kinds to render for every contract. SNAPSHOT_DELAY_MS after the opening, when diffs
    have been seen as a client would have buffered them, comes the body of each contract's snapshot under the name
    "<symbol>@snapshot".
    """
    step_ns = market.settings.loop_interval_ms * NS_PER_MS
    now_ns = market.start_ns
    listening = {f"{item.symbol.lower()}@{kind}" for item in market.instruments for kind in streams}
    feed = MarketFeed(market, listening.__contains__, now_ns // NS_PER_MS)
    snapshot_ns = now_ns + SNAPSHOT_DELAY_MS * NS_PER_MS
    while now_ns < to_ns:
        now_ns = min(now_ns + step_ns, to_ns)
        now_ms = now_ns // NS_PER_MS
        for symbol in range(len(feed.contracts)):
            reached = False
            while not reached:
                events, reached = market.step(symbol, now_ns)
                for stream, payload in feed.absorb(symbol, events, now_ms):
                    yield now_ns, stream, payload
        for stream, payload in feed.turn(now_ms):
            yield now_ns, stream, payload
        if snapshot_ns and now_ns >= snapshot_ns:
            snapshot_ns = 0
            for contract in feed.contracts:
                yield now_ns, f"{contract.name.lower()}@snapshot", contract.snapshot(1000, now_ms)
