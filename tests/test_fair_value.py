"""Regimes, clustering of volatility, and informed traders: what the flow does with a value that nobody sees."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from engine.matching.events import EventKind
from engine.matching.fair_value import FAIR_FIELDS, Regime, move_fair_value, set_fair_value
from engine.matching.market import SimulatedMarket
from engine.matching.settings import FlowSettings, VenueSettings

SECOND = 1_000_000_000
START = 1_700_000_000_000_000_000
STATE = np.dtype([("counter", "<u8"), ("tick", "<i8"), *FAIR_FIELDS], align=True)
STEP_NS = SECOND // 20


def path(settings: FlowSettings, seconds: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Of each step: fair and regime."""
    state = np.zeros(1, STATE)
    state["counter"], state["tick"] = seed, 10
    set_fair_value(state, settings, 6_000_000.0, 3e-5, 0)
    steps = seconds * SECOND // STEP_NS
    fair, regime = np.zeros(steps), np.zeros(steps, int)
    for step in range(steps):
        regime[step] = state["regime"][0]
        move_fair_value(state, (step + 1) * STEP_NS, STEP_NS / SECOND)
        fair[step] = state["fair"][0]
    assert state["regime_ns"].sum() == pytest.approx(steps * STEP_NS)
    return fair, regime


@pytest.fixture(scope="module")
def walked() -> tuple[np.ndarray, np.ndarray]:
    return path(FlowSettings(), 6_000)


def test_regimes_last_as_long_as_they_say(walked) -> None:
    _, regime = walked
    changes = np.flatnonzero(np.diff(regime)) + 1
    lengths = np.diff(changes) * STEP_NS / SECOND
    kinds = regime[changes[:-1]]
    settings = FlowSettings()
    means = (settings.ranging_s, settings.trending_s, settings.volatile_s)
    for kind, mean in enumerate(means):
        own = lengths[kinds == kind]
        assert len(own) > 30
        assert stats.kstest(own / mean, "expon").pvalue > 0.01
    # Of the two others each comes next as often.
    following = np.bincount(3 * kinds[:-1] + kinds[1:], minlength=9).reshape(3, 3)
    assert np.diag(following).sum() == 0
    for row in range(3):
        counts = np.delete(following[row], row)
        assert stats.binomtest(int(counts[0]), int(counts.sum())).pvalue > 0.01


def test_each_regime_behaves_as_it_is_called(walked) -> None:
    fair, regime = walked
    second = SECOND // STEP_NS
    closes, seen = fair[::second], regime[::second]
    returns = np.diff(np.log(closes))
    inside = seen[1:] == seen[:-1]
    spread = {kind: returns[inside & (seen[1:] == kind)].std() for kind in Regime}
    assert 2.0 < spread[Regime.VOLATILE] / spread[Regime.RANGING] < 4.5
    assert returns.std() == pytest.approx(3e-5, rel=0.15)  # over all regimes what the setting says
    # A trend goes on: moves of whole regimes, in units of a walk of the same length.
    edges = np.r_[0, np.flatnonzero(np.diff(seen)) + 1, len(seen) - 1]
    ratio: dict[int, list[float]] = {kind: [] for kind in Regime}
    for first, last in pairwise(edges):
        if last - first > 10:
            own = returns[first:last]
            ratio[int(seen[first])].append(own.sum() ** 2 / (own**2).sum())
    assert np.mean(ratio[Regime.TRENDING]) > 1.2
    assert np.mean(ratio[Regime.RANGING]) < 0.8


def test_volatility_clusters_without_regimes_too() -> None:
    """With one endless ranging regime the sizes of returns still remember; without clustering they do not."""
    remembered = []
    for clustering in (0.8, 0.0):
        settings = FlowSettings(ranging_s=86_400.0, trending_s=1.0, volatile_s=1.0, clustering=clustering)
        fair, _ = path(settings, 3_000, seed=9)
        size = np.abs(np.diff(np.log(fair[:: SECOND // STEP_NS])))
        remembered.append(np.corrcoef(size[1:], size[:-1])[0, 1])
        kurtosis = stats.kurtosis(np.diff(np.log(fair[:: SECOND // STEP_NS])))
        assert kurtosis > 1.0 if clustering else abs(kurtosis) < 0.5
    assert remembered[0] > 0.15
    assert abs(remembered[1]) < 0.07


def test_informed_traders_cost_the_maker() -> None:
    """Adverse selection: what the mid does after a fill against an informed order, and after the others."""
    settings = replace(VenueSettings(), symbols=("BTCUSDT",), flow=replace(FlowSettings(), informed_share=0.6))
    market = SimulatedMarket(settings, 1, START)
    parts, informed = [], []
    for now_ns in range(START, START + 200 * SECOND, SECOND // 500):
        before = int(market.flows[0]["informed"][0])
        events = market.advance(now_ns)
        parts.append(events)
        informed.append(np.full(len(events), market.flows[0]["informed"][0] > before))
    events, by_informed = np.concatenate(parts), np.concatenate(informed)
    touch, is_fill = events[events["kind"] == EventKind.TOUCH], events["kind"] == EventKind.FILL
    is_fill &= events["time_ns"] < START + 190 * SECOND
    fills, by_informed = events[is_fill], by_informed[is_fill]
    middle = (touch["price"] + touch["ask_price"]) / 2
    later = middle[np.searchsorted(touch["time_ns"], fills["time_ns"] + SECOND, "right") - 1]
    lost = fills["side"] * (later - fills["price"]) / 10  # by the maker, ticks
    assert 100 < by_informed.sum() < len(fills) / 2
    assert lost[by_informed].mean() > 1.0
    assert lost[by_informed].mean() > 1.4 * lost[~by_informed].mean()
    assert stats.mannwhitneyu(lost[by_informed], lost[~by_informed], alternative="greater").pvalue < 1e-6


def test_without_informed_traders_nobody_is() -> None:
    settings = replace(VenueSettings(), flow=replace(FlowSettings(), informed_share=0.0))
    market = SimulatedMarket(settings, 1, START)
    market.advance(START + 30 * SECOND)
    assert [int(flow["informed"][0]) for flow in market.flows] == [0, 0]


def test_contracts_are_independent() -> None:
    market = SimulatedMarket(VenueSettings(), 8, START)
    series = []
    for second in range(1, 241):
        market.advance(START + second * SECOND)
        series.append([float(flow["fair"][0]) for flow in market.flows])
    moves = np.diff(np.log(np.array(series)), axis=0)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.2
    assert market.flows[0]["regime_until_ns"][0] != market.flows[1]["regime_until_ns"][0]
