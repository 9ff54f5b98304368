"""A desk on which a strategy is tried: the real execution stage, fed by hand, for the test beside a strategy's file.

    desk = StrategyDesk("strategies/mine.py", order_value=200.0)
    orders = desk.prediction(100.0, 100.1, imbalance_1=0.8, output=1.5)
    desk.fill(orders[0])
    assert desk.position == orders[0].size

One instrument, BTCUSDT with a tick of 0.10 and a lot of 0.001, of which the desk is the venue: it takes every order,
fills none by itself, and cancels at once. Prices and sizes are in quote and base units here.
A strategy that is Python alone answers at once on the desk; `silence` lets time pass without an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Settings
from engine.execution.kernel import EXECUTION
from engine.execution.state import make_execution_state
from engine.features.vector import FEATURE_NAMES
from engine.instruments import Instrument
from engine.records import (
    MARKET,
    ORDER,
    PREDICTION,
    REPORT,
    SOURCE_COMMANDS,
    SOURCE_FILLS,
    SOURCE_MAIN,
    SOURCE_TARGETS,
    Kind,
    OrderAction,
    ReportKind,
    TimeInForce,
)
from engine.stage import as_bytes
from engine.strategies.apart import PythonStrategy
from engine.strategies.plugin import bind, parameter_number, word_of
from engine.strategies.registry import registered
from engine.strategies.relay import relay_counts
from engine.strategies.settings import StrategySettings
from procs.parameters import memory_of
from procs.python_strategies import load_python
from procs.strategies import SHIPPED, StrategyFile, load_file, read_content
from procs.strategy_caller import Caller

_MS = 1_000_000
_INSTRUMENT = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, 3, 10, 1, 5_00000000)
_PRICE, _SIZE = 100.0, 1000.0  # units of a quote and of a base unit


@dataclass(frozen=True)
class DeskOrder:
    """An order that the strategy caused. action: OrderAction's name; side: +1 buys, -1 sells."""

    action: str
    side: int
    price: float
    size: float
    time_in_force: str
    order_id: int


