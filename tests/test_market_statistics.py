"""Statistics of markets: against scipy, numpy and plain loops, and the command that prints them."""

from __future__ import annotations

import gzip
import os
from itertools import groupby
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.records import FEATURE, MARKET, Flag, Kind
from models import market_statistics as ms
from tools.cli import main

RECORDINGS = Path(os.environ.get("BOT4_RECORDINGS", Path(__file__).parents[2] / "shared" / "data"))
SMALLEST = RECORDINGS / "ws" / "binance-usdm" / "btcusdt_20230404.raw.gz"
CELL = ms.LEVEL_GRID_NS
values = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=5, max_size=60)


@given(values, st.integers(1, 3))
def test_autocorrelation_and_kurtosis_are_those_of_the_libraries(numbers, lag):
    series = np.array(numbers)
    if np.ptp(series) < 0.01:
        assert ms.excess_kurtosis(np.full(9, 2.0)) is None and ms.autocorrelation(np.full(9, 2.0), 1) is None
        return
    assert ms.excess_kurtosis(series) == pytest.approx(stats.kurtosis(series), rel=1e-9, abs=1e-9)
    centred = series - series.mean()
    full = np.correlate(centred, centred, "full")[len(series) - 1 :]
    assert ms.autocorrelation(series, lag) == pytest.approx(full[lag] / full[0], rel=1e-9, abs=1e-9)
    assert ms.autocorrelation(series[: lag + 1], lag) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_weighted_quantiles_are_those_of_repeated_values(pairs, share):
    numbers, weights = (np.array(column, float) for column in zip(*pairs, strict=True))
    repeated = np.sort(np.repeat(numbers, weights.astype(int)))
    expected = np.quantile(repeated, share, method="inverted_cdf")
    assert ms.weighted_quantile(numbers, weights, share) == expected


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=2, max_size=50))
def test_survival_is_that_of_kaplan_and_meier(pairs):
    durations = np.array([float(duration) for duration, _ in pairs])
    seen = np.array([int(ended) for _, ended in pairs])
    if not seen.any():
        assert ms.survival_quantile(durations, seen, 0.5) is None
        return
    times, alive = ms.survival(durations, seen)
    sample = stats.CensoredData.right_censored(durations, seen == 0)
    oracle = stats.ecdf(sample).sf
    assert alive == pytest.approx(oracle.evaluate(times), abs=1e-12)
    middle = ms.survival_quantile(durations, seen, 0.5)
    assert middle is None or oracle.evaluate(middle) <= 0.5 + 1e-9


