"""What a strategy file declares, and how a declaration becomes something that execution can run.

A file holds one `@strategy(...)` function. Its parameters are a frozen dataclass of `setting(...)` fields, as in
bot4.toml; its state a class of annotated fields. Both become records of 8-byte fields, so that execution moves them as
words and knows nothing of what they mean.
"""

from __future__ import annotations

import dataclasses
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.kernel import kernel
from engine.settings import SettingsError, build
from engine.strategies.registry import event_signature, register

PARAMETER_WORDS = 32
STATE_WORDS = 64
_STATE_TYPES = {int: ("<i8", ()), float: ("<f8", ()), bool: ("<i8", ())}


class StrategyError(SettingsError):
    """A strategy that cannot be run; the message names file and line, or the key."""


def floats(length: int) -> Any:
    """So many floats, as the annotation of a state's field: `history: floats(16)`."""
    return type("Floats", (), {"layout": ("<f8", (length,))})


def ints(length: int) -> Any:
    """So many whole numbers, as the annotation of a state's field."""
    return type("Ints", (), {"layout": ("<i8", (length,))})


class NoState:
    """Of a strategy that keeps nothing."""


@dataclass(frozen=True)
class Strategy:
    """One strategy as its file declares it, compiled."""

    function: Any  # its kernel, which Python can call too
    signature: Any
    parameters: type  # the class
    parameters_dtype: np.dtype
    state_dtype: np.dtype
    features: tuple[str, ...]
    feature_schema: str
    model: str
    model_version: int
    clock: bool


@dataclass(frozen=True)
class Bound:
    """A strategy of a session: under its name, with its parameters, on its symbols."""

    name: str
    strategy: Strategy
    parameters: Any  # an instance of its class
    code: int  # see engine/strategies/registry.py
    symbols: tuple[str, ...] = ()  # none: all
    stale_ms: int = 0  # of one in a process of its own: how old what it wants may be; 0 for a compiled one


def _parameters_dtype(cls: type) -> np.dtype:
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise StrategyError(f"{cls.__name__}: parameters are a class with @dataclass(frozen=True)")
    layout = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if "doc" not in field.metadata:
            raise StrategyError(f"{cls.__name__}.{field.name}: is made with setting(default, \"what it means\", ...)")
        if kind not in (int, float, bool, str) or (kind is str and not field.metadata.get("choices")):
            raise StrategyError(f"{cls.__name__}.{field.name}: int, float, bool, or str with choices is needed")
        layout.append((field.name, "<f8" if kind is float else "<i8"))
    if len(layout) > PARAMETER_WORDS:
        raise StrategyError(f"{cls.__name__}: {len(layout)} parameters, {PARAMETER_WORDS} are the most")
    return np.dtype(layout or [("spare", "<i8")], align=True)


def _state_dtype(cls: type) -> np.dtype:
    layout = []
    for name, kind in typing.get_type_hints(cls).items():
        entry = _STATE_TYPES.get(kind) or getattr(kind, "layout", None)
        if entry is None:
            raise StrategyError(f"{cls.__name__}.{name}: int, float, bool, ints(n) or floats(n) is needed")
        layout.append((name, *entry))
    dtype = np.dtype(layout or [("spare", "<i8")], align=True)
    if dtype.itemsize > 8 * STATE_WORDS:
        raise StrategyError(f"{cls.__name__}: {dtype.itemsize // 8} numbers, {STATE_WORDS} an instrument are the most")
    return dtype


def _check_texts(features: tuple[str, ...], feature_schema: str, model: str) -> None:
    for given, what in ((features, "features"), ((feature_schema, model), "feature_schema and model")):
        if not isinstance(given, tuple | list) or not all(isinstance(item, str) for item in given):
            raise StrategyError(f"{what}: texts are needed, such as features=(\"imbalance_1\",)")


def declaration(
    standing_in: Strategy, parameters: type, *, features: tuple[str, ...], feature_schema: str, model: str,
    model_version: int,
) -> Strategy:
    """What is declared of a strategy for which another one's kernel stands in execution. Raises StrategyError."""
    _check_texts(features, feature_schema, model)
    return dataclasses.replace(
        standing_in, parameters=parameters, parameters_dtype=_parameters_dtype(parameters), features=tuple(features),
        feature_schema=feature_schema, model=model, model_version=model_version,
    )


def strategy(
    parameters: type,
    state: type = NoState,
    *,
    features: tuple[str, ...] = (),
    feature_schema: str = "",
    model: str = "",
    model_version: int = 0,
    clock: bool = True,
) -> Callable[[Callable[..., None]], Strategy]:
    """Declare and compile a strategy.

    features: names of the features that it reads; feature_schema: the schema hash it was made for, or its beginning
    (empty: any); model: name of the model whose outputs it reads (empty: none), model_version: 0 for any;
    clock: whether it is called at CLOCK records too. Raises StrategyError, and numba's own errors.
    """
    _check_texts(features, feature_schema, model)

    def declare(function: Callable[..., None]) -> Strategy:
        parameters_dtype, state_dtype = _parameters_dtype(parameters), _state_dtype(state)
        signature = event_signature(parameters_dtype, state_dtype)
        compiled = kernel(signature)(function)
        return Strategy(
            compiled, signature, parameters, parameters_dtype, state_dtype, tuple(features), feature_schema, model,
            model_version, clock,
        )

    return declare


def word_of(parameters: type, name: str, value: Any) -> int:
    """A parameter's value, checked already, as the 64 bits under which execution keeps it."""
    field = next(item for item in dataclasses.fields(parameters) if item.name == name)
    if isinstance(value, str):
        return int(field.metadata["choices"].index(value))
    if isinstance(value, float):
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    return int(value)


def words_of(bound: Bound) -> list[int]:
    """All parameters of a strategy of a session as words, in the order of the class."""
    return [
        word_of(bound.strategy.parameters, field.name, getattr(bound.parameters, field.name))
        for field in dataclasses.fields(bound.strategy.parameters)
    ]


def parameter_number(parameters: type, name: str) -> int:
    """Place of a parameter in the class. Raises KeyError."""
    names = [field.name for field in dataclasses.fields(parameters)]
    if name not in names:
        raise KeyError(name)
    return names.index(name)


def value_of(parameters: type, name: str, word: int) -> Any:
    """The value that a word stands for: the inverse of `word_of`."""
    field = next(item for item in dataclasses.fields(parameters) if item.name == name)
    kind = typing.get_type_hints(parameters)[name]
    if kind is str:
        return field.metadata["choices"][word]
    if kind is float:
        return struct.unpack("<d", struct.pack("<q", word))[0]
    return kind(word)


def parse_value(parameters: type, name: str, text: str, where: str) -> Any:
    """A parameter's value from text, in the parameter's type; its bounds are not looked at. Raises StrategyError."""
    kind = typing.get_type_hints(parameters)[name]
    if kind is str:
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise StrategyError(f"{where} = {text!r}: allowed is true or false")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise StrategyError(f"{where} = {text!r}: allowed is {words}") from None


def bind(
    name: str, made: Strategy, values: Mapping[str, Any], code: int, symbols: tuple[str, ...] = (), stale_ms: int = 0
) -> Bound:
    """A strategy of a session, ready to run in this process. values: as in bot4.toml. Raises SettingsError."""
    parameters: Any = build(made.parameters, values, f"strategies.{name}.parameters")
    register(code, made.function, made.signature)
    return Bound(name, made, parameters, code, symbols, stale_ms)
