"""Hot parameters: another value for a parameter of a running strategy, checked here, journaled and obeyed by execution.

A change is written into the audit log first, and then put on execution's command ring as a PARAMETER record. Execution
journals it in the order in which it takes it, so a replay of the session has it too. It lasts until the engine stops;
bot4.toml stays as it is.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.settings import build
from engine.strategies.plugin import Bound, StrategyError, parameter_number, parse_value, value_of, word_of


@dataclasses.dataclass(frozen=True)
class Change:
    """One change that may be made: where it goes, and from what to what."""

    strategy: int
    number: int
    word: int
    before: Any
    after: Any


def parameters_of(execution: np.ndarray, place: int, bound: Bound) -> dict[str, Any]:
    """The parameters of the strategy at a place, as they are in a state (EXECUTION_STATE, shape (1,))."""
    cls = bound.strategy.parameters
    words = execution[0]["strategies"]["parameters"][place]
    return {
        field.name: value_of(cls, field.name, int(words[number]))
        for number, field in enumerate(dataclasses.fields(cls))
    }


def memory_of(execution: np.ndarray, place: int, bound: Bound, instrument: int) -> dict[str, Any]:
    """What the strategy at a place remembers of an instrument, by the names of its state class."""
    words = execution[0]["strategies"]["memory"][place, instrument].copy()
    dtype = bound.strategy.state_dtype
    record = words.view(np.uint8)[: dtype.itemsize].view(dtype)[0]
    return {name: record[name].tolist() for name in dtype.names or () if name != "spare"}


class Parameters:
    """The parameters in force of the strategies of a session."""

    def __init__(self, strategies: Sequence[Bound], execution: np.ndarray) -> None:
        """execution: EXECUTION_STATE, shape (1,), the one in force."""
        self._strategies = strategies
        self._execution = execution
        self._sent: dict[tuple[int, str], Any] = {}  # execution may not have taken them yet

    def _place(self, name: str) -> int:
        names = [bound.name for bound in self._strategies]
        if name not in names:
            raise StrategyError(f"{name!r} is no strategy of this session; there are {', '.join(names)}")
        return names.index(name)

    def in_force(self, name: str) -> dict[str, Any]:
        """The parameters of a strategy by their names. Raises StrategyError for an unknown one."""
        place = self._place(name)
        values = parameters_of(self._execution, place, self._strategies[place])
        return values | {field: value for (of, field), value in self._sent.items() if of == place}

    def check(self, name: str, parameter: str, text: str) -> Change:
        """What a change would be. Raises SettingsError for what is unknown, no value, or out of bounds."""
        values = self.in_force(name)
        place = self._place(name)
        cls = self._strategies[place].strategy.parameters
        if parameter not in values:
            near = difflib.get_close_matches(parameter, values, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(values)}"
            raise StrategyError(f"{name}.{parameter}: there is no such parameter{hint}")
        after = parse_value(cls, parameter, text, f"{name}.{parameter}")
        build(cls, {**values, parameter: after}, name)  # its bounds, and the rules over several of them
        number = parameter_number(cls, parameter)
        return Change(place, number, word_of(cls, parameter, after), values[parameter], after)

    def sent(self, change: Change, parameter: str) -> None:
        """A change is on its way to execution."""
        self._sent[change.strategy, parameter] = change.after
