"""The quarantine on disk: every refusal once, with reason, frame and place in the journal, whatever becomes of its
writer; and `bot4 data quarantine`, which shows it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.config import Settings
from engine.reasons import Reason
from engine.records import Side
from engine.stage import as_bytes
from engine.validation.settings import ValidationSettings
from engine.validation.state import QUARANTINE_PLACES, make_validation_state
from engine.validation.step import VALIDATION
from procs.decoding import Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry, read_stream
from procs.journal.writer import JournalWriter
from procs.quarantine import FILE_NAME, MOST_A_SECOND, MOST_FRAME_BYTES, Quarantine, quarantine_summary, read_quarantine
from procs.states import initial_states
from procs.table import Role
from tests.instance_memory import listed_instruments
from tests.market_records import make_instrument, run_stage, trade
from tools.cli import main

INSTRUMENTS = [make_instrument()]
SECOND = 1_000_000_000


class World:
    """A session's folder: ingestion's journal, the state of validation, and what was refused by either."""

    def __init__(self, folder: Path, seed: int = 0, segment_bytes: int = 8192) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.journal = JournalWriter(folder, "ingestion", "x", segment_bytes)
        self.state = make_validation_state(ValidationSettings(), INSTRUMENTS)
        run_stage(VALIDATION, self.state, INSTRUMENTS[0].record())
        self.frames = 0
        self.refused_frames: list[tuple[int, str, bytes]] = []  # ingest id, reason, frame
        self.refused_records: list[tuple[int, str, int]] = []  # ingest id, reason, size

    def frame(self, reason: Reason | None = None, size: int = 40) -> None:
        """One frame arrives; with a reason it is refused."""
        self.frames += 1
        payload = self.dice.randbytes(size)
        self.journal.append(Entry.FRAME, payload, self.frames, 0, 1)
        if reason is not None:
            self.journal.append(Entry.REFUSED, self.frames.to_bytes(8, "little"), self.frames, int(reason), 1)
            self.refused_frames.append((self.frames, reason.name, payload))

    def bad_trade(self) -> None:
        """A record of the last frame that validation refuses."""
        size = len(self.refused_records) + 1
        run_stage(VALIDATION, self.state, trade(Side.BUY, 1003, size, ingest_id=self.frames))
        self.refused_records.append((self.frames, "OFF_TICK", size))

    def some(self, count: int) -> None:
        for _ in range(count):
            what = self.dice.randrange(12)  # few enough for one look at validation
            if what == 0 and self.frames:
                self.bad_trade()
            else:
                self.frame(self.dice.choice([Reason.BAD_JSON, Reason.BAD_NUMBER]) if what <= 3 else None)

    def entries(self) -> list[JournalEntry]:
        return list(read_stream(self.folder, "ingestion"))

    def take(self, quarantine: Quarantine) -> None:
        """Read the journal from its beginning and look at validation, as a recorder without any index does."""
        for entry in self.entries():
            quarantine.second()
            quarantine.frames([entry])
        for _ in range(10):
            quarantine.second()
            quarantine.records(self.state)

    def lines(self) -> list[dict[str, Any]]:
        return list(read_quarantine(self.folder))

    def check(self) -> None:
        """Every refusal once, and each with the frame that caused it where the journal says that it lies."""
        lines = self.lines()
        assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
        of_ingestion = [line for line in lines if line["stage"] == "ingestion"]
        of_validation = [line for line in lines if line["stage"] == "validation"]
        assert [(line["ingest_id"], line["reason"], line["frame"]) for line in of_ingestion] == [
            (ingest_id, reason, payload.decode("utf-8", "backslashreplace"))
            for ingest_id, reason, payload in self.refused_frames
        ]
        assert [(line["ingest_id"], line["reason"], line["record"]["size"]) for line in of_validation] == (
            self.refused_records
        )
        entries = {entry.ordinal: entry for entry in self.entries()}
        for line in lines:
            entry = entries[line["ordinal"]]
            assert entry.kind == Entry.FRAME and entry.ts_ns == line["ingest_id"]  # the test's clock counts frames
            assert line["frame"] == entry.payload.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("seed", range(25))
def test_every_refusal_is_there_once_whatever_the_recorder_leaves_behind(tmp_path: Path, seed: int) -> None:
    """Recorders die one after the other: what is left is the file as far as it was written, a torn line included."""
    world = World(tmp_path, seed)
    path = tmp_path / FILE_NAME
    for _ in range(6):
        world.some(world.dice.randrange(1, 60))
        quarantine = Quarantine(tmp_path, INSTRUMENTS)
        world.take(quarantine)
        quarantine.close()
        data = path.read_bytes()
        path.write_bytes(data[: world.dice.randrange(len(data) + 1)])
    quarantine = Quarantine(tmp_path, INSTRUMENTS)
    world.take(quarantine)
    quarantine.close()
    world.check()
    counted = {"ingestion": len(world.refused_frames), "validation": len(world.refused_records)}
    assert quarantine_summary(tmp_path, counted) == {
        "refused": sum(counted.values()), "written": len(world.lines()), "not_written": 0,
    }


def test_a_successor_goes_on_where_the_file_was_just_put_aside(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(30):
        world.frame(Reason.BAD_JSON, 100)
    first = Quarantine(tmp_path, INSTRUMENTS, file_bytes=1 << 20)
    world.take(first)
    first.close()
    (tmp_path / FILE_NAME).rename(tmp_path / f"{FILE_NAME}.1")
    world.frame(Reason.BAD_NUMBER)
    second = Quarantine(tmp_path, INSTRUMENTS)
    world.take(second)
    second.close()
    world.check()


def test_bounds_in_lines_a_second_in_bytes_a_frame_and_in_bytes_a_file(tmp_path: Path) -> None:
    world = World(tmp_path, segment_bytes=1 << 16)
    for _ in range(3 * MOST_A_SECOND):
        world.frame(Reason.BAD_JSON, 50)
    quarantine = Quarantine(tmp_path, INSTRUMENTS, file_bytes=4000)
    quarantine.frames(world.entries())
    assert quarantine.written == MOST_A_SECOND
    assert quarantine_summary(tmp_path, {"ingestion": 3 * MOST_A_SECOND})["not_written"] == 2 * MOST_A_SECOND
    quarantine.second()
    world.frame(Reason.FRAME_TOO_LARGE, MOST_FRAME_BYTES + 999)
    quarantine.frames(world.entries()[-2:])
    quarantine.close()
    last = world.lines()[-1]
    assert (last["number"], last["reason"]) == (MOST_A_SECOND + 1, "FRAME_TOO_LARGE")
    assert last["frame_bytes"] == MOST_FRAME_BYTES + 999
    cut = world.refused_frames[-1][2][:MOST_FRAME_BYTES]
    assert last["frame"] == cut.decode("utf-8", "backslashreplace")
    aside = tmp_path / f"{FILE_NAME}.1"
    assert 4000 < aside.stat().st_size < 6000, "one line beyond the bound, then it is put aside"
    assert len(world.lines()) < MOST_A_SECOND, "older ones are gone"


def test_records_that_the_ring_lost_are_passed_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.frame()
    quarantine = Quarantine(tmp_path, INSTRUMENTS)
    quarantine.records(world.state)
    for _ in range(QUARANTINE_PLACES + 10):
        world.bad_trade()
    quarantine.records(world.state)
    assert quarantine.written == 0, "counted since the look before: they may not be whole yet"
    quarantine.records(world.state)
    quarantine.close()
    sizes = [line["record"]["size"] for line in world.lines()]
    # The place of the oldest one is the next that is written to.
    assert sizes == list(range(12, 12 + MOST_A_SECOND))


def test_a_state_that_a_successor_of_validation_rewound_gives_no_line_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.frame()
    world.bad_trade()
    checkpoint = world.state.copy()
    world.bad_trade()
    quarantine = Quarantine(tmp_path, INSTRUMENTS)
    world.take(quarantine)
    world.state[:] = checkpoint
    world.take(quarantine)
    del world.refused_records[1:]
    world.bad_trade()
    world.bad_trade()
    world.take(quarantine)
    quarantine.close()
    world.check()


def test_a_refused_frame_is_no_other_input_when_its_journal_is_replayed() -> None:
    """REFUSED entries, which live ingestion writes behind a refused frame, change nothing."""
    instruments = listed_instruments()
    journal = [(Entry.START, b""), (Entry.FRAME, b'{"half'), (Entry.REFUSED, bytes(8)), (Entry.FRAME, b"<html>"),
               (Entry.REFUSED, bytes(8)), (Entry.TIMER, b""), (Entry.DROPPED, b"")]  # fmt: skip

    def replayed(kinds: tuple[Entry, ...]) -> tuple[list[int], bytes]:
        state = initial_states(Settings(), instruments)[Role.INGESTION]
        decoder = Decoder(state, instruments)
        entries = [
            JournalEntry(kind, number, number * SECOND, int(Reason.BAD_JSON), 1, payload)
            for number, (kind, payload) in enumerate(journal, 1)
            if kind in kinds
        ]
        counts = list(replay_inputs(decoder, iter(entries)))
        assert decoder.refused == Reason.BAD_JSON
        return counts, as_bytes(state).tobytes()

    everything = tuple(Entry)
    assert replayed(everything) == replayed(tuple(kind for kind in everything if kind != Entry.REFUSED))


ODD = {
    b"not json": "no JSON", b"[1]": "no object", b"{}": "no number", b"\xff\xfe": "no JSON", b"": "no JSON",
    b'{"number":"3"}': "no number", b'{"number":3}': "no stage",
}  # fmt: skip


def test_a_line_that_is_no_refusal_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.frame(Reason.BAD_JSON)
    world.bad_trade()
    quarantine = Quarantine(tmp_path, INSTRUMENTS)
    world.take(quarantine)
    quarantine.close()
    path, good = tmp_path / FILE_NAME, world.lines()
    of_frame, of_record = path.read_bytes().splitlines()
    without = [(field, {key: value for key, value in good[1].items() if key != field}) for field in good[1]]
    hollow = good[1] | {"record": {"kind": "TRADE"}}
    odd = list(ODD) + [orjson.dumps(line) for _, line in without if _ not in ("frames_until", "records_until")]
    odd += [orjson.dumps(hollow), orjson.dumps(good[0] | {"recv_ts_ns": 1 << 63})]
    path.write_bytes(b"\n".join([of_frame, *odd, of_record, b""]))
    assert world.lines() == good
    assert main(["data", "quarantine", "--session", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3 and shown.out.endswith("2 refusals, BAD_JSON 1, OFF_TICK 1\n")
    for number, words in enumerate(ODD.values(), 2):
        assert f"bot4: {path}, line {number}: {words}" in shown.err
    assert len(shown.err.splitlines()) == len(odd) and "should not happen" not in shown.err
    assert main(["data", "quarantine", "--session", str(tmp_path), "--json"]) == 1
    answer = orjson.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["kept"], len(answer["odd_lines"])) == (False, 2, len(odd))
    assert quarantine_summary(tmp_path, {"ingestion": 1, "validation": 1})["written"] == 2
    path.write_bytes(b"\n".join([of_frame, of_record, *odd, b""]))
    assert Quarantine(tmp_path, INSTRUMENTS).written == 2, "a successor goes on behind the last whole line"


def test_the_command_shows_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sessions = tmp_path / "var" / "sessions"
    (sessions / "desk-20260101-000000-000").mkdir(parents=True)
    folder = sessions / "desk-20260102-000000-000"
    folder.mkdir()
    (sessions / "desk-two-20260103-000000-000").mkdir()
    world = World(folder)
    world.frame(Reason.BAD_JSON)
    world.bad_trade()
    quarantine = Quarantine(folder, INSTRUMENTS)
    world.take(quarantine)
    quarantine.close()
    config = tmp_path / "x.toml"
    config.write_text(f'[engine]\nname = "desk"\ndata_folder = "{tmp_path / "var"}"\n')
    assert main(["data", "quarantine", "--config", str(config), "--json"]) == 0
    answer = orjson.loads(capsys.readouterr().out)
    assert answer["session"] == str(folder) and answer["reasons"] == {"BAD_JSON": 1, "OFF_TICK": 1}
    assert answer["refusals"] == world.lines()
    assert main(["data", "quarantine", "--session", str(folder), "--reason", "off_tick"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 and "OFF_TICK" in shown[0] and "TRADE I0USDT BUY price 1003" in shown[0]
    assert shown[1].endswith("1 refusals, OFF_TICK 1")
    assert main(["data", "quarantine", "--session", str(folder), "--reason", "nothing"]) == 2
    assert "allowed are NONE, BAD_JSON" in capsys.readouterr().err
    for other in (folder / "none", tmp_path):
        assert main(["data", "quarantine", "--session", str(other)]) == 2
        assert f"--session {other}: no folder of a session" in capsys.readouterr().err
    config.write_text(f'[engine]\nname = "nobody"\ndata_folder = "{tmp_path / "var"}"\n')
    assert main(["data", "quarantine", "--config", str(config), "--json"]) == 1
    assert "no session of nobody" in orjson.loads(capsys.readouterr().out)["error"]
