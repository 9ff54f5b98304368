"""What an observer holds an engine to: when orders passed the last gate, when it is shown as shut, the venue's log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import orjson
import pytest

from engine.records import ReportKind
from tests.embedded_venue import BTC, ccxt_client, running_venue
from tests.test_order_check import Desk, an_order
from tests.trading_desk import ScriptedServer

MS = 1_000_000
TRIPPED = 1 << 16 | 2


class Sent:
    """A desk whose venue lets a test act while an order is under way."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.meanwhile = lambda: None

    @contextlib.contextmanager
    def desk(self) -> Iterator[Desk]:
        answer = {"orderId": 7, "status": "NEW", "executedQty": "0", "side": "BUY", "updateTime": 5}

        def reply(method: str, path: str) -> tuple[int, bytes]:
            self.meanwhile()
            return 200, orjson.dumps(answer)

        with ScriptedServer(reply) as server:
            made = Desk(server)
            made.place.gate_is_shut = self.shown.append  # type: ignore[method-assign]
            yield made
            made.core.client.close()


def test_a_gate_is_shown_as_shut_once_the_order_under_way_is_answered() -> None:
    sent = Sent()
    with sent.desk() as desk:

        def trip() -> None:
            desk.place.word = TRIPPED
            desk.core.follow_gate()
            desk.place.time_ns += 20 * MS
            desk.core.follow_gate()
            assert sent.shown == []

        sent.meanwhile = trip
        assert desk.perform(an_order())[0] == ReportKind.ACCEPTED
        assert desk.place.word == TRIPPED
        desk.core.follow_gate()
        assert sent.shown == [TRIPPED]
        assert desk.perform(an_order(order_id=13))[0] == ReportKind.DENIED
        assert len(desk.server.requests) == 1
        desk.place.word = 0
        desk.core.follow_gate()
        assert sent.shown[-1] == 0


def test_a_venue_that_does_not_answer_keeps_the_gate_from_being_shown_for_a_moment_only() -> None:
    sent = Sent()
    with sent.desk() as desk:

        def trip() -> None:
            desk.place.word = TRIPPED
            desk.core.follow_gate()
            desk.place.time_ns += 26 * MS
            desk.core.follow_gate()

        sent.meanwhile = trip
        desk.perform(an_order())
        assert sent.shown == [TRIPPED], "the kill switch would end a gateway that shows nothing"


def test_the_stamp_of_an_order_is_taken_before_the_word_is_read() -> None:
    sent = Sent()
    with sent.desk() as desk:
        read = desk.place.emergency_word

        def slowly() -> int:
            desk.place.time_ns += MS  # a trip that comes now is later than the stamp
            return read()

        desk.place.emergency_word = slowly  # type: ignore[method-assign]
        began = desk.place.time_ns
        for order_id in (12, 13):
            desk.perform(an_order(order_id=order_id))
        desk.place.word = TRIPPED
        desk.perform(an_order(order_id=14))
        stamps = desk.state["gate"][0]
        assert stamps["order_id"][:3].tolist() == [12, 13, 0], "what the gate refused has none"
        # The first one comes twice: its connection has to be opened.
        assert stamps["at_ns"][:2].tolist() == [began + MS, began + 2 * MS]
        assert desk.state["sent"][0] == 2


def test_the_oldest_stamps_are_overwritten() -> None:
    sent = Sent()
    with sent.desk() as desk:
        kept = desk.state["gate"].shape[1]
        desk.state["sent"] = kept + 1
        desk.perform(an_order())
        assert np.flatnonzero(desk.state["gate"][0]["order_id"]).tolist() == [1]


@pytest.mark.parametrize("reduce_only", [False, True], ids=["entering", "reducing"])
def test_the_venues_log_has_what_was_accepted_what_traded_and_what_was_cancelled(reduce_only: bool) -> None:
    with running_venue() as venue:
        client = ccxt_client(venue.address)
        client.load_markets()
        before = time.time_ns()
        bought = client.create_order(BTC, "market", "buy", 0.01, params={"newClientOrderId": "mine"})
        assert bought["clientOrderId"] == "mine"
        if reduce_only:
            client.create_order(BTC, "market", "sell", 0.004, params={"newClientOrderId": "back", "reduceOnly": True})
        client.cancel_all_orders(BTC)
        log = venue.get("/bot4/log").json()
        assert all(before < event["at_ns"] < time.time_ns() for event in log)
        assert [event["at_ns"] for event in log] == sorted(event["at_ns"] for event in log)
        accepted = [event for event in log if event["event"] == "accepted"]
        names = [("mine", False), ("back", True)][: 1 + reduce_only]
        assert [(event["client_id"], event["reduce_only"]) for event in accepted] == names
        fills = [event for event in log if event["event"] == "fill"]
        assert sum(event["size"] * event["side"] for event in fills) == (6 if reduce_only else 10)
        assert fills[-1]["position"] == (6 if reduce_only else 10)
        assert [event["symbol"] for event in log if event["event"] == "cancel all"] == ["BTCUSDT"]
