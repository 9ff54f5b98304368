"""Typed settings from a plain dict: pure, strict, and with errors that a user can act on.

A section is a frozen dataclass whose fields are made with `setting(...)`; the field carries its bounds, choices
and a sentence for the documentation. `build` refuses unknown keys (naming the nearest known one), wrong types,
values out of bounds and anything that looks like a secret. Reading the file is the caller's business.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_SECRET_WORDS = ("secret", "apikey", "password", "passphrase", "token", "privatekey", "credentials")
_LONGEST_NUMBER_BITS = 63  # kernels compute with int64


class SettingsError(ValueError):
    """A configuration that cannot be used; the message names key, value and what is allowed."""


def setting(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with a default, a sentence of documentation and what is allowed (bounds inclusive)."""
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type, doc: str) -> Any:
    """A dataclass field that holds a nested section, built from its own defaults."""
    return dataclasses.field(default_factory=cls, metadata={"doc": doc})


def table(doc: str) -> Any:
    """A dataclass field that holds a dict[str, ...]: sections or plain values by names that the user chooses."""
    return dataclasses.field(default_factory=dict, metadata={"doc": doc})


def _allowed(field: dataclasses.Field, kind: Any) -> str:
    """In words: what may stand in this field."""
    choices = field.metadata.get("choices")
    if choices:
        return "one of " + ", ".join(repr(choice) for choice in choices)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words = names.get(kind, "a list of texts")
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None:
        return f"{words}, at least {low}"
    if high is not None:
        return f"{words}, at most {high}"
    return words


def _shown(value: Any) -> str:
    """A value for a message. What a table holds is not shown: a secret may have got there by mistake."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return "a nested list"
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER_BITS:
        return f"a number of {value.bit_length()} bits"
    return repr(value)


def _check(value: Any, field: dataclasses.Field, kind: Any, where: str) -> Any:
    """The value in its field's type, or SettingsError."""
    problem = SettingsError(f"{where} = {_shown(value)}: allowed is {_allowed(field, kind)}")
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise problem
        return tuple(value)
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER_BITS:
        raise problem
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise problem
    choices = field.metadata.get("choices")
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    if (choices and value not in choices) or (low is not None and value < low) or (high is not None and value > high):
        raise problem
    return value


def _table(value: Any, item: Any, where: str) -> dict[str, Any]:
    """A table whose keys the user chooses: of sections, or of plain values that somebody else checks."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where} = {_shown(value)}: allowed is a table")
    if dataclasses.is_dataclass(item):
        table: dict[str, Any] = {}
        for key, values in value.items():
            if not isinstance(values, Mapping):
                raise SettingsError(f"{where}.{key} = {_shown(values)}: allowed is a table")
            table[key] = build(typing.cast(type, item), values, f"{where}.{key}")
        return table
    for key, plain in value.items():
        if not isinstance(plain, bool | int | float | str):
            raise SettingsError(f"{where}.{key} = {_shown(plain)}: allowed is a number, true or false, or a text")
    return dict(value)


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A settings dataclass from a mapping; absent keys keep their defaults.

    where: dotted path of the section, for messages. Raises SettingsError.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            if any(word in key.lower().replace("_", "").replace("-", "") for word in _SECRET_WORDS):
                raise SettingsError(f"{path}: secrets do not belong in the configuration; use venue.credentials_file")
            near = difflib.get_close_matches(key, list(fields), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(sorted(fields))}"
            raise SettingsError(f"{path}: unknown key{hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise SettingsError(f"{path} = {_shown(value)}: allowed is a table")
            chosen[key] = build(typing.cast(type, kind), value, path)
        elif typing.get_origin(kind) is dict:
            chosen[key] = _table(value, typing.get_args(kind)[1], path)
        else:
            chosen[key] = _check(value, fields[key], kind, path)
    try:
        return cls(**chosen)
    except Exception as error:  # a rule of the section's own, over several keys; a user's class may raise anything
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise SettingsError(f"{where}: {words}" if where else words) from None


def as_plain(settings: Any) -> dict[str, Any]:
    """Settings as nested plain dicts, ready for JSON and for `build`."""
    return dataclasses.asdict(settings)
