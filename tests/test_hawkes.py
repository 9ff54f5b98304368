"""The Hawkes process against theory: mean rates, the branching ratio, and what a change of time makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from engine.matching.flow import _causes_by_side
from engine.matching.hawkes import (
    BASE,
    COMPONENTS,
    HAWKES_FIELDS,
    KINDS,
    draw_kind,
    draw_wait,
    excite,
    pass_time,
    set_hawkes,
)
from models.market_statistics import branching_ratio

STATE = np.dtype([("counter", "<u8"), *HAWKES_FIELDS], align=True)
RATES = (3.0, 2.0, 1.5, 1.5, 0.5, 4.0)
DECAY, FAST_SHARE = (20.0, 1.0), 0.6


def process(ratio: float, seed: int) -> np.ndarray:
    state = np.zeros(1, STATE)
    state["counter"] = seed
    set_hawkes(state, RATES, _causes_by_side(), ratio, DECAY, FAST_SHARE)
    return state


def simulate(state: np.ndarray, events: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times in seconds, kinds, sources."""
    times, kinds, sources = np.zeros(events), np.zeros(events, int), np.zeros(events, int)
    now = 0.0
    for place in range(events):
        wait = draw_wait(state)
        now += wait
        pass_time(state, wait)
        kinds[place] = draw_kind(state)
        sources[place] = state["next_source"][0]
        excite(state, kinds[place])
        times[place] = now
    return times, kinds, sources


def residuals(state: np.ndarray, times: np.ndarray, kinds: np.ndarray, kind: int) -> np.ndarray:
    """What the intensity of a kind adds up to between its events: an oracle of its own, from the definition."""
    base = state["base"][0][kind]
    jump = state["jump"][0].reshape(COMPONENTS, KINDS, KINDS)
    level = np.zeros(COMPONENTS)
    total, last, found = 0.0, 0.0, []
    for now, event in zip(times, kinds, strict=True):
        gap = now - last
        total += base * gap
        for component in range(COMPONENTS):
            decay = DECAY[component]
            total += level[component] * (1.0 - math.exp(-decay * gap)) / decay
            level[component] *= math.exp(-decay * gap)
        last = now
        if event == kind:
            found.append(total)
            total = 0.0
        level += jump[:, event, kind]
    return np.array(found)


@pytest.fixture(scope="module")
def run() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    state = process(0.65, 11)
    return state, *simulate(state, 40_000)


def test_the_branching_ratio_is_the_spectral_radius() -> None:
    jump = process(0.65, 1)["jump"][0].reshape(COMPONENTS, KINDS, KINDS)
    branching = (jump / np.array(DECAY)[:, None, None]).sum(axis=0).T  # child, parent
    assert max(abs(np.linalg.eigvals(branching))) == pytest.approx(0.65, rel=1e-12)
    base = process(0.65, 1)["base"][0]
    assert np.linalg.solve(np.eye(KINDS) - branching, base) == pytest.approx(RATES, rel=1e-12)
    for ratio in (-0.1, 0.96, 1.0):
        with pytest.raises(ValueError, match="branching ratio"):
            process(ratio, 1)
    with pytest.raises(ValueError, match="sum to 1"):
        set_hawkes(process(0.5, 1), RATES, [[0.5] * KINDS] * KINDS, 0.5, DECAY, FAST_SHARE)


def test_mean_rates_and_the_share_of_offspring(run) -> None:
    _, times, kinds, sources = run
    rates = np.bincount(kinds, minlength=KINDS) / times[-1]
    assert rates == pytest.approx(RATES, rel=0.08)
    assert np.mean(sources != BASE) == pytest.approx(0.65, abs=0.01)
    assert np.mean(sources[sources != BASE] == 0) == pytest.approx(FAST_SHARE, abs=0.02)


@pytest.mark.parametrize("kind", range(KINDS))
def test_residuals_after_the_change_of_time_are_exponential(run, kind: int) -> None:
    state, times, kinds, _ = run
    gaps = residuals(state, times, kinds, kind)
    assert len(gaps) > 1000
    assert stats.kstest(gaps, "expon").pvalue > 0.01
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.06
    # The test can fail: one whose kernels are left out is rejected.
    state = state.copy()
    state["jump"] = 0.0
    state["base"] = RATES
    assert stats.kstest(residuals(state, times, kinds, kind), "expon").pvalue < 1e-6


def test_without_excitation_it_is_a_poisson_process() -> None:
    times, kinds, sources = simulate(process(0.0, 5), 10_000)
    assert (sources == BASE).all()
    assert stats.kstest(np.diff(times) * sum(RATES), "expon").pvalue > 0.01
    assert np.bincount(kinds) / len(kinds) == pytest.approx(np.array(RATES) / sum(RATES), abs=0.02)


def test_the_estimate_finds_the_branching_ratio(run) -> None:
    _, times, _, _ = run
    assert branching_ratio((times * 1e9).astype(np.int64), 10 * 10**9) == pytest.approx(0.65, abs=0.08)
    plain, _, _ = simulate(process(0.0, 5), 20_000)
    assert branching_ratio((plain * 1e9).astype(np.int64), 10 * 10**9) < 0.1


def test_a_process_without_rates_waits_for_ever() -> None:
    state = np.zeros(1, STATE)
    set_hawkes(state, (0.0,) * KINDS, _causes_by_side(), 0.5, DECAY, FAST_SHARE)
    assert draw_wait(state) == 1e6
