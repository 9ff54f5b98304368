"""Panes on the machinery: processes and rings, latency, log. Pure: (snapshot, width, height, scroll) -> Drawn."""

from __future__ import annotations

from tools.console.canvas import BAD, TITLE, Drawn, Line, Style, bar, columns, count, duration, fit, line
from tools.console.snapshot import Percentiles, Process, Ring, Snapshot

_HEARTBEAT_NS = 1_000_000_000  # older ones are marked
_RING_FULL = 0.5  # from here on new entries are refused
_PROCESS_WIDTHS = (12, -8, 9, -4, -6, -8, -9, -8, -8, 16)
_RING_WIDTHS = (12, 12, -7, -9, -7, -9, -8, -9)
_GOES_ON = "    "
_PERCENTILES = ("p50", "p99", "p99_9", "max")


def _process(item: Process, wide: bool) -> Line:
    late = item.heartbeat_ns is not None and item.heartbeat_ns > _HEARTBEAT_NS
    mark = "!" if item.missing or late else " "
    cells = [
        mark + item.role, str(item.pid or "-"), item.readiness, "-" if item.core is None else str(item.core),
        "-" if item.cpu is None else f"{item.cpu:.1f}", f"{item.pss_mb:.1f}" if item.pss_mb else "-",
        duration(item.heartbeat_ns), count(item.restarts), "-" if item.per_second is None else count(item.per_second),
    ]
    if wide:
        cells.append(",".join(map(str, item.cores)) or "any")
    return columns(cells, _PROCESS_WIDTHS[: len(cells)], BAD if mark == "!" else Style.PLAIN)


def _ring(item: Ring) -> Line:
    mark = "!" if item.fill >= _RING_FULL or item.dropped else " "
    cells = [
        mark + item.name, bar(item.fill, 12), f"{100 * item.fill:.1f} %", count(item.in_flight), count(item.capacity),
        "-" if item.per_second is None else count(item.per_second), count(item.dropped), count(item.produced),
    ]
    return columns(cells, _RING_WIDTHS, BAD if mark == "!" else Style.PLAIN)


def engine_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Processes and rings; under them the log where there is room."""
    wide = width >= 100
    heading = ["process", "pid", "state", "core", "CPU %", "PSS MB", "heartbeat", "restarts", "work/s"]
    if wide:
        heading.append("may use cores")
    lines = [columns([" " + heading[0], *heading[1:]], _PROCESS_WIDTHS[: len(heading)], TITLE)]
    lines += [_process(item, wide) for item in snapshot.processes]
    lines.append(columns(
        [" ring", "fill", "full", "in flight", "places", "records/s", "dropped", "produced"],
        _RING_WIDTHS, TITLE,
    ))
    lines += [_ring(item) for item in snapshot.rings]
    if height - len(lines) >= 4 and snapshot.log:
        rows = height - len(lines) - 1
        lines += [line(fit(" log", width), TITLE), *(line(" " + text) for text in snapshot.log[-rows:])]
    return Drawn(lines[:height])


def _figures(values: Percentiles | None) -> list[str]:
    """Count and percentiles of a hop; dashes where nothing passed."""
    if values is None:
        return ["-"] * (1 + len(_PERCENTILES))
    return [count(values["count"]), *(duration(values[key] * 1000) for key in _PERCENTILES)]


def latency_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Every hop: the last second beside the whole session."""
    wide = width >= 96
    name, cell = (24, 7) if wide else (15, 6)
    first = 0 if wide else 1  # how often something passed since the start is left out where there is no room
    headings = ["n", "p50", "p99", "p99.9", "max"]
    widths = [name, *[-cell] * (2 * len(headings) - first)]
    over = fit("", name) + fit("the last second", (cell + 1) * len(headings), right=True)
    lines = [line(over + fit("since the start", (cell + 1) * (len(headings) - first), right=True), Style.BOLD)]
    lines.append(columns([" hop", *headings, *headings[first:]], widths, TITLE))
    for hop, whole in snapshot.since_start.items():
        shown = hop if wide else hop.replace("checkpoint.", "ckpt ")
        cells = [" " + shown, *_figures(snapshot.last_second.get(hop)), *_figures(whole)[first:]]
        lines.append(columns(cells, widths, Style.BOLD if hop in ("decision", "wire") else Style.PLAIN))
    if not snapshot.since_start:
        lines.append(line(" nothing has passed yet"))
    lines += [
        (), line(" decision: frame in hand -> order intent published    wire: intent -> bytes out", Style.DIM),
        line(" frame_wire: frame in hand -> bytes out    call: bytes out -> the venue's answer", Style.DIM),
    ]
    return Drawn(lines[:height])


def log_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """The newest lines of the session's logs, the newest at the bottom; scroll: so many rows back."""
    rows = [row for text in snapshot.log for row in _wrapped(text, width - 1)]
    if not rows:
        return Drawn([line(" nothing was logged yet")])
    most = max(len(rows) - height, 0)
    end = len(rows) - min(scroll, most)
    return Drawn([line(" " + row) for row in rows[max(end - height, 0) : end]], most, height)


def _wrapped(text: str, width: int) -> list[str]:
    """A line of a log in as many rows as it needs; what goes on is indented."""
    rest = width - len(_GOES_ON)
    return [text[:width], *(_GOES_ON + text[at : at + rest] for at in range(width, len(text), rest))]
