"""Calls the `on_event` of a strategy that is Python alone, and makes records of what it wants.

What the strategy is shown of its own (position, orders, parameters) is read from execution's state, which another
process may be writing to at that moment: it is for looking. What counts is what execution journals: the TARGET records
made here.
A target is said when it is another one than before, when fills of its own came in since, when it is to be done at once,
and else four times in the time that a target lasts.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

import numpy as np

from engine.execution.quoting import look_from_outside
from engine.reasons import Reason
from engine.records import TARGET, Kind
from engine.risk.market_view import MARKET_VIEW, apply_prediction
from engine.strategies.apart import PythonStrategy
from engine.strategies.context import EVENT, OWN
from engine.strategies.plugin import value_of
from engine.strategies.quotes import QUOTES

_SIDES = ("bid", "ask")
_WANTED = ("price", "size", "order_type", "time_in_force")
# Renewed so often in the time that a target lasts, so that a late renewal costs nothing.
_RENEWALS = 4


def _records(dtype: np.dtype) -> Any:
    """An array of one record whose fields are attributes: `[0]` writes through."""
    return np.zeros(1, np.dtype((np.record, dtype)))


class _Instrument:
    """What is kept for the strategy of one instrument."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.views = _records(MARKET_VIEW)
        self.event, self.view, self.own, self.quotes = (
            records[0] for records in (_records(EVENT), self.views, _records(OWN), _records(QUOTES))
        )
        self.prediction: np.ndarray | None = None
        self.said: tuple[int, ...] = ()  # what was wanted; nothing at first
        self.said_fills = 0
        self.said_ns = 0  # record time of the event that was answered
        self.passed_over = 0


class Caller:
    """See the module. `failure` is the traceback of the last call that failed, for whoever writes it down."""

    def __init__(
        self, made: PythonStrategy, place: int, life: int, stale_ms: int, execution: np.ndarray
    ) -> None:
        """place: of the strategy; life: which process of it this is, from 1; execution: EXECUTION_STATE, shape (1,)."""
        self._made, self._place, self._life = made, place, life
        self._renew_ns = stale_ms * 1_000_000 // _RENEWALS
        self._execution = execution[0]
        self._strategies = execution[0]["strategies"]
        self._sequence = 0
        self._words = b""
        self._parameters: Any = None
        self.failure = ""
        self.faults = 0
        self.instruments = [int(index) for index in np.flatnonzero(self._strategies["trades"][place])]
        self._of = {index: _Instrument(made.state()) for index in self.instruments}

    @property
    def parameters(self) -> Any:
        """The parameters in force, an instance of the strategy's own class."""
        cls = self._made.declared.parameters
        fields = dataclasses.fields(cls)
        words = self._strategies["parameters"][self._place, : len(fields)]
        if words.tobytes() != self._words:
            words = words.copy()
            values = {field.name: value_of(cls, field.name, int(words[at])) for at, field in enumerate(fields)}
            self._parameters, self._words = cls(**values), words.tobytes()
        return self._parameters

    def state(self, index: int) -> Any:
        """What the strategy remembers of an instrument."""
        return self._of[index].state

    def begin(self) -> None:
        """What came before now was before the strategy's time: it has passed over nothing."""
        for of in self._of.values():
            of.passed_over = 0

    def passed_over(self, index: int, count: int) -> None:
        """So many events of an instrument will never be shown to the strategy."""
        self._of[index].passed_over += count

    def call(
        self, kind: Kind, index: int, now_ns: int, ingest_id: int, prediction: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Show the strategy an event. Returns a TARGET record, shape (1,), without the time at which it is said, or
        None when there is nothing to say.

        prediction: PREDICTION of shape (1,), of an event of this kind.
        """
        of = self._of[index]
        of.views[:] = self._execution["views"][index : index + 1]
        if prediction is not None:
            of.prediction = prediction
        if of.prediction is not None:
            apply_prediction(of.view, of.prediction[0])
        look_from_outside(self._execution, self._place, index, of.quotes.bid, of.quotes.ask, of.own)
        fills = int(of.own.fills)
        event = of.event
        event.kind, event.now_ns, event.ingest_id, event.instrument = kind, now_ns, ingest_id, index
        failed = not self._ask(of)
        target = np.zeros(1, TARGET)
        record = target[0]
        for side in _SIDES:
            quote = of.quotes[side]
            for field in _WANTED:
                record[f"{side}_{field}"] = quote[f"target_{field}"]
            record[f"{side}_at_once"] = quote["at_once"]
            if quote["at_once"]:  # it is forgotten, whatever comes of it
                quote["at_once"] = quote["target_price"] = quote["target_size"] = 0
        record["reason"] = Reason.STRATEGY_FAULT if failed else Reason.NONE
        if not self._is_worth_saying(of, record, fills, now_ns):
            return None
        self._sequence += 1
        record["kind"], record["strategy"], record["instrument"] = Kind.TARGET, self._place, index
        record["ingest_id"], record["event_ns"], record["fills"] = ingest_id, now_ns, fills
        record["sequence"], record["aux"], record["size"] = self._sequence, self._life, of.passed_over
        record["venue"] = of.view.venue
        fair = float(of.own.fair_price)
        record["fair_price"] = fair if np.isfinite(fair) else 0.0
        of.passed_over = 0
        return target

    def _ask(self, of: _Instrument) -> bool:
        """Call `on_event`. False when it failed: then nothing is wanted."""
        try:
            self._made.function(of.event, of.view, of.own, self.parameters, of.state, of.quotes)
            if not (of.quotes.bid.fault or of.quotes.ask.fault):
                return True
            self.failure = "it wanted what is no price or no size\n"
        except Exception:  # it is a user's: whatever it raises ends this call and nothing else
            self.failure = traceback.format_exc()
        self.faults += 1
        for side in _SIDES:
            quote = of.quotes[side]
            for field in ("fault", "at_once", *(f"target_{name}" for name in _WANTED)):
                quote[field] = 0
        return False

    def _is_worth_saying(self, of: _Instrument, record: np.void, fills: int, now_ns: int) -> bool:
        """See the module; and note what is said."""
        wanted = tuple(int(record[f"{side}_{field}"]) for side in _SIDES for field in _WANTED)
        wanted = wanted if record["bid_size"] or record["ask_size"] else ()
        at_once = bool(record["bid_at_once"] or record["ask_at_once"])
        worth = at_once or wanted != of.said or (bool(wanted) and fills != of.said_fills)
        if wanted or record["reason"]:
            worth = worth or now_ns - of.said_ns >= self._renew_ns
        if worth:
            of.said, of.said_fills, of.said_ns = () if at_once else wanted, fills, now_ns
        return worth

    def unsaid(self, index: int) -> None:
        """The last target of an instrument did not get through: it is to be said again."""
        self._of[index].said_ns, self._of[index].said = 0, (-1,)