def _level_records(events: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """MARKET records of (time in cells / 4, side, price, size, flags); kind GAP where the price is 0."""
    records = np.zeros(len(events), MARKET)
    for record, (quarter, side, price, size, flags) in zip(records, events, strict=True):
        record["recv_ts_ns"] = 10 * CELL + quarter * CELL // 4
        record["kind"] = Kind.LEVEL if price else Kind.GAP
        record["side"], record["price"], record["size"], record["flags"] = side, price, size, flags
    return records


def _lives_by_hand(records: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The same with a dict of what stands at each grid point, one cell after the other."""
    cells = -(-records["recv_ts_ns"] // CELL)
    found: list[tuple[int, int, int, int]] = []
    segments: list[list[int]] = [[]]
    for place, record in enumerate(records):
        opens = Flag.SNAPSHOT | Flag.FIRST
        if record["kind"] == Kind.GAP or int(record["flags"]) & opens == opens:
            segments.append([])
        segments[-1].append(place)
    for segment in segments:
        if not segment:
            continue
        last_cell = int(cells[segment].max())
        stands: dict[tuple[int, int], tuple[int, bool]] = {}  # (side, price) -> cell of birth, from a snapshot
        for cell in sorted(set(cells[segment].tolist())):
            final: dict[tuple[int, int], tuple[int, bool]] = {}
            for place in segment:
                record = records[place]
                if cells[place] == cell and record["kind"] == Kind.LEVEL:
                    key = (int(record["side"]), int(record["price"]))
                    final[key] = (int(record["size"]), bool(int(record["flags"]) & Flag.SNAPSHOT))
            for key, (size, snapshot) in final.items():
                if size and key not in stands:
                    stands[key] = (cell, snapshot)
                elif not size and key in stands:
                    born, known = stands.pop(key)
                    if not known:
                        found.append((born, cell, 1, key[1]))
        found += [(born, last_cell, 0, price) for (_, price), (born, known) in stands.items() if not known]
    return sorted(found)


@settings(max_examples=200)
@given(st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from([1, -1]), st.sampled_from([0, 5, 6, 7]), st.integers(0, 2),
        st.sampled_from([0, 0, 0, int(Flag.SNAPSHOT), int(Flag.SNAPSHOT | Flag.FIRST)]),
    ), min_size=1, max_size=40,
))
def test_level_lives_equal_a_walk_through_the_grid(events):
    quarter, moved = 0, []
    for step, side, price, size, flags in events:
        quarter += step
        moved.append((quarter, side, price, size, flags))
    records = _level_records(moved)
    lives, prices = ms.level_lives(records)
    assert sorted((int(a), int(b), int(c), int(p)) for (a, b, c), p in zip(lives, prices, strict=True)) == (
        _lives_by_hand(records)
    )


def test_fills_of_one_order_count_once():
    times, sides, sizes = (np.array(column) for column in ([5, 5, 5, 5, 9, 9], [1, 1, -1, 1, 1, 1], [1, 2, 3, 4, 5, 6]))
    found = ms.takers(times, sides, sizes)
    assert [column.tolist() for column in found] == [[5, 5, 5, 9], [1, -1, 1, 1], [3, 3, 4, 11]]
    assert [len(column) for column in ms.takers(times[:0], sides[:0], sizes[:0])] == [0, 0, 0]


def test_regimes_are_told_apart():
    calm = np.tile([1.0, -1.0], 50)
    trend, wild = np.full(10, 1.0), np.tile([5.0, -5.0], 5)
    assert ms.regime_shares(np.concatenate([calm[:80], trend, wild])) == {
        "ranging": 0.8, "trending": 0.1, "volatile": 0.1
    }
    assert ms.regime_shares(calm[:40]) is None


def _series(**changes: np.ndarray) -> ms.Series:
    second = ms.SECOND_NS
    plain = {
        "first_ns": 0, "last_ns": 20 * second, "touch_ns": np.arange(20) * second,
        "bid": 1000 + np.arange(20), "ask": 1002 + np.arange(20),
        "taker_ns": np.array([2 * second + 1, 4 * second + 1]), "taker_side": np.array([1, 1]),
        "taker_size": np.array([1, 1]), "level_life": np.zeros((0, 3), np.int64), "level_bps": np.zeros(0), "tick": 1,
    }
    return ms.Series(**{**plain, **changes})


def test_markouts_and_the_grid_of_the_mid():
    series = _series()
    assert ms.mid_grid(series).tolist() == [1001.0 + second for second in [*range(20), 19]]
    expected = np.mean([1e4 * (1008 / 1003 - 1), 1e4 * (1010 / 1005 - 1)])
    assert ms.markout(series, 5) == pytest.approx(expected)
    assert ms.markout(_series(taker_side=np.array([-1, -1])), 5) == pytest.approx(-expected)
    assert ms.markout(_series(taker_ns=np.array([18, 19]) * ms.SECOND_NS), 5) is None
    found = ms.describe(series)
    assert found["spread_ticks"] == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert found["levels"]["p50_bps"] is None and found["takers"]["branching_ratio"] is None


def test_no_book_is_an_error():
    with pytest.raises(ValueError, match="no valid book"):
        ms.series_of(np.zeros(0, MARKET), np.zeros(0, FEATURE), 0, 1)


def test_the_command_prints_a_recording_beside_generated_flow(capsys):
    if not SMALLEST.exists():
        pytest.skip(f"no recordings in {RECORDINGS}")
    assert main(["data", "statistics", str(SMALLEST), "--generated", "3", "--json"]) == 0
    recorded, *generated = orjson.loads(capsys.readouterr().out)["sources"]
    assert [column["symbol"] for column in generated] == ["BTCUSDT", "ETHUSDT"]
    assert recorded["source"] == SMALLEST.name and recorded["error"] == ""
    for column in generated:
        assert column["seconds"] == pytest.approx(recorded["seconds"], abs=2)
        assert sum(column["true_regimes"].values()) == pytest.approx(1)
        # Where the two are alike, roughly; the sources differ in much else.
        assert column["spread_ticks"]["p50"] == recorded["spread_ticks"]["p50"] == 1
        assert column["takers"]["gap_variation"] > 1.1 and recorded["takers"]["gap_variation"] > 1.1
        assert column["takers"]["sign_autocorrelation"]["1"] > 0.1
        assert column["returns_1s"]["excess_kurtosis"] > 1
    takers = [key for key, _ in groupby(_trades(SMALLEST))]  # an independent count, of the file's own words
    assert len(takers) > 500
    assert recorded["takers"]["per_second"] * recorded["seconds"] == pytest.approx(len(takers), abs=20)
    signs = np.array([1.0 if sold else -1.0 for _, sold in takers])
    assert recorded["takers"]["sign_autocorrelation"]["1"] == pytest.approx(ms.autocorrelation(signs, 1), abs=0.02)


def _trades(path: Path) -> list[tuple[int, bool]]:
    """Time and side of every trade of a recording."""
    with gzip.open(path, "rb") as file:
        frames = [orjson.loads(line.split(b" ", 1)[1]) for line in file if b'"e":"trade"' in line]
    return [(frame["data"]["T"], frame["data"]["m"]) for frame in frames]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "give a recording, or --generated"),
    (["--generated", "0"], "allowed is a seed from 1"),
    (["no-such-file"], "no-such-file: there is no such file or folder"),
])
def test_bad_arguments_are_usage_errors(arguments, message, capsys):
    assert main(["data", "statistics", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_recording_is_said(tmp_path, capsys):
    (tmp_path / "note.txt").write_text("hello\n")
    assert main(["data", "statistics", str(tmp_path / "note.txt")]) == 1
    assert "note.txt" in capsys.readouterr().err
