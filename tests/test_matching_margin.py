"""Margin brackets and liquidation: against plain arithmetic, and with every unit of money accounted for."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.clearing import CLIENT, INSURANCE
from engine.matching.events import Refusal
from engine.matching.margin import BRACKETS, largest_notional, maintenance_margin
from engine.matching.orders import Execution, Income, OrderRefused, OrderStatus, WalletChange
from engine.records import OrderType, Side, TimeInForce
from tests.test_matching_exchange import Session

ONE = 10**8


@given(st.integers(0, 1_700_000_000 * ONE))
def test_maintenance_margin_is_the_sum_over_brackets(value):
    expected = Fraction(0)
    for bracket in BRACKETS:
        inside = min(value, bracket.cap) - bracket.floor
        if inside > 0:
            expected += Fraction(inside * bracket.rate, ONE)
    assert maintenance_margin(value) == int(expected)


def test_brackets_are_those_the_venue_publishes():
    assert [(item.cum // ONE, item.leverage) for item in BRACKETS[:5]] == [
        (0, 125), (50, 100), (950, 75), (11_450, 50), (131_450, 25)
    ]
    assert largest_notional(125) == 50_000 * ONE
    assert largest_notional(20) == largest_notional(19) == 100_000_000 * ONE


def push(session: Session, symbol: int, factor: float) -> None:
    """Move the fair value and what the public thinks, and the book with them."""
    for name in ("fair", "walk", "anchor"):
        session.exchange.market.flows[symbol][name] *= factor


def levered(balance: str = "1000", leverage: int = 50, **settings) -> Session:
    return Session(starting_balance=balance, leverage=leverage, **settings)


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_a_position_without_margin_is_liquidated(side):
    session = levered()
    exchange = session.exchange
    worth = exchange.clearing.total()
    session.order(side, 700)  # 42,000 on 1,000
    bid, ask = session.touch()
    resting = session.order(side, 20, bid - 300_000 if side == Side.BUY else ask + 300_000)
    price = exchange.clearing.liquidation_price(0)
    for _ in range(4000):
        push(session, 0, 1 - side * 2e-5)
        session.wait(10)
        if not exchange.position(0):
            break
        if side * (exchange.clearing.mark(0) - price) > 0:
            assert not exchange.clearing.liquidations
        assert exchange.clearing.total() == worth
    assert exchange.position(0) == 0 and exchange.clearing.liquidations == 1
    assert resting.status == OrderStatus.CANCELED
    forced = [order for order in exchange.finished.values() if order.forced]
    assert [order.status for order in forced] == [OrderStatus.FILLED]
    assert forced[0].client_id.startswith("autoclose-") and forced[0].side == -side
    told = [item.reason for item in session.story if isinstance(item, WalletChange)]
    assert told == ["MARGIN_CALL", Income.INSURANCE_CLEAR]
    assert any(not isinstance(item, WalletChange) and item.execution == Execution.CALCULATED for item in session.story)
    assert 0 <= exchange.wallet() < 200 * ONE
    for _ in range(200):
        session.wait(50)
        if not exchange.clearing.position(0, INSURANCE):
            break
    assert exchange.clearing.position(0, INSURANCE) == 0
    assert exchange.clearing.total() == worth


def test_a_gap_beyond_bankruptcy_is_paid_by_the_insurance_fund():
    session = levered()
    exchange = session.exchange
    worth = exchange.clearing.total()
    fund = int(exchange.clearing.accounts[INSURANCE]["wallet"][0])
    session.order(Side.BUY, 700)
    for side in (Side.BUY, Side.SELL):  # the book is swept, and comes back a tenth lower
        exchange.market.submit(0, 7, side, OrderType.MARKET, TimeInForce.GTC, 0, 10**9, session.now_ns)
    push(session, 0, 0.9)
    for _ in range(300):
        session.wait(10)
        assert exchange.clearing.total() == worth
        if not exchange.position(0) and not exchange.clearing.position(0, INSURANCE):
            break
    assert exchange.position(0) == 0 and exchange.wallet() == 0
    assert int(exchange.clearing.accounts[INSURANCE]["wallet"][0]) < fund
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 20)
    assert refusal.value.reason == Refusal.INSUFFICIENT_MARGIN


def test_two_positions_only_what_is_needed_is_closed():
    session = levered(balance="3000", liquidation_fee="0")
    exchange = session.exchange
    session.order(Side.BUY, 1500)
    session.order(Side.BUY, 1000, symbol=1)
    worth = exchange.clearing.total()
    for _ in range(6000):
        push(session, 0, 1 - 2e-5)
        session.wait(10)
        assert exchange.clearing.total() == worth
        if exchange.clearing.liquidations:
            break
    assert exchange.position(0) == 0
    assert exchange.clearing.liquidations == 1 and exchange.position(1) == 1000


@pytest.mark.parametrize("seed", range(6))
def test_money_is_conserved_through_funding_and_ruin(seed):
    """A reckless trader in a wild market: wallets, insurance and fees add up after every step, to the last unit."""
    choose = random.Random(seed)
    session = levered("600", 125, seed=seed, funding_rate=choose.choice(["0.0005", "-0.0005"]), funding_interval_s=2)
    exchange = session.exchange
    worth = exchange.clearing.total()
    for _ in range(250):
        push(session, choose.choice([0, 1]), choose.choice([0.998, 1.002]))
        session.wait(choose.choice([10, 100, 400]))
        assert exchange.clearing.total() == worth
        symbol = choose.choice([0, 1])
        try:
            session.order(choose.choice([Side.BUY, Side.SELL]), choose.randint(2, 700) * (1, 20)[symbol], symbol=symbol)
        except OrderRefused:
            continue
        assert exchange.clearing.total() == worth
    client = exchange.clearing.accounts[CLIENT][0]
    assert int(client["wallet"]) == 600 * ONE + sum(
        int(client[name]) for name in ("realised", "funding", "insurance")
    ) - int(client["fees"])
    assert exchange.clearing.liquidations > 0


def test_leverage_limits_the_position():
    session = Session(starting_balance="10000000", leverage=125)
    with pytest.raises(OrderRefused) as refusal:
        session.order(Side.BUY, 900, session.touch()[0])
    assert refusal.value.reason == Refusal.BEYOND_LEVERAGE
    session.order(Side.BUY, 500)
    session.exchange.set_leverage(0, 20)
    session.order(Side.BUY, 900, session.touch()[0])
    session.order(Side.BUY, 900)
    with pytest.raises(OrderRefused) as refusal:
        session.exchange.set_leverage(0, 125)
    assert refusal.value.reason == Refusal.BEYOND_LEVERAGE
