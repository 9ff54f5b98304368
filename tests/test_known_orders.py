"""Whose orders are: what may matter is kept, what is old is not, and forgetting changes no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procs.venues.binance_usdm import known_orders
from procs.venues.binance_usdm.known_orders import KnownOrders

_KEPT = 4


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(-1, 9)), max_size=60),
    st.sets(st.integers(1, 9), max_size=3),
)
def test_the_newest_and_all_that_may_rest_are_kept(steps: list[tuple[int, int]], resting: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_orders, "KEPT", _KEPT)
        known = KnownOrders(lambda order_id: order_id in resting)
        last: dict[int, int] = {}
        for venue_order_id, owner in steps:
            known.remember(venue_order_id, owner)
            last.pop(venue_order_id, None)
            last[venue_order_id] = owner
            assert known.owner(venue_order_id) == owner
            assert all(known.owner(one) in (None, whose) for one, whose in last.items())
        must = [one for one, whose in last.items() if whose in resting]
        assert set(must) <= known.ids() or len(must) > _KEPT
        assert len(known.ids()) <= max(_KEPT, len(must) + 1)
        if not must:
            assert known.ids() == set(list(last)[-_KEPT:])


def test_it_does_not_grow() -> None:
    known = KnownOrders(lambda order_id: order_id % 1_000 == 0)
    known.remember_all({1_000_000 + number: number for number in range(1, 20_001)})
    assert len(known.ids()) == known_orders.KEPT
    assert all(known.owner(1_000_000 + number) == number for number in range(1_000, 20_001, 1_000))
    assert known.owner(1_000_001) is None and known.owner(1_020_000) == 20_000
