"""The hops of one decision, from the stamps that the journals hold: nothing is replayed, nothing estimated.

The stages between ingestion and execution stamp every frame in shared memory; the gateway journals those of the frame
behind an order that leaves. A frame that led to no order has none, and what has no stamp is named and has no time.
"""

from __future__ import annotations

from typing import Any

import orjson

from engine.instruments import Dialect
from engine.records import SOURCE_MAIN, SOURCE_TARGETS, OrderAction, ReportKind
from procs.explain.life import Life, client_id, read_life
from procs.explain.session import ExplainError, Session, placed_entries
from procs.journal.index import find_entry
from procs.journal.layout import NO_WAY, Entry
from procs.journal.reader import JournalEntry
from procs.table import Role

_BINANCE = (Dialect.BINANCE_USDM, Dialect.BINANCE_SPOT, Dialect.BINANCE_COINM)
_STAGES = ("decoded", "validation", "features", "ml")
_MS = 1_000_000


def orders_caused(session: Session, ingest_id: int) -> list[int]:
    """The numbers of the orders that a frame led to, as the gateway took them. Raises JournalError."""
    from procs.recorder import orders_taken

    return [
        int(order["order_id"])
        for placed in placed_entries(session.folder, Role.GATEWAY.label)
        for order in orders_taken(placed.entry)
        if order["ingest_id"] == ingest_id and order["kind"] == OrderAction.NEW
    ]


def trace_order(session: Session, order_id: int) -> dict[str, Any]:
    """The hops of an order. Raises ExplainError where no gateway took it, JournalError."""
    life = read_life(session, order_id)
    if life.new is None:
        raise ExplainError(
            f"{session.folder} has no order {order_id} that a gateway took; a decision that nobody sent has no hops"
        )
    ingest_id = int(life.new.order["ingest_id"])
    return {
        "order_id": order_id, "client_id": client_id(session, order_id), "ingest_id": ingest_id,
        "hops": _until_execution(session, ingest_id, life.passed_ns) + _from_execution(session, life),
    }


def trace_frame(session: Session, ingest_id: int) -> dict[str, Any]:
    """The hops of a frame that led to no order, as far as there are any. Raises ExplainError, JournalError."""
    hops = _until_execution(session, ingest_id, NO_WAY[:-1])
    return {"order_id": 0, "client_id": "", "ingest_id": ingest_id, "hops": hops}


def _hop(name: str, at_ns: int, source: str) -> dict[str, Any]:
    return {"hop": name, "at_ns": at_ns or None, "source": source if at_ns else "not recorded"}


def _until_execution(session: Session, ingest_id: int, passed_ns: tuple[int, ...]) -> list[dict[str, Any]]:
    frame = find_entry(session.folder, Role.INGESTION.label, ingest_id=ingest_id)
    if frame is None:
        raise ExplainError(f"{session.folder}: ingestion's journal has no frame {ingest_id}")
    return [
        _hop("venue event", venue_time_ns(session, frame), "the frame, on the venue's clock"),
        _hop("frame received", frame.ts_ns, "ingestion's journal"),
        *(_hop(name, at_ns, "gateway's journal") for name, at_ns in zip(_STAGES, passed_ns, strict=True)),
    ]


def venue_time_ns(session: Session, frame: JournalEntry) -> int:
    """When the venue says that what a frame tells happened, ns on its clock; 0 where it does not say.

    Source: Binance, market streams: T is the time of the transaction, E that of the event.
    """
    if session.instruments[0].dialect not in _BINANCE or frame.kind != Entry.FRAME:
        return 0
    try:
        told = orjson.loads(frame.payload)
    except orjson.JSONDecodeError:
        return 0
    data = told.get("data", told) if isinstance(told, dict) else {}
    stamp = data.get("T", data.get("E")) if isinstance(data, dict) else None
    return stamp * _MS if isinstance(stamp, int) else 0


def _from_execution(session: Session, life: Life) -> list[dict[str, Any]]:
    assert life.new is not None
    accepted = [one.report for one in life.reports if one.report["kind"] == ReportKind.ACCEPTED]
    acknowledged = min((int(report["recv_ts_ns"]) for report in accepted), default=0)
    what, taken_ns = _batch_before(session, life.published_ns)
    hops = [
        _hop(f"{what} taken", taken_ns, "execution's journal"),
        _hop("intent published", life.published_ns, "gateway's journal"),
        _hop("gateway took it", life.new.taken.entry.ts_ns, "gateway's journal"),
        _hop("bytes out", life.left_ns, "gateway's journal"),
        _hop("acknowledged", acknowledged, "report in execution's journal"),
    ]
    seen: set[int] = set()
    for one in life.reports:
        if one.report["kind"] == ReportKind.FILL and int(one.report["trade_id"]) not in seen:
            seen.add(int(one.report["trade_id"]))
            hops.append(_hop("filled", int(one.report["recv_ts_ns"]), "report in execution's journal"))
    return hops


def _batch_before(session: Session, published_ns: int) -> tuple[str, int]:
    """(of what, when) execution took the batch behind an intent that it published then: the last one before. 0: not
    known."""
    what, taken = "prediction", 0
    if published_ns:
        for placed in placed_entries(session.folder, Role.EXECUTION.label):
            if placed.entry.ts_ns > published_ns:
                break
            if placed.entry.source == SOURCE_MAIN or placed.entry.source >= SOURCE_TARGETS:
                what = "target" if placed.entry.source >= SOURCE_TARGETS else "prediction"
                taken = placed.entry.ts_ns
    return what, taken
