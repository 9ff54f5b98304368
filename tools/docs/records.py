"""docs/reference/records.md: every record that crosses a ring, from the layouts and comments of engine/records.py."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from engine.features.vector import FEATURES_BY_NAME
from engine.instruments import Dialect
from engine.kernel import PROJECT_ROOT
from engine.records import ALL_RECORDS, Flag, Kind, OrderAction, OrderType, ReportKind, Side, Status, TimeInForce
from procs.table import STRATEGIES, rings_of
from tools.docs.markdown import code, sentence, table
from tools.docs.source_text import MissingText, field_comments, member_comments

_SOURCE = PROJECT_ROOT / "engine" / "records.py"
_HEAD = """# Records

What crosses a ring is one of these, little endian, a multiple of 64 bytes, and begins with the same head of 64 bytes.
Their one place is `engine/records.py`. Prices and sizes are whole numbers in units of 10^-`price_exp` and
10^-`size_exp` of their instrument, amounts of money in 1e-8 of the quote asset, times in ns. A record's own sequence
is the cursor of its ring and is not stored in it.
"""
_ABOUT = {
    "MARKET": "Market data, what stages tell one another of them, and commands. `kind` is a Kind.",
    "FEATURE": "A feature vector, the touch it was made of, and every control record on its way to execution.",
    "PREDICTION": "A FEATURE record with what the model says.",
    "ORDER": "What execution asks the gateway for. `kind` is an OrderAction.",
    "REPORT": "What came of it, and what the venue answers. `kind` is a ReportKind.",
    "TARGET": "What a strategy in a process of its own wants of an instrument.",
}
# Fields after the head, by the list of engine/records.py that has them.
_LISTS = {
    "MARKET": (), "FEATURE": ("_TOUCH",), "PREDICTION": ("_TOUCH", "PREDICTION"), "ORDER": ("ORDER",),
    "REPORT": ("REPORT",), "TARGET": ("TARGET",),
}  # fmt: skip
_ENUMS: tuple[tuple[type[IntEnum] | type[Flag], str], ...] = (
    (Kind, "`kind` of a MARKET, FEATURE, PREDICTION or TARGET record"), (OrderAction, "`kind` of an ORDER record"),
    (ReportKind, "`kind` of a REPORT record"), (Flag, "`flags`; they add up"), (Side, "`side`"),
    (OrderType, "`order_type` of an ORDER record"), (TimeInForce, "`time_in_force` of an ORDER record"),
    (Status, "`aux` of a STATUS record"),
)


def fields(name: str) -> list[tuple[str, ...]]:
    """(offset, name, type, what it is) of every field of a record but spare ones. Raises MissingText."""
    texts = field_comments(_SOURCE, "_HEAD")
    for part in _LISTS[name]:
        texts |= field_comments(_SOURCE, part)
    dtype = ALL_RECORDS[name]
    rows: list[tuple[str, ...]] = []
    layout = dict(dtype.fields or {})
    for field in dtype.names or ():
        if field.startswith("spare"):
            continue
        if not texts.get(field):
            raise MissingText(f"engine/records.py: {name}.{field} has no comment")
        kind, offset = layout[field][:2]
        rows.append((str(offset), code(field), _type(kind), texts[field]))
    return rows


def _type(kind: np.dtype) -> str:
    return f"{kind.base.name} x {kind.shape[0]}" if kind.shape else kind.name


def members(enum: Any) -> list[tuple[str, ...]]:
    """(number, name, what it means) of every member of an enumeration. Raises MissingText."""
    texts = member_comments(_SOURCE, enum.__name__)
    missing = [name for name, text in texts.items() if not text]
    if missing or set(texts) != set(enum.__members__):
        raise MissingText(f"engine/records.py: {enum.__name__}: no comment for {', '.join(missing)}")
    return [(str(int(member)), code(name), texts[name]) for name, member in enum.__members__.items()]


def page() -> str:
    """The whole page."""
    sizes = []
    for name, dtype in ALL_RECORDS.items():
        carriers = ", ".join(code(ring.name) for ring in rings_of(len(STRATEGIES)) if ring.dtype is dtype)
        sizes.append((f"[{name}](#{name.lower()})", str(dtype.itemsize), carriers))
    parts = [_HEAD, "\n", table(("record", "bytes", "rings"), sizes)]
    columns = ("offset", "field", "type", "what it is")
    for name in ALL_RECORDS:
        parts.append(f"\n## {name}\n\n{_ABOUT[name]}\n\n")
        own = fields(name)
        if name != "MARKET":
            own = own[len(fields("MARKET")) :]
            notes = [text for part in _LISTS[name] if (text := field_comments(_SOURCE, part).get("_HEAD"))]
            parts.append("; ".join(["The head as in [MARKET](#market)", *notes]) + ".\n\n")
        parts.append(table(columns, own))
    parts.append("\n## The feature vector\n\n`vector` of FEATURE and PREDICTION; notation in ")
    parts.append("`engine/features/vector.py`.\n\n")
    parts.append(table(("place", "feature", "definition"), (
        (str(place), code(name), text) for place, (name, text) in enumerate(FEATURES_BY_NAME.items())
    )))
    for enum, where in _ENUMS:
        doc = sentence((enum.__doc__ or "").split("\n")[0])
        parts.append(f"\n## {enum.__name__}\n\n{where[0].upper()}{where[1:]}. {doc}\n\n")
        parts.append(table(("number", "name", "what it means"), members(enum)))
    parts.append("\n## Dialect\n\n`dialect` of an instrument: in which wire format its market data come.\n\n")
    parts.append(table(("number", "name"), ((str(int(one)), code(one.name)) for one in Dialect)))
    return "".join(parts)
