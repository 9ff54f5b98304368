"""A page with plots of latency: one HTML file that holds its data and the library that draws them; needs no network.

The plots are plain plotly figures, in the page as JSON (element `latency-data`) for whoever wants the numbers. A
content policy keeps the page from reaching any network, and plotly's button that uploads a plot is left out.
"""

from __future__ import annotations

import html
from typing import Any

import orjson

from tools.latency.report import STAGE_HOPS, Course, Fact, LatencyReport, as_plain

# Okabe and Ito's colours, which stay apart for colour-blind eyes; further hops have them again, dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", "dash", "dot")
_LINES = (("p50", "p50"), ("p99", "p99"), ("p99_9", "p99.9"), ("max", "max"))
_COLUMNS = (
    ("count", "count"), ("negative", "below 0"), ("mean", "mean"), ("p50", "p50"), ("p90", "p90"), ("p99", "p99"),
    ("p99_9", "p99.9"), ("p99_99", "p99.99"), ("max", "max"),
)
_FIRST = "decision"  # the hop that is shown first, where there is one
_US = {"type": "log", "title": {"text": "us"}, "exponentformat": "none", "gridcolor": "#ddd"}
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: .2em; } h2 { margin: 1.6em 0 .2em; } p { max-width: 48em; } .note { color: #8a3b00; }
table { border-collapse: collapse; margin: .6em 0; } td, th { padding: .15em .8em .15em 0; text-align: left; }
table.numbers td + td, table.numbers th + th { text-align: right; font-variant-numeric: tabular-nums; }
tr { border-bottom: 1px solid #e4e4e4; } .plot { width: 100%; height: 460px; }
"""
_SCRIPT = """
const found = JSON.parse(document.getElementById("latency-data").textContent);
for (const [place, figure] of Object.entries(found.figures))
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, showSendToCloud: false});
"""


class NoPlotly(RuntimeError):
    """The library that draws is not installed; the message says how to get it."""


def plotly_script() -> str:
    """The source of plotly.js from the package plotly. Raises NoPlotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise NoPlotly(
            "a page with plots needs the package plotly, which is not installed: `pip install 'bot4[report]'`, or "
            "export to a file ending in .hlog"
        ) from None
    source: str = get_plotlyjs()
    return source


