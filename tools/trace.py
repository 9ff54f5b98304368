"""`bot4 latency trace ID`: the hops of one decision, from the stamps in the journals, with a bar for each."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import orjson

from procs.explain.explanation import explain, order_number, session_id_in
from procs.explain.hops import orders_caused, trace_frame, trace_order
from procs.explain.session import Session
from tools.explain import ReplayProgress, answer_or_error, session_of
from tools.explain_text import clock_text

_BAR = 40
_FRAME = re.compile(r"frame:([1-9][0-9]{0,18})")


def trace_command(options: argparse.Namespace) -> int:
    """Show the hops; exit code 1 where nothing of that id was sent."""

    def make() -> dict[str, Any]:
        session = session_of(options, session_id_in(options.id))
        return {"session": str(session.folder), "traces": _traces(session, options.id)}

    found = answer_or_error(options, make)
    if found is None:
        return 1
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    else:
        print("\n".join(line for trace in found["traces"] for line in _lines(trace)))
    return 0


def _traces(session: Session, text: str) -> list[dict[str, Any]]:
    if match := _FRAME.fullmatch(text):
        ingest_id = int(match[1])
        orders = orders_caused(session, ingest_id)
        return [trace_order(session, order_id) for order_id in orders] or [trace_frame(session, ingest_id)]
    if text.startswith("intent:"):
        progress = ReplayProgress(session.folder)
        try:
            order = explain(session, text, progress)["order"]
        finally:
            progress.end()
        return [trace_order(session, int(order["order_id"]))]
    return [trace_order(session, order_number(session, text))]


def _lines(trace: dict[str, Any]) -> Iterator[str]:
    order = f"order {trace['order_id']}  {trace['client_id']}, on " if trace["order_id"] else ""
    yield f"{order}frame {trace['ingest_id']}" + ("" if order else ": it led to no order that a gateway took")
    yield f"  {'hop':<24}{'time (UTC)':<18}{'since the hop before':>22}{'since the frame':>18}"
    stamps = {hop["hop"]: hop["at_ns"] for hop in trace["hops"] if hop["at_ns"]}
    begin = stamps.get("frame received", 0)
    # What happens to an order that rests is no latency of ours: bars end where the venue has acknowledged it.
    end = max(at for name, at in stamps.items() if name != "filled")
    before = 0
    for hop in trace["hops"]:
        at = hop["at_ns"]
        if at is None:
            yield f"  {hop['hop']:<24}not recorded"
            continue
        step = f"{(at - before) / 1e3:.1f} us" if before else "-"
        yield (
            f"  {hop['hop']:<24}{clock_text(at):<18}{step:>22}{(at - begin) / 1e3:>15.1f} us  "
            + _bar(max(before, begin), at, begin, end)
        ).rstrip()
        before = at
    yield "  the first hop is on the venue's clock; percentiles of all: `bot4 latency`"


def _bar(since: int, at: int, begin: int, end: int) -> str:
    """From the hop before to this one, on a scale from the frame to the last hop but fills."""
    if at <= begin or end <= begin or since >= end:
        return ""
    first, last = ((min(max(ns, begin), end) - begin) * _BAR // (end - begin) for ns in (since, at))
    return " " * first + "#" * max(last - first, 1)
