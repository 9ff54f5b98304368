"""What became of an order, from the journals alone: what the gateway took, when it left, every report about it.

One pass over the gateway's and execution's journals; nothing is replayed. What is kept is what is about the one order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from engine.records import ORDER, REPORT, SOURCE_FILLS, OrderAction, ReportKind
from procs.explain.session import ExplainError, Placed, Session, placed_entries
from procs.journal.layout import LEFT_STAMPS, NO_WAY, Entry
from procs.table import Role
from procs.venues.binance_usdm.reports import ClientIds

_ABOUT_AN_ORDER = (*range(ReportKind.ACCEPTED, ReportKind.CANCEL_REJECTED + 1), int(ReportKind.NOT_FOUND))


class Request(NamedTuple):
    """An ORDER record as the gateway took it."""

    order: np.void
    number: int  # of the record on the orders ring, from 1
    taken: Placed


class Report(NamedTuple):
    """A REPORT record as execution took it."""

    report: np.void
    taken: Placed


@dataclass
class Life:
    """What the journals tell of one order."""

    order_id: int
    requests: list[Request] = field(default_factory=list)
    # When ingestion, validation, features and ml passed the frame behind it on; 0: not recorded.
    passed_ns: tuple[int, ...] = NO_WAY[:-1]
    published_ns: int = 0  # when its intent was published; 0: not recorded
    left_ns: int = 0  # when its bytes left; 0: not recorded, or they never did
    answers: list[Placed] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    @property
    def new(self) -> Request | None:
        """The request that was to place it; None where no gateway took it."""
        return next((one for one in self.requests if one.order["kind"] == OrderAction.NEW), None)

    def decisions(self) -> list[Request]:
        """The requests that execution decided, in order: NEW and CANCEL."""
        return [one for one in self.requests if one.order["kind"] in (OrderAction.NEW, OrderAction.CANCEL)]

    @property
    def venue_order_id(self) -> int:
        """The venue's number of it; 0 where nobody told."""
        return next((int(one.report["venue_order_id"]) for one in self.reports if one.report["venue_order_id"]), 0)


def read_life(session: Session, order_id: int) -> Life:
    """Collect what is about one order. Raises JournalError."""
    life, number = Life(order_id), 0
    for placed in placed_entries(session.folder, Role.GATEWAY.label):
        entry = placed.entry
        if entry.kind == Entry.REQUEST:
            number += 1
        if entry.count != order_id:
            continue
        if entry.kind == Entry.REQUEST:
            life.requests.append(Request(np.frombuffer(entry.payload, ORDER)[0], number, placed))
        elif entry.kind == Entry.LEFT:
            *passed, life.published_ns, life.left_ns = LEFT_STAMPS.unpack(entry.payload)
            life.passed_ns = tuple(passed)
        elif entry.kind == Entry.ANSWER:
            life.answers.append(placed)
    for placed in placed_entries(session.folder, Role.EXECUTION.label):
        for report in reports_in(placed):
            if report["order_id"] == order_id and report["kind"] in _ABOUT_AN_ORDER:
                life.reports.append(Report(report, placed))
    return life


def reports_in(placed: Placed) -> np.ndarray:
    """The REPORT records of an entry of execution's journal."""
    fills = placed.entry.kind == Entry.BATCH and placed.entry.source == SOURCE_FILLS
    return np.frombuffer(placed.entry.payload if fills else b"", REPORT)


def order_of_venue_id(session: Session, venue_order_id: int) -> int:
    """Our number of the order that the venue knows by this id, 0 where no report names it. Raises JournalError."""
    for placed in placed_entries(session.folder, Role.EXECUTION.label):
        for report in reports_in(placed):
            if report["venue_order_id"] == venue_order_id and report["order_id"] > 0:
                return int(report["order_id"])
    return 0


def last_order(session: Session) -> int:
    """The largest order number that the gateway has taken. Raises ExplainError where it has taken none."""
    last = 0
    for placed in placed_entries(session.folder, Role.GATEWAY.label):
        if placed.entry.kind == Entry.REQUEST:
            last = max(last, placed.entry.count)
    if not last:
        raise ExplainError(f"{session.folder}: its gateway has taken no order")
    return last


def client_id(session: Session, order_id: int) -> str:
    """The client order id of an order of this session."""
    return ClientIds(session.id).text(order_id)
