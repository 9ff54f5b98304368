"""docs/reference/configuration.md: every section and key of bot4.toml, from the fields of engine/config.py.

What may stand in a key is what its field says; where a rule of the section's own refuses the least of that, the section
is asked.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import Field
from typing import Any, NamedTuple

import orjson

from engine.config import Settings
from tools.docs.markdown import code, sentence, table
from tools.docs.source_text import MissingText

_HEAD = """# Configuration: every section and key

`bot4.toml` in the working directory, or `--config FILE`. Every key is optional. An unknown key, a wrong type and a
value that is not allowed are refused, with what is; so are values that do not go together. `bot4 check` shows the
values in force. Bounds are inclusive; an amount in "quote" is in the quote asset of the instrument, a "part" is a
share of 1.
"""
_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}
_UNITS_BY_END = {
    "_ms": "ms", "_s": "s", "_mib": "MiB", "_bps": "bps", "_percent": "%", "_ticks": "ticks", "_hour": "hour, UTC",
    "_pin": "BCM number", "_usd": "quote", "_exp": "decimals", "_rate": "1/s", "_value": "quote", "_balance": "quote",
    "_share": "part", "_1m": "a minute", "_10s": "in 10 s", "_1d": "a day", "_a_day": "a day", "_at_least": "count",
    "_levels": "count", "_times": "times", "_disagreements": "count", "_intervals": "intervals", "port": "port",
    "_per_second": "1/s",
}  # fmt: skip
# Numbers whose names do not end in their unit.
_UNITS = {
    "engine.deaths_to_stop": "count", "feed.connections": "count", "embedded.seed": "-", "embedded.leverage": "times",
    "embedded.btcusdt.latent_price": "quote", "embedded.btcusdt.volatility": "part, of 1 s",
    "embedded.ethusdt.latent_price": "quote", "embedded.ethusdt.volatility": "part, of 1 s",
    "embedded.max_open_orders": "count", "embedded.ban_after": "count", "embedded.send_queue": "frames",
    "embedded.flow.branching_ratio": "part", "embedded.flow.trend": "deviations of 1 s",
    "embedded.flow.volatile_factor": "times", "embedded.flow.volatile_activity": "times",
    "embedded.flow.clustering": "of the logarithm", "embedded.flow.patience": "times",
    "validation.band_fraction": "part", "validation.band_confirmations": "count", "validation.median_window": "count",
    "validation.price_max": "price units", "validation.size_max": "size units", "validation.audit_band": "part",
    "validation.funding_rate_max": "part",
    "execution.max_open_orders": "count", "gate.message_burst": "count", "maker.prediction_weight": "part",
}  # fmt: skip


class Key(NamedTuple):
    """One key of bot4.toml."""

    section: type
    path: str  # section.key
    field: Field
    type: Any


class Section(NamedTuple):
    """One section: a table of bot4.toml."""

    path: str
    doc: str
    keys: tuple[Key, ...]


def sections(cls: type = Settings, path: str = "", doc: str = "") -> Iterator[Section]:
    """Every section in the order of `bot4 check`, those within one after it."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    keys = tuple(Key(cls, f"{path}.{field.name}", field, hints[field.name]) for field in fields)
    inner = {key.path: _sections_of(key.type) for key in keys}
    own = tuple(key for key in keys if inner[key.path] is None)
    if own:
        yield Section(path, _about(cls, doc), own)
    for key in keys:
        if (within := inner[key.path]) is not None:
            named = ".NAME" if within is not key.type else ""
            yield from sections(within, key.path.removeprefix(".") + named, key.field.metadata["doc"])


def _sections_of(kind: Any) -> type | None:
    """The class of a section, or of the sections in a table whose names the user chooses; None for a plain key."""
    item = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else kind
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def unit(key: Key) -> str:
    """Unit of a number; empty for what is none. Raises MissingText for a number that has no unit."""
    if key.type not in (int, float):
        return ""
    for end, name in _UNITS_BY_END.items():
        if key.path.endswith(end):
            return name
    if key.path not in _UNITS:
        raise MissingText(f"{key.path}: no unit; name it in tools/docs/configuration.py, or let the key end in it")
    return _UNITS[key.path]


def _about(cls: type, doc: str) -> str:
    """What a section is: the sentence of its field, and what its class says beyond its first."""
    said = re.split(r"(?<=[.:])\s+(?=[A-Z])", " ".join((cls.__doc__ or "").split()))
    return " ".join([sentence(doc), *(more for more in said[1:] if not more.startswith("Raises "))])


def accepted(key: Key, value: Any) -> bool:
    """Whether the rules of the section itself take this value."""
    try:
        key.section(**{key.field.name: value})
    except ValueError:
        return False
    return True


def allowed(key: Key) -> str:
    """What may stand there, in words."""
    choices, low, high = (key.field.metadata.get(name) for name in ("choices", "minimum", "maximum"))
    if choices:
        return ", ".join(code(choice) for choice in choices)
    words = []
    if low is not None:
        above = low + 1 if key.type is int else math.nextafter(low, math.inf)
        if accepted(key, low) or not accepted(key, above):
            words.append(f"from {_number(low)}")
        else:
            words.append(f"from {above}" if key.type is int else f"above {_number(low)}")
    if high is not None:
        words.append(f"to {_number(high)}")
    return " ".join(words)


def _number(value: float) -> str:
    whole = int(value) if float(value).is_integer() else 0
    if whole.bit_length() > 31 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{value:g}" if abs(value) < 1e6 else f"{whole:,}".replace(",", " ")


def _row(key: Key) -> tuple[str, ...]:
    doc = key.field.metadata.get("doc", "")
    if not doc:
        raise MissingText(f"{key.path}: a setting without a sentence that says what it does")
    name = key.path.rsplit(".", 1)[-1]
    field = key.field
    kind = "table" if typing.get_origin(key.type) is dict else _TYPES.get(key.type, "list of texts")
    default = {} if kind == "table" else field.default
    return code(name), kind, code(orjson.dumps(default).decode()), unit(key), allowed(key), sentence(doc)


def page() -> str:
    """The whole page. Raises MissingText for a key without sentence or unit."""
    parts = [_HEAD]
    for section in sections():
        parts.append(f"\n## [{section.path}]\n\n{section.doc}\n\n")
        parts.append(table(("key", "type", "default", "unit", "allowed", "what it does"), map(_row, section.keys)))
    return "".join(parts)
