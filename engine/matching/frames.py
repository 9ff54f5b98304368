"""How the simulated market's data look on the wire: Binance USD-M futures and Binance spot, by contract.

One object writes the frames and bodies of one contract; which streams there are, and when they are due, belongs to it
too. The two differ in names and decimals (spot prints eight of them), in times (spot names none for its books), and
in the proof of a book: USD-M names the last id of the previous diff (`pu`), spot begins each diff with the id behind
that. Ids have holes on USD-M, as on the real venue; a spot diff covers the holes.
Source: Binance USD-M futures and Binance spot, "WebSocket Market Streams" and "How to manage a local order book
correctly".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from engine.instruments import Instrument
from engine.matching.settings import SPOT, USDM
from engine.records import Side
from engine.units import MONEY_EXP

NS_PER_MS = 1_000_000
Trade = tuple[int, int, int, int, int, int]  # taker's order id, price, size, taker's side, trade id, time ns
Levels = Iterable[tuple[int, int]]  # price, size


def decimal_text(exp: int, decimals: int | None = None) -> Callable[[int], str]:
    """A function that writes non-negative units of 10^-exp as plain decimal text with exp decimals, or with more."""
    zeros = "0" * ((exp if decimals is None else decimals) - exp)
    if exp == 0:
        return (lambda value: f"{value}.{zeros}") if zeros else str
    scale = 10**exp
    return lambda value: f"{value // scale}.{value % scale:0{exp}d}{zeros}"


class Frames(ABC):
    """The frames of one contract. Units as the contract has them; payloads are bare events."""

    depth_intervals_ms: ClassVar[Mapping[str, int]]  # of the depth streams, 0: whenever the flow has moved
    mark_intervals_ms: ClassVar[Mapping[str, int]]  # of the mark price streams, where there are any
    decimals: ClassVar[int | None] = None  # of every price and size; None: those of the contract

    def __init__(self, instrument: Instrument):
        self.name = instrument.symbol
        self.price_text = decimal_text(instrument.price_exp, self.decimals)
        self.size_text = decimal_text(instrument.size_exp, self.decimals)

    def _list(self, levels: Levels) -> str:
        price_text, size_text = self.price_text, self.size_text
        return ",".join([f'["{price_text(price)}","{size_text(size)}"]' for price, size in levels])

    @abstractmethod
    def book_ticker(
        self, now_ms: int, time_ns: int, update_id: int, bid: int, bid_size: int, ask: int, ask_size: int
    ) -> bytes:
        """The touch."""

    @abstractmethod
    def trade(self, now_ms: int, trade: Trade) -> bytes:
        """One fill."""

    @abstractmethod
    def aggregate(self, now_ms: int, number: int, trades: Sequence[Trade]) -> bytes:
        """Fills of one order at one price."""

    @abstractmethod
    def diff(
        self, now_ms: int, time_ns: int, previous_id: int, first_id: int, last_id: int, bids: Levels, asks: Levels
    ) -> bytes:
        """What changed of a book. previous_id: the last one of the diff before."""

    @abstractmethod
    def snapshot(self, now_ms: int, last_id: int, bids: Levels, asks: Levels) -> bytes:
        """The body of a book."""


class UsdmFrames(Frames):
    """Binance USD-M futures."""

    depth_intervals_ms: ClassVar[Mapping[str, int]] = {
        "depth@0ms": 0, "depth@100ms": 100, "depth": 250, "depth@500ms": 500
    }
    mark_intervals_ms: ClassVar[Mapping[str, int]] = {"markPrice@1s": 1_000, "markPrice": 3_000}

    def book_ticker(
        self, now_ms: int, time_ns: int, update_id: int, bid: int, bid_size: int, ask: int, ask_size: int
    ) -> bytes:
        """See Frames."""
        return (
            f'{{"e":"bookTicker","u":{update_id},"s":"{self.name}","b":"{self.price_text(bid)}",'
            f'"B":"{self.size_text(bid_size)}","a":"{self.price_text(ask)}","A":"{self.size_text(ask_size)}",'
            f'"T":{time_ns // NS_PER_MS},"E":{now_ms}}}'
        ).encode()

    def trade(self, now_ms: int, trade: Trade) -> bytes:
        """See Frames."""
        _, price, size, side, trade_id, time_ns = trade
        maker = "true" if side == Side.SELL else "false"
        return (
            f'{{"e":"trade","E":{now_ms},"T":{time_ns // NS_PER_MS},"s":"{self.name}","t":{trade_id},'
            f'"p":"{self.price_text(price)}","q":"{self.size_text(size)}","X":"MARKET","m":{maker}}}'
        ).encode()

    def aggregate(self, now_ms: int, number: int, trades: Sequence[Trade]) -> bytes:
        """See Frames."""
        _, price, _, side, first, time_ns = trades[0]
        maker = "true" if side == Side.SELL else "false"
        return (
            f'{{"e":"aggTrade","E":{now_ms},"a":{number},"s":"{self.name}",'
            f'"p":"{self.price_text(price)}","q":"{self.size_text(sum(trade[2] for trade in trades))}","f":{first},'
            f'"l":{trades[-1][4]},"T":{time_ns // NS_PER_MS},"m":{maker}}}'
        ).encode()

    def diff(
        self, now_ms: int, time_ns: int, previous_id: int, first_id: int, last_id: int, bids: Levels, asks: Levels
    ) -> bytes:
        """See Frames."""
        return (
            f'{{"e":"depthUpdate","E":{now_ms},"T":{time_ns // NS_PER_MS},"s":"{self.name}",'
            f'"U":{first_id},"u":{last_id},"pu":{previous_id},'
            f'"b":[{self._list(bids)}],"a":[{self._list(asks)}]}}'
        ).encode()

    def snapshot(self, now_ms: int, last_id: int, bids: Levels, asks: Levels) -> bytes:
        """See Frames."""
        return (
            f'{{"lastUpdateId":{last_id},"E":{now_ms},"T":{now_ms},'
            f'"bids":[{self._list(bids)}],"asks":[{self._list(asks)}]}}'
        ).encode()


class SpotFrames(Frames):
    """Binance spot."""

    depth_intervals_ms: ClassVar[Mapping[str, int]] = {"depth@100ms": 100, "depth": 1_000, "depth@1000ms": 1_000}
    mark_intervals_ms: ClassVar[Mapping[str, int]] = {}
    decimals = MONEY_EXP

    def book_ticker(
        self, now_ms: int, time_ns: int, update_id: int, bid: int, bid_size: int, ask: int, ask_size: int
    ) -> bytes:
        """See Frames."""
        return (
            f'{{"u":{update_id},"s":"{self.name}","b":"{self.price_text(bid)}","B":"{self.size_text(bid_size)}",'
            f'"a":"{self.price_text(ask)}","A":"{self.size_text(ask_size)}"}}'
        ).encode()

    def trade(self, now_ms: int, trade: Trade) -> bytes:
        """See Frames."""
        _, price, size, side, trade_id, time_ns = trade
        maker = "true" if side == Side.SELL else "false"
        return (
            f'{{"e":"trade","E":{now_ms},"s":"{self.name}","t":{trade_id},"p":"{self.price_text(price)}",'
            f'"q":"{self.size_text(size)}","T":{time_ns // NS_PER_MS},"m":{maker},"M":true}}'
        ).encode()

    def aggregate(self, now_ms: int, number: int, trades: Sequence[Trade]) -> bytes:
        """See Frames."""
        _, price, _, side, first, time_ns = trades[0]
        maker = "true" if side == Side.SELL else "false"
        return (
            f'{{"e":"aggTrade","E":{now_ms},"s":"{self.name}","a":{number},"p":"{self.price_text(price)}",'
            f'"q":"{self.size_text(sum(trade[2] for trade in trades))}","f":{first},"l":{trades[-1][4]},'
            f'"T":{time_ns // NS_PER_MS},"m":{maker},"M":true}}'
        ).encode()

    def diff(
        self, now_ms: int, time_ns: int, previous_id: int, first_id: int, last_id: int, bids: Levels, asks: Levels
    ) -> bytes:
        """See Frames."""
        return (
            f'{{"e":"depthUpdate","E":{now_ms},"s":"{self.name}","U":{previous_id + 1},"u":{last_id},'
            f'"b":[{self._list(bids)}],"a":[{self._list(asks)}]}}'
        ).encode()

    def snapshot(self, now_ms: int, last_id: int, bids: Levels, asks: Levels) -> bytes:
        """See Frames."""
        return f'{{"lastUpdateId":{last_id},"bids":[{self._list(bids)}],"asks":[{self._list(asks)}]}}'.encode()


FRAMES: Mapping[str, type[Frames]] = {USDM: UsdmFrames, SPOT: SpotFrames}
