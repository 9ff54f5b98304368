"""What must hold after a trip, judged from the venue's own log and the stamps in shared memory.

Times are session time, ns. The trip lies between the last moment at which an observer saw the word not set and the trip
stamp, when it saw it set. A gate stamp is taken before the gate read the word: an order whose gate stamp is later than
the trip stamp went out although the word was set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What is known of one trip."""

    began_ns: int  # when the observer began
    untripped_ns: int  # when the word was last seen not set
    tripped_ns: int  # when it was first seen set
    shut_ns: int  # when the gateway's gate was seen shut, or its death; 0: neither
    confirmed_ns: int  # when the kill switch was seen to be done; 0: never
    gate: Mapping[int, int]  # order number -> gate stamp, of all orders that passed the gate
    log: Sequence[Mapping[str, Any]]  # the venue's, its times as session time
    own: Mapping[str, int]  # client id -> order number of this session, 0 of others, of the orders in the log
    symbols: tuple[str, ...]
    resting: int  # orders at the venue at the end
    sources: tuple[str, ...] = ()  # of the emergency word at the end
    latched: tuple[str, ...] = ()  # of the emergency in the latch file at the end; empty: there is none


@dataclass
class Verdict:
    """What was found: broken promises, and counts for people."""

    broken: list[str] = field(default_factory=list)
    between: int = 0  # orders accepted between trip and acknowledgement
    cancelled_ns: int = 0  # from the trip until the venue had a request to cancel everything for each symbol; 0: never
    after: int = 0  # accepted after the acknowledgement, the order that was under way

    def hold(self, kept: bool, otherwise: str) -> None:
        """Something that must be so."""
        if not kept:
            self.broken.append(otherwise)


def judge(facts: Facts, source: str) -> Verdict:
    """Judge one trip. source: who must be among those that have tripped."""
    verdict = Verdict()
    if not facts.tripped_ns:
        verdict.hold(False, "the emergency word was never set")
        return verdict
    verdict.hold(source in facts.sources, f"{source} is not among the sources of the word: {facts.sources}")
    verdict.hold(source in facts.latched, f"{source} is not in the latch file: {facts.latched or 'no emergency there'}")
    verdict.hold(facts.shut_ns > 0, "the gateway neither showed its gate shut nor died")
    verdict.hold(facts.confirmed_ns > 0, "the kill switch has not confirmed that the stop is done")
    verdict.hold(facts.resting == 0, f"{facts.resting} orders rest at the venue at the end")
    verdict.cancelled_ns = _cancelled_ns(facts)
    accepted = [event for event in facts.log if event["event"] == "accepted" and event["at_ns"] >= facts.began_ns]
    newest = max(facts.gate, default=0, key=lambda order_id: facts.gate[order_id])
    for event in accepted:
        _judge_order(facts, verdict, event, newest)
    _judge_fills(facts, verdict)
    return verdict


def _cancelled_ns(facts: Facts) -> int:
    first: dict[str, int] = {}
    for event in facts.log:
        if event["event"] == "cancel all" and event["at_ns"] >= facts.untripped_ns:
            first.setdefault(str(event["symbol"]), int(event["at_ns"]))
    return max(1, max(first.values()) - facts.tripped_ns) if first.keys() >= set(facts.symbols) else 0


def _judge_order(facts: Facts, verdict: Verdict, event: Mapping[str, Any], newest: int) -> None:
    order_id = facts.own.get(str(event["client_id"]), 0)
    late_ms = (event["at_ns"] - facts.tripped_ns) / 1e6
    if order_id not in facts.gate:
        # The kill switch's own: they reduce, and come after the trip.
        ours = bool(event["reduce_only"]) and event["at_ns"] >= facts.untripped_ns
        what = f"{event['client_id']} was accepted {late_ms:.1f} ms after the trip"
        verdict.hold(ours, f"{what} and never passed the gate")
        return
    stamp_ms = (facts.gate[order_id] - facts.tripped_ns) / 1e6
    verdict.hold(stamp_ms <= 0, f"order {order_id} passed the gate {stamp_ms:.3f} ms after the trip")
    if late_ms < 0:
        return
    if not facts.shut_ns or event["at_ns"] <= facts.shut_ns:
        verdict.between += 1
        return
    verdict.after += 1
    # The one order that may be under way when the gateway shows its gate shut, or dies: there is one sender.
    after_ms = (event["at_ns"] - facts.shut_ns) / 1e6
    verdict.hold(
        order_id == newest,
        f"order {order_id} was accepted {after_ms:.1f} ms after the acknowledgement and was not the one under way",
    )


def _judge_fills(facts: Facts, verdict: Verdict) -> None:
    if not facts.confirmed_ns:
        return
    for event in facts.log:
        if event["event"] != "fill" or event["at_ns"] <= facts.confirmed_ns:
            continue
        after = int(event["position"])
        before = after - int(event["side"]) * int(event["size"])
        verdict.hold(
            abs(after) <= abs(before),
            f"a fill of {event['client_id']} took the position of {event['symbol']} from {before} to {after} after the "
            "stop was confirmed",
        )