def _pen(place: int) -> dict[str, Any]:
    return {"color": _COLOURS[place % len(_COLOURS)], "dash": _DASHES[place // len(_COLOURS) % len(_DASHES)]}


def _shown(hop: str) -> Any:
    """Checkpoints are apart from the path: a click in the legend shows them."""
    return "legendonly" if hop.startswith("checkpoint.") else True


def _layout(**more: Any) -> dict[str, Any]:
    return {"margin": {"t": 40, "r": 20}, "plot_bgcolor": "#fff", "hovermode": "closest", **more}


def _nines(most: float) -> dict[str, Any]:
    """The axis 1 / (1 - p) up to `most`, told in percent."""
    ticks, labels = [1.0, 2.0], ["0 %", "50 %"]
    decade = 1
    while 10**decade <= most * 1.001:
        ticks.append(10.0**decade)
        labels.append(f"{100 * (1 - 10.0**-decade):.{max(decade - 2, 0)}f} %")
        decade += 1
    axis = {"type": "log", "title": {"text": "percentile"}, "tickvals": ticks, "ticktext": labels, "gridcolor": "#ddd"}
    return axis


def _curves(report: LatencyReport) -> dict[str, Any]:
    data = [
        {
            "type": "scatter", "name": hop, "x": curve.x, "y": curve.y, "visible": _shown(hop),
            "mode": "lines" if len(curve.x) > 4 else "lines+markers",
            "line": _pen(place) | {"shape": "hv" if len(curve.x) > 4 else "linear"},
            "hovertemplate": "%{y:.2f} us, 1 in %{x:.0f}<extra>" + html.escape(hop) + "</extra>",
        }
        for place, (hop, curve) in enumerate(report.curves.items())
    ]
    most = max((max(curve.x) for curve in report.curves.values()), default=10.0)
    return {"data": data, "layout": _layout(xaxis=_nines(most), yaxis=_US)}


def _over_time(courses: dict[str, Course]) -> dict[str, Any]:
    hops = list(courses)
    first = hops.index(_FIRST) if _FIRST in hops else 0
    data, buttons = [], []
    for place, (hop, course) in enumerate(courses.items()):
        for number, (key, name) in enumerate(_LINES):
            data.append({
                "type": "scatter", "mode": "lines+markers", "name": name, "x": course.at_s, "y": getattr(course, key),
                "visible": place == first, "line": {"color": _COLOURS[number]}, "marker": {"size": 4},
                "hovertemplate": "%{y:.2f} us at %{x:.1f} s<extra>" + html.escape(f"{hop} {name}") + "</extra>",
            })
        visible = [other == hop for other in hops for _ in _LINES]
        buttons.append({"label": hop, "method": "restyle", "args": [{"visible": visible}]})
    menu = {"buttons": buttons, "active": first, "x": 0, "xanchor": "left", "y": 1.14, "yanchor": "top"}
    return {"data": data, "layout": _layout(xaxis={"title": {"text": "s"}}, yaxis=_US, updatemenus=[menu])}


def _compared(report: LatencyReport) -> dict[str, Any]:
    data = [
        {
            "type": "bar", "name": name, "x": list(report.totals), "marker": {"color": _COLOURS[place]},
            "y": [known.get(key) for known in report.totals.values()],
        }
        for place, (key, name) in enumerate(_LINES)
    ]
    return {"data": data, "layout": _layout(barmode="group", yaxis=_US)}


def _stacked(report: LatencyReport) -> dict[str, Any]:
    """What the stages did in each second: their time where it is known, else how much passed them."""
    stages = {hop: report.courses[hop] for hop in STAGE_HOPS if hop in report.courses}
    timed = report.timed
    data = [
        {
            "type": "scatter", "mode": "lines", "name": hop, "x": course.at_s, "stackgroup": "stages",
            "y": course.busy_ms if timed else course.per_second, "line": _pen(place),
        }
        for place, (hop, course) in enumerate(stages.items())
    ]
    title = "ms of each second" if timed else "passages a second"
    layout = _layout(xaxis={"title": {"text": "s"}}, yaxis={"title": {"text": title}, "rangemode": "tozero"})
    return {"data": data, "layout": layout}


def figures(report: LatencyReport) -> dict[str, dict[str, Any]]:
    """The plots by the id of their place in the page; those without data are left out."""
    found: dict[str, dict[str, Any]] = {}
    if report.curves:
        found["curves"] = _curves(report)
    found["over-time"] = _over_time(report.courses)
    found["by-hop"] = _compared(report)
    found["stages"] = _stacked(report)
    return {place: figure for place, figure in found.items() if figure["data"]}


_TEXTS = {
    "curves": ("Percentile curves", "How long the slowest took: 99.9 % means that one in a thousand took longer."),
    "over-time": ("Over time", "Each point is of one interval, normally of a second. Choose the hop above the plot."),
    "by-hop": ("Hop by hop", "All of the time together. Percentiles of hops do not add up to those of a longer one."),
    "stages": ("The stages, stacked", "How long each stage was at work in a second; waits between them are left out."),
}
_UNTIMED = "How many batches (ingestion: frames) passed each stage in a second."


def _table(facts: list[Fact]) -> str:
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(found)}</td></tr>" for name, found in facts)
    return f"<table>{rows}</table>"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _hops(report: LatencyReport) -> str:
    columns = [(key, name) for key, name in _COLUMNS if any(key in known for known in report.totals.values())]
    head = "".join(f"<th>{name}</th>" for _, name in columns)
    rows = ""
    for hop, known in report.totals.items():
        cells = "".join(f"<td>{_figure(known.get(key))}</td>" for key, _ in columns)
        rows += f"<tr><td>{html.escape(hop)}</td>{cells}</tr>"
    return f'<table class="numbers"><tr><th>hop, us</th>{head}</tr>{rows}</table>'


def page(report: LatencyReport, script: str) -> str:
    """The page. script: from `plotly_script`."""
    drawn = figures(report)
    # "<" cannot end the script element early when it is told by its number.
    data = orjson.dumps(as_plain(report) | {"figures": drawn}).decode().replace("<", "\\u003c")
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in report.notes)
    plots = ""
    for place in drawn:
        heading, text = _TEXTS[place]
        text = _UNTIMED if place == "stages" and not report.timed else text
        plots += f'<h2>{heading}</h2><p>{text}</p><div class="plot" id="{place}"></div>'
    title = html.escape(report.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<script>{script}</script></head>\n<body><h1>{title}</h1>\n"
        f"{_table(report.facts)}{notes}\n{_hops(report)}\n{plots}\n<h2>The machine</h2>{_table(report.machine)}\n"
        f'<script type="application/json" id="latency-data">{data}</script>\n<script>{_SCRIPT}</script>\n'
        "</body></html>\n"
    )
