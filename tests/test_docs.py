"""Pages made from the source: none is stale, nothing is left out, and what has no text is said."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import Settings, settings_from
from engine.kernel import PROJECT_ROOT
from engine.reason_guide import GUIDE
from engine.reasons import Reason
from engine.records import ALL_RECORDS, Kind
from engine.settings import SettingsError, as_plain, setting
from procs import metrics_guide
from procs.metrics import METRICS
from procs.metrics import as_plain as metrics_as_plain
from procs.table import DOES, RINGS, Role
from tools.cli import command_parser
from tools.docs import commands, configuration, metrics, pages, processes, reasons, records
from tools.docs.__main__ import main
from tools.docs.markdown import sentence, table
from tools.docs.source_text import MissingText, field_comments, member_comments


@pytest.mark.parametrize("name", pages.PAGES)
def test_no_page_is_stale(name: str) -> None:
    assert (PROJECT_ROOT / name).read_text(encoding="utf-8") == pages.text_of(name), "run: python -m tools.docs"


def test_every_page_of_the_reference_is_made() -> None:
    there = {str(path.relative_to(PROJECT_ROOT)) for path in (PROJECT_ROOT / "docs" / "reference").iterdir()}
    assert there == {name for name in pages.PAGES if name.startswith("docs/reference/")}


def test_the_command_says_what_is_stale_and_writes_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.count("is stale") == len(pages.PAGES) and not list(tmp_path.iterdir())
    assert main([], tmp_path) == 0
    assert capsys.readouterr().out.count(" written\n") == len(pages.PAGES)
    assert main(["--check"], tmp_path) == 0
    page = tmp_path / "docs" / "reference" / "reasons.md"
    whole = page.read_text()
    page.write_text(whole.replace("BAD_JSON", "BAD_JASON"))
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "docs/reference/reasons.md is stale: python -m tools.docs writes it\n"
    assert main([], tmp_path) == 0 and page.read_text() == whole
    assert capsys.readouterr().out == "docs/reference/reasons.md written\n"


def test_what_the_source_lacks_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(GUIDE, Reason.OFF_TICK)
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "engine/reason_guide.py: no entry for OFF_TICK\n"


# --- configuration ---------------------------------------------------------------------------------------------------


def flat(values: dict, before: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def test_every_key_stands_in_its_section() -> None:
    section, shown = "", set()
    for line in configuration.page().splitlines():
        if line.startswith("## ["):
            section = line[4:-1]
        elif match := re.match(r"\| `(\w+)` \|", line):
            shown.add(f"{section}.{match[1]}")
    assert {key for key in shown if ".NAME." not in key} == set(flat(as_plain(Settings())))


@dataclass(frozen=True)
class One:
    """One."""

    size_usd: float = setting(1.0, "How much.", minimum=0.0)
    words: dict[str, Any] = field(default_factory=dict, metadata={"doc": "What else."})


@dataclass(frozen=True)
class Several:
    """Several."""

    ones: dict[str, One] = field(default_factory=dict, metadata={"doc": "Some."})


def test_a_table_whose_names_the_user_chooses_is_a_section() -> None:
    (section,) = configuration.sections(Several)
    assert (section.path, section.doc) == ("ones.NAME", "Some.")
    assert configuration._row(section.keys[1]) == ("`words`", "table", "`{}`", "", "", "What else.")
    assert configuration._row(section.keys[0])[3:5] == ("quote", "from 0")


def test_the_least_that_is_shown_is_the_least_that_is_taken() -> None:
    seen = set()
    for section in configuration.sections():
        for key in section.keys:
            words = configuration.allowed(key)
            low = key.field.metadata.get("minimum")
            if low is None or ".NAME." in key.path:
                continue
            seen.add(words.split()[0])
            values: dict = {}
            inner = values
            for name in key.path.split(".")[:-1]:
                inner = inner.setdefault(name, {})
            inner[key.field.name] = low if key.type is int else float(low)
            try:
                settings_from(values)
                assert not words.startswith("above") and words.startswith(f"from {low:g}")
            except SettingsError as error:
                # A rule of this section alone shows in the words; one over several keys or sections does not.
                alone = not configuration.accepted(key, low) and configuration.accepted(key, low + 1)
                assert not alone or not words.startswith(f"from {low:g} "), error
    assert seen == {"from", "above"}


def test_a_key_without_sentence_or_unit_is_said() -> None:
    section = next(configuration.sections())
    fields = {name: setting(1, doc) for name, doc in (("count", "So many."), ("wait_s", ""))}
    made = type("Made", (), fields)
    keys = {name: configuration.Key(made, f"made.{name}", made_field, int) for name, made_field in fields.items()}
    with pytest.raises(MissingText, match=r"made\.count: no unit"):
        configuration.unit(keys["count"])
    with pytest.raises(MissingText, match=r"made\.wait_s: a setting without a sentence"):
        configuration._row(keys["wait_s"])
    assert configuration.unit(keys["wait_s"]) == "s" and configuration._row(section.keys[0])


# --- commands --------------------------------------------------------------------------------------------------------


def test_every_option_that_help_shows_is_on_the_page() -> None:
    page = commands.page()
    parts = dict(re.findall(r"^## bot4 ([\w ]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    count = 0
    for name, _, parser in commands.commands(command_parser()):
        assert f"| `bot4 {name}` |" in page
        options = set(re.findall(r"--[a-z-]+", parser.format_usage())) - {"--config", "--json"}
        assert options <= set(re.findall(r"`(--[a-z-]+)", parts.get(name, ""))), name
        count += len(options)
    assert count > 20


def test_an_option_without_help_is_said() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true")
    with pytest.raises(MissingText, match="bot4 run: fast has no help"):
        commands.options("run", parser)


# --- reasons, records, metrics, processes ----------------------------------------------------------------------------


def test_every_reason_says_who_what_and_what_to_do() -> None:
    assert set(GUIDE) == set(Reason)
    for reason, guide in GUIDE.items():
        assert guide.meaning.endswith(".") and guide.remedy.endswith("."), reason
        assert bool(guide.givers) == (reason != Reason.NONE)


def test_keys_that_the_guide_of_reasons_names_are_keys() -> None:
    known = set(flat(as_plain(Settings())))
    named = set(re.findall(r"\b[a-z_]+\.[a-z_]+\b", reasons.page())) - {"operator.md", "fills.jsonl", "orders.denied"}
    named = {name for name in named if name.split(".")[0] in as_plain(Settings())}
    assert named <= known and "gate.max_order_value" in named


def test_records_are_shown_whole_with_their_rings() -> None:
    page = records.page()
    for name, dtype in ALL_RECORDS.items():
        part = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        own = [item for item in dtype.names or () if not item.startswith("spare")]
        head = [] if name == "MARKET" else list(ALL_RECORDS["MARKET"].names or ())
        shown = re.findall(r"^\| (\d+) \| `(\w+)` \|", part, re.MULTILINE)
        assert shown == [(str(dtype.fields[item][1]), item) for item in own if item not in head]  # type: ignore[index]
    for ring in RINGS:
        assert f"`{ring.name}`" in page
    assert all(f"| {int(kind)} | `{kind.name}` |" in page for kind in Kind)


def test_comments_are_found_with_what_goes_on_in_the_next_line(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "class Colour:\n    # not of a member\n    RED = 0  # like blood,\n    # or wine\n    BLUE = 1\n"
        'ROW = [("a", int), ("b", int)]  # of both\nTAIL = ROW + [\n    ("c", int),  # the last\n]\n'
    )
    assert member_comments(source, "Colour") == {"RED": "like blood, or wine", "BLUE": ""}
    assert field_comments(source, "ROW") == {"a": "of both", "b": "of both"}
    assert field_comments(source, "TAIL") == {"c": "the last"}
    with pytest.raises(MissingText, match="no class Shape"):
        member_comments(source, "Shape")
    with pytest.raises(MissingText, match="no OTHER"):
        field_comments(source, "OTHER")


def test_a_member_without_a_comment_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "records.py"
    source.write_text((PROJECT_ROOT / "engine" / "records.py").read_text())
    monkeypatch.setattr(records, "_SOURCE", source)
    assert records.members(Kind)
    source.write_text(source.read_text().replace("  # a feature vector\n", "\n"))
    with pytest.raises(MissingText, match="Kind: no comment for VECTOR"):
        records.members(Kind)


def test_every_figure_of_the_metrics_has_unit_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = metrics_as_plain(np.zeros(1, METRICS)[0], [])
    assert set(metrics.figures()) == set(metrics_guide.FIGURES)
    assert {name.split(".")[0] for name in metrics.figures()} == set(plain)
    assert all(meaning for _, meaning in metrics_guide.FIGURES.values())
    monkeypatch.delitem(metrics_guide.FIGURES, "feed.holes")
    with pytest.raises(MissingText, match=r"do not have the same: feed\.holes"):
        metrics.page()


def test_every_process_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(DOES) == set(Role)
    assert processes.spans((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    monkeypatch.delitem(DOES, Role.ML)
    with pytest.raises(MissingText, match="DOES has nothing on ml"):
        processes.page()


def test_cells_do_not_break_a_table() -> None:
    assert table(("a", "b"), [("x|y", "two\nlines"), ("", "z")]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | two lines |\n| - | z |\n"
    )
    assert (sentence("one thing"), sentence("Why?"), sentence("")) == ("One thing.", "Why?", "")
