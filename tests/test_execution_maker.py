"""The maker: where it quotes, and that it only reads what it decides on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.risk.settings import money
from engine.settings import build
from engine.strategies.context import EVENT, OWN
from engine.strategies.maker import fair_price, on_event
from engine.strategies.plugin import word_of
from engine.strategies.quotes import ASK, BID, QUOTE, QUOTES, Working
from engine.strategies.settings import MakerSettings
from tests.execution_harness import MS, START_NS
from tests.test_gate import new_view

LIMIT = money(10_000)


def new_maker(**settings: Any) -> np.ndarray:
    chosen = vars(build(MakerSettings, settings))
    words = np.array([word_of(MakerSettings, name, value) for name, value in chosen.items()], np.int64)
    return words.view(on_event.parameters_dtype)


def wanted(view: np.ndarray, position: int = 0, quotes: np.ndarray | None = None, **settings: Any) -> np.ndarray:
    """The quotes after the maker has seen the view."""
    quotes = np.zeros(2, QUOTE) if quotes is None else quotes
    event, own, state = np.zeros(1, EVENT), np.zeros(1, OWN), np.zeros(1, on_event.state_dtype)
    event["now_ns"] = START_NS
    own["position"] = own["account_position"] = position
    own["max_position_value"] = LIMIT
    on_event.function(event[0], view[0], own[0], new_maker(**settings)[0], state[0], quotes.view(QUOTES)[0])
    return quotes


def prices(quotes: np.ndarray) -> tuple[int, int]:
    return int(quotes[BID]["target_price"]), int(quotes[ASK]["target_price"])


def one_tick_view(**fields: Any) -> np.ndarray:
    return new_view(bid_price=1000_00, ask_price=1000_10, **fields)


def test_it_joins_a_touch_of_one_tick() -> None:
    for bid_size, ask_size in ((1, 1), (1, 1_000), (1_000, 1)):
        assert prices(wanted(one_tick_view(bid_size=bid_size, ask_size=ask_size))) == (1000_00, 1000_10)


def test_it_improves_a_wide_touch_by_one_tick_and_not_on_itself() -> None:
    view = new_view(bid_price=999_00, ask_price=1001_00)
    assert prices(wanted(view)) == (999_10, 1000_90)
    assert prices(wanted(view, improve_ticks=0)) == (999_00, 1001_00)
    quotes = np.zeros(2, QUOTE)
    quotes["working"] = Working.RESTING
    quotes["order_price"] = quotes["target_price"] = (999_00, 1001_00)
    quotes["target_size"] = 400
    assert prices(wanted(view, quotes=quotes, min_quote_life_ms=0)) == (999_00, 1001_00)


def test_fair_price_is_microprice_prediction_and_inventory() -> None:
    view = new_view(bid_price=999_00, bid_size=3, ask_price=1001_00, ask_size=1, output=(2.0, 0.0))
    micro = (999_00 * 1 + 1001_00 * 3) / 4
    maker = new_maker(prediction_weight=0.5, inventory_skew_ticks=4)
    assert fair_price(maker[0], view[0], 0, LIMIT) == pytest.approx(micro * 1.0001, rel=1e-12)
    half_full = 5_000 * 1_000 // 999  # value at bid: half the limit
    assert fair_price(maker[0], view[0], half_full, LIMIT) == pytest.approx(micro * 1.0001 - 20, abs=0.1)
    assert fair_price(maker[0], view[0], -10**9, LIMIT) == pytest.approx(micro * 1.0001 + 40, abs=0.1)


def test_prediction_and_inventory_move_the_quotes_within_their_depth() -> None:
    assert prices(wanted(one_tick_view(output=(-50.0, 0.0)), max_depth_ticks=2)) == (999_80, 1000_10)
    assert prices(wanted(one_tick_view(output=(50.0, 0.0)), max_depth_ticks=2)) == (1000_00, 1000_30)
    long = wanted(one_tick_view(), position=9_000, inventory_skew_ticks=4, max_depth_ticks=3)
    assert prices(long) == (999_70, 1000_10)
    assert prices(wanted(one_tick_view(output=(50.0, 0.0)), prediction_weight=0.0)) == (1000_00, 1000_10)


def test_half_spread_is_in_basis_points() -> None:
    quotes = wanted(one_tick_view(), half_spread_bps=5, max_depth_ticks=100)
    assert prices(quotes) == (999_50, 1000_60)  # 1000.05 less and more 0.50, rounded away


def test_a_side_without_room_is_not_quoted() -> None:
    quotes = wanted(one_tick_view(), position=9_999)
    assert quotes["target_size"].tolist()[BID] == 0
    assert quotes["target_size"].tolist()[ASK] > 0


def test_requotes_by_distance_or_age() -> None:
    def moved(ticks: int, age_ms: int) -> bool:
        quotes = np.zeros(2, QUOTE)
        quotes["working"] = Working.RESTING
        quotes["order_price"] = quotes["target_price"] = (1000_00 - 10 * ticks, 1000_10)
        quotes["target_size"] = 400
        quotes["attempt_ns"] = START_NS - age_ms * MS
        before = prices(quotes)
        wanted(one_tick_view(), quotes=quotes, requote_ticks=3, min_quote_life_ms=100, max_quote_life_ms=5_000)
        return prices(quotes) != before

    assert [moved(3, age) for age in (99, 100)] == [False, True]
    assert [moved(2, age) for age in (100, 4_999, 5_000)] == [False, False, True]
    assert not moved(0, 60_000)


def test_a_quote_in_transit_is_left_alone() -> None:
    quotes = np.zeros(2, QUOTE)
    quotes["working"] = Working.IN_TRANSIT
    quotes["target_price"] = (900_00, 1100_00)
    quotes["target_size"] = 400
    assert prices(wanted(one_tick_view(), quotes=quotes, min_quote_life_ms=0)) == (900_00, 1100_00)


@pytest.mark.parametrize("output", [math.nan, math.inf, -math.inf, -1e300])
def test_no_fair_price_no_quotes(output: float) -> None:
    quotes = np.zeros(2, QUOTE)
    quotes["target_size"] = 5
    wanted(one_tick_view(output=(output, 0.0)), quotes=quotes)
    assert quotes["target_size"].tolist() == [0, 0]


@settings(max_examples=500)
@given(
    bid_ticks=st.integers(1, 10**6), spread=st.integers(1, 50), tick=st.integers(1, 100),
    sizes=st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), output=st.floats(-1e4, 1e4),
    position=st.integers(-(10**9), 10**9), half_spread=st.floats(0, 100), improve=st.integers(0, 5),
    depth=st.integers(0, 20), own=st.booleans(),
)
def test_quotes_are_on_the_tick_never_cross_and_the_view_is_only_read(
    bid_ticks: int, spread: int, tick: int, sizes: tuple[int, int], output: float, position: int,
    half_spread: float, improve: int, depth: int, own: bool,
) -> None:
    bid, ask = bid_ticks * tick, (bid_ticks + spread) * tick
    view = new_view(
        bid_price=bid, ask_price=ask, tick_size=tick, bid_size=sizes[0], ask_size=sizes[1],
        output=(output, 0.0), min_notional=0,
    )
    before = view.tobytes()
    quotes = np.zeros(2, QUOTE)
    if own:
        quotes["working"] = Working.RESTING
        quotes["order_price"] = (bid, ask)
    wanted(
        view, position, quotes, half_spread_bps=half_spread, improve_ticks=improve, max_depth_ticks=depth,
        min_quote_life_ms=0,
    )
    assert view.tobytes() == before
    if quotes[BID]["target_size"] > 0:
        assert quotes[BID]["target_price"] % tick == 0
        assert max(bid - depth * tick, 1) <= quotes[BID]["target_price"] < ask
        assert quotes[BID]["target_price"] <= bid + improve * tick
    if quotes[ASK]["target_size"] > 0:
        assert quotes[ASK]["target_price"] % tick == 0
        assert bid < quotes[ASK]["target_price"] <= ask + depth * tick
        assert quotes[ASK]["target_price"] >= ask - improve * tick
