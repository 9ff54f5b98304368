"""The momentum taker against a plain Python account of its rules, over made sessions on the real execution stage."""

from __future__ import annotations

import random
from collections import Counter
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from typing import Any

import pytest

from engine.strategies.settings import MomentumSettings
from procs.strategy_desk import DeskOrder, StrategyDesk

TICK, LOT = Fraction(1, 10), Fraction(1, 1000)


class Oracle:
    """The rules as the strategy's page states them, in exact numbers where they matter."""

    def __init__(self, settings: MomentumSettings) -> None:
        self.settings = settings
        self.position = Fraction(0)
        self.order_ms = self.entry_ms = -(10**9)
        self.entry_mid = Fraction(0)
        self.why: Counter[str] = Counter()

    def _leaves(self, now_ms: int, mid: Fraction, forecast: float | None) -> str:
        side = 1 if self.position > 0 else -1
        if now_ms - self.entry_ms >= self.settings.hold_ms:
            return "held"
        stop = Fraction(self.settings.stop_bps) / 10_000
        if stop and self.entry_mid and side * (mid - self.entry_mid) <= -stop * self.entry_mid:
            return "stop"
        return "turned" if forecast is not None and side * forecast < self.settings.exit_bps else ""

    def wants(
        self, now_ms: int, bid: Fraction, ask: Fraction, forecast: float, spread_bps: float, clock: bool
    ) -> tuple[int, Fraction, Fraction] | None:
        """(side, price, size) of the order that an event causes. No order is ever on its way when one comes."""
        chosen = self.settings
        if now_ms < self.order_ms + chosen.cooldown_ms:
            return None
        mid = (bid + ask) / 2
        reach = Fraction(chosen.reach_bps) / 10_000
        highest, lowest = ask * (1 + reach), bid * (1 - reach)
        if self.position and (why := self._leaves(now_ms, mid, None if clock else forecast)):
            side, size = (-1 if self.position > 0 else 1), abs(self.position)
            self.why[why] += 1
        else:
            if clock or abs(forecast) - spread_bps / 2 < chosen.entry_bps:
                return None
            side = 1 if forecast > 0 else -1
            if side * self.position < 0 or abs(self.position) * mid >= Fraction(chosen.max_position_value):
                return None
            touch = ask if side > 0 else bid
            size = Fraction(chosen.order_value) / touch // LOT * LOT
            if size * touch < 5:  # the venue's smallest order
                return None
            self.entry_ms, self.entry_mid = now_ms, mid
            self.why["entered"] += 1
        self.order_ms = now_ms
        price = highest // TICK * TICK if side > 0 else -(-lowest // TICK) * TICK
        return side, price, size


def exact(number: float, places: int = 3) -> Fraction:
    return Fraction(Decimal(repr(round(number, places))))


def play(seed: int, events: int, **parameters: Any) -> tuple[Oracle, StrategyDesk]:
    dice = random.Random(seed)
    desk, oracle = StrategyDesk("momentum", **parameters), Oracle(MomentumSettings(**parameters))
    now_ms, mid, bid, ask, forecast = 0, 600_000, Fraction(0), Fraction(0), 0.0
    for _ in range(events):
        step = dice.choice((10, 10, 50, 200))
        now_ms += step
        clock = bool(bid) and dice.random() < 0.3
        if clock:
            orders = desk.clock(step)
            wanted = oracle.wants(now_ms, bid, ask, forecast, 0.0, True)
        else:
            mid += dice.choice((-9, -2, -1, 0, 0, 0, 1, 2, 9))
            bid, ask = TICK * (mid - dice.randrange(1, 3)), TICK * (mid + dice.randrange(1, 3))
            forecast = float(dice.choice((-3.0, -1.5, -0.5, 0.0, 0.0, 0.5, 1.5, 3.0)))
            spread_bps = dice.choice((0.03, 0.5, 4.0))
            orders = desk.prediction(float(bid), float(ask), output=forecast, spread_bps=spread_bps, after_ms=step)
            wanted = oracle.wants(now_ms, bid, ask, forecast, spread_bps, False)
        found = [(order.side, exact(order.price), exact(order.size)) for order in orders]
        assert found == ([wanted] if wanted else [])
        for order in orders:
            assert (order.action, order.time_in_force) == ("NEW", "IOC")
            oracle.position += order.side * answer(desk, order, dice)
        assert exact(desk.position) == oracle.position
    return oracle, desk


def answer(desk: StrategyDesk, order: DeskOrder, dice: random.Random) -> Fraction:
    """The venue fills all, a part, or nothing of an order that ends at once."""
    share = dice.choice((1.0, 1.0, 0.5, 0.0))
    size = exact(order.size) if share == 1.0 else (exact(order.size) * Fraction(share)) // LOT * LOT
    if size:
        desk.fill(order, float(size))
    if size < exact(order.size):
        desk.expire(order)
    return size


@pytest.mark.parametrize("seed", range(4))
def test_every_order_is_the_one_that_the_rules_ask_for(seed: int) -> None:
    oracle, desk = play(
        seed, 6_000, order_value=400.0, max_position_value=900.0, entry_bps=0.4, exit_bps=-2.0, stop_bps=0.43,
        hold_ms=900, cooldown_ms=120, reach_bps=1.37,
    )
    assert all(oracle.why[why] >= 2 for why in ("entered", "held", "stop", "turned")), oracle.why
    assert desk.faults == 0 and desk.denied == 0


def test_a_position_larger_than_the_gates_largest_order_is_left_in_parts() -> None:
    desk = StrategyDesk("momentum", order_value=1_900.0, max_position_value=5_000.0, cooldown_ms=0, exit_bps=0.0)
    held = Decimal(0)
    for _ in range(3):
        (order,) = desk.prediction(60_000.0, 60_000.1, output=5.0)
        desk.fill(order)
        held += Decimal(str(order.size))
    sold = []
    while desk.position:
        (order,) = desk.prediction(60_000.0, 60_000.1, output=-5.0)
        assert order.side == -1 and order.size * 60_012 <= 2_000.0  # the gate's largest order, at the highest price
        desk.fill(order)
        sold.append(Decimal(str(order.size)))
    assert sum(sold) == held and len(sold) == 3 and desk.denied == 0
    assert held == 3 * (Decimal(1_900) / Decimal("60000.1")).quantize(Decimal("0.001"), ROUND_DOWN)


def test_no_forecast_no_entry_and_yet_it_leaves_by_time() -> None:
    desk = StrategyDesk("momentum", hold_ms=500, cooldown_ms=0)
    assert desk.prediction(60_000.0, 60_000.1, output=float("nan")) == []
    (bought,) = desk.prediction(60_000.0, 60_000.1, output=5.0)
    desk.fill(bought)
    assert desk.prediction(60_000.0, 60_000.1, output=float("nan"), after_ms=400) == []
    (sold,) = desk.clock(100)
    assert (sold.side, sold.size) == (-1, bought.size)


def test_an_order_that_is_on_its_way_is_waited_for() -> None:
    desk = StrategyDesk("momentum", cooldown_ms=0, max_position_value=9_000.0)
    (first,) = desk.prediction(60_000.0, 60_000.1, output=5.0)
    assert desk.prediction(60_000.0, 60_000.1, output=5.0) == []
    desk.fill(first)
    assert len(desk.prediction(60_000.0, 60_000.1, output=5.0)) == 1
