"""What the kill switch noted becomes entries of the audit log: each once, in order, over torn lines and successors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procs.kill_record import EVENT, KEPT, NOTES_NAME, KillRecord


class Log:
    """An audit log in memory, and the file that the kill switch writes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / NOTES_NAME
        self.entries: list[dict[str, Any]] = []
        self.folder = folder

    def note(self, event: str, **fields: Any) -> None:
        self.entries.append({"event": event, **fields})

    def record(self, session: str = "cafe0001", successor: bool = False) -> KillRecord:
        return KillRecord(self.folder, session, self.note, list(self.entries) if successor else ())

    def write(self, *notes: dict[str, Any]) -> None:
        with self.file.open("ab") as file:
            file.writelines(orjson.dumps({"wall_ns": 7, **note}) + b"\n" for note in notes)

    @property
    def done(self) -> list[str]:
        return [entry["did"] for entry in self.entries if entry["event"] == EVENT]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_what_was_done_is_carried_over_once_with_all_that_is_known_of_it(log: Log) -> None:
    record = log.record()
    record.look()  # there is no file yet
    log.write({"event": "button pressed"}, {"event": "tripped", "sources": ["HARDWARE"], "count": 1})
    record.look()
    record.look()
    assert log.entries == [
        {
            "event": EVENT, "did": "tripped", "noted_wall_ns": 7, "session": "cafe0001", "line": 2,
            "noted": {"sources": ["HARDWARE"], "count": 1},
        }
    ]
    log.write({"event": "cancel failed", "error": "x"}, {"event": "nothing rests"}, {"event": "stopped", "flat": True})
    record.look()
    assert log.done == ["tripped", "nothing rests", "stopped"]


def test_a_line_that_is_being_written_is_waited_for_and_a_torn_one_passed_over(log: Log) -> None:
    record = log.record()
    with log.file.open("ab") as file:
        file.write(b'{"event": "tri')
        file.flush()
        record.look()
        assert log.entries == []
        file.write(b'pped"}\n{"event": "clip", \n[1]\n"x"\n{}\n')
    record.look()
    log.write({"event": "stopped"})
    record.look()
    assert [(entry["did"], entry["line"]) for entry in log.entries] == [("tripped", 1), ("stopped", 6)]


def test_a_successor_goes_on_where_the_entries_of_this_session_end(log: Log) -> None:
    log.entries.append({"event": EVENT, "did": "stopped", "session": "of before", "line": 90})
    log.entries.append({"event": "mode", "line": 50})
    log.write({"event": "tripped"}, {"event": "nothing rests"})
    log.record().look()
    log.write({"event": "stopped"})
    log.record(successor=True).look()
    assert log.done == ["stopped", "tripped", "nothing rests", "stopped"]


@given(
    notes=st.lists(st.sampled_from([*sorted(KEPT), "cancel failed", "self-test"]), max_size=30),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=8),
)
def test_every_kept_note_has_one_entry_wherever_reading_was_cut(
    tmp_path_factory: pytest.TempPathFactory, notes: list[str], cuts: list[tuple[float, bool]]
) -> None:
    log = Log(tmp_path_factory.mktemp("notes"))
    data = b"".join(orjson.dumps({"event": note, "number": number}) + b"\n" for number, note in enumerate(notes))
    record, written = log.record(), 0
    for share, dies in [*sorted(cuts), (1.0, True)]:
        with log.file.open("ab") as file:
            file.write(data[written : int(share * len(data))])
        written = int(share * len(data))
        record.look()
        if dies:
            record = log.record(successor=True)
            record.look()
    assert [(entry["did"], entry["noted"]["number"]) for entry in log.entries] == [
        (note, number) for number, note in enumerate(notes) if note in KEPT
    ]
