"""Exports: HdrHistogram's own readers understand the logs, the pages hold what the histograms hold, no half files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.config import Settings
from procs.attach import leave_plan, lock_path, plan_path
from procs.instance import Mapping, Plan
from procs.table import HOPS
from shm.histogram import COUNT, INT64_MAX, MAX, new_histogram, percentiles
from shm.lease import Lease
from tests.instance_memory import small_instance
from tests.latency_samples import Page, histogram_of, line, meanwhile, record, running
from tools import cli
from tools.latency import page as page_module
from tools.latency.buckets import values_of
from tools.latency.hlog import encode, log_lines, place_of
from tools.latency.kept import session_report
from tools.latency.page import figures, page
from tools.latency.report import Curve, LatencyReport, curve_of, machine_now
from tools.latency.sampling import Interval, total

PERCENTS = (0, 10, 50, 90, 99, 99.9, 100)
VALUES = st.lists(st.integers(0, 2**62) | st.integers(0, 10**6) | st.integers(0, 70), max_size=80)
JAR = Path("/usr/share/java/hdrhistogram.jar")  # Debian's libhdrhistogram-java
OK, FINDING, USAGE = 0, 1, 2


def read_back(text: str) -> dict[int, int]:
    """{value: count} of an encoded histogram as PyPI's hdrhistogram reads it: upper ends of its places."""
    hdrh = pytest.importorskip("hdrh.histogram", reason="the package hdrhistogram, which reads the logs, is not here")
    found = hdrh.HdrHistogram.decode(text.encode())
    places = np.frombuffer(found.counts, np.int64)
    assert found.get_total_count() == places.sum()
    return {
        found.get_highest_equivalent_value(found.get_value_from_index(int(place))): int(places[place])
        for place in np.flatnonzero(places)
    }


