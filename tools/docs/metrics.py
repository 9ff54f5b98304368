"""docs/reference/metrics.md: every figure of the metrics, from procs/metrics.py and its guide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.instruments import Instrument
from procs.metrics import (
    FEED_METRICS,
    HOP_METRICS,
    INSTRUMENT_METRICS,
    METRICS,
    METRICS_WORDS,
    PROCESS_METRICS,
    RING_METRICS,
    VALIDATION_METRICS,
    as_plain,
)
from procs.metrics_guide import FIGURES, HOP_TEXTS
from procs.table import HOPS, RING_BY_NAME, Role
from shm.histogram import BUCKETS, HISTOGRAM_BYTES
from tools.docs.markdown import code, table
from tools.docs.source_text import MissingText

_HEAD = """# Metrics

Monitoring looks once a second and says what it saw twice: as a line of `metrics.jsonl` in the session's folder, and
as the metrics block in shared memory, which `bot4 status --json` shows under `metrics` in the same form. Nothing that
trades reads either. Counts are since the start; what is "of the interval" is since the look before. Prices and
amounts are text and exact.
"""
_HOPS = """
## Hops

A hop is measured in one process, in a histogram of its own in shared memory: `bot4 latency` since the start, `bot4
latency --watch` by the second, `metrics.jsonl` by the second. Buckets are log-linear, {buckets} of them in {bytes}
bytes: values below 64 ns have one each, above that every octave has 32, so a percentile is off by 1/64 of its value
at the most.

"""
_BLOCK = """
## The block

One record of {bytes} bytes behind a sequence lock ({words} words of 8 bytes with it), little endian; amounts in 1e-8
quote, prices and sizes in the instrument's units, times in ns.

"""
_PARTS = {
    "feed": FEED_METRICS, "validation": VALIDATION_METRICS, "rings": RING_METRICS, "hops": HOP_METRICS,
    "processes": PROCESS_METRICS, "instruments": INSTRUMENT_METRICS,
}  # fmt: skip
_NAMES = {"rings": "RING", "latency_us": "HOP", "processes": "PROCESS", "instruments": "SYMBOL"}


def figures() -> list[str]:
    """The place of every figure in a line of metrics.jsonl, in order, such as rings.RING.fill."""
    metrics = np.zeros(1, METRICS)
    metrics["hops"]["count"] = metrics["rings"]["capacity"] = 1
    instrument = Instrument(0, "SYMBOL", "BASE", "QUOTE", 2, 3, 10, 1, 0)
    return list(dict.fromkeys(_places(as_plain(metrics[0], [instrument]), "")))


def _places(values: dict[str, Any], before: str) -> Iterator[str]:
    for key, value in values.items():
        place = f"{before}{_NAMES.get(before.rstrip('.'), key)}"
        if isinstance(value, dict):
            yield from _places(value, f"{place}.")
        else:
            yield place


def page() -> str:
    """The whole page. Raises MissingText for a figure or hop of which nothing is said."""
    known = figures()
    missing = [*sorted(set(known) ^ set(FIGURES)), *sorted(set(HOPS) ^ set(HOP_TEXTS))]
    if missing:
        raise MissingText(f"procs/metrics_guide.py and the metrics do not have the same: {', '.join(missing)}")
    lines = table(("figure", "unit", "what it is"), ((code(name), *FIGURES[name]) for name in known))
    names = table(("stands for", "is one of"), (
        ("RING", ", ".join(map(code, RING_BY_NAME))), ("HOP", ", ".join(map(code, HOPS))),
        ("PROCESS", ", ".join(code(role.label) for role in Role)), ("SYMBOL", "the venue's names of the instruments"),
    ))  # fmt: skip
    hops = table(("hop", "process", "histogram", "from -> to"), (
        (code(hop), role.label, kind, HOP_TEXTS[hop]) for hop, (role, kind) in HOPS.items()
    ))  # fmt: skip
    return "".join((
        _HEAD, "\n## metrics.jsonl\n\n", lines, "\n", names, _HOPS.format(buckets=BUCKETS, bytes=HISTOGRAM_BYTES), hops,
        _BLOCK.format(bytes=METRICS.itemsize, words=METRICS_WORDS), _layout(),
    ))


def _layout() -> str:
    """The fields of the block, those of a part as part.field."""
    rows = []
    for name, (kind, offset, *_) in (METRICS.fields or {}).items():
        many = f" x {kind.shape[0]}" if kind.shape else ""
        if name not in _PARTS:
            rows.append((str(offset), code(name), f"{kind.base.name}{many}"))
            continue
        rows.append((str(offset), code(name), f"{kind.base.itemsize} bytes{many}: " + ", ".join(
            f"{code(field)} {inner.base.name}" + (f" x {inner.shape[0]}" if inner.shape else "")
            for field, (inner, *_) in (_PARTS[name].fields or {}).items()
        )))
    return table(("offset", "field", "type"), rows)
