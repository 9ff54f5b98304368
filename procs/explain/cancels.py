"""Why an order was cancelled: what changed at the record that made execution want it."""

from __future__ import annotations

from typing import Any

from engine.execution.orders import SLOT_MASK
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import SOURCE_FILLS, Kind, OrderAction, ReportKind, Side
from engine.safety.mode import mode_of
from engine.strategies.quotes import ASK, BID
from engine.strategies.relay import relay_memory
from engine.units import format_units
from procs.explain.figures import name_of
from procs.explain.life import Request
from procs.explain.moments import Moment


def cancel_figures(
    moments: list[Moment], order_id: int, requests: list[Request], item: Instrument
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every moment at which a cancel of an order was wanted or decided, in plain values, and what differs from what
    the gateway took (requests: of the cancels, in order)."""
    figures, findings, number = [], [], 0
    for moment in moments:
        sent = moment.sent(OrderAction.CANCEL, order_id)
        wanted = _became_wanted(moment, order_id)
        if sent is None and not wanted:
            continue
        entry: dict[str, Any] = {
            "at_ns": int(moment.after["now_ns"]), "trigger": trigger_name(moment),
            "ingest_id": int(moment.after["last_ingest_id"]), "sent": sent is not None,
            "why": why_wanted(moment, order_id, item) if wanted else "wanted before; now the order can be cancelled",
        }
        if sent is not None:
            if number < len(requests):
                entry["as_journaled"] = sent.tobytes() == requests[number].order.tobytes()
                entry["taken_ns"] = requests[number].taken.entry.ts_ns
                if not entry["as_journaled"]:
                    findings.append(f"cancel {number + 1} of order {order_id} comes out different in the replay")
            else:
                entry["as_journaled"] = None  # no gateway took it
            number += 1
        figures.append(entry)
    if number < len(requests):
        findings.append(f"the gateway took {len(requests)} cancels of order {order_id}, the replay decides {number}")
    return figures, findings


def _became_wanted(moment: Moment, order_id: int) -> bool:
    before, after = (state["orders"]["slots"][order_id & SLOT_MASK] for state in (moment.before, moment.after))
    held = before["order_id"] == after["order_id"] == order_id
    return bool(held and not before["cancel_wanted"] and after["cancel_wanted"])


def trigger_name(moment: Moment) -> str:
    """What kind of record it was that execution took."""
    return name_of(ReportKind if moment.source == SOURCE_FILLS else Kind, int(moment.record["kind"]))


def why_wanted(moment: Moment, order_id: int, item: Instrument) -> str:
    """What changed, in words."""
    before, after = moment.before, moment.after
    if after["quiescing"] and not before["quiescing"]:
        return "the session was ending: everything is cancelled"
    if after["mode"] != before["mode"]:
        return f"the mode became {mode_of(int(after['mode'])).name}"
    if after["not_ready"] and not before["not_ready"]:
        return "not every process was ready"
    if before["tripped"] and not after["tripped"]:
        return "the emergency word was reset: what is left is cancelled"
    if after["backlog"] > 1 >= before["backlog"]:
        return "the rings beside execution were nearly full"
    one, other = before["views"][item.index], after["views"][item.index]
    if one["book_valid"] and not other["book_valid"]:
        reason = int(moment.record["aux"]) if moment.record["kind"] == Kind.BOOK_INVALID else Reason.NONE
        return f"the book became invalid ({trigger_name(moment)}{f', {name_of(Reason, reason)}' if reason else ''})"
    if one["trading"] and not other["trading"]:
        return "the venue takes no orders of this instrument any more"
    return _why_the_quote_moved(moment, order_id, item)


def _why_the_quote_moved(moment: Moment, order_id: int, item: Instrument) -> str:
    after = moment.after
    order = after["orders"]["slots"][order_id & SLOT_MASK]
    place = BID if order["side"] == Side.BUY else ASK
    quote = after["quotes"][int(order["strategy"]), item.index, place]
    if 0 < quote["target_size"] < order["exposure"] and quote["target_price"] == order["price"]:
        sizes = (format_units(int(size), item.size_exp) for size in (order["exposure"], quote["target_size"]))
        return "the quote shrank at its price: {} stood there, {} is wanted".format(*sizes)
    if quote["target_size"] > 0:
        prices = (format_units(int(price), item.price_exp) for price in (order["price"], quote["target_price"]))
        return "the quote moved from {} to {}".format(*prices)
    if after["strategies"]["apart"][order["strategy"]]:
        kept = relay_memory(after["strategies"]["memory"][int(order["strategy"]), item.index])
        if moment.record["kind"] == Kind.ABSENT:
            return "the process of the strategy had ended"
        if kept["stale"]:
            return "what the strategy wanted was older than its stale_ms"
    view = after["views"][item.index]
    age_ns = int(after["now_ns"]) - int(view["book_recv_ts_ns"])
    if moment.record["kind"] == Kind.CLOCK and view["book_valid"] and age_ns > int(after["gate"]["max_data_age_ns"]):
        return "the book grew older than the gate allows"
    own = int(order["strategy"]), item.index
    if after["strategies"]["books"][own]["faults"] > moment.before["strategies"]["books"][own]["faults"]:
        return "the strategy failed, or wanted what is no price or no size: its quotes were taken back"
    held_back = [
        words
        for is_so, words in (
            (after["mode"] != 0, f"mode {mode_of(int(after['mode'])).name}"),
            (after["not_ready"], "a process is not ready"), (after["reconcile"]["holding"], "holding"),
            (after["backlog"] > 1, "rings nearly full"), (not after["views"][item.index]["book_valid"], "book invalid"),
        )
        if is_so
    ]
    return "the quote was withdrawn" + (f" ({', '.join(held_back)})" if held_back else ": the strategy wants none")
