"""Flattening while some answers fail: what fails keeps back its own instrument, and never the cancels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from procs.embedded.listing import list_anew
from procs.emergency.flatten import Flattener, Step
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.rate_limits import BudgetSpent
from procs.venues.binance_usdm.reports import ClientIds
from procs.venues.binance_usdm.signed import SignedSession
from shm.control import TripSource
from tests.kill_world import KEY, MS, SECRET, World, world

DEPTH, ALL_ORDERS, POSITIONS, ORDER = "/fapi/v1/depth", "/fapi/v1/allOrders", "/fapi/v3/positionRisk", "/fapi/v1/order"
LISTING = "/fapi/v1/exchangeInfo"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        one.gate_follows()
        yield one


def flattener_of(made: World, note: Callable[..., None] = lambda event, **fields: None) -> Flattener:
    plan, who = made.plan, Credentials(KEY, SECRET)
    session = SignedSession("http://venue", who, made.context.budget(), 3, clocks=made.outside.clocks)
    return Flattener(
        session, plan.instruments, plan.settings.safety, ClientIds(plan.session), note,
        lambda: None, made.outside.clocks,
    )


def spoil(made: World, method: str, path: str, symbol: str, answer: Any) -> None:
    """From now on what is asked about a symbol is answered with this: a whole answer, or an HTTP status."""
    real = made.venue.answer

    def other(asked: str, target: str, query: str, body: str, key: str | None) -> Any:
        reply = real(asked, target, query, body, key)
        if (asked, target) != (method, path) or f"symbol={symbol}" not in query + body:
            return reply
        status, content = (answer, b'{"code":-1130,"msg":"Illegal."}') if isinstance(answer, int) else (200, answer)
        return type(reply)(status, content, reply.headers, reply.content_type)

    made.venue.answer = other  # type: ignore[method-assign]


def spoil_position(made: World, symbol: str, changes: dict[str, Any]) -> None:
    """The entry of a symbol in the list of positions is another one."""
    real = made.venue.answer

    def other(asked: str, target: str, query: str, body: str, key: str | None) -> Any:
        reply = real(asked, target, query, body, key)
        if target != POSITIONS or reply.status != 200:
            return reply
        entries = [one | changes if one["symbol"] == symbol else one for one in orjson.loads(reply.body)]
        return type(reply)(200, orjson.dumps(entries), reply.headers, reply.content_type)

    made.venue.answer = other  # type: ignore[method-assign]


def steps(made: World, flattener: Flattener, count: int) -> list[Step]:
    """So many steps, with the pauses between them."""
    taken = []
    for _ in range(count):
        taken.append(flattener.step())
        made.advance(int(taken[-1].pause_s * 1e9))
    return taken


@pytest.mark.parametrize("answer", [400, 500, b"[]", b'{"bids":[["x","1"]],"asks":[["x","1"]]}'], ids=str)
def test_a_book_that_cannot_be_had_keeps_back_its_own_instrument_alone(made: World, answer: Any) -> None:
    made.hold(0, 40)
    made.hold(1, -60)
    held, real = made.position(1), made.venue.answer
    spoil(made, "GET", DEPTH, "ETHUSDT", answer)
    flattener = flattener_of(made)
    taken = steps(made, flattener, 30)
    assert (made.position(0), made.position(1)) == (0, held)
    assert all(step.failed and not step.flat and step.pause_s == 0.5 for step in taken)
    made.venue.answer = real  # type: ignore[method-assign]
    taken = steps(made, flattener, 30)
    assert made.position(1) == 0 and taken[-1] == Step(True, "", 0.5)


@pytest.mark.parametrize("answer", [400, b"{}", b'[{"clientOrderId":1},{}]'], ids=str)
def test_a_list_of_orders_that_cannot_be_had_keeps_back_its_own_instrument_alone(made: World, answer: Any) -> None:
    made.hold(0, 40)
    made.hold(1, -60)
    held, real = made.position(1), made.venue.answer
    spoil(made, "GET", ALL_ORDERS, "ETHUSDT", answer)
    flattener = flattener_of(made)
    taken = steps(made, flattener, 30)
    if answer != b"{}":  # no orders: the numbers are free
        assert (made.position(0), made.position(1)) == (0, held) and taken[-1].failed and not taken[-1].flat
    made.venue.answer = real  # type: ignore[method-assign]
    assert steps(made, flattener, 30)[-1].flat and made.position(1) == 0


@pytest.mark.parametrize(
    "changes", [{"positionAmt": "many"}, {"positionAmt": None}, {"markPrice": "dear"}, {"symbol": []}], ids=str
)
def test_a_position_that_cannot_be_read_keeps_back_its_own_instrument_alone(made: World, changes: dict) -> None:
    made.hold(0, 40)
    made.hold(1, -60)
    held, real = made.position(1), made.venue.answer
    spoil_position(made, "ETHUSDT", changes)
    flattener = flattener_of(made)
    taken = steps(made, flattener, 30)
    assert (made.position(0), made.position(1)) == (0, held)
    assert all("positionRisk" in step.failed and not step.flat for step in taken)
    made.venue.answer = real  # type: ignore[method-assign]
    assert steps(made, flattener, 30)[-1].flat and made.position(1) == 0


def test_a_clip_whose_fate_the_venue_does_not_tell_keeps_back_its_own_instrument_alone(made: World) -> None:
    made.hold(0, 40)
    made.hold(1, -6_000)
    real = made.venue.answer
    spoil(made, "POST", ORDER, "ETHUSDT", b"[]")
    flattener = flattener_of(made)
    flattener.step()
    after_one_clip = made.position(1)
    spoil(made, "GET", ORDER, "ETHUSDT", 400)
    taken = steps(made, flattener, 30)
    assert made.position(0) == 0 and made.position(1) == after_one_clip, "no second clip while one is UNKNOWN"
    assert all("HTTP 400" in step.failed and not step.flat for step in taken)
    made.venue.answer = real  # type: ignore[method-assign]
    assert steps(made, flattener, 200)[-1].flat and made.position(1) == 0


def test_while_nothing_is_answered_the_pauses_grow(made: World) -> None:
    made.hold(0, 40)
    made.fault(fault="gone", duration_ms=30_000)
    flattener = flattener_of(made)
    assert [step.pause_s for step in steps(made, flattener, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    made.advance(30_000 * MS)
    assert flattener.step() == Step(False, "", 0.5)
    made.fault(fault="gone", duration_ms=1_000)
    assert flattener.step().pause_s == 0.5


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "gone", "duration_ms": 60_000},
        {"fault": "half_open", "streams": "rest", "duration_ms": 60_000},
        {"fault": "maintenance", "mode": "closed", "duration_ms": 60_000},
    ],
    ids=lambda fault: fault["fault"],
)
def test_flattening_at_a_venue_that_is_away_leaves_the_cancels_their_budget(made: World, fault: dict) -> None:
    made.rest(0)
    made.hold(0, 40)
    made.hold(1, -60)
    budget = made.context.budget()
    while budget.take(budget.now_ns(), 1, level=1) == 0:
        pass  # what the gateway may use is used up
    made.at_ms(400, lambda: made.fault(**fault))
    back_ns = made.now_ns + 60_400 * MS
    made.at_ms(500, lambda: made.trip(TripSource.OPERATOR))
    made.at_ms(90_000, made.stop)
    made.run(processes=1)
    # What only looks whether something rests is ordinary, so once nothing does it may find the budget spent.
    failed = [note["error"] for note in made.notes() if note["event"] == "cancel failed" and note["wall_ns"] < back_ns]
    assert len(failed) > 5 and not [text for text in failed if str(BudgetSpent(0))[:20] in text]
    assert (made.resting(), made.position(0), made.position(1)) == (0, 0, 0)


@pytest.mark.parametrize("terms", [{"tick_size": "7.00"}, {"tick_size": "7.00", "lot_size": "0.020"}], ids=str)
def test_a_tick_or_lot_that_has_changed_is_learnt_and_the_position_brought_to_zero(made: World, terms: dict) -> None:
    made.hold(0, 40)
    made.hold(1, -60)
    list_anew(made.venue.dialect, {"symbol": "BTCUSDT", **terms})
    notes: list[str] = []
    flattener = flattener_of(made, lambda event, **fields: notes.append(event))
    made.venue.answer = real_or_away(made, away := [True])  # type: ignore[method-assign]
    assert not steps(made, flattener, 10)[-1].flat and made.position(0) == 40, "without a listing it cannot be"
    away.clear()
    assert steps(made, flattener, 40)[-1].flat
    assert (made.position(0), made.position(1)) == (0, 0)
    assert notes.count("listed anew") == 1


def real_or_away(made: World, away: list[bool]) -> Any:
    """The venue, whose listing is not to be had while `away` holds anything."""
    real = made.venue.answer

    def other(asked: str, target: str, query: str, body: str, key: str | None) -> Any:
        reply = real(asked, target, query, body, key)
        return type(reply)(503, b"", reply.headers, reply.content_type) if away and target == LISTING else reply

    return other
