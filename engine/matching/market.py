"""The simulated market: a book and a flow for each listed contract, run in given time with no server.

The embedded server drives it with the wall clock; training and tests drive it in virtual time, as fast as it goes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from engine.instruments import Instrument
from engine.matching import book as book_kernel
from engine.matching import commands
from engine.matching.events import EVENT, SelfTrade
from engine.matching.flow import flow_until, new_flow
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.stage import as_bytes

WARM_UP_NS = 20_000_000_000  # how long a market runs before its opening, so that the book is full
ID_PERIOD_NS = 100_000  # ids start at opening time / this, so that those of a later start are larger


class Market(Protocol):
    """What an exchange trades against: this simulated market, or a recorded one (recorded.py).

    Events are EVENT records, in views that the next call overwrites; what the calls do is said at SimulatedMarket.
    """

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """What is listed, by index."""

    def step(self, symbol: int, to_ns: int) -> tuple[np.ndarray, bool]:
        """Let one contract's market run towards a time; (events, whether the time was reached)."""

    def submit(
        self, symbol: int, owner: int, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, time_ns: int, self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """One order."""

    def amend(
        self, symbol: int, owner: int, order_id: int, price: int, size: int, post_only: bool, time_ns: int,
        self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """New terms for one order."""

    def cancel(self, symbol: int, owner: int, order_id: int, time_ns: int) -> np.ndarray:
        """Cancel one order."""

    def draw_trade_id(self, symbol: int) -> int:
        """A fresh trade id, for what trades beside the book."""

    def touch(self, symbol: int) -> tuple[int, int, int, int]:
        """Best bid price and size, best ask price and size."""

    def mark_price(self, symbol: int) -> int:
        """Mark price, price units."""

    def pause(self, duration_ns: int) -> None:
        """Nobody traded for a time."""


class SimulatedMarket:
    """Books and flows of all listed contracts. Time enters as arguments only.

    settings: what is listed. seed: of the flow, default settings.seed. start_ns: opening time, ns since the epoch;
    the same three give the same events. Events are EVENT records.
    """

    def __init__(self, settings: VenueSettings, seed: int | None = None, start_ns: int = 1_700_000_000_000_000_000):
        self.settings = settings
        self.seed = settings.seed if seed is None else seed
        self.start_ns = start_ns
        listed = settings.listed()
        self.instruments = tuple(item.instrument(index) for index, item in enumerate(listed))
        first_id = start_ns // ID_PERIOD_NS
        self.books = [book_kernel.new_book(index, first_id) for index in range(len(listed))]
        self.flows = [
            new_flow(item, settings.flow, index, self.seed, start_ns - WARM_UP_NS) for index, item in enumerate(listed)
        ]
        self._book_bytes = [as_bytes(book) for book in self.books]
        self._flow_bytes = [as_bytes(flow) for flow in self.flows]
        self._events, self._event_bytes = book_kernel.event_buffer(4 * book_kernel.MAX_ORDERS)
        self.advance(start_ns)

    def relist(self, instrument: Instrument) -> None:
        """List an instrument anew: the flow goes on in its new ticks and lots, what rests keeps its price."""
        self.instruments = tuple(instrument if item.index == instrument.index else item for item in self.instruments)
        flow = self.flows[instrument.index]
        flow["tick"], flow["lot"] = instrument.tick_size, instrument.lot_size

    def step(self, symbol: int, to_ns: int) -> tuple[np.ndarray, bool]:
        """Let one contract's flow run towards a time; (events, whether the time was reached).

        The events are a view that the next call overwrites. Not reached: a client's order was filled or the event
        array was full; deal with the events and call again.
        """
        count = flow_until(self._flow_bytes[symbol], self._book_bytes[symbol], to_ns, self._event_bytes)
        return self._events[:count], bool(self.flows[symbol]["next_ns"][0] > to_ns)

    def advance(self, to_ns: int) -> np.ndarray:
        """Let every contract's flow run to a time; all events by time, contracts in order where times are equal."""
        batches: list[np.ndarray] = []
        for symbol in range(len(self.books)):
            reached = False
            while not reached:
                events, reached = self.step(symbol, to_ns)
                batches.append(events.copy())
        merged = np.concatenate(batches) if batches else np.zeros(0, EVENT)
        return merged[np.argsort(merged["time_ns"], kind="stable")]

    def submit(
        self, symbol: int, owner: int, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, time_ns: int, self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """One order on a book; its events (a view that the next call overwrites)."""
        count = commands.submit(
            self._book_bytes[symbol], owner, int(side), int(order_type), int(time_in_force), price, size,
            int(self_trade), time_ns, self._event_bytes,
        )
        return self._events[:count]

    def amend(
        self, symbol: int, owner: int, order_id: int, price: int, size: int, post_only: bool, time_ns: int,
        self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """New terms for one order, size = what is to be open; its events (a view that the next call overwrites)."""
        count = commands.amend(
            self._book_bytes[symbol], owner, order_id, price, size, post_only, int(self_trade), time_ns,
            self._event_bytes,
        )
        return self._events[:count]

    def cancel(self, symbol: int, owner: int, order_id: int, time_ns: int) -> np.ndarray:
        """Cancel one order; its events (a view that the next call overwrites)."""
        count = commands.cancel(self._book_bytes[symbol], owner, order_id, time_ns, self._event_bytes)
        return self._events[:count]

    def cancel_all(self, symbol: int, owner: int, time_ns: int) -> np.ndarray:
        """Cancel all orders of an owner in one contract; their events (a view that the next call overwrites)."""
        count = commands.cancel_all(self._book_bytes[symbol], owner, time_ns, self._event_bytes)
        return self._events[:count]

    def take_order_id(self, symbol: int) -> int:
        """The next order id of a book, for an order that ends without reaching it."""
        book = self.books[symbol]
        number = int(book["next_order_id"][0])
        book["next_order_id"] += book_kernel.ORDER_ID_STEP
        return number

    def draw_trade_id(self, symbol: int) -> int:
        """A fresh trade id, for what trades beside the book."""
        drawn = int(self.books[symbol]["next_trade_id"][0])
        self.books[symbol]["next_trade_id"] += 1
        return drawn

    def touch(self, symbol: int) -> tuple[int, int, int, int]:
        """Best bid price and size, best ask price and size; 0 where a side is empty."""
        book = self.books[symbol]
        return tuple(int(book[name][0]) for name in ("bid_price", "bid_size", "ask_price", "ask_size"))  # type: ignore[return-value]

    def hidden_price(self, symbol: int) -> float:
        """The price that the flow gathers around, price units. No client of a venue sees it."""
        return float(self.flows[symbol]["walk"][0] + self.flows[symbol]["noise"][0])

    def mark_price(self, symbol: int) -> int:
        """Mark price, price units: median of index, index plus smoothed basis, and mid (where both sides have one).

        As the venue makes it, with the hidden price as its index. Source: Binance, "Mark Price and Price Index".
        """
        index = self.hidden_price(symbol)
        smoothed = index + float(self.flows[symbol]["basis"][0])
        bid, _, ask, _ = self.touch(symbol)
        middle = (bid + ask) / 2 if bid and ask else smoothed
        return round(sorted((index, smoothed, middle))[1])

    def pause(self, duration_ns: int) -> None:
        """Move all that is to come later by a time in which nobody traded."""
        for flow in self.flows:
            flow["clock_ns"] += duration_ns
            flow["next_ns"] += duration_ns
            flow["regime_until_ns"] += duration_ns
