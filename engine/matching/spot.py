"""The exchange as a spot market: one client account that swaps assets with the simulated market, in given time.

What all markets have in common is in desk.py. The rules of spot: no margin, no leverage, no position. An order sets
aside what it may give away, base to sell and quote to buy, and is refused where so much is not free; a fee is taken
from what is received.
Invariants: those of balances.py; an order that is open holds exactly what it may still have to pay (`locked`): its
value at its own price; a market order to buy holds the value that was given, or what the book asked for when it came.
Choices where the real venue is not explicit: a market order with a value instead of a size takes the largest size, in
whole lots, that is worth no more; the mark price of the flow is the venue's reference price. A fill-or-kill order is
matched without self-trade prevention, as in commands.py.
Source: Binance spot, "New order", "MARKET orders" and "STP" of its questions and answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from engine.matching.account import MAKER
from engine.matching.balances import Balances
from engine.matching.book import MAX_LEVELS, levels
from engine.matching.desk import OrderDesk
from engine.matching.events import Refusal, SelfTrade
from engine.matching.market import SimulatedMarket
from engine.matching.orders import ClientFill, ClientOrder, Execution, OrderRefused, SpotNotice
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import MONEY_EXP


class SpotExchange(OrderDesk):
    """Market, balances and orders of the spot market. Raises ValueError for settings that make none."""

    market: SimulatedMarket

    def __init__(
        self,
        settings: VenueSettings,
        start_ns: int,
        on_market: Callable[[int, np.ndarray], None],
        on_notice: Callable[[SpotNotice], None],
    ):
        super().__init__(settings, start_ns, SimulatedMarket(settings, start_ns=start_ns), on_market, on_notice)
        self.balances = Balances(settings.holdings())
        self._maker_rate, self._taker_rate = settings.fee_rates()

    def advance(self, now_ns: int) -> None:
        """See OrderDesk."""
        self._run_market(max(self.now_ns, now_ns))

    def mark(self, symbol: int) -> int:
        """The reference price, price units."""
        return self.market.mark_price(symbol)

    def fee_rates(self) -> tuple[int, int]:
        """See OrderDesk."""
        return self._maker_rate, self._taker_rate

    # amounts

    def amount_of(self, symbol: int, size: int) -> int:
        """A size in 1e-8 of the base asset."""
        return size * int(10 ** (MONEY_EXP - self.instruments[symbol].size_exp))

    def gives(self, order: ClientOrder) -> str:
        """The asset that an order gives away."""
        item = self.instruments[order.symbol]
        return item.quote if order.side == Side.BUY else item.base

    def receives(self, order: ClientOrder) -> str:
        """The asset that an order gets, less the fee."""
        item = self.instruments[order.symbol]
        return item.base if order.side == Side.BUY else item.quote

    # orders

    def submit(
        self, symbol: int, client_id: str, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, time_ns: int, self_trade: SelfTrade = SelfTrade.NONE, quote_wanted: int = 0,
    ) -> ClientOrder:
        """Take a new order. Raises OrderRefused; then it never existed.

        quote_wanted: of a market order without a size, the value to trade, 1e-8 quote.
        """
        self.advance(time_ns)
        if self.halted:
            raise OrderRefused(Refusal.HALTED)
        self._check_room(symbol, client_id)
        value = quote_wanted or self.value_of(symbol, price or self.mark(symbol), size)
        if value < self.instruments[symbol].min_notional:
            raise OrderRefused(Refusal.MIN_NOTIONAL)
        if quote_wanted:
            size = self._size_worth(symbol, side, quote_wanted, self_trade)
        order = ClientOrder(
            0, client_id, symbol, side, order_type, time_in_force, price, size, False, self.now_ns, self.now_ns,
            self_trade, quote_wanted=quote_wanted,
        )
        order.locked = self._most_to_pay(order)
        self.balances.lock(self.gives(order), order.locked)
        try:
            self._enter(order)
        except OrderRefused:
            self._release(order)
            raise
        return order

    def _enter(self, order: ClientOrder) -> None:
        """Give an order to the book that holds what it needs. Raises OrderRefused."""
        try:
            events = self._match(
                order.symbol, order.side, order.order_type, order.time_in_force, order.price, order.size,
                order.self_trade,
            )
            order.order_id = int(events[0]["order_id"])
        except OrderRefused as refusal:
            if refusal.reason != Refusal.CANNOT_FILL:
                raise
            events = None  # fill or kill: it is taken, and ends at once
            order.order_id = self.market.take_order_id(order.symbol)
        self._register(order)
        self._notify(Execution.NEW, order, None)
        if events is None:
            self._expire(order, Refusal.CANNOT_FILL)
        else:
            self._absorb(order.symbol, events)

    def _offers(self, symbol: int, side: Side, self_trade: SelfTrade) -> Iterator[tuple[int, int]]:
        """(price, size) that an order of a side may take, best first, as far as self-trade prevention lets it."""
        own: Counter[int] = Counter()
        if self_trade != SelfTrade.NONE:
            for order in self.open.values():
                if order.symbol == symbol and order.side != side:
                    own[order.price] += order.remaining
        opposite = Side.SELL if side == Side.BUY else Side.BUY
        for price, size in levels(self.market.books[symbol], opposite, MAX_LEVELS):
            yield price, size - own[price]
            if own[price] and self_trade != SelfTrade.EXPIRE_MAKER:
                return

    def _size_worth(self, symbol: int, side: Side, value: int, self_trade: SelfTrade) -> int:
        """The largest size in lots that trades for a value (1e-8 quote) at the most. Raises OrderRefused."""
        item = self.instruments[symbol]
        units = 10 ** (item.price_exp + item.size_exp)
        size, left, offered = 0, value * units, 0
        for price, available in self._offers(symbol, side, self_trade):
            offered += available
            taken = min(available, left // (price * 10**MONEY_EXP))
            size += taken
            left -= taken * price * 10**MONEY_EXP
            if taken < available:
                break
        if offered < item.lot_size:
            raise OrderRefused(Refusal.NO_LIQUIDITY)
        if size < item.lot_size:
            raise OrderRefused(Refusal.BAD_SIZE)
        return size - size % item.lot_size

    def _most_to_pay(self, order: ClientOrder) -> int:
        """The most that an order, not in the book yet, may have to give away."""
        if order.side == Side.SELL:
            return self.amount_of(order.symbol, order.size)
        if order.order_type == OrderType.LIMIT:
            return self.value_of(order.symbol, order.price, order.size)
        if order.quote_wanted:
            return order.quote_wanted
        cost, left = 0, order.size
        for price, available in self._offers(order.symbol, order.side, order.self_trade):
            cost += self.value_of(order.symbol, price, min(left, available))
            left -= min(left, available)
        return cost

    def _still_to_pay(self, order: ClientOrder) -> int:
        """The most that an order that has traded may still have to give away."""
        if order.side == Side.SELL:
            return self.amount_of(order.symbol, order.remaining)
        if order.order_type == OrderType.LIMIT:
            return self.value_of(order.symbol, order.price, order.remaining)
        return order.locked if order.remaining else 0

    # what the book says

    def _settle(
        self, order: ClientOrder, price: int, size: int, value: int, trade_id: int, fee_kind: int, time_ns: int
    ) -> tuple[int, int]:
        amount = self.amount_of(order.symbol, size)
        paid, received = (value, amount) if order.side == Side.BUY else (amount, value)
        self.balances.pay(self.gives(order), paid)
        order.locked -= paid
        rate = self._maker_rate if fee_kind == MAKER else self._taker_rate
        fee = self.balances.receive(self.receives(order), received, rate)
        needed = self._still_to_pay(order)
        self.balances.release(self.gives(order), order.locked - needed)
        order.locked = needed
        return 0, fee

    def _settle_other(self, owner: int, symbol: int, side: int, price: int, size: int, fee_kind: int) -> None:
        item = self.instruments[symbol]
        self.balances.crowd[item.base] += side * self.amount_of(symbol, size)
        self.balances.crowd[item.quote] -= side * self.value_of(symbol, price, size)

    def _release(self, order: ClientOrder) -> None:
        self.balances.release(self.gives(order), order.locked)
        order.locked = 0

    def _notice(self, execution: Execution, order: ClientOrder, fill: ClientFill | None) -> SpotNotice:
        item = self.instruments[order.symbol]
        held = tuple((name, self.balances.free[name], self.balances.locked[name]) for name in (item.base, item.quote))
        return SpotNotice(execution, order, fill, order.update_ns, held)
