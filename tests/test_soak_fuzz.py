"""Fuzz over recordings: it reaches answers of both kinds, is the same for a seed, and finds what does not balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from procs.fused import FusedPath
from procs.table import Role
from tests.recordings import require_capture
from tools.soak import fuzz
from tools.soak.fuzz import RECORDINGS, Fuzzed, Unsound
from tools.soak.tally import Piece

pytestmark = pytest.mark.recordings


def fuzzed_of(dialect: str, seed: int) -> Fuzzed:
    require_capture(RECORDINGS[dialect])
    return Fuzzed(dialect, seed)


@pytest.mark.parametrize("dialect", RECORDINGS)
def test_accidents_are_taken_or_refused_and_everything_balances(dialect: str) -> None:
    runs = [fuzzed_of(dialect, 5) for _ in range(2)]
    for run in runs:
        run.run(1_500)
    answers = runs[0].answers
    assert answers["taken"] > 50 and answers["refused"] > 500 and sum(answers.values()) == 1_500
    assert runs[1].answers == answers
    assert runs[1].vectors == runs[0].vectors > 100  # books stood while accidents happened


def test_what_does_not_balance_is_found() -> None:
    fuzzed = fuzzed_of("KRAKEN_FUTURES", 1)
    fuzzed._path.states[Role.VALIDATION]["processed"] += 1
    with pytest.raises(Unsound, match="1 records are unaccounted for"):
        fuzzed.run(600)


def test_what_is_no_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = FusedPath.predict

    def spoilt(self: FusedPath, first: int, count: int) -> int:
        found = predict(self, first, count)
        self.predictions["vector"][:found, 0] = np.nan
        return found

    monkeypatch.setattr(FusedPath, "predict", spoilt)
    with pytest.raises(Unsound, match="no finite number"):
        fuzzed_of("BINANCE_SPOT", 1).run(600)


def test_without_recordings_a_piece_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT4_RECORDINGS", str(tmp_path))
    piece = Piece(0, 60.0, tmp_path)
    fuzz.run_fuzz(piece)
    assert len(piece.notes) == len(RECORDINGS) and not piece.counts and not piece.violations
