"""The detectability tables: complete, well formed, and the page in docs/ is made from them."""

from __future__ import annotations

import pytest

from engine.config import MARKETS
from engine.instruments import Dialect
from engine.kernel import PROJECT_ROOT
from procs.venues.detectability import Row, Verdict, rows_of
from procs.wire_player.faults import FRAME_FAULTS, REST_FAULTS
from tools.detectability import page


def test_the_page_is_made_from_the_tables() -> None:
    text = (PROJECT_ROOT / "docs" / "detectability.md").read_text()
    assert text == page(), "run: python -m tools.detectability > docs/detectability.md"


@pytest.mark.parametrize("dialect", Dialect)
def test_every_fault_of_the_player_has_its_rows(dialect: Dialect) -> None:
    rows = rows_of(dialect)
    assert len({row.key for row in rows}) == len(rows)
    known = set(FRAME_FAULTS) | (set(REST_FAULTS) if dialect.name.startswith("BINANCE") else set())
    assert {row.fault for row in rows} - {"late"} == known
    for row in rows:
        assert row.by and row.then
        if row.verdict is not Verdict.SAID:
            assert (row.messages, row.within_ms, row.after_ms, row.unless) == (0, 0, 0, "")


def test_every_market_that_is_offered_has_a_table() -> None:
    assert all(rows_of(dialect) for dialect in MARKETS.values())
    with pytest.raises(ValueError, match="no detectability table"):
        rows_of(99)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row("drop", "update", Verdict.SAID, "", ""), "at once"),
        (Row("drop", "update", Verdict.SAID, "", "", messages=1), "1 message"),
        (Row("drop", "update", Verdict.SAID, "", "", messages=2, after_ms=1_500), "2 messages more than 1.5 s later"),
        (Row("drop", "update", Verdict.SAID, "", "", within_ms=6_000), "6 s"),
        (Row("drop", "update", Verdict.UNSEEN, "", ""), ""),
    ],
)
def test_bounds_in_words(row: Row, words: str) -> None:
    assert row.bound == words
