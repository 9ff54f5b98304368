"""The recorded market against queues of single units that are too simple to be wrong, on generated markets.

The oracle keeps, for each level, a list of units in the order in which they stand: "others" or one of our orders. What
is displayed is the number of others; a trade takes units from the front, a smaller display takes others from the back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.instruments import Instrument
from engine.matching.events import EventKind, Refusal, SelfTrade
from engine.matching.queue_rule import CAREFUL, EVEN, after_level, after_trade
from engine.matching.recorded import RecordedMarket
from engine.records import MARKET, Flag, Kind, OrderType, Side, TimeInForce

ITEM = Instrument(
    index=0, symbol="BTCUSDT", base="BTC", quote="USDT", price_exp=1, size_exp=3, tick_size=1, lot_size=1,
    min_notional=0,
)  # fmt: skip
START = 1_700_000_000_000_000_000
OTHERS = 0
PRICES = range(95, 106)
US = 1


class Market:
    """A recorded market, and what the tests tell it."""

    def __init__(self, rule: str = "careful") -> None:
        self.market = RecordedMarket([ITEM], START, rule)
        self.venue_ns = 0

    def records(self, *rows: tuple[int, int, int, int], flags: int = 0, venue_ns: int = 0) -> np.ndarray:
        """One input of (kind, side, price, size) rows; all events that come of it."""
        records = np.zeros(len(rows), MARKET)
        for record, (kind, side, price, size) in zip(records, rows, strict=True):
            record["kind"], record["side"], record["price"], record["size"] = kind, side, price, size
            record["flags"], record["exch_ts_ns"], record["recv_ts_ns"] = flags, venue_ns or self.venue_ns, START
        records["flags"][0] |= Flag.FIRST
        records["flags"][-1] |= Flag.LAST
        self.market.feed(records)
        parts, reached = [], False
        while not reached:
            events, reached = self.market.step(0, START)
            parts.append(events.copy())
        return np.concatenate(parts)

    def snapshot(self, *levels: tuple[int, int, int]) -> np.ndarray:
        self.venue_ns += 1
        return self.records(*((Kind.LEVEL, *level) for level in levels), flags=Flag.SNAPSHOT)

    def diff(self, *levels: tuple[int, int, int], venue_ns: int = 0) -> np.ndarray:
        self.venue_ns += 1
        return self.records(*((Kind.LEVEL, *level) for level in levels), venue_ns=venue_ns)

    def trade(self, aggressor: int, price: int, size: int, venue_ns: int = 0) -> np.ndarray:
        self.venue_ns += 1
        return self.records((Kind.TRADE, aggressor, price, size), venue_ns=venue_ns)

    def submit(
        self, side: int, price: int, size: int, time_in_force: TimeInForce = TimeInForce.GTC,
        self_trade: SelfTrade = SelfTrade.NONE, order_type: OrderType = OrderType.LIMIT,
    ) -> np.ndarray:
        return self.market.submit(
            0, US, Side(side), order_type, time_in_force, price, size, START, self_trade
        ).copy()  # fmt: skip

    def resting(self) -> list[tuple[int, int, int, int, int]]:
        """(side, price, order id, remaining, ahead) of our orders, in the order of priority."""
        queue = self.market.queues[0][0]
        count = int(queue["orders"])
        names = ("side", "price", "order_id", "remaining", "ahead")
        return [tuple(int(queue[name][place]) for name in names) for place in range(count)]  # type: ignore[misc]


@dataclass
class Taken:
    order_id: int
    price: int
    size: int


class Oracle:
    """Queues of units. A queue of (side, price) is a list of OTHERS or order ids, the front first."""

    def __init__(self) -> None:
        self.queues: dict[tuple[int, int], list[int]] = {}
        self.shown: dict[tuple[int, int], int] = {}
        self.taken: dict[tuple[int, int], int] = {}

    def queue(self, side: int, price: int) -> list[int]:
        return self.queues.setdefault((side, price), [])

    def ours(self, side: int) -> list[int]:
        """Prices at which we rest on a side, the best first."""
        prices = [price for (of, price), units in self.queues.items() if of == side and any(units)]
        return sorted(prices, key=lambda price: -side * price)

    def resting(self) -> list[tuple[int, int, int, int, int]]:
        found = []
        for side in (1, -1):
            for price in self.ours(side):
                units = self.queue(side, price)
                for order_id in dict.fromkeys(unit for unit in units if unit):
                    ahead = units[: units.index(order_id)].count(OTHERS)
                    found.append((side, price, order_id, units.count(order_id), ahead))
        return found

    def diff(self, *levels: tuple[int, int, int]) -> list[Taken]:
        for side, price, size in levels:
            self.shown[side, price] = size
            self.fit(side, price)
        return self.quotes()

    def fit(self, side: int, price: int) -> None:
        """As many others as are displayed: new ones behind, gone ones from the back; no more taken than there is."""
        units, shown = self.queue(side, price), self.shown.get((side, price), 0)
        while units.count(OTHERS) > shown:
            del units[len(units) - 1 - units[::-1].index(OTHERS)]
        units += [OTHERS] * (shown - units.count(OTHERS))
        self.taken[side, price] = min(self.taken.get((side, price), 0), shown)

    def quotes(self) -> list[Taken]:
        """What displayed levels that have reached us take of us, unit by unit."""
        fills: list[Taken] = []
        for side in (1, -1):
            while True:
                there = [price for (of, price) in self.shown if of == -side and self.left(of, price) > 0]
                mine = self.ours(side)
                if not there or not mine or side * min(there, key=lambda price: side * price) > side * mine[0]:
                    break
                best = min(there, key=lambda price: side * price)
                units = self.queue(side, mine[0])
                first = next(unit for unit in units if unit)
                units.remove(first)
                self.taken[-side, best] = self.taken.get((-side, best), 0) + 1
                fills.append(Taken(first, mine[0], 1))
        return fills

    def left(self, side: int, price: int) -> int:
        return self.shown.get((side, price), 0) - self.taken.get((side, price), 0)

    def trade(self, aggressor: int, price: int, size: int) -> list[Taken]:
        side, fills = -aggressor, []
        for better in [at for at in self.ours(side) if side * at > side * price]:
            units = self.queue(side, better)
            while size and any(units):
                while units[0] == OTHERS:
                    del units[0]
                fills.append(Taken(units.pop(0), better, 1))
                size -= 1
        units = self.queue(side, price)
        for _ in range(min(size, len(units))):
            unit = units.pop(0)
            if unit:
                fills.append(Taken(unit, price, 1))
        return fills

    def take(self, order_id: int, side: int, price: int, size: int, may_rest: bool) -> tuple[list[Taken], int]:
        """(fills, what expires) of an order of ours; expired is -1 for one that would meet ourselves."""
        fills: list[Taken] = []
        for left in range(size, 0, -1):
            there = [at for (of, at) in self.shown if of == -side and self.left(of, at) > 0]
            best = min((at for at in there if side * at <= side * price), key=lambda at: side * at, default=None)
            mine = next((at for at in self.ours(-side) if side * at <= side * price), None)
            if mine is not None and (best is None or side * best >= side * mine):
                return fills, left
            if best is None:
                if may_rest:
                    self.fit(side, price)  # behind what is displayed, be it traded already
                    self.queue(side, price).extend([order_id] * left)
                    return fills, 0
                return fills, left
            self.taken[-side, best] = self.taken.get((-side, best), 0) + 1
            fills.append(Taken(order_id, best, 1))
        return fills, 0

    def would_take(self, side: int, price: int) -> bool:
        there = [at for (of, at), size in self.shown.items() if of == -side and size and side * at <= side * price]
        return bool(there) or any(side * at <= side * price for at in self.ours(-side))

    def takeable(self, side: int, price: int) -> int:
        mine = [at for at in self.ours(-side) if side * at <= side * price]
        return sum(
            self.left(of, at) for (of, at) in list(self.shown)
            if of == -side and side * at <= side * price and (not mine or side * at < side * mine[0])
        )


def summed(fills: list[Taken]) -> list[tuple[int, int, int]]:
    """Units of one order at one price in a row as one fill."""
    found: list[tuple[int, int, int]] = []
    for fill in fills:
        if found and found[-1][:2] == (fill.order_id, fill.price):
            found[-1] = (fill.order_id, fill.price, found[-1][2] + fill.size)
        else:
            found.append((fill.order_id, fill.price, fill.size))
    return found


def told(events: np.ndarray, taking: bool) -> list[tuple[int, int, int]]:
    """The same of events. Two levels in a row may fill one resting order at its price."""
    fills = [event for event in events if event["kind"] == EventKind.FILL]
    name = "order_id" if taking else "maker_order_id"
    return summed([Taken(int(fill[name]), int(fill["price"]), int(fill["size"])) for fill in fills])


SIDES = st.sampled_from((1, -1))
SIZES = st.integers(1, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("level"), SIDES, st.integers(0, 4), st.integers(0, 8)),
        st.tuples(st.just("move"), st.integers(97, 103), st.integers(0, 8), st.integers(0, 8)),
        st.tuples(st.just("trade"), SIDES, st.sampled_from(PRICES), st.integers(1, 9)),
        st.tuples(st.just("order"), SIDES, st.sampled_from(PRICES), SIZES, st.sampled_from(TimeInForce)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("amend"), st.integers(0, 9), st.sampled_from(PRICES), SIZES),
    ),
    max_size=40,
)


@settings(max_examples=400)
@given(STEPS)
def test_every_step_is_that_of_the_queues_of_units(steps: list[tuple]) -> None:
    market, oracle = Market(), Oracle()
    middle = 100
    first = [(1, 99, 5), (1, 98, 2), (-1, 101, 4), (-1, 103, 6)]
    market.snapshot(*first)
    oracle.diff(*first)
    for step in steps:
        if step[0] == "level":  # at some distance from the middle, so that the recorded book is never crossed
            _, side, distance, size = step
            levels = [(side, middle - side * (1 + distance), size)]
            assert told(market.diff(*levels), False) == summed(oracle.diff(*levels))
        elif step[0] == "move":  # the recorded book moves: what would be crossed goes away
            middle = step[1]
            gone = [
                (side, price, 0) for (side, price), size in oracle.shown.items()
                if size and side * price >= side * middle
            ]
            levels = [*gone, (1, middle - 1, step[2]), (-1, middle + 1, step[3])]
            assert told(market.diff(*levels), False) == summed(oracle.diff(*levels))
        elif step[0] == "trade":
            assert told(market.trade(*step[1:]), False) == summed(oracle.trade(*step[1:]))
        elif step[0] == "order":
            check_order(market, oracle, *step[1:])
        elif (resting := oracle.resting()) and step[1] < len(resting):
            side, price, order_id, _, _ = resting[step[1]]
            if step[0] == "cancel":
                assert market.market.cancel(0, US, order_id, START)[0]["kind"] == EventKind.CANCELLED
                oracle.queues[side, price] = [unit for unit in oracle.queue(side, price) if unit != order_id]
            else:
                check_amendment(market, oracle, resting[step[1]], step[2], step[3])
        assert market.resting() == oracle.resting()
        bid, _, ask, _ = market.market.touch(0)
        assert not bid or not ask or bid < ask  # what is displayed is as recorded


def check_order(
    market: Market, oracle: Oracle, side: int, price: int, size: int, time_in_force: TimeInForce
) -> None:  # fmt: skip
    would_take, takeable = oracle.would_take(side, price), oracle.takeable(side, price)
    events = market.submit(side, price, size, time_in_force)
    if time_in_force == TimeInForce.GTX and would_take:
        assert (events[0]["kind"], events[0]["reason"]) == (EventKind.REJECTED, Refusal.WOULD_TAKE)
    elif time_in_force == TimeInForce.FOK and takeable < size:
        assert (events[0]["kind"], events[0]["reason"]) == (EventKind.REJECTED, Refusal.CANNOT_FILL)
    else:
        assert events[0]["kind"] == EventKind.ACCEPTED
        may_rest = time_in_force in (TimeInForce.GTC, TimeInForce.GTX)
        fills, expired = oracle.take(int(events[0]["order_id"]), side, price, size, may_rest)
        assert told(events, True) == summed(fills)
        ends = events[events["kind"] == EventKind.EXPIRED]
        assert [int(event["remaining"]) for event in ends] == ([expired] if expired else [])


def check_amendment(
    market: Market, oracle: Oracle, resting: tuple[int, int, int, int, int], price: int, size: int
) -> None:  # fmt: skip
    side, old_price, order_id, remaining, _ = resting
    events = market.market.amend(0, US, order_id, price, size, False, START).copy()
    assert events[0]["kind"] == EventKind.AMENDED
    units = oracle.queue(side, old_price)
    if price == old_price and size <= remaining:
        for _ in range(remaining - size):
            units.reverse()
            units.remove(order_id)
            units.reverse()
        return
    oracle.queues[side, old_price] = [unit for unit in units if unit != order_id]
    fills, expired = oracle.take(order_id, side, price, size, True)
    assert told(events, True) == summed(fills)
    assert int((events["kind"] == EventKind.EXPIRED).sum()) == (1 if expired else 0)


# --- the rule alone ---------------------------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 60), st.sampled_from((CAREFUL, EVEN)))
def test_a_trade_told_before_or_after_its_size_moves_alike(ahead: int, behind: int, size: int, rule: int) -> None:
    before = ahead + behind
    size = min(size, before)
    first_trade = after_trade(ahead, 0, size, False)
    one, _ = after_level(first_trade[0], first_trade[1], size, before, before - size, rule)
    shown, credit = after_level(ahead, 0, 0, before, before - size, rule)
    other = after_trade(shown, credit, size, True)
    assert (one, first_trade[2]) == (other[0], other[2])
    assert one == max(0, ahead - size) and first_trade[2] == max(0, size - ahead)


@settings(max_examples=500)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100), st.integers(0, 20))
def test_the_careful_rule_never_advances_more(ahead: int, behind: int, after: int, traded: int) -> None:
    before = ahead + behind + traded
    careful, careful_credit = after_level(ahead, 0, traded, before, after, CAREFUL)
    even, even_credit = after_level(ahead, 0, traded, before, after, EVEN)
    assert 0 <= even <= careful <= ahead and max(even, careful) <= max(after, 0)
    assert (careful_credit, even_credit) == (ahead - careful, ahead - even)
    cancelled = before - after - traded
    if cancelled <= 0:
        assert even == careful == min(ahead, after)
    elif before > traded:  # rounded against us
        assert even == min(ahead - ahead * cancelled // (before - traded), after)


# --- cases ------------------------------------------------------------------------------------------------------------


def test_a_trade_that_was_made_before_the_order_joined_does_not_meet_it() -> None:
    market = Market()
    market.snapshot((1, 99, 5), (-1, 101, 5))
    order_id = int(market.submit(1, 99, 3)[0]["order_id"])
    assert len(market.trade(-1, 99, 50, venue_ns=1)) == 0 and len(market.trade(-1, 98, 50, venue_ns=1)) == 0
    assert market.resting() == [(1, 99, order_id, 3, 5)]
    assert told(market.trade(-1, 99, 6, venue_ns=2), False) == [(order_id, 99, 1)]


def test_a_size_that_is_shown_first_and_its_trade_move_an_order_once() -> None:
    market = Market()
    market.snapshot((1, 99, 10), (-1, 101, 5))
    order_id = int(market.submit(1, 99, 3)[0]["order_id"])
    market.diff((1, 99, 6), venue_ns=9)
    assert market.resting() == [(1, 99, order_id, 3, 6)]
    market.trade(-1, 99, 4, venue_ns=9)
    assert market.resting() == [(1, 99, order_id, 3, 6)]
    market.trade(-1, 99, 4, venue_ns=10)
    assert market.resting() == [(1, 99, order_id, 3, 2)]


def test_while_the_book_is_not_in_sequence_only_trades_fill() -> None:
    market = Market()
    assert market.submit(1, 99, 1)[0]["reason"] == Refusal.HALTED
    market.snapshot((1, 99, 1), (-1, 101, 5))
    order_id = int(market.submit(1, 99, 3)[0]["order_id"])
    market.records((Kind.GAP, 0, 0, 0))
    assert market.submit(1, 99, 1)[0]["reason"] == Refusal.HALTED
    assert market.market.amend(0, US, order_id, 98, 3, False, START)[0]["reason"] == Refusal.HALTED
    assert told(market.trade(-1, 99, 2, venue_ns=50), False) == [(order_id, 99, 1)]
    assert told(market.snapshot((-1, 98, 1), (-1, 101, 5)), False) == [(order_id, 99, 1)]
    assert market.resting() == [(1, 99, order_id, 1, 0)]
    assert market.market.cancel(0, US, order_id, START)[0]["kind"] == EventKind.CANCELLED
    assert market.market.cancel(0, US, order_id, START)[0]["reason"] == Refusal.UNKNOWN_ORDER


@pytest.mark.parametrize(
    ("mode", "left", "expired"),
    [
        (SelfTrade.NONE, 1, [3]), (SelfTrade.EXPIRE_TAKER, 1, [3]), (SelfTrade.EXPIRE_MAKER, 1, [2]),
        (SelfTrade.EXPIRE_BOTH, 0, [2, 3]),
    ],
)  # fmt: skip
def test_our_orders_do_not_trade_with_each_other(mode: SelfTrade, left: int, expired: list[int]) -> None:
    market = Market()
    market.snapshot((1, 98, 1), (-1, 101, 1), (-1, 103, 5))
    market.submit(-1, 102, 2)
    events = market.submit(1, 102, 4, self_trade=mode)
    assert [int(size) for size in events["size"][events["kind"] == EventKind.FILL]] == [1]
    ends = events[events["kind"] == EventKind.EXPIRED]
    assert [int(event["remaining"]) for event in ends] == expired
    assert set(ends["reason"].tolist()) == {Refusal.SELF_TRADE} and len(market.resting()) == left


def test_what_we_took_stays_taken_until_the_level_is_gone() -> None:
    market = Market()
    market.snapshot((1, 99, 4), (-1, 101, 5))
    market_order = {"order_type": OrderType.MARKET}
    assert told(market.submit(1, 0, 4, **market_order), True)[0][1:] == (101, 4)  # type: ignore[arg-type]
    market.diff((-1, 101, 7))
    assert told(market.submit(1, 0, 9, **market_order), True)[0][1:] == (101, 3)  # type: ignore[arg-type]
    market.diff((-1, 101, 6))
    assert told(market.submit(1, 0, 9, **market_order), True) == []  # type: ignore[arg-type]
    market.diff((-1, 101, 0))
    market.diff((-1, 101, 2))
    assert told(market.submit(1, 0, 9, **market_order), True)[0][1:] == (101, 2)  # type: ignore[arg-type]


def test_the_mark_price_is_the_recorded_one_else_the_middle() -> None:
    market = Market()
    assert market.market.mark_price(0) == 0
    market.snapshot((1, 99, 4), (-1, 102, 5))
    assert market.market.mark_price(0) == 100
    market.records((Kind.MARK_PRICE, 0, 1_234_567_890, 0))
    assert market.market.mark_price(0) == 123
