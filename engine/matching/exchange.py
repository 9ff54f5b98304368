"""The exchange as a futures market: one client account trading against the simulated market, in given time.

What all markets have in common is in desk.py; here are the rules of futures: margin, reduce-only orders, amendments,
funding, liquidation. `on_wallet` is told what concerns the wallet alone. Clearing (clearing.py) keeps the accounts;
liquidation.py closes what has no margin left.
Choices where the real venue is not explicit: a market or IOC reduce-only order larger than the position trades the
position and the rest expires; resting reduce-only orders may together not exceed the position, and where it shrinks
the ones that would trade first stay, the one that no longer fits whole is reduced and those behind it expire.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.instruments import Instrument
from engine.matching import liquidation
from engine.matching.account import available, can_afford, initial_margin
from engine.matching.clearing import CLIENT, INSURANCE, Clearing
from engine.matching.desk import OrderDesk
from engine.matching.events import EventKind, Refusal, SelfTrade
from engine.matching.margin import largest_notional
from engine.matching.market import Market, SimulatedMarket
from engine.matching.orders import (
    ClientFill,
    ClientOrder,
    Execution,
    Income,
    Notice,
    OrderRefused,
    OrderStatus,
    WalletChange,
)
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import notional

MOST_AMENDMENTS = 10_000  # of one order


def _ignore(_: WalletChange) -> None:
    """Nobody wants to know."""


class Exchange(OrderDesk):
    """Market, account and orders of the futures market."""

    def __init__(
        self,
        settings: VenueSettings,
        start_ns: int,
        on_market: Callable[[int, np.ndarray], None],
        on_notice: Callable[[Notice], None],
        on_wallet: Callable[[WalletChange], None] = _ignore,
        market: Market | None = None,
    ):
        """market: what is traded against, by default the simulated one of these settings."""
        market = market or SimulatedMarket(settings, start_ns=start_ns)
        super().__init__(settings, start_ns, market, on_market, on_notice)
        self.start_ns = start_ns
        self.clearing = Clearing(settings, self.instruments, start_ns)
        self.account = self.clearing.client  # ACCOUNT of the client
        self.on_wallet = on_wallet
        self.warned = False  # a margin call is out
        self._contract_realised = [0] * len(self.instruments)
        self._update_marks()

    def relist(self, settings: VenueSettings, instrument: Instrument) -> None:
        """See OrderDesk."""
        super().relist(settings, instrument)
        self.clearing.instruments = self.instruments

    # time

    def advance(self, now_ns: int) -> None:
        """Let the flow run to a time, book what it did to the client's orders, settle and liquidate what is due."""
        now_ns = max(self.now_ns, now_ns)
        while self.clearing.funding_due_ns <= now_ns:
            self._run(max(self.now_ns, self.clearing.funding_due_ns))
            for symbol, change in self.clearing.settle_funding():
                self.on_wallet(WalletChange(Income.FUNDING_FEE, symbol, change, self.wallet(), self.now_ns))
        self._run(now_ns)

    def _run(self, now_ns: int) -> None:
        self._run_market(now_ns)
        self._update_marks()
        if not self.halted:
            liquidation.protect(self)
            self._unwind_insurance()

    def _update_marks(self) -> None:
        for symbol in range(len(self.instruments)):
            self.clearing.set_mark(symbol, self.market.mark_price(symbol))

    # orders

    def submit(
        self, symbol: int, client_id: str, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, reduce_only: bool, time_ns: int, self_trade: SelfTrade = SelfTrade.NONE,
    ) -> ClientOrder:
        """Take a new order. Raises OrderRefused; then it never existed."""
        self.advance(time_ns)
        if self.halted:
            raise OrderRefused(Refusal.HALTED)
        takes_only = order_type == OrderType.MARKET or time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
        matched = self._checked_size(symbol, client_id, side, price, size, reduce_only, takes_only)
        return self.enter(
            symbol, client_id, side, order_type, time_in_force, price, size, matched, reduce_only, self_trade
        )

    def enter(
        self, symbol: int, client_id: str, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, matched: int, reduce_only: bool, self_trade: SelfTrade = SelfTrade.NONE, forced: bool = False,
    ) -> ClientOrder:
        """Give an order that the account allows to the book, `matched` of its size. Raises OrderRefused."""
        events = self._match(symbol, side, order_type, time_in_force, price, matched, self_trade)
        order = ClientOrder(
            int(events[0]["order_id"]), client_id, symbol, side, order_type, time_in_force, price, size, reduce_only,
            self.now_ns, self.now_ns, self_trade, forced,
        )
        self._register(order)
        if order.may_rest:
            self._reserve(order, matched)
        self._notify(Execution.NEW, order, None)
        self._absorb(symbol, events)
        if order.is_open and not order.may_rest and not forced:  # reduce-only, larger than the position
            self._finish(order, OrderStatus.EXPIRED)
        self._update_marks()
        return order

    def _checked_size(
        self, symbol: int, client_id: str, side: Side, price: int, size: int, reduce_only: bool, takes_only: bool
    ) -> int:
        """The size to match after the checks of the account. Raises OrderRefused."""
        self._check_room(symbol, client_id)
        if reduce_only:
            reducible = max(0, -int(side) * self.position(symbol))
            if reducible == 0 or (not takes_only and self._reducing(symbol, side) + size > reducible):
                raise OrderRefused(Refusal.REDUCE_ONLY)
            return min(size, reducible)
        self._check_value(symbol, side, price or self.clearing.mark(symbol), size)
        return size

    def _reducing(self, symbol: int, side: Side) -> int:
        """Size of the resting reduce-only orders of a side."""
        return sum(
            order.remaining for order in self.open.values()
            if order.symbol == symbol and order.reduce_only and order.side == side
        )

    def _check_value(self, symbol: int, side: Side, price: int, size: int) -> None:
        """Raises OrderRefused where an order that may open a position is too small or too large."""
        value = self.value_of(symbol, price, size)
        if value < self.instruments[symbol].min_notional:
            raise OrderRefused(Refusal.MIN_NOTIONAL)
        held = int(side) * self.clearing.value(symbol) * (1 if self.position(symbol) >= 0 else -1)
        waiting = int(self.account["open_buy" if side == Side.BUY else "open_sell"][0, symbol])
        if held + waiting + value > max(largest_notional(int(self.account["leverage"][0, symbol])), -held):
            raise OrderRefused(Refusal.BEYOND_LEVERAGE)
        if not can_afford(self.clearing.client_bytes, symbol, int(side), price, size):
            raise OrderRefused(Refusal.INSUFFICIENT_MARGIN)

    def amend(
        self, symbol: int, order_id: int, side: Side, price: int, size: int, time_ns: int
    ) -> ClientOrder:
        """Give an open order a new price and a new whole size; it keeps its ids.

        A size that is traded already cancels the order, as does a price at which a post-only order would take. Raises
        OrderRefused; then the order stays as it was.
        """
        self.advance(time_ns)
        order = self.open.get(order_id)
        if order is None or order.symbol != symbol:
            raise OrderRefused(Refusal.UNKNOWN_ORDER)
        if self.halted:
            raise OrderRefused(Refusal.HALTED)
        if order.side != side:
            raise OrderRefused(Refusal.WRONG_SIDE)
        if (price, size) == (order.price, order.size):
            raise OrderRefused(Refusal.NO_CHANGE)
        if order.amendments >= MOST_AMENDMENTS:
            raise OrderRefused(Refusal.TOO_MANY_AMENDMENTS)
        if size <= order.executed:
            self._take_off(order, OrderStatus.CANCELED)
            return order
        left = size - order.executed
        if order.reduce_only and self._reducing(symbol, side) - order.remaining + left > -int(side) * self.position(
            symbol
        ):
            raise OrderRefused(Refusal.REDUCE_ONLY)
        self._reserve(order, -order.remaining)
        try:
            if not order.reduce_only:
                self._check_value(symbol, side, price, left)
            post_only = order.time_in_force == TimeInForce.GTX
            events = self.market.amend(
                symbol, CLIENT, order_id, price, left, post_only, self.now_ns, order.self_trade
            ).copy()
            if events[0]["kind"] == EventKind.REJECTED:
                raise OrderRefused(Refusal(int(events[0]["reason"])))
        except OrderRefused:
            self._reserve(order, order.remaining)
            raise
        if events[0]["kind"] == EventKind.CANCELLED:
            self._on_market(symbol, events)
            self._finish(order, OrderStatus.CANCELED)
        else:
            self._amended(order, price, size, events)
        self._update_marks()
        return order

    def _amended(self, order: ClientOrder, price: int, size: int, events: np.ndarray) -> None:
        """Note new terms, whose margin is not reserved yet, and what the book did with them."""
        order.price, order.size = price, size
        order.amendments += 1
        order.update_ns = self.now_ns
        self._reserve(order, order.remaining)
        self._notify(Execution.AMENDMENT, order, None)
        self._absorb(order.symbol, events)

    # the account

    def set_leverage(self, symbol: int, leverage: int) -> None:
        """Raises OrderRefused(BEYOND_LEVERAGE) where the position is larger than the new leverage allows."""
        if self.clearing.value(symbol) > largest_notional(leverage):
            raise OrderRefused(Refusal.BEYOND_LEVERAGE)
        self.account["leverage"][0, symbol] = leverage

    def mark(self, symbol: int) -> int:
        """Mark price, price units."""
        return self.clearing.mark(symbol)

    def wallet(self) -> int:
        """Wallet balance, 1e-8 quote."""
        return int(self.account["wallet"][0])

    def available(self) -> int:
        """Margin that is free, 1e-8."""
        return int(available(self.clearing.client_bytes))

    def position(self, symbol: int) -> int:
        """Signed position, size units."""
        return self.clearing.position(symbol)

    def cost(self, symbol: int) -> int:
        """What the position was opened for, 1e-8 quote."""
        return int(self.account["cost"][0, symbol])

    def unrealised(self, symbol: int) -> int:
        """Unrealised profit at mark price, 1e-8 quote."""
        return self.clearing.unrealised(symbol)

    def initial_margin(self, symbol: int) -> int:
        """Initial margin of position and open orders, 1e-8 quote."""
        return int(initial_margin(self.clearing.client_bytes, symbol))

    def contract_realised(self, symbol: int) -> int:
        """Realised profit of one contract without fees, 1e-8."""
        return self._contract_realised[symbol]

    def fee_rates(self) -> tuple[int, int]:
        """(maker, taker) in 1e-8."""
        return int(self.account["maker_rate"][0]), int(self.account["taker_rate"][0])

    # what the book says

    def _absorb(self, symbol: int, events: np.ndarray) -> bool:
        concerned = super()._absorb(symbol, events)
        if concerned:
            self._trim_reduce_only(symbol)
        return concerned

    def _settle(
        self, order: ClientOrder, price: int, size: int, value: int, trade_id: int, fee_kind: int, time_ns: int
    ) -> tuple[int, int]:
        symbol = order.symbol
        realised, fee = self.clearing.fill(CLIENT, symbol, int(order.side), price, size, fee_kind)
        self._contract_realised[symbol] += realised
        self.clearing.note_income(Income.REALIZED_PNL, symbol, realised, time_ns, trade_id)
        self.clearing.note_income(Income.COMMISSION, symbol, -fee, time_ns, trade_id)
        if order.may_rest:
            self._reserve(order, -size)
        return realised, fee

    def _settle_other(self, owner: int, symbol: int, side: int, price: int, size: int, fee_kind: int) -> None:
        self.clearing.fill(owner, symbol, side, price, size, fee_kind)

    def _expire(self, order: ClientOrder, reason: int) -> None:
        if not order.forced:  # a liquidation order lives on: the insurance fund takes what is left
            super()._expire(order, reason)

    def _release(self, order: ClientOrder) -> None:
        if order.may_rest:
            self._reserve(order, -order.remaining)

    def _trim_reduce_only(self, symbol: int) -> None:
        """Cut resting reduce-only orders down to the position that they would reduce, best price and oldest first."""
        position = self.position(symbol)
        mine = [
            order for order in self.open.values()
            if order.symbol == symbol and order.reduce_only and order.may_rest
        ]
        for side in (Side.BUY, Side.SELL):
            room = max(0, -int(side) * position)
            for order in sorted(
                (order for order in mine if order.side == side),
                key=lambda order: (-int(order.side) * order.price, order.order_id),
            ):
                if room == 0:
                    self._take_off(order, OrderStatus.EXPIRED)
                elif order.remaining > room:
                    events = self.market.amend(
                        symbol, CLIENT, order.order_id, order.price, room, False, self.now_ns
                    ).copy()
                    self._amended(order, order.price, order.executed + room, events)
                room = max(0, room - order.remaining) if order.is_open else room

    def _unwind_insurance(self) -> None:
        """Let the insurance fund sell what it took over, as much as the book takes."""
        for symbol in range(len(self.instruments)):
            position = self.clearing.position(symbol, INSURANCE)
            if position:
                side = Side.SELL if position > 0 else Side.BUY
                events = self.market.submit(
                    symbol, INSURANCE, side, OrderType.MARKET, TimeInForce.IOC, 0, abs(position), self.now_ns
                ).copy()
                self._absorb(symbol, events)
                self._update_marks()

    def _take_off(self, order: ClientOrder, status: OrderStatus) -> None:
        super()._take_off(order, status)
        self._update_marks()

    def _reserve(self, order: ClientOrder, size: int) -> None:
        """Add to (or, negative, take from) the notional of the open orders that need margin."""
        if not order.reduce_only:
            instrument = self.instruments[order.symbol]
            value = notional(order.price, size, instrument.price_exp + instrument.size_exp)
            self.account["open_buy" if order.side == Side.BUY else "open_sell"][0, order.symbol] += value

    def _notice(self, execution: Execution, order: ClientOrder, fill: ClientFill | None) -> Notice:
        symbol = order.symbol
        return Notice(
            execution, order, fill, order.update_ns, self.wallet(), self.position(symbol), self.cost(symbol),
            self.unrealised(symbol), self._contract_realised[symbol], int(self.account["open_buy"][0, symbol]),
            int(self.account["open_sell"][0, symbol]),
        )
