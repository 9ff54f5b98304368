"""The integrity drill: every row of every detectability table is met and exact, and the drill finds what is broken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import Kind
from engine.validation.settings import ValidationSettings
from procs.decoding import ALL_INSTRUMENTS
from procs.integrity import drill
from procs.integrity.aim import MIXTURES, Order, order_of
from procs.integrity.damage import Found, add_found
from procs.integrity.drill import Drill, Outcome, run_drill
from procs.integrity.script import RECORDINGS, Script, script_of
from procs.integrity.side import EngineSide, Saying
from procs.integrity.told import BUY, SELL
from procs.integrity.truth import TrueBook, fingerprint_of
from procs.venues.detectability import RECOVERY_MS, Row, Verdict, rows_of
from tests.recordings import recordings_root, require_capture
from tools.soak import integrity
from tools.soak.tally import Piece

pytestmark = pytest.mark.recordings
RUNS = 50  # of each venue; the long suites have 1,000
LEVELS = 5  # of a snapshot that is cut short
_TRIES = 6  # runs of a row until it is met as it says


def script(dialect: Dialect) -> Script:
    require_capture(RECORDINGS[dialect][0])
    return script_of(recordings_root(), dialect)


def turn_of(dialect: Dialect, fault: str, part: str) -> int:
    """The first seed that orders a row."""
    return [row.key for row in rows_of(dialect)].index((fault, part))


def is_met(row: Row, found: Mapping[tuple[str, str], Found]) -> bool:
    """Whether what was seen is what a row says, and not less."""
    seen = found.get(row.key, Found())
    if row.verdict is Verdict.UNSEEN:  # wrong for good, or until chance showed it much later
        return seen.unseen > 0 or seen.messages > 5
    if row.verdict is not Verdict.SAID or row.fault == "stale":  # on futures a stale one is nearly always refused
        return seen.times > 0
    if row.within_ms:
        return seen.said > 0 and seen.ms > 0.8 * row.within_ms
    return seen.said > 0 and (seen.messages >= row.messages or row.after_ms > 0)


@pytest.mark.parametrize("dialect", RECORDINGS)
def test_every_row_is_met_and_exact(dialect: Dialect) -> None:
    """RUNS seeds, each row and each mixture among them; then more for rows that chance has not met as they say."""
    rows, played = rows_of(dialect), script(dialect)
    turns = len(rows) + MIXTURES
    found: dict[tuple[str, str], Found] = {}

    def run(seed: int) -> None:
        outcome = run_drill(played, seed)
        assert outcome.violations == [] and outcome.compared > 100 and outcome.recovery_ms <= RECOVERY_MS
        assert outcome.order.startswith("mixture") == (seed % turns >= len(rows))
        add_found(found, outcome.found)

    assert turns < RUNS
    for seed in range(RUNS):
        run(seed)
    for turn, row in enumerate(rows):
        for seed in range(turn + turns, turn + _TRIES * turns, turns):
            if is_met(row, found):
                break
            if seed >= RUNS:
                run(seed)
    assert [row.key for row in rows if not is_met(row, found)] == []


def run_again(dialect: Dialect, seed: int) -> Outcome:
    """A seed of a time when streams did not fall silent alone: rows that came since would change what it orders."""
    played = script(dialect)
    before = [row for row in rows_of(dialect) if row.fault != "mute"]
    return Drill(played, order_of(played, seed, before), seed).run()


def test_a_message_that_overtakes_its_snapshot_is_not_of_the_book() -> None:
    """A seed of the soak: what had been stalled came over the next connection, before its snapshot."""
    assert run_again(Dialect.KRAKEN_FUTURES, 30).violations == []


def test_an_altered_update_that_ends_its_book_and_the_next_snapshot() -> None:
    """A seed of the soak: it came behind a lost one, waited, and was applied to the snapshot that ended with it."""
    assert run_again(Dialect.BINANCE_USDM, 1289).violations == []


def test_a_seed_says_everything() -> None:
    played = script(Dialect.KRAKEN_FUTURES)
    seed = len(rows_of(played.dialect))
    assert run_drill(played, seed) == run_drill(played, seed)


# --- snapshots that do not tell of all levels -------------------------------------------------------------------------


class Noting(EngineSide):
    """It keeps why books were called invalid."""

    def __init__(self, instruments: tuple[Instrument, ...], settings: ValidationSettings | None = None) -> None:
        super().__init__(instruments, settings)
        self.reasons: Counter[Reason] = Counter()

    def validate(self, count: int) -> list[Saying]:
        sayings = super().validate(count)
        self.reasons.update(saying.reason for saying in sayings if not saying.valid)
        return sayings


class Deeper(Drill):
    """Its venue has one bid more than it ever tells of, right behind the last one of each snapshot."""

    def _body(self, index: int, body: bytes, position: int, whole: TrueBook, is_stale: bool) -> None:
        lowest = sorted(whole.sides[BUY], reverse=True)[:LEVELS][-1]
        whole.change([(BUY, lowest - 1, 7)])
        super()._body(index, body, position, whole, is_stale)


def cut_short(reach: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, Counter[Reason]]:
    """A run without faults over snapshots of few levels a side, which the market leaves again and again."""
    monkeypatch.setattr(drill, "_LEVELS", LEVELS)
    played = script(Dialect.BINANCE_SPOT)
    side = Noting(played.instruments, ValidationSettings(snapshot_reach=reach, ticker_audit=False))
    return Deeper(played, Order("nothing", 0, (), 1, False), 1, side).run(), side.reasons


def test_a_market_that_leaves_its_snapshot_is_never_wrong_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, reasons = cut_short(True, monkeypatch)
    assert outcome.violations == [] and outcome.compared > 50
    assert set(reasons) <= {Reason.BEYOND_SNAPSHOT, Reason.SEQUENCE_GAP} and reasons[Reason.BEYOND_SNAPSHOT] > 3


def test_without_the_reach_untold_levels_are_missing_and_the_drill_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, reasons = cut_short(False, monkeypatch)
    assert not reasons[Reason.BEYOND_SNAPSHOT]
    assert any("the touch of a valid book is" in violation for violation in outcome.violations)


# --- what is broken is found ----------------------------------------------------------------------------------------


class SequenceBlind(EngineSide):
    """An ingestion that believes every seq."""

    def frame(self, data: bytes, ts_ns: int) -> list[Saying]:
        index = next((index for index, item in enumerate(self.decoder.instruments) if item.symbol.encode() in data), 0)
        expected = int(self.decoder.state["last_sequence"][0, index]) + 1
        if b'"feed":"book",' in data:
            data = re.sub(rb'"seq":\d+', b'"seq":%d' % expected, data)
        return super().frame(data, ts_ns)


class DeafToLosses(EngineSide):
    """An ingestion that is not told of connections that are lost."""

    def lost(self, index: int, ts_ns: int) -> list[Saying]:
        return [] if index == ALL_INSTRUMENTS else super().lost(index, ts_ns)


class DeafToValidation(EngineSide):
    """An ingestion that makes no resync when validation finds a book wrong."""

    def resyncs_asked(self, index: int) -> int:
        return 0


class WithoutGaps(EngineSide):
    """A validation to which no gap is told."""

    def validate(self, count: int) -> list[Saying]:
        rows = self.decoder.records[:count]
        kept = rows[rows["kind"] != Kind.GAP].copy()
        self.decoder.records[: len(kept)] = kept
        return super().validate(len(kept))


def without_checksums(instruments: tuple[Instrument, ...]) -> EngineSide:
    return EngineSide(instruments, ValidationSettings(checksums=False))


_MUTANTS = {
    "sequence": (Dialect.KRAKEN_FUTURES, "drop", "update", SequenceBlind, "a wrong book is valid"),
    "gaps": (Dialect.BINANCE_SPOT, "drop", "update", WithoutGaps, "never said"),
    "losses": (Dialect.BINANCE_USDM, "disconnect", "connection", DeafToLosses, "connection"),
    "resync": (Dialect.KRAKEN_SPOT_V2, "drop", "ten best", DeafToValidation, "is not valid at the end"),
    "checksums": (Dialect.KRAKEN_SPOT_V1, "drop", "ten best", without_checksums, "a wrong book is valid"),
}


@pytest.mark.parametrize("name", _MUTANTS)
def test_a_broken_engine_is_found(name: str) -> None:
    dialect, fault, part, side, words = _MUTANTS[name]
    played = script(dialect)
    seed = turn_of(dialect, fault, part)
    outcome = Drill(played, order_of(played, seed), seed, side(played.instruments)).run()
    assert any(words in violation for violation in outcome.violations), outcome.violations


@pytest.mark.parametrize(
    ("fault", "part", "change", "words"),
    [
        ("drop", "update", {"verdict": Verdict.HARMLESS}, "although nothing is wrong"),
        ("drop", "update", {"messages": 0}, "said with message 1"),
        ("corrupt", "price or size", {"verdict": Verdict.SAID}, "a wrong book is valid"),
        ("duplicate", "update", {"verdict": Verdict.SAID}, "never said"),
        ("stall", "longer than the silence", {"within_ms": 4_000}, "said after"),
        ("disconnect", "connection", {"part": "line"}, "no row for"),
    ],
)
def test_a_wrong_table_is_found(
    fault: str, part: str, change: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = script(Dialect.BINANCE_USDM)
    seed = turn_of(played.dialect, fault, part)
    order = order_of(played, seed)
    rows = tuple(replace(row, **change) if row.key == (fault, part) else row for row in rows_of(played.dialect))
    monkeypatch.setattr(drill, "rows_of", lambda dialect: rows)
    outcome = Drill(played, order, seed).run()
    assert any(words in violation for violation in outcome.violations), outcome.violations


# --- the books that it judges by -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from((BUY, SELL)), st.integers(1, 40), st.integers(0, 3)), max_size=80),
       st.sampled_from((0, 5)))  # fmt: skip
def test_a_fingerprint_is_that_of_the_levels(levels: list[tuple[int, int, int]], depth: int) -> None:
    book = TrueBook(depth, marked=True)
    for level in levels:
        book.change([level])
    sides = (np.array(list(held.items()), np.int64).reshape(-1, 2) for held in book.sides.values())
    shares = [fingerprint_of(side, found[:, 0], found[:, 1]) for side, found in zip((BUY, SELL), sides, strict=True)]
    assert sum(shares) % 2**64 == book.fingerprint == book.copy(marked=True).fingerprint
    for held in book.sides.values():
        assert 0 not in held.values() and (depth == 0 or len(held) <= depth)


# --- as a long suite -------------------------------------------------------------------------------------------------


def test_a_piece_counts_and_tells_what_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_capture(RECORDINGS[Dialect.KRAKEN_FUTURES][0])
    broken = Outcome(Dialect.KRAKEN_FUTURES, 1, "drop", compared=7, violations=["a", "b"])
    monkeypatch.setattr(integrity, "A_PIECE", 2)
    monkeypatch.setattr(integrity, "run_drill", lambda script, seed: replace(broken, seed=seed))
    monkeypatch.setattr(integrity, "RECORDINGS", {Dialect.KRAKEN_FUTURES: RECORDINGS[Dialect.KRAKEN_FUTURES]})
    piece = Piece(3, 60.0, tmp_path)
    integrity.run_integrity(piece)
    assert piece.counts["KRAKEN_FUTURES"] == 2 and piece.counts["valid books compared"] == 14
    assert [violation.what for violation in piece.violations] == [
        f"KRAKEN_FUTURES, run {seed}, drop: a, and 1 more" for seed in (6, 7)
    ]
    assert "Dialect.KRAKEN_FUTURES), 6))" in piece.violations[0].again


def test_without_recordings_a_piece_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT4_RECORDINGS", str(tmp_path))
    piece = Piece(0, 60.0, tmp_path)
    integrity.run_integrity(piece)
    assert len(piece.notes) == len(RECORDINGS) and not piece.counts and not piece.violations
