"""A replay that begins in the middle of a recording: its books are there, its counts are of the part alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.book.book import book_best
from engine.config import Settings
from engine.safety.mode import Mode
from procs.capture.convert import convert
from procs.capture.reader import Selection
from procs.captures import CaptureError
from procs.decoding import replay_inputs
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.replay import Source, open_source, replay_fused, warmed_path
from procs.replay_processes import replay_auto
from procs.table import Role
from procs.venues.terms import Terms
from tests.kraken_oracle import V1_CAPTURES
from tests.recordings import USDM_CAPTURES, require_capture
from tests.test_capture_sources import NS, SECOND, spaced, two_symbols
from tests.test_captures import SNAPSHOT, diff

# A recording, and when to begin in it, as a part of its length.
RECORDED = [
    (USDM_CAPTURES[0], 0.5), ("ws/binance-spot/btcusdt_20240808.raw.gz", 0.3), (V1_CAPTURES[2], 0.5),
    ("ws/kraken-futures/cf_20210722_ws_1.txt.gz", 0.4),
]


def begin_at(path: Path, part: float) -> int:
    times = [entry.ts_ns for entry in open_source(path, Settings()).inputs()]
    return times[int(len(times) * part)]


def pieces(path: Path, from_ns: int) -> tuple[Source, Source, Source]:
    """(all of it, what is before a time, the rest)."""
    return (
        open_source(path, Settings()), open_source(path, Settings(), Selection(to_ns=from_ns)),
        open_source(path, Settings(), Selection(from_ns=from_ns), watch_before=True),
    )


def counts(summary: dict[str, Any]) -> dict[str, int]:
    """What a summary counts of the market and of the stages before execution, by name; its ratios are none."""
    found = {name: value for name, value in summary["market"].items() if isinstance(value, int)}
    for stage in ("ingestion", "validation", "features", "ml"):
        account = summary["stages"][stage]
        found |= {f"{stage} {name}": account[name] for name in ("processed", "out")}
        for name in ("quarantined", "dropped"):
            found |= {f"{stage} {name} {reason}": count for reason, count in account[name].items()}
    return found


@pytest.mark.recordings
@pytest.mark.parametrize(("relative", "part"), RECORDED)
def test_the_part_and_what_was_before_it_are_the_whole(relative: str, part: float) -> None:
    path = require_capture(relative)
    whole, before, rest = (counts(replay_fused(source, None)) for source in pieces(path, begin_at(path, part)))
    for name in whole.keys() | before.keys() | rest.keys():
        assert before.get(name, 0) + rest.get(name, 0) == whole.get(name, 0), name
    assert whole["level_updates"] > rest["level_updates"] > 0


@pytest.mark.recordings
@pytest.mark.parametrize(("relative", "part"), RECORDED)
def test_the_stages_stand_where_those_of_an_engine_would_that_was_there_before(relative: str, part: float) -> None:
    path = require_capture(relative)
    from_ns = begin_at(path, part)
    _, _, rest = pieces(path, from_ns)
    warm, frames, _ = warmed_path(rest)
    cold, _, _ = warmed_path(open_source(path, Settings()))
    for entry in open_source(path, Settings(), Selection(to_ns=from_ns)).inputs():
        cold.decide(cold.decoder.apply(entry))
    assert frames == cold.decoder.ingest_id > 0
    for name in ("books", "flows"):
        assert warm.states[Role.FEATURES][name].tobytes() == cold.states[Role.FEATURES][name].tobytes()
    assert warm.states[Role.VALIDATION]["books"].tobytes() == cold.states[Role.VALIDATION]["books"].tobytes()
    execution = warm.states[Role.EXECUTION]
    assert execution["views"].tobytes() == cold.states[Role.EXECUTION]["views"].tobytes()
    assert execution["intents"] == execution["sent"] == execution["orders"]["status_count"].sum() == 0
    assert execution["hash"]["links"] == 0 and execution["mode"] == Mode.NORMAL
    if relative == USDM_CAPTURES[0]:
        assert cold.states[Role.EXECUTION]["intents"] > 0, "what was only watched"


@pytest.mark.recordings
def test_a_part_is_decided_alike_by_processes_and_from_a_capture(tmp_path: Path) -> None:
    path = require_capture(USDM_CAPTURES[0])
    convert(path, tmp_path / "own")
    selection = Selection(from_ns=begin_at(path, 0.6))
    raw, own = (open_source(place, Settings(), selection, watch_before=True) for place in (path, tmp_path / "own"))
    one, *others = replay_fused(raw, None), replay_fused(own, None), replay_auto(own, None), replay_fused(raw, 4000.0)
    assert one["decisions"]["intents"] > 0 and one["market"]["book_valid_ratio"] == 1.0
    assert one["warm_up_frames"] > 1_000
    for other in others:
        assert other["decision_hash"] == one["decision_hash"] and other["unaccounted"] == 0
        assert other["decisions"] == one["decisions"] and counts(other) == counts(one)
        assert other["warm_up_frames"] == one["warm_up_frames"]


def test_a_part_begins_with_the_book_that_was_there(tmp_path: Path) -> None:
    frames = [diff([["99.0", "1"]], [], U=1, u=5, pu=0), SNAPSHOT]
    frames += [diff([["98.0", f"{number}"]], [], U=number, u=number, pu=number - 1) for number in range(8, 30)]
    path = spaced(tmp_path / "a.raw", frames)
    source = open_source(path, Settings(), Selection(from_ns=NS + 10 * SECOND), True)
    warm, frames_before, _ = warmed_path(source)
    assert frames_before == 10
    assert int(book_best(warm.states[Role.FEATURES]["books"][0], 0, 1)[0]) == 1000
    summary = replay_fused(source, None)
    assert summary["market"]["frames"] == len(frames) - 10 and summary["market"]["book_valid_ratio"] == 1.0
    assert summary["unaccounted"] == 0 and summary["market"]["snapshot_levels"] == 0


def test_diffs_that_wait_for_a_snapshot_wait_on(tmp_path: Path) -> None:
    frames = [diff([["98.0", f"{number}"]], [], U=number, u=number, pu=number - 1) for number in range(8, 20)]
    frames += [SNAPSHOT, diff([["98.0", "77"]], [], U=20, u=20, pu=19)]
    source = open_source(spaced(tmp_path / "a.raw", frames), Settings(), Selection(from_ns=NS + 10 * SECOND), True)
    summary = replay_fused(source, None)
    assert summary["unaccounted"] == 0 and summary["stages"]["ingestion"]["in_flight"] == 0
    assert summary["stages"]["ingestion"]["in"] == len(frames), "ten of them waited from before"


def test_a_part_from_before_the_beginning_is_all_of_it(tmp_path: Path) -> None:
    path = spaced(tmp_path / "a.raw", two_symbols())
    whole, part = (
        replay_fused(open_source(path, Settings(), selection, watch_before=True), None)
        for selection in (Selection(), Selection(from_ns=NS - SECOND))
    )
    assert part["decision_hash"] == whole["decision_hash"] and part["stages"] == whole["stages"]
    assert part["warm_up_frames"] == whole["warm_up_frames"] == 0


LISTINGS = [  # before the part and in it, by their tick: what a session journals is what changed
    ((50,), (100,)), ((50, 100), ()), ((50, 100), (50,)), ((50, 100, 200), (100,)), ((), (50,)),
]


@pytest.mark.parametrize(("before", "inside"), LISTINGS)
def test_a_part_has_the_terms_that_were_told_last(
    before: tuple[int, ...], inside: tuple[int, ...], tmp_path: Path
) -> None:
    source = open_source(spaced(tmp_path / "a.raw", two_symbols()), Settings())

    def listed() -> Iterator[JournalEntry]:
        for entry in source.read():
            yield entry
            place = (entry.ts_ns - NS) // SECOND
            ticks = before if place == 5 else inside if place == 15 else ()
            for tick in ticks if entry.kind != Entry.START else ():
                terms = Terms(tick, 1, 0, 1).to_bytes()
                yield JournalEntry(Entry.LISTED, 0, entry.ts_ns, 0, 1, terms)

    part = dataclasses.replace(source, read=listed, from_ns=NS + 10 * SECOND)
    path, _, others = warmed_path(part)
    taken = list(replay_inputs(path.decoder, others))
    assert path.decoder.terms(0).tick_size == (*before, *inside)[-1]
    assert len(taken) == len(two_symbols()) - 10 + len(inside)


def test_after_the_end_there_is_nothing(tmp_path: Path) -> None:
    path = spaced(tmp_path / "a.raw", two_symbols())
    source = open_source(path, Settings(), Selection(from_ns=NS + 10_000 * SECOND), watch_before=True)
    for replay in (replay_fused, replay_auto):
        with pytest.raises(CaptureError, match="nothing in it is of the times and symbols asked for"):
            replay(source, None)