# --- HdrHistogram's log format ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(VALUES)
@example([86_400_000_000_000])
@example([86_400_000_000_001, 2**61])
def test_another_library_reads_every_value_as_our_own_percentiles_tell_it(values: list[int]) -> None:
    histogram = histogram_of(values)
    known, counts = values_of(histogram)
    expected = dict(zip(known.tolist(), counts.tolist(), strict=True))
    read = read_back(encode(histogram))
    assert sum(read.values()) == len(values)
    if values:
        # The last bucket's values and MAX are where no place ends: each is told by the upper end of its place.
        assert max(values) <= max(read) <= max(values) * 1025 // 1024
        last, count = max(expected), expected.pop(max(expected))
        ends = {value: found for value, found in read.items() if value >= last}
        assert sum(ends.values()) == count and ends[max(read)] >= 1
        assert all(value <= last * 1025 // 1024 or value == max(read) for value in ends)
        read = {value: found for value, found in read.items() if value < last}
    assert read == expected


def test_one_changed_count_is_seen() -> None:
    histogram = histogram_of([5, 70, 9_000_000])
    other = histogram_of([5, 70, 70, 9_000_000])
    assert read_back(encode(histogram)) != read_back(encode(other))


def test_places_ascend_with_values_and_are_a_thousandth_wide() -> None:
    assert [place_of(value) for value in (0, 1, 2047, 2048, 2049, 2050)] == [0, 1, 2047, 2048, 2048, 2049]
    assert place_of(INT64_MAX) == (52 << 10) + 2047
    edges = sorted({(1 << bit) + step for bit in range(62) for step in (-1, 0, 1)})
    places = [place_of(edge) for edge in edges]
    assert places == sorted(places)


def intervals() -> list[Interval]:
    """Two seconds: decision in both, wire in the second, nothing else."""
    second = {hop: new_histogram() for hop in HOPS}
    first = dict(second)
    first["decision"] = histogram_of([30_000, 31_000, 95_000, -7])
    second["decision"] = histogram_of([40_000] * 98 + [41_000, 700_123])
    second["wire"] = histogram_of([2_000_000])
    return [Interval(0, 1_000_000_000, first), Interval(1_000_000_000, 1_004_000_000, second)]


def test_a_log_as_the_library_reads_it(tmp_path: Path) -> None:
    log = pytest.importorskip("hdrh.log", reason="the package hdrhistogram, which reads the logs, is not here")
    hdrh = pytest.importorskip("hdrh.histogram")
    path = tmp_path / "session.hlog"
    path.write_text("\n".join([*log_lines(intervals(), 1_795_000_000_250_000_000, ["about"]), ""]))
    reader = log.HistogramLogReader(str(path), hdrh.HdrHistogram(1, 86_400_000_000_000, 3))
    read = []
    while (found := reader.get_next_interval_histogram()) is not None:
        begin, end = found.get_start_time_stamp(), found.get_end_time_stamp()
        read.append((found.get_tag(), begin, end, found.get_total_count()))
    begin = 1_795_000_000_250.0
    assert read == [
        ("decision", begin, begin + 1000, 3), ("wire", begin, begin + 1000, 0),
        ("decision", begin + 1000, begin + 2004, 100), ("wire", begin + 1000, begin + 2004, 1),
    ]
    assert reader.get_start_time_sec() == begin / 1000
    text = path.read_text()
    assert "#[1 latencies below zero of the hop decision are left out]" in text and "#[about]" in text
    assert [line.split(",")[3] for line in text.splitlines() if line.startswith("Tag=decision")] == [
        "0.095000", "0.700123",
    ]


def test_the_stock_tool_prints_our_percentiles(tmp_path: Path) -> None:
    java = shutil.which("java")
    if java is None or not JAR.exists():
        pytest.skip("HdrHistogram's own tool is not here: no java, or no libhdrhistogram-java")
    path = tmp_path / "session.hlog"
    path.write_text("\n".join([*log_lines(intervals(), 1_795_000_000_250_000_000, []), ""]))
    command = [java, "-cp", str(JAR), "org.HdrHistogram.HistogramLogProcessor", "-i", str(path)]
    command += ["-tag", "decision", "-outputValueUnitRatio", "1.0"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    rows = [line.split() for line in said.splitlines() if len(line.split()) == 4 and line.strip()[0].isdigit()]
    by_percentile = {float(row[1]): float(row[0]) for row in rows}
    whole = total(intervals())["decision"]
    for share in (0.5, 0.75, 0.9, 0.95):
        assert by_percentile[share] == percentiles(whole, (100 * share,))[0]
    assert "Total count    =          103" in said


# --- pages -----------------------------------------------------------------------------------------------------------


def at_percentile(curve: dict[str, Any], percent: float) -> float:
    """The value that a plotted curve (steps) has at a percentile below that of its last point."""
    x = 1 / (1 - percent / 100)
    places = [place for place, begin in enumerate(curve["x"]) if begin <= x * (1 - 1e-12) or begin == 1.0]
    return float(curve["y"][places[-1]])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200))
