"""Strategies that are Python alone, each in a process of its own: how a file declares one.

Its `on_event` is called, not compiled: it may import and do what it likes, and take its time over it. In execution the
relay (engine/strategies/relay.py) stands for it, which quotes what it said last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from engine.strategies import relay
from engine.strategies.plugin import Strategy, declaration


@dataclass(frozen=True)
class PythonStrategy:
    """One such strategy as its file declares it."""

    function: Callable[..., None]  # called as a compiled one is
    state: Callable[[], Any]  # makes what it remembers of an instrument
    clock: bool
    declared: Strategy  # what execution knows of it: its parameters, features and model, and the relay's kernel


def python_strategy(
    parameters: type,
    state: Callable[[], Any] = SimpleNamespace,
    *,
    features: tuple[str, ...] = (),
    feature_schema: str = "",
    model: str = "",
    model_version: int = 0,
    clock: bool = True,
) -> Callable[[Callable[..., None]], PythonStrategy]:
    """Declare a strategy that runs as it is, in a process of its own.

    state: called once for each instrument; a class of any kind. clock: whether it is called where time goes on and the
    market does not. The others as for `strategy`. Raises StrategyError.
    """
    made = declaration(
        relay.on_event, parameters, features=features, feature_schema=feature_schema, model=model,
        model_version=model_version,
    )
    return lambda function: PythonStrategy(function, state, clock, made)
