"""The drill of unverified books: what only audits by REST can show is shown, and nothing that is right is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from engine.instruments import Dialect
from procs.integrity.aim import MIXTURES, order_of
from procs.integrity.audited import UNPROVEN, AuditedDrill, run_audited
from procs.integrity.script import RECORDINGS, Script, script_of
from procs.integrity.side import EngineSide
from procs.venues.detectability import Verdict, unverified_rows_of
from tests.recordings import recordings_root, require_capture

pytestmark = pytest.mark.recordings
ROWS = unverified_rows_of(Dialect.KRAKEN_SPOT_V2)
TURNS = len(ROWS) + MIXTURES


@pytest.fixture(scope="module")
def played() -> Script:
    require_capture(RECORDINGS[Dialect.KRAKEN_SPOT_V2][0])
    return script_of(recordings_root(), Dialect.KRAKEN_SPOT_V2)


def drill_of(played: Script, seed: int, side: EngineSide | None = None) -> AuditedDrill:
    return AuditedDrill(played, order_of(played, seed, ROWS), seed, side)


def test_every_row_of_the_unverified_table_holds(played: Script) -> None:
    """A run a row and some mixtures, in which wrong books are found by audits and right ones are not refused."""
    found: Counter[str] = Counter()
    agreed = disagreed = 0
    for seed in range(TURNS):
        drill = drill_of(played, seed)
        outcome = drill.run()
        assert outcome.violations == [], (seed, outcome.order)
        assert outcome.compared > 100
        found[outcome.order] += drill.found
        agreed, disagreed = agreed + drill.agreed, disagreed + drill.disagreed
    assert agreed > 50 and disagreed >= 4 and sum(found.values()) >= 2
    unharmed = [f"{row.fault} {row.part}" for row in ROWS if row.verdict in (Verdict.HARMLESS, Verdict.LATE)]
    assert not any(found[name] for name in unharmed if not name.endswith("anything else"))  # which may be a price too


def test_an_audit_that_refuses_nothing_is_found(played: Script) -> None:
    """The drill sees a level that stays wrong through two audits of an engine that does not mind."""
    careless = replace(UNPROVEN, rest_audit_disagreements=1_000_000)
    for seed in (37, 73, 99, 112):
        outcome = drill_of(played, seed, EngineSide(played.instruments, careless)).run()
        if any("wrong through 2 audits" in violation for violation in outcome.violations):
            return
    pytest.fail("no run has shown it")


def test_a_seed_says_everything(played: Script) -> None:
    assert run_audited(played, 0) == run_audited(played, 0)
