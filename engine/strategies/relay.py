"""The relay: stands in execution for a strategy that runs in a process of its own, and quotes what that one said last.

Purpose: a TARGET record says what such a strategy wants; its words are kept in the relay's memory of the instrument,
and this kernel makes quotes of them, at TARGET, PREDICTION and CLOCK records, as any compiled strategy does.
Rules:
  stale    a target is as old as the event that it answers. Older than stale_ns of record time, it is worth nothing:
           both quotes are taken back until a younger one comes.
  once     at most one order a side for one target. An order that was filled, or refused, is not sent again until the
           strategy says so again; one that rests already at the wanted price is the target's order.
  seen     an order is sent only where the strategy had seen every fill of its own when it said so. One that had not
           says something else as soon as it has.
  at once  buying and selling at once happens at the TARGET record itself, or not at all.
  ended    a target of a process that has ended is refused, and what it wanted is forgotten (Kind.ABSENT).
Invariants: a function of the records taken, so a replay needs nothing of the strategy but its targets. It never wants
what was not said.
Cost: some 10 ns an event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Kind
from engine.strategies.plugin import strategy
from engine.strategies.quotes import Working

RELAY_CODE = int.from_bytes(b"relay", "big")


@dataclass(frozen=True)
class NoParameters:
    """Its own are none: the words in its place are the parameters of the strategy that it stands for."""


class RelayState:
    """What it knows of an instrument: the last target, and what came of it."""

    targets: int  # taken
    life: int  # of the process that said the last one
    ended: int  # lives that have ended
    sequence: int  # of the last target in its life
    ingest_id: int  # of the event that it answers
    event_ns: int  # record time of that event; 0: there is no target
    said_ns: int  # when it was said
    fills: int  # fills of its own that the strategy had seen
    fair_price: float
    bid_price: int
    bid_size: int
    bid_order_type: int
    bid_time_in_force: int
    bid_at_once: int
    bid_tried: int  # 1: it has its order
    ask_price: int
    ask_size: int
    ask_order_type: int
    ask_time_in_force: int
    ask_at_once: int
    ask_tried: int
    stale_ns: int  # how old a target may be; set at the start
    stale: int  # 1: the last target wanted something and is too old
    went_stale: int  # how often one became so
    unseen: int  # targets that sent no order because a fill of its own was not known yet
    passed_over: int  # events that the strategy was too slow to look at


@kernel()
def _quote_side(
    event: np.record, quote: np.record, price: int, size: int, order_type: int, time_in_force: int, at_once: int,
    tried: int, seen: bool,
) -> int:
    """Write the target of one quote. Returns what is to be noted as tried; 2 for an order held back by a fill."""
    if size <= 0:
        quote.target_price = 0
        quote.target_size = 0
        return tried
    if tried == 1:
        if quote.working == Working.NONE:  # it is done
            quote.target_price = 0
            quote.target_size = 0
        return tried
    if at_once == 1 and (event.kind != Kind.TARGET or quote.working != Working.NONE):
        return 1
    if quote.working == Working.NONE and not seen:
        quote.target_price = 0
        quote.target_size = 0
        return 2
    quote.target_price = price
    quote.target_size = size
    quote.target_order_type = order_type
    quote.target_time_in_force = time_in_force
    quote.at_once = at_once
    quote.not_before_ns = 0
    if quote.working == Working.NONE or (quote.working == Working.RESTING and quote.order_price == price):
        return 1
    return 0


@strategy(NoParameters, RelayState)
def on_event(
    event: np.record, view: np.record, own: np.record, parameters: np.record, state: np.record, quotes: np.record
) -> None:
    """See the module."""
    own.fair_price = state.fair_price
    if state.event_ns == 0 or event.now_ns - state.event_ns > state.stale_ns:
        if state.event_ns != 0 and state.stale == 0 and (state.bid_size > 0 or state.ask_size > 0):
            state.stale = 1
            state.went_stale += 1
        quotes.bid.target_price = 0
        quotes.bid.target_size = 0
        quotes.ask.target_price = 0
        quotes.ask.target_size = 0
        return
    seen = state.fills == own.fills
    bid = _quote_side(
        event, quotes.bid, state.bid_price, state.bid_size, state.bid_order_type, state.bid_time_in_force,
        state.bid_at_once, state.bid_tried, seen,
    )
    ask = _quote_side(
        event, quotes.ask, state.ask_price, state.ask_size, state.ask_order_type, state.ask_time_in_force,
        state.ask_at_once, state.ask_tried, seen,
    )
    if bid == 2 or ask == 2:
        state.unseen += 1
    state.bid_tried = 1 if bid > 0 else 0
    state.ask_tried = 1 if ask > 0 else 0


_STATE = on_event.state_dtype
_WORDS = _STATE.itemsize // 8
STALE_NS = list(RelayState.__annotations__).index("stale_ns")  # the word of its memory that the start writes


@kernel()
def _is_sound(price: int, size: int, order_type: int, time_in_force: int) -> bool:
    """False for a target that no strategy can mean."""
    if price < 0 or size < 0 or (size > 0 and price == 0):
        return False
    return order_type <= 1 and time_in_force <= 3


@kernel(makes_arrays=True)
def take_target(memory: np.ndarray, record: np.record, now_ns: int) -> int:
    """Keep a TARGET record in the memory of its instrument, int64[STATE_WORDS].

    Returns Reason.NONE, ENDED_PROCESS where nothing was kept, or STRATEGY_FAULT: then nothing is wanted on either side.
    """
    state = memory[:_WORDS].view(_STATE)[0]
    if record.aux <= state.ended:
        return Reason.ENDED_PROCESS.value
    state.targets += 1
    state.life = record.aux
    state.sequence = record.sequence
    state.ingest_id = record.ingest_id
    # It may have seen an event that execution has still to take; nothing is younger than now.
    state.event_ns = min(record.event_ns, now_ns)
    state.said_ns = record.recv_ts_ns
    state.fills = record.fills
    state.fair_price = record.fair_price
    state.passed_over += record.size
    state.stale = 0
    state.bid_tried = 0
    state.ask_tried = 0
    sound = _is_sound(
        record.bid_price, record.bid_size, record.bid_order_type, record.bid_time_in_force
    ) and _is_sound(record.ask_price, record.ask_size, record.ask_order_type, record.ask_time_in_force)
    if record.reason != Reason.NONE or not sound:
        state.bid_size = 0
        state.ask_size = 0
        return Reason.STRATEGY_FAULT.value
    state.bid_price = record.bid_price
    state.bid_size = record.bid_size
    state.bid_order_type = record.bid_order_type
    state.bid_time_in_force = record.bid_time_in_force
    state.bid_at_once = record.bid_at_once
    state.ask_price = record.ask_price
    state.ask_size = record.ask_size
    state.ask_order_type = record.ask_order_type
    state.ask_time_in_force = record.ask_time_in_force
    state.ask_at_once = record.ask_at_once
    return Reason.NONE.value


@kernel(makes_arrays=True)
def forget_target(memory: np.ndarray, lives: int) -> None:
    """So many processes of the strategy have ended: what the last one wanted counts no more."""
    state = memory[:_WORDS].view(_STATE)[0]
    state.ended = max(state.ended, lives)
    if state.life <= state.ended:
        state.event_ns = 0
        state.bid_size = 0
        state.ask_size = 0


def relay_memory(words: np.ndarray) -> np.void:
    """The relay's memory of one instrument, by its names. words: int64[STATE_WORDS]."""
    record: np.void = np.ascontiguousarray(words[:_WORDS]).view(_STATE)[0]
    return record


def relay_counts(memory: np.ndarray) -> dict[str, int]:
    """What became of the targets of one strategy. memory: int64 of shape (MAX_INSTRUMENTS, STATE_WORDS)."""
    words = list(RelayState.__annotations__)
    counted = ("targets", "passed_over", "went_stale", "unseen")
    return {name: int(memory[:, words.index(name)].sum()) for name in counted}
