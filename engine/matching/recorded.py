"""A recorded market with own orders beside it: what an exchange trades against when a recording is played.

It is fed MARKET records as ingestion decodes them, one input after the other, and stepped like the simulated market;
the rules are those of queues.py. Nothing here reads a clock: the time of a fill is the receive time of the record that
made it. Mark price: as recorded last, else the middle of the displayed book, else none (0).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.book.book import book_best, book_set_tick, make_books
from engine.instruments import Instrument
from engine.matching import queue_commands, queues
from engine.matching.book import ORDER_ID_STEP
from engine.matching.events import EVENT, SelfTrade
from engine.matching.market import ID_PERIOD_NS
from engine.matching.queue_rule import CAREFUL, EVEN
from engine.records import MARKET, OrderType, Side, TimeInForce
from engine.stage import as_bytes
from engine.units import MONEY_EXP

RULES = {"careful": CAREFUL, "even": EVEN}  # what is thought of cancelled sizes; see queue_rule.py


class RecordedMarket:
    """See the module. instruments: by index; start_ns: ids grow with it; rule: of RULES. Events are EVENT records."""

    def __init__(self, instruments: Sequence[Instrument], start_ns: int, rule: str = "careful") -> None:
        self.instruments = tuple(instruments)
        self.queues = [np.zeros(1, queues.QUEUES) for _ in self.instruments]
        self.books = [make_books(1) for _ in self.instruments]
        first_id = start_ns // ID_PERIOD_NS
        for item, queue, book in zip(self.instruments, self.queues, self.books, strict=True):
            queue["symbol"] = item.index
            queue["rule"] = RULES[rule]
            queue["next_order_id"] = first_id * ORDER_ID_STEP + item.index
            queue["next_trade_id"] = first_id
            book_set_tick(book, 0, item.tick_size)
        self._queue_bytes = [as_bytes(queue) for queue in self.queues]
        self._book_bytes = [as_bytes(book) for book in self.books]
        self._waiting = [np.zeros(0, MARKET) for _ in self.instruments]
        self._events = np.zeros(queues.EVENTS_NEEDED, EVENT)
        self._event_bytes = as_bytes(self._events)

    def feed(self, records: np.ndarray) -> None:
        """MARKET records of one input, to be taken by the next step."""
        for symbol in np.unique(records["instrument"]).tolist():
            if symbol < len(self.instruments):
                left = self._waiting[symbol][int(self.queues[symbol]["next_record"][0]) :]
                self._waiting[symbol] = np.concatenate((left, records[records["instrument"] == symbol]))
                self.queues[symbol]["next_record"] = 0

    def step(self, symbol: int, to_ns: int) -> tuple[np.ndarray, bool]:
        """Take what was fed of one contract; (events, whether all of it was taken).

        The events are a view that the next call overwrites. Not all: a client's order was filled; deal with the events
        and call again.
        """
        waiting = self._waiting[symbol]
        count = queues.feed(self._queue_bytes[symbol], self._book_bytes[symbol], as_bytes(waiting), self._event_bytes)
        return self._events[:count], int(self.queues[symbol]["next_record"][0]) == len(waiting)

    def submit(
        self, symbol: int, owner: int, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, time_ns: int, self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """One order; its events (a view that the next call overwrites)."""
        count = queue_commands.submit(
            self._queue_bytes[symbol], self._book_bytes[symbol], owner, int(side), int(order_type),
            int(time_in_force), price, size, int(self_trade), time_ns, self._event_bytes,
        )
        return self._events[:count]

    def amend(
        self, symbol: int, owner: int, order_id: int, price: int, size: int, post_only: bool, time_ns: int,
        self_trade: SelfTrade = SelfTrade.NONE,
    ) -> np.ndarray:
        """New terms for one order, size = what is to be open; its events (a view that the next call overwrites)."""
        count = queue_commands.amend(
            self._queue_bytes[symbol], self._book_bytes[symbol], owner, order_id, price, size, post_only,
            int(self_trade), time_ns, self._event_bytes,
        )
        return self._events[:count]

    def cancel(self, symbol: int, owner: int, order_id: int, time_ns: int) -> np.ndarray:
        """Cancel one order; its events (a view that the next call overwrites)."""
        count = queue_commands.cancel(self._queue_bytes[symbol], owner, order_id, time_ns, self._event_bytes)
        return self._events[:count]

    def draw_trade_id(self, symbol: int) -> int:
        """A fresh trade id, for what trades beside the book."""
        drawn = int(self.queues[symbol]["next_trade_id"][0])
        self.queues[symbol]["next_trade_id"] += 1
        return drawn

    def touch(self, symbol: int) -> tuple[int, int, int, int]:
        """Displayed best bid price and size, best ask price and size; 0 where a side is empty."""
        bid, bid_size = book_best(self.books[symbol], 0, 1)
        ask, ask_size = book_best(self.books[symbol], 0, -1)
        return int(bid), int(bid_size), int(ask), int(ask_size)

    def mark_price(self, symbol: int) -> int:
        """Mark price, price units; 0: nobody has said."""
        told = int(self.queues[symbol]["mark"][0])
        if told:
            unit = 10 ** (MONEY_EXP - self.instruments[symbol].price_exp)
            return (told + unit // 2) // unit
        bid, _, ask, _ = self.touch(symbol)
        return (bid + ask) // 2 if bid and ask else 0

    def pause(self, duration_ns: int) -> None:
        """Trading was halted for a time: what was recorded is not put off by it."""
