"""`bench strategies`: what 1, 2, 4 and 8 strategies cost in the one execution stage, an event.

Predictions of a touch that stays, so that nobody sends an order: what is timed is the stage with the strategies' own
arithmetic. Each pass steps the same records in one call; the passes of the different counts are interleaved.
"""

from __future__ import annotations

import numpy as np

from engine.config import Settings, settings_from
from engine.execution.kernel import EXECUTION
from engine.execution.state import make_execution_state
from engine.instruments import Instrument
from engine.records import ORDER, PREDICTION, SOURCE_MAIN, Kind
from engine.stage import as_bytes
from procs.strategies import load_strategies
from shm.clock import python_monotonic_ns
from tools.bench.machine import quiet
from tools.bench.report import PAIRS, Report, Result

EVENTS = 20_000
COUNTS = (1, 2, 4, 8)
_BTC = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, 3, 10, 1, 5_00000000)
_BEGIN_NS = 1_700_000_000_000_000_000


def records_of(count: int, kind: Kind = Kind.PREDICTION) -> np.ndarray:
    """A valid book, and then so many records 10 us apart, PREDICTION of shape (count + 1,)."""
    records = np.zeros(count + 1, PREDICTION)
    records["kind"] = kind
    records["kind"][0] = Kind.BOOK_VALID
    records["recv_ts_ns"] = records["book_recv_ts_ns"] = _BEGIN_NS + 10_000 * np.arange(count + 1)
    records["ingest_id"] = np.arange(1, count + 2)
    records["bid_price"], records["ask_price"] = 60_000_00, 60_000_10
    records["bid_size"] = records["ask_size"] = 10
    return records


def pass_ns(settings: Settings, shipped: str, strategies: int, records: np.ndarray) -> float:
    """ns an event with so many of a shipped strategy, from a fresh state."""
    tables = {f"s{number}": {"file": shipped} for number in range(strategies)}
    bound = load_strategies(settings_from({"strategies": tables}))
    state = make_execution_state(
        settings.execution, settings.gate, settings.maker, (_BTC,), open_loop=True, strategies=bound
    )
    outbox, routes = np.zeros(len(records) * 2, ORDER), np.zeros(len(records) * 2, np.uint8)
    with quiet():
        started = python_monotonic_ns()
        EXECUTION.step(as_bytes(state), SOURCE_MAIN, as_bytes(records), len(records), as_bytes(outbox), routes)
        took = python_monotonic_ns() - started
    return took / len(records)


def run(report: Report, settings: Settings, full: bool) -> None:
    """Both shipped strategies, 1 to 8 of each."""
    records = records_of(5 * EVENTS if full else EVENTS)
    for shipped in ("maker", "momentum"):
        samples: dict[int, list[float]] = {count: [] for count in COUNTS}
        for _ in range(PAIRS):
            for count in COUNTS:
                samples[count].append(pass_ns(settings, shipped, count, records))
        for count in COUNTS:
            value = float(np.median(samples[count]))
            report.results.append(Result(f"{shipped}_{count}", None, value, "ns", PAIRS * len(records)))
        each = (float(np.median(samples[8])) - float(np.median(samples[1]))) / 7
        report.notes.append(f"{shipped}: each further one costs {each:.0f} ns an event")
