"""The account at the exchange in virtual time: what is reported, what is kept and what the book holds are one."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from engine.matching.book import MAX_ORDERS, levels
from engine.matching.clearing import CLIENT
from engine.matching.events import Refusal, SelfTrade
from engine.matching.exchange import Exchange
from engine.matching.orders import Execution, Notice, OrderRefused, OrderStatus, WalletChange
from engine.matching.settings import VenueSettings
from engine.records import OrderType, Side, TimeInForce

START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
ONE = Decimal(10**8)


class Session:
    """An exchange in virtual time with everything that it said."""

    def __init__(self, **settings) -> None:
        self.story: list[Notice | WalletChange] = []
        self.market_events = 0
        self.exchange = Exchange(
            VenueSettings(**settings), START, self._market, self.story.append, self.story.append
        )
        self.now_ns = START
        self._ids = 0

    def _market(self, symbol, events) -> None:
        self.market_events += len(events)

    def wait(self, milliseconds: int) -> None:
        self.now_ns += milliseconds * MILLISECOND
        self.exchange.advance(self.now_ns)

    def order(
        self, side, size, price=0, time_in_force=TimeInForce.GTC, reduce_only=False, symbol=0,
        self_trade=SelfTrade.NONE,
    ):
        self._ids += 1
        order_type = OrderType.LIMIT if price else OrderType.MARKET
        return self.exchange.submit(
            symbol, f"c{self._ids}", side, order_type, time_in_force, price, size, reduce_only, self.now_ns, self_trade
        )

    def amend(self, order, price, size):
        return self.exchange.amend(order.symbol, order.order_id, order.side, price, size, self.now_ns)

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
    """Orders, amendments and cancels at random while funding is settled every second."""
    choose = random.Random(seed)
    session = Session(seed=seed, funding_rate="0.0001", funding_interval_s=1)
    exchange = session.exchange
    worth = exchange.clearing.total()
    refused = amended = 0
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
                session.order(side, size, symbol=symbol, reduce_only=choose.random() < 0.3,
                              self_trade=choose.choice(list(SelfTrade)))
            elif action < 0.3:
                session.order(side, size, ask if side == Side.BUY else bid, TimeInForce.IOC, symbol=symbol)
            elif action < 0.75:
                session.order(side, size, price, choose.choice([TimeInForce.GTC, TimeInForce.GTX]),
                              choose.random() < 0.2, symbol, choose.choice(list(SelfTrade)))
            elif action < 0.85 and exchange.open:
                order = choose.choice(list(exchange.open.values()))
                session.amend(order, order.price + choose.choice([0, -1, 1, 30]) * tick * 3, choose.randint(1, 600))
                amended += 1
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
            for which in (Side.BUY, Side.SELL):
                reducing = sum(
                    order.remaining for order in exchange.open.values()
                    if order.reduce_only and order.symbol == index and order.side == which
                )
                assert reducing <= max(0, -which * exchange.position(index))
        assert exchange.clearing.total() == worth
    assert refused > 0 and amended > 10 and session.market_events > 1000
    check_reports(session)


def check_reports(session: Session) -> None:
    """What was told alone tells the whole story: order lives, wallet, positions."""
    exchange = session.exchange
    wallet = Decimal(100_000)
    sizes = [0, 0]
    executed: dict[int, int] = {}
    terms: dict[int, tuple[int, int]] = {}
    ended: set[int] = set()
    makers = settlements = 0
    for told in session.story:
        if isinstance(told, WalletChange):
            wallet += told.change / ONE
            settlements += 1
            assert Decimal(told.wallet) / ONE == wallet
            continue
        order = told.order
        assert order.order_id not in ended
        if told.execution == Execution.NEW:
            assert order.order_id not in executed
            executed[order.order_id] = 0
            terms[order.order_id] = order.price, order.size
        elif told.execution == Execution.AMENDMENT:
            assert terms[order.order_id] != (order.price, order.size)
            terms[order.order_id] = order.price, order.size
        elif told.fill is not None:
            fill = told.fill
            makers += fill.maker
            executed[order.order_id] += fill.size
            sizes[fill.symbol] += fill.side * fill.size
            rate = Decimal("0.0002") if fill.maker else Decimal("0.0005")
            notional = Decimal(fill.price) * fill.size / 10**5
            assert Decimal(fill.fee) == (notional * rate * ONE).to_integral_value(rounding="ROUND_DOWN")
            wallet += (Decimal(fill.realised) - fill.fee) / ONE
            assert (Decimal(told.wallet) / ONE, told.position) == (wallet, sizes[fill.symbol])
        assert terms[order.order_id] == (order.price, order.size)
        assert executed[order.order_id] == order.executed <= order.size
        if not order.is_open:
            ended.add(order.order_id)
    assert makers > 5 and settlements > 5
    assert [exchange.position(symbol) for symbol in (0, 1)] == sizes
    assert Decimal(exchange.wallet()) / ONE == wallet
    assert wallet == 100_000 + sum(Decimal(entry.amount) for entry in exchange.clearing.income) / ONE
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


def test_reduce_only_orders_shrink_with_the_position_the_best_priced_stay():
    session = Session()
    session.order(Side.BUY, 30)
    _, ask = session.touch()
    far = [session.order(Side.SELL, 10, ask + away, reduce_only=True) for away in (9000, 7000, 8000)]
    session.order(Side.SELL, 14)
    assert [order.status for order in far] == [OrderStatus.EXPIRED, OrderStatus.NEW, OrderStatus.NEW]
    assert [(order.size, order.remaining) for order in far[1:]] == [(10, 10), (6, 6)]
    assert resting_in_book(session.exchange, 0) == {far[1].order_id: 10, far[2].order_id: 6}
    session.order(Side.SELL, 16)
    assert session.exchange.position(0) == 0 and not session.exchange.open


def test_amendments():
    session = Session()
    bid, _ = session.touch()
    order = session.order(Side.BUY, 50, bid - 1000, TimeInForce.GTX)
    available = session.exchange.available()
    session.amend(order, bid - 1000, 40)
    assert (order.size, order.amendments, order.status) == (40, 1, OrderStatus.NEW)
    assert session.exchange.available() - available == 10 * (bid - 1000) * 1000 // 20
    for price, size, reason in (
        (bid - 1000, 40, Refusal.NO_CHANGE), (bid - 1000, 1, Refusal.MIN_NOTIONAL),
        (bid - 1000, 10**5, Refusal.INSUFFICIENT_MARGIN), (bid - 1000, 10**7, Refusal.BEYOND_LEVERAGE),
    ):
        with pytest.raises(OrderRefused) as refusal:
            session.amend(order, price, size)
        assert refusal.value.reason == reason
        assert resting_in_book(session.exchange, 0) == {order.order_id: 40}
    assert session.exchange.available() - available == 10 * (bid - 1000) * 1000 // 20
    session.amend(order, bid + 10_000, 40)  # post-only: would take, so it is cancelled
    assert order.status == OrderStatus.CANCELED and not session.exchange.open
    plain = session.order(Side.BUY, 50, bid - 1000)
    session.amend(plain, bid + 10_000, 60)
    assert plain.status == OrderStatus.FILLED and session.exchange.position(0) == 60
    with pytest.raises(OrderRefused):
        session.amend(plain, bid, 61)


def test_an_amendment_to_what_is_traded_already_cancels():
    session = Session()
    bid, _ = session.touch()
    for _ in range(200):
        order = session.order(Side.BUY, 50, bid)
        for _ in range(100):
            session.wait(10)
            if order.status != OrderStatus.NEW:
                break
        if order.status == OrderStatus.PARTIALLY_FILLED:
            break
        if order.is_open:
            session.exchange.cancel(0, order.order_id, session.now_ns)
        bid, _ = session.touch()
    assert order.status == OrderStatus.PARTIALLY_FILLED
    session.amend(order, order.price, order.executed)
    assert order.status == OrderStatus.CANCELED and not session.exchange.open


@pytest.mark.parametrize(
    ("mode", "resting", "taking"),
    [
        (SelfTrade.NONE, OrderStatus.FILLED, OrderStatus.FILLED),
        (SelfTrade.EXPIRE_TAKER, OrderStatus.NEW, OrderStatus.EXPIRED_IN_MATCH),
        (SelfTrade.EXPIRE_MAKER, OrderStatus.EXPIRED_IN_MATCH, OrderStatus.EXPIRED),
        (SelfTrade.EXPIRE_BOTH, OrderStatus.EXPIRED_IN_MATCH, OrderStatus.EXPIRED_IN_MATCH),
    ],
)
def test_self_trades_are_prevented_as_asked(mode, resting, taking):
    session = Session()
    bid, _ = session.touch()
    session.exchange.market.submit(0, 7, Side.SELL, OrderType.MARKET, TimeInForce.GTC, 0, 10**7, START)
    mine = session.order(Side.BUY, 50, bid)
    taker = session.order(Side.SELL, 50, bid, TimeInForce.IOC, self_trade=mode)
    assert (mine.status, taker.status) == (resting, taking)
    assert int(session.exchange.account["open_buy"][0, 0]) == (50 * bid * 1000 if mine.is_open else 0)


def test_funding_is_paid_to_the_last_unit():
    session = Session(funding_rate="0.0003", funding_interval_s=8)
    session.order(Side.BUY, 100)
    session.order(Side.SELL, 900, symbol=1)
    wallet = session.exchange.wallet()
    session.wait(20_000)
    changes = [told for told in session.story if isinstance(told, WalletChange)]
    grid = [told.time_ns // 10**9 % 8 for told in changes]
    assert START % (8 * 10**9) == 0 and len(changes) == 4 and grid == [0] * 4
    marks = {(rate.symbol, rate.time_ns): rate.mark for rate in session.exchange.clearing.rates}
    for told in changes:
        size = (100, -900)[told.symbol]
        value = marks[told.symbol, told.time_ns] * size * 1000
        assert told.change == -int(Decimal(value) * 3 / 10_000)
    assert session.exchange.wallet() == wallet + sum(told.change for told in changes)
    assert int(session.exchange.account["funding"][0]) == sum(told.change for told in changes)


def test_a_halt_stops_everything_but_cancels():
    session = Session()
    bid, _ = session.touch()
    order = session.order(Side.BUY, 50, bid - 1000)
    session.exchange.halt(session.now_ns)
    seen = session.market_events
    session.wait(5_000)
    for call in (lambda: session.order(Side.BUY, 50, bid), lambda: session.amend(order, bid, 50)):
        with pytest.raises(OrderRefused) as refusal:
            call()
        assert refusal.value.reason == Refusal.HALTED
    assert session.market_events == seen
    session.exchange.cancel(0, order.order_id, session.now_ns)
    session.exchange.resume(session.now_ns)
    session.wait(20)
    assert session.market_events - seen < 200  # no burst for the time that was halted
    session.wait(1_000)
    assert session.market_events - seen > 200


def test_the_mark_price_follows_the_market_but_not_a_swept_book():
    session = Session()
    for _ in range(300):
        session.wait(100)
        bid, ask = session.touch()
        assert abs(session.exchange.clearing.mark(0) - (bid + ask) / 2) < 500  # 50 ticks
    before = session.exchange.clearing.mark(0)
    size = sum(size for _, size in levels(session.exchange.market.books[0], Side.SELL, 10_000)) - 1
    session.exchange.market.submit(0, 7, Side.BUY, OrderType.MARKET, TimeInForce.GTC, 0, size, session.now_ns)
    bid, ask = session.touch()
    assert (bid + ask) / 2 - before > 1_000
    assert abs(session.exchange.market.mark_price(0) - before) < 200
