"""The detectability tables: complete and well formed."""

from __future__ import annotations

import pytest

from engine.config import MARKETS
from engine.instruments import Dialect, Instrument
from engine.records import Kind
from procs.integrity.side import EngineSide
from procs.venues.detectability import Row, Verdict, rows_of, tape_rows_of
from procs.wire_player.faults import FRAME_FAULTS, REST_FAULTS, Fault, with_faults
from procs.wire_player.sequence import Item, What


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


# --- trades ----------------------------------------------------------------------------------------------------------

_NS = 1_700_000_000_000_000_000


def trade(dialect: Dialect, number: int) -> bytes:
    """The number-th trade, of so many units."""
    if dialect == Dialect.KRAKEN_SPOT_V1:
        text = f'[1,[["100.0","{number}","{number}.0","b","l",""]],"trade","X/USD"]'
    elif dialect == Dialect.KRAKEN_SPOT_V2:
        text = (f'{{"channel":"trade","type":"update","data":[{{"symbol":"X/USD","side":"buy","price":100.0,'
                f'"qty":{number},"ord_type":"limit","trade_id":{number},"timestamp":"2024-01-01T00:00:00.000000Z"}}]}}')
    elif dialect == Dialect.KRAKEN_FUTURES:
        text = (f'{{"feed":"trade","product_id":"X/USD","side":"buy","type":"fill","seq":{number},"time":{number},'
                f'"qty":{number},"price":100.0}}')  # fmt: skip
    else:
        text = f'{{"e":"trade","E":1,"T":1,"s":"X/USD","t":{number},"p":"100.0","q":"{number}","m":false}}'
    return text.encode()


def taken(dialect: Dialect, fault: Fault, seed: int) -> list[int]:
    """Sizes of the trades that validation passes on of 1 to 30, with faults."""
    side = EngineSide((Instrument(0, "X/USD", "X", "USD", 1, 0, 1, 1, 0, dialect=dialect),))
    side.start(_NS)
    items = [Item(_NS + n, 0, What.FRAME, trade(dialect, n), n, "trade") for n in range(1, 31)]
    sizes: list[int] = []
    for item in with_faults(items, (fault,), seed, lambda injected: None):
        side.frame(item.data, item.ts_ns)
        sizes += side.passed["size"][side.passed["kind"] == Kind.TRADE].tolist()
    return sizes


@pytest.mark.parametrize("dialect", Dialect)
def test_what_comes_of_trades(dialect: Dialect) -> None:
    true = list(range(1, 31))
    assert taken(dialect, Fault("drop", rate=0.0), 1) == true
    for row in tape_rows_of(dialect):
        runs = [taken(dialect, Fault(row.fault, rate=0.3), seed) for seed in range(10)]
        if row.verdict is Verdict.HARMLESS:
            assert all(sorted(sizes) == true for sizes in runs)
        else:
            assert any(sorted(sizes) != true for sizes in runs), row
