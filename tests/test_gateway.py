"""The gateway at work: real rings, a real venue, in threads of the test.

What is tested here are the days on which something breaks: the private stream, REST, a deadline, the gate, the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
import pytest

from engine.reasons import Reason
from engine.records import ORDER, OrderAction, ReportKind
from engine.safety.mode import Mode
from procs.journal.layout import Entry
from procs.journal.reader import read_stream
from procs.summary import ring_counts, stage_accounts
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.private_stream import StreamEvent
from shm.control import Stop, TripSource, tripped_sources
from tests.embedded_venue import RunningVenue
from tests.gateway_desk import Desk, clear
from tests.instance_memory import small_instance
from tests.waiting import until


@pytest.fixture
def desk(venue: RunningVenue, tmp_path: Path) -> Iterator[Desk]:
    clear(venue)
    endpoints = Endpoints(venue.address.rest_url, venue.address.ws_url)
    with small_instance(tmp_path, endpoints) as plan:
        made = Desk(venue, plan)
        try:
            yield made
        finally:
            venue.call(venue.venue.faults.clear)
            made.stop()


def test_orders_go_out_and_everything_that_becomes_of_them_comes_back_once(desk: Desk, tmp_path: Path) -> None:
    desk.start()
    resting, taking = desk.new(taking=False), desk.new(taking=True)
    desk.wait(resting, ReportKind.ACCEPTED)
    desk.wait(taking, ReportKind.FILL)
    assert desk.at_venue(resting)
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED)
    desk.send(OrderAction.QUERY, 77)
    desk.wait(77, ReportKind.NOT_FOUND)
    assert not desk.at_venue(resting)
    fills = desk.fills(taking)
    assert len(fills) == len(set(fills)) > 0
    row = desk.counters()
    assert int(row["sent"]) == 2 and int(row["records_in"]) == int(row["processed"]) == 4
    assert all(int(one["recv_ts_ns"][0]) > 0 and int(one["ingest_id"][0]) > 0 for one in desk.reports)
    desk.mapping.control.request_stop(Role.GATEWAY, Stop.DRAIN)
    until(desk.ended, "end of the gateway")
    assert desk.failure is None
    kinds = [entry.kind for entry in read_stream(tmp_path, "gateway")]
    assert kinds.count(Entry.REQUEST) == 4 and kinds.count(Entry.ANSWER) >= 4 and kinds.count(Entry.PRIVATE) >= 3
    assert int(row["out"]) == len(desk.reports) == desk.mapping.ring("fills").produced


def test_a_decision_that_is_too_old_is_not_sent(desk: Desk) -> None:
    desk.start()
    late = desk.new(taking=False, deadline_ns=desk.context.now_ns() - 1)
    desk.wait(late, ReportKind.DENIED)
    assert desk.denial(late) == Reason.DENIED_LATE
    in_time = desk.new(taking=False, deadline_ns=desk.context.now_ns() + 5_000_000_000)
    desk.wait(in_time, ReportKind.ACCEPTED)
    assert desk.at_venue(in_time) and not desk.at_venue(late)
    assert int(desk.counters()["sent"]) == 1


@pytest.mark.parametrize("mode", [Mode.REDUCE, Mode.PAUSE, Mode.EMERGENCY, 77])
def test_the_mode_is_the_last_gates_business(desk: Desk, mode: int) -> None:
    desk.start()
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)
    desk.mapping.control.mode = mode
    denied = desk.new(taking=False)
    desk.wait(denied, ReportKind.DENIED)
    assert desk.denial(denied) == Reason.DENIED_MODE
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED)
    desk.mapping.control.mode = Mode.NORMAL
    again = desk.new(taking=False)
    desk.wait(again, ReportKind.ACCEPTED)
    assert int(desk.counters()["sent"]) == 2


def test_the_gate_opens_again_after_a_reset(desk: Desk) -> None:
    desk.start()
    control = desk.mapping.control
    word = control.trip(TripSource.OPERATOR)
    until(lambda: control.gate_epoch(Role.GATEWAY) == word, "shut gate", 1.0)
    assert control.reset(word)
    until(lambda: control.gate_epoch(Role.GATEWAY) == 0, "open gate", 1.0)
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)


def test_after_a_trip_orders_are_denied_and_cancels_go_out(desk: Desk) -> None:
    desk.start()
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)
    control = desk.mapping.control
    word = control.trip(TripSource.OPERATOR)
    until(lambda: control.gate_epoch(Role.GATEWAY) == word, "shut gate", 1.0)
    denied = desk.new(taking=True)
    desk.wait(denied, ReportKind.DENIED)
    assert desk.denial(denied) == Reason.DENIED_EMERGENCY
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED)
    row = desk.counters()
    assert int(row["sent"]) == 1 and int(row["dropped"][Reason.DENIED_EMERGENCY]) == 1
    assert int(row["records_in"]) == int(row["processed"]) + int(row["dropped"].sum()) == 3


def test_once_the_stop_is_confirmed_only_questions_leave_until_the_reset(desk: Desk) -> None:
    desk.start()
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)
    control = desk.mapping.control
    word = control.trip(TripSource.OPERATOR)
    control.set_gate_epoch(Role.KILLSWITCH, control.token)
    gate = desk.gateway._client._gate
    until(lambda: gate._only_reads, "cut", 2.0)
    desk.send(OrderAction.QUERY, 77)
    desk.wait(77, ReportKind.NOT_FOUND)
    assert not gate._renew, "the question left over a new connection"
    calls = int(desk.counters()["calls"])
    desk.send(OrderAction.CANCEL, resting)
    desk.send(OrderAction.QUERY, 78)
    desk.wait(78, ReportKind.NOT_FOUND)
    assert int(desk.counters()["calls"]) == calls + 1, "the cancel left, which the kill switch had made already"
    assert control.reset(word)
    until(lambda: not gate._only_reads, "end of the cut", 2.0)
    again = desk.new(taking=False)
    desk.wait(again, ReportKind.ACCEPTED)


def test_what_is_kept_of_the_rate_budget_is_for_cancels_and_questions(desk: Desk) -> None:
    desk.start()
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)
    others = desk.mapping.budget()  # another process has used what is not kept back
    for weight, orders in ((10_000, 0), (100, 0), (1, 0), (0, 1)):
        while others.take(desk.mapping.now_ns(), weight, orders) == 0:
            pass
    denied = desk.new(taking=True)
    desk.wait(denied, ReportKind.DENIED)
    assert desk.denial(denied) == Reason.DENIED_RATE_BUDGET
    desk.send(OrderAction.RECONCILE, 0)
    desk.wait(0, ReportKind.RECONCILE_END)
    assert int(desk.reports[-1]["aux"][0]) == 0, "housekeeping used what is kept back"
    desk.send(OrderAction.QUERY, 77)
    desk.wait(77, ReportKind.NOT_FOUND)
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED)
    assert int(desk.counters()["sent"]) == 1


def test_a_trip_between_the_ring_and_the_socket_is_seen_by_the_last_gate(desk: Desk) -> None:
    """The order is with the sender already, behind a slow request, when the word is set."""
    desk.start()
    desk.venue.fault(fault="http", action="hang_before", delay_ms=600, path="/fapi/v1/order", method="GET", count=1)
    desk.send(OrderAction.QUERY, 55)
    order = desk.new(taking=True)
    until(lambda: int(desk.counters()["processed"]) == 2, "order handed to the sender")
    desk.mapping.control.trip(TripSource.OPERATOR)
    desk.wait(order, ReportKind.DENIED)
    assert desk.denial(order) == Reason.DENIED_EMERGENCY
    assert int(desk.counters()["sent"]) == 0


def test_fills_of_a_time_without_the_private_stream_are_caught_up(desk: Desk) -> None:
    desk.start()
    desk.send(OrderAction.RECONCILE, 0, aux=1)
    desk.wait(0, ReportKind.RECONCILE_END)
    # The next connection cannot be made for a while, and everything happens meanwhile.
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v1/listenKey", method="POST", count=3)
    desk.venue.fault(fault="disconnect", streams="private")
    until(lambda: int(desk.counters()["stream_losses"]) > 0, "loss of the stream")
    orders = [desk.new(taking=True) for _ in range(3)]
    for order in orders:
        desk.wait(order, ReportKind.FILL)
    assert int(desk.counters()["stream_losses"]) > 1
    truth = {fill["id"] for fill in desk.venue.state()["fills"]}
    heard = [trade_id for order in orders for trade_id in set(desk.fills(order))]
    assert set(heard) <= truth and len(heard) == len(set(heard)) >= 3
    late = desk.new(taking=True)
    desk.wait(late, ReportKind.FILL)


def test_an_expired_listen_key_is_noticed_and_replaced(desk: Desk) -> None:
    """The socket stays open after it and says nothing: without a new key every later fill would be lost."""
    desk.start()

    def expire() -> None:
        desk.venue.venue.rest.listen_key_until_ms = 0

    desk.venue.call(expire)
    until(lambda: int(desk.counters()["stream_losses"]) > 0, "noticed loss of the stream")
    order = desk.new(taking=True)
    desk.wait(order, ReportKind.FILL)


def test_cancels_do_not_stand_behind_a_catch_up_that_fails(desk: Desk) -> None:
    desk.start()
    desk.send(OrderAction.RECONCILE, 0, aux=1)
    desk.wait(0, ReportKind.RECONCILE_END)
    resting = desk.new(taking=False)
    desk.wait(resting, ReportKind.ACCEPTED)
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v1/userTrades", method="GET", count=1000)
    desk.venue.fault(fault="disconnect", streams="private")
    until(lambda: desk.venue.state()["counters"]["faults"].get("error_before", 0) > 0, "catch-up that failed")
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED, timeout_s=3.0)
    assert desk.venue.state()["pending_faults"]["http"], "the catch-up was still failing"


def test_a_private_event_that_cannot_be_read_trips(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.start()
    without_status = {
        "s": "BTCUSDT", "c": "autoclose-1", "S": "SELL", "f": "IOC", "x": "TRADE", "i": 5, "l": "0.004", "z": "0.004",
        "L": "9910.5", "N": "USDT", "n": "0", "T": 1, "t": 7, "m": False,
    }
    for data in (
        b"{", b"[]", b'{"e": "ORDER_TRADE_UPDATE"}', b'{"e": "ORDER_TRADE_UPDATE", "o": {"c": 5}}',
        orjson.dumps({"e": "ORDER_TRADE_UPDATE", "o": without_status}),
    ):
        before = int(desk.counters()["quarantined"][Reason.BAD_JSON])
        desk.gateway._stream._deliver(StreamEvent.FRAME, data)
        until(lambda b=before: int(desk.counters()["quarantined"][Reason.BAD_JSON]) > b, "refusal")  # type: ignore[misc]
    assert desk.mapping.control.tripped
    assert desk.failure is None
    desk.mapping.control.request_stop(Role.GATEWAY, Stop.DRAIN)
    until(desk.ended, "end of the gateway")
    rings = ring_counts(desk.mapping, ("orders", "fills"))
    stages, unaccounted = stage_accounts({Role.GATEWAY: desk.mapping.state(Role.GATEWAY)}, rings)
    assert stages["gateway"]["quarantined"] == {"BAD_JSON": 5} and unaccounted == 0
    assert capfd.readouterr().err.count("tripped: a private frame cannot be understood (journal entry ") == 5


def test_a_gateway_finds_a_venue_that_comes_later(desk: Desk) -> None:
    """Its first calls fail, and it lives on: a death would count towards those that stop the engine."""
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v1/time", method="GET", count=1)
    desk.venue.fault(fault="http", action="error_before", path="/fapi/v1/listenKey", method="POST", count=3)
    desk.start()
    assert int(desk.counters()["stream_losses"]) == 3
    order = desk.new(taking=True)
    desk.wait(order, ReportKind.FILL)


def test_a_liquidation_is_booked_and_trips(desk: Desk) -> None:
    desk.start()
    forced = {
        "s": "BTCUSDT", "c": "autoclose-1568879465650", "S": "SELL", "o": "LIMIT", "f": "IOC", "x": "TRADE",
        "X": "FILLED", "i": 5, "l": "0.004", "z": "0.004", "L": "9910.5", "N": "USDT", "n": "0.1", "T": 1568879465650,
        "t": 1234567, "m": False,
    }
    desk.gateway._stream._deliver(StreamEvent.FRAME, orjson.dumps({"e": "ORDER_TRADE_UPDATE", "o": forced}))
    until(lambda: desk.fills(0) == [1234567], "fill that is not ours")
    assert desk.mapping.control.tripped and TripSource.GATEWAY in tripped_sources(desk.mapping.control.word)


def test_every_request_is_journaled_under_its_client_id_before_it_is_sent(desk: Desk, tmp_path: Path) -> None:
    """A crash right before the bytes leave must find in the journal what may have been sent."""
    desk.start()
    client = desk.gateway._client
    sending, seen = client._gate.send, []

    def looking(request: Any, *arguments: Any, **options: Any) -> Any:
        query = request.path_url.partition("?")[2] + "&" + (request.body or b"").decode()
        named = dict(parse_qsl(query))
        client_id = named.get("newClientOrderId") or named.get("origClientOrderId")
        if client_id:
            journaled = [
                int(np.frombuffer(entry.payload, ORDER)[0]["order_id"])
                for entry in read_stream(tmp_path, "gateway") if entry.kind == Entry.REQUEST
            ]
            seen.append((request.method, client_id))
            assert client_id in [desk.client_id(number) for number in journaled], "sent before it was journaled"
        return sending(request, *arguments, **options)

    client._gate.send = looking  # type: ignore[method-assign]
    resting, taking = desk.new(taking=False), desk.new(taking=True)
    desk.wait(taking, ReportKind.FILL)
    desk.send(OrderAction.QUERY, taking)
    desk.send(OrderAction.CANCEL, resting)
    desk.wait(resting, ReportKind.CANCELLED)
    assert [method for method, _ in seen] == ["POST", "POST", "GET", "DELETE"]
    assert {client_id for _, client_id in seen} == {desk.client_id(resting), desk.client_id(taking)}


def test_events_about_others_and_other_events_harm_nothing(desk: Desk) -> None:
    desk.start()
    foreign = {"c": "web_1", "s": "BTCUSDT"}
    for data in ({"e": "ACCOUNT_UPDATE"}, {"e": "ORDER_TRADE_UPDATE", "o": foreign}):
        desk.gateway._stream._deliver(StreamEvent.FRAME, orjson.dumps(data))
    until(lambda: int(desk.counters()["foreign_events"]) == 1, "foreign event")
    assert not desk.mapping.control.tripped


@pytest.mark.parametrize("victim", ["sender", "stream"])
def test_a_gateway_does_not_live_on_without_one_of_its_threads(
    desk: Desk, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    desk.start()

    def fail(*arguments: Any) -> Any:
        raise MemoryError("of the test")

    if victim == "sender":
        monkeypatch.setattr(desk.gateway._client, "perform", fail)
        desk.new(taking=False)
    else:
        monkeypatch.setattr(desk.gateway._stream, "_url_of_key", fail)
        desk.venue.fault(fault="disconnect", streams="private")
    until(desk.ended, "end of the gateway")
    assert isinstance(desk.failure, RuntimeError) and "a thread of the gateway has ended" in str(desk.failure)
