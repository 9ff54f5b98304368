"""The other traders: a seeded flow of limit, market and cancel arrivals around a value that nobody sees.

Arrivals are a Hawkes process of six kinds (hawkes.py): limit orders, market orders and cancels of either side excite
one another. Its base rates are the settings' times the market's activity (fair_value.py); cancels come in proportion to
what rests. What an earlier arrival caused keeps its side. The side of the others is tilted by the gap between the
hidden price, which is what the public thinks, and the mid: with the hidden price above the mid come more bids, market
buys and cancelled asks. The book leans before the mid moves, so queue imbalance and trade imbalance predict it. A share
of the market orders that nothing provoked is informed: its senders know the fair value, which the public follows with a
lag, and take where that pays the spread. Who makes the market loses to them.

Limit orders are placed at a geometric distance from the opposite touch, in the manner of Cont, Stoikov and Talreja, "A
stochastic model for order book dynamics" (2010), with a share of them far out, and some at the best price that a wide
spread has room for. Sizes are Pareto. Some owners are patient: their orders are chosen less often when one is
cancelled, so lifetimes are a mixture. Whose order is patient is a hash of its id.
Basis: the mid minus the hidden price, smoothed exponentially over time; the venue's mark price is made of it.
Invariants: driven by given time only; the same seed, times and foreign orders give the same events, bit for bit.
`flow_until` returns early after an arrival that filled somebody's order and when the event array is nearly full:
call it until it says that the time is reached. Cost: about 0.5 us an arrival.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.matching.book import BOOK, MAX_LEVELS, MAX_ORDERS, put_touch
from engine.matching.commands import cancel_slot, submit_order
from engine.matching.events import EVENT, EventKind
from engine.matching.fair_value import FAIR_FIELDS, activity, hidden_price, move_fair_value, set_fair_value
from engine.matching.generator import draw, draw_exponential, scattered, uniform_at
from engine.matching.hawkes import (
    BASE,
    HAWKES_FIELDS,
    draw_kind,
    draw_wait,
    excite,
    pass_time,
    set_hawkes,
)
from engine.matching.settings import FlowSettings, SymbolSettings
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
        *FAIR_FIELDS,
        *HAWKES_FIELDS,
        # Base rates at the activity 1: of both sides together.
        ("limit_rate", "<f8"),  # per second
        ("market_rate", "<f8"),
        ("cancel_rate", "<f8"),  # per second and resting order
        ("informed_share", "<f8"),
        ("informed", "<i8"),  # orders of the informed so far
        ("patient_share", "<f8"),
        ("impatience", "<f8"),  # chance that a patient order chosen to be cancelled is
        ("improving_share", "<f8"),
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
# Kinds of the Hawkes process, each twice: of buyers, then of sellers. A cancel is of the side whose order goes.
_LIMITS, _MARKETS, _CANCELS = 0, 2, 4
# Of the arrivals of a kind that others caused: which share of them each kind did, own side first, the other then.
# So they come: takers follow takers of their side, quotes are moved after trades, cancelled orders are placed anew.
_CAUSES = (
    # limits of the same side, of the other; markets; cancels
    (0.45, 0.05, 0.12, 0.08, 0.25, 0.05),  # limits
    (0.03, 0.02, 0.85, 0.04, 0.03, 0.03),  # markets
    (0.25, 0.05, 0.05, 0.20, 0.40, 0.05),  # cancels
)
_TILT_TICKS = 2.0  # gap at which half of the tilt is reached
_LIMIT_TILT = 0.35
_MARKET_TILT = 0.48
_CANCEL_TILT = 0.35
_FEWEST = 12  # orders of a side below which the flow neither takes nor cancels
_LARGEST = 200.0  # sizes are cut at this multiple of the smallest
_ROOM = 64  # event records kept free on top
_CHOICES = 8  # orders looked at for one to cancel


def new_flow(
    settings: SymbolSettings, flow_settings: FlowSettings, index: int, seed: int, start_ns: int
) -> np.ndarray:
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
    # In the long run as many orders are cancelled as are placed, nearly.
    halves = [rate / 2 for rate in (settings.limit_rate, settings.market_rate, settings.limit_rate) for _ in range(2)]
    set_hawkes(
        flow, halves, _causes_by_side(), flow_settings.branching_ratio,
        (1.0 / flow_settings.fast_s, 1.0 / flow_settings.slow_s), flow_settings.fast_share,
    )
    unprovoked = 1.0 - flow_settings.branching_ratio
    flow["limit_rate"] = unprovoked * settings.limit_rate
    flow["market_rate"] = unprovoked * settings.market_rate
    flow["cancel_rate"] = unprovoked / settings.order_lifetime_s
    flow["near_ticks"] = settings.near_ticks
    flow["far_ticks"] = settings.far_ticks
    flow["far_share"] = settings.far_share
    flow["informed_share"] = flow_settings.informed_share
    flow["patient_share"] = flow_settings.patient_share
    flow["impatience"] = 1.0 / flow_settings.patience
    flow["improving_share"] = flow_settings.improving_share
    flow["basis_seconds"] = settings.mark_smoothing_s
    price = settings.latent_price * 10**settings.price_exp
    set_fair_value(flow, flow_settings, price, settings.volatility, start_ns)
    return flow


def _causes_by_side() -> list[list[float]]:
    """_CAUSES for the six kinds."""
    return [
        [row[parent ^ side] for parent in range(len(row))] for row in _CAUSES for side in range(2)
    ]


@kernel()
def draw_distance(flow: np.ndarray) -> int:
    """Ticks between a new limit order and the opposite touch, at least 1."""
    mean = flow[0].far_ticks if draw(flow) < flow[0].far_share else flow[0].near_ticks
    return 1 + int(draw_exponential(flow) * mean)


@kernel()
def round_to_lot(flow: np.ndarray, size: float) -> int:
    """Whole lots, at least one."""
    lots = np.int64(size / flow[0].lot)
    return max(lots, 1) * flow[0].lot


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
    distance = draw_distance(flow)
    if best >= 0 and book[0].level_count[1 - opposite] > 0:
        own = (1 - opposite) * MAX_LEVELS + book[0].level_count[1 - opposite] - 1
        # Who improves the best price goes ahead of it as far as the spread lets.
        if side * (reference - book[0].level_price[own]) > tick and draw(flow) < flow[0].improving_share:
            distance = 1
    price = reference - side * tick * distance
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
    """Cancel one order of the flow: any of a side, patient ones less often; or of a few the one nearest the touch.

    nearest: the price goes against this side, and who would be hit first goes first, patient or not.
    """
    chosen = -1
    for _ in range(_CHOICES):
        slot = book[0].live[np.int64(draw(flow) * book[0].live_count)]
        if book[0].order_owner[slot] != 0 or book[0].order_side[slot] != side:
            continue
        patient = uniform_at(np.uint64(book[0].order_id[slot])) < flow[0].patient_share
        if patient and not nearest and draw(flow) > flow[0].impatience:
            continue
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
def set_base_rates(flow: np.ndarray, book: np.ndarray) -> None:
    """The base rates as they are now, half of each for either side."""
    busy = 0.5 * activity(flow)
    for place in range(2):
        flow[0].base[_LIMITS + place] = busy * flow[0].limit_rate
        flow[0].base[_MARKETS + place] = busy * flow[0].market_rate
        flow[0].base[_CANCELS + place] = busy * flow[0].cancel_rate * book[0].live_count


@kernel()
def informed_gap(flow: np.ndarray, book: np.ndarray) -> float:
    """Fair value minus mid in ticks where taking pays the spread and a tick, else 0."""
    bids = book[0].level_count[0]
    asks = book[0].level_count[1]
    if bids == 0 or asks == 0:
        return 0.0
    bid = book[0].level_price[bids - 1]
    ask = book[0].level_price[MAX_LEVELS + asks - 1]
    gap = (flow[0].fair - 0.5 * (bid + ask)) / flow[0].tick
    return gap if abs(gap) > 0.5 * (ask - bid) / flow[0].tick + 1.0 else 0.0


@kernel()
def arrive(flow: np.ndarray, book: np.ndarray, time_ns: int, events: np.ndarray, count: int) -> int:
    """One arrival."""
    kind = draw_kind(flow)
    family = kind - kind % 2
    side = _BUY if kind % 2 == 0 else _SELL
    gap = gap_ticks(flow, book)
    tilt = gap / (_TILT_TICKS + abs(gap))
    unprovoked = flow[0].next_source == BASE
    live = book[0].live_count
    thin = min(book[0].side_orders[0], book[0].side_orders[1]) < _FEWEST
    if (thin and family != _LIMITS) or (live >= MAX_ORDERS // 2 and family == _LIMITS):
        family = _LIMITS if thin else _CANCELS
        unprovoked = True
    if unprovoked:
        if family == _LIMITS:
            side = draw_side(flow, _LIMIT_TILT * tilt)
        elif family == _CANCELS:
            side = -draw_side(flow, _CANCEL_TILT * tilt)
        else:
            side = draw_side(flow, _MARKET_TILT * tilt)
            known = informed_gap(flow, book)
            if known != 0.0 and draw(flow) < flow[0].informed_share:
                flow[0].informed += 1
                gap = known
                side = _BUY if known > 0.0 else _SELL
    excite(flow, family + (0 if side == _BUY else 1))
    if family == _LIMITS:
        return arrive_limit(flow, book, side, time_ns, events, count)
    if family == _MARKETS:
        return arrive_market(flow, book, side, gap, time_ns, events, count)
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
        pass_time(flow, elapsed)
        move_fair_value(flow, now, elapsed)
        follow_basis(flow, book, elapsed)
        flow[0].clock_ns = now
        before = count
        count = arrive(flow, book, now, events, count)
        flow[0].arrivals += 1
        set_base_rates(flow, book)
        flow[0].next_ns = now + 1 + np.int64(draw_wait(flow) * _NS)
        foreign = False
        for index in range(before, count):
            if events[index].kind == _FILL and events[index].maker_owner != 0:
                foreign = True
        if foreign:
            break
    return count
