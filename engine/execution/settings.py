"""Times and bounds of order handling."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from engine.settings import setting


@dataclass(frozen=True)
class ExecutionSettings:
    """All times are ms on the record clock. Raises ValueError naming the field for a value that makes no sense."""

    max_decision_age_ms: float = setting(
        500.0,
        "A new order that reaches the gateway's last gate later than this after its decision is denied there.",
        minimum=0.0,
    )
    answer_timeout_ms: float = setting(
        5_000.0,
        "A request without any answer for so long leaves its order UNKNOWN.",
        minimum=0.0,
    )
    query_after_ms: float = setting(
        500.0,
        "An order is asked for so long after it became UNKNOWN or was found to owe us fills.",
        minimum=0.0,
    )
    query_backoff_max_ms: float = setting(
        4_000.0,
        "The wait between two queries doubles up to this; with not_found_gap_ms it bounds how long an order stays "
        "UNKNOWN once the venue answers again.",
        minimum=0.0,
    )
    not_found_gap_ms: float = setting(
        2_000.0,
        "Two answers 'not found' to questions at least so far apart mean that an order never existed.",
        minimum=0.0,
    )
    order_lifetime_ms: float = setting(
        3_000.0,
        "A new order cannot take effect later than this after its decision: largest age at the last gate, the validity "
        "of its signature at the venue (1,000 ms), clocks that differ (1,000 ms), and some more. 'Not found' counts "
        "for questions asked after that alone.",
        minimum=0.0,
    )
    cancel_retry_ms: float = setting(
        250.0,
        "A cancel that did not get through is sent again after this.",
        minimum=0.0,
    )
    max_open_orders: int = setting(
        64,
        "Most orders that may be open at once, UNKNOWN ones included.",
        minimum=0,
    )
    reconcile_every_s: float = setting(
        10.0,
        "Ledger and orders are compared with the venue's so often.",
        minimum=0.0,
        maximum=3_600.0,
    )
    reconcile_confirm_s: float = setting(
        1.0,
        "After an answer that differs the venue is asked again so soon, and twice as late each time it still does.",
        minimum=0.0,
        maximum=3_600.0,
    )
    open_loop_balance: float = setting(
        100_000.0,
        "Balance to start with where there is no venue to ask (open-loop replay), quote currency.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"execution {field.name} is {value!r}: a finite number above 0 is needed")
