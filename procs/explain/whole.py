"""Every order of a session at once: one replay, in which each record that execution sends is held against the one that
the gateway took.

Records cross the `orders` ring in the order in which they were written, so the n-th of the replay is the n-th REQUEST
of the gateway's journal. What was decided last may never have been taken. Memory does not grow with the session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.records import ORDER, OrderAction
from procs.explain.explanation import decision_figures
from procs.explain.figures import differences, name_of
from procs.explain.moments import Moment, Progress, Search, find_moments, refused_by_gate
from procs.explain.session import Session, placed_entries
from procs.journal.layout import Entry
from procs.table import Role

_MOST_FINDINGS = 20
Visit = Callable[[dict[str, Any]], None]  # the figures of one new order (decision_figures)


class _Every(Search):
    """Meets every new order; compares every record."""

    def __init__(self, session: Session, visit: Visit) -> None:
        super().__init__()
        self._session, self._visit = session, visit
        entries = placed_entries(session.folder, Role.GATEWAY.label)
        self.requests = (placed.entry for placed in entries if placed.entry.kind == Entry.REQUEST)
        self.taken: Counter[str] = Counter()
        self.decided = self.explained = self.refused = 0
        self.findings: list[str] = []

    def may_be_near(self, state: np.void, records: np.ndarray) -> bool:
        """Any record can bring an order."""
        return True

    def met(self, before: np.void, after: np.void, orders: np.ndarray) -> bool:
        """A new order was sent."""
        self.refused = refused_by_gate(after)
        return bool((orders["kind"] == OrderAction.NEW).any())

    def emitted(self, orders: np.ndarray) -> None:
        """Hold every record against the journal."""
        for order in orders:
            self.decided += 1
            request = next(self.requests, None)
            if request is None:
                continue
            journaled = np.frombuffer(request.payload, ORDER)[0]
            self.taken[name_of(OrderAction, int(journaled["kind"]))] += 1
            if order.tobytes() != request.payload and len(self.findings) < _MOST_FINDINGS:
                words = "; ".join(differences(order, journaled))
                self.findings.append(f"record {self.decided}, order {int(journaled['order_id'])}: {words}")

    def take(self, moment: Moment) -> None:
        """Make the figures of each new order, and let go of the moment."""
        for order in moment.orders[moment.orders["kind"] == OrderAction.NEW]:
            figures, findings = decision_figures(self._session, moment, order)
            self.explained += 1
            self.findings += [f"order {int(order['order_id'])}: {words}" for words in findings]
            self._visit(figures)

    @property
    def done(self) -> bool:
        """To the end of the journals."""
        return False


def explain_all(session: Session, visit: Visit, progress: Progress) -> dict[str, Any]:
    """Explain every order, calling `visit` with the figures of each; what was compared and what was found.

    Raises ReplayError, JournalError, ExplainError.
    """
    every = _Every(session, visit)
    find_moments(session, every, progress)
    left = sum(1 for _ in every.requests)
    findings = every.findings + session.warnings()[: bool(every.findings)]
    if left:
        findings.append(f"the gateway took {left} records more than the replay of the session's journals decides")
    return {
        "session": {"folder": str(session.folder), "id": session.id, "warnings": session.warnings()},
        "taken": dict(every.taken), "never_taken": every.decided - every.taken.total(), "explained": every.explained,
        "refused_by_gate": every.refused, "findings": findings,
    }
