"""The matching kernel against a list-based exchange that is too simple to be wrong, on generated commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.matching.book import MAX_ORDERS, ORDER_ID_STEP, event_buffer, events_needed, levels, new_book
from engine.matching.commands import amend, cancel, cancel_all, submit
from engine.matching.events import EventKind, Refusal, SelfTrade
from engine.records import OrderType, Side, TimeInForce
from engine.stage import as_bytes

EVENTS, EVENT_BYTES = event_buffer()


class Kernel:
    """The kernel with what the tests need around it."""

    def __init__(self) -> None:
        self.book = new_book(0)
        self.time_ns = 0

    def submit(
        self, owner, side, order_type, time_in_force, price, size, self_trade=SelfTrade.NONE
    ) -> np.ndarray:
        self.time_ns += 1
        room = events_needed(self.book)
        count = submit(
            as_bytes(self.book), owner, side, order_type, time_in_force, price, size, self_trade, self.time_ns,
            EVENT_BYTES,
        )
        assert count <= room
        return EVENTS[:count].copy()

    def amend(self, owner, order_id, price, size, post_only=False, self_trade=SelfTrade.NONE) -> np.ndarray:
        self.time_ns += 1
        room = events_needed(self.book)
        count = amend(
            as_bytes(self.book), owner, order_id, price, size, post_only, self_trade, self.time_ns, EVENT_BYTES
        )
        assert count <= room
        return EVENTS[:count].copy()

    def cancel(self, owner, order_id) -> np.ndarray:
        self.time_ns += 1
        return EVENTS[: cancel(as_bytes(self.book), owner, order_id, self.time_ns, EVENT_BYTES)].copy()

    def cancel_all(self, owner) -> np.ndarray:
        self.time_ns += 1
        return EVENTS[: cancel_all(as_bytes(self.book), owner, self.time_ns, EVENT_BYTES)].copy()


@dataclass
class Resting:
    order_id: int
    owner: int
    side: int
    price: int
    left: int


class ListExchange:
    """Price-time priority by sorting a list for every command."""

    def __init__(self) -> None:
        self.orders: list[Resting] = []  # in order of arrival
        self.next_id = ORDER_ID_STEP

    def _candidates(self, side: int, price: int | None) -> list[Resting]:
        facing = [order for order in self.orders if order.side == -side]
        if price is not None:
            facing = [order for order in facing if side * order.price <= side * price]
        return sorted(facing, key=lambda order: side * order.price)  # stable: time priority

    def submit(
        self, owner, side, order_type, time_in_force, price, size, self_trade=SelfTrade.NONE
    ) -> list[tuple]:
        limit = None if order_type == OrderType.MARKET else price
        facing = self._candidates(side, limit)
        if order_type == OrderType.LIMIT:
            if time_in_force == TimeInForce.GTX and facing:
                return [("rejected", Refusal.WOULD_TAKE)]
            if time_in_force == TimeInForce.FOK:
                self_trade = SelfTrade.NONE
                if sum(order.left for order in facing) < size:
                    return [("rejected", Refusal.CANNOT_FILL)]
        order_id = self.next_id
        self.next_id += ORDER_ID_STEP
        rests = order_type == OrderType.LIMIT and time_in_force in (TimeInForce.GTC, TimeInForce.GTX)
        return [("accepted", order_id), *self._enter(order_id, owner, side, price, size, facing, rests, self_trade)]

    def _enter(self, order_id, owner, side, price, size, facing, rests, self_trade) -> list[tuple]:
        said: list[tuple] = []
        left = size
        for order in facing:
            if left == 0:
                break
            if order.owner == owner and self_trade != SelfTrade.NONE:
                if self_trade in (SelfTrade.EXPIRE_MAKER, SelfTrade.EXPIRE_BOTH):
                    said.append(("prevented", order.order_id, order.left))
                    order.left = 0
                if self_trade in (SelfTrade.EXPIRE_TAKER, SelfTrade.EXPIRE_BOTH):
                    said.append(("prevented", order_id, left))
                    left = 0
                continue
            traded = min(left, order.left)
            left -= traded
            order.left -= traded
            said.append(("fill", order_id, order.order_id, order.price, traded, left, order.left))
        self.orders = [order for order in self.orders if order.left]
        if left and rests:
            self.orders.append(Resting(order_id, owner, side, price, left))
        elif left:
            said.append(("expired", order_id, left))
        return said

    def amend(self, owner, order_id, price, size, post_only=False, self_trade=SelfTrade.NONE) -> list[tuple]:
        mine = [order for order in self.orders if order.order_id == order_id and order.owner == owner]
        if not mine:
            return [("rejected", Refusal.UNKNOWN_ORDER)]
        (order,) = mine
        facing = self._candidates(order.side, price)
        if post_only and facing:
            self.orders.remove(order)
            return [("cancelled", order_id, order.left)]
        said: list[tuple] = [("amended", order_id, price, size)]
        if price == order.price and size <= order.left:
            order.left = size
            return said
        self.orders.remove(order)
        return said + self._enter(order_id, owner, order.side, price, size, facing, True, self_trade)

    def cancel(self, owner, order_id) -> list[tuple]:
        for order in self.orders:
            if order.order_id == order_id and order.owner == owner:
                self.orders.remove(order)
                return [("cancelled", order_id, order.left)]
        return [("rejected", Refusal.UNKNOWN_ORDER)]

    def cancel_all(self, owner) -> list[tuple]:
        gone = [order for order in self.orders if order.owner == owner]
        self.orders = [order for order in self.orders if order.owner != owner]
        return sorted(("cancelled", order.order_id, order.left) for order in gone)

    def levels(self, side: int) -> list[tuple[int, int]]:
        totals: dict[int, int] = {}
        for order in self.orders:
            if order.side == side:
                totals[order.price] = totals.get(order.price, 0) + order.left
        return sorted(totals.items(), key=lambda level: -side * level[0])


def said_by(events: np.ndarray) -> list[tuple]:
    """Lifecycle events in the words of the list exchange."""
    words: list[tuple] = []
    for event in events:
        kind, order_id = EventKind(event["kind"]), int(event["order_id"])
        if kind == EventKind.ACCEPTED:
            words.append(("accepted", order_id))
        elif kind == EventKind.FILL:
            words.append((
                "fill", order_id, int(event["maker_order_id"]), int(event["price"]), int(event["size"]),
                int(event["remaining"]), int(event["maker_remaining"]),
            ))
        elif kind == EventKind.EXPIRED:
            word = "prevented" if event["reason"] == Refusal.SELF_TRADE else "expired"
            words.append((word, order_id, int(event["remaining"])))
        elif kind == EventKind.AMENDED:
            words.append(("amended", order_id, int(event["price"]), int(event["size"])))
        elif kind == EventKind.CANCELLED:
            words.append(("cancelled", order_id, int(event["remaining"])))
        elif kind == EventKind.REJECTED:
            words.append(("rejected", Refusal(event["reason"])))
    return words


NEW = st.tuples(
    st.just("new"),
    st.integers(1, 3),
    st.sampled_from([Side.BUY, Side.SELL]),
    st.sampled_from([OrderType.LIMIT, OrderType.LIMIT, OrderType.LIMIT, OrderType.MARKET]),
    st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTX]),
    st.one_of(st.integers(95, 105), st.sampled_from([1, 10**6, 10**12])),
    st.integers(1, 9),
    st.sampled_from(SelfTrade),
)
IDS = st.integers(1, 60).map(ORDER_ID_STEP.__mul__)
AMEND = st.tuples(
    st.just("amend"), st.integers(1, 3), IDS, st.integers(95, 105), st.integers(1, 9), st.booleans(),
    st.sampled_from(SelfTrade),
)
CANCEL = st.tuples(st.just("cancel"), st.integers(1, 3), IDS)
CANCEL_ALL = st.tuples(st.just("cancel_all"), st.integers(1, 3))
COMMANDS = st.lists(st.one_of(NEW, NEW, NEW, AMEND, AMEND, CANCEL, CANCEL_ALL), max_size=60)


@settings(max_examples=300)
@given(COMMANDS)
def test_kernel_equals_list_exchange(commands):
    """Same events in the same order, same book after every command, and level events that rebuild the book."""
    kernel, oracle = Kernel(), ListExchange()
    rebuilt: dict[tuple[int, int], int] = {}
    touch = (0, 0, 0, 0)
    last_id = 0
    for name, *arguments in commands:
        method = "submit" if name == "new" else name
        events, expected = getattr(kernel, method)(*arguments), getattr(oracle, method)(*arguments)
        said = said_by(events)
        assert (sorted(said) if name == "cancel_all" else said) == expected
        for side in (Side.BUY, Side.SELL):
            assert levels(kernel.book, side, 1000) == oracle.levels(side)
        for event in events:
            if event["kind"] == EventKind.LEVEL:
                assert event["update_id"] > last_id
                last_id = int(event["update_id"])
                rebuilt[int(event["side"]), int(event["price"])] = int(event["size"])
            elif event["kind"] == EventKind.TOUCH:
                assert event["update_id"] == last_id
                touch = tuple(int(event[key]) for key in ("price", "size", "ask_price", "ask_size"))
        for side in (Side.BUY, Side.SELL):
            mine = {price: size for (which, price), size in rebuilt.items() if which == side and size}
            assert mine == dict(oracle.levels(side))
        best = [oracle.levels(side)[0] if oracle.levels(side) else (0, 0) for side in (Side.BUY, Side.SELL)]
        assert touch == (*best[0], *best[1])
        assert int(kernel.book["live_count"][0]) == len(oracle.orders)
        assert kernel.book["side_orders"][0].tolist() == [
            sum(order.side == side for order in oracle.orders) for side in (Side.BUY, Side.SELL)
        ]


@settings(max_examples=50)
@given(COMMANDS)
def test_nothing_is_made_or_lost(commands):
    """What was accepted and added by amendments = twice what traded + what was cancelled or expired + what rests."""
    kernel = Kernel()
    accepted = traded = gone = 0
    for name, *arguments in commands:
        open_before = {
            int(kernel.book["order_id"][0][slot]): int(kernel.book["order_remaining"][0][slot])
            for slot in kernel.book["live"][0][: int(kernel.book["live_count"][0])]
        }
        events = getattr(kernel, "submit" if name == "new" else name)(*arguments)
        sizes = {kind: int(events["size"][events["kind"] == kind].sum()) for kind in EventKind}
        left = {kind: int(events["remaining"][events["kind"] == kind].sum()) for kind in EventKind}
        accepted += sizes[EventKind.ACCEPTED]
        for event in events[events["kind"] == EventKind.AMENDED]:
            accepted += int(event["size"]) - open_before[int(event["order_id"])]
        traded += sizes[EventKind.FILL]
        gone += left[EventKind.CANCELLED] + left[EventKind.EXPIRED]
    resting = sum(size for side in (Side.BUY, Side.SELL) for _, size in levels(kernel.book, side, 1000))
    assert accepted == 2 * traded + gone + resting


def test_time_priority_inside_a_level():
    kernel = Kernel()
    first, second = (
        int(kernel.submit(owner, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 5)[0]["order_id"])
        for owner in (1, 2)
    )
    events = kernel.submit(3, Side.SELL, OrderType.MARKET, TimeInForce.GTC, 0, 7)
    fills = events[events["kind"] == EventKind.FILL]
    assert fills["maker_order_id"].tolist() == [first, second]
    assert fills["size"].tolist() == [5, 2]


def test_ids_have_holes_between_commands():
    """Clients must not expect U = previous u + 1."""
    kernel = Kernel()
    kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 5)
    before = int(kernel.book["last_update_id"][0])
    events = kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 101, 5)
    assert events[events["kind"] == EventKind.LEVEL]["update_id"][0] > before + 1


def test_a_full_book_refuses_by_code_and_recovers():
    kernel = Kernel()
    for number in range(MAX_ORDERS):
        kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 1000 - number % 100, 1)
    events = kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 1000, 1)
    assert said_by(events) == [("rejected", Refusal.BOOK_FULL)]
    taken = kernel.submit(2, Side.SELL, OrderType.MARKET, TimeInForce.GTC, 0, MAX_ORDERS)
    assert (taken["kind"] == EventKind.FILL).sum() == MAX_ORDERS
    assert int(kernel.book["live_count"][0]) == 0
    assert said_by(kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 1000, 1))[0][0] == "accepted"


def test_too_many_levels_refuse_by_code():
    kernel = Kernel()
    answers = [
        said_by(kernel.submit(1, Side.SELL, OrderType.LIMIT, TimeInForce.GTC, 10**6 - number, 1))[0]
        for number in range(2049)
    ]
    assert [answer[0] for answer in answers[:2048]] == ["accepted"] * 2048
    assert answers[2048] == ("rejected", Refusal.BOOK_FULL)


@pytest.mark.parametrize(("price", "size"), [(100, 0), (100, -1), (0, 5), (-3, 5)])
def test_senseless_orders_are_refused(price, size):
    events = Kernel().submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, price, size)
    assert said_by(events) == [("rejected", Refusal.BAD_SIZE)]


def test_an_order_of_somebody_else_cannot_be_cancelled():
    kernel = Kernel()
    order_id = int(kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 5)[0]["order_id"])
    assert said_by(kernel.cancel(2, order_id)) == [("rejected", Refusal.UNKNOWN_ORDER)]
    assert said_by(kernel.cancel(1, order_id)) == [("cancelled", order_id, 5)]


@pytest.mark.parametrize(
    ("price", "size", "first"),
    [(100, 3, True), (100, 5, True), (100, 6, False), (101, 5, False), (99, 5, None)],
)
def test_an_amendment_keeps_its_place_only_for_the_same_price_and_no_more_size(price, size, first):
    """first: whether the amended order is served before the one behind it; None: it waits at a worse price."""
    kernel = Kernel()
    amended, other = (
        int(kernel.submit(owner, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 5)[0]["order_id"])
        for owner in (1, 2)
    )
    kernel.amend(1, amended, price, size)
    if price == 101:  # alone at the better price, so the other one must be made to compete
        kernel.amend(2, other, 101, 5)
        kernel.amend(1, amended, 101, 6)
    events = kernel.submit(3, Side.SELL, OrderType.MARKET, TimeInForce.GTC, 0, 1)
    served = int(events["maker_order_id"][events["kind"] == EventKind.FILL][0])
    assert served == (amended if first else other)


def test_an_amendment_may_trade():
    kernel = Kernel()
    kernel.submit(2, Side.SELL, OrderType.LIMIT, TimeInForce.GTC, 105, 4)
    order_id = int(kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 5)[0]["order_id"])
    words = said_by(kernel.amend(1, order_id, 105, 6))
    assert [word[0] for word in words] == ["amended", "fill"]
    assert levels(kernel.book, Side.BUY, 9) == [(105, 2)]
    assert said_by(kernel.amend(1, order_id, 105, 0)) == [("rejected", Refusal.BAD_SIZE)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (SelfTrade.NONE, ["accepted", "fill", "fill"]),
        (SelfTrade.EXPIRE_TAKER, ["accepted", "prevented"]),
        (SelfTrade.EXPIRE_MAKER, ["accepted", "prevented", "fill"]),
        (SelfTrade.EXPIRE_BOTH, ["accepted", "prevented", "prevented"]),
    ],
)
def test_self_trade_prevention(mode, expected):
    kernel = Kernel()
    kernel.submit(1, Side.SELL, OrderType.LIMIT, TimeInForce.GTC, 100, 5)
    kernel.submit(2, Side.SELL, OrderType.LIMIT, TimeInForce.GTC, 100, 20)
    events = kernel.submit(1, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 8, mode)
    assert [word[0] for word in said_by(events)] == expected
