"""The order desk behind the wire: the client's orders against the simulated market, in given time.

What every market of the exchange has in common: orders by id and by the client's name, matching, what the books say
about them, halts. What an order costs, locks and earns is a matter of the account rules, which a subclass has: futures
in exchange.py, spot in spot.py. Everything is kept in integers; the server only translates. What happens is reported
in order: `on_market` gets the book's events, `on_notice` what concerns the client's orders.
Invariant: an order is in `open` exactly while it rests or matches; the remaining size there is what the book holds.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.instruments import Instrument
from engine.matching.account import MAKER, TAKER
from engine.matching.clearing import CLIENT
from engine.matching.events import EventKind, Refusal, SelfTrade
from engine.matching.market import Market
from engine.matching.orders import ClientFill, ClientOrder, Execution, OrderNotice, OrderRefused, OrderStatus
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import notional

KEPT_ORDERS = 50_000  # finished orders that can still be asked for
KEPT_FILLS = 100_000


class OrderDesk(ABC):
    """Market and orders of the embedded venue. Times are arguments; nothing here reads a clock."""

    def __init__(
        self, settings: VenueSettings, start_ns: int, market: Market, on_market: Callable[[int, np.ndarray], None],
        on_notice: Callable[[Any], None],
    ):
        self.settings = settings
        self.market = market
        self.instruments = self.market.instruments
        self.open: dict[int, ClientOrder] = {}  # by order id
        self.finished: OrderedDict[int, ClientOrder] = OrderedDict()
        self.fills: deque[ClientFill] = deque(maxlen=KEPT_FILLS)
        self.fill_count = 0
        self.now_ns = start_ns
        self._halted_ns = 0  # since when nobody trades; 0: the market is open
        self._by_client_id: dict[tuple[int, str], int] = {}
        self._on_market = on_market
        self._on_notice = on_notice

    def relist(self, settings: VenueSettings, instrument: Instrument) -> None:
        """List an instrument anew, by settings that differ in its terms alone; what rests keeps its price."""
        self.settings = settings
        self.instruments = tuple(instrument if item.index == instrument.index else item for item in self.instruments)

    # what the rules of an account say

    @abstractmethod
    def advance(self, now_ns: int) -> None:
        """Let the flow run to a time, book what it did to the client's orders and what is due by then."""

    @abstractmethod
    def mark(self, symbol: int) -> int:
        """The price that orders are held against, price units."""

    @abstractmethod
    def fee_rates(self) -> tuple[int, int]:
        """(maker, taker) in 1e-8."""

    @abstractmethod
    def _settle(
        self, order: ClientOrder, price: int, size: int, value: int, trade_id: int, fee_kind: int, time_ns: int
    ) -> tuple[int, int]:
        """Book one execution of the client, which the order has noted already; (realised profit, fee)."""

    @abstractmethod
    def _settle_other(self, owner: int, symbol: int, side: int, price: int, size: int, fee_kind: int) -> None:
        """Book one execution of somebody else."""

    @abstractmethod
    def _release(self, order: ClientOrder) -> None:
        """Give free what an order still holds that is about to end."""

    @abstractmethod
    def _notice(self, execution: Execution, order: ClientOrder, fill: ClientFill | None) -> OrderNotice:
        """What is told about an order, with the account as it is now."""

    # time

    def _run_market(self, now_ns: int) -> None:
        """Move to a time, with the flow unless the market is halted."""
        self.now_ns = now_ns
        if self.halted:
            return
        for symbol in range(len(self.instruments)):
            reached = False
            while not reached:
                events, reached = self.market.step(symbol, now_ns)
                self._absorb(symbol, events)

    def halt(self, now_ns: int) -> None:
        """Stop trading: no flow, no new orders, no amendments; cancels go on."""
        self.advance(now_ns)
        self._halted_ns = self._halted_ns or self.now_ns

    def resume(self, now_ns: int) -> None:
        """Open the market again; the flow goes on where it stopped."""
        if self._halted_ns:
            self.now_ns = max(self.now_ns, now_ns)
            self.market.pause(self.now_ns - self._halted_ns)
            self._halted_ns = 0

    @property
    def halted(self) -> bool:
        """Whether trading has stopped."""
        return self._halted_ns != 0

    # orders

    def _check_room(self, symbol: int, client_id: str) -> None:
        """Raises OrderRefused where the account may not have one more order of this name."""
        mine = [order for order in self.open.values() if order.symbol == symbol]
        if any(order.client_id == client_id for order in mine):
            raise OrderRefused(Refusal.DUPLICATE_CLIENT_ID)
        if len(mine) >= self.settings.max_open_orders:
            raise OrderRefused(Refusal.TOO_MANY_ORDERS)

    def _match(
        self, symbol: int, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int, size: int,
        self_trade: SelfTrade,
    ) -> np.ndarray:
        """Give an order to the book; its events. Raises OrderRefused; then it never existed."""
        events = self.market.submit(
            symbol, CLIENT, side, order_type, time_in_force, price, size, self.now_ns, self_trade
        ).copy()
        if events[0]["kind"] == EventKind.REJECTED:
            raise OrderRefused(Refusal(int(events[0]["reason"])))
        return events

    def _register(self, order: ClientOrder) -> None:
        """An order exists from here on."""
        self.open[order.order_id] = order
        self._by_client_id[order.symbol, order.client_id] = order.order_id

    def cancel(self, symbol: int, order_id: int, time_ns: int) -> ClientOrder:
        """Cancel one open order. Raises OrderRefused(UNKNOWN_ORDER), also where it was filled just now."""
        self.advance(time_ns)
        order = self.open.get(order_id)
        if order is None or order.symbol != symbol:
            raise OrderRefused(Refusal.UNKNOWN_ORDER)
        self._take_off(order, OrderStatus.CANCELED)
        return order

    def cancel_all(self, symbol: int, time_ns: int) -> list[ClientOrder]:
        """Cancel all open orders of one contract, oldest first."""
        self.advance(time_ns)
        return self.clear_orders(symbol)

    def clear_orders(self, symbol: int) -> list[ClientOrder]:
        """The same at the time that the exchange has."""
        mine = sorted((order for order in self.open.values() if order.symbol == symbol), key=lambda o: o.order_id)
        for order in mine:
            self._take_off(order, OrderStatus.CANCELED)
        return mine

    def find(self, symbol: int, order_id: int | None, client_id: str | None) -> ClientOrder | None:
        """An open or finished order by its id, else by its client id (the latest one that used it)."""
        if order_id is None and client_id is not None:
            order_id = self._by_client_id.get((symbol, client_id))
        if order_id is None:
            return None
        order = self.open.get(order_id) or self.finished.get(order_id)
        return order if order is not None and order.symbol == symbol else None

    # what the book says

    def _absorb(self, symbol: int, events: np.ndarray) -> bool:
        """Pass events of a book on, then book the fills of accounts among them and what expired of the client's.

        True where there were any.
        """
        if len(events) == 0:
            return False
        self._on_market(symbol, events)
        kinds, owners = events["kind"], events["owner"]
        ours = ((kinds == EventKind.FILL) & ((owners != 0) | (events["maker_owner"] != 0))) | (
            (kinds == EventKind.EXPIRED) & (owners == CLIENT)
        )
        if not ours.any():
            return False
        for event in events[ours].copy():
            if event["kind"] == EventKind.FILL:
                self._book_both(symbol, event)
            else:
                self._expire(self.open[int(event["order_id"])], int(event["reason"]))
        return True

    def _book_both(self, symbol: int, event: np.void) -> None:
        """One fill for its taker and for its maker."""
        price, size, side = int(event["price"]), int(event["size"]), int(event["side"])
        trade_id, time_ns = int(event["trade_id"]), int(event["time_ns"])
        for owner, order_id, own_side, fee_kind in (
            (int(event["owner"]), int(event["order_id"]), side, TAKER),
            (int(event["maker_owner"]), int(event["maker_order_id"]), -side, MAKER),
        ):
            if owner == CLIENT:
                self.book_fill(self.open[order_id], price, size, trade_id, fee_kind, time_ns)
            else:
                self._settle_other(owner, symbol, own_side, price, size, fee_kind)

    def value_of(self, symbol: int, price: int, size: int) -> int:
        """Notional, 1e-8 quote."""
        item = self.instruments[symbol]
        return int(notional(price, size, item.price_exp + item.size_exp))

    def book_fill(
        self, order: ClientOrder, price: int, size: int, trade_id: int, fee_kind: int, time_ns: int
    ) -> None:
        """One execution of the client: order, account, record, notice."""
        value = self.value_of(order.symbol, price, size)
        order.executed += size
        order.quote += value
        order.update_ns = time_ns
        order.status = OrderStatus.FILLED if order.remaining == 0 else OrderStatus.PARTIALLY_FILLED
        realised, fee = self._settle(order, price, size, value, trade_id, fee_kind, time_ns)
        fill = ClientFill(
            trade_id, order.order_id, order.client_id, order.symbol, order.side, price, size, value, fee, realised,
            fee_kind == MAKER, time_ns,
        )
        self.fills.append(fill)
        self.fill_count += 1
        if not order.is_open:
            self._retire(order)
        self._notify(Execution.CALCULATED if order.forced else Execution.TRADE, order, fill)

    def _expire(self, order: ClientOrder, reason: int) -> None:
        """The book has ended an order."""
        self._release(order)
        prevented = reason == Refusal.SELF_TRADE
        self._finish(order, OrderStatus.EXPIRED_IN_MATCH if prevented else OrderStatus.EXPIRED)

    def _take_off(self, order: ClientOrder, status: OrderStatus) -> None:
        """Remove a resting order from its book and end it."""
        events = self.market.cancel(order.symbol, CLIENT, order.order_id, self.now_ns)
        self._on_market(order.symbol, events)
        self._release(order)
        self._finish(order, status)

    def _finish(self, order: ClientOrder, status: OrderStatus) -> None:
        order.status = status
        order.update_ns = self.now_ns
        self._retire(order)
        self._notify(Execution.CANCELED if status == OrderStatus.CANCELED else Execution.EXPIRED, order, None)

    def _retire(self, order: ClientOrder) -> None:
        """Move an order from the open to the finished ones, and forget the oldest of those."""
        del self.open[order.order_id]
        self.finished[order.order_id] = order
        if len(self.finished) > KEPT_ORDERS:
            _, oldest = self.finished.popitem(last=False)
            key = (oldest.symbol, oldest.client_id)
            if self._by_client_id.get(key) == oldest.order_id:
                del self._by_client_id[key]

    def _notify(self, execution: Execution, order: ClientOrder, fill: ClientFill | None) -> None:
        self._on_notice(self._notice(execution, dataclasses.replace(order), fill))
