"""The account at the exchange in virtual time: what is reported, what is kept and what the book holds are one."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from engine.matching.book import MAX_ORDERS
from engine.matching.events import Refusal
from engine.matching.exchange import CLIENT, Exchange, Notice, OrderRefused, OrderStatus
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce

START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
ONE = Decimal(10**8)


class Session:
    """An exchange in virtual time with everything that it said."""

    def __init__(self, **settings) -> None:
        self.notices: list[Notice] = []
        self.market_events = 0
        self.exchange = Exchange(VenueSettings(**settings), START, self._market, self.notices.append)
        self.now_ns = START
        self._ids = 0

    def _market(self, symbol, events) -> None:
        self.market_events += len(events)

    def wait(self, milliseconds: int) -> None:
        self.now_ns += milliseconds * MILLISECOND
        self.exchange.advance(self.now_ns)

    def order(self, side, size, price=0, time_in_force=TimeInForce.GTC, reduce_only=False, symbol=0):
        self._ids += 1
        order_type = OrderType.LIMIT if price else OrderType.MARKET
        return self.exchange.submit(
            symbol, f"c{self._ids}", side, order_type, time_in_force, price, size, reduce_only, self.now_ns
        )

    def touch(self, symbol=0) -> tuple[int, int]:
        bid, _, ask, _ = self.exchange.market.touch(symbol)
        return bid, ask


def resting_in_book(exchange: Exchange, symbol: int) -> dict[int, int]:
    """Order id -> size left of the client's orders, as the book's pool has them."""
    book = exchange.market.books[symbol]
    slots = book["live"][0][: int(book["live_count"][0])]
    return {
        int(book["order_id"][0][slot]): int(book["order_remaining"][0][slot])
        for slot in slots if book["order_owner"][0][slot] == CLIENT
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_trader_is_booked_right(seed):
    choose = random.Random(seed)
    session = Session(seed=seed)
    exchange = session.exchange
    refused = 0
    for _ in range(400):
        session.wait(choose.choice([0, 5, 50, 200]))
        symbol = choose.choice([0, 1])
        side = choose.choice([Side.BUY, Side.SELL])
        bid, ask = session.touch(symbol)
        tick = exchange.instruments[symbol].tick_size
        size = choose.randint(2, 40) * (1 if symbol == 0 else 20)
        away = tick * choose.choice([0, 0, 1, 3, 40, 2000])
        price = bid - away if side == Side.BUY else ask + away
        action = choose.random()
        try:
            if action < 0.2:
                session.order(side, size, symbol=symbol, reduce_only=choose.random() < 0.3)
            elif action < 0.3:
                session.order(side, size, ask if side == Side.BUY else bid, TimeInForce.IOC, symbol=symbol)
            elif action < 0.75:
                session.order(side, size, price, choose.choice([TimeInForce.GTC, TimeInForce.GTX]),
                              choose.random() < 0.2, symbol)
            elif action < 0.95 and exchange.open:
                order = choose.choice(list(exchange.open.values()))
                exchange.cancel(order.symbol, order.order_id, session.now_ns)
            else:
                exchange.cancel_all(symbol, session.now_ns)
        except OrderRefused:
            refused += 1
        for index in (0, 1):
            mine = {order.order_id: order.remaining for order in exchange.open.values() if order.symbol == index}
            assert resting_in_book(exchange, index) == mine
            for name, which in (("open_buy", Side.BUY), ("open_sell", Side.SELL)):
                value = sum(
                    order.price * order.remaining * 1000 for order in exchange.open.values()
                    if order.symbol == index and order.side == which and not order.reduce_only
                )
                assert int(exchange.account[name][0, index]) == value
            for order in exchange.open.values():
                if order.reduce_only and order.symbol == index:
                    assert order.remaining <= -order.side * exchange.position(index)
    assert refused > 0 and session.market_events > 1000
    check_reports(session)


def check_reports(session: Session) -> None:
    """The notices alone tell the whole story: order lives, wallet, positions."""
    exchange = session.exchange
    wallet = Decimal(100_000)
    sizes = [0, 0]
    executed: dict[int, int] = {}
    ended: set[int] = set()
    makers = 0
    for notice in session.notices:
        order = notice.order
        assert order.order_id not in ended
        if notice.execution == "NEW":
            assert order.order_id not in executed
            executed[order.order_id] = 0
        elif notice.fill is not None:
            fill = notice.fill
            makers += fill.maker
            executed[order.order_id] += fill.size
            sizes[fill.symbol] += fill.side * fill.size
            rate = Decimal("0.0002") if fill.maker else Decimal("0.0005")
            notional = Decimal(fill.price) * fill.size / 10**5
            assert Decimal(fill.fee) == (notional * rate * ONE).to_integral_value(rounding="ROUND_DOWN")
            wallet += (Decimal(fill.realised) - fill.fee) / ONE
            assert (Decimal(notice.wallet) / ONE, notice.position) == (wallet, sizes[fill.symbol])
        assert executed[order.order_id] == order.executed
        if not order.is_open:
            ended.add(order.order_id)
    assert makers > 5
    assert [exchange.position(symbol) for symbol in (0, 1)] == sizes
    assert Decimal(exchange.wallet()) / ONE == wallet
    assert set(exchange.open) == set(executed) - ended
    assert len(exchange.fills) == int(exchange.account["fills"][0])


def test_order_ids_of_two_contracts_never_meet():
    session = Session()
    ids = [session.order(Side.BUY, 20 + 100 * symbol, symbol=symbol).order_id for _ in range(50) for symbol in (0, 1)]
    assert len(set(ids)) == 100
    assert {order_id % 16 for order_id in ids} == {0, 1}


def test_a_resting_reduce_only_order_never_turns_the_position():
    session = Session()
    session.order(Side.BUY, 30)
    _, ask = session.touch()
    session.order(Side.SELL, 20, ask, reduce_only=True)
    session.order(Side.SELL, 10, ask + 10, reduce_only=True)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.SELL, 1, ask + 20, reduce_only=True)
    assert refusal.value.reason == Refusal.REDUCE_ONLY
    for _ in range(3000):
        session.wait(10)
        assert session.exchange.position(0) >= 0
        if not session.exchange.open:
            break
    assert session.exchange.position(0) == 0


def test_an_order_may_meet_another_of_the_same_account():
    session = Session()
    bid, ask = session.touch()
    assert ask - bid > 0
    # somebody else takes all bids, so that ours is alone
    session.exchange.market.submit(0, 7, Side.SELL, OrderType.MARKET, TimeInForce.GTC, 0, 10**7, START)
    mine = session.order(Side.BUY, 50, bid)
    wallet = session.exchange.wallet()
    session.order(Side.SELL, 50, bid, TimeInForce.IOC)
    assert mine.status == OrderStatus.FILLED
    assert session.exchange.position(0) == 0
    notional = bid * 50 * 1000
    assert session.exchange.wallet() == wallet - notional * 2 // 10_000 - notional * 5 // 10_000


def test_finished_orders_can_still_be_asked_for():
    session = Session()
    order = session.order(Side.BUY, 20)
    assert session.exchange.find(0, order.order_id, None) is order
    assert session.exchange.find(0, None, order.client_id) is order
    assert session.exchange.find(1, order.order_id, None) is None
    assert session.exchange.find(0, None, "never") is None


def test_refusals_of_the_account():
    session = Session(max_open_orders=2)
    bid, _ = session.touch()
    for size, reason in ((1, Refusal.MIN_NOTIONAL), (10**6, Refusal.INSUFFICIENT_MARGIN)):
        with pytest.raises(OrderRefused) as refusal:
            session.order(Side.BUY, size, bid - 1000)
        assert refusal.value.reason == reason
    for _ in range(2):
        session.order(Side.BUY, 10, bid - 1000)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 10, bid - 1000)
    assert refusal.value.reason == Refusal.TOO_MANY_ORDERS
    assert len(resting_in_book(session.exchange, 0)) == 2 < MAX_ORDERS
