"""Records and states as figures for people: plain values, amounts as exact decimal text in the instrument's units."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from engine.features.vector import FEATURE_NAMES
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import SOURCE_TARGETS, Flag, Kind, OrderAction, OrderType, ReportKind, Side, TimeInForce
from engine.risk.gate import Check
from engine.safety.mode import mode_of
from engine.strategies.plugin import Bound
from engine.strategies.quotes import ASK, BID, Working
from engine.strategies.relay import relay_memory
from engine.units import MONEY_EXP, format_units
from procs.explain.moments import Group, Moment
from procs.parameters import memory_of, parameters_of

_REASON_OF_CHECK = {
    Check.OPEN_ORDERS: Reason.TOO_MANY_ORDERS, Check.BACKLOG: Reason.BACKLOG, Check.OWN_ORDERS: Reason.SELF_TRADE,
    Check.TRADING: Reason.NOT_TRADING,
    Check.BOOK: Reason.STALE_DATA, Check.TICK: Reason.OFF_TICK, Check.LOT: Reason.SIZE_RANGE,
    Check.COLLAR_MID: Reason.PRICE_COLLAR, Check.COLLAR_MARK: Reason.PRICE_COLLAR,
    Check.ORDER_VALUE: Reason.ORDER_VALUE, Check.MIN_VALUE: Reason.ORDER_VALUE,
    Check.REDUCES: Reason.POSITION_LIMIT, Check.POSITION_VALUE: Reason.POSITION_LIMIT,
    Check.MESSAGES: Reason.MESSAGE_RATE,
}


def name_of(kind: type[IntEnum], value: int) -> str:
    """The name of a value, or its number where it has none."""
    return kind(value).name if value in kind._value2member_map_ else f"{kind.__name__}_{value}"


def money(value: int) -> str:
    """1e-8 quote as decimal text."""
    return format_units(int(value), MONEY_EXP)


def plain(value: Any) -> Any:
    """A numpy value as numbers, lists and, for records, dictionaries."""
    if isinstance(value, np.void) and value.dtype.names:
        return {name: plain(value[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def order_figures(order: np.void, item: Instrument, strategies: Sequence[Bound]) -> dict[str, Any]:
    """An ORDER record."""
    return {
        "action": name_of(OrderAction, int(order["kind"])), "order_id": int(order["order_id"]), "symbol": item.symbol,
        "side": name_of(Side, int(order["side"])), "price": format_units(int(order["price"]), item.price_exp),
        "size": format_units(int(order["size"]), item.size_exp),
        "type": name_of(OrderType, int(order["order_type"])),
        "time_in_force": name_of(TimeInForce, int(order["time_in_force"])),
        "reduce_only": bool(order["flags"] & Flag.REDUCE_ONLY),
        "strategy": strategy_name(strategies, int(order["strategy"])),
        "ingest_id": int(order["ingest_id"]), "decided_ns": int(order["recv_ts_ns"]),
    }


def strategy_name(strategies: Sequence[Bound], place: int) -> str:
    """Name of the strategy at a place of a session, or its place where there is none."""
    return strategies[place].name if 0 <= place < len(strategies) else f"strategy {place}"


def differences(replayed: np.void, journaled: np.void) -> list[str]:
    """In which fields two records of one dtype differ, in words."""
    names = [name for name in replayed.dtype.names or () if replayed[name].tobytes() != journaled[name].tobytes()]
    return [f"{name}: the replay says {plain(replayed[name])}, the journal {plain(journaled[name])}" for name in names]


def gate_figures(checked: np.void, view: np.void, item: Instrument) -> dict[str, Any]:
    """What the gate saw of an order (CHECKED): every check that it made, with its limit, and the verdict.

    view: MARKET_VIEW right after.
    """
    reason, made = int(checked["reason"]), int(checked["made"])
    checks = []
    for check in Check:
        if not made >> check & 1:
            continue
        seen, limit = int(checked["seen"][check]), int(checked["limit"][check])
        broke = reason != Reason.NONE and made >> (check + 1) == 0
        checks.append({
            "check": check.name, "seen": _amount(check, seen, item), "limit": _amount(check, limit, item),
            "rule": _rule(check, view), "ok": not broke, "reason": _REASON_OF_CHECK[check].name,
        })
    return {
        "passed": reason == Reason.NONE, "reason": name_of(Reason, reason), "checks": checks,
        "position": format_units(int(checked["position"]), item.size_exp),
        "open_same_side": format_units(int(checked["open_same_side"]), item.size_exp),
    }


def _amount(check: Check, value: int, item: Instrument) -> str:
    """A figure of a check in the unit that people know."""
    if check in (Check.OPEN_ORDERS, Check.BACKLOG, Check.OWN_ORDERS):
        return str(value)
    if check == Check.TRADING:
        return _trading(value)
    if check == Check.BOOK:
        return f"{value / 1e6:.3f} ms"
    if check == Check.TICK:
        return format_units(value, item.price_exp)
    if check in (Check.LOT, Check.REDUCES):
        return format_units(value, item.size_exp)
    if check == Check.COLLAR_MID:
        return "none is near enough" if value < 0 else format_units(value * 5, item.price_exp + 1)
    if check == Check.MESSAGES:
        return format_units(value, 9)
    return "none is near enough" if value < 0 and check == Check.COLLAR_MARK else money(value)


def _trading(bits: int) -> str:
    missing = [
        words
        for bit, words in ((1, "entries not let out"), (2, "unknown instrument"), (4, "venue takes no orders"))
        if not bits & bit
    ]
    return ", ".join(missing) or "open"


def _rule(check: Check, view: np.void) -> str:
    """What a check asks, in words."""
    if check == Check.BOOK and not view["book_valid"]:
        return "age of the book (it was not valid)"
    return {
        Check.OPEN_ORDERS: "open orders below", Check.BACKLOG: "fill of the rings below",
        Check.OWN_ORDERS: "could meet an order of ours, below",
        Check.TRADING: "entries", Check.BOOK: "age of a valid book at most", Check.TICK: "price on the tick",
        Check.LOT: "size in whole lots of", Check.COLLAR_MID: "distance from mid at most",
        Check.COLLAR_MARK: "distance from mark at most", Check.ORDER_VALUE: "order value at most",
        Check.MIN_VALUE: "order value at least", Check.REDUCES: "position left on its side at most",
        Check.POSITION_VALUE: "position value if all fills at most", Check.MESSAGES: "messages left at least",
    }[check]


def quote_figures(quote: np.void, item: Instrument) -> dict[str, Any]:
    """A QUOTE: what the strategy wants, and the order behind it."""
    return {
        "wanted_price": format_units(int(quote["target_price"]), item.price_exp),
        "wanted_size": format_units(int(quote["target_size"]), item.size_exp),
        "order_id": int(quote["order_id"]), "order_price": format_units(int(quote["order_price"]), item.price_exp),
        "working": name_of(Working, int(quote["working"])),
    }


def strategy_figures(
    moment: Moment, strategy: int, item: Instrument, strategies: Sequence[Bound]
) -> dict[str, Any]:
    """Parameters, memory, quotes on both sides of the moment, position and inventory of a strategy."""
    before, after = moment.before, moment.after
    parameters, memory = {}, {}
    if strategy < len(strategies):
        state = np.atleast_1d(after)
        parameters = parameters_of(state, strategy, strategies[strategy])
        memory = memory_of(state, strategy, strategies[strategy], item.index)
    position = before["ledger"]["positions"][item.index]
    open_size = before["orders"]["open_size"][item.index]

    def quotes(state: np.void) -> dict[str, Any]:
        pair = state["quotes"][strategy, item.index]
        return {"bid": quote_figures(pair[BID], item), "ask": quote_figures(pair[ASK], item)}

    return {
        "name": strategy_name(strategies, strategy), "parameters": parameters, "memory": memory,
        "fair_price": money(after["fair_price"][strategy, item.index]),
        "quotes_before": quotes(before), "quotes_after": quotes(after),
        "position": format_units(int(position["size"]), item.size_exp), "position_cost": money(position["cost"]),
        "realised": money(position["realised"]),
        "open_buy": format_units(int(open_size[0]), item.size_exp),
        "open_sell": format_units(int(open_size[1]), item.size_exp),
        "balance": money(before["ledger"]["balance"]),
        "max_position_value": money(after["gate"]["max_position_value"]), **condition(after),
    }


def target_figures(moment: Moment, strategy: int, item: Instrument) -> dict[str, Any] | None:
    """The last target of a strategy in a process of its own at a moment; None for a compiled one.

    age_ms: of the event that it answers; taken_now: whether the record of the moment is it.
    """
    strategies = moment.after["strategies"]
    if not strategies["apart"][strategy]:
        return None
    kept = relay_memory(strategies["memory"][strategy, item.index])
    sides = {
        side: {
            "price": format_units(int(kept[f"{side}_price"]), item.price_exp),
            "size": format_units(int(kept[f"{side}_size"]), item.size_exp),
            "type": name_of(OrderType, int(kept[f"{side}_order_type"])),
            "time_in_force": name_of(TimeInForce, int(kept[f"{side}_time_in_force"])),
            "at_once": bool(kept[f"{side}_at_once"]),
        }
        for side in ("bid", "ask")
    }
    return {
        "life": int(kept["life"]), "sequence": int(kept["sequence"]), "answers_ingest_id": int(kept["ingest_id"]),
        "event_ns": int(kept["event_ns"]), "said_ns": int(kept["said_ns"]), "fills_seen": int(kept["fills"]),
        "age_ms": (int(moment.after["now_ns"]) - int(kept["event_ns"])) / 1e6 if kept["event_ns"] else None,
        "stale": bool(kept["stale"]),
        "taken_now": bool(moment.source >= SOURCE_TARGETS and moment.record["strategy"] == strategy), **sides,
    }


def condition(state: np.void) -> dict[str, Any]:
    """What lets entries out or keeps them back."""
    return {
        "mode": mode_of(int(state["mode"])).name, "tripped": bool(state["tripped"]),
        "quiescing": bool(state["quiescing"]), "not_ready": int(state["not_ready"]),
        "backlog": int(state["backlog"]), "holding": bool(state["reconcile"]["holding"]),
    }


def vector_figures(prediction: np.void, now_ns: int) -> dict[str, Any]:
    """The feature vector of a PREDICTION record, and how old what it stands on was."""
    return {
        "vector": {name: float(value) for name, value in zip(FEATURE_NAMES, prediction["vector"], strict=True)},
        "book_age_ms": (now_ns - int(prediction["book_recv_ts_ns"])) / 1e6,
        "venue_to_receipt_ms": _lag_ms(int(prediction["exch_ts_ns"]), int(prediction["recv_ts_ns"])),
    }


def _lag_ms(exch_ts_ns: int, recv_ts_ns: int) -> float | None:
    return (recv_ts_ns - exch_ts_ns) / 1e6 if exch_ts_ns else None


def touch_figures(prediction: np.void, item: Instrument) -> dict[str, str]:
    """The touch that a PREDICTION record carries."""
    figures = {}
    for side in ("bid", "ask"):
        figures[f"{side}_price"] = format_units(int(prediction[f"{side}_price"]), item.price_exp)
        figures[f"{side}_size"] = format_units(int(prediction[f"{side}_size"]), item.size_exp)
    return figures


def market_figures(group: Group, instruments: tuple[Instrument, ...]) -> list[dict[str, Any]]:
    """The MARKET records of a group."""
    by_index = {item.index: item for item in instruments}
    events = []
    for record in group.records:
        item, kind = by_index.get(int(record["instrument"])), int(record["kind"])
        event: dict[str, Any] = {"kind": name_of(Kind, kind), "symbol": item.symbol if item else None}
        if kind in (Kind.LEVEL, Kind.TRADE, Kind.QUOTE, Kind.LIQUIDATION) and item is not None:
            event |= {
                "side": name_of(Side, int(record["side"])), "price": format_units(int(record["price"]), item.price_exp),
                "size": format_units(int(record["size"]), item.size_exp), "sequence": int(record["sequence"]),
            }
        elif kind == Kind.MARK_PRICE:
            event |= {"price": money(record["price"]), "index_price": money(record["size"])}
        else:
            event |= {"aux": int(record["aux"])}
        if record["reason"]:
            event["reason"] = name_of(Reason, int(record["reason"]))
        events.append(event | {"exch_ts_ns": int(record["exch_ts_ns"])})
    return events


def report_figures(report: np.void, item: Instrument) -> dict[str, Any]:
    """A REPORT record about an order."""
    figures: dict[str, Any] = {"kind": name_of(ReportKind, int(report["kind"]))}
    if report["reason"]:
        figures["reason"] = name_of(Reason, int(report["reason"]))
    if report["kind"] == ReportKind.FILL:
        figures |= {
            "price": format_units(int(report["price"]), item.price_exp),
            "size": format_units(int(report["size"]), item.size_exp), "fee": money(report["fee"]),
            "trade_id": int(report["trade_id"]), "maker": bool(report["flags"] & Flag.MAKER),
        }
    return figures | {
        "exch_ts_ns": int(report["exch_ts_ns"]), "recv_ts_ns": int(report["recv_ts_ns"]),
        "gateway_ordinal": int(report["ingest_id"]), "from_rest": bool(report["flags"] & Flag.FROM_REST),
    }
