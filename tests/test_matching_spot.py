"""The spot account in virtual time: assets are conserved, balances never negative, locks are what orders may cost."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_DOWN, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.matching.book import levels
from engine.matching.events import Refusal, SelfTrade
from engine.matching.exchange import Exchange
from engine.matching.orders import Execution, OrderRefused, OrderStatus, SpotNotice
from engine.matching.settings import SPOT, EtherSettings, SymbolSettings, VenueSettings
from engine.matching.spot import SpotExchange
from engine.records import OrderType, Side, TimeInForce
from tests.test_matching_exchange import resting_in_book

START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
ONE = Decimal(10**8)
# Ten decimals together: values are truncated.
FINE = SymbolSettings(price_exp=4, size_exp=6, tick_size="0.0100", lot_size="0.000001", min_notional="5")


class Session:
    """A spot exchange in virtual time with everything that it said."""

    def __init__(self, **changes) -> None:
        self.story: list[SpotNotice] = []
        self.settings = VenueSettings(market=SPOT, **changes)
        self.exchange = SpotExchange(self.settings, START, lambda symbol, events: None, self.story.append)
        self.now_ns = START
        self._ids = 0

    def wait(self, milliseconds: int) -> None:
        self.now_ns += milliseconds * MILLISECOND
        self.exchange.advance(self.now_ns)

    def order(
        self, side, size, price=0, time_in_force=TimeInForce.GTC, symbol=0, self_trade=SelfTrade.NONE, quote_wanted=0
    ):
        self._ids += 1
        order_type = OrderType.LIMIT if price else OrderType.MARKET
        return self.exchange.submit(
            symbol, f"c{self._ids}", side, order_type, time_in_force, price, size, self.now_ns, self_trade,
            quote_wanted,
        )

    def touch(self, symbol=0) -> tuple[int, int]:
        bid, _, ask, _ = self.exchange.market.touch(symbol)
        return bid, ask

    def free(self, asset: str) -> Decimal:
        return self.exchange.balances.free[asset] / ONE

    def locked(self, asset: str) -> Decimal:
        return self.exchange.balances.locked[asset] / ONE

    def check(self) -> None:
        """What must hold at any moment."""
        balances, start = self.exchange.balances, self.settings.holdings()
        held: Counter[str] = Counter()
        for order in self.exchange.open.values():
            item = self.exchange.instruments[order.symbol]
            price, size = Decimal(order.price).scaleb(-item.price_exp), Decimal(order.remaining).scaleb(-item.size_exp)
            needed = price * size if order.side == Side.BUY else size
            held[item.quote if order.side == Side.BUY else item.base] += int(needed * ONE)
        for asset in start:
            assert balances.free[asset] >= 0 and balances.locked[asset] >= 0
            assert balances.locked[asset] == held[asset]
            assert balances.total(asset) == start[asset]
        for item in self.exchange.instruments:
            mine = {
                order.order_id: order.remaining for order in self.exchange.open.values() if order.symbol == item.index
            }
            assert resting_in_book(self.exchange, item.index) == mine


ACTION = st.tuples(
    st.sampled_from(["limit", "limit", "maker", "ioc", "fok", "market", "value", "cancel", "cancel all"]),
    st.sampled_from([0, 1]), st.sampled_from([Side.BUY, Side.SELL]), st.integers(-3, 60), st.integers(1, 400_000),
    st.sampled_from(list(SelfTrade)), st.sampled_from([0, 20, 300]),
)


@pytest.mark.parametrize("market", [SymbolSettings(min_notional="5"), FINE], ids=["exact", "truncated"])
@settings(max_examples=60)
@given(st.lists(ACTION, min_size=5, max_size=40), st.integers(1, 5))
def test_every_asset_is_conserved_whatever_is_done(market, actions, seed):
    session = Session(
        seed=seed, btcusdt=market, ethusdt=EtherSettings(min_notional="5"),
    )
    exchange = session.exchange
    for kind, symbol, side, away, amount, self_trade, pause_ms in actions:
        session.wait(pause_ms)
        item = exchange.instruments[symbol]
        bid, ask = session.touch(symbol)
        price = (bid if side == Side.BUY else ask) - int(side) * away * item.tick_size
        lots = 10 ** (item.size_exp - 3)
        size = max(1, amount % 900) * (lots if amount % 2 else 1) + (amount % 7 if lots > 1 else 0)
        mine = [order for order in exchange.open.values() if order.symbol == symbol]
        try:
            if kind in ("limit", "maker", "ioc", "fok") and price > 0:
                words = {"limit": "GTC", "maker": "GTX", "ioc": "IOC", "fok": "FOK"}
                session.order(side, size, price, TimeInForce[words[kind]], symbol, self_trade)
            elif kind == "market":
                session.order(side, size, symbol=symbol, self_trade=self_trade)
            elif kind == "value":
                order = session.order(
                    side, 0, symbol=symbol, self_trade=self_trade, quote_wanted=amount * 10**6 + amount
                )
                assert order.quote <= order.quote_wanted
            elif kind == "cancel" and mine:
                exchange.cancel(symbol, mine[amount % len(mine)].order_id, session.now_ns)
            elif kind == "cancel all":
                exchange.cancel_all(symbol, session.now_ns)
        except OrderRefused:
            assert kind != "cancel all"
        session.check()
    check_story(session)


def check_story(session: Session) -> None:
    """Fills alone, in unbounded decimals, lead to the balances; each notice had them right."""
    held = {asset: amount / ONE for asset, amount in session.settings.holdings().items()}
    cent = Decimal("1e-8")
    maker_rate, taker_rate = Decimal(session.settings.maker_fee), Decimal(session.settings.taker_fee)
    for told in session.story:
        item = session.exchange.instruments[told.order.symbol]
        fill = told.fill
        if fill is not None:
            size, price = Decimal(fill.size).scaleb(-item.size_exp), Decimal(fill.price).scaleb(-item.price_exp)
            value = (size * price).quantize(cent, ROUND_DOWN)
            received, paid = (size, value) if fill.side == Side.BUY else (value, size)
            gets, gives = (item.base, item.quote) if fill.side == Side.BUY else (item.quote, item.base)
            fee = (received * (maker_rate if fill.maker else taker_rate)).quantize(cent, ROUND_DOWN)
            assert fill.fee / ONE == fee
            held[gets] += received - fee
            held[gives] -= paid
        for asset, free, locked in told.balances:
            assert (free + locked) / ONE == held[asset]
    balances = session.exchange.balances
    assert held == {asset: (balances.free[asset] + balances.locked[asset]) / ONE for asset in held}


def test_a_resting_order_locks_and_a_cancel_frees():
    session = Session()
    bid, ask = session.touch()
    order = session.order(Side.BUY, 100, bid - 100_000)
    value = Decimal(bid - 100_000) / 100 * Decimal("0.1")
    assert (session.free("USDT"), session.locked("USDT")) == (100_000 - value, value)
    sell = session.order(Side.SELL, 300, ask + 100_000)
    assert (session.free("BTC"), session.locked("BTC")) == (Decimal("0.7"), Decimal("0.3"))
    session.exchange.cancel(0, order.order_id, session.now_ns)
    session.exchange.cancel(0, sell.order_id, session.now_ns)
    assert (session.free("USDT"), session.free("BTC")) == (100_000, 1)
    assert [told.execution for told in session.story] == [Execution.NEW] * 2 + [Execution.CANCELED] * 2


def test_nobody_gives_what_he_has_not():
    session = Session()
    bid, ask = session.touch()
    for call in (
        lambda: session.order(Side.SELL, 1_001, ask + 100),
        lambda: session.order(Side.SELL, 1_001),
        lambda: session.order(Side.BUY, 1_700, bid - 10),
        lambda: session.order(Side.BUY, 0, quote_wanted=10**13 + 1),
    ):
        with pytest.raises(OrderRefused) as refusal:
            call()
        assert refusal.value.reason == Refusal.INSUFFICIENT_BALANCE
        session.check()
    assert session.story == []
    session.order(Side.SELL, 600, ask + 100_000)
    with pytest.raises(OrderRefused):
        session.order(Side.SELL, 401)
    session.order(Side.SELL, 400)
    assert session.free("BTC") == 0


def test_a_market_order_to_buy_needs_what_the_book_asks_for():
    """Just enough money is enough, and a unit less is not."""
    session = Session()
    offers = levels(session.exchange.market.books[0], Side.SELL, 100)
    size = sum(size for _, size in offers[:3])
    cost = sum(price * size * 1000 for price, size in offers[:3])
    for missing, works in ((1, False), (0, True)):
        amount = Decimal(cost - missing) / ONE
        poor = Session(spot=type(session.settings.spot)(holdings=(f"USDT={amount:.8f}",)))
        if works:
            assert poor.order(Side.BUY, size).status == OrderStatus.FILLED
            assert poor.free("USDT") == 0 and poor.free("BTC") == Decimal(size) / 1000 * Decimal("0.9995")
        else:
            with pytest.raises(OrderRefused):
                poor.order(Side.BUY, size)


def test_a_value_instead_of_a_size():
    session = Session()
    order = session.order(Side.BUY, 0, quote_wanted=1_000 * 10**8)
    lot = order.quote // order.size
    assert order.status == OrderStatus.FILLED and 1_000 * 10**8 - lot <= order.quote <= 1_000 * 10**8
    order = session.order(Side.SELL, 0, quote_wanted=1_000 * 10**8)
    assert order.status == OrderStatus.FILLED and order.quote <= 1_000 * 10**8
    lots = Session(btcusdt=SymbolSettings(min_notional="5"))
    with pytest.raises(OrderRefused) as refusal:
        lots.order(Side.BUY, 0, quote_wanted=10 * 10**8)  # less than a lot
    assert refusal.value.reason == Refusal.BAD_SIZE
    session.exchange.market.submit(0, 7, Side.BUY, OrderType.MARKET, TimeInForce.GTC, 0, 10**9, session.now_ns)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 0, quote_wanted=1_000 * 10**8)
    assert refusal.value.reason == Refusal.NO_LIQUIDITY
    session.check()


def test_what_cannot_be_filled_whole_is_taken_and_expires():
    session = Session()
    bid, ask = session.touch()
    order = session.order(Side.BUY, 1_600, ask, TimeInForce.FOK)
    assert (order.status, order.executed) == (OrderStatus.EXPIRED, 0)
    assert [told.execution for told in session.story] == [Execution.NEW, Execution.EXPIRED]
    later = session.order(Side.BUY, 50, bid - 1000)
    assert later.order_id > order.order_id and session.exchange.find(0, order.order_id, None) is order
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 50, ask, TimeInForce.GTX)
    assert refusal.value.reason == Refusal.WOULD_TAKE
    session.check()


@pytest.mark.parametrize(
    ("mode", "resting", "taking"),
    [
        (SelfTrade.NONE, OrderStatus.FILLED, OrderStatus.FILLED),
        (SelfTrade.EXPIRE_TAKER, OrderStatus.NEW, OrderStatus.EXPIRED_IN_MATCH),
        (SelfTrade.EXPIRE_MAKER, OrderStatus.EXPIRED_IN_MATCH, OrderStatus.EXPIRED),
        (SelfTrade.EXPIRE_BOTH, OrderStatus.EXPIRED_IN_MATCH, OrderStatus.EXPIRED_IN_MATCH),
    ],
)
@pytest.mark.parametrize("at_market", [False, True])
def test_self_trades_are_prevented_as_asked(mode, resting, taking, at_market):
    session = Session()
    _, ask = session.touch()
    session.exchange.market.submit(0, 7, Side.BUY, OrderType.MARKET, TimeInForce.GTC, 0, 10**7, START)
    mine = session.order(Side.SELL, 50, ask)
    price = 0 if at_market else ask
    taker = session.order(Side.BUY, 50, price, TimeInForce.GTC if at_market else TimeInForce.IOC, self_trade=mode)
    assert (mine.status, taker.status) == (resting, taking)
    session.check()


def test_the_smallest_value_halts_names_and_counts():
    session = Session(max_open_orders=2)
    bid, _ = session.touch()
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 1, bid)
    assert refusal.value.reason == Refusal.MIN_NOTIONAL
    for _ in range(2):
        session.order(Side.BUY, 10, bid - 1000)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 10, bid - 1000)
    assert refusal.value.reason == Refusal.TOO_MANY_ORDERS
    session.exchange.halt(session.now_ns)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 10, bid - 1000, symbol=1)
    assert refusal.value.reason == Refusal.HALTED
    session.exchange.cancel_all(0, session.now_ns)
    session.check()
    assert session.locked("USDT") == 0


def test_both_markets_match_in_the_same_book():
    """The same seed and the same orders: the same trades, whatever the account rules."""
    told: list = []
    futures = Exchange(VenueSettings(), START, lambda symbol, events: None, told.append)
    spot = Session()
    for exchange in (futures, spot.exchange):
        exchange.advance(START + 1_000 * MILLISECOND)
    spot.now_ns = START + 1_000 * MILLISECOND
    bid, _ = spot.touch()
    spot.order(Side.BUY, 50, bid)
    spot.order(Side.BUY, 90)
    for size, price in ((50, bid), (90, 0)):
        kind = OrderType.LIMIT if price else OrderType.MARKET
        futures.submit(0, f"f{size}", Side.BUY, kind, TimeInForce.GTC, price, size, False, spot.now_ns)
    for exchange in (futures, spot.exchange):
        exchange.advance(START + 20_000 * MILLISECOND)
    trades = [[(fill.trade_id, fill.price, fill.size, fill.time_ns) for fill in exchange.fills]
              for exchange in (futures, spot.exchange)]
    assert trades[0] == trades[1] and len(trades[0]) > 2
