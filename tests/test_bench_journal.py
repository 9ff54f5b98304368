"""`bench journal`: what was appended is read back, and an entry that is wrong is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from procs.journal.reader import JournalEntry
from tools.bench import journal
from tools.bench.report import Report


def test_every_entry_of_several_segments_is_read_back(tmp_path: Path) -> None:
    report = Report("journal")
    journal.append_records(report, tmp_path, 200_000)
    journal.append_from_python(report, tmp_path, 1_000)
    assert report.findings == []
    assert [(result.name, result.count) for result in report.results] == [
        ("journal_append", 200_000), ("journal_append_kernel", 200_000), ("journal_append_python", 1_000),
    ]
    whole, kernel, python = (result.value for result in report.results)
    assert whole > kernel > 0 and python > 0


@pytest.mark.parametrize("change", ["payload", "ts_ns", "ordinal", "end"])
def test_an_entry_that_is_another_one_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    read = journal.read_segment

    def wrong(path: Path) -> Iterator[JournalEntry]:
        for entry in read(path):
            if entry.ordinal != 1_500:
                yield entry
            elif change == "end":
                return
            else:
                yield entry._replace(**{change: b"x" if change == "payload" else 7})

    monkeypatch.setattr(journal, "read_segment", wrong)
    report = Report("journal")
    journal.append_records(report, tmp_path, 2_000)
    assert report.findings[-1] == "journal: 1499 of 2000 entries were read back"
    assert len(report.findings) == (1 if change == "end" else 2)
