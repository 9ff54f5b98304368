"""Settings of the panic monitors: what each one does, from which figure on, and over how long a window.

Flat on purpose: what a monitor does is one line of bot4.toml, such as `spread = "pause"` under [panic].
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings import setting

ACTIONS = ("off", "reduce", "pause", "emergency")


def _action(default: str, doc: str) -> str:
    action: str = setting(default, doc, choices=ACTIONS)
    return action


def _number(default: float, doc: str, minimum: float = 0.001, maximum: float = 86_400.0) -> float:
    number: float = setting(default, doc, minimum=minimum, maximum=maximum)
    return number


@dataclass(frozen=True)
class PanicSettings:
    """[panic]. An action stands beside the name of its monitor; limits and windows bear the name in front."""

    slippage: str = _action("emergency", "A fill that was worse than the mid when its order was decided.")
    slippage_percent: float = _number(3.0, "So many percent worse, of that mid.")
    slippage_window_s: float = _number(60.0, "A fill is looked at for so long.")

    staleness: str = _action("pause", "Nothing comes from the venue, or nothing any more of a book.")
    staleness_ms: float = _number(500.0, "A book is late so long after its last event, or by its own rate if longer.")
    staleness_heartbeat_ms: float = _number(
        1000.0, "The venue says something at least so often, however quiet its markets are.", 0.0
    )
    staleness_times: float = _number(
        4.0, "By its own rate a book is late after so many times the longest wait between two events.", 1.1, 1000.0
    )
    staleness_window_s: float = _number(60.0, "That wait is taken over so long before its last event.", 1.0)

    book_lost: str = _action("pause", "A book that is not right (gap, crossed, one-sided) and does not recover.")
    book_lost_s: float = _number(10.0, "For so long.")

    spread: str = _action("reduce", "A spread far beyond what is normal for the instrument.")
    spread_times: float = _number(3.0, "So many times the median.", 1.1)
    spread_for_s: float = _number(2.0, "For so long; healthy markets are that wide for moments.", 0.05)
    spread_window_s: float = _number(300.0, "The median is taken over so long.", 10.0)
    spread_history_s: float = _number(60.0, "Nothing is judged with less history than this.", 1.0)

    api_errors: str = _action("pause", "Calls to the venue that fail: no answer, a server error, refused for the rate.")
    api_errors_percent: float = _number(10.0, "So many percent of the calls.", 0.1, 100.0)
    api_errors_window_s: float = _number(60.0, "Within so long.", 1.0)
    api_errors_at_least: int = setting(
        20, "Fewer calls count as so many, so that one lost call of a few is no reason.", minimum=1, maximum=1_000_000
    )

    latency: str = _action("pause", "Calls to the venue, or decisions, that take too long.")
    latency_ms: float = _number(1000.0, "The 90th percentile of a window.")
    latency_window_s: float = _number(30.0, "The window.", 1.0)
    latency_at_least: int = setting(
        5, "With fewer calls or decisions in a window nothing is found.", minimum=1, maximum=1_000_000
    )

    order_rings: str = _action("pause", "The rings beside execution (orders, fills, commands) fill up.")
    order_rings_percent: float = _number(50.0, "So full, for all of the window.", 1.0, 100.0)
    order_rings_full: str = _action("emergency", "The rings beside execution are nearly full.")
    order_rings_full_percent: float = _number(90.0, "So full, for all of the window.", 1.0, 100.0)
    market_rings: str = _action("pause", "The rings of the market data fill up.")
    market_rings_percent: float = _number(90.0, "So full, for all of the window.", 1.0, 100.0)
    rings_window_s: float = _number(1.0, "The window of all rings.", 0.05)

    clock: str = _action("pause", "The venue's clock and ours differ.")
    clock_ms: float = _number(250.0, "By so much, taken from the event that took the least time in the window.")
    clock_window_s: float = _number(30.0, "The window.", 1.0)

    ledger: str = _action("pause", "Reconciliation has confirmed that ledger and venue differ.")

    stalled: str = _action("pause", "A process that shows no life, or is not there.")
    stalled_s: float = _number(5.0, "For so long; a dead one has its successor before that.")

    intent: str = _action("emergency", "A request that was about to leave was not what execution had decided.")
    intent_window_s: float = _number(60.0, "It is looked at for so long.")

    missing_s: float = _number(5.0, "A figure that cannot be known for so long is a finding like one beyond its limit.")
    release_percent: float = _number(80.0, "A finding ends at so many percent of its limit.", 1.0, 100.0)
