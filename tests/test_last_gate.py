"""The last gate before bytes leave, and answers that no venue should give."""

from __future__ import annotations

import orjson
import pytest
from urllib3.connection import HTTPSConnection

from engine.reasons import Reason
from engine.records import Flag, OrderAction, ReportKind, TimeInForce
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.last_gate import GateShut, LastGate
from procs.venues.binance_usdm.order_check import OrderCheck
from procs.venues.binance_usdm.rest import listen_key
from tests.instance_memory import own_budget
from tests.trading_desk import (
    IDS,
    KEY,
    SECRET,
    SESSION,
    Desk,
    ScriptedServer,
    client_of,
    new_order,
    reconcile,
    trade_ids,
    venue_fills,
)


def test_a_shut_gate_lets_no_order_out_and_everything_else(desk: Desk) -> None:
    desk.perform(desk.resting())
    desk.gate.append(GateShut(Reason.DENIED_EMERGENCY))
    assert desk.perform(desk.taking()) == [(ReportKind.DENIED, 2, Reason.DENIED_EMERGENCY)]
    assert venue_fills(desk, [2]) == []
    desk.gate[0] = GateShut(Reason.DENIED_LATE)
    assert desk.perform(desk.resting()) == [(ReportKind.DENIED, 3, Reason.DENIED_LATE)]
    assert desk.open_at_venue() & {desk.client.ids.text(3)} == set()
    assert desk.perform(desk.order(OrderAction.QUERY, 1))[0][0] == ReportKind.ACCEPTED
    assert desk.perform(desk.order(OrderAction.CANCEL, 1))[0][0] == ReportKind.CANCELLED
    assert desk.client.perform(reconcile(desk, opening=False))[-1]["aux"][0] == 1
    assert trade_ids(desk.client.catch_up()) == []





@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
def test_the_last_gate_sees_every_order_before_a_byte_leaves(prefix: str) -> None:
    seen: list[int] = []

    def before_order() -> None:
        seen.append(len(server.requests))
        raise GateShut(Reason.DENIED_LATE)

    with ScriptedServer(lambda method, path: (200, b"{}")) as server:
        client = client_of(server, before_order, prefix)
        for number in range(1, 6):
            assert client.perform(new_order(number))[0]["reason"][0] == Reason.DENIED_LATE
        assert seen == [0] * 5 and server.requests == []
        client.close()


def test_an_order_whose_connection_has_to_be_opened_meets_the_gate_again() -> None:
    """The gate may be shut meanwhile. Over a connection that is open an order meets it once."""
    looks: list[int] = []
    shut_at = [2]

    def before_order() -> None:
        looks.append(len(server.requests))
        if len(looks) == shut_at[0]:
            raise GateShut(Reason.DENIED_EMERGENCY)

    answer = b'{"orderId": 1, "status": "NEW", "executedQty": "0", "side": "BUY"}'
    with ScriptedServer(lambda method, path: (200, answer)) as server:
        budget = own_budget()
        client = client_of(server, before_order, budget=budget)
        spent = budget.report()["limits"]
        assert client.perform(new_order(1))[0]["reason"][0] == Reason.DENIED_EMERGENCY
        assert looks == [0, 0] and server.requests == [] and budget.report()["limits"] == spent
        assert client.perform(new_order(2))[0]["kind"][0] == ReportKind.ACCEPTED and looks == [0] * 4
        assert client.perform(new_order(3))[0]["kind"][0] == ReportKind.ACCEPTED and looks == [0] * 4 + [1]
        client._exchange.session.close()  # as a venue closes what has been idle
        shut_at[0] = 7
        assert client.perform(new_order(4))[0]["reason"][0] == Reason.DENIED_EMERGENCY
        client.warm_up()
        assert len(server.requests) == 3 and len(looks) == 7, "a question meets no gate"
        client.close()


def test_the_same_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(HTTPSConnection, "connect", lambda connection: opened.append(connection))
    gate = LastGate(own_budget(), lambda: opened.append("asked"), OrderCheck({}, IDS))
    gate._is_order = True
    connection = gate.poolmanager.connection_from_url("https://venue")._new_conn()
    connection.connect()
    assert opened == [connection, "asked"]


