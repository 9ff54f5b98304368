"""The venue's ledger against the same rules in unbounded integers and fractions."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.matching.account import apply_fill, available, can_afford, initial_margin, new_account, unrealised
from engine.stage import as_bytes

ONE = 10**8
FILL = st.tuples(
    st.sampled_from([0, 1]), st.sampled_from([-1, 1]), st.integers(1, 20_000_000), st.integers(1, 5_000_000),
    st.booleans(),
)


class Ledger:
    """Positions and money of one account, in Python integers (money in 1e-8, exact)."""

    def __init__(self, balance: int, maker: int, taker: int):
        self.wallet, self.rates = balance, {True: maker, False: taker}
        self.size, self.cost = [0, 0], [0, 0]
        self.realised = self.fees = 0

    def fill(self, symbol: int, side: int, price: int, size: int, maker: bool) -> None:
        value = price * size * ONE // 10**5
        closing = min(size, abs(self.size[symbol])) if self.size[symbol] * side < 0 else 0
        realised = 0
        if closing:
            removed = self.cost[symbol] * closing // abs(self.size[symbol])  # both positive: floor is trunc
            self.cost[symbol] -= removed
            proceeds = price * closing * ONE // 10**5
            realised = (proceeds - removed) * (1 if self.size[symbol] > 0 else -1)
        self.cost[symbol] += price * (size - closing) * ONE // 10**5
        self.size[symbol] += side * size
        fee = value * self.rates[maker] // ONE
        self.realised += realised
        self.fees += fee
        self.wallet += realised - fee


def fresh(balance: int = 10**13, leverage: int = 20):
    account = new_account(balance, 20_000, 50_000, leverage)
    account["unit_exp"][0, :2] = 5
    return account


@settings(max_examples=300)
@given(st.lists(FILL, max_size=40))
def test_fills_equal_the_plain_ledger(fills):
    account, ledger = fresh(), Ledger(10**13, 20_000, 50_000)
    for symbol, side, price, size, maker in fills:
        before = ledger.realised
        ledger.fill(symbol, side, price, size, maker)
        realised = apply_fill(as_bytes(account), symbol, side, price, size, int(maker))
        assert realised == ledger.realised - before
    assert int(account["wallet"][0]) == ledger.wallet
    assert int(account["fees"][0]) == ledger.fees
    assert account["position"][0, :2].tolist() == ledger.size
    assert account["cost"][0, :2].tolist() == ledger.cost
    assert all(cost >= 0 for cost in ledger.cost)
    assert ledger.wallet == 10**13 + ledger.realised - ledger.fees


@settings(max_examples=100)
@given(st.lists(FILL, max_size=20), st.integers(1, 20_000_000))
def test_money_is_conserved_up_to_the_stated_rounding(fills, mark):
    """Closing everything gives the cash that went in and out, exactly: rounding only moves profit in time."""
    account = fresh()
    cash = Fraction(0)
    for symbol, side, price, size, maker in fills:
        apply_fill(as_bytes(account), symbol, side, price, size, int(maker))
        cash -= side * Fraction(price * size, 10**5)
    for symbol in (0, 1):
        left = int(account["position"][0, symbol])
        if left:
            side = -1 if left > 0 else 1
            apply_fill(as_bytes(account), symbol, side, mark, abs(left), 1)
            cash -= side * Fraction(mark * abs(left), 10**5)
    assert int(account["realised"][0]) == cash * ONE
    assert account["cost"][0].sum() == 0


def test_margin_counts_the_worse_side_and_lets_closing_orders_through():
    account = fresh(balance=1_000 * ONE)
    account["mark"][0, 0] = 5_000_000  # 50,000.00
    view = as_bytes(account)
    assert can_afford(view, 0, 1, 5_000_000, 400)  # 20,000 at leverage 20 is the whole wallet
    assert not can_afford(view, 0, 1, 5_000_000, 401)
    apply_fill(view, 0, 1, 5_000_000, 390, 1)
    assert initial_margin(view, 0) == 975 * ONE
    account["mark"][0, 0] = 4_990_000
    assert unrealised(view, 0) == -390 * 100_00 * ONE // 10**5
    assert available(view) < 0
    assert not can_afford(view, 0, 1, 4_990_000, 10)
    assert can_afford(view, 0, -1, 4_990_000, 390)
    assert not can_afford(view, 0, -1, 4_990_000, 800)
    account["open_sell"][0, 0] = 40_000 * ONE
    assert initial_margin(view, 0) == (40_000 * ONE - 390 * 4_990_000 * ONE // 10**5) // 20
