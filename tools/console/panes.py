"""Panes on the machinery: processes and rings, latency, log. Pure: (snapshot, width, height, scroll) -> Drawn."""

from __future__ import annotations

from tools.console.canvas import BAD, TITLE, Drawn, Line, Style, bar, columns, count, duration, fit, line, wrapped
from tools.console.lists import Lists, shares
from tools.console.snapshot import Percentiles, Process, Ring, Snapshot

_HEARTBEAT_NS = 1_000_000_000  # older ones are marked
_RING_FULL = 0.5  # from here on new entries are refused
_PROCESS_WIDTHS = (12, -8, 9, -4, -6, -8, -9, -8, -8, 16)
_RING_WIDTHS = (12, 12, -7, -9, -7, -9, -8, -9)
_PERCENTILES = ("p50", "p99", "p99_9", "max")


def _unwell(item: Process) -> bool:
    """Whether a process is missing, or was not heard of for a while."""
    return item.missing or (item.heartbeat_ns is not None and item.heartbeat_ns > _HEARTBEAT_NS)


def _process(item: Process, wide: bool) -> Line:
    mark = "!" if _unwell(item) else " "
    cells = [
        mark + item.role, str(item.pid or "-"), item.readiness, "-" if item.core is None else str(item.core),
        "-" if item.cpu is None else f"{item.cpu:.1f}", f"{item.pss_mb:.1f}" if item.pss_mb else "-",
        duration(item.heartbeat_ns), count(item.restarts), "-" if item.per_second is None else count(item.per_second),
    ]
    if wide:
        cells.append(",".join(map(str, item.cores)) or "any")
    return columns(cells, _PROCESS_WIDTHS[: len(cells)], BAD if mark == "!" else Style.PLAIN)


def _crowded(item: Ring) -> bool:
    """Whether a ring is half full, or has had no place for a record."""
    return item.fill >= _RING_FULL or item.dropped > 0


def _ring(item: Ring) -> Line:
    mark = "!" if _crowded(item) else " "
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
    lists, room = Lists(scroll), height - 2
    for_processes, for_rings = shares(room, (len(snapshot.processes), len(snapshot.rings)))
    lines = [columns([" " + heading[0], *heading[1:]], _PROCESS_WIDTHS[: len(heading)], TITLE)]
    lines += lists.rows(snapshot.processes, for_processes, lambda item: _process(item, wide), _unwell)
    lines.append(columns(
        [" ring", "fill", "full", "in flight", "places", "records/s", "dropped", "produced"],
        _RING_WIDTHS, TITLE,
    ))
    lines += lists.rows(snapshot.rings, for_rings, _ring, _crowded)
    if height - len(lines) >= 4 and snapshot.log:
        rows = height - len(lines) - 1
        title = " log" if rows >= len(snapshot.log) else " log, its newest lines (6: all of them)"
        lines += [line(fit(title, width), TITLE), *(line(" " + text) for text in snapshot.log[-rows:])]
    return lists.drawn(lines)


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
    end = [
        (), line(" decision: frame in hand -> order intent published    wire: intent -> bytes out", Style.DIM),
        line(" frame_wire: frame in hand -> bytes out    call: bytes out -> the venue's answer", Style.DIM),
    ]

    def row(hop: str) -> Line:
        shown = hop if wide else hop.replace("checkpoint.", "ckpt ")
        cells = [" " + shown, *_figures(snapshot.last_second.get(hop)), *_figures(snapshot.since_start[hop])[first:]]
        return columns(cells, widths, Style.BOLD if hop in ("decision", "wire") else Style.PLAIN)

    lists = Lists(scroll)
    lines += lists.rows(list(snapshot.since_start), height - len(lines) - len(end), row, lambda hop: False)
    if not snapshot.since_start:
        lines.append(line(" nothing has passed yet"))
    return lists.drawn(lines + end)


def log_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """The newest lines of the session's logs, the newest at the bottom; scroll: so many rows back."""
    rows = [row for text in snapshot.log for row in wrapped(text, width - 1)]
    if not rows:
        return Drawn([line(" nothing was logged yet")])
    if len(rows) <= height:
        return Drawn([line(" " + row) for row in rows])
    page = height - 1
    newer = min(scroll, len(rows) - page)
    older = len(rows) - page - newer
    words = [f"{older} older rows: PgUp"] if older else []
    words += [f"{newer} newer: PgDn"] if newer else []
    shown = rows[older : older + page]
    return Drawn(
        [line(f" ... {'   '.join(words)}", Style.DIM), *(line(" " + row) for row in shown)], len(rows) - page, page
    )
