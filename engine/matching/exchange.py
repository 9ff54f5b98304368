"""The exchange behind the wire: one client account trading against the simulated market, in given time.

Everything that a client may ask for is kept here, in integers; the server only translates. What happens is reported
in order: `on_market` gets the book's events, `on_notice` what concerns the client's orders.
Choices where the real venue is not explicit: a market or IOC reduce-only order larger than the position trades the
position and the rest expires; resting reduce-only orders may together not exceed the position and expire when it
shrinks below them; orders of the account may trade with each other.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from engine.matching.account import (
    apply_fill,
    available,
    can_afford,
    initial_margin,
    new_account,
    unrealised,
)
from engine.matching.events import EventKind, Refusal
from engine.matching.market import SimulatedMarket
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.stage import as_bytes
from engine.units import MONEY_EXP, notional, parse_units

CLIENT = 1  # owner id of the account in the books
KEPT_ORDERS = 50_000  # finished orders that can still be asked for
KEPT_FILLS = 100_000


class OrderStatus(StrEnum):
    """Life of a client order, in the venue's words."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class OrderRefused(Exception):
    """The exchange does not take an order or a cancel; reason is a Refusal."""

    def __init__(self, reason: Refusal):
        super().__init__(reason.name)
        self.reason = reason


@dataclass(slots=True)
class ClientOrder:
    """One order of the account. Prices, sizes in the contract's units, money in 1e-8."""

    order_id: int
    client_id: str
    symbol: int
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    size: int
    reduce_only: bool
    time_ns: int
    update_ns: int
    executed: int = 0
    quote: int = 0  # sum of the notionals of its fills
    status: OrderStatus = OrderStatus.NEW

    @property
    def remaining(self) -> int:
        """Size that has not traded, size units."""
        return self.size - self.executed

    @property
    def is_open(self) -> bool:
        """Whether it rests in the book."""
        return self.status in (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class ClientFill:
    """One execution of a client order."""

    trade_id: int
    order_id: int
    client_id: str
    symbol: int
    side: Side
    price: int
    size: int
    quote: int  # notional, 1e-8
    fee: int  # 1e-8, paid
    realised: int  # 1e-8, without the fee
    maker: bool
    time_ns: int


@dataclass(frozen=True, slots=True)
class Notice:
    """One change of a client order, with the account as it was right after."""

    execution: str  # NEW, TRADE, CANCELED, EXPIRED
    order: ClientOrder  # a copy
    fill: ClientFill | None
    wallet: int
    position: int
    cost: int
    unrealised: int
    realised: int  # of this contract and account, accumulated
    bid_value: int  # notional of the open buy orders in this contract
    ask_value: int
    time_ns: int


class Exchange:
    """Market, account and orders of the embedded venue. Times are arguments; nothing here reads a clock."""

    def __init__(
        self,
        settings: VenueSettings,
        start_ns: int,
        on_market: Callable[[int, np.ndarray], None],
        on_notice: Callable[[Notice], None],
    ):
        self.settings = settings
        self.market = SimulatedMarket(settings, start_ns=start_ns)
        self.instruments = self.market.instruments
        self.account = new_account(
            parse_units(settings.starting_balance, MONEY_EXP),
            parse_units(settings.maker_fee, MONEY_EXP),
            parse_units(settings.taker_fee, MONEY_EXP),
            settings.leverage,
        )
        self.account_bytes = as_bytes(self.account)
        for item in self.instruments:
            self.account["unit_exp"][0, item.index] = item.price_exp + item.size_exp
        self.open: dict[int, ClientOrder] = {}  # by order id
        self.finished: OrderedDict[int, ClientOrder] = OrderedDict()
        self.fills: deque[ClientFill] = deque(maxlen=KEPT_FILLS)
        self.now_ns = start_ns
        self._by_client_id: dict[tuple[int, str], int] = {}
        self._contract_realised = [0] * len(self.instruments)
        self._on_market = on_market
        self._on_notice = on_notice
        self._update_marks()

    # time

    def advance(self, now_ns: int) -> None:
        """Let the flow run to a time and book what it did to the client's orders."""
        self.now_ns = max(self.now_ns, now_ns)
        for symbol in range(len(self.instruments)):
            reached = False
            while not reached:
                events, reached = self.market.step(symbol, self.now_ns)
                self._absorb(symbol, events)
        self._update_marks()

    def _update_marks(self) -> None:
        for symbol in range(len(self.instruments)):
            bid, _, ask, _ = self.market.touch(symbol)
            if bid and ask:
                self.account["mark"][0, symbol] = (bid + ask) // 2

    # orders

    def submit(
        self, symbol: int, client_id: str, side: Side, order_type: OrderType, time_in_force: TimeInForce, price: int,
        size: int, reduce_only: bool, time_ns: int,
    ) -> ClientOrder:
        """Take a new order. Raises OrderRefused; then it never existed."""
        self.advance(time_ns)
        takes_only = order_type == OrderType.MARKET or time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
        matched = self._checked_size(symbol, client_id, side, price, size, reduce_only, takes_only)
        events = self.market.submit(
            symbol, CLIENT, side, order_type, time_in_force, price, matched, self.now_ns
        ).copy()
        if events[0]["kind"] == EventKind.REJECTED:
            raise OrderRefused(Refusal(int(events[0]["reason"])))
        order = ClientOrder(
            int(events[0]["order_id"]), client_id, symbol, side, order_type, time_in_force, price, size, reduce_only,
            self.now_ns, self.now_ns,
        )
        self.open[order.order_id] = order
        self._by_client_id[symbol, client_id] = order.order_id
        if not takes_only:
            self._reserve(order, matched)
        self._notify("NEW", order, None)
        self._absorb(symbol, events)
        if order.is_open and takes_only:
            self._finish(order, OrderStatus.EXPIRED)
        self._update_marks()
        return order

    def _checked_size(
        self, symbol: int, client_id: str, side: Side, price: int, size: int, reduce_only: bool, takes_only: bool
    ) -> int:
        """The size to match after the checks of the account. Raises OrderRefused."""
        mine = [order for order in self.open.values() if order.symbol == symbol]
        if any(order.client_id == client_id for order in mine):
            raise OrderRefused(Refusal.DUPLICATE_CLIENT_ID)
        if len(mine) >= self.settings.max_open_orders:
            raise OrderRefused(Refusal.TOO_MANY_ORDERS)
        instrument = self.instruments[symbol]
        reference = price or int(self.account["mark"][0, symbol])
        value = notional(reference, size, instrument.price_exp + instrument.size_exp)
        if reduce_only:
            reducible = max(0, -int(side) * int(self.account["position"][0, symbol]))
            resting = sum(order.remaining for order in mine if order.reduce_only and order.side == side)
            if reducible == 0 or (not takes_only and resting + size > reducible):
                raise OrderRefused(Refusal.REDUCE_ONLY)
            return min(size, reducible)
        if value < instrument.min_notional:
            raise OrderRefused(Refusal.MIN_NOTIONAL)
        if not can_afford(self.account_bytes, symbol, int(side), reference, size):
            raise OrderRefused(Refusal.INSUFFICIENT_MARGIN)
        return size

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

    # the account

    def set_leverage(self, symbol: int, leverage: int) -> None:
        """Leverage of a contract from now on."""
        self.account["leverage"][0, symbol] = leverage

    def wallet(self) -> int:
        """Wallet balance, 1e-8 quote."""
        return int(self.account["wallet"][0])

    def available(self) -> int:
        """Margin that is free, 1e-8."""
        return int(available(self.account_bytes))

    def position(self, symbol: int) -> int:
        """Signed position, size units."""
        return int(self.account["position"][0, symbol])

    def cost(self, symbol: int) -> int:
        """What the position was opened for, 1e-8 quote."""
        return int(self.account["cost"][0, symbol])

    def unrealised(self, symbol: int) -> int:
        """Unrealised profit at mark price, 1e-8 quote."""
        return int(unrealised(self.account_bytes, symbol))

    def initial_margin(self, symbol: int) -> int:
        """Initial margin of position and open orders, 1e-8 quote."""
        return int(initial_margin(self.account_bytes, symbol))

    def contract_realised(self, symbol: int) -> int:
        """Realised profit of one contract without fees, 1e-8."""
        return self._contract_realised[symbol]

    def fee_rates(self) -> tuple[int, int]:
        """(maker, taker) in 1e-8."""
        return int(self.account["maker_rate"][0]), int(self.account["taker_rate"][0])

    # what the book says

    def _absorb(self, symbol: int, events: np.ndarray) -> None:
        """Pass events of a book on, then book the client's fills among them."""
        if len(events) == 0:
            return
        self._on_market(symbol, events)
        client = (events["kind"] == EventKind.FILL) & ((events["owner"] != 0) | (events["maker_owner"] != 0))
        if not client.any():
            return
        for event in events[client].copy():
            for owner, order_id, maker in (
                (event["owner"], event["order_id"], False), (event["maker_owner"], event["maker_order_id"], True)
            ):
                if owner == CLIENT:
                    side = Side(int(event["side"])) if not maker else Side(-int(event["side"]))
                    self._book_fill(
                        self.open[int(order_id)], side, int(event["price"]), int(event["size"]),
                        int(event["trade_id"]), maker, int(event["time_ns"]),
                    )
        self._trim_reduce_only(symbol)

    def _book_fill(
        self, order: ClientOrder, side: Side, price: int, size: int, trade_id: int, maker: bool, time_ns: int
    ) -> None:
        """One execution: account, order, record, notice."""
        symbol = order.symbol
        instrument = self.instruments[symbol]
        realised = int(apply_fill(self.account_bytes, symbol, int(side), price, size, int(maker)))
        self._contract_realised[symbol] += realised
        value = int(notional(price, size, instrument.price_exp + instrument.size_exp))
        order.executed += size
        order.quote += value
        order.update_ns = time_ns
        order.status = OrderStatus.FILLED if order.remaining == 0 else OrderStatus.PARTIALLY_FILLED
        if order.order_type == OrderType.LIMIT and order.time_in_force in (TimeInForce.GTC, TimeInForce.GTX):
            self._reserve(order, -size)
        fill = ClientFill(
            trade_id, order.order_id, order.client_id, symbol, side, price, size, value,
            int(self.account["last_fee"][0]), realised, maker, time_ns,
        )
        self.fills.append(fill)
        if not order.is_open:
            self._retire(order)
        self._notify("TRADE", order, fill)

    def _trim_reduce_only(self, symbol: int) -> None:
        """Expire resting reduce-only orders that are larger than the position they would reduce."""
        for order in [item for item in self.open.values() if item.symbol == symbol and item.reduce_only]:
            resting = order.order_type == OrderType.LIMIT and order.time_in_force in (
                TimeInForce.GTC, TimeInForce.GTX
            )
            if resting and order.remaining > max(0, -int(order.side) * self.position(symbol)):
                self._take_off(order, OrderStatus.EXPIRED)

    def _take_off(self, order: ClientOrder, status: OrderStatus) -> None:
        """Remove a resting order from its book and end it."""
        events = self.market.cancel(order.symbol, CLIENT, order.order_id, self.now_ns)
        self._on_market(order.symbol, events)
        self._reserve(order, -order.remaining)
        self._finish(order, status)
        self._update_marks()

    def _reserve(self, order: ClientOrder, size: int) -> None:
        """Add to (or, negative, take from) the notional of the open orders that need margin."""
        if not order.reduce_only:
            instrument = self.instruments[order.symbol]
            value = notional(order.price, size, instrument.price_exp + instrument.size_exp)
            self.account["open_buy" if order.side == Side.BUY else "open_sell"][0, order.symbol] += value

    def _finish(self, order: ClientOrder, status: OrderStatus) -> None:
        order.status = status
        order.update_ns = self.now_ns
        self._retire(order)
        self._notify(status.value, order, None)

    def _retire(self, order: ClientOrder) -> None:
        """Move an order from the open to the finished ones, and forget the oldest of those."""
        del self.open[order.order_id]
        self.finished[order.order_id] = order
        if len(self.finished) > KEPT_ORDERS:
            _, oldest = self.finished.popitem(last=False)
            key = (oldest.symbol, oldest.client_id)
            if self._by_client_id.get(key) == oldest.order_id:
                del self._by_client_id[key]

    def _notify(self, execution: str, order: ClientOrder, fill: ClientFill | None) -> None:
        symbol = order.symbol
        self._on_notice(Notice(
            execution, dataclasses.replace(order), fill, self.wallet(), self.position(symbol), self.cost(symbol),
            self.unrealised(symbol), self._contract_realised[symbol], int(self.account["open_buy"][0, symbol]),
            int(self.account["open_sell"][0, symbol]), order.update_ns,
        ))
