"""What a capture holds, counted in one pass over all of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from procs.capture.layout import NO_SYMBOL, SEGMENT_HEADER, Captured
from procs.capture.reader import CaptureReader


@dataclass
class _Losses:
    """Connections that were lost, and for how long they were."""

    since_ns: dict[int, int]
    count: int = 0
    longest_ns: int = 0

    def take(self, kind: int, connection: int, ts_ns: int) -> None:
        if kind == Captured.LOST:
            self.count += 1
            self.since_ns.setdefault(connection, ts_ns)
        elif kind == Captured.OPENED and connection in self.since_ns:
            self.longest_ns = max(self.longest_ns, ts_ns - self.since_ns.pop(connection))


def overview(folder: Path) -> dict[str, Any]:
    """Counts by kind and symbol, time span, losses, the longest silence, sizes and ratio. Every block is unpacked, so
    damage anywhere is found: raises CaptureError."""
    reader = CaptureReader(folder)
    manifest = reader.manifest
    kinds: Counter[int] = Counter()
    symbols: Counter[int] = Counter()
    losses = _Losses({})
    first_ns = last_ns = previous_ns = silence_ns = data_bytes = 0
    for entry in reader.entries():
        if not kinds:
            first_ns = last_ns = previous_ns = entry.ts_ns
        kinds[entry.kind] += 1
        symbols[entry.symbol] += 1
        data_bytes += len(entry.data)
        silence_ns = max(silence_ns, entry.ts_ns - previous_ns)
        previous_ns = entry.ts_ns
        first_ns, last_ns = min(first_ns, entry.ts_ns), max(last_ns, entry.ts_ns)
        losses.take(entry.kind, entry.connection, entry.ts_ns)
    segments = reader.segments()
    stored_bytes = sum(path.stat().st_size for path in segments) - reader.torn_bytes
    content_bytes = stored_bytes - SEGMENT_HEADER.size * len(segments)
    return {
        "folder": str(folder), "capture": manifest.capture, "venue": manifest.venue, "market": manifest.market,
        "symbols": {name: symbols[place] for place, name in enumerate(manifest.symbols)},
        "of_no_symbol": symbols[NO_SYMBOL],
        "entries": kinds.total(),
        "kinds": {kind.name.lower(): kinds[kind] for kind in Captured if kinds[kind]},
        "connections": list(manifest.connections),
        "first_ns": first_ns, "last_ns": last_ns, "seconds": (last_ns - first_ns) / 1e9,
        "losses": losses.count, "longest_loss_s": losses.longest_ns / 1e9, "longest_silence_s": silence_ns / 1e9,
        "segments": len(segments), "blocks": reader.blocks_unpacked,
        "data_bytes": data_bytes, "stored_bytes": stored_bytes, "torn_bytes": reader.torn_bytes,
        "ratio": round(data_bytes / content_bytes, 3) if content_bytes > 0 else 0.0,
        "subscription": manifest.subscription, "source": manifest.source,
    }