def test_what_is_sent_for_an_order() -> None:
    answer = {"orderId": 7, "status": "NEW", "executedQty": "0", "side": "BUY", "updateTime": 5}
    with ScriptedServer(lambda method, path: (200, orjson.dumps(answer))) as server:
        client = client_of(server)
        order = new_order(12)
        order["time_in_force"], order["flags"], order["side"] = TimeInForce.GTX, Flag.REDUCE_ONLY, -1
        order["price"], order["size"] = 6_000_010, 1_234
        client.perform(order)
        (method, path, sent), = server.requests
        assert (method, path) == ("POST", "/fapi/v1/order")
        signature, timestamp = sent.pop("signature"), sent.pop("timestamp")
        assert sent == {
            "symbol": "BTCUSDT", "side": "SELL", "quantity": "1.234", "price": "60000.10", "type": "LIMIT",
            "timeInForce": "GTX", "newClientOrderId": f"b4{SESSION}-12", "newOrderRespType": "ACK",
            "reduceOnly": "true", "recvWindow": "1000",
        }
        assert len(timestamp) == 13 and len(signature) == 64
        client.close()


GARBAGE = [
    b"", b"null", b"[]", b"{}", b"5", b'"text"', b"<html>busy</html>", b"{", b"\xff\xfe",
    b'{"orderId": "x", "status": "NEW", "executedQty": "0", "side": "BUY"}',
    b'{"orderId": 5, "status": "NEW", "executedQty": "many", "side": "BUY"}',
    b'{"orderId": 5, "status": "NEW", "executedQty": null, "side": "BUY"}',
    b'{"orderId": 5}', b"[1, 2]", b'[{"id": 1}]', b'[{"id": "x", "orderId": {}}]',
]  # fmt: skip


@pytest.mark.parametrize("body", GARBAGE, ids=repr)
@pytest.mark.parametrize("status", [200, 418, 500])
def test_an_answer_that_cannot_be_read_is_unknown_and_never_raises(status: int, body: bytes) -> None:
    with ScriptedServer(lambda method, path: (status, body)) as server:
        order = new_order()
        for action in (OrderAction.NEW, OrderAction.CANCEL, OrderAction.QUERY, OrderAction.RECONCILE):
            client = client_of(server)  # each with a budget of its own, which no ban has closed yet
            order["kind"] = action
            answers = client.perform(order)
            kinds = [ReportKind(int(one["kind"][0])) for one in answers]
            if action == OrderAction.RECONCILE:
                assert kinds == [ReportKind.RECONCILE_END] and answers[0]["aux"][0] == 0
            else:
                limited = status == 418 and action != OrderAction.QUERY
                assert kinds == [ReportKind.REJECTED if limited else ReportKind.UNKNOWN], action
            client.close()


@pytest.mark.parametrize("code", [-1000, -1001, -1006, -1007])
def test_codes_by_which_the_venue_says_that_it_does_not_know(code: int) -> None:
    body = orjson.dumps({"code": code, "msg": "An unknown error occurred while processing the request."})
    with ScriptedServer(lambda method, path: (400, body)) as server:
        client = client_of(server)
        assert client.perform(new_order())[0]["kind"][0] == ReportKind.UNKNOWN
        client.close()


def test_a_server_that_is_not_there() -> None:
    with ScriptedServer(lambda method, path: (200, b"{}")) as server:
        client = client_of(server)
    answer = client.perform(new_order())[0]
    assert (int(answer["kind"][0]), int(answer["reason"][0])) == (ReportKind.UNKNOWN, Reason.VENUE_UNREACHABLE)
    client.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b"{", b'{"listenKey": ""}'])
def test_a_listen_key_that_is_none_is_an_error(body: bytes) -> None:
    with ScriptedServer(lambda method, path: (200, body)) as server, pytest.raises(VenueUnreachable):
        listen_key(server.url, Credentials(KEY, SECRET), own_budget())
