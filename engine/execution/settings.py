"""Times and bounds of order handling."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ExecutionSettings:
    """All times are ms on the record clock. Raises ValueError naming the field for a value that makes no sense."""

    max_decision_age_ms: float = 500
    """A new order that reaches the gateway's last gate later than this after its decision is denied there."""
    answer_timeout_ms: float = 5_000
    """A request without any answer for so long leaves its order UNKNOWN."""
    query_after_ms: float = 500
    """An order is asked for so long after it became UNKNOWN or was found to owe us fills."""
    query_backoff_max_ms: float = 8_000
    """The wait between two queries doubles up to this."""
    not_found_gap_ms: float = 2_000
    """Two answers "not found" at least so far apart mean that an order never existed."""
    cancel_retry_ms: float = 250
    """A cancel that did not get through is sent again after this."""
    max_open_orders: int = 64
    """Most orders that may be open at once, UNKNOWN ones included."""
    open_loop_balance: float = 100_000
    """Balance to start with where there is no venue to ask (open-loop replay), quote currency."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"execution {field.name} is {value!r}: a finite number above 0 is needed")