def test_a_curve_is_the_percentiles_of_its_histogram(values: list[int]) -> None:
    histogram = histogram_of(values)
    curve = curve_of(histogram)
    assert curve.x[-1] == len(values) and curve.y[-1] == max(values) / 1000
    plotted = {"x": curve.x[:-1], "y": curve.y[:-1]}
    for percent in (0, 25, 50, 90, 99, 99.5):
        assert at_percentile(plotted, percent) == percentiles(histogram, (percent,))[0] / 1000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An instance that was at work while it was exported, both ways; and what its histograms held before and after."""
    pytest.importorskip("plotly", reason="the package plotly, which draws, is not here")
    folder = tmp_path_factory.mktemp("export")
    with running(folder) as (plan, config):
        mapping = Mapping(plan)
        record(mapping, "decision", *range(1_000, 50_000, 1_000))

        def work(turn: int) -> None:
            record(mapping, "decision", 20_000 + 1_000 * turn, 35_000)
            record(mapping, "ml", 90_000)

        before = mapping.histogram(*HOPS["decision"]).copy()
        answers = {}
        with meanwhile(0.02, work):
            for kind in ("html", "hlog"):
                path = folder / f"latency.{kind}"
                out = io.StringIO()
                sys.stdout, kept = out, sys.stdout
                try:
                    out.buffer = io.BytesIO()  # type: ignore[misc]
                    arguments = ["--export", str(path), "--for", "2.3s", "--json", "--config", str(config)]
                    code = cli.main(["latency", *arguments])
                    answers[kind] = (code, json.loads(out.buffer.getvalue()), path.read_text())
                finally:
                    sys.stdout = kept
        after = mapping.histogram(*HOPS["decision"]).copy()
        mapping.close()
        return {"plan": plan, "before": before, "after": after, "answers": answers, "folder": folder}


def test_a_page_of_a_running_engine(exported: dict[str, Any]) -> None:
    code, answer, text = exported["answers"]["html"]
    assert code == OK and not answer["ended"] and answer["seconds"] >= 2.3
    found = Page(text)
    assert found.ids == ["curves", "over-time", "by-hop", "stages", "latency-data"] and found.fetches == []
    assert found.policy.startswith("default-src 'none';")
    data = found.data
    assert "showSendToCloud: false" in found.scripts[-1][1], "plots are not to be uploaded by a click"
    assert data["facts"]["engine"] == exported["plan"].name == answer["name"]
    assert exported["plan"].session in data["facts"]["session"] and "load at the end" in data["machine"]
    assert {"governor", "clock source", "processor"} <= set(data["machine"])
    assert data["latency_us"] == answer["latency_us"] and set(data["latency_us"]) == {"decision", "ml"}
    known = data["latency_us"]["decision"]
    curves = {curve["name"]: curve for curve in data["figures"]["curves"]["data"]}
    assert at_percentile(curves["decision"], 50) == known["p50"] and curves["decision"]["x"][-1] == known["count"]
    assert curves["decision"]["y"][-1] == known["max"] <= exported["after"][MAX] / 1000
    assert 0 < known["count"] < exported["after"][COUNT] - exported["before"][COUNT]
    courses = [line for line in data["figures"]["over-time"]["data"] if line["visible"]]
    assert [line["name"] for line in courses] == ["p50", "p99", "p99.9", "max"]
    assert len(courses[0]["x"]) == 3 and courses[0]["x"][:2] == pytest.approx([1, 2], abs=0.9)
    assert max(courses[3]["y"]) == known["max"]
    assert all(str(known["count"]) in found.texts for known in data["latency_us"].values())


def test_the_plots_are_figures_that_plotly_knows(exported: dict[str, Any]) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in Page(exported["answers"]["html"][2]).data["figures"].values():
        assert graph_objects.Figure(figure).data  # raises where an attribute does not exist
        with pytest.raises(ValueError, match="colr"):
            graph_objects.Figure(figure | {"layout": {"colr": 1}})


def test_a_log_of_a_running_engine(exported: dict[str, Any]) -> None:
    code, answer, text = exported["answers"]["hlog"]
    assert code == OK
    lines = [line.split(",") for line in text.splitlines() if line.startswith("Tag=")]
    assert [line[0] for line in lines] == ["Tag=ml", "Tag=decision"] * 3
    counts = sum(sum(read_back(line[4]).values()) for line in lines if line[0] == "Tag=decision")
    assert counts == answer["latency_us"]["decision"]["count"]
    assert exported["plan"].session in text.splitlines()[1]
    assert sorted(path.name for path in exported["folder"].glob("*latency*")) == ["latency.hlog", "latency.html"]


def test_without_plotly_it_says_what_to_install_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    path = tmp_path / "page.html"
    assert cli.main(["latency", "--export", str(path), "--for", "1h"]) == FINDING
    said = capsys.readouterr().err
    assert "needs the package plotly" in said and "pip install 'bot4[report]'" in said and not path.exists()


def test_text_of_others_cannot_end_the_script_or_become_markup() -> None:
    report = session_of([line(1, wire=5)], {"name": "</script><b>x"})
    text = page(report, "")
    assert "</script><b>" not in text and Page(text).data["facts"]["engine"] == "</script><b>x"


# --- an engine that ends ---------------------------------------------------------------------------------------------


def gone_plan(plan: Plan, lease: Lease) -> None:
    """An end in order."""
    plan_path(plan.name).unlink()


def gone_lease(plan: Plan, lease: Lease) -> None:
    """Supervisor and launcher killed: the plan stays."""
    lease.release()


def gone_session(plan: Plan, lease: Lease) -> None:
    """Ended, and another of the same name started."""
    leave_plan(plan.name, orjson.dumps(orjson.loads(plan.to_json()) | {"session": "0badcafe"}))


@pytest.mark.parametrize("ends", [gone_plan, gone_lease, gone_session])
@pytest.mark.parametrize("watched", [False, True])
def test_an_engine_that_ends_is_noticed_and_what_was_sampled_is_kept(
    ends: Callable[[Plan, Lease], None], watched: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.hlog"
    with small_instance(tmp_path, capacity=16) as plan, Lease.acquire(lock_path(plan.name)) as lease:
        leave_plan(plan.name, plan.to_json())
        config = tmp_path / "engine.toml"
        config.write_text(f'[engine]\nname = "{plan.name}"\n')
        mapping = Mapping(plan)

        def end() -> None:
            record(mapping, "wire", 5_000, 6_000)
            ends(plan, lease)

        timer = threading.Timer(0.3, end)
        timer.start()
        arguments = ["--watch", "--json"] if watched else ["--export", str(path), "--for", "1h"]
        try:
            code = cli.main(["latency", *arguments, "--config", str(config)])
        finally:
            timer.join()
            mapping.close()
            plan_path(plan.name).unlink(missing_ok=True)
            lock_path(plan.name).unlink(missing_ok=True)
    said = capsys.readouterr()
    if watched:
        assert (code, said.err) == (OK, f"bot4: the engine named {plan.name!r} has ended\n")
    else:
        assert code == FINDING
        assert said.err.startswith(f"bot4: the engine named {plan.name!r} ended after ") and str(path) in said.err
        assert sum(read_back(path.read_text().splitlines()[-1].split(",")[4]).values()) == 2


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--export", "x.csv"), "--export x.csv: allowed are files ending in .hlog or .html"),
        (("--export", "/no/such/x.hlog"), "a file in a folder that exists and can be written to is needed"),
        (("--export", "x.hlog", "--watch"), "--export: it goes with neither --watch nor --histogram"),
        (("--export", "x.hlog", "--session", "."), "a session keeps percentiles, no histograms"),
        (("--export", "x.html", "--session", "/no/such"), "--session /no/such: there is no such folder"),
        (("--export", "x.html", "--session", ".", "--for", "3s"), "--session: it goes with --export and without --for"),
        (("--session", "."), "--session: it goes with --export"),
        (("--for", "3s"), "--for: it goes with --export or --watch"),
        (("--histogram", "speed"), "--histogram speed: allowed are ingestion, validation,"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["latency", *arguments]) == USAGE
    said = capsys.readouterr()
    assert said.out == "" and words in said.err and said.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.hlog"
    path.write_text("precious")
    with running(tmp_path) as (_, config):
        def full(self: Path, content: bytes) -> int:
            with self.open("wb") as file:
                file.write(content[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_bytes", full)
            code = cli.main(["latency", "--export", str(path), "--for", "100ms", "--config", str(config)])
        assert code == USAGE and "No space left on device" in capsys.readouterr().err
        assert path.read_text() == "precious" and not list(tmp_path.glob(".old*"))
        assert cli.main(["latency", "--export", str(path), "--for", "100ms", "--config", str(config)]) == OK
        assert path.read_text().startswith("#[Histogram log format version 1.3]")


# --- sessions --------------------------------------------------------------------------------------------------------


def session_of(lines: list[dict[str, Any]], session: dict[str, Any], folder: Path | None = None) -> LatencyReport:
    """The report of a folder with these lines, half of them put aside."""
    with tempfile.TemporaryDirectory() as made:
        place = folder or Path(made)
        half = len(lines) // 2
        (place / "metrics.jsonl.1").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines[:half]))
        (place / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines[half:]) + b'{"at')
        (place / "session.json").write_bytes(orjson.dumps(session))
        return session_report(place)


def test_a_session_that_was_killed_shows_its_seconds_and_no_percentile_of_the_whole() -> None:
    report = session_of([line(1, 0.0, wire=5.0), line(2, wire=6.0), line(3), line(4, wire=7.0, ml=1.0)], {"name": "e"})
    assert report.totals == {"wire": {"count": 70, "max": 28.0}, "ml": {"count": 40, "max": 4.0}}
    assert report.curves == {} and "has no summary" in report.notes[0]
    wire = report.courses["wire"]
    assert wire.at_s == [0, 1, 2, 3] and wire.p50 == [5, 6, None, 7] and wire.per_second == [None, 20, 0, 40]
    assert set(figures(report)) == {"over-time", "by-hop", "stages"}
    assert figures(report)["stages"]["data"][0]["y"] == [None, 0, 0, 40] and not report.timed


def test_a_session_with_a_summary_has_its_percentiles_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="the package plotly, which draws, is not here")
    session = {"name": "e", "session": "12345678", "versions": {"cpu": "Some CPU"}}
    summary = {"latency_us": {"wire": {"count": 5000, "p50": 5.0, "p99": 8.0, "p99_9": 9.0, "max": 11.0}}}
    (tmp_path / "summary.json").write_bytes(orjson.dumps(summary))
    report = session_of([line(1, wire=5.0), line(2, wire=6.0)], session, tmp_path)
    assert report.totals == summary["latency_us"]
    assert report.curves == {"wire": Curve([2.0, 100.0, 1000.0, 5000.0], [5.0, 8.0, 9.0, 11.0])}
    path = tmp_path / "page.html"
    assert cli.main(["latency", "--session", str(tmp_path), "--export", str(path), "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["latency_us"] == summary["latency_us"] and answer["machine"] == {"cpu": "Some CPU"}
    found = Page(path.read_text())
    assert not any("passed each stage" in text for text in found.texts), "no stage is in it"
    assert found.data["figures"]["curves"]["data"][0]["mode"] == "lines+markers"


def test_a_curve_ends_with_the_number_of_its_values(tmp_path: Path) -> None:
    known = {"p50": 5.0, "p99": 11.0, "p99_9": 11.0, "max": 11.0}
    hops = {"wire": {"count": 200, **known}, "ml": {"count": 60, **known}, "frame": {"count": 1, **known}}
    (tmp_path / "summary.json").write_bytes(orjson.dumps({"latency_us": hops}))
    assert session_of([line(1, wire=5.0), line(2)], {"name": "e"}, tmp_path).curves == {
        "wire": Curve([2.0, 100.0, 200.0], [5.0, 11.0, 11.0]), "ml": Curve([2.0, 60.0], [5.0, 11.0]),
        "frame": Curve([1.0], [11.0]),
    }


def test_a_file_of_the_machine_that_cannot_be_understood_ends_no_export(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("much")
    machine = dict(machine_now(Settings(), tmp_path))
    assert machine["load"].startswith("could not be looked at: ValueError") and "cores" in machine


@pytest.mark.parametrize("content", [None, b"", b"[]\n5\nnull\n{}\n", b'{"at_ns": 1}\n', b"\xff\xfe\n"])
def test_a_folder_that_keeps_nothing_is_a_finding(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="the package plotly, which draws, is not here")
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    path = tmp_path / "page.html"
    assert cli.main(["latency", "--session", str(tmp_path), "--export", str(path)]) == FINDING
    assert capsys.readouterr().err == f"bot4: {tmp_path} keeps no metrics: there is no line in metrics.jsonl\n"
    assert not path.exists()


def test_every_hop_has_a_pen_of_its_own() -> None:
    pens = [orjson.dumps(page_module._pen(place)) for place in range(len(HOPS))]
    assert len(set(pens)) == len(HOPS)
    assert np.all(values_of(new_histogram())[1] == 0)
