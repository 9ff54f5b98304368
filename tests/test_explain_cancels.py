"""Why an order was cancelled, of strategies that shrink their quotes, take them back, fail, or see an old book."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.execution.kernel import EXECUTION
from engine.records import ORDER, PREDICTION, SOURCE_MAIN, Kind, OrderAction
from engine.stage import as_bytes
from procs.explain.cancels import why_wanted
from procs.explain.moments import Moment
from procs.strategy_desk import _INSTRUMENT, StrategyDesk

QUOTER = '''
"""Bids at the touch for a size that is a parameter, and does at a CLOCK what another parameter says."""

from dataclasses import dataclass

from engine.strategies.api import CLOCK, bid, setting, strategy, withdraw


@dataclass(frozen=True)
class Parameters:
    """Numbers."""

    size: float = setting(6.0, "Lots.", minimum=0.0)
    at_clock: int = setting(0, "1: it takes its quotes back; 2: it fails.", minimum=0)


class State:
    """Nothing that matters."""

    unused: int


@strategy(Parameters, State, clock=True)
def on_event(event, view, own, parameters, state, quotes):
    if event.kind == CLOCK:
        if parameters.at_clock == 1:
            withdraw(quotes)
        if parameters.at_clock == 2:
            bid(quotes, view, -1.0, 5)
        return
    bid(quotes, view, view.bid_price if parameters.size > 0 else 0, parameters.size)
'''


@pytest.fixture
def desk(tmp_path: Path) -> StrategyDesk:
    path = tmp_path / "quoter.py"
    path.write_text(QUOTER)
    path.chmod(0o600)
    return StrategyDesk(path)


def cancelled(desk: StrategyDesk, kind: Kind, after_ms: int = 10, **fields: Any) -> str:
    """Why the record makes execution cancel what rests; "" where it does not."""
    desk.now_ns += after_ms * 1_000_000
    record, before = np.zeros(1, PREDICTION), desk.state.copy()[0]
    for field, value in {"kind": kind, "recv_ts_ns": desk.now_ns, **fields}.items():
        record[field] = value
    orders, routes = np.zeros(EXECUTION.max_out, ORDER), np.zeros(EXECUTION.max_out, np.uint8)
    count = int(EXECUTION.step(as_bytes(desk.state), SOURCE_MAIN, as_bytes(record), 1, as_bytes(orders), routes))
    moment = Moment(None, 1, SOURCE_MAIN, record[0], before, desk.state.copy()[0], orders[:count], None)  # type: ignore[arg-type]
    cancels = [one for one in orders[:count] if one["kind"] == OrderAction.CANCEL]
    if not cancels and not desk.state["orders"]["slots"]["cancel_wanted"].any():
        return ""
    return why_wanted(moment, 1, _INSTRUMENT)


def touch(desk: StrategyDesk) -> dict[str, Any]:
    return {
        "bid_price": 60_000_00, "ask_price": 60_000_10, "bid_size": 1_000, "ask_size": 1_000, "book_recv_ts_ns":
        desk.now_ns, "ingest_id": 9,
    }  # fmt: skip


def test_a_quote_that_shrinks_at_its_price_is_replaced_and_one_that_grows_keeps_its_place(desk: StrategyDesk) -> None:
    assert [order.size for order in desk.prediction(60_000.0, 60_000.1)] == [0.006]
    desk.set("size", 9.0)
    assert cancelled(desk, Kind.PREDICTION, **touch(desk)) == ""
    desk.set("size", 3.0)
    words = "the quote shrank at its price: 0.006 stood there, 0.003 is wanted"
    assert cancelled(desk, Kind.PREDICTION, **touch(desk)) == words


def test_what_is_filled_is_not_wanted_again_of_the_same_order(desk: StrategyDesk) -> None:
    (resting,) = desk.prediction(60_000.0, 60_000.1)
    desk.fill(resting, 0.004)
    desk.set("size", 2.0)
    assert cancelled(desk, Kind.PREDICTION, **touch(desk)) == "", "as much rests as is wanted"


def test_nothing_may_be_wanted_at_any_price(desk: StrategyDesk) -> None:
    desk.prediction(60_000.0, 60_000.1)
    desk.set("size", 0.0)
    assert cancelled(desk, Kind.PREDICTION, **touch(desk)) == "the quote was withdrawn: the strategy wants none"
    assert desk.faults == 0


@pytest.mark.parametrize(
    ("at_clock", "after_ms", "words"),
    [
        (1, 10, "the quote was withdrawn: the strategy wants none"),
        (2, 10, "the strategy failed, or wanted what is no price or no size: its quotes were taken back"),
        (0, 10, ""),
        (0, 2_000, "the book grew older than the gate allows"),
    ],
)
def test_what_a_clock_record_takes_back_has_its_own_reason(
    desk: StrategyDesk, at_clock: int, after_ms: int, words: str
) -> None:
    desk.prediction(60_000.0, 60_000.1)
    desk.set("at_clock", at_clock)
    assert cancelled(desk, Kind.CLOCK, after_ms) == words
