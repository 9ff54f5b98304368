"""The other traders: a seeded flow of limit, market and cancel arrivals around a hidden price.

Model: the hidden price is a random walk plus mean-reverting noise. Arrivals are a Poisson process (exponential gaps)
of limit orders, market orders and cancels of resting orders; cancels come in proportion to what rests. The gap
between hidden price and mid tilts the side of each: with the hidden price above the mid come more bids, market buys
and cancelled asks. The book leans before the mid moves, so queue imbalance and trade imbalance predict it. Limit
orders are placed at a geometric distance from the opposite touch, in the manner of Cont, Stoikov and Talreja, "A
stochastic model for order book dynamics" (2010), with a share of them far out. Sizes are Pareto.
Basis: the mid minus the hidden price, smoothed exponentially over time; the venue's mark price is made of it.
Invariants: driven by given time only; the same seed, times and foreign orders give the same events, bit for bit.
`flow_until` returns early after an arrival that filled somebody's order and when the event array is nearly full:
call it until it says that the time is reached. Cost: about 1 us an arrival.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.matching.book import BOOK, MAX_LEVELS, MAX_ORDERS, put_touch
from engine.matching.commands import cancel_slot, submit_order
from engine.matching.events import EVENT, EventKind
from engine.matching.generator import natural_log, next_counter, scattered, uniform_at
from engine.matching.settings import SymbolSettings
from engine.records import OrderType, Side, TimeInForce
from engine.stage import BYTES
from engine.units import parse_units

FLOW = np.dtype(
    [
        ("counter", "<u8"),  # of the generator
        ("clock_ns", "<i8"),  # time of the last arrival
        ("next_ns", "<i8"),  # time of the next one
        ("arrivals", "<i8"),
        ("tick", "<i8"),  # price units
        ("lot", "<i8"),  # size units
        ("limit_size", "<i8"),  # size units
        ("market_size", "<i8"),
        ("walk", "<f8"),  # hidden price without its noise, price units
        ("noise", "<f8"),  # price units
        ("volatility", "<f8"),  # relative, per square root of a second
        ("limit_rate", "<f8"),  # per second
        ("market_rate", "<f8"),
        ("cancel_rate", "<f8"),  # per second and resting order
        ("near_ticks", "<f8"),
        ("far_ticks", "<f8"),
        ("far_share", "<f8"),
        ("basis", "<f8"),  # smoothed mid minus hidden price, price units
        ("basis_seconds", "<f8"),  # time constant of the smoothing
    ],
    align=True,
)

_BUY = int(Side.BUY)
_SELL = int(Side.SELL)
_LIMIT = int(OrderType.LIMIT)
_GTC = int(TimeInForce.GTC)
_IOC = int(TimeInForce.IOC)
_FILL = int(EventKind.FILL)
_NS = 1_000_000_000.0
_NOISE_TICKS = 1.0  # standard deviation of the noise, in ticks
_NOISE_DECAY = 0.5  # its mean reversion, per second
_TILT_TICKS = 2.0  # gap at which half of the tilt is reached
_LIMIT_TILT = 0.35
_MARKET_TILT = 0.48
_CANCEL_TILT = 0.35
_FEWEST = 12  # orders of a side below which the flow neither takes nor cancels
_LARGEST = 200.0  # sizes are cut at this multiple of the smallest
_ROOM = 64  # event records kept free on top


def new_flow(settings: SymbolSettings, index: int, seed: int, start_ns: int) -> np.ndarray:
    """The state of a flow, FLOW of shape (1,), its clock at start_ns."""
    instrument = settings.instrument(index)
    flow = np.zeros(1, FLOW)
    # Seed and contract are hashed one after the other: streams of neighbouring seeds have nothing in common.
    flow["counter"] = np.uint64(scattered(scattered(seed) + index + 1))
    flow["clock_ns"] = flow["next_ns"] = start_ns
    flow["tick"] = instrument.tick_size
    flow["lot"] = instrument.lot_size
    flow["limit_size"] = parse_units(settings.limit_size, settings.size_exp)
    flow["market_size"] = parse_units(settings.market_size, settings.size_exp)
    flow["walk"] = settings.latent_price * 10**settings.price_exp
    flow["volatility"] = settings.volatility
    flow["limit_rate"] = settings.limit_rate
    flow["market_rate"] = settings.market_rate
    flow["cancel_rate"] = 1.0 / settings.order_lifetime_s
    flow["near_ticks"] = settings.near_ticks
    flow["far_ticks"] = settings.far_ticks
    flow["far_share"] = settings.far_share
    flow["basis_seconds"] = settings.mark_smoothing_s
    return flow


@kernel()
def draw(flow: np.ndarray) -> float:
    """The next uniform number of the flow."""
    flow[0].counter = next_counter(flow[0].counter)
    return uniform_at(flow[0].counter)


@kernel()
def draw_normal(flow: np.ndarray) -> float:
    """A standard normal number, near enough: twelve uniform ones, centred (Irwin-Hall)."""
    total = -6.0
    for _ in range(12):
        total += draw(flow)
    return total


@kernel()
def draw_distance(flow: np.ndarray) -> int:
    """Ticks between a new limit order and the opposite touch, at least 1."""
    mean = flow[0].far_ticks if draw(flow) < flow[0].far_share else flow[0].near_ticks
    return 1 + int(-natural_log(draw(flow)) * mean)


@kernel()
def round_to_lot(flow: np.ndarray, size: float) -> int:
    """Whole lots, at least one."""
    lots = np.int64(size / flow[0].lot)
    return max(lots, 1) * flow[0].lot


@kernel()
def hidden_price(flow: np.ndarray) -> float:
    """Walk plus noise, price units."""
    return flow[0].walk + flow[0].noise


@kernel()
def move_hidden_price(flow: np.ndarray, seconds: float) -> None:
    """Let the hidden price move on."""
    root = np.sqrt(seconds)
    walk = flow[0].walk * (1.0 + flow[0].volatility * root * draw_normal(flow))
    flow[0].walk = max(walk, 1000.0 * flow[0].tick)
    spread = _NOISE_TICKS * flow[0].tick * np.sqrt(2.0 * _NOISE_DECAY) * root
    flow[0].noise += spread * draw_normal(flow) - _NOISE_DECAY * seconds * flow[0].noise


@kernel()
def gap_ticks(flow: np.ndarray, book: np.ndarray) -> float:
    """Hidden price minus mid in ticks; 0 where a side is empty."""
    bids = book[0].level_count[0]
    asks = book[0].level_count[1]
    if bids == 0 or asks == 0:
        return 0.0
    middle = 0.5 * (book[0].level_price[bids - 1] + book[0].level_price[MAX_LEVELS + asks - 1])
    return (hidden_price(flow) - middle) / flow[0].tick


@kernel()
def follow_basis(flow: np.ndarray, book: np.ndarray, seconds: float) -> None:
    """Let the smoothed basis follow the book as it has stood for some seconds."""
    if seconds > 0.0:
        seen = -gap_ticks(flow, book) * flow[0].tick
        flow[0].basis += (seen - flow[0].basis) * seconds / (seconds + flow[0].basis_seconds)


@kernel()
def draw_side(flow: np.ndarray, tilt: float) -> int:
    """BUY with probability (1 + tilt) / 2."""
    return _BUY if draw(flow) < 0.5 + 0.5 * tilt else _SELL


@kernel()
def arrive_limit(
    flow: np.ndarray, book: np.ndarray, side: int, time_ns: int, events: np.ndarray, count: int
) -> int:
    """A resting order at some distance from the opposite touch."""
    tick = flow[0].tick
    opposite = 1 if side == _BUY else 0
    best = book[0].level_count[opposite] - 1
    if best >= 0:
        reference = book[0].level_price[opposite * MAX_LEVELS + best]
    else:
        reference = np.int64(hidden_price(flow) / tick) * tick + side * tick
    price = reference - side * tick * draw_distance(flow)
    size = round_to_lot(flow, flow[0].limit_size * min(1.0 / np.sqrt(draw(flow)), _LARGEST))
    return submit_order(book, 0, side, _LIMIT, _GTC, price, size, 0, time_ns, events, count)


@kernel()
def arrive_market(
    flow: np.ndarray, book: np.ndarray, side: int, gap: float, time_ns: int, events: np.ndarray, count: int
) -> int:
    """An order that takes, larger the further the mid has to go its way.

    It goes neither far beyond the hidden price nor deeper than half of the levels.
    """
    reach = max(gap * side, 0.0)
    size = round_to_lot(flow, flow[0].market_size * min(1.0 / draw(flow), _LARGEST) * (1.0 + reach))
    opposite = 1 if side == _BUY else 0
    first = opposite * MAX_LEVELS
    count_levels = book[0].level_count[opposite]
    best = book[0].level_price[first + count_levels - 1]
    deepest = book[0].level_price[first + count_levels // 2]
    limit = side * min(side * best + flow[0].tick * (2 + np.int64(reach)), side * deepest)
    return submit_order(book, 0, side, _LIMIT, _IOC, limit, size, 0, time_ns, events, count)


@kernel()
def arrive_cancel(
    flow: np.ndarray, book: np.ndarray, side: int, nearest: bool, time_ns: int, events: np.ndarray, count: int
) -> int:
    """Cancel one order of the flow: any of a side, or of a few the one nearest to the touch."""
    chosen = -1
    for _ in range(6):
        slot = book[0].live[np.int64(draw(flow) * book[0].live_count)]
        if book[0].order_owner[slot] == 0 and book[0].order_side[slot] == side:
            if chosen < 0 or side * book[0].order_price[slot] > side * book[0].order_price[chosen]:
                chosen = slot
            if not nearest:
                break
    if chosen < 0:
        return count
    book[0].next_update_id += 1
    count = cancel_slot(book, chosen, time_ns, events, count)
    return put_touch(book, events, count, time_ns)


@kernel()
def arrive(flow: np.ndarray, book: np.ndarray, time_ns: int, events: np.ndarray, count: int) -> int:
    """One arrival."""
    gap = gap_ticks(flow, book)
    tilt = gap / (_TILT_TICKS + abs(gap))
    live = book[0].live_count
    cancels = flow[0].cancel_rate * live
    pick = draw(flow) * (flow[0].limit_rate + flow[0].market_rate + cancels)
    thin = min(book[0].side_orders[0], book[0].side_orders[1]) < _FEWEST
    if thin or live >= MAX_ORDERS // 2:
        pick = 0.0 if thin else flow[0].limit_rate + flow[0].market_rate
    if pick < flow[0].limit_rate:
        return arrive_limit(flow, book, draw_side(flow, _LIMIT_TILT * tilt), time_ns, events, count)
    if pick < flow[0].limit_rate + flow[0].market_rate:
        return arrive_market(flow, book, draw_side(flow, _MARKET_TILT * tilt), gap, time_ns, events, count)
    side = -draw_side(flow, _CANCEL_TILT * tilt)
    return arrive_cancel(flow, book, side, side * gap < -_TILT_TICKS, time_ns, events, count)


@kernel(types.int64(BYTES, BYTES, types.int64, BYTES))
def flow_until(flow_bytes: np.ndarray, book_bytes: np.ndarray, time_ns: int, event_bytes: np.ndarray) -> int:
    """Let arrivals happen up to a time; returns how many events were written.

    The time is reached when the flow's next_ns is beyond it. Returns before that after an arrival that filled an
    order of an owner >= 1 (so that its account can be booked first) or when the event array may become too small.
    An arrival needs less than 2 * live_count + 8 records.
    """
    flow = flow_bytes.view(FLOW)
    book = book_bytes.view(BOOK)
    events = event_bytes.view(EVENT)
    count = 0
    while flow[0].next_ns <= time_ns and count + 2 * book[0].live_count + _ROOM < events.size:
        now = flow[0].next_ns
        elapsed = (now - flow[0].clock_ns) / _NS
        move_hidden_price(flow, elapsed)
        follow_basis(flow, book, elapsed)
        flow[0].clock_ns = now
        before = count
        count = arrive(flow, book, now, events, count)
        flow[0].arrivals += 1
        rate = flow[0].limit_rate + flow[0].market_rate + flow[0].cancel_rate * book[0].live_count
        flow[0].next_ns = now + 1 + np.int64(-natural_log(draw(flow)) / rate * _NS)
        foreign = False
        for index in range(before, count):
            if events[index].kind == _FILL and events[index].maker_owner != 0:
                foreign = True
        if foreign:
            break
    return count
