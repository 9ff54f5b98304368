"""The relay, which quotes in execution what a strategy in another process said last; and the records that say it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.execution.kernel import MAX_OUT
from engine.execution.summary import decision_hash, strategy_summary
from engine.reasons import Reason
from engine.records import (
    MARKET,
    SOURCE_TARGETS,
    TARGET,
    TARGET_SOURCES,
    Kind,
    OrderAction,
    ReportKind,
    TimeInForce,
)
from engine.strategies import momentum
from engine.strategies.context import EVENT, OWN
from engine.strategies.plugin import STATE_WORDS, Bound, bind
from engine.strategies.quotes import QUOTE, QUOTES, Working
from engine.strategies.relay import (
    RELAY_CODE,
    STALE_NS,
    RelayState,
    forget_target,
    on_event,
    relay_memory,
    take_target,
)
from tests.execution_harness import (
    BTC,
    ETH,
    MS,
    START_NS,
    Input,
    command,
    control,
    feed,
    make_state,
    opening,
    prediction,
    record_of,
    report,
    step,
)
from tests.test_gate import new_view

BID, ASK = 60_000_00, 60_000_10
STALE_MS = 200
RELAY = on_event.state_dtype


def relayed(**options: Any) -> Bound:
    """A strategy in a process of its own, of which nothing is there but its parameters."""
    made = {"name": "slow", "stale_ms": STALE_MS, "symbols": ("BTCUSDT",)} | options
    return bind(made["name"], on_event, {}, RELAY_CODE, made["symbols"], made["stale_ms"])


def target(ms: int, sequence: int = 1, source: int = SOURCE_TARGETS, **fields: Any) -> Input:
    """A TARGET that answers an event so long after the start; it wants what is named, post only."""
    values = {
        "ingest_id": 10 + ms, "event_ns": START_NS + ms * MS, "aux": 1, "sequence": sequence,
        "bid_time_in_force": TimeInForce.GTX, "ask_time_in_force": TimeInForce.GTX, **fields,
    }
    return source, record_of(TARGET, Kind.TARGET, recv_ts_ns=START_NS + ms * MS + 1, **values)


def quote(ms: int, instrument: int = 0, bid: int = BID, ask: int = ASK) -> Input:
    return prediction(START_NS + ms * MS, 10 + ms, instrument, bid, ask)


def clock(ms: int) -> Input:
    return control(Kind.CLOCK, START_NS + ms * MS)


def trading(*strategies: Bound, **options: Any) -> np.ndarray:
    """A state that trades and has seen a market."""
    state = make_state(strategies=strategies or (relayed(),), **options)
    feed(state, [*([] if options.get("open_loop") else opening(START_NS)), quote(0)])
    if options.get("open_loop"):
        feed(state, [control(Kind.BOOK_VALID, START_NS, 1, instrument=0), quote(0)])
    return state


def accepted(state: np.ndarray, orders: np.ndarray, ms: int) -> None:
    for order in orders[orders["kind"] == OrderAction.NEW]:
        step(state, report(ReportKind.ACCEPTED, START_NS + ms * MS, int(order["order_id"]), venue_order_id=1))


def filled(state: np.ndarray, order: Any, ms: int, trade_id: int) -> None:
    step(state, report(
        ReportKind.FILL, START_NS + ms * MS, int(order["order_id"]), instrument=0, side=int(order["side"]),
        price=int(order["price"]), size=int(order["size"]), trade_id=trade_id, cumulative_size=int(order["size"]),
    ))  # fmt: skip


def memory(state: np.ndarray, place: int = 0, index: int = 0) -> np.void:
    return relay_memory(state[0]["strategies"]["memory"][place, index])


def shown(orders: np.ndarray) -> list[tuple[str, int, int, int]]:
    return [(OrderAction(o["kind"]).name, int(o["side"]), int(o["price"]), int(o["size"])) for o in orders]


# --- the record and the memory --------------------------------------------------------------------------------------


def test_a_target_is_two_cache_lines_and_the_memory_of_the_relay_fits() -> None:
    assert TARGET.itemsize == 128 and list(TARGET.fields or ())[: len(MARKET.names or ())] == list(MARKET.names or ())
    assert RELAY.itemsize <= 8 * STATE_WORDS and all(RELAY[name].itemsize == 8 for name in RELAY.names or ())
    assert RELAY.fields is not None and RELAY.fields["stale_ns"][1] == 8 * STALE_NS
    assert list(RELAY.names or ()) == list(RelayState.__annotations__)


def test_every_word_of_a_target_reaches_the_memory() -> None:
    words = np.zeros(STATE_WORDS, np.int64)
    _, record = target(
        5, sequence=9, aux=3, size=4, fills=2, fair_price=60_000_05.5, bid_price=BID, bid_size=7, bid_order_type=0,
        bid_time_in_force=1, bid_at_once=1, ask_price=ASK, ask_size=8, ask_time_in_force=3,
    )
    assert take_target(words, record[0], START_NS + 100 * MS) == Reason.NONE
    kept = relay_memory(words)
    told = {
        "targets": 1, "life": 3, "ended": 0, "sequence": 9, "ingest_id": 15, "event_ns": START_NS + 5 * MS,
        "said_ns": START_NS + 5 * MS + 1, "fills": 2, "fair_price": 60_000_05.5, "bid_price": BID, "bid_size": 7,
        "bid_order_type": 0, "bid_time_in_force": 1, "bid_at_once": 1, "bid_tried": 0, "ask_price": ASK, "ask_size": 8,
        "ask_order_type": 0, "ask_time_in_force": 3, "ask_at_once": 0, "ask_tried": 0, "stale_ns": 0, "stale": 0,
        "went_stale": 0, "unseen": 0, "passed_over": 4,
    }  # fmt: skip
    assert {name: kept[name].item() for name in RELAY.names or ()} == told
    take_target(words, record[0], START_NS + 3 * MS)
    assert relay_memory(words)["event_ns"] == START_NS + 3 * MS, "nothing is younger than now"
    assert relay_memory(words)["passed_over"] == 8
    forget_target(words, 2)
    assert relay_memory(words)["event_ns"] == START_NS + 3 * MS, "the second life ended, the third one said it"
    forget_target(words, 3)
    assert [relay_memory(words)[name] for name in ("ended", "event_ns", "bid_size", "ask_size")] == [3, 0, 0, 0]
    assert take_target(words, record[0], START_NS) == Reason.ENDED_PROCESS
    assert relay_memory(words)["targets"] == 2


def test_the_table_says_which_strategies_are_apart_and_how_long_their_targets_last() -> None:
    taker = bind("momentum", momentum.on_event, {}, 77)
    state = make_state(strategies=(relayed(name="one"), taker, relayed(name="two", stale_ms=70)))
    table = state[0]["strategies"]
    assert table["apart"][:4].tolist() == [1, 0, 2, 0]
    assert [int(memory(state, place)["stale_ns"]) for place in range(3)] == [STALE_MS * MS, 0, 70 * MS]


# --- the kernel against its rules in plain Python -------------------------------------------------------------------


class Rules:
    """The rules in the header of engine/strategies/relay.py, for one side."""

    def __init__(self) -> None:
        self.tried = False

    def wanted(self, said: dict[str, int], quote: np.void, fresh: bool, seen: bool, at_target: bool) -> Any:
        """(price, size, at once) that the quote must have then; None: as it was."""
        nothing = (0, 0, 0)
        none, same = quote["working"] == Working.NONE, quote["order_price"] == said["price"]
        if not fresh:
            return nothing
        if said["size"] == 0:
            return nothing
        if self.tried:
            return nothing if none else None
        if said["at_once"] and not (at_target and none):
            self.tried = True
            return None
        if none and not seen:
            self.tried = True
            return nothing
        self.tried = none or (quote["working"] == Working.RESTING and same)
        return said["price"], said["size"], said["at_once"]


@pytest.mark.parametrize("seed", range(6))
def test_the_kernel_does_what_its_rules_say(seed: int) -> None:
    dice = random.Random(seed)
    event, view, own, quotes = np.zeros(1, EVENT), new_view(), np.zeros(1, OWN), np.zeros(2, QUOTE)
    words, none = np.zeros(STATE_WORDS, np.int64), np.zeros(1, on_event.parameters_dtype)
    words[STALE_NS] = STALE_MS * MS
    rules, said, event_ns, fills = (Rules(), Rules()), [{"price": 0, "size": 0, "at_once": 0}] * 2, 0, 0
    now, met = START_NS, set()
    for _ in range(3_000):
        now += dice.choice((0, 10, 10, 90)) * MS
        kind = dice.choice((Kind.PREDICTION, Kind.CLOCK, Kind.TARGET))
        if kind == Kind.TARGET:
            said = [
                {"price": dice.choice((BID, ASK)), "size": dice.choice((0, 5)), "at_once": dice.choice((0, 0, 1))}
                for _ in range(2)
            ]
            event_ns, fills = now - dice.choice((0, 50, 300)) * MS, dice.choice((0, 0, 1))
            fields = {f"{side}_{name}": value for side, one in zip(("bid", "ask"), said, strict=True)
                      for name, value in one.items()}  # fmt: skip
            record = record_of(TARGET, Kind.TARGET, event_ns=event_ns, fills=fills, aux=1, **fields)
            assert take_target(words, record[0], now) == Reason.NONE
            rules = (Rules(), Rules())
        elif dice.random() < 0.02:
            forget_target(words, 0)
        own["fills"] = dice.choice((0, 0, 0, 1))
        event["kind"], event["now_ns"] = kind, now
        for place in range(2):
            quotes[place]["working"] = dice.choice(tuple(Working))
            quotes[place]["order_price"] = dice.choice((BID, ASK))
            quotes[place]["at_once"] = 0
        fresh = event_ns > 0 and now - event_ns <= STALE_MS * MS
        before = quotes.copy()
        expected = [
            rules[place].wanted(said[place], before[place], fresh, fills == own["fills"][0], kind == Kind.TARGET)
            for place in range(2)
        ]
        relay_state = words[: RELAY.itemsize // 8].view(RELAY)
        on_event.function(event[0], view[0], own[0], none[0], relay_state[0], quotes.view(QUOTES)[0])
        for place in range(2):
            names = ("target_price", "target_size", "at_once")
            found = tuple(int(quotes[place][name]) for name in names)
            wanted = expected[place] or tuple(int(before[place][name]) for name in names)
            assert found[:2] == wanted[:2] and (found[2] == wanted[2] or found[1] == 0)
            met.add((fresh, expected[place] is None, bool(expected[place] and expected[place][1])))
    assert len(met) >= 4, "every rule was met"


# --- in execution ---------------------------------------------------------------------------------------------------


def test_a_target_becomes_orders_at_once_and_stands() -> None:
    state = trading()
    orders = step(state, target(1, bid_price=BID, bid_size=5, ask_price=ASK, ask_size=4))
    assert shown(orders) == [("NEW", 1, BID, 5), ("NEW", -1, ASK, 4)]
    assert orders["ingest_id"].tolist() == [10, 10], "of the last frame that execution has seen"
    assert state["now_ns"][0] == START_NS, "a target does not move the clock"
    accepted(state, orders, 2)
    assert len(feed(state, [quote(3), clock(4)])) == 0
    moved = step(state, target(5, 2, bid_price=BID - 10, bid_size=5, ask_price=ASK, ask_size=4))
    assert shown(moved) == [("CANCEL", 1, BID, 5)]
    step(state, report(ReportKind.CANCELLED, START_NS + 6 * MS, int(orders["order_id"][0])))
    assert shown(step(state, quote(7))) == [("NEW", 1, BID - 10, 5)]
    summary = strategy_summary(state, ["slow"], [BTC, ETH])["slow"]
    assert summary["process"] == {"targets": 2, "passed_over": 0, "went_stale": 0, "unseen": 0}
    assert summary["intents"] == 4 == int(state["intents"][0])


def test_a_stale_target_takes_its_quotes_back_on_record_time() -> None:
    state = trading()
    orders = step(state, target(0, bid_price=BID, bid_size=5))
    accepted(state, orders, 2)
    assert len(step(state, clock(STALE_MS))) == 0
    assert shown(step(state, clock(1 + STALE_MS))) == [("CANCEL", 1, BID, 5)]
    assert memory(state)["went_stale"] == 1 and memory(state)["stale"] == 1
    step(state, report(ReportKind.CANCELLED, START_NS + 210 * MS, int(orders["order_id"][0])))
    assert len(feed(state, [quote(220), clock(230)])) == 0
    late = step(state, target(20, 2, bid_price=BID, bid_size=5))
    assert len(late) == 0 and memory(state)["went_stale"] == 2, "what took so long to say was stale when it came"
    assert shown(step(state, target(230, 3, bid_price=BID, bid_size=5))) == [("NEW", 1, BID, 5)]


def test_a_filled_order_is_sent_again_only_when_it_is_said_again_by_who_knows_of_the_fill() -> None:
    state = trading()
    orders = step(state, target(1, bid_price=BID, bid_size=5))
    accepted(state, orders, 2)
    filled(state, orders[0], 3, 1)
    assert len(feed(state, [quote(4), clock(10)])) == 0
    assert len(step(state, target(5, 2, bid_price=BID, bid_size=5))) == 0, "it did not know of the fill"
    assert memory(state)["unseen"] == 1
    assert len(step(state, quote(11))) == 0
    assert shown(step(state, target(12, 3, bid_price=BID, bid_size=5, fills=1))) == [("NEW", 1, BID, 5)]


def test_an_order_that_the_venue_refused_is_not_sent_again_by_itself() -> None:
    state = trading()
    orders = step(state, target(1, bid_price=BID, bid_size=5))
    refused = {"reason": Reason.WOULD_TAKE}
    step(state, report(ReportKind.REJECTED, START_NS + 2 * MS, int(orders["order_id"][0]), **refused))
    assert len(feed(state, [quote(3), quote(4), clock(10)])) == 0
    assert len(step(state, target(5, 2, bid_price=BID, bid_size=5))) == 1


def test_what_is_to_be_done_at_once_is_done_when_the_target_comes_or_never() -> None:
    ioc = {"bid_price": ASK, "bid_size": 5, "bid_time_in_force": TimeInForce.IOC, "bid_at_once": 1}
    state = trading()
    (order,) = step(state, target(1, **ioc))
    assert (order["side"], order["time_in_force"], order["price"]) == (1, TimeInForce.IOC, ASK)
    step(state, report(ReportKind.EXPIRED, START_NS + 2 * MS, int(order["order_id"])))
    assert len(feed(state, [quote(3), clock(10)])) == 0
    step(state, control(Kind.BOOK_INVALID, START_NS + 11 * MS, 20, instrument=0))
    assert len(step(state, target(11, 2, **ioc))) == 0
    step(state, control(Kind.BOOK_VALID, START_NS + 12 * MS, 21, instrument=0))
    assert len(feed(state, [quote(13), clock(20)])) == 0, "its moment has passed"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"strategy": 1}, Reason.BAD_NUMBER), ({"strategy": 255}, Reason.BAD_NUMBER),
        ({"instrument": 1}, Reason.NO_INSTRUMENT), ({"instrument": 60_000}, Reason.NO_INSTRUMENT),
        ({"kind": Kind.PARAMETER}, Reason.UNKNOWN_STREAM), ({"source": SOURCE_TARGETS + 1}, Reason.BAD_NUMBER),
        ({"source": SOURCE_TARGETS + TARGET_SOURCES - 1}, Reason.BAD_NUMBER), ({"aux": 0}, Reason.ENDED_PROCESS),
    ],
)  # fmt: skip
def test_a_target_that_is_none_of_this_strategy_is_quarantined(fields: dict[str, int], reason: Reason) -> None:
    state = trading()
    source, record = target(1, source=fields.pop("source", SOURCE_TARGETS), bid_price=BID, bid_size=5)
    for name, value in fields.items():
        record[name] = value
    assert len(step(state, (source, record))) == 0
    assert state[0]["quarantined"][reason] == 1 and memory(state)["targets"] == 0


def test_there_is_no_source_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="no such source"):
        step(trading(), target(1, source=SOURCE_TARGETS + TARGET_SOURCES))


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": Reason.STRATEGY_FAULT}, {"bid_price": -1}, {"bid_size": -1}, {"bid_price": 0, "bid_size": 5},
        {"ask_order_type": 2}, {"bid_time_in_force": 4},
    ],
)  # fmt: skip
def test_a_fault_takes_both_quotes_back_and_is_counted(fields: dict[str, int]) -> None:
    state = trading()
    both = {"bid_price": BID, "bid_size": 5, "ask_price": ASK, "ask_size": 4}
    accepted(state, step(state, target(1, **both)), 2)
    orders = step(state, target(3, 2, **{**both, **fields}))
    assert {one[:2] for one in shown(orders)} == {("CANCEL", 1), ("CANCEL", -1)}
    assert state[0]["strategies"]["books"][0, 0]["faults"] == 1
    assert state[0]["denied"][Reason.STRATEGY_FAULT] == 1 and state[0]["quarantined"].sum() == 0


def test_the_end_of_its_process_takes_its_quotes_back_and_what_it_left_counts_no_more() -> None:
    state = trading(relayed(), relayed(name="other"))
    accepted(state, step(state, target(1, bid_price=BID, bid_size=5)), 2)
    kept = step(state, target(1, source=SOURCE_TARGETS + 1, strategy=1, bid_price=BID - 10, bid_size=5))
    accepted(state, kept, 2)
    absent = command(Kind.ABSENT, START_NS + 3 * MS, instrument=0, aux=1)
    assert shown(step(state, absent)) == [("CANCEL", 1, BID, 5)]
    assert len(step(state, target(4, 2, bid_price=BID, bid_size=5))) == 0
    assert state[0]["quarantined"][Reason.ENDED_PROCESS] == 1
    assert state[0]["quotes"][1, 0, 0]["target_size"] == 5, "the other one's stand"
    feed(state, [quote(5)])
    first = int(memory(state)["targets"])
    step(state, target(6, 1, aux=2, bid_price=BID, bid_size=5))
    assert memory(state)["targets"] == first + 1 and memory(state)["life"] == 2
    for wrong in (command(Kind.ABSENT, START_NS + 7 * MS, instrument=2), command(Kind.ABSENT, START_NS, instrument=9)):
        before = int(state[0]["quarantined"][Reason.BAD_NUMBER])
        step(state, wrong)
        assert state[0]["quarantined"][Reason.BAD_NUMBER] == before + 1


def test_its_orders_pass_the_gate_and_never_meet_our_own() -> None:
    state = trading(relayed(), relayed(name="other"))
    accepted(state, step(state, target(1, ask_price=ASK, ask_size=5)), 2)
    takes = {"bid_price": ASK, "bid_size": 5, "bid_time_in_force": TimeInForce.IOC, "bid_at_once": 1, "strategy": 1}
    assert len(step(state, target(3, source=SOURCE_TARGETS + 1, **takes))) == 0
    assert state[0]["denied"][Reason.SELF_TRADE] == 1
    assert len(step(state, target(4, 2, bid_price=BID + 3, bid_size=5))) == 1, "the cancel of the ask, and no bid"
    assert state[0]["denied"][Reason.OFF_TICK] == 1


def test_a_target_waits_while_nothing_may_be_quoted_and_is_dropped_when_it_grows_old() -> None:
    state = trading()
    feed(state, [command(Kind.READINESS, START_NS + MS, aux=4)])
    assert len(step(state, target(2, bid_price=BID, bid_size=5))) == 0
    feed(state, [command(Kind.READINESS, START_NS + 5 * MS, aux=0)])
    assert shown(step(state, quote(6))) == [("NEW", 1, BID, 5)]
    feed(state, [command(Kind.READINESS, START_NS + 7 * MS, aux=4), target(8, 2, ask_price=ASK, ask_size=5)])
    feed(state, [command(Kind.READINESS, START_NS + 300 * MS, aux=0)])
    assert not (feed(state, [quote(301)])["kind"] == OrderAction.NEW).any()


# --- no order of it without a fresh target --------------------------------------------------------------------------

_SIDE = st.tuples(st.sampled_from((BID - 20, BID - 10, BID)), st.integers(0, 3))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("target"), _SIDE, _SIDE, st.integers(0, 400), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("quote"), st.integers(0, 60)), st.tuples(st.just("clock"), st.integers(0, 260)),
        st.tuples(st.just("death")), st.tuples(st.just("invalid")), st.tuples(st.just("not ready")),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=150)
@given(_STEPS)
@example([("target", (BID - 20, 0), (BID - 20, 1), STALE_MS, 0, 0)])
@example([("target", (BID - 20, 0), (BID - 20, 1), STALE_MS + 1, 0, 0)])
def test_whatever_comes_in_whatever_order_nothing_is_sent_that_was_not_said_of_late(steps: list[Any]) -> None:
    state = trading(open_loop=True)
    now, ended, sequence = 0, 0, 0  # the market that it has seen is of this time
    said: dict[str, Any] = {}  # the last target taken
    sent: dict[int, int] = {1: 0, -1: 0}  # orders of it, by side
    inputs: list[Input] = []
    for one in steps:
        if one[0] == "target":
            (_, bid, ask, age, life_back, reason) = one
            sequence += 1
            life = ended + 1 - life_back
            fields = {"bid_price": bid[0], "bid_size": bid[1], "ask_price": ask[0] + 40, "ask_size": ask[1]}
            item = target(now - age, sequence, aux=life, reason=Reason.STRATEGY_FAULT * reason, **fields)
            if life > ended:
                said = {"event": now - age, 1: bid, -1: (ask[0] + 40, ask[1])} if not reason else {}
                sent = {1: 0, -1: 0}
        elif one[0] == "death":
            ended += 1
            said = {}
            item = command(Kind.ABSENT, START_NS + now * MS, aux=ended)
        elif one[0] == "not ready":
            item = command(Kind.READINESS, START_NS + now * MS, aux=now % 2)
        elif one[0] == "invalid":
            item = control(Kind.BOOK_INVALID, START_NS + now * MS, instrument=0)
        else:
            now += one[1]
            if one[0] == "quote":
                inputs.append(control(Kind.BOOK_VALID, START_NS + now * MS, instrument=0))
                step(state, inputs[-1])
            item = quote(now) if one[0] == "quote" else clock(now)
        inputs.append(item)
        orders = step(state, item)
        assert len(orders) <= MAX_OUT
        for order in orders[orders["kind"] == OrderAction.NEW]:
            side = int(order["side"])
            assert said and now - said["event"] <= STALE_MS, "an order of a target that is stale, or of none"
            assert (int(order["price"]), int(order["size"])) == said[side]
            sent[side] += 1
            assert sent[side] == 1, "one order a side for one target"
        resting = state[0]["orders"]["open_size"][0]
        if one[0] in ("clock", "quote") and not (said and now - said["event"] <= STALE_MS):
            assert resting.tolist() == [0, 0], "what is stale rests no longer"
    again = make_state(strategies=(relayed(),), open_loop=True)
    feed(again, [quote(0), control(Kind.BOOK_VALID, START_NS, 1, instrument=0), quote(0), *inputs])
    assert decision_hash(again) == decision_hash(state)