class StrategyDesk:
    """See the module. parameters: those that differ from the defaults of the strategy's file."""

    def __init__(self, file: str | Path, **parameters: Any) -> None:
        """file: a strategy's file, or the name of one that is shipped. Raises StrategyError or SettingsError."""
        name = Path(file).stem
        alone: PythonStrategy | None = None
        if str(file) in SHIPPED:
            made, code = SHIPPED[str(file)]
        else:
            read = StrategyFile(name, "", Path(file), read_content(name, str(file)))
            if read.apart:
                alone = load_python(read.content, read.path.resolve())
            made, code = alone.declared if alone else load_file(read), read.code
        self.bound = bind(name, made, parameters, code, stale_ms=StrategySettings.stale_ms if alone else 0)
        assert registered(code)
        settings = Settings()
        self.state = make_execution_state(
            settings.execution, settings.gate, settings.maker, (_INSTRUMENT,), strategies=(self.bound,)
        )
        self.now_ns = 1_700_000_000_000_000_000
        self._frames = 0
        self._trades = 0
        self._alone = alone
        self._caller = Caller(alone, 0, 1, self.bound.stale_ms, self.state) if alone else None
        self._open(100_000_00000000)

    def _open(self, balance: int) -> None:
        self._step(SOURCE_COMMANDS, MARKET, Kind.RECONCILE, aux=1)
        self._step(SOURCE_FILLS, REPORT, ReportKind.BALANCE, aux=balance)
        for kind in (ReportKind.OPEN_ORDERS, ReportKind.FEES):
            self._step(SOURCE_FILLS, REPORT, kind)
        self._step(SOURCE_FILLS, REPORT, ReportKind.RECONCILE_END, aux=1)
        self._step(SOURCE_MAIN, PREDICTION, Kind.BOOK_VALID)

    def _step(self, source: int, dtype: np.dtype, kind: int, **fields: Any) -> list[DeskOrder]:
        """One record through the stage."""
        record = np.zeros(1, dtype)
        for field, value in {"kind": kind, "recv_ts_ns": self.now_ns, **fields}.items():
            record[field] = value
        return self._take(source, record)

    def _take(self, source: int, record: np.ndarray) -> list[DeskOrder]:
        """One record through the stage; the venue's answers to what it wrote go in at once."""
        outbox = np.zeros(EXECUTION.max_out, ORDER)
        routes = np.zeros(EXECUTION.max_out, np.uint8)
        count = int(EXECUTION.step(as_bytes(self.state), source, as_bytes(record), 1, as_bytes(outbox), routes))
        orders = []
        for item in outbox[:count]:
            if item["kind"] in (OrderAction.NEW, OrderAction.CANCEL):
                answer = ReportKind.ACCEPTED if item["kind"] == OrderAction.NEW else ReportKind.CANCELLED
                self._step(SOURCE_FILLS, REPORT, answer, order_id=item["order_id"], instrument=0, side=item["side"])
                orders.append(
                    DeskOrder(
                        OrderAction(int(item["kind"])).name, int(item["side"]), float(item["price"] / _PRICE),
                        float(item["size"] / _SIZE), TimeInForce(int(item["time_in_force"])).name,
                        int(item["order_id"]),
                    )
                )
        return orders

    def _answered(self, kind: Kind, prediction: np.ndarray | None = None) -> list[DeskOrder]:
        """What a strategy that is Python alone makes of an event; nothing where it is a compiled one."""
        if self._caller is None:
            return []
        target = self._caller.call(kind, 0, self.now_ns, self._frames, prediction)
        if target is None:
            return []
        target["recv_ts_ns"] = self.now_ns
        return self._take(SOURCE_TARGETS, target)

    def prediction(
        self, bid: float, ask: float, *, bid_size: float = 1.0, ask_size: float = 1.0, output: float = 0.0,
        after_ms: int = 10, **features: float,
    ) -> list[DeskOrder]:
        """Time goes on, and a touch comes with the model's forecast (bps) and these features; what it makes of it."""
        unknown = set(features) - set(FEATURE_NAMES)
        if unknown:
            raise ValueError(f"{min(unknown)!r} is no feature; known are {', '.join(FEATURE_NAMES)}")
        self.now_ns += after_ms * _MS
        self._frames += 1
        record = np.zeros(1, PREDICTION)
        record["kind"], record["recv_ts_ns"], record["book_recv_ts_ns"] = Kind.PREDICTION, self.now_ns, self.now_ns
        record["ingest_id"], record["output"] = self._frames, (output, 0.0)
        for side, price, size in (("bid", bid, bid_size), ("ask", ask, ask_size)):
            record[f"{side}_price"], record[f"{side}_size"] = round(price * _PRICE), round(size * _SIZE)
        record["vector"] = tuple(features.get(name, 0.0) for name in FEATURE_NAMES)
        return self._take(SOURCE_MAIN, record) + self._answered(Kind.PREDICTION, record)

    def clock(self, after_ms: int = 10) -> list[DeskOrder]:
        """Time goes on, and a CLOCK record says so; what it makes of it."""
        orders = self.silence(after_ms)
        return orders + (self._answered(Kind.CLOCK) if self._alone is None or self._alone.clock else [])

    def silence(self, after_ms: int) -> list[DeskOrder]:
        """Time goes on, and a strategy that is Python alone does not answer; what execution makes of it."""
        self.now_ns += after_ms * _MS
        return self._step(SOURCE_MAIN, PREDICTION, Kind.CLOCK)

    def fill(self, order: DeskOrder, size: float = 0.0) -> None:
        """The venue fills an order at its price: so much, or all of it."""
        self._trades += 1
        amount = round((size or order.size) * _SIZE)
        self._step(
            SOURCE_FILLS, REPORT, ReportKind.FILL, order_id=order.order_id, instrument=0, side=order.side,
            price=round(order.price * _PRICE), size=amount, cumulative_size=amount, trade_id=self._trades,
        )

    def expire(self, order: DeskOrder) -> None:
        """The venue ends what is left of an order."""
        self._step(SOURCE_FILLS, REPORT, ReportKind.EXPIRED, order_id=order.order_id, instrument=0, side=order.side)

    def set(self, parameter: str, value: Any) -> None:
        """Another value of a parameter, as `bot4 set` gives it."""
        cls = self.bound.strategy.parameters
        self._step(
            SOURCE_COMMANDS, MARKET, Kind.PARAMETER, size=parameter_number(cls, parameter),
            aux=word_of(cls, parameter, value),
        )

    @property
    def position(self) -> float:
        """What it holds, base units."""
        return float(self.state["ledger"]["positions"][0, 0]["size"] / _SIZE)

    @property
    def faults(self) -> int:
        """How often it failed."""
        return int(self.state["strategies"]["books"][0, 0, 0]["faults"])

    @property
    def denied(self) -> int:
        """How many of its orders the gate refused."""
        return int(self.state["strategies"]["books"][0, 0, 0]["denied"])

    def process(self) -> dict[str, int]:
        """Of a strategy that is Python alone: what became of what it said, as the summary of a session has it."""
        return relay_counts(self.state[0]["strategies"]["memory"][0])

    @property
    def failure(self) -> str:
        """The last traceback of a strategy that is Python alone; empty where there was none."""
        return self._caller.failure if self._caller else ""

    def memory(self) -> dict[str, Any]:
        """What it remembers, by the names of its state class."""
        if self._caller is not None:
            return dict(vars(self._caller.state(0)))
        return memory_of(self.state, 0, self.bound, 0)
